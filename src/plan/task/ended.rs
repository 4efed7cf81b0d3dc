//! A Run has ended: what its verdict makes of the Task.

use std::time::Duration;

use jiff::Timestamp;

use super::recover::failed;
use super::status::{enter, finish, first_line, follow, is_edited, mark, observe_spec, wait_until};
use super::table::Trigger;
use super::waiting::{cancelled, requeue};
use super::{Observed, TaskPlan};
use crate::crd::task::{LastFailure, condition};
use crate::crd::{FailureClass, Purpose, Run, RunPhase, RunStatus, TaskPhase, TaskStatus};
use crate::plan::run::add;
use crate::plan::{judge, quota};

/// Infrastructure faults in a row after which the Task is marked Stalled; it goes on at the slowest pace.
pub const INFRA_CAP: i32 = 10;
const INFRA_BACKOFF_BASE: Duration = Duration::from_secs(5);
const INFRA_BACKOFF_MAX: Duration = Duration::from_secs(300);
/// Longest wait that a server can ask for by naming a time.
const INFRA_NAMED_MAX: Duration = Duration::from_secs(7200);
/// Longest summary in `status.lastFailure`, in characters.
const MAX_SUMMARY: usize = 2000;
/// Failures before the newest that are told, and the longest of them in characters.
const MAX_TOLD: usize = 2;
const MAX_TOLD_CHARS: usize = 512;
/// Earlier failures named beside the last one.
const MAX_EARLIER: usize = 5;

/// The Run has ended: absorb its verdict exactly once, because `currentRun` is cleared in the same write.
pub(in crate::plan) fn ended(o: &Observed, run: &Run, mut status: TaskStatus) -> TaskPlan {
    let verdict = run.status.clone().unwrap_or_default();
    let name = std::mem::take(&mut status.current_run);
    status.agent = String::new();
    let edited = is_edited(o.task, &status);
    observe_spec(&mut status, o.task);
    if o.task.spec.cancel {
        return TaskPlan::Write(Box::new(cancelled(o, status, &name)));
    }
    match run.spec.purpose {
        Purpose::Execute | Purpose::Plan => attempt_ended(o, run, &verdict, status, &name, edited),
        Purpose::Judge => judge::reviewed(o, run, status),
        Purpose::Merge => judge::merged(o, run, status),
    }
}

fn attempt_ended(
    o: &Observed,
    run: &Run,
    verdict: &RunStatus,
    status: TaskStatus,
    name: &str,
    edited: bool,
) -> TaskPlan {
    let status = match verdict.phase {
        RunPhase::Success => after_success(o, verdict, status, name),
        RunPhase::Cancelled => {
            let detail = "the attempt was cancelled and costs nothing";
            requeue(o, status, (Trigger::RunCancelled, "run_cancelled"), name, detail)
        }
        RunPhase::Failed | RunPhase::Running => match verdict.failure_class {
            Some(FailureClass::Infra) => infra(o, status, name, verdict),
            _ if verdict.failure_code == "quota_failure" => quota_wait(o, verdict, status, name),
            Some(class) => return failed(o, class, (run, verdict), status, name, edited),
            None => return failed(o, FailureClass::Model, (run, verdict), status, name, edited),
        },
    };
    TaskPlan::Write(Box::new(status))
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
    let policy = quota::BackoffPolicy { base: quota_base(o), ..quota::BackoffPolicy::default() };
    let backoff = quota::backoff(uid, waited, policy, "", failed_at).cooldown;
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
    status.last_failure = Some(last_failure(o, FailureClass::Env, verdict, run, "quota_wait_retry"));
    wait_until(&mut status, at, detail);
    let next = status.next.clone();
    follow(&mut status, Trigger::ProviderLimit, "quota_wait", next, run, o.now);
    mark(&mut status, condition::PROGRESSING, false, "QuotaWait", detail, o.task, o.now);
    status
}

/// First wait for a limit without a stated reset: the cooldown of Blocked Tasks, between half a minute
/// and five (`spec/convergence.md` 2.2).
fn quota_base(o: &Observed) -> Duration {
    o.system.recovery.blocked_cooldown().clamp(Duration::from_secs(30), Duration::from_secs(300))
}

/// Wait after a fault of the cluster, `before` of which came before it.
pub(in crate::plan) fn infra_backoff(before: i32) -> Duration {
    let exponent = u32::try_from(before).unwrap_or(0).min(10);
    INFRA_BACKOFF_BASE.saturating_mul(2u32.saturating_pow(exponent)).min(INFRA_BACKOFF_MAX)
}

/// When what a fault of the cluster has ended is tried again: after the backoff, and not before the
/// time that a server has named (a rate limit).
pub(in crate::plan) fn infra_retry_at(o: &Observed, verdict: &RunStatus, before: i32) -> Timestamp {
    let backoff = add(o.now, infra_backoff(before));
    let latest = add(o.now, INFRA_NAMED_MAX);
    verdict.retry_at.map_or(backoff, |named| named.min(latest).max(backoff))
}

/// A fault of the cluster as the last failure.
pub(in crate::plan) fn cluster_fault(code: &str, summary: &str) -> LastFailure {
    LastFailure {
        class: FailureClass::Infra.word().into(),
        code: code.into(),
        summary: first_line(summary, MAX_SUMMARY),
        remedy: "infra".into(),
        earlier: Vec::new(),
    }
}

/// Once there were too many faults of the cluster in a row, a person should look; the Task goes on.
pub(in crate::plan) fn mark_faulty(o: &Observed, status: &mut TaskStatus, detail: &str) {
    if status.retries.infra >= INFRA_CAP {
        mark(status, condition::STALLED, true, "InfrastructureFault", detail, o.task, o.now);
    }
}

/// A fault of the cluster: Queued again after a backoff, at no cost.
pub(in crate::plan) fn infra(
    o: &Observed,
    mut status: TaskStatus,
    run: &str,
    verdict: &RunStatus,
) -> TaskStatus {
    let summary = &verdict.summary;
    let at = infra_retry_at(o, verdict, status.retries.infra);
    status.last_failure = Some(cluster_fault(&verdict.failure_code, summary));
    let detail = format!("tried again at no cost after a fault of the cluster: {}", first_line(summary, 400));
    wait_until(&mut status, at, &detail);
    let next = status.next.clone();
    follow(&mut status, Trigger::InfraFault, "infra", next, run, o.now);
    mark(&mut status, condition::PROGRESSING, false, "InfrastructureFault", &detail, o.task, o.now);
    mark_faulty(o, &mut status, &detail);
    status
}

/// The Run object of a Running Task is gone.
pub(in crate::plan) fn vanished(o: &Observed, mut status: TaskStatus) -> TaskStatus {
    let name = std::mem::take(&mut status.current_run);
    status.agent = String::new();
    observe_spec(&mut status, o.task);
    if o.task.spec.cancel {
        return cancelled(o, status, &name);
    }
    if judge::owns(&status) {
        return judge::vanished(o, status, &name);
    }
    let verdict = RunStatus {
        failure_code: "run_deleted".into(),
        summary: format!("Run {name} was deleted"),
        ..RunStatus::default()
    };
    infra(o, status, &name, &verdict)
}

/// What is told to people and to the next attempt: what went wrong, and how the attempts before it
/// failed.
pub(in crate::plan) fn last_failure(
    o: &Observed,
    class: FailureClass,
    verdict: &RunStatus,
    run: &str,
    remedy: &str,
) -> LastFailure {
    let earlier = earlier_failures(o, run);
    let summary =
        if earlier.is_empty() { verdict.summary.clone() } else { format!("{} ({earlier})", verdict.summary) };
    // The history is short; what is cut is the end of a long message.
    let room = MAX_SUMMARY.saturating_sub(earlier.chars().count() + 3);
    let summary = if summary.chars().count() > MAX_SUMMARY {
        format!("{} ({earlier})", verdict.summary.chars().take(room).collect::<String>())
    } else {
        summary
    };
    LastFailure {
        class: class.word().into(),
        code: verdict.failure_code.clone(),
        summary,
        remedy: remedy.chars().take(128).collect(),
        earlier: told_earlier(o, run, &verdict.summary),
    }
}

/// What the attempts before this Run failed with, newest first. What was said before is not said again.
fn told_earlier(o: &Observed, run: &str, newest: &str) -> Vec<String> {
    let mut all = failed_before(o, run);
    all.sort_by_key(|(attempt, _, _)| std::cmp::Reverse(*attempt));
    let mut told: Vec<&str> = vec![newest];
    let mut earlier = Vec::new();
    for (attempt, class, summary) in all {
        if summary.is_empty() || told.contains(&summary) || earlier.len() >= MAX_TOLD {
            continue;
        }
        told.push(summary);
        let text = format!("attempt {attempt} ({}): {summary}", class.word());
        earlier.push(text.chars().take(MAX_TOLD_CHARS).collect());
    }
    earlier
}

/// Attempt, class and summary of the failed attempts before this Run.
fn failed_before<'a>(o: &Observed<'a>, run: &str) -> Vec<(i32, FailureClass, &'a str)> {
    let named = |r: &&&Run| r.metadata.name.as_deref() == Some(run);
    let Some(own) = o.runs.iter().find(named).map(|r| r.spec.attempt) else { return Vec::new() };
    let failed = |r: &&'a Run| {
        let status = r.status.as_ref().filter(|s| s.phase == RunPhase::Failed)?;
        let before = r.spec.attempt < own && !super::admit::is_review(r);
        before.then_some((r.spec.attempt, status.failure_class?, status.summary.as_str()))
    };
    o.runs.iter().filter_map(failed).collect()
}

/// `attempt 3; before it: 1 test, 2 flaky`: which attempts failed before this Run, and in which class.
fn earlier_failures(o: &Observed, run: &str) -> String {
    let named = |r: &&&Run| r.metadata.name.as_deref() == Some(run);
    let Some(own) = o.runs.iter().find(named).map(|r| r.spec.attempt) else { return String::new() };
    let failed = failed_before(o, run).into_iter();
    let mut all: Vec<(i32, &str)> = failed.map(|(attempt, class, _)| (attempt, class.word())).collect();
    all.sort_unstable();
    if all.is_empty() {
        return String::new();
    }
    let newest = all.iter().skip(all.len().saturating_sub(MAX_EARLIER));
    let list: Vec<String> = newest.map(|(attempt, class)| format!("{attempt} {class}")).collect();
    format!("attempt {own}; before it failed: {}", list.join(", "))
}

pub(in crate::plan) fn finished(verdict: &RunStatus, now: Timestamp) -> Timestamp {
    verdict.finished_at.unwrap_or(now)
}
