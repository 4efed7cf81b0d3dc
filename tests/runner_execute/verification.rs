//! Verification commands as real processes.

use std::fs;

use opentiger::crd::run::CommandOutcome;
use rstest::rstest;

use crate::pod::{Ended, Pod, lives, pid_in};

#[rstest]
#[case::plain("false", "verification_command_failed")]
#[case::redirect("make test > log", "verification_command_unsupported_format")]
#[case::missing_program("no-such-tool --all", "setup_or_bootstrap_issue")]
#[case::pipe("echo a | grep b", "verification_command_unsupported_format")]
#[case::builtin("source .env", "verification_command_unsupported_format")]
#[case::leaves_the_repository("cd .. && ls", "verification_command_failed")]
#[case::script("./fail.sh 'No test files found, exiting'", "verification_command_no_test_files")]
#[case::script_missing(
    "./fail.sh 'npm error Missing script: \"verify\"'",
    "verification_command_missing_script"
)]
#[case::not_found("./fail.sh 'sh: 1: vitest: not found'", "setup_or_bootstrap_issue")]
#[case::target(
    "./fail.sh 'make: *** No rule to make target x.  Stop.'",
    "verification_command_missing_make_target"
)]
fn a_failing_command_has_its_code_a31(#[case] command: &str, #[case] code: &str) {
    let pod = Pod::shell("touch new.rs").commands(&[command]);
    script(&pod, "fail.sh", "echo \"$1\" >&2; exit 1");
    let ended = pod.run();
    // `cd ..` is passed over as unsupported, then `ls` passes.
    let expected =
        if command.starts_with("cd ..") { "Success - 0".into() } else { format!("NeedsRework {code} 20") };
    assert_eq!(ended.brief(), expected, "{}", ended.result().summary);
}

fn script(pod: &Pod, name: &str, body: &str) {
    use std::os::unix::fs::PermissionsExt;
    pod.write(name, &format!("#!/bin/sh\n{body}\n"));
    fs::set_permissions(pod.repo().join(name), fs::Permissions::from_mode(0o755)).expect("mode");
    pod.git(&["add", "-A"]);
    pod.git(&["commit", "-q", "-m", name]);
}

#[test]
fn the_first_real_failure_ends_it_and_is_told() {
    let pod = Pod::shell("touch new.rs").commands(&["true", "./fail.sh", "touch after"]);
    script(&pod, "fail.sh", "seq 1 300 >&2; echo 'assertion failed: left == right' >&2; exit 7");
    let ended = pod.run();
    assert_eq!(ended.brief(), "NeedsRework verification_command_failed 20");
    let summary = &ended.result().summary;
    assert!(summary.starts_with("verification failed at ./fail.sh [explicit]: ..."), "{summary}");
    assert!(summary.ends_with("assertion failed: left == right"), "{summary}");
    assert!(!pod.repo().join("after").exists());
}

#[test]
fn directories_variables_and_quotes_reach_the_program() {
    let commands = ["cd src && WHO='a b' ./see.sh \"x y\" '' '$HOME *'", "./see.sh"];
    let pod = Pod::shell("touch new.rs").commands(&commands);
    script(&pod, "src/see.sh", "pwd >> $OUTSIDE/seen; echo \"$# [$1] [$2] [$3] $WHO\" >> $OUTSIDE/seen");
    assert_eq!(pod.run().brief(), "Success - 0");
    let src = pod.repo().join("src");
    let expected = format!("{0}\n3 [x y] [] [$HOME *] a b\n{0}\n0 [] [] [] \n", src.display());
    assert_eq!(fs::read_to_string(pod.outside("seen")).expect("seen"), expected);
}

#[test]
fn a_denied_command_means_that_no_executor_is_started_a16() {
    let pod = Pod::shell("touch \"$OUTSIDE/ran\"").commands(&["true", "s\"ud\"o make"]);
    let ended = pod.run();
    assert_eq!(ended.brief(), "Failed execution_failed 30");
    assert!(ended.result().summary.starts_with("denied command"), "{}", ended.result().summary);
    assert!(!pod.outside("ran").exists());
}

/// What became of each command.
fn outcomes(ended: &Ended) -> Vec<CommandOutcome> {
    let report = ended.result().verification.clone().expect("a report");
    report.commands.into_iter().map(|command| command.outcome).collect()
}

#[test]
fn a_command_for_a_shell_is_passed_over_and_the_next_one_runs_a30() {
    let pod = Pod::shell("touch new.rs").commands(&["source .env", "./ran.sh"]);
    script(&pod, "ran.sh", "touch \"$OUTSIDE/ran\"");
    let ended = pod.run();
    assert_eq!(ended.brief(), "Success - 0");
    assert_eq!(outcomes(&ended), [CommandOutcome::PassedOver, CommandOutcome::Passed]);
    assert!(pod.outside("ran").exists());
}

#[test]
fn a_missing_script_says_nothing_against_documentation_a32() {
    for (file, expected) in
        [("new.md", "Success - 0"), ("new.rs", "NeedsRework verification_command_missing_script 20")]
    {
        let pod = Pod::shell(&format!("touch {file}")).commands(&["./fail.sh"]);
        script(&pod, "fail.sh", "echo 'npm error Missing script: verify' >&2; exit 1");
        let ended = pod.run();
        assert_eq!(ended.brief(), expected);
        let passed_over = outcomes(&ended) == [CommandOutcome::PassedOver];
        assert_eq!(passed_over, file == "new.md", "{file}");
    }
}

#[test]
fn commands_of_which_none_can_run_verify_no_code_a33() {
    let none = ["source .env", "echo a | grep b"];
    for commands in [&none[..], &none[..1]] {
        let ended = Pod::shell("touch new.rs").commands(commands).run();
        assert_eq!(ended.brief(), "NeedsRework verification_command_unsupported_format 20");
    }
    let documents = Pod::shell("touch new.md").commands(&none).run();
    assert_eq!(documents.brief(), "Success - 0", "nothing but documentation");
}

#[test]
fn a_command_that_takes_too_long_is_ended() {
    let pod = Pod::shell("touch new.rs").commands(&["./slow.sh"]).flag("--command-limit", "1s");
    script(&pod, "slow.sh", "trap '' TERM; echo $$ > $OUTSIDE/pid; echo waiting; sleep 300");
    let ended = pod.run();
    assert_eq!(ended.brief(), "NeedsRework verification_command_failed 20");
    assert!(ended.result().summary.ends_with("waiting timed out after 1s"), "{}", ended.result().summary);
    assert!(!lives(pid_in(&pod.outside("pid"))));
}

#[test]
fn what_one_command_leaves_behind_serves_the_next_and_ends_with_the_last() {
    let pod = Pod::shell("touch new.rs").commands(&["./serve.sh", "./ask.sh"]);
    script(&pod, "serve.sh", "setsid sleep 300 > /dev/null 2>&1 & echo $! > $OUTSIDE/pid");
    script(&pod, "ask.sh", "kill -0 $(cat $OUTSIDE/pid)");
    assert_eq!(pod.run().brief(), "Success - 0");
    assert!(!lives(pid_in(&pod.outside("pid"))));
}

#[test]
fn verification_does_not_see_the_models_key_and_no_log_shows_it() {
    let see = "echo \"key=[$MODEL_API_KEY] plain=[$PLAIN]\"";
    let pod = Pod::shell(&format!("{see}; echo \"$MODEL_API_KEY\" >&2; touch new.rs"))
        .commands(&["./see.sh"])
        .env("MODEL_API_KEY", "sk-canary-1234567890")
        .env("PLAIN", "visible");
    script(&pod, "see.sh", &format!("{see}; cat /proc/$PPID/environ; exit 1"));
    let ended = pod.run();
    assert!(ended.stdout.contains("key=[***] plain=[visible]"), "{}", ended.stdout);
    assert!(ended.stdout.contains("key=[] plain=[visible]"), "{}", ended.stdout);
    let everything = format!("{}{}{:?}{:?}", ended.stdout, ended.stderr, ended.message, ended.testimony);
    assert!(!everything.contains("sk-canary"), "{everything}");
}
