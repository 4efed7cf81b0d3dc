//! Nothing starves: whatever better Tasks come in a steady stream, each Task and each lane gets its turn.
//! Ageing has no ceiling (design 4: starvation), and a floor's preference ends with patience.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use opentiger::crd::task::RiskLevel;
use opentiger::crd::{Purpose, Role, TaskPhase};
use opentiger::plan::dispatch::{LaneFacts, Queue, SystemFacts, TaskFacts};
use opentiger::plan::priority;
use proptest::prelude::*;

use crate::examples::{armed, at, pool, run_of, task};

/// One step: an attempt ends, a newcomer arrives.
const STEP: i64 = 3600;

fn hour(n: usize) -> Timestamp {
    at(STEP * i64::try_from(n).expect("in range"))
}

fn created(name: &str, priority: i32, risk: RiskLevel, n: usize) -> TaskFacts {
    let key = priority::static_key(priority, risk, Duration::from_secs(3600), hour(n));
    TaskFacts { static_key: key, created_at: hour(n), ..task(name) }
}

/// Lets `newcomer` arrive every hour while everything that is admitted takes an hour; returns the hours
/// until all of `waiting` have had a turn, `None` if not within `bound`.
fn hours_until_served(
    mut queue: Queue,
    waiting: Vec<TaskFacts>,
    newcomer: impl Fn(usize) -> TaskFacts,
    bound: usize,
) -> Option<usize> {
    let mut left: std::collections::BTreeSet<String> = waiting.iter().map(|t| t.uid.clone()).collect();
    for task in waiting {
        queue.upsert_task(task);
    }
    for n in 0..bound {
        queue.upsert_task(newcomer(n));
        for admission in queue.plan(hour(n)).admissions {
            left.remove(&admission.task_uid);
            let (id, holder) = run_of(&admission);
            queue.occupy(id.clone(), holder);
            queue.remove_task(&admission.task_uid);
            queue.release(&id);
        }
        if left.is_empty() {
            return Some(n);
        }
    }
    None
}

/// One slot for everybody.
fn narrow(system: SystemFacts) -> Queue {
    let mut queue = Queue::new();
    queue.set_system(Some(system));
    queue.upsert_pool(pool("worker", 1));
    queue
}

const RISKS: [RiskLevel; 3] = [RiskLevel::Low, RiskLevel::Medium, RiskLevel::High];

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(40) })]

    #[test]
    fn no_task_starves_under_a_steady_stream_of_better_ones(
        waiting in proptest::collection::vec((-20i32..20, 0usize..3), 1..12),
        newcomers in 20i32..40,
    ) {
        let old = |(n, (priority, risk)): (usize, &(i32, usize))| {
            created(&format!("old{n}"), *priority, RISKS[*risk], 0)
        };
        let old: Vec<TaskFacts> = waiting.iter().enumerate().map(old).collect();
        let new = |n| created(&format!("new{n}"), newcomers, RiskLevel::Low, n);
        // Between the worst and the best lie 20*15 + 40*15 points, two an hour.
        prop_assert!(hours_until_served(narrow(armed()), old, new, 500).is_some());
    }

    #[test]
    fn no_lane_starves_beside_a_floor_that_takes_every_slot(
        lane in prop_oneof![Just("conflict_recovery"), Just("docser"), Just("plugin")],
        floor in 1u32..4,
        priority in -5i32..5,
        better in 0i32..10,
    ) {
        let lanes = vec![
            LaneFacts { name: "feature".into(), min: Some(floor), max: None },
            LaneFacts { name: "conflict_recovery".into(), min: None, max: Some(2) },
            LaneFacts { name: "docser".into(), min: None, max: Some(1) },
        ];
        let queue = narrow(SystemFacts { lanes, ..armed() });
        let old = TaskFacts { lane: lane.into(), ..created("old", priority, RiskLevel::Low, 0) };
        let new = |n| created(&format!("new{n}"), priority + better, RiskLevel::Low, n);
        let served = hours_until_served(queue, vec![old], new, 500);
        // The floor holds for the five days of patience, and not for ever.
        prop_assert!(served.is_some_and(|hours| hours >= 120), "{:?}", served);
    }

    #[test]
    fn no_area_starves_behind_a_steady_stream_into_it(priority in -5i32..5, better in 0i32..10) {
        let in_area = |task: TaskFacts| TaskFacts { areas: vec!["path:src".into()], ..task };
        let old = in_area(created("old", priority, RiskLevel::High, 0));
        let new = |n| in_area(created(&format!("new{n}"), priority + better, RiskLevel::Low, n));
        prop_assert!(hours_until_served(narrow(armed()), vec![old], new, 500).is_some());
    }

    #[test]
    fn neither_a_review_nor_a_merge_starves(
        purpose in prop_oneof![Just(Purpose::Judge), Just(Purpose::Merge)],
        stream in prop_oneof![Just(Purpose::Judge), Just(Purpose::Merge)],
        better in 0i32..10,
    ) {
        let review = |purpose, task: TaskFacts| TaskFacts {
            purpose,
            phase: TaskPhase::Blocked,
            role: Role::Judge,
            lane: "judge".into(),
            ..task
        };
        let mut queue = narrow(SystemFacts { merge_area: "merge:x".into(), ..armed() });
        queue.upsert_pool(opentiger::plan::dispatch::PoolFacts { role: Role::Judge, ..pool("judge", 1) });
        let old = review(purpose, created("old", 0, RiskLevel::Low, 0));
        let new = |n| review(stream, created(&format!("new{n}"), better, RiskLevel::Low, n));
        prop_assert!(hours_until_served(queue, vec![old], new, 500).is_some());
    }
}

#[test]
fn patience_is_what_ends_a_floors_preference() {
    let patience = SignedDuration::from_hours(120);
    for (older, expected) in [(patience, "old"), (patience - SignedDuration::from_secs(1), "new")] {
        let mut queue = narrow(armed());
        let old = TaskFacts {
            lane: "conflict_recovery".into(),
            created_at: at(0).checked_sub(older).expect("in range"),
            static_key: priority::static_key(1, RiskLevel::Low, Duration::from_secs(3600), at(0)),
            ..task("old")
        };
        queue.upsert_task(old);
        queue.upsert_task(task("new"));
        let names: Vec<String> = queue.plan(at(1)).admissions.into_iter().map(|a| a.task_name).collect();
        assert_eq!(names, [expected]);
    }
}
