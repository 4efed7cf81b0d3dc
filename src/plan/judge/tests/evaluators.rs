//! The verdict table and what it is made of.

use crate::crd::judge::{JudgeSettings, ReviewRules};
use crate::crd::run::{ReviewResult, ReviewSource, ReviewVerdict};
use crate::crd::task::RiskLevel;
use crate::plan::judge::change::{ChangeReview, ChangedFile, evaluate};
use crate::plan::judge::ci::{CheckState, Ci, check_run, together};
use crate::plan::judge::verdict::{AgentReview, Decision, Issue, Severity, file_of, verdict};

fn rules() -> ReviewRules {
    ReviewRules::default()
}

fn lenient() -> ReviewRules {
    JudgeSettings { allow_model_fail_auto_merge: true, ..JudgeSettings::default() }.rules()
}

fn issue(severity: Severity, file: &str) -> Issue {
    Issue { severity, message: "m".into(), file: Some(file.into()), line: Some(7) }
}

fn refusing(issues: Vec<Issue>) -> AgentReview {
    AgentReview { pass: false, confidence: 0.7, issues, summary: String::new() }
}

fn decided(decision: Decision) -> ReviewResult {
    match decision {
        Decision::Verdict(result) => result,
        other => panic!("{other:?}"),
    }
}

fn of(ci: &Ci, change: &ChangeReview, agent: Option<&AgentReview>, rules: &ReviewRules) -> Decision {
    verdict(ci, change, agent, &["src/a.rs".into()], rules)
}

#[test]
fn ci_goes_before_policy_and_policy_before_the_agent() {
    let bad = ChangeReview { findings: vec!["outside".into()], ..ChangeReview::default() };
    let no = refusing(vec![issue(Severity::Error, "src/a.rs")]);
    let failed = Ci::Failure(vec!["lint".into()]);
    let result = decided(of(&failed, &bad, Some(&no), &rules()));
    assert_eq!((result.source, result.confidence), (ReviewSource::Ci, 100));
    assert_eq!(result.findings, ["check failed: lint"]);
    let result = decided(of(&Ci::Success, &bad, Some(&no), &lenient()));
    assert_eq!((result.verdict, result.source), (ReviewVerdict::RequestChanges, ReviewSource::Policy));
    let result = decided(of(&Ci::Success, &ChangeReview::default(), Some(&no), &rules()));
    assert_eq!((result.verdict, result.source), (ReviewVerdict::RequestChanges, ReviewSource::Agent));
    assert_eq!((result.confidence, result.findings), (70, vec!["src/a.rs:7: m".to_string()]));
}

#[test]
fn checks_that_are_not_over_are_a_wait_and_no_verdict_q18() {
    let change = ChangeReview::default();
    let pass = AgentReview { pass: true, ..AgentReview::default() };
    for open in [Ci::Pending(vec!["build".into()]), Ci::Unreadable("503".into())] {
        assert!(matches!(of(&open, &change, Some(&pass), &rules()), Decision::Wait(_)), "{open:?}");
    }
    let both = [("a", CheckState::Pending), ("b", CheckState::Failure), ("c", CheckState::Skipped)];
    assert_eq!(together(both), Ci::Failure(vec!["b".into()]));
    assert_eq!(together([("a", CheckState::Pending)]), Ci::Pending(vec!["a".into()]));
    assert_eq!(together([]), Ci::Success);
    // What never ends otherwise does not keep a Task waiting for ever.
    for (conclusion, state) in [
        ("stale", CheckState::Failure),
        ("startup_failure", CheckState::Failure),
        ("action_required", CheckState::Pending),
    ] {
        assert_eq!(check_run("completed", Some(conclusion)), state, "{conclusion}");
    }
}

/// A53: the original approves by default; ours only when it is told to (Q20).
#[test]
fn a_refusing_agent_blocks_unless_the_settings_say_otherwise_a53() {
    let no = refusing(vec![issue(Severity::Error, "src/a.rs")]);
    let change = ChangeReview::default();
    assert_eq!(
        decided(of(&Ci::Success, &change, Some(&no), &rules())).verdict,
        ReviewVerdict::RequestChanges
    );
    let result = decided(of(&Ci::Success, &change, Some(&no), &lenient()));
    assert_eq!((result.verdict, result.findings.len()), (ReviewVerdict::Approve, 1));
    let no_merge =
        JudgeSettings { allow_model_fail_auto_merge: true, auto_merge: false, ..JudgeSettings::default() };
    let result = decided(of(&Ci::Success, &change, Some(&no), &no_merge.rules()));
    assert_eq!(result.verdict, ReviewVerdict::RequestChanges, "the bypass is for what is merged");
}

#[test]
fn only_errors_about_the_change_refuse() {
    let change = ChangeReview::default();
    let table = [
        (vec![issue(Severity::Warning, "src/a.rs")], "", Some(ReviewVerdict::Approve)),
        (vec![issue(Severity::Error, "src/other.rs")], "", Some(ReviewVerdict::Approve)),
        (vec![Issue { file: None, ..issue(Severity::Error, "") }], "", Some(ReviewVerdict::RequestChanges)),
        (vec![], "it does not do what was asked", Some(ReviewVerdict::RequestChanges)),
        (vec![], " ", None),
    ];
    for (issues, summary, expected) in table {
        let agent = AgentReview { summary: summary.into(), ..refusing(issues) };
        let got = match of(&Ci::Success, &change, Some(&agent), &rules()) {
            Decision::Verdict(result) => Some(result.verdict),
            Decision::Unusable => None,
            Decision::Wait(why) => panic!("{why}"),
        };
        assert_eq!(got, expected, "{agent:?}");
    }
    let nobody = decided(of(&Ci::Success, &change, None, &rules()));
    assert_eq!((nobody.verdict, nobody.confidence), (ReviewVerdict::Approve, 0));
    let empty = decided(of(&Ci::Success, &change, Some(&AgentReview::of_empty_change()), &rules()));
    assert_eq!((empty.verdict, empty.confidence), (ReviewVerdict::Approve, 50));
}

#[test]
fn findings_come_gravest_first_and_fit() {
    let mut issues: Vec<Issue> = (0..9).map(|_| issue(Severity::Info, "src/a.rs")).collect();
    issues.push(Issue { message: "x".repeat(500), ..issue(Severity::Error, "src/a.rs") });
    let result = decided(of(&Ci::Success, &ChangeReview::default(), Some(&refusing(issues)), &rules()));
    assert_eq!(result.findings.len(), 8);
    assert!(result.findings[0].starts_with("src/a.rs:7: xxx"));
    assert!(result.findings.iter().all(|finding| finding.chars().count() <= 200));
    for bad in [f64::NAN, f64::INFINITY, -1.0] {
        let agent = AgentReview { pass: true, confidence: bad, ..AgentReview::default() };
        let result = decided(of(&Ci::Success, &ChangeReview::default(), Some(&agent), &rules()));
        assert_eq!(result.confidence, 0);
    }
}

#[test]
fn a_finding_names_its_file() {
    for (finding, file) in [
        ("src/a.rs:7: m", Some("src/a.rs")),
        ("Makefile.am: m", Some("Makefile.am")),
        ("a: colon in prose", None),
        ("the sum is wrong: see above", None),
        ("no colon", None),
    ] {
        assert_eq!(file_of(finding), file, "{finding}");
    }
}

fn file(path: &str, lines: i64) -> ChangedFile {
    ChangedFile { path: path.into(), added: lines, deleted: 0 }
}

fn allow(paths: &[&str]) -> Vec<String> {
    paths.iter().map(ToString::to_string).collect()
}

#[test]
fn the_path_policy_of_the_judge_is_that_of_the_worker_and_fails_closed_q19() {
    let review = |paths: &[&str], allowed: &[&str], denied: &[&str]| {
        let files: Vec<ChangedFile> = paths.iter().map(|path| file(path, 1)).collect();
        evaluate(&files, &allow(allowed), &allow(denied), RiskLevel::Low, &rules()).findings
    };
    assert_eq!(review(&["src/a.rs"], &["src/**"], &[]), Vec::<String>::new());
    assert_eq!(review(&["key.pem"], &["**"], &["**/*.pem"]), ["Change to denied path: key.pem"], "root too");
    assert_eq!(review(&["b"], &["src/**"], &[]).len(), 1);
    assert_eq!(review(&["b"], &[], &[]).len(), 1, "nothing is allowed by an empty list");
    assert_eq!(review(&["b"], &["[z-a]"], &[]).len(), 1, "an unreadable list allows nothing");
    assert_eq!(review(&["Cargo.lock"], &["src/**"], &[]), Vec::<String>::new());
    let many: Vec<String> = (0..150).map(|n| format!("x/{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert!(review(&many, &["src/**"], &[]).len() > 100, "not only the first hundred files");
}

#[test]
fn a_change_above_the_limits_is_refused_q16() {
    let big = evaluate(&[file("src/a", 5001)], &allow(&["**"]), &[], RiskLevel::Low, &rules());
    assert_eq!(big.findings, ["5001 changed lines are more than the 5000 that are allowed"]);
    assert_eq!(big.risk, RiskLevel::High);
    let fits = evaluate(&[file("src/a", 5000)], &allow(&["**"]), &[], RiskLevel::Low, &rules());
    assert!(fits.findings.is_empty());
    let files: Vec<ChangedFile> = (0..101).map(|n| file(&format!("src/{n}"), 1)).collect();
    assert_eq!(evaluate(&files, &allow(&["**"]), &[], RiskLevel::Low, &rules()).findings.len(), 1);
}

#[test]
fn risk_is_never_below_what_the_task_states_and_sees_sensitive_paths_in_the_root() {
    let risk = |path: &str, task| evaluate(&[file(path, 1)], &allow(&["**"]), &[], task, &rules()).risk;
    assert_eq!(risk("src/a.rs", RiskLevel::Low), RiskLevel::Low);
    assert_eq!(risk("src/a.rs", RiskLevel::High), RiskLevel::High);
    for path in ["auth/x.ts", ".github/workflows/ci.yml", "package.json"] {
        assert_eq!(risk(path, RiskLevel::Low), RiskLevel::Medium, "{path}");
    }
    let docs =
        ["docs/a.md", "ops/runbooks/a.sh", "README.md", "apps/x/readme.md", "a.mdx"].map(|p| file(p, 1));
    assert_eq!(evaluate(&docs, &allow(&["**"]), &[], RiskLevel::Low, &rules()).code_files, 2);
}
