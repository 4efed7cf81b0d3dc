//! Two leaders for a moment: the mirror of the former one acts on what it knew.

use std::time::Duration;

use opentiger::controller::mirror::{Bounds, Kind};
use opentiger::crd::TaskPhase;

use super::history::*;
use super::mirror::{Running, quick};
use super::postgres::{Database, eventually};

#[tokio::test]
async fn a_former_leaders_mirror_takes_no_row_back_and_tombstones_nothing_that_lives() {
    let database = Database::migrated().await;
    // One cluster, two leaders.
    let cluster = Objects::default();
    cluster.put(mirrored(&with_transitions(task("changed", 1, 90), 1..=2, TaskPhase::Queued)));
    let new = Running::of(cluster.clone(), &database.pool);
    new.list();
    new.drained().await;
    new.put(mirrored(&with_transitions(task("changed", 1, 100), 1..=4, TaskPhase::Running)));
    new.put(mirrored(&task("created", 2, 101)));
    new.drained().await;
    // The former one listed before that, and was stopped since: no watch tells it anything, its time is up.
    let old = Running::with(cluster.clone(), &database.pool, Bounds { confirm: Duration::ZERO, ..quick() });
    old.mirror.applied(mirrored(&with_transitions(task("changed", 1, 90), 1..=2, TaskPhase::Queued)));
    old.mirror.listed(Kind::Task, "", vec![(uid(1).to_string(), 90)]);
    eventually("it has compared", async || old.mirror.repairs() >= 1).await;
    old.stop().await;
    let rows = "SELECT string_agg(name || ' ' || resource_version || ' ' || (deleted_at IS NULL), ', ' ORDER BY name) FROM tasks";
    assert_eq!(database.value::<String>(rows).await, "changed 100 true, created 101 true");
    assert_eq!(database.value::<i64>("SELECT count(*) FROM events").await, 4);
    new.stop().await;
}

#[tokio::test]
async fn a_row_is_set_back_only_from_the_version_that_was_judged() {
    use opentiger::postgres::{Row, write};
    let database = Database::migrated().await;
    write::write(&database.pool, &[Row::task(&task("x", 1, 100)).expect("row")]).await.expect("written");
    // Judged when the row was at 90: by now it is another.
    let mut late = Row::task(&task("x", 1, 50)).expect("row");
    late.replaces = Some(90);
    write::write(&database.pool, &[late.clone()]).await.expect("written");
    let version = "SELECT resource_version FROM tasks";
    assert_eq!(database.value::<i64>(version).await, 100);
    late.replaces = Some(100);
    write::write(&database.pool, &[late]).await.expect("written");
    assert_eq!(database.value::<i64>(version).await, 50);
}
