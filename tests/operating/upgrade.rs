//! Migrations go forwards while programs of the version before run on.

use opentiger::crd::TaskPhase;
use opentiger::postgres::migrate::{check_version, expected_version, migrate_to};
use opentiger::postgres::{DatabaseConfig, Error, Pool, migrate, queries};
use serde_json::{Value, json};
use tokio_postgres::types::Json;
use uuid::Uuid;

use crate::history::*;
use crate::postgres::Database;
use crate::version_1::*;
use crate::write;

/// A row of `table` as the first mirror hands it over.
fn row(table: &str, n: u128) -> Value {
    let time = at(0).to_string();
    let mut row = json!({
        "uid": uid(n), "namespace": NAMESPACE, "name": format!("old-{n}"), "resource_version": n as i64,
        "generation": 1, "created_at": time, "updated_at": time
    });
    let own = match table {
        "tasks" => json!({
            "title": "t", "goal": "g", "allowed_paths": ["src/**"], "denied_paths": [], "commands": [], "priority": 1,
            "risk_level": "low", "role": "worker", "lane": "feature", "kind": "code", "status": "queued", "touches": [],
            "dependency_names": ["other"], "resolved_dependencies": {}, "timebox_minutes": 60, "attempts": 0,
            "retry_count": 0, "retries": {}
        }),
        "runs" => json!({
            "task_uid": uid(1), "task_name": "old-1", "attempt": 1, "purpose": "execute", "pool": "worker",
            "agent": "worker-1", "role": "worker", "lane": "feature", "status": "running", "started_at": time
        }),
        "pools" => {
            json!({"role": "worker", "replicas": 1, "peak_replicas": 1, "suspended": false, "metadata": {}})
        }
        _ => json!({"failed_cooldown_ms": 1, "blocked_cooldown_ms": 1}),
    };
    row.as_object_mut().expect("object").extend(own.as_object().expect("object").clone());
    row
}

/// Everything that a program of the first version does, with rows of its own that `n` numbers.
async fn act_as_version_1(pool: &Pool, n: u128) {
    let mut client = pool.get().await.expect("connection");
    let transaction = client.transaction().await.expect("begun");
    for (table, list) in COLUMNS {
        let set: Vec<String> =
            list.split(", ").filter(|c| *c != "uid").map(|c| format!("{c} = excluded.{c}")).collect();
        let upsert = format!(
            "INSERT INTO {table} ({list}) SELECT {list} FROM jsonb_populate_recordset(NULL::{table}, $1)
             ON CONFLICT (uid) DO UPDATE SET {} WHERE {table}.resource_version < excluded.resource_version",
            set.join(", ")
        );
        for n in [n, n, n + 1] {
            transaction.execute(&upsert, &[&Json(json!([row(table, n)]))]).await.expect(table);
        }
        for sql in [
            format!("UPDATE {table} SET resource_version = -1, deleted_at = NULL WHERE uid = ANY($1)"),
            format!("UPDATE {table} SET deleted_at = now() WHERE uid = ANY($1) AND deleted_at IS NULL"),
        ] {
            assert_eq!(transaction.execute(&sql, &[&vec![uid(n + 1)]]).await.expect(table), 1);
        }
    }
    let event = json!([{"uid": uid(n), "sequence": 3, "namespace": NAMESPACE, "type": "task.queued",
        "entity_type": "task", "payload": {}, "created_at": at(1).to_string()}]);
    assert_eq!(transaction.execute(INSERT_EVENTS, &[&Json(&event)]).await.expect("events"), 2, "with a gap");
    let artifact = json!([{"id": uid(n), "run_uid": uid(n), "namespace": NAMESPACE, "type": "branch", "ref": "b",
        "created_at": at(1).to_string()}]);
    transaction.execute(INSERT_ARTIFACTS, &[&Json(&artifact)]).await.expect("artifacts");
    let uids = vec![uid(n + 1)];
    transaction.execute(FORGET_EVENTS, &[&uids, &vec![1i64]]).await.expect("forget events");
    transaction.execute(FORGET_ARTIFACTS, &[&uids]).await.expect("forget artifacts");
    let (id, texts) = (uid(n).to_string(), ["tiger", "old", "1", "bad"]);
    let [namespace, name, version, error] = texts;
    transaction.execute(PARK, &[&"tasks", &id, &namespace, &name, &version, &error]).await.expect("park");
    transaction.execute(UNPARK, &[&"tasks", &vec![id]]).await.expect("unpark");
    transaction
        .execute(STORE_LOG, &[&uid(n), &"agent", &NAMESPACE, &"pod", &"log", &3i64, &0i64])
        .await
        .expect("log");
    transaction.execute(ADD_STATE, &[&"tasks", &NAMESPACE, &true, &1i64, &1i64]).await.expect("state");
    transaction.commit().await.expect("committed");

    let (none, start) = (None::<String>, queries::After::START);
    let tasks =
        client.query(LIST_TASKS, &[&NAMESPACE, &start.created_at, &start.uid, &none, &false, &100i64]).await;
    assert!(tasks.expect("tasks").iter().any(|r| r.get::<_, Uuid>("uid") == uid(n)), "its Task is listed");
    let no_task = None::<Uuid>;
    let runs = client
        .query(LIST_RUNS, &[&NAMESPACE, &start.created_at, &start.uid, &no_task, &none, &false, &100i64])
        .await;
    assert!(runs.expect("runs").iter().any(|r| r.get::<_, bool>("has_logs")), "its log is found");
    let agents = client.query(LIST_AGENTS, &[&NAMESPACE, &"", &0i32, &none, &none, &100i64]).await;
    assert!(!agents.expect("agents").is_empty(), "its pool has agents");
    for read in READS {
        client.query(read, &[]).await.expect(read);
    }
}

#[tokio::test]
async fn the_first_version_works_on_at_every_step_of_the_way() {
    let database = Database::empty().await;
    let config = DatabaseConfig::new(&database.url, "test");
    migrate_to(&config, None, 1).await.expect("the first version");
    for target in 1..=expected_version() {
        migrate_to(&config, None, target).await.expect("forwards");
        act_as_version_1(&database.pool, 1000 * u128::try_from(target).expect("positive")).await;
    }
    // What the old ones have written, the new ones read and write.
    check_version(&database.pool).await.expect("up to date");
    write(&database.pool, [mirrored(&with_transitions(task("new", 7, 10), 1..=2, TaskPhase::Done))]).await;
    let filter = queries::TaskFilter::default();
    let rows = queries::list_tasks(&database.pool, NAMESPACE, &filter, queries::After::START, 100).await;
    assert_eq!(rows.expect("rows").len(), 1 + usize::try_from(expected_version()).expect("positive"));
}

/// Pretends that a program one version ahead has migrated, and says what that breaks.
async fn ahead(database: &Database, oldest_program: i32) {
    let next = expected_version() + 1;
    database
        .execute(&format!(
            "INSERT INTO refinery_schema_history VALUES ({next}, 'ahead', '2026-02-13T14:00:00Z', '1') ON CONFLICT DO NOTHING;
             UPDATE schema_compatibility SET oldest_program = {oldest_program}"
        ))
        .await;
}

#[tokio::test]
async fn a_program_works_with_newer_tables_unless_they_are_marked_as_breaking_it() {
    let database = Database::migrated().await;
    let config = DatabaseConfig::new(&database.url, "test");
    let ours = expected_version();
    ahead(&database, ours).await;
    check_version(&database.pool).await.expect("newer, and nothing is broken");
    // An init container of the old version that starts again during an upgrade.
    assert_eq!(migrate(&config, None).await.expect("nothing to do"), ours + 1);
    write(&database.pool, [mirrored(&task("fix", 1, 10))]).await;

    ahead(&database, ours + 1).await;
    for error in [
        check_version(&database.pool).await.expect_err("broken"),
        migrate(&config, None).await.expect_err("broken"),
    ] {
        assert!(matches!(error, Error::Outdated { .. }), "{error:?}");
        assert!(error.to_string().contains("upgrade it"), "{error}");
    }
}

#[tokio::test]
async fn older_tables_are_waited_for() {
    let database = Database::empty().await;
    let config = DatabaseConfig::new(&database.url, "test");
    migrate_to(&config, None, expected_version() - 1).await.expect("the version before");
    let error = check_version(&database.pool).await.expect_err("too old");
    assert!(error.to_string().contains("run `opentiger migrate`"), "{error}");
}
