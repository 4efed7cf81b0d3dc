//! What is removed, and what never is.

use super::*;
use crate::plan::fixtures::{at, now};

fn run(name: &str, secs: i64) -> Finished {
    Finished { at: at(secs), uid: format!("uid-{name}"), name: name.into() }
}

fn live(name: &str) -> TaskNode {
    TaskNode { uid: format!("uid-{name}"), name: name.into(), ..TaskNode::default() }
}

fn ended(name: &str, secs: i64) -> TaskNode {
    TaskNode { ended: Some(at(secs)), ours: true, ..live(name) }
}

fn keep(age: Option<&str>, count: Option<i32>) -> Retention {
    Retention { finished_after: age.map(|age| GoDuration(age.into())), max_finished: count }
}

fn names(list: &[Finished]) -> Vec<&str> {
    list.iter().map(|f| f.name.as_str()).collect()
}

fn removed(index: &Index, settings: &Retention) -> (Vec<String>, Vec<String>) {
    let plan = index.plan(settings, 100, now());
    let own = |list: &[Finished]| names(list).into_iter().map(str::to_string).collect();
    (own(&plan.runs), own(&plan.tasks))
}

#[test]
fn runs_of_ended_tasks_go_by_age() {
    let mut index = Index::default();
    index.run_ended(run("r1", -7200), "uid-a");
    index.run_ended(run("r2", -100), "uid-a");
    index.run_ended(run("r3", -7200), "uid-b");
    index.task(live("b"));
    assert_eq!(removed(&index, &keep(Some("1h"), None)).0, [""; 0]);
    index.task(TaskNode { ours: false, ..ended("a", -7200) });
    assert_eq!(removed(&index, &keep(Some("1h"), None)), (vec!["r1".into()], vec![]));
    assert_eq!(index.plan(&keep(Some("1h"), None), 100, now()).look_at, Some(at(3500)));
    index.task(ended("b", -50));
    assert_eq!(removed(&index, &keep(Some("1h"), None)).0, ["r1", "r3"]);
    index.run_gone("uid-r1");
    index.run_gone("uid-r3");
    assert_eq!(removed(&index, &keep(Some("1h"), None)).0, [""; 0]);
}

#[test]
fn operations_that_are_over_go_by_age_and_number() {
    let mut index = Index::default();
    for n in 0..4 {
        index.operation_over(run(&format!("stop-{n}"), -100 * n));
        index.operation_over(run(&format!("stop-{n}"), 0));
    }
    let gone = |index: &Index, settings: &Retention| {
        names(&index.plan(settings, 100, now()).operations)
            .into_iter()
            .map(str::to_string)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        gone(&index, &keep(Some("2m"), None)),
        ["stop-3", "stop-2"],
        "the end that was seen first counts"
    );
    assert_eq!(gone(&index, &keep(None, Some(3))), ["stop-3"]);
    assert_eq!(gone(&index, &keep(None, None)), [""; 0]);
    index.operation_gone("uid-stop-3");
    assert_eq!(gone(&index, &keep(None, Some(3))), [""; 0]);
}

#[test]
fn the_oldest_go_when_there_are_too_many() {
    let mut index = Index::default();
    index.task(ended("a", 0));
    for n in 0..10 {
        index.run_ended(run(&format!("r{n}"), -i64::from(n)), "uid-a");
    }
    assert_eq!(removed(&index, &keep(None, Some(8))).0, ["r9", "r8"]);
    assert_eq!(removed(&index, &keep(None, None)), (vec![], vec![]));
    assert_eq!(index.plan(&keep(Some("1m"), Some(1)), 3, at(600)).runs.len(), 3, "bounded");
}

#[test]
fn applied_tasks_are_never_removed() {
    let mut index = Index::default();
    index.task(TaskNode { ours: false, ..ended("applied", -99_999) });
    index.task(ended("made", -99_999));
    assert_eq!(removed(&index, &keep(Some("1m"), Some(1))).1, ["made"]);
}

#[test]
fn a_task_that_a_waiting_one_needs_is_kept() {
    let settings = keep(Some("1m"), None);
    let all = |waiting: TaskNode| {
        let mut index = Index::default();
        index.task(ended("made", -9999));
        index.task(waiting.clone());
        let held = removed(&index, &settings).1.is_empty();
        index.task(TaskNode { ended: Some(now()), ours: false, ..waiting.clone() });
        let freed = removed(&index, &settings).1 == ["made"];
        index.task(waiting);
        index.task_gone("uid-w");
        (held, freed, removed(&index, &settings).1 == ["made"])
    };
    let made = || "made".to_string();
    assert_eq!(all(TaskNode { dependencies: vec![made()], ..live("w") }), (true, true, true));
    assert_eq!(all(TaskNode { superseded_by: made(), ..live("w") }), (true, true, true));
    assert_eq!(all(TaskNode { parent: made(), ..live("w") }), (true, true, true));
}

#[test]
fn a_successor_is_kept_for_who_waits_for_its_predecessor_and_a_child_for_its_parent() {
    let settings = keep(Some("1m"), None);
    let mut index = Index::default();
    index.task(ended("child", -9999));
    index.task(TaskNode { superseded_by: "child".into(), ours: false, ..ended("old", -9999) });
    index.task(TaskNode { dependencies: vec!["old".into()], ..live("w") });
    assert_eq!(removed(&index, &settings).1, [""; 0]);
    index.task_gone("uid-w");
    assert_eq!(removed(&index, &settings).1, ["child"]);
    let mut index = Index::default();
    index.task(TaskNode { parent: "p".into(), ..ended("fix", -9999) });
    index.task(live("p"));
    assert_eq!(removed(&index, &settings).1, [""; 0]);
    index.task(TaskNode { ours: false, ..ended("p", -1) });
    assert_eq!(removed(&index, &settings).1, ["fix"]);
}

#[test]
fn successors_in_a_circle_end_the_search() {
    let mut index = Index::default();
    index.task(TaskNode { superseded_by: "b".into(), ..ended("a", -9999) });
    index.task(TaskNode { superseded_by: "a".into(), ..ended("b", -9999) });
    assert_eq!(removed(&index, &keep(Some("1m"), None)).1, [""; 0]);
}

#[test]
fn an_old_task_that_is_needed_does_not_hold_up_the_others() {
    let mut index = Index::default();
    index.task(ended("needed", -9999));
    index.task(ended("free", -9000));
    index.task(TaskNode { dependencies: vec!["needed".into()], ..live("w") });
    assert_eq!(removed(&index, &keep(Some("1m"), None)).1, ["free"]);
}
