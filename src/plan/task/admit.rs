//! A Task gets its Run: found after a crash, or just created by the dispatcher.

use jiff::Timestamp;

use super::Observed;
use super::ended::INFRA_CAP;
use super::status::{drop_adjustments, enter, generation, is_edited, mark, watch};
use crate::crd::condition::is_true;
use crate::crd::task::{ResolvedDependency, condition};
use crate::crd::{Purpose, Run, Task, TaskPhase, TaskStatus};

/// A Run that was created for the next attempt before the Task could be marked.
pub(in crate::plan) fn unclaimed<'a>(o: &Observed<'a>, status: &TaskStatus) -> Option<&'a Run> {
    let newest = o.runs.iter().copied().filter(|r| !is_review(r)).max_by_key(|r| r.spec.attempt)?;
    let claimable = status.phase != TaskPhase::Running && newest.spec.attempt > status.attempts;
    claimable.then_some(newest)
}

/// The status of a Task whose Run `run` has just been created: it is Running.
///
/// `resolved` are the dependencies on which the admission relied; they stay resolved.
pub fn admitted(task: &Task, run: &Run, resolved: &[ResolvedDependency], now: Timestamp) -> TaskStatus {
    let name = run.metadata.name.clone().unwrap_or_default();
    let mut status = task.status.clone().unwrap_or_default();
    status.attempts = run.spec.attempt;
    status.current_run.clone_from(&name);
    status.last_run.clone_from(&name);
    status.agent.clone_from(&run.spec.agent);
    status.retry_at = None;
    if is_edited(task, &status) {
        drop_adjustments(task, &mut status);
    }
    let effective = status.effective.get_or_insert_default();
    effective.lane = Some(run.spec.lane.clone());
    effective.target_area = run.spec.target_areas.first().cloned();
    for dependency in resolved {
        if !status.resolved_dependencies.contains(dependency) {
            status.resolved_dependencies.push(dependency.clone());
        }
    }
    status.observed_generation = generation(task);
    let next = watch(format!("Run {name} is in progress"));
    enter(&mut status, TaskPhase::Running, None, Some(next), ("task.started", ""), &name, now);
    mark(&mut status, condition::PROGRESSING, true, "Running", "an attempt is in progress", task, now);
    if is_true(&status.conditions, condition::STALLED) && status.retries.infra < INFRA_CAP {
        mark(&mut status, condition::STALLED, false, "Running", "an attempt is in progress", task, now);
    }
    status
}

/// Whether a Run looks at the result of another one.
pub(in crate::plan) fn is_review(run: &Run) -> bool {
    match run.spec.purpose {
        Purpose::Judge | Purpose::Merge => true,
        Purpose::Execute | Purpose::Plan => false,
    }
}
