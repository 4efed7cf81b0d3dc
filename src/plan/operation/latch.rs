//! Arm, Disarm, Start and Stop: a latch in the status of the System (design, section 2).

use super::stop_all::{Ended, counted, is_settled};
use super::target::Target;
use super::{Observed, OperationPlan, order, status};
use crate::crd::operation::OperationResult;
use crate::crd::system::component;
use crate::crd::{AgentPool, HatchState, OperationType, System};
use crate::plan::hatch;

/// Agents and components that can be stopped at once; `System.status.stopped` takes a few more.
const MOST_STOPPED: usize = 1090;
const NO_SYSTEM: &str = "there is no System named default in this namespace: create it first";

pub(super) fn arm(o: &Observed) -> OperationPlan {
    let Some(system) = o.system else { return status::failed(o, NO_SYSTEM) };
    let present = system.status.as_ref().map(|s| s.hatch.clone()).unwrap_or_default();
    // What has had its effect has it once: somebody may have disarmed since.
    if hatch::was_set_by(&present, o.operation.uid_str()) {
        return status::succeeded(o, "armed", None);
    }
    let types = [OperationType::Disarm, OperationType::StopAll];
    if let Some(other) = order::overtaken_by(o.operation, o.operations, &types) {
        return status::failed(o, &format!("overtaken by the later Operation {}", other.name_str()));
    }
    let wanted = match hatch::ordered(system, HatchState::Armed, by(o), o.now) {
        Ok(wanted) => wanted,
        Err(why) => return status::failed(o, why),
    };
    if present != wanted {
        return latch(system, wanted, None);
    }
    status::succeeded(o, "armed", None)
}

pub(super) fn disarm(o: &Observed) -> OperationPlan {
    let Some(system) = o.system else { return status::failed(o, NO_SYSTEM) };
    let present = system.status.as_ref().map(|s| s.hatch.clone()).unwrap_or_default();
    if hatch::was_set_by(&present, o.operation.uid_str()) {
        return status::succeeded(o, "disarmed", None);
    }
    match hatch::ordered(system, HatchState::Disarmed, by(o), o.now) {
        Ok(wanted) if present != wanted => latch(system, wanted, None),
        Ok(_) => status::succeeded(o, "disarmed", None),
        Err(why) => status::failed(o, why),
    }
}

pub(super) fn start(o: &Observed) -> OperationPlan {
    let Some(system) = o.system else { return status::failed(o, NO_SYSTEM) };
    let target = match target(o, system) {
        Ok(target) => target,
        Err(why) => return status::failed(o, &why),
    };
    if let Some(other) = order::overtaken_by(o.operation, o.operations, &[OperationType::StopAll]) {
        return status::failed(o, &format!("overtaken by the later Operation {}", other.name_str()));
    }
    let name = target.name();
    if system.is_stopped(&name) {
        let rest = stopped(system).into_iter().filter(|s| *s != name).collect();
        return latch(system, hatch_of(system), Some(rest));
    }
    let hint = if system.is_armed() { "" } else { "; nothing runs before the hatch is armed" };
    status::succeeded(o, &format!("{name} is started{hint}"), None)
}

pub(super) fn stop(o: &Observed) -> OperationPlan {
    let Some(system) = o.system else { return status::failed(o, NO_SYSTEM) };
    let target = match target(o, system) {
        Ok(target) => target,
        Err(why) => return status::failed(o, &why),
    };
    let name = target.name();
    if !system.is_stopped(&name) {
        let mut all = stopped(system);
        if all.len() >= MOST_STOPPED {
            return status::failed(o, &format!("more than {MOST_STOPPED} components and agents are stopped"));
        }
        all.push(name);
        return latch(system, hatch_of(system), Some(all));
    }
    match target {
        Target::Component(_) => status::succeeded(o, &format!("{name} is stopped until it is started"), None),
        Target::Agent { pool: _, index: _ } => agent_ends(o, &name),
    }
}

/// The agent is stopped: its Run and its Pod end, its Task goes back to the queue (C109 overruled by
/// the design: Queued, not Cancelled).
fn agent_ends(o: &Observed, name: &str) -> OperationPlan {
    let ended = Ended::observe(o, |agent| agent == name);
    if !ended.all() || !is_settled(o) {
        return status::in_progress(o, &format!("{name} is stopped, its Run is being ended"), ended.steps());
    }
    let (runs, tasks) = counted(o);
    let result = OperationResult {
        cancelled_runs: Some(runs),
        requeued_tasks: Some(tasks),
        ..OperationResult::default()
    };
    let message =
        format!("{name} is stopped until it is started: {runs} Runs cancelled, {tasks} Tasks queued");
    status::succeeded(o, &message, Some(result))
}

/// What the Operation is about. An agent needs a pool; one that is stopped can be started without.
fn target(o: &Observed, system: &System) -> Result<Target, String> {
    let target = Target::parse(o.operation.spec.target.as_deref().unwrap_or_default())?;
    match &target {
        Target::Component(_) => Ok(target),
        Target::Agent { pool, index: _ } => {
            let is_it = |p: &&AgentPool| p.metadata.name.as_deref() == Some(pool);
            let known = o.pools.iter().any(is_it) || system.is_stopped(&target.name());
            known.then_some(target.clone()).ok_or_else(|| format!("there is no AgentPool named {pool}"))
        }
    }
}

/// Who orders, for the hatch.
pub(super) fn by<'a>(o: &Observed<'a>) -> hatch::Order<'a> {
    let spec = &o.operation.spec;
    let by = if spec.requested_by.is_empty() { o.operation.name_str() } else { &spec.requested_by };
    hatch::Order { by, reason: &spec.reason, operation: o.operation.uid_str() }
}

/// What is stopped.
pub(super) fn stopped(system: &System) -> Vec<String> {
    system.status.as_ref().map(|s| s.stopped.clone()).unwrap_or_default()
}

fn hatch_of(system: &System) -> crate::crd::Hatch {
    system.status.as_ref().map(|s| s.hatch.clone()).unwrap_or_default()
}

/// Writes the hatch and what is stopped; `None` leaves the latter as it is.
pub(super) fn latch(system: &System, hatch: crate::crd::Hatch, stop: Option<Vec<String>>) -> OperationPlan {
    OperationPlan::Latch { hatch: Box::new(hatch), stopped: stop.unwrap_or_else(|| stopped(system)) }
}

/// What is stopped, with every component.
pub(super) fn with_all_components(system: &System) -> Vec<String> {
    let mut all = stopped(system);
    for name in component::ALL {
        if !all.iter().any(|s| s == name) {
            all.push(name.to_string());
        }
    }
    all
}
