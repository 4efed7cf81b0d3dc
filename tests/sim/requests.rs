//! What people ask for by Operations, and what must hold when one says that it has succeeded.

use opentiger::crd::system::component;
use opentiger::crd::{HatchState, Operation, OperationPhase, OperationType, RunPhase, TaskPhase};
use serde_json::{Value, json};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::check::Checker;
use super::operator::decode;
use super::rng::Rng;
use super::server::NAMESPACE;

/// Agents that are stopped and started.
const AGENTS: [&str; 6] = ["worker-1", "worker-2", "worker-3", "docser-1", "tester-1", "judge-1"];

/// The spec of an Operation, drawn; `task` is one that exists, or empty.
pub fn draw(rng: &mut Rng, task: &str) -> Value {
    let type_ = rng.weighted(&[
        (3, "StopAll"),
        (6, "Arm"),
        (1, "Disarm"),
        (4, "Stop"),
        (6, "Start"),
        (1, "Preflight"),
        (2, "Requeue"),
        (1, "Complete"),
        (1, "Cleanup"),
        (1, "EndCycle"),
    ]);
    match type_ {
        "Stop" | "Start" => {
            let target = if rng.chance(600) { rng.pick(&AGENTS) } else { rng.pick(&component::ALL) };
            json!({"type": type_, "target": target})
        }
        "Requeue" | "Complete" => json!({"type": type_, "taskRef": {"name": task}}),
        "Cleanup" => {
            let (dry_run, force) = (rng.chance(300), rng.chance(500));
            json!({"type": type_, "confirm": NAMESPACE, "dryRun": dry_run, "force": force})
        }
        _ => json!({"type": type_}),
    }
}

/// What undoes all of that: everything is started and the hatch is armed.
pub fn undo() -> Vec<Value> {
    let starts = component::ALL.iter().chain(&AGENTS).map(|t| json!({"type": "Start", "target": t}));
    starts.chain([json!({"type": "Arm"})]).collect()
}

impl Checker {
    /// Takes in a change of an Operation.
    pub fn operation(&mut self, new: Option<&Value>, old: Option<&Value>) {
        let Some(new) = new else {
            let name = old.map(super::cluster::name_of).unwrap_or_default();
            self.operations.remove(&name);
            return;
        };
        let new: Operation = decode(new);
        let name = new.metadata.name.clone().unwrap_or_default();
        let before = self.operations.get(&name).map_or(OperationPhase::Pending, Operation::phase);
        if before.is_terminal() && before != new.phase() {
            self.fail("S5", format!("Operation {name} was {before:?} and is {:?}", new.phase()));
        }
        if before != OperationPhase::Succeeded && new.phase() == OperationPhase::Succeeded {
            match new.spec.type_ {
                OperationType::StopAll => self.all_is_stopped(&name, &new),
                OperationType::Cleanup => self.all_is_removed(&name, &new),
                OperationType::Arm
                | OperationType::Disarm
                | OperationType::Start
                | OperationType::Stop
                | OperationType::Preflight
                | OperationType::Replan
                | OperationType::EndCycle
                | OperationType::CancelRun
                | OperationType::Requeue
                | OperationType::Complete => {}
            }
        }
        self.operations.insert(name, new);
    }

    /// S13: the disarm is durable, no Pod lives, no Run is in progress, what was cancelled is queued.
    fn all_is_stopped(&mut self, name: &str, operation: &Operation) {
        let hatch = self.system.as_ref().and_then(|s| s.status.clone()).unwrap_or_default().hatch;
        // A person may have armed it by the spec in the meantime: then everything may have begun again.
        if hatch.state == HatchState::Armed && hatch.by == "spec" {
            return;
        }
        if hatch.state == HatchState::Armed {
            self.fail("S13", format!("{name} has stopped all and the hatch is armed by {}", hatch.by));
        }
        let pods = self.pods.values().filter(|p| p.is_live()).map(|p| format!("Pod {} lives", p.name));
        let over = |s: &opentiger::crd::RunStatus| s.phase.is_terminal();
        let runs = self.runs.values().filter(|r| !r.deleted && !r.last.status.as_ref().is_some_and(over));
        let runs = runs.map(|r| format!("Run {:?} is in progress", r.last.metadata.name));
        let tasks = self.tasks.values().filter(|t| !t.deleted);
        let tasks = tasks
            .filter(|t| t.last.status.as_ref().is_some_and(|s| s.phase == TaskPhase::Running))
            .map(|t| format!("Task {} is Running", t.name));
        let left: Vec<String> = pods.chain(runs).chain(tasks).collect();
        let cancelled = self.runs.values().filter_map(|r| r.last.status.as_ref());
        let cancelled = cancelled.filter(|s| s.cancelled_by == operation.uid_str());
        let wrong: Vec<String> =
            cancelled.filter(|s| s.phase != RunPhase::Cancelled).map(|s| format!("{:?}", s.phase)).collect();
        for what in left {
            self.fail("S13", format!("{name} has stopped all and {what}"));
        }
        for what in wrong {
            self.fail("S13", format!("{name} has cancelled a Run that is {what}"));
        }
    }

    /// Whether somebody has asked for everything to be removed, and it is in progress.
    pub fn cleans_up(&self) -> bool {
        self.operations.values().any(|o| {
            let asked = o.spec.type_ == OperationType::Cleanup && !o.spec.dry_run;
            asked && o.phase() == OperationPhase::Running
        })
    }

    /// What existed when a clean-up was asked for is gone with its Runs; System and pools are there.
    fn all_is_removed(&mut self, name: &str, operation: &Operation) {
        if operation.spec.dry_run {
            return;
        }
        let asked = operation.metadata.creation_timestamp.clone();
        let older = |meta: &ObjectMeta| meta.creation_timestamp < asked;
        let tasks = self.tasks.iter().filter(|(_, t)| !t.deleted && older(&t.last.metadata));
        let left: Vec<String> = tasks.map(|(uid, t)| format!("Task {} ({uid})", t.name)).collect();
        let runs = self.runs.values().filter(|r| !r.deleted && older(&r.last.metadata));
        let runs = runs.map(|r| format!("Run {:?}", r.last.metadata.name));
        let left: Vec<String> = left.into_iter().chain(runs).collect();
        for what in left {
            self.fail("cleanup", format!("{name} has removed everything and {what} is left"));
        }
        if self.system.is_none() {
            self.fail("S16", format!("{name} has removed the System"));
        }
    }

    /// Nothing starts for an agent or a component that its operator knew to be stopped.
    pub fn not_stopped(
        &mut self,
        run: &opentiger::crd::Run,
        name: &str,
        believed: Option<&opentiger::crd::System>,
    ) {
        use opentiger::crd::Purpose;
        let by = match run.spec.purpose {
            Purpose::Execute => component::DISPATCHER,
            Purpose::Judge | Purpose::Merge => component::JUDGE,
            Purpose::Plan => component::PLANNER,
        };
        for what in [by, &run.spec.agent] {
            if believed.is_some_and(|s| s.is_stopped(what)) {
                self.fail("stopped", format!("Run {name} is admitted though {what} is stopped"));
            }
        }
    }

    /// Operations that are not over.
    pub fn open_operations(&self) -> Vec<String> {
        let open = self.operations.iter().filter(|(_, o)| !o.phase().is_terminal());
        let said = |o: &Operation| o.status.as_ref().map(|s| s.message.clone()).unwrap_or_default();
        open.map(|(name, o)| format!("Operation {name} {:?}: {}", o.spec.type_, said(o))).collect()
    }
}
