//! The dispatcher's numbered cases (spec: convergence, C1 to C35), each by name. Where the design
//! overrules the original, the test states our behaviour.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use opentiger::crd::task::RiskLevel;
use opentiger::crd::{Role, TaskPhase};
use opentiger::plan::dispatch::{EndedRun, Holder, HolderId, PoolFacts, Queue, SystemFacts, TaskFacts};
use opentiger::plan::{area, priority};

use crate::examples::{armed, at, pool, queue, run_of, task};

fn minutes(n: u64) -> Duration {
    Duration::from_secs(60 * n)
}

fn score(n: i32, risk: RiskLevel, timebox: u64, hours: i64) -> f64 {
    let now = at(0).checked_add(SignedDuration::from_hours(hours)).expect("in range");
    priority::score(n, risk, minutes(timebox), at(0), now)
}

/// Queued Tasks of these names and lanes, the first one the best.
fn ranked(queue: &mut Queue, tasks: &[(&str, &str)]) {
    for (n, (name, lane)) in tasks.iter().enumerate() {
        let better = i32::try_from(tasks.len() - n).expect("few");
        let static_key = priority::static_key(better, RiskLevel::Low, minutes(60), at(0));
        queue.upsert_task(TaskFacts { lane: (*lane).to_owned(), static_key, ..task(name) });
    }
}

/// Tasks in progress in a lane.
fn in_progress(queue: &mut Queue, lane: &str, count: usize) {
    for n in 0..count {
        let holder = Holder {
            task_uid: format!("{lane}-{n}"),
            pool: "elsewhere".into(),
            agent: format!("elsewhere-{n}"),
            lane: lane.into(),
            ..Holder::default()
        };
        queue.occupy(HolderId::Run(format!("{lane}-{n}")), holder);
    }
}

fn chosen(queue: &mut Queue) -> Vec<String> {
    queue.plan(at(1)).admissions.into_iter().map(|admission| admission.task_name).collect()
}

fn reason(queue: &Queue, name: &str) -> &'static str {
    queue.waiting(&format!("uid-{name}")).map_or("", |waiting| waiting.wait.kind())
}

const CONFLICT: &str = "conflict_recovery";

#[test]
fn low_risk_outweighs_high_risk_of_twice_the_priority_c1() {
    assert_eq!((score(1, RiskLevel::Low, 60, 0), score(2, RiskLevel::High, 60, 0)), (15.0, 10.0));
}

#[test]
fn a_timebox_of_thirty_minutes_is_worth_five_points_c2() {
    assert_eq!(score(1, RiskLevel::Low, 30, 0) - score(1, RiskLevel::Low, 31, 0), 5.0);
}

#[test]
fn age_counts_without_a_ceiling_c3() {
    assert_eq!((score(0, RiskLevel::Low, 60, 10), score(0, RiskLevel::Low, 60, 100)), (20.0, 200.0));
}

#[test]
fn the_floor_of_feature_goes_before_a_better_conflict_c4() {
    let mut q = queue(1);
    ranked(&mut q, &[("c", CONFLICT), ("f", "feature")]);
    assert_eq!(chosen(&mut q), ["f"]);
}

#[test]
fn a_lane_at_its_cap_gets_nothing_c5() {
    let mut q = queue(2);
    in_progress(&mut q, CONFLICT, 2);
    ranked(&mut q, &[("c1", CONFLICT), ("c2", CONFLICT), ("f1", "feature")]);
    assert_eq!(chosen(&mut q), ["f1"]);
}

#[test]
fn a_cap_holds_even_when_nothing_else_could_start_c6() {
    let mut q = queue(1);
    in_progress(&mut q, CONFLICT, 2);
    ranked(&mut q, &[("c1", CONFLICT)]);
    assert_eq!(chosen(&mut q), [""; 0]);
    assert_eq!(reason(&q, "c1"), "LaneFull");
}

#[test]
fn caps_of_two_lanes_hold_at_once_c7() {
    let mut q = queue(1);
    in_progress(&mut q, CONFLICT, 2);
    in_progress(&mut q, "docser", 1);
    ranked(&mut q, &[("c1", CONFLICT), ("d1", "docser")]);
    assert_eq!(chosen(&mut q), [""; 0]);
}

#[test]
fn one_task_of_an_area_is_chosen_c8() {
    let mut q = queue(3);
    for (n, (name, area)) in [("f1", "api"), ("f2", "api"), ("f3", "judge")].into_iter().enumerate() {
        let created_at = at(i64::try_from(n).expect("few"));
        q.upsert_task(TaskFacts { areas: vec![format!("path:apps/{area}")], created_at, ..task(name) });
    }
    assert_eq!(chosen(&mut q), ["f1", "f3"]);
}

#[test]
fn the_floor_is_filled_once_and_then_the_order_holds_c9() {
    let mut q = queue(3);
    ranked(&mut q, &[("c1", CONFLICT), ("c2", CONFLICT), ("f1", "feature"), ("f2", "feature")]);
    assert_eq!(chosen(&mut q), ["f1", "c1", "c2"]);
}

#[test]
fn a_floor_that_is_reached_prefers_nobody_c10() {
    let mut q = queue(1);
    in_progress(&mut q, "feature", 1);
    ranked(&mut q, &[("c1", CONFLICT), ("f1", "feature")]);
    assert_eq!(chosen(&mut q), ["c1"]);
}

#[test]
fn research_counts_as_feature_for_the_floor_c11() {
    let mut q = queue(1);
    ranked(&mut q, &[("c1", CONFLICT), ("r1", "research")]);
    assert_eq!(chosen(&mut q), ["r1"]);
}

#[test]
fn docser_has_a_cap_of_one_c12() {
    let mut q = queue(3);
    ranked(&mut q, &[("d1", "docser"), ("d2", "docser"), ("c1", CONFLICT)]);
    assert_eq!(chosen(&mut q), ["d1", "c1"]);
}

#[test]
fn a_lane_that_nobody_configured_has_no_cap_c13() {
    let mut q = queue(5);
    ranked(&mut q, &[("p1", "plugin_x"), ("p2", "plugin_x"), ("p3", "plugin_x")]);
    assert_eq!(chosen(&mut q), ["p1", "p2", "p3"]);
}

#[test]
fn without_a_slot_nothing_is_chosen_and_no_lane_is_blamed_c14() {
    let mut q = queue(1);
    q.upsert_task(task("busy"));
    assert_eq!(chosen(&mut q), ["busy"]);
    ranked(&mut q, &[("f1", "feature"), ("c1", CONFLICT)]);
    assert_eq!(chosen(&mut q), [""; 0]);
    assert_eq!((reason(&q, "f1"), reason(&q, "c1")), ("NoFreeSlot", "NoFreeSlot"));
}

#[test]
fn a_throttled_lane_is_told_once_on_each_of_its_tasks_c15() {
    let mut q = queue(5);
    in_progress(&mut q, CONFLICT, 2);
    ranked(&mut q, &[("c1", CONFLICT), ("c2", CONFLICT)]);
    let told = |q: &mut Queue| q.plan(at(1)).waits.iter().map(|w| w.wait.kind()).collect::<Vec<_>>();
    assert_eq!(told(&mut q), ["LaneFull", "LaneFull"]);
    assert_eq!(told(&mut q), [""; 0]);
}

#[test]
fn a_dependency_holds_unless_it_is_done_or_cancelled_by_a_person_c16() {
    for (phase, cancel, admitted) in [
        (TaskPhase::Running, false, false),
        (TaskPhase::Blocked, false, false),
        (TaskPhase::Failed, false, false),
        (TaskPhase::Cancelled, false, false),
        (TaskPhase::Cancelled, true, true),
        (TaskPhase::Done, false, true),
    ] {
        let mut q = queue(1);
        q.upsert_task(TaskFacts { dependencies: vec!["d".into()], ..task("t") });
        q.upsert_task(TaskFacts { phase, cancel, ..task("d") });
        assert_eq!(chosen(&mut q).len(), usize::from(admitted), "{phase:?}");
    }
    let mut q = queue(1);
    q.upsert_task(TaskFacts { dependencies: vec!["nobody".into()], ..task("t") });
    assert_eq!((chosen(&mut q).len(), reason(&q, "t")), (0, "UnknownDependency"));
}

/// One clock: the dispatcher adds no delay of its own to `retryAt`, and so needs no exemptions.
#[test]
fn the_only_cooldown_is_the_retry_time_of_the_task_c17_c18_c19_c20_c21() {
    let mut q = queue(1);
    q.upsert_task(TaskFacts { attempts: 1, not_before: Some(at(300)), ..task("t") });
    assert_eq!((q.plan(at(299)).admissions.len(), reason(&q, "t")), (0, "RetryAt"));
    assert_eq!(q.plan(at(300)).admissions.len(), 1);
    let mut q = queue(1);
    q.upsert_task(TaskFacts { attempts: 1, not_before: None, ..task("t") });
    assert_eq!(q.plan(at(1)).admissions.len(), 1);
}

/// There are no leases: what holds a Task is its Run and its Pod, until they are gone.
#[test]
fn a_pod_that_outlives_its_run_holds_its_task_until_it_is_gone_c22() {
    let mut q = queue(2);
    let holder = Holder { task_uid: "uid-t".into(), pool: "worker".into(), ..Holder::default() };
    q.occupy(HolderId::Pod("p".into()), Holder { agent: "worker-1".into(), ..holder });
    q.upsert_task(task("t"));
    assert_eq!((chosen(&mut q).len(), reason(&q, "t")), (0, "OldPod"));
    q.release(&HolderId::Pod("p".into()));
    assert_eq!(chosen(&mut q), ["t"]);
}

/// A provider limit slows down those who use the same credential and nobody else.
#[test]
fn a_quota_failure_holds_its_credential_and_leaves_the_others_alone_c23() {
    let mut q = queue(0);
    q.upsert_pool(PoolFacts { credential: Some("a".into()), ..pool("worker", 2) });
    q.upsert_pool(PoolFacts { credential: Some("b".into()), ..pool("other", 2) });
    q.run_ended("r", EndedRun { credential: "a".into(), finished_at: at(0), held_until: Some(at(100)) });
    for name in ["t1", "t2", "t3"] {
        q.upsert_task(task(name));
    }
    let agents: Vec<String> = q.plan(at(1)).admissions.into_iter().map(|a| a.agent).collect();
    assert_eq!(agents, ["other-1", "other-2"]);
}

#[test]
fn an_absent_bound_is_no_bound_c25() {
    let mut q = queue(9);
    q.set_system(Some(SystemFacts { max_concurrent: None, ..armed() }));
    for n in 0..9 {
        q.upsert_task(task(&format!("t{n}")));
    }
    assert_eq!(chosen(&mut q).len(), 9);
}

#[test]
fn a_kind_that_nobody_knows_is_never_admitted_c27_a21() {
    let mut q = queue(1);
    q.upsert_task(TaskFacts { kind: "research".into(), ..task("r") });
    assert_eq!((chosen(&mut q).len(), reason(&q, "r")), (0, "UnsupportedKind"));
}

/// Reviews that wait do not stop other work; only a person or a budget does.
#[test]
fn a_task_that_awaits_its_review_does_not_hold_back_the_others_c28() {
    let mut q = queue(1);
    q.upsert_task(TaskFacts { phase: TaskPhase::Blocked, ..task("reviewed") });
    q.upsert_task(task("t"));
    assert_eq!(chosen(&mut q), ["t"]);
}

#[test]
fn a_docser_task_does_not_go_to_an_idle_worker_and_is_told_once_c29() {
    let mut q = queue(2);
    q.upsert_task(TaskFacts { role: Role::Docser, lane: "docser".into(), ..task("d") });
    let plan = q.plan(at(1));
    assert_eq!((plan.admissions.len(), plan.waits.len(), reason(&q, "d")), (0, 1, "NoPool"));
    assert_eq!(q.plan(at(61)).waits.len(), 0);
}

/// Agents have no heartbeat of their own: one that crashed is held by its pool for a time.
#[test]
fn an_agent_that_is_held_gets_nothing_until_its_time_c30() {
    let mut q = queue(0);
    q.upsert_pool(PoolFacts { held: [(1, Some(at(10)))].into(), ..pool("worker", 1) });
    q.upsert_task(task("t"));
    let plan = q.plan(at(1));
    assert_eq!((plan.admissions.len(), plan.wake_at, reason(&q, "t")), (0, Some(at(10)), "AgentsHeld"));
    assert_eq!(q.plan(at(10)).admissions.len(), 1);
}

/// Nothing polls: a pass follows an event or the next moment that matters.
#[test]
fn between_events_the_dispatcher_sleeps_until_the_next_moment_that_matters_c31() {
    let mut q = queue(1);
    let wake = |q: &mut Queue| -> Option<Timestamp> { q.plan(at(1)).wake_at };
    assert_eq!(wake(&mut q), None);
    q.upsert_task(TaskFacts { not_before: Some(at(77)), ..task("t") });
    assert_eq!(wake(&mut q), Some(at(77)));
}

fn paths(list: &[&str]) -> Vec<String> {
    list.iter().map(|path| (*path).to_owned()).collect()
}

#[test]
fn an_area_from_allowed_paths_holds_back_one_from_touches_c32() {
    let mut q = queue(2);
    let running = area::resolve(None, &[], &paths(&["src/**"]));
    let queued = area::resolve(None, &paths(&["src/x"]), &[]);
    q.upsert_task(TaskFacts { areas: running.into_iter().collect(), ..task("a") });
    q.upsert_task(TaskFacts { areas: queued.into_iter().collect(), ..task("b") });
    let admissions = q.plan(at(1)).admissions;
    assert_eq!(admissions.len(), 1);
    let (run, holder) = run_of(&admissions[0]);
    q.occupy(run, holder);
    assert_eq!((q.plan(at(2)).admissions.len(), reason(&q, "b")), (0, "AreaOccupied"));
}

#[test]
fn globs_of_everything_make_no_area_c33() {
    assert_eq!(area::resolve(None, &paths(&["**"]), &paths(&["*"])), None);
}

#[test]
fn an_explicit_area_wins_over_touches_c34() {
    let area = area::resolve(Some("docser:global"), &paths(&["src/x"]), &[]);
    assert_eq!(area.as_deref(), Some("docser:global"));
}

#[test]
fn two_paths_below_one_directory_make_one_area_c35() {
    let area = area::resolve(None, &paths(&["apps/judge/a", "apps/judge/b"]), &[]);
    assert_eq!(area.as_deref(), Some("path:apps/judge"));
}
