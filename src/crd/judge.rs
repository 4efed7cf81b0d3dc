//! Review and merge: the settings in the System and the state of one Task's review.

use jiff::Timestamp;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::run::ReviewResult;

/// Whether and how results are reviewed and merged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct JudgeSettings {
    /// True: what a Run has pushed is reviewed by an agent of role Judge, and merged once approved.
    #[serde(default)]
    pub enabled: bool,
}

/// Where the review of one pushed commit stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum JudgeStage {
    /// Waits for a Judge Run.
    #[default]
    Review,
    /// Approved; waits for its turn in the merge queue or for a Merge Run.
    Merge,
    /// The verdict has led on; nothing more is reviewed for this commit.
    Settled,
}

/// Review and merge of the last successful Run. The key (run uid, head commit, policy version) is
/// written here, fenced, before the Run that carries it out may have a Pod: a key has at most one
/// verdict (invariant S28).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JudgeStatus {
    pub stage: JudgeStage,
    /// Execute Run whose result is reviewed.
    #[schemars(length(max = 80))]
    pub run: String,
    #[schemars(length(max = 64))]
    pub run_uid: String,
    #[schemars(length(max = 320))]
    pub branch: String,
    #[schemars(length(max = 64))]
    pub head_commit: String,
    /// Hash of the rules in force when the verdict was asked for.
    #[schemars(length(max = 64))]
    pub policy_version: String,
    /// Judge Runs so far.
    #[serde(default)]
    pub reviews: i32,
    /// Merge Runs so far.
    #[serde(default)]
    pub merges: i32,
    /// When it was approved; the order in the merge queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub approved_at: Option<Timestamp>,
    /// The verdict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<ReviewResult>,
    /// Why the last merge attempt did not merge.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub last_error: String,
}
