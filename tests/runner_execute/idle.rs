//! Executors that fall silent: ended as hung, unless there is a reason for the silence.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use opentiger::crd::GoDuration;
use rstest::rstest;

use crate::agents::{agent, recorded};
use crate::pod::{Ended, Pod, lives, pid_in};

/// Runs `pod` with a limit of silence.
fn within(pod: Pod, limit: &str) -> Ended {
    limited(pod, limit).run()
}

fn limited(mut pod: Pod, limit: &str) -> Pod {
    pod.inputs.spec.limits.idle_timeout = Some(GoDuration(limit.into()));
    pod
}

/// The result of a silence of a second.
fn assert_idle(ended: &Ended, last_words: &str) {
    assert_eq!(ended.brief(), "Failed agent_idle 30", "{}", ended.result().summary);
    let expected = format!(
        "the executor was ended: it said nothing for 1s (idleTimeout of the AgentPool): {last_words}"
    );
    assert_eq!(ended.result().summary, expected);
    assert!(ended.elapsed < Duration::from_secs(30), "{:?}", ended.elapsed);
}

#[test]
fn a_command_that_falls_silent_is_ended_with_its_group() {
    let script =
        "trap '' TERM; echo $$ > $OUTSIDE/main; touch new.rs; echo at work; while :; do sleep 1; done";
    let pod = limited(Pod::shell(script), "1s");
    assert_idle(&pod.run(), "at work");
    assert!(!lives(pid_in(&pod.outside("main"))));
}

#[test]
fn one_that_has_closed_its_output_is_silent() {
    assert_idle(&within(Pod::shell("exec >&- 2>&-; exec sleep 300"), "1s"), "it said nothing");
}

#[test]
fn an_agent_program_that_never_gets_its_answer_is_ended_and_its_usage_counts() {
    let script =
        format!("grep -v '\"type\":\"result\"' '{}'; exec sleep 300", recorded("claude-success.jsonl"));
    let ended = within(agent("claude", &script), "1s");
    assert_eq!(ended.brief(), "Failed agent_idle 30", "{}", ended.result().summary);
    assert_eq!(ended.result().tokens.expect("usage").input, 4000);
}

#[rstest]
#[case::of_a_command(Pod::shell("echo '429 Too Many Requests' >&2; exec sleep 300"))]
#[case::of_an_agent(agent("claude", &format!("cat '{}'; exec sleep 300", recorded("claude-limit.jsonl"))))]
fn silence_after_a_provider_s_limit_is_that_limit(#[case] pod: Pod) {
    assert_eq!(within(pod, "1s").brief(), "QuotaWait quota_failure 10");
}

#[rstest]
#[case::output("echo")]
#[case::complaints("echo >&2")]
#[case::no_line_end("printf .")]
fn any_output_is_a_sign_of_life(#[case] say: &str) {
    let script = format!("for i in $(seq 15); do {say}; sleep 0.3; done; touch new.rs");
    let ended = within(Pod::shell(&script), "3s");
    assert_eq!(ended.brief(), "Success - 0", "{}", ended.result().summary);
    assert!(ended.elapsed > Duration::from_secs(4), "the test outlasts the limit");
}

#[test]
fn a_verification_command_may_be_silent() {
    let pod = Pod::shell("touch new.rs").commands(&["./slow.sh"]);
    pod.write("slow.sh", "#!/bin/sh\nexec sleep 3\n");
    fs::set_permissions(pod.repo().join("slow.sh"), fs::Permissions::from_mode(0o755)).expect("executable");
    assert_eq!(within(pod, "1s").brief(), "Success - 0");
}

#[test]
fn a_timebox_that_is_shorter_is_what_ends() {
    let ended = within(Pod::shell("exec sleep 300").timebox("1s"), "2s");
    assert!(ended.result().summary.starts_with("executor timed out after 1s"), "{}", ended.result().summary);
}
