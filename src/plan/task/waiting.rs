//! A Task waits: until a moment, for an edit, or to be cancelled.

use super::status::{enter, finish, generation, mark, mark_false, watch};
use super::{Observed, TaskPlan};
use crate::crd::task::condition;
use crate::crd::{BlockReason, TaskPhase, TaskStatus};
use crate::plan::judge;

pub(in crate::plan) fn waiting(o: &Observed, status: TaskStatus) -> TaskPlan {
    if o.task.spec.cancel {
        return cancel(o, status);
    }
    if judge::owns(&status) {
        return judge::awaiting(o, status);
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

pub(in crate::plan) fn requeue(
    o: &Observed,
    mut status: TaskStatus,
    run: &str,
    reason: &str,
    detail: &str,
) -> TaskStatus {
    status.retry_at = None;
    let next = watch(format!("waiting for the dispatcher: {detail}"));
    enter(&mut status, TaskPhase::Queued, None, Some(next), ("task.requeued", reason), run, o.now);
    mark(&mut status, condition::PROGRESSING, false, "Queued", detail, o.task, o.now);
    mark_false(&mut status, condition::STALLED, detail, o);
    status
}

pub(in crate::plan) fn cancel(o: &Observed, status: TaskStatus) -> TaskPlan {
    if o.live_pod {
        return TaskPlan::Wait { until: None };
    }
    let run = status.last_run.clone();
    TaskPlan::Write(Box::new(cancelled(o, status, &run)))
}

pub(in crate::plan) fn cancelled(o: &Observed, mut status: TaskStatus, run: &str) -> TaskStatus {
    enter(&mut status, TaskPhase::Cancelled, None, None, ("task.cancelled", "spec_cancel"), run, o.now);
    finish(&mut status, "Cancelled", "cancelled by spec.cancel", o);
    status
}
