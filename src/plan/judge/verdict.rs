//! From what the evaluators say to one verdict (spec agents 5.4).
//!
//! | order | condition | verdict | by | confidence |
//! |---|---|---|---|---|
//! | 1 | CI pending or unreadable | none: a wait (Q18) | | |
//! | 2 | CI failed | request changes | CI | 100 |
//! | 3 | the change breaks the policy | request changes | policy | 100 |
//! | 4 | the agent refuses, `allowModelFailAutoMerge` and `autoMerge` are on | approve, findings kept | agent | its own |
//! | 5 | the agent refuses | request changes (Q20: by default its "no" blocks) | agent | its own |
//! | 6 | otherwise | approve | agent | its own, 0 without one |
//!
//! Pure; used by the `publish` step of a Judge Run. It merges, comments and writes nothing.

use super::change::ChangeReview;
use super::ci::Ci;
use crate::crd::judge::ReviewRules;
use crate::crd::run::{ReviewResult, ReviewSource, ReviewVerdict};

/// Findings in a result.
const MAX_FINDINGS: usize = 8;
/// Characters of one finding.
const MAX_FINDING_CHARS: usize = 200;

/// How grave an issue is; only an error refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Error,
    Warning,
    Info,
}

impl Severity {
    /// The severity that a reviewer's word names; an unknown word is a warning.
    pub fn of(word: &str) -> Self {
        match word.trim().to_ascii_lowercase().as_str() {
            "error" | "critical" => Self::Error,
            "info" => Self::Info,
            _ => Self::Warning,
        }
    }
}

/// One issue a reviewer found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issue {
    pub severity: Severity,
    pub message: String,
    /// Path it is about, relative to the repository.
    pub file: Option<String>,
    pub line: Option<u64>,
}

impl Issue {
    /// As a finding: `path:line: message`, or the message alone.
    pub fn finding(&self) -> String {
        let place = match (&self.file, self.line) {
            (Some(file), Some(line)) => format!("{file}:{line}: "),
            (Some(file), None) => format!("{file}: "),
            (None, _) => String::new(),
        };
        format!("{place}{}", self.message.trim())
    }
}

/// The path that a finding written by [`Issue::finding`] is about.
pub fn file_of(finding: &str) -> Option<&str> {
    let (place, _) = finding.split_once(": ")?;
    let path = match place.rsplit_once(':') {
        Some((path, line)) if !line.is_empty() && line.bytes().all(|b| b.is_ascii_digit()) => path,
        Some(_) | None => place,
    };
    let is_path = !path.is_empty() && !path.contains(char::is_whitespace) && path.contains(['/', '.']);
    is_path.then_some(path)
}

/// What the reviewing agent has said.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AgentReview {
    /// Whether it approves.
    pub pass: bool,
    /// How sure it is, 0 to 1.
    pub confidence: f64,
    pub issues: Vec<Issue>,
    pub summary: String,
}

impl AgentReview {
    /// The answer to a change of nothing: there is nothing to refuse.
    pub fn of_empty_change() -> Self {
        Self { pass: true, confidence: 0.5, ..Self::default() }
    }
}

/// What follows from all that was said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The verdict on this key.
    Verdict(ReviewResult),
    /// No verdict yet, and what is waited for.
    Wait(String),
    /// The reviewer refuses and says nothing that anybody could act on: no verdict, ask again.
    Unusable,
}

/// The verdict on a change of the paths `changed`. `agent` is absent when no agent was asked.
pub fn verdict(
    ci: &Ci,
    change: &ChangeReview,
    agent: Option<&AgentReview>,
    changed: &[String],
    rules: &ReviewRules,
) -> Decision {
    let of = |verdict, source, confidence, findings: Vec<String>| {
        let findings = findings.iter().take(MAX_FINDINGS).map(|text| cut(text)).collect();
        let (risk, code_files) = (change.risk, change.code_files);
        Decision::Verdict(ReviewResult { verdict, source, confidence, risk, findings, code_files })
    };
    match ci {
        Ci::Pending(names) => return Decision::Wait(format!("checks are not over: {}", names.join(", "))),
        Ci::Unreadable(why) => return Decision::Wait(format!("checks could not be read: {why}")),
        Ci::Failure(names) => {
            let findings = names.iter().map(|name| format!("check failed: {name}")).collect();
            return of(ReviewVerdict::RequestChanges, ReviewSource::Ci, 100, findings);
        }
        Ci::Success => {}
    }
    if !change.findings.is_empty() {
        return of(ReviewVerdict::RequestChanges, ReviewSource::Policy, 100, change.findings.clone());
    }
    let Some(agent) = agent else {
        return of(ReviewVerdict::Approve, ReviewSource::Agent, 0, Vec::new());
    };
    let confidence = percent(agent.confidence);
    match refusal(agent, changed) {
        Said::Nothing => Decision::Unusable,
        Said::Refuses(findings) if !rules.model_may_fail => {
            of(ReviewVerdict::RequestChanges, ReviewSource::Agent, confidence, findings)
        }
        Said::Refuses(findings) | Said::Approves(findings) => {
            of(ReviewVerdict::Approve, ReviewSource::Agent, confidence, findings)
        }
    }
}

enum Said {
    Approves(Vec<String>),
    Refuses(Vec<String>),
    /// It refuses without a word.
    Nothing,
}

/// What the agent's answer comes to. Issues about files outside the change do not count; a refusal
/// whose issues are no errors is none (spec agents 5.3). A refusal in the summary alone counts.
fn refusal(agent: &AgentReview, changed: &[String]) -> Said {
    let inside = |issue: &&Issue| issue.file.as_ref().is_none_or(|file| changed.contains(file));
    let mut issues: Vec<&Issue> = agent.issues.iter().filter(inside).collect();
    issues.sort_by_key(|issue| issue.severity);
    let findings: Vec<String> = issues.iter().map(|issue| issue.finding()).collect();
    let errors = issues.iter().any(|issue| issue.severity == Severity::Error);
    let summary = agent.summary.trim();
    if agent.pass {
        Said::Approves(findings)
    } else if errors {
        Said::Refuses(findings)
    } else if !agent.issues.is_empty() {
        Said::Approves(findings)
    } else if summary.is_empty() {
        Said::Nothing
    } else {
        Said::Refuses(vec![summary.to_string()])
    }
}

fn cut(text: &str) -> String {
    text.chars().take(MAX_FINDING_CHARS).collect()
}

/// 0 to 1 as 0 to 100; what is neither is 0.
fn percent(confidence: f64) -> i32 {
    let bounded = if confidence.is_finite() { confidence.clamp(0.0, 1.0) } else { 0.0 };
    // In range by the line above.
    #[allow(clippy::cast_possible_truncation)]
    let percent = (bounded * 100.0).round() as i32;
    percent
}
