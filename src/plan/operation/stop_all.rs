//! StopAll, in the order of the design's decision table (`spec/api.md` 2.9, C108, invariant S13): hatch
//! Disarmed and components stopped first, then Pods, Runs, Tasks. The Runs themselves are ended by the
//! run controller once this Operation is Running ([`super::cancel_of`]), the Tasks by the task controller.

use std::collections::HashSet;
use std::time::Duration;

use super::latch::{by, latch, with_all_components};
use super::{Doomed, DoomedKind, Observed, OperationPlan, status};
use crate::crd::operation::{OperationResult, OperationStep};
use crate::crd::{HatchState, OperationPhase, PodFacts, Run, RunPhase, TaskPhase};
use crate::plan::hatch;
use crate::plan::run::add;

/// A create that was under way when the latch was set is accepted, and known here, until then at the
/// latest (invariant S12).
const LATE_CREATES: Duration = Duration::from_secs(1);
/// Objects deleted in one step.
pub(super) const BATCH: usize = 100;

pub(super) fn plan(o: &Observed) -> OperationPlan {
    if let Some(system) = o.system {
        let present = system.status.as_ref().map(|s| s.hatch.clone()).unwrap_or_default();
        let wanted = match hatch::ordered(system, HatchState::Disarmed, by(o), o.now) {
            Ok(wanted) => wanted,
            Err(why) => return status::failed(o, why),
        };
        let all = with_all_components(system);
        if present != wanted || all.len() != system.status.as_ref().map_or(0, |s| s.stopped.len()) {
            return latch(system, wanted, Some(all));
        }
    }
    let ended = Ended::observe(o, |_| true);
    if !ended.all() || !is_settled(o) {
        let said = status::in_progress(o, "ending Pods and Runs", ended.steps());
        return match (said, strays(o)) {
            (OperationPlan::Wait { until: _ }, strays) if !strays.is_empty() => OperationPlan::Delete(strays),
            (plan, _) => plan,
        };
    }
    let (runs, tasks) = counted(o);
    let result = OperationResult {
        cancelled_runs: Some(runs),
        requeued_tasks: Some(tasks),
        ..OperationResult::default()
    };
    let message = format!("everything is stopped: {runs} Runs cancelled, {tasks} Tasks queued");
    status::succeeded(o, &message, Some(result))
}

/// Whether everything that was under way when the latch was set is known by now. The latch names the
/// time at which it was decided; it was in force at the latest when this Operation, having seen it,
/// said that it is in progress.
pub(super) fn is_settled(o: &Observed) -> bool {
    let in_force = o.operation.status.as_ref().filter(|s| s.phase == OperationPhase::Running);
    in_force.and_then(|s| s.started_at).is_some_and(|at| add(at, LATE_CREATES) <= o.now)
}

/// Live Pods of ours that no unfinished Run accounts for.
fn strays(o: &Observed) -> Vec<Doomed> {
    let known: HashSet<&str> =
        o.runs.iter().filter(|r| !is_over(r)).filter_map(|r| r.metadata.uid.as_deref()).collect();
    o.pods
        .iter()
        .filter(|p| p.is_live() && p.deleted.is_none() && !known.contains(p.run_uid.as_str()))
        .map(|p| Doomed { kind: DoomedKind::Pod, name: p.name.clone(), uid: p.uid.clone() })
        .take(BATCH)
        .collect()
}

/// What of Pods, Runs and Tasks is still to end.
pub(super) struct Ended {
    pods: bool,
    runs: bool,
    tasks: bool,
}

impl Ended {
    /// Looks at the agents that `concerned` names.
    pub(super) fn observe(o: &Observed, concerned: impl Fn(&str) -> bool) -> Self {
        let live = |p: &&PodFacts| p.is_live() && concerned(&p.agent);
        let unfinished = |r: &&Run| !is_over(r) && concerned(&r.spec.agent);
        let held = o
            .tasks
            .iter()
            .filter_map(|t| t.status.as_ref())
            .any(|s| !s.phase.is_terminal() && !s.current_run.is_empty() && concerned(&s.agent));
        Self {
            pods: !o.pods.iter().copied().any(|p| live(&p)),
            runs: !o.runs.iter().copied().any(|r| unfinished(&r)),
            tasks: !held,
        }
    }

    pub(super) fn all(&self) -> bool {
        self.pods && self.runs && self.tasks
    }

    pub(super) fn steps(&self) -> Vec<OperationStep> {
        vec![
            status::step("latch", true, "nothing new is started"),
            status::step("pods", self.pods, "no Pod runs an agent any more"),
            status::step("runs", self.runs, "every Run is over; those that had not finished are Cancelled"),
            status::step("tasks", self.tasks, "their Tasks are queued again, at no cost"),
        ]
    }
}

/// Runs that this Operation has cancelled, and their Tasks that are queued again.
pub(super) fn counted(o: &Observed) -> (i32, i32) {
    let uid = o.operation.uid_str();
    let cancelled: Vec<&Run> = o
        .runs
        .iter()
        .copied()
        .filter(|r| {
            r.status.as_ref().is_some_and(|s| s.phase == RunPhase::Cancelled && s.cancelled_by == uid)
        })
        .collect();
    let tasks: HashSet<&str> = cancelled.iter().map(|r| r.spec.task_ref.uid.as_str()).collect();
    let queued = o.tasks.iter().filter(|t| {
        t.metadata.uid.as_deref().is_some_and(|uid| tasks.contains(uid))
            && t.status.as_ref().is_some_and(|s| s.phase == TaskPhase::Queued)
    });
    let number = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    (number(cancelled.len()), number(queued.count()))
}

fn is_over(run: &Run) -> bool {
    run.status.as_ref().is_some_and(|s| s.phase.is_terminal())
}
