//! What to do about one Task: the state machine.
//!
//! | from | when | to | event, reason |
//! |---|---|---|---|
//! | Queued | a Run of the next attempt exists | Running | `task.started` |
//! | Queued, Failed, Blocked | `spec.cancel` | Cancelled | `task.cancelled` |
//! | Running | its Run succeeded | [`after_success`] | `task.done` |
//! | Running | its Run was cancelled | Queued, no cost, no cooldown | `task.requeued` |
//! | Running | its Run met a fault of class `infra`, or vanished | Queued, backoff | `task.requeued` |
//! | Running | provider limit | Blocked QuotaWait until the reset | `task.blocked` |
//! | Running | execution failed, limits allow | Failed, `failedCooldown` | `task.failed` |
//! | Running | verification or policy failed | Blocked NeedsRework, `blockedCooldown` | `task.blocked` |
//! | Running | a limit is reached | Blocked NeedsRework, a person decides | `task.recovery_escalated` |
//! | Failed, Blocked | `retryAt` has come | Queued | `task.requeued` |
//! | Blocked, a person decides | the spec was edited | Queued | `task.requeued` |
//! | Done, Cancelled | | absorbed | |
//!
//! Sources: `spec/convergence.md` 2.1, 5.5, 5.6 with the design's decisions (one clock, limits read
//! only `status.retries`, faults of the cluster cost nothing).

use std::time::Duration;

use jiff::Timestamp;

use super::run::add;
use super::verdict::code::INPUTS_TOO_LARGE;
use super::{classify, quota};
use crate::crd::condition::is_true;
use crate::crd::run::condition::POD_STARTED;
use crate::crd::system::Recovery;
use crate::crd::task::{Effective, LastFailure, MAX_TRANSITIONS, ResolvedDependency, Transition, condition};
use crate::crd::{
    BlockReason, FailureClass, Next, NextKind, Run, RunPhase, RunStatus, Task, TaskPhase, TaskStatus,
    set_condition,
};

/// In-place retries of a Task that needs rework (`spec/convergence.md` 5.6 RB7, RB5 for setup).
const REWORK_LIMIT: i32 = 5;
const SETUP_LIMIT: i32 = 3;
/// The newest failures that must look alike to count as a repetition (design: 4).
const REPEATED_SIGNATURES: usize = 4;
/// Infrastructure faults in a row after which the Task is marked Stalled; it goes on at the slowest pace.
pub const INFRA_CAP: i32 = 10;
const INFRA_BACKOFF_BASE: Duration = Duration::from_secs(5);
const INFRA_BACKOFF_MAX: Duration = Duration::from_secs(300);

/// What a decision about a Task is made of.
pub struct Observed<'a> {
    pub task: &'a Task,
    /// Every Run of this Task's uid, in any order.
    pub runs: &'a [&'a Run],
    /// Whether a Pod of this Task's uid may still run something.
    pub live_pod: bool,
    /// Whether the API server itself has just said that the Run in progress and its Pod are gone.
    pub confirmed: bool,
    pub recovery: &'a Recovery,
    pub now: Timestamp,
}

/// What to do about a Task.
#[derive(Clone, Debug, PartialEq)]
pub enum TaskPlan {
    /// Write this status.
    Write(Box<TaskStatus>),
    /// The Run in progress is not in the cache: read it and its Pod (of the same name) from the API
    /// server, then decide again.
    Confirm { run: String },
    /// Nothing until an event, or until the time given.
    Wait { until: Option<Timestamp> },
}

/// Decides about a Task.
pub fn plan_task(o: &Observed) -> TaskPlan {
    let status = o.task.status.clone().unwrap_or_default();
    if status.phase.is_terminal() {
        return TaskPlan::Wait { until: None };
    }
    if let Some(run) = unclaimed(o, &status) {
        return TaskPlan::Write(Box::new(admitted(o.task, run, &[], o.now)));
    }
    match status.phase {
        TaskPhase::Running => running(o, status),
        TaskPhase::Queued if o.task.spec.cancel => cancel(o, status),
        TaskPhase::Queued => TaskPlan::Wait { until: None },
        TaskPhase::Failed | TaskPhase::Blocked => waiting(o, status),
        TaskPhase::Done | TaskPhase::Cancelled => TaskPlan::Wait { until: None },
    }
}

/// A Run that was created for the next attempt before the Task could be marked.
fn unclaimed<'a>(o: &Observed<'a>, status: &TaskStatus) -> Option<&'a Run> {
    let newest = o.runs.iter().copied().max_by_key(|r| r.spec.attempt)?;
    let claimable = status.phase != TaskPhase::Running && newest.spec.attempt > status.attempts;
    claimable.then_some(newest)
}

/// The status of a Task whose Run `run` has just been created: it is Running.
///
/// `resolved` are the dependencies on which the admission relied; they stay resolved.
pub fn admitted(task: &Task, run: &Run, resolved: &[ResolvedDependency], now: Timestamp) -> TaskStatus {
    let name = run.metadata.name.clone().unwrap_or_default();
    let mut status = task.status.clone().unwrap_or_default();
    status.attempts = run.spec.attempt;
    status.current_run.clone_from(&name);
    status.last_run.clone_from(&name);
    status.agent.clone_from(&run.spec.agent);
    status.retry_at = None;
    status.effective = Some(Effective {
        lane: Some(run.spec.lane.clone()),
        target_area: run.spec.target_areas.first().cloned(),
    });
    for dependency in resolved {
        if !status.resolved_dependencies.contains(dependency) {
            status.resolved_dependencies.push(dependency.clone());
        }
    }
    status.observed_generation = generation(task);
    let next = watch(format!("Run {name} is in progress"));
    enter(&mut status, TaskPhase::Running, None, Some(next), ("task.started", ""), &name, now);
    mark(&mut status, condition::PROGRESSING, true, "Running", "an attempt is in progress", task, now);
    if is_true(&status.conditions, condition::STALLED) && status.retries.infra < INFRA_CAP {
        mark(&mut status, condition::STALLED, false, "Running", "an attempt is in progress", task, now);
    }
    status
}

fn running(o: &Observed, status: TaskStatus) -> TaskPlan {
    let current = o.runs.iter().find(|r| r.metadata.name.as_deref() == Some(status.current_run.as_str()));
    match current {
        Some(run) => match run.status.as_ref().map_or(RunPhase::Running, |s| s.phase) {
            RunPhase::Running => in_progress(o, run, status),
            RunPhase::Success | RunPhase::Failed | RunPhase::Cancelled => {
                TaskPlan::Write(Box::new(ended(o, run, status)))
            }
        },
        // Its Run was deleted; the Pod goes with it, and until it is gone nothing else may start.
        None if o.live_pod => TaskPlan::Wait { until: None },
        None if !o.confirmed => TaskPlan::Confirm { run: status.current_run },
        None => TaskPlan::Write(Box::new(vanished(o, status))),
    }
}

/// While the Run is in progress: say why its Pod cannot start, and that it has.
fn in_progress(o: &Observed, run: &Run, mut status: TaskStatus) -> TaskPlan {
    let stuck = run
        .status
        .iter()
        .flat_map(|s| s.conditions.iter())
        .find(|c| c.type_ == POD_STARTED && c.status == "False");
    let Some(stuck) = stuck else {
        let told = |c: &crate::crd::Condition| c.type_ == condition::PROGRESSING && c.status == "False";
        if !status.conditions.iter().any(told) {
            return TaskPlan::Wait { until: None };
        }
        status.next = Some(watch(format!("Run {} is in progress", status.current_run)));
        let message = "an attempt is in progress";
        mark(&mut status, condition::PROGRESSING, true, "Running", message, o.task, o.now);
        return TaskPlan::Write(Box::new(status));
    };
    let detail = format!("Run {} cannot start: {}", status.current_run, stuck.message);
    let told =
        status.conditions.iter().any(|c| c.type_ == condition::PROGRESSING && c.reason == stuck.reason);
    if told {
        return TaskPlan::Wait { until: None };
    }
    status.next = Some(watch(detail.clone()));
    mark(&mut status, condition::PROGRESSING, false, &stuck.reason, &detail, o.task, o.now);
    TaskPlan::Write(Box::new(status))
}

/// The Run has ended: absorb its verdict exactly once, because `currentRun` is cleared in the same write.
fn ended(o: &Observed, run: &Run, mut status: TaskStatus) -> TaskStatus {
    let verdict = run.status.clone().unwrap_or_default();
    let name = std::mem::take(&mut status.current_run);
    status.agent = String::new();
    status.observed_generation = generation(o.task);
    if o.task.spec.cancel {
        return cancelled(o, status, &name);
    }
    match verdict.phase {
        RunPhase::Success => after_success(o, &verdict, status, &name),
        RunPhase::Cancelled => {
            requeue(o, status, &name, "run_cancelled", "the attempt was cancelled and costs nothing")
        }
        RunPhase::Failed | RunPhase::Running => match verdict.failure_class {
            Some(FailureClass::Infra) => infra(o, status, &name, &verdict.failure_code, &verdict.summary),
            _ if verdict.failure_code == "quota_failure" => quota_wait(o, &verdict, status, &name),
            Some(class) => failed(o, class, &verdict, status, &name),
            None => failed(o, FailureClass::Model, &verdict, status, &name),
        },
    }
}

/// Where a successful attempt leads. Without a judge it is Done; a judge would route it to
/// Blocked AwaitingJudge from here and nowhere else.
fn after_success(o: &Observed, verdict: &RunStatus, mut status: TaskStatus, run: &str) -> TaskStatus {
    status.branch.clone_from(&verdict.branch);
    status.head_commit.clone_from(&verdict.head_commit);
    let message = if verdict.branch.is_empty() {
        "nothing had to be changed".to_string()
    } else {
        format!("pushed branch {} at {}", verdict.branch, verdict.head_commit)
    };
    enter(&mut status, TaskPhase::Done, None, None, ("task.done", ""), run, o.now);
    finish(&mut status, "Done", &message, o);
    status
}

fn quota_wait(o: &Observed, verdict: &RunStatus, mut status: TaskStatus, run: &str) -> TaskStatus {
    let uid = o.task.metadata.uid.as_deref().unwrap_or_default();
    let failed_at = finished(verdict, o.now);
    let stated = verdict.retry_at.or_else(|| quota::stated_reset(&verdict.summary, failed_at));
    let waited = u32::try_from(status.retries.quota).unwrap_or(0);
    let backoff = quota::backoff(uid, waited, quota::BackoffPolicy::default(), "", failed_at).cooldown;
    let at = stated.unwrap_or_else(|| add(failed_at, Duration::try_from(backoff).unwrap_or_default()));
    status.retries.quota += 1;
    status.last_failure = Some(last_failure(FailureClass::Env, verdict));
    let detail = if stated.is_some() {
        "the provider's limit resets"
    } else {
        "the provider states no reset, it is tried again after a backoff"
    };
    wait_until(&mut status, at, detail);
    let to = (TaskPhase::Blocked, Some(BlockReason::QuotaWait));
    let next = status.next.clone();
    enter(&mut status, to.0, to.1, next, ("task.blocked", "quota_wait"), run, o.now);
    mark(&mut status, condition::PROGRESSING, false, "QuotaWait", detail, o.task, o.now);
    status
}

/// Failure codes that stem from verification and policy: the change needs rework (T21).
fn is_verification(code: &str) -> bool {
    matches!(code, "policy_violation" | "no_actionable_changes" | "test_failure" | "setup_or_bootstrap_issue")
        || code.starts_with("verification_command_")
}

fn failed(
    o: &Observed,
    class: FailureClass,
    verdict: &RunStatus,
    mut status: TaskStatus,
    run: &str,
) -> TaskStatus {
    let before = status.retries.failure;
    status.retries.failure += 1;
    status.last_failure = Some(last_failure(class, verdict));
    let classified = classify::classify(&verdict.failure_code, &verdict.summary);
    let verification = is_verification(&verdict.failure_code);
    let limit = retry_limit(class, verification, o.recovery.max_retries);
    let repeated = repeated(o, run);
    let refusal: Option<String> = if !classified.retryable || verdict.failure_code == INPUTS_TOO_LARGE {
        Some(format!("a failure of class {} is not retried", class.word()))
    } else if verification && class == FailureClass::Policy {
        Some("the change breaks the Task's path policy".to_string())
    } else if before >= limit {
        Some(format!("the limit of {limit} retries for failures of class {} is reached", class.word()))
    } else if repeated {
        Some(format!("the last {REPEATED_SIGNATURES} attempts failed in the same way"))
    } else {
        None
    };
    if let Some(why) = refusal {
        let reason = if repeated { "repeated_same_failure_signature" } else { classified.reason };
        return escalate(o, status, verdict, run, &why, reason);
    }
    let (phase, block, cooldown, event) = if verification {
        (TaskPhase::Blocked, Some(BlockReason::NeedsRework), o.recovery.blocked_cooldown(), "task.blocked")
    } else {
        (TaskPhase::Failed, None, o.recovery.failed_cooldown(), "task.failed")
    };
    let at = add(finished(verdict, o.now), cooldown.max(o.recovery.dispatch_retry_delay()));
    wait_until(&mut status, at, &format!("retry after a failure of class {}", class.word()));
    let next = status.next.clone();
    enter(&mut status, phase, block, next, (event, classified.reason), run, o.now);
    let word = if verification { "NeedsRework" } else { "RetryCooldown" };
    mark(&mut status, condition::PROGRESSING, false, word, &verdict.summary, o.task, o.now);
    status
}

/// Retries that `class` may cost: verification failures are retried in place (5.6 RB5, RB7), others
/// by the limits of their class (5.5).
fn retry_limit(class: FailureClass, verification: bool, global: Option<i32>) -> i32 {
    let own = match (verification, class) {
        (true, FailureClass::Setup) => SETUP_LIMIT,
        (true, _) => REWORK_LIMIT,
        (false, _) => return classify::limit(class, global).unwrap_or(i32::MAX),
    };
    global.map_or(own, |g| own.min(g))
}

/// No retry helps: a person decides, and is told how.
fn escalate(
    o: &Observed,
    mut status: TaskStatus,
    verdict: &RunStatus,
    run: &str,
    why: &str,
    reason: &str,
) -> TaskStatus {
    let detail = format!(
        "{why}: {}; edit the Task's spec to try again, or set spec.cancel: true",
        first_line(&verdict.summary, 400)
    );
    status.retry_at = None;
    let next = Next { kind: NextKind::Operator, at: None, detail: detail.clone() };
    enter(
        &mut status,
        TaskPhase::Blocked,
        Some(BlockReason::NeedsRework),
        Some(next),
        ("task.recovery_escalated", reason),
        run,
        o.now,
    );
    mark(&mut status, condition::PROGRESSING, false, "NeedsRework", &detail, o.task, o.now);
    mark(&mut status, condition::STALLED, true, "NeedsRework", &detail, o.task, o.now);
    status
}

/// A fault of the cluster: Queued again after a backoff, at no cost.
fn infra(o: &Observed, mut status: TaskStatus, run: &str, code: &str, summary: &str) -> TaskStatus {
    let exponent = u32::try_from(status.retries.infra).unwrap_or(0).min(10);
    status.retries.infra += 1;
    let backoff = INFRA_BACKOFF_BASE.saturating_mul(2u32.saturating_pow(exponent)).min(INFRA_BACKOFF_MAX);
    status.last_failure = Some(LastFailure {
        class: FailureClass::Infra.word().into(),
        code: code.into(),
        summary: first_line(summary, 2000),
    });
    let detail = format!("tried again at no cost after a fault of the cluster: {}", first_line(summary, 400));
    wait_until(&mut status, add(o.now, backoff), &detail);
    let next = status.next.clone();
    enter(&mut status, TaskPhase::Queued, None, next, ("task.requeued", "infra"), run, o.now);
    mark(&mut status, condition::PROGRESSING, false, "InfrastructureFault", &detail, o.task, o.now);
    if status.retries.infra >= INFRA_CAP {
        mark(&mut status, condition::STALLED, true, "InfrastructureFault", &detail, o.task, o.now);
    }
    status
}

/// The Run object of a Running Task is gone.
fn vanished(o: &Observed, mut status: TaskStatus) -> TaskStatus {
    let name = std::mem::take(&mut status.current_run);
    status.agent = String::new();
    status.observed_generation = generation(o.task);
    if o.task.spec.cancel {
        return cancelled(o, status, &name);
    }
    infra(o, status, &name, "run_deleted", &format!("Run {name} was deleted"))
}

fn requeue(o: &Observed, mut status: TaskStatus, run: &str, reason: &str, detail: &str) -> TaskStatus {
    status.retry_at = None;
    let next = watch(format!("waiting for the dispatcher: {detail}"));
    enter(&mut status, TaskPhase::Queued, None, Some(next), ("task.requeued", reason), run, o.now);
    mark(&mut status, condition::PROGRESSING, false, "Queued", detail, o.task, o.now);
    mark_false(&mut status, condition::STALLED, detail, o);
    status
}

fn waiting(o: &Observed, status: TaskStatus) -> TaskPlan {
    if o.task.spec.cancel {
        return cancel(o, status);
    }
    if let Some(at) = status.retry_at {
        if o.now < at {
            return TaskPlan::Wait { until: Some(at) };
        }
        let reason = match status.block_reason {
            Some(BlockReason::QuotaWait) => "quota_wait_retry",
            Some(BlockReason::NeedsRework) => "needs_rework_in_place_retry",
            Some(BlockReason::AwaitingJudge | BlockReason::IssueLinking) => "blocked_cooldown_retry",
            None => "cooldown_retry",
        };
        let run = status.last_run.clone();
        return TaskPlan::Write(Box::new(requeue(o, status, &run, reason, "the cooldown is over")));
    }
    if generation(o.task) > status.observed_generation {
        let run = status.last_run.clone();
        let mut next = requeue(o, status, &run, "spec_edited", "the spec was edited");
        next.observed_generation = generation(o.task);
        return TaskPlan::Write(Box::new(next));
    }
    TaskPlan::Wait { until: None }
}

fn cancel(o: &Observed, status: TaskStatus) -> TaskPlan {
    if o.live_pod {
        return TaskPlan::Wait { until: None };
    }
    let run = status.last_run.clone();
    TaskPlan::Write(Box::new(cancelled(o, status, &run)))
}

fn cancelled(o: &Observed, mut status: TaskStatus, run: &str) -> TaskStatus {
    enter(&mut status, TaskPhase::Cancelled, None, None, ("task.cancelled", "spec_cancel"), run, o.now);
    finish(&mut status, "Cancelled", "cancelled by spec.cancel", o);
    status
}

/// The one place where a phase changes: appends the numbered transition and sets what moves it next.
fn enter(
    status: &mut TaskStatus,
    phase: TaskPhase,
    block_reason: Option<BlockReason>,
    next: Option<Next>,
    (event, reason): (&str, &str),
    run: &str,
    now: Timestamp,
) {
    status.phase = phase;
    status.block_reason = block_reason;
    status.next = next;
    let sequence = status.transitions.last().map_or(0, |t| t.sequence) + 1;
    status.transitions.push(Transition {
        sequence,
        at: now,
        phase,
        block_reason,
        event: event.into(),
        reason: reason.into(),
        run: run.into(),
    });
    let excess = status.transitions.len().saturating_sub(MAX_TRANSITIONS);
    status.transitions.drain(..excess);
}

fn finish(status: &mut TaskStatus, reason: &str, message: &str, o: &Observed) {
    status.retry_at = None;
    status.agent = String::new();
    status.current_run = String::new();
    status.observed_generation = generation(o.task);
    mark(status, condition::COMPLETE, true, reason, message, o.task, o.now);
    mark(status, condition::PROGRESSING, false, reason, message, o.task, o.now);
    mark_false(status, condition::STALLED, message, o);
}

fn wait_until(status: &mut TaskStatus, at: Timestamp, detail: &str) {
    // Times in objects have whole seconds; rounding up never retries early.
    let at = at
        .round(jiff::TimestampRound::new().smallest(jiff::Unit::Second).mode(jiff::RoundMode::Ceil))
        .unwrap_or(at);
    status.retry_at = Some(at);
    status.next = Some(Next { kind: NextKind::Time, at: Some(at), detail: first_line(detail, 1000) });
}

fn mark(
    status: &mut TaskStatus,
    type_: &str,
    value: bool,
    reason: &str,
    message: &str,
    task: &Task,
    now: Timestamp,
) {
    set_condition(&mut status.conditions, type_, value, reason, message, generation(task), now);
}

/// Clears a condition that was set; one that never was is not written.
fn mark_false(status: &mut TaskStatus, type_: &str, message: &str, o: &Observed) {
    if is_true(&status.conditions, type_) {
        mark(status, type_, false, "Resolved", message, o.task, o.now);
    }
}

fn repeated(o: &Observed, run: &str) -> bool {
    let mut failures: Vec<&Run> = o
        .runs
        .iter()
        .copied()
        .filter(|r| {
            r.status
                .as_ref()
                .is_some_and(|s| s.phase == RunPhase::Failed && s.failure_class != Some(FailureClass::Infra))
        })
        .collect();
    failures.sort_by_key(|r| std::cmp::Reverse(r.spec.attempt));
    let signature = |r: &Run| {
        r.status.as_ref().map(|s| classify::signature(&s.failure_code, &s.summary)).unwrap_or_default()
    };
    let Some(newest) = failures.first().filter(|r| r.metadata.name.as_deref() == Some(run)) else {
        return false;
    };
    let latest = signature(newest);
    failures.len() >= REPEATED_SIGNATURES
        && !latest.is_empty()
        && failures.iter().take(REPEATED_SIGNATURES).all(|r| signature(r) == latest)
}

fn last_failure(class: FailureClass, verdict: &RunStatus) -> LastFailure {
    LastFailure {
        class: class.word().into(),
        code: verdict.failure_code.clone(),
        summary: verdict.summary.chars().take(2000).collect(),
    }
}

fn finished(verdict: &RunStatus, now: Timestamp) -> Timestamp {
    verdict.finished_at.unwrap_or(now)
}

fn generation(task: &Task) -> i64 {
    task.metadata.generation.unwrap_or(0)
}

fn watch(detail: String) -> Next {
    Next { kind: NextKind::Watch, at: None, detail }
}

fn first_line(text: &str, chars: usize) -> String {
    text.lines().next().unwrap_or_default().chars().take(chars).collect()
}
