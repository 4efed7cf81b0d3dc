//! Requeue and Complete: a person decides about one Task. The Task's own controller carries it out
//! (`plan::task`), exactly once, because it notes the Operation's uid in the same write.

use super::{Observed, OperationPlan, status};
use crate::crd::{Operation, OperationPhase, OperationType, Task, TaskPhase};
use crate::plan::task::Requested;

/// The request in progress for this Task that has not been carried out yet. `operations` are those of
/// its namespace that are not over.
pub fn requested_of<'a>(
    task: &Task,
    mut operations: impl Iterator<Item = &'a Operation>,
) -> Option<Requested> {
    let last = task.status.as_ref().map(|s| s.last_operation.as_str()).unwrap_or_default();
    let operation = operations.find(|o| {
        o.phase() == OperationPhase::Running
            && o.uid_str() != last
            && task_name(o) == task.metadata.name.as_deref()
    })?;
    let complete = match operation.spec.type_ {
        OperationType::Complete => true,
        OperationType::Requeue => false,
        OperationType::Arm
        | OperationType::Disarm
        | OperationType::Start
        | OperationType::Stop
        | OperationType::StopAll
        | OperationType::Cleanup
        | OperationType::Preflight
        | OperationType::Replan
        | OperationType::EndCycle
        | OperationType::CancelRun => return None,
    };
    Some(Requested { operation: operation.uid_str().into(), name: operation.name_str().into(), complete })
}

fn task_name(operation: &Operation) -> Option<&str> {
    operation.spec.task_ref.as_ref().map(|t| t.name.as_str())
}

pub(super) fn plan(o: &Observed) -> OperationPlan {
    let name = task_name(o.operation).unwrap_or_default();
    let Some(task) = o.tasks.iter().find(|t| t.metadata.name.as_deref() == Some(name)) else {
        return status::failed(o, &format!("there is no Task named {name}"));
    };
    let now = task.status.clone().unwrap_or_default();
    let complete = o.operation.spec.type_ == OperationType::Complete;
    let done = if complete { "is Done" } else { "is queued again, at no cost" };
    if now.last_operation == o.operation.uid_str() {
        return status::succeeded(o, &format!("Task {name} {done}"), None);
    }
    let refused = match now.phase {
        TaskPhase::Done | TaskPhase::Cancelled => {
            Some(format!("Task {name} is {} for good", now.phase.word()))
        }
        TaskPhase::Running => {
            Some(format!("Task {name} is in progress: stop its agent, or wait for its end"))
        }
        TaskPhase::Queued | TaskPhase::Failed | TaskPhase::Blocked if !now.current_run.is_empty() => {
            Some(format!("Run {} of Task {name} is in progress: wait for its end", now.current_run))
        }
        TaskPhase::Queued | TaskPhase::Failed | TaskPhase::Blocked if task.spec.cancel => {
            Some(format!("Task {name} is being cancelled by its spec.cancel"))
        }
        TaskPhase::Queued | TaskPhase::Failed | TaskPhase::Blocked => None,
    };
    if let Some(why) = refused {
        return status::failed(o, &why);
    }
    if !complete && now.phase == TaskPhase::Queued && now.retry_at.is_none() {
        return status::succeeded(o, &format!("Task {name} is queued already"), None);
    }
    let step = status::step("task", false, &format!("Task {name} {done}"));
    status::in_progress(o, &format!("waits until Task {name} {done}"), vec![step])
}
