//! The state machine of a Task, case by case.

use jiff::Timestamp;
use kube::ResourceExt;

use super::{INFRA_CAP, Observed, Orders, TaskPlan, admitted, plan_task};
use crate::crd::condition::is_true;
use crate::crd::system::Recovery;
use crate::crd::task::condition;
use crate::crd::*;
use crate::plan::fixtures::*;

fn decide(task: &Task, runs: &[&Run], live_pod: bool, now: Timestamp) -> TaskPlan {
    plan_task(&Observed {
        task,
        runs,
        live_pod,
        confirmed: true,
        system: &SystemSpec::default(),
        children: &[],
        orders: Orders::default(),
        now,
    })
}

fn write(plan: TaskPlan) -> TaskStatus {
    match plan {
        TaskPlan::Write(status) => *status,
        other => panic!("{other:?}"),
    }
}

fn end(run: &mut Run, phase: RunPhase, code: &str, class: Option<FailureClass>, summary: &str) {
    run.status = Some(RunStatus {
        phase,
        failure_code: code.into(),
        failure_class: class,
        finished_at: Some(at(20)),
        summary: summary.into(),
        ..RunStatus::default()
    });
}

/// Ends the Run in progress this way and absorbs it, then walks to the next attempt.
fn fail(task: &mut Task, runs: &mut Vec<Run>, code: &str, class: FailureClass, summary: &str) -> TaskStatus {
    let mut run = run_of(task);
    task.status = Some(admitted(task, &run, &[], now()));
    end(&mut run, RunPhase::Failed, code, Some(class), summary);
    runs.push(run);
    let refs: Vec<&Run> = runs.iter().collect();
    let status = write(decide(task, &refs, false, at(21)));
    task.status = Some(status.clone());
    if let Some(at) = status.retry_at {
        let refs: Vec<&Run> = runs.iter().collect();
        if let TaskPlan::Write(queued) = decide(task, &refs, false, at) {
            task.status = Some(*queued);
        }
    }
    status
}

#[test]
fn an_admission_says_everything_a_reader_needs() {
    let (task, run) = running("a");
    let status = task.status.unwrap();
    assert_eq!((status.phase, status.attempts), (TaskPhase::Running, 1));
    assert_eq!((status.current_run.clone(), status.last_run), (run.name_any(), run.name_any()));
    assert_eq!(status.agent, "worker-1");
    assert!(status.next.is_some());
    assert_eq!(status.effective.unwrap().lane.as_deref(), Some("feature"));
    assert_eq!(status.transitions.len(), 1);
    assert!(is_true(&status.conditions, condition::PROGRESSING));
}

#[test]
fn a_run_created_before_its_task_was_marked_is_adopted() {
    let task = task("a");
    let run = run_of(&task);
    let status = write(decide(&task, &[&run], false, now()));
    assert_eq!((status.phase, status.current_run), (TaskPhase::Running, run.name_any()));
}

#[test]
fn success_ends_the_task() {
    let (task, mut run) = running("a");
    end(&mut run, RunPhase::Success, "", None, "");
    run.status.as_mut().unwrap().branch = "agent/a".into();
    let status = write(decide(&task, &[&run], false, at(21)));
    assert_eq!((status.phase, status.next.as_ref()), (TaskPhase::Done, None));
    assert!(is_true(&status.conditions, condition::COMPLETE));
    assert_eq!(status.branch, "agent/a");
    assert_eq!(status.transitions.last().unwrap().sequence, 2);
}

#[test]
fn a_result_is_absorbed_once_a68() {
    let (mut task, mut run) = running("a");
    end(&mut run, RunPhase::Failed, "execution_failed", Some(FailureClass::Model), "boom");
    let status = write(decide(&task, &[&run], false, at(21)));
    assert_eq!(status.retries.failure, 1);
    task.status = Some(status);
    assert_eq!(decide(&task, &[&run], false, at(22)), TaskPlan::Wait { until: Some(at(50)) });
}

#[test]
fn a_failed_execution_cools_down_and_is_queued_again() {
    let (mut task, mut runs) = (task("a"), Vec::new());
    let status = fail(&mut task, &mut runs, "execution_failed", FailureClass::Model, "boom");
    assert_eq!((status.phase, status.retry_at), (TaskPhase::Failed, Some(at(50))));
    assert_eq!(status.next.as_ref().unwrap().kind, NextKind::Time);
    let queued = task.status.clone().unwrap();
    assert_eq!((queued.phase, queued.retry_at, queued.attempts), (TaskPhase::Queued, None, 1));
    assert_eq!(queued.transitions.last().unwrap().reason, "cooldown_retry");
}

#[test]
fn dispatch_retry_delay_is_the_floor_of_the_one_clock() {
    let (task, mut run) = running("a");
    end(&mut run, RunPhase::Failed, "execution_failed", Some(FailureClass::Model), "boom");
    let recovery = Recovery { dispatch_retry_delay: Some(GoDuration("5m".into())), ..Recovery::default() };
    let system = SystemSpec { recovery, ..SystemSpec::default() };
    let observed = Observed {
        task: &task,
        runs: &[&run],
        live_pod: false,
        confirmed: true,
        system: &system,
        children: &[],
        orders: Orders::default(),
        now: at(21),
    };
    assert_eq!(write(plan_task(&observed)).retry_at, Some(at(320)));
}

#[test]
fn the_limit_of_the_class_leads_to_rework_in_place() {
    let (mut task, mut runs) = (task("a"), Vec::new());
    for attempt in 0..3 {
        let status = fail(
            &mut task,
            &mut runs,
            "execution_failed",
            FailureClass::Model,
            &format!("boom {attempt} x{attempt}"),
        );
        assert_eq!(status.phase, TaskPhase::Failed, "attempt {attempt}");
    }
    let status = fail(&mut task, &mut runs, "execution_failed", FailureClass::Model, "other words");
    assert_eq!((status.phase, status.block_reason), (TaskPhase::Blocked, Some(BlockReason::NeedsRework)));
    let last = status.transitions.last().unwrap();
    assert_eq!(
        (last.event.as_str(), last.reason.as_str()),
        ("task.recovery_escalated", "model_or_unknown_failure")
    );
    assert_eq!((status.retries.failure, status.retries.rework, status.retry_at), (3, 1, Some(at(140))));
    assert_eq!(task.status.unwrap().transitions.last().unwrap().reason, "needs_rework_in_place_retry");
}

#[test]
fn what_only_an_edit_can_help_waits_for_a_person_and_an_edit_leads_on() {
    let (mut task, mut runs) = (task("a"), Vec::new());
    let code = crate::plan::verdict::code::INPUTS_TOO_LARGE;
    let status = fail(&mut task, &mut runs, code, FailureClass::Model, "the inputs are too large");
    assert_eq!(status.next.as_ref().unwrap().kind, NextKind::Operator);
    assert!(is_true(&status.conditions, condition::STALLED));
    assert_eq!(decide(&task, &[], false, at(9999)), TaskPlan::Wait { until: None });
    task.metadata.generation = Some(2);
    let queued = write(decide(&task, &[], false, at(9999)));
    assert_eq!(
        (queued.phase, queued.transitions.last().unwrap().reason.as_str()),
        (TaskPhase::Queued, "spec_edited")
    );
    assert!(!is_true(&queued.conditions, condition::STALLED));
}

#[test]
fn four_failures_of_one_signature_lead_to_rework_c67() {
    let (mut task, mut runs) = (task("a"), Vec::new());
    for attempt in 0..3 {
        let status = fail(
            &mut task,
            &mut runs,
            "transient_or_flaky_failure",
            FailureClass::Flaky,
            "timed out after 12 s",
        );
        assert_eq!(status.phase, TaskPhase::Failed, "attempt {attempt}");
    }
    let status =
        fail(&mut task, &mut runs, "transient_or_flaky_failure", FailureClass::Flaky, "timed out after 99 s");
    let last = status.transitions.last().unwrap();
    assert_eq!((status.phase, last.event.as_str()), (TaskPhase::Blocked, "task.recovery_escalated"));
    assert_eq!(last.reason, "repeated_same_failure_signature");
}

#[test]
fn verification_failures_need_rework_and_are_tried_in_place() {
    let (mut task, mut runs) = (task("a"), Vec::new());
    let status =
        fail(&mut task, &mut runs, "verification_command_failed", FailureClass::Test, "1 test failed");
    assert_eq!((status.phase, status.block_reason), (TaskPhase::Blocked, Some(BlockReason::NeedsRework)));
    assert_eq!(status.retry_at, Some(at(140)));
    assert_eq!(task.status.unwrap().transitions.last().unwrap().reason, "needs_rework_in_place_retry");
}

#[test]
fn a_refused_path_is_told_to_the_next_attempt() {
    let (mut task, mut runs) = (task("a"), Vec::new());
    let status = fail(
        &mut task,
        &mut runs,
        "policy_violation",
        FailureClass::Policy,
        "change outside allowed paths: secrets.txt",
    );
    assert_eq!((status.phase, status.block_reason), (TaskPhase::Blocked, Some(BlockReason::NeedsRework)));
    assert_eq!((status.retry_at, status.retries.rework), (Some(at(140)), 1));
    assert_eq!(status.transitions.last().unwrap().reason, "policy_violation_rework_suppressed_no_safe_path");
    let failure = status.last_failure.unwrap();
    assert_eq!((failure.class.as_str(), failure.remedy.as_str()), ("policy", "needs_rework_in_place_retry"));
    let hint = run_of(&task).spec.inputs.previous_failure;
    assert!(hint.contains("secrets.txt"), "{hint}");
}

#[test]
fn a_provider_limit_waits_until_the_stated_reset_and_costs_only_quota_a12() {
    let (task, mut run) = running("a");
    end(&mut run, RunPhase::Failed, "quota_failure", Some(FailureClass::Env), "usage limit");
    run.status.as_mut().unwrap().retry_at = Some(at(600));
    let status = write(decide(&task, &[&run], false, at(21)));
    assert_eq!((status.block_reason, status.retry_at), (Some(BlockReason::QuotaWait), Some(at(600))));
    assert_eq!((status.retries.quota, status.retries.failure), (1, 0));
    run.status.as_mut().unwrap().retry_at = None;
    let status = write(decide(&task, &[&run], false, at(21)));
    assert!(status.retry_at.unwrap() > at(20), "without a stated reset the backoff counts from the failure");
}

#[test]
fn faults_of_the_cluster_cost_nothing_back_off_and_never_give_up() {
    let (mut task, mut runs) = (task("a"), Vec::new());
    let mut waits = Vec::new();
    for _ in 0..INFRA_CAP {
        let mut run = run_of(&task);
        task.status = Some(admitted(&task, &run, &[], now()));
        end(&mut run, RunPhase::Failed, "pod_lost", Some(FailureClass::Infra), "gone");
        runs.push(run);
        let refs: Vec<&Run> = runs.iter().collect();
        let status = write(decide(&task, &refs, false, at(21)));
        assert_eq!((status.phase, status.retries.failure), (TaskPhase::Queued, 0));
        waits.push(status.retry_at.unwrap().duration_since(at(21)).as_secs());
        task.status = Some(status);
    }
    assert_eq!(&waits[..3], &[5, 10, 20]);
    assert_eq!(waits.last(), Some(&300));
    assert!(is_true(&task.status.unwrap().conditions, condition::STALLED));
}

#[test]
fn a_fault_that_names_its_end_is_tried_again_after_it_within_bounds() {
    let (task, mut run) = running("a");
    end(&mut run, RunPhase::Failed, "forge_rate_limited", Some(FailureClass::Infra), "limit");
    for (named, expected) in [(22, 26), (600, 600), (1_000_000, 21 + 7200)] {
        run.status.as_mut().unwrap().retry_at = Some(at(named));
        let status = write(decide(&task, &[&run], false, at(21)));
        assert_eq!((status.phase, status.retry_at), (TaskPhase::Queued, Some(at(expected))), "{named}");
        assert_eq!((status.retries.failure, status.retries.quota), (0, 0));
    }
}

#[test]
fn a_cancelled_run_requeues_at_no_cost_and_no_cooldown() {
    let (task, mut run) = running("a");
    end(&mut run, RunPhase::Cancelled, "", None, "hatch");
    let status = write(decide(&task, &[&run], false, at(21)));
    assert_eq!(
        (status.phase, status.retry_at, status.retries),
        (TaskPhase::Queued, None, Default::default())
    );
}

#[test]
fn a_deleted_run_is_an_infra_fault_once_its_pod_is_gone() {
    let (task, _) = running("a");
    assert_eq!(decide(&task, &[], true, at(5)), TaskPlan::Wait { until: None });
    let status = write(decide(&task, &[], false, at(6)));
    assert_eq!((status.phase, status.retries.infra, status.attempts), (TaskPhase::Queued, 1, 1));
    assert!(status.current_run.is_empty());
}

#[test]
fn absence_in_the_cache_is_confirmed_before_it_counts() {
    let (task, run) = running("a");
    let system = SystemSpec::default();
    let observed = Observed {
        task: &task,
        runs: &[],
        live_pod: false,
        confirmed: false,
        system: &system,
        children: &[],
        orders: Orders::default(),
        now: at(6),
    };
    assert_eq!(plan_task(&observed), TaskPlan::Confirm { run: run.name_any() });
}

#[test]
fn cancel_wins_everywhere_but_over_an_end() {
    let mut queued = task("a");
    queued.spec.cancel = true;
    assert_eq!(write(decide(&queued, &[], false, now())).phase, TaskPhase::Cancelled);
    let (mut in_progress, mut run) = running("b");
    in_progress.spec.cancel = true;
    assert_eq!(decide(&in_progress, &[&run], true, now()), TaskPlan::Wait { until: None });
    end(&mut run, RunPhase::Cancelled, "", None, "");
    assert_eq!(write(decide(&in_progress, &[&run], false, now())).phase, TaskPhase::Cancelled);
    let mut done = task("c");
    done.status.as_mut().unwrap().phase = TaskPhase::Done;
    done.spec.cancel = true;
    assert_eq!(decide(&done, &[], false, now()), TaskPlan::Wait { until: None });
}

#[test]
fn why_the_pod_cannot_start_is_said_once_on_the_task() {
    let (mut task, mut run) = running("a");
    let mut status = RunStatus::default();
    set_condition(
        &mut status.conditions,
        run::condition::POD_STARTED,
        false,
        "Starting",
        "image x",
        1,
        at(10),
    );
    run.status = Some(status);
    let told = write(decide(&task, &[&run], true, at(11)));
    assert!(told.next.as_ref().unwrap().detail.contains("image x"));
    task.status = Some(told);
    assert_eq!(decide(&task, &[&run], true, at(12)), TaskPlan::Wait { until: None });

    // Once it has started, nothing of that is left on the Task.
    let conditions = &mut run.status.as_mut().unwrap().conditions;
    set_condition(conditions, run::condition::POD_STARTED, true, "Started", "", 1, at(13));
    let over = write(decide(&task, &[&run], true, at(14)));
    assert!(!over.next.as_ref().unwrap().detail.contains("image x"));
    assert!(is_true(&over.conditions, condition::PROGRESSING));
    task.status = Some(over);
    assert_eq!(decide(&task, &[&run], true, at(15)), TaskPlan::Wait { until: None });
}

#[test]
fn transitions_are_numbered_without_a_gap_and_bounded() {
    let (mut task, mut runs) = (task("a"), Vec::new());
    task.metadata.generation = Some(1);
    for i in 0..15 {
        fail(&mut task, &mut runs, "pod_lost", FailureClass::Infra, &format!("{i}"));
        let mut status = task.status.clone().unwrap();
        status.retry_at = None;
        task.status = Some(status);
    }
    let transitions = task.status.unwrap().transitions;
    assert_eq!(transitions.len(), crate::crd::task::MAX_TRANSITIONS);
    assert!(transitions.windows(2).all(|w| w[1].sequence == w[0].sequence + 1));
    assert_eq!(transitions.last().unwrap().sequence, 30);
}

#[test]
fn every_task_has_ended_or_says_what_moves_it_next() {
    let codes = [
        ("execution_failed", FailureClass::Model),
        ("policy_violation", FailureClass::Policy),
        ("no_actionable_changes", FailureClass::Noop),
        ("verification_command_failed", FailureClass::Test),
        ("quota_failure", FailureClass::Env),
        ("pod_lost", FailureClass::Infra),
        ("external_directory_permission_prompt", FailureClass::Permission),
        ("branch_diverged_requires_recreate", FailureClass::Setup),
    ];
    for (code, class) in codes {
        let (task, mut run) = running("a");
        end(&mut run, RunPhase::Failed, code, Some(class), "why");
        let status = match decide(&task, &[&run], false, at(21)) {
            TaskPlan::CreateThenWrite { tasks: _, status } => status,
            plan => Box::new(write(plan)),
        };
        if status.phase.is_terminal() {
            assert!(is_true(&status.conditions, condition::COMPLETE) && status.next.is_none(), "{code}");
            continue;
        }
        let next = status.next.unwrap_or_else(|| panic!("{code}"));
        assert_eq!(next.kind == NextKind::Time, next.at.is_some(), "{code}");
        assert!(!next.detail.is_empty(), "{code}");
    }
}
