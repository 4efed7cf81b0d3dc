//! Which Runs an Operation ends. The run controller asks for each of its Runs; nothing is remembered:
//! the answer follows from the latch in the System and from the Operations in progress.

use jiff::Timestamp;

use super::target::Target;
use crate::crd::pool::AgentHoldReason;
use crate::crd::{AgentHold, Operation, OperationPhase, OperationType, Run, System};

/// Why a Run is to be ended at no cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cancel {
    /// Uid of the Operation that counts it; empty when that is over.
    pub operation: String,
    /// One sentence.
    pub why: String,
}

/// Whether `run` is to be ended: a StopAll is in progress (it says so only once the hatch is disarmed
/// and the components are stopped), or a CancelRun that names it, or its agent is stopped. `operations` are those not yet over.
pub fn cancel_of<'a>(
    run: &Run,
    system: Option<&System>,
    operations: impl Iterator<Item = &'a Operation> + Clone,
) -> Option<Cancel> {
    let stop_all = operations
        .clone()
        .filter(|o| o.spec.type_ == OperationType::StopAll && o.phase() == OperationPhase::Running)
        .min_by_key(|o| super::order::place(o));
    if let Some(operation) = stop_all {
        let why = format!("cancelled by Operation {} (StopAll)", operation.name_str());
        return Some(Cancel { operation: operation.uid_str().into(), why });
    }
    let named = operations.clone().filter(|o| cancels(o, run)).min_by_key(|o| super::order::place(o));
    if let Some(operation) = named {
        let why = format!("cancelled by Operation {} (CancelRun)", operation.name_str());
        return Some(Cancel { operation: operation.uid_str().into(), why });
    }
    if !system.is_some_and(|s| s.is_stopped(&run.spec.agent)) {
        return None;
    }
    let stop = operations
        .filter(|o| !o.phase().is_terminal() && targets(o, OperationType::Stop, &run.spec.agent))
        .min_by_key(|o| super::order::place(o));
    let operation = stop.map(|o| o.uid_str().to_string()).unwrap_or_default();
    Some(Cancel { operation, why: format!("cancelled because agent {} is stopped", run.spec.agent) })
}

/// Whether an Operation of type Start has freed an agent that was held because it crashed too often.
/// The pool controller drops such a hold; it calls this for its own `held` entries only.
pub fn released_by<'a>(mut operations: impl Iterator<Item = &'a Operation>, hold: &AgentHold) -> bool {
    let since = hold.last_crash.or(hold.window_start).unwrap_or(Timestamp::UNIX_EPOCH);
    match hold.reason {
        AgentHoldReason::Restarting => false,
        AgentHoldReason::Exhausted => operations.any(|o| {
            o.phase() == OperationPhase::Succeeded
                && targets(o, OperationType::Start, &hold.name)
                && o.status.as_ref().and_then(|s| s.finished_at).is_some_and(|at| at > since)
        }),
    }
}

fn cancels(operation: &Operation, run: &Run) -> bool {
    operation.spec.type_ == OperationType::CancelRun
        && operation.phase() == OperationPhase::Running
        && super::cancel_run::run_name(operation) == run.metadata.name.as_deref()
}

fn targets(operation: &Operation, type_: OperationType, agent: &str) -> bool {
    operation.spec.type_ == type_
        && operation
            .spec
            .target
            .as_deref()
            .is_some_and(|target| Target::parse(target).is_ok_and(|t| t.name() == agent))
}
