//! Planning from the first Task to the next round.

use super::*;
use crate::crd::planner::IssueImport;
use crate::plan::fixtures::{at, now, system, task};

fn planner() -> System {
    let mut system = system();
    system.spec.planner.enabled = true;
    system.spec.planner.requirement = Some("# Goal\n\nShip it\n".to_owned());
    system
}

/// The System after `planning` was noted.
fn noted(mut system: System, planning: Planning) -> System {
    let mut status = system.status.clone().expect("a status");
    planning.note(&system, &mut status, now());
    system.status = Some(status);
    system
}

/// As the caches keep an ended Task: without its spec.
fn ended(mut task: Task, phase: TaskPhase) -> Task {
    task.spec = TaskSpec::default();
    task.metadata.uid = Some("uid-plan".to_owned());
    task.status.get_or_insert_default().phase = phase;
    task
}

fn child(name: &str) -> Task {
    let mut child = task(name);
    child.labels_mut().insert(labels::PARENT_UID.into(), "uid-plan".into());
    child.annotations_mut().insert(labels::PLAN_SIGNATURE.into(), "signature-1".into());
    child.status.get_or_insert_default().phase = TaskPhase::Done;
    child
}

#[test]
fn an_empty_backlog_starts_a_task_that_plans_and_only_one() {
    let system = planner();
    let first = decide(&system, &[], now());
    let created = first.create.clone().expect("a Task");
    assert_eq!((created.spec.role, created.spec.kind.as_str()), (Role::Planner, "plan"));
    assert_eq!(created.spec.goal, "# Goal\n\nShip it\n");
    assert_eq!(created.spec.timebox, system.spec.planner.timebox);
    assert_eq!(first.status.current, created.name_any());
    // The note was lost: the Task is found again, and no second one is made.
    let again = decide(&system, &[&created], now());
    assert_eq!((again.create.is_none(), again.status.current), (true, created.name_any()));
    assert_eq!((again.active, again.reason), (true, "planner_busy"));
}

#[test]
fn nothing_starts_while_switched_off_stopped_disarmed_or_without_a_requirement() {
    let refused = |change: fn(&mut System)| {
        let mut system = planner();
        change(&mut system);
        let planning = decide(&system, &[], now());
        assert!(planning.create.is_none());
        planning.reason
    };
    assert_eq!(refused(|s| s.spec.planner.enabled = false), "disabled_or_running");
    assert_eq!(refused(|s| s.spec.planner.auto_replan = false), "disabled_or_running");
    assert_eq!(
        refused(|s| s.status.get_or_insert_default().hatch = Default::default()),
        "disabled_or_running"
    );
    let stop = |s: &mut System| s.status.get_or_insert_default().stopped.push("planner".into());
    assert_eq!(refused(stop), "disabled_or_running");
    assert_eq!(
        refused(|s| s.spec.planner.requirement = Some("# Goal\n\n".into())),
        "missing_requirement_path"
    );
    assert_eq!(refused(|s| s.spec.planner.requirement = None), "missing_requirement_path");
}

#[test]
fn work_in_progress_and_reviews_keep_the_gate_shut_and_the_condition_says_so() {
    let mut waiting = task("a");
    waiting.status.get_or_insert_default().phase = TaskPhase::Blocked;
    assert_eq!(decide(&planner(), &[&waiting], now()).reason, "blocked_tasks_present");
    waiting.status.get_or_insert_default().block_reason = Some(BlockReason::AwaitingJudge);
    let planning = decide(&planner(), &[&waiting], now());
    assert_eq!(planning.reason, "pending_judge_runs");
    let system = noted(planner(), planning);
    let conditions = system.status.expect("a status").conditions;
    let said = conditions.iter().find(|c| c.type_ == condition::PLANNER).expect("the condition");
    assert_eq!((said.status.as_str(), said.reason.as_str()), ("False", "PendingJudgeRuns"));
    assert!(said.message.contains("wait for their review"));
}

#[test]
fn the_end_of_a_plan_is_taken_in_once_and_the_next_round_has_another_name() {
    let first = decide(&planner(), &[], now());
    let plan = ended(first.create.clone().expect("a Task"), TaskPhase::Done);
    let system = noted(planner(), first);
    let done = child("0123-1-a");
    let second = decide(&system, &[&plan, &done], at(60));
    assert_eq!(second.reason, "planner_recently_active");
    assert_eq!(second.status.last_signature, "signature-1");
    assert_eq!((second.status.rounds, second.status.last_planned_at), (1, Some(at(60))));
    assert!(second.status.last_result.ends_with("planned 1 Tasks"), "{}", second.status.last_result);
    let system = noted(system, second);
    let third = decide(&system, &[&plan, &done], at(200));
    assert_eq!((third.reason, third.status.rounds), ("recent_plan", 1));
    assert_eq!(third.again_at, Some(at(360)));
    let fourth = decide(&noted(system, third), &[&plan, &done], at(360));
    let next = fourth.create.expect("the next round");
    assert_ne!(next.name_any(), plan.name_any());
}

#[test]
fn a_plan_that_would_be_the_last_one_again_restarts_the_interval_c105() {
    let first = decide(&planner(), &[], now());
    let plan = ended(first.create.clone().expect("a Task"), TaskPhase::Done);
    let system = noted(planner(), first);
    let second = decide(&system, &[&plan], at(100));
    assert_eq!(second.status.last_planned_at, None);
    assert!(second.status.last_result.contains("planned nothing"));
    let third = decide(&noted(system, second), &[&plan], at(300));
    assert_eq!((third.reason, third.again_at), ("interval", Some(at(400))));
}

#[test]
fn issues_alone_are_enough_to_plan_from_and_leave_the_last_plan_as_it_was() {
    let mut system = planner();
    system.spec.planner.requirement = None;
    system.spec.planner.issues = Some(IssueImport::default());
    system.status.get_or_insert_default().planner =
        Some(PlannerStatus { last_signature: "signature-0".into(), ..PlannerStatus::default() });
    let first = decide(&system, &[], now());
    let plan = first.create.clone().expect("a Task");
    assert_eq!(plan.spec.goal, ISSUES_ONLY);
    let mut of_issue = child("issue-7-abcdef");
    of_issue.annotations_mut().clear();
    let plan = ended(plan, TaskPhase::Done);
    let second = decide(&noted(system, first), &[&plan, &of_issue], at(60));
    assert_eq!(second.status.last_signature, "signature-0");
    assert!(second.status.last_result.ends_with("planned 1 Tasks"), "{}", second.status.last_result);
}

#[test]
fn a_plan_that_was_deleted_or_cancelled_does_not_stop_planning_for_ever() {
    let first = decide(&planner(), &[], now());
    let plan = ended(first.create.clone().expect("a Task"), TaskPhase::Cancelled);
    let system = noted(planner(), first);
    assert!(decide(&system, &[], at(1)).status.last_result.ends_with("was deleted"));
    let after = decide(&system, &[&plan], at(1));
    assert!(after.status.last_result.contains("ended Cancelled"));
    assert!(decide(&noted(system, after), &[&plan], at(400)).create.is_some());
}
