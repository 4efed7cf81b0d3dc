//! Which paths a change may touch (spec agents 3.2, 3.3; one engine for worker and judge, Q19).
//!
//! Fails closed: a pattern that cannot be honoured is an error, an empty list of allowed paths allows
//! nothing, and what is denied stays denied whatever is allowed. Must not read files: what exists is
//! asked through an argument.

mod braces;
mod glob;

use std::fmt;
use std::sync::LazyLock;

pub use glob::{GlobError, Pattern};
use regex::Regex;

/// A list that cannot be honoured. Nothing may be published under it.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// A pattern that cannot be honoured exactly.
    #[error("failed to read {list} pattern '{pattern}': {source}")]
    Pattern {
        /// `allowedPaths` or `deniedPaths`.
        list: &'static str,
        /// As it was written.
        pattern: String,
        /// What is wrong with it.
        #[source]
        source: GlobError,
    },
    /// A pattern that would protect nothing.
    #[error(
        "failed to read deniedPaths pattern '{pattern}': no path can match it, write 'dir/**' to protect a directory"
    )]
    ProtectsNothing {
        /// As it was written.
        pattern: String,
    },
}

/// Why a path is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ViolationKind {
    /// A denied pattern matches; wins over every allowed one.
    Denied,
    /// No allowed pattern matches.
    OutsideAllowed,
}

/// A changed path that the policy refuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// As it was reported.
    pub path: String,
    /// Why.
    pub kind: ViolationKind,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            ViolationKind::Denied => "Change to denied path",
            ViolationKind::OutsideAllowed => "Change outside allowed paths",
        };
        write!(f, "{what}: {}", self.path)
    }
}

/// Compiled allowed and denied paths.
#[derive(Debug)]
pub struct Policy {
    allowed: Vec<Rule>,
    denied: Vec<Rule>,
}

impl Policy {
    /// Compiles both lists. Allowed patterns that match nothing are kept: they allow nothing.
    ///
    /// # Errors
    /// When a pattern cannot be honoured, or a denied one would protect nothing.
    pub fn new(allowed: &[String], denied: &[String]) -> Result<Self, PolicyError> {
        let policy =
            Self { allowed: compile("allowedPaths", allowed)?, denied: compile("deniedPaths", denied)? };
        match policy.denied.iter().zip(denied).find(|(rule, _)| !rule.can_match()) {
            Some((_, pattern)) => Err(PolicyError::ProtectsNothing { pattern: pattern.clone() }),
            None => Ok(policy),
        }
    }

    /// What speaks against changing `path`. A lockfile in the root needs no permission (spec agents
    /// 3.3, A40), but can be denied.
    pub fn violation(&self, path: &str) -> Option<Violation> {
        match self.listed(path) {
            Some(kind) if kind == ViolationKind::OutsideAllowed && is_root_lockfile(path) => None,
            Some(kind) => Some(Violation { path: path.into(), kind }),
            None => None,
        }
    }

    /// As [`Policy::violation`], by the two lists alone.
    fn listed(&self, path: &str) -> Option<ViolationKind> {
        let normalised = normalise(path);
        let any = |rules: &[Rule]| rules.iter().any(|rule| rule.matches(path, &normalised));
        if any(&self.denied) {
            Some(ViolationKind::Denied)
        } else if any(&self.allowed) {
            None
        } else {
            Some(ViolationKind::OutsideAllowed)
        }
    }
}

/// Checks changed paths against both lists, in the order of `changed`.
///
/// # Errors
/// As [`Policy::new`]: an unreadable list refuses everything.
pub fn check(
    changed: &[String],
    allowed: &[String],
    denied: &[String],
) -> Result<Vec<Violation>, PolicyError> {
    let policy = Policy::new(allowed, denied)?;
    Ok(changed.iter().filter_map(|path| policy.violation(path)).collect())
}

/// A pattern as written and in its normal form; either may match (correction 18).
#[derive(Debug)]
struct Rule {
    written: Pattern,
    normal: Option<Pattern>,
}

/// A pattern that no permission hangs on: which files a rule of a repository is about.
#[derive(Debug)]
pub struct PathPattern(Rule);

impl PathPattern {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// When the pattern cannot be honoured exactly.
    pub fn parse(pattern: &str) -> Result<Self, GlobError> {
        Rule::parse(pattern).map(Self)
    }

    /// Whether it fits this path.
    pub fn matches(&self, path: &str) -> bool {
        self.0.matches(path, &normalise(path))
    }
}

impl Rule {
    fn parse(pattern: &str) -> Result<Self, GlobError> {
        let written = Pattern::parse(pattern)?;
        let normal = match Pattern::parse(&normalise(pattern)) {
            Ok(pattern) => Some(pattern),
            // `src/\[id\]/**` has no normal form: its backslashes are escapes, not separators.
            Err(_) if pattern.contains('\\') => None,
            Err(error) => return Err(error),
        };
        Ok(Self { written, normal })
    }

    fn matches(&self, path: &str, normalised: &str) -> bool {
        self.written.matches(path) || self.normal.as_ref().is_some_and(|pattern| pattern.matches(normalised))
    }

    fn can_match(&self) -> bool {
        self.written.can_match() || self.normal.as_ref().is_some_and(Pattern::can_match)
    }
}

fn compile(list: &'static str, patterns: &[String]) -> Result<Vec<Rule>, PolicyError> {
    let named = |pattern: &String| {
        Rule::parse(pattern).map_err(|source| PolicyError::Pattern { list, pattern: pattern.clone(), source })
    };
    patterns.iter().map(named).collect()
}

/// Without NUL, outer blanks and quotes; `\` as `/`; without one leading `./` and all leading `/`.
pub fn normalise(path: &str) -> String {
    let text = path.replace('\0', "");
    let text = text.trim();
    let quoted = |quote: char| text.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    let text = quoted('"').or_else(|| quoted('\'')).unwrap_or(text).replace('\\', "/");
    let text = text.strip_prefix("./").unwrap_or(&text);
    text.trim_start_matches('/').to_string()
}

/// Whether `path` is a file in the root whose name has `lock` as a word of its own.
pub fn is_root_lockfile(path: &str) -> bool {
    static LOCK: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r"(?i)(?:^|[-._])lock(?:[-._]|$)").ok());
    !path.contains('/') && LOCK.as_ref().is_some_and(|lock| lock.is_match(path))
}

/// Directories that tools write, at any depth.
const GENERATED_DIRS: [&str; 6] = ["node_modules", "dist", ".turbo", "coverage", "build", "out"];
/// The same, but a file of that name is not meant.
const GENERATED_REPORT_DIRS: [&str; 2] = ["playwright-report", "test-results"];
/// Files that tools write, at any depth.
const GENERATED_SUFFIXES: [&str; 7] = [".elf", ".o", ".a", ".bin", ".img", ".map", ".tsbuildinfo"];
/// Scratch directories of the executors, at any depth.
const EXECUTOR_SCRATCH: &str = ".openTiger-opencode-";
/// Scratch directories of the original's judge.
const JUDGE_SCRATCH: [&str; 2] = ["apps/judge/test-repo", "apps/judge/repro"];

/// Whether `path` is something tools write: never checked, committed or reported (spec agents 3.2).
pub fn generated(path: &str) -> bool {
    let path = normalise(path);
    let names: Vec<&str> = path.split('/').filter(|name| !name.is_empty()).collect();
    let Some((file, parents)) = names.split_last() else {
        return false;
    };
    if names.iter().any(|name| matches!(*name, "." | "..")) {
        return false;
    }
    names.iter().any(|name| GENERATED_DIRS.contains(name) || name.starts_with(EXECUTOR_SCRATCH))
        || parents.iter().any(|name| GENERATED_REPORT_DIRS.contains(name))
        || GENERATED_SUFFIXES.iter().any(|suffix| file.ends_with(suffix))
        || path == ".opentiger/generated-paths.auto.txt"
        || JUDGE_SCRATCH
            .iter()
            .any(|dir| path.strip_prefix(dir).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

/// The changed paths that count: neither generated nor compiled from TypeScript beside them (spec
/// agents 3.1, order 4). `exists` says whether a path relative to the root is a file.
pub fn relevant(changed: &[String], exists: impl Fn(&str) -> bool) -> Vec<String> {
    let compiled = |path: &str| {
        let stem = [".d.ts.map", ".d.ts", ".js"].iter().find_map(|suffix| path.strip_suffix(suffix));
        stem.is_some_and(|stem| [".ts", ".tsx"].iter().any(|source| exists(&format!("{stem}{source}"))))
    };
    changed.iter().filter(|path| !generated(path) && !compiled(path)).cloned().collect()
}

/// Whether `path` is documentation (spec agents 3.7): skip rules are milder for it.
pub fn is_documentation(path: &str) -> bool {
    path.ends_with(".md")
        || path.ends_with(".mdx")
        || path.starts_with("docs/")
        || path.starts_with("ops/runbooks/")
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
