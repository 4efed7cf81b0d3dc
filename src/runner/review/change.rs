//! The change under review, read from the trusted clone: files with line counts, and the patch.
//!
//! Always against the commit where the branch left its base, so that what the base has gained since
//! does not count. No attribute or driver of the repository's decides what is shown.

use serde::{Deserialize, Serialize};

use crate::runner::git::{Answer, Git, GitError};

/// A changed file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ChangedFile {
    /// Relative to the root of the repository.
    pub path: String,
    /// Added lines; absent for a binary file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub added: Option<u64>,
    /// Deleted lines; absent for a binary file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted: Option<u64>,
}

/// Arguments of every comparison. A renamed file is a deleted and a new one, as for the path policy.
const PLAIN: [&str; 4] = ["-r", "--no-renames", "--no-ext-diff", "--no-textconv"];

/// Every file that differs, in the order of git.
///
/// # Errors
/// As git.
pub async fn files(git: &Git, from: &str, to: &str) -> Result<Vec<ChangedFile>, GitError> {
    let output = git.command("diff-tree").args(PLAIN).args(["-z", "--numstat", from, to]).run().await?;
    Ok(String::from_utf8_lossy(&output).split('\0').filter_map(counted).collect())
}

/// One entry of `--numstat -z`: added, deleted, path. Binary files have `-` for the counts.
fn counted(entry: &str) -> Option<ChangedFile> {
    let mut fields = entry.splitn(3, '\t');
    let (added, deleted, path) = (fields.next()?, fields.next()?, fields.next()?);
    Some(ChangedFile { path: path.into(), added: added.parse().ok(), deleted: deleted.parse().ok() })
}

/// The change as a patch, at most `bytes` of it.
///
/// # Errors
/// As git.
pub async fn patch(git: &Git, from: &str, to: &str, bytes: usize) -> Result<Answer, GitError> {
    let command = git.command("diff-tree").args(PLAIN).args(["-p", "--no-color", from, to]);
    command.keep(bytes).answer().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_may_hold_anything_and_binary_files_have_no_lines() {
        let file = |path: &str, added, deleted| ChangedFile { path: path.into(), added, deleted };
        assert_eq!(counted("3\t0\ta\tb\nc"), Some(file("a\tb\nc", Some(3), Some(0))));
        assert_eq!(counted("-\t-\tx.png"), Some(file("x.png", None, None)));
        assert_eq!(counted(""), None);
    }
}
