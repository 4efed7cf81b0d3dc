//! The agent programs that a pool can name: how each is called and what its output says.
//!
//! Everything here is pure: settings and environment become a command, lines become a [`Report`]. Must
//! not start processes, read files or know what a Run is. Written for Claude Code 2.1.330, Codex 0.169.0
//! and OpenCode 1.18.33; the recordings in `tests/runner_execute/recorded` are theirs.

mod claude_code;
mod codex;
mod open_code;
#[cfg(test)]
mod properties;
mod report;
mod transcript;

use std::ffi::{OsStr, OsString};
use std::fmt::Debug;

use serde_json::Value;

pub use self::report::{Failure, Kind, Report, sum};
pub use self::transcript::Transcript;
use crate::crd::ExecutorType;
use crate::crd::pool::Executor;
use crate::runner::checkpoint::session::Sessions;

/// The same tool call so often in a row is a model that is stuck (spec agents 2.3).
pub const CALL_LIMIT: usize = 40;
/// Longest detail of a tool call that is shown, in characters.
const SHOWN_CHARS: usize = 400;

/// An environment.
pub type Environment = [(OsString, OsString)];

/// A program and what it is started with. The prompt goes to its standard input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invocation {
    pub argv: Vec<OsString>,
    /// Set beside what [`environment`] lets through.
    pub env: Vec<(OsString, OsString)>,
}

/// The file in which a program keeps its login.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoginFile {
    /// The program, as it is typed.
    pub program: &'static str,
    /// Key of the Secret: the file's name.
    pub key: &'static str,
    /// Where the program looks for it, below the home (spec agents 2.6).
    pub place: &'static str,
}

/// One agent program.
pub trait Cli: Debug + Sync {
    /// How it is called. `None` when the executor lacks its settings.
    fn invocation(&self, executor: &Executor, environment: &Environment) -> Option<Invocation>;

    /// Whether a variable of the container is for this program, besides those that all get.
    fn accepts(&self, executor: &Executor, name: &str) -> bool;

    /// The file in which it keeps its login.
    fn login(&self) -> LoginFile;

    /// Whether the content of that file logs it in. The error completes the sentence "the file ...".
    fn check_login(&self, executor: &Executor, content: &Value) -> Result<(), String>;

    /// Where it keeps its sessions, when they are files that can be kept.
    fn sessions(&self) -> Option<Sessions>;

    /// The call that goes on with a session instead of beginning one.
    fn resume(&self, argv: Vec<OsString>, session: &str) -> Vec<OsString>;

    /// Takes an event of its standard output in. Returns what people see of it.
    fn event(&self, event: &Value, report: &mut Report) -> Option<String>;

    /// Takes a line of its standard error in.
    fn complaint(&self, _line: &str, _report: &mut Report) {}
}

/// The agent program of an executor, when it is one.
pub fn of(type_: ExecutorType) -> Option<&'static dyn Cli> {
    match type_ {
        ExecutorType::ClaudeCode => Some(&claude_code::ClaudeCode),
        ExecutorType::Codex => Some(&codex::Codex),
        ExecutorType::OpenCode => Some(&open_code::OpenCode),
        ExecutorType::Command | ExecutorType::Mock => None,
    }
}

/// Variables that every program gets.
const COMMON: [&str; 22] = [
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "TERM",
    "TMPDIR",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "NODE_EXTRA_CA_CERTS",
    "GIT_SSL_CAINFO",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "LD_LIBRARY_PATH",
    "PKG_CONFIG_PATH",
    "CC",
    "CXX",
    "CI",
    "DEBIAN_FRONTEND",
];
/// Variables with which images tell where their tools are: without them the model cannot build.
const TOOLS: [&str; 22] = [
    "CARGO_",
    "RUSTUP_",
    "RUST",
    "GO",
    "JAVA_",
    "MAVEN_",
    "GRADLE_",
    "NODE_",
    "NPM_",
    "npm_",
    "PNPM_",
    "YARN_",
    "BUN_",
    "PYTHON",
    "PIP_",
    "UV_",
    "VIRTUAL_ENV",
    "CONDA_",
    "DOTNET_",
    "RUBY",
    "GEM_",
    "OPENTIGER_",
];
/// Variables of proxies, in either case.
const PROXIES: [&str; 4] = ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"];

/// What of the container's environment the program gets: its own variables, secret or not, and of the
/// rest what is listed and not secret (spec agents 2.5, trap Q13).
pub fn environment(
    cli: &dyn Cli,
    executor: &Executor,
    environment: &Environment,
    secret: &[OsString],
) -> Vec<(OsString, OsString)> {
    let passes = |name: &OsStr| {
        let Some(text) = name.to_str() else { return false };
        let plain = || {
            COMMON.contains(&text)
                || TOOLS.iter().any(|prefix| text.starts_with(prefix))
                || PROXIES.contains(&text.to_ascii_uppercase().as_str())
        };
        cli.accepts(executor, text) || (!secret.iter().any(|secret| secret == name) && plain())
    };
    environment.iter().filter(|(name, _)| passes(name)).cloned().collect()
}

/// Text of a variable; empty counts as absent.
fn variable<'a>(environment: &'a Environment, name: &str) -> Option<&'a str> {
    let (_, value) = environment.iter().rfind(|(other, _)| other == name)?;
    value.to_str().filter(|value| !value.is_empty())
}

fn pairs<'a>(all: impl IntoIterator<Item = (&'a str, &'a str)>) -> Vec<(OsString, OsString)> {
    all.into_iter().map(|(name, value)| (name.into(), value.into())).collect()
}

fn words<'a>(all: impl IntoIterator<Item = &'a str>) -> Vec<OsString> {
    all.into_iter().map(OsString::from).collect()
}

/// Text at a path of keys, empty when there is none.
fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Number at a path of keys; 0 when there is none or it is below zero.
fn number(value: &Value, pointer: &str) -> i64 {
    value.pointer(pointer).and_then(Value::as_i64).unwrap_or_default().max(0)
}

/// A tool call on one line: `-> Bash: make test`.
fn call(tool: &str, input: &Value) -> String {
    const TELLING: [&str; 8] = ["command", "cmd", "file_path", "filePath", "path", "pattern", "query", "url"];
    let detail = TELLING.iter().find_map(|key| match input.get(key)? {
        Value::String(text) => Some(text.clone()),
        Value::Array(parts) => Some(parts.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ")),
        _ => None,
    });
    let detail: String = detail.unwrap_or_default().chars().take(SHOWN_CHARS).collect();
    let detail = detail.split_whitespace().collect::<Vec<_>>().join(" ");
    if detail.is_empty() { format!("-> {tool}") } else { format!("-> {tool}: {detail}") }
}
