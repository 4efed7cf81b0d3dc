//! The mirror away, the database away, both, and a watch that is lost.

use opentiger::controller::mirror::Bounds;
use opentiger::crd::TaskPhase;

use super::history::*;
use super::mirror::{Running, quick};
use super::postgres::{Database, eventually};

const EVENTS: &str = "SELECT string_agg(sequence || coalesce('-' || gap_to, ''), ' ' ORDER BY sequence) FROM events WHERE uid = ";
const TASKS: &str = "SELECT string_agg(name || ' ' || title || (CASE WHEN deleted_at IS NULL THEN '' ELSE ' deleted' END), ', '
      ORDER BY uid) FROM tasks";

#[tokio::test]
async fn after_both_were_down_for_long_the_tables_equal_the_cluster_and_what_nobody_saw_is_a_gap() {
    let database = Database::migrated().await;
    let running = Running::of(Objects::default(), &database.pool);
    running.put(mirrored(&with_transitions(task("long", 1, 10), 1..=3, TaskPhase::Failed)));
    running.put(mirrored(&with_transitions(task("gone", 2, 11), 1..=1, TaskPhase::Queued)));
    running.drained().await;
    let cluster = running.cluster.clone();
    running.stop().await;
    // An hour of changes: of each Task the last twenty transitions are kept.
    cluster.put(mirrored(&with_transitions(task("long", 1, 900), 31..=50, TaskPhase::Done)));
    cluster.remove(&mirrored(&task("gone", 2, 11)));
    cluster.put(mirrored(&with_transitions(task("new", 3, 901), 1..=4, TaskPhase::Running)));
    let (proxy, pool) = database.through_proxy().await;
    proxy.cut();
    let running = Running::of(cluster, &pool);
    running.list();
    // Something is deleted while the database is still away, and the watch says so.
    running.put(mirrored(&with_transitions(task("short", 4, 902), 1..=2, TaskPhase::Failed)));
    running.remove(mirrored(&with_transitions(task("short", 4, 903), 1..=2, TaskPhase::Failed)));
    proxy.mend();
    eventually("the tables equal the cluster", async || {
        let gone = "SELECT count(*) FROM tasks WHERE name = 'gone' AND deleted_at IS NOT NULL";
        running.mirror.backlog() == 0 && database.value::<i64>(gone).await == 1
    })
    .await;
    running.stop().await;
    let numbers =
        |range: std::ops::RangeInclusive<i64>| range.map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
    let events = async |n| database.value::<String>(&format!("{EVENTS}'{}'", uid(n))).await;
    assert_eq!(events(1).await, format!("1 2 3 4-30 {}", numbers(31..=50)));
    assert_eq!(events(3).await, "1 2 3 4");
    assert_eq!(events(4).await, "1 2");
    let tasks: String = database.value(TASKS).await;
    assert_eq!(
        tasks,
        "long Title of long, gone Title of gone deleted, new Title of new, short Title of short deleted"
    );
}

#[tokio::test]
async fn objects_deleted_and_recreated_under_the_same_name_while_the_mirror_was_away_are_two_rows() {
    let database = Database::migrated().await;
    let running = Running::of(Objects::default(), &database.pool);
    running.put(mirrored(&with_transitions(task("same", 1, 10), 1..=3, TaskPhase::Done)));
    running.drained().await;
    let cluster = running.cluster.clone();
    running.kill().await;
    let mut again = with_transitions(task("same", 2, 90), 1..=1, TaskPhase::Running);
    again.spec.title = "Another".into();
    cluster.put(mirrored(&again));
    let running = Running::of(cluster, &database.pool);
    running.list();
    let expected = "same Title of same deleted, same Another";
    eventually("both are told apart", async || database.value::<String>(TASKS).await == expected).await;
    running.stop().await;
    let events = async |n| database.value::<String>(&format!("{EVENTS}'{}'", uid(n))).await;
    assert_eq!((events(1).await.as_str(), events(2).await.as_str()), ("1 2 3", "1"));
}

#[tokio::test]
async fn a_watch_that_was_lost_loses_neither_a_change_nor_a_deletion() {
    let database = Database::migrated().await;
    let running = Running::of(Objects::default(), &database.pool);
    for n in 1..=5 {
        running.put(mirrored(&task(&format!("t{n}"), n, 10)));
    }
    running.drained().await;
    // The watch is lost: the cluster goes on, nobody tells the mirror.
    running.cluster.remove(&mirrored(&task("t1", 1, 10)));
    running.cluster.remove(&mirrored(&task("t2", 2, 10)));
    let mut changed = task("t3", 3, 40);
    changed.spec.title = "Changed".into();
    running.cluster.put(mirrored(&changed));
    // The list that follows names what lives. Of what has gone the cache has only a remainder.
    running.mirror.applied(mirrored(&changed));
    running.mirror.listed(
        opentiger::controller::mirror::Kind::Task,
        "",
        running.cluster.list(opentiger::controller::mirror::Kind::Task),
    );
    let expected =
        "t1 Title of t1 deleted, t2 Title of t2 deleted, t3 Changed, t4 Title of t4, t5 Title of t5";
    eventually("they are equal", async || database.value::<String>(TASKS).await == expected).await;
    running.stop().await;
}

#[tokio::test]
async fn an_ended_task_that_goes_while_the_database_is_away_keeps_what_the_cache_has_dropped() {
    let database = Database::migrated().await;
    let (proxy, pool) = database.through_proxy().await;
    let running = Running::of(Objects::default(), &pool);
    running.put(mirrored(&with_transitions(task("warm", 9, 5), 1..=1, TaskPhase::Queued)));
    running.drained().await;
    proxy.cut();
    let whole = with_transitions(task("ended", 1, 50), 1..=6, TaskPhase::Done);
    running.mirror.applied(mirrored(&whole));
    // The watch is lost and the next list lacks it: the cache hands over what it has kept of it.
    let mut slim = whole.clone();
    slim.spec = opentiger::crd::TaskSpec::default();
    status(&mut slim).transitions.clear();
    running.mirror.deleted(mirrored(&slim));
    // Of this one nothing but the remainder was ever seen.
    let mut unknown = slim.clone();
    unknown.metadata = meta("unknown", uid(2), 60, 0);
    running.mirror.deleted(mirrored(&unknown));
    proxy.mend();
    running.drained().await;
    running.stop().await;
    assert_eq!(
        database.value::<String>(TASKS).await,
        "ended Title of ended deleted, warm Title of warm",
        "a remainder is no row"
    );
    assert_eq!(database.value::<String>(&format!("{EVENTS}'{}'", uid(1))).await, "1 2 3 4 5 6");
    assert_eq!(database.value::<i64>("SELECT lost FROM mirror_state WHERE kind = 'tasks'").await, 1);
}

#[tokio::test]
async fn memory_is_bounded_while_the_database_is_away_and_nothing_is_lost_by_it() {
    let database = Database::migrated().await;
    let (proxy, pool) = database.through_proxy().await;
    proxy.cut();
    let bounds = Bounds { objects: 50, tombstones: 20, uids: 30, ..quick() };
    let running = Running::with(Objects::default(), &pool, bounds);
    for version in 1..=5 {
        for n in 1..=400_u128 {
            let version = version * 1000 + i64::try_from(n).expect("small");
            running.put(mirrored(&with_transitions(
                task(&format!("t{n}"), n, version),
                1..=3,
                TaskPhase::Failed,
            )));
            assert!(running.mirror.kept() <= 100, "{} kept", running.mirror.kept());
        }
    }
    for n in 1..=100_u128 {
        running.remove(mirrored(&task(&format!("t{n}"), n, 9000)));
        assert!(running.mirror.kept() <= 100, "{} kept", running.mirror.kept());
    }
    assert!(!running.mirror.has(&uid(399).to_string()), "what is not kept is not called written");
    proxy.mend();
    eventually("all that lives is there", async || {
        let live =
            "SELECT count(*) FROM tasks WHERE deleted_at IS NULL AND resource_version > 5000 AND name IN
             (SELECT 't' || n FROM generate_series(101, 400) n)";
        database.value::<i64>(live).await == 300 && running.mirror.backlog() == 0
    })
    .await;
    eventually("and it is said to be", async || running.mirror.has(&uid(399).to_string())).await;
    assert_eq!(database.value::<i64>("SELECT count(*) FROM tasks WHERE deleted_at IS NULL").await, 300);
    let events = "SELECT count(*) FROM events e JOIN tasks t USING (uid) WHERE t.deleted_at IS NULL";
    assert_eq!(database.value::<i64>(events).await, 900);
    running.stop().await;
}
