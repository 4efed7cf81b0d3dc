//! `/logs` and the live log of a Run: real Postgres, Pods on a node that writes what the test says.

use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Method, Request};
use futures::StreamExt;
use opentiger::crd::RunPhase;
use opentiger::http_api::live::OperatorPods;
use opentiger::http_api::{ApiConfig, router, state};
use opentiger::postgres::DatabaseConfig;
use opentiger::postgres::logs::{ContainerLog, store};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::history::{NAMESPACE, mirrored_run, run, uid};
use crate::node::Node;
use crate::postgres::{Database, eventually};

struct Fixture {
    database: Database,
    node: Node,
    router: Router,
}

impl Fixture {
    async fn start() -> Self {
        let operator =
            OperatorPods { namespace: "ops".into(), labels: "app.kubernetes.io/component=operator".into() };
        Self::configured(|config| config.operator_pods = Some(operator)).await
    }

    async fn configured(settings: impl FnOnce(&mut ApiConfig)) -> Self {
        let (database, node) = (Database::migrated().await, Node::default());
        let mut config = ApiConfig {
            insecure_no_auth: true,
            client: Some(node.client()),
            ..ApiConfig::new(NAMESPACE, DatabaseConfig::new(&database.url, "test-api"), jiff::Timestamp::now)
        };
        settings(&mut config);
        Self { router: router(state(&config).expect("state")), database, node }
    }

    /// Writes the row of a Run; a later call has a later version.
    async fn run(&self, name: &str, n: u128, agent: &str, version: i64, phase: RunPhase) {
        let row = mirrored_run(&run(name, n, version, 1, agent, phase)).row().expect("row");
        opentiger::postgres::write::write(&self.database.pool, &[row]).await.expect("written");
    }

    /// Keeps a log, a while ago.
    async fn keep(&self, name: &str, n: u128, container: &str, content: &str) {
        let bytes = i64::try_from(content.len()).expect("small");
        let log = ContainerLog {
            container: container.into(),
            content: content.into(),
            total_bytes: bytes,
            cut_bytes: 0,
        };
        store(&self.database.pool, NAMESPACE, uid(n), name, &log).await.expect("stored");
        self.database.execute("UPDATE run_logs SET archived_at = now() - interval '2 minutes'").await;
    }

    async fn ask(&self, method: Method, path: &str) -> (u16, Value) {
        let request = Request::builder().method(method).uri(path).body(Body::empty()).expect("request");
        let response = self.router.clone().oneshot(request).await.expect("infallible");
        let status = response.status().as_u16();
        let bytes = to_bytes(response.into_body(), 64 << 20).await.expect("body");
        (status, serde_json::from_slice(&bytes).unwrap_or_else(|e| panic!("{path}: no JSON: {e}")))
    }

    async fn get(&self, path: &str) -> Value {
        let (status, body) = self.ask(Method::GET, path).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    async fn follow(&self, path: &str, last: Option<&str>) -> Events {
        let request = Request::get(path).header("accept", "text/event-stream");
        let request = last.into_iter().fold(request, |r, id| r.header("last-event-id", id));
        Events::of(
            self.router
                .clone()
                .oneshot(request.body(Body::empty()).expect("request"))
                .await
                .expect("infallible"),
        )
    }
}

/// Server-sent events as a client reads them.
pub struct Events {
    pub body: axum::body::BodyDataStream,
    text: String,
}

/// One event.
#[derive(Debug, Default, PartialEq)]
pub struct Event {
    pub name: String,
    pub id: String,
    pub data: Value,
}

impl Events {
    pub fn of(response: axum::response::Response) -> Self {
        assert_eq!(response.status().as_u16(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { body: response.into_body().into_data_stream(), text: String::new() }
    }

    /// The next event, `heartbeat` for a comment; `None` at the end.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some((block, rest)) = self.text.split_once("\n\n") {
                let mut event = Event::default();
                for line in block.lines() {
                    match line.split_once(':').expect("a field") {
                        ("", _) => event.name = "heartbeat".into(),
                        ("event", word) => event.name = word.trim().into(),
                        ("id", id) => event.id = id.trim().into(),
                        ("data", data) => event.data = serde_json::from_str(data).expect("JSON"),
                        (field, _) => panic!("unknown field {field}"),
                    }
                }
                self.text = rest.to_owned();
                return Some(event);
            }
            let piece = tokio::time::timeout(Duration::from_secs(20), self.body.next());
            let piece = piece.await.expect("something within 20 s")?.expect("bytes");
            self.text.push_str(std::str::from_utf8(&piece).expect("UTF-8"));
        }
    }

    /// The next event that is no heartbeat; within 20 s.
    pub async fn event(&mut self) -> Option<Event> {
        let next = async {
            loop {
                match self.next().await {
                    Some(event) if event.name == "heartbeat" => {}
                    other => return other,
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), next).await.expect("an event within 20 s")
    }
}

fn lines_of(body: &Value) -> Vec<&str> {
    body["entries"].as_array().expect("a list").iter().map(|e| e["line"].as_str().expect("a text")).collect()
}

#[tokio::test]
async fn the_log_of_an_agent_is_that_of_its_run_in_progress_else_the_last_one() {
    let f = Fixture::start().await;
    for bad in ["worker%201", "a.b", "..%2F..%2Fetc", "a%00b", "%F0%9F%90%AF"] {
        let (status, body) = f.ask(Method::GET, &format!("/logs/agents/{bad}")).await;
        assert_eq!((status, &body["code"]), (400, &json!("invalid_field")), "{bad}: {body}");
    }
    let (status, body) = f.ask(Method::GET, "/logs/agents/worker-1").await;
    assert_eq!((status, &body["code"]), (404, &json!("not_found")));

    f.run("old", 10, "worker-1", 5, RunPhase::Failed).await;
    let content = "2026-02-13T14:00:00Z cloned\n2026-02-13T14:00:01.5Z worked\n";
    f.keep("old", 10, "agent", content).await;
    let old = json!({"log": "cloned\nworked", "sizeBytes": content.len(), "updatedAt": "2026-02-13T14:00:01.5Z", "path": "runs/old/agent"});
    assert_eq!(f.get("/logs/agents/worker-1").await, old);
    assert_eq!(f.get("/logs/agents/worker-1?lines=1").await["log"], json!("worked"));

    // A Run in progress comes first, once it has written something.
    f.run("new", 11, "worker-1", 6, RunPhase::Running).await;
    assert_eq!(f.get("/logs/agents/worker-1").await, old);
    f.node.writes("tiger/new/checkout", "2026-02-13T15:00:00Z cloning");
    assert_eq!(f.get("/logs/agents/worker-1").await["path"], json!("runs/new/checkout"));
    for n in 0..2500 {
        f.node.writes("tiger/new/agent", format!("2026-02-13T15:00:01.{n:09}Z line {n}"));
    }
    for (query, count) in
        [("", 200), ("?lines=3", 3), ("?lines=0", 200), ("?lines=x", 200), ("?lines=9999", 2000)]
    {
        let body = f.get(&format!("/logs/agents/worker-1{query}")).await;
        let log = body["log"].as_str().expect("a text");
        assert_eq!((log.lines().count(), log.lines().last()), (count, Some("line 2499")), "{query}");
        assert_eq!(body["path"], json!("runs/new/agent"));
    }
    // Of long lines the newest are given, whatever number is asked for.
    f.node.writes("tiger/new/agent", format!("2026-02-13T15:00:02Z {}", "x".repeat(300_000)));
    f.node.writes("tiger/new/agent", "2026-02-13T15:00:03Z the end");
    assert_eq!(f.get("/logs/agents/worker-1").await["log"], json!("the end"));
    // The words of the original.
    f.run("review", 12, "judge-1", 7, RunPhase::Running).await;
    f.node.writes("tiger/review/agent", "2026-02-13T15:00:00Z approved");
    assert_eq!(f.get("/logs/agents/judge").await["log"], json!("approved"));
    assert_eq!(f.ask(Method::GET, "/logs/agents/judge-2").await.0, 404);
}

#[tokio::test]
async fn the_operators_lines_are_told_apart_by_who_wrote_them() {
    let line = |n: u32, target: &str| {
        format!(
            r#"2026-02-13T14:00:0{n}Z {{"level":"INFO","message":"m{n}","target":"opentiger::controller::{target}"}}"#
        )
    };
    let f = Fixture::start().await;
    let (status, body) = f.ask(Method::GET, "/logs/cycle-manager").await;
    assert_eq!(status, 404);
    assert!(body["error"].as_str().expect("text").contains("namespace ops"), "{body}");
    for (n, pod, target) in [
        (1, "op-b", "task"),
        (2, "op-a", "system"),
        (3, "op-b", "dispatcher"),
        (4, "op-b", "upkeep"),
        (5, "op-b", "planner"),
    ] {
        f.node.writes(&format!("ops/{pod}/operator"), line(n, target));
    }
    f.node.writes("ops/op-b/operator", "2026-02-13T14:00:06Z thread 'main' panicked");
    let cycle = f.get("/logs/cycle-manager?lines=2").await;
    let text = cycle["log"].as_str().expect("text");
    let words: Vec<&str> = text.lines().map(|l| if l.contains("\"m2\"") { "m2" } else { "m4" }).collect();
    assert_eq!(words, ["m2", "m4"], "of both Pods, by time: {text}");
    assert_eq!(
        (&cycle["path"], &cycle["updatedAt"]),
        (&json!("operator/op-b"), &json!("2026-02-13T14:00:04Z"))
    );
    assert_eq!(f.get("/logs/agents/cycle-manager?lines=2").await, cycle);
    for (id, message) in [("dispatcher", "m3"), ("planner", "m5")] {
        assert!(f.get(&format!("/logs/agents/{id}")).await["log"].as_str().expect("text").contains(message));
    }
    let all = f.get("/logs/all").await;
    let sources: Vec<&str> = all["entries"]
        .as_array()
        .expect("list")
        .iter()
        .map(|e| e["source"].as_str().expect("text"))
        .collect();
    assert_eq!(
        sources,
        [
            "cycle-manager/op-b",
            "cycle-manager/op-a",
            "dispatcher/op-b",
            "cycle-manager/op-b",
            "planner/op-b",
            "operator/op-b"
        ]
    );
    assert!(
        f.node
            .asked()
            .iter()
            .any(|uri| uri.contains("labelSelector=app.kubernetes.io%2Fcomponent%3Doperator"))
    );

    // Not in a cluster: a sentence that says so.
    let dev = Fixture::configured(|_| {}).await;
    let (status, body) = dev.ask(Method::GET, "/logs/cycle-manager").await;
    assert_eq!(status, 404);
    assert!(body["error"].as_str().expect("text").contains("--operator-labels"), "{body}");
}

#[tokio::test]
async fn all_logs_are_merged_by_time_and_the_newest_are_given() {
    let f = Fixture::start().await;
    let empty = f.get("/logs/all").await;
    let mut fields: Vec<&str> = empty.as_object().expect("object").keys().map(String::as_str).collect();
    fields.sort_unstable();
    assert_eq!(fields, ["entries", "generatedAt", "returned", "sourceCount", "total", "truncated"]);
    assert_eq!(
        (&empty["total"], &empty["truncated"], &empty["sourceCount"]),
        (&json!(0), &json!(false), &json!(0))
    );

    f.run("one", 10, "worker-1", 5, RunPhase::Success).await;
    f.run("two", 11, "tester-2", 6, RunPhase::Running).await;
    f.keep("one", 10, "agent", "2026-02-13T14:00:01Z a1\n\n2026-02-13T14:00:04.25Z a4\n  more\n").await;
    f.keep("one", 10, "publish", "2026-02-13T14:00:03Z p3\n2026-02-13T14:00:06Z p6\n").await;
    // As an older version kept it.
    f.database.execute("UPDATE run_logs SET lines = NULL WHERE container = 'publish'").await;
    f.node.writes("tiger/two/agent", "2026-02-13T14:00:02Z b2");
    f.node.writes("tiger/two/agent", "2026-02-13T14:00:05Z b5");
    f.node.writes("ops/op-a/operator", "2026-02-13T14:00:07Z panicked");
    let all = f.get("/logs/all").await;
    assert_eq!(lines_of(&all), ["a1", "b2", "p3", "a4", "  more", "b5", "p6", "panicked"]);
    assert_eq!(
        all["entries"][4],
        json!({"timestamp": "2026-02-13T14:00:04.250Z", "explicitTimestamp": false, "source": "worker-1/runs/one/agent", "lineNo": 4, "line": "  more"})
    );
    assert_eq!(all["entries"][1]["source"], json!("tester-2/runs/two/agent"));
    // Kept: 2; in progress: 3 containers; the operator: 1.
    assert_eq!((&all["total"], &all["returned"], &all["sourceCount"]), (&json!(8), &json!(8), &json!(6)));

    let some = f.get("/logs/all?limit=3").await;
    assert_eq!(lines_of(&some), ["b5", "p6", "panicked"]);
    assert_eq!((&some["total"], &some["returned"], &some["truncated"]), (&json!(8), &json!(3), &json!(true)));
    for (source, expected) in [
        ("WORKER-1", vec!["a1", "p3", "a4", "  more", "p6"]),
        ("publish", vec!["p3", "p6"]),
        ("operator", vec!["panicked"]),
        ("two/agent", vec!["b2", "b5"]),
        ("nothing", vec![]),
        ("%25", vec![]),
        ("%00publish", vec!["p3", "p6"]),
    ] {
        let found = f.get(&format!("/logs/all?source={source}")).await;
        assert_eq!(lines_of(&found), expected, "{source}");
        assert_eq!(found["sourceCount"], json!(6), "{source}");
    }
    // Out of range or unreadable: the default.
    for query in ["limit=0", "limit=-3", "limit=x", "sinceMinutes=0", "sinceMinutes=-1", "sinceMinutes=x"] {
        assert_eq!(lines_of(&f.get(&format!("/logs/all?{query}")).await).len(), 8, "{query}");
    }
    let now = jiff::Timestamp::now();
    f.node.writes("tiger/two/agent", format!("{now} b-now"));
    assert_eq!(lines_of(&f.get("/logs/all?sinceMinutes=5").await), ["b-now"]);
}

#[tokio::test]
async fn reading_ends_where_no_older_log_can_have_a_newer_line() {
    let f = Fixture::configured(|_| {}).await;
    // Each covers three hours and ends an hour before the next: they overlap. Large by their figures,
    // so that they are read one by one.
    f.database
        .execute(
            "INSERT INTO run_logs (run_uid, container, namespace, pod, content, total_bytes, cut_bytes, lines, archived_at)
             SELECT gen_random_uuid(), 'agent', 'tiger', 'r' || n,
                    string_agg(to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS') || 'Z ' || minute, E'\\n' ORDER BY m),
                    1500000, 0, 10, max(at)
               FROM (SELECT n, m, m * 20 - n * 60 AS minute, now() - interval '5 hours' + (m * 20 - n * 60) * interval '1 minute' AS at
                       FROM generate_series(1, 200) AS n, generate_series(1, 10) AS m) AS l GROUP BY n",
        )
        .await;
    let mut minutes: Vec<i64> = (1..=200).flat_map(|n| (1..=10).map(move |m| m * 20 - n * 60)).collect();
    minutes.sort_unstable();
    for limit in [25, 300, 20_000] {
        let all = f.get(&format!("/logs/all?limit={limit}")).await;
        let got: Vec<i64> = lines_of(&all).iter().map(|l| l.parse().expect("minutes")).collect();
        assert_eq!(got, minutes[minutes.len().saturating_sub(limit)..], "the newest, oldest first");
        let figures = (&all["total"], &all["truncated"], &all["sourceCount"]);
        assert_eq!(figures, (&json!(2_000), &json!(limit < 2_000), &json!(200)));
    }
    assert_eq!(f.get("/logs/all?source=/r199/").await["total"], json!(10));
}

#[tokio::test]
async fn whatever_a_container_writes_the_answers_are_json() {
    let f = Fixture::start().await;
    let mut odd: Vec<u8> = b"2026-02-13T14:00:01Z ".to_vec();
    odd.extend_from_slice(
        b"\x00 \xff\xfe \x1b[31mred\x1b[0m \"}],\"total\":0} \\ \xe2\x80\xa8 data: x\r\rid: 1\x0b",
    );
    let injected =
        "2026-02-13T14:00:02Z {\"target\":\"opentiger::controller::task\",\"message\":\"\\u0000\"}";
    f.run("live", 10, "worker-1", 5, RunPhase::Running).await;
    f.node.writes("tiger/live/agent", &odd);
    f.node.writes("tiger/live/agent", injected);
    f.node.writes("ops/op-a/operator", &odd);
    f.run("kept", 11, "worker-2", 5, RunPhase::Success).await;
    let client = f.node.client();
    f.node.writes("tiger/kept/agent", &odd);
    opentiger::controller::logs::archive(
        &client,
        &f.database.pool,
        NAMESPACE,
        &uid(11).to_string(),
        "kept",
        &["agent"],
    )
    .await
    .expect("archived");
    let all = f.get("/logs/all").await;
    let lines = lines_of(&all);
    assert_eq!(lines.len(), 4, "{lines:?}");
    let expected =
        "\0 \u{fffd}\u{fffd} \u{1b}[31mred\u{1b}[0m \"}],\"total\":0} \\ \u{2028} data: x\r\rid: 1\u{b}";
    assert!(lines.contains(&expected), "{lines:?}");
    assert!(lines.contains(&expected.replace('\0', "\\u0000").as_str()), "Postgres holds no NUL: {lines:?}");
    // An agent cannot write as the operator.
    assert!(
        all["entries"].as_array().expect("list").iter().all(|e| e["source"] != json!("cycle-manager/op-a"))
    );
    for path in ["/logs/agents/worker-1", "/logs/agents/worker-2"] {
        assert!(f.get(path).await["log"].as_str().expect("text").contains("\u{1b}[31mred"));
    }
    f.get(&format!("/runs/{}/logs", uid(11))).await;
    f.get(&format!("/runs/{}", uid(11))).await;
    let mut events = f.follow(&format!("/runs/{}/logs", uid(10)), None).await;
    let event = events.event().await.expect("a line");
    assert_eq!((event.name.as_str(), &event.data["line"]), ("log", &json!(expected)));
}

#[tokio::test]
async fn what_was_cleared_is_shown_nowhere_and_what_comes_is() {
    let f = Fixture::start().await;
    for n in 0..3u128 {
        f.run(&format!("kept-{n}"), 10 + n, "worker-1", 5, RunPhase::Success).await;
        f.keep(&format!("kept-{n}"), 10 + n, "agent", "2026-02-13T14:00:01Z old\n").await;
    }
    // Just kept: its Pod may not be deleted yet, and the archive may ask again.
    f.database.execute("UPDATE run_logs SET archived_at = now() WHERE pod = 'kept-2'").await;
    f.run("live", 20, "worker-2", 5, RunPhase::Running).await;
    f.node.writes("tiger/live/agent", "2026-02-13T14:00:01Z old");
    f.node.writes(
        "ops/op-a/operator",
        r#"2026-02-13T14:00:01Z {"target":"opentiger::controller::task","message":"old"}"#,
    );
    assert_eq!(lines_of(&f.get("/logs/all").await).len(), 5);
    assert_eq!(f.ask(Method::GET, "/logs/clear").await.0, 405);
    let (status, cleared) = f.ask(Method::POST, "/logs/clear").await;
    assert_eq!(status, 200, "{cleared}");
    assert_eq!(
        cleared,
        json!({"cleared": true, "removed": 2, "truncated": 4, "failed": 0, "logDir": "run_logs"})
    );
    assert_eq!(lines_of(&f.get("/logs/all").await), Vec::<&str>::new());
    for path in ["/logs/agents/worker-1", "/logs/agents/worker-2", "/logs/cycle-manager"] {
        assert_eq!(f.ask(Method::GET, path).await.0, 404, "{path}");
    }
    assert_eq!(f.get(&format!("/runs/{}/logs", uid(12))).await["logs"][0]["content"], json!(""));
    let now = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(1);
    f.node.writes("tiger/live/agent", format!("{now} new"));
    assert_eq!(lines_of(&f.get("/logs/all").await), ["new"]);
    assert_eq!(f.get("/logs/agents/worker-2").await["log"], json!("new"));
    let mut events = f.follow(&format!("/runs/{}/logs", uid(20)), None).await;
    assert_eq!(events.event().await.expect("a line").data["line"], json!("new"));
    assert_eq!(f.ask(Method::POST, "/logs/clear").await.1["removed"], json!(0), "a repeat");
}

#[tokio::test]
async fn a_log_is_followed_while_it_is_written_and_after_a_break() {
    let f = Fixture::start().await;
    let path = format!("/runs/{}/logs?follow=true", uid(10));
    assert_eq!(f.ask(Method::GET, &path).await.0, 404);
    f.run("live", 10, "worker-1", 5, RunPhase::Running).await;
    let mut events = f.follow(&path, None).await;
    // Before its container has started.
    f.node.writes("tiger/live/checkout", "2026-02-13T14:00:00Z cloned");
    let first = events.event().await.expect("a line");
    assert_eq!(
        first.data,
        json!({"container": "checkout", "timestamp": "2026-02-13T14:00:00Z", "line": "cloned"})
    );
    f.node.ends("tiger/live/checkout");
    // Several of one time, as a burst has them.
    for n in 0..3 {
        f.node.writes("tiger/live/agent", format!("2026-02-13T14:00:01.000000001Z burst {n}"));
    }
    let mut seen = Vec::new();
    let mut id = String::new();
    for _ in 0..2 {
        let event = events.event().await.expect("a line");
        seen.push(event.data["line"].as_str().expect("text").to_owned());
        id = event.id;
    }
    drop(events);
    eventually("nobody follows any more", async || f.node.followers("tiger/live/agent") == 0).await;
    f.node.writes("tiger/live/agent", "2026-02-13T14:00:01.000000002Z while away");
    let mut events = f.follow(&path, Some(&id)).await;
    for _ in 0..2 {
        seen.push(events.event().await.expect("a line").data["line"].as_str().expect("text").to_owned());
    }
    f.node.writes("tiger/live/agent", "2026-02-13T14:00:03Z live again");
    seen.push(events.event().await.expect("a line").data["line"].as_str().expect("text").to_owned());
    assert_eq!(seen, ["burst 0", "burst 1", "burst 2", "while away", "live again"]);

    // The Run ends, its logs are kept, its Pod goes: the rest comes from the archive.
    let rest = "2026-02-13T14:00:03Z live again\n2026-02-13T14:00:04Z the last\n";
    f.keep("live", 10, "agent", rest).await;
    f.run("live", 10, "worker-1", 6, RunPhase::Success).await;
    f.node.ends("tiger/live/agent");
    f.node.forgets("tiger/live");
    let last = events.event().await.expect("a line");
    assert_eq!(last.data["line"], json!("the last"));
    let end = events.event().await.expect("the end");
    assert_eq!((end.name.as_str(), &end.data), ("end", &json!({"status": "success"})));
    assert_eq!(events.event().await, None);
    // Again from there, and anew.
    let mut again = f.follow(&path, Some(&end.id)).await;
    assert_eq!(again.event().await.expect("the end").name, "end");
    let mut anew = f.follow(&format!("{path}&container=agent&lines=1"), Some("garbage")).await;
    assert_eq!(anew.event().await.expect("a line").data["line"], json!("the last"));
    assert_eq!(f.ask(Method::GET, &format!("{path}&container=x")).await.0, 400);
}
