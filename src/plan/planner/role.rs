//! Which role a planned task gets when the plan names none (spec agents 6.3 row 8).

use std::sync::LazyLock;

use regex::Regex;

use super::PlannedTask;
use crate::crd::pool::Role;

/// The role that was given, else Tester for a task that speaks of tests or works in them, else Worker.
pub fn resolve(task: &PlannedTask) -> Role {
    match task.role {
        Some(role) => role,
        None if speaks_of_tests(task) || works_in_tests(task) => Role::Tester,
        None => Role::Worker,
    }
}

fn speaks_of_tests(task: &PlannedTask) -> bool {
    static WORDS: LazyLock<Option<Regex>> = LazyLock::new(|| {
        Regex::new(r"(?i)\b(?:tests?|testing|e2e|playwright|vitest|jest|cypress|coverage|flaky)\b|テスト")
            .ok()
    });
    let texts = [&task.title, &task.context.specs];
    WORDS.as_ref().is_some_and(|words| texts.iter().any(|text| words.is_match(text)))
}

fn works_in_tests(task: &PlannedTask) -> bool {
    static PATHS: LazyLock<Option<Regex>> = LazyLock::new(|| {
        Regex::new(
            r"(?i)(?:^|/)(?:tests?|__tests__|e2e|spec)(?:/|$)|\.(?:test|spec)\.[a-z]+$|(?:^|/)playwright",
        )
        .ok()
    });
    let given = task.allowed_paths.iter().chain(&task.context.files);
    PATHS.as_ref().is_some_and(|paths| given.into_iter().any(|path| paths.is_match(path)))
}
