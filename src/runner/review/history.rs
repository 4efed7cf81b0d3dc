//! Base and head in the trusted clone, with as much history as comparing and merging them needs.
//!
//! History comes without the content of files where the server can leave it out (`--filter=blob:none`):
//! comparing and merging need that of three commits only, however large the history is.

use std::fs;
use std::io;

use crate::runner::git::remote::{Remote, retry};
use crate::runner::git::{FailureKind, Git, GitError};

/// The base branch as fetched.
pub const BASE: &str = "refs/opentiger/base";
/// The branch under review as fetched.
pub const HEAD: &str = "refs/opentiger/head";
/// git's depth for a whole history.
const EVERYTHING: u32 = 2_147_483_647;
/// Depths that are tried one after the other.
const DEPTHS: [u32; 3] = [50, 1_000, EVERYTHING];

/// Where base and head are and where they part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    pub base: String,
    pub head: String,
    /// The commit where the change starts: the best common ancestor. `None` when there is none.
    pub start: Option<String>,
}

/// Fetches the head of `base` alone, one commit deep and without its files, and returns it.
///
/// # Errors
/// As git.
pub async fn fetch_base(git: &Git, remote: &Remote, base: &str) -> Result<String, GitError> {
    fetch_branch(git, remote, base, BASE, 1).await?;
    commit(git, BASE).await
}

/// Fetches the whole history of `base`, without its files, and returns its head.
///
/// # Errors
/// As git.
pub async fn fetch_deep(git: &Git, remote: &Remote, base: &str) -> Result<String, GitError> {
    fetch_branch(git, remote, base, BASE, EVERYTHING).await?;
    commit(git, BASE).await
}

/// Fetches both branches, deeper and deeper until their common ancestor is certain.
///
/// # Errors
/// As git.
pub async fn fetch(git: &Git, remote: &Remote, base: &str, head: &str) -> Result<History, GitError> {
    let mut found = None;
    for depth in DEPTHS {
        for (branch, target) in [(base, BASE), (head, HEAD)] {
            fetch_branch(git, remote, branch, target, depth).await?;
        }
        let (base, head) = (commit(git, BASE).await?, commit(git, HEAD).await?);
        let ancestors = ancestors(git, &base, &head).await?;
        let certain = ancestors.len() == 1 && is_whole(git, &base, &head).await?;
        let several = ancestors.len() > 1;
        found = Some((History { base, head, start: ancestors.into_iter().next() }, depth, several));
        if certain {
            break;
        }
    }
    let (history, depth, several) =
        found.ok_or_else(|| GitError::new(FailureKind::Other, "fetch", "nothing was fetched"))?;
    // Several best ancestors are merged with each other by git, which wants the files of their history.
    if several || !contents(git, remote, &history).await? {
        for (branch, target) in [(base, BASE), (head, HEAD)] {
            let source = format!("refs/heads/{branch}");
            retry(|| remote.fetch_again(git, &source, target, depth)).await?;
        }
        let (base, head) = (commit(git, BASE).await?, commit(git, HEAD).await?);
        if (&base, &head) != (&history.base, &history.head) {
            let detail = "a branch moved while it was fetched";
            return Err(GitError::new(FailureKind::Unreachable, "fetch", detail));
        }
    }
    Ok(history)
}

/// Gets the files of the three commits. False: the server does not send them by themselves.
async fn contents(git: &Git, remote: &Remote, history: &History) -> Result<bool, GitError> {
    let mut commits = vec![history.base.as_str(), &history.head];
    commits.extend(history.start.as_deref());
    match retry(|| remote.fetch_contents(git, &commits)).await {
        Ok(()) => Ok(true),
        Err(error) if error.kind == FailureKind::Other => {
            tracing::warn!(error = %error, "the server sends no single objects, everything is fetched");
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

async fn fetch_branch(
    git: &Git,
    remote: &Remote,
    branch: &str,
    target: &str,
    depth: u32,
) -> Result<(), GitError> {
    let source = format!("refs/heads/{branch}");
    retry(|| remote.fetch_history(git, &source, target, depth)).await
}

async fn commit(git: &Git, name: &str) -> Result<String, GitError> {
    git.command("rev-parse")
        .args(["--verify", "--end-of-options", &format!("{name}^{{commit}}")])
        .line()
        .await
}

/// The best common ancestors, as far as the clone reaches.
async fn ancestors(git: &Git, base: &str, head: &str) -> Result<Vec<String>, GitError> {
    let answer = git.command("merge-base").args(["--all", base, head]).answers().answer().await?;
    Ok(String::from_utf8_lossy(&answer.output).lines().map(String::from).collect())
}

/// Whether everything between the branches and their common history is there: then no better common
/// ancestor can lie behind the end of the clone.
async fn is_whole(git: &Git, base: &str, head: &str) -> Result<bool, GitError> {
    let ends = match fs::read_to_string(git.git_dir().join("shallow")) {
        Ok(ends) => ends,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) => {
            return Err(GitError::new(FailureKind::Other, "read the ends of the clone", error.to_string()));
        }
    };
    let between = git.command("rev-list").args([format!("{base}...{head}")]).run().await?;
    let ends: std::collections::HashSet<&str> = ends.lines().collect();
    Ok(!String::from_utf8_lossy(&between).lines().any(|commit| ends.contains(commit)))
}

/// Whether `base` already holds `head`.
///
/// # Errors
/// As git.
pub async fn is_merged(git: &Git, base: &str, head: &str) -> Result<bool, GitError> {
    let command = git.command("merge-base").args(["--is-ancestor", head, base]);
    command.answers().answer().await.map(|answer| answer.yes)
}
