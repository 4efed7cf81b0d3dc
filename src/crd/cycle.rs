//! Cycles: stretches of work with statistics of their own.

use jiff::Timestamp;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::GoDuration;

/// Cycles kept in `status.cycle.history`.
pub const MAX_HISTORY: usize = 10;

/// When a cycle ends and the next one begins. What runs goes on: the end of a cycle cancels nothing.
/// Left out as a whole: 4h, 100 and 30; a member left out of a given `cycles` ends no cycle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct CycleSettings {
    /// Time since the first Run of the cycle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.matches('^([0-9]+([.][0-9]+)?(ms|s|m|h))+$') && duration(self) >= duration('1s') && duration(self) <= duration('8760h')").message("maxDuration: must be a duration between 1s and 8760h, such as 4h"))]
    pub max_duration: Option<GoDuration>,
    /// Attempts that have succeeded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_tasks: Option<i32>,
    /// Failed attempts in percent of those that succeeded or failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub max_failure_rate: Option<i32>,
    /// Attempts that must have succeeded or failed before `maxFailureRate` counts.
    #[serde(default = "default_min_tasks")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub min_tasks_for_failure_check: i32,
}

impl Default for CycleSettings {
    fn default() -> Self {
        Self {
            max_duration: Some(GoDuration::from_secs(4 * 3600)),
            max_tasks: Some(100),
            max_failure_rate: Some(30),
            min_tasks_for_failure_check: default_min_tasks(),
        }
    }
}

fn default_min_tasks() -> i32 {
    10
}

/// Where a cycle stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CyclePhase {
    #[default]
    Running,
    /// It came to one of its ends.
    Completed,
    /// An anomaly ended it.
    Aborted,
}

/// What ended a cycle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum CycleTrigger {
    Time,
    TaskCount,
    FailureRate,
    /// A Run that is stuck beyond all bounds.
    CriticalAnomaly,
    /// Somebody, by an Operation of type EndCycle.
    Manual,
}

impl CycleTrigger {
    /// The CamelCase word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Time => "Time",
            Self::TaskCount => "TaskCount",
            Self::FailureRate => "FailureRate",
            Self::CriticalAnomaly => "CriticalAnomaly",
            Self::Manual => "Manual",
        }
    }
}

/// What has happened in a cycle. Attempts are Runs that carry out a Task (or a plan) and are counted
/// where they end; Runs where they are admitted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CycleStats {
    /// Attempts that have succeeded.
    pub tasks_completed: i64,
    /// Attempts that have failed.
    pub tasks_failed: i64,
    /// Attempts that were cancelled.
    pub tasks_cancelled: i64,
    /// Runs of every purpose that were admitted.
    pub runs_total: i64,
    /// Tokens of the Runs that have ended.
    pub total_tokens: i64,
    /// Seconds that the attempts that have ended have worked.
    pub worked_seconds: i64,
    /// Mean time of an attempt that has ended; absent before the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub average_task_duration: Option<GoDuration>,
    /// Most Runs in progress at once.
    pub peak_concurrent: i64,
}

/// A cycle that has ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CycleRecord {
    pub number: i64,
    pub phase: CyclePhase,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub started_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub ended_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trigger_type: Option<CycleTrigger>,
    /// One sentence for a person.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 512))]
    pub end_reason: String,
    /// For a critical anomaly: uid of the Run that was stuck. One Run ends one cycle only.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 64))]
    pub stuck_run_uid: String,
    pub stats: CycleStats,
}

/// The present cycle and those before it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct CycleStatus {
    /// Counts from 1.
    pub number: i64,
    pub phase: CyclePhase,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub started_at: Option<Timestamp>,
    /// When its first Run was admitted; its time runs from here.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub active_since: Option<Timestamp>,
    /// Once it has ended and no other could begin, because component `cycle-manager` is stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub ended_at: Option<Timestamp>,
    /// What ended it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trigger_type: Option<CycleTrigger>,
    /// Why, in one sentence.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 512))]
    pub end_reason: String,
    pub stats: CycleStats,
    /// Cycles that have ended, the newest last.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub history: Vec<CycleRecord>,
}
