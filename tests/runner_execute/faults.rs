//! Executors and runners that misbehave, hang, flood or are killed.

use std::fs;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use opentiger::crd::pool::MockOutcome;
use rstest::rstest;

use crate::pod::{Pod, lives, pid_in, poll};

/// A child that ignores SIGTERM, in a session of its own, whose parent is gone.
const ESCAPE: &str = "setsid sh -c 'trap \"\" TERM; (trap \"\" TERM; echo $$ > \"$OUTSIDE/sub\"; exec sleep 300) & echo $$ > \"$OUTSIDE/escaped\"; sleep 300' &";

#[test]
fn the_timebox_ends_the_group_and_what_left_it() {
    let script = format!("{ESCAPE} trap '' TERM; echo $$ > $OUTSIDE/main; while :; do sleep 1; done");
    let pod = Pod::shell(&script).timebox("1s");
    let ended = pod.run();
    assert_eq!(ended.brief(), "Failed execution_failed 30");
    let summary = &ended.result().summary;
    assert!(summary.starts_with("executor timed out after 1s with nothing changed"), "{summary}");
    for name in ["main", "escaped", "sub"] {
        assert!(!lives(pid_in(&pod.outside(name))), "{name} still lives");
    }
    assert!(
        ended.elapsed >= Duration::from_secs(2) && ended.elapsed < Duration::from_secs(20),
        "{:?}",
        ended.elapsed
    );
}

#[test]
fn what_an_executor_leaves_behind_is_ended_before_verification() {
    let script = format!("{ESCAPE} while ! [ -s $OUTSIDE/escaped ]; do sleep 0.05; done; touch new.rs");
    let pod = Pod::shell(&script).commands(&["./check.sh"]);
    pod.write("check.sh", "#!/bin/sh\n! kill -0 $(cat $OUTSIDE/escaped)\n");
    Command::new("chmod").arg("+x").arg(pod.repo().join("check.sh")).status().expect("chmod");
    let ended = pod.run();
    assert_eq!(ended.brief(), "Success - 0", "{}", ended.result().summary);
}

#[rstest]
#[case::passes("true", "Success - 0")]
#[case::fails("false", "NeedsRework verification_command_failed 20")]
fn work_that_ran_out_of_time_is_verified_a15(#[case] command: &str, #[case] expected: &str) {
    let ended = Pod::shell("touch new.rs; sleep 300").timebox("1s").commands(&[command]).run();
    assert_eq!(ended.brief(), expected);
    if command == "false" {
        assert!(
            ended.result().summary.ends_with("(executor timed out after 1s)"),
            "{}",
            ended.result().summary
        );
    }
}

#[test]
fn a_hang_is_ended_by_the_timebox_while_the_agent_shows_life() {
    let pod = Pod::mock(MockOutcome::Hang).timebox("5s");
    let running = pod.start();
    let _fifo = pod.meet();
    let beat = pod.exchange().join("agent.heartbeat");
    let time = || fs::metadata(&beat).and_then(|meta| meta.modified()).ok();
    let first = poll("a first beat", time);
    poll("a later beat", || time().filter(|time| *time > first));
    assert!(pod.is_alive("60s"));
    let ended = pod.end_of(running);
    assert_eq!(ended.brief(), "Failed execution_failed 30");
    assert!(ended.result().summary.contains("timed out after 5s"), "{}", ended.result().summary);
}

#[test]
fn a_runner_that_hangs_shows_no_life() {
    let pod = Pod::mock(MockOutcome::Hang);
    let mut running = pod.start();
    let _fifo = pod.meet();
    let pid = Pid::from_raw(i32::try_from(running.child.id()).expect("pid"));
    poll("a first beat", || pod.is_alive("60s").then_some(()));
    kill(pid, Signal::SIGSTOP).expect("stopped");
    poll("the probe fails", || (!pod.is_alive("3s")).then_some(()));
    kill(pid, Signal::SIGCONT).expect("goes on");
    poll("the probe passes", || pod.is_alive("3s").then_some(()));
    kill(pid, Signal::SIGTERM).expect("told to stop");
    assert_eq!(running.child.wait().expect("ended").code(), Some(143));
}

#[test]
fn a_loop_is_noticed_long_before_the_timebox() {
    let ended = Pod::mock(MockOutcome::Loop).run();
    assert_eq!(ended.brief(), "Failed model_doom_loop 30");
    assert!(ended.result().summary.starts_with("doom loop detected"), "{}", ended.result().summary);
    assert!(ended.elapsed < Duration::from_secs(20), "{:?}", ended.elapsed);
}

#[test]
fn a_crash_leaves_no_result() {
    let pod = Pod::mock(MockOutcome::Crash);
    let ended = pod.run();
    assert_eq!((ended.code, ended.signal), (None, Some(9)));
    assert!(ended.message.is_none() && ended.testimony.is_none());
}

#[test]
fn sigterm_ends_everything_and_reports_it_a6() {
    let pod =
        Pod::shell(&format!("{ESCAPE} trap '' TERM; echo $$ > $OUTSIDE/main; while :; do sleep 1; done"));
    let running = pod.start();
    let _fifo = pod.meet();
    let pids = ["main", "escaped", "sub"].map(|name| pid_in(&pod.outside(name)));
    let pid = Pid::from_raw(i32::try_from(running.child.id()).expect("pid"));
    kill(pid, Signal::SIGTERM).expect("told to stop");
    let ended = pod.end_of(running);
    assert_eq!(ended.brief(), "Cancelled - 143");
    assert_eq!(ended.testimony.as_ref(), ended.message.as_ref());
    assert!(pids.iter().all(|pid| !lives(*pid)), "{pids:?}");
}

#[test]
fn sigterm_during_verification_is_no_verdict() {
    let pod = Pod::shell("touch new.rs").commands(&["./wait.sh"]);
    pod.write("wait.sh", "#!/bin/sh\necho $$ > $OUTSIDE/pid; sleep 300\n");
    Command::new("chmod").arg("+x").arg(pod.repo().join("wait.sh")).status().expect("chmod");
    let running = pod.start();
    let _fifo = pod.meet();
    let step = pid_in(&pod.outside("pid"));
    kill(Pid::from_raw(i32::try_from(running.child.id()).expect("pid")), Signal::SIGTERM)
        .expect("told to stop");
    assert_eq!(pod.end_of(running).brief(), "Cancelled - 143");
    assert!(!lives(step));
}

#[test]
fn nothing_runs_before_publish_is_there() {
    let pod = Pod::shell("touch \"$OUTSIDE/ran\"");
    let running = pod.start();
    poll("it shows life while it waits", || pod.is_alive("60s").then_some(()));
    let first =
        fs::metadata(pod.exchange().join("agent.heartbeat")).and_then(|m| m.modified()).expect("beat");
    let beat = || fs::metadata(pod.exchange().join("agent.heartbeat")).and_then(|m| m.modified()).ok();
    poll("it goes on to show life", || beat().filter(|beat| *beat > first));
    assert!(!pod.outside("ran").exists());
    kill(Pid::from_raw(i32::try_from(running.child.id()).expect("pid")), Signal::SIGTERM)
        .expect("told to stop");
    assert_eq!(pod.end_of(running).brief(), "Cancelled - 143");
}

#[test]
fn orphans_are_collected() {
    let orphan = "setsid sh -c 'sh -c \"echo \\$\\$ > $OUTSIDE/orphan$0; sleep 0.2\" & exit 0'";
    let script = format!(
        "for i in 1 2 3; do {orphan} $i & done; while ! [ -e $OUTSIDE/go ]; do sleep 0.05; done; touch new.rs"
    );
    let pod = Pod::shell(&script);
    let running = pod.start();
    let _fifo = pod.meet();
    for name in ["orphan1", "orphan2", "orphan3"] {
        let pid = pid_in(&pod.outside(name));
        let entry = format!("/proc/{pid}");
        poll("the orphan is no zombie", || (!fs::exists(&entry).expect("proc")).then_some(()));
    }
    fs::write(pod.outside("go"), "").expect("written");
    assert_eq!(pod.end_of(running).brief(), "Success - 0");
}

#[test]
fn inputs_that_cannot_be_read_are_a_bad_configuration() {
    let mut pod = Pod::mock(MockOutcome::Succeed);
    pod.inputs.schema_version = 99;
    let ended = pod.end_of(pod.start());
    assert_eq!((ended.code, ended.brief()), (Some(64), "Infra runner_failed 64".into()));
    assert!(ended.result().summary.contains("schema version 99"), "{}", ended.result().summary);
}
