//! What operator and runner say to each other: the input document in the Pod's annotation and the
//! result in each container's termination message. Versioned, because an operator may be newer than
//! the Pods it finds.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::recovery::FailureDetail;
use super::run::{ReviewResult, RunSpec, TokenUsage};

/// Version of [`Inputs`] and [`ContainerResult`].
pub const SCHEMA_VERSION: u32 = 1;
/// Largest termination message a container writes, in bytes. The kubelet shares 12 KiB among all
/// containers of a Pod; an injected fourth one leaves 3 KiB each.
pub const MAX_RESULT_BYTES: usize = 2048;
/// Largest `summary`, in bytes.
pub const MAX_SUMMARY_BYTES: usize = 1536;
/// Largest `failure` in a result, in bytes.
pub const MAX_DETAIL_BYTES: usize = 768;
/// Largest input document, in bytes.
pub const MAX_INPUTS_BYTES: usize = 128 * 1024;

/// Containers of a Run's Pod.
pub mod container {
    /// Init container: clones the repository.
    pub const CHECKOUT: &str = "checkout";
    /// Runs the executor and the verification commands, in the pool's image.
    pub const AGENT: &str = "agent";
    /// Recomputes the change, checks it against the policy, commits and pushes.
    pub const PUBLISH: &str = "publish";
    /// All of them, in order.
    pub const ALL: [&str; 3] = [CHECKOUT, AGENT, PUBLISH];
}

/// Paths inside the Pod.
pub mod path {
    /// Static runner, read-only in `agent`.
    pub const BIN: &str = "/opentiger";
    /// The runner itself.
    pub const RUNNER: &str = "/opentiger/opentiger-runner";
    /// Input document (downward API).
    pub const INPUTS: &str = "/inputs/run.json";
    /// Trusted bare clone; not mounted in `agent`.
    pub const BARE: &str = "/repo";
    /// Shared between `agent` and `publish`.
    pub const WORKSPACE: &str = "/workspace";
    /// Working clone.
    pub const CHECKOUT: &str = "/workspace/repo";
    /// Rendezvous and result between `agent` and `publish`.
    pub const EXCHANGE: &str = "/exchange";
    /// Git credentials; mounted in `checkout` and `publish` only.
    pub const CREDENTIALS: &str = "/credentials/git";
    /// Writable home.
    pub const HOME: &str = "/home/agent";
}

/// The input document of a Run's Pod.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Inputs {
    pub schema_version: u32,
    pub namespace: String,
    /// Name of the Run.
    pub run: String,
    /// Uid of the Run; becomes a commit trailer, by which a repeated publish knows its own push.
    pub run_uid: String,
    pub spec: RunSpec,
}

/// How a container ended, in its own words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Done, with a change.
    Success,
    /// Done, and nothing had to be changed.
    Noop,
    /// The work did not pass verification or policy.
    NeedsRework,
    /// A provider limit was met.
    QuotaWait,
    /// It failed.
    Failed,
    /// It was ended from outside (SIGTERM).
    Cancelled,
    /// The cluster or the network was at fault.
    Infra,
}

/// The termination message of a container: JSON, at most [`MAX_RESULT_BYTES`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerResult {
    pub schema_version: u32,
    pub outcome: Outcome,
    /// One of the failure codes of `plan::classify`, when not a success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_code: Option<String>,
    /// What the failure shows: the failed command, the refused paths.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<FailureDetail>,
    /// What happened, for people and for the next attempt.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub summary: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed_files: Option<i64>,
    /// For purpose Judge: the verdict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub review: Option<ReviewResult>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<TokenUsage>,
    /// When the provider's limit resets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Timestamp>,
}

impl ContainerResult {
    /// A result with nothing but an outcome.
    pub fn new(outcome: Outcome) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            outcome,
            failure_code: None,
            failure: None,
            summary: String::new(),
            branch: None,
            head: None,
            changed_files: None,
            review: None,
            tokens: None,
            retry_at: None,
        }
    }

    /// A failure with its code and summary.
    pub fn failure(outcome: Outcome, code: &str, summary: impl Into<String>) -> Self {
        Self { failure_code: Some(code.into()), summary: summary.into(), ..Self::new(outcome) }
    }

    /// The message as it is written: JSON within [`MAX_RESULT_BYTES`]. The detail of a failure takes at
    /// most [`MAX_DETAIL_BYTES`] of it (fewer violations, then none), the summary is cut to the rest.
    pub fn to_message(&self) -> String {
        let mut result = self.clone();
        result.failure = self.failure.clone().and_then(within_budget);
        let mut budget = MAX_SUMMARY_BYTES;
        loop {
            result.summary = cut(&self.summary, budget);
            let text = serde_json::to_string(&result).unwrap_or_default();
            if text.len() <= MAX_RESULT_BYTES || budget == 0 {
                return text;
            }
            budget /= 2;
        }
    }

    /// Reads a termination message. `None` when it is not ours or of a newer schema.
    pub fn from_message(text: &str) -> Option<Self> {
        let result: Self = serde_json::from_str(text).ok()?;
        (result.schema_version == SCHEMA_VERSION).then_some(result)
    }
}

/// As many violations, in their order, as fit; nothing when not even the command does.
fn within_budget(mut detail: FailureDetail) -> Option<FailureDetail> {
    let size = |detail: &FailureDetail| serde_json::to_string(detail).unwrap_or_default().len();
    while size(&detail) > MAX_DETAIL_BYTES {
        detail.violations.pop()?;
    }
    Some(detail)
}

/// The first `bytes` bytes of `text`, cut at a character boundary.
fn cut(text: &str, bytes: usize) -> String {
    let mut end = text.len().min(bytes);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_fits_whatever_the_summary_holds() {
        for summary in ["x".repeat(10_000), "\u{1}\"\\".repeat(4_000), "ä🐯".repeat(3_000)] {
            let result = ContainerResult::failure(Outcome::Failed, "execution_failed", summary);
            let text = result.to_message();
            assert!(text.len() <= MAX_RESULT_BYTES, "{}", text.len());
            let back = ContainerResult::from_message(&text).expect("readable");
            assert_eq!(back.failure_code, result.failure_code);
            assert!(!back.summary.is_empty());
        }
    }

    #[test]
    fn the_detail_of_a_failure_leaves_room_for_the_summary() {
        let violations = (0..20).map(|n| format!("Change outside allowed paths: {}{n}", "é\"".repeat(60)));
        let mut result =
            ContainerResult::failure(Outcome::NeedsRework, "policy_violation", "x".repeat(5_000));
        result.failure = Some(FailureDetail::of_violations(violations));
        let text = result.to_message();
        let back = ContainerResult::from_message(&text).expect("readable");
        assert!(text.len() <= MAX_RESULT_BYTES && back.summary.len() > 300, "{}", back.summary.len());
        let kept = back.failure.expect("a detail").violations;
        assert!((2..20).contains(&kept.len()), "{}", kept.len());
        result.failure = Some(FailureDetail::of_command(&"\u{1}".repeat(512)));
        assert_eq!(ContainerResult::from_message(&result.to_message()).expect("readable").failure, None);
    }

    #[test]
    fn a_newer_schema_is_not_guessed_at() {
        let mut result = ContainerResult::new(Outcome::Success);
        result.schema_version = SCHEMA_VERSION + 1;
        assert_eq!(ContainerResult::from_message(&result.to_message()), None);
        assert_eq!(ContainerResult::from_message("garbage"), None);
    }
}
