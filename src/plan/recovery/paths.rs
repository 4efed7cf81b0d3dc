//! Which paths a Task may gain after it changed others (spec: convergence 5.8). What is added goes to
//! `status.effective.allowedPaths`, never to the spec; denied paths stay denied.
//!
//! Bounded by nature: every widening adds a path that was not there, and the list has an end.

use std::sync::LazyLock;

use regex::Regex;

use crate::crd::{PathRecovery, Role};
use crate::plan::classify::pattern;

/// Longest list in `status.effective.allowedPaths`.
pub const MAX_PATHS: usize = 400;

/// The phrase before a refused path.
const OUTSIDE: &str = "change outside allowed paths:";

/// Files that belong to the tool a command calls.
static COMMAND_RULES: LazyLock<Vec<(Regex, &'static [&'static str])>> = LazyLock::new(|| {
    let rules: [(&str, &'static [&'static str]); 11] = [
        (r"(?i)\bmake\b", &["Makefile"]),
        (r"(?i)\bcmake\b", &["CMakeLists.txt"]),
        (r"(?i)\bninja\b", &["build.ninja"]),
        (r"(?i)\bcargo\b", &["Cargo.toml", "Cargo.lock"]),
        (r"(?i)\bgo\b", &["go.mod", "go.sum"]),
        (r"(?i)\b(gradle|gradlew)\b", &["build.gradle", "build.gradle.kts"]),
        (r"(?i)\b(gradle|gradlew)\b", &["settings.gradle", "settings.gradle.kts"]),
        (r"(?i)\b(gradle|gradlew)\b", &["gradle.properties"]),
        (r"(?i)\b(mvn|mvnw|maven)\b", &["pom.xml"]),
        (r"(?i)\b(bazel|bazelisk)\b", &["WORKSPACE", "WORKSPACE.bazel", "MODULE.bazel"]),
        (r"(?i)\b(bazel|bazelisk)\b", &["BUILD.bazel"]),
    ];
    rules.into_iter().map(|(text, paths)| (pattern(text), paths)).collect()
});

/// Words of a Task that is about building.
static BUILDING: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?i)\b(?:make|cmake|ninja|cargo|gradle|mvn|meson|gcc|clang|ld|objdump|readelf|build|compile|link|toolchain|bootstrap|setup)\b",
    )
});

/// Names of build files, in lower case.
const BUILD_FILES: [&str; 17] = [
    "makefile",
    "cmakelists.txt",
    "build.ninja",
    "cargo.toml",
    "cargo.lock",
    "go.mod",
    "go.sum",
    "build.gradle",
    "build.gradle.kts",
    "settings.gradle",
    "settings.gradle.kts",
    "gradle.properties",
    "pom.xml",
    "workspace",
    "workspace.bazel",
    "module.bazel",
    "build.bazel",
];
/// Endings of build files, in lower case.
const BUILD_ENDINGS: [&str; 2] = [".ld", ".lds"];
/// Hidden files in the root that are harmless.
const HIDDEN_FILES: [&str; 2] = [".gitignore", ".env.example"];

/// What is asked for a Task.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    pub title: &'a str,
    pub goal: &'a str,
    pub commands: &'a [String],
    pub role: Role,
    /// `context.files`.
    pub files: &'a [String],
}

/// Paths that the violations name as outside the allowed ones. `text` is read only when there is no
/// violation.
pub fn outside(violations: &[String], text: &str) -> Vec<String> {
    let mut violations = violations.iter().filter(|violation| !violation.trim().is_empty()).peekable();
    if violations.peek().is_some() { outside_of(violations.map(String::as_str)) } else { outside_in(text) }
}

/// Paths of those sentences that say that a change is outside the allowed paths.
pub fn outside_of<'a>(violations: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let path = |text: &'a str| {
        let text = text.trim();
        let start = text.get(..OUTSIDE.len())?;
        if start.eq_ignore_ascii_case(OUTSIDE) { text.get(OUTSIDE.len()..) } else { None }
    };
    distinct(violations.into_iter().filter_map(path))
}

/// Paths after each such phrase in a text; a comma before the next phrase ends one.
pub fn outside_in(text: &str) -> Vec<String> {
    static NEXT: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?i),\s*change outside allowed paths:"));
    let in_line = |line: &'_ str| -> Vec<String> {
        let start = line.to_ascii_lowercase().find(OUTSIDE).map(|at| at + OUTSIDE.len());
        let rest = start.and_then(|start| line.get(start..));
        rest.map(|rest| NEXT.split(rest).map(str::to_owned).collect()).unwrap_or_default()
    };
    let found: Vec<String> = text.lines().flat_map(in_line).collect();
    distinct(found.iter().map(String::as_str))
}

fn distinct<'a>(paths: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for path in paths.map(bare).filter(|path| !path.is_empty()) {
        if !all.contains(&path) {
            all.push(path);
        }
    }
    all
}

/// Without blanks, a pair of quotes and one leading `./`.
fn bare(path: &str) -> String {
    let path = path.trim();
    let quoted = |quote: char| path.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    let path = quoted('\'').or_else(|| quoted('"')).unwrap_or(path).trim();
    path.strip_prefix("./").unwrap_or(path).to_string()
}

/// Those of the refused paths that may be allowed without asking anybody.
pub fn safe(asked: &Asked, outside: &[String], mode: PathRecovery) -> Vec<String> {
    match asked.role {
        Role::Docser => return Vec::new(),
        Role::Worker | Role::Tester | Role::Judge | Role::Planner => {}
    }
    let text = format!("{}\n{}\n{}", asked.title, asked.goal, asked.commands.join("\n"));
    let building = BUILDING.is_match(&text);
    let allows = |path: &&String| {
        let path = path.strip_prefix("./").unwrap_or(path);
        let listed = asked.files.iter().any(|file| file.strip_prefix("./").unwrap_or(file) == path);
        let (balanced, aggressive) = match mode {
            PathRecovery::Conservative => (false, false),
            PathRecovery::Balanced => (true, false),
            PathRecovery::Aggressive => (true, true),
        };
        is_safe(path)
            && (listed
                || aggressive && is_tool_file(path)
                || balanced && building && is_build_file(path)
                || aggressive && building && is_root_file(path))
    };
    outside.iter().filter(allows).cloned().collect()
}

/// Relative, inside, and no pattern.
fn is_safe(path: &str) -> bool {
    !path.is_empty()
        && !path.starts_with(['/', '!', '#'])
        && !path.contains(['*', '?', '[', ']', '{', '}', '\\'])
        && path.split('/').all(|name| name != "..")
}

/// A file of a tool that any Task's commands could call.
fn is_tool_file(path: &str) -> bool {
    COMMAND_RULES.iter().flat_map(|(_, paths)| paths.iter()).any(|file| file.eq_ignore_ascii_case(path))
}

fn is_build_file(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path).to_lowercase();
    BUILD_FILES.contains(&name.as_str()) || BUILD_ENDINGS.iter().any(|ending| name.ends_with(ending))
}

fn is_root_file(path: &str) -> bool {
    let plain = path.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'));
    plain && (!path.starts_with('.') || HIDDEN_FILES.contains(&path))
}

/// Files that the Task's commands need, whatever was refused.
pub fn command_driven(commands: &[String], role: Role) -> Vec<String> {
    match role {
        Role::Docser => return Vec::new(),
        Role::Worker | Role::Tester | Role::Judge | Role::Planner => {}
    }
    let mut all: Vec<String> = Vec::new();
    for command in commands {
        for (_, paths) in COMMAND_RULES.iter().filter(|(rule, _)| rule.is_match(command)) {
            for path in *paths {
                if !all.iter().any(|known| known == path) {
                    all.push((*path).to_string());
                }
            }
        }
    }
    all
}

/// `allowed` with every new one of `added`; `None` when none is new, or there is no room for them.
pub fn widened(allowed: &[String], added: impl IntoIterator<Item = String>) -> Option<Vec<String>> {
    let mut all = allowed.to_vec();
    for path in added {
        if !all.contains(&path) {
            all.push(path);
        }
    }
    (all.len() > allowed.len() && all.len() <= MAX_PATHS).then_some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(paths: &[&str]) -> Vec<String> {
        paths.iter().map(ToString::to_string).collect()
    }

    fn asked<'a>(role: Role, commands: &'a [String]) -> Asked<'a> {
        Asked { title: "Fix login", goal: "users can log in", commands, role, files: &[] }
    }

    #[test]
    fn blank_violations_do_not_count_c62() {
        let violations = list(&[" ", "", "Change outside allowed paths: Makefile"]);
        assert_eq!(outside(&violations, "change outside allowed paths: other"), ["Makefile"]);
        assert_eq!(outside(&list(&["  "]), "change outside allowed paths: other"), ["other"]);
    }

    #[test]
    fn a_makefile_is_safe_in_the_aggressive_mode_only_c73() {
        let commands = list(&["pnpm test"]);
        let asked = asked(Role::Worker, &commands);
        let makefile = list(&["Makefile"]);
        assert_eq!(safe(&asked, &makefile, PathRecovery::Aggressive), ["Makefile"]);
        assert!(safe(&asked, &makefile, PathRecovery::Balanced).is_empty());
        assert!(safe(&asked, &makefile, PathRecovery::Conservative).is_empty());
    }

    #[test]
    fn a_docser_never_gains_a_path_c74_a45() {
        let commands = list(&["make docs"]);
        let listed = list(&["Makefile"]);
        let asked = Asked { files: &listed, ..asked(Role::Docser, &commands) };
        assert!(safe(&asked, &listed, PathRecovery::Aggressive).is_empty());
        assert!(command_driven(&commands, Role::Docser).is_empty());
    }

    #[test]
    fn what_is_a_pattern_or_leaves_the_repository_is_never_safe() {
        let commands = list(&["make"]);
        let paths = ["/etc/passwd", "../x", "a/../b", "*.c", "src/{a,b}", "!a", "#a", "a\\b"];
        let files = list(&paths);
        let asked = Asked { files: &files, ..asked(Role::Worker, &commands) };
        assert!(safe(&asked, &files, PathRecovery::Aggressive).is_empty());
    }

    #[test]
    fn a_list_is_widened_by_new_paths_only_and_has_an_end() {
        assert_eq!(widened(&list(&["src/**"]), list(&["src/**"])), None);
        assert_eq!(widened(&list(&["src/**"]), list(&["a", "a"])), Some(list(&["src/**", "a"])));
        let full: Vec<String> = (0..MAX_PATHS).map(|n| n.to_string()).collect();
        assert_eq!(widened(&full, list(&["a"])), None);
    }
}
