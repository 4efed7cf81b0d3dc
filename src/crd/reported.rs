//! What container `agent` says of its own work: testimony, shown to people, never decided by.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Commands kept in a [`VerificationReport`].
const MAX_COMMANDS: usize = 50;
/// Longest command in a [`VerificationReport`], in characters; the Task holds it whole.
const MAX_COMMAND_CHARS: usize = 80;

/// Longest [`VerificationReport::note`], in characters.
const MAX_NOTE_CHARS: usize = 200;

/// Where a verification command comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandSource {
    /// The Task names it.
    Explicit,
    /// The repository's contract does.
    Automatic,
}

impl CommandSource {
    /// The original's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Explicit => "explicit",
            Self::Automatic => "auto",
        }
    }
}

/// How the work was verified (spec agents 3.6, 3.11).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct VerificationReport {
    /// How often the agent was started again to mend what a command found.
    #[schemars(range(min = 0))]
    pub repairs: i64,
    /// The commands of the last round, in their order, up to the first that failed. Those that do not
    /// fit into the message of a container are left out from the beginning.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50))]
    pub commands: Vec<VerifiedCommand>,
    /// Why the repository's contract added no commands, when it is there and is not understood.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 200))]
    pub note: String,
}

/// One verification command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VerifiedCommand {
    /// Its text, cut to 80 characters.
    #[schemars(length(max = 80))]
    pub command: String,
    pub outcome: CommandOutcome,
    /// Whether the Task does not name it: it is one of the repository's contract.
    #[serde(default, skip_serializing_if = "is_false")]
    pub automatic: bool,
    /// How long it took, in whole seconds.
    #[serde(default)]
    #[schemars(range(min = 0))]
    pub seconds: i64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde wants it so")]
fn is_false(flag: &bool) -> bool {
    !flag
}

/// How a verification command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CommandOutcome {
    Passed,
    Failed,
    /// It could not be run here, and that is no failure (spec agents 3.7).
    PassedOver,
}

impl VerificationReport {
    /// Whether nothing was verified and nothing repaired.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds a command to the round.
    pub fn add(&mut self, command: &str, source: CommandSource, outcome: CommandOutcome, seconds: u64) {
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
        let automatic = source == CommandSource::Automatic;
        self.commands.push(VerifiedCommand { command: command.into(), outcome, automatic, seconds });
    }

    /// The same within the bounds of the schema, whoever wrote it, and within `bytes` of JSON.
    pub fn bounded(mut self, bytes: usize) -> Self {
        self.repairs = self.repairs.max(0);
        for command in &mut self.commands {
            command.seconds = command.seconds.max(0);
            command.command = command.command.chars().take(MAX_COMMAND_CHARS).collect();
        }
        self.note = self.note.chars().take(MAX_NOTE_CHARS).collect();
        let size = |report: &Self| serde_json::to_string(report).unwrap_or_default().len();
        while !self.commands.is_empty() && (self.commands.len() > MAX_COMMANDS || size(&self) > bytes) {
            self.commands.remove(0);
        }
        while size(&self) > bytes && self.note.pop().is_some() {}
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_keeps_the_last_commands_that_fit() {
        let mut report = VerificationReport { repairs: -1, ..VerificationReport::default() };
        for index in 0..200 {
            let command = format!("{index} {}", "ä".repeat(300));
            report.add(&command, CommandSource::Explicit, CommandOutcome::Passed, u64::MAX);
        }
        report.add("last", CommandSource::Automatic, CommandOutcome::Failed, 3);
        let bounded = report.clone().bounded(1_000);
        assert!(serde_json::to_string(&bounded).expect("JSON").len() <= 1_000);
        assert_eq!(bounded.repairs, 0);
        let last = bounded.commands.last().expect("a command");
        assert_eq!((last.command.as_str(), last.outcome, last.seconds), ("last", CommandOutcome::Failed, 3));
        assert!(last.automatic && bounded.commands.iter().filter(|command| command.automatic).count() == 1);
        assert!(bounded.commands.iter().all(|command| command.command.chars().count() <= MAX_COMMAND_CHARS));
        assert_eq!(report.clone().bounded(usize::MAX).commands.len(), MAX_COMMANDS);
        // A note that cannot be told in the room is told in part.
        report.note = "\u{1}".repeat(300);
        let noted = report.bounded(512);
        assert!(serde_json::to_string(&noted).expect("JSON").len() <= 512 && !noted.note.is_empty());
    }
}
