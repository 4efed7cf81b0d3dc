//! From objects to the facts that the dispatch queue works on, and back to words for people.

use jiff::Timestamp;
use kube::ResourceExt;

use crate::crd::condition::is_true;
use crate::crd::task::condition;
use crate::crd::{AgentPool, GoDuration, Next, PodFacts, Run, System, Task, TaskStatus, set_condition};
use crate::plan::dispatch::{Holder, HolderId, PoolFacts, SystemFacts, TaskFacts, Wait};
use crate::plan::lanes::{self, LaneFacts};
use crate::plan::{area, priority};

/// One thing the dispatcher has to know.
#[derive(Clone, Debug)]
pub enum Fact {
    Task(TaskFacts),
    TaskGone(String),
    System(Option<SystemFacts>),
    Pool(PoolFacts),
    PoolGone(String),
    /// A Run that is not over, or a Pod that may run something.
    Occupy(HolderId, Holder),
    Release(HolderId),
}

/// The facts of a Task.
pub fn task(task: &Task) -> TaskFacts {
    let status = task.status.clone().unwrap_or_default();
    let spec = &task.spec;
    let created_at = task.metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0);
    let timebox = GoDuration::or(Some(&spec.timebox), std::time::Duration::from_secs(3600));
    TaskFacts {
        uid: task.uid().unwrap_or_default(),
        name: task.name_any(),
        phase: status.phase,
        cancel: spec.cancel,
        role: spec.role,
        lane: spec.lane.clone().unwrap_or_else(|| lanes::default_lane(spec.role).to_string()),
        kind: spec.kind.clone(),
        areas: area::resolve(spec.target_area.as_deref(), &spec.touches, &spec.allowed_paths)
            .into_iter()
            .collect(),
        static_key: priority::static_key(spec.priority, spec.risk_level, timebox, created_at),
        not_before: status.retry_at,
        dependencies: spec.dependencies.clone(),
        resolved: status.resolved_dependencies,
        attempts: status.attempts,
        created_at,
    }
}

/// The facts of a System.
pub fn system(system: &System) -> SystemFacts {
    let bound = |v: Option<i32>| v.and_then(|v| u32::try_from(v).ok());
    SystemFacts {
        armed: system.is_armed(),
        max_concurrent: bound(system.spec.dispatch.max_concurrent),
        lanes: system
            .spec
            .dispatch
            .lanes
            .iter()
            .map(|l| LaneFacts { name: l.name.clone(), min: bound(l.min_slots), max: bound(l.max_slots) })
            .collect(),
    }
}

/// The facts of an AgentPool.
pub fn pool(pool: &AgentPool) -> PoolFacts {
    PoolFacts {
        name: pool.name_any(),
        role: pool.spec.role,
        replicas: u32::try_from(pool.spec.replicas).unwrap_or(0),
        suspended: pool.spec.suspend,
    }
}

/// What a Run holds while it is not over.
pub fn run_holder(run: &Run) -> Holder {
    Holder {
        task_uid: run.spec.task_ref.uid.clone(),
        pool: run.spec.pool.clone(),
        agent: run.spec.agent.clone(),
        lane: run.spec.lane.clone(),
        areas: run.spec.target_areas.clone(),
    }
}

/// What a Pod holds while it may run something.
pub fn pod_holder(pod: &PodFacts) -> Holder {
    Holder {
        task_uid: pod.task_uid.clone(),
        pool: pod.pool.clone(),
        agent: pod.agent.clone(),
        lane: pod.lane.clone(),
        areas: pod.areas.clone(),
    }
}

/// The next move of a Task that waits.
pub fn next(wait: &Wait) -> Next {
    Next { kind: wait.next_kind(), at: wait.at(), detail: wait.detail() }
}

/// Marks a Task Stalled while a person has to act, and clears the mark once it is not so.
pub fn mark_stalled(status: &mut TaskStatus, wait: &Wait, detail: &str, generation: i64, now: Timestamp) {
    let stalled = wait.next_kind() == crate::crd::NextKind::Operator;
    if stalled || is_true(&status.conditions, condition::STALLED) {
        set_condition(
            &mut status.conditions,
            condition::STALLED,
            stalled,
            wait.kind(),
            detail,
            generation,
            now,
        );
    }
}
