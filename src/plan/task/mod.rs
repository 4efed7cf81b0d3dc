//! What to do about one Task: the state machine.
//!
//! The edges are in [`table`]; which of them a Task takes:
//!
//! | from | when | to |
//! |---|---|---|
//! | Queued | a Run of the next attempt exists | Running |
//! | any | `spec.cancel`, and nothing runs | Cancelled |
//! | Running | its Run succeeded | Done, or its review |
//! | Running | its Run was cancelled | Queued, no cost, no cooldown |
//! | Running | its Run met a fault of class `infra`, or vanished | Queued, backoff |
//! | Running | provider limit | Blocked QuotaWait until the reset |
//! | Running | its Run failed otherwise | what `plan::recovery` decides: Failed or Blocked NeedsRework until `retryAt`, with adjusted commands or paths where that helps; Cancelled for a rework Task, or with a reason; a person |
//! | Failed, Blocked | `retryAt` has come | Queued |
//! | Blocked NeedsRework | a Task repairs its result | held, then follows it |
//! | Blocked, a person decides | the spec was edited | Queued |
//! | Queued, Failed, Blocked | `budgets.perTask` is used up | Blocked NeedsRework, a person decides |
//! | Blocked for that budget | it has room again | Queued |
//! | Queued, Failed, Blocked | Operation Requeue | Queued, no cost |
//! | Queued, Failed, Blocked | Operation Complete | Done |
//! | Done, Cancelled | | absorbed |
//!
//! Sources: `spec/convergence.md` 2.1, 5.5, 5.6 with the design's decisions (one clock, limits read
//! only `status.retries`, faults of the cluster cost nothing).

mod admit;
#[cfg(test)]
mod cases;
pub(in crate::plan) mod ended;
#[cfg(test)]
mod properties;
mod recover;
mod requested;
pub(in crate::plan) mod status;
pub mod table;
#[cfg(test)]
mod tests;
mod waiting;

use jiff::Timestamp;

pub use self::admit::admitted;
use self::admit::unclaimed;
pub use self::ended::INFRA_CAP;
use self::ended::{ended, vanished};
pub use self::recover::child_refused;
use self::requested::ordered;
pub use self::requested::{CYCLE_MANAGER_STOPPED, Orders, Requested};
use self::status::{mark, watch};
pub(in crate::plan) use self::waiting::requeue;
use self::waiting::{queued, waiting};
use super::budget;
use crate::crd::run::condition::POD_STARTED;
use crate::crd::system::SystemSpec;
use crate::crd::task::condition;
use crate::crd::{Run, RunPhase, Task, TaskPhase, TaskStatus};

/// What a decision about a Task is made of.
pub struct Observed<'a> {
    pub task: &'a Task,
    /// Every Run of this Task's uid, in any order.
    pub runs: &'a [&'a Run],
    /// Whether a Pod of this Task's uid may still run something.
    pub live_pod: bool,
    /// Whether the API server itself has just said that the Run in progress and its Pod are gone.
    pub confirmed: bool,
    /// The settings in force.
    pub system: &'a SystemSpec,
    /// Tasks whose label names this Task's uid as their parent: made by a split, the judge, or after it.
    pub children: &'a [&'a Task],
    /// What people have ordered by Operations.
    pub orders: Orders,
    pub now: Timestamp,
}

/// What to do about a Task.
#[derive(Clone, Debug, PartialEq)]
pub enum TaskPlan {
    /// Write this status.
    Write(Box<TaskStatus>),
    /// Create these Tasks (their names are functions of this Task, so that a repetition finds them),
    /// then write this status.
    CreateThenWrite { tasks: Vec<Task>, status: Box<TaskStatus> },
    /// The Run in progress is not in the cache: read it and its Pod (of the same name) from the API
    /// server, then decide again.
    Confirm { run: String },
    /// Nothing until an event, or until the time given.
    Wait { until: Option<Timestamp> },
}

/// Decides about a Task, within its token budget.
pub fn plan_task(o: &Observed) -> TaskPlan {
    budget::within(o, decide(o))
}

fn decide(o: &Observed) -> TaskPlan {
    let status = o.task.status.clone().unwrap_or_default();
    if status.phase.is_terminal() {
        return TaskPlan::Wait { until: None };
    }
    if let Some(run) = unclaimed(o, &status) {
        return TaskPlan::Write(Box::new(admitted(o.task, run, &[], o.now)));
    }
    if !status.current_run.is_empty() {
        return running(o, status);
    }
    if let Some(plan) = ordered(o, &status) {
        return plan;
    }
    match status.phase {
        // Only an older version or a hand wrote a Running Task without a Run: it goes on.
        TaskPhase::Running => running(o, status),
        TaskPhase::Queued => queued(o, status),
        TaskPhase::Failed | TaskPhase::Blocked => waiting(o, status),
        TaskPhase::Done | TaskPhase::Cancelled => TaskPlan::Wait { until: None },
    }
}

fn running(o: &Observed, status: TaskStatus) -> TaskPlan {
    let current = o.runs.iter().find(|r| r.metadata.name.as_deref() == Some(status.current_run.as_str()));
    match current {
        Some(run) => match run.status.as_ref().map_or(RunPhase::Running, |s| s.phase) {
            RunPhase::Running => in_progress(o, run, status),
            RunPhase::Success | RunPhase::Failed | RunPhase::Cancelled => ended(o, run, status),
        },
        // Its Run was deleted; the Pod goes with it, and until it is gone nothing else may start.
        None if o.live_pod => TaskPlan::Wait { until: None },
        // Which Run it was is not known: there is nothing to read.
        None if status.current_run.is_empty() => TaskPlan::Write(Box::new(vanished(o, status))),
        None if !o.confirmed => TaskPlan::Confirm { run: status.current_run },
        None => TaskPlan::Write(Box::new(vanished(o, status))),
    }
}

/// While the Run is in progress: say why its Pod cannot start, and that it has.
fn in_progress(o: &Observed, run: &Run, mut status: TaskStatus) -> TaskPlan {
    let stuck = run
        .status
        .iter()
        .flat_map(|s| s.conditions.iter())
        .find(|c| c.type_ == POD_STARTED && c.status == "False");
    let Some(stuck) = stuck else {
        let told = |c: &crate::crd::Condition| c.type_ == condition::PROGRESSING && c.status == "False";
        if status.next.is_some() && !status.conditions.iter().any(told) {
            return TaskPlan::Wait { until: None };
        }
        status.next = Some(watch(format!("Run {} is in progress", status.current_run)));
        let message = "an attempt is in progress";
        mark(&mut status, condition::PROGRESSING, true, "Running", message, o.task, o.now);
        return TaskPlan::Write(Box::new(status));
    };
    let detail = format!("Run {} cannot start: {}", status.current_run, stuck.message);
    let told =
        status.conditions.iter().any(|c| c.type_ == condition::PROGRESSING && c.reason == stuck.reason);
    if told {
        return TaskPlan::Wait { until: None };
    }
    status.next = Some(watch(detail.clone()));
    mark(&mut status, condition::PROGRESSING, false, &stuck.reason, &detail, o.task, o.now);
    TaskPlan::Write(Box::new(status))
}
