//! Whether the agent is started again, within the same Run, to mend what a verification command found
//! (spec agents 3.11, R6).
//!
//! A repair is cheaper than another attempt: the checkout, the change and the output of the command are
//! all there. It costs no time and no tokens but what the Task has left. Pure.

use std::fmt;
use std::time::Duration;

/// Repairs in one Run. The original allows 5, each with 3 inline: a model that has not mended it in two
/// is better off with a fresh attempt, which is told of the failure.
pub const MAX_REPAIRS: u32 = 2;
/// Time that a repair needs to be worth its start.
pub const MIN_TIME: Duration = Duration::from_secs(60);

/// Where a Run stands after a verification command has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// Whether the executor is one that reads a prompt: what a script does is the same each time.
    pub reads_prompt: bool,
    /// Repairs so far.
    pub repairs: u32,
    /// Whether the last repair ended badly by itself.
    pub repair_failed: bool,
    /// What is left of the Task's timebox, which began with the executor.
    pub time_left: Duration,
    /// What is left of the Task's tokens; `None` without a limit.
    pub tokens_left: Option<i64>,
}

/// Why there is no (further) repair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRepair {
    /// The executor reads no prompt.
    Executor,
    /// Nothing that an agent changes makes this command run: it is denied, not in the grammar, or it
    /// was no command that failed.
    Command,
    /// As many as allowed were made.
    Limit,
    /// The last one failed.
    Failed,
    /// The timebox is (nearly) used up.
    Time,
    /// The tokens are used up.
    Tokens,
}

impl fmt::Display for NoRepair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Executor => "the executor reads no prompt",
            Self::Command => "no change of the work makes this command run",
            Self::Limit => "every repair has been made",
            Self::Failed => "the last repair failed",
            Self::Time => "the timebox is nearly used up",
            Self::Tokens => "the tokens of the task are used up",
        })
    }
}

/// Decides whether the failure of `command` with `code` is handed to the agent.
///
/// # Errors
/// The reason why not.
pub fn may_repair(standing: &Standing, code: &str, command: &str) -> Result<(), NoRepair> {
    let hopeless = ["policy_violation", "verification_command_unsupported_format"].contains(&code);
    let refusals = [
        (!standing.reads_prompt, NoRepair::Executor),
        (hopeless || command.is_empty(), NoRepair::Command),
        (standing.repair_failed, NoRepair::Failed),
        (standing.repairs >= MAX_REPAIRS, NoRepair::Limit),
        (standing.time_left < MIN_TIME, NoRepair::Time),
        (standing.tokens_left.is_some_and(|left| left <= 0), NoRepair::Tokens),
    ];
    refusals.into_iter().find_map(|(holds, why)| holds.then_some(why)).map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    const FIRST: Standing = Standing {
        reads_prompt: true,
        repairs: 0,
        repair_failed: false,
        time_left: Duration::from_secs(600),
        tokens_left: None,
    };
    const FAILED: &str = "verification_command_failed";

    #[rstest]
    #[case::first(FIRST, FAILED, "make test", Ok(()))]
    #[case::setup(FIRST, "setup_or_bootstrap_issue", "npm test", Ok(()))]
    #[case::target(FIRST, "verification_command_missing_make_target", "make test", Ok(()))]
    #[case::second(Standing { repairs: 1, ..FIRST }, FAILED, "make test", Ok(()))]
    #[case::third(Standing { repairs: 2, ..FIRST }, FAILED, "make test", Err(NoRepair::Limit))]
    #[case::script(Standing { reads_prompt: false, ..FIRST }, FAILED, "make test", Err(NoRepair::Executor))]
    #[case::denied(FIRST, "policy_violation", "sudo make", Err(NoRepair::Command))]
    #[case::format(FIRST, "verification_command_unsupported_format", "a | b", Err(NoRepair::Command))]
    #[case::guard(FIRST, FAILED, "", Err(NoRepair::Command))]
    #[case::crashed(Standing { repairs: 1, repair_failed: true, ..FIRST }, FAILED, "make", Err(NoRepair::Failed))]
    #[case::just_enough(Standing { time_left: MIN_TIME, ..FIRST }, FAILED, "make", Ok(()))]
    #[case::late(Standing { time_left: Duration::from_secs(59), ..FIRST }, FAILED, "make", Err(NoRepair::Time))]
    #[case::spent(Standing { tokens_left: Some(0), ..FIRST }, FAILED, "make", Err(NoRepair::Tokens))]
    #[case::a_token(Standing { tokens_left: Some(1), ..FIRST }, FAILED, "make", Ok(()))]
    fn repairs_are_few_and_cost_what_is_left(
        #[case] standing: Standing,
        #[case] code: &str,
        #[case] command: &str,
        #[case] expected: Result<(), NoRepair>,
    ) {
        assert_eq!(may_repair(&standing, code, command), expected);
    }
}
