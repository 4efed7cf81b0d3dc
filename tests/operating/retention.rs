//! Rows of what was deleted long ago go; everything else stays.

use opentiger::controller::mirror_retention::RowRetention;
use opentiger::crd::{RunPhase, TaskPhase};
use opentiger::postgres::logs::{self, ContainerLog};
use opentiger::postgres::retention::{BATCH, remove_batch};
use tokio_util::sync::CancellationToken;

use crate::history::*;
use crate::postgres::{Database, eventually};
use crate::write;

/// A live Task, one deleted 29 days ago, one deleted 31 days ago; each with three events and a Run of
/// the same age with two artifacts and a log.
async fn filled() -> Database {
    let database = Database::migrated().await;
    for n in 1..=3u128 {
        let task = with_transitions(task(&format!("t{n}"), n, 10), 1..=3, TaskPhase::Done);
        let run = run(&format!("t{n}-x-r1"), 100 + n, 11, n, "worker-1", RunPhase::Success);
        write(&database.pool, [mirrored(&task), mirrored_run(&run)]).await;
        let log =
            ContainerLog { container: "agent".into(), content: "ok".into(), total_bytes: 2, cut_bytes: 0 };
        logs::store(&database.pool, NAMESPACE, uid(100 + n), "pod", &log).await.expect("kept");
    }
    for (n, days) in [(2, 29), (3, 31)] {
        for (table, uid) in [("tasks", uid(n)), ("runs", uid(100 + n))] {
            let at = format!("now() - interval '{days} days'");
            database.execute(&format!("UPDATE {table} SET deleted_at = {at} WHERE uid = '{uid}'")).await;
        }
    }
    database
}

/// Rows of tasks, events, runs, artifacts and logs.
async fn counts(database: &Database) -> Vec<i64> {
    let mut counts = Vec::new();
    for table in ["tasks", "events", "runs", "artifacts", "run_logs"] {
        counts.push(database.value(&format!("SELECT count(*) FROM {table}")).await);
    }
    counts
}

#[tokio::test]
async fn only_what_was_deleted_long_enough_ago_goes_with_all_that_belongs_to_it() {
    let database = filled().await;
    assert_eq!(counts(&database).await, [3, 9, 3, 6, 3]);
    let removed = remove_batch(&database.pool, 32).await.expect("nothing is as old");
    assert_eq!((removed.objects, removed.more), (0, false));
    let removed = remove_batch(&database.pool, 30).await.expect("removed");
    assert_eq!((removed.objects, removed.more), (2, false));
    assert_eq!(counts(&database).await, [2, 6, 2, 4, 2]);
    let left: Vec<String> = serde_json::from_value(
        database.value("SELECT to_jsonb(array_agg(name ORDER BY name)) FROM tasks").await,
    )
    .expect("names");
    assert_eq!(left, ["t1", "t2"]);
    // The youngest age there is never reaches what lives.
    remove_batch(&database.pool, 0).await.expect("removed");
    assert_eq!(counts(&database).await, [1, 3, 1, 2, 1]);
    assert_eq!(database.value::<String>("SELECT name FROM tasks").await, "t1");
}

#[tokio::test]
async fn batches_are_bounded_wait_for_nobody_and_reach_the_end() {
    let database = filled().await;
    let many = BATCH * 2 + 10;
    database
        .execute(&format!(
            "INSERT INTO tasks SELECT (jsonb_populate_record(t, jsonb_build_object('uid', gen_random_uuid()))).*
               FROM tasks t, generate_series(1, {many}) WHERE name = 't3'"
        ))
        .await;
    let mut holder = database.pool.get().await.expect("connection");
    let transaction = holder.transaction().await.expect("begun");
    transaction
        .query_one("SELECT 1 FROM tasks WHERE name = 't3' AND uid = $1 FOR UPDATE", &[&uid(3)])
        .await
        .expect("locked");
    let removed = remove_batch(&database.pool, 30).await.expect("one row is locked by somebody else");
    assert_eq!((removed.objects, removed.more), (BATCH.unsigned_abs() + 1, true), "and a Run");
    let explained = "EXPLAIN SELECT uid FROM tasks WHERE deleted_at < now() - make_interval(days => 30) ORDER BY deleted_at LIMIT 500";
    database.execute("SET enable_seqscan = off; ANALYZE tasks").await;
    let client = database.pool.get().await.expect("connection");
    client.batch_execute("SET enable_seqscan = off").await.expect("set");
    let plan: String =
        client.query(explained, &[]).await.expect("plan").iter().map(|r| r.get::<_, String>(0)).collect();
    assert!(plan.contains("tasks_deleted"), "{plan}");

    let shutdown = CancellationToken::new();
    let retention = RowRetention::new(database.pool.clone(), 30);
    let running = tokio::spawn(retention.run(shutdown.clone()));
    eventually("all but the locked one are gone", async || counts(&database).await[0] == 3).await;
    shutdown.cancel();
    running.await.expect("joined");
    drop(transaction);
    assert_eq!(remove_batch(&database.pool, 30).await.expect("removed").objects, 1);
}
