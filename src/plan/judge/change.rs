//! The change under review by itself: its paths against the Task's lists, its size, its risk (spec
//! agents 5.3, Policy and Risk).
//!
//! Paths go through the one engine of [`crate::plan::policy`], so that what a worker may not push a
//! judge does not let through (trap Q19); it fails closed, and an empty list of allowed paths allows
//! nothing (correction 19 names the original's difference). The size limits hold (trap Q16). Must not
//! read files: the change is an argument.

use std::sync::LazyLock;

use crate::crd::judge::ReviewRules;
use crate::crd::task::RiskLevel;
use crate::plan::policy::{self, Pattern};

/// One changed path and how much of it changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChangedFile {
    /// Relative to the repository. A renamed file is two changes.
    pub path: String,
    /// Added lines; 0 for what is no text.
    pub added: i64,
    /// Deleted lines.
    pub deleted: i64,
}

/// What the rules say of a change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChangeReview {
    /// What speaks against it; none: it passes.
    pub findings: Vec<String>,
    /// Recorded, decides nothing.
    pub risk: RiskLevel,
    /// Changed files that are no documentation.
    pub code_files: i64,
}

/// Holds a change against the Task's paths and the rules frozen in the Run. `task_risk` is the risk the
/// Task states; the result is never below it.
pub fn evaluate(
    files: &[ChangedFile],
    allowed: &[String],
    denied: &[String],
    task_risk: RiskLevel,
    rules: &ReviewRules,
) -> ChangeReview {
    let paths: Vec<String> = files.iter().map(|file| file.path.clone()).collect();
    let lines = files.iter().fold(0i64, |sum, f| sum.saturating_add(f.added).saturating_add(f.deleted));
    let count = i64::try_from(files.len()).unwrap_or(i64::MAX);
    let mut findings = match policy::check(&paths, allowed, denied) {
        Ok(violations) => violations.iter().map(ToString::to_string).collect(),
        Err(error) => vec![error.to_string()],
    };
    if lines > rules.max_lines {
        findings
            .push(format!("{lines} changed lines are more than the {} that are allowed", rules.max_lines));
    }
    if count > rules.max_files {
        findings
            .push(format!("{count} changed files are more than the {} that are allowed", rules.max_files));
    }
    let code = paths.iter().filter(|path| !is_documentation(path)).count();
    ChangeReview {
        findings,
        risk: graver(risk(lines, count, &paths, rules), task_risk),
        code_files: i64::try_from(code).unwrap_or(i64::MAX),
    }
}

/// Whether a changed path is documentation for the judge: only these two directories and the root
/// README (correction 27); [`policy::is_documentation`] is the worker's wider rule.
pub fn is_documentation(path: &str) -> bool {
    path.starts_with("docs/") || path.starts_with("ops/runbooks/") || path == "README.md"
}

/// Risk of a change of `lines` lines in `files` files: high above half of a limit, medium above a
/// quarter, one step higher where a sensitive path is among them.
pub fn risk(lines: i64, files: i64, paths: &[String], rules: &ReviewRules) -> RiskLevel {
    let above = |part: i64| {
        lines.saturating_mul(part) > rules.max_lines || files.saturating_mul(part) > rules.max_files
    };
    let size = if above(2) {
        RiskLevel::High
    } else if above(4) {
        RiskLevel::Medium
    } else {
        RiskLevel::Low
    };
    match size {
        RiskLevel::Low if paths.iter().any(|path| is_sensitive(path)) => RiskLevel::Medium,
        RiskLevel::Medium if paths.iter().any(|path| is_sensitive(path)) => RiskLevel::High,
        RiskLevel::Low | RiskLevel::Medium | RiskLevel::High => size,
    }
}

/// Paths that make a change riskier, in the root too (trap Q19).
const SENSITIVE: [&str; 6] = [
    "**/auth/**",
    "**/security/**",
    "**/db/schema.ts",
    "**/.github/workflows/**",
    "package.json",
    "pnpm-lock.yaml",
];

fn is_sensitive(path: &str) -> bool {
    static PATTERNS: LazyLock<Vec<Pattern>> =
        LazyLock::new(|| SENSITIVE.iter().filter_map(|pattern| Pattern::parse(pattern).ok()).collect());
    PATTERNS.iter().any(|pattern| pattern.matches(path))
}

fn graver(a: RiskLevel, b: RiskLevel) -> RiskLevel {
    match (a, b) {
        (RiskLevel::High, _) | (_, RiskLevel::High) => RiskLevel::High,
        (RiskLevel::Medium, _) | (_, RiskLevel::Medium) => RiskLevel::Medium,
        (RiskLevel::Low, RiskLevel::Low) => RiskLevel::Low,
    }
}
