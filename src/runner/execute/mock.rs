//! The scripted executor: every way an agent can end, without a model or a key.
//!
//! The runner starts itself again as the executor (`opentiger-runner mock`), so that a script goes
//! through the same supervision as a real program. Only the end of the runner itself (`Crash`) happens
//! in the runner.

use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::crd::GoDuration;
use crate::crd::pool::{MockExecutor, MockOutcome};
use crate::crd::wire::{ContainerResult, Inputs, Outcome};
use crate::runner::review::bundle;

/// File that is written when none is named.
const DEFAULT_FILE: &str = "mock.txt";
/// Plan that is written when no content is given.
const DEFAULT_PLAN: &str = r#"{"tasks": [{"title": "Planned by the mock executor", "goal": "The file mock.txt exists.",
"allowedPaths": ["mock.txt"], "timeboxMinutes": 30}]}"#;
/// Time until the limit resets when none is stated.
const DEFAULT_RESET: Duration = Duration::from_secs(30);
/// What `Garbage` prints.
const NOISE_BYTES: usize = 8 * 1024;

/// Files of a review, as the executor finds them in its environment.
#[derive(Clone, Copy, Debug)]
pub struct Review<'a> {
    /// The description of the change.
    pub bundle: &'a Path,
    /// Where the verdict goes.
    pub verdict: &'a Path,
}

/// What the script does in this Run.
pub fn outcome(mock: &MockExecutor, inputs: &Inputs) -> MockOutcome {
    match mock.first_attempts {
        Some(last) if ordinal(inputs) > last => MockOutcome::Succeed,
        Some(_) | None => mock.outcome,
    }
}

/// Ordinal of the attempt; of a review: the attempt that it looks at, and one more for each earlier
/// review of it. So it rises from review to review of a Task, whatever happens in between.
pub fn ordinal(inputs: &Inputs) -> i32 {
    let earlier = inputs.spec.review.as_ref().map_or(0, |review| review.version.saturating_sub(1).max(0));
    inputs.spec.attempt.saturating_add(earlier)
}

/// Plays the script as the executor, in the current directory. Returns the exit code. `review` is there
/// when a review is to be made, `plan` (the file for it) when a plan is.
///
/// # Errors
/// When a file or the output cannot be written.
pub fn play(
    inputs: &Inputs,
    mock: &MockExecutor,
    review: Option<Review>,
    plan: Option<&Path>,
) -> io::Result<u8> {
    if let Some(delay) = mock.delay.as_ref().and_then(GoDuration::parse) {
        std::thread::sleep(delay);
    }
    let mut out = io::stdout();
    let outcome = outcome(mock, inputs);
    match outcome {
        MockOutcome::Succeed | MockOutcome::Reject => {
            match (review, plan) {
                (None, Some(plan)) => {
                    fs::write(plan, mock.content.as_deref().unwrap_or(DEFAULT_PLAN))?;
                    writeln!(out, "wrote the plan")?;
                }
                (None, None) => {
                    let path = write_file(inputs, mock)?;
                    writeln!(out, "wrote {}", path.display())?;
                }
                (Some(review), _) => {
                    write_verdict(inputs, mock, review, outcome == MockOutcome::Succeed)?;
                    writeln!(out, "wrote the verdict")?;
                }
            }
            Ok(0)
        }
        MockOutcome::Fail | MockOutcome::Quota | MockOutcome::Crash => {
            eprintln!("{}", message(mock, inputs));
            Ok(1)
        }
        MockOutcome::Hang => loop {
            std::thread::park();
        },
        MockOutcome::Loop => loop {
            writeln!(out, "Let me look at the file again.")?;
        },
        MockOutcome::Garbage => {
            let noise: Vec<u8> =
                (0..NOISE_BYTES).map(|n| (n.wrapping_mul(167).wrapping_add(n / 251) % 256) as u8).collect();
            out.write_all(&noise)?;
            Ok(0)
        }
    }
}

fn write_file<'a>(inputs: &Inputs, mock: &'a MockExecutor) -> io::Result<&'a Path> {
    let path = Path::new(mock.file.as_deref().unwrap_or(DEFAULT_FILE));
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let standard = || format!("Written by the mock executor of run {}.\n", inputs.run);
    fs::write(path, mock.content.clone().unwrap_or_else(standard))?;
    Ok(path)
}

/// Leaves a verdict: a refusal names the first changed file, so that it is about the change.
fn write_verdict(inputs: &Inputs, mock: &MockExecutor, review: Review, pass: bool) -> io::Result<()> {
    let directory = review.bundle.parent().unwrap_or(Path::new("/"));
    let file = bundle::read(directory)?.files.first().map(|file| file.path.clone());
    let issue =
        serde_json::json!({"severity": "error", "message": message(mock, inputs), "file": file, "line": 1});
    let issues = if pass { Vec::new() } else { vec![issue] };
    let verdict = serde_json::json!({
        "pass": pass, "confidence": 0.9, "issues": issues, "summary": "the mock reviewer has looked",
    });
    fs::write(review.verdict, verdict.to_string())
}

fn message<'a>(mock: &'a MockExecutor, inputs: &Inputs) -> &'a str {
    let standard = match outcome(mock, inputs) {
        MockOutcome::Quota => "usage limit reached",
        MockOutcome::Reject => "the mock reviewer asks for changes",
        MockOutcome::Succeed
        | MockOutcome::Fail
        | MockOutcome::Hang
        | MockOutcome::Loop
        | MockOutcome::Crash
        | MockOutcome::Garbage => "the mock executor failed as it was told to",
    };
    mock.message.as_deref().unwrap_or(standard)
}

/// What the end of the script means, where the script says it: `Fail` with its code, `Quota` with its
/// reset. `Crash` ends this process, so that no result is written.
pub fn result(inputs: &Inputs, mock: &MockExecutor, now: Timestamp) -> Option<ContainerResult> {
    match outcome(mock, inputs) {
        MockOutcome::Fail => {
            let code = mock.failure_code.as_deref().unwrap_or("execution_failed");
            Some(ContainerResult::failure(Outcome::Failed, code, message(mock, inputs)))
        }
        MockOutcome::Quota => {
            let reset =
                SignedDuration::try_from(GoDuration::or(mock.reset_after.as_ref(), DEFAULT_RESET)).ok();
            let mut result =
                ContainerResult::failure(Outcome::QuotaWait, "quota_failure", message(mock, inputs));
            result.retry_at = reset.and_then(|reset| now.checked_add(reset).ok());
            Some(result)
        }
        MockOutcome::Crash => crash(),
        MockOutcome::Succeed
        | MockOutcome::Reject
        | MockOutcome::Hang
        | MockOutcome::Loop
        | MockOutcome::Garbage => None,
    }
}

/// Ends this process by a signal. Process 1 of a container does not feel its own SIGKILL; the fault at
/// the end of `abort` it does.
fn crash() -> ! {
    let _ = kill(Pid::this(), Signal::SIGKILL);
    std::process::abort()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::run::{ReviewTarget, RunSpec};

    fn inputs(attempt: i32, review: Option<i32>) -> Inputs {
        let review = review.map(|version| ReviewTarget { version, ..ReviewTarget::default() });
        let spec = RunSpec { attempt, review, ..RunSpec::default() };
        Inputs { schema_version: 1, namespace: "n".into(), run: "r".into(), run_uid: "u".into(), spec }
    }

    #[test]
    fn later_attempts_succeed() {
        let mock =
            MockExecutor { outcome: MockOutcome::Fail, first_attempts: Some(2), ..MockExecutor::default() };
        let outcomes = [1, 2, 3].map(|attempt| outcome(&mock, &inputs(attempt, None)));
        assert_eq!(outcomes, [MockOutcome::Fail, MockOutcome::Fail, MockOutcome::Succeed]);
        let always = MockExecutor { first_attempts: None, ..mock };
        assert_eq!(outcome(&always, &inputs(99, None)), MockOutcome::Fail);
    }

    #[test]
    fn a_review_after_rework_and_a_repeated_one_are_later_reviews() {
        let mock =
            MockExecutor { outcome: MockOutcome::Reject, first_attempts: Some(1), ..MockExecutor::default() };
        for (attempt, version, expected) in
            [(1, 1, MockOutcome::Reject), (2, 1, MockOutcome::Succeed), (1, 2, MockOutcome::Succeed)]
        {
            assert_eq!(outcome(&mock, &inputs(attempt, Some(version))), expected, "{attempt} {version}");
        }
    }
}
