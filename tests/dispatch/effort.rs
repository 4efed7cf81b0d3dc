//! The work of the queue, counted in Tasks looked at: it follows what changed, not how many wait.
//! Also: nothing starves.

use std::time::Duration;

use jiff::Timestamp;
use opentiger::crd::TaskPhase;
use opentiger::crd::task::RiskLevel;
use opentiger::plan::dispatch::{HolderId, LaneFacts, Queue, TaskFacts};
use opentiger::plan::priority;
use proptest::prelude::*;

use crate::examples::{armed, at, pool, queue, run_of, task};

const MANY: usize = 10_000;

/// Tasks looked at while `event` is taken in and planned for.
fn effort(queue: &mut Queue, event: impl FnOnce(&mut Queue)) -> u64 {
    let before = queue.examinations();
    event(queue);
    queue.plan(at(10));
    queue.examinations() - before
}

/// A queue with many Tasks, made by `each` from a plain one, that has settled.
fn full(each: impl Fn(usize, TaskFacts) -> TaskFacts) -> Queue {
    let mut queue = queue(4);
    for n in 0..MANY {
        queue.upsert_task(each(n, task(&format!("t{n}"))));
    }
    for admission in queue.plan(at(1)).admissions {
        let (id, holder) = run_of(&admission);
        queue.occupy(id, holder);
    }
    queue.plan(at(1));
    queue
}

/// Ends the Task and its Run.
fn end(queue: &mut Queue, name: &str) {
    queue.remove_task(&format!("uid-{name}"));
    queue.release(&HolderId::Run(format!("run-{name}")));
}

#[test]
fn a_freed_slot_costs_one_admission_however_many_wait() {
    let mut queue = full(|_, task| task);
    assert_eq!(effort(&mut queue, |q| end(q, "t0")), 1);
    assert_eq!(effort(&mut queue, |_| ()), 0);
}

#[test]
fn an_event_that_changes_nothing_costs_nothing() {
    let mut queue = full(|_, task| task);
    let same = task("t5000");
    assert_eq!(effort(&mut queue, |q| q.upsert_task(same)), 0);
    assert_eq!(effort(&mut queue, |q| q.set_system(Some(armed()))), 0);
    assert_eq!(effort(&mut queue, |q| q.upsert_pool(pool("worker", 4))), 0);
}

#[test]
fn a_new_task_costs_itself() {
    let mut queue = full(|_, task| task);
    // Settled, and told why it waits.
    assert_eq!(effort(&mut queue, |q| q.upsert_task(task("new"))), 2);
}

#[test]
fn a_freed_area_costs_its_first_task_however_many_wait_behind_it() {
    // Three areas, so that three of the four slots are taken.
    let mut queue = full(|n, task| TaskFacts { areas: vec![format!("path:{}", n % 3)], ..task });
    assert_eq!(effort(&mut queue, |q| end(q, "t0")), 1);
}

#[test]
fn a_freed_lane_costs_its_first_task_and_a_full_lane_nothing() {
    let lane = |n| if n % 2 == 0 { "docser" } else { "feature" };
    let mut queue = full(|n, task| TaskFacts { lane: lane(n).into(), ..task });
    assert_eq!(effort(&mut queue, |q| end(q, "t0")), 1);
    // A slot becomes free; thousands of Tasks of the full lane are not looked at.
    assert_eq!(effort(&mut queue, |q| end(q, "t1")), 1);
}

#[test]
fn a_time_costs_the_tasks_whose_time_has_come() {
    let time = |n| Some(at(if n == 77 { 5 } else { 100 }));
    let mut queue = full(|n, task| TaskFacts { not_before: time(n), ..task });
    assert_eq!(effort(&mut queue, |_| ()), 2);
}

#[test]
fn a_resolved_dependency_costs_its_dependents_only() {
    let mut queue = full(|n, task| TaskFacts { dependencies: vec![format!("d{}", n / 3)], ..task });
    let done = TaskFacts { phase: TaskPhase::Done, ..task("d8") };
    // The Task itself, and each of its three dependents once settled and once admitted.
    assert_eq!(effort(&mut queue, |q| q.upsert_task(done)), 7);
}

#[test]
fn a_long_chain_of_dependencies_is_taken_in_at_once_in_any_order() {
    for step in [1, 9_999, 7_919] {
        let mut queue = queue(4);
        for n in 0..MANY {
            let n = n * step % MANY;
            let dependencies = (n > 0).then(|| format!("t{}", n - 1)).into_iter().collect();
            queue.upsert_task(TaskFacts { dependencies, ..task(&format!("t{n}")) });
        }
        assert_eq!(queue.plan(at(1)).admissions.len(), 1, "step {step}");
        assert!(queue.examinations() <= 2 * MANY as u64, "step {step}");
    }
}

#[test]
fn a_new_rule_for_lanes_looks_at_everything_once() {
    let mut queue = full(|_, task| task);
    let lanes = vec![LaneFacts { name: "feature".into(), min: None, max: Some(4) }];
    let mut system = armed();
    system.lanes = lanes;
    let effort = effort(&mut queue, |q| q.set_system(Some(system)));
    assert_eq!(effort, 2 * (MANY as u64 - 4));
}

#[test]
fn a_lane_at_its_cap_does_not_block_the_others() {
    let mut queue = queue(10);
    for n in 0..100 {
        let lane = "docser".into();
        queue.upsert_task(TaskFacts { lane, static_key: key(1000, at(0)), ..task(&format!("d{n}")) });
    }
    queue.upsert_task(task("f"));
    let lanes: Vec<String> = queue.plan(at(1)).admissions.into_iter().map(|a| a.lane).collect();
    assert_eq!(lanes, ["feature", "docser"]);
}

fn key(priority: i32, created: Timestamp) -> priority::StaticKey {
    priority::static_key(priority, RiskLevel::Low, Duration::from_secs(3600), created)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(50) })]
    /// One slot; every hour one Task ends and one comes that is more urgent than all that wait.
    #[test]
    fn every_task_is_admitted_in_the_end(
        waiting in proptest::collection::vec(0i32..40, 1..20),
        newcomers in 41i32..60,
    ) {
        let hour = |n: usize| at(3600 * i64::try_from(n).expect("in range"));
        let mut queue = queue(1);
        for (n, priority) in waiting.iter().enumerate() {
            let static_key = key(*priority, hour(0));
            queue.upsert_task(TaskFacts { static_key, ..task(&format!("old{n}")) });
        }
        let mut left = waiting.len();
        // A step of priority is worth 15 points, an hour 2: after 8 hours for each of at most 60
        // steps the old go first.
        for n in 0..8 * 60 + 2 * waiting.len() {
            let new = TaskFacts { created_at: hour(n), static_key: key(newcomers, hour(n)), ..task(&format!("new{n}")) };
            queue.upsert_task(new);
            for admission in queue.plan(hour(n)).admissions {
                left -= usize::from(admission.task_name.starts_with("old"));
                let (id, holder) = run_of(&admission);
                queue.occupy(id.clone(), holder);
                queue.remove_task(&admission.task_uid);
                queue.release(&id);
            }
        }
        prop_assert_eq!(left, 0);
    }
}
