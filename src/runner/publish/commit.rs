//! Tree, commit and push of a change, on the trusted clone and a private index.
//!
//! Must not read the work tree.

use std::path::Path;
use std::sync::LazyLock;

use regex::Regex;

use super::change::Change;
use crate::crd::wire::Inputs;
use crate::runner::checkout::{RUN_TRAILER, own_push};
use crate::runner::git::remote::{Remote, retry};
use crate::runner::git::{FailureKind, Git, GitError, Input};

/// Trailer of our commits: namespace and name of the Task.
pub const TASK_TRAILER: &str = "OpenTiger-Task";
/// File names in a commit message (spec agents.md 1.3 step 6b).
const MAX_NAMES: usize = 10;

/// Makes the commit with `changes` on top of `base` and returns its id.
///
/// # Errors
/// As git; a path that git itself refuses is one, too.
pub async fn commit(
    git: &Git,
    index: &Path,
    inputs: &Inputs,
    base: &str,
    changes: &[Change],
) -> Result<String, GitError> {
    let private = |operation| git.command(operation).env("GIT_INDEX_FILE", index);
    private("read-tree").args([base]).run().await?;
    private("update-index")
        .args(["-z", "--index-info"])
        .input(Input::Bytes(index_info(base, changes)))
        .run()
        .await?;
    let tree = private("write-tree").line().await?;
    git.command("commit-tree")
        .args(["-p", base, "-F", "-", &tree])
        .input(Input::Bytes(message(inputs, changes).into_bytes()))
        .line()
        .await
}

/// Input of `update-index -z --index-info`. Deletions come first, so that a file can take the place
/// of a directory and the other way round.
fn index_info(base: &str, changes: &[Change]) -> Vec<u8> {
    let nothing = "0".repeat(base.len());
    let deleted = changes.iter().filter(|change| change.to.is_none());
    let present = changes.iter().filter(|change| change.to.is_some());
    let mut lines = Vec::new();
    for Change { path, to } in deleted.chain(present) {
        let (mode, id) = to.as_ref().map_or(("0", &nothing), |(mode, id)| (mode.word(), id));
        lines.extend_from_slice(format!("{mode} {id}\t{path}\0").as_bytes());
    }
    lines
}

/// The commit message: title, task, file names (spec agents.md 1.3 step 6b), and the trailers by which
/// we know our own push again.
pub fn message(inputs: &Inputs, changes: &[Change]) -> String {
    let title = one_line(&inputs.spec.inputs.title);
    let task = &inputs.spec.task_ref;
    let mut text = format!("[openTiger] {title}\n\nTask ID: {}\n\nChanges:\n", task.uid);
    for change in changes.iter().take(MAX_NAMES) {
        text.push_str(&format!("- {}\n", change.path));
    }
    if let Some(more) = changes.len().checked_sub(MAX_NAMES).filter(|more| *more > 0) {
        text.push_str(&format!("- ... and {more} more files\n"));
    }
    let (namespace, run) = (&inputs.namespace, &inputs.run_uid);
    text.push_str(&format!("\n{TASK_TRAILER}: {namespace}/{}\n{RUN_TRAILER}: {run}\n", task.name));
    text
}

/// A title as the end of a subject line, which closes nothing.
pub fn one_line(title: &str) -> String {
    let words = title.split(|c: char| c.is_whitespace() || c.is_control());
    without_closing(&words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" "))
}

/// `text` in which no keyword closes an issue: forges read them in commit messages and in descriptions of
/// pull requests, and close what stands behind them with the merge. `Closes #3` becomes `Closes issue #3`,
/// which links and does not close.
pub fn without_closing(text: &str) -> String {
    static CLOSING: LazyLock<Option<Regex>> = LazyLock::new(|| {
        let keyword =
            r"(?i)\b(close[sd]?|fix(?:e[sd])?|resolve[sd]?|closing|fixing|resolving|implement(?:s|ed|ing)?)";
        let reference = r"((?:[\w.-]+/[\w./-]+)?[#!]\d|gh-\d|https?://\S+/(?:issues|pulls?|merge_requests|work_items)/\d)";
        Regex::new(&format!(r"{keyword}(\s*:?\s*){reference}")).ok()
    });
    match &*CLOSING {
        Some(closing) => closing.replace_all(text, "${1}${2} issue ${3}").replace("  issue ", " issue "),
        None => text.into(),
    }
}

/// Pushes `commit` to the Run's branch and returns the branch's head: that commit, or one that this
/// Run pushed before when the answer got lost.
///
/// # Errors
/// As git; [`FailureKind::Diverged`] when the branch is somebody else's.
pub async fn push(git: &Git, remote: &Remote, inputs: &Inputs, commit: &str) -> Result<String, GitError> {
    let branch = &inputs.spec.repository.branch;
    retry(|| async {
        let error = match remote.push_new(git, commit, branch).await {
            Ok(()) => return Ok(commit.to_string()),
            Err(error) => error,
        };
        if error.kind.is_transient() || error.kind == FailureKind::Diverged {
            return own_push(git, remote, branch, &inputs.run_uid).await.map_err(|_| error);
        }
        Err(error)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::run::{RunSpec, TaskRef};

    fn inputs(title: &str) -> Inputs {
        let mut spec =
            RunSpec { task_ref: TaskRef { name: "add-x".into(), uid: "3a57".into() }, ..RunSpec::default() };
        spec.inputs.title = title.into();
        Inputs {
            schema_version: 1,
            namespace: "team".into(),
            run: "add-x-r1".into(),
            run_uid: "77".into(),
            spec,
        }
    }

    fn changes(count: usize) -> Vec<Change> {
        (0..count).map(|n| Change { path: format!("src/f{n}.ts"), to: None }).collect()
    }

    /// Rows of the vector `commit_message`, with our trailers; a title of several lines becomes one,
    /// because its first line is the subject.
    #[rstest::rstest]
    #[case("Closes #3", "Closes issue #3")]
    #[case("this fixes: #3 and resolves team/app#4.", "this fixes: issue #3 and resolves issue team/app#4.")]
    #[case("FIX GH-7", "FIX issue GH-7")]
    #[case("closed https://example.com/t/a/issues/9", "closed issue https://example.com/t/a/issues/9")]
    #[case("Implements !5", "Implements issue !5")]
    #[case("close\n\n#3", "close\n\n issue #3")]
    #[case("see #3", "see #3")]
    #[case("a prefix #3 of it", "a prefix #3 of it")]
    #[case("fix the parser of #include", "fix the parser of #include")]
    fn what_a_task_says_closes_no_issue(#[case] text: &str, #[case] becomes: &str) {
        assert_eq!(without_closing(text), becomes);
        assert_eq!(without_closing(becomes), becomes, "once");
        assert!(message(&inputs(text), &[]).starts_with(&format!("[openTiger] {}", one_line(becomes))));
    }

    #[test]
    fn the_message_names_task_and_at_most_ten_files() {
        let trailers = "\n\nOpenTiger-Task: team/add-x\nOpenTiger-Run: 77\n";
        let names = |to: usize| (0..to).map(|n| format!("- src/f{n}.ts")).collect::<Vec<_>>().join("\n");
        let head = "[openTiger] Add x\n\nTask ID: 3a57\n\nChanges:\n";
        for (count, expected) in [
            (6, names(6)),
            (10, names(10)),
            (13, format!("{}\n- ... and 3 more files", names(10))),
            (14, format!("{}\n- ... and 4 more files", names(10))),
        ] {
            assert_eq!(message(&inputs("Add x"), &changes(count)), format!("{head}{expected}{trailers}"));
        }
        assert!(
            message(&inputs("[Rework] a\nOpenTiger-Run: 1\n"), &[])
                .starts_with("[openTiger] [Rework] a OpenTiger-Run: 1\n\n")
        );
    }

    #[test]
    fn deletions_come_before_additions() {
        let changes = [
            Change {
                path: "a/b".into(),
                to: Some((crate::runner::checkout::manifest::Mode::Symlink, "cd".into())),
            },
            Change { path: "a".into(), to: None },
        ];
        assert_eq!(index_info("ab", &changes), b"0 00\ta\x00120000 cd\ta/b\0");
    }
}
