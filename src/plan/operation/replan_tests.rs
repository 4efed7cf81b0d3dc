//! Replan, case by case, and under lost steps.

use super::super::world::World;
use super::super::*;
use crate::crd::operation::OperationResult;
use crate::crd::system::component;
use crate::crd::{
    BlockReason, HatchState, OperationPhase, OperationStatus, OperationType, Task, TaskPhase, labels,
};
use crate::plan::fixtures::{at, task};
use crate::plan::planner::start::decide;

/// Nothing to do, and a requirement.
fn planner(tasks: &[&str]) -> World {
    let mut w = World::new(tasks);
    w.system.spec.planner.enabled = true;
    w.system.spec.planner.auto_replan = false;
    w.system.spec.planner.requirement = Some("# Goal\n\nShip it\n".to_owned());
    w
}

fn status(w: &World, operation: usize) -> OperationStatus {
    w.operations[operation].status.clone().unwrap_or_default()
}

fn result(w: &World, operation: usize) -> OperationResult {
    status(w, operation).result.unwrap_or_default()
}

fn plans(w: &World) -> Vec<&Task> {
    w.tasks.iter().filter(|t| t.spec.role == crate::crd::pool::Role::Planner).collect()
}

/// One step of the system controller's planning.
fn step_planner(w: &mut World) {
    let tasks: Vec<&Task> = w.tasks.iter().collect();
    let mut planning = decide(&w.system, &tasks, at(w.clock));
    let created = planning.create.take();
    let mut noted = w.system.status.clone().unwrap();
    planning.note(&w.system, &mut noted, at(w.clock));
    w.system.status = Some(noted);
    if let Some(mut task) = created
        && !w.tasks.iter().any(|t| t.name_any() == task.name_any())
    {
        task.metadata.uid = Some("uid-auto".into());
        w.tasks.push(task);
    }
}

/// Asks and lets only the operation controller work.
fn asked(w: &mut World) -> usize {
    let operation = w.ask(OperationType::Replan, "");
    for _ in 0..6 {
        w.step_operation(operation, usize::MAX);
    }
    operation
}

#[test]
fn a_plan_is_made_without_waiting_for_the_interval_and_the_planner_takes_it_as_its_own() {
    let mut w = planner(&[]);
    let planner = w.system.status.get_or_insert_default().planner.get_or_insert_default();
    (planner.rounds, planner.last_tried_at, planner.last_ended_at) = (3, Some(at(0)), Some(at(0)));
    planner.last_planned_at = Some(at(0));
    let op = asked(&mut w);
    assert_eq!(w.phase(op), OperationPhase::Succeeded, "{}", w.message(op));
    let name = result(&w, op).task.expect("a name");
    let plan = plans(&w)[0];
    assert_eq!(plan.name_any(), name);
    assert_eq!(plan.labels().get(labels::OPERATION).map(String::as_str), w.operations[op].uid().as_deref());
    assert_eq!((plan.spec.goal.as_str(), plan.spec.kind.as_str()), ("# Goal\n\nShip it\n", "plan"));
    step_planner(&mut w);
    assert_eq!(w.system.status.unwrap().planner.unwrap().current, name);
}

#[test]
fn every_refusal_of_a_start_by_hand_fails_with_its_sentence_and_counts_in_the_order_of_2_4() {
    let mut w = planner(&["q", "r", "f", "b"]);
    let set = |w: &mut World, n: usize, phase| w.tasks[n].status.get_or_insert_default().phase = phase;
    set(&mut w, 1, TaskPhase::Running);
    set(&mut w, 2, TaskPhase::Failed);
    set(&mut w, 3, TaskPhase::Blocked);
    w.tasks[3].status.get_or_insert_default().block_reason = Some(BlockReason::AwaitingJudge);
    let mut running = task("plan-a");
    running.spec.role = crate::crd::pool::Role::Planner;
    w.tasks.push(running);
    w.system.spec.planner.requirement = None;
    // First: a plan is being made.
    let op = asked(&mut w);
    assert_eq!((w.phase(op), result(&w, op).task.as_deref()), (OperationPhase::Failed, Some("plan-a")));
    assert!(w.message(op).contains("running already: Task plan-a"), "{}", w.message(op));
    // Then the backlog.
    w.tasks.pop();
    let op = asked(&mut w);
    assert_eq!(w.phase(op), OperationPhase::Failed);
    assert!(w.message(op).contains("1 Tasks Queued, 1 Running, 1 Failed, 1 Blocked"), "{}", w.message(op));
    let backlog = result(&w, op).backlog.expect("counts");
    let counts = (backlog.queued_tasks, backlog.running_tasks, backlog.failed_tasks, backlog.blocked_tasks);
    assert_eq!((counts, backlog.pending_judge_tasks), ((1, 1, 1, 1), 1));
    // Each of the four alone refuses.
    for phase in [TaskPhase::Queued, TaskPhase::Running, TaskPhase::Failed, TaskPhase::Blocked] {
        w.tasks.truncate(1);
        set(&mut w, 0, phase);
        let op = asked(&mut w);
        assert!(w.message(op).contains("there is a backlog"), "{phase:?}: {}", w.message(op));
    }
    // Then the requirement, and whether there is planning at all.
    for phase in [TaskPhase::Done, TaskPhase::Cancelled] {
        set(&mut w, 0, phase);
        let op = asked(&mut w);
        assert!(w.message(op).contains("no requirement with a goal"), "{phase:?}: {}", w.message(op));
    }
    w.system.spec.planner.enabled = false;
    let op = asked(&mut w);
    assert!(w.message(op).contains("planning is switched off"), "{}", w.message(op));
    assert_eq!(result(&w, op).task, None);
    assert!(plans(&w).is_empty());
}

#[test]
fn a_refused_replan_leaves_hatch_and_planner_as_they_were_trap_3() {
    let mut w = planner(&["q"]);
    let status = w.system.status.get_or_insert_default();
    status.hatch.state = HatchState::Disarmed;
    status.stopped = vec![component::PLANNER.to_owned()];
    let before = w.system.clone();
    let op = asked(&mut w);
    assert_eq!(w.phase(op), OperationPhase::Failed);
    assert_eq!(w.system, before);
}

#[test]
fn a_planner_that_is_stopped_is_started_and_a_disarmed_hatch_is_said() {
    let mut w = planner(&[]);
    let status = w.system.status.get_or_insert_default();
    status.hatch.state = HatchState::Disarmed;
    status.stopped = vec![component::PLANNER.to_owned(), component::JUDGE.to_owned()];
    let op = asked(&mut w);
    assert_eq!(w.phase(op), OperationPhase::Succeeded, "{}", w.message(op));
    assert!(w.message(op).contains("before the hatch is armed"), "{}", w.message(op));
    let status = w.system.status.clone().unwrap();
    assert_eq!((status.stopped, status.hatch.state), (vec!["judge".to_owned()], HatchState::Disarmed));
}

#[test]
fn the_planner_that_begins_by_itself_at_the_same_time_makes_the_same_one_plan() {
    for before in 0..4 {
        let mut w = planner(&[]);
        w.system.spec.planner.auto_replan = true;
        w.system.status.get_or_insert_default().stopped = vec![component::PLANNER.to_owned()];
        let op = w.ask(OperationType::Replan, "");
        for _ in 0..before {
            w.step_operation(op, usize::MAX);
        }
        step_planner(&mut w);
        for _ in 0..6 {
            w.step_operation(op, usize::MAX);
            step_planner(&mut w);
        }
        assert_eq!(w.phase(op), OperationPhase::Succeeded, "after {before}: {}", w.message(op));
        assert_eq!(plans(&w).len(), 1, "after {before}");
    }
}

#[test]
fn a_step_whose_note_was_lost_makes_no_second_plan() {
    for lost in 0..4 {
        let mut w = planner(&[]);
        let op = w.ask(OperationType::Replan, "");
        for step in 0..8 {
            let before = w.operations[op].clone();
            w.step_operation(op, usize::MAX);
            if step == lost && !matches!(w.phase(op), OperationPhase::Pending) && plans(&w).len() == 1 {
                // Killed before the status was written.
                w.operations[op] = before;
            }
            step_planner(&mut w);
        }
        assert_eq!((w.phase(op), plans(&w).len()), (OperationPhase::Succeeded, 1), "lost {lost}");
    }
}

#[test]
fn a_plan_that_was_deleted_before_it_was_noted_is_not_made_behind_a_persons_back() {
    let mut w = planner(&[]);
    let op = w.ask(OperationType::Replan, "");
    w.step_operation(op, usize::MAX);
    w.step_operation(op, usize::MAX);
    step_planner(&mut w);
    w.tasks.clear();
    step_planner(&mut w);
    w.step_operation(op, usize::MAX);
    assert_eq!((w.phase(op), w.tasks.len()), (OperationPhase::Failed, 0), "{}", w.message(op));
    assert!(w.message(op).contains("is not there any more"), "{}", w.message(op));
}

#[test]
fn a_task_of_the_name_that_is_not_the_planners_refuses_and_a_later_stop_all_overtakes() {
    let mut w = planner(&[]);
    let op = asked(&mut w);
    let name = result(&w, op).task.expect("a name");
    w.tasks = vec![task(&name)];
    w.tasks[0].status.get_or_insert_default().phase = TaskPhase::Done;
    let op = asked(&mut w);
    assert!(w.message(op).contains("was not made by the planner"), "{}", w.message(op));
    w.tasks.clear();
    let op = w.ask(OperationType::Replan, "");
    w.ask(OperationType::StopAll, "");
    w.settle();
    assert_eq!((w.phase(op), plans(&w).len()), (OperationPhase::Failed, 0), "{}", w.message(op));
}
