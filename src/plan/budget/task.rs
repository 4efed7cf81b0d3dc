//! The token budget of one Task: once its Runs have used it up, it is not tried again.
//!
//! Each attempt is given what is left; the runner ends the agent once its output reports as many tokens
//! (design: "per task while running", hazard H15). A Task exceeds its budget by what an agent uses
//! between two reports, and by its reviews.

use crate::crd::budget::Budgets;
use crate::crd::task::condition;
use crate::crd::{BlockReason, Next, NextKind, Run, TaskPhase, TaskStatus};
use crate::plan::judge;
use crate::plan::task::status::{enter, mark};
use crate::plan::task::table::Trigger;
use crate::plan::task::{Observed, TaskPlan, requeue};

/// Reason of the condition `Progressing` of a Task whose budget is used up.
const REASON: &str = "TaskBudget";

/// Tokens that the ended Runs of a Task have used.
fn used<'a>(runs: impl IntoIterator<Item = &'a Run>) -> i64 {
    runs.into_iter()
        .filter_map(|run| run.status.as_ref()?.tokens)
        .fold(0i64, |sum, tokens| sum.saturating_add(tokens.total.max(0)))
}

/// Whether the ended Runs of a Task have used its budget up: no further attempt is admitted. Reviews of
/// what it has achieved are.
pub fn is_spent<'a>(budgets: &Budgets, status: &TaskStatus, runs: impl IntoIterator<Item = &'a Run>) -> bool {
    waits_for_attempt(status) && budgets.per_task.is_some_and(|limit| used(runs) >= limit)
}

/// Tokens that the budget of a Task has left for another attempt, at least one: whether there is any is
/// [`is_spent`]'s to say. `None`: there is no budget.
pub fn left<'a>(budgets: &Budgets, runs: impl IntoIterator<Item = &'a Run>) -> Option<i64> {
    budgets.per_task.map(|limit| limit.saturating_sub(used(runs)).max(1))
}

/// Holds a plan within `budgets.perTask`: a Task that would wait for another attempt waits for a
/// person instead while its budget is used up, and goes on once it no longer is.
pub fn within(o: &Observed, plan: TaskPlan) -> TaskPlan {
    let limit = o.system.budgets.per_task;
    let used = used(o.runs.iter().copied());
    let exceeded = limit.filter(|limit| used >= *limit);
    let present = o.task.status.clone().unwrap_or_default();
    match (plan, exceeded) {
        (TaskPlan::Write(status), Some(limit)) if waits_for_attempt(&status) => {
            TaskPlan::Write(Box::new(blocked(o, *status, used, limit)))
        }
        (TaskPlan::Wait { until }, Some(limit)) if waits_for_attempt(&present) => {
            if is_blocked(&present) {
                return TaskPlan::Wait { until };
            }
            TaskPlan::Write(Box::new(blocked(o, present, used, limit)))
        }
        (TaskPlan::Wait { until: _ }, None) if is_blocked(&present) => {
            let run = present.last_run.clone();
            let detail = "the token budget of the Task has room again";
            TaskPlan::Write(Box::new(requeue(
                o,
                present,
                (Trigger::BudgetRaised, "task_budget_raised"),
                &run,
                detail,
            )))
        }
        (plan, _) => plan,
    }
}

/// Whether the next thing that happens to the Task is another attempt. One that waits for a review, or
/// for the Task that mends its result, is the judge's.
fn waits_for_attempt(status: &TaskStatus) -> bool {
    match status.phase {
        TaskPhase::Queued | TaskPhase::Failed => status.current_run.is_empty() && status.attempts > 0,
        TaskPhase::Blocked => status.current_run.is_empty() && !judge::owns(status),
        TaskPhase::Running | TaskPhase::Done | TaskPhase::Cancelled => false,
    }
}

/// Whether the Task waits because its budget is used up.
pub fn is_blocked(status: &TaskStatus) -> bool {
    status.phase == TaskPhase::Blocked
        && status
            .conditions
            .iter()
            .any(|c| c.type_ == condition::PROGRESSING && c.status == "False" && c.reason == REASON)
}

fn blocked(o: &Observed, mut status: TaskStatus, used: i64, limit: i64) -> TaskStatus {
    let detail = format!(
        "budgets.perTask of {limit} tokens is used up ({used} used by its Runs): raise budgets.perTask in the System, \
         or set spec.cancel: true"
    );
    status.retry_at = None;
    let next = Next { kind: NextKind::Operator, at: None, detail: detail.clone() };
    let run = status.last_run.clone();
    let reason = Some(BlockReason::NeedsRework);
    enter(&mut status, TaskPhase::Blocked, reason, Some(next), ("task.blocked", "task_budget"), &run, o.now);
    mark(&mut status, condition::PROGRESSING, false, REASON, &detail, o.task, o.now);
    mark(&mut status, condition::STALLED, true, REASON, &detail, o.task, o.now);
    status
}
