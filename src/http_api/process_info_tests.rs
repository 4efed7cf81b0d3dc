//! Every status of a process, from objects.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use rstest::rstest;

use super::*;
use crate::crd::planner::PlannerStatus;
use crate::crd::pool::AgentHold;
use crate::crd::run::TaskRef;
use crate::crd::{AgentPoolSpec, HatchState, RunPhase, RunSpec, TaskSpec};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + seconds).expect("a time")
}

/// An armed System with a judge, pools worker (3), judge (2) and front (1).
fn objects() -> Objects {
    let mut system = System::new("default", Default::default());
    system.spec.judge.enabled = true;
    system.status.get_or_insert_default().hatch.state = HatchState::Armed;
    let pool = |name: &str, role, replicas| {
        AgentPool::new(name, AgentPoolSpec { role, replicas, ..AgentPoolSpec::default() })
    };
    let pools =
        vec![pool("worker", Role::Worker, 3), pool("judge", Role::Judge, 2), pool("front", Role::Worker, 1)];
    Objects { system: Some(system), pools, runs: vec![], plans: vec![] }
}

fn stop(objects: &mut Objects, name: &str) {
    objects.system.as_mut().unwrap().status.get_or_insert_default().stopped.push(name.into());
}

fn disarm(objects: &mut Objects) {
    objects.system.as_mut().unwrap().status.get_or_insert_default().hatch.state = HatchState::Disarmed;
}

fn run(objects: &mut Objects, agent: &str, phase: RunPhase) {
    let task_ref = TaskRef { name: "fix".into(), ..TaskRef::default() };
    let mut run = Run::new("fix-r1", RunSpec { agent: agent.into(), task_ref, ..RunSpec::default() });
    run.metadata.creation_timestamp = Some(Time(at(5)));
    run.status.get_or_insert_default().phase = phase;
    objects.runs.push(run);
}

fn hold(objects: &mut Objects, name: &str, reason: AgentHoldReason, until: Option<Timestamp>) {
    let hold = AgentHold {
        name: name.into(),
        reason,
        until,
        restarts: 4,
        last_crash: Some(at(1)),
        ..AgentHold::default()
    };
    objects.pools[0].status.get_or_insert_default().held.push(hold);
}

fn plan(objects: &mut Objects, name: &str, created: i64, phase: TaskPhase) {
    let mut task = Task::new(name, TaskSpec { role: Role::Planner, ..TaskSpec::default() });
    task.metadata.creation_timestamp = Some(Time(at(created)));
    task.status.get_or_insert_default().phase = phase;
    objects.plans.push(task);
}

fn shown(objects: &Objects, name: &str) -> ProcessInfo {
    info(&known(name, &objects.pools).expect(name), objects, at(10))
}

/// Status and message of one process once `change` has been made.
fn status(name: &str, change: impl FnOnce(&mut Objects)) -> (&'static str, String) {
    let mut objects = objects();
    change(&mut objects);
    let info = shown(&objects, name);
    (info.status, info.message)
}

#[rstest]
#[case("dispatcher", "running")]
#[case("cycle-manager", "running")]
#[case("judge", "running")]
#[case("planner", "idle")]
#[case("db-up", "idle")]
#[case("db-down", "idle")]
#[case("db-push", "idle")]
#[case("worker-1", "running")]
#[case("worker-3", "running")]
#[case("judge-2", "running")]
#[case("front-1", "running")]
fn nothing_stopped_and_armed(#[case] name: &str, #[case] expected: &str) {
    assert_eq!(status(name, |_| {}).0, expected);
}

#[rstest]
#[case("dispatcher", "idle")]
#[case("cycle-manager", "running")]
#[case("judge", "idle")]
#[case("worker-1", "idle")]
fn a_disarmed_hatch_is_read_from_the_system_at_once_trap_4(#[case] name: &str, #[case] expected: &str) {
    assert_eq!(status(name, disarm).0, expected);
}

#[test]
fn what_is_stopped_is_in_the_system_and_survives_the_api_trap_16() {
    for name in ["planner", "dispatcher", "cycle-manager", "judge", "worker-2", "judge-2"] {
        assert_eq!(status(name, |o| stop(o, name)).0, "stopped", "{name}");
        // Stopped says more than disarmed.
        let both = |o: &mut Objects| {
            stop(o, name);
            disarm(o);
        };
        assert_eq!(status(name, both).0, "stopped", "{name}");
    }
}

#[test]
fn a_run_in_progress_is_running_also_while_disarmed_and_one_that_is_over_is_not() {
    let busy = |o: &mut Objects| {
        run(o, "worker-2", RunPhase::Running);
        disarm(o);
    };
    assert_eq!(status("worker-2", busy), ("running", "Run fix-r1 of Task fix".into()));
    let mut objects = objects();
    run(&mut objects, "worker-2", RunPhase::Running);
    assert_eq!(shown(&objects, "worker-2").started_at, Some(at(5)));
    assert_eq!(shown(&objects, "worker-1").started_at, None);
    let over = |o: &mut Objects| {
        run(o, "worker-2", RunPhase::Success);
        disarm(o);
    };
    assert_eq!(status("worker-2", over).0, "idle");
}

#[test]
fn a_crashed_agent_does_not_look_alive_traps_17_and_19() {
    let (status_, message) =
        status("worker-2", |o| hold(o, "worker-2", AgentHoldReason::Restarting, Some(at(20))));
    assert_eq!(status_, "failed");
    assert!(message.starts_with("crashed, takes Runs again at "), "{message}");
    let (status_, message) = status("worker-2", |o| hold(o, "worker-2", AgentHoldReason::Exhausted, None));
    assert_eq!(status_, "failed");
    assert!(message.contains("crashed 4 times"), "{message}");
    // The wait is over: it takes Runs again. And a hold is that of one agent.
    let past = |o: &mut Objects| hold(o, "worker-2", AgentHoldReason::Restarting, Some(at(9)));
    assert_eq!(status("worker-2", past).0, "running");
    assert_eq!(status("worker-1", |o| hold(o, "worker-2", AgentHoldReason::Exhausted, None)).0, "running");
}

#[test]
fn a_slot_that_is_not_there_is_idle_and_says_why_traps_12_and_18() {
    let (status_, message) = status("worker-3", |o| o.pools[0].spec.replicas = 2);
    assert_eq!(
        (status_, message.as_str()),
        ("idle", "AgentPool worker has 2 slots: raise its spec.replicas")
    );
    assert_eq!(status("worker-99999999999", |_| {}).0, "idle");
    let (status_, message) = status("worker-1", |o| o.pools[0].spec.suspend = true);
    assert_eq!(status_, "idle");
    assert!(message.contains("is suspended"), "{message}");
    let (status_, message) = status("tester-1", |_| {});
    assert_eq!((status_, message.as_str()), ("idle", "there is no AgentPool named tester"));
    assert_eq!(status("dispatcher", |o| o.system = None).0, "idle");
    assert_eq!(status("judge", |o| o.system.as_mut().unwrap().spec.judge.enabled = false).0, "idle");
}

#[test]
fn a_plan_that_failed_is_failed_and_one_that_is_over_is_not_running_traps_1_and_2() {
    assert_eq!(status("planner", |o| plan(o, "plan-a", 0, TaskPhase::Done)).0, "completed");
    assert_eq!(status("planner", |o| plan(o, "plan-a", 0, TaskPhase::Cancelled)).0, "failed");
    // The newest counts.
    let two = |o: &mut Objects| {
        plan(o, "plan-b", 5, TaskPhase::Cancelled);
        plan(o, "plan-a", 0, TaskPhase::Done);
        let last_result = "Task plan-b ended Cancelled after it had planned 0 Tasks".to_owned();
        let planner = PlannerStatus { last_result, last_ended_at: Some(at(8)), ..PlannerStatus::default() };
        o.system.as_mut().unwrap().status.get_or_insert_default().planner = Some(planner);
    };
    let (status_, message) = status("planner", two);
    assert_eq!(status_, "failed");
    assert!(message.starts_with("Task plan-b ended Cancelled"), "{message}");
    let mut objects = objects();
    two(&mut objects);
    let info = shown(&objects, "planner");
    assert_eq!((info.started_at, info.finished_at), (Some(at(5)), Some(at(8))));
}

#[test]
fn a_plan_in_progress_is_running_in_whatever_state_its_task_is_even_when_stopped() {
    for phase in [TaskPhase::Queued, TaskPhase::Running, TaskPhase::Failed, TaskPhase::Blocked] {
        let live = |o: &mut Objects| {
            plan(o, "plan-a", 0, TaskPhase::Done);
            plan(o, "plan-b", 5, phase);
        };
        let (status_, message) = status("planner", live);
        assert_eq!((status_, message), ("running", format!("Task plan-b is {}", phase.word())));
    }
    let stopped = |o: &mut Objects| {
        plan(o, "plan-b", 5, TaskPhase::Running);
        stop(o, "planner");
    };
    let (status_, message) = status("planner", stopped);
    assert_eq!(status_, "running");
    assert!(message.contains("the planner is stopped"), "{message}");
}

#[test]
fn the_list_is_the_six_the_judge_and_every_slot() {
    let names: Vec<String> = all(&objects(), at(10)).into_iter().map(|p| p.name).collect();
    let expected = [
        "planner",
        "dispatcher",
        "cycle-manager",
        "db-up",
        "db-down",
        "db-push",
        "judge",
        "judge-2",
        "front-1",
        "worker-1",
        "worker-2",
        "worker-3",
    ];
    assert_eq!(names, expected);
    let listed = all(&Objects::default(), at(10));
    assert_eq!(listed.len(), 7);
    assert!(listed.iter().all(|p| p.status == "idle"));
}

#[rstest]
#[case("planner", Some("planner"))]
#[case("planner-1", None)]
#[case("worker-01", Some("worker-1"))]
#[case("judge-007", Some("judge-7"))]
#[case("judge-1", Some("judge"))]
#[case("judge-01", Some("judge"))]
#[case("worker-0", None)]
#[case("worker", None)]
#[case("worker-", None)]
#[case("worker-x", None)]
#[case("db-pull", None)]
#[case("stop-all", None)]
#[case("front-1", Some("front-1"))]
#[case("front-001", Some("front-1"))]
#[case("back-1", None)]
#[case("", None)]
fn names_resolve_as_in_the_original_and_agents_of_other_pools_have_theirs(
    #[case] given: &str,
    #[case] name: Option<&str>,
) {
    let mut objects = objects();
    let planner = AgentPoolSpec { role: Role::Planner, replicas: 1, ..AgentPoolSpec::default() };
    objects.pools.push(AgentPool::new("planner", planner));
    let found = known(given, &objects.pools).map(|known| known.process.name);
    assert_eq!(found.as_deref(), name, "{given}");
}
