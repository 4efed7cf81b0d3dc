//! The least-privilege roles: what mirror and API need, and nothing more.

use std::sync::atomic::{AtomicU64, Ordering};

use axum::body::Body;
use axum::http::Request;
use opentiger::crd::{RunPhase, TaskPhase};
use opentiger::http_api::{ApiConfig, router, state};
use opentiger::postgres::roles::{Roles, create, creation_sql, grant};
use opentiger::postgres::{DatabaseConfig, Pool, connect, logs, migrate, retention};
use tower::ServiceExt;

use crate::history::*;
use crate::postgres::Database;
use crate::{refusal, write};

/// Postgres' word for "permission denied".
const DENIED: &str = "42501";

/// Names of this test's roles, which are the server's, not the database's; dropped with the value.
struct Names {
    owner: String,
    mirror: String,
    api: String,
}

impl Names {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let unique = format!("{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let name = |what: &str| format!("ott {what} {unique}");
        Self { owner: name("owner"), mirror: name("mirror"), api: name("api") }
    }

    fn roles(&self) -> Roles {
        Roles { mirror: Some(self.mirror.clone()), api: Some(self.api.clone()) }
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        let sql =
            [&self.mirror, &self.api, &self.owner].map(|n| format!("DROP ROLE IF EXISTS \"{n}\"")).join(";");
        let url = std::env::var("OPENTIGER_TEST_DATABASE_URL").unwrap_or_default();
        let dropped = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
            runtime.block_on(async {
                let pool = connect(&DatabaseConfig::new(&url, "test")).expect("pool");
                pool.get().await.expect("connection").batch_execute(&sql).await
            })
        });
        // A failure here must not hide that of the test.
        let _ = dropped.join();
    }
}

/// The settings of `database` as another user, whose password is `it's $ecret\`.
fn as_user(database: &Database, user: &str) -> DatabaseConfig {
    let (_, address) = database.url.split_once('@').expect("user and address");
    let user = user.replace(' ', "%20");
    DatabaseConfig::new(format!("postgres://{user}:it%27s%20%24ecret%5C@{address}"), "test")
}

async fn status(pool_of: &DatabaseConfig, path: &str) -> u16 {
    let config = ApiConfig {
        insecure_no_auth: true,
        ..ApiConfig::new(NAMESPACE, pool_of.clone(), jiff::Timestamp::now)
    };
    let router = router(state(&config).expect("state"));
    let request = Request::get(path).body(Body::empty()).expect("request");
    router.oneshot(request).await.expect("an answer").status().as_u16()
}

/// A database made as the documentation says: by an administrator, then by its owner.
async fn made(names: &Names) -> Database {
    let password = "it's $ecret\\";
    let database = Database::empty().await;
    let admin = DatabaseConfig::new(&database.url, "test");
    let Names { owner, mirror, api } = names;
    for _ in 0..2 {
        database.execute(&creation_sql(owner, mirror, api)).await;
        create(&admin, &[(owner, password), (mirror, password), (api, password)]).await.expect("passwords");
    }
    let owner = as_user(&database, owner);
    for _ in 0..2 {
        migrate(&owner, None).await.expect("the owner migrates");
        grant(&owner, &names.roles()).await.expect("the owner grants");
    }
    database
}

#[tokio::test]
async fn mirror_and_api_work_with_their_roles() {
    let names = Names::new();
    let database = made(&names).await;
    let mirror = connect(&as_user(&database, &names.mirror)).expect("pool");
    let task = with_transitions(task("fix", 1, 10), 1..=3, TaskPhase::Done);
    let run = run("fix-x-r1", 2, 11, 1, "worker-1", RunPhase::Success);
    write(&mirror, [mirrored(&task), mirrored_run(&run), mirrored_pool(&pool(3, 12, 2, false))]).await;
    let log = logs::ContainerLog {
        container: "agent".into(),
        content: "done".into(),
        total_bytes: 4,
        cut_bytes: 0,
    };
    logs::store(&mirror, NAMESPACE, uid(2), "fix-x-r1", &log).await.expect("the log is kept");
    // A cluster restored to an older state takes events and artifacts away.
    let mut restored = mirrored(&task).row().expect("a row");
    restored.replaces = Some(restored.resource_version);
    opentiger::postgres::write::write(&mirror, &[restored]).await.expect("set back");
    let park = opentiger::postgres::write::park;
    park(&mirror, opentiger::postgres::Kind::Task, "u", "n", "t", 1, "bad").await.expect("set aside");

    let api = as_user(&database, &names.api);
    for path in ["/health/ready", "/tasks", "/runs", "/agents"] {
        assert_eq!(status(&api, path).await, 200, "{path}");
    }
    for id in [format!("/tasks/{}", uid(1)), format!("/runs/{}", uid(2)), format!("/runs/{}/logs", uid(2))] {
        assert_eq!(status(&api, &id).await, 200, "{id}");
    }
    database.execute("UPDATE tasks SET deleted_at = now() - interval '90 days'").await;
    database.execute("UPDATE runs SET deleted_at = now() - interval '90 days'").await;
    let removed = retention::remove_batch(&mirror, 30).await.expect("retention");
    assert_eq!(removed.objects, 2);
}

#[tokio::test]
async fn nobody_can_do_more_than_that() {
    let names = Names::new();
    let database = made(&names).await;
    let owner = as_user(&database, &names.owner);
    // A table that a later migration adds, and one that the API writes.
    connect(&owner)
        .expect("pool")
        .get()
        .await
        .expect("connection")
        .batch_execute("CREATE TABLE later (a int); CREATE TABLE IF NOT EXISTS webhook_deliveries (a int)")
        .await
        .expect("made");
    grant(&owner, &names.roles()).await.expect("granted");
    let api = connect(&as_user(&database, &names.api)).expect("pool");
    let mirror = connect(&as_user(&database, &names.mirror)).expect("pool");
    let all = |pool: &Pool, statements: &[&str], expected: &'static str| {
        let (pool, statements) =
            (pool.clone(), statements.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>());
        async move {
            for sql in statements {
                assert_eq!(refusal(&pool, &sql).await, expected, "{sql}");
            }
        }
    };
    let nobody = [
        "CREATE TABLE mine (a int)",
        "CREATE TEMP TABLE mine (a int)",
        "CREATE SCHEMA mine",
        "ALTER TABLE tasks ADD mine int",
        "DROP TABLE tasks",
        "TRUNCATE tasks",
        "CREATE INDEX ON tasks (title)",
        "UPDATE refinery_schema_history SET version = 99",
        "UPDATE schema_compatibility SET oldest_program = 99",
        "CREATE ROLE mine",
    ];
    for statement in nobody {
        // What belongs to another is refused with 42501 whatever is asked.
        all(&api, &[statement], DENIED).await;
        all(&mirror, &[statement], DENIED).await;
    }
    for table in
        ["tasks", "runs", "pools", "systems", "events", "run_logs", "mirror_state", "mirror_parked", "later"]
    {
        let write = format!("DELETE FROM {table}");
        assert_eq!(refusal(&api, &write).await, DENIED, "{write}");
        let writes = format!("accepted: {write}");
        assert_eq!(refusal(&mirror, &write).await, writes);
        let read = format!("SELECT count(*) FROM {table}");
        assert_eq!(refusal(&api, &read).await, format!("accepted: {read}"));
    }
    all(&api, &["UPDATE tasks SET status = 'done'", "INSERT INTO events SELECT * FROM events"], DENIED).await;
    assert_eq!(refusal(&mirror, "DELETE FROM webhook_deliveries").await, DENIED, "the API's own table");
    assert!(refusal(&api, "DELETE FROM webhook_deliveries").await.starts_with("accepted"));
}
