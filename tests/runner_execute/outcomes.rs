//! What each end of an executor becomes.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use jiff::{SignedDuration, Timestamp};
use opentiger::crd::pool::{MockExecutor, MockOutcome, Role};
use opentiger::crd::{GoDuration, Purpose};
use rstest::rstest;
use sha2::{Digest, Sha256};

use crate::pod::Pod;

#[test]
fn a_change_that_nothing_speaks_against_is_a_success() {
    let pod = Pod::shell("echo two >> src/a.txt; mkdir ignored build; touch ignored/x build/y new.txt");
    let ended = pod.run();
    assert_eq!(ended.brief(), "Success - 0", "{}", ended.stderr);
    assert_eq!(ended.result().changed_files, Some(2), "ignored and generated files do not count");
    assert_eq!(ended.testimony.as_ref(), ended.message.as_ref());
}

#[test]
fn the_executor_is_told_what_to_do_and_where() {
    let script = r#"pwd > "$OUTSIDE/seen"; echo "$OPENTIGER_RUN $OPENTIGER_ATTEMPT" >> "$OUTSIDE/seen"
        cat "$OPENTIGER_PROMPT_FILE" "$OPENTIGER_TASK_FILE" >> "$OUTSIDE/seen"; touch new"#;
    let pod = Pod::shell(script);
    assert_eq!(pod.run().brief(), "Success - 0");
    let seen = fs::read_to_string(pod.outside("seen")).expect("seen");
    let first = format!("{}\ntask-abcd-r1 1\n# Change a file\n\nImplement it.\n", pod.repo().display());
    assert!(seen.starts_with(&first), "{seen}");
    assert!(seen.contains(r#""goal": "Implement it.""#), "{seen}");
}

#[rstest]
#[case::work(Purpose::Execute)]
#[case::plan(Purpose::Plan)]
fn the_hash_is_of_the_text_that_was_handed_over_whatever_becomes_of_the_file(#[case] purpose: Purpose) {
    let script = r#"cp "$OPENTIGER_PROMPT_FILE" "$OUTSIDE/handed"; echo more >> "$OPENTIGER_PROMPT_FILE"
        echo two >> src/a.txt"#;
    let mut pod = Pod::shell(script);
    pod.inputs.spec.purpose = purpose;
    let ended = pod.run();
    let handed = fs::read(pod.outside("handed")).expect("a prompt");
    let hash: String = Sha256::digest(&handed).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(ended.result().prompt_hash, hash, "{}", ended.stderr);
}

#[test]
fn what_the_executor_committed_itself_is_seen() {
    let script = "echo two >> src/a.txt; git -c user.name=x -c user.email=x@example.com commit -qam mine; git checkout -qb other";
    assert_eq!(Pod::shell(script).run().result().changed_files, Some(1));
}

#[rstest]
#[case::not_allowed("Implement it.", "NeedsRework no_actionable_changes 20")]
#[case::allowed("Check that it builds.", "Noop - 0")]
fn nothing_changed(#[case] goal: &str, #[case] expected: &str) {
    let mut pod = Pod::shell("mkdir -p dist && echo x > dist/generated.js");
    pod.inputs.spec.inputs.title = "Work".into();
    pod.inputs.spec.inputs.goal = goal.into();
    assert_eq!(pod.run().brief(), expected);
}

#[rstest]
#[case::command(
    Pod::shell(r#"echo '{"tasks": [1]}' > "$OPENTIGER_PLAN"; echo "$OPENTIGER_PLAN" > "$OUTSIDE/seen""#),
    r#"{"tasks": [1]}"#
)]
#[case::mock(Pod::mock(MockOutcome::Succeed), "Planned by the mock executor")]
fn a_planner_writes_its_plan_and_nothing_is_verified(#[case] pod: Pod, #[case] plan: &str) {
    let mut pod = pod.commands(&["false"]);
    pod.inputs.spec.purpose = Purpose::Plan;
    let ended = pod.run();
    assert_eq!(ended.brief(), "Success - 0", "{}", ended.stderr);
    let written = fs::read_to_string(pod.exchange().join("plan.json")).expect("a plan");
    assert!(written.contains(plan), "{written}");
    let prompt = fs::read_to_string(pod.exchange().join("prompt.md")).expect("a prompt");
    assert!(
        prompt.contains("## Requirement\n\nImplement it.\n") && prompt.contains("OPENTIGER_PLAN"),
        "{prompt}"
    );
}

#[test]
fn no_model_is_paid_for_a_plan_that_would_be_the_last_one_again() {
    let mut pod = Pod::shell("touch \"$OUTSIDE/started\"");
    pod.inputs.spec.purpose = Purpose::Plan;
    fs::write(pod.exchange().join("plan.skip"), "").expect("write");
    assert_eq!(pod.run().brief(), "Noop - 0");
    assert!(!pod.outside("started").exists());
}

#[test]
fn a_failure_says_the_end_of_what_was_said() {
    let ended = Pod::shell("echo start >&2; seq 1 5000 >&2; echo 'fatal: cannot do it' >&2; exit 3").run();
    assert_eq!(ended.brief(), "Failed execution_failed 30");
    let summary = &ended.result().summary;
    assert!(summary.starts_with("executor ended with exit code 3: "), "{summary}");
    assert!(summary.ends_with("5000 fatal: cannot do it") && !summary.contains("start"), "{summary}");
}

#[test]
fn a_program_that_is_not_there_is_named() {
    let mut pod = Pod::shell("");
    pod.inputs.spec.template.executor.command.as_mut().expect("command").argv = vec!["no-such-agent".into()];
    let ended = pod.run();
    assert_eq!(ended.brief(), "Failed execution_failed 30");
    assert_eq!(ended.result().summary, "executor no-such-agent: command not found in the pool's image");
}

#[test]
fn a_provider_limit_is_a_wait_with_the_stated_reset_a12() {
    let before = Timestamp::now();
    let ended = Pod::shell("echo 'HTTP 429 Too Many Requests, retry in 90s' >&2; exit 1").run();
    assert_eq!(ended.brief(), "QuotaWait quota_failure 10");
    let wait = ended.result().retry_at.expect("reset").duration_since(before);
    assert!(wait >= SignedDuration::from_secs(89) && wait < SignedDuration::from_secs(150), "{wait:?}");
    let other = Pod::shell("echo 'expected rate limit header to equal 10' >&2; exit 1").run();
    assert_eq!(other.brief(), "Failed execution_failed 30");
}

#[test]
fn a_killed_executor_is_a_failure() {
    let ended = Pod::shell("kill -KILL $$").run();
    assert_eq!(ended.brief(), "Failed execution_failed 30");
    assert!(ended.result().summary.contains("killed by SIGKILL"), "{}", ended.result().summary);
}

#[test]
fn mock_success_writes_its_file() {
    let pod = Pod::mock(MockOutcome::Succeed);
    assert_eq!(pod.run().brief(), "Success - 0");
    let written = fs::read_to_string(pod.repo().join("mock.txt")).expect("file");
    assert_eq!(written, "Written by the mock executor of run task-abcd-r1.\n");
    let named = MockExecutor {
        file: Some("a/b/c.txt".into()),
        content: Some("hello".into()),
        ..MockExecutor::default()
    };
    let pod = Pod::scripted(named);
    assert_eq!(pod.run().brief(), "Success - 0");
    assert_eq!(fs::read_to_string(pod.repo().join("a/b/c.txt")).expect("file"), "hello");
}

#[test]
fn mock_failures_are_what_the_script_says() {
    let fail = MockExecutor {
        outcome: MockOutcome::Fail,
        failure_code: Some("environment_issue".into()),
        message: Some("the disk is full".into()),
        first_attempts: Some(1),
        ..MockExecutor::default()
    };
    let ended = Pod::scripted(fail.clone()).run();
    assert_eq!(ended.brief(), "Failed environment_issue 30");
    assert_eq!(ended.result().summary, "the disk is full");
    let mut second = Pod::scripted(fail);
    second.inputs.spec.attempt = 2;
    assert_eq!(second.run().brief(), "Success - 0");
}

#[test]
fn mock_quota_states_its_reset() {
    let quota = MockExecutor {
        reset_after: Some(GoDuration("45s".into())),
        outcome: MockOutcome::Quota,
        ..MockExecutor::default()
    };
    let before = Timestamp::now();
    let ended = Pod::scripted(quota).run();
    assert_eq!(ended.brief(), "QuotaWait quota_failure 10");
    let wait = ended.result().retry_at.expect("reset").duration_since(before);
    assert!(wait >= SignedDuration::from_secs(45) && wait < SignedDuration::from_secs(105), "{wait:?}");
}

#[test]
fn mock_garbage_changes_nothing() {
    let ended = Pod::mock(MockOutcome::Garbage).run();
    assert_eq!(ended.brief(), "NeedsRework no_actionable_changes 20");
    assert!(ended.stdout.contains('\u{fffd}') && !ended.stdout.contains('\0'));
}

#[test]
fn mock_delay_is_waited_for() {
    let slow = MockExecutor { delay: Some(GoDuration("700ms".into())), ..MockExecutor::default() };
    let ended = Pod::scripted(slow).run();
    assert_eq!(ended.brief(), "Success - 0");
    assert!(ended.elapsed.as_millis() >= 700, "{:?}", ended.elapsed);
}

#[test]
fn an_image_without_git_still_tells_change_from_none() {
    let empty = tempfile::tempdir().expect("directory");
    let path = empty.path().to_string_lossy().into_owned();
    let changed = Pod::mock(MockOutcome::Succeed).env("PATH", &path).run();
    assert_eq!((changed.brief().as_str(), changed.result().changed_files), ("Success - 0", Some(1)));
    let unchanged = Pod::mock(MockOutcome::Garbage).env("PATH", &path).run();
    assert_eq!(unchanged.brief(), "NeedsRework no_actionable_changes 20");
}

#[test]
fn what_the_policy_forbids_is_named() {
    let mut pod = Pod::shell("touch src/new other.txt Cargo.lock src/secret.key");
    pod.inputs.spec.inputs.allowed_paths = vec!["src/**".into()];
    pod.inputs.spec.inputs.denied_paths = vec!["**/*.key".into()];
    let ended = pod.run();
    assert_eq!(ended.brief(), "NeedsRework policy_violation 20");
    let summary = &ended.result().summary;
    assert_eq!(
        summary,
        "policy violation: Change outside allowed paths: other.txt; Change to denied path: src/secret.key"
    );
}

#[test]
fn what_git_ignores_is_no_violation_and_no_change_a41() {
    let mut pod = Pod::shell("mkdir -p target/debug; touch target/debug/x; echo two >> src/a.txt");
    pod.write(".gitignore", "target/\n");
    pod.git(&["commit", "-q", "-a", "-m", "rules"]);
    pod.inputs.spec.inputs.allowed_paths = vec!["src/**".into()];
    let ended = pod.run();
    assert_eq!((ended.brief().as_str(), ended.result().changed_files), ("Success - 0", Some(1)));
}

#[test]
fn an_unreadable_policy_is_refused_before_the_executor_starts() {
    let mut pod = Pod::shell("touch \"$OUTSIDE/ran\"");
    pod.inputs.spec.inputs.allowed_paths = vec!["!src/**".into()];
    let ended = pod.run();
    assert_eq!(ended.brief(), "NeedsRework policy_violation 20");
    assert!(ended.result().summary.contains("'!src/**'"), "{}", ended.result().summary);
    assert!(!pod.outside("ran").exists());
}

#[test]
fn docser_runs_its_check_only_a47() {
    let mut pod = Pod::shell("echo x > README.md").commands(&[
        "pnpm run check",
        "pnpm test",
        "make all-of-it",
        "test -f docs/requirement.md",
    ]);
    pod.inputs.spec.role = Role::Docser;
    let bin = pod.outside("bin");
    fs::create_dir_all(&bin).expect("made");
    fs::write(bin.join("pnpm"), "#!/bin/sh\necho \"$@\" >> \"$OUTSIDE/seen\"\n").expect("written");
    fs::set_permissions(bin.join("pnpm"), fs::Permissions::from_mode(0o755)).expect("executable");
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").expect("PATH"));
    let pod = pod.env("PATH", &path);
    assert_eq!(pod.run().brief(), "Success - 0");
    assert_eq!(fs::read_to_string(pod.outside("seen")).expect("seen"), "run check\n");
}
