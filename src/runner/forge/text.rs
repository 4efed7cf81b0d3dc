//! What people read on a pull request: title, body, labels, the comment of a review, the message of a
//! merge (spec agents 1.3, steps 7b and 5.5).
//!
//! Pure. What a Task says closes no issue of the repository (`commit::without_closing`), but the one that
//! it is about: `context.issue`.

use std::fmt::Write;

use super::Text;
use crate::crd::run::{ReviewResult, ReviewVerdict};
use crate::crd::task::RiskLevel;
use crate::crd::wire::Inputs;
use crate::runner::checkout::RUN_TRAILER;
use crate::runner::publish::commit::{TASK_TRAILER, one_line, without_closing};
use crate::runner::review::change::ChangedFile;

/// Files that a body lists.
const MAX_FILES: usize = 50;
/// Longest goal in a body, in characters.
const MAX_GOAL: usize = 8_000;

fn title(inputs: &Inputs) -> String {
    format!("[openTiger] {}", one_line(&inputs.spec.inputs.title))
}

fn risk(level: RiskLevel) -> &'static str {
    match level {
        RiskLevel::Low => "low",
        RiskLevel::Medium => "medium",
        RiskLevel::High => "high",
    }
}

/// Labels of a pull request of ours.
pub fn labels(inputs: &Inputs) -> Vec<String> {
    vec!["agent".into(), "autogen".into(), format!("{}-risk", risk(inputs.spec.inputs.risk_level))]
}

/// Title and body.
pub fn pull_request(inputs: &Inputs, files: &[ChangedFile], note: &str) -> Text {
    let (task, spec) = (&inputs.spec.task_ref, &inputs.spec.inputs);
    let mut body = String::new();
    let goal: String = spec.goal.chars().take(MAX_GOAL).collect();
    let _ = writeln!(body, "## Goal\n{}\n", without_closing(goal.trim()));
    if let Some(issue) = &spec.context.issue {
        let _ = writeln!(body, "Closes #{}\n", issue.number);
    }
    let _ = writeln!(body, "## Task\n- [task:{}]", task.uid);
    let _ = writeln!(body, "- Task: `{}/{}`, Run: `{}`", inputs.namespace, task.name, inputs.run);
    let _ = writeln!(body, "- Risk: {}", risk(spec.risk_level));
    let _ = writeln!(body, "- Timebox: {}\n", spec.timebox.0);
    let sum = |of: fn(&ChangedFile) -> Option<u64>| files.iter().filter_map(of).sum::<u64>();
    let (added, deleted) = (sum(|file| file.added), sum(|file| file.deleted));
    if !files.is_empty() {
        let _ = writeln!(body, "## Changes\n{} files, +{added} -{deleted}\n", files.len());
    }
    for file in files.iter().take(MAX_FILES) {
        let _ = writeln!(body, "- {}", code(&file.path));
    }
    if let Some(more) = files.len().checked_sub(MAX_FILES).filter(|more| *more > 0) {
        let _ = writeln!(body, "- and {more} more");
    }
    let _ = writeln!(body, "\n## Verification");
    for command in &spec.commands {
        let _ = writeln!(body, "- {}", code(command));
    }
    let note = one_line(note);
    if !note.is_empty() {
        let _ = writeln!(body, "\nReported: {note}");
    }
    Text { title: title(inputs), body }
}

/// Text as code, on one line; a backtick in it would end it.
fn code(text: &str) -> String {
    format!("`{}`", one_line(text).replace('`', "'"))
}

/// First line of the comment of a review, by which it is found again: one for each Run reviewed.
pub fn review_mark(run_uid: &str, head: &str) -> String {
    format!("<!-- opentiger:review:{run_uid}:{head} -->")
}

/// The comment of a review.
pub fn review(result: &ReviewResult, summary: &str) -> String {
    let verdict = match result.verdict {
        ReviewVerdict::Approve => "approved",
        ReviewVerdict::RequestChanges => "changes requested",
    };
    let mut text = format!("**openTiger review: {verdict}** (confidence {} %)\n", result.confidence);
    let summary = one_line(summary);
    if !summary.is_empty() {
        let _ = writeln!(text, "\n{summary}");
    }
    if !result.findings.is_empty() {
        text.push('\n');
    }
    for finding in &result.findings {
        let _ = writeln!(text, "- {}", one_line(finding));
    }
    text
}

/// The message of the commit that a merge makes.
pub fn merge(inputs: &Inputs, number: i64) -> Text {
    let task = &inputs.spec.task_ref;
    Text {
        title: format!("{} (#{number})", title(inputs)),
        body: format!(
            "Task ID: {}\n\n{TASK_TRAILER}: {}/{}\n{RUN_TRAILER}: {}\n",
            task.uid, inputs.namespace, task.name, inputs.run_uid
        ),
    }
}
