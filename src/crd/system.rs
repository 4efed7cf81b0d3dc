//! `System`: the settings of one namespace and the state of its runtime hatch.

use std::time::Duration;

use jiff::Timestamp;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::budget::{Budgets, TokenLedger};
use super::cycle::{CycleSettings, CycleStatus};
use super::planner::{PlannerSettings, PlannerStatus};
use super::restart::AutoRestart;
use super::retention::Retention;
use super::run::SecretRef;
use super::verification::VerificationSettings;
use super::{Condition, GoDuration, judge::JudgeSettings, recovery::PathRecovery};

/// Name of the one System of a namespace.
pub const NAME: &str = "default";

/// Settings of one namespace.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "opentiger.dev",
    version = "v1alpha1",
    kind = "System",
    plural = "systems",
    shortname = "ots",
    category = "opentiger",
    namespaced,
    derive = "PartialEq",
    derive = "Default",
    status = "SystemStatus",
    doc = "The System holds the settings of a namespace: repository, dispatch, recovery, and the runtime hatch.",
    validation = Rule::new("self.metadata.name == 'default'").message("name: there is one System in a namespace and it must be named 'default'"),
    validation = Rule::new("!has(self.spec.planner) || !has(self.spec.planner.issues) || self.spec.repository.mode == 'GitHub'").message("planner.issues: is for repository mode GitHub only, no other has issues"),
    printcolumn(name = "Hatch", type_ = "string", json_path = ".status.hatch.state"),
    printcolumn(name = "Repository", type_ = "string", json_path = ".spec.repository.url"),
    printcolumn(name = "Max", type_ = "integer", json_path = ".spec.dispatch.maxConcurrent"),
    printcolumn(name = "Cycle", type_ = "integer", json_path = ".status.cycle.number"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Term", type_ = "integer", json_path = ".status.term", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct SystemSpec {
    /// `Manual`: as Operations of type Arm and Disarm say, Disarmed at first. `Armed`: armed until an
    /// Operation disarms it, then until an Operation arms it or this value is edited. `Disarmed`: locked,
    /// nothing starts whatever an Operation says.
    #[serde(default)]
    pub runtime_hatch: RuntimeHatch,
    /// Where the code comes from and goes to.
    pub repository: Repository,
    #[serde(default)]
    pub dispatch: Dispatch,
    #[serde(default)]
    pub recovery: Recovery,
    /// Commands that verify a change although its Task does not name them.
    #[serde(default)]
    pub verification: VerificationSettings,
    #[serde(default)]
    pub self_heal: SelfHeal,
    /// Review and merge of what agents push.
    #[serde(default)]
    pub judge: JudgeSettings,
    /// What happens to agents that crash.
    #[serde(default)]
    pub auto_restart: AutoRestart,
    /// Tokens that may be used.
    #[serde(default)]
    pub budgets: Budgets,
    /// When a cycle ends.
    #[serde(default)]
    pub cycles: CycleSettings,
    /// How long finished Runs and Tasks are kept.
    #[serde(default)]
    pub retention: Retention,
    /// Whether and from what Tasks are planned.
    #[serde(default)]
    pub planner: PlannerSettings,
}

/// Whether Runs may start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RuntimeHatch {
    #[default]
    Manual,
    Armed,
    Disarmed,
}

/// How results are delivered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RepositoryMode {
    /// Any git remote: a branch is pushed.
    #[default]
    Git,
    /// GitHub or GitHub Enterprise Server: a branch and one pull request for it.
    GitHub,
}

/// What is checked out of a repository's submodules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Submodules {
    /// Nothing: their directories are empty.
    #[default]
    Ignore,
    /// The files of each, at the commit that the tree names. Every submodule must be on the
    /// repository's own server (same scheme, host and port), which is handed the same credentials.
    /// Not those of submodules themselves.
    SameHost,
}

/// The repository that Tasks work on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.mode != 'GitHub' || self.url.matches('^https?://[^/]+/[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+/?$')").message("url: mode GitHub needs an http or https URL with owner and name, such as https://github.com/team/app; ssh is for mode Git"))]
#[x_kube(validation = Rule::new("self.mode != 'GitHub' || has(self.credentialsSecretRef)").message("credentialsSecretRef: mode GitHub needs a Secret with the key token, or with appId, installationId and privateKey"))]
#[x_kube(validation = Rule::new("!has(self.apiURL) || self.mode == 'GitHub'").message("apiURL: is for mode GitHub only"))]
pub struct Repository {
    #[serde(default)]
    pub mode: RepositoryMode,
    /// `http`, `https` or `ssh` URL (also `user@host:path`), without credentials in it.
    #[schemars(length(max = 2048))]
    #[x_kube(validation = Rule::new("self.matches('^(https?|ssh)://[^[:space:]]+$') || self.matches('^[A-Za-z0-9_.]+@[A-Za-z0-9.-]+:[^[:space:]]+$')").message("url: must be an http, https or ssh URL such as https://git.example.com/team/app.git"))]
    #[x_kube(validation = Rule::new("!self.matches('^https?://[^/]*@')").message("url: must not contain credentials, put them into a Secret and name it in credentialsSecretRef"))]
    pub url: String,
    /// For mode GitHub: where the API is. Absent: told from `url`, `https://api.github.com` for
    /// github.com, `/api/v3` on the same host for every other one.
    #[serde(default, rename = "apiURL", skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048))]
    #[x_kube(validation = Rule::new("self.matches('^https?://[^/?#@[:space:]]+(/[^?#[:space:]]*)?$')").message("apiURL: must be an http or https URL without credentials, such as https://github.example.com/api/v3"))]
    pub api_url: Option<String>,
    /// Branch that work starts from.
    #[serde(default = "default_base_branch")]
    #[schemars(length(min = 1, max = 255))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9_][A-Za-z0-9._/+@-]*$') && !self.contains('..') && !self.contains('//') && !self.contains('@{') && !self.endsWith('/') && !self.endsWith('.') && !self.contains('/.') && !self.endsWith('.lock') && !self.contains('.lock/')").message("baseBranch: must be a git branch name such as main or release/1.2, without a leading '-'"))]
    pub base_branch: String,
    /// Prefix of the branches that Runs push.
    #[serde(default = "default_branch_prefix")]
    #[schemars(length(min = 1, max = 200))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9_][A-Za-z0-9._/+-]*$') && !self.contains('..') && !self.contains('//') && !self.contains('/.') && !self.contains('.lock/')").message("branchPrefix: must be the beginning of a git branch name such as agent/"))]
    pub branch_prefix: String,
    /// Secret of type `kubernetes.io/basic-auth`, or `kubernetes.io/ssh-auth` with a `known_hosts` key.
    /// For mode GitHub: key `token`, or `appId`, `installationId` and `privateKey` of a GitHub App.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<SecretRef>,
    /// What is checked out of submodules. Their pointers stay as they are: what an agent changes in
    /// the directory of a submodule is not published.
    #[serde(default)]
    pub submodules: Submodules,
}

fn default_base_branch() -> String {
    "main".into()
}

fn default_branch_prefix() -> String {
    "agent/".into()
}

/// How Runs are admitted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Dispatch {
    /// Runs in progress at once in this namespace. Absent: as many as the pools have slots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub max_concurrent: Option<i32>,
    /// Floors and caps of lanes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub lanes: Vec<Lane>,
}

/// Floor and cap of one lane.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.minSlots) || !has(self.maxSlots) || self.minSlots <= self.maxSlots").message("lanes: minSlots must not be above maxSlots"))]
pub struct Lane {
    /// Name of the lane, as in a Task's `lane`.
    #[schemars(length(min = 1, max = 63))]
    pub name: String,
    /// Slots that this lane is served first with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100_000))]
    pub min_slots: Option<i32>,
    /// Slots that this lane never exceeds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub max_slots: Option<i32>,
}

/// How failures are retried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Recovery {
    /// Wait after a failed attempt.
    #[serde(default = "default_failed_cooldown")]
    #[x_kube(validation = Rule::new("self.matches('^([0-9]+([.][0-9]+)?(ms|s|m|h))+$') && duration(self) <= duration('24h')").message("failedCooldown: must be a duration of at most 24h, such as 30s"))]
    pub failed_cooldown: GoDuration,
    /// Wait of a Task that needs rework before it is tried again.
    #[serde(default = "default_blocked_cooldown")]
    #[x_kube(validation = Rule::new("self.matches('^([0-9]+([.][0-9]+)?(ms|s|m|h))+$') && duration(self) <= duration('24h')").message("blockedCooldown: must be a duration of at most 24h, such as 2m"))]
    pub blocked_cooldown: GoDuration,
    /// Least time between two attempts of one Task. Absent: the cooldown of the class alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.matches('^([0-9]+([.][0-9]+)?(ms|s|m|h))+$') && duration(self) <= duration('24h')").message("dispatchRetryDelay: must be a duration of at most 24h, such as 5m"))]
    pub dispatch_retry_delay: Option<GoDuration>,
    /// Failed attempts that a Task may cost in all. Absent: limits per failure class only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub max_retries: Option<i32>,
    /// Attempts of a Task that changes paths it may not, and that cannot safely be allowed, before it
    /// is cancelled.
    #[serde(default = "default_policy_suppression_max_retries")]
    #[schemars(range(min = 1, max = 1000))]
    pub policy_suppression_max_retries: i32,
    /// Rework Tasks that may follow one another for one piece of work. 0: none is made, a person
    /// decides.
    #[serde(default = "default_auto_rework_max_depth")]
    #[schemars(range(min = 0, max = 10))]
    pub auto_rework_max_depth: i32,
    /// Which paths may be added to those that a Task may change.
    #[serde(default)]
    pub path_recovery: PathRecovery,
    /// Time from admission until the agent must have started, before the attempt is given up as an
    /// infrastructure fault.
    #[serde(default = "default_startup_timeout")]
    #[x_kube(validation = Rule::new("self.matches('^([0-9]+([.][0-9]+)?(ms|s|m|h))+$') && duration(self) >= duration('10s') && duration(self) <= duration('24h')").message("startupTimeout: must be a duration between 10s and 24h, such as 15m"))]
    pub startup_timeout: GoDuration,
}

impl Default for Recovery {
    fn default() -> Self {
        Self {
            failed_cooldown: default_failed_cooldown(),
            blocked_cooldown: default_blocked_cooldown(),
            dispatch_retry_delay: None,
            max_retries: None,
            policy_suppression_max_retries: default_policy_suppression_max_retries(),
            auto_rework_max_depth: default_auto_rework_max_depth(),
            path_recovery: PathRecovery::default(),
            startup_timeout: default_startup_timeout(),
        }
    }
}

fn default_failed_cooldown() -> GoDuration {
    GoDuration::from_secs(30)
}

fn default_blocked_cooldown() -> GoDuration {
    GoDuration::from_secs(120)
}

fn default_policy_suppression_max_retries() -> i32 {
    5
}

fn default_auto_rework_max_depth() -> i32 {
    2
}

fn default_startup_timeout() -> GoDuration {
    GoDuration::from_secs(900)
}

fn default_liveness_window() -> GoDuration {
    GoDuration::from_secs(120)
}

fn default_heal_interval() -> GoDuration {
    GoDuration::from_secs(30)
}

fn default_startup_grace() -> GoDuration {
    GoDuration::from_secs(120)
}

fn default_enabled() -> bool {
    true
}

/// What becomes of results that wait for a judge that does not work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum JudgeBacklogPolicy {
    /// Reviews start on demand while the hatch is armed; condition `JudgeBacklog` says what else
    /// keeps them from it.
    #[default]
    StartWhenArmed,
    /// Nothing is said.
    Ignore,
}

/// How the system watches itself: agents that hang, and anomalies that become conditions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SelfHeal {
    /// False: nobody looks for anomalies. Budgets, cycles and restarts are kept all the same.
    #[serde(default = "default_enabled")]
    pub enabled: bool,
    /// Time between two looks.
    #[serde(default = "default_heal_interval")]
    #[x_kube(validation = Rule::new("self.matches('^([0-9]+([.][0-9]+)?(ms|s|m|h))+$') && duration(self) >= duration('1s') && duration(self) <= duration('1h')").message("interval: must be a duration between 1s and 1h, such as 30s"))]
    pub interval: GoDuration,
    /// Time after an operator has taken over in which missing progress is not held against anybody.
    #[serde(default = "default_startup_grace")]
    #[x_kube(validation = Rule::new("self.matches('^([0-9]+([.][0-9]+)?(ms|s|m|h))+$') && duration(self) <= duration('1h')").message("startupGrace: must be a duration of at most 1h, such as 2m"))]
    pub startup_grace: GoDuration,
    /// What becomes of results that wait for a judge that does not work.
    #[serde(default)]
    pub judge_backlog: JudgeBacklogPolicy,
    /// Time without a sign of life of the runner after which its container is ended.
    #[serde(default = "default_liveness_window")]
    #[x_kube(validation = Rule::new("self.matches('^([0-9]+([.][0-9]+)?(ms|s|m|h))+$') && duration(self) >= duration('10s') && duration(self) <= duration('1h')").message("agentLivenessWindow: must be a duration between 10s and 1h, such as 2m"))]
    pub agent_liveness_window: GoDuration,
}

impl Default for SelfHeal {
    fn default() -> Self {
        Self {
            enabled: true,
            interval: default_heal_interval(),
            startup_grace: default_startup_grace(),
            judge_backlog: JudgeBacklogPolicy::default(),
            agent_liveness_window: default_liveness_window(),
        }
    }
}

impl SelfHeal {
    /// `interval` as a duration.
    pub fn interval(&self) -> Duration {
        GoDuration::or(Some(&self.interval), Duration::from_secs(30))
    }

    /// `startupGrace` as a duration.
    pub fn startup_grace(&self) -> Duration {
        GoDuration::or(Some(&self.startup_grace), Duration::from_secs(120))
    }
}

impl Recovery {
    /// `failedCooldown` as a duration.
    pub fn failed_cooldown(&self) -> Duration {
        GoDuration::or(Some(&self.failed_cooldown), Duration::from_secs(30))
    }

    /// `blockedCooldown` as a duration.
    pub fn blocked_cooldown(&self) -> Duration {
        GoDuration::or(Some(&self.blocked_cooldown), Duration::from_secs(120))
    }

    /// `dispatchRetryDelay` as a duration, zero when absent.
    pub fn dispatch_retry_delay(&self) -> Duration {
        GoDuration::or(self.dispatch_retry_delay.as_ref(), Duration::ZERO)
    }
}

/// Whether Runs may start now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum HatchState {
    #[default]
    Disarmed,
    Armed,
}

/// State of the runtime hatch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Hatch {
    pub state: HatchState,
    /// When it came to be so.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub since: Option<Timestamp>,
    /// Who set it.
    #[schemars(length(max = 256))]
    pub by: String,
    /// Why.
    #[schemars(length(max = 1024))]
    pub reason: String,
    /// The value of `spec.runtimeHatch` that has had its effect: only another one has it again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub followed: Option<RuntimeHatch>,
    /// The last changes, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20))]
    pub history: Vec<HatchChange>,
}

/// Changes of the hatch that are remembered.
pub const MAX_HATCH_CHANGES: usize = 20;

/// One change of the runtime hatch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HatchChange {
    pub state: HatchState,
    #[schemars(with = "String")]
    pub at: Timestamp,
    /// Who set it.
    #[schemars(length(max = 256))]
    pub by: String,
    /// Why.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub reason: String,
    /// Uid of the Operation that set it, so that none has its effect twice.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 64))]
    pub operation: String,
}

/// What people read. Written by the system controller only.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct SystemStatus {
    pub hatch: Hatch,
    /// Components and agents that an Operation has stopped, e.g. `dispatcher` or `worker-3`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1100), inner(length(max = 63)))]
    pub stopped: Vec<String>,
    /// Leadership term: raised by each new leader; creates of an older term are refused.
    pub term: i64,
    /// The present cycle and those before it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cycle: Option<CycleStatus>,
    /// Tokens used in the present hour and day.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<TokenLedger>,
    /// Where planning stands; absent until it is first enabled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub planner: Option<PlannerStatus>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 24))]
    pub conditions: Vec<Condition>,
    pub observed_generation: i64,
}

/// Condition types of a System.
pub mod condition {
    /// True while Runs are started.
    pub const READY: &str = "Ready";
    /// True while a token budget is used up: nothing new is started.
    pub const BUDGET_EXCEEDED: &str = "BudgetExceeded";
    /// True from the end of a cycle until the first Run of the next one.
    pub const CYCLE_ENDED: &str = "CycleEnded";
    /// Many attempts of the last hour have failed.
    pub const HIGH_FAILURE_RATE: &str = "HighFailureRate";
    /// The last hour cost far more tokens than the one before it.
    pub const COST_SPIKE: &str = "CostSpike";
    /// A Run takes longer than any should.
    pub const STUCK_TASK: &str = "StuckTask";
    /// Agents work and nothing succeeds.
    pub const NO_PROGRESS: &str = "NoProgress";
    /// The node of an agent does not answer.
    pub const AGENT_TIMEOUT: &str = "AgentTimeout";
    /// Results wait for a judge that does not work.
    pub const JUDGE_BACKLOG: &str = "JudgeBacklog";
    /// Tasks wait although agents are free.
    pub const IDLE_AGENTS: &str = "IdleAgents";
    /// True while a plan is made; False with what keeps the next one from being made.
    pub const PLANNER: &str = "Planner";
}

/// Names of the components that can be stopped and started besides agents.
pub mod component {
    pub const DISPATCHER: &str = "dispatcher";
    pub const CYCLE_MANAGER: &str = "cycle-manager";
    pub const JUDGE: &str = "judge";
    pub const PLANNER: &str = "planner";
    /// All of them.
    pub const ALL: [&str; 4] = [DISPATCHER, CYCLE_MANAGER, JUDGE, PLANNER];
}

impl System {
    /// Whether a Run or a Pod may be started now: the spec does not lock and the status is armed.
    /// Absent status counts as disarmed (invariant S12).
    pub fn is_armed(&self) -> bool {
        self.spec.runtime_hatch != RuntimeHatch::Disarmed
            && self.status.as_ref().is_some_and(|s| s.hatch.state == HatchState::Armed)
    }

    /// Whether an Operation has stopped the component or agent `name`.
    pub fn is_stopped(&self, name: &str) -> bool {
        self.status.as_ref().is_some_and(|s| s.stopped.iter().any(|stopped| stopped == name))
    }

    /// The leadership term in force.
    pub fn term(&self) -> i64 {
        self.status.as_ref().map_or(0, |s| s.term)
    }
}
