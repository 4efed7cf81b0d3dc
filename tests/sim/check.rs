//! The invariants, checked at every revision of every object. Numbers are those of the list of
//! invariants; keys are uids. It believes nothing but what the server has committed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use opentiger::crd::{
    AgentPool, FailureClass, NextKind, Operation, PodFacts, Purpose, Run, RunPhase, System, Task, TaskPhase,
    TaskStatus,
};
use serde_json::Value;

use super::operator::{Belief, decode};
use super::server::{Actor, Commit, Kind, Server};

/// What was ever known of a Task.
pub struct TaskHistory {
    pub name: String,
    pub last: Task,
    pub deleted: bool,
    /// Ordinal of its newest attempt.
    pub attempts: i32,
    /// Runs that have cost something.
    charged: BTreeSet<String>,
}

/// What was ever known of a Run.
pub struct RunHistory {
    pub last: Run,
    pub deleted: bool,
    /// It has had a Pod.
    pub begun: bool,
}

/// The checker: history and violations.
#[derive(Default)]
pub struct Checker {
    pub tasks: BTreeMap<String, TaskHistory>,
    pub runs: BTreeMap<String, RunHistory>,
    /// Pods that exist, by uid.
    pub pods: BTreeMap<String, PodFacts>,
    pub system: Option<System>,
    pub pools: BTreeMap<String, AgentPool>,
    /// Operations that exist, by name.
    pub operations: BTreeMap<String, Operation>,
    /// Names under which a Task has ever been resolved.
    pub resolved: BTreeSet<String>,
    /// The operator that raised the term last.
    pub leader: Option<usize>,
    /// Runs that a former leader has ended while nobody knew better: its status writes are fenced by
    /// resourceVersion alone, and the present leader may just be starting their Pod. What comes of it
    /// is undone (no Pod is left in the end).
    pub ended_by_former: BTreeSet<String>,
    /// Judge Run that gave the verdict, by key of the review.
    pub verdicts: BTreeMap<String, String>,
    pub violations: Vec<String>,
    /// Writes of operators so far, and the last one.
    pub writes: u64,
    pub last_write: String,
}

impl Checker {
    /// Notes a violation.
    pub fn fail(&mut self, number: &str, what: impl std::fmt::Display) {
        self.violations.push(format!("{number}: {what}"));
    }

    /// Takes in a change. `belief`: what the operator that made it believed.
    pub fn observe(&mut self, commit: &Commit, belief: Option<&Belief>, server: &Server) {
        if let Actor::Operator(_) = commit.by {
            self.writes += 1;
            self.last_write = said(commit);
            self.by_operator(commit);
        }
        let (old, new) = (commit.old.as_ref(), commit.new.as_ref());
        match commit.kind {
            Kind::Task => self.task(old, new, commit.by),
            Kind::Run => self.run(old, new, commit.by, belief),
            Kind::Pod => self.pod(old, new, commit.by, server),
            Kind::System => self.system(new, commit.by),
            Kind::Pool => match new {
                Some(pool) => {
                    let pool: AgentPool = decode(pool);
                    self.pools.insert(pool.metadata.name.clone().unwrap_or_default(), pool);
                }
                None => {
                    let name = old.map(|o| super::cluster::name_of(o)).unwrap_or_default();
                    self.pools.remove(&name);
                }
            },
            Kind::Operation => self.operation(new.map(AsRef::as_ref), old.map(AsRef::as_ref)),
            Kind::NetworkPolicy => {}
        }
    }

    /// What no operator may ever do to an object.
    fn by_operator(&mut self, commit: &Commit) {
        let (Some(old), Some(new)) = (&commit.old, &commit.new) else {
            let may = matches!(commit.kind, Kind::Pod | Kind::Run)
                || (matches!(commit.kind, Kind::Task | Kind::Operation) && self.cleans_up());
            if commit.new.is_none() && !may {
                self.fail("S16", format!("an operator deletes a {:?}", commit.kind));
            }
            if let Some(new) = &commit.new
                && new["metadata"].get("finalizers").is_some()
            {
                self.fail("S18", "an operator creates an object with finalizers");
            }
            return;
        };
        if commit.kind != Kind::NetworkPolicy && old.get("spec") != new.get("spec") {
            self.fail("S16", format!("an operator changes the spec of a {:?}", commit.kind));
        }
    }

    /// A status write that changed nothing, or was not fenced, or a request that is none of its business.
    pub fn write_without_change(&mut self, what: &str) {
        self.fail("S17", format!("a write without a change: {what}"));
    }

    fn system(&mut self, new: Option<&Arc<Value>>, by: Actor) {
        let new: Option<System> = new.map(|n| decode(n));
        let term = |s: &Option<System>| s.as_ref().map_or(0, System::term);
        let same = self.system.as_ref().map(|s| s.metadata.uid.clone())
            == new.as_ref().map(|s| s.metadata.uid.clone());
        if same && term(&new) < term(&self.system) {
            self.fail("S14", "the term goes back");
        }
        if let (Actor::Operator(id), true) = (by, term(&new) > term(&self.system)) {
            self.leader = Some(id);
        }
        self.system = new;
    }

    fn task(&mut self, old: Option<&Arc<Value>>, new: Option<&Arc<Value>>, by: Actor) {
        let Some(new) = new else {
            let uid = old.map(|o| super::server::text(o, "/metadata/uid").to_string()).unwrap_or_default();
            if let Some(history) = self.tasks.get_mut(&uid) {
                history.deleted = true;
            }
            return;
        };
        let new: Task = decode(new);
        let uid = new.metadata.uid.clone().unwrap_or_default();
        let name = new.metadata.name.clone().unwrap_or_default();
        let status = new.status.clone().unwrap_or_default();
        self.has_next(&name, &status);
        if status.phase == TaskPhase::Done || (status.phase == TaskPhase::Cancelled && new.spec.cancel) {
            self.resolved.insert(name.clone());
        }
        match self.tasks.remove(&uid) {
            None => {
                let history =
                    TaskHistory { name, last: new, deleted: false, attempts: 0, charged: BTreeSet::new() };
                self.tasks.insert(uid, history);
            }
            Some(mut history) => {
                let before = history.last.status.clone().unwrap_or_default();
                if matches!(by, Actor::Operator(_)) {
                    self.edge(&name, &before, &status);
                    self.counters(&name, &mut history, &before, &status);
                }
                history.last = new;
                self.tasks.insert(uid, history);
            }
        }
    }

    /// Rule 3.6 of the design: what moves a Task next is always known.
    fn has_next(&mut self, name: &str, status: &TaskStatus) {
        match &status.next {
            None if !status.phase.is_terminal() => self.fail("next", format!("Task {name} has no next")),
            Some(next) if next.kind == NextKind::Time && next.at.is_none() => {
                self.fail("next", format!("Task {name} waits for a time that is not stated"));
            }
            Some(_) if status.phase.is_terminal() => {
                self.fail("next", format!("Task {name} has ended and has a next"));
            }
            Some(_) | None => {}
        }
        if status.phase == TaskPhase::Running && status.current_run.is_empty() {
            self.fail("S7", format!("Task {name} is Running without a Run"));
        }
        if (status.phase == TaskPhase::Blocked) != status.block_reason.is_some() {
            self.fail("S7", format!("Task {name} is {:?} with {:?}", status.phase, status.block_reason));
        }
    }

    /// S5, S7, S22: the edges of a Task, one numbered transition for each.
    fn edge(&mut self, name: &str, before: &TaskStatus, after: &TaskStatus) {
        if before.phase.is_terminal() && (before != after) {
            self.fail("S5", format!("Task {name} was {:?} and is written again", before.phase));
        }
        let last = before.transitions.last().map_or(0, |t| t.sequence);
        let mut from = (before.phase, before.block_reason);
        let mut sequence = last;
        for step in after.transitions.iter().filter(|t| t.sequence > last) {
            sequence += 1;
            if step.sequence != sequence {
                self.fail(
                    "S22",
                    format!("Task {name}: transition {} follows {}", step.sequence, sequence - 1),
                );
            }
            if !is_edge(from.0, step.phase) {
                self.fail("S7", format!("Task {name} goes from {:?} to {:?}", from.0, step.phase));
            }
            from = (step.phase, step.block_reason);
        }
        if from != (after.phase, after.block_reason) || sequence > last + 2 {
            self.fail(
                "S22",
                format!("Task {name}: its transitions end in {from:?}, it is {:?}", after.phase),
            );
        }
        if after.attempts < before.attempts || after.observed_generation < before.observed_generation {
            self.fail("S6", format!("Task {name}: attempts or observedGeneration go back"));
        }
    }

    /// S6: counters rise by one, once for a Run, and only for what the Run says.
    fn counters(&mut self, name: &str, history: &mut TaskHistory, before: &TaskStatus, after: &TaskStatus) {
        let list = |s: &TaskStatus| {
            let r = s.retries;
            [
                ("failure", r.failure),
                ("quota", r.quota),
                ("infra", r.infra),
                ("judge", r.judge),
                ("rework", r.rework),
            ]
        };
        let mut rises = Vec::new();
        for ((word, a), (_, b)) in list(before).into_iter().zip(list(after)) {
            match b - a {
                0 => {}
                1 => rises.push(word),
                other => self.fail("S6", format!("Task {name}: counter {word} changes by {other}")),
            }
        }
        let absorbed = !before.current_run.is_empty() && after.current_run.is_empty();
        if rises.len() > 1 || (!rises.is_empty() && !absorbed) {
            self.fail("S6", format!("Task {name}: counters {rises:?} rise without a Run that ended"));
            return;
        }
        if !absorbed {
            return;
        }
        // A deleted Run may have had the same name.
        let named = |r: &&RunHistory| r.last.metadata.name.as_deref() == Some(&before.current_run);
        let run = self.runs.values().filter(named).max_by_key(|r| !r.deleted);
        let Some(run) = run else {
            self.fail("S6", format!("Task {name} names Run {} that never was", before.current_run));
            return;
        };
        let uid = run.last.metadata.uid.clone().unwrap_or_default();
        let status = run.last.status.clone().unwrap_or_default();
        let over = after.phase.is_terminal() && history.last.spec.cancel;
        let mut expected = match (status.phase, status.failure_class) {
            _ if over => vec![None],
            (RunPhase::Running, _) => vec![],
            (RunPhase::Success | RunPhase::Cancelled, _) => vec![None],
            (RunPhase::Failed, Some(FailureClass::Infra)) => vec![Some("infra")],
            (RunPhase::Failed, _) if status.failure_code == "quota_failure" => vec![Some("quota")],
            (RunPhase::Failed, _) => vec![Some("failure"), Some("rework")],
        };
        if run.deleted {
            expected.push(Some("infra"));
        }
        if matches!(run.last.spec.purpose, Purpose::Judge | Purpose::Merge) {
            expected.extend([None, Some("judge")]);
        }
        let rise = rises.first().copied();
        let text = format!(
            "Task {name} absorbs {} ({:?} {:?} {}): {rise:?}",
            before.current_run, status.phase, status.failure_class, status.failure_code
        );
        if !expected.contains(&rise) {
            self.fail("S6", &text);
        }
        if rise.is_some() && !history.charged.insert(uid) {
            self.fail("S6", format!("{text}, a second time"));
        }
    }

    fn pod(&mut self, old: Option<&Arc<Value>>, new: Option<&Arc<Value>>, by: Actor, server: &Server) {
        let Some(new) = new else {
            let uid = old.map(|o| super::server::text(o, "/metadata/uid").to_string()).unwrap_or_default();
            self.pods.remove(&uid);
            return;
        };
        let owners = new["metadata"]["ownerReferences"].as_array().map_or(0, Vec::len);
        let pod = PodFacts::from(decode::<Pod>(new));
        if old.is_none() {
            self.pod_created(&pod, owners, by, server);
        }
        self.pods.insert(pod.uid.clone(), pod);
    }

    fn pod_created(&mut self, pod: &PodFacts, owners: usize, by: Actor, server: &Server) {
        if let Some(run) = self.runs.get_mut(&pod.run_uid) {
            run.begun = true;
        }
        let name = &pod.name;
        let live = |p: &&PodFacts| p.task_uid == pod.task_uid && p.is_live();
        if let Some(other) = self.pods.values().find(live).map(|p| p.name.clone()) {
            self.fail("S1", format!("Pod {name} starts while Pod {other} of the same Task lives"));
        }
        self.term_and_hatch("Pod", name, pod_term(server, name), by);
        let Some(run) = self.runs.get(&pod.run_uid).filter(|_| owners == 1) else {
            self.fail("S3", format!("Pod {name} has {owners} owners, no known Run among them"));
            return;
        };
        if self.ended_by_former.contains(&pod.run_uid) {
            return;
        }
        let (deleted, run) = (run.deleted, run.last.clone());
        let status = run.status.clone().unwrap_or_default();
        if status.phase.is_terminal() {
            self.fail("S5", format!("Pod {name} is created for a Run that is {:?}", status.phase));
        }
        if run.metadata.name.as_deref() != Some(name) {
            self.fail("S4", format!("Pod {name} has not the name of its Run"));
        }
        let Some(task) = self.tasks.get(&run.spec.task_ref.uid) else {
            self.fail("S3", format!("Pod {name} has no Task"));
            return;
        };
        let current = task.last.status.as_ref().is_some_and(|s| s.current_run == *name);
        if !current && !deleted && !task.deleted {
            self.fail("S2", format!("Pod {name} is created though its Task does not name its Run"));
        }
        self.dependencies("Pod", name, &run);
    }

    /// S11, by what was ever resolved under the name.
    pub fn dependencies(&mut self, kind: &str, name: &str, run: &Run) {
        let Some(task) = self.tasks.get(&run.spec.task_ref.uid) else { return };
        let recorded =
            |d: &String| task.last.status.iter().flat_map(|s| &s.resolved_dependencies).any(|r| r.name == *d);
        let missing: Vec<String> = task
            .last
            .spec
            .dependencies
            .iter()
            .filter(|d| !self.is_resolved(d) && !recorded(d))
            .cloned()
            .collect();
        if !missing.is_empty() {
            self.fail("S11", format!("{kind} {name} is created before {missing:?} are resolved"));
        }
    }

    /// Whether a name was ever resolved, by itself or by whom it was superseded by.
    fn is_resolved(&self, name: &str) -> bool {
        let mut names = vec![name.to_string()];
        while let Some(name) = names.pop() {
            if self.resolved.contains(&name) {
                return true;
            }
            let followed =
                self.tasks.values().filter(|t| t.name == name).filter_map(|t| t.last.status.as_ref());
            names.extend(followed.map(|s| s.superseded_by.clone()).filter(|s| !s.is_empty() && *s != name));
        }
        false
    }

    /// S12 and S14: only under the term in force, by who raised it, while armed.
    pub fn term_and_hatch(&mut self, kind: &str, name: &str, term: String, by: Actor) {
        let Actor::Operator(id) = by else { return };
        let Some(system) = &self.system else {
            self.fail("S12", format!("{kind} {name} is created without a System"));
            return;
        };
        let (armed, in_force) = (system.is_armed(), system.term().to_string());
        if !armed {
            self.fail("S12", format!("{kind} {name} is created while disarmed"));
        }
        if term != in_force {
            self.fail("S14", format!("{kind} {name} is created under term {term}, in force is {in_force}"));
        } else if self.leader != Some(id) {
            self.fail("S14", format!("{kind} {name} is created by a former leader"));
        }
    }
}

/// Whether a Task may go from one phase to the other.
fn is_edge(from: TaskPhase, to: TaskPhase) -> bool {
    use TaskPhase::{Blocked, Cancelled, Done, Failed, Queued, Running};
    match from {
        Queued => matches!(to, Queued | Running | Blocked | Done | Cancelled),
        Running => to != Running,
        Blocked => true,
        Failed => matches!(to, Queued | Running | Done | Cancelled),
        Done | Cancelled => false,
    }
}

/// A change in a few words: the object and what of its status is new.
fn said(commit: &Commit) -> String {
    let object = commit.new.as_ref().or(commit.old.as_ref());
    let name = object.map(|o| super::cluster::name_of(o)).unwrap_or_default();
    let difference = commit
        .old
        .as_ref()
        .zip(commit.new.as_ref())
        .and_then(|(old, new)| opentiger::cluster::write::merge_patch(&old["status"], &new["status"]));
    format!("{:?} {name} {}", commit.kind, difference.unwrap_or_default())
}

fn pod_term(server: &Server, name: &str) -> String {
    let pod = server.get(Kind::Pod, name).unwrap_or_default();
    super::server::label(&pod, opentiger::crd::labels::TERM).to_string()
}
