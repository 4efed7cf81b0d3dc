//! The database away, and the operator away: afterwards both say what the cluster says (S19 to S23).

use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt;
use opentiger::crd::{AgentPool, Run, Task, TaskPhase};
use serde_json::json;

use super::postgres::Database;
use super::record::{Record, is_done};
use super::tables::tables_equal_the_cluster;
use super::world::{PATIENCE, World};
use crate::support::cluster::eventually;

/// For how long the database is away, in seconds.
const AWAY: &str = "OPENTIGER_TEST_DATABASE_AWAY_SECONDS";
const AWAY_BY_DEFAULT: u64 = 60;
/// For how long the pace is measured before.
const BEFORE: Duration = Duration::from_secs(8);
/// Least pace without the database, as a part of the pace with it.
const PACE: f64 = 0.6;

/// Tasks that ended within a time, per second.
fn pace(record: &Record, from: Timestamp, to: Timestamp) -> f64 {
    let tasks = record.tasks();
    let ended = tasks
        .values()
        .flat_map(|t| t.status.iter().flat_map(|s| s.transitions.iter()))
        .filter(|t| t.phase == TaskPhase::Done && t.at >= from && t.at < to)
        .count();
    ended as f64 / to.duration_since(from).as_secs_f64()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_postgres_dispatching_does_not_slow_and_afterwards_the_tables_equal_the_cluster() {
    let away = std::env::var(AWAY).ok().and_then(|text| text.parse().ok()).unwrap_or(AWAY_BY_DEFAULT);
    let away = Duration::from_secs(away);
    let database = Database::migrated().await;
    let (proxy, url) = database.url_through_proxy().await;
    let world = World::start("database").await;
    world.pool("worker", 4, "{outcome: Succeed, delay: 400ms}").await;
    // At most ten end in a second.
    let count = usize::try_from((BEFORE + away).as_secs() * 10).expect("small");
    let _operator = world.operator("one").database(&url).start().await;
    world.backlog(count).await;
    world.until("some Tasks are done", PATIENCE, |record| (record.done() >= 8).then_some(())).await;
    let from = now();
    tokio::time::sleep(BEFORE).await;
    let before = pace(&world.record, from, now());
    // First nobody listens, then somebody does and never answers.
    proxy.cut();
    let from = now();
    let ended: Vec<String> =
        world.record.tasks().into_iter().filter(|(_, t)| is_done(t)).map(|(name, _)| name).take(5).collect();
    for name in &ended {
        world.delete::<Task>(name).await;
    }
    tokio::time::sleep(away / 2).await;
    proxy.stall();
    tokio::time::sleep(away / 2).await;
    let during = pace(&world.record, from, now());
    let left = count - ended.len() - world.record.done();
    println!("with Postgres {before:.1}/s, without {during:.1}/s, {left} Tasks left");
    assert!(left > 0, "there was work all the time");
    assert!(during >= before * PACE, "with Postgres {before:.1}/s, without {during:.1}/s");
    proxy.mend();
    world.until("the rest is done", 2 * PATIENCE, |r| (r.done() == count - ended.len()).then_some(())).await;
    tables_equal_the_cluster(&world, &database, 2 * PATIENCE).await;
    world.verify();
}

#[allow(clippy::disallowed_methods, reason = "transitions carry the time of the clock")]
fn now() -> Timestamp {
    Timestamp::now()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_deleted_and_recreated_while_the_operator_was_down_converges_after_its_start() {
    let database = Database::migrated().await;
    let world = World::start("down").await;
    world.pool("worker", 4, "{outcome: Hang}").await;
    let quick = json!({"role": "Tester"});
    world.pool_with("tester", 1, "{outcome: Succeed}", quick).await;
    let operator = world.operator("one").database(&database.url).start().await;
    for name in ["gone", "again", "kept"] {
        world.task(name, "{}").await;
    }
    world.task("done", "{role: Tester}").await;
    let before = world
        .until("three run and one is done", PATIENCE, |record| {
            let running = record.pods().values().filter(|p| is_running(p)).count();
            (running == 3 && record.status("done").phase == TaskPhase::Done).then(|| record.tasks())
        })
        .await;
    // What a killed operator has not yet handed over is lost with it; here it has.
    eventually("the rows of all Tasks are there", async || {
        let rows: i64 = database.value("SELECT count(*) FROM tasks").await;
        (rows == 4).then_some(())
    })
    .await;
    let run_of = |task: &str| before[task].status.as_ref().map(|s| s.last_run.clone()).unwrap_or_default();
    operator.operator.kill();
    for name in ["gone", "again"] {
        world.delete::<Task>(name).await;
    }
    world.task("again", "{title: Another}").await;
    for name in ["kept", "done"] {
        world.delete::<Run>(&run_of(name)).await;
    }
    world.until("the Runs are gone", PATIENCE, |r| r.runs().is_empty().then_some(())).await;
    let succeed = json!({"spec": {"executor": {"mock": {"outcome": "Succeed"}}}});
    world.patch::<AgentPool>("worker", succeed).await;
    let _operator = world.operator("one").database(&database.url).start().await;
    world.all_done(3).await;
    let tasks = world.record.tasks();
    let status = |name: &str| tasks[name].status.clone().unwrap_or_default();
    let (again, kept) = (status("again"), status("kept"));
    assert_eq!((again.attempts, again.retries), (1, Default::default()), "{again:?}");
    assert_ne!(again.last_run, run_of("again"), "a recreated Task has Runs of its own");
    let run = &world.record.runs()[&again.last_run];
    assert_eq!(Some(&run.spec.task_ref.uid), tasks["again"].uid().as_ref());
    assert_ne!(tasks["again"].uid(), before["again"].uid());
    assert_eq!((kept.attempts, kept.retries.failure, kept.retries.quota), (2, 0, 0), "{kept:?}");
    tables_equal_the_cluster(&world, &database, 2 * PATIENCE).await;
    let tombs: i64 = database.value("SELECT count(*) FROM tasks WHERE deleted_at IS NOT NULL").await;
    assert_eq!(tombs, 2, "one for each Task that was deleted");
    world.verify();
}

fn is_running(pod: &k8s_openapi::api::core::v1::Pod) -> bool {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running")
}
