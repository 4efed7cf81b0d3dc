//! Operations, case by case, and under every interleaving with lost steps.

use proptest::prelude::*;

use super::world::{World, over};
use super::*;
use crate::crd::operation::OperationResult;
use crate::crd::pool::AgentHoldReason;
use crate::crd::system::component;
use crate::crd::wire::{ContainerResult, Outcome};
use crate::crd::*;
use crate::plan::fixtures::*;
use crate::plan::task::CYCLE_MANAGER_STOPPED;

/// Three Tasks in progress, each with a live Pod.
fn busy() -> World {
    let mut w = World::new(&["a", "b", "c", "d"]);
    w.step_dispatcher();
    w.step_runs();
    assert_eq!((w.runs.len(), w.live_pods()), (3, 3));
    w
}

fn result(w: &World, operation: usize) -> OperationResult {
    w.operations[operation].status.clone().unwrap_or_default().result.unwrap_or_default()
}

fn ended(w: &mut World, type_: OperationType, about: &str) -> (OperationPhase, String) {
    let operation = w.ask(type_, about);
    w.settle();
    (w.phase(operation), w.message(operation))
}

#[test]
fn an_operation_ends_one_cycle_however_often_it_is_looked_at() {
    let mut w = World::new(&["a"]);
    let none = ended(&mut w, OperationType::EndCycle, "");
    assert_eq!((none.0, none.1.contains("no cycle")), (OperationPhase::Succeeded, true), "{}", none.1);
    let cycle = crate::crd::cycle::CycleStatus { number: 4, started_at: Some(at(0)), ..Default::default() };
    w.system.status.as_mut().unwrap().cycle = Some(cycle);
    let op = w.ask(OperationType::EndCycle, "");
    // Killed after the cycle was ended and before that was noted, it ends no other.
    for _ in 0..6 {
        w.step_operation(op, usize::MAX);
    }
    assert_eq!((w.phase(op), result(&w, op).ended_cycle), (OperationPhase::Succeeded, Some(4)));
    let cycle = w.system.status.as_ref().unwrap().cycle.clone().unwrap();
    assert_eq!((cycle.number, cycle.history.len()), (5, 1));
    assert!(cycle.history[0].end_reason.contains("Operation"));
}

#[test]
fn one_run_is_cancelled_and_no_other_and_its_task_goes_back_at_no_cost() {
    let mut w = busy();
    let name = w.runs[1].metadata.name.clone().unwrap();
    let op = w.ask(OperationType::CancelRun, &name);
    w.settle();
    assert_eq!((w.phase(op), result(&w, op).cancelled_runs), (OperationPhase::Succeeded, Some(1)));
    let phase = |run: &Run| run.status.clone().unwrap_or_default().phase;
    let phases: Vec<RunPhase> = w.runs.iter().map(phase).collect();
    assert_eq!(phases[..3], [RunPhase::Running, RunPhase::Cancelled, RunPhase::Running]);
    assert_eq!(w.runs[1].status.as_ref().unwrap().cancelled_by, w.operations[op].uid_str());
    let task =
        w.tasks.iter().find(|t| t.metadata.name == Some(w.runs[1].spec.task_ref.name.clone())).unwrap();
    let status = task.status.as_ref().unwrap();
    assert_eq!((status.retry_at, status.retries), (None, Default::default()));
    assert!(matches!(status.phase, TaskPhase::Queued | TaskPhase::Running), "{status:?}");
    assert!(!w.system.is_stopped(&w.runs[1].spec.agent), "its slot stays in use");
    let again = ended(&mut w, OperationType::CancelRun, &name);
    assert_eq!((again.0, again.1.contains("Cancelled")), (OperationPhase::Failed, true), "{}", again.1);
    let none = ended(&mut w, OperationType::CancelRun, "nothing");
    assert_eq!(
        (none.0, none.1.contains("no Run named nothing")),
        (OperationPhase::Failed, true),
        "{}",
        none.1
    );
}

#[test]
fn stop_all_disarms_first_then_ends_pods_and_runs_and_queues_the_tasks_at_no_cost_c108() {
    let mut w = busy();
    // A Pod with our label that no Run accounts for.
    let mut stray = pod_of(&w.runs[0]);
    (stray.name, stray.uid, stray.run_uid) = ("stray".into(), "pod-stray".into(), "stray".into());
    w.pods.push(stray);
    let op = w.ask(OperationType::StopAll, "");
    let OperationPlan::Latch { hatch, stopped } = w.plan(op) else { panic!("{:?}", w.plan(op)) };
    assert_eq!(hatch.state, HatchState::Disarmed);
    assert_eq!(stopped, component::ALL);
    // Before that nothing is ended, whoever looks.
    w.step_runs();
    assert!(w.pods.iter().all(|p| p.deleted.is_none()));
    w.settle();
    assert_eq!(w.phase(op), OperationPhase::Succeeded, "{}", w.message(op));
    assert_eq!((result(&w, op).cancelled_runs, result(&w, op).requeued_tasks), (Some(3), Some(3)));
    assert_eq!((result(&w, op).stray_pods, result(&w, op).released_merges), (Some(1), Some(0)));
    assert_eq!(w.live_pods(), 0);
    assert!(w.runs.iter().all(|r| r.status.as_ref().unwrap().phase == RunPhase::Cancelled));
    for name in ["a", "b", "c"] {
        let status = w.status(name);
        assert_eq!((status.phase, status.retry_at), (TaskPhase::Queued, None), "{name}");
        assert_eq!(status.retries, Default::default());
    }
    // Nothing starts until both are undone.
    w.step_dispatcher();
    assert_eq!(w.runs.len(), 3);
}

#[test]
fn repeating_stop_all_changes_nothing() {
    let mut w = busy();
    w.ask(OperationType::StopAll, "");
    w.settle();
    let (system, tasks, runs) = (w.system.clone(), w.tasks.clone(), w.runs.clone());
    let again = w.ask(OperationType::StopAll, "");
    w.settle();
    assert_eq!(w.phase(again), OperationPhase::Succeeded);
    assert_eq!((result(&w, again).cancelled_runs, result(&w, again).requeued_tasks), (Some(0), Some(0)));
    assert_eq!((w.system, w.tasks, w.runs), (system, tasks, runs));
}

#[test]
fn a_run_that_had_finished_before_stop_all_keeps_its_true_result() {
    let mut w = busy();
    w.pods[0] = pod_with(&w.runs[0], &ContainerResult::new(Outcome::Success));
    let mut failed = ContainerResult::new(Outcome::Failed);
    failed.failure_code = Some("test_failure".into());
    w.pods[1] = pod_with(&w.runs[1], &failed);
    // Published while its Pod was already being deleted.
    w.pods[2] = pod_with(&w.runs[2], &ContainerResult::new(Outcome::Success));
    w.pods[2].deleted = Some(at(30));
    let op = w.ask(OperationType::StopAll, "");
    // In progress before the run controller has looked at what ended.
    w.step_operation(op, 1);
    w.step_operation(op, 1);
    assert_eq!(w.phase(op), OperationPhase::Running);
    w.settle();
    let phase = |run: &Run| run.status.clone().unwrap_or_default().phase;
    let phases: Vec<RunPhase> = w.runs.iter().map(phase).collect();
    assert_eq!(phases, [RunPhase::Success, RunPhase::Failed, RunPhase::Success]);
    assert_eq!(result(&w, op).cancelled_runs, Some(0));
}

#[test]
fn stop_all_waits_as_long_as_a_create_may_still_be_accepted() {
    let mut w = World::new(&[]);
    let op = w.ask(OperationType::StopAll, "");
    for _ in 0..9 {
        w.step_operation(op, 9);
    }
    assert_eq!(w.phase(op), OperationPhase::Running, "{}", w.message(op));
    w.clock += 1;
    w.step_operation(op, 9);
    assert_eq!(w.phase(op), OperationPhase::Succeeded);
}

#[test]
fn a_latch_that_was_written_late_is_waited_for_as_well_s12() {
    let mut w = World::new(&[]);
    let op = w.ask(OperationType::StopAll, "");
    w.step_operation(op, 9);
    // The write took five seconds: creates were accepted meanwhile, the last of them just now.
    w.clock += 5;
    for _ in 0..9 {
        w.step_operation(op, 9);
    }
    assert_eq!(w.phase(op), OperationPhase::Running, "{}", w.message(op));
    w.clock += 1;
    w.step_operation(op, 9);
    assert_eq!(w.phase(op), OperationPhase::Succeeded);
}

#[test]
fn a_stopped_agent_loses_its_run_keeps_no_slot_and_its_task_is_queued_at_no_cost_c109() {
    let mut w = busy();
    let stop = w.ask(OperationType::Stop, "worker-02");
    w.settle();
    assert_eq!(w.phase(stop), OperationPhase::Succeeded, "{}", w.message(stop));
    assert_eq!((result(&w, stop).cancelled_runs, result(&w, stop).requeued_tasks), (Some(1), Some(1)));
    // C109 as the design decides it: Queued, not Cancelled.
    assert_eq!((w.status("b").phase, w.status("b").retry_at), (TaskPhase::Queued, None));
    assert_eq!(w.status("b").retries, Default::default());
    assert_eq!((w.status("a").phase, w.status("c").phase), (TaskPhase::Running, TaskPhase::Running));
    w.step_dispatcher();
    assert!(w.runs.iter().all(|r| r.spec.agent != "worker-2" || over(r)));
    assert!(w.system.is_armed());
    let again = ended(&mut w, OperationType::Stop, "worker-2");
    assert_eq!(again.0, OperationPhase::Succeeded);
    assert_eq!(w.system.status.as_ref().unwrap().stopped, ["worker-2"]);
    assert_eq!(ended(&mut w, OperationType::Start, "worker-2").0, OperationPhase::Succeeded);
    w.step_dispatcher();
    assert!(w.runs.iter().any(|r| r.spec.agent == "worker-2" && !over(r)));
}

#[test]
fn a_component_is_stopped_and_started_and_unknown_names_are_refused() {
    let mut w = World::new(&[]);
    for name in component::ALL {
        assert_eq!(ended(&mut w, OperationType::Stop, name).0, OperationPhase::Succeeded);
        assert!(w.system.is_stopped(name));
        assert_eq!(ended(&mut w, OperationType::Start, name).0, OperationPhase::Succeeded);
        assert!(!w.system.is_stopped(name));
        assert_eq!(ended(&mut w, OperationType::Start, name).0, OperationPhase::Succeeded, "no-op");
    }
    let (phase, message) = ended(&mut w, OperationType::Stop, "tester-1");
    assert_eq!((phase, message.as_str()), (OperationPhase::Failed, "there is no AgentPool named tester"));
    let (phase, message) = ended(&mut w, OperationType::Stop, "db-up");
    assert!(phase == OperationPhase::Failed && message.contains("neither a component"), "{message}");
}

#[test]
fn arm_and_disarm_and_a_locked_hatch() {
    let mut w = World::new(&[]);
    assert_eq!(ended(&mut w, OperationType::Disarm, "").0, OperationPhase::Succeeded);
    assert!(!w.system.is_armed());
    assert_eq!(ended(&mut w, OperationType::Arm, "").0, OperationPhase::Succeeded);
    assert!(w.system.is_armed());
    w.system.spec.runtime_hatch = RuntimeHatch::Disarmed;
    let (phase, message) = ended(&mut w, OperationType::Arm, "");
    assert!(phase == OperationPhase::Failed && message.contains("locks the hatch"), "{message}");
    assert!(!w.system.is_armed());
}

#[test]
fn an_arm_that_had_its_effect_before_the_crash_does_not_undo_a_later_disarm() {
    let mut w = World::new(&[]);
    ended(&mut w, OperationType::Disarm, "");
    let arm = w.ask(OperationType::Arm, "");
    w.step_operation(arm, 1);
    assert!(w.system.is_armed() && w.phase(arm) == OperationPhase::Pending, "killed before it said so");
    let disarm = w.ask(OperationType::Disarm, "");
    w.step_operation(disarm, 1);
    w.settle();
    assert!(!w.system.is_armed());
    assert_eq!((w.phase(arm), w.phase(disarm)), (OperationPhase::Succeeded, OperationPhase::Succeeded));
}

#[test]
fn an_arm_that_still_waits_is_overtaken_by_a_later_disarm() {
    let mut w = busy();
    let stop = w.ask(OperationType::Stop, "worker-1");
    w.step_operation(stop, 1);
    w.step_operation(stop, 1);
    let arm = w.ask(OperationType::Arm, "");
    w.step_operation(arm, 1);
    assert!(w.message(arm).contains("waits for the end of Operation op-"), "{}", w.message(arm));
    let disarm = w.ask(OperationType::Disarm, "");
    w.step_operation(disarm, 1);
    w.step_operation(disarm, 1);
    assert_eq!(w.phase(disarm), OperationPhase::Succeeded, "it waits for nobody");
    w.settle();
    assert_eq!((w.phase(stop), w.phase(arm)), (OperationPhase::Succeeded, OperationPhase::Failed));
    assert!(!w.system.is_armed());
    assert_eq!(ended(&mut w, OperationType::Arm, "").0, OperationPhase::Succeeded);
}

#[test]
fn operations_are_carried_out_in_the_order_of_creation() {
    let mut w = World::new(&[]);
    let stop = w.ask(OperationType::Stop, "judge");
    let start = w.ask(OperationType::Start, "judge");
    w.step_operation(start, 1);
    w.settle();
    assert_eq!((w.phase(stop), w.phase(start)), (OperationPhase::Succeeded, OperationPhase::Succeeded));
    assert!(!w.system.is_stopped("judge"));
}

#[test]
fn cleanup_names_the_namespace_is_refused_while_armed_and_can_be_tried_dry() {
    let mut w = busy();
    let (phase, message) = ended(&mut w, OperationType::Cleanup, "other");
    assert!(phase == OperationPhase::Failed && message.contains("this namespace, ns"), "{message}");
    let (phase, message) = ended(&mut w, OperationType::Cleanup, "ns");
    assert!(phase == OperationPhase::Failed && message.contains("armed"), "{message}");
    let spec = |dry_run, force| OperationSpec {
        type_: OperationType::Cleanup,
        confirm: Some("ns".into()),
        dry_run,
        force,
        ..OperationSpec::default()
    };
    let dry = w.ask_spec(spec(true, false));
    w.settle();
    let counted = result(&w, dry);
    assert_eq!((counted.tasks, counted.runs, counted.operations), (Some(4), Some(3), Some(2)));
    assert_eq!((w.phase(dry), w.tasks.len(), w.runs.len()), (OperationPhase::Succeeded, 4, 3));
    w.ask_spec(spec(false, true));
    w.settle();
    assert_eq!((w.tasks.len(), w.runs.len(), w.pods.len()), (0, 0, 0));
    assert_eq!(w.operations.len(), 1, "all but itself");
    let counted = result(&w, 0);
    assert_eq!((counted.tasks, counted.runs, counted.operations), (Some(4), Some(3), Some(3)));
    assert!(w.system.is_armed() && w.pools.len() == 1, "pools, System and hatch stay");
}

#[test]
fn cleanup_leaves_what_was_created_after_it_was_asked_for() {
    let mut w = World::new(&["a"]);
    ended(&mut w, OperationType::Disarm, "");
    let cleanup = w.ask(OperationType::Cleanup, "ns");
    let mut later = task("later");
    later.metadata.creation_timestamp =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(w.clock + 1)));
    w.tasks.push(later);
    for _ in 0..9 {
        w.step_operation(cleanup.min(w.operations.len() - 1), 9);
    }
    assert_eq!(w.tasks.len(), 1);
    assert_eq!(w.status("later").phase, TaskPhase::Queued);
}

#[test]
fn requeue_and_complete_move_a_task_once() {
    let mut w = World::new(&["a", "b"]);
    for task in &mut w.tasks {
        let status = task.status.get_or_insert_default();
        status.phase = TaskPhase::Failed;
        status.retry_at = Some(at(100_000));
        status.retries.failure = 2;
    }
    assert_eq!(ended(&mut w, OperationType::Requeue, "a").0, OperationPhase::Succeeded);
    let a = w.status("a");
    assert_eq!((a.phase, a.retry_at, a.retries.failure), (TaskPhase::Queued, None, 2));
    assert_eq!(a.transitions.last().map(|t| t.event.as_str()), Some("task.requeued"));
    assert_eq!(ended(&mut w, OperationType::Requeue, "a").1, "Task a is queued already");
    assert_eq!(w.status("a").transitions.len(), 1);
    assert_eq!(ended(&mut w, OperationType::Complete, "b").0, OperationPhase::Succeeded);
    assert_eq!(w.status("b").phase, TaskPhase::Done);
    for type_ in [OperationType::Requeue, OperationType::Complete] {
        let (phase, message) = ended(&mut w, type_, "b");
        assert_eq!((phase, message.as_str()), (OperationPhase::Failed, "Task b is Done for good"));
    }
    assert_eq!(ended(&mut w, OperationType::Requeue, "none").1, "there is no Task named none");
    w.step_dispatcher();
    let (phase, message) = ended(&mut w, OperationType::Requeue, "a");
    assert!(phase == OperationPhase::Failed && message.contains("in progress"), "{message}");
}

#[test]
fn a_request_is_carried_out_once_however_late_its_end_is_noted() {
    let mut w = World::new(&["a"]);
    let status = w.tasks[0].status.get_or_insert_default();
    (status.phase, status.retry_at) = (TaskPhase::Failed, Some(at(100_000)));
    let op = w.ask(OperationType::Requeue, "a");
    w.step_operation(op, 1);
    assert_eq!(w.phase(op), OperationPhase::Running);
    w.step_tasks();
    // It fails once more before the Operation looks again.
    let status = w.tasks[0].status.get_or_insert_default();
    (status.phase, status.retry_at) = (TaskPhase::Failed, Some(at(100_000)));
    w.step_tasks();
    assert_eq!(w.status("a").phase, TaskPhase::Failed);
    w.step_operation(op, 1);
    assert_eq!((w.phase(op), w.status("a").transitions.len()), (OperationPhase::Succeeded, 1));
}

#[test]
fn a_stopped_cycle_manager_holds_back_what_is_due_and_says_so() {
    let mut w = World::new(&["a"]);
    ended(&mut w, OperationType::Stop, "cycle-manager");
    let status = w.tasks[0].status.get_or_insert_default();
    (status.phase, status.retry_at) = (TaskPhase::Failed, Some(at(w.clock + 5)));
    w.settle();
    let held = w.status("a");
    assert_eq!(held.phase, TaskPhase::Failed);
    assert_eq!(held.next.as_ref().map(|n| n.kind), Some(NextKind::Operator));
    assert!(held.conditions.iter().any(|c| c.reason == CYCLE_MANAGER_STOPPED));
    assert_eq!(ended(&mut w, OperationType::Start, "cycle-manager").0, OperationPhase::Succeeded);
    assert_eq!(w.status("a").phase, TaskPhase::Queued);
}

#[test]
fn a_start_frees_an_agent_that_crashed_too_often_before_it_but_not_one_that_did_so_later() {
    let mut w = World::new(&[]);
    ended(&mut w, OperationType::Start, "worker-1");
    let hold = |name: &str, reason, since| AgentHold {
        name: name.into(),
        reason,
        last_crash: Some(since),
        ..AgentHold::default()
    };
    let exhausted = AgentHoldReason::Exhausted;
    for (hold, released) in [
        (hold("worker-1", exhausted, at(-5)), true),
        (hold("worker-1", exhausted, at(w.clock + 5)), false),
        (hold("worker-2", exhausted, at(-5)), false),
        (hold("worker-1", AgentHoldReason::Restarting, at(-5)), false),
    ] {
        assert_eq!(released_by(w.operations.iter(), &hold), released, "{hold:?}");
    }
}

#[test]
fn preflight_counts_and_recommends_and_changes_nothing() {
    let mut w = busy();
    ended(&mut w, OperationType::Stop, "worker-3");
    let before = (w.system.clone(), w.tasks.clone());
    let op = w.ask(OperationType::Preflight, "");
    w.step_operation(op, 1);
    assert_eq!((w.system.clone(), w.tasks.clone()), before);
    let found = result(&w, op).preflight.unwrap();
    assert_eq!((found.queued_tasks, found.running_tasks, found.hatch), (2, 2, HatchState::Armed));
    assert_eq!((found.pools[0].slots, found.stopped.len()), (2, 1));
    let advice = found.recommendations;
    assert!(advice.start_dispatcher && advice.start_cycle_manager && !advice.start_judge);
    assert_eq!((advice.worker_count, advice.judge_count), (2, 0));
}

/// What a schedule may do between the steps of the Operations.
fn disturb(w: &mut World, choice: u8) {
    match choice % 8 {
        0 => w.step_runs(),
        1 => w.step_tasks(),
        2 => w.step_nodes(),
        3 => w.step_system(),
        4 => w.step_dispatcher(),
        5 => w.clock += 1,
        // A Pod ends well by itself.
        6 => {
            let running = w.pods.iter().position(|p| p.deleted.is_none() && p.phase == PodPhase::Running);
            let run = running
                .and_then(|at| w.runs.iter().find(|r| r.uid().as_deref() == Some(&w.pods[at].run_uid)));
            if let (Some(at), Some(run)) = (running, run.cloned()) {
                w.pods[at] = pod_with(&run, &ContainerResult::new(Outcome::Success));
            }
        }
        // The operator is killed: nothing but the objects is left, and nothing but them was used.
        _ => {}
    }
}

/// What must hold whenever a StopAll has succeeded and nothing was armed since (S13).
fn stopped_for_good(w: &World) {
    assert_eq!(w.live_pods(), 0);
    assert!(!w.system.is_armed());
    assert!(component::ALL.iter().all(|name| w.system.is_stopped(name)));
    for run in &w.runs {
        let status = run.status.clone().unwrap_or_default();
        assert!(matches!(status.phase, RunPhase::Success | RunPhase::Cancelled), "{status:?}");
    }
    for task in &w.tasks {
        let status = task.status.clone().unwrap_or_default();
        assert!(matches!(status.phase, TaskPhase::Queued | TaskPhase::Done), "{status:?}");
        assert_eq!((status.retries, status.retry_at, status.current_run), Default::default());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    // S13: killed at any step, with any other controller at work in between, StopAll ends in the same
    // state, and its counts are those of the Runs it cancelled.
    #[test]
    fn stop_all_ends_in_the_same_state_however_it_is_interrupted(
        before in proptest::collection::vec(0u8..8, 0..12),
        schedule in proptest::collection::vec((0u8..9, 0usize..3), 0..60),
    ) {
        let mut w = busy();
        before.iter().for_each(|choice| disturb(&mut w, *choice));
        let op = w.ask(OperationType::StopAll, "");
        for (choice, deletions) in schedule {
            if choice == 8 { w.step_operation(op, deletions) } else { disturb(&mut w, choice) }
            if w.phase(op) == OperationPhase::Succeeded {
                stopped_for_good(&w);
            }
        }
        w.settle();
        prop_assert_eq!(w.phase(op), OperationPhase::Succeeded);
        stopped_for_good(&w);
        let by_it = w.runs.iter().filter(|r| r.status.as_ref().is_some_and(|s| s.cancelled_by == w.operations[op].uid_str()));
        prop_assert_eq!(result(&w, op).cancelled_runs, Some(by_it.count() as i32));
        let state = (w.system.clone(), w.tasks.clone(), w.runs.clone());
        let again = w.ask(OperationType::StopAll, "");
        w.settle();
        prop_assert_eq!(w.phase(again), OperationPhase::Succeeded);
        prop_assert_eq!((w.system, w.tasks, w.runs), state);
    }

    // Any mix of Operations, each step of any of them lost or late: all of them end, and the hatch is as
    // the last Arm, Disarm or StopAll left it.
    #[test]
    fn any_mix_of_operations_ends_and_the_last_word_on_the_hatch_holds(
        asked in proptest::collection::vec((0u8..7, 0u8..40), 1..6),
        schedule in proptest::collection::vec((0u8..8, 0usize..6), 0..80),
    ) {
        let mut w = busy();
        let mut steps = schedule.iter();
        for (kind, pause) in &asked {
            let (type_, about) = match kind {
                0 => (OperationType::Arm, ""),
                1 => (OperationType::Disarm, ""),
                2 => (OperationType::Stop, "worker-1"),
                3 => (OperationType::Start, "worker-1"),
                4 => (OperationType::StopAll, ""),
                5 => (OperationType::Start, "dispatcher"),
                _ => (OperationType::Requeue, "a"),
            };
            w.ask(type_, about);
            for (choice, which) in steps.by_ref().take(usize::from(*pause)) {
                if *which < w.operations.len() { w.step_operation(*which, 1) } else { disturb(&mut w, *choice) }
            }
        }
        w.settle();
        for index in 0..w.operations.len() {
            prop_assert!(w.phase(index).is_terminal(), "{}", w.message(index));
        }
        let last = asked.iter().rev().find_map(|(kind, _)| match kind { 0 => Some(true), 1 | 4 => Some(false), _ => None });
        prop_assert_eq!(w.system.is_armed(), last.unwrap_or(true));
    }
}
