//! The verdict of a review, from what is known of the change and what the agent thinks of it. Pure.
//!
//! Order (spec agents 5.4 with the design's decisions): path policy and size rules refuse first, then
//! the agent; its refusal blocks unless the rules say otherwise (Q20). There is no continuous
//! integration to ask in repository mode `Git`: the verification commands have passed before.

use super::change::ChangedFile;
use super::opinion::{Issue, Opinion};
use crate::crd::run::{ReviewResult, ReviewSource, ReviewVerdict};
use crate::crd::task::RiskLevel;
use crate::crd::wire::{MAX_FINDING_CHARS, MAX_FINDINGS};

/// What a review goes by besides the paths of the Task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Added and deleted lines above which a change is refused.
    pub max_lines: i64,
    /// Changed files above which a change is refused.
    pub max_files: i64,
    /// Whether the agent's refusal alone does not block.
    pub model_may_fail: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self { max_lines: 5_000, max_files: 100, model_may_fail: false }
    }
}

/// What a verdict is made of.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    pub files: &'a [ChangedFile],
    /// What the path policy says against the change.
    pub violations: &'a [String],
    /// `None` when nobody was asked: the change is refused without, or empty.
    pub opinion: Option<&'a Opinion>,
    /// As the Task states it.
    pub risk: RiskLevel,
    pub rules: &'a Rules,
}

/// The verdict.
pub fn verdict(e: &Evidence) -> ReviewResult {
    let result = |verdict, source, confidence, findings: Vec<String>| ReviewResult {
        verdict,
        source,
        confidence,
        risk: risk(e),
        findings: findings
            .iter()
            .take(MAX_FINDINGS)
            .map(|f| f.chars().take(MAX_FINDING_CHARS).collect())
            .collect(),
        code_files: count(e.files.iter().filter(|file| !is_documentation(&file.path))),
    };
    let refused: Vec<String> = e.violations.iter().cloned().chain(too_large(e.files, e.rules)).collect();
    if !refused.is_empty() {
        return result(ReviewVerdict::RequestChanges, ReviewSource::Policy, 100, refused);
    }
    // An empty change has nothing to speak against (spec agents 5.3).
    let Some(opinion) = e.opinion else {
        return result(ReviewVerdict::Approve, ReviewSource::Policy, 50, Vec::new());
    };
    let issues = in_scope(opinion, e.files);
    let findings = issues.iter().map(|issue| finding(issue)).collect();
    let errors = issues.iter().any(|issue| issue.severity == super::opinion::Severity::Error);
    let passes = opinion.pass || !errors || e.rules.model_may_fail;
    let verdict = if passes { ReviewVerdict::Approve } else { ReviewVerdict::RequestChanges };
    result(verdict, ReviewSource::Agent, opinion.percent(), findings)
}

/// What the size rules say against a change.
pub fn too_large(files: &[ChangedFile], rules: &Rules) -> Vec<String> {
    let (lines, count) = (lines(files), count(files));
    let mut said = Vec::new();
    if count > rules.max_files {
        said.push(format!("{count} changed files are more than {}", rules.max_files));
    }
    if lines > rules.max_lines {
        said.push(format!("{lines} changed lines are more than {}", rules.max_lines));
    }
    said
}

/// Issues about the change, the gravest first. One about a file that was not changed is dropped; one
/// that names no file is about the whole.
fn in_scope<'a>(opinion: &'a Opinion, files: &[ChangedFile]) -> Vec<&'a Issue> {
    let changed = |name: &str| {
        let name = name.strip_prefix("./").unwrap_or(name);
        files.iter().any(|file| file.path == name)
    };
    let mut issues: Vec<&Issue> =
        opinion.issues.iter().filter(|issue| issue.file.as_deref().is_none_or(changed)).collect();
    issues.sort_by_key(|issue| issue.severity);
    issues
}

fn finding(issue: &Issue) -> String {
    let place = match (&issue.file, issue.line) {
        (Some(file), Some(line)) => format!(" ({file}:{line})"),
        (Some(file), None) => format!(" ({file})"),
        (None, _) => String::new(),
    };
    // The place must not be lost to a long message.
    let room = MAX_FINDING_CHARS.saturating_sub(issue.severity.word().len() + 2 + place.chars().count());
    let message: String =
        issue.message.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(room).collect();
    format!("{}: {message}{place}", issue.severity.word())
}

/// Risk of the change: by its size in parts of what is allowed, one step more for sensitive files, at
/// least what the Task states (spec agents 5.3). Recorded only.
fn risk(e: &Evidence) -> RiskLevel {
    let above = |percent: i64| {
        lines(e.files).saturating_mul(100) > e.rules.max_lines.saturating_mul(percent)
            || count(e.files).saturating_mul(100) > e.rules.max_files.saturating_mul(percent)
    };
    let size = u8::from(above(25)) + u8::from(above(50));
    let step = u8::from(e.files.iter().any(|file| is_sensitive(&file.path)));
    let stated = match e.risk {
        RiskLevel::Low => 0,
        RiskLevel::Medium => 1,
        RiskLevel::High => 2,
    };
    match (size + step).max(stated) {
        0 => RiskLevel::Low,
        1 => RiskLevel::Medium,
        _ => RiskLevel::High,
    }
}

/// Files in which a small mistake does much harm.
fn is_sensitive(path: &str) -> bool {
    let names: Vec<&str> = path.split('/').collect();
    let pair = |a: &str, b: &str| names.windows(2).any(|pair| pair == [a, b]);
    names.iter().rev().skip(1).any(|name| matches!(*name, "auth" | "security"))
        || pair(".github", "workflows")
        || path == "db/schema.ts"
        || path.ends_with("/db/schema.ts")
        || names.last().is_some_and(|name| matches!(*name, "package.json" | "pnpm-lock.yaml"))
}

/// What needs no documentation of its own (corrections, row 27).
fn is_documentation(path: &str) -> bool {
    path.starts_with("docs/") || path.starts_with("ops/runbooks/") || path == "README.md"
}

fn lines(files: &[ChangedFile]) -> i64 {
    let sum = files.iter().map(|file| file.added.unwrap_or(0).saturating_add(file.deleted.unwrap_or(0)));
    i64::try_from(sum.fold(0_u64, u64::saturating_add)).unwrap_or(i64::MAX)
}

fn count<'a>(files: impl IntoIterator<Item = &'a ChangedFile>) -> i64 {
    i64::try_from(files.into_iter().count()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::opinion::parse;
    use super::*;

    fn file(path: &str, lines: u64) -> ChangedFile {
        ChangedFile { path: path.into(), added: Some(lines), deleted: Some(0) }
    }

    fn judge(
        files: &[ChangedFile],
        violations: &[String],
        opinion: Option<&str>,
        rules: &Rules,
    ) -> ReviewResult {
        let opinion = opinion.map(|text| parse(text).expect("an opinion"));
        let risk = RiskLevel::Low;
        verdict(&Evidence { files, violations, opinion: opinion.as_ref(), risk, rules })
    }

    const NO: &str = r#"{"pass": false, "confidence": 0.8, "issues": [
        {"severity": "info", "message": "nice", "file": "a.rs"},
        {"severity": "error", "message": "wrong", "file": "./a.rs", "line": 3},
        {"severity": "error", "message": "elsewhere", "file": "b.rs"}]}"#;

    #[test]
    fn the_policy_comes_first_and_the_agent_s_refusal_blocks() {
        let (files, rules) = ([file("a.rs", 1)], Rules::default());
        let yes = r#"{"pass": true, "confidence": 0.9}"#;
        let refused = judge(&files, &["Change to denied path: a.rs".into()], Some(yes), &rules);
        assert_eq!((refused.verdict, refused.source), (ReviewVerdict::RequestChanges, ReviewSource::Policy));
        let no = judge(&files, &[], Some(NO), &rules);
        assert_eq!((no.verdict, no.source), (ReviewVerdict::RequestChanges, ReviewSource::Agent));
        assert_eq!((no.confidence, no.code_files), (80, 1));
        assert_eq!(no.findings, ["error: wrong (a.rs:3)", "info: nice (a.rs)"]);
        let approved = judge(&files, &[], Some(yes), &rules);
        assert_eq!((approved.verdict, approved.confidence), (ReviewVerdict::Approve, 90));
        let mild = judge(&files, &[], Some(NO), &Rules { model_may_fail: true, ..rules.clone() });
        assert_eq!((mild.verdict, mild.findings.len()), (ReviewVerdict::Approve, 2));
    }

    #[test]
    fn a_refusal_without_an_error_in_the_change_is_none() {
        let elsewhere = judge(&[file("c.rs", 1)], &[], Some(NO), &Rules::default());
        assert_eq!((elsewhere.verdict, elsewhere.findings.len()), (ReviewVerdict::Approve, 0));
        let whole = r#"{"pass": false, "issues": [{"severity": "error", "message": "no test"}]}"#;
        let whole = judge(&[file("c.rs", 1)], &[], Some(whole), &Rules::default());
        assert_eq!(whole.verdict, ReviewVerdict::RequestChanges, "an issue about the whole counts");
    }

    #[test]
    fn a_change_that_is_too_large_is_refused_and_an_empty_one_is_not() {
        let rules = Rules { max_lines: 10, max_files: 2, ..Rules::default() };
        let large = judge(&[file("a", 6), file("b", 5)], &[], None, &rules);
        assert_eq!(large.findings, ["11 changed lines are more than 10"]);
        assert_eq!((large.source, large.risk), (ReviewSource::Policy, RiskLevel::High));
        let many = judge(&[file("a", 0), file("b", 0), file("c", 0)], &[], None, &rules);
        assert_eq!(many.findings, ["3 changed files are more than 2"]);
        let empty = judge(&[], &[], None, &rules);
        assert_eq!((empty.verdict, empty.confidence), (ReviewVerdict::Approve, 50));
    }

    #[test]
    fn sensitive_files_raise_the_risk_one_step_and_documentation_is_not_code() {
        let rules = Rules { max_lines: 100, max_files: 100, ..Rules::default() };
        for (path, lines, expected) in [
            ("src/a.rs", 25, RiskLevel::Low),
            ("src/a.rs", 26, RiskLevel::Medium),
            ("src/a.rs", 51, RiskLevel::High),
            (".github/workflows/ci.yml", 1, RiskLevel::Medium),
            ("apps/auth/x.ts", 26, RiskLevel::High),
            ("src/auth", 1, RiskLevel::Low),
        ] {
            assert_eq!(judge(&[file(path, lines)], &[], None, &rules).risk, expected, "{path} {lines}");
        }
        let files = [file("docs/a.md", 1), file("README.md", 1), file("src/b.md", 1)];
        assert_eq!(judge(&files, &[], None, &rules).code_files, 1);
    }

    #[test]
    fn findings_are_bounded_and_keep_their_place() {
        let issue = format!(
            r#"{{"severity": "error", "message": "{}", "file": "a.rs", "line": 7}}"#,
            "x".repeat(900)
        );
        let text = format!(r#"{{"pass": false, "issues": [{}]}}"#, vec![issue; 20].join(","));
        let result = judge(&[file("a.rs", 1)], &[], Some(&text), &Rules::default());
        assert_eq!(result.findings.len(), MAX_FINDINGS);
        assert!(result.findings.iter().all(|f| f.len() == MAX_FINDING_CHARS && f.ends_with("(a.rs:7)")));
    }
}
