//! What to do next about one Operation.
//!
//! Every type is a list of steps, and the next one follows from what is observed, never from memory:
//! an operator that is killed at any step goes on after its restart, and repeating an Operation changes
//! nothing. Sources: `spec/api.md` 2 (2.8 hatch, 2.9 stop-all and cleanup), the design's decision table,
//! invariants S12, S13 and S15.
//!
//! | type | steps |
//! |---|---|
//! | Arm, Disarm | latch in `System.status.hatch` |
//! | Start, Stop | latch in `System.status.stopped`; Stop of an agent: its Run Cancelled, its Task Queued |
//! | StopAll | latch (Disarmed, components stopped); Pods; Runs; Tasks |
//! | Cleanup | check; Tasks (Runs and Pods go with them); finished Operations |
//! | Preflight | count |
//! | Replan | check; planner started in `System.status.stopped`; the Task that plans |
//! | EndCycle | the cycle ends in `System.status.cycle`, whose record names the Operation |
//! | CancelRun | the run controller carries it out ([`cancel_of`]): the Run Cancelled, its Task Queued |
//! | Requeue, Complete | the task controller carries it out (`plan::task`) |
//!
//! Runs and Tasks have one writer each: they look for Operations in progress themselves ([`cancel_of`],
//! `plan::task::Requested`), and the Operation waits until it sees the result.

mod cancel;
mod cancel_run;
mod cleanup;
mod end_cycle;
mod latch;
mod order;
pub mod preflight;
mod replan;
mod status;
mod stop_all;
pub mod target;
mod task_request;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;

use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt;

pub use self::cancel::{Cancel, cancel_of, released_by};
pub use self::order::place;
pub use self::target::Target;
pub use self::task_request::requested_of;
use crate::crd::{AgentPool, Hatch, Operation, OperationType, PodFacts, Run, System, Task};
use crate::plan::run::add;

/// Between two looks at what an Operation waits for.
pub const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// What a decision about an Operation is made of: all objects of its namespace.
pub struct Observed<'a> {
    pub operation: &'a Operation,
    /// Every Operation of the namespace, this one included.
    pub operations: &'a [&'a Operation],
    pub system: Option<&'a System>,
    pub tasks: &'a [&'a Task],
    pub runs: &'a [&'a Run],
    pub pods: &'a [&'a PodFacts],
    pub pools: &'a [&'a AgentPool],
    pub now: Timestamp,
}

/// Kind of an object to be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DoomedKind {
    Pod,
    Task,
    Operation,
}

/// An object to be deleted, if it still has this uid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doomed {
    pub kind: DoomedKind,
    pub name: String,
    pub uid: String,
}

/// The next single step.
#[derive(Clone, Debug, PartialEq)]
pub enum OperationPlan {
    /// It is over.
    Nothing,
    /// Write this status of the Operation.
    Write(Box<crate::crd::OperationStatus>),
    /// Put this into the status of the System.
    Latch { hatch: Box<Hatch>, stopped: Vec<String> },
    /// End the present cycle in the name of `by`.
    EndCycle { by: String },
    /// Create this Task unless it exists, then look again.
    Create(Box<Task>),
    /// Delete these, then look again.
    Delete(Vec<Doomed>),
    /// Look again then.
    Wait { until: Timestamp },
}

impl Observed<'_> {
    fn soon(&self) -> Timestamp {
        add(self.now, LOOK_AGAIN)
    }
}

/// Decides about an Operation.
pub fn plan_operation(o: &Observed) -> OperationPlan {
    if o.operation.phase().is_terminal() || o.operation.metadata.deletion_timestamp.is_some() {
        return OperationPlan::Nothing;
    }
    if let Some(other) = order::waits_for(o.operation, o.operations) {
        let what = format!("{} ({})", other.name_any(), other.spec.type_.word());
        return status::waiting(
            o,
            &format!("waits for the end of Operation {what}, delete that to withdraw it"),
        );
    }
    match o.operation.spec.type_ {
        OperationType::Arm => latch::arm(o),
        OperationType::Disarm => latch::disarm(o),
        OperationType::Start => latch::start(o),
        OperationType::Stop => latch::stop(o),
        OperationType::StopAll => stop_all::plan(o),
        OperationType::Cleanup => cleanup::plan(o),
        OperationType::Preflight => preflight::plan(o),
        OperationType::Replan => replan::plan(o),
        OperationType::EndCycle => end_cycle::plan(o),
        OperationType::CancelRun => cancel_run::plan(o),
        OperationType::Requeue | OperationType::Complete => task_request::plan(o),
    }
}
