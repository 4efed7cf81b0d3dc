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

/// File that is written when none is named.
const DEFAULT_FILE: &str = "mock.txt";
/// Time until the limit resets when none is stated.
const DEFAULT_RESET: Duration = Duration::from_secs(30);
/// What `Garbage` prints.
const NOISE_BYTES: usize = 8 * 1024;

/// What the script does in this attempt.
pub fn outcome(mock: &MockExecutor, attempt: i32) -> MockOutcome {
    match mock.first_attempts {
        Some(last) if attempt > last => MockOutcome::Succeed,
        Some(_) | None => mock.outcome,
    }
}

/// Plays the script as the executor, in the current directory. Returns the exit code.
///
/// # Errors
/// When the file or the output cannot be written.
pub fn play(inputs: &Inputs, mock: &MockExecutor) -> io::Result<u8> {
    if let Some(delay) = mock.delay.as_ref().and_then(GoDuration::parse) {
        std::thread::sleep(delay);
    }
    let mut out = io::stdout();
    match outcome(mock, inputs.spec.attempt) {
        MockOutcome::Succeed => {
            let path = Path::new(mock.file.as_deref().unwrap_or(DEFAULT_FILE));
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            let standard = || format!("Written by the mock executor of run {}.\n", inputs.run);
            fs::write(path, mock.content.clone().unwrap_or_else(standard))?;
            writeln!(out, "wrote {}", path.display())?;
            Ok(0)
        }
        MockOutcome::Fail | MockOutcome::Quota | MockOutcome::Crash => {
            eprintln!("{}", message(mock, inputs.spec.attempt));
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

fn message(mock: &MockExecutor, attempt: i32) -> &str {
    let standard = match outcome(mock, attempt) {
        MockOutcome::Quota => "usage limit reached",
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
pub fn result(mock: &MockExecutor, attempt: i32, now: Timestamp) -> Option<ContainerResult> {
    match outcome(mock, attempt) {
        MockOutcome::Fail => {
            let code = mock.failure_code.as_deref().unwrap_or("execution_failed");
            Some(ContainerResult::failure(Outcome::Failed, code, message(mock, attempt)))
        }
        MockOutcome::Quota => {
            let reset =
                SignedDuration::try_from(GoDuration::or(mock.reset_after.as_ref(), DEFAULT_RESET)).ok();
            let mut result =
                ContainerResult::failure(Outcome::QuotaWait, "quota_failure", message(mock, attempt));
            result.retry_at = reset.and_then(|reset| now.checked_add(reset).ok());
            Some(result)
        }
        MockOutcome::Crash => crash(),
        MockOutcome::Succeed | MockOutcome::Hang | MockOutcome::Loop | MockOutcome::Garbage => None,
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

    #[test]
    fn later_attempts_succeed() {
        let mock =
            MockExecutor { outcome: MockOutcome::Fail, first_attempts: Some(2), ..MockExecutor::default() };
        let outcomes = [1, 2, 3].map(|attempt| outcome(&mock, attempt));
        assert_eq!(outcomes, [MockOutcome::Fail, MockOutcome::Fail, MockOutcome::Succeed]);
        let always = MockExecutor { first_attempts: None, ..mock };
        assert_eq!(outcome(&always, 99), MockOutcome::Fail);
    }
}
