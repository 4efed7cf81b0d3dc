//! From objects to the facts that the dispatch queue works on, and back to words for people.

use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt;

use crate::crd::condition::is_true;
use crate::crd::judge::JudgeStage;
use crate::crd::system::condition::BUDGET_EXCEEDED;
use crate::crd::task::{DEFAULT_TIMEBOX_SECS, condition};
use crate::crd::{
    AgentPool, BlockReason, Condition, FailureClass, GoDuration, Next, PodFacts, Purpose, Role, Run,
    RunPhase, System, Task, TaskPhase, TaskStatus, names, set_condition,
};
use crate::plan::dispatch::{EndedRun, HOLD_BASE, Holder, HolderId, PoolFacts, SystemFacts, TaskFacts, Wait};
use crate::plan::lanes::{self, LaneFacts};
use crate::plan::priority::StaticKey;
use crate::plan::{area, priority};

/// Failure code of a Run that met the provider's limit.
const QUOTA_FAILURE: &str = "quota_failure";

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
    /// A Run that has asked a provider is over, by its uid.
    Ended(String, EndedRun),
    /// A Run is gone, by its uid.
    RunGone(String),
}

/// What the next Run of a Task is for, as far as the dispatcher is concerned: a review or a merge only
/// while the Task waits for one and names no Run in progress.
pub fn wanted_purpose(task: &Task) -> Purpose {
    let waits = |status: &&TaskStatus| {
        status.phase == TaskPhase::Blocked
            && status.block_reason == Some(BlockReason::AwaitingJudge)
            && status.current_run.is_empty()
    };
    let judge = task.status.as_ref().filter(waits).and_then(|status| status.judge.as_ref());
    match judge.map(|judge| judge.stage) {
        Some(JudgeStage::Review) => Purpose::Judge,
        Some(JudgeStage::Merge) => Purpose::Merge,
        Some(JudgeStage::Settled) | None => task.purpose(),
    }
}

/// The facts of a Task.
pub fn task(task: &Task) -> TaskFacts {
    let nothing = TaskStatus::default();
    let status = task.status.as_ref().unwrap_or(&nothing);
    let facts = TaskFacts {
        uid: task.uid().unwrap_or_default(),
        name: task.name_any(),
        phase: status.phase,
        cancel: task.spec.cancel,
        purpose: wanted_purpose(task),
        role: task.spec.role,
        lane: String::new(),
        kind: task.spec.kind.clone(),
        areas: Vec::new(),
        static_key: task_key(task),
        not_before: status.retry_at,
        dependencies: Vec::new(),
        resolved: status.resolved_dependencies.clone(),
        superseded_by: Some(status.superseded_by.clone()).filter(|name| !name.is_empty()),
        attempts: status.attempts,
        created_at: created_at(task),
    };
    match facts.purpose {
        Purpose::Execute | Purpose::Plan => of_attempt(task, facts),
        Purpose::Judge | Purpose::Merge => of_review(task, facts),
    }
}

/// Effective values win over the spec, a derived area comes last.
fn of_attempt(task: &Task, facts: TaskFacts) -> TaskFacts {
    let (spec, effective) = (&task.spec, task.effective());
    let allowed = effective.allowed_paths.as_ref().unwrap_or(&spec.allowed_paths);
    let area = effective.target_area.or_else(|| spec.target_area.clone());
    let lane = effective.lane.or_else(|| spec.lane.clone());
    TaskFacts {
        lane: lane.unwrap_or_else(|| lanes::default_lane(spec.role).to_owned()),
        areas: area::resolve(area.as_deref(), &spec.touches, allowed).into_iter().collect(),
        dependencies: spec.dependencies.clone(),
        ..facts
    }
}

/// A review is the work of a Judge in the lane of its own; it waits for no other Task and, but for the
/// area of all merges, which the queue knows, occupies none.
fn of_review(task: &Task, facts: TaskFacts) -> TaskFacts {
    let approved_at = task.status.as_ref().and_then(|status| status.judge.as_ref()?.approved_at);
    let static_key = match facts.purpose {
        Purpose::Merge => priority::merge_key(task.spec.priority, approved_at.unwrap_or(facts.created_at)),
        Purpose::Judge | Purpose::Execute | Purpose::Plan => facts.static_key,
    };
    TaskFacts { role: Role::Judge, lane: lanes::JUDGE.to_owned(), static_key, ..facts }
}

fn task_key(task: &Task) -> StaticKey {
    let timebox = GoDuration::or(Some(&task.spec.timebox), Duration::from_secs(DEFAULT_TIMEBOX_SECS));
    priority::static_key(task.spec.priority, task.spec.risk_level, timebox, created_at(task))
}

fn created_at(task: &Task) -> Timestamp {
    task.metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0)
}

/// The facts of a System.
pub fn system(system: &System) -> SystemFacts {
    let bound = |v: Option<i32>| v.and_then(|v| u32::try_from(v).ok());
    let status = system.status.as_ref();
    let exceeded = |c: &&Condition| c.type_ == BUDGET_EXCEEDED && c.status == "True";
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
        stopped: status.map(|s| s.stopped.iter().cloned().collect()).unwrap_or_default(),
        budget: status.and_then(|s| s.conditions.iter().find(exceeded)).map(|c| c.message.clone()),
        merge_area: names::merge_area(&system.spec.repository.url),
    }
}

/// The facts of an AgentPool.
pub fn pool(pool: &AgentPool) -> PoolFacts {
    let name = pool.name_any();
    let held = pool.status.iter().flat_map(|status| &status.held).filter_map(|hold| {
        let number = hold.name.strip_prefix(name.as_str())?.strip_prefix('-')?.parse().ok()?;
        Some((number, hold.until))
    });
    PoolFacts {
        role: pool.spec.role,
        replicas: u32::try_from(pool.spec.replicas).unwrap_or(0),
        suspended: pool.spec.suspend,
        credential: pool.spec.credentials_secret_ref.as_ref().map(|secret| secret.name.clone()),
        held: held.collect(),
        name,
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
        purpose: run.spec.purpose,
        credential: credential(run),
    }
}

/// The credential with which a Run asks its provider: a merge asks none.
fn credential(run: &Run) -> Option<String> {
    let secret = run.spec.template.credentials_secret_ref.as_ref().map(|secret| secret.name.clone());
    secret.filter(|_| run.spec.purpose != Purpose::Merge)
}

/// What an ended Run says about its credential: nothing when it has none, was cancelled, or met a
/// fault of the cluster.
pub fn ended_run(run: &Run) -> Option<EndedRun> {
    let credential = credential(run)?;
    let status = run.status.as_ref()?;
    let asked = match status.phase {
        RunPhase::Success => true,
        RunPhase::Failed => status.failure_class != Some(FailureClass::Infra),
        RunPhase::Running | RunPhase::Cancelled => false,
    };
    let finished_at = status.finished_at.filter(|_| asked)?;
    let limited = status.failure_code == QUOTA_FAILURE && status.phase == RunPhase::Failed;
    let held_until = limited
        .then(|| status.retry_at.or_else(|| finished_at.checked_add(HOLD_BASE).ok()).unwrap_or(finished_at));
    Some(EndedRun { credential, finished_at, held_until })
}

/// What a Pod holds while it may run something.
pub fn pod_holder(pod: &PodFacts) -> Holder {
    Holder {
        task_uid: pod.task_uid.clone(),
        pool: pod.pool.clone(),
        agent: pod.agent.clone(),
        lane: pod.lane.clone(),
        areas: pod.areas.clone(),
        purpose: pod.purpose,
        credential: None,
    }
}

/// The next move of a Task that waits.
pub fn next(wait: &Wait) -> Next {
    Next { kind: wait.next_kind(), at: wait.at(), detail: wait.detail() }
}

/// Whether the status says already that the Task waits for this.
pub fn is_said(status: &TaskStatus, wait: &Wait) -> bool {
    let kind = status
        .conditions
        .iter()
        .any(|c| c.type_ == condition::PROGRESSING && c.status == "False" && c.reason == wait.kind());
    kind && wait.is_told_by(status.next.as_ref().and_then(|next| next.at))
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
