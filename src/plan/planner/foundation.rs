//! The first task in a repository that holds nothing yet (spec agents 6.1, row "Empty repo").

use super::PlannedTask;
use super::paths::{FOUNDATION, is_foundation};
use crate::crd::pool::Role;
use crate::crd::task::RiskLevel;

/// Priority of the task that lays the foundation.
const PRIORITY: i32 = 100;
/// Its timebox, in minutes.
const TIMEBOX_MINUTES: u32 = 90;

/// Sees to it that one task lays the foundation and the others wait for it: the first that does so
/// already, else a new first one. Returns whether one was added.
///
/// Expects dependencies on earlier tasks only, and keeps it so: a task before the foundation does
/// not wait for it.
pub fn ensure(tasks: &mut Vec<PlannedTask>, allowed_paths: &[String]) -> bool {
    let existing = tasks.iter().position(is_foundation);
    let first = existing.unwrap_or(0);
    if existing.is_none() {
        for task in tasks.iter_mut() {
            for index in &mut task.depends_on {
                *index += 1;
            }
        }
        tasks.insert(0, foundation(allowed_paths));
    }
    for task in tasks.iter_mut().skip(first + 1) {
        if !is_foundation(task) && !task.depends_on.contains(&first) {
            task.depends_on.push(first);
        }
    }
    existing.is_none()
}

fn foundation(allowed_paths: &[String]) -> PlannedTask {
    let mut paths = allowed_paths.to_vec();
    paths.extend(
        FOUNDATION.iter().filter(|path| !allowed_paths.iter().any(|p| p == *path)).map(|p| (*p).to_owned()),
    );
    PlannedTask {
        title: "Initialize repository foundation".to_owned(),
        goal: "The repository has the directories, build files and checks that the other tasks of this \
               plan build on, and its checks can be run."
            .to_owned(),
        role: Some(Role::Worker),
        allowed_paths: paths,
        priority: PRIORITY,
        risk: RiskLevel::Low,
        timebox_minutes: TIMEBOX_MINUTES,
        ..PlannedTask::default()
    }
}

/// Whether files are all there is before any work: the requirement and empty markers.
pub fn is_untouched<'a>(files: impl IntoIterator<Item = &'a str>) -> bool {
    let marker = |path: &str| path == "docs/requirement.md" || path.rsplit('/').next() == Some(".gitkeep");
    files.into_iter().all(marker)
}
