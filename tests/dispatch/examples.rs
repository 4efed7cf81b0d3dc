//! The admission queue by example, one sentence each.

use std::time::Duration;

use jiff::Timestamp;
use opentiger::crd::task::{ResolvedDependency, RiskLevel};
use opentiger::crd::{NextKind, Purpose, Role, TaskPhase};
use opentiger::plan::dispatch::{
    Admission, DispatchPlan, Holder, HolderId, PoolFacts, Queue, SystemFacts, TaskFacts, Wait,
};
use opentiger::plan::priority;

/// Seconds after some moment.
pub fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_770_000_000 + seconds).expect("in range")
}

/// A queued Task of role Worker, as old as all others.
pub fn task(name: &str) -> TaskFacts {
    TaskFacts {
        uid: format!("uid-{name}"),
        name: name.into(),
        phase: TaskPhase::Queued,
        cancel: false,
        purpose: Purpose::Execute,
        role: Role::Worker,
        lane: "feature".into(),
        kind: "code".into(),
        areas: vec![],
        static_key: priority::static_key(0, RiskLevel::Low, Duration::from_secs(3600), at(0)),
        not_before: None,
        dependencies: vec![],
        resolved: vec![],
        superseded_by: None,
        attempts: 0,
        created_at: at(0),
    }
}

pub fn armed() -> SystemFacts {
    SystemFacts { armed: true, ..SystemFacts::default() }
}

pub fn pool(name: &str, replicas: u32) -> PoolFacts {
    PoolFacts { name: name.into(), role: Role::Worker, replicas, ..PoolFacts::default() }
}

/// An armed queue with one pool of workers.
pub fn queue(replicas: u32) -> Queue {
    let mut queue = Queue::new();
    queue.set_system(Some(armed()));
    queue.upsert_pool(pool("worker", replicas));
    queue
}

/// The Run that an admission leads to.
pub fn run_of(admission: &Admission) -> (HolderId, Holder) {
    let holder = Holder {
        task_uid: admission.task_uid.clone(),
        pool: admission.pool.clone(),
        agent: admission.agent.clone(),
        lane: admission.lane.clone(),
        areas: admission.areas.clone(),
        purpose: admission.purpose,
        credential: None,
    };
    (HolderId::Run(format!("run-{}", admission.task_name)), holder)
}

fn admitted(plan: &DispatchPlan) -> Vec<(&str, &str)> {
    plan.admissions.iter().map(|a| (a.task_name.as_str(), a.agent.as_str())).collect()
}

/// Name and reason of the Tasks that the plan tells about.
fn told(plan: &DispatchPlan) -> Vec<(&str, &str)> {
    plan.waits.iter().map(|w| (w.task_uid.trim_start_matches("uid-"), w.wait.kind())).collect()
}

fn depends(name: &str, dependencies: &[&str]) -> TaskFacts {
    let dependencies = dependencies.iter().map(|d| (*d).to_owned()).collect();
    TaskFacts { dependencies, ..task(name) }
}

fn in_phase(name: &str, phase: TaskPhase) -> TaskFacts {
    TaskFacts { phase, ..task(name) }
}

fn reason<'a>(queue: &'a Queue, name: &str) -> &'a Wait {
    &queue.waiting(&format!("uid-{name}")).expect("it waits").wait
}

#[test]
fn tasks_fill_the_lowest_slots_and_the_rest_is_told_once_why_it_waits() {
    let mut q = queue(2);
    for name in ["a", "b", "c"] {
        q.upsert_task(task(name));
    }
    let plan = q.plan(at(1));
    assert_eq!(admitted(&plan), [("a", "worker-1"), ("b", "worker-2")]);
    assert_eq!(told(&plan), [("c", "NoFreeSlot")]);
    assert_eq!(q.plan(at(2)), DispatchPlan::default());
    q.abandon("uid-a", None);
    assert_eq!(admitted(&q.plan(at(3))), [("a", "worker-1")]);
    q.abandon("uid-a", Some(at(9)));
    let plan = q.plan(at(4));
    assert_eq!(admitted(&plan), [("c", "worker-1")]);
    assert_eq!((told(&plan), plan.wake_at), (vec![("a", "RetryAt")], Some(at(9))));
}

#[test]
fn the_pool_with_the_most_free_slots_is_filled_first() {
    let mut q = queue(1);
    q.upsert_pool(pool("big", 3));
    for name in ["a", "b", "c", "d", "e"] {
        q.upsert_task(task(name));
    }
    let agents: Vec<String> = q.plan(at(1)).admissions.into_iter().map(|a| a.agent).collect();
    assert_eq!(agents, ["big-1", "big-2", "big-3", "worker-1"]);
}

#[test]
fn a_shrunk_pool_gives_no_slot_until_enough_agents_are_gone() {
    let mut q = queue(3);
    for name in ["a", "b", "c"] {
        q.upsert_task(task(name));
    }
    let runs: Vec<_> = q.plan(at(1)).admissions.iter().map(run_of).collect();
    for (id, holder) in runs.clone() {
        q.occupy(id, holder);
    }
    q.upsert_pool(pool("worker", 2));
    for name in ["a", "b", "c"] {
        q.upsert_task(in_phase(name, TaskPhase::Done));
    }
    q.upsert_task(task("d"));
    q.release(&runs[0].0);
    assert_eq!(told(&q.plan(at(2))), [("d", "NoFreeSlot")]);
    assert_eq!(q.slots_used("worker"), 2);
    q.release(&runs[1].0);
    assert_eq!(admitted(&q.plan(at(3))), [("d", "worker-1")]);
}

#[test]
fn a_task_is_not_admitted_while_a_pod_of_its_last_attempt_exists() {
    let mut q = queue(2);
    q.upsert_task(task("a"));
    let plan = q.plan(at(1));
    let (run, holder) = run_of(&plan.admissions[0]);
    let pod = HolderId::Pod("p".into());
    q.occupy(run.clone(), holder.clone());
    q.occupy(pod.clone(), holder);
    q.release(&run);
    q.upsert_task(TaskFacts { attempts: 1, ..task("a") });
    let plan = q.plan(at(2));
    assert_eq!((admitted(&plan), told(&plan)), (vec![], vec![("a", "OldPod")]));
    q.release(&pod);
    let plan = q.plan(at(3));
    assert_eq!(admitted(&plan), [("a", "worker-1")]);
    assert_eq!(plan.admissions[0].attempt, 2);
}

#[test]
fn an_admission_holds_its_areas_until_its_run_stands_for_it() {
    let mut q = queue(4);
    for name in ["a", "b"] {
        q.upsert_task(TaskFacts { areas: vec!["x".into(), "y".into()], ..task(name) });
    }
    q.upsert_task(TaskFacts { areas: vec!["y".into()], ..task("c") });
    let plan = q.plan(at(1));
    assert_eq!(admitted(&plan), [("a", "worker-1")]);
    assert_eq!(told(&plan), [("b", "AreaOccupied"), ("c", "AreaOccupied")]);
    let (run, holder) = run_of(&plan.admissions[0]);
    q.occupy(run.clone(), holder);
    assert_eq!(q.plan(at(2)), DispatchPlan::default());
    q.release(&run);
    q.remove_task("uid-a");
    assert_eq!(admitted(&q.plan(at(3))), [("b", "worker-1")]);
}

#[test]
fn a_dependency_is_resolved_by_done_and_by_an_explicit_cancel_only() {
    let mut q = queue(9);
    q.upsert_task(depends("t", &["done", "failed"]));
    q.upsert_task(in_phase("done", TaskPhase::Done));
    q.upsert_task(in_phase("failed", TaskPhase::Failed));
    let plan = q.plan(at(1));
    assert_eq!((admitted(&plan), told(&plan)), (vec![], vec![("t", "WaitingForDependencies")]));
    let record = ResolvedDependency { name: "done".into(), uid: "uid-done".into() };
    assert_eq!(plan.resolved, [("uid-t".to_owned(), vec![record.clone()])]);

    // What is resolved stays so when the Task is pruned, recorded or not.
    q.remove_task("uid-done");
    q.upsert_task(in_phase("failed", TaskPhase::Cancelled));
    let plan = q.plan(at(2));
    assert_eq!(told(&plan), [("t", "CancelledDependency")]);
    assert_eq!(plan.waits[0].wait.next_kind(), NextKind::Operator);

    q.upsert_task(TaskFacts { cancel: true, ..in_phase("failed", TaskPhase::Cancelled) });
    let plan = q.plan(at(3));
    assert_eq!(admitted(&plan), [("t", "worker-1")]);
    let second = ResolvedDependency { name: "failed".into(), uid: "uid-failed".into() };
    assert_eq!(plan.admissions[0].resolved, [record, second]);
    assert_eq!(plan.resolved, []);
}

#[test]
fn what_was_found_resolved_outlasts_an_edit_that_does_not_know_of_it_yet() {
    let mut q = queue(9);
    q.upsert_task(depends("t", &["done", "open"]));
    q.upsert_task(in_phase("done", TaskPhase::Done));
    q.upsert_task(in_phase("open", TaskPhase::Running));
    assert_eq!(told(&q.plan(at(1))), [("t", "WaitingForDependencies")]);
    q.remove_task("uid-done");
    q.upsert_task(TaskFacts { attempts: 1, ..depends("t", &["done", "open"]) });
    q.upsert_task(in_phase("open", TaskPhase::Done));
    assert_eq!(admitted(&q.plan(at(2))), [("t", "worker-1")]);
}

#[test]
fn a_reason_is_told_again_only_when_it_is_another_one() {
    let mut q = queue(1);
    q.upsert_task(task("a"));
    q.upsert_task(task("b"));
    assert_eq!(told(&q.plan(at(1))), [("b", "NoFreeSlot")]);
    q.upsert_task(TaskFacts { areas: vec!["x".into()], ..task("b") });
    assert_eq!(told(&q.plan(at(2))), []);
    assert_eq!(q.waiting("uid-b").map(|waiting| waiting.since), Some(at(1)));
    q.upsert_task(TaskFacts { dependencies: vec!["a".into()], ..task("b") });
    assert_eq!(told(&q.plan(at(3))), [("b", "WaitingForDependencies")]);
}

#[test]
fn a_recorded_dependency_stays_resolved_after_a_restart() {
    let mut q = queue(9);
    let record = ResolvedDependency { name: "gone".into(), uid: "uid-gone".into() };
    q.upsert_task(TaskFacts { resolved: vec![record], ..depends("t", &["gone"]) });
    assert_eq!(admitted(&q.plan(at(1))), [("t", "worker-1")]);
}

#[test]
fn an_unknown_dependency_is_named_and_may_come_later_or_anew() {
    let mut q = queue(9);
    q.upsert_task(depends("t", &["later"]));
    assert_eq!(told(&q.plan(at(1))), [("t", "UnknownDependency")]);
    assert!(reason(&q, "t").detail().contains("Task later,"));
    q.upsert_task(in_phase("later", TaskPhase::Running));
    assert_eq!(told(&q.plan(at(2))), [("t", "WaitingForDependencies")]);
    q.remove_task("uid-later");
    assert_eq!(told(&q.plan(at(3))), [("t", "UnknownDependency")]);
    let anew = TaskFacts { uid: "uid-anew".into(), ..in_phase("later", TaskPhase::Done) };
    q.upsert_task(anew);
    assert_eq!(admitted(&q.plan(at(4))), [("t", "worker-1")]);
}

#[test]
fn a_cycle_is_named_on_its_tasks_until_it_is_broken() {
    let mut q = queue(9);
    q.upsert_task(depends("a", &["b"]));
    q.upsert_task(depends("b", &["c"]));
    q.upsert_task(depends("c", &["a"]));
    q.upsert_task(depends("d", &["a"]));
    let plan = q.plan(at(1));
    let cycle = "DependencyCycle";
    let waits = [("a", cycle), ("b", cycle), ("c", cycle), ("d", "WaitingForDependencies")];
    assert_eq!(told(&plan), waits);
    assert!(reason(&q, "b").detail().contains("a -> b -> c -> a"));
    q.upsert_task(depends("c", &[]));
    let plan = q.plan(at(2));
    assert_eq!(admitted(&plan), [("c", "worker-1")]);
    assert_eq!(told(&plan), [("a", "WaitingForDependencies"), ("b", "WaitingForDependencies")]);
}

#[test]
fn an_older_task_does_not_come_back_under_the_name_of_a_newer_one() {
    let mut q = queue(9);
    q.upsert_task(TaskFacts { uid: "new".into(), created_at: at(5), ..task("a") });
    q.upsert_task(task("a"));
    let uids: Vec<String> = q.plan(at(6)).admissions.into_iter().map(|a| a.task_uid).collect();
    assert_eq!(uids, ["new"]);
}

#[test]
fn without_a_person_nothing_starts_and_each_task_is_told_what_the_person_has_to_do() {
    let mut q = Queue::new();
    q.upsert_task(task("a"));
    assert_eq!(told(&q.plan(at(1))), [("a", "NoSystem")]);
    q.set_system(Some(SystemFacts::default()));
    assert_eq!(told(&q.plan(at(2))), [("a", "Disarmed")]);
    q.set_system(Some(armed()));
    assert_eq!(told(&q.plan(at(3))), [("a", "NoPool")]);
    q.upsert_pool(PoolFacts { suspended: true, ..pool("worker", 3) });
    assert_eq!(told(&q.plan(at(4))), [("a", "PoolSuspended")]);
    assert_eq!(reason(&q, "a").next_kind(), NextKind::Operator);
    q.upsert_pool(pool("worker", 0));
    assert_eq!(told(&q.plan(at(5))), [("a", "NoPool")]);
    q.upsert_pool(pool("worker", 1));
    assert_eq!(admitted(&q.plan(at(6))), [("a", "worker-1")]);
    q.upsert_task(TaskFacts { kind: "research".into(), ..task("r") });
    assert_eq!(told(&q.plan(at(7))), [("r", "UnsupportedKind")]);
}

#[test]
fn a_cancelled_task_is_not_admitted_and_told_nothing() {
    let mut q = queue(1);
    q.upsert_task(TaskFacts { cancel: true, ..task("a") });
    assert_eq!(q.plan(at(1)), DispatchPlan::default());
    assert_eq!(q.waiting("uid-a"), None);
}

#[test]
fn the_number_of_tasks_in_progress_is_bounded_over_all_pools() {
    let mut q = queue(5);
    q.set_system(Some(SystemFacts { max_concurrent: Some(1), ..armed() }));
    q.upsert_task(task("a"));
    q.upsert_task(task("b"));
    let plan = q.plan(at(1));
    assert_eq!(admitted(&plan), [("a", "worker-1")]);
    assert_eq!(told(&plan), [("b", "MaxConcurrent")]);
    q.set_system(Some(armed()));
    assert_eq!(admitted(&q.plan(at(2))), [("b", "worker-2")]);
}

#[test]
fn a_retry_time_is_kept_to_the_moment() {
    let mut q = queue(1);
    q.upsert_task(TaskFacts { not_before: Some(at(10)), ..task("a") });
    let plan = q.plan(at(9));
    assert_eq!((told(&plan), plan.wake_at), (vec![("a", "RetryAt")], Some(at(10))));
    q.upsert_task(TaskFacts { not_before: Some(at(12)), ..task("a") });
    let plan = q.plan(at(10));
    assert_eq!((told(&plan), plan.wake_at), (vec![("a", "RetryAt")], Some(at(12))));
    assert_eq!(admitted(&q.plan(at(12))), [("a", "worker-1")]);
}
