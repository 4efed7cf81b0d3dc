//! `Run`: one attempt at a Task. Its spec is frozen at admission; its status is written once, when
//! it has ended (and while its Pod cannot start).

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Toleration;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::checkpoint::Checkpoint;
use super::judge::ReviewRules;
use super::network::CaBundleRef;
use super::planner::PlanTarget;
use super::pool::{Executor, ImagePullPolicy, Resources, Role};
use super::recovery::FailureDetail;
pub use super::reported::{CommandOutcome, CommandSource, VerificationReport, VerifiedCommand};
use super::restart::AgentCrash;
use super::system::{RepositoryMode, Submodules};
use super::task::{RiskLevel, TaskContext};
pub use super::usage::{AgentSession, TokenUsage};
use super::verification::VerificationSettings;
use super::{Condition, GoDuration};

/// A Secret in the same namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretRef {
    /// Name of the Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
}

/// The Task a Run belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TaskRef {
    #[schemars(length(max = 63))]
    pub name: String,
    #[schemars(length(max = 64))]
    pub uid: String,
}

/// What a Run is for.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum Purpose {
    /// Carry out the Task.
    #[default]
    Execute,
    /// Review what an Execute Run has pushed.
    Judge,
    /// Merge what a Judge Run has approved.
    Merge,
    /// Turn a requirement into Tasks.
    Plan,
}

impl Purpose {
    /// The CamelCase word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Execute => "Execute",
            Self::Judge => "Judge",
            Self::Merge => "Merge",
            Self::Plan => "Plan",
        }
    }

    /// The purpose that the value of the label names; what nobody knows counts as Execute.
    pub fn from_label(label: &str) -> Self {
        match label {
            "judge" => Self::Judge,
            "merge" => Self::Merge,
            "plan" => Self::Plan,
            _ => Self::Execute,
        }
    }
}

/// One attempt: identity, slot, and everything it needs, frozen at admission.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "opentiger.dev",
    version = "v1alpha1",
    kind = "Run",
    plural = "runs",
    shortname = "otr",
    category = "opentiger",
    namespaced,
    derive = "PartialEq",
    derive = "Default",
    status = "RunStatus",
    doc = "A Run is one attempt at a Task. The dispatcher creates it; its spec never changes.",
    validation = Rule::new("self.metadata.name.size() <= 63").message("name: must be at most 63 characters, because it is the name of the Pod too"),
    printcolumn(name = "Task", type_ = "string", json_path = ".spec.taskRef.name"),
    printcolumn(name = "Try", type_ = "integer", json_path = ".spec.attempt"),
    printcolumn(name = "Purpose", type_ = "string", json_path = ".spec.purpose"),
    printcolumn(name = "Agent", type_ = "string", json_path = ".spec.agent"),
    printcolumn(name = "Status", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Code", type_ = "string", json_path = ".status.failureCode"),
    printcolumn(name = "Branch", type_ = "string", json_path = ".status.branch"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Summary", type_ = "string", json_path = ".status.summary", priority = 1)
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self == oldSelf").message("spec: a Run cannot be edited, it is the record of one attempt"))]
pub struct RunSpec {
    pub task_ref: TaskRef,
    /// Ordinal of the attempt, from 1.
    #[schemars(range(min = 1))]
    pub attempt: i32,
    #[serde(default)]
    pub purpose: Purpose,
    /// AgentPool that gave the slot.
    #[schemars(length(max = 40))]
    pub pool: String,
    /// Slot, e.g. `worker-3`.
    #[schemars(length(max = 63))]
    pub agent: String,
    pub role: Role,
    #[schemars(length(max = 63))]
    pub lane: String,
    /// Areas that nobody else may work in while this Run exists.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20), inner(length(max = 300)))]
    pub target_areas: Vec<String>,
    /// For purposes Judge and Merge: what is reviewed or merged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub review: Option<ReviewTarget>,
    /// For purpose Plan: what is planned from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<PlanTarget>,
    pub inputs: RunInputs,
    pub repository: RunRepository,
    pub template: RunTemplate,
    pub limits: RunLimits,
    /// Commands beside those of the Task, as the System had it.
    #[serde(default)]
    pub verification: VerificationSettings,
}

/// What a Judge or Merge Run looks at. Together with `policyVersion` it is the key of one verdict
/// (invariant S28).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReviewTarget {
    /// Execute Run whose result is reviewed.
    #[schemars(length(max = 80))]
    pub run: String,
    #[schemars(length(max = 64))]
    pub run_uid: String,
    #[schemars(length(max = 320))]
    pub branch: String,
    /// The commit; a branch that has moved since is not covered.
    #[schemars(length(max = 64))]
    pub head_commit: String,
    /// Hash of the rules that the verdict was made by.
    #[schemars(length(max = 64))]
    pub policy_version: String,
    /// Ordinal of the review (or merge) of this Execute Run, from 1; part of the Run's name.
    #[schemars(range(min = 1))]
    pub version: i32,
    /// What the review goes by, as it was at admission.
    #[serde(default)]
    pub rules: ReviewRules,
    /// In repository mode GitHub: branches whose open pull requests are closed once this one is merged.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20), inner(length(max = 320)))]
    pub replaces: Vec<String>,
}

/// What a review says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ReviewVerdict {
    #[default]
    Approve,
    RequestChanges,
}

/// Which rule decided a review.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ReviewSource {
    /// Path and size policy.
    Policy,
    /// Results of continuous integration.
    Ci,
    /// The reviewing model or command.
    #[default]
    Agent,
}

/// The result of a Judge Run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReviewResult {
    pub verdict: ReviewVerdict,
    /// What decided it.
    pub source: ReviewSource,
    /// How sure the reviewer is, in percent.
    #[serde(default)]
    #[schemars(range(min = 0, max = 100))]
    pub confidence: i32,
    /// Computed risk of the change, recorded only.
    #[serde(default)]
    pub risk: RiskLevel,
    /// Findings, the gravest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(max = 200)))]
    pub findings: Vec<String>,
    /// Changed files that are no documentation.
    #[serde(default)]
    pub code_files: i64,
}

/// A pull request on a forge.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PullRequest {
    /// Its number in the repository.
    #[schemars(range(min = 1))]
    pub number: i64,
    /// Its page.
    #[schemars(length(max = 512))]
    pub url: String,
}

/// The Task's spec as it was at admission.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunInputs {
    #[schemars(length(max = 200))]
    pub title: String,
    #[schemars(length(max = 16384))]
    pub goal: String,
    #[schemars(length(max = 63))]
    pub kind: String,
    pub risk_level: RiskLevel,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 200), inner(length(max = 512)))]
    pub allowed_paths: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 200), inner(length(max = 512)))]
    pub denied_paths: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50), inner(length(max = 1024)))]
    pub commands: Vec<String>,
    #[serde(default)]
    pub context: TaskContext,
    pub timebox: GoDuration,
    /// Summary of the previous failure, so that a retry is not a blind repeat.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 2048))]
    pub previous_failure: String,
    /// What the attempts before that failed with, the newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2), inner(length(max = 512)))]
    pub earlier_failures: Vec<String>,
}

/// Where the code comes from and goes to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunRepository {
    /// How the result is delivered.
    #[serde(default)]
    pub mode: RepositoryMode,
    /// For mode GitHub: where the API is, when the URL does not tell.
    #[serde(default, rename = "apiURL", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    pub api_url: Option<String>,
    #[schemars(length(max = 2048))]
    pub url: String,
    #[schemars(length(max = 255))]
    pub base_branch: String,
    /// For mode GitHub: branch that the pull request is for, where it is not `baseBranch`: work that
    /// mends another's starts from that one's branch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255))]
    pub merge_into: Option<String>,
    /// Branch the result is pushed to.
    #[schemars(length(max = 320))]
    pub branch: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<SecretRef>,
    #[serde(default)]
    pub submodules: Submodules,
}

impl RunRepository {
    /// Branch that the pull request is for.
    pub fn proposed_to(&self) -> &str {
        self.merge_into.as_deref().unwrap_or(&self.base_branch)
    }
}

/// The pool's template as it was at admission.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunTemplate {
    #[schemars(length(max = 512))]
    pub image: String,
    pub image_pull_policy: ImagePullPolicy,
    pub executor: Executor,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<SecretRef>,
    #[serde(default)]
    pub resources: Resources,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub runtime_class_name: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50))]
    pub tolerations: Vec<Toleration>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub image_pull_secrets: Vec<SecretRef>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login_secret_ref: Option<SecretRef>,
    #[serde(default, rename = "proxyURL", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub proxy_url: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50), inner(length(max = 253)))]
    pub no_proxy: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_bundle_ref: Option<CaBundleRef>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<Checkpoint>,
}

impl RunTemplate {
    /// The Secret whose account with the provider the agent uses up, when it has one.
    pub fn credential(&self) -> Option<&SecretRef> {
        self.login_secret_ref.as_ref().or(self.credentials_secret_ref.as_ref())
    }
}

/// Bounds that hold for this attempt whatever is edited later.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunLimits {
    /// Time from admission until the agent must have started.
    pub startup_timeout: GoDuration,
    /// Time without a sign of life after which the kubelet ends the agent.
    pub agent_liveness_window: GoDuration,
    /// Time that the executor may go on without any output (`idleTimeout` of the pool).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_timeout: Option<GoDuration>,
    /// Tokens that the agent may use: what was left of the Task's budget (`budgets.perTask`). It is
    /// ended once its output reports as many. Absent: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub tokens: Option<i64>,
}

/// Where a Run stands. All but `Running` are final.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum RunPhase {
    #[default]
    Running,
    Success,
    Failed,
    Cancelled,
}

impl RunPhase {
    /// Whether the Run has ended.
    pub fn is_terminal(self) -> bool {
        match self {
            Self::Running => false,
            Self::Success | Self::Failed | Self::Cancelled => true,
        }
    }

    /// The CamelCase word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Running => "Running",
            Self::Success => "Success",
            Self::Failed => "Failed",
            Self::Cancelled => "Cancelled",
        }
    }
}

/// Class of a failure; decides limits and what comes next. Wire words are the original's lower case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FailureClass {
    Env,
    Setup,
    Policy,
    Test,
    Flaky,
    Model,
    ModelLoop,
    Permission,
    Noop,
    /// A fault of the cluster: costs no attempt.
    Infra,
}

impl FailureClass {
    /// The lower-case word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Env => "env",
            Self::Setup => "setup",
            Self::Policy => "policy",
            Self::Test => "test",
            Self::Flaky => "flaky",
            Self::Model => "model",
            Self::ModelLoop => "model_loop",
            Self::Permission => "permission",
            Self::Noop => "noop",
            Self::Infra => "infra",
        }
    }
}

/// What became of the container logs; absent means kept or still being kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Logs {
    /// They could not be kept in the time allowed.
    Lost,
    /// No database is configured to keep them.
    NotKept,
}

/// What people and clients read. Written by the run controller only; terminal values never change.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RunStatus {
    pub phase: RunPhase,
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 64))]
    pub failure_code: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure_class: Option<FailureClass>,
    /// What the failure shows: the failed command, the refused paths.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure: Option<FailureDetail>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub started_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub finished_at: Option<Timestamp>,
    /// Pushed branch.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 320))]
    pub branch: String,
    /// Pushed commit.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 64))]
    pub head_commit: String,
    /// Changed files.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub changed_files: Option<i64>,
    /// In repository mode GitHub: the pull request of the branch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pr: Option<PullRequest>,
    /// For purpose Judge: the verdict.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub review: Option<ReviewResult>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokens: Option<TokenUsage>,
    /// The conversation in which they were used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<AgentSession>,
    /// What the agent's container says of its verification.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verification: Option<VerificationReport>,
    /// SHA-256 of the exact text that the runner handed to the executor first (a repair adds to it), in
    /// hex. Computed before the executor starts; testimony of the runner, which nobody has checked. Absent: none was handed over.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 64))]
    pub prompt_hash: String,
    /// For quota failures: when the provider's limit resets.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub retry_at: Option<Timestamp>,
    /// What happened, for people and for the next attempt.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 2048))]
    pub summary: String,
    /// Uid of the Operation that cancelled it; the Operation counts its Runs by this.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 64))]
    pub cancelled_by: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logs: Option<Logs>,
    /// Set when the agent container did not end by itself; counts against the agent (`autoRestart`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent_crash: Option<AgentCrash>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub conditions: Vec<Condition>,
    pub observed_generation: i64,
}

/// Condition types of a Run.
pub mod condition {
    /// True once the Run has succeeded, False once it has ended otherwise.
    pub const SUCCEEDED: &str = "Succeeded";
    /// False while the Pod cannot start, with the reason.
    pub const POD_STARTED: &str = "PodStarted";
}
