//! Runs the verification commands of a task (spec agents 3.5 to 3.8, 3.10), for container `agent`.
//!
//! What a command means is decided in `plan::command`; this starts programs and stops at the first
//! real failure. The Task's own commands come first, then the automatic ones. There is no light check and
//! no model here. Programs that a command leaves behind (a database for the next one) live until the
//! last command has ended.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use super::execute::descendants::sweep;
use super::execute::process::{Ending, Finished, Output, Program, Supervisor};
use crate::crd::run::{CommandOutcome, CommandSource, VerificationReport};
use crate::plan::command::outcome::{Position, failure_code, may_skip};
use crate::plan::command::{DENIED, Step, denied, denied_step, steps};

/// Longest part of the output in a summary, in characters (spec agents 3.6).
const SAID_CHARS: usize = 300;

/// What is to be verified, and on what.
#[derive(Debug)]
pub struct Verification<'a> {
    /// The Task's own commands.
    pub own: &'a [Step],
    /// Those of the repository's contract.
    pub automatic: &'a [Step],
    /// The last automatic command may fail once one of the Task's own has passed.
    pub automatic_may_fail: bool,
    /// The checkout.
    pub checkout: &'a Path,
    /// Environment of the commands, without secrets.
    pub env: &'a [(OsString, OsString)],
    /// Time for one command.
    pub limit: Duration,
    /// Nothing but documentation was changed.
    pub documentation_only: bool,
    /// Nothing was changed, and that is acceptable.
    pub no_change: bool,
}

/// How verification ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every command passed or was passed over.
    Passed {
        /// Commands that really passed.
        passed: usize,
    },
    /// A command failed.
    Failed {
        /// Failure code.
        code: &'static str,
        /// `verification failed at <command> [explicit]: <what it said>`, `[auto]` for an automatic one.
        summary: String,
        /// Where the command comes from.
        source: CommandSource,
        /// The command; empty when it was none of them.
        command: String,
        /// All that it said, as far as it was kept.
        output: String,
    },
    /// We were told to stop.
    Stopped,
}

/// The first pattern that forbids a command, by its text or by the words it is made of. `None` when
/// all may run.
pub fn first_denied(commands: &[String]) -> Option<(String, &'static str)> {
    let raw = commands.iter().find_map(|command| Some((command.clone(), denied(command, &DENIED)?)));
    raw.or_else(|| {
        steps(commands, "/").into_iter().find_map(|step| Some((step.command.clone(), denied_step(&step)?)))
    })
}

/// Runs the commands in order, and adds each to `report`.
pub async fn run(
    supervisor: &mut Supervisor,
    verification: &Verification<'_>,
    report: &mut VerificationReport,
) -> Verdict {
    let verdict = run_steps(supervisor, verification, report).await;
    sweep().await;
    verdict
}

async fn run_steps(
    supervisor: &mut Supervisor,
    verification: &Verification<'_>,
    report: &mut VerificationReport,
) -> Verdict {
    let own = verification.own.iter().map(|step| (CommandSource::Explicit, step));
    let automatic = verification.automatic.iter().map(|step| (CommandSource::Automatic, step));
    let steps: Vec<(CommandSource, &Step)> = own.chain(automatic).collect();
    let texts: Vec<&str> = steps.iter().map(|(_, step)| step.command.as_str()).collect();
    let (mut passed, mut own_passed) = (0, false);
    for (index, &(source, step)) in steps.iter().enumerate() {
        if supervisor.is_stopped() {
            return Verdict::Stopped;
        }
        if let Some(pattern) = denied_step(step) {
            let said = format!("denied command, it matches '{pattern}'");
            return failed("policy_violation", source, &step.command, &said);
        }
        println!(
            "[opentiger] verification {}/{}{}: {}",
            index + 1,
            steps.len(),
            if source == CommandSource::Automatic { " (automatic)" } else { "" },
            supervisor.mask().hide(&*step.command)
        );
        let begun = Instant::now();
        let attempted = attempt(supervisor, verification, step).await;
        let mut note = |outcome| report.add(&step.command, source, outcome, begun.elapsed().as_secs());
        let output = match attempted {
            Attempt::Passed => {
                note(CommandOutcome::Passed);
                passed += 1;
                own_passed |= source == CommandSource::Explicit;
                continue;
            }
            Attempt::Stopped => return Verdict::Stopped,
            Attempt::Failed(output) => output,
        };
        let position = Position {
            more_follow: index + 1 < steps.len(),
            earlier_passed: passed > 0,
            own_suffices: own_passed && verification.automatic_may_fail,
            documentation_only: verification.documentation_only,
            no_change: verification.no_change,
        };
        if may_skip(source, &step.command, &output, position) {
            note(CommandOutcome::PassedOver);
            println!("[opentiger] passed over: {}", supervisor.mask().hide(summarise(&output)));
            continue;
        }
        note(CommandOutcome::Failed);
        return failed(failure_code(&texts, index, &output), source, &step.command, &output);
    }
    // Commands that were all passed over have verified nothing (spec agents 3.8).
    if passed == 0 && !steps.is_empty() && !verification.documentation_only && !verification.no_change {
        let summary = "verification failed at verify:guard [guard]: every command was passed over, nothing was verified";
        let (code, command) = ("verification_command_failed", String::new());
        let (source, output) = (CommandSource::Explicit, String::new());
        return Verdict::Failed { code, summary: summary.into(), source, command, output };
    }
    Verdict::Passed { passed }
}

fn failed(code: &'static str, source: CommandSource, command: &str, output: &str) -> Verdict {
    Verdict::Failed {
        code,
        summary: format!("verification failed at {command} [{}]: {}", source.word(), summarise(output)),
        source,
        command: command.into(),
        output: output.into(),
    }
}

/// The end of the output on one line.
fn summarise(output: &str) -> String {
    let line = output.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.chars().count().checked_sub(SAID_CHARS) {
        None if line.is_empty() => "stderr unavailable".into(),
        None | Some(0) => line,
        Some(excess) => format!("...{}", line.chars().skip(excess).collect::<String>()),
    }
}

enum Attempt {
    Passed,
    Stopped,
    Failed(String),
}

async fn attempt(supervisor: &mut Supervisor, verification: &Verification<'_>, step: &Step) -> Attempt {
    let invocation = match &step.invocation {
        Ok(invocation) => invocation,
        Err(refusal) => return Attempt::Failed(refusal.to_string()),
    };
    if !Path::new(&step.cwd).is_dir() {
        return Attempt::Failed(format!("the directory {} does not exist", step.cwd));
    }
    let words = std::iter::once(&invocation.program).chain(&invocation.args);
    let program = Program {
        argv: words.map(OsString::from).collect(),
        cwd: step.cwd.clone().into(),
        env: environment(verification.env, &step.cwd, &invocation.env),
        limit: verification.limit,
        idle_limit: None,
        loop_limit: None,
        sweep: false,
        stdin: None,
        output: Output::Forward,
    };
    match supervisor.run(&program).await {
        Ok(finished) => judge(finished, verification.limit),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Attempt::Failed(format!("spawn {} ENOENT", invocation.program))
        }
        Err(error) => Attempt::Failed(format!("failed to run {}: {error}", invocation.program)),
    }
}

fn judge(finished: Finished, limit: Duration) -> Attempt {
    let said = finished.said();
    match finished.ending {
        Ending::Exited(0) => Attempt::Passed,
        Ending::Stopped => Attempt::Stopped,
        Ending::Exited(_) | Ending::Idle | Ending::Looped | Ending::GaveUp | Ending::OverBudget => {
            Attempt::Failed(said.into())
        }
        Ending::Killed(signal) => Attempt::Failed(format!("{said}\nkilled by {signal}")),
        Ending::TimedOut => Attempt::Failed(format!("{said}\ntimed out after {}s", limit.as_secs())),
    }
}

/// `env` with the programs of `node_modules` first, those of other directories dropped, and the
/// command's own variables (spec agents 2.5, order 4).
fn environment(
    env: &[(OsString, OsString)],
    cwd: &str,
    own: &[(String, String)],
) -> Vec<(OsString, OsString)> {
    let inherited =
        env.iter().find(|(name, _)| name == "PATH").map(|(_, value)| value.clone()).unwrap_or_default();
    let foreign = |entry: &Path| entry.ends_with("node_modules/.bin") && !entry.starts_with(cwd);
    let first = Path::new(cwd).join("node_modules/.bin");
    let rest = std::env::split_paths(&inherited).filter(|entry| !foreign(entry) && *entry != first);
    let path = std::env::join_paths(std::iter::once(first.clone()).chain(rest)).unwrap_or(inherited);
    let mut env: Vec<(OsString, OsString)> =
        env.iter().filter(|(name, _)| name != OsStr::new("PATH")).cloned().collect();
    env.push(("PATH".into(), path));
    env.extend(own.iter().map(|(name, value)| (name.into(), value.into())));
    env
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_programs_of_the_package_come_first() {
        let env = [
            ("PATH".into(), "/r/node_modules/.bin:/usr/bin:/r/a/node_modules/.bin".into()),
            ("A".into(), "1".into()),
        ];
        let built = environment(&env, "/r/a", &[("A".into(), "2".into())]);
        let last = |name: &str| {
            built.iter().rev().find(|(n, _)| n == name).map(|(_, v)| v.to_string_lossy().into_owned())
        };
        assert_eq!(last("PATH").as_deref(), Some("/r/a/node_modules/.bin:/usr/bin"));
        assert_eq!(last("A").as_deref(), Some("2"));
    }

    #[test]
    fn a_denied_command_is_found_however_it_is_quoted() {
        for command in ["sudo make", "make && s\"ud\"o x", "FOO=1 'sudo' x", "rm -rf /", "chmod 777 x"] {
            assert!(first_denied(&["ls".into(), command.into()]).is_some(), "{command}");
        }
        assert_eq!(first_denied(&["make test".into(), "cargo test && pnpm run push".into()]), None);
    }

    #[test]
    fn summaries_hold_the_end_of_the_output() {
        assert_eq!(summarise("  \n"), "stderr unavailable");
        assert_eq!(summarise("a\n  b"), "a b");
        let long = summarise(&format!("{} the end", "x".repeat(1_000)));
        assert!(
            long.starts_with("...x") && long.ends_with(" the end") && long.len() == SAID_CHARS + 3,
            "{long}"
        );
    }
}
