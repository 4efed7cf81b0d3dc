//! Which targets a makefile has, to leave out commands that cannot run (spec agents 3.4, "make filter").
//!
//! Reads the text only and never runs make. When it cannot know all targets (others are included or
//! computed), it lacks none. Pure.
//!
//! One difference from the original: a variable (`X := y`) is no target.

use std::collections::BTreeSet;
use std::sync::LazyLock;

use regex::Regex;

use super::Invocation;

/// Names under which make finds a makefile, in its own order.
pub const NAMES: [&str; 3] = ["GNUmakefile", "makefile", "Makefile"];

/// Short options that take make elsewhere, or are followed by a word of their own.
const ELSEWHERE: &str = "CfIoWEl";
/// The same, long.
const ELSEWHERE_LONG: [&str; 11] = [
    "--directory",
    "--file",
    "--makefile",
    "--include-dir",
    "--old-file",
    "--assume-old",
    "--what-if",
    "--new-file",
    "--assume-new",
    "--eval",
    "--load-average",
];

/// What a makefile says of its targets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Makefile {
    targets: BTreeSet<String>,
    /// There may be others.
    open: bool,
}

impl Makefile {
    /// Reads a makefile.
    pub fn parse(text: &str) -> Self {
        Self { targets: targets(text).into_iter().collect(), open: text.lines().any(is_open) }
    }

    /// The first target that this call of make asks for and that is not there.
    pub fn lacks<'a>(&self, invocation: &'a Invocation) -> Option<&'a str> {
        if self.open || self.targets.is_empty() {
            return None;
        }
        requested(invocation)?.into_iter().find(|target| !self.targets.contains(*target))
    }
}

/// The targets of a makefile in their order, those with patterns and special ones left out.
fn targets(text: &str) -> Vec<String> {
    static NAME: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new("^[A-Za-z0-9_][A-Za-z0-9_./-]*$").ok());
    let is_name = |name: &&str| NAME.as_ref().is_some_and(|pattern| pattern.is_match(name));
    let mut found: Vec<String> = Vec::new();
    for line in text.lines().filter_map(rule) {
        for name in line.split_whitespace().filter(is_name) {
            if !found.iter().any(|known| known == name) {
                found.push(name.into());
            }
        }
    }
    found
}

/// What stands before the colon of a rule; `None` for all other lines.
fn rule(line: &str) -> Option<&str> {
    let line = line.split('#').next().unwrap_or_default();
    let (before, after) = line.split_once(':')?;
    let assigns = before.contains('=') || after.trim_start_matches(':').starts_with('=');
    (!line.starts_with('\t') && !assigns).then_some(before)
}

/// Whether there may be targets that the text does not show.
fn is_open(line: &str) -> bool {
    let first = line.split_whitespace().next().unwrap_or_default();
    let includes = matches!(first, "include" | "-include" | "sinclude") || first.starts_with("$(eval");
    let computed = |before: &str| {
        before.contains('$') || before.split_whitespace().any(|name| matches!(name, "%" | ".DEFAULT"))
    };
    includes || rule(line).is_some_and(computed)
}

/// The targets that a command asks for, none for the default one. `None` when it is no call of make, or
/// one that looks elsewhere.
fn requested(invocation: &Invocation) -> Option<Vec<&str>> {
    if invocation.program != "make" {
        return None;
    }
    let mut found = Vec::new();
    let mut words = invocation.args.iter().map(String::as_str).peekable();
    while let Some(word) = words.next() {
        if let Some(long) = word.strip_prefix("--") {
            let name = word.split('=').next().unwrap_or(word);
            if ELSEWHERE_LONG.contains(&name) {
                return None;
            }
            if long == "jobs" {
                words.next_if(|next| is_number(next));
            }
        } else if let Some(short) = word.strip_prefix('-') {
            if short.contains(|c| ELSEWHERE.contains(c)) {
                return None;
            }
            if short.ends_with('j') {
                words.next_if(|next| is_number(next));
            }
        } else if !word.contains('=') {
            found.push(word);
        }
    }
    Some(found)
}

fn is_number(word: &str) -> bool {
    !word.is_empty() && word.chars().all(|c| c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::command::parse;
    use rstest::rstest;

    #[test]
    fn targets_agree_with_the_original_but_for_variables() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/make_targets.json");
        let rows: Vec<serde_json::Value> =
            serde_json::from_str(&std::fs::read_to_string(path).expect("vectors")).expect("json");
        assert!(rows.len() > 10);
        for row in rows {
            let (input, output) = (&row["input"], &row["output"]);
            if let Some(text) = input["makefile"].as_str() {
                let theirs = output.as_array().expect("a list").iter();
                // `X := y` makes X a target there.
                let is_variable = |name: &str| text.contains(&format!("{name} :="));
                let theirs = theirs.filter_map(|name| name.as_str()).filter(|name| !is_variable(name));
                assert_eq!(targets(text), theirs.collect::<Vec<_>>(), "{row}");
            } else {
                let parsed = parse(input["command"].as_str().expect("a command")).ok();
                let ours = parsed.as_ref().and_then(requested).map(|all| all.join(" "));
                assert_eq!(ours.as_deref(), output.as_str(), "{row}");
            }
        }
    }

    const PLAIN: &str = "X := y\n.PHONY: test lint\ntest: a.c b.c\n\tcc x: y\nlint fmt:: # lint: them\n";

    #[rstest]
    #[case::there(PLAIN, "make test", None)]
    #[case::default(PLAIN, "make", None)]
    #[case::second(PLAIN, "make test docs", Some("docs"))]
    #[case::variable(PLAIN, "make X", Some("X"))]
    #[case::options(PLAIN, "make -k -j 4 CC=gcc fmt", None)]
    #[case::no_option(PLAIN, "make --jobs 4 docs", Some("docs"))]
    #[case::elsewhere(PLAIN, "make -C sub docs", None)]
    #[case::another_file(PLAIN, "make --file=other.mk docs", None)]
    #[case::no_make(PLAIN, "cmake docs", None)]
    #[case::included("include common.mk\ntest:\n", "make docs", None)]
    #[case::computed("$(ALL): x\ntest:\n", "make docs", None)]
    #[case::anything("%:\n\t./do $@\ntest:\n", "make docs", None)]
    #[case::a_pattern("%.o: %.c\ntest:\n", "make docs", Some("docs"))]
    #[case::empty("", "make docs", None)]
    fn a_target_is_missed_only_when_it_is_known_to_be(
        #[case] makefile: &str,
        #[case] command: &str,
        #[case] missed: Option<&str>,
    ) {
        let parsed = parse(command).expect("a command");
        assert_eq!(Makefile::parse(makefile).lacks(&parsed), missed);
    }
}
