//! Planning: the settings in the System, where planning stands, and what a Plan Run is told.

use std::time::Duration;

use jiff::Timestamp;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::pool::Role;
use super::{GoDuration, task::TaskSpec};

/// How the summary of a Plan Run begins that found the requirement and the repository as they were for
/// the last plan, and so made none.
pub const NO_DIFF: &str = "no_diff";

/// Whether and from what Tasks are planned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!self.enabled || has(self.requirement) != has(self.requirementPath) || (has(self.issues) && !has(self.requirement))").message("planner: name what to plan from, either requirement or requirementPath, or issues, or issues and one of both"))]
pub struct PlannerSettings {
    /// True: an agent of role Planner turns the requirement into Tasks.
    #[serde(default)]
    pub enabled: bool,
    /// The requirement itself, as markdown. Sections Goal, Acceptance Criteria, Allowed Paths and so on
    /// are understood, none is needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16384))]
    #[x_kube(validation = Rule::new("self.matches('\\\\S')").message("requirement: must not be empty or blank"))]
    pub requirement: Option<String>,
    /// Path of the requirement in the repository, on the base branch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = Rule::new("!self.startsWith('/') && !self.matches('(^|/)[.][.](/|$)')").message("requirementPath: must be relative to the repository and must not contain '..'"))]
    pub requirement_path: Option<String>,
    /// Issues of the forge that become Tasks, before the requirement is looked at. For repository mode
    /// GitHub.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issues: Option<IssueImport>,
    /// Least time between two plans, and between two tries.
    #[serde(default = "default_interval")]
    #[x_kube(validation = Rule::new("self.matches('^([0-9]+([.][0-9]+)?(ms|s|m|h))+$') && duration(self) >= duration('1s') && duration(self) <= duration('720h')").message("interval: must be a duration between 1s and 720h, such as 5m"))]
    pub interval: GoDuration,
    /// The same requirement for the same head of the base branch is not planned a second time.
    #[serde(default = "default_true")]
    pub skip_same_signature: bool,
    /// Plan whenever the backlog is empty. False: nothing is planned without being asked for.
    #[serde(default = "default_true")]
    pub auto_replan: bool,
    /// Time the agent may plan.
    #[serde(default = "default_timebox")]
    #[x_kube(validation = Rule::new("self.matches('^([0-9]+([.][0-9]+)?(ms|s|m|h))+$') && duration(self) >= duration('1m') && duration(self) <= duration('24h')").message("timebox: must be a duration between 1m and 24h, such as 20m"))]
    pub timebox: GoDuration,
}

impl Default for PlannerSettings {
    fn default() -> Self {
        Self {
            enabled: false,
            requirement: None,
            requirement_path: None,
            issues: None,
            interval: default_interval(),
            skip_same_signature: true,
            auto_replan: true,
            timebox: default_timebox(),
        }
    }
}

impl PlannerSettings {
    /// `interval` as a duration.
    pub fn interval(&self) -> Duration {
        GoDuration::or(Some(&self.interval), Duration::from_secs(300))
    }
}

/// Which issues of the forge become Tasks. Whoever can label an issue of the repository, and whoever
/// wrote it, says what an agent is to do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct IssueImport {
    /// Labels that an open issue has, all of them.
    #[schemars(length(min = 1, max = 10), inner(length(min = 1, max = 50)))]
    #[x_kube(validation = Rule::new("self.all(l, l.matches('^[^,[:cntrl:]]*[^,[:space:][:cntrl:]][^,[:cntrl:]]*$') && l != 'opentiger-imported')").message("labels: must not be blank, hold a comma, or be opentiger-imported, which marks issues that are Tasks already"))]
    pub labels: Vec<String>,
    /// Most issues that become Tasks at a time; the others are next when these Tasks have ended.
    #[serde(default = "default_issue_limit")]
    #[schemars(range(min = 1, max = 100))]
    pub limit: i32,
    /// Role of the Task of an issue that names none, by a label or a line such as `Role: worker`. Absent:
    /// such an issue does not become a Task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self in ['Worker', 'Tester', 'Docser']").message("defaultRole: must be Worker, Tester or Docser"))]
    pub default_role: Option<Role>,
}

fn default_issue_limit() -> i32 {
    20
}

fn default_interval() -> GoDuration {
    GoDuration::from_secs(300)
}

fn default_timebox() -> GoDuration {
    GoDuration::from_secs(1200)
}

fn default_true() -> bool {
    true
}

/// Where planning stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct PlannerStatus {
    /// Task that is planning.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 63))]
    pub current: String,
    /// Tasks that have planned so far; part of the next one's name.
    pub rounds: i64,
    /// When planning was last started, or ended without a plan.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub last_tried_at: Option<Timestamp>,
    /// When the last Task that plans was seen to have ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub last_ended_at: Option<Timestamp>,
    /// When the last plan was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub last_planned_at: Option<Timestamp>,
    /// Hash of requirement, head, repository and branch of the last plan.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 64))]
    pub last_signature: String,
    /// How the last round ended, for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 512))]
    pub last_result: String,
}

/// A plan as the Pod of a Plan Run hands it over to the API; or the issues that it has found, as Tasks
/// whose context names them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PlanHandOver {
    /// Hash of requirement, head, repository and branch.
    pub signature: String,
    /// The Tasks, each after those that it depends on.
    pub tasks: Vec<PlanTask>,
}

/// One Task of a plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PlanTask {
    pub name: String,
    pub spec: TaskSpec,
}

/// What has become of a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HandedOver {
    /// Names of the Tasks that exist now.
    pub tasks: Vec<String>,
    /// An earlier attempt had handed over another plan: its Tasks stand, this plan made none.
    pub earlier: bool,
    /// What was left out, for people.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// For purpose Plan: what is planned from, and when not again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlanTarget {
    /// Path of the requirement in the repository; absent: the goal is the requirement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    pub requirement_path: Option<String>,
    /// Signature of the plan that is not to be made again; absent: any plan is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub unless_signature: Option<String>,
    /// Issues that become Tasks. With any there is no plan beside them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issues: Option<IssueImport>,
    /// There is no requirement, only issues.
    #[serde(default)]
    pub issues_only: bool,
}
