//! What the failure of a verification command means: its code (spec agents 3.10, correction 5) and
//! whether it may be skipped (3.7).
//!
//! There are no other commands in place of one that fails (3.6 a, d) and no light check. One row of the
//! skip rules is stricter than the original's: an automatic command that really fails is passed over
//! after a command of the Task has passed, not after any; two automatic commands of which the second
//! fails have not verified the work. Pure.

use std::sync::LazyLock;

use regex::Regex;

use super::parse;
use crate::crd::run::CommandSource;
use crate::plan::policy::normalise;

/// What a failed command's output says, tried in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Signal {
    MissingMakeTarget,
    NoTestFiles,
    MissingScript,
    UnsupportedFormat,
    Bootstrap,
}

/// Each signal's texts; `A ; B` needs both, wherever they stand.
const SIGNALS: [(Signal, &[&str]); 20] = [
    (Signal::MissingMakeTarget, &["no rule to make target"]),
    (Signal::NoTestFiles, &["no test files found"]),
    (Signal::NoTestFiles, &["no tests found"]),
    (Signal::NoTestFiles, &["no files found matching"]),
    (Signal::MissingScript, &["err_pnpm_no_script"]),
    (Signal::MissingScript, &["missing script"]),
    // Whole words (correction 5): `typescript: command not found` is a missing program.
    (Signal::MissingScript, &[r"\bcommand\b", r"\bnot found\b", r"\bscript\b"]),
    (Signal::MissingScript, &[r"could not read package\.json"]),
    (Signal::MissingScript, &["enoent", r"package\.json"]),
    (Signal::UnsupportedFormat, &["unsupported command format"]),
    (Signal::UnsupportedFormat, &["shell operators", "not allowed"]),
    (Signal::UnsupportedFormat, &["unsupported shell builtin in verification command"]),
    (Signal::Bootstrap, &["missing dependency|cannot find dependency|command not found"]),
    // A program that is not there, started without a shell (trap Q26).
    (Signal::Bootstrap, &[r"\bspawn (?:\S+ )?enoent\b"]),
    (Signal::Bootstrap, &["sh:", "not found"]),
    (Signal::Bootstrap, &["unsupported engine", "\"node\""]),
    (Signal::Bootstrap, &["requires node|expected node version"]),
    (Signal::Bootstrap, &["err_require_esm", r"node_modules|/\.pnpm/"]),
    (Signal::Bootstrap, &[r"\bnot supported\b", r"\bnode\b"]),
    (Signal::Bootstrap, &["cannot find package|module path.*to exist, but none could be found"]),
];

static COMPILED: LazyLock<Vec<(Signal, Vec<Regex>)>> = LazyLock::new(|| {
    let all = |texts: &[&str]| {
        texts.iter().map(|text| Regex::new(&format!("(?s){text}"))).collect::<Result<Vec<_>, _>>()
    };
    SIGNALS.iter().filter_map(|(signal, texts)| Some((*signal, all(texts).ok()?))).collect()
});

fn signal(command: &str, output: &str) -> Option<Signal> {
    let lower = output.to_lowercase();
    let says = |(_, texts): &&(Signal, Vec<Regex>)| texts.iter().all(|text| text.is_match(&lower));
    let first = COMPILED.iter().find(says).map(|(signal, _)| *signal);
    match first {
        Some(signal) if signal != Signal::Bootstrap => Some(signal),
        Some(_) | None if command.contains("$(") => Some(Signal::UnsupportedFormat),
        None if misses_package(output, &lower) => Some(Signal::Bootstrap),
        other => other,
    }
}

/// A module that is no file of the repository, missed by a tool inside `node_modules`.
fn misses_package(output: &str, lower: &str) -> bool {
    static MODULE: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r#"(?i)cannot find module ['"]([^'"]+)['"]"#).ok());
    let module = MODULE.as_ref().and_then(|module| module.captures(output)).and_then(|found| found.get(1));
    let Some(module) = module.map(|module| module.as_str().trim()) else {
        return false;
    };
    let drive = module.get(1..3).is_some_and(|text| matches!(text, ":/" | ":\\"));
    let local = module.starts_with(['.', '/']) || drive;
    let by_tool = lower.contains("failed to load config from") || lower.contains("imported from");
    !local && by_tool && lower.contains("node_modules")
}

/// The failure code of `commands[index]`, whose output was `output`.
pub fn failure_code(commands: &[&str], index: usize, output: &str) -> &'static str {
    let command = commands.get(index).copied().unwrap_or_default();
    match signal(command, output) {
        Some(Signal::MissingMakeTarget) => "verification_command_missing_make_target",
        Some(Signal::NoTestFiles) => "verification_command_no_test_files",
        Some(Signal::MissingScript) => "verification_command_missing_script",
        Some(Signal::UnsupportedFormat) => "verification_command_unsupported_format",
        Some(Signal::Bootstrap) => "setup_or_bootstrap_issue",
        None if is_sequence_issue(commands, index, output) => "verification_command_sequence_issue",
        None => "verification_command_failed",
    }
}

/// Directories whose content is built.
const BUILT: [&str; 8] = ["artifact", "artifacts", "build", "debug", "dist", "out", "release", "target"];

/// A silent `test -f` on something built, straight after a command that cleans.
fn is_sequence_issue(commands: &[&str], index: usize, output: &str) -> bool {
    let before = index.checked_sub(1).and_then(|before| commands.get(before));
    let (Some(command), Some(before)) = (commands.get(index), before) else {
        return false;
    };
    checks_built(command) && output.trim().is_empty() && cleans(before)
}

/// Whether the command only asks whether something built is there: `test -f build/kernel.elf`.
pub(in crate::plan) fn checks_built(command: &str) -> bool {
    static PRESENCE: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r"(?i)^test\s+-(?:f|s)\s+(.+)$").ok());
    let target = PRESENCE.as_ref().and_then(|presence| presence.captures(command.trim()));
    let Some(target) = target.and_then(|found| found.get(1)) else {
        return false;
    };
    let target = normalise(target.as_str()).to_lowercase();
    !target.contains("..") && !target.contains('*') && target.split('/').any(|name| BUILT.contains(&name))
}

/// Whether the command removes what was built: `make clean`, `pnpm run clean`.
pub(in crate::plan) fn cleans(command: &str) -> bool {
    static SCRIPT: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r"\b(?:clean|distclean|clobber)\b").ok());
    let lower = command.to_lowercase();
    let mut words = lower.split_whitespace();
    match words.next() {
        Some("make") => words.any(|word| word.contains("clean")),
        Some("npm" | "pnpm" | "yarn" | "bun") => {
            SCRIPT.as_ref().is_some_and(|script| script.is_match(&Vec::from_iter(words).join(" ")))
        }
        Some(_) | None => false,
    }
}

/// Where a failed command stands.
#[derive(Clone, Copy, Debug, Default)]
pub struct Position {
    /// More commands follow.
    pub more_follow: bool,
    /// An earlier command has really passed.
    pub earlier_passed: bool,
    /// One of the Task's own was among them, and automatic commands may fail then.
    pub own_suffices: bool,
    /// Nothing but documentation was changed.
    pub documentation_only: bool,
    /// Nothing was changed, and that is acceptable.
    pub no_change: bool,
}

/// Whether the failure of a command may be passed over (spec agents 3.7).
pub fn may_skip(source: CommandSource, command: &str, output: &str, position: Position) -> bool {
    let signal = signal(command, output);
    let Position { more_follow, earlier_passed, own_suffices, documentation_only, no_change } = position;
    match (signal, source) {
        (None | Some(Signal::Bootstrap), CommandSource::Explicit) => {
            is_recursive(command) && earlier_passed && !more_follow
        }
        (None, CommandSource::Automatic) => own_suffices && !more_follow,
        (Some(Signal::Bootstrap), CommandSource::Automatic) => {
            (own_suffices || earlier_passed) && !more_follow
        }
        (Some(_), _) if more_follow => true,
        (Some(_), CommandSource::Automatic) if earlier_passed => true,
        (Some(Signal::UnsupportedFormat), CommandSource::Explicit) if earlier_passed => true,
        (Some(_), _) => documentation_only || no_change,
    }
}

/// Whether the command runs a script in every package of a workspace.
pub fn is_recursive(command: &str) -> bool {
    let Ok(parsed) = parse(command) else {
        return false;
    };
    let flags: &[&str] = match parsed.program.to_lowercase().as_str() {
        "pnpm" => &["-r", "--recursive"],
        "npm" => &["-ws", "--workspaces"],
        _ => return false,
    };
    let recursive = parsed.args.iter().any(|arg| flags.contains(&arg.trim().to_lowercase().as_str()));
    let filtered =
        parsed.args.iter().any(|arg| arg == "--filter" || arg.to_lowercase().starts_with("--filter="));
    recursive && !filtered
}
