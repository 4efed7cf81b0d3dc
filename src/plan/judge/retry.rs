//! A Judge or Merge Run that brought no answer: it is asked again, later, or a person decides.
//!
//! What the cluster, the provider or a person has spoiled costs no verdict and no attempt; what the
//! reviewer spoils counts in `status.retries.judge` and is bounded by `judge.maxFailures` (trap Q22).

use std::time::Duration;

use jiff::Timestamp;

use super::{judge_of, settle};
use crate::crd::judge::JudgeStage;
use crate::crd::task::condition;
use crate::crd::{BlockReason, Next, NextKind, Run, RunStatus, TaskPhase, TaskStatus};
use crate::plan::run::add;
use crate::plan::task::ended::{cluster_fault, finished, infra_retry_at, mark_faulty, quota_reset};
use crate::plan::task::status::{enter, first_line, mark, mark_false, wait_until, watch};
use crate::plan::task::{Observed, TaskPlan};

/// First wait for checks that are not over.
const CHECKS_BASE: Duration = Duration::from_secs(30);
/// Longest wait for them.
const CHECKS_MAX: Duration = Duration::from_secs(600);

/// Asked again at no cost, at once.
pub(super) fn at_no_cost(
    o: &Observed,
    status: TaskStatus,
    run: &str,
    reason: &str,
    detail: &str,
) -> TaskStatus {
    again(o, status, run, reason, detail, None)
}

/// Back into the queue of its stage, now or at the time given.
pub(super) fn again(
    o: &Observed,
    mut status: TaskStatus,
    run: &str,
    reason: &str,
    detail: &str,
    at: Option<Timestamp>,
) -> TaskStatus {
    let (event, what) = match judge_of(&mut status).stage {
        JudgeStage::Merge => ("judge.merge_queue_retried", "merged"),
        JudgeStage::Review | JudgeStage::Settled => ("judge.task_requeued", "reviewed"),
    };
    status.retry_at = None;
    status.next = Some(watch(format!("waits to be {what} again: {detail}")));
    if let Some(at) = at {
        wait_until(&mut status, at, &format!("is {what} again: {detail}"));
    }
    let next = status.next.clone();
    enter(
        &mut status,
        TaskPhase::Blocked,
        Some(BlockReason::AwaitingJudge),
        next,
        (event, reason),
        run,
        o.now,
    );
    mark(&mut status, condition::PROGRESSING, false, "AwaitingJudge", detail, o.task, o.now);
    status
}

/// A fault of the cluster: asked again after a backoff.
pub(super) fn infra(o: &Observed, mut status: TaskStatus, run: &str, verdict: &RunStatus) -> TaskStatus {
    let summary = &verdict.summary;
    let at = infra_retry_at(o, verdict, status.retries.infra);
    status.retries.infra = status.retries.infra.saturating_add(1);
    status.last_failure = Some(cluster_fault(&verdict.failure_code, summary));
    let detail = format!("a fault of the cluster: {}", first_line(summary, 400));
    let mut status = again(o, status, run, "infra", &detail, Some(at));
    mark_faulty(o, &mut status, &detail);
    status
}

/// A provider limit: asked again when it resets.
pub(super) fn quota(o: &Observed, mut status: TaskStatus, run: &str, verdict: &RunStatus) -> TaskStatus {
    let (at, detail) = quota_reset(o, verdict, status.retries.quota);
    status.retries.quota = status.retries.quota.saturating_add(1);
    again(o, status, run, "quota_wait", detail, Some(at))
}

/// Checks are not over: asked again at no cost, the later the more Runs of this kind there were.
pub(super) fn for_checks(o: &Observed, mut status: TaskStatus, run: &str, verdict: &RunStatus) -> TaskStatus {
    let judge = judge_of(&mut status);
    let before = match judge.stage {
        JudgeStage::Merge => judge.merges,
        JudgeStage::Review | JudgeStage::Settled => judge.reviews,
    };
    let exponent = u32::try_from(before.saturating_sub(1)).unwrap_or(0).min(10);
    let wait = CHECKS_BASE.saturating_mul(2u32.saturating_pow(exponent)).min(CHECKS_MAX);
    let at = add(finished(verdict, o.now), wait);
    again(o, status, run, "checks_pending", &first_line(&verdict.summary, 400), Some(at))
}

/// The reviewer has failed without a verdict: asked again after a cooldown, up to the cap.
pub(super) fn failed(o: &Observed, mut status: TaskStatus, run: &Run, verdict: &RunStatus) -> TaskPlan {
    let name = run.metadata.name.clone().unwrap_or_default();
    status.retries.judge = status.retries.judge.saturating_add(1);
    let error = format!("{}: {}", verdict.failure_code, first_line(&verdict.summary, 400));
    judge_of(&mut status).last_error.clone_from(&error);
    if status.retries.judge >= o.system.judge.max_failures {
        let why = format!("{} reviews have failed, the last one with {error}", status.retries.judge);
        return TaskPlan::Write(Box::new(park(o, status, &name, &why, "judge_failure_limit_reached")));
    }
    let recovery = &o.system.recovery;
    let wait = recovery.blocked_cooldown().max(recovery.dispatch_retry_delay());
    let at = add(finished(verdict, o.now), wait);
    TaskPlan::Write(Box::new(again(o, status, &name, "judge_action_error", &error, Some(at))))
}

/// Nobody asks again by himself: the review or the merge needs a person, who says so by an edit of the
/// Task or of the judge's settings.
pub(super) fn park(o: &Observed, status: TaskStatus, run: &str, why: &str, reason: &str) -> TaskStatus {
    let how = "edit the Task's spec or the System's judge settings to have it tried again, \
               or set spec.cancel: true";
    hand_over(o, status, run, BlockReason::AwaitingJudge, &format!("{why}; {how}"), reason)
}

/// The work itself needs a person: an edit of the Task starts a new attempt at it.
pub(super) fn give_up(o: &Observed, status: TaskStatus, run: &str, why: &str, reason: &str) -> TaskStatus {
    let how = "edit the Task's spec to have it done anew, or set spec.cancel: true";
    hand_over(o, status, run, BlockReason::NeedsRework, &format!("{why}; {how}"), reason)
}

fn hand_over(
    o: &Observed,
    mut status: TaskStatus,
    run: &str,
    block: BlockReason,
    detail: &str,
    reason: &str,
) -> TaskStatus {
    settle(&mut status);
    status.retry_at = None;
    let detail = first_line(detail, 1000);
    let next = Next { kind: NextKind::Operator, at: None, detail: detail.clone() };
    let event = ("task.recovery_escalated", reason);
    enter(&mut status, TaskPhase::Blocked, Some(block), Some(next), event, run, o.now);
    mark(&mut status, condition::PROGRESSING, false, block.word(), &detail, o.task, o.now);
    mark(&mut status, condition::STALLED, true, block.word(), &detail, o.task, o.now);
    status
}

/// A person has acted: the same question again, or the merge of what was approved.
pub(in crate::plan) fn reopened(
    o: &Observed,
    mut status: TaskStatus,
    reason: &str,
    detail: &str,
) -> TaskStatus {
    let judge = judge_of(&mut status);
    judge.stage = if super::is_approved(judge) { JudgeStage::Merge } else { JudgeStage::Review };
    judge.merge_failures = 0;
    let run = status.last_run.clone();
    let mut status = at_no_cost(o, status, &run, reason, detail);
    mark_false(&mut status, condition::STALLED, detail, o);
    status
}
