//! Which paths and commands a planned task gets (spec agents 6.3 rows 4 to 7).
//!
//! Paths are only ever added: what a task's own commands write must not end it for a violation of
//! its policy. Must not read a repository.

use super::PlannedTask;
use crate::crd::pool::Role;

/// Paths that laying a foundation needs.
pub(super) const FOUNDATION: [&str; 12] = [
    ".gitignore",
    "README.md",
    "Makefile",
    "docs/**",
    "scripts/**",
    "arch/**",
    "boot/**",
    "kernel/**",
    "include/**",
    "lib/**",
    "src/**",
    "tests/**",
];

/// Lock files that almost every change of dependencies writes.
const LOCK_FILES: [&str; 5] = ["pnpm-lock.yaml", "package-lock.json", "yarn.lock", "bun.lock", "bun.lockb"];

/// Parts of a title that say that a foundation is laid. Substrings, as in the original (corrections,
/// row 13): "Definition" counts, and only gets a few paths more than it needs.
const FOUNDATION_WORDS: [&str; 6] = ["init", "setup", "bootstrap", "foundation", "workspace", "scaffold"];

/// Manifests of a repository's root: who changes one changes how everything is built.
const ROOT_MANIFESTS: [&str; 13] = [
    "package.json",
    "pnpm-workspace.yaml",
    "turbo.json",
    "tsconfig.json",
    "tsconfig.base.json",
    "Makefile",
    "CMakeLists.txt",
    "Cargo.toml",
    "go.mod",
    "pyproject.toml",
    "pom.xml",
    "build.gradle",
    "build.gradle.kts",
];

/// Programs and the files that they read or write in the root.
const BUILD_FILES: [(&[&str], &[&str]); 7] = [
    (&["make"], &["Makefile"]),
    (&["cmake"], &["CMakeLists.txt"]),
    (&["ninja"], &["build.ninja"]),
    (&["cargo"], &["Cargo.toml", "Cargo.lock"]),
    (&["go"], &["go.mod", "go.sum"]),
    (
        &["gradle", "gradlew"],
        &["build.gradle", "build.gradle.kts", "settings.gradle", "settings.gradle.kts", "gradle.properties"],
    ),
    (&["mvn", "mvnw"], &["pom.xml"]),
];

/// As [`BUILD_FILES`], for bazel.
const BAZEL: (&[&str], &[&str]) =
    (&["bazel", "bazelisk"], &["WORKSPACE", "WORKSPACE.bazel", "MODULE.bazel", "BUILD.bazel"]);

/// Whether the `Task` kind takes `path`: not empty, relative, without `..`.
pub(super) fn is_relative(path: &str) -> bool {
    !path.trim().is_empty() && !path.starts_with('/') && path.split('/').all(|name| name != "..")
}

/// Whether a task lays a foundation: by its title, or because it names a manifest of the root.
pub fn is_foundation(task: &PlannedTask) -> bool {
    let title = task.title.to_lowercase();
    FOUNDATION_WORDS.iter().any(|word| title.contains(word))
        || task.context.files.iter().any(|file| ROOT_MANIFESTS.contains(&file.as_str()))
}

/// Trims and sorts out the commands, and adds the paths that foundation, lock files and the
/// remaining commands need.
pub fn complete(task: &mut PlannedTask) {
    task.commands = commands(&task.commands);
    if is_foundation(task) {
        add(&mut task.allowed_paths, &FOUNDATION);
    }
    add(&mut task.allowed_paths, &LOCK_FILES);
    if task.role != Some(Role::Docser) {
        for command in &task.commands {
            let words: Vec<&str> = command.split(|c: char| !is_word(c)).collect();
            for (programs, files) in BUILD_FILES.iter().chain([&BAZEL]) {
                if words.iter().any(|word| programs.contains(word)) {
                    add(&mut task.allowed_paths, files);
                }
            }
        }
    }
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

fn add(paths: &mut Vec<String>, more: &[&str]) {
    for path in more {
        if !paths.iter().any(|known| known == path) {
            paths.push((*path).to_owned());
        }
    }
}

/// The commands that can be run without a shell, trimmed, each once.
pub fn commands(commands: &[String]) -> Vec<String> {
    let mut kept: Vec<String> = Vec::new();
    for command in commands.iter().map(|command| command.trim()) {
        if !command.is_empty() && !needs_shell(command) && !kept.iter().any(|known| known == command) {
            kept.push(command.to_owned());
        }
    }
    kept
}

/// Whether a command has, outside quotes and not escaped, `|`, `;`, `<`, `>`, a backtick or a `&`
/// that stands alone.
fn needs_shell(command: &str) -> bool {
    let mut quote: Option<char> = None;
    let mut previous = ' ';
    let mut chars = command.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, quote) {
            ('\\', None | Some('"')) => {
                chars.next();
            }
            ('\'' | '"', None) => quote = Some(c),
            (c, Some(open)) if c == open => quote = None,
            ('|' | ';' | '<' | '>' | '`', None) => return true,
            ('&', None) if previous != '&' && chars.peek() != Some(&'&') => return true,
            (_, _) => {}
        }
        previous = c;
    }
    false
}
