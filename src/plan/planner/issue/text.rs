//! What the text and the labels of an issue say about its Task (spec api 3.2, corrections 10 to 12).
//!
//! Pure. Forms that people write without knowing of us: nothing here is an error.

use std::sync::LazyLock;

use regex::Regex;

use crate::crd::pool::Role;
use crate::crd::task::RiskLevel;

type Pattern = LazyLock<Option<Regex>>;

static HEADING: Pattern = LazyLock::new(|| Regex::new(r"^\s{0,3}#{1,6}\s+(.*)$").ok());
static ROLE_HEADING: Pattern = LazyLock::new(|| Regex::new(r"(?i)^(?:agent|role)\b").ok());
static ROLE_LINE: Pattern = LazyLock::new(|| {
    let keys = "agent(?:\\s+role)?|role|担当(?:エージェント)?|実行エージェント";
    Regex::new(&format!(r"(?i)^\s*(?:[-*]\s*)?(?:{keys})\s*[:：]\s*(worker|tester|docser)\b")).ok()
});
static ROLE: Pattern = LazyLock::new(|| Regex::new(r"(?i)\b(worker|tester|docser)\b").ok());
static PATHS_HEADING: Pattern = LazyLock::new(|| Regex::new(r"(?i)^allowed\s+paths?\b").ok());
static PATHS_LINE: Pattern =
    LazyLock::new(|| Regex::new(r"(?im)^\s*(?:[-*]\s*)?allowed\s+paths?\s*[:：]\s*([^\n]+)").ok());
static BULLET: Pattern = LazyLock::new(|| Regex::new(r"^\s*[-*]\s+").ok());
static DEPENDENCY_HEADING: Pattern =
    LazyLock::new(|| Regex::new(r"(?i)^(?:dependenc(?:y|ies)|depends?\s+on|blocked\s+by|requires?)\b").ok());
static DEPENDENCY: Pattern = LazyLock::new(|| {
    let words = r"\b(?:dependenc(?:y|ies)|depends?\s+on|blocked\s+by|requires?)\b";
    Regex::new(&format!(r"(?i)(?:{words}|依存(?:関係)?)(.*)$")).ok()
});
static LINKING: Pattern = LazyLock::new(|| {
    Regex::new(r"(?i)\b(?:close[sd]?|fix(?:e[sd])?|resolve[sd]?|refs?|related|issue)\b").ok()
});
static REFERENCE: Pattern = LazyLock::new(|| Regex::new(r"(?:#|/issues/)(\d{1,10})\b").ok());

fn is(pattern: &Pattern, text: &str) -> bool {
    pattern.as_ref().is_some_and(|pattern| pattern.is_match(text))
}

/// The first group of the first match.
fn part<'a>(pattern: &Pattern, text: &'a str) -> Option<&'a str> {
    Some(pattern.as_ref()?.captures(text)?.get(1)?.as_str())
}

fn heading(line: &str) -> Option<&str> {
    part(&HEADING, line)
}

/// The role that is named: by a label, else by a line, else in a section of that name.
pub fn role(labels: &[String], body: &str) -> Option<Role> {
    let by_line = || body.lines().find_map(|line| part(&ROLE_LINE, line)).and_then(role_of);
    let by_section = || section(body, &ROLE_HEADING).find_map(|line| part(&ROLE, line)).and_then(role_of);
    labels.iter().find_map(|label| role_of_label(label)).or_else(by_line).or_else(by_section)
}

fn role_of(word: &str) -> Option<Role> {
    match word.to_lowercase().as_str() {
        "worker" => Some(Role::Worker),
        "tester" => Some(Role::Tester),
        "docser" => Some(Role::Docser),
        _ => None,
    }
}

/// `role:x`, `agent:x` or `x`, whatever the case and the white space.
fn role_of_label(label: &str) -> Option<Role> {
    let label: String = label.chars().filter(|c| !c.is_whitespace()).collect::<String>().to_lowercase();
    role_of(label.strip_prefix("role:").or_else(|| label.strip_prefix("agent:")).unwrap_or(&label))
}

/// What could go wrong, by words in the labels.
pub fn risk(labels: &[String]) -> RiskLevel {
    let has = |words: &[&str]| contains(labels, words);
    match () {
        () if has(&["critical", "security", "urgent"]) => RiskLevel::High,
        () if has(&["bug", "important", "fix"]) => RiskLevel::Medium,
        () => RiskLevel::Low,
    }
}

/// The priority of a Task, by words in the labels.
pub fn priority(labels: &[String]) -> i32 {
    let has = |words: &[&str]| contains(labels, words);
    match () {
        () if has(&["priority:high", "p0", "p1"]) => 90,
        () if has(&["priority:medium", "p2"]) => 60,
        () => 40,
    }
}

fn contains(labels: &[String], words: &[&str]) -> bool {
    labels.iter().any(|label| {
        let label = label.to_lowercase();
        words.iter().any(|word| label.contains(word))
    })
}

/// The paths that are named: in sections "Allowed Paths", else behind "Allowed Paths:", there either
/// separated by commas on one line or as a list on the lines that follow; else `fallback`; else `**`.
pub fn allowed_paths(body: &str, fallback: &[String]) -> Vec<String> {
    let of = |tokens: Vec<String>| once(tokens.iter().flat_map(|token| patterns(token)));
    let mut paths = of(section(body, &PATHS_HEADING)
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect());
    if paths.is_empty() {
        paths = of(inline_paths(&body.replace('\r', "")));
    }
    if paths.is_empty() {
        paths = of(fallback.to_vec());
    }
    if paths.is_empty() { vec!["**".to_owned()] } else { paths }
}

fn inline_paths(body: &str) -> Vec<String> {
    let found = PATHS_LINE.as_ref().and_then(|pattern| pattern.captures(body)?.get(1));
    let Some(found) = found else { return Vec::new() };
    let bullet = |line: &&str| is(&BULLET, line);
    let first = found.as_str();
    let listed = bullet(&first) && body[..found.start()].ends_with(['\n', ' ', '\t']);
    let more = body[found.end()..].lines().skip(1).take_while(bullet).filter(|_| listed);
    first.split(',').chain(more).map(str::to_owned).collect()
}

/// The patterns that one token stands for: a directory is itself and what is in it. A name with a dot
/// in its last part is a file (corrections 12).
pub fn patterns(token: &str) -> Vec<String> {
    let token = token.trim();
    let token = match BULLET.as_ref() {
        Some(bullet) => bullet.replace(token, "").replace("\\*", "*"),
        None => token.to_owned(),
    };
    let token = token.trim().trim_matches(['`', '\'', '"']).trim();
    let token = token.strip_prefix("./").unwrap_or(token).trim_end_matches('/');
    let last = token.rsplit('/').next().unwrap_or_default();
    match token {
        "" | "." => vec!["**".to_owned()],
        _ if token.contains('*') || last.contains('.') => vec![token.to_owned()],
        _ => vec![token.to_owned(), format!("{token}/**")],
    }
}

/// Numbers of the issues that have to be done before: in a section about that, or behind such words on
/// their line. In order, each once.
pub fn dependencies(body: &str) -> Vec<i64> {
    let mut numbers = Vec::new();
    let mut inside = false;
    for line in body.lines() {
        let title = heading(line);
        if let Some(title) = title {
            inside = is(&DEPENDENCY_HEADING, title);
        }
        let told = if inside && title.is_none() { Some(line) } else { part(&DEPENDENCY, line) };
        numbers.extend(told.into_iter().flat_map(references));
    }
    once(numbers)
}

/// Numbers of the issues that a text names, as `#n` or by their address.
pub fn references(text: &str) -> Vec<i64> {
    let all = REFERENCE.as_ref().into_iter().flat_map(|pattern| pattern.captures_iter(text));
    let numbers = all.filter_map(|found| found.get(1)?.as_str().parse::<i64>().ok());
    once(numbers.filter(|number| *number > 0))
}

/// Numbers of the issues that a pull request is about: those on a line that says so.
pub fn linked(title: &str, body: &str) -> Vec<i64> {
    let lines = title.lines().chain(body.lines());
    once(lines.filter(|line| is(&LINKING, line)).flat_map(references))
}

/// The lines below each heading that `of` knows, up to the next heading.
fn section<'a>(body: &'a str, of: &'a Pattern) -> impl Iterator<Item = &'a str> {
    let mut inside = false;
    body.lines().filter(move |line| match heading(line) {
        Some(title) => {
            inside = is(of, title);
            false
        }
        None => inside,
    })
}

fn once<T: PartialEq>(values: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut kept = Vec::new();
    for value in values {
        if !kept.contains(&value) {
            kept.push(value);
        }
    }
    kept
}
