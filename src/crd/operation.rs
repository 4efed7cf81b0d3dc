//! `Operation`: a request of a person or a program to do something once: arm the hatch, stop an
//! agent, clean up. What it leaves behind is a latch in another object's status, never an edited spec.
//!
//! Kubernetes does not tell a controller who created an object. `spec.requestedBy` is what the
//! requester says of itself (the API and the command line fill it in); whoever must know for sure reads
//! the audit log of the API server.

use jiff::Timestamp;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::pool::Role;
use super::{Condition, HatchState};

/// A request to do something once.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "opentiger.dev",
    version = "v1alpha1",
    kind = "Operation",
    plural = "operations",
    shortname = "oto",
    category = "opentiger",
    namespaced,
    derive = "PartialEq",
    derive = "Default",
    status = "OperationStatus",
    doc = "An Operation is a request to do something once, such as to arm the runtime hatch or to stop an agent. Its status says how far it is and what came of it.",
    validation = Rule::new("self.metadata.name.size() <= 63").message("name: must be at most 63 characters, use generateName"),
    printcolumn(name = "Type", type_ = "string", json_path = ".spec.type"),
    printcolumn(name = "Target", type_ = "string", json_path = ".spec.target"),
    printcolumn(name = "Task", type_ = "string", json_path = ".spec.taskRef.name", priority = 1),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "By", type_ = "string", json_path = ".spec.requestedBy"),
    printcolumn(name = "Result", type_ = "string", json_path = ".status.message"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".spec.reason", priority = 1)
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self == oldSelf").message("spec: an Operation cannot be edited, create another one"))]
#[x_kube(validation = Rule::new("(self.type in ['Start', 'Stop']) == has(self.target)").message("target: types Start and Stop need it, such as worker-3 or dispatcher, and no other type takes it"))]
#[x_kube(validation = Rule::new("(self.type in ['Requeue', 'Complete']) == has(self.taskRef)").message("taskRef: types Requeue and Complete need the name of a Task, and no other type takes it"))]
#[x_kube(validation = Rule::new("(self.type == 'CancelRun') == has(self.runRef)").message("runRef: type CancelRun needs the name of a Run, and no other type takes it"))]
#[x_kube(validation = Rule::new("(self.type == 'Cleanup') == has(self.confirm)").message("confirm: type Cleanup needs the name of the namespace here, and no other type takes it"))]
#[x_kube(validation = Rule::new("self.type == 'Cleanup' || (!self.dryRun && !self.force)").message("dryRun, force: only type Cleanup takes them"))]
pub struct OperationSpec {
    #[serde(rename = "type")]
    pub type_: OperationType,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub reason: String,
    /// Who asks, in the requester's own words; not verified.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 200))]
    pub requested_by: String,
    /// For Start and Stop: `dispatcher`, `cycle-manager`, `judge`, `planner`, or an agent such as `worker-3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub target: Option<String>,
    /// For Requeue and Complete: the Task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_ref: Option<OperationTask>,
    /// For CancelRun: the Run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_ref: Option<OperationRun>,
    /// For Cleanup: the name of the namespace, so that nobody cleans up the wrong one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63))]
    pub confirm: Option<String>,
    /// For Cleanup: count what would be removed, and remove nothing.
    #[serde(default)]
    pub dry_run: bool,
    /// For Cleanup: do it although the runtime hatch is armed.
    #[serde(default)]
    pub force: bool,
}

/// A Task of the same namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OperationTask {
    /// Name of the Task in the same namespace.
    #[schemars(length(min = 1, max = 48))]
    pub name: String,
}

/// A Run of the same namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OperationRun {
    /// Name of the Run in the same namespace.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
}

/// What is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum OperationType {
    /// Let Runs start.
    Arm,
    /// Start nothing any more; what runs finishes.
    Disarm,
    /// Start a component or an agent that was stopped.
    Start,
    /// Stop a component or an agent until it is started.
    Stop,
    /// Disarm, stop every component, end every Run and Pod; Tasks go back to the queue at no cost.
    StopAll,
    /// Remove all Tasks, Runs and finished Operations of the namespace.
    Cleanup,
    /// Say what there is to do and what to start for it; changes nothing.
    #[default]
    Preflight,
    /// Plan now: create the Task that plans, without waiting for `planner.interval` and even when
    /// nothing has changed since the last plan; starts a planner that is stopped. Fails while there
    /// is a backlog.
    Replan,
    /// End the present cycle; what runs goes on.
    EndCycle,
    /// End a Run in progress; its Task goes back to the queue at no cost.
    CancelRun,
    /// Put a Blocked or Failed Task back into the queue now, at no cost.
    Requeue,
    /// Say that a Task is done.
    Complete,
}

impl OperationType {
    /// The CamelCase word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Arm => "Arm",
            Self::Disarm => "Disarm",
            Self::Start => "Start",
            Self::Stop => "Stop",
            Self::StopAll => "StopAll",
            Self::Cleanup => "Cleanup",
            Self::Preflight => "Preflight",
            Self::Replan => "Replan",
            Self::EndCycle => "EndCycle",
            Self::CancelRun => "CancelRun",
            Self::Requeue => "Requeue",
            Self::Complete => "Complete",
        }
    }
}

/// How far an Operation is. `Succeeded` and `Failed` are final.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum OperationPhase {
    #[default]
    Pending,
    Running,
    Succeeded,
    Failed,
}

impl OperationPhase {
    /// Whether it is over.
    pub fn is_terminal(self) -> bool {
        match self {
            Self::Succeeded | Self::Failed => true,
            Self::Pending | Self::Running => false,
        }
    }

    /// The CamelCase word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pending => "Pending",
            Self::Running => "Running",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
        }
    }
}

/// How far a step is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum StepState {
    #[default]
    Pending,
    Done,
}

/// One step of an Operation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OperationStep {
    #[schemars(length(max = 63))]
    pub name: String,
    pub state: StepState,
    /// What the step does or waits for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 512))]
    pub detail: String,
}

/// What came of an Operation, in numbers; what a type does not count is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct OperationResult {
    /// Runs that were cancelled by it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cancelled_runs: Option<i32>,
    /// Tasks of those Runs that are in the queue again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub requeued_tasks: Option<i32>,
    /// StopAll: Pods of ours that no Run accounted for, and that were deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stray_pods: Option<i32>,
    /// StopAll: merges among the cancelled Runs; each gave its place in the merge queue back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub released_merges: Option<i32>,
    /// Cleanup: Tasks that are (with dryRun: would be) removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tasks: Option<i32>,
    /// Cleanup: Runs that are removed with them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runs: Option<i32>,
    /// Cleanup: finished Operations that are removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operations: Option<i32>,
    /// EndCycle: number of the cycle that has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_cycle: Option<i64>,
    /// Preflight: what there is and what to start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub preflight: Option<PreflightResult>,
    /// Replan: name of the Task that plans; of one that fails, the Task that is planning already.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub task: Option<String>,
    /// Replan that fails: the work there is already.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backlog: Option<Backlog>,
}

/// Tasks that are neither Done nor Cancelled, without those that plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Backlog {
    pub queued_tasks: i32,
    pub running_tasks: i32,
    pub failed_tasks: i32,
    /// Blocked for whatever reason.
    pub blocked_tasks: i32,
    /// Of these, waiting for a review.
    pub pending_judge_tasks: i32,
}

/// What there is to do in a namespace, and what to start for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PreflightResult {
    pub queued_tasks: i32,
    pub running_tasks: i32,
    pub failed_tasks: i32,
    /// Blocked for whatever reason.
    pub blocked_tasks: i32,
    /// Of these, waiting for a review.
    pub pending_judge_tasks: i32,
    pub hatch: HatchState,
    /// Components and agents that are stopped.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1100), inner(length(max = 63)))]
    pub stopped: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 200))]
    pub pools: Vec<PreflightPool>,
    pub recommendations: Recommendations,
}

/// Slots of one AgentPool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PreflightPool {
    #[schemars(length(max = 63))]
    pub name: String,
    pub role: Role,
    /// Slots that take Runs: none while the pool is suspended, without those stopped or held.
    pub slots: i32,
    pub busy: i32,
}

/// What to start (`spec/api.md` 3.4). Issues and pull requests of a forge are not counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Recommendations {
    /// There is a requirement and nothing else to do.
    pub start_planner: bool,
    pub start_dispatcher: bool,
    pub start_judge: bool,
    pub start_cycle_manager: bool,
    /// 1 or 0: one Task plans at a time.
    pub planner_count: i32,
    pub judge_count: i32,
    pub worker_count: i32,
    pub tester_count: i32,
    pub docser_count: i32,
    /// Why, in sentences.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(max = 512)))]
    pub reasons: Vec<String>,
}

/// What people and clients read. Written by the operation controller only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct OperationStatus {
    pub phase: OperationPhase,
    /// Place in the order of creation: the resourceVersion under which it was first seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<i64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub steps: Vec<OperationStep>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub started_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub finished_at: Option<Timestamp>,
    /// One sentence: what it waits for, or what came of it.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result: Option<OperationResult>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub conditions: Vec<Condition>,
    pub observed_generation: i64,
}

/// Condition types of an Operation.
pub mod condition {
    /// True once it is over, whether it succeeded or failed.
    pub const COMPLETE: &str = "Complete";
}

impl Operation {
    /// How far it is.
    pub fn phase(&self) -> OperationPhase {
        self.status.as_ref().map_or(OperationPhase::Pending, |s| s.phase)
    }

    /// Whether nothing has been decided about it yet: its status is still that of the schema's default.
    pub fn is_new(&self) -> bool {
        self.status.as_ref().is_none_or(|status| status.order.is_none())
    }

    /// Its place in the order of creation. Before it was ever written to, its own resourceVersion is
    /// that place.
    pub fn order(&self) -> i64 {
        let own = || self.metadata.resource_version.as_deref().and_then(|v| v.parse().ok());
        self.status.as_ref().and_then(|s| s.order).or_else(own).unwrap_or(0)
    }

    /// Its uid, empty when it has none.
    pub fn uid_str(&self) -> &str {
        self.metadata.uid.as_deref().unwrap_or_default()
    }

    /// Its name, empty when it has none.
    pub fn name_str(&self) -> &str {
        self.metadata.name.as_deref().unwrap_or_default()
    }
}
