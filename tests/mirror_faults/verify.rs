//! `opentiger mirror verify` names every kind of difference, `rebuild` ends them.

use std::time::Duration;

use opentiger::controller::mirror::Kind;
use opentiger::controller::mirror_repair::{Repair, Repaired};
use opentiger::controller::mirror_verify::verify;
use opentiger::crd::{RunPhase, TaskPhase};

use super::history::*;
use super::mirror::Running;
use super::postgres::Database;

const SETTLE: Duration = Duration::from_millis(600);
const PATIENCE: Duration = Duration::from_secs(20);

async fn differences(database: &Database, cluster: &Objects) -> Vec<String> {
    let verified = verify(&database.pool, cluster, "", SETTLE, PATIENCE).await.expect("compared");
    verified.differences.iter().map(|line| format!("{} {}", line.name, line.what)).collect()
}

#[tokio::test]
async fn verify_names_every_difference_and_rebuild_ends_them() {
    let database = Database::migrated().await;
    let running = Running::of(Objects::default(), &database.pool);
    for (n, name) in (1..).zip(["missing", "deleted", "behind", "ahead", "column", "events", "much", "right"])
    {
        running.put(mirrored(&with_transitions(task(name, n, 10), 1..=3, TaskPhase::Failed)));
    }
    running.put(mirrored_run(&run("no-artifact", 20, 10, 1, "worker-1", RunPhase::Success)));
    running.put(mirrored(&task("gone", 30, 10)));
    running.drained().await;
    let cluster = running.cluster.clone();
    running.stop().await;
    assert_eq!(differences(&database, &cluster).await, Vec::<String>::new());

    cluster.remove(&mirrored(&task("gone", 30, 10)));
    database
        .execute(
            "DELETE FROM tasks WHERE name = 'missing';
             UPDATE tasks SET deleted_at = now() WHERE name = 'deleted';
             UPDATE tasks SET resource_version = 7 WHERE name = 'behind';
             UPDATE tasks SET resource_version = 99 WHERE name = 'ahead';
             UPDATE tasks SET title = 'x', touches = '{y}' WHERE name = 'column';
             DELETE FROM events USING tasks t WHERE events.uid = t.uid AND t.name = 'events' AND sequence = 2;
             INSERT INTO events (uid, sequence, id, namespace, type, entity_type, created_at)
                SELECT uid, 4, gen_random_uuid(), namespace, 'task.done', 'task', now() FROM tasks WHERE name = 'much';
             DELETE FROM artifacts WHERE type = 'commit'",
        )
        .await;
    let expected = [
        "missing has no row",
        "deleted lives and its row is marked as deleted",
        "behind is at version 10, its row at 7",
        "ahead is at version 10, its row already at 99",
        "column differs in title, touches",
        "events transition 2 is missing",
        "much event 4 is of no transition",
        "gone is gone and its row is not marked as deleted",
        "no-artifact artifact commit is missing",
    ];
    assert_eq!(differences(&database, &cluster).await, expected);
    let mut all = Repaired::default();
    for kind in Kind::ALL {
        all += Repair::new(&database.pool, &cluster).run(kind, "").await.expect("repaired");
    }
    let Repaired { objects, written, set_back, tombstoned, unparked: _, parked } = all;
    assert_eq!((objects, written, set_back, tombstoned, parked), (9, 8, 1, 1, 0));
    assert_eq!(differences(&database, &cluster).await, Vec::<String>::new());
    let events: String = database
        .value(
            "SELECT string_agg(sequence::text, '' ORDER BY uid, sequence) FROM events WHERE gap_to IS NULL",
        )
        .await;
    assert_eq!(events, "123".repeat(8));
    // Once more changes nothing.
    let again = Repair::new(&database.pool, &cluster).run(Kind::Task, "").await.expect("repaired");
    assert_eq!(again, Repaired { objects: 8, ..Repaired::default() });
}

#[tokio::test]
async fn a_row_that_is_on_its_way_is_no_difference() {
    let database = Database::migrated().await;
    let cluster = Objects::default();
    cluster.put(mirrored(&task("late", 1, 10)));
    let later = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let running = Running::of(cluster.clone(), &database.pool);
        running.list();
        running.drained().await;
        running.stop().await;
    };
    let (differ, ()) = tokio::join!(differences(&database, &cluster), later);
    assert_eq!(differ, Vec::<String>::new());
}
