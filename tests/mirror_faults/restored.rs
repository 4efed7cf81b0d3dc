//! A database that went back, and one that belonged to another cluster.

use opentiger::controller::mirror::Kind;
use opentiger::crd::{RunPhase, TaskPhase};

use super::history::*;
use super::mirror::Running;
use super::postgres::{Database, eventually};

const TABLES: [&str; 9] = [
    "tasks",
    "runs",
    "pools",
    "systems",
    "operations",
    "events",
    "artifacts",
    "mirror_parked",
    "mirror_writers",
];

async fn back_up(database: &Database) {
    database.execute("CREATE SCHEMA backup").await;
    for table in TABLES {
        database.execute(&format!("CREATE TABLE backup.{table} AS TABLE public.{table}")).await;
    }
}

async fn restore(database: &Database) {
    let tables = TABLES.map(|table| format!("INSERT INTO {table} SELECT * FROM backup.{table}")).join("; ");
    database.execute(&format!("BEGIN; TRUNCATE {}; {tables}; COMMIT", TABLES.join(", "))).await;
}

#[tokio::test]
async fn a_database_restored_from_an_old_backup_under_a_running_operator_is_made_equal_again() {
    let database = Database::migrated().await;
    let running = Running::of(Objects::default(), &database.pool);
    running.put(mirrored(&with_transitions(task("older", 1, 10), 1..=2, TaskPhase::Queued)));
    running.put(mirrored(&task("gone", 2, 11)));
    running.put(mirrored(&with_transitions(task("same", 3, 12), 1..=2, TaskPhase::Done)));
    running.drained().await;
    back_up(&database).await;
    // After the backup: a change, a deletion, a new Task that has ended, a Run.
    running.put(mirrored(&with_transitions(task("older", 1, 50), 1..=5, TaskPhase::Done)));
    running.remove(mirrored(&task("gone", 2, 51)));
    running.put(mirrored(&with_transitions(task("newer", 4, 52), 1..=3, TaskPhase::Done)));
    running.put(mirrored_run(&run("newer-r1", 10, 53, 4, "worker-1", RunPhase::Success)));
    running.drained().await;
    restore(&database).await;
    // The next change of anything at all shows that acknowledged batches are missing.
    running.put(mirrored(&task("last", 5, 60)));
    let rows = "SELECT string_agg(name || ' ' || resource_version || ' ' || title || ' ' || (deleted_at IS NULL), ', '
          ORDER BY uid) FROM tasks";
    let expected = "older 50 Title of older true, gone 11 Title of gone false, same 12 Title of same true, \
                    newer 52 Title of newer true, last 60 Title of last true";
    eventually("the tables equal the cluster", async || database.value::<String>(rows).await == expected)
        .await;
    eventually("Runs and artifacts too", async || {
        database.value::<i64>("SELECT count(*) FROM artifacts").await == 2
    })
    .await;
    let events =
        "SELECT string_agg(sequence || coalesce('-' || gap_to, ''), ' ' ORDER BY uid, sequence) FROM events";
    assert_eq!(database.value::<String>(events).await, "1 2 3 4 5 1 2 1 2 3");
    running.stop().await;
}

#[tokio::test]
async fn a_relist_finds_rows_that_the_database_has_lost_and_writes_them_whole() {
    let database = Database::migrated().await;
    let running = Running::of(Objects::default(), &database.pool);
    running.put(mirrored(&with_transitions(task("kept", 1, 10), 1..=2, TaskPhase::Done)));
    running.put(mirrored(&with_transitions(task("lost", 2, 11), 1..=2, TaskPhase::Done)));
    running.drained().await;
    database.execute("DELETE FROM tasks WHERE name = 'lost'; DELETE FROM events WHERE sequence = 2").await;
    // The cache holds both at these versions: the watch's new list delivers neither again.
    running.mirror.listed(Kind::Task, "", running.cluster.list(Kind::Task));
    let rows = "SELECT string_agg(name || ' ' || title, ', ' ORDER BY name) FROM tasks";
    let whole = "kept Title of kept, lost Title of lost";
    eventually("it is there again", async || database.value::<String>(rows).await == whole).await;
    eventually("with its events", async || {
        database.value::<i64>("SELECT count(*) FROM events WHERE gap_to IS NULL").await == 4
    })
    .await;
    running.stop().await;
}

#[tokio::test]
async fn rows_of_objects_that_are_gone_and_rows_of_another_clusters_future_are_ended_or_set_back() {
    let database = Database::migrated().await;
    // Another past: `both` lives in both with the same uid, its row is newer; a whole namespace is gone.
    let other = Running::of(Objects::default(), &database.pool);
    other.put(mirrored(&with_transitions(task("both", 1, 5000), 1..=9, TaskPhase::Done)));
    other.put(mirrored(&task("theirs", 2, 6000)));
    let mut elsewhere = task("elsewhere", 3, 7000);
    elsewhere.metadata.namespace = Some("gone".into());
    other.put(mirrored(&elsewhere));
    other.drained().await;
    other.stop().await;
    let cluster = Objects::default();
    cluster.put(mirrored(&with_transitions(task("both", 1, 40), 1..=4, TaskPhase::Failed)));
    let running = Running::of(cluster, &database.pool);
    running.list();
    let rows = "SELECT string_agg(name || ' ' || resource_version || ' ' || (deleted_at IS NULL), ', ' ORDER BY name) FROM tasks";
    let expected = "both 40 true, elsewhere 7000 false, theirs 6000 false";
    eventually("they are", async || database.value::<String>(rows).await == expected).await;
    let events = "SELECT string_agg(sequence::text, ' ' ORDER BY sequence) FROM events";
    assert_eq!(database.value::<String>(events).await, "1 2 3 4");
    // And life goes on from there.
    running.put(mirrored(&with_transitions(task("both", 1, 41), 1..=5, TaskPhase::Queued)));
    running.drained().await;
    assert_eq!(database.value::<String>(events).await, "1 2 3 4 5");
    running.stop().await;
}
