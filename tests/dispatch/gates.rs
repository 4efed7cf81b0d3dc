//! The gates beside slots, lanes and areas: components, agents, budgets, credentials, reviews, merges,
//! successors.

use std::collections::BTreeSet;

use opentiger::crd::{NextKind, Purpose, Role, TaskPhase};
use opentiger::plan::dispatch::{
    DispatchPlan, EndedRun, HolderId, PoolFacts, Queue, SystemFacts, TaskFacts, Wait,
};
use opentiger::plan::priority;

use crate::examples::{armed, at, pool, queue, run_of, task};

fn names(plan: &DispatchPlan) -> Vec<&str> {
    plan.admissions.iter().map(|a| a.task_name.as_str()).collect()
}

fn agents(plan: &DispatchPlan) -> Vec<&str> {
    plan.admissions.iter().map(|a| a.agent.as_str()).collect()
}

fn wait<'a>(queue: &'a Queue, name: &str) -> &'a Wait {
    &queue.waiting(&format!("uid-{name}")).expect("it waits").wait
}

fn stopped(names: &[&str]) -> SystemFacts {
    let stopped: BTreeSet<String> = names.iter().map(|name| (*name).to_owned()).collect();
    SystemFacts { stopped, merge_area: "merge:x".into(), ..armed() }
}

/// A Task that waits for a review or a merge.
fn reviewed(name: &str, purpose: Purpose) -> TaskFacts {
    TaskFacts {
        purpose,
        phase: TaskPhase::Blocked,
        role: Role::Judge,
        lane: "judge".into(),
        attempts: 1,
        ..task(name)
    }
}

/// A queue with two agents of each of the roles Worker, Judge and Planner.
fn staffed() -> Queue {
    let mut q = queue(2);
    q.set_system(Some(stopped(&[])));
    q.upsert_pool(PoolFacts { role: Role::Judge, ..pool("judge", 2) });
    q.upsert_pool(PoolFacts { role: Role::Planner, ..pool("planner", 2) });
    q
}

fn limited(credential: &str, finished: i64, until: i64) -> EndedRun {
    EndedRun { credential: credential.into(), finished_at: at(finished), held_until: Some(at(until)) }
}

fn passed(credential: &str, finished: i64) -> EndedRun {
    EndedRun { credential: credential.into(), finished_at: at(finished), held_until: None }
}

#[test]
fn a_stopped_component_stops_its_own_purposes_only() {
    let plan_task = TaskFacts {
        purpose: Purpose::Plan,
        role: Role::Planner,
        kind: "plan".into(),
        lane: "planner".into(),
        ..task("plan")
    };
    for (component, left) in [
        ("dispatcher", vec!["merge", "plan", "review"]),
        ("judge", vec!["plan", "work"]),
        ("planner", vec!["merge", "review", "work"]),
        ("cycle-manager", vec!["merge", "plan", "review", "work"]),
    ] {
        let mut q = staffed();
        q.set_system(Some(stopped(&[component])));
        for task in [
            task("work"),
            plan_task.clone(),
            reviewed("review", Purpose::Judge),
            reviewed("merge", Purpose::Merge),
        ] {
            q.upsert_task(task);
        }
        let plan = q.plan(at(1));
        let mut admitted = names(&plan);
        admitted.sort_unstable();
        assert_eq!(admitted, left, "{component}");
        for waiting in &plan.waits {
            assert_eq!(waiting.wait.kind(), "ComponentStopped");
            assert_eq!(waiting.wait.next_kind(), NextKind::Operator);
            assert!(waiting.wait.detail().contains("Operation of type Start"), "{}", waiting.wait.detail());
        }
    }
}

#[test]
fn a_stopped_agent_gets_no_run_and_all_stopped_need_a_person() {
    let mut q = queue(3);
    q.set_system(Some(stopped(&["worker-1", "worker-03", "other-2"])));
    for name in ["a", "b", "c"] {
        q.upsert_task(task(name));
    }
    assert_eq!(agents(&q.plan(at(1))), ["worker-2", "worker-3"]);
    assert_eq!(wait(&q, "c").kind(), "NoFreeSlot");
    q.set_system(Some(stopped(&["worker-1", "worker-2", "worker-3"])));
    q.plan(at(2));
    assert_eq!(*wait(&q, "c"), Wait::AgentsStopped { role: Role::Worker, agent: "worker-1".into() });
    assert_eq!(wait(&q, "c").next_kind(), NextKind::Operator);
    q.set_system(Some(stopped(&["worker-2", "worker-3"])));
    assert_eq!(agents(&q.plan(at(3))), ["worker-1"]);
}

#[test]
fn a_held_agent_comes_back_at_its_time_and_an_exhausted_one_by_a_person() {
    let mut q = queue(0);
    q.upsert_pool(PoolFacts { held: [(1, Some(at(50))), (2, None)].into(), ..pool("worker", 2) });
    q.upsert_task(task("a"));
    let plan = q.plan(at(1));
    assert_eq!((names(&plan).len(), plan.wake_at), (0, Some(at(50))));
    assert_eq!((wait(&q, "a").next_kind(), wait(&q, "a").at()), (NextKind::Time, Some(at(50))));
    assert_eq!(agents(&q.plan(at(50))), ["worker-1"]);
    q.upsert_pool(PoolFacts { held: [(1, None), (2, None)].into(), ..pool("worker", 2) });
    q.upsert_task(task("b"));
    q.plan(at(51));
    assert_eq!((wait(&q, "b").kind(), wait(&q, "b").next_kind()), ("AgentsHeld", NextKind::Operator));
}

#[test]
fn a_budget_that_is_used_up_stops_everything_and_says_until_when() {
    let mut q = staffed();
    let message = "the daily token budget is used up until 2026-02-14T00:00:00Z";
    q.set_system(Some(SystemFacts { budget: Some(message.into()), ..stopped(&[]) }));
    q.upsert_task(task("a"));
    q.upsert_task(reviewed("r", Purpose::Judge));
    assert_eq!(names(&q.plan(at(1))), [""; 0]);
    for name in ["a", "r"] {
        assert_eq!((wait(&q, name).kind(), wait(&q, name).next_kind()), ("BudgetExceeded", NextKind::Watch));
        assert!(wait(&q, name).detail().ends_with(message));
    }
    // Its figures change all the time; that is not told again.
    q.set_system(Some(SystemFacts { budget: Some("another figure".into()), ..stopped(&[]) }));
    let before = q.examinations();
    assert_eq!(q.plan(at(2)), DispatchPlan::default());
    assert_eq!(q.examinations(), before);
    q.set_system(Some(stopped(&[])));
    assert_eq!(names(&q.plan(at(3))).len(), 2);
}

#[test]
fn a_held_credential_opens_for_one_probe_and_for_all_once_that_got_through() {
    let mut q = queue(0);
    q.upsert_pool(PoolFacts { credential: Some("key".into()), ..pool("worker", 4) });
    q.run_ended("r0", limited("key", 0, 100));
    for name in ["a", "b", "c"] {
        q.upsert_task(task(name));
    }
    let plan = q.plan(at(1));
    assert_eq!((names(&plan).len(), plan.waits.len(), plan.wake_at), (0, 3, Some(at(100))));
    let held = Wait::CredentialHeld { credential: "key".into(), until: Some(at(100)) };
    assert_eq!((wait(&q, "b"), wait(&q, "b").next_kind()), (&held, NextKind::Time));

    // One probe, whatever happens meanwhile; the others were told and are not told again.
    let probe = q.plan(at(100));
    assert_eq!((names(&probe), probe.waits.len()), (vec!["a"], 0));
    let (id, holder) = run_of(&probe.admissions[0]);
    let holder = opentiger::plan::dispatch::Holder { credential: Some("key".into()), ..holder };
    q.occupy(id.clone(), holder);
    q.upsert_task(TaskFacts { phase: TaskPhase::Running, ..task("a") });
    assert_eq!(names(&q.plan(at(500))), [""; 0]);

    // It meets the limit too: held again, then another probe.
    q.run_ended("r1", limited("key", 600, 630));
    q.release(&id);
    assert_eq!((names(&q.plan(at(601))).len(), names(&q.plan(at(629))).len()), (0, 0));
    let second = q.plan(at(630));
    assert_eq!(names(&second), ["b"]);
    let (id, holder) = run_of(&second.admissions[0]);
    q.occupy(id.clone(), opentiger::plan::dispatch::Holder { credential: Some("key".into()), ..holder });
    q.upsert_task(TaskFacts { phase: TaskPhase::Running, ..task("b") });
    q.upsert_task(task("d"));

    // It gets through: everybody may go.
    q.run_ended("r2", passed("key", 700));
    q.release(&id);
    assert_eq!(names(&q.plan(at(701))), ["c", "d"]);
}

#[test]
fn a_hold_survives_a_restart_because_it_is_made_of_runs() {
    let mut q = Queue::new();
    q.run_ended("late", limited("key", 50, 100));
    q.run_ended("early", passed("key", 10));
    q.upsert_task(task("a"));
    q.upsert_pool(PoolFacts { credential: Some("key".into()), ..pool("worker", 4) });
    q.set_system(Some(armed()));
    assert_eq!(names(&q.plan(at(99))), [""; 0]);
    assert_eq!(names(&q.plan(at(100))), ["a"]);
}

#[test]
fn a_pool_whose_credential_is_free_takes_the_task_and_a_merge_needs_none() {
    let mut q = staffed();
    q.upsert_pool(PoolFacts { credential: Some("a".into()), ..pool("worker", 9) });
    q.upsert_pool(PoolFacts { credential: Some("b".into()), ..pool("second", 1) });
    q.upsert_pool(PoolFacts { role: Role::Judge, credential: Some("a".into()), ..pool("judge", 3) });
    q.run_ended("r", limited("a", 0, 100));
    q.upsert_task(task("t"));
    q.upsert_task(reviewed("merge", Purpose::Merge));
    q.upsert_task(reviewed("review", Purpose::Judge));
    assert_eq!(agents(&q.plan(at(1))), ["second-1", "judge-1"]);
    assert_eq!(wait(&q, "review").kind(), "CredentialHeld");
}

#[test]
fn a_long_hold_is_told_anew_and_a_short_one_is_not() {
    let mut q = queue(0);
    q.upsert_pool(PoolFacts { credential: Some("key".into()), ..pool("worker", 1) });
    q.upsert_task(task("a"));
    q.run_ended("r0", limited("key", 0, 100));
    assert_eq!(q.plan(at(1)).waits.len(), 1);
    q.run_ended("r1", limited("key", 2, 400));
    assert_eq!(q.plan(at(3)).waits.len(), 0);
    q.run_ended("r2", limited("key", 4, 100 + 601));
    assert_eq!(q.plan(at(5)).waits.len(), 1);
    assert_eq!(wait(&q, "a").at(), Some(at(701)));
}

#[test]
fn reviews_and_merges_are_not_bounded_by_the_number_of_attempts_in_progress() {
    let mut q = staffed();
    q.set_system(Some(SystemFacts { max_concurrent: Some(1), ..stopped(&[]) }));
    q.upsert_task(task("a"));
    q.upsert_task(task("b"));
    q.upsert_task(reviewed("r1", Purpose::Judge));
    q.upsert_task(reviewed("r2", Purpose::Judge));
    assert_eq!(names(&q.plan(at(1))), ["a", "r1", "r2"]);
    assert_eq!(wait(&q, "b").kind(), "MaxConcurrent");
}

#[test]
fn one_merge_of_a_repository_at_a_time_and_in_its_order() {
    let mut q = staffed();
    let merge = |name: &str, priority, approved| TaskFacts {
        static_key: priority::merge_key(priority, at(approved)),
        ..reviewed(name, Purpose::Merge)
    };
    for task in [merge("late", 0, 20), merge("early", 0, 10), merge("urgent", 1, 30)] {
        q.upsert_task(task);
    }
    let mut order = Vec::new();
    for n in 0..3 {
        let plan = q.plan(at(40 + n));
        assert_eq!(plan.admissions.len(), 1, "one at a time");
        assert_eq!(plan.admissions[0].areas, ["merge:x"]);
        order.push(plan.admissions[0].task_name.clone());
        let (id, holder) = run_of(&plan.admissions[0]);
        q.occupy(id.clone(), holder);
        assert_eq!(names(&q.plan(at(40 + n))), [""; 0]);
        q.remove_task(&plan.admissions[0].task_uid);
        q.release(&id);
    }
    assert_eq!(order, ["urgent", "early", "late"]);
}

#[test]
fn a_task_that_waits_for_its_review_has_no_area_and_no_dependencies_and_keeps_its_attempt() {
    let mut q = staffed();
    q.upsert_task(TaskFacts { areas: vec!["path:src".into()], ..task("a") });
    q.upsert_task(reviewed("r", Purpose::Judge));
    let plan = q.plan(at(1));
    assert_eq!(names(&plan), ["a", "r"]);
    let review = &plan.admissions[1];
    assert_eq!((review.purpose, review.attempt, review.areas.len()), (Purpose::Judge, 1, 0));
    assert_eq!((review.agent.as_str(), review.lane.as_str()), ("judge-1", "judge"));
}

fn superseded(name: &str, successor: &str) -> TaskFacts {
    TaskFacts { phase: TaskPhase::Cancelled, superseded_by: Some(successor.into()), ..task(name) }
}

fn depends(name: &str, on: &str) -> TaskFacts {
    TaskFacts { dependencies: vec![on.into()], ..task(name) }
}

#[test]
fn a_superseded_dependency_is_resolved_as_its_last_successor_is() {
    let mut q = queue(9);
    q.upsert_task(depends("t", "a"));
    q.upsert_task(superseded("a", "b"));
    q.plan(at(1));
    assert_eq!(*wait(&q, "t"), Wait::UnknownDependency { name: "b".into() });
    q.upsert_task(superseded("b", "c"));
    q.upsert_task(TaskFacts { phase: TaskPhase::Failed, ..task("c") });
    q.plan(at(2));
    assert_eq!(*wait(&q, "t"), Wait::Dependencies { names: vec!["a (carried on by c)".into()] });
    q.upsert_task(TaskFacts { phase: TaskPhase::Done, ..task("c") });
    let plan = q.plan(at(3));
    assert_eq!(names(&plan), ["t"]);
    let resolved: Vec<_> =
        plan.admissions[0].resolved.iter().map(|r| (r.name.as_str(), r.uid.as_str())).collect();
    assert_eq!(resolved, [("a", "uid-c")]);
}

#[test]
fn successors_in_a_ring_and_a_successor_that_waits_for_its_dependent_are_told() {
    let mut q = queue(9);
    q.upsert_task(depends("t", "a"));
    q.upsert_task(superseded("a", "b"));
    q.upsert_task(superseded("b", "a"));
    q.plan(at(1));
    assert_eq!(wait(&q, "t").kind(), "CancelledDependency");
    q.upsert_task(depends("b", "t"));
    q.plan(at(2));
    assert_eq!(wait(&q, "t").kind(), "DependencyCycle");
    assert!(wait(&q, "t").detail().contains("b -> t -> b"), "{}", wait(&q, "t").detail());
}

#[test]
fn an_admission_of_a_review_that_could_not_be_carried_out_is_decided_again() {
    let mut q = staffed();
    q.upsert_task(reviewed("r", Purpose::Judge));
    assert_eq!(names(&q.plan(at(1))), ["r"]);
    q.abandon("uid-r", Some(at(5)));
    assert_eq!(names(&q.plan(at(2))), [""; 0]);
    assert_eq!(names(&q.plan(at(5))), ["r"]);
    // Named by its Task, it is no candidate, also when its Run has ended before its verdict is taken in.
    q.upsert_task(TaskFacts { purpose: Purpose::Execute, ..reviewed("r", Purpose::Judge) });
    q.release(&HolderId::Run("run-r".into()));
    q.abandon("uid-r", None);
    assert_eq!(names(&q.plan(at(6))), [""; 0]);
}
