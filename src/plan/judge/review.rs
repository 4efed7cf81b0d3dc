//! A Judge Run has ended: what its verdict makes of the Task (spec agents 5.5).

use super::{done_unmerged, fix, judge_of, key, merge, retry};
use crate::crd::judge::{JudgeStage, JudgeStatus};
use crate::crd::run::{ReviewResult, ReviewSource, ReviewVerdict};
use crate::crd::task::condition;
use crate::crd::{BlockReason, FailureClass, Run, RunPhase, RunStatus, TaskPhase, TaskStatus};
use crate::plan::task::ended::finished;
use crate::plan::task::status::{enter, first_line, mark, mark_false, watch};
use crate::plan::task::{Observed, TaskPlan};
use crate::plan::verdict::code;

/// Endless loops of the reviewer after which its "cannot say" counts as a refusal (case A55).
const DOOM_LOOPS: i32 = 2;

/// Its Judge Run has ended.
pub fn reviewed(o: &Observed, run: &Run, mut status: TaskStatus) -> TaskPlan {
    let name = run.metadata.name.clone().unwrap_or_default();
    let verdict = run.status.clone().unwrap_or_default();
    let Some(judge) = status.judge.as_mut() else {
        return super::unasked(o, status);
    };
    // An answer to another question, or by rules that no longer hold, is none.
    let asked = run.spec.review.as_ref().is_some_and(|target| key::is_about(judge, target));
    if !asked || is_outdated(o, &status) {
        return renew(o, status, &name);
    }
    match verdict.phase {
        RunPhase::Success => match key::known(o, judge_of(&mut status)) {
            Some((first, result)) => answered(o, status, first, &result.clone()),
            None => retry::failed(o, status, run, &without_verdict(verdict)),
        },
        RunPhase::Cancelled => {
            let detail = "the review was cancelled, which costs nothing";
            TaskPlan::Write(Box::new(retry::at_no_cost(o, status, &name, "run_cancelled", detail)))
        }
        RunPhase::Failed | RunPhase::Running => unanswered(o, status, run, &verdict),
    }
}

/// Whether the rules have changed since the question was put.
pub(super) fn is_outdated(o: &Observed, status: &TaskStatus) -> bool {
    let now = key::policy_version(o.task, status, o.system);
    status.judge.as_ref().is_some_and(|judge| judge.policy_version != now)
}

/// Puts the question under the rules now in force. Where it was answered before, the answer stands.
pub(super) fn renew(o: &Observed, mut status: TaskStatus, run: &str) -> TaskPlan {
    let before = judge_of(&mut status).clone();
    let judge = key::renewed(o, &status, &before);
    let known = key::known(o, &judge).map(|(run, result)| (run, result.clone()));
    status.judge = Some(judge);
    mark_false(&mut status, condition::STALLED, "the rules have changed", o);
    match known {
        Some((first, result)) => answered(o, status, first, &result),
        None => {
            let detail = "the rules have changed since it was asked";
            TaskPlan::Write(Box::new(retry::at_no_cost(o, status, run, "judgement_key_changed", detail)))
        }
    }
}

fn without_verdict(mut verdict: RunStatus) -> RunStatus {
    verdict.failure_code = "review_no_verdict".into();
    verdict.summary = "the review ended without a verdict".into();
    verdict
}

/// The verdict on this key.
fn answered(o: &Observed, mut status: TaskStatus, run: &Run, result: &ReviewResult) -> TaskPlan {
    let name = run.metadata.name.clone().unwrap_or_default();
    let at = run.status.as_ref().map_or(o.now, |verdict| finished(verdict, o.now));
    let judge = judge_of(&mut status);
    judge.result = Some(result.clone());
    judge.last_error = String::new();
    let (word, to_merge) = match result.verdict {
        ReviewVerdict::Approve => ("approve", o.system.judge.auto_merge),
        ReviewVerdict::RequestChanges => ("request_changes", false),
    };
    if to_merge {
        judge.stage = JudgeStage::Merge;
        judge.approved_at = Some(at);
    }
    let base = judge.base_branch.clone();
    let next = watch(format!("approved, waits for its turn to be merged into {base}"));
    let awaits = Some(BlockReason::AwaitingJudge);
    enter(&mut status, TaskPhase::Blocked, awaits, Some(next.clone()), ("judge.review", word), &name, o.now);
    match result.verdict {
        ReviewVerdict::RequestChanges => fix::refused(o, status, &name),
        ReviewVerdict::Approve if to_merge => {
            let event = ("judge.merge_queue_enqueued", "");
            let detail = next.detail.clone();
            enter(&mut status, TaskPhase::Blocked, awaits, Some(next), event, &name, o.now);
            mark(&mut status, condition::PROGRESSING, false, "AwaitingMerge", &detail, o.task, o.now);
            TaskPlan::Write(Box::new(status))
        }
        ReviewVerdict::Approve => done_unmerged(o, status, &name, "approved, merging is off"),
    }
}

/// No verdict has come of it.
fn unanswered(o: &Observed, mut status: TaskStatus, run: &Run, verdict: &RunStatus) -> TaskPlan {
    let name = run.metadata.name.clone().unwrap_or_default();
    match verdict.failure_class {
        Some(FailureClass::Infra) => TaskPlan::Write(Box::new(retry::infra(o, status, &name, verdict))),
        _ if verdict.failure_code == code::CHECKS_PENDING => {
            TaskPlan::Write(Box::new(retry::for_checks(o, status, &name, verdict)))
        }
        _ if verdict.failure_code == code::PULL_REQUEST_MERGED => merge::in_base(o, status, &name, verdict),
        _ if verdict.failure_code == code::PULL_REQUEST_CLOSED => {
            let why = first_line(&verdict.summary, 300);
            TaskPlan::Write(Box::new(retry::park(o, status, &name, &why, code::PULL_REQUEST_CLOSED)))
        }
        _ if verdict.failure_code == "quota_failure" => {
            TaskPlan::Write(Box::new(retry::quota(o, status, &name, verdict)))
        }
        Some(FailureClass::ModelLoop) if status.retries.judge >= DOOM_LOOPS => {
            status.retries.judge = status.retries.judge.saturating_add(1);
            let why = format!("the review came to no end: {}", first_line(&verdict.summary, 120));
            judge_of(&mut status).result = Some(refusal(why));
            fix::refused(o, status, &name)
        }
        Some(_) | None => retry::failed(o, status, run, verdict),
    }
}

fn refusal(finding: String) -> ReviewResult {
    ReviewResult {
        verdict: ReviewVerdict::RequestChanges,
        source: ReviewSource::Agent,
        findings: vec![finding],
        ..ReviewResult::default()
    }
}

/// Whether the commit was approved.
pub(super) fn is_approved(judge: &JudgeStatus) -> bool {
    judge.result.as_ref().is_some_and(|result| match result.verdict {
        ReviewVerdict::Approve => true,
        ReviewVerdict::RequestChanges => false,
    })
}
