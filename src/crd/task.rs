//! `Task`: the intent. What to do, where, how to verify it, with what priority.

use jiff::Timestamp;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Condition, GoDuration, judge::JudgeStatus, pool::Role, run::Purpose};

/// Default of `spec.timebox`.
pub const DEFAULT_TIMEBOX_SECS: u64 = 3600;
/// Entries kept in `status.transitions`.
pub const MAX_TRANSITIONS: usize = 20;

/// What to do, where, how to verify it, with what priority.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "opentiger.dev",
    version = "v1alpha1",
    kind = "Task",
    plural = "tasks",
    shortname = "ott",
    category = "opentiger",
    namespaced,
    derive = "PartialEq",
    derive = "Default",
    status = "TaskStatus",
    doc = "A Task is one piece of software work that agents carry out until it is Done or Cancelled.",
    validation = Rule::new("self.metadata.name.size() <= 48").message("name: must be at most 48 characters, because the names of Runs and Pods are made from it"),
    validation = Rule::new("!self.metadata.name.contains('.')").message("name: must not contain '.', use lower case letters, digits and '-'"),
    validation = Rule::new("!has(self.spec.dependencies) || !(self.metadata.name in self.spec.dependencies)").message("spec.dependencies: a Task must not depend on itself, remove its own name"),
    validation = Rule::new("!has(oldSelf.status) || !has(oldSelf.status.phase) || !(oldSelf.status.phase in ['Done', 'Cancelled']) || self.spec == oldSelf.spec").message("spec: the Task has ended (Done or Cancelled) and cannot be edited, create a new Task"),
    validation = Rule::new("!has(self.spec.role) || self.spec.role != 'Judge'").message("spec.role: must not be Judge, reviews are started for Tasks of the other roles"),
    validation = Rule::new("(has(self.spec.role) && self.spec.role == 'Planner') == (has(self.spec.kind) && self.spec.kind == 'plan')").message("spec.kind: role Planner goes with kind plan, and kind plan with role Planner"),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.blockReason"),
    printcolumn(name = "Lane", type_ = "string", json_path = ".status.effective.lane"),
    printcolumn(name = "Pri", type_ = "integer", json_path = ".spec.priority"),
    printcolumn(name = "Try", type_ = "integer", json_path = ".status.attempts"),
    printcolumn(name = "Retry-At", type_ = "string", json_path = ".status.retryAt"),
    printcolumn(name = "Agent", type_ = "string", json_path = ".status.agent"),
    printcolumn(name = "Run", type_ = "string", json_path = ".status.lastRun"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Role", type_ = "string", json_path = ".spec.role", priority = 1),
    printcolumn(name = "Area", type_ = "string", json_path = ".status.effective.targetArea", priority = 1),
    printcolumn(name = "Parent", type_ = "string", json_path = ".metadata.labels.opentiger\\.dev/parent", priority = 1),
    printcolumn(name = "Next", type_ = "string", json_path = ".status.next.detail", priority = 1)
)]
#[serde(rename_all = "camelCase")]
pub struct TaskSpec {
    /// Short name of the work, for people.
    #[schemars(length(max = 200))]
    #[x_kube(validation = Rule::new("self.matches('\\\\S')").message("title: must not be empty or blank"))]
    pub title: String,
    /// What must be true when the work is done, in words that can be checked.
    #[schemars(length(max = 16384))]
    #[x_kube(validation = Rule::new("self.matches('\\\\S')").message("goal: must not be empty or blank, say what must be true when the Task is done"))]
    pub goal: String,
    /// Which kind of agent does it.
    #[serde(default)]
    pub role: Role,
    /// Scheduling lane; by default `docser` for role Docser, else `feature`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$')").message("lane: must be a label value such as feature or conflict_recovery"))]
    pub lane: Option<String>,
    /// Kind of work; `code` is the one every installation knows.
    #[serde(default = "default_kind")]
    #[schemars(length(max = 63))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$')").message("kind: must be a label value such as code"))]
    pub kind: String,
    /// Higher goes first.
    #[serde(default)]
    #[schemars(range(min = -1000, max = 1000))]
    pub priority: i32,
    /// How risky the change is; weighs the priority.
    #[serde(default)]
    pub risk_level: RiskLevel,
    /// Globs of repository paths that may change. Empty: nothing may change.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 200), inner(length(min = 1, max = 512)))]
    #[x_kube(validation = Rule::new("self.all(p, !p.startsWith('/'))").message("allowedPaths: must be relative to the repository, remove the leading '/'"))]
    #[x_kube(validation = Rule::new("self.all(p, !p.matches('(^|/)[.][.](/|$)'))").message("allowedPaths: must not contain '..'"))]
    pub allowed_paths: Vec<String>,
    /// Globs of repository paths that must not change; they win over `allowedPaths`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 200), inner(length(min = 1, max = 512)))]
    #[x_kube(validation = Rule::new("self.all(p, !p.startsWith('/'))").message("deniedPaths: must be relative to the repository, remove the leading '/'"))]
    #[x_kube(validation = Rule::new("self.all(p, !p.matches('(^|/)[.][.](/|$)'))").message("deniedPaths: must not contain '..'"))]
    pub denied_paths: Vec<String>,
    /// Verification commands, run in order without a shell; the first failure fails the attempt.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50), inner(length(min = 1, max = 1024)))]
    #[x_kube(validation = Rule::new("self.all(c, c.matches('\\\\S'))").message("commands: must not be blank"))]
    pub commands: Vec<String>,
    /// Names of Tasks in this namespace that must be resolved first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), inner(length(min = 1, max = 48)))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub dependencies: Vec<String>,
    /// Area that only one Task may work in at a time; by default derived from `touches`, then `allowedPaths`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 256))]
    #[x_kube(validation = Rule::new("self.matches('\\\\S')").message("targetArea: must not be empty or blank, leave it out to have it derived"))]
    pub target_area: Option<String>,
    /// Paths that are expected to change.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 200), inner(length(min = 1, max = 512)))]
    #[x_kube(validation = Rule::new("self.all(p, !p.startsWith('/') && !p.matches('(^|/)[.][.](/|$)'))").message("touches: must be relative to the repository and must not contain '..'"))]
    pub touches: Vec<String>,
    /// Time the executor may work in one attempt.
    #[serde(default = "default_timebox")]
    #[x_kube(validation = Rule::new("self.matches('^([0-9]+([.][0-9]+)?(ms|s|m|h))+$') && duration(self) >= duration('1m') && duration(self) <= duration('24h')").message("timebox: must be a duration between 1m and 24h, such as 30m or 1h30m"))]
    pub timebox: GoDuration,
    /// Branch to start from; by default that of the System.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 255))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9_][A-Za-z0-9._/+@-]*$') && !self.contains('..') && !self.contains('//') && !self.contains('@{') && !self.endsWith('/') && !self.endsWith('.') && !self.contains('/.') && !self.endsWith('.lock') && !self.contains('.lock/')").message("baseBranch: must be a git branch name such as main or release/1.2, without a leading '-'"))]
    pub base_branch: Option<String>,
    /// What helps the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<TaskContext>,
    /// True cancels the Task for good.
    #[serde(default)]
    pub cancel: bool,
}

/// Kind of the Tasks that turn a requirement into Tasks.
pub const KIND_PLAN: &str = "plan";

impl Task {
    /// What the next attempt at this Task is for.
    pub fn purpose(&self) -> Purpose {
        if self.spec.role == Role::Planner && self.spec.kind == KIND_PLAN {
            Purpose::Plan
        } else {
            Purpose::Execute
        }
    }

    /// What recovery has put in place of the spec (design 2: effective values). A spec that was edited
    /// since wins again: an edit counts from the next Run.
    pub fn effective(&self) -> Effective {
        let generation = self.metadata.generation.unwrap_or(0);
        let status = self.status.as_ref().filter(|status| status.observed_generation == generation);
        status.and_then(|status| status.effective.clone()).unwrap_or_default()
    }
}

fn default_kind() -> String {
    "code".into()
}

fn default_timebox() -> GoDuration {
    GoDuration::from_secs(DEFAULT_TIMEBOX_SECS)
}

/// How risky a change is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RiskLevel {
    #[default]
    Low,
    Medium,
    High,
}

/// Heading of the notes of a Task that deals with what a review has found.
pub const FINDINGS: &str = "What the review has found";

/// What helps the agent; handed to it as written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TaskContext {
    /// Files the agent is expected to change; with any, an empty change is never a success.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 200), inner(length(min = 1, max = 512)))]
    #[x_kube(validation = Rule::new("self.all(p, !p.startsWith('/') && !p.matches('(^|/)[.][.](/|$)'))").message("files: must be relative to the repository and must not contain '..'"))]
    pub files: Vec<String>,
    /// Specification text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 16384))]
    pub specs: String,
    /// Notes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 16384))]
    pub notes: String,
    /// Issue of the forge that the Task is about. In repository mode GitHub the merge of its pull request
    /// closes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issue: Option<IssueRef>,
}

/// An issue of the repository on its forge.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IssueRef {
    /// Its number, which the forge shows behind `#`.
    #[schemars(range(min = 1, max = 9_999_999_999_i64))]
    pub number: i64,
    /// Its title, for the agent and for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 200))]
    pub title: String,
    /// Where people read it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 512))]
    pub url: String,
}

/// Where a Task stands. `Done` and `Cancelled` are final.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum TaskPhase {
    #[default]
    Queued,
    Running,
    Blocked,
    Failed,
    Done,
    Cancelled,
}

impl TaskPhase {
    /// Whether nothing will happen to the Task any more.
    pub fn is_terminal(self) -> bool {
        match self {
            Self::Done | Self::Cancelled => true,
            Self::Queued | Self::Running | Self::Blocked | Self::Failed => false,
        }
    }

    /// The CamelCase word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Queued => "Queued",
            Self::Running => "Running",
            Self::Blocked => "Blocked",
            Self::Failed => "Failed",
            Self::Done => "Done",
            Self::Cancelled => "Cancelled",
        }
    }
}

/// Why a Task is Blocked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum BlockReason {
    AwaitingJudge,
    QuotaWait,
    NeedsRework,
    IssueLinking,
}

impl BlockReason {
    /// The CamelCase word.
    pub fn word(self) -> &'static str {
        match self {
            Self::AwaitingJudge => "AwaitingJudge",
            Self::QuotaWait => "QuotaWait",
            Self::NeedsRework => "NeedsRework",
            Self::IssueLinking => "IssueLinking",
        }
    }
}

/// What will move a non-terminal Task next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum NextKind {
    /// A moment.
    Time,
    /// A change of some object.
    #[default]
    Watch,
    /// A person.
    Operator,
}

/// The next move of a Task: by when or by what.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Next {
    pub kind: NextKind,
    /// The moment, for kind `Time`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub at: Option<Timestamp>,
    /// One sentence for a person.
    #[serde(default)]
    #[schemars(length(max = 1024))]
    pub detail: String,
}

/// What attempts have cost so far, by cause. Limits read only these.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Retries {
    pub failure: i32,
    pub quota: i32,
    pub judge: i32,
    pub infra: i32,
    pub rework: i32,
}

/// What the dispatcher and the Run use in place of the spec.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Effective {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub lane: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 300))]
    pub target_area: Option<String>,
    /// In place of `spec.allowedPaths`, once recovery has widened them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 400), inner(length(max = 512)))]
    pub allowed_paths: Option<Vec<String>>,
    /// In place of `spec.commands`, once recovery has adjusted them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 50), inner(length(max = 1024)))]
    pub commands: Option<Vec<String>>,
}

/// One change of phase. `sequence` counts from 1 and never repeats in the life of a Task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Transition {
    pub sequence: i64,
    #[schemars(with = "String")]
    pub at: Timestamp,
    pub phase: TaskPhase,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_reason: Option<BlockReason>,
    /// Event type in the audit log, e.g. `task.requeued`.
    #[schemars(length(max = 64))]
    pub event: String,
    /// Word for the cause, e.g. `cooldown_retry`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 128))]
    pub reason: String,
    /// Name of the Run that caused it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 80))]
    pub run: String,
}

/// A dependency that has been resolved once and stays so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResolvedDependency {
    #[schemars(length(max = 48))]
    pub name: String,
    #[schemars(length(max = 64))]
    pub uid: String,
}

/// The last failure, in the words that decide what happens next.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LastFailure {
    /// Failure class in lower case, e.g. `test`.
    #[schemars(length(max = 32))]
    pub class: String,
    /// Failure code, e.g. `verification_command_failed`.
    #[schemars(length(max = 64))]
    pub code: String,
    /// What went wrong, for people and for the next attempt.
    #[schemars(length(max = 2048))]
    pub summary: String,
    /// What is done about it, in the word of the event that follows, e.g. `cooldown_retry`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 128))]
    pub remedy: String,
    /// What went wrong in the attempts before it, the newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2), inner(length(max = 512)))]
    pub earlier: Vec<String>,
}

/// What people and clients read. Written by the controllers only.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TaskStatus {
    pub phase: TaskPhase,
    /// Set while `phase` is Blocked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block_reason: Option<BlockReason>,
    /// Ordinal of the last Run.
    pub attempts: i32,
    /// Earliest time of the next attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub retry_at: Option<Timestamp>,
    /// What moves the Task next; absent once it has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<Next>,
    /// Slot that works on it, while Running.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 63))]
    pub agent: String,
    /// Run in progress.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 80))]
    pub current_run: String,
    /// Newest Run, in progress or ended.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 80))]
    pub last_run: String,
    pub retries: Retries,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub effective: Option<Effective>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<LastFailure>,
    /// Pushed branch and head commit of the last successful Run.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 320))]
    pub branch: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 64))]
    pub head_commit: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    pub resolved_dependencies: Vec<ResolvedDependency>,
    /// Name of the Task that carries this one's work on, when it was cancelled for it; who depends on
    /// this Task waits for that one.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 63))]
    pub superseded_by: String,
    /// Uid of the last Operation (Requeue, Complete) that was carried out on this Task, so that none is
    /// carried out twice.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 64))]
    pub last_operation: String,
    /// Review and merge of the last successful Run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub judge: Option<JudgeStatus>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub conditions: Vec<Condition>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    pub transitions: Vec<Transition>,
    pub observed_generation: i64,
}

/// Condition types of a Task.
pub mod condition {
    /// True once the Task has ended.
    pub const COMPLETE: &str = "Complete";
    /// True while an attempt runs; False with the reason why it waits.
    pub const PROGRESSING: &str = "Progressing";
    /// True when a person has to act, or a fault lasts unusually long.
    pub const STALLED: &str = "Stalled";
}
