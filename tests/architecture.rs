//! The walls between modules, read from the source: which module may import which, and where the
//! clock, the environment and randomness may be read. The tables here are those of the conventions.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// What a module may import from this crate. `bin` is not listed: it may import everything.
const WALLS: &[(&str, &[&str])] = &[
    ("crd", &[]),
    ("plan", &["crd"]),
    ("build", &["crd", "plan"]),
    ("config", &["crd"]),
    ("telemetry", &["crd"]),
    ("metrics", &["crd"]),
    ("cluster", &["crd", "metrics"]),
    ("postgres", &["crd", "metrics"]),
    ("controller", &["crd", "plan", "build", "config", "telemetry", "metrics", "cluster"]),
    ("http_api", &["crd", "plan", "cluster", "postgres"]),
    ("runner", &["crd", "plan", "config", "telemetry"]),
];

/// Files that may import more than their module.
const DOORS: &[(&str, &str)] = &[
    // Only the mirror and its log archive write to Postgres.
    ("src/controller/mirror", "postgres"),
    ("src/controller/logs", "postgres"),
    // Tests of the plans act on Runs as they are really built.
    ("src/plan/fixtures.rs", "build"),
];

/// Modules without I/O, clock or randomness.
const PURE: &[&str] = &["crd", "plan", "build"];

/// Paths that a pure module never names (the beginning of the path is compared).
const IMPURE: &[&str] = &[
    "tokio",
    "reqwest",
    "tokio_postgres",
    "std::fs",
    "std::net::TcpListener",
    "std::net::TcpStream",
    "std::net::UdpSocket",
    "std::process",
    "std::env",
    "std::thread",
    "kube::Api",
    "kube::Client",
    "kube::api::Api",
    "kube::client",
    "kube::runtime",
];

/// Calls that read the world, and the files (or folders) that may make them.
const CALLS: &[(&str, &[&str])] = &[
    ("Timestamp::now", &["src/bin/", "src/controller/context.rs", "src/runner/clock.rs"]),
    ("SystemTime::now", &["src/bin/", "src/controller/context.rs"]),
    ("env::var", &["src/bin/", "src/config.rs"]),
    ("env::vars", &["src/bin/", "src/config.rs"]),
    ("env::var_os", &["src/bin/", "src/config.rs"]),
    // What git inherits, by name.
    ("env::vars_os", &["src/bin/", "src/runner/git/mod.rs"]),
    ("Uuid::new_v4", &["src/cluster/random.rs", "src/runner/random.rs"]),
    ("RandomState::new", &["src/cluster/random.rs", "src/runner/random.rs"]),
    ("rand", &["src/cluster/random.rs", "src/runner/random.rs"]),
    ("fastrand", &["src/cluster/random.rs", "src/runner/random.rs"]),
    ("getrandom", &["src/cluster/random.rs", "src/runner/random.rs"]),
];

/// One path in a source file, resolved: `crate::` and `super::` are replaced by the module.
#[derive(Debug, PartialEq, Eq)]
struct Mention {
    line: usize,
    /// `crate::plan::dispatch` or, for anything else, the path as written.
    path: String,
    /// Inside a `mod tests`.
    in_tests: bool,
}

/// A word, `::` or one character, with its line.
type Token = (usize, String);

/// Splits source text into tokens without comments, strings, characters and lifetimes.
fn tokens(source: &str) -> Vec<Token> {
    let chars: Vec<char> = source.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let (mut out, mut i, mut line) = (Vec::new(), 0, 1);
    while i < chars.len() {
        let start = i;
        match at(i) {
            '/' if at(i + 1) == '/' => {
                while i < chars.len() && at(i) != '\n' {
                    i += 1;
                }
            }
            '/' if at(i + 1) == '*' => {
                let mut depth = 0;
                loop {
                    match (at(i), at(i + 1)) {
                        ('/', '*') => (depth, i) = (depth + 1, i + 2),
                        ('*', '/') => (depth, i) = (depth - 1, i + 2),
                        _ => i += 1,
                    }
                    if depth == 0 || i >= chars.len() {
                        break;
                    }
                }
            }
            'r' | 'b' if raw_string(&chars, i).is_some() => i = raw_string(&chars, i).unwrap_or(i + 1),
            '"' => i = quoted(&chars, i, '"'),
            // A character, or a lifetime, which has no closing quote.
            '\'' if at(i + 1) == '\\' || at(i + 2) == '\'' => i = quoted(&chars, i, '\''),
            '\'' => {
                i += 1;
                while word(at(i)) {
                    i += 1;
                }
            }
            c if word(c) => {
                while word(at(i)) {
                    i += 1;
                }
                out.push((line, chars[start..i].iter().collect()));
            }
            ':' if at(i + 1) == ':' => {
                i += 2;
                out.push((line, "::".into()));
            }
            c => {
                i += 1;
                if !c.is_whitespace() {
                    out.push((line, c.to_string()));
                }
            }
        }
        line += chars[start..i].iter().filter(|c| **c == '\n').count();
    }
    out
}

/// End of the quoted text that begins at `i`.
fn quoted(chars: &[char], mut i: usize, quote: char) -> usize {
    i += 1;
    while i < chars.len() && chars[i] != quote {
        i += if chars[i] == '\\' { 2 } else { 1 };
    }
    (i + 1).min(chars.len())
}

/// End of the raw string (`r"..."`, `br##"..."##`) that begins at `i`, if one does.
fn raw_string(chars: &[char], i: usize) -> Option<usize> {
    if i > 0 && (chars[i - 1].is_alphanumeric() || chars[i - 1] == '_') {
        return None;
    }
    let mut j = i + usize::from(chars[i] == 'b');
    (chars.get(j) == Some(&'r')).then_some(())?;
    j += 1;
    let hashes = chars[j..].iter().take_while(|c| **c == '#').count();
    j += hashes;
    (chars.get(j) == Some(&'"')).then_some(())?;
    while j < chars.len() {
        j += 1;
        if chars.get(j) == Some(&'"')
            && chars[j + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes
        {
            return Some(j + 1 + hashes);
        }
    }
    Some(chars.len())
}

/// The module path of a file below `src`: `src/plan/dispatch.rs` is `[plan, dispatch]`.
fn module_of(file: &str) -> Vec<String> {
    let inner = file.trim_start_matches("src/").trim_end_matches(".rs");
    inner.split('/').filter(|part| !matches!(*part, "mod" | "lib")).map(String::from).collect()
}

/// Every path of a file, with groups (`{a, b}`) taken apart and `super` resolved.
fn mentions(file: &str, source: &str) -> Vec<Mention> {
    let tokens = tokens(source);
    let text = |i: usize| tokens.get(i).map_or("", |t| t.1.as_str());
    // Open braces; those of an inline module carry its name.
    let mut braces: Vec<Option<String>> = Vec::new();
    let (mut out, mut i) = (Vec::new(), 0);
    while i < tokens.len() {
        if text(i) == "mod" && text(i + 2) == "{" {
            braces.push(Some(text(i + 1).into()));
            i += 3;
            continue;
        }
        match text(i) {
            "{" => braces.push(None),
            "}" => drop(braces.pop()),
            first if is_word(first) && text(i + 1) == "::" => {
                let mut here = module_of(file);
                here.extend(braces.iter().flatten().cloned());
                let in_tests = here.iter().any(|m| m == "tests");
                i = path(&tokens, i, &here, &[], in_tests, &mut out);
                continue;
            }
            _ => {}
        }
        i += 1;
    }
    out
}

fn is_word(token: &str) -> bool {
    token.chars().next().is_some_and(|c| c.is_alphanumeric() || c == '_')
}

/// Reads one path (or use tree) at `i`, adds its leaves to `out`, returns the position after it.
fn path(
    tokens: &[Token],
    mut i: usize,
    here: &[String],
    prefix: &[String],
    in_tests: bool,
    out: &mut Vec<Mention>,
) -> usize {
    let text = |i: usize| tokens.get(i).map_or("", |t| t.1.as_str());
    let line = tokens.get(i).map_or(0, |t| t.0);
    let mut parts = prefix.to_vec();
    loop {
        match text(i) {
            "{" => {
                i += 1;
                while i < tokens.len() && text(i) != "}" {
                    i = if text(i) == "," { i + 1 } else { path(tokens, i, here, &parts, in_tests, out) };
                }
                return i + 1;
            }
            "*" => i += 1,
            "crate" | "opentiger" if parts.is_empty() => {
                parts.push("crate".into());
                i += 1;
            }
            "super" => {
                if parts.is_empty() {
                    parts.push("crate".into());
                    parts.extend_from_slice(here);
                }
                parts.pop();
                i += 1;
            }
            "self" if parts.is_empty() => {
                parts.push("crate".into());
                parts.extend_from_slice(here);
                i += 1;
            }
            word if is_word(word) => {
                parts.push(word.into());
                i += 1;
            }
            // Something that is no path after all, such as `Vec::<u8>`.
            _ => break,
        }
        if text(i) != "::" {
            break;
        }
        i += 1;
    }
    if text(i) == "as" {
        i += 2;
    }
    out.push(Mention { line, path: parts.join("::"), in_tests });
    i.max(1)
}

/// What is wrong with one file, a sentence each.
fn violations(file: &str, source: &str) -> Vec<String> {
    let module = module_of(file).first().cloned().unwrap_or_default();
    let mut out = Vec::new();
    for Mention { line, path, in_tests } in mentions(file, source) {
        let mut parts = path.split("::");
        if module != "bin" && parts.next() == Some("crate") {
            let target = parts.next().unwrap_or_default();
            if !may_import(file, &module, target) {
                out.push(format!("{file}:{line}: `{module}` must not import `{target}` ({path})"));
            }
        }
        if PURE.contains(&module.as_str()) && !in_tests {
            let impure = IMPURE.iter().any(|p| path == *p || path.starts_with(&format!("{p}::")));
            if impure || path.ends_with("Instant::now") {
                out.push(format!("{file}:{line}: `{module}` is pure and must not use `{path}`"));
            }
        }
        for (call, files) in CALLS {
            let called = path == *call
                || path.ends_with(&format!("::{call}"))
                || path.starts_with(&format!("{call}::"));
            if called && !in_tests && !files.iter().any(|f| file.starts_with(f)) {
                out.push(format!("{file}:{line}: `{path}` may be called in {} only", files.join(", ")));
            }
        }
    }
    out
}

/// Whether `file` of `module` may import the top-level module `target`. What is not a module
/// (a macro, the crate root itself) is free.
fn may_import(file: &str, module: &str, target: &str) -> bool {
    if target == module || !WALLS.iter().any(|(name, _)| *name == target) {
        return true;
    }
    let door = DOORS.iter().any(|(prefix, name)| file.starts_with(prefix) && *name == target);
    door || WALLS.iter().any(|(name, allowed)| *name == module && allowed.contains(&target))
}

/// Every Rust file below `folder`.
fn rust_files(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("readable folder") {
        let path = entry.expect("readable entry").path();
        if path.is_dir() {
            rust_files(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    rust_files(&root.join("src"), &mut files);
    files.sort();
    files
        .iter()
        .map(|file| {
            let name = file.strip_prefix(root).expect("below the root").to_string_lossy().into_owned();
            (name, std::fs::read_to_string(file).expect("readable file"))
        })
        .collect()
}

#[test]
fn imports_go_down_only_and_pure_modules_stay_pure() {
    let found: Vec<String> = sources().iter().flat_map(|(file, source)| violations(file, source)).collect();
    assert!(found.is_empty(), "forbidden by the walls between modules:\n{}", found.join("\n"));
}

#[test]
fn every_module_has_its_walls() {
    let mut missing = String::new();
    for (file, _) in sources() {
        let module = module_of(&file).first().cloned().unwrap_or_default();
        if !module.is_empty() && module != "bin" && !WALLS.iter().any(|(name, _)| *name == module) {
            let _ = writeln!(missing, "{file}: module `{module}` is not in the table of walls");
        }
    }
    assert!(missing.is_empty(), "{missing}");
}

#[test]
fn every_file_says_what_it_owns_and_stays_short() {
    let mut found = String::new();
    for (file, source) in sources() {
        if !source.starts_with("//!") {
            let _ = writeln!(found, "{file}: must open with `//!` and say what it owns");
        }
        if source.lines().count() > 520 {
            let _ = writeln!(found, "{file}: has {} lines, split it at 500", source.lines().count());
        }
    }
    assert!(found.is_empty(), "{found}");
}

#[test]
fn a_forbidden_import_is_found_however_it_is_written() {
    for (file, source) in [
        ("src/crd/task.rs", "use crate::plan::dispatch;"),
        ("src/plan/dispatch.rs", "use crate::{crd::Task, cluster::{self, apply}};"),
        ("src/plan/mod.rs", "use super::cluster;"),
        ("src/plan/dispatch.rs", "use super::super::postgres::Pool;"),
        ("src/plan/dispatch.rs", "mod tests { use super::super::super::postgres; }"),
        ("src/runner/mod.rs", "fn f() { let x = crate::cluster::apply(1); }"),
        ("src/runner/mod.rs", "use opentiger::postgres as p;"),
        ("src/controller/task.rs", "pub(in crate::postgres) struct X;"),
        ("src/http_api/tasks.rs", "use {crate::{controller}};"),
        ("src/build/pod.rs", "macro_rules! m { () => { $crate::cluster::x!() } }"),
        ("src/metrics.rs", "use crate::{\n  crd, // down\n  config\n};"),
        ("src/plan/run.rs", "use kube::{Resource, runtime::watcher};"),
        ("src/plan/run.rs", "fn f() { std::fs::read(1); }"),
        ("src/plan/run.rs", "fn f() { Instant::now(); }"),
        ("src/cluster/apply.rs", "fn f() { jiff::Timestamp::now(); }"),
        ("src/runner/git.rs", "fn f() { std::env::var(\"HOME\"); }"),
        ("src/runner/git.rs", "use rand::Rng;"),
    ] {
        assert!(!violations(file, source).is_empty(), "not found: {file}: {source}");
    }
}

#[test]
fn what_the_walls_allow_is_not_refused() {
    for (file, source) in [
        (
            "src/plan/dispatch.rs",
            "use crate::crd::{self, Task}; use super::quota; use super::super::crd::Run;",
        ),
        (
            "src/plan/dispatch.rs",
            "mod tests { use super::*; use super::super::area; fn f() { Timestamp::now(); } }",
        ),
        ("src/controller/mirror.rs", "use crate::postgres::Pool;"),
        ("src/controller/mirror/batch.rs", "use crate::{postgres, cluster};"),
        ("src/crd/task.rs", "// use crate::plan;\n/* crate::plan /* crate::plan */ crate::plan */"),
        (
            "src/crd/task.rs",
            "const X: &str = \"crate::plan\"; const Y: &str = r#\"a \" crate::plan\"#; const Z: char = '\"';",
        ),
        ("src/crd/task.rs", "fn f<'a>(x: &'a str) -> Vec::<u8> { matches!(x, '\\'' | 'b'); crate::m!() }"),
        ("src/bin/opentiger.rs", "use opentiger::{controller, postgres}; fn f() { Timestamp::now(); }"),
        ("src/config.rs", "fn f() { std::env::var(\"X\"); }"),
    ] {
        assert_eq!(violations(file, source), Vec::<String>::new(), "{file}: {source}");
    }
}
