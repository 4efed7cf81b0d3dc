//! The agent container of a Judge Run: what the reviewer finds, and what each of its ends becomes.

use std::fs;

use opentiger::crd::GoDuration;
use opentiger::crd::Purpose;
use opentiger::crd::pool::{MockExecutor, MockOutcome, Role};
use opentiger::crd::run::ReviewTarget;
use opentiger::crd::wire::path::VERDICT_FILE;
use opentiger::plan::judge::verdict::AgentReview;
use opentiger::runner::exchange;
use opentiger::runner::review::bundle::{self, Bundle};
use opentiger::runner::review::change::ChangedFile;
use opentiger::runner::review::opinion;
use rstest::rstest;

use crate::pod::Pod;

/// Makes the Pod of a review of one changed file, unless `violations` decide it.
fn reviewing(mut pod: Pod, violations: &[&str]) -> Pod {
    pod.inputs.spec.purpose = Purpose::Judge;
    pod.inputs.spec.role = Role::Judge;
    pod.inputs.spec.review = Some(ReviewTarget { version: 1, ..ReviewTarget::default() });
    let file = ChangedFile { path: "src/a.txt".into(), added: Some(1), deleted: Some(2) };
    let bundle = Bundle {
        goal: "Implement it.".into(),
        base_branch: "main".into(),
        files: vec![file],
        file_count: 1,
        violations: violations.iter().map(ToString::to_string).collect(),
        ..Bundle::default()
    };
    bundle::write(&bundle::directory(&pod.repo()), bundle, b"the patch\n").expect("bundle");
    pod
}

fn verdict(pod: &Pod) -> Option<AgentReview> {
    exchange::read_text(&pod.exchange(), VERDICT_FILE).as_deref().and_then(opinion::parse)
}

#[test]
fn a_reviewer_reads_the_change_and_leaves_its_verdict_without_secrets() {
    let script = r#"pwd > "$OUTSIDE/seen"
        cat "$OPENTIGER_REVIEW" "$(dirname "$OPENTIGER_REVIEW")/change.patch" "$OPENTIGER_PROMPT_FILE" >> "$OUTSIDE/seen"
        printf '{"pass": false, "confidence": 70, "summary": "no", "issues": [{"severity": "error",
            "message": "prints %s", "file": "src/a.txt", "line": 4}]}' "$MODEL_API_KEY" > "$OPENTIGER_VERDICT"
        echo changed > src/a.txt"#;
    let pod = reviewing(Pod::shell(script).env("MODEL_API_KEY", "hunter2hunter2"), &[]);
    let ended = pod.run();
    assert_eq!(ended.brief(), "Success - 0", "{}", ended.stderr);
    let seen = fs::read_to_string(pod.outside("seen")).expect("seen");
    assert!(seen.starts_with(&pod.repo().display().to_string()), "{seen}");
    for part in [r#""path": "src/a.txt""#, "the patch", "# Review: Change a file", "- src/a.txt (+1 -2)"] {
        assert!(seen.contains(part), "{part}: {seen}");
    }
    let said = verdict(&pod).expect("a verdict");
    assert_eq!((said.pass, said.confidence, said.issues.len()), (false, 0.7, 1));
    assert_eq!(said.issues[0].message, "prints ***");
    assert_eq!(ended.result().changed_files, None, "what a reviewer changes does not matter");
}

#[rstest]
#[case::nothing("true", "is missing")]
#[case::words("echo approved > \"$OPENTIGER_VERDICT\"", "is not the JSON")]
#[case::link(
    "echo '{\"pass\": true}' > \"$OUTSIDE/v\"; ln -s \"$OUTSIDE/v\" \"$OPENTIGER_VERDICT\"",
    "is missing"
)]
fn a_reviewer_without_a_readable_verdict_has_failed(#[case] script: &str, #[case] why: &str) {
    let ended = reviewing(Pod::shell(script), &[]).run();
    assert_eq!(ended.brief(), "Failed review_no_verdict 30");
    assert!(ended.result().summary.contains(why), "{}", ended.result().summary);
}

#[test]
fn what_the_rules_have_decided_is_not_asked_about() {
    let pod = reviewing(Pod::shell("touch \"$OUTSIDE/ran\""), &["Change to denied path: src/a.txt"]);
    assert_eq!(pod.run().brief(), "Success - 0");
    assert!(!pod.outside("ran").exists());
}

#[test]
fn a_reviewer_that_fails_says_so_and_its_verdict_is_not_taken_as_success() {
    let script = "echo '{\"pass\": true}' > \"$OPENTIGER_VERDICT\"; echo 'fatal: no' >&2; exit 3";
    assert_eq!(reviewing(Pod::shell(script), &[]).run().brief(), "Failed execution_failed 30");
    let limit = "echo 'HTTP 429 Too Many Requests, retry in 90s' >&2; exit 1";
    assert_eq!(reviewing(Pod::shell(limit), &[]).run().brief(), "QuotaWait quota_failure 10");
    let slow = reviewing(Pod::shell("sleep 100").timebox("1s"), &[]).run();
    assert_eq!(slow.brief(), "Failed execution_failed 30");
    assert!(slow.result().summary.contains("timed out after 1s"), "{}", slow.result().summary);
}

#[rstest]
#[case(MockOutcome::Succeed, "Success - 0", Some(true))]
#[case(MockOutcome::Reject, "Success - 0", Some(false))]
#[case(MockOutcome::Fail, "Failed execution_failed 30", None)]
#[case(MockOutcome::Quota, "QuotaWait quota_failure 10", None)]
#[case(MockOutcome::Garbage, "Failed review_no_verdict 30", None)]
fn the_mock_reviewer_does_as_it_is_told(
    #[case] outcome: MockOutcome,
    #[case] brief: &str,
    #[case] pass: Option<bool>,
) {
    let pod = reviewing(Pod::mock(outcome), &[]);
    assert_eq!(pod.run().brief(), brief);
    let said = verdict(&pod);
    assert_eq!(said.as_ref().map(|said| said.pass), pass);
    if pass == Some(false) {
        assert_eq!(said.expect("a verdict").issues[0].file.as_deref(), Some("src/a.txt"));
    }
    assert!(!pod.repo().join("mock.txt").exists());
}

#[test]
fn the_mock_reviewer_crashes_and_hangs_too() {
    let crashed = reviewing(Pod::mock(MockOutcome::Crash), &[]).run();
    assert!(crashed.message.is_none() && crashed.testimony.is_none());
    let hangs = reviewing(Pod::mock(MockOutcome::Hang).timebox("1s"), &[]).run();
    assert_eq!(hangs.brief(), "Failed execution_failed 30");
}

#[test]
fn a_refusal_can_be_scripted_for_the_first_reviews_only() {
    let script = MockExecutor {
        outcome: MockOutcome::Reject,
        first_attempts: Some(1),
        message: Some("write a test".into()),
        ..MockExecutor::default()
    };
    let first = reviewing(Pod::scripted(script.clone()), &[]);
    first.run();
    assert_eq!(verdict(&first).expect("refused").issues[0].message, "write a test");
    let mut second = reviewing(Pod::scripted(script), &[]);
    second.inputs.spec.attempt = 2;
    second.run();
    assert!(verdict(&second).expect("approved").pass);
}

#[test]
fn in_other_runs_a_refusing_mock_does_its_work() {
    let pod = Pod::scripted(MockExecutor {
        outcome: MockOutcome::Reject,
        delay: Some(GoDuration("1ms".into())),
        ..MockExecutor::default()
    });
    assert_eq!(pod.run().brief(), "Success - 0");
}
