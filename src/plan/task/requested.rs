//! What a person has ordered about a Task that waits: an Operation of type Requeue or Complete, or a
//! stopped cycle-manager.

use super::status::{enter, finish, mark};
use super::table::Trigger;
use super::waiting::requeue;
use super::{Observed, TaskPlan};
use crate::crd::task::condition;
use crate::crd::{BlockReason, Next, NextKind, TaskPhase, TaskStatus};
use crate::plan::judge;

/// An Operation of type Requeue or Complete that is to be carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requested {
    /// Its uid.
    pub operation: String,
    pub name: String,
    /// Complete, else Requeue.
    pub complete: bool,
}

/// What people have ordered.
#[derive(Clone, Debug, Default)]
pub struct Orders {
    pub requested: Option<Requested>,
    /// The component cycle-manager is stopped: nothing happens because a time has come.
    pub recovery_stopped: bool,
}

/// Condition reason while the cycle-manager is stopped.
pub const CYCLE_MANAGER_STOPPED: &str = "CycleManagerStopped";

/// What is to be done about a Task without a Run in progress because somebody ordered it.
pub(in crate::plan) fn ordered(o: &Observed, status: &TaskStatus) -> Option<TaskPlan> {
    if o.task.spec.cancel || !waits(status.phase) {
        return None;
    }
    match &o.orders.requested {
        Some(_) if o.live_pod => Some(TaskPlan::Wait { until: None }),
        Some(request) => Some(TaskPlan::Write(Box::new(carried_out(o, status.clone(), request)))),
        None if o.orders.recovery_stopped => stopped(o, status),
        None => None,
    }
}

fn waits(phase: TaskPhase) -> bool {
    match phase {
        TaskPhase::Queued | TaskPhase::Failed | TaskPhase::Blocked => true,
        TaskPhase::Running | TaskPhase::Done | TaskPhase::Cancelled => false,
    }
}

fn carried_out(o: &Observed, mut status: TaskStatus, request: &Requested) -> TaskStatus {
    let run = status.last_run.clone();
    status.last_operation.clone_from(&request.operation);
    if request.complete {
        let message = format!("completed by Operation {}", request.name);
        enter(&mut status, TaskPhase::Done, None, None, ("task.done", "operation"), &run, o.now);
        finish(&mut status, "Done", &message, o);
        return status;
    }
    let detail = format!("requeued by Operation {}", request.name);
    if status.block_reason == Some(BlockReason::AwaitingJudge) && status.judge.is_some() {
        return judge::reopened(o, status, "operation", &detail);
    }
    requeue(o, status, (Trigger::OperationRequeued, "operation"), &run, &detail)
}

/// A time-driven move that is due does not happen, and the Task says so.
fn stopped(o: &Observed, status: &TaskStatus) -> Option<TaskPlan> {
    let waits_for_judge = status.block_reason == Some(BlockReason::AwaitingJudge);
    let at = status.retry_at.filter(|_| status.phase != TaskPhase::Queued && !waits_for_judge)?;
    if o.now < at {
        return Some(TaskPlan::Wait { until: Some(at) });
    }
    let told = |c: &crate::crd::Condition| {
        c.type_ == condition::PROGRESSING && c.status == "False" && c.reason == CYCLE_MANAGER_STOPPED
    };
    if status.conditions.iter().any(told) {
        return Some(TaskPlan::Wait { until: None });
    }
    let mut status = status.clone();
    let detail = "the cycle-manager is stopped: the retry is due once an Operation of type Start starts it";
    status.next = Some(Next { kind: NextKind::Operator, at: None, detail: detail.into() });
    mark(&mut status, condition::PROGRESSING, false, CYCLE_MANAGER_STOPPED, detail, o.task, o.now);
    Some(TaskPlan::Write(Box::new(status)))
}
