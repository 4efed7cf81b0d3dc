//! The mirror on a real Postgres: rows equal objects whatever happens to order, database or process
//! (invariants S19 to S23).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "support/history.rs"]
mod history;
#[path = "support/postgres.rs"]
mod postgres;

#[path = "postgres_mirror/derived.rs"]
mod derived;

use std::sync::Arc;
use std::time::{Duration, Instant};

use history::*;
use opentiger::controller::mirror::{Bounds, Kind, Mirror, Mirrored};
use opentiger::crd::{RunPhase, Task, TaskPhase};
use opentiger::postgres::{DatabaseConfig, Pool, migrate};
use postgres::{Database, eventually};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A running mirror of a cluster in memory; stopped and flushed by [`Running::stop`].
struct Running {
    mirror: Mirror,
    cluster: Objects,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    fn start(pool: &Pool, bounds: Bounds) -> Self {
        Self::of(Objects::default(), pool, bounds)
    }

    fn of(cluster: Objects, pool: &Pool, bounds: Bounds) -> Self {
        let mirror = Mirror::new(pool.clone(), Arc::new(cluster.clone()), bounds);
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(mirror.clone().run(shutdown.clone()));
        Self { mirror, cluster, shutdown, task }
    }

    /// The watch's first list of a kind is what the cluster holds.
    fn listed(&self, kind: Kind) {
        self.mirror.listed(kind, NAMESPACE, self.cluster.list(kind));
    }

    async fn drained(&self) {
        eventually("the backlog is written", async || self.mirror.backlog() == 0).await;
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.expect("mirror ends without a panic");
    }
}

/// Small delays, so that tests need not wait for the defaults.
fn quick() -> Bounds {
    Bounds {
        delay: Duration::from_millis(5),
        confirm: Duration::from_millis(300),
        max_backoff: Duration::from_millis(200),
        ..Bounds::default()
    }
}

const TASKS: &str = "SELECT uid, name, title, status, resource_version, deleted_at IS NOT NULL AS deleted FROM tasks ORDER BY uid";

#[tokio::test]
async fn migrations_may_run_at_once_and_again() {
    let database = Database::empty().await;
    let config = DatabaseConfig::new(&database.url, "test");
    assert_eq!(opentiger::postgres::schema_version(&database.pool).await.expect("asked"), 0);
    let (a, b, c) = tokio::join!(migrate(&config, None), migrate(&config, None), migrate(&config, None));
    let newest = opentiger::postgres::migrate::expected_version();
    assert_eq!((a.expect("a"), b.expect("b"), c.expect("c")), (newest, newest, newest));
    assert_eq!(migrate(&config, None).await.expect("again"), newest);
    let repeated = "SELECT count(*) - count(DISTINCT version) FROM refinery_schema_history";
    assert_eq!(database.value::<i64>(repeated).await, 0);
}

#[tokio::test]
async fn the_mirror_waits_for_the_tables() {
    let database = Database::empty().await;
    let running = Running::start(&database.pool, quick());
    running.mirror.applied(mirrored(&task("fix", 1, 10)));
    assert_eq!(running.mirror.backlog(), 1);
    migrate(&DatabaseConfig::new(&database.url, "test"), None).await.expect("migrated");
    running.drained().await;
    assert_eq!(database.value::<i64>("SELECT count(*) FROM tasks").await, 1);
    running.stop().await;
}

#[tokio::test]
async fn a_replay_changes_and_adds_nothing() {
    let database = Database::migrated().await;
    let objects = || {
        let task = with_transitions(task("fix", 1, 10), 1..=5, TaskPhase::Done);
        let run = run("fix-x-r1", 2, 11, 1, "worker-1", RunPhase::Success);
        [mirrored(&task), mirrored_run(&run), mirrored_pool(&pool(3, 12, 2, false))]
    };
    let snapshot = async || {
        let mut all = Vec::new();
        for table in ["tasks", "runs", "pools", "events", "artifacts", "agents"] {
            let version = if table == "agents" { "0" } else { "xmin::text" };
            all.push(
                database.json(&format!("SELECT *, {version} AS written_by FROM {table} ORDER BY 1, 2")).await,
            );
        }
        all
    };
    let running = Running::start(&database.pool, quick());
    objects().into_iter().for_each(|o| running.mirror.applied(o));
    running.drained().await;
    let first = snapshot().await;
    assert_eq!(first[3].as_array().map(Vec::len), Some(5), "one event per transition");
    assert_eq!(first[4].as_array().map(Vec::len), Some(2), "branch and commit");
    running.stop().await;

    // A restart replays everything.
    let running = Running::start(&database.pool, quick());
    for _ in 0..3 {
        objects().into_iter().for_each(|o| running.mirror.applied(o));
        running.drained().await;
    }
    assert_eq!(snapshot().await, first);
    running.stop().await;
}

#[tokio::test]
async fn versions_never_go_back_whatever_the_order() {
    let database = Database::migrated().await;
    // 9 < 10 as numbers, not as text. Each order is written in separate batches and in one.
    for (n, order) in [[9, 10, 100], [100, 10, 9], [10, 100, 9], [9, 100, 10]].into_iter().enumerate() {
        for separate in [true, false] {
            let n = (n * 2 + usize::from(separate)) as u128 + 1;
            let running = Running::start(&database.pool, quick());
            for version in order {
                let mut task = task(&format!("t{n}"), n, version);
                task.spec.title = format!("version {version}");
                running.mirror.applied(mirrored(&task));
                if separate {
                    running.drained().await;
                }
            }
            running.drained().await;
            let title: String = database.value(&format!("SELECT title FROM tasks WHERE name = 't{n}'")).await;
            assert_eq!(title, "version 100", "order {order:?}, separate {separate}");
            running.stop().await;
        }
    }
}

#[tokio::test]
async fn a_recreated_object_is_another_row_and_a_deletion_is_set_once() {
    let database = Database::migrated().await;
    let running = Running::start(&database.pool, quick());
    let (old, new) = (task("fix", 1, 10), task("fix", 2, 20));
    running.mirror.applied(mirrored(&old));
    running.drained().await;
    running.mirror.deleted(mirrored(&task("fix", 1, 15)));
    running.mirror.applied(mirrored(&new));
    running.drained().await;
    let expected = serde_json::json!([
        {"uid": uid(1), "name": "fix", "title": "Title of fix", "status": "queued", "resource_version": 15, "deleted": true},
        {"uid": uid(2), "name": "fix", "title": "Title of fix", "status": "queued", "resource_version": 20, "deleted": false},
    ]);
    assert_eq!(database.json(TASKS).await, expected);
    let deleted_at = "SELECT deleted_at::text FROM tasks WHERE deleted_at IS NOT NULL";
    let first: String = database.value(deleted_at).await;
    running.mirror.deleted(mirrored(&task("fix", 1, 15)));
    running.mirror.applied(mirrored(&old));
    running.drained().await;
    assert_eq!(database.value::<String>(deleted_at).await, first);
    assert_eq!(database.json(TASKS).await, expected);
    running.stop().await;
}

#[tokio::test]
async fn an_object_created_and_deleted_between_two_batches_is_not_lost() {
    let database = Database::migrated().await;
    let running = Running::start(&database.pool, quick());
    running.mirror.applied(mirrored_run(&run("fix-x-r1", 5, 10, 1, "worker-1", RunPhase::Failed)));
    running.mirror.deleted(mirrored_run(&run("fix-x-r1", 5, 11, 1, "worker-1", RunPhase::Failed)));
    running.drained().await;
    let rows =
        database.json("SELECT status, error_message, deleted_at IS NOT NULL AS deleted FROM runs").await;
    assert_eq!(
        rows,
        serde_json::json!([{"status": "failed", "error_message": "2 tests failed", "deleted": true}])
    );
    running.stop().await;
}

#[tokio::test]
async fn deletions_while_nobody_looked_are_found_by_the_next_list() {
    let database = Database::migrated().await;
    let running = Running::start(&database.pool, quick());
    for n in 1..=3 {
        running.mirror.applied(mirrored(&task(&format!("t{n}"), n, 10)));
    }
    let mut other = task("elsewhere", 9, 10);
    other.metadata.namespace = Some("other".into());
    running.mirror.applied(mirrored(&other));
    running.mirror.applied(mirrored_run(&run("r", 10, 10, 1, "worker-1", RunPhase::Running)));
    running.stop().await;

    let running = Running::start(&database.pool, quick());
    running.cluster.put(mirrored(&task("t1", 1, 10)));
    running.cluster.put(mirrored(&task("t4", 4, 30)));
    running.listed(Kind::Task);
    let live = "SELECT coalesce(string_agg(name, ' ' ORDER BY name), '') FROM tasks WHERE deleted_at IS NULL";
    eventually("t2 and t3 are marked", async || database.value::<String>(live).await == "elsewhere t1 t4")
        .await;
    assert_eq!(database.value::<i64>("SELECT count(*) FROM runs WHERE deleted_at IS NULL").await, 1);
    assert!(
        database.value::<bool>("SELECT listed_at IS NOT NULL FROM mirror_state WHERE kind = 'tasks'").await
    );
    running.stop().await;
}

#[tokio::test]
async fn what_another_writer_stored_after_the_list_is_not_taken_back() {
    let database = Database::migrated().await;
    // The leader before wrote these after our list was made.
    let before = Running::start(&database.pool, quick());
    before.mirror.applied(mirrored(&task("changed", 1, 100)));
    before.mirror.applied(mirrored(&task("created", 2, 101)));
    before.mirror.applied(mirrored(&task("gone", 3, 80)));
    before.stop().await;
    let running = Running::start(&database.pool, quick());
    running.mirror.listed(Kind::Task, NAMESPACE, vec![(uid(1).to_string(), 90)]);
    running.cluster.put(mirrored(&task("changed", 1, 100)));
    running.cluster.put(mirrored(&task("created", 2, 101)));
    eventually("the list is compared", async || {
        database.value::<i64>("SELECT count(*) FROM mirror_state").await == 1
    })
    .await;
    // Our watch delivers the same a moment later.
    running.mirror.applied(mirrored(&task("changed", 1, 100)));
    running.mirror.applied(mirrored(&task("created", 2, 101)));
    // Once the list is believed, this one is marked.
    eventually("the list is believed", async || {
        database.value::<bool>("SELECT deleted_at IS NOT NULL FROM tasks WHERE name = 'gone'").await
    })
    .await;
    running.stop().await;
    let rows = database
        .json("SELECT name, resource_version, deleted_at FROM tasks WHERE name <> 'gone' ORDER BY name")
        .await;
    let expected = serde_json::json!([
        {"name": "changed", "resource_version": 100, "deleted_at": null},
        {"name": "created", "resource_version": 101, "deleted_at": null},
    ]);
    assert_eq!(rows, expected);
}

#[tokio::test]
async fn a_cluster_restored_to_an_older_state_is_resynchronised() {
    let database = Database::migrated().await;
    let running = Running::start(&database.pool, quick());
    running.mirror.applied(mirrored(&with_transitions(task("back", 1, 100), 1..=6, TaskPhase::Done)));
    running.mirror.applied(mirrored(&task("gone", 2, 90)));
    running.mirror.applied(mirrored_run(&run("back-x-r1", 5, 95, 1, "worker-1", RunPhase::Success)));
    running.drained().await;
    running.mirror.deleted(mirrored(&task("gone", 2, 91)));
    running.drained().await;

    // Restored to revision 50: `back` had four transitions, `gone` was still there, the Run was running.
    let back = with_transitions(task("back", 1, 40), 1..=4, TaskPhase::Failed);
    running.cluster.put(mirrored(&back));
    running.cluster.put(mirrored(&task("gone", 2, 30)));
    running.cluster.put(mirrored_run(&run("back-x-r1", 5, 45, 1, "worker-1", RunPhase::Running)));
    running.listed(Kind::Task);
    running.listed(Kind::Run);
    let sql = "SELECT string_agg(name || resource_version || status || (deleted_at IS NULL), ' ' ORDER BY name) FROM tasks";
    eventually("tasks are set back", async || {
        database.value::<String>(sql).await == "back40failedtrue gone30queuedtrue"
    })
    .await;
    assert_eq!(
        database
            .value::<String>("SELECT string_agg(sequence::text, ' ' ORDER BY sequence) FROM events")
            .await,
        "1 2 3 4"
    );
    eventually("the Run is set back", async || {
        database.value::<String>("SELECT status FROM runs").await == "running"
    })
    .await;
    assert_eq!(database.value::<i64>("SELECT count(*) FROM artifacts").await, 0);
    eventually("it is recorded", async || {
        database.value::<i64>("SELECT coalesce(sum(restored), 0)::bigint FROM mirror_state").await == 3
    })
    .await;

    // Life goes on from there.
    running.mirror.applied(mirrored(&with_transitions(task("back", 1, 60), 1..=5, TaskPhase::Queued)));
    running.drained().await;
    assert_eq!(database.value::<String>("SELECT status FROM tasks WHERE name = 'back'").await, "queued");
    running.stop().await;
}

#[tokio::test]
async fn transitions_lost_beyond_the_bound_are_one_recorded_gap() {
    let database = Database::migrated().await;
    let running = Running::start(&database.pool, quick());
    for (version, sequences) in [(10, 1..=3), (20, 11..=14), (20, 11..=14), (30, 12..=16)] {
        running.mirror.applied(mirrored(&with_transitions(
            task("fix", 1, version),
            sequences,
            TaskPhase::Failed,
        )));
        running.drained().await;
    }
    // Never seen before, and already without its beginning.
    running.mirror.applied(mirrored(&with_transitions(task("late", 2, 40), 5..=5, TaskPhase::Failed)));
    running.stop().await;
    let sql = "SELECT string_agg(sequence || coalesce('-' || gap_to, ''), ' ' ORDER BY sequence) FROM events WHERE uid = ";
    let events: String = database.value(&format!("{sql} '{}'", uid(1))).await;
    assert_eq!(events, "1 2 3 4-10 11 12 13 14 15 16");
    let events: String = database.value(&format!("{sql} '{}'", uid(2))).await;
    assert_eq!(events, "1-4 5");
}

#[tokio::test]
async fn a_row_the_database_refuses_is_parked_and_holds_up_nobody() {
    let database = Database::migrated().await;
    database.execute("ALTER TABLE tasks ADD CONSTRAINT no_poison CHECK (title <> 'poison')").await;
    let running = Running::start(&database.pool, quick());
    for n in 1..=50 {
        let mut task = task(&format!("t{n}"), n, 10);
        if n == 17 || n == 18 {
            task.spec.title = "poison".into();
        }
        if n == 20 {
            task.spec.goal = "nul \0 inside".into();
        }
        if n == 30 {
            task.metadata.resource_version = Some("no number".into());
        }
        running.mirror.applied(mirrored(&task));
    }
    running.drained().await;
    assert_eq!(database.value::<i64>("SELECT count(*) FROM tasks").await, 47);
    assert_eq!(
        database.value::<String>("SELECT goal FROM tasks WHERE name = 't20'").await,
        "nul \\u0000 inside"
    );
    let parked: String =
        database.value("SELECT string_agg(name, ' ' ORDER BY name) FROM mirror_parked").await;
    assert_eq!(parked, "t17 t18 t30");
    assert_eq!(running.mirror.parked(), 3);
    // Its next version is written, and it is parked no more.
    running.mirror.applied(mirrored(&task("t17", 17, 20)));
    running.stop().await;
    let parked: String =
        database.value("SELECT string_agg(name, ' ' ORDER BY name) FROM mirror_parked").await;
    assert_eq!(parked, "t18 t30");
}

#[tokio::test]
async fn a_database_that_is_away_slows_nobody_and_is_caught_up_with() {
    let database = Database::migrated().await;
    let (proxy, pool) = database.through_proxy().await;
    let bounds = Bounds { tombstones: 100, ..quick() };
    let running = Running::start(&pool, bounds);
    for n in 1..=300 {
        running.mirror.applied(mirrored(&task(&format!("t{n}"), n, 10)));
    }
    running.drained().await;
    proxy.cut();

    let mut expected: Vec<Task> = Vec::new();
    let started = Instant::now();
    for version in 11..=60 {
        expected.clear();
        for n in 1..=300_u128 {
            let mut task = task(&format!("t{n}"), n, version * 1000 + i64::try_from(n).expect("small"));
            task.spec.title = format!("version {version}");
            running.mirror.applied(mirrored(&task));
            expected.push(task);
        }
    }
    // 15,000 changes of 300 objects: handed over in no time, kept once per object.
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert!(running.mirror.backlog() <= 500, "{}", running.mirror.backlog());
    eventually("the lag tells the truth", async || running.mirror.lag() > Duration::from_millis(300)).await;
    // 200 go: beyond the bound of 100 only their uid is kept.
    for task in expected.drain(..200) {
        running.mirror.deleted(mirrored(&task));
    }
    proxy.mend();
    running.drained().await;
    assert_eq!(running.mirror.lag(), Duration::ZERO);
    let live = database
        .json("SELECT name, title, resource_version FROM tasks WHERE deleted_at IS NULL ORDER BY uid")
        .await;
    let objects: Vec<_> = expected
        .iter()
        .map(|t| {
            let version: i64 =
                t.metadata.resource_version.as_deref().and_then(|v| v.parse().ok()).expect("number");
            serde_json::json!({"name": t.metadata.name, "title": t.spec.title, "resource_version": version})
        })
        .collect();
    assert_eq!(live, serde_json::Value::Array(objects));
    assert_eq!(database.value::<i64>("SELECT count(*) FROM tasks WHERE deleted_at IS NOT NULL").await, 200);
    running.stop().await;
}

#[tokio::test]
async fn a_connection_lost_in_the_middle_of_a_batch_leaves_no_trace() {
    let database = Database::migrated().await;
    let (proxy, pool) = database.through_proxy().await;
    let running = Running::start(&pool, Bounds { batch: 50, ..quick() });
    // Cut again and again after a few kilobytes, so that it falls into every part of a batch.
    for round in 0..12_u128 {
        let sent = proxy.bytes.load(std::sync::atomic::Ordering::Relaxed);
        for n in 1..=120_u128 {
            let phase = if round % 2 == 0 { TaskPhase::Failed } else { TaskPhase::Queued };
            let version = i64::try_from(round * 1000 + n).expect("small");
            let task = task(&format!("t{n}"), n, version);
            let sequences = 1..=i64::try_from(round + 1).expect("small");
            running.mirror.applied(mirrored(&with_transitions(task, sequences, phase)));
        }
        let limit = sent + 1 + u64::try_from(round * 7919 % 60_000).expect("small");
        eventually("some of it is on the wire", async || {
            proxy.bytes.load(std::sync::atomic::Ordering::Relaxed) >= limit || running.mirror.backlog() == 0
        })
        .await;
        proxy.cut();
        tokio::task::yield_now().await;
        proxy.mend();
    }
    running.drained().await;
    assert_eq!(database.value::<i64>("SELECT count(*) FROM tasks WHERE resource_version BETWEEN 11001 AND 11120 AND status = 'queued'").await, 120);
    assert_eq!(database.value::<i64>("SELECT count(*) FROM events").await, 120 * 12);
    assert_eq!(database.value::<i64>("SELECT count(*) FROM events WHERE gap_to IS NOT NULL").await, 0);
    running.stop().await;
}

#[tokio::test]
async fn what_is_left_is_written_at_shutdown() {
    let database = Database::migrated().await;
    let slow = Bounds { delay: Duration::from_secs(3600), ..Bounds::default() };
    let running = Running::start(&database.pool, slow);
    running.mirror.applied(mirrored(&task("fix", 1, 10)));
    running.stop().await;
    assert_eq!(database.value::<i64>("SELECT count(*) FROM tasks").await, 1);
}

#[tokio::test]
async fn agents_follow_pools_and_runs() {
    let database = Database::migrated().await;
    let running = Running::start(&database.pool, quick());
    let agents = async || {
        let sql = "SELECT string_agg(id || ' ' || status || coalesce(' ' || current_task_id, ''), ', ' ORDER BY slot) FROM agents";
        database.value::<Option<String>>(sql).await.unwrap_or_default()
    };
    let apply = async |o: Mirrored| {
        running.mirror.applied(o);
        running.drained().await;
    };
    apply(mirrored_run(&run("r1", 10, 5, 1, "worker-2", RunPhase::Running))).await;
    assert_eq!(agents().await, "", "no pool yet");
    apply(mirrored_pool(&pool(3, 10, 3, false))).await;
    assert_eq!(agents().await, format!("worker-1 idle, worker-2 busy {}, worker-3 idle", uid(1)));
    apply(mirrored_pool(&pool(3, 11, 1, false))).await;
    assert_eq!(agents().await, format!("worker-1 idle, worker-2 busy {}, worker-3 offline", uid(1)));
    apply(mirrored_run(&run("r1", 10, 12, 1, "worker-2", RunPhase::Success))).await;
    assert_eq!(agents().await, "worker-1 idle, worker-2 offline, worker-3 offline");
    assert_eq!(
        database.value::<String>("SELECT last_heartbeat::text FROM agents WHERE id = 'worker-2'").await,
        "2026-02-13 14:35:00+00"
    );
    apply(mirrored_pool(&pool(3, 13, 1, true))).await;
    assert_eq!(agents().await, "worker-1 offline, worker-2 offline, worker-3 offline");
    running.mirror.deleted(mirrored_pool(&pool(3, 14, 1, true)));
    running.drained().await;
    assert_eq!(agents().await, "");
    running.stop().await;
}
