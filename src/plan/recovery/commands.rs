//! Adjusts the verification commands of a Task when the command itself is at fault (spec: convergence
//! 5.4). What is adjusted goes to `status.effective.commands`, never to the spec.
//!
//! Bounded by nature: an adjustment drops a command or moves a check before a clean-up, so none can be
//! made twice.

use crate::plan::command::expand;
use crate::plan::command::outcome::{checks_built, cleans};

/// The commands that go on, and why they differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adjustment {
    pub commands: Vec<String>,
    /// `drop_failed_command` or `reorder_clean_and_artifact_check`.
    pub rule: &'static str,
    /// The word of the event, e.g. `verification_command_missing_script_adjusted`.
    pub reason: &'static str,
}

/// The command that a failure text names: what stands between `verification failed at ` and ` [`.
pub fn failed_command(summary: &str) -> Option<&str> {
    const BEFORE: &str = "verification failed at ";
    // ASCII letters keep their place and length, so that an index into one is an index into the other.
    let lower = summary.to_ascii_lowercase();
    let start = lower.find(BEFORE)? + BEFORE.len();
    let rest = summary.get(start..)?;
    let line = rest.lines().next().unwrap_or_default();
    let command = line.get(..line.find(" [")?)?.trim();
    (!command.is_empty()).then_some(command)
}

/// The commands to go on with after a failure whose classification says `reason`; `None` when it is
/// none of the command's, or nothing would change. A failed command that is not known, or is not in
/// the list, clears the list.
pub fn adjust(reason: &str, commands: &[String], failed: Option<&str>) -> Option<Adjustment> {
    let word = match reason {
        "verification_command_missing_script" => "verification_command_missing_script_adjusted",
        "verification_command_no_test_files" => "verification_command_no_test_files_adjusted",
        "verification_command_missing_make_target" => "verification_command_missing_make_target_adjusted",
        "verification_command_unsupported_format" => "verification_command_unsupported_format_adjusted",
        "verification_command_sequence_issue" => return reorder(commands, failed?),
        _ => return None,
    };
    if commands.is_empty() {
        return None;
    }
    let failed = failed.map(str::trim).filter(|failed| !failed.is_empty());
    let commands = failed.map(|failed| without(commands, failed)).filter(|left| left != commands);
    Some(Adjustment { commands: commands.unwrap_or_default(), rule: "drop_failed_command", reason: word })
}

/// The word of an adjustment that is decided for a Blocked Task.
pub fn from_blocked(reason: &str) -> String {
    format!("{reason}_from_blocked")
}

/// Without every command that is the failed one; a chain `a && b` loses only that part.
fn without(commands: &[String], failed: &str) -> Vec<String> {
    let rest = |command: &String| {
        if command.trim() == failed {
            return None;
        }
        let parts = expand(command);
        let kept: Vec<&str> = parts.iter().map(String::as_str).filter(|part| *part != failed).collect();
        match kept.len() {
            0 => None,
            n if n == parts.len() => Some(command.clone()),
            _ => Some(kept.join(" && ")),
        }
    };
    commands.iter().filter_map(rest).collect()
}

/// A check for something built that stands right after a clean-up goes before it.
fn reorder(commands: &[String], failed: &str) -> Option<Adjustment> {
    let index = commands.iter().position(|command| command.trim() == failed.trim())?;
    let before = index.checked_sub(1)?;
    let clean = commands.get(before)?;
    if !checks_built(failed) || !cleans(clean) {
        return None;
    }
    let mut commands = commands.to_vec();
    commands.swap(before, index);
    Some(Adjustment {
        commands,
        rule: "reorder_clean_and_artifact_check",
        reason: "verification_command_sequence_adjusted",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(commands: &[&str]) -> Vec<String> {
        commands.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_failed_command_is_dropped_and_the_others_stay_c69() {
        let adjusted = adjust(
            "verification_command_missing_make_target",
            &list(&["make test", "pnpm run check"]),
            Some("make test"),
        );
        let adjusted = adjusted.expect("adjusted");
        assert_eq!(adjusted.commands, ["pnpm run check"]);
        assert_eq!(adjusted.rule, "drop_failed_command");
    }

    #[test]
    fn an_unknown_failed_command_clears_the_list_once_c70() {
        let reason = "verification_command_no_test_files";
        for failed in [None, Some(""), Some("pnpm x")] {
            let adjusted = adjust(reason, &list(&["make", "make test"]), failed).expect("adjusted");
            assert!(adjusted.commands.is_empty(), "{failed:?}");
        }
        assert_eq!(adjust(reason, &[], None), None, "nothing is left to adjust");
    }

    #[test]
    fn a_check_after_a_clean_up_goes_before_it_c71() {
        let commands = list(&["make", "make clean", "test -f build/kernel.elf"]);
        let adjusted =
            adjust("verification_command_sequence_issue", &commands, Some("test -f build/kernel.elf"));
        let adjusted = adjusted.expect("adjusted");
        assert_eq!(adjusted.commands, ["make", "test -f build/kernel.elf", "make clean"]);
        let again = adjust(
            "verification_command_sequence_issue",
            &adjusted.commands,
            Some("test -f build/kernel.elf"),
        );
        assert_eq!(again, None, "it cannot be made twice");
    }

    #[test]
    fn a_check_of_anything_else_stays_where_it_is_c72() {
        for (before, check) in [
            ("make test", "test -f build/kernel.elf"),
            ("make clean", "test -f docs/guide.md"),
            ("make clean", "test -f build/*.elf"),
            ("make clean", "test -f build/../x"),
        ] {
            let commands = list(&["make", before, check]);
            assert_eq!(
                adjust("verification_command_sequence_issue", &commands, Some(check)),
                None,
                "{check}"
            );
        }
    }

    #[test]
    fn a_chain_loses_only_the_part_that_failed() {
        let commands = list(&["make build && make lint && make test", "make docs"]);
        let adjusted = adjust("verification_command_missing_make_target", &commands, Some("make lint"));
        assert_eq!(adjusted.expect("adjusted").commands, ["make build && make test", "make docs"]);
    }
}
