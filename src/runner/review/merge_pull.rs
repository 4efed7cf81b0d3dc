//! Container `publish` of a merge in repository mode `GitHub`: the forge makes one commit of the pull
//! request (squash), for the head that was reviewed and for no other.
//!
//! The pull request itself says whether it is merged, so a repeated merge finds its own earlier one
//! (design, rule 3.11). A branch that its base has left behind is brought up to date by the forge; the
//! head that comes of it counts as reviewed only when its tree is the one that git makes of both.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::history::{self, History};
use super::pull::{must_be_open, pending};
use super::{ReviewError, head_moved, target};
use crate::crd::run::ReviewTarget;
use crate::crd::wire::{ContainerResult, Inputs, Outcome};
use crate::plan::judge::ci::Ci;
use crate::plan::verdict::code;
use crate::runner::forge::github::GitHub;
use crate::runner::forge::pull_request::{Ensured, ensure, reference};
use crate::runner::forge::{Access, FailureKind, Forge, ForgeError, Merge, Pull, State, text};
use crate::runner::git::remote::Remote;
use crate::runner::git::{Git, GitError};

/// Tries in one Run.
const TRIES: usize = 3;
/// Looks at a pull request until the forge knows whether it can be merged.
const LOOKS: usize = 5;
/// Wait between two looks, and between two tries.
const WAIT: Duration = Duration::from_secs(1);
/// Updates of a branch that are followed back to what was reviewed.
const MAX_UPDATES: usize = 20;

/// Merges through the forge.
///
/// # Errors
/// [`ReviewError`].
pub async fn merge(
    inputs: &Inputs,
    access: &Access,
    forge: &GitHub,
    stop: &CancellationToken,
) -> Result<ContainerResult, ReviewError> {
    let target = target(inputs)?;
    let git = Git::new(&access.paths.git_dir(), &access.paths.private(), stop);
    let mut last = String::new();
    for _ in 0..TRIES {
        match attempt(inputs, target, access, forge, &git).await? {
            Try::Done(result) => return Ok(*result),
            Try::Again(why) => last = why,
        }
        pause(stop).await?;
    }
    let why = format!("{} could not be merged in {TRIES} tries: {last}", target.branch);
    Err(ReviewError::Ended { code: code::MERGE_BASE_MOVED, why })
}

enum Try {
    Done(Box<ContainerResult>),
    /// Something moved meanwhile, and what.
    Again(String),
}

async fn attempt(
    inputs: &Inputs,
    target: &ReviewTarget,
    access: &Access,
    forge: &GitHub,
    git: &Git,
) -> Result<Try, ReviewError> {
    let repository = &inputs.spec.repository;
    let text = text::pull_request(inputs, &[], "");
    let found = match ensure(forge, &repository.branch, repository.proposed_to(), &text, true).await? {
        Ensured::Pull(pull) => pull,
        Ensured::NothingToMerge => return Ok(nothing_left(inputs, target)),
    };
    let pull = settled(forge, found.number).await?;
    if pull.state == State::Merged {
        close_replaced(inputs, target, forge, &pull).await;
        return Ok(merged(inputs, &pull, pull.merge_commit.clone(), true));
    }
    must_be_open(&pull)?;
    let updated = pull.head != target.head_commit;
    if updated && !is_update(inputs, target, access, git, &pull.head).await? {
        return Err(head_moved(target, Some(&pull.head)));
    }
    if pull.mergeable == Some(false) || pull.mergeable_state == "dirty" {
        return Err(conflict(inputs, &format!("{} says so", pull.url)));
    }
    if pull.mergeable_state == "behind" {
        return update(inputs, forge, &pull).await;
    }
    match forge.checks(&pull.head).await? {
        Ci::Success => {}
        Ci::Pending(names) => return Err(pending(&names.join(", "))),
        Ci::Unreadable(why) => return Err(pending(&why)),
        Ci::Failure(names) if updated => {
            return Err(conflict(inputs, &format!("together they fail: {}", names.join(", "))));
        }
        Ci::Failure(names) => {
            return Err(refused(inputs, &format!("checks have failed: {}", names.join(", "))));
        }
    }
    match forge.squash(pull.number, &pull.head, &text::merge(inputs, pull.number)).await {
        Ok(Merge::Merged(commit)) => {
            close_replaced(inputs, target, forge, &pull).await;
            Ok(merged(inputs, &pull, Some(commit), false))
        }
        Ok(Merge::HeadMoved) => Ok(Try::Again("its head moved".into())),
        Ok(Merge::Refused(words)) if is_passing(&words) => Ok(Try::Again(words)),
        Ok(Merge::Refused(words)) => Err(refused(inputs, &words)),
        // It may have been carried out: the next try looks first.
        Err(error) if error.kind == FailureKind::Unreachable => Ok(Try::Again(error.to_string())),
        Err(error) => Err(error.into()),
    }
}

/// Closes the pull requests that this one has taken the place of. What is merged is not lost for the sake of
/// them.
async fn close_replaced(inputs: &Inputs, target: &ReviewTarget, forge: &GitHub, pull: &Pull) {
    for branch in &target.replaces {
        let closed = async {
            match forge.find(branch, inputs.spec.repository.proposed_to()).await? {
                Some(other) if other.state == State::Open && other.number != pull.number => {
                    let mark = format!("<!-- opentiger:replaced:{} -->", pull.number);
                    let body =
                        format!("#{} has taken the place of this pull request and is merged.", pull.number);
                    forge.comment(other.number, &mark, &body).await?;
                    forge.close(other.number).await
                }
                Some(_) | None => Ok(()),
            }
        };
        if let Err(error) = closed.await {
            println!("[opentiger] the pull request of {branch} stays open: {error}");
        }
    }
}

/// The pull request once the forge knows whether it can be merged, or has had time to know.
async fn settled(forge: &GitHub, number: i64) -> Result<Pull, ReviewError> {
    let mut pull = forge.get(number).await?;
    for _ in 1..LOOKS {
        if pull.mergeable.is_some() || pull.state != State::Open {
            break;
        }
        tokio::time::sleep(WAIT).await;
        pull = forge.get(number).await?;
    }
    Ok(pull)
}

/// Brings the branch up to date; its checks begin anew, so the merge is a later Run's.
async fn update(inputs: &Inputs, forge: &GitHub, pull: &Pull) -> Result<Try, ReviewError> {
    match forge.update_branch(pull.number, &pull.head).await {
        Ok(()) => Err(pending("the branch is being brought up to date with its base")),
        Err(error) if error.says("conflict") => Err(conflict(inputs, &error.detail)),
        Err(error) if error.status == Some(422) => Ok(Try::Again(error.detail)),
        Err(error) => Err(error.into()),
    }
}

/// Whether a refusal may be none a moment later.
fn is_passing(words: &str) -> bool {
    let words = words.to_lowercase();
    ["in progress", "was modified", "not mergeable", "try the merge again", "try again"]
        .iter()
        .any(|sign| words.contains(sign))
}

/// Whether `head` is what was reviewed with nothing but its base merged into it: every commit between
/// has two parents, the second is of the base, and the tree is the one that git makes of both.
async fn is_update(
    inputs: &Inputs,
    target: &ReviewTarget,
    access: &Access,
    git: &Git,
    head: &str,
) -> Result<bool, ReviewError> {
    let repository = &inputs.spec.repository;
    let paths = &access.paths;
    let remote = Remote::open(&repository.url, &paths.credentials, &paths.private())?;
    let History { base, head: now, start: _ } =
        history::fetch(git, &remote, &repository.base_branch, &repository.branch).await?;
    if now != head {
        return Ok(false);
    }
    let mut commit = now;
    for _ in 0..MAX_UPDATES {
        if commit == target.head_commit {
            return Ok(true);
        }
        let line = git.command("rev-list").args(["--parents", "--max-count=1", &commit]).line().await?;
        let [_, first, second] = line.split(' ').collect::<Vec<_>>()[..] else { return Ok(false) };
        if !history::is_merged(git, &base, second).await?
            || !is_plain_merge(git, &remote, &commit, first, second).await?
        {
            return Ok(false);
        }
        commit = first.to_string();
    }
    Ok(false)
}

/// Whether the tree of `commit` is that of the merge of `first` and `second` without a conflict.
async fn is_plain_merge(
    git: &Git,
    remote: &Remote,
    commit: &str,
    first: &str,
    second: &str,
) -> Result<bool, GitError> {
    let ancestors = git.command("merge-base").args(["--all", first, second]).answers().answer().await?;
    let ancestors = String::from_utf8_lossy(&ancestors.output).into_owned();
    let commits: Vec<&str> = ancestors.lines().chain([first, second]).collect();
    remote.fetch_contents(git, &commits).await?;
    let arguments = ["--write-tree", "--no-messages", first, second];
    let made = git.command("merge-tree").args(arguments).answers().answer().await?;
    let tree = git
        .command("rev-parse")
        .args(["--verify", "--end-of-options", &format!("{commit}^{{tree}}")])
        .line()
        .await?;
    Ok(made.yes && String::from_utf8_lossy(&made.output).trim() == tree)
}

fn merged(inputs: &Inputs, pull: &Pull, commit: Option<String>, before: bool) -> Try {
    let repository = &inputs.spec.repository;
    let (branch, base) = (&repository.branch, &repository.base_branch);
    let when = if before { " before" } else { "" };
    Try::Done(Box::new(ContainerResult {
        branch: Some(base.clone()),
        head: commit,
        changed_files: pull.changed_files,
        pr: Some(reference(pull)),
        summary: format!("pull request {}: {branch} was merged into {base}{when}", pull.url),
        ..ContainerResult::new(Outcome::Success)
    }))
}

/// The base has everything that the branch has, and there never was a pull request.
fn nothing_left(inputs: &Inputs, target: &ReviewTarget) -> Try {
    let base = &inputs.spec.repository.base_branch;
    Try::Done(Box::new(ContainerResult {
        branch: Some(base.clone()),
        head: Some(target.head_commit.clone()),
        summary: format!("{base} held {} before", target.branch),
        ..ContainerResult::new(Outcome::Success)
    }))
}

fn conflict(inputs: &Inputs, what: &str) -> ReviewError {
    let repository = &inputs.spec.repository;
    let why = format!("{} cannot be merged into {}: {what}", repository.branch, repository.base_branch);
    ReviewError::Ended { code: code::MERGE_CONFLICT, why }
}

fn refused(inputs: &Inputs, words: &str) -> ReviewError {
    let base = &inputs.spec.repository.base_branch;
    let why = format!("the server refuses the merge into {base}: {words}");
    ReviewError::Ended { code: code::MERGE_REFUSED, why }
}

async fn pause(stop: &CancellationToken) -> Result<(), ReviewError> {
    tokio::select! {
        () = tokio::time::sleep(WAIT) => Ok(()),
        () = stop.cancelled() => {
            Err(ForgeError::new(FailureKind::Stopped, "merge the pull request", "we were told to stop").into())
        }
    }
}
