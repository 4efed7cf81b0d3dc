//! Repairs within a Run: an agent is started again on what a verification command found (spec agents
//! 3.11, R6).

use std::fs;

use opentiger::crd::run::CommandOutcome;
use opentiger::runner::exchange;

use crate::agents::{agent, recorded};
use crate::pod::{Ended, Pod};

/// What the check says when it fails; the key is the one of the agent's environment.
const CHECK: &str = "grep -q good new.txt || { seq 1 9000; echo 'want good, sk-canary-0123456789'; exit 1; }";

/// An agent that keeps each prompt, uses what a recording says, and does `first` in its first start,
/// `then` in all others.
fn mending(first: &str, then: &str) -> Pod {
    let script = format!(
        r#"here=$(dirname "$0")/..
n=$(($(cat "$here/starts" 2>/dev/null || echo 0) + 1)); echo $n > "$here/starts"
cat > "$here/prompt-$n"
if [ $n = 1 ]; then {first}
else {then}
fi"#
    );
    let pod = agent("claude", &script).timebox("10m").commands(&["true", "sh check.sh"]);
    pod.write("check.sh", CHECK);
    pod.git(&["add", "-A"]);
    pod.git(&["commit", "-q", "-m", "check"]);
    pod
}

fn says(work: &str) -> String {
    format!("cat '{}'; {work}", recorded("claude-success.jsonl"))
}

fn starts(pod: &Pod) -> String {
    fs::read_to_string(pod.outside("starts")).expect("starts").trim().into()
}

/// Repairs, and the last command with its outcome.
fn reported(ended: &Ended) -> (i64, String, CommandOutcome) {
    let report = ended.testimony.as_ref().and_then(|said| said.verification.clone()).expect("a report");
    let last = report.commands.last().expect("a command").clone();
    (report.repairs, last.command, last.outcome)
}

#[test]
fn what_a_command_finds_is_mended_in_the_same_run() {
    let pod = mending(&says("echo bad > new.txt"), &says("echo good > new.txt"));
    let ended = pod.run();
    assert_eq!(ended.brief(), "Success - 0", "{}", ended.stdout);
    assert_eq!(
        (starts(&pod).as_str(), reported(&ended)),
        ("2", (1, "sh check.sh".into(), CommandOutcome::Passed))
    );
    assert_eq!(ended.result().verification, ended.testimony.as_ref().and_then(|t| t.verification.clone()));
    // Both rounds are paid for.
    assert_eq!(ended.result().tokens.expect("usage").total, 2 * 4084);
    let prompt = |n: i32| fs::read_to_string(pod.outside(&format!("prompt-{n}"))).expect("a prompt");
    assert!(prompt(2).starts_with(&prompt(1)), "{}", prompt(2));
    let hash = &ended.result().prompt_hash;
    let kept = exchange::read_prompt(&pod.exchange(), hash);
    assert_eq!(kept.as_deref(), Some(prompt(1).as_str()), "the first one, after a repair as well");
    let added = prompt(2).split_off(prompt(1).len());
    assert!(added.contains("    sh check.sh\n") && added.contains("verification_command_failed"), "{added}");
    assert!(added.contains("9000\nwant good, ***\n~~~~~~") && !added.contains("\n7000\n"), "{added}");
    assert!(added.contains("Do not weaken"), "{added}");
    assert!(ended.stdout.contains("[opentiger] repair 1 of 2: sh check.sh"), "{}", ended.stdout);
}

#[test]
fn after_two_repairs_the_failure_stands() {
    let pod = mending("echo bad > new.txt", "echo worse > new.txt");
    let ended = pod.run();
    assert_eq!(ended.brief(), "NeedsRework verification_command_failed 20");
    let summary = &ended.result().summary;
    assert!(summary.ends_with("want good, *** (still, after 2 of 2 repairs by the agent)"), "{summary}");
    assert_eq!(
        (starts(&pod).as_str(), reported(&ended)),
        ("3", (2, "sh check.sh".into(), CommandOutcome::Failed))
    );
    assert_eq!(ended.result().failure.as_ref().expect("detail").command, "sh check.sh");
}

#[test]
fn a_repair_that_fails_is_the_last_and_its_work_is_looked_at() {
    let mended = mending("echo bad > new.txt", "echo good > new.txt; exit 1").run();
    assert_eq!(mended.brief(), "Success - 0", "{}", mended.stdout);
    let pod = mending("echo bad > new.txt", "echo 'cannot do it' >&2; exit 1");
    let ended = pod.run();
    assert_eq!(
        (ended.brief().as_str(), starts(&pod).as_str()),
        ("NeedsRework verification_command_failed 20", "2")
    );
    let summary = &ended.result().summary;
    assert!(summary.contains("after 1 of 2 repairs") && summary.ends_with("cannot do it"), "{summary}");
}

#[test]
fn a_repair_keeps_to_the_paths_and_to_the_limits_of_the_provider() {
    let mut pod = mending("echo bad > new.txt", "echo good > new.txt; echo x > outside.txt");
    pod.inputs.spec.inputs.allowed_paths = vec!["new.txt".into()];
    let ended = pod.run();
    assert_eq!(ended.brief(), "NeedsRework policy_violation 20", "{}", ended.stdout);
    let limit = format!("cat '{}'; exit 1", recorded("claude-limit.jsonl"));
    let ended = mending("echo bad > new.txt", &limit).run();
    assert_eq!(ended.brief(), "QuotaWait quota_failure 10");
}

#[test]
fn there_is_no_repair_without_time_or_tokens_or_for_what_none_can_mend_a46() {
    let bad = says("echo bad > new.txt");
    let late = mending(&bad, "exit 1").timebox("59s");
    let mut spent = mending(&bad, "exit 1");
    spent.inputs.spec.limits.tokens = Some(4084);
    let unreadable = mending(&bad, "exit 1").commands(&["cat new.txt | grep good"]);
    let reasons = ["timebox is nearly used up", "tokens of the task are used up", "no change of the work"];
    for (pod, reason) in [late, spent, unreadable].into_iter().zip(reasons) {
        let ended = pod.run();
        assert!(ended.brief().starts_with("NeedsRework verification_command_"), "{}", ended.brief());
        assert_eq!((starts(&pod).as_str(), reported(&ended).0), ("1", 0));
        assert!(ended.stdout.contains(reason), "{reason}: {}", ended.stdout);
    }
    // A script does the same each time.
    let script =
        Pod::shell("echo run >> \"$OUTSIDE/runs\"; touch new.rs").timebox("10m").commands(&["false"]);
    let ended = script.run();
    assert_eq!(ended.brief(), "NeedsRework verification_command_failed 20");
    assert_eq!(ended.result().failure.as_ref().expect("detail").command, "false");
    assert_eq!(fs::read_to_string(script.outside("runs")).expect("runs"), "run\n");
}
