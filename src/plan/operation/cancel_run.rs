//! CancelRun: one attempt is ended, whoever works on it. The run controller carries it out
//! ([`super::cancel_of`]), the task controller puts the Task back into the queue at no cost.

use super::{Observed, OperationPlan, status};
use crate::crd::operation::OperationResult;
use crate::crd::{Operation, RunPhase};

/// The Run that a CancelRun names.
pub(super) fn run_name(operation: &Operation) -> Option<&str> {
    operation.spec.run_ref.as_ref().map(|run| run.name.as_str())
}

pub(super) fn plan(o: &Observed) -> OperationPlan {
    let name = run_name(o.operation).unwrap_or_default();
    let Some(run) = o.runs.iter().find(|run| run.metadata.name.as_deref() == Some(name)) else {
        return status::failed(o, &format!("there is no Run named {name}"));
    };
    let now = run.status.clone().unwrap_or_default();
    match now.phase {
        RunPhase::Running => {
            let step = status::step("run", false, &format!("Run {name} is Cancelled"));
            status::in_progress(o, &format!("waits until Run {name} is Cancelled"), vec![step])
        }
        RunPhase::Cancelled if now.cancelled_by == o.operation.uid_str() => {
            let result = OperationResult { cancelled_runs: Some(1), ..OperationResult::default() };
            status::succeeded(o, &format!("Run {name} is Cancelled"), Some(result))
        }
        RunPhase::Success | RunPhase::Failed | RunPhase::Cancelled => {
            status::failed(o, &format!("Run {name} has ended already, it is {}", now.phase.word()))
        }
    }
}
