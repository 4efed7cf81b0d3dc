//! From open issues of the forge to Tasks (spec agents 6.5, api 3.2; cases A65, A66).
//!
//! One issue is one Task, whose name is a function of repository and number, so that no issue becomes
//! two Tasks. Nothing that an issue says makes a Task fail: what cannot be used is a warning.

#[cfg(test)]
mod tests;
pub mod text;

use super::{MAX_DEPENDENCIES, NamedTask, output, paths, requirement, short_of};
use crate::crd::GoDuration;
use crate::crd::planner::IssueImport;
use crate::crd::pool::Role;
use crate::crd::task::{IssueRef, TaskContext, TaskSpec};

/// Label that an issue gets when its Task has been made. Who removes it has the issue made a Task again,
/// once the earlier one is gone.
pub const IMPORTED: &str = "opentiger-imported";
/// Characters of the repository's hash in a name.
const NAME_HASH: usize = 6;
/// Text of issues that become Tasks at a time, in bytes, so that they fit into one hand-over.
const MAX_BYTES: usize = 512 * 1024;
const TIMEBOX_MINUTES: u64 = 60;

/// An issue, as the forge has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Issue {
    pub number: i64,
    pub title: String,
    /// Markdown.
    pub body: String,
    pub labels: Vec<String>,
    pub url: String,
}

/// What has become of the open issues.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chosen {
    /// Each after those of them that it depends on.
    pub tasks: Vec<NamedTask>,
    /// What was left out, for people.
    pub warnings: Vec<String>,
}

/// Name of the Task of an issue: `issue-<number>-<hash of the repository>`.
pub fn task_name(url: &str, number: i64) -> String {
    let hash = requirement::hash(url.trim_end_matches('/').trim_end_matches(".git"));
    format!("issue-{number}-{}", short_of(&hash, NAME_HASH))
}

/// Whether `name` is one that [`task_name`] makes for this number.
pub fn is_name_of(number: i64, name: &str) -> bool {
    let hash = name.strip_prefix(&format!("issue-{number}-"));
    hash.is_some_and(|hash| hash.len() == NAME_HASH && hash.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Whether `name` is that of the Task of some issue.
pub fn is_name(name: &str) -> bool {
    let number = name.strip_prefix("issue-").and_then(|rest| rest.split('-').next()?.parse().ok());
    number.is_some_and(|number| is_name_of(number, name))
}

/// Why an issue does not become a Task; `None` when it does. `taken` are the numbers that open pull
/// requests are about.
pub fn refusal(issue: &Issue, taken: &[i64], import: &IssueImport) -> Option<String> {
    if taken.contains(&issue.number) {
        return Some(format!("issue #{}: an open pull request is about it", issue.number));
    }
    let why = spec(issue, import.default_role, "").err()?;
    Some(format!("issue #{}: {why}", issue.number))
}

/// Whether no more issues become Tasks this time.
pub fn is_enough(issues: &[Issue], import: &IssueImport) -> bool {
    let bytes: usize = issues.iter().map(|issue| issue.body.len()).sum();
    issues.len() >= usize::try_from(import.limit).unwrap_or(1) || bytes >= MAX_BYTES
}

/// The Tasks of `issues`, for which there is no [`refusal`]; `url` and `base` are the repository's.
pub fn choose(issues: &[Issue], import: &IssueImport, url: &str, base: &str) -> Chosen {
    let mut chosen = Chosen::default();
    let found = issues
        .iter()
        .filter_map(|issue| spec(issue, import.default_role, base).ok().map(|spec| (issue, spec)))
        .collect::<Vec<_>>();
    let batch: Vec<i64> = found.iter().map(|(issue, _)| issue.number).collect();
    let mut placed: Vec<i64> = Vec::with_capacity(batch.len());
    for (issue, mut spec) in ordered(found, &mut chosen.warnings) {
        // One that is not of this batch may be a Task already; that is known where the Tasks are.
        let usable = |number: &i64| placed.contains(number) || !batch.contains(number);
        let numbers = text::dependencies(&issue.body).into_iter().filter(usable);
        spec.dependencies = numbers.take(MAX_DEPENDENCIES).map(|number| task_name(url, number)).collect();
        placed.push(issue.number);
        chosen.tasks.push(NamedTask { name: task_name(url, issue.number), spec });
    }
    chosen
}

/// Puts each behind those that it depends on. In a circle the first of the list is first, and does not
/// wait for the others.
fn ordered<'a>(
    mut left: Vec<(&'a Issue, TaskSpec)>,
    warnings: &mut Vec<String>,
) -> Vec<(&'a Issue, TaskSpec)> {
    let mut done = Vec::with_capacity(left.len());
    while !left.is_empty() {
        let numbers: Vec<i64> = left.iter().map(|(issue, _)| issue.number).collect();
        let waits = |issue: &Issue| {
            let on = text::dependencies(&issue.body);
            on.iter().any(|number| *number != issue.number && numbers.contains(number))
        };
        let next = left.iter().position(|(issue, _)| !waits(issue));
        if next.is_none() {
            let number = numbers.first().copied().unwrap_or_default();
            warnings
                .push(format!("issue #{number}: depends on issues that depend on it, these are left out"));
        }
        done.push(left.remove(next.unwrap_or(0)));
    }
    done
}

/// The Task of one issue, without dependencies.
///
/// # Errors
/// Why it does not become one.
fn spec(issue: &Issue, default_role: Option<Role>, base: &str) -> Result<TaskSpec, String> {
    let role = text::role(&issue.labels, &issue.body).or(default_role).ok_or(
        "names no role: add the label role:worker, role:tester or role:docser, or a line such as Role: worker",
    )?;
    let clip = |text: &str, most: usize| text.chars().take(most).collect::<String>();
    let title = match clip(issue.title.trim(), output::MAX_TITLE) {
        title if title.is_empty() => format!("Issue #{}", issue.number),
        title => title,
    };
    let named = text::allowed_paths(&issue.body, &[]);
    let allowed: Vec<String> = named
        .into_iter()
        .filter(|path| paths::is_relative(path) && path.chars().count() <= output::MAX_PATH)
        .take(output::MAX_PATHS)
        .collect();
    // Never everything in place of paths that cannot be used.
    if allowed.is_empty() {
        return Err("names allowed paths that are none of the repository".to_owned());
    }
    let labels = if issue.labels.is_empty() { "none".to_owned() } else { issue.labels.join(", ") };
    Ok(TaskSpec {
        goal: format!("Resolve issue #{}: {title}", issue.number),
        role,
        kind: "code".to_owned(),
        priority: text::priority(&issue.labels),
        risk_level: text::risk(&issue.labels),
        allowed_paths: allowed,
        timebox: GoDuration::from_secs(TIMEBOX_MINUTES * 60),
        base_branch: Some(base.to_owned()),
        context: Some(TaskContext {
            specs: clip(&issue.body, output::MAX_TEXT),
            notes: clip(&format!("Labels: {labels}"), output::MAX_TEXT),
            issue: Some(IssueRef {
                number: issue.number,
                title: title.clone(),
                url: clip(&issue.url, output::MAX_PATH),
            }),
            ..TaskContext::default()
        }),
        title,
        ..TaskSpec::default()
    })
}
