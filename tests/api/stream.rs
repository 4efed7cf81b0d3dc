//! `GET /events/stream`: every change once and in order, whatever happens to client, replica, database.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use opentiger::http_api::{ApiConfig, router, state};
use opentiger::postgres::{DatabaseConfig, Row};
use serde_json::json;
use tower::ServiceExt;

use crate::history::{NAMESPACE, mirrored, mirrored_pool, pool, task, uid};
use crate::logs::{Event, Events};
use crate::postgres::{Database, eventually};

/// A replica of the API.
fn replica(url: &str) -> Router {
    let config = ApiConfig {
        insecure_no_auth: true,
        ..ApiConfig::new(NAMESPACE, DatabaseConfig::new(url, "test-stream"), jiff::Timestamp::now)
    };
    router(state(&config).expect("state"))
}

async fn open(router: &Router, last: Option<&str>) -> Events {
    let request = Request::get("/events/stream");
    let request = last.into_iter().fold(request, |r, id| r.header("last-event-id", id));
    Events::of(
        router.clone().oneshot(request.body(Body::empty()).expect("request")).await.expect("infallible"),
    )
}

async fn write(database: &Database, rows: Vec<Row>) {
    opentiger::postgres::write::write(&database.pool, &rows).await.expect("written");
}

fn row(n: u128, version: i64) -> Row {
    mirrored(&task(&format!("t{n}"), n, version)).row().expect("row")
}

/// The next events, as uid and version.
async fn changes(events: &mut Events, count: usize) -> Vec<(String, i64)> {
    let mut seen = Vec::new();
    while seen.len() < count {
        let event = events.event().await.expect("an event");
        assert_eq!(event.name, "change", "{event:?}");
        seen.push(seen_in(&event));
    }
    seen
}

fn seen_in(event: &Event) -> (String, i64) {
    let version = event.data["version"].as_str().expect("version").parse().expect("a number");
    (event.data["id"].as_str().expect("id").to_owned(), version)
}

#[tokio::test]
async fn every_change_comes_once_and_in_order_on_whichever_replica() {
    let database = Database::migrated().await;
    let (one, two) = (replica(&database.url), replica(&database.url));
    write(&database, vec![row(1, 5)]).await;
    let mut events = open(&one, None).await;
    let ready = events.event().await.expect("ready");
    assert_eq!((ready.name.as_str(), ready.id.is_empty()), ("ready", false));
    write(&database, vec![row(1, 6), row(2, 7), mirrored_pool(&pool(50, 8, 2, false)).row().expect("row")])
        .await;
    // A replay and an older version change nothing, so nothing is told.
    write(&database, vec![row(1, 6), row(2, 3)]).await;
    let first = events.event().await.expect("a change");
    assert_eq!(first.data, json!({"kind": "task", "id": uid(1), "version": "6", "deleted": false}));
    drop(events);
    // In the middle of a batch, on another replica.
    let mut events = open(&two, Some(&first.id)).await;
    assert_eq!(changes(&mut events, 1).await, [(uid(2).to_string(), 7)]);
    let of_pool = events.event().await.expect("a change");
    assert_eq!((&of_pool.data["kind"], &of_pool.data["version"]), (&json!("pool"), &json!("8")));
    let mut gone = row(2, 9);
    gone.deleted = true;
    write(&database, vec![gone]).await;
    let update = events.event().await.expect("a change");
    let deletion = events.event().await.expect("a change");
    assert_eq!((&update.data["version"], &update.data["deleted"]), (&json!("9"), &json!(false)));
    assert_eq!((&deletion.data["version"], &deletion.data["deleted"]), (&json!("9"), &json!(true)));
    // Other namespaces are none of its business.
    database.execute("UPDATE tasks SET namespace = 'other' WHERE resource_version = 6").await;
    write(&database, vec![row(3, 20)]).await;
    assert_eq!(changes(&mut events, 1).await, [(uid(3).to_string(), 20)]);
    drop(events);
    // Since the beginning.
    let mut all = open(&one, Some(&ready.id)).await;
    let versions: Vec<i64> = changes(&mut all, 6).await.iter().map(|(_, v)| *v).collect();
    assert_eq!(versions, [6, 7, 8, 9, 9, 20]);
}

#[tokio::test]
async fn a_change_that_commits_late_is_not_missed() {
    let database = Database::migrated().await;
    let router = replica(&database.url);
    write(&database, vec![row(1, 1), row(2, 1)]).await;
    let mut events = open(&router, None).await;
    events.event().await.expect("ready");
    // Two writers, as at a change of the leader: the first has its number and does not commit yet.
    let mut slow = database.pool.get().await.expect("connection");
    let transaction = slow.transaction().await.expect("transaction");
    transaction
        .execute("UPDATE tasks SET resource_version = 2 WHERE uid = $1", &[&uid(1)])
        .await
        .expect("updated");
    let pool = database.pool.clone();
    let fast = tokio::spawn(async move {
        let rows = [row(2, 3)];
        opentiger::postgres::write::write(&pool, &rows).await.expect("written");
    });
    eventually("the second writer has committed or waits", async || {
        let waits: i64 = database
            .value("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'")
            .await;
        fast.is_finished() || waits > 0
    })
    .await;
    if fast.is_finished() {
        assert_eq!(changes(&mut events, 1).await, [(uid(2).to_string(), 3)]);
        transaction.commit().await.expect("committed");
        assert_eq!(changes(&mut events, 1).await, [(uid(1).to_string(), 2)]);
        return;
    }
    transaction.commit().await.expect("committed");
    fast.await.expect("written");
    assert_eq!(changes(&mut events, 2).await, [(uid(1).to_string(), 2), (uid(2).to_string(), 3)]);
}

#[tokio::test]
async fn who_comes_too_late_is_told_to_read_everything_again() {
    let database = Database::migrated().await;
    let router = replica(&database.url);
    let mut events = open(&router, None).await;
    let ready = events.event().await.expect("ready");
    write(&database, vec![row(1, 5)]).await;
    let known = events.event().await.expect("a change");
    let (epoch, _) = ready.id.split_once('-').expect("an id");
    // Another database's, one that is ahead, one that nobody has given.
    for odd in ["000000000000-1".to_owned(), format!("{epoch}-999999"), "garbage".into(), "\u{e9}".into()] {
        let mut again = open(&router, Some(&odd)).await;
        let reset = again.event().await.expect("an event");
        assert_eq!(reset.name, "reset", "{odd}");
        write(&database, vec![row(2, again_version())]).await;
        assert_eq!(again.event().await.expect("a change").name, "change");
    }
    // What is old goes, and with it the ability to go on from there.
    database.execute("UPDATE changes SET at = now() - interval '16 minutes'").await;
    for version in 1000..1130 {
        write(&database, vec![row(3, version)]).await;
    }
    let pruned: i64 = database.value("SELECT pruned_to FROM change_state").await;
    let left: i64 = database.value("SELECT count(*) FROM changes").await;
    assert!(pruned > 0 && left <= 130, "pruned to {pruned}, left {left}");
    let mut again = open(&router, Some(&known.id)).await;
    let reset = again.event().await.expect("an event");
    assert_eq!(reset.name, "reset");
    let mut again = open(&router, Some(&reset.id)).await;
    write(&database, vec![row(3, 2000)]).await;
    assert_eq!(changes(&mut again, 1).await, [(uid(3).to_string(), 2000)]);
    // The cluster is restored: versions go back, which is said.
    let mut restored = row(3, 7);
    restored.replaces = Some(2000);
    write(&database, vec![restored]).await;
    assert_eq!(again.event().await.expect("an event").name, "reset");
    assert_eq!(changes(&mut again, 1).await, [(uid(3).to_string(), 7)]);
}

fn again_version() -> i64 {
    use std::sync::atomic::{AtomicI64, Ordering};
    static NEXT: AtomicI64 = AtomicI64::new(10);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

#[tokio::test]
async fn with_the_database_away_the_stream_lives_and_then_says_reset() {
    let database = Database::migrated().await;
    let (proxy, url) = database.url_through_proxy().await;
    let router = replica(&url);
    let started = Instant::now();
    let mut events = open(&router, None).await;
    assert_eq!(events.event().await.expect("ready").name, "ready");
    proxy.cut();
    let mut heartbeats = 0;
    // Longer than any other answer may take.
    while started.elapsed() < Duration::from_secs(31) {
        let event = events.next().await.expect("an event");
        assert_eq!(event.name, "heartbeat", "{event:?}");
        heartbeats += 1;
    }
    assert!(heartbeats >= 3);
    write(&database, vec![row(1, 5)]).await;
    proxy.mend();
    assert_eq!(events.event().await.expect("an event").name, "reset");
    // Both the listener and a client that was just catching up may say it, before or after what is
    // written meanwhile; from some change on it is told as ever.
    let mut written = 5;
    loop {
        written += 1;
        write(&database, vec![row(1, written)]).await;
        let mut event = events.event().await.expect("an event");
        while event.name == "change" && seen_in(&event).1 < written {
            event = events.event().await.expect("an event");
        }
        if event.name != "reset" {
            assert_eq!(seen_in(&event), (uid(1).to_string(), written));
            break;
        }
    }
}

#[tokio::test]
async fn many_clients_share_one_listener_and_a_slow_one_is_told() {
    let database = Database::migrated().await;
    let router = replica(&database.url);
    let mut clients = Vec::new();
    for _ in 0..30 {
        let mut events = open(&router, None).await;
        events.event().await.expect("ready");
        clients.push(events);
    }
    let mut slow = open(&router, None).await;
    slow.event().await.expect("ready");
    let listeners = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'test-stream-changes'";
    assert_eq!(database.value::<i64>(listeners).await, 1);
    // More than the ring and the body hold; read by all but one. Most leave early: what the others read has
    // to be written before the slow one is given up, on a busy machine too.
    let mut latest: Vec<BTreeMap<String, i64>> = vec![BTreeMap::new(); clients.len()];
    for round in 0..100 {
        if round == 5 {
            clients.truncate(3);
        }
        for n in 0..4 {
            write(&database, vec![row(n, round * 10 + i64::try_from(n).expect("small") + 1)]).await;
        }
        for (client, latest) in clients.iter_mut().zip(&mut latest) {
            for (id, version) in changes(client, 4).await {
                assert!(latest.insert(id, version).is_none_or(|before| before < version), "never back");
            }
        }
    }
    let mut last = Event::default();
    let mut count = 0;
    while let Some(event) = slow.event().await {
        count += 1;
        last = event;
    }
    assert_eq!(last.name, "reset", "after {count} events");
    assert!(count < 400, "{count}");
    // Nobody listens any more: the connection goes.
    drop(clients);
    eventually("the listener ends", async || database.value::<i64>(listeners).await == 0).await;
    let mut again = open(&router, Some(&last.id)).await;
    write(&database, vec![row(1, 5000)]).await;
    assert_eq!(changes(&mut again, 1).await, [(uid(1).to_string(), 5000)]);
}

/// How much the stream costs the mirror; `cargo test -- --ignored --nocapture`.
#[tokio::test]
#[ignore = "a measurement"]
async fn rows_a_second_with_and_without_the_stream() {
    let database = Database::migrated().await;
    let steps = [
        ("warm-up", "SELECT 1"),
        ("with", "SELECT 1"),
        ("without", "ALTER TABLE tasks DISABLE TRIGGER USER"),
        ("with", "ALTER TABLE tasks ENABLE TRIGGER USER"),
        ("without", "ALTER TABLE tasks DISABLE TRIGGER USER"),
    ];
    for (version, (word, sql)) in (1..).zip(steps) {
        database.execute(sql).await;
        let batches: Vec<Vec<Row>> =
            (0..100u128).map(|b| (0..200).map(|n| row(b * 200 + n, version)).collect()).collect();
        let started = Instant::now();
        for batch in batches {
            write(&database, batch).await;
        }
        println!("{word}: {:.0} rows/s", 20_000.0 / started.elapsed().as_secs_f64());
    }
}
