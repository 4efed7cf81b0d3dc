//! Executors that write without end: the runner does not grow with what they write.

use std::fs;
use std::os::unix::fs::symlink;

use rstest::rstest;

use crate::agents::agent;
use crate::pod::{Ended, Pod};

/// Bytes that are written, less where lines are read one by one, unless [`VARIABLE`] says otherwise.
const BYTES: u64 = 512 * 1024 * 1024;
/// For the whole proof: `OPENTIGER_FLOOD_BYTES=5368709120`.
const VARIABLE: &str = "OPENTIGER_FLOOD_BYTES";
/// What a flood may add to the memory of a run that says little, in KiB: a line or event of each stream,
/// and the copies on its way.
const GROWTH_KIB: u64 = 6 * 1024;

/// Lines as programs write them.
const TEXT: &str = "compiling module 1234 of 5678 of a very long build, with warnings as usual";
/// Two events that differ, because the same one again and again is a loop.
const EVENTS: [&str; 2] = [
    r#"{"type":"assistant","message":{"id":"a","content":[{"type":"text","text":"one step"}],"usage":{"input_tokens":1,"output_tokens":1}}}"#,
    r#"{"type":"assistant","message":{"id":"b","content":[{"type":"text","text":"another"}],"usage":{"input_tokens":1,"output_tokens":1}}}"#,
];

/// Bytes without a line end, lines of text, or events.
#[derive(Clone, Copy)]
enum What {
    OneLine,
    Lines,
    Events,
}

/// Runs `pod` with its log thrown away.
fn unlogged(pod: &Pod) -> Ended {
    for name in ["stdout", "stderr"] {
        fs::remove_file(pod.outside(name)).ok();
        symlink("/dev/null", pod.outside(name)).expect("link");
    }
    let ended = pod.run();
    assert_eq!(ended.brief(), "Success - 0", "{}", ended.result().summary);
    ended
}

/// A program that writes `bytes`, lines that differ in turn.
fn flood(what: What, to: &str, bytes: u64) -> String {
    let source = match what {
        What::OneLine => "tr '\\0' x < /dev/zero".to_string(),
        What::Lines => format!("yes '{TEXT}\n{TEXT}.\n{TEXT}..\n{TEXT}...'"),
        What::Events => format!("yes '{}\n{}'", EVENTS[0], EVENTS[1]),
    };
    format!("{source} | head -c {bytes} {to}; echo; touch new.rs")
}

#[rstest]
#[case::forwarded_line(Pod::shell, What::OneLine, "", 1)]
#[case::forwarded_line_of_errors(Pod::shell, What::OneLine, ">&2", 1)]
#[case::forwarded_lines(Pod::shell, What::Lines, "", 4)]
#[case::forwarded_lines_of_errors(Pod::shell, What::Lines, ">&2", 4)]
#[case::event_without_end(claude, What::OneLine, "", 1)]
#[case::events(claude, What::Events, "", 64)]
#[case::text_between_events(claude, What::Lines, "", 64)]
#[case::complaint_without_end(claude, What::OneLine, ">&2", 1)]
#[case::complaints(claude, What::Lines, ">&2", 64)]
fn a_flood_of_output_does_not_grow_the_runner(
    #[case] executor: fn(&str) -> Pod,
    #[case] what: What,
    #[case] to: &str,
    #[case] share: u64,
) {
    let bytes =
        std::env::var(VARIABLE).map_or(BYTES / share, |text| text.parse().expect("a number of bytes"));
    let quiet = unlogged(&executor(&flood(what, to, 1000))).peak_kib;
    let mut pod = executor(&flood(what, to, bytes)).timebox("1h");
    pod.patience = std::time::Duration::from_secs(1800);
    let ended = unlogged(&pod);
    eprintln!(
        "{} MiB in {:?}: {} KiB, {quiet} KiB of a quiet run",
        bytes >> 20,
        ended.elapsed,
        ended.peak_kib
    );
    assert!(quiet > 1_000, "{quiet} KiB is no measurement");
    assert!(ended.peak_kib < quiet + GROWTH_KIB, "{} KiB, {quiet} KiB of a quiet run", ended.peak_kib);
}

fn claude(script: &str) -> Pod {
    agent("claude", script)
}
