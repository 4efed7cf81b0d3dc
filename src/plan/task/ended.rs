//! A Run has ended: what its verdict makes of the Task.

use std::time::Duration;

use jiff::Timestamp;

use super::status::{enter, finish, first_line, generation, mark, wait_until};
use super::waiting::{cancelled, requeue};
use super::{Observed, TaskPlan};
use crate::crd::task::{LastFailure, condition};
use crate::crd::{
    BlockReason, FailureClass, Next, NextKind, Purpose, Run, RunPhase, RunStatus, TaskPhase, TaskStatus,
};
use crate::plan::run::add;
use crate::plan::verdict::code::INPUTS_TOO_LARGE;
use crate::plan::{classify, judge, quota};

/// In-place retries of a Task that needs rework (`spec/convergence.md` 5.6 RB7, RB5 for setup).
const REWORK_LIMIT: i32 = 5;
const SETUP_LIMIT: i32 = 3;
/// The newest failures that must look alike to count as a repetition (design: 4).
const REPEATED_SIGNATURES: usize = 4;
/// Infrastructure faults in a row after which the Task is marked Stalled; it goes on at the slowest pace.
pub const INFRA_CAP: i32 = 10;
const INFRA_BACKOFF_BASE: Duration = Duration::from_secs(5);
const INFRA_BACKOFF_MAX: Duration = Duration::from_secs(300);

/// The Run has ended: absorb its verdict exactly once, because `currentRun` is cleared in the same write.
pub(in crate::plan) fn ended(o: &Observed, run: &Run, mut status: TaskStatus) -> TaskPlan {
    let verdict = run.status.clone().unwrap_or_default();
    let name = std::mem::take(&mut status.current_run);
    status.agent = String::new();
    status.observed_generation = generation(o.task);
    if o.task.spec.cancel {
        return TaskPlan::Write(Box::new(cancelled(o, status, &name)));
    }
    match run.spec.purpose {
        Purpose::Execute | Purpose::Plan => {
            TaskPlan::Write(Box::new(attempt_ended(o, &verdict, status, &name)))
        }
        Purpose::Judge => judge::reviewed(o, run, status),
        Purpose::Merge => judge::merged(o, run, status),
    }
}

fn attempt_ended(o: &Observed, verdict: &RunStatus, status: TaskStatus, name: &str) -> TaskStatus {
    match verdict.phase {
        RunPhase::Success => after_success(o, verdict, status, name),
        RunPhase::Cancelled => {
            requeue(o, status, name, "run_cancelled", "the attempt was cancelled and costs nothing")
        }
        RunPhase::Failed | RunPhase::Running => match verdict.failure_class {
            Some(FailureClass::Infra) => infra(o, status, name, &verdict.failure_code, &verdict.summary),
            _ if verdict.failure_code == "quota_failure" => quota_wait(o, verdict, status, name),
            Some(class) => failed(o, class, verdict, status, name),
            None => failed(o, FailureClass::Model, verdict, status, name),
        },
    }
}

/// Where a successful attempt leads: to Blocked AwaitingJudge when a judge is to look at what it has
/// pushed, else it is Done.
pub(in crate::plan) fn after_success(
    o: &Observed,
    verdict: &RunStatus,
    mut status: TaskStatus,
    run: &str,
) -> TaskStatus {
    if let Some(claimed) = judge::claim(o, verdict, &status, run) {
        return claimed;
    }
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

/// When a provider limit is over that was met `waited` times before, and how that is known.
pub(in crate::plan) fn quota_reset(
    o: &Observed,
    verdict: &RunStatus,
    waited: i32,
) -> (Timestamp, &'static str) {
    let uid = o.task.metadata.uid.as_deref().unwrap_or_default();
    let failed_at = finished(verdict, o.now);
    if let Some(at) = verdict.retry_at.or_else(|| quota::stated_reset(&verdict.summary, failed_at)) {
        return (at, "the provider's limit resets");
    }
    let waited = u32::try_from(waited).unwrap_or(0);
    let backoff = quota::backoff(uid, waited, quota::BackoffPolicy::default(), "", failed_at).cooldown;
    let at = add(failed_at, Duration::try_from(backoff).unwrap_or_default());
    (at, "the provider states no reset, it is tried again after a backoff")
}

pub(in crate::plan) fn quota_wait(
    o: &Observed,
    verdict: &RunStatus,
    mut status: TaskStatus,
    run: &str,
) -> TaskStatus {
    let (at, detail) = quota_reset(o, verdict, status.retries.quota);
    status.retries.quota += 1;
    status.last_failure = Some(last_failure(FailureClass::Env, verdict));
    wait_until(&mut status, at, detail);
    let to = (TaskPhase::Blocked, Some(BlockReason::QuotaWait));
    let next = status.next.clone();
    enter(&mut status, to.0, to.1, next, ("task.blocked", "quota_wait"), run, o.now);
    mark(&mut status, condition::PROGRESSING, false, "QuotaWait", detail, o.task, o.now);
    status
}

/// Failure codes that stem from verification and policy: the change needs rework (T21).
pub(in crate::plan) fn is_verification(code: &str) -> bool {
    matches!(code, "policy_violation" | "no_actionable_changes" | "test_failure" | "setup_or_bootstrap_issue")
        || code.starts_with("verification_command_")
}

pub(in crate::plan) fn failed(
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
    let limit = retry_limit(class, verification, o.system.recovery.max_retries);
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
        (
            TaskPhase::Blocked,
            Some(BlockReason::NeedsRework),
            o.system.recovery.blocked_cooldown(),
            "task.blocked",
        )
    } else {
        (TaskPhase::Failed, None, o.system.recovery.failed_cooldown(), "task.failed")
    };
    let at = add(finished(verdict, o.now), cooldown.max(o.system.recovery.dispatch_retry_delay()));
    wait_until(&mut status, at, &format!("retry after a failure of class {}", class.word()));
    let next = status.next.clone();
    enter(&mut status, phase, block, next, (event, classified.reason), run, o.now);
    let word = if verification { "NeedsRework" } else { "RetryCooldown" };
    mark(&mut status, condition::PROGRESSING, false, word, &verdict.summary, o.task, o.now);
    status
}

/// Retries that `class` may cost: verification failures are retried in place (5.6 RB5, RB7), others
/// by the limits of their class (5.5).
pub(in crate::plan) fn retry_limit(class: FailureClass, verification: bool, global: Option<i32>) -> i32 {
    let own = match (verification, class) {
        (true, FailureClass::Setup) => SETUP_LIMIT,
        (true, _) => REWORK_LIMIT,
        (false, _) => return classify::limit(class, global).unwrap_or(i32::MAX),
    };
    global.map_or(own, |g| own.min(g))
}

/// No retry helps: a person decides, and is told how.
pub(in crate::plan) fn escalate(
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

/// Wait after a fault of the cluster, `before` of which came before it.
pub(in crate::plan) fn infra_backoff(before: i32) -> Duration {
    let exponent = u32::try_from(before).unwrap_or(0).min(10);
    INFRA_BACKOFF_BASE.saturating_mul(2u32.saturating_pow(exponent)).min(INFRA_BACKOFF_MAX)
}

/// A fault of the cluster: Queued again after a backoff, at no cost.
pub(in crate::plan) fn infra(
    o: &Observed,
    mut status: TaskStatus,
    run: &str,
    code: &str,
    summary: &str,
) -> TaskStatus {
    let backoff = infra_backoff(status.retries.infra);
    status.retries.infra += 1;
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
pub(in crate::plan) fn vanished(o: &Observed, mut status: TaskStatus) -> TaskStatus {
    let name = std::mem::take(&mut status.current_run);
    status.agent = String::new();
    status.observed_generation = generation(o.task);
    if o.task.spec.cancel {
        return cancelled(o, status, &name);
    }
    if judge::owns(&status) {
        return judge::vanished(o, status, &name);
    }
    infra(o, status, &name, "run_deleted", &format!("Run {name} was deleted"))
}

pub(in crate::plan) fn repeated(o: &Observed, run: &str) -> bool {
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

pub(in crate::plan) fn last_failure(class: FailureClass, verdict: &RunStatus) -> LastFailure {
    LastFailure {
        class: class.word().into(),
        code: verdict.failure_code.clone(),
        summary: verdict.summary.chars().take(2000).collect(),
    }
}

pub(in crate::plan) fn finished(verdict: &RunStatus, now: Timestamp) -> Timestamp {
    verdict.finished_at.unwrap_or(now)
}
