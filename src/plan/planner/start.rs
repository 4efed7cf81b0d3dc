//! When a Task that plans is created, and what is learned from one that has ended.
//!
//! Planning is a Task like any other: retries, quota, deadline and logs are those of Tasks. What is
//! here is only its beginning and its end. The gate is [`crate::plan::replan`]; [`on_request`] is the
//! way past it for a person who asks.

use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt;

use super::plan_task_name;
use super::requirement::{self, Requirement};
use crate::crd::planner::{PlannerSettings, PlannerStatus};
use crate::crd::pool::Role;
use crate::crd::system::{component, condition};
use crate::crd::task::KIND_PLAN;
use crate::crd::{
    BlockReason, System, SystemStatus, Task, TaskPhase, TaskSpec, labels, set_condition, words,
};
use crate::plan::replan::{
    Counts, Gate, GateFacts, IssueBacklog, Signature, StartFacts, replan_gate, start_refusal,
};

/// How often the gate is looked at while only a change could open it.
const LOOK_EVERY: Duration = Duration::from_secs(15);

/// Goal of the Task that plans when there are only issues to plan from.
const ISSUES_ONLY: &str = "Make Tasks of the open issues.";

/// The next step of planning.
#[derive(Clone, Debug, PartialEq)]
pub struct Planning {
    pub status: PlannerStatus,
    /// Whether a plan is being made.
    pub active: bool,
    /// What keeps the next one from being made, or that one is made: word and sentence.
    pub reason: &'static str,
    pub sentence: String,
    /// The Task to create.
    pub create: Option<Task>,
    /// When to look again.
    pub again_at: Option<Timestamp>,
}

impl Planning {
    /// Instead of the Task there is another one of its name, which is not ours.
    pub fn name_taken(&mut self, name: &str) {
        self.status.current = String::new();
        self.active = false;
        self.reason = "name_taken";
        self.sentence = foreign(name);
    }

    /// Writes the step into the System's status.
    pub fn note(self, system: &System, status: &mut SystemStatus, now: Timestamp) {
        let generation = system.metadata.generation.unwrap_or(0);
        let (reason, list) = (words::camel(self.reason), &mut status.conditions);
        set_condition(list, condition::PLANNER, self.active, &reason, &self.sentence, generation, now);
        status.planner = Some(self.status);
    }
}

/// Decides about planning in the namespace of `system`; `tasks` are all of that namespace.
pub fn decide(system: &System, tasks: &[&Task], now: Timestamp) -> Planning {
    let mut status = system.status.as_ref().and_then(|s| s.planner.clone()).unwrap_or_default();
    let live = tasks.iter().copied().find(|task| is_planning(task) && !phase(task).is_terminal());
    if status.current.is_empty()
        && let Some(own) = live.filter(|task| is_own(task))
    {
        // Created, and the note of it was lost.
        status.current = own.name_any();
    }
    absorb(&mut status, tasks, now);
    let gate = replan_gate(&facts(system, &status, live, tasks), now);
    match gate {
        Gate::Open { signature: _ } => start(system, status, now),
        Gate::Closed { reason, sentence, until } => Planning {
            active: live.is_some(),
            status,
            reason,
            sentence,
            create: None,
            again_at: Some(until.unwrap_or_else(|| after(now, LOOK_EVERY))),
        },
    }
}

/// Why no plan is made for a person who asks for one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// One sentence: why, and what helps.
    pub sentence: String,
    /// The Task that is planning already.
    pub planning: Option<String>,
    /// Tasks other than those that plan.
    pub counts: Counts,
    /// Of these, those that wait for their review.
    pub pending_reviews: usize,
}

/// The Task that plans when a person asks for it now (`spec/api.md` 2.4): neither the interval nor the
/// hatch is waited for. Written down here, it is created by the caller; [`decide`] finds it then.
///
/// # Errors
/// A plan is being made, there is a backlog, or there is nothing to plan from; in this order.
pub fn on_request(system: &System, tasks: &[&Task], now: Timestamp) -> Result<Task, Refusal> {
    let mut status = system.status.as_ref().and_then(|s| s.planner.clone()).unwrap_or_default();
    let live = tasks.iter().copied().find(|task| is_planning(task) && !phase(task).is_terminal());
    absorb(&mut status, tasks, now);
    let GateFacts { planning, counts, pending_reviews, has_requirement, .. } =
        facts(system, &status, live, tasks);
    // The forge is not asked: its issues and pull requests count for nothing here.
    let asked = StartFacts { planning, counts, issues: 0, pull_requests: 0, pending_reviews };
    let without_source = || {
        let sentence = if !system.spec.planner.enabled {
            "planning is switched off: set planner.enabled of the System"
        } else if !has_requirement {
            "there is no requirement with a goal to plan from: set planner.requirement, planner.requirementPath or planner.issues of the System"
        } else {
            return None;
        };
        Some(sentence.to_owned())
    };
    let task = plan_task(system, status.rounds + 1);
    let name = task.name_any();
    let taken = || {
        let other = tasks.iter().any(|other| other.name_any() == name && !is_own(other));
        other.then(|| foreign(&name))
    };
    match start_refusal(&asked).or_else(without_source).or_else(taken) {
        None => Ok(task),
        Some(sentence) => {
            Err(Refusal { sentence, planning: planning.map(str::to_owned), counts, pending_reviews })
        }
    }
}

/// The Task of the next round, whatever else there is.
pub fn next_task(system: &System, tasks: &[&Task], now: Timestamp) -> Task {
    let mut status = system.status.as_ref().and_then(|s| s.planner.clone()).unwrap_or_default();
    absorb(&mut status, tasks, now);
    plan_task(system, status.rounds + 1)
}

/// Takes in how the Task that planned has ended, once.
fn absorb(status: &mut PlannerStatus, tasks: &[&Task], now: Timestamp) {
    if status.current.is_empty() {
        return;
    }
    let current = tasks.iter().copied().find(|task| task.name_any() == status.current && is_own(task));
    let planned = match current {
        Some(task) if !phase(task).is_terminal() => return,
        Some(task) => planned_by(task, tasks),
        None => Vec::new(),
    };
    let name = std::mem::take(&mut status.current);
    status.rounds += 1;
    status.last_tried_at = Some(now);
    status.last_ended_at = Some(now);
    // Tasks of issues have none: the plan of the requirement is as it was.
    let signature = planned.iter().find_map(|task| task.annotations().get(labels::PLAN_SIGNATURE));
    if let Some(signature) = signature {
        status.last_planned_at = Some(now);
        status.last_signature.clone_from(signature);
    }
    status.last_result = match current.map(phase) {
        None => format!("Task {name} was deleted"),
        Some(TaskPhase::Done) if planned.is_empty() => {
            format!(
                "Task {name} planned nothing: requirement, repository and issues are as they were for the last plan"
            )
        }
        Some(TaskPhase::Done) => format!("Task {name} planned {} Tasks", planned.len()),
        Some(other) => {
            format!("Task {name} ended {} after it had planned {} Tasks", other.word(), planned.len())
        }
    };
}

fn facts<'a>(
    system: &'a System,
    status: &'a PlannerStatus,
    live: Option<&'a Task>,
    tasks: &[&Task],
) -> GateFacts<'a> {
    let settings = &system.spec.planner;
    let mut counts = Counts::default();
    let mut pending_reviews = 0;
    for task in tasks.iter().filter(|task| !is_planning(task)) {
        match phase(task) {
            TaskPhase::Queued => counts.queued += 1,
            TaskPhase::Running => counts.running += 1,
            TaskPhase::Blocked => counts.blocked += 1,
            TaskPhase::Failed => counts.failed += 1,
            TaskPhase::Done | TaskPhase::Cancelled => {}
        }
        let reason = task.status.as_ref().and_then(|status| status.block_reason);
        pending_reviews += usize::from(reason == Some(BlockReason::AwaitingJudge));
    }
    GateFacts {
        auto_replan: settings.enabled
            && settings.auto_replan
            && system.is_armed()
            && !system.is_stopped(component::PLANNER),
        planning: live.and_then(|task| task.metadata.name.as_deref()),
        planner_seen_at: status.last_ended_at,
        has_requirement: has_requirement(settings),
        pending_reviews,
        counts,
        issues: IssueBacklog::NoForge,
        planned_at: status.last_planned_at,
        tried_at: status.last_tried_at,
        interval: settings.interval(),
        skip_same_signature: settings.skip_same_signature,
        signature: Signature::AtCheckout,
        last_signature: None,
    }
}

/// Whether there is something to plan from. What a path leads to is seen in the checkout.
pub fn has_requirement(settings: &PlannerSettings) -> bool {
    let usable = |text: &String| Requirement::parse(text).is_usable();
    settings.requirement_path.is_some()
        || settings.issues.is_some()
        || settings.requirement.as_ref().is_some_and(usable)
}

fn start(system: &System, mut status: PlannerStatus, now: Timestamp) -> Planning {
    let task = plan_task(system, status.rounds + 1);
    status.current = task.name_any();
    status.last_tried_at = Some(now);
    Planning {
        active: true,
        reason: "planning",
        sentence: format!("Task {} is planning", status.current),
        status,
        create: Some(task),
        again_at: Some(after(now, LOOK_EVERY)),
    }
}

/// The Task that plans in this round. Its name is a function of the requirement and the round.
fn plan_task(system: &System, round: i64) -> Task {
    let (settings, repository) = (&system.spec.planner, &system.spec.repository);
    let goal = match (&settings.requirement, &settings.requirement_path) {
        (Some(text), None) => text.clone(),
        (_, Some(path)) => format!("Plan what {path} asks for."),
        (None, None) if settings.issues.is_some() => ISSUES_ONLY.to_owned(),
        (None, None) => String::new(),
    };
    let hash = requirement::hash(&goal);
    let name = plan_task_name(&hash, &repository.url, &repository.base_branch, round);
    let spec = TaskSpec {
        title: "Plan the requirement".to_owned(),
        goal,
        role: Role::Planner,
        kind: KIND_PLAN.to_owned(),
        timebox: settings.timebox.clone(),
        ..TaskSpec::default()
    };
    let mut task = Task::new(&name, spec);
    task.metadata.namespace = system.namespace();
    let own = [
        (labels::MANAGED_BY, labels::MANAGER),
        (labels::CREATED_BY, labels::PLANNER),
        (labels::ORIGIN, labels::PLAN),
    ];
    task.metadata.labels = Some(own.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
    task
}

fn foreign(name: &str) -> String {
    format!("there is a Task {name} that was not made by the planner, delete it")
}

fn is_planning(task: &Task) -> bool {
    task.spec.role == Role::Planner
}

/// Made by [`plan_task`], not by a person and not by a plan. By labels, because of an ended Task the
/// caches keep little else.
pub fn is_own(task: &Task) -> bool {
    let by_planner = task.labels().get(labels::CREATED_BY).is_some_and(|by| by == labels::PLANNER);
    by_planner && !task.labels().contains_key(labels::PARENT_UID)
}

/// The Tasks that this one has planned.
fn planned_by<'a>(task: &Task, tasks: &[&'a Task]) -> Vec<&'a Task> {
    let uid = task.metadata.uid.as_ref();
    tasks
        .iter()
        .copied()
        .filter(|other| other.labels().get(labels::PARENT_UID) == uid && uid.is_some())
        .collect()
}

fn phase(task: &Task) -> TaskPhase {
    task.status.as_ref().map(|status| status.phase).unwrap_or_default()
}

fn after(now: Timestamp, wait: Duration) -> Timestamp {
    now.checked_add(wait).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
#[path = "start_tests.rs"]
mod tests;
