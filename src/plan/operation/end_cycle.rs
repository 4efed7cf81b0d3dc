//! EndCycle: the present cycle ends, what runs goes on, and the next cycle begins (`plan::cycle::end`).

use kube::ResourceExt;

use super::{Observed, OperationPlan, status};
use crate::crd::cycle::{CyclePhase, CycleTrigger};
use crate::crd::operation::OperationResult;

pub(super) fn plan(o: &Observed) -> OperationPlan {
    let cycle = o.system.and_then(|system| system.status.as_ref()).and_then(|status| status.cycle.as_ref());
    let Some(cycle) = cycle else {
        return status::succeeded(o, "no cycle has begun yet: the first one begins with the System", None);
    };
    // The record of a cycle names who ended it: a repetition finds it and ends no other.
    let by = by(o);
    let ours = cycle
        .history
        .iter()
        .find(|ended| ended.trigger_type == Some(CycleTrigger::Manual) && ended.end_reason.contains(&by));
    if let Some(ended) = ours {
        let message = format!("cycle {} has ended", ended.number);
        let result = OperationResult { ended_cycle: Some(ended.number), ..OperationResult::default() };
        return status::succeeded(o, &message, Some(result));
    }
    if cycle.phase != CyclePhase::Running {
        let message = format!(
            "cycle {} has ended already, the next begins once cycle-manager is started",
            cycle.number
        );
        return status::succeeded(o, &message, None);
    }
    OperationPlan::EndCycle { by }
}

/// How the record of the cycle names this Operation.
fn by(o: &Observed) -> String {
    format!("Operation {} ({})", o.operation.name_any(), o.operation.uid().unwrap_or_default())
}
