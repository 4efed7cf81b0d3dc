//! Container `publish` of a merge: base and branch become one commit on the base branch.
//!
//! In the trusted clone, without a work tree and without running anything of the repository's. The push
//! carries a lease: it counts only while the base is where the merge was made from. Our merge commits
//! name the reviewed Run, so that a repeated merge finds its own earlier push (design, rule 3.11).

use tokio_util::sync::CancellationToken;

use super::history::{self, History};
use super::{ReviewError, head_moved, merge_pull, target};
use crate::crd::run::ReviewTarget;
use crate::crd::wire::{ContainerResult, Inputs, Outcome};
use crate::plan::verdict::code;
use crate::runner::checkout::{Paths, RUN_TRAILER};
use crate::runner::forge::Access;
use crate::runner::git::remote::{Remote, retry};
use crate::runner::git::{FailureKind, Git, GitError, Input};
use crate::runner::publish::commit::{TASK_TRAILER, one_line};
use crate::runner::publish::{cancelled, count_files};

/// Trailer of our merge commits: uid of the Execute Run whose result is merged.
pub const MERGE_TRAILER: &str = "OpenTiger-Merge";
/// Merges that are made in one Run; a base that has moved each time is `merge_base_moved`.
const TRIES: usize = 3;
/// Conflicting files that a summary names.
const MAX_NAMES: usize = 10;

/// How one try ended.
enum Try {
    /// The base branch holds the result; its commit.
    Merged { commit: String, before: bool },
    /// Somebody else pushed to the base in the meantime.
    BaseMoved,
}

/// Merges. `stop` is the container's SIGTERM.
pub async fn run(inputs: &Inputs, paths: &Paths, stop: &CancellationToken) -> ContainerResult {
    let access = match Access::open(inputs, paths, stop).await {
        Ok(access) => access,
        Err(_) if stop.is_cancelled() => return cancelled(),
        Err(error) => return error.into_result(),
    };
    let ended = match &access.forge {
        None => merge(inputs, paths, stop).await,
        Some(forge) => merge_pull::merge(inputs, &access, forge, stop).await,
    };
    match ended {
        Ok(result) => result,
        Err(_) if stop.is_cancelled() => cancelled(),
        Err(error) => error.into_result(),
    }
}

async fn merge(
    inputs: &Inputs,
    paths: &Paths,
    stop: &CancellationToken,
) -> Result<ContainerResult, ReviewError> {
    let target = target(inputs)?;
    let git = Git::new(&paths.git_dir(), &paths.private(), stop);
    let repository = &inputs.spec.repository;
    let remote = Remote::open(&repository.url, &paths.credentials, &paths.private())?;
    for _ in 0..TRIES {
        match attempt(inputs, target, &git, &remote).await? {
            Try::Merged { commit, before } => return merged(inputs, &git, commit, before).await,
            Try::BaseMoved => {
                tracing::warn!(base = %repository.base_branch, "the base branch moved, the merge is made again");
            }
        }
    }
    let why = format!(
        "{} moved {TRIES} times while {} was merged into it. The merge is repeated by itself; if the base \
         keeps moving, an agent brings the branch up to date first.",
        repository.base_branch, target.branch
    );
    Err(ReviewError::Ended { code: code::MERGE_BASE_MOVED, why })
}

async fn merged(
    inputs: &Inputs,
    git: &Git,
    commit: String,
    before: bool,
) -> Result<ContainerResult, ReviewError> {
    let repository = &inputs.spec.repository;
    let (branch, base) = (&repository.branch, &repository.base_branch);
    let summary = if before {
        format!("{base} held {branch} before")
    } else {
        format!("{branch} is merged into {base}")
    };
    Ok(ContainerResult {
        branch: Some(base.clone()),
        changed_files: Some(count_files(git, &commit).await?),
        head: Some(commit),
        summary,
        ..ContainerResult::new(Outcome::Success)
    })
}

/// Looks at the server, merges, pushes once.
async fn attempt(
    inputs: &Inputs,
    target: &ReviewTarget,
    git: &Git,
    remote: &Remote,
) -> Result<Try, ReviewError> {
    let History { base, head, start } = match fetch(inputs, target, git, remote).await? {
        Fetched::Both(history) => history,
        Fetched::Gone { merge: Some(commit) } => return Ok(Try::Merged { commit, before: true }),
        Fetched::Gone { merge: None } => return Err(head_moved(target, None)),
    };
    if let Some(commit) = own_merge(git, &base, target).await? {
        return Ok(Try::Merged { commit, before: true });
    }
    if head != target.head_commit {
        return Err(head_moved(target, Some(&head)));
    }
    if history::is_merged(git, &base, &head).await? {
        return Ok(Try::Merged { commit: base, before: true });
    }
    if start.is_none() {
        return Err(conflict(inputs, "they have no history in common"));
    }
    let commit = merge_commit(inputs, target, git, &base, &head).await?;
    push(inputs, git, remote, &base, commit).await
}

/// What the server has.
enum Fetched {
    Both(History),
    /// The branch is gone; the merge of ours that the base holds, if any.
    Gone {
        merge: Option<String>,
    },
}

async fn fetch(
    inputs: &Inputs,
    target: &ReviewTarget,
    git: &Git,
    remote: &Remote,
) -> Result<Fetched, ReviewError> {
    let repository = &inputs.spec.repository;
    let branches = [repository.branch.as_str()];
    let heads = retry(|| remote.heads(git, &branches)).await?;
    if heads.contains_key(&format!("refs/heads/{}", repository.branch)) {
        let history = history::fetch(git, remote, &repository.base_branch, &repository.branch).await?;
        return Ok(Fetched::Both(history));
    }
    let base = history::fetch_deep(git, remote, &repository.base_branch).await?;
    Ok(Fetched::Gone { merge: own_merge(git, &base, target).await? })
}

/// The merge commit that an earlier Run of ours pushed for the same result.
async fn own_merge(git: &Git, base: &str, target: &ReviewTarget) -> Result<Option<String>, GitError> {
    if target.run_uid.is_empty() {
        return Ok(None);
    }
    let format = format!("--format=%H%x09%P%x09%(trailers:key={MERGE_TRAILER},valueonly,separator=%x20)");
    let output = git.command("log").args(["--merges", &format, base]).run().await?;
    Ok(String::from_utf8_lossy(&output).lines().find_map(|line| {
        let mut fields = line.split('\t');
        let (commit, parents, run) = (fields.next()?, fields.next()?, fields.next()?);
        let ours = run == target.run_uid && parents.split(' ').any(|parent| parent == target.head_commit);
        ours.then(|| commit.to_string())
    }))
}

/// Makes the merge commit and returns its id.
async fn merge_commit(
    inputs: &Inputs,
    target: &ReviewTarget,
    git: &Git,
    base: &str,
    head: &str,
) -> Result<String, ReviewError> {
    let arguments = ["--write-tree", "-z", "--name-only", "--no-messages", base, head];
    let answer = git.command("merge-tree").args(arguments).answers().answer().await?;
    let text = String::from_utf8_lossy(&answer.output).into_owned();
    let mut fields = text.split('\0').filter(|field| !field.is_empty());
    let tree = fields.next().unwrap_or_default();
    if !answer.yes {
        let names: Vec<&str> = fields.collect();
        let more = names.len().saturating_sub(MAX_NAMES);
        let listed = names.iter().take(MAX_NAMES).copied().collect::<Vec<_>>().join(", ");
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        return Err(conflict(inputs, &format!("both changed {listed}{more}")));
    }
    let commit = git
        .command("commit-tree")
        .args(["-p", base, "-p", head, "-F", "-", tree])
        .input(Input::Bytes(message(inputs, target).into_bytes()));
    Ok(commit.line().await?)
}

fn conflict(inputs: &Inputs, what: &str) -> ReviewError {
    let repository = &inputs.spec.repository;
    let why = format!("{} cannot be merged into {}: {what}", repository.branch, repository.base_branch);
    ReviewError::Ended { code: code::MERGE_CONFLICT, why }
}

fn message(inputs: &Inputs, target: &ReviewTarget) -> String {
    let (task, namespace, run) = (&inputs.spec.task_ref, &inputs.namespace, &inputs.run_uid);
    format!(
        "[openTiger] Merge: {}\n\nTask ID: {}\nBranch: {}\n\n{TASK_TRAILER}: {namespace}/{}\n{RUN_TRAILER}: {run}\n\
         {MERGE_TRAILER}: {}\n",
        one_line(&inputs.spec.inputs.title),
        task.uid,
        target.branch,
        task.name,
        target.run_uid
    )
}

/// Pushes once. Whatever the server says about a failed push: where the base is now decides.
async fn push(
    inputs: &Inputs,
    git: &Git,
    remote: &Remote,
    base: &str,
    commit: String,
) -> Result<Try, ReviewError> {
    let branch = &inputs.spec.repository.base_branch;
    let Err(error) = remote.push_onto(git, &commit, branch, base).await else {
        return Ok(Try::Merged { commit, before: false });
    };
    if error.kind == FailureKind::Stopped {
        return Err(error.into());
    }
    let branches = [branch.as_str()];
    let heads = retry(|| remote.heads(git, &branches)).await?;
    match heads.get(&format!("refs/heads/{branch}")) {
        // The push was carried out and its answer got lost.
        Some(now) if *now == commit => Ok(Try::Merged { commit, before: false }),
        Some(now) if now != base => Ok(Try::BaseMoved),
        Some(_) | None => match error.kind {
            FailureKind::PushRefused | FailureKind::BranchProtected => {
                let why = format!(
                    "the server refuses the push to {branch}: {}. Let the credentials of the repository \
                     push to {branch}, or merge by hand.",
                    error.detail.trim_end_matches('.')
                );
                Err(ReviewError::Ended { code: code::MERGE_REFUSED, why })
            }
            // The base stands where it stood: another try may pass.
            FailureKind::Diverged => Ok(Try::BaseMoved),
            FailureKind::AuthenticationFailed
            | FailureKind::RepositoryNotFound
            | FailureKind::BaseBranchMissing
            | FailureKind::RepositoryEmpty
            | FailureKind::Misconfigured
            | FailureKind::RequirementUnusable
            | FailureKind::SubmoduleRefused
            | FailureKind::ServerNotTrusted
            | FailureKind::HostUnknown
            | FailureKind::Unreachable
            | FailureKind::TimedOut
            | FailureKind::DiskFull
            | FailureKind::Stopped
            | FailureKind::Other => Err(error.into()),
        },
    }
}
