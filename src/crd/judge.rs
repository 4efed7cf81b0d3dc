//! Review and merge: the settings in the System and the state of one Task's review.

use std::time::Duration;

use jiff::Timestamp;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::GoDuration;
use super::run::ReviewResult;

/// Whether and how results are reviewed and merged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct JudgeSettings {
    /// True: what a Run has pushed is reviewed by an agent of role Judge, and merged once approved.
    #[serde(default)]
    pub enabled: bool,
    /// True: what is approved is merged. False: the Task is Done with its branch named.
    #[serde(default = "yes")]
    pub auto_merge: bool,
    /// True: a change that only the reviewing agent refuses is approved all the same, as long as
    /// `autoMerge` is on; its findings are kept.
    #[serde(default)]
    pub allow_model_fail_auto_merge: bool,
    /// Added and deleted lines above which a change is refused.
    #[serde(default = "default_max_lines")]
    #[schemars(range(min = 1, max = 10_000_000))]
    pub max_lines: i64,
    /// Changed files above which a change is refused.
    #[serde(default = "default_max_files")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_files: i64,
    /// AutoFix Tasks, and as many AutoFix-Conflict Tasks, that one Task may have in its life. 0: none is
    /// made, a person decides.
    #[serde(default = "default_auto_fix_max_attempts")]
    #[schemars(range(min = 0, max = 20))]
    pub auto_fix_max_attempts: i32,
    /// Times in a row that work which cannot be merged is begun anew from the base branch. 0: never, a
    /// person decides.
    #[serde(default = "default_recreate_max_attempts")]
    #[schemars(range(min = 0, max = 10))]
    pub recreate_max_attempts: i32,
    /// Reviews of one Task that may fail without a verdict before a person decides. Faults of the
    /// cluster and limits of the provider do not count.
    #[serde(default = "default_max_failures")]
    #[schemars(range(min = 1, max = 100))]
    pub max_failures: i32,
    /// Attempts to merge one approved commit.
    #[serde(default = "default_merge_max_attempts")]
    #[schemars(range(min = 1, max = 20))]
    pub merge_max_attempts: i32,
    /// Wait between two of them.
    #[serde(default = "default_merge_retry_delay")]
    #[x_kube(validation = Rule::new("self.matches('^([0-9]+([.][0-9]+)?(ms|s|m|h))+$') && duration(self) <= duration('24h')").message("mergeRetryDelay: must be a duration of at most 24h, such as 30s"))]
    pub merge_retry_delay: GoDuration,
    /// True: a merged change of code is followed by a Task of role Docser.
    #[serde(default = "yes")]
    pub docser_follow_up: bool,
}

impl Default for JudgeSettings {
    fn default() -> Self {
        Self {
            enabled: false,
            auto_merge: true,
            allow_model_fail_auto_merge: false,
            max_lines: default_max_lines(),
            max_files: default_max_files(),
            auto_fix_max_attempts: default_auto_fix_max_attempts(),
            recreate_max_attempts: default_recreate_max_attempts(),
            max_failures: default_max_failures(),
            merge_max_attempts: default_merge_max_attempts(),
            merge_retry_delay: default_merge_retry_delay(),
            docser_follow_up: true,
        }
    }
}

fn yes() -> bool {
    true
}

fn default_max_lines() -> i64 {
    5000
}

fn default_max_files() -> i64 {
    100
}

fn default_auto_fix_max_attempts() -> i32 {
    3
}

fn default_recreate_max_attempts() -> i32 {
    1
}

fn default_max_failures() -> i32 {
    5
}

fn default_merge_max_attempts() -> i32 {
    3
}

fn default_merge_retry_delay() -> GoDuration {
    GoDuration::from_secs(30)
}

impl JudgeSettings {
    /// `mergeRetryDelay` as a duration.
    pub fn merge_retry_delay(&self) -> Duration {
        GoDuration::or(Some(&self.merge_retry_delay), Duration::from_secs(30))
    }

    /// The rules that a review goes by, to be frozen in its Run.
    pub fn rules(&self) -> ReviewRules {
        ReviewRules {
            max_lines: self.max_lines,
            max_files: self.max_files,
            model_may_fail: self.allow_model_fail_auto_merge && self.auto_merge,
        }
    }
}

/// What a review goes by besides the paths of the Task; frozen in the Judge Run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReviewRules {
    /// Added and deleted lines above which the change is refused.
    #[schemars(range(min = 1))]
    pub max_lines: i64,
    /// Changed files above which the change is refused.
    #[schemars(range(min = 1))]
    pub max_files: i64,
    /// Whether the reviewing agent's refusal alone does not block.
    #[serde(default)]
    pub model_may_fail: bool,
}

impl Default for ReviewRules {
    fn default() -> Self {
        JudgeSettings::default().rules()
    }
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
    /// Branch that the commit is compared with and merged into.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 255))]
    pub base_branch: String,
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
    /// Attempts to merge this commit that have failed, those that the cluster spoiled left out.
    #[serde(default)]
    pub merge_failures: i32,
    /// Why the last review or merge attempt came to nothing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub last_error: String,
    /// AutoFix Tasks made so far, in the life of the Task.
    #[serde(default)]
    pub auto_fixes: i32,
    /// AutoFix-Conflict Tasks made so far, in the life of the Task.
    #[serde(default)]
    pub conflict_fixes: i32,
    /// Branches that Tasks which mend this one's work, or do it anew, take the place of, in the life of the
    /// Task.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20), inner(length(max = 320)))]
    pub replaced: Vec<String>,
    /// AutoFix or AutoFix-Conflict Task that is waited for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 63))]
    pub follow_up: String,
}
