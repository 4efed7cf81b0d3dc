//! `AgentPool`: slots of one role, and the template of the Pods that fill them.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Toleration;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Condition, GoDuration, run::SecretRef};

pub use super::checkpoint::Checkpoint;
pub use super::executor::{
    ClaudeCodeExecutor, ClaudeEffort, CodexEffort, CodexExecutor, CodexSandbox, OpenCodeExecutor,
    PermissionMode,
};
pub use super::network::{CaBundleKind, CaBundleRef, Egress, EgressRule};

/// `spec.idleTimeout` where it is absent. Longer than the 10 minutes that Claude Code gives one tool call
/// at most, because no program says anything while a tool of its runs: the original's 5 minutes (spec
/// agents 1.9) would end every longer build.
pub const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(900);

/// Which kind of agent.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
pub enum Role {
    #[default]
    Worker,
    Tester,
    Docser,
    /// Reviews and merges what the others have pushed.
    Judge,
    /// Turns a requirement into Tasks.
    Planner,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 5] = [Self::Worker, Self::Tester, Self::Docser, Self::Judge, Self::Planner];

    /// The CamelCase word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Worker => "Worker",
            Self::Tester => "Tester",
            Self::Docser => "Docser",
            Self::Judge => "Judge",
            Self::Planner => "Planner",
        }
    }
}

/// Slots of one role and the template of their Pods.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "opentiger.dev",
    version = "v1alpha1",
    kind = "AgentPool",
    plural = "agentpools",
    shortname = "otp",
    category = "opentiger",
    namespaced,
    derive = "PartialEq",
    derive = "Default",
    status = "AgentPoolStatus",
    scale(spec_replicas_path = ".spec.replicas", status_replicas_path = ".status.replicas", label_selector_path = ".status.selector"),
    doc = "An AgentPool is a number of slots for agents of one role, and the template of the Pods that fill them.",
    validation = Rule::new("self.metadata.name.size() <= 40").message("name: must be at most 40 characters, because slot names are made from it"),
    validation = Rule::new("!self.metadata.name.contains('.')").message("name: must not contain '.', use lower case letters, digits and '-'"),
    validation = Rule::new("!has(self.spec.loginSecretRef) || self.spec.executor.type in ['ClaudeCode', 'Codex', 'OpenCode']").message("loginSecretRef: only an executor of type ClaudeCode, Codex or OpenCode is logged in by a file; give a Command its credentials by credentialsSecretRef"),
    validation = Rule::new("!has(self.spec.noProxy) || has(self.spec.proxyURL)").message("noProxy: names exceptions from proxyURL, set that too"),
    printcolumn(name = "Role", type_ = "string", json_path = ".spec.role"),
    printcolumn(name = "Slots", type_ = "integer", json_path = ".spec.replicas"),
    printcolumn(name = "Busy", type_ = "integer", json_path = ".status.busy"),
    printcolumn(name = "Suspended", type_ = "boolean", json_path = ".spec.suspend"),
    printcolumn(name = "Executor", type_ = "string", json_path = ".spec.executor.type"),
    printcolumn(name = "Image", type_ = "string", json_path = ".spec.image", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct AgentPoolSpec {
    /// Which Tasks its agents take.
    #[x_kube(validation = Rule::new("self == oldSelf").message("role: cannot be changed, create another AgentPool"))]
    pub role: Role,
    /// Number of slots: Runs that may be in progress at once.
    #[serde(default = "default_replicas")]
    #[schemars(range(min = 0, max = 1000))]
    pub replicas: i32,
    /// True starts nothing new in this pool; what runs goes on.
    #[serde(default)]
    pub suspend: bool,
    /// Image that holds the executor and the tools of the repository.
    #[schemars(length(min = 1, max = 512))]
    pub image: String,
    #[serde(default)]
    pub image_pull_policy: ImagePullPolicy,
    /// What works on the Task.
    pub executor: Executor,
    /// Secret whose keys become environment variables of the agent container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<SecretRef>,
    /// Secret with the file that the agent program keeps its login in, for a subscription instead of a
    /// key: `.credentials.json` for ClaudeCode, `auth.json` for Codex and OpenCode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub login_secret_ref: Option<SecretRef>,
    /// Compute resources of the agent container.
    #[serde(default)]
    pub resources: Resources,
    /// Time that the executor may go on without any output before it is ended as hung. Longer than the
    /// longest silent build or test that the agent starts itself; the verification commands do not
    /// count. Absent: 15m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.matches('^([0-9]+([.][0-9]+)?(ms|s|m|h))+$') && duration(self) >= duration('1m') && duration(self) <= duration('24h')").message("idleTimeout: must be a duration between 1m and 24h, such as 15m"))]
    pub idle_timeout: Option<GoDuration>,
    /// Keeps the work of an attempt that is interrupted (by a provider's limit, the timebox, a stop, a lost
    /// node), so that the next goes on with it: the change and, of ClaudeCode and Codex, the session.
    /// They are pushed to the repository under `refs/opentiger/checkpoints/`, where everybody who reads
    /// the repository can read them. Absent: each attempt starts from the base branch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<Checkpoint>,
    /// Where the Pods may connect to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Egress>,
    /// Proxy for what leaves the cluster, by http and https: the agent, git, and what they start.
    #[serde(default, rename = "proxyURL", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    #[x_kube(validation = Rule::new("!self.contains('@')").message("proxyURL: must not contain credentials, because every program in the Pod can read it; let the proxy know its clients by their addresses"))]
    #[x_kube(validation = Rule::new("self.matches('^https?://([A-Za-z0-9._-]+|[[][0-9A-Fa-f:.]+[]]):([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])/?$')").message("proxyURL: must be an http or https URL with a host, a port and nothing else, such as http://proxy.example.com:3128"))]
    pub proxy_url: Option<String>,
    /// Hosts, domains and ranges that are reached without the proxy. The Services of the cluster always
    /// are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50), inner(length(max = 253)))]
    #[x_kube(validation = Rule::new("self.all(n, n.matches('^[A-Za-z0-9.:/_-]+$'))").message("noProxy: must be hosts, domains such as .example.com, or ranges such as 10.0.0.0/8"))]
    pub no_proxy: Vec<String>,
    /// Certificates of authorities that are trusted besides the public ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_bundle_ref: Option<CaBundleRef>,
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
}

impl AgentPoolSpec {
    /// The Secret whose account with the provider its agents use up, when they have one.
    pub fn credential(&self) -> Option<&SecretRef> {
        self.login_secret_ref.as_ref().or(self.credentials_secret_ref.as_ref())
    }
}

fn default_replicas() -> i32 {
    1
}

/// When the node pulls the image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ImagePullPolicy {
    Always,
    #[default]
    IfNotPresent,
    Never,
}

impl ImagePullPolicy {
    /// The word Kubernetes uses.
    pub fn word(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

/// Requests and limits, in Kubernetes quantities.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// What the node sets aside, e.g. `cpu: 500m`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 20))]
    #[x_kube(validation = Rule::new("self.all(name, isQuantity(self[name]))").message("resources: must be Kubernetes quantities such as 500m or 1Gi"))]
    pub requests: BTreeMap<String, String>,
    /// What the container may use at most, e.g. `memory: 4Gi`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 20))]
    #[x_kube(validation = Rule::new("self.all(name, isQuantity(self[name]))").message("resources: must be Kubernetes quantities such as 500m or 1Gi"))]
    pub limits: BTreeMap<String, String>,
}

/// What works on the Task: exactly the member named by `type` is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("(self.type == 'ClaudeCode') == has(self.claudeCode) && (self.type == 'Codex') == has(self.codex) && (self.type == 'OpenCode') == has(self.openCode) && (self.type == 'Command') == has(self.command) && (self.type == 'Mock') == has(self.mock)").message("executor: set exactly the member named by type (type ClaudeCode needs claudeCode, Codex codex, OpenCode openCode, Command command, Mock mock, and no other)"))]
pub struct Executor {
    #[serde(rename = "type")]
    pub type_: ExecutorType,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claude_code: Option<ClaudeCodeExecutor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub codex: Option<CodexExecutor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open_code: Option<OpenCodeExecutor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub command: Option<CommandExecutor>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mock: Option<MockExecutor>,
}

/// Kinds of executor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ExecutorType {
    /// The program `claude` of the pool's image.
    ClaudeCode,
    /// The program `codex` of the pool's image.
    Codex,
    /// The program `opencode` of the pool's image.
    OpenCode,
    /// A program run in the checkout.
    #[default]
    Command,
    /// Scripted outcomes, for tests and demonstrations.
    Mock,
}

/// A program run in the checkout, without a shell.
///
/// In a Pool of role Judge the checkout holds the commit under review. The environment variable
/// `OPENTIGER_REVIEW` names a JSON file with the goal, the changed files with their line counts and the
/// path of the change as a patch. The program writes its verdict as JSON to the file that
/// `OPENTIGER_VERDICT` names: `{"pass": bool, "confidence": 0..1 or percent, "issues": [{"severity":
/// "error|warning|info", "message", "file", "line"}], "summary"}`, and ends with exit code 0.
///
/// In a Pool of role Planner the program writes its plan as JSON to the file that `OPENTIGER_PLAN`
/// names: `{"tasks": [{"title", "goal", "role", "allowedPaths", "commands", "dependsOn", ...}],
/// "warnings": []}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct CommandExecutor {
    /// Program and arguments.
    #[schemars(length(max = 64), inner(length(max = 8192)))]
    #[x_kube(validation = Rule::new("self.size() > 0 && self[0].matches('\\\\S')").message("argv: must not be empty, its first element is the program to run"))]
    pub argv: Vec<String>,
}

/// A scripted outcome. A line `mock: Crash; Fail test_failure; Quota 20s; Succeed docs/a.txt` in a Task's
/// `context.notes` takes its place: the n-th attempt plays the n-th outcome, later ones the last
/// (`mock-review:` for the reviews of that Task).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct MockExecutor {
    pub outcome: MockOutcome,
    /// How long it works before the outcome.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.matches('^([0-9]+([.][0-9]+)?(ms|s|m|h))+$')").message("delay: must be a duration such as 30s"))]
    pub delay: Option<GoDuration>,
    /// Attempts up to this ordinal have the outcome, later ones succeed. Absent: every attempt. The
    /// ordinal of a review is its Run's attempt plus the earlier reviews of that attempt, so that
    /// `Reject` with 1 asks once for changes and approves the next attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub first_attempts: Option<i32>,
    /// For `Succeed` (and attempts after `firstAttempts`): the file that is written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = Rule::new("!self.startsWith('/') && !self.matches('(^|/)[.][.](/|$)')").message("file: must be relative to the repository and must not contain '..'"))]
    pub file: Option<String>,
    /// For `Succeed`: the content of the file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16384))]
    pub content: Option<String>,
    /// For `Fail`: the failure code, by default `execution_failed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub failure_code: Option<String>,
    /// For `Fail`, `Quota` and `Reject`: the message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub message: Option<String>,
    /// For `Quota`: the time until the limit resets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.matches('^([0-9]+([.][0-9]+)?(ms|s|m|h))+$')").message("resetAfter: must be a duration such as 30s"))]
    pub reset_after: Option<GoDuration>,
}

/// What a Mock executor does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum MockOutcome {
    /// Writes the file and ends well; as a reviewer it approves.
    #[default]
    Succeed,
    /// As a reviewer it asks for changes; in any other Run it does as `Succeed`.
    Reject,
    /// Ends with the failure code.
    Fail,
    /// Reports a provider limit.
    Quota,
    /// Never ends and prints nothing.
    Hang,
    /// Prints the same line for ever.
    Loop,
    /// Is killed by a signal.
    Crash,
    /// Ends with exit code 0, prints binary noise and changes nothing.
    Garbage,
}

/// Why an agent takes no Runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AgentHoldReason {
    /// It crashed and waits before it takes the next Run.
    #[default]
    Restarting,
    /// It crashed more often than `autoRestart.maxAttempts` allows; an Operation of type Start frees it.
    Exhausted,
}

/// An agent that takes no Runs at present, or has crashed lately.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentHold {
    /// Slot, e.g. `worker-3`.
    #[schemars(length(max = 63))]
    pub name: String,
    pub reason: AgentHoldReason,
    /// When it takes Runs again; absent: when an Operation of type Start frees it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub until: Option<Timestamp>,
    /// Crashes in the present window.
    pub restarts: i32,
    /// Beginning of the window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub window_start: Option<Timestamp>,
    /// When it crashed last; each crash counts once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub last_crash: Option<Timestamp>,
    /// Uid of the Run in which it crashed last.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 64))]
    pub last_run_uid: String,
}

/// What people read. Written by the pool controller only.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AgentPoolStatus {
    /// Slots, for the scale subresource.
    pub replicas: i32,
    /// Selector of the pool's Pods, for the scale subresource.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 256))]
    pub selector: String,
    /// Slots that hold a Run or a Pod.
    pub busy: i32,
    /// Agents that take no Runs at present; all others do.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000))]
    pub held: Vec<AgentHold>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub conditions: Vec<Condition>,
    pub observed_generation: i64,
}

/// Condition types of an AgentPool.
pub mod condition {
    /// True while Runs are admitted into its slots.
    pub const READY: &str = "Ready";
    /// True while an agent has crashed too often and waits for an Operation of type Start.
    pub const RESTART_EXHAUSTED: &str = "RestartExhausted";
}
