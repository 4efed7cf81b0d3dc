//! What operator and runner say to each other: the input document in the Pod's annotation and the
//! result in each container's termination message. Versioned, because an operator may be newer than
//! the Pods it finds.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::recovery::FailureDetail;
use super::reported::VerificationReport;
use super::run::{AgentSession, PullRequest, Purpose, ReviewResult, RunSpec, TokenUsage};

/// Version of [`Inputs`] and [`ContainerResult`].
pub const SCHEMA_VERSION: u32 = 1;
/// Largest termination message a container writes, in bytes. The kubelet shares 12 KiB among all
/// containers of a Pod; an injected fourth one leaves 3 KiB each.
pub const MAX_RESULT_BYTES: usize = 2048;
/// Largest `summary`, in bytes.
pub const MAX_SUMMARY_BYTES: usize = 1536;
/// Largest `failure` in a result, in bytes.
pub const MAX_DETAIL_BYTES: usize = 768;
/// Largest `verification` in a result, in bytes.
pub const MAX_VERIFICATION_BYTES: usize = 512;
/// Audience of the token with which a Run's Pod opens the API, and nothing else.
pub const API_AUDIENCE: &str = "opentiger-api";
/// Largest input document, in bytes.
pub const MAX_INPUTS_BYTES: usize = 128 * 1024;

/// Shortest that `summary` becomes before a review's findings are cut, in bytes.
const MIN_SUMMARY_BYTES: usize = 192;
/// Longest finding of a review, in characters; there are at most [`MAX_FINDINGS`].
pub const MAX_FINDING_CHARS: usize = 200;
/// Most findings of a review.
pub const MAX_FINDINGS: usize = 8;

/// Containers of a Run's Pod.
pub mod container {
    use super::Purpose;

    /// Init container: clones the repository.
    pub const CHECKOUT: &str = "checkout";
    /// Runs the executor and the verification commands, in the pool's image.
    pub const AGENT: &str = "agent";
    /// Recomputes the change, checks it against the policy, commits and pushes.
    pub const PUBLISH: &str = "publish";
    /// All of them, in order.
    pub const ALL: [&str; 3] = [CHECKOUT, AGENT, PUBLISH];

    /// Those that the Pod of a Run has, in order. A merge needs no agent.
    pub fn of(purpose: Purpose) -> &'static [&'static str] {
        match purpose {
            Purpose::Execute | Purpose::Judge | Purpose::Plan => &ALL,
            Purpose::Merge => &[CHECKOUT, PUBLISH],
        }
    }

    /// The one that does the work: once it has started, the Run has.
    pub fn main(purpose: Purpose) -> &'static str {
        match purpose {
            Purpose::Execute | Purpose::Judge | Purpose::Plan => AGENT,
            Purpose::Merge => PUBLISH,
        }
    }
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
    /// What a reviewing agent is given: [`REVIEW_FILE`] and the change as a patch.
    pub const REVIEW: &str = "/workspace/review";
    /// Name of the description of the change in [`REVIEW`].
    pub const REVIEW_FILE: &str = "review.json";
    /// Name of the file in [`EXCHANGE`] in which a reviewing agent leaves its verdict.
    pub const VERDICT_FILE: &str = "verdict.json";
    /// Rendezvous and result between `agent` and `publish`.
    pub const EXCHANGE: &str = "/exchange";
    /// Git credentials; mounted in `checkout` and `publish` only.
    pub const CREDENTIALS: &str = "/credentials/git";
    /// The Run's token for the API; mounted in `publish` only.
    pub const API_TOKEN: &str = "/credentials/api/token";
    /// The file of the agent program's login, in the name of its key; mounted in `agent` only.
    pub const LOGIN: &str = "/credentials/login";
    /// The pool's own certificate authorities; mounted in `checkout` only.
    pub const CA_BUNDLE: &str = "/credentials/ca";
    /// Name of the file in [`CA_BUNDLE`].
    pub const CA_FILE: &str = "ca.crt";
    /// Where [`TRUSTED`] lies.
    pub const TRUST: &str = "/trust";
    /// All authorities that programs are to trust, when the pool names its own.
    pub const TRUSTED: &str = "/trust/ca.crt";
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
    /// The pull request of the branch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pr: Option<PullRequest>,
    /// For purpose Judge: the verdict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub review: Option<ReviewResult>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<TokenUsage>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<AgentSession>,
    /// What the agent's container says of its verification.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verification: Option<VerificationReport>,
    /// SHA-256 of the prompt as it was handed to the executor: 64 hex digits (`RunStatus::prompt_hash`).
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub prompt_hash: String,
    /// Of the agent alone, for `publish`: it was ended before it had finished, and another attempt can go on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub interrupted: bool,
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
            pr: None,
            review: None,
            tokens: None,
            session: None,
            verification: None,
            prompt_hash: String::new(),
            interrupted: false,
            retry_at: None,
        }
    }

    /// A failure with its code and summary.
    pub fn failure(outcome: Outcome, code: &str, summary: impl Into<String>) -> Self {
        Self { failure_code: Some(code.into()), summary: summary.into(), ..Self::new(outcome) }
    }

    /// The message as it is written: JSON within [`MAX_RESULT_BYTES`]. The detail of a failure takes at
    /// most [`MAX_DETAIL_BYTES`] of it (fewer violations, then none), the report of the verification
    /// [`MAX_VERIFICATION_BYTES`] (fewer commands). Where needed the summary is cut
    /// first, then the findings of a review, then both go.
    pub fn to_message(&self) -> String {
        let mut result = self.clone();
        result.failure = self.failure.clone().and_then(within_budget);
        result.verification = self.verification.clone().map(|report| report.bounded(MAX_VERIFICATION_BYTES));
        let (mut summary, mut finding) = (MAX_SUMMARY_BYTES, MAX_FINDING_CHARS);
        loop {
            result.summary = cut(&self.summary, summary);
            if let (Some(review), Some(whole)) = (&mut result.review, &self.review) {
                review.findings = shortened(&whole.findings, finding);
            }
            let text = serde_json::to_string(&result).unwrap_or_default();
            if text.len() <= MAX_RESULT_BYTES || (summary == 0 && finding == 0) {
                return text;
            }
            if summary > MIN_SUMMARY_BYTES || finding == 0 {
                summary /= 2;
            } else {
                finding = finding * 3 / 4;
            }
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

/// The first [`MAX_FINDINGS`] findings with at most `chars` characters each.
fn shortened(findings: &[String], chars: usize) -> Vec<String> {
    let short = findings.iter().take(MAX_FINDINGS).map(|finding| finding.chars().take(chars).collect());
    short.filter(|finding: &String| !finding.is_empty()).collect()
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
    use crate::crd::run::CommandSource;

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
        result.failure = Some(FailureDetail::of_command(&"\u{1}".repeat(512), CommandSource::Explicit));
        assert_eq!(ContainerResult::from_message(&result.to_message()).expect("readable").failure, None);
    }

    #[test]
    fn a_verdict_fits_whatever_its_findings_hold() {
        for finding in ["x".repeat(4_000), "\u{1}\"\\".repeat(4_000), "ä🐯".repeat(3_000)] {
            let mut result = ContainerResult::new(Outcome::Success);
            result.summary = "s".repeat(3_000);
            let review = ReviewResult { findings: vec![finding; 20], ..ReviewResult::default() };
            result.review = Some(review);
            let text = result.to_message();
            assert!(text.len() <= MAX_RESULT_BYTES, "{}", text.len());
            let review = ContainerResult::from_message(&text).and_then(|back| back.review).expect("kept");
            assert_eq!(review.findings.len(), MAX_FINDINGS);
            assert!(review.findings.iter().all(|f| !f.is_empty() && f.chars().count() <= MAX_FINDING_CHARS));
        }
    }

    #[test]
    fn a_newer_schema_is_not_guessed_at() {
        let mut result = ContainerResult::new(Outcome::Success);
        result.schema_version = SCHEMA_VERSION + 1;
        assert_eq!(ContainerResult::from_message(&result.to_message()), None);
        assert_eq!(ContainerResult::from_message("garbage"), None);
    }
}
