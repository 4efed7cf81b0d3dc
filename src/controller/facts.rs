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
        credential: pool.spec.credential().map(|secret| secret.name.clone()),
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
    let secret = run.spec.template.credential().map(|secret| secret.name.clone());
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::run::SecretRef;
    use crate::crd::{AgentPoolSpec, JudgeStatus, RunStatus, pool::AgentHold};
    use crate::plan::fixtures::{at, now, run_of, system as a_system, task as a_task};

    fn awaiting(stage: JudgeStage) -> Task {
        let mut task = a_task("a");
        task.spec.priority = 7;
        task.spec.dependencies = vec!["other".into()];
        task.spec.touches = vec!["src/x".into()];
        let status = task.status.as_mut().unwrap();
        status.phase = TaskPhase::Blocked;
        status.block_reason = Some(BlockReason::AwaitingJudge);
        status.attempts = 1;
        let judge = JudgeStatus { stage, approved_at: Some(at(-9)), ..JudgeStatus::default() };
        status.judge = Some(judge);
        task
    }

    #[test]
    fn a_task_that_awaits_its_judge_wants_what_the_stage_says() {
        for (stage, purpose, candidate) in [
            (JudgeStage::Review, Purpose::Judge, true),
            (JudgeStage::Merge, Purpose::Merge, true),
            (JudgeStage::Settled, Purpose::Execute, false),
        ] {
            let facts = task(&awaiting(stage));
            assert_eq!((facts.purpose, facts.is_candidate()), (purpose, candidate), "{stage:?}");
        }
        let facts = task(&awaiting(JudgeStage::Merge));
        assert_eq!((facts.role, facts.lane.as_str()), (Role::Judge, "judge"));
        assert_eq!((facts.areas.len(), facts.dependencies.len()), (0, 0));
        assert_eq!(facts.static_key, priority::merge_key(7, at(-9)));
    }

    #[test]
    fn a_task_that_names_a_run_or_is_blocked_otherwise_wants_nothing() {
        let mut named = awaiting(JudgeStage::Review);
        named.status.as_mut().unwrap().current_run = "a-x-r1-j1".into();
        assert!(!task(&named).is_candidate());
        let mut rework = awaiting(JudgeStage::Review);
        rework.status.as_mut().unwrap().block_reason = Some(BlockReason::NeedsRework);
        assert!(!task(&rework).is_candidate());
        let mut cancelled = awaiting(JudgeStage::Review);
        cancelled.spec.cancel = true;
        assert!(!task(&cancelled).is_candidate());
    }

    #[test]
    fn a_plan_is_of_the_planner_and_kind_plan() {
        let mut planner = a_task("p");
        (planner.spec.role, planner.spec.kind) = (Role::Planner, "plan".into());
        let facts = task(&planner);
        assert_eq!((facts.purpose, facts.lane.as_str()), (Purpose::Plan, "planner"));
        assert_eq!(run_of(&planner).spec.purpose, Purpose::Plan);
        planner.spec.role = Role::Worker;
        assert_eq!(task(&planner).purpose, Purpose::Execute);
    }

    #[test]
    fn effective_values_win_until_the_spec_is_edited() {
        let mut edited = a_task("a");
        edited.spec.lane = Some("docser".into());
        edited.spec.target_area = Some("path:spec".into());
        let status = edited.status.as_mut().unwrap();
        status.observed_generation = 1;
        let effective = status.effective.get_or_insert_default();
        effective.lane = Some("conflict_recovery".into());
        effective.target_area = Some("path:effective".into());
        let facts = task(&edited);
        assert_eq!((facts.lane.as_str(), facts.areas), ("conflict_recovery", vec!["path:effective".into()]));
        edited.metadata.generation = Some(2);
        let facts = task(&edited);
        assert_eq!((facts.lane.as_str(), facts.areas), ("docser", vec!["path:spec".to_owned()]));
    }

    #[test]
    fn an_area_is_derived_from_widened_paths_too() {
        let mut task_ = a_task("a");
        let status = task_.status.as_mut().unwrap();
        status.observed_generation = 1;
        status.effective.get_or_insert_default().allowed_paths = Some(vec!["apps/api/**".into()]);
        assert_eq!(task(&task_).areas, ["path:apps/api"]);
    }

    fn ended(phase: RunPhase, code: &str, class: Option<FailureClass>) -> Run {
        let mut run = run_of(&a_task("a"));
        run.spec.template.credentials_secret_ref = Some(SecretRef { name: "key".into() });
        run.status = Some(RunStatus {
            phase,
            failure_code: code.into(),
            failure_class: class,
            finished_at: Some(now()),
            ..RunStatus::default()
        });
        run
    }

    #[test]
    fn a_run_says_of_its_credential_what_its_provider_said() {
        let limited = ended(RunPhase::Failed, "quota_failure", Some(FailureClass::Env));
        let held = |run: &Run| ended_run(run).map(|ended| ended.held_until);
        assert_eq!(held(&limited), Some(Some(at(30))));
        let mut stated = limited.clone();
        stated.status.as_mut().unwrap().retry_at = Some(at(3600));
        assert_eq!(held(&stated), Some(Some(at(3600))));
        assert_eq!(held(&ended(RunPhase::Success, "", None)), Some(None));
        assert_eq!(held(&ended(RunPhase::Failed, "test_failure", Some(FailureClass::Test))), Some(None));
        // These have asked the provider nothing.
        assert_eq!(held(&ended(RunPhase::Cancelled, "", None)), None);
        assert_eq!(held(&ended(RunPhase::Failed, "node_lost", Some(FailureClass::Infra))), None);
        let mut merge = stated.clone();
        merge.spec.purpose = Purpose::Merge;
        assert_eq!((held(&merge), run_holder(&merge).credential), (None, None));
        let mut without = limited;
        without.spec.template.credentials_secret_ref = None;
        assert_eq!(held(&without), None);
    }

    #[test]
    fn an_ended_run_keeps_its_credential_in_the_store() {
        use crate::cluster::Cached;
        let mut run = ended(RunPhase::Failed, "quota_failure", Some(FailureClass::Env));
        // The account that its login is for is the one whose limit it met.
        run.spec.template.login_secret_ref = Some(SecretRef { name: "login".into() });
        assert_eq!(run_holder(&run).credential.as_deref(), Some("login"));
        let before = ended_run(&run);
        run.slim();
        assert!(run.spec.template.image.is_empty() && run.spec.inputs.goal.is_empty());
        assert_eq!(ended_run(&run), before);
    }

    #[test]
    fn a_system_tells_what_is_stopped_and_whether_its_budget_is_used_up() {
        let mut object = a_system();
        object.spec.repository.url = "https://git.example.com/team/app.git".into();
        let status = object.status.as_mut().unwrap();
        status.stopped = vec!["judge".into(), "worker-3".into()];
        let facts = system(&object);
        assert!(facts.stopped.contains("worker-3") && facts.budget.is_none());
        assert!(facts.merge_area.starts_with("merge:") && facts.merge_area.len() == "merge:".len() + 8);
        let conditions = &mut object.status.as_mut().unwrap().conditions;
        set_condition(conditions, BUDGET_EXCEEDED, true, "Day", "until midnight", 1, now());
        assert_eq!(system(&object).budget.as_deref(), Some("until midnight"));
        let conditions = &mut object.status.as_mut().unwrap().conditions;
        set_condition(conditions, BUDGET_EXCEEDED, false, "Day", "fine", 1, now());
        assert_eq!(system(&object).budget, None);
    }

    #[test]
    fn a_pool_tells_which_of_its_own_agents_are_held() {
        let mut object = AgentPool::new("worker", AgentPoolSpec::default());
        let hold = |name: &str, until| AgentHold { name: name.into(), until, ..AgentHold::default() };
        object.status.get_or_insert_default().held =
            vec![hold("worker-2", Some(at(5))), hold("worker-3", None), hold("other-1", None)];
        assert_eq!(pool(&object).held, [(2, Some(at(5))), (3, None)].into());
    }

    #[test]
    fn a_reason_is_said_once_and_again_only_for_another_moment() {
        let held = |until| Wait::CredentialHeld { credential: "key".into(), until: Some(at(until)) };
        let mut status = TaskStatus::default();
        assert!(!is_said(&status, &held(60)));
        status.next = Some(next(&held(60)));
        let kind = held(60).kind();
        set_condition(&mut status.conditions, condition::PROGRESSING, false, kind, "", 1, now());
        assert!(is_said(&status, &held(60)) && is_said(&status, &held(120)));
        assert!(!is_said(&status, &held(60 + 601)));
        assert!(!is_said(&status, &Wait::MaxConcurrent));
    }
}
