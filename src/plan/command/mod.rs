//! The grammar of verification commands (spec agents 3.5): no shell, one program per step.
//!
//! Pure: text in, steps out. Must not start anything; what a failure means is in [`outcome`], when no
//! change is fine in [`empty`], when the agent is to mend it in [`repair`], which commands no Task
//! names in [`automatic`].
//!
//! Two differences from the original, both on purpose: a split at `&&` keeps backslashes (there they
//! were lost, so the same command meant two things), and empty arguments (`''`) stay arguments.

pub mod automatic;
pub mod empty;
pub mod makefile;
pub mod outcome;
pub mod repair;

use std::sync::LazyLock;

use regex::{Regex, RegexBuilder};

/// Command patterns that are refused everywhere (spec agents 3.3).
pub const DENIED: [&str; 3] = ["rm -rf /", "sudo", "chmod 777"];

/// Builtins of shells that no program can stand in for.
const BUILTINS: [&str; 37] = [
    ".",
    "alias",
    "bg",
    "bind",
    "builtin",
    "caller",
    "cd",
    "declare",
    "dirs",
    "disown",
    "enable",
    "export",
    "fc",
    "fg",
    "getopts",
    "help",
    "jobs",
    "let",
    "local",
    "logout",
    "mapfile",
    "popd",
    "pushd",
    "readarray",
    "readonly",
    "set",
    "setopt",
    "shopt",
    "source",
    "suspend",
    "times",
    "trap",
    "typeset",
    "ulimit",
    "umask",
    "unalias",
    "unset",
];

/// Why a command is not run. The texts are read by the failure classification.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nothing but blanks.
    #[error("unsupported command format: the command is empty")]
    Empty,
    /// Text that only a shell understands, quoted or not.
    #[error("unsupported command format: shell operators such as '{0}' are not allowed")]
    Operator(&'static str),
    /// A quote or a backslash without its other half.
    #[error("unsupported command format: a quote or a backslash has no end")]
    Unbalanced,
    /// Only `NAME=value` words, or an empty name.
    #[error("unsupported command format: there is no program to run")]
    NoProgram,
    /// One of the builtins.
    #[error("unsupported shell builtin in verification command: {0}")]
    Builtin(String),
}

/// A program with its arguments and the variables set for it alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invocation {
    /// Name or path of the program.
    pub program: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// `NAME=value` before the program, in order.
    pub env: Vec<(String, String)>,
}

impl Invocation {
    /// Whether the program is a builtin of a shell.
    pub fn is_builtin(&self) -> bool {
        BUILTINS.contains(&self.program.to_lowercase().as_str())
    }
}

/// One command to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// As it was written, one part of a `&&` chain.
    pub command: String,
    /// Absolute directory.
    pub cwd: String,
    /// What to run, or why not.
    pub invocation: Result<Invocation, Refusal>,
}

/// All commands as steps. `cd DIR` moves the later ones and is no step itself; a `cd` that leaves
/// `repo` or has two arguments stays a step, and is refused as a builtin.
pub fn steps(commands: &[String], repo: &str) -> Vec<Step> {
    let mut cwd = repo.to_string();
    let mut steps = Vec::new();
    for command in commands.iter().flat_map(|command| expand(command)) {
        let parsed = parse(&command);
        if let Some(next) = parsed.as_ref().ok().and_then(|parsed| changed_directory(parsed, &cwd, repo)) {
            cwd = next;
            continue;
        }
        let invocation = match parsed {
            Ok(parsed) if parsed.is_builtin() => Err(Refusal::Builtin(parsed.program)),
            other => other,
        };
        steps.push(Step { command, cwd: cwd.clone(), invocation });
    }
    steps
}

/// Where `cd` leads, when it is one and stays inside.
fn changed_directory(invocation: &Invocation, cwd: &str, repo: &str) -> Option<String> {
    let target = match invocation.args.as_slice() {
        [] => ".",
        [target] => target.as_str(),
        [_, ..] => return None,
    };
    if invocation.program != "cd" {
        return None;
    }
    let joined = if target.starts_with('/') { target.to_string() } else { format!("{cwd}/{target}") };
    let mut names: Vec<&str> = Vec::new();
    for name in joined.split('/') {
        match name {
            "" | "." => {}
            ".." => {
                names.pop();
            }
            name => names.push(name),
        }
    }
    let resolved = format!("/{}", names.join("/"));
    let inside = resolved == repo || resolved.strip_prefix(repo).is_some_and(|rest| rest.starts_with('/'));
    inside.then_some(resolved)
}

/// The parts of a `&&` chain, quotes respected, blanks around them removed.
pub fn expand(command: &str) -> Vec<String> {
    let command = command.trim();
    if !command.contains("&&") {
        return Vec::from_iter((!command.is_empty()).then(|| command.to_string()));
    }
    let mut parts = Vec::new();
    let mut current = String::new();
    let mut quote: Option<char> = None;
    let mut chars = command.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('\\', None | Some('"')) => {
                current.push(c);
                current.extend(chars.next());
                continue;
            }
            ('\'' | '"', None) => quote = Some(c),
            (c, Some(open)) if c == open => quote = None,
            ('&', None) if chars.peek() == Some(&'&') => {
                chars.next();
                parts.extend(trimmed(&current));
                current.clear();
                continue;
            }
            (_, _) => {}
        }
        current.push(c);
    }
    parts.extend(trimmed(&current));
    if parts.is_empty() { vec![command.to_string()] } else { parts }
}

/// Without outer blanks. `None` when nothing is left.
fn trimmed(text: &str) -> Option<String> {
    let text = text.trim();
    (!text.is_empty()).then(|| text.to_string())
}

/// Text that is refused wherever it stands, longest first.
const OPERATORS: [&str; 9] = ["&&", "||", "|", ";", "&", "<", ">", "`", "$("];

/// One command as program, arguments and variables.
///
/// # Errors
/// When only a shell could run it. Builtins are not an error here, see [`Invocation::is_builtin`].
pub fn parse(command: &str) -> Result<Invocation, Refusal> {
    let command = command.trim();
    if command.is_empty() {
        return Err(Refusal::Empty);
    }
    if let Some(operator) = OPERATORS.iter().find(|operator| command.contains(**operator)) {
        return Err(Refusal::Operator(operator));
    }
    let mut words = words(command)?.into_iter().peekable();
    let mut env = Vec::new();
    while let Some(variable) = words.peek().and_then(|word| assignment(word)) {
        env.push(variable);
        words.next();
    }
    match words.next() {
        Some(program) if !program.is_empty() => Ok(Invocation { program, args: words.collect(), env }),
        Some(_) | None => Err(Refusal::NoProgram),
    }
}

/// `NAME=value`.
fn assignment(word: &str) -> Option<(String, String)> {
    let (name, value) = word.split_once('=')?;
    let mut chars = name.chars();
    let first = chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    let rest = chars.all(|c| c.is_ascii_alphanumeric() || c == '_');
    (first && rest).then(|| (name.into(), value.into()))
}

/// Words as a shell splits them: `'` literal, in `"` a backslash escapes only `" \ $`, a backtick and
/// the end of the line, elsewhere it escapes anything.
fn words(command: &str) -> Result<Vec<String>, Refusal> {
    let mut words = Vec::new();
    let mut current: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut chars = command.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('\\', None) => current.get_or_insert_default().push(chars.next().ok_or(Refusal::Unbalanced)?),
            ('\\', Some('"')) => match chars.next_if(|next| matches!(next, '"' | '\\' | '$' | '`' | '\n')) {
                Some(escaped) => current.get_or_insert_default().push(escaped),
                None => current.get_or_insert_default().push(c),
            },
            (c, Some(open)) if c == open => quote = None,
            (c, Some(_)) => current.get_or_insert_default().push(c),
            ('\'' | '"', None) => {
                quote = Some(c);
                current.get_or_insert_default();
            }
            (c, None) if c.is_whitespace() => words.extend(current.take()),
            (c, None) => current.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err(Refusal::Unbalanced);
    }
    words.extend(current);
    Ok(words)
}

/// The first pattern that forbids `command`: as a regular expression or as plain text, case ignored.
/// A pattern that is no regular expression counts as text; a blank one forbids nothing.
pub fn denied<'a>(command: &str, patterns: &[&'a str]) -> Option<&'a str> {
    let command = command.trim();
    let lower = command.to_lowercase();
    let forbids = |pattern: &str| {
        let regex = RegexBuilder::new(pattern).case_insensitive(true).build();
        regex.is_ok_and(|regex| regex.is_match(command)) || lower.contains(&pattern.to_lowercase())
    };
    patterns.iter().copied().find(|pattern| !pattern.trim().is_empty() && forbids(pattern.trim()))
}

/// The pattern that forbids a step, by its text or by the words it is made of: quotes can hide a word
/// (`s"ud"o`).
pub fn denied_step(step: &Step) -> Option<&'static str> {
    let words =
        step.invocation.as_ref().map(|parsed| format!("{} {}", parsed.program, parsed.args.join(" ")));
    denied(&step.command, &DENIED).or_else(|| denied(&words.ok()?, &DENIED))
}

/// The commands a docser runs: `<package manager> [run] check ...` (spec agents 4).
pub fn docser(commands: &[String]) -> Vec<String> {
    static CHECK: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r"(?i)^\s*(?:pnpm|npm|yarn|bun)\s+(?:run\s+)?check(?:\s+.*)?$").ok());
    let safe = |command: &&String| CHECK.as_ref().is_some_and(|check| check.is_match(command.trim()));
    commands.iter().filter(safe).cloned().collect()
}

#[cfg(test)]
mod cases;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
