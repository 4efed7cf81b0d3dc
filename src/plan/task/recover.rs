//! A Run failed by its own fault: carries out what `plan::recovery` decides, in the same write.

use super::ended::{finished, last_failure};
use super::status::{finish, first_line, follow, mark, wait_until};
use super::table::Trigger;
use super::{Observed, TaskPlan};
use crate::crd::task::{Effective, condition};
use crate::crd::{FailureClass, Next, NextKind, Run, RunPhase, RunStatus, TaskStatus};
use crate::plan::classify;
use crate::plan::recovery::{self, Decision, Failure, Remedy, Route, split};
use crate::plan::run::add;
use crate::plan::verdict::code::INPUTS_TOO_LARGE;

/// Failure codes that stem from verification and policy: the change needs rework (T21).
pub(in crate::plan) fn is_verification(code: &str) -> bool {
    matches!(code, "policy_violation" | "no_actionable_changes" | "test_failure" | "setup_or_bootstrap_issue")
        || code.starts_with("verification_command_")
}

/// The attempt `run` failed with this class. `edited`: the spec was edited since its admission.
pub(in crate::plan) fn failed(
    o: &Observed,
    class: FailureClass,
    (run, verdict): (&Run, &RunStatus),
    mut status: TaskStatus,
    name: &str,
    edited: bool,
) -> TaskPlan {
    let (allowed_paths, commands) = in_force(o, &status);
    let decision = recovery::decide(&Failure {
        task: o.task,
        children: o.children,
        settings: &o.system.recovery,
        retries: status.retries,
        class,
        classification: classify::classify(&verdict.failure_code, &verdict.summary),
        verification: is_verification(&verdict.failure_code),
        repeated: repeated(o, name),
        summary: &verdict.summary,
        detail: verdict.failure.as_ref(),
        allowed_paths: &allowed_paths,
        commands: &commands,
        edited,
        hopeless: [INPUTS_TOO_LARGE, classify::AUTHENTICATION_FAILED]
            .contains(&verdict.failure_code.as_str()),
        planning: run.spec.purpose == crate::crd::Purpose::Plan,
    });
    status.last_failure = Some(last_failure(o, class, verdict, name, decision.remedy.word()));
    if let Some(lane) = decision.lane {
        effective(&mut status).lane = Some(lane.into());
    }
    apply(o, verdict, status, name, decision)
}

/// Allowed paths and commands as the Run had them, when the spec was not edited since: the cache keeps
/// no inputs of Runs that have ended. An edit has already dropped what was adjusted.
fn in_force(o: &Observed, status: &TaskStatus) -> (Vec<String>, Vec<String>) {
    let effective = status.effective.clone().unwrap_or_default();
    (
        effective.allowed_paths.unwrap_or_else(|| o.task.spec.allowed_paths.clone()),
        effective.commands.unwrap_or_else(|| o.task.spec.commands.clone()),
    )
}

fn effective(status: &mut TaskStatus) -> &mut Effective {
    status.effective.get_or_insert_default()
}

fn apply(
    o: &Observed,
    verdict: &RunStatus,
    mut status: TaskStatus,
    name: &str,
    decision: Decision,
) -> TaskPlan {
    let why = first_line(&verdict.summary, 400);
    match &decision.remedy {
        Remedy::Retry { reason: _ } => cooling(o, verdict, status, name, &decision, "tried again"),
        Remedy::Commands { commands, reason: _ } => {
            effective(&mut status).commands = Some(commands.clone());
            cooling(o, verdict, status, name, &decision, "tried again with adjusted verification commands")
        }
        Remedy::Paths { allowed, reason: _ } => {
            effective(&mut status).allowed_paths = Some(allowed.clone());
            cooling(o, verdict, status, name, &decision, "tried again with more allowed paths")
        }
        Remedy::Suppress => {
            let detail =
                "tried again, told which paths it must not change; to allow them, edit spec.allowedPaths";
            cooling(o, verdict, status, name, &decision, detail)
        }
        Remedy::Split => {
            needs_rework(o, &mut status, name, &decision, None);
            let (allowed_paths, commands) = in_force(o, &status);
            let inherited = split::Inherited {
                allowed_paths: &allowed_paths,
                commands: &commands,
                lane: status.effective.as_ref().and_then(|e| e.lane.as_deref()),
                detail: verdict.failure.as_ref(),
                summary: &verdict.summary,
            };
            let child = split::child(o.task, &inherited);
            let child_name = child.metadata.name.clone().unwrap_or_default();
            let message = format!("carried on by Task {child_name}: {why}");
            end(o, &mut status, name, (Trigger::Split, "needs_rework"), "Split", &message);
            status.superseded_by = child_name;
            TaskPlan::CreateThenWrite { tasks: vec![child], status: Box::new(status) }
        }
        Remedy::Existing { child } => {
            needs_rework(o, &mut status, name, &decision, None);
            let message = format!("carried on by Task {child}: {why}");
            let reason = (Trigger::Exhausted, "rework_child_already_exists");
            end(o, &mut status, name, reason, "Split", &message);
            status.superseded_by.clone_from(child);
            TaskPlan::Write(Box::new(status))
        }
        Remedy::Cancel { reason, why: given_up } => {
            needs_rework(o, &mut status, name, &decision, None);
            let message = format!("given up, {given_up}: {why}");
            end(o, &mut status, name, (Trigger::Exhausted, reason), "RecoveryExhausted", &message);
            TaskPlan::Write(Box::new(status))
        }
        Remedy::Person { why: reason } => {
            let detail = format!("{reason}: {why}; {PERSON}");
            let next = Next { kind: NextKind::Operator, at: None, detail: detail.clone() };
            status.retry_at = None;
            needs_rework(o, &mut status, name, &decision, Some(next));
            mark(&mut status, condition::PROGRESSING, false, "NeedsRework", &detail, o.task, o.now);
            mark(&mut status, condition::STALLED, true, "NeedsRework", &detail, o.task, o.now);
            TaskPlan::Write(Box::new(status))
        }
    }
}

/// What a person can do about a Task that waits for one.
const PERSON: &str =
    "edit the Task's spec to try again, request an Operation Requeue or Complete, or set spec.cancel: true";

/// Waits for the cooldown: Failed, or Blocked NeedsRework.
fn cooling(
    o: &Observed,
    verdict: &RunStatus,
    mut status: TaskStatus,
    name: &str,
    decision: &Decision,
    detail: &str,
) -> TaskPlan {
    let recovery = &o.system.recovery;
    let (cooldown, word) = match decision.route {
        Route::Failed => (recovery.failed_cooldown(), "RetryCooldown"),
        Route::Rework { reason: _ } | Route::Escalated { reason: _ } => {
            (recovery.blocked_cooldown(), "NeedsRework")
        }
    };
    let class = status.last_failure.as_ref().map(|f| f.class.clone()).unwrap_or_default();
    let at = add(finished(verdict, o.now), cooldown.max(recovery.dispatch_retry_delay()));
    wait_until(&mut status, at, &format!("{detail}, after a failure of class {class}"));
    let next = status.next.clone();
    match decision.route {
        Route::Failed => {
            let reason = classify::classify(&verdict.failure_code, &verdict.summary).reason;
            follow(&mut status, Trigger::ExecutionFailed, reason, next, name, o.now);
        }
        Route::Rework { reason: _ } | Route::Escalated { reason: _ } => {
            needs_rework(o, &mut status, name, decision, next);
        }
    }
    mark(&mut status, condition::PROGRESSING, false, word, &verdict.summary, o.task, o.now);
    TaskPlan::Write(Box::new(status))
}

/// Enters Blocked NeedsRework.
fn needs_rework(o: &Observed, status: &mut TaskStatus, name: &str, decision: &Decision, next: Option<Next>) {
    let (trigger, reason) = match (&decision.route, &decision.remedy) {
        (_, Remedy::Suppress) => (Trigger::Escalated, "policy_violation_rework_suppressed_no_safe_path"),
        (Route::Escalated { reason }, _) => (Trigger::Escalated, *reason),
        (Route::Rework { reason }, Remedy::Person { why: _ }) => (Trigger::Escalated, *reason),
        (Route::Rework { reason }, _) => (Trigger::VerificationFailed, *reason),
        // A retry without a limit left would have been escalated.
        (Route::Failed, _) => (Trigger::Escalated, "model_or_unknown_failure"),
    };
    follow(status, trigger, reason, next, name, o.now);
}

/// Ends the Task from Blocked NeedsRework.
fn end(
    o: &Observed,
    status: &mut TaskStatus,
    name: &str,
    (trigger, reason): (Trigger, &str),
    condition: &str,
    message: &str,
) {
    follow(status, trigger, reason, None, name, o.now);
    finish(status, condition, message, o);
}

/// A Task that was to carry this one on cannot be made, because its name is another's: a person decides.
/// `planned` is the status that was to be written once it exists, `name` the name that is taken.
pub fn child_refused(o: &Observed, planned: &TaskStatus, name: &str) -> TaskStatus {
    // What the Run has cost and shown stays; where the Task stands does not.
    let before = o.task.status.clone().unwrap_or_default();
    let mut status = TaskStatus {
        phase: before.phase,
        block_reason: before.block_reason,
        transitions: before.transitions,
        conditions: before.conditions,
        superseded_by: before.superseded_by,
        retry_at: None,
        ..planned.clone()
    };
    let run = status.last_run.clone();
    let detail = format!(
        "Task {name} is to carry this one on, but there is another Task of that name; delete it, then {PERSON}"
    );
    let next = Next { kind: NextKind::Operator, at: None, detail: detail.clone() };
    follow(&mut status, Trigger::Refused, "child_name_taken", Some(next), &run, o.now);
    mark(&mut status, condition::PROGRESSING, false, "NeedsRework", &detail, o.task, o.now);
    mark(&mut status, condition::STALLED, true, "NeedsRework", &detail, o.task, o.now);
    status
}

fn repeated(o: &Observed, run: &str) -> bool {
    let mut failures: Vec<&Run> = o
        .runs
        .iter()
        .copied()
        .filter(|r| !crate::plan::task::admit::is_review(r))
        .filter(|r| {
            r.status
                .as_ref()
                .is_some_and(|s| s.phase == RunPhase::Failed && s.failure_class != Some(FailureClass::Infra))
        })
        .collect();
    failures.sort_by_key(|r| std::cmp::Reverse(r.spec.attempt));
    if failures.first().is_none_or(|newest| newest.metadata.name.as_deref() != Some(run)) {
        return false;
    }
    let signature = |r: &&Run| {
        r.status.as_ref().map(|s| classify::signature(&s.failure_code, &s.summary)).unwrap_or_default()
    };
    let signatures: Vec<String> = failures.iter().map(signature).collect();
    classify::is_repeated(signatures.iter().map(String::as_str))
}
