//! What a failed attempt shows beside its code, and how freely recovery widens a Task's paths.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::reported::CommandSource;

/// Violations kept in a [`FailureDetail`].
pub const MAX_VIOLATIONS: usize = 20;
/// Longest command and longest violation in a [`FailureDetail`], in characters.
const MAX_TEXT: usize = 512;

/// What recovery decides by: the command that failed, and what broke the path policy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct FailureDetail {
    /// Verification command that failed, as it was run.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 512))]
    pub command: String,
    /// Where the command came from: `explicit` (the Task's own) or `auto` (the repository's contract).
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 16))]
    pub source: String,
    /// One sentence for each path that the policy refuses, e.g. `Change outside allowed paths: a.txt`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 20), inner(length(max = 512)))]
    pub violations: Vec<String>,
}

impl FailureDetail {
    /// Of a verification command. One that is too long to be kept whole is left out,
    /// because half a command names none.
    pub fn of_command(command: &str, source: CommandSource) -> Self {
        let command = if command.chars().count() <= MAX_TEXT { command } else { "" };
        Self { command: command.into(), source: source.word().into(), violations: Vec::new() }
    }

    /// Of what the path policy refuses; the first [`MAX_VIOLATIONS`] that can be kept whole.
    pub fn of_violations<T: ToString>(violations: impl IntoIterator<Item = T>) -> Self {
        let whole = violations.into_iter().map(|violation| violation.to_string());
        let whole = whole.filter(|text| text.chars().count() <= MAX_TEXT).take(MAX_VIOLATIONS);
        Self { violations: whole.collect(), ..Self::default() }
    }
}

/// Which paths recovery may add to those that a Task may change, after it changed others. Denied paths
/// stay denied, and a Task of role Docser never gains any (`spec/convergence.md` 5.8).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PathRecovery {
    /// Files that the Task's context lists, and those that its commands need (a `Makefile` for `make`).
    Conservative,
    /// Also files of build systems, when the Task is about building.
    Balanced,
    /// Also the build files of any tool, and files in the root when the Task is about building.
    #[default]
    Aggressive,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_kept_whole_is_left_out() {
        assert_eq!(FailureDetail::of_command(&"x".repeat(513), CommandSource::Explicit).command, "");
        assert_eq!(FailureDetail::of_command("make test", CommandSource::Automatic).command, "make test");
        let detail = FailureDetail::of_violations((0..30).map(|n| "v".repeat(500 + n)));
        assert_eq!(detail.violations.len(), 13);
    }
}
