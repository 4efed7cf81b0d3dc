//! The HTTP API on a real Postgres: shapes, errors, authentication, paging.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "support/history.rs"]
mod history;
#[path = "support/postgres.rs"]
mod postgres;

use std::collections::BTreeSet;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Method, Request, StatusCode};
use futures::FutureExt;
use futures::future::BoxFuture;
use history::*;
use opentiger::controller::mirror::{Bounds, Mirror, Mirrored};
use opentiger::crd::{BlockReason, RunPhase, Task, TaskPhase};
use opentiger::http_api::auth::{Access, access};
use opentiger::http_api::state::ApiState;
use opentiger::http_api::task_writer::TaskWriter;
use opentiger::http_api::{ApiConfig, openapi, router, serve, state};
use opentiger::postgres::logs::{ContainerLog, store};
use opentiger::postgres::{DatabaseConfig, Row};
use postgres::{Database, eventually};
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

fn config(database: &Database) -> ApiConfig {
    ApiConfig {
        insecure_no_auth: true,
        ..ApiConfig::new(NAMESPACE, DatabaseConfig::new(&database.url, "test-api"), jiff::Timestamp::now)
    }
}

fn open_state(database: &Database) -> ApiState {
    state(&config(database)).expect("state")
}

async fn write(database: &Database, objects: impl IntoIterator<Item = Mirrored>) {
    let rows: Vec<Row> = objects.into_iter().map(|o| o.row().expect("row")).collect();
    opentiger::postgres::write::write(&database.pool, &rows).await.expect("written");
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Value,
}

async fn send(router: &Router, request: Request<Body>) -> Answer {
    let response = router.clone().oneshot(request).await.expect("infallible");
    let (parts, body) = response.into_parts();
    let bytes = to_bytes(body, 16 << 20).await.expect("body");
    let body =
        if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).expect("always JSON") };
    Answer { status: parts.status, headers: parts.headers, body }
}

async fn get(router: &Router, path: &str) -> Answer {
    send(router, Request::get(path).body(Body::empty()).expect("request")).await
}

fn assert_error(answer: &Answer, status: u16, code: &str) {
    assert_eq!(
        (answer.status.as_u16(), answer.body["code"].as_str()),
        (status, Some(code)),
        "{}",
        answer.body
    );
    assert!(answer.body["error"].as_str().is_some_and(|e| !e.is_empty()), "{}", answer.body);
}

fn keys(value: &Value) -> String {
    value.as_object().expect("object").keys().cloned().collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn rows_have_the_names_and_words_of_the_original() {
    let database = Database::migrated().await;
    let mut blocked = with_transitions(task("fix", 1, 10), 1..=2, TaskPhase::Blocked);
    status(&mut blocked).block_reason = Some(BlockReason::QuotaWait);
    status(&mut blocked).retry_at = Some(at(5000));
    blocked.spec.dependencies = vec!["add-tests".into(), "unknown".into()];
    write(
        &database,
        [
            mirrored(&blocked),
            mirrored(&task("add-tests", 2, 10)),
            mirrored_run(&run("fix-x-r1", 10, 11, 1, "worker-1", RunPhase::Success)),
            mirrored_run(&run("fix-x-r2", 11, 12, 1, "worker-2", RunPhase::Failed)),
            mirrored_run(&run("fix-x-r3", 12, 13, 1, "worker-2", RunPhase::Running)),
            mirrored_pool(&pool(20, 14, 2, false)),
        ],
    )
    .await;
    let router = router(open_state(&database));

    let task = get(&router, &format!("/tasks/{}", uid(1))).await.body["task"].clone();
    assert_eq!(
        keys(&task),
        "allowedPaths attempts blockReason commands context createdAt createdBy deniedPaths dependencies goal id kind \
         lane name parentId priority retry retryCount riskLevel role status targetArea timeboxMinutes title touches updatedAt"
    );
    assert_eq!(task["dependencies"], json!([uid(2)]));
    assert_eq!((&task["status"], &task["blockReason"]), (&json!("blocked"), &json!("quota_wait")));
    assert_eq!(
        (&task["riskLevel"], &task["role"], &task["lane"]),
        (&json!("low"), &json!("worker"), &json!("feature"))
    );
    assert_eq!(task["createdAt"], json!("2026-02-13T14:00:01Z"));
    assert_eq!(
        keys(&task["retry"]),
        "autoRetry cooldownMs reason retryAt retryCount retryInSeconds retryLimit"
    );
    assert_eq!(task["retry"]["retryAt"], json!("2026-02-13T15:23:20Z"));

    let tasks = get(&router, "/tasks").await.body["tasks"].clone();
    let names: Vec<_> = tasks.as_array().expect("list").iter().map(|t| t["name"].clone()).collect();
    assert_eq!(names, [json!("add-tests"), json!("fix")], "newest first");
    assert_eq!(tasks[0]["retry"], Value::Null);
    let queued = get(&router, "/tasks?status=queued").await.body["tasks"].clone();
    assert_eq!(queued.as_array().map(Vec::len), Some(1));

    let run = get(&router, &format!("/runs/{}", uid(10))).await.body;
    assert_eq!(
        keys(&run["run"]),
        "agentId attempt costTokens errorMessage errorMeta finishedAt id judgedAt judgementVersion logContent logPath \
         name purpose startedAt status taskId"
    );
    assert_eq!((&run["run"]["status"], &run["run"]["costTokens"]), (&json!("success"), &json!(15)));
    let artifacts = run["artifacts"].as_array().expect("list");
    assert_eq!(keys(&artifacts[0]), "createdAt id metadata ref runId type url");
    assert_eq!((&artifacts[0]["type"], &artifacts[0]["ref"]), (&json!("branch"), &json!("agent/fix-x-r1")));
    assert_eq!(artifacts[1]["metadata"], json!({"headSha": "0123456789abcdef", "changedFiles": 2}));
    let failed = get(&router, &format!("/runs?taskId={}&status=failed", uid(1))).await.body["runs"].clone();
    assert_eq!(failed[0]["errorMessage"], json!("2 tests failed"));
    assert_eq!(failed[0]["errorMeta"]["failureCode"], json!("verification_command_failed"));

    let agents = get(&router, "/agents").await.body["agents"].clone();
    assert_eq!(keys(&agents[0]), "createdAt currentTaskId id lastHeartbeat metadata role status");
    assert_eq!((&agents[0]["id"], &agents[0]["status"]), (&json!("worker-1"), &json!("idle")));
    assert_eq!((&agents[1]["status"], &agents[1]["currentTaskId"]), (&json!("busy"), &json!(uid(1))));
    let agent = get(&router, "/agents/worker-2").await.body["agent"].clone();
    assert_eq!(agent, agents[1]);
}

#[tokio::test]
async fn every_error_is_json_and_input_is_never_a_500() {
    let database = Database::migrated().await;
    let router = router(open_state(&database));
    for (path, status, code) in [
        ("/nowhere", 404, "no_such_path"),
        ("/tasks/x/y/z", 404, "no_such_path"),
        ("/tasks/not-a-uuid", 404, "not_found"),
        ("/tasks/00000000-0000-0000-0000-000000000000", 404, "not_found"),
        ("/runs/%00", 404, "not_found"),
        ("/runs/00000000-0000-0000-0000-000000000000/logs", 404, "not_found"),
        ("/agents/%00", 404, "not_found"),
        ("/agents/nobody-1", 404, "not_found"),
        ("/tasks?status=Queued", 400, "invalid_field"),
        ("/tasks?limit=0", 400, "invalid_field"),
        ("/tasks?cursor=zzz", 400, "invalid_field"),
        ("/tasks?includeDeleted=yes", 400, "invalid_field"),
        ("/runs?taskId=5", 400, "invalid_field"),
        ("/runs?status=%00", 400, "invalid_field"),
        ("/agents?role=dispatcher", 400, "invalid_field"),
    ] {
        assert_error(&get(&router, path).await, status, code);
    }
    let delete = Request::builder().method(Method::DELETE).uri("/runs").body(Body::empty()).expect("request");
    assert_error(&send(&router, delete).await, 405, "method_not_allowed");
    let big = Request::post("/tasks").body(Body::from(vec![b' '; 300 * 1024])).expect("request");
    assert_error(&send(&router, big).await, 413, "body_too_large");
    let wide =
        Request::get("/tasks").header("x-wide", "x".repeat(20_000)).body(Body::empty()).expect("request");
    assert_error(&send(&router, wide).await, 431, "headers_too_large");
    let health = get(&router, "/health").await;
    assert_eq!((health.status.as_u16(), &health.body["status"]), (200, &json!("ok")));
    assert!(health.headers.contains_key("x-request-id"));
    let ready = get(&router, "/health/ready").await;
    assert_eq!((ready.status.as_u16(), &ready.body["services"]), (200, &json!({"database": "ok"})));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_query_and_no_body_makes_a_5xx() {
    let database = Database::migrated().await;
    write(&database, [mirrored(&task("fix", 1, 10)), mirrored_pool(&pool(2, 10, 2, false))]).await;
    let mut state = open_state(&database);
    state.writer = Some(Arc::new(Recorder::default()));
    let router = router(state);
    let handle = tokio::runtime::Handle::current();
    let strategy = (
        proptest::sample::select(vec!["/tasks", "/runs", "/agents", "/tasks/x", "/runs/x/logs"]),
        proptest::sample::select(vec![
            "status",
            "limit",
            "cursor",
            "taskId",
            "role",
            "container",
            "includeDeleted",
        ]),
        "(%[0-9a-f]{2}|[ -~&&[^ #\"<>`{}|\\\\^]]|){0,30}",
        "\\PC{0,60}",
    );
    let test = move || {
        let mut runner = TestRunner::new(Config { cases: 400, ..Config::default() });
        runner
            .run(&strategy, |(path, name, value, body)| {
                let uri = format!("{path}?{name}={value}");
                let Ok(request) = Request::get(&uri).body(Body::empty()) else { return Ok(()) };
                let answer = handle.block_on(send(&router, request));
                assert!(answer.status.as_u16() < 500, "{uri}: {} {}", answer.status, answer.body);
                let post = Request::post("/tasks").body(Body::from(body.clone())).expect("request");
                let answer = handle.block_on(send(&router, post));
                assert_eq!(answer.status.as_u16(), 400, "{body:?}");
                Ok(())
            })
            .expect("no 5xx");
    };
    tokio::task::spawn_blocking(test).await.expect("property holds");
}

#[tokio::test]
async fn a_database_that_is_away_is_a_503_with_retry_after() {
    let database = Database::migrated().await;
    let (proxy, pool) = database.through_proxy().await;
    let mut state = open_state(&database);
    state.pool = pool;
    let router = router(state);
    assert_eq!(get(&router, "/tasks").await.status.as_u16(), 200);
    proxy.cut();
    for path in ["/tasks", "/runs", "/agents", "/runs/00000000-0000-0000-0000-000000000000"] {
        let answer = get(&router, path).await;
        assert_error(&answer, 503, "database_unavailable");
        assert!(answer.headers.contains_key("retry-after"));
    }
    assert_eq!(get(&router, "/health").await.status.as_u16(), 200);
    let ready = get(&router, "/health/ready").await;
    assert_eq!((ready.status.as_u16(), &ready.body["status"]), (503, &json!("degraded")));
    assert!(ready.body["errors"]["database"].is_string());
    proxy.mend();
    eventually("it answers again", async || get(&router, "/tasks").await.status.as_u16() == 200).await;

    let unmigrated = Database::empty().await;
    let router = opentiger::http_api::router(open_state(&unmigrated));
    assert_eq!(get(&router, "/health/ready").await.status.as_u16(), 503);
    assert_error(&get(&router, "/tasks").await, 503, "database_unavailable");
}

#[tokio::test]
async fn paging_neither_loses_nor_doubles_what_was_there() {
    let database = Database::migrated().await;
    // Many share a second: the uid decides.
    let make = |n: u128, created: i64| {
        let mut task = task(&format!("t{n}"), n, 10);
        task.metadata.creation_timestamp =
            Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(created)));
        task
    };
    let before: Vec<Task> =
        (1..=57).map(|n| make(n * 7919 % 1009, i64::try_from(n / 9).expect("small"))).collect();
    write(&database, before.iter().map(mirrored)).await;
    let expected: BTreeSet<String> = before.iter().filter_map(|t| t.metadata.name.clone()).collect();
    let router = router(open_state(&database));
    for limit in [1, 7, 56, 57, 58] {
        let (mut seen, mut order, mut cursor, mut round) = (Vec::new(), Vec::new(), None::<String>, 0_u128);
        loop {
            let cursor_part = cursor.map(|c| format!("&cursor={c}")).unwrap_or_default();
            let answer = get(&router, &format!("/tasks?limit={limit}{cursor_part}")).await.body;
            for task in answer["tasks"].as_array().expect("list") {
                seen.push(task["name"].as_str().expect("name").to_owned());
                order.push((
                    task["createdAt"].as_str().expect("time").to_owned(),
                    task["id"].as_str().expect("id").to_owned(),
                ));
            }
            // Others arrive in between, newer, older and in the same second.
            round += 1;
            let new = 2000 + u128::try_from(limit).expect("small") * 1000 + round;
            write(&database, [mirrored(&make(new, i64::try_from(round % 9).expect("small")))]).await;
            cursor = answer["nextCursor"].as_str().map(Into::into);
            assert!(round <= 200, "paging comes to an end, limit {limit}");
            if cursor.is_none() {
                break;
            }
        }
        let old: Vec<&String> = seen.iter().filter(|n| expected.contains(*n)).collect();
        assert_eq!(old.len(), 57, "each once, limit {limit}");
        assert_eq!(old.into_iter().cloned().collect::<BTreeSet<_>>(), expected, "limit {limit}");
        assert!(order.is_sorted_by(|a, b| a > b), "newest first, limit {limit}");
        database.execute("DELETE FROM tasks WHERE uid > '5f0c3d1e-0000-4000-8000-0000000007d0'").await;
    }
    write(&database, [mirrored_pool(&pool(3000, 10, 12, false))]).await;
    let first = get(&router, "/agents?limit=5").await.body;
    let cursor = first["nextCursor"].as_str().expect("more");
    let second = get(&router, &format!("/agents?cursor={cursor}")).await.body;
    let ids: Vec<_> = [&first, &second]
        .iter()
        .flat_map(|p| p["agents"].as_array().expect("list"))
        .map(|a| a["id"].as_str().expect("id").to_owned())
        .collect();
    assert_eq!(ids, (1..=12).map(|n| format!("worker-{n}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn deleted_objects_are_shown_only_when_asked_for() {
    let database = Database::migrated().await;
    let mut row = mirrored(&task("gone", 1, 10)).row().expect("row");
    row.deleted = true;
    opentiger::postgres::write::write(&database.pool, &[row]).await.expect("written");
    let router = router(open_state(&database));
    assert_eq!(get(&router, "/tasks").await.body["tasks"], json!([]));
    assert_error(&get(&router, &format!("/tasks/{}", uid(1))).await, 404, "not_found");
    let shown = get(&router, &format!("/tasks/{}?includeDeleted=true", uid(1))).await.body;
    assert!(shown["task"]["deletedAt"].is_string());
    let other = ApiConfig { namespace: "other".into(), ..config(&database) };
    let router = opentiger::http_api::router(state(&other).expect("state"));
    assert_eq!(
        get(&router, "/tasks?includeDeleted=true").await.body["tasks"],
        json!([]),
        "another namespace"
    );
}

#[tokio::test]
async fn logs_are_given_whole_by_container_and_when_lost_said_so() {
    let database = Database::migrated().await;
    let mut lost = run("lost", 11, 10, 1, "worker-1", RunPhase::Failed);
    if let Some(status) = &mut lost.status {
        status.logs = Some(opentiger::crd::Logs::Lost);
    }
    let kept = run("kept", 10, 10, 1, "worker-1", RunPhase::Success);
    let running = run("running", 12, 10, 1, "worker-2", RunPhase::Running);
    write(&database, [mirrored_run(&kept), mirrored_run(&lost), mirrored_run(&running)]).await;
    for (container, content) in
        [("checkout", "cloned\n".to_owned()), ("agent", "x".repeat(1 << 20)), ("publish", "pushed\n".into())]
    {
        let total_bytes = i64::try_from(content.len()).expect("small") + 5;
        let log = ContainerLog { container: container.into(), content, total_bytes, cut_bytes: 5 };
        store(&database.pool, NAMESPACE, uid(10), "kept", &log).await.expect("stored");
        let shorter = ContainerLog { content: "x".into(), total_bytes: 1, ..log };
        store(&database.pool, NAMESPACE, uid(10), "kept", &shorter)
            .await
            .expect("a shorter one changes nothing");
    }
    let router = router(open_state(&database));
    let logs = get(&router, &format!("/runs/{}/logs", uid(10))).await.body["logs"].clone();
    let containers: Vec<_> = logs.as_array().expect("list").iter().map(|l| l["container"].clone()).collect();
    assert_eq!(containers, [json!("checkout"), json!("agent"), json!("publish")]);
    assert_eq!(
        logs[0],
        json!({"container": "checkout", "content": "cloned\n", "totalBytes": 12, "cutBytes": 5})
    );
    let one = get(&router, &format!("/runs/{}/logs?container=publish", uid(10))).await.body["logs"].clone();
    assert_eq!(one.as_array().map(Vec::len), Some(1));
    assert_error(
        &get(&router, &format!("/runs/{}/logs?container=other", uid(10))).await,
        400,
        "invalid_field",
    );
    let run = get(&router, &format!("/runs/{}", uid(10))).await.body["run"].clone();
    let text = run["logContent"].as_str().expect("text");
    assert!(text.starts_with("[... ") && text.ends_with("==> publish <==\npushed\n\n"), "{}", &text[..80]);
    assert!(text.len() < (1 << 20) + 100);
    assert_eq!(run["logPath"], json!(format!("/runs/{}/logs", uid(10))));
    let lost = get(&router, &format!("/runs/{}", uid(11))).await.body["run"]["logContent"].clone();
    assert!(lost.as_str().is_some_and(|t| t.starts_with("[System]")), "{lost}");
    let running = get(&router, &format!("/runs/{}", uid(12))).await.body["run"]["logContent"].clone();
    assert!(running.as_str().is_some_and(|t| t.starts_with("[System] the run is in progress")), "{running}");
}

#[tokio::test]
async fn without_authentication_the_api_refuses_to_start() {
    let database = Database::empty().await;
    let none = ApiConfig { insecure_no_auth: false, ..config(&database) };
    let error = state(&none).map(|_| ()).expect_err("refused").to_string();
    assert!(error.contains("--insecure-no-auth") && error.contains("--api-keys-file"), "{error}");
    let absent = ApiConfig { api_keys_file: Some("/nowhere/keys".into()), ..config(&database) };
    assert!(state(&absent).is_err());
    let no_client = ApiConfig { kubernetes_auth: true, ..config(&database) };
    assert!(state(&no_client).is_err());
}

#[tokio::test]
async fn the_server_listens_and_ends_when_told_to() {
    let database = Database::migrated().await;
    let free = || std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("free port");
    let (listen, metrics) = (free(), free());
    let shutdown = CancellationToken::new();
    let server =
        tokio::spawn(serve(ApiConfig { listen, ..config(&database) }, Some(metrics), shutdown.clone()));
    let health = format!("http://{listen}/health");
    eventually("it answers", async || reqwest::get(&health).await.is_ok_and(|r| r.status() == 200)).await;
    reqwest::get(&format!("http://{listen}/tasks/no-id")).await.expect("an answer");
    // A method that somebody makes up is one word, and /metrics is not on the port of the API.
    let made_up = reqwest::Method::from_bytes(b"BREW").expect("a token");
    let client = reqwest::Client::new();
    client.request(made_up, format!("http://{listen}/tasks")).send().await.expect("an answer");
    assert_eq!(reqwest::get(&format!("http://{listen}/metrics")).await.expect("an answer").status(), 404);
    let text = reqwest::get(&format!("http://{metrics}/metrics")).await.expect("metrics");
    let text = text.text().await.expect("text");
    let counted = |labels: &str| text.contains(&format!("duration_seconds_count{{{labels}}} 1"));
    assert!(counted(r#"method="GET",route="/tasks/{id}",status="404""#), "{text}");
    assert!(counted(r#"method="other",route="/tasks",status="405""#), "{text}");
    assert!(text.contains("opentiger_api_database_connections_max 8"), "{text}");
    shutdown.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(15), server).await;
    ended.expect("in time").expect("joined").expect("no error");
    assert!(reqwest::get(&health).await.is_err());
}

#[tokio::test]
async fn api_keys_open_and_nothing_else_does() {
    let database = Database::migrated().await;
    let mut file = tempfile::NamedTempFile::new().expect("file");
    writeln!(file, "# team\n  canary-one  \n\ncanary-two\n#canary-three").expect("written");
    // The flag for open mode has no effect once a way is configured.
    let with_keys = ApiConfig { api_keys_file: Some(file.path().into()), ..config(&database) };
    let router = router(state(&with_keys).expect("state"));
    let ask = async |headers: &[(&str, &str)], path: &str| {
        let request = headers.iter().fold(Request::get(path), |r, (k, v)| r.header(*k, *v));
        let answer = send(&router, request.body(Body::empty()).expect("request")).await;
        if answer.status == 401 {
            assert_error(&answer, 401, "unauthorized");
            assert!(answer.headers.contains_key("www-authenticate"));
        }
        answer.status.as_u16()
    };
    for (headers, expected) in [
        (&[][..], 401),
        (&[("x-api-key", "canary-one")], 200),
        (&[("x-api-key", "canary-two")], 200),
        (&[("x-api-key", "canary-three")], 401),
        (&[("x-api-key", "#canary-three")], 401),
        (&[("x-api-key", "canary-on")], 401),
        (&[("x-api-key", "canary-one ")], 200), // HTTP strips white space around a value
        (&[("x-api-key", "")], 401),
        (&[("authorization", "Bearer canary-one")], 200),
        (&[("authorization", "bearer canary-two")], 200),
        (&[("authorization", "Basic canary-one")], 401),
        (&[("authorization", "Bearer ")], 401),
        (&[("authorization", "canary-one")], 401),
        (&[("x-api-key", "wrong"), ("authorization", "Bearer canary-one")], 401),
    ] {
        let headers: Vec<_> = headers
            .iter()
            .map(|(k, v)| (*k, v.trim_end_matches(|c| c == ' ' && *k == "x-api-key")))
            .collect();
        assert_eq!(ask(&headers, "/tasks").await, expected, "{headers:?}");
    }
    for (path, expected) in [
        ("/health", 200),
        ("/health/ready", 200),
        ("/openapi.json", 200),
        ("/nowhere", 404),
        ("/runs", 401),
        ("/tasks/x", 401),
    ] {
        assert_eq!(ask(&[], path).await, expected, "{path}");
    }
    // A key is taken away and another given, without a restart.
    std::fs::write(file.path(), "canary-four\n").expect("written");
    eventually("the new key opens", async || ask(&[("x-api-key", "canary-four")], "/tasks").await == 200)
        .await;
    assert_eq!(ask(&[("x-api-key", "canary-one")], "/tasks").await, 401);
    std::fs::remove_file(file.path()).expect("removed");
    eventually("a file that is gone has no keys", async || {
        ask(&[("x-api-key", "canary-four")], "/tasks").await == 401
    })
    .await;
}

#[tokio::test]
async fn a_wrong_key_is_refused_even_in_open_mode() {
    let database = Database::migrated().await;
    let router = router(open_state(&database));
    assert_eq!(get(&router, "/tasks").await.status.as_u16(), 200);
    let wrong = Request::get("/tasks").header("x-api-key", "wrong").body(Body::empty()).expect("request");
    assert_error(&send(&router, wrong).await, 401, "unauthorized");
}

#[test]
fn every_documented_route_has_an_access_rule() {
    let document = serde_json::to_value(openapi()).expect("document");
    let mut routes = 0;
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, _) in item.as_object().expect("operations") {
            let method: Method = method.to_uppercase().parse().expect("method");
            assert!(access(&method, path).is_some(), "{method} {path}");
            routes += 1;
        }
    }
    assert!(routes > 10);
    assert!(access(&Method::PUT, "/tasks/{id}").is_none());
    let systems = |verb| Some(Access::Resource { verb, resource: "systems" });
    assert_eq!(access(&Method::GET, "/config"), systems("get"));
    assert_eq!(access(&Method::PATCH, "/config"), systems("patch"));
}

/// Makes Tasks as the API server would, without one.
#[derive(Default)]
struct Recorder {
    tasks: Mutex<Vec<Task>>,
    mirror: Option<Mirror>,
}

impl TaskWriter for Recorder {
    fn create<'a>(&'a self, task: &'a Task) -> BoxFuture<'a, Result<Task, kube::Error>> {
        async move {
            let mut tasks = self.tasks.lock().expect("lock");
            let name = task.metadata.name.clone().unwrap_or_else(|| {
                format!("{}{:05}", task.metadata.generate_name.as_deref().unwrap_or_default(), tasks.len())
            });
            if tasks.iter().any(|t| t.metadata.name.as_ref() == Some(&name)) {
                let status = kube::core::Status::failure("exists", "AlreadyExists").with_code(409);
                return Err(kube::Error::Api(Box::new(status)));
            }
            let n = tasks.len() as u128 + 100;
            let mut made = task.clone();
            let annotations = made.metadata.annotations.take();
            made.metadata = meta(&name, uid(n), 1000 + i64::try_from(n).expect("small"), 10);
            made.metadata.annotations = annotations;
            tasks.push(made.clone());
            if let Some(mirror) = &self.mirror {
                mirror.applied(mirrored(&made));
            }
            Ok(made)
        }
        .boxed()
    }

    fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Task>, kube::Error>> {
        let tasks = self.tasks.lock().expect("lock");
        let found = tasks.iter().find(|t| t.metadata.name.as_deref() == Some(name)).cloned();
        async move { Ok(found) }.boxed()
    }
}

fn body(title: &str) -> Value {
    json!({"title": title, "goal": "tests pass", "allowedPaths": ["src/**"], "commands": ["make test"], "role": "docser", "timeboxMinutes": 30})
}

/// As clients do: a Task that was taken and has no row yet is asked for again, under the same key.
async fn posted(router: &Router, key: &str, body: &Value) -> Answer {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let answer = post(router, Some(key), body).await;
        if answer.body["code"] != json!("not_yet_visible") || Instant::now() > deadline {
            return answer;
        }
    }
}

async fn post(router: &Router, key: Option<&str>, body: &Value) -> Answer {
    let mut request = Request::post("/tasks").header("content-type", "application/json");
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    send(router, request.body(Body::from(body.to_string())).expect("request")).await
}

#[tokio::test]
async fn a_posted_task_is_answered_with_its_row_and_made_once_per_key() {
    let database = Database::migrated().await;
    let mirror = Mirror::new(
        database.pool.clone(),
        Arc::new(Objects::default()),
        Bounds { delay: Duration::from_millis(5), ..Bounds::default() },
    );
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(mirror.clone().run(shutdown.clone()));
    let recorder = Arc::new(Recorder { mirror: Some(mirror.clone()), ..Recorder::default() });
    let mut state = open_state(&database);
    state.writer = Some(recorder.clone());
    let router = router(state);
    let made = |recorder: &Recorder| recorder.tasks.lock().expect("lock").len();

    let first = posted(&router, "first", &body("Divide by zero!")).await;
    assert_eq!(first.status.as_u16(), 201, "{}", first.body);
    assert_eq!(
        (&first.body["task"]["lane"], &first.body["task"]["timeboxMinutes"]),
        (&json!("docser"), &json!(30))
    );
    assert_eq!(first.body["task"]["status"], json!("queued"));

    let mut dependent = body("After");
    dependent["dependencies"] = json!([first.body["task"]["id"]]);
    let second = posted(&router, "second", &dependent).await;
    assert_eq!(second.body["task"]["dependencies"], dependent["dependencies"]);
    dependent["dependencies"] = json!([uid(999)]);
    assert_error(&post(&router, None, &dependent).await, 400, "invalid_field");

    let once = body("Once");
    let (a, b) = tokio::join!(posted(&router, "k1", &once), posted(&router, "k1", &once));
    assert_eq!((a.status.as_u16(), b.status.as_u16()), (201, 201), "{} {}", a.body, b.body);
    assert_eq!(a.body["task"]["id"], b.body["task"]["id"]);
    assert_eq!(made(&recorder), 3);
    assert_error(&post(&router, Some("k1"), &body("Another")).await, 422, "idempotency_key_reused");
    assert_eq!(made(&recorder), 3);
    let gone = recorder.tasks.lock().expect("lock").pop().expect("made");
    mirror.deleted(mirrored(&gone));
    eventually("the deletion is written", async || mirror.backlog() == 0).await;
    assert_error(&post(&router, Some("k1"), &body("Once")).await, 409, "deleted");
    assert_eq!(made(&recorder), 2);
    assert_error(&post(&router, Some(&"k".repeat(256)), &body("Once")).await, 400, "invalid_field");
    shutdown.cancel();
    running.await.expect("ended");
}

#[tokio::test]
async fn a_posted_task_whose_row_is_late_is_a_503_that_names_it() {
    let database = Database::migrated().await;
    let mut state = open_state(&database);
    assert_error(
        &post(&router(state.clone()), None, &body("Read only")).await,
        503,
        "kubernetes_unavailable",
    );
    let recorder = Arc::new(Recorder::default());
    state.writer = Some(recorder.clone());
    let late = post(&router(state), None, &body("Too late!")).await;
    let names: Vec<_> =
        recorder.tasks.lock().expect("lock").iter().map(|task| task.metadata.name.clone()).collect();
    assert_eq!(names, [Some("too-late-00000".to_string())]);
    assert_error(&late, 503, "not_yet_visible");
    assert!(late.headers.contains_key("retry-after"));
    assert!(late.body["error"].as_str().is_some_and(|e| e.contains(&uid(100).to_string())), "{}", late.body);
}
