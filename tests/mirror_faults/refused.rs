//! Values that Postgres refuses.

use std::collections::BTreeMap;

use jiff::Timestamp;
use opentiger::controller::mirror_repair::Repair;
use opentiger::crd::{GoDuration, Task, TaskPhase};
use prometheus_client::registry::Registry;

use super::history::*;
use super::mirror::Running;
use super::postgres::Database;

const PARKED: &str = "SELECT coalesce(string_agg(name, ' ' ORDER BY name), '') FROM mirror_parked";

/// Tasks with what Postgres, its numbers, times or JSON do not take; each with what makes it good again.
fn poison() -> BTreeMap<&'static str, Task> {
    let mut all = BTreeMap::new();
    let mut add = |name, spoil: &dyn Fn(&mut Task)| {
        let n = 100 + all.len() as u128;
        let mut task = with_transitions(task(name, n, 10), 1..=2, TaskPhase::Failed);
        spoil(&mut task);
        all.insert(name, task);
    };
    add("no-number", &|t| t.metadata.resource_version = Some("abc".into()));
    add("beyond-bigint", &|t| t.metadata.resource_version = Some("9223372036854775808".into()));
    add("beyond-integer", &|t| t.spec.timebox = GoDuration::from_secs(60 * 3_000_000_000));
    add("before-christ", &|t| {
        status(t).retry_at = Some("-000044-03-15T12:00:00Z".parse::<Timestamp>().expect("time"));
    });
    all
}

#[tokio::test]
async fn values_that_postgres_refuses_are_parked_and_counted_never_block_and_are_cleared_once_good() {
    let database = Database::migrated().await;
    let running = Running::of(Objects::default(), &database.pool);
    let poison = poison();
    for n in 1..=60 {
        running.put(mirrored(&with_transitions(
            task(&format!("good-{n:02}"), n, 10),
            1..=2,
            TaskPhase::Failed,
        )));
        if n == 30 {
            poison.values().for_each(|task| running.put(mirrored(task)));
        }
    }
    // What is escaped instead: NUL, and the texts of escapes as they stand.
    let mut escaped = task("escaped", 90, 10);
    escaped.spec.goal = "nul \0, text \\u0000, surrogate \\ud800, replaced \u{fffd}".into();
    running.put(mirrored(&escaped));
    running.drained().await;
    assert_eq!(database.value::<i64>("SELECT count(*) FROM tasks WHERE name LIKE 'good-%'").await, 60);
    assert_eq!(
        database.value::<i64>("SELECT count(*) FROM events").await,
        120,
        "none of a row that was refused"
    );
    let goal: String = database.value("SELECT goal FROM tasks WHERE name = 'escaped'").await;
    assert_eq!(goal, "nul \\u0000, text \\u0000, surrogate \\ud800, replaced \u{fffd}");
    let names = poison.keys().copied().collect::<Vec<_>>().join(" ");
    assert_eq!(database.value::<String>(PARKED).await, names);
    let mut registry = Registry::default();
    running.mirror.register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).expect("text");
    assert!(text.contains("mirror_rows_parked_total 4\n"), "{text}");
    // One is good again, one is deleted, the others stay.
    let mut good = with_transitions(task("beyond-integer", 102, 20), 1..=3, TaskPhase::Done);
    good.metadata.uid.clone_from(&poison["beyond-integer"].metadata.uid);
    running.put(mirrored(&good));
    running.put(mirrored(&task("last", 91, 30)));
    running.drained().await;
    assert_eq!(database.value::<String>(PARKED).await, "before-christ beyond-bigint no-number");
    assert_eq!(
        database.value::<String>("SELECT status FROM tasks WHERE name = 'beyond-integer'").await,
        "done"
    );
    running.stop().await;
}

#[tokio::test]
async fn a_lone_surrogate_never_gets_as_far_as_a_row() {
    let text = r#"{"metadata": {"name": "x"}, "spec": {"title": "\ud800", "goal": "g"}}"#;
    let error = serde_json::from_str::<Task>(text).expect_err("it is no text").to_string();
    assert!(error.contains("hex escape"), "{error}");
}

#[tokio::test]
async fn a_rebuild_clears_what_was_parked_and_is_good_or_gone() {
    let database = Database::migrated().await;
    database.execute("ALTER TABLE tasks ADD CONSTRAINT strict CHECK (title <> 'odd')").await;
    let running = Running::of(Objects::default(), &database.pool);
    let mut odd = task("odd", 1, 10);
    odd.spec.title = "odd".into();
    running.put(mirrored(&odd));
    let mut gone = task("gone", 2, 11);
    gone.spec.title = "odd".into();
    running.put(mirrored(&gone));
    running.drained().await;
    let cluster = running.cluster.clone();
    running.stop().await;
    cluster.remove(&mirrored(&gone));
    assert_eq!(database.value::<String>(PARKED).await, "gone odd");
    // A comparison of the operator's own leaves alone what was refused as it is.
    let kind = opentiger::controller::mirror::Kind::Task;
    let done = Repair::new(&database.pool, &cluster).run(kind, "").await.expect("repaired");
    assert_eq!((done.written, done.parked, done.unparked), (0, 0, 1), "{done:?}");
    assert_eq!(database.value::<String>(PARKED).await, "odd");
    database.execute("ALTER TABLE tasks DROP CONSTRAINT strict").await;
    let mut rebuild = Repair { retry_parked: true, ..Repair::new(&database.pool, &cluster) };
    let done = rebuild.run(kind, "").await.expect("repaired");
    assert_eq!((done.written, done.parked), (1, 0), "{done:?}");
    assert_eq!(database.value::<String>(PARKED).await, "");
}
