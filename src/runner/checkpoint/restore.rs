//! In `checkout`: puts the work of an interrupted attempt into the new checkout.
//!
//! The files come as changes that are not committed, which is what they are. Where the base has moved
//! they are carried over, and what does not fit any more is left: the attempt then starts from the base.

use std::fs;
use std::io;

use tokio_util::sync::CancellationToken;

use super::{BASE, MAX_SESSION_BYTES, RESUMED, SESSION, found, interval};
use crate::crd::wire::Inputs;
use crate::runner::checkout::{Paths, State};
use crate::runner::exchange;
use crate::runner::execute::source;
use crate::runner::git::remote::{Remote, retry};
use crate::runner::git::{FailureKind, Git, GitError};

/// Where a checkpoint is fetched to, and what is to be checked out of it.
const FETCHED: &str = "refs/opentiger/checkpoint";
const WANTED: &str = "refs/opentiger/resumed";

/// Longest file of the base that is kept beside the checkout, in bytes.
const MAX_BASE_BYTES: u64 = 1024 * 1024;

/// What there was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restored {
    /// Nothing, or nothing is kept by this Run.
    Nothing,
    /// A checkpoint, which cannot be used.
    Unusable,
    /// The checkout has its work.
    Work,
}

/// Looks for a checkpoint of the Task, and applies it to the working clone. One that cannot be fetched or
/// used is said and is no failure of the checkout.
///
/// # Errors
/// When it was applied in part: such a checkout is not to be worked on.
pub async fn restore(
    inputs: &Inputs,
    paths: &Paths,
    bare: &Git,
    state: &State,
    stop: &CancellationToken,
) -> Result<Restored, GitError> {
    if interval(inputs).is_none() {
        return Ok(Restored::Nothing);
    }
    match fetch(inputs, paths, bare, state).await {
        Ok(Fetched::Nothing) => Ok(Restored::Nothing),
        Ok(Fetched::Unfit) => Ok(Restored::Unusable),
        Ok(Fetched::Tree(tree)) => {
            apply(paths, bare, &tree, &state.base, stop).await?;
            println!("[opentiger] took over the work in progress of an earlier attempt");
            Ok(Restored::Work)
        }
        Err(error) => {
            println!("[opentiger] the work of an earlier attempt was not taken over: {error}");
            Ok(Restored::Unusable)
        }
    }
}

/// What a checkpoint is good for.
enum Fetched {
    Nothing,
    /// It does not fit the base.
    Unfit,
    /// The files to be checked out; what the agent needs to know lies beside the checkout.
    Tree(String),
}

async fn fetch(inputs: &Inputs, paths: &Paths, bare: &Git, state: &State) -> Result<Fetched, GitError> {
    let remote = Remote::open(&inputs.spec.repository.url, &paths.credentials, &paths.private())?;
    let Some((reference, _)) = found(&remote, bare, inputs).await?.pop() else {
        return Ok(Fetched::Nothing);
    };
    retry(|| remote.fetch(bare, &reference, FETCHED, 3)).await?;
    let [change, before] = ["^1", "^1^1"].map(|parent| format!("{FETCHED}{parent}"));
    let (change, before) = (id(bare, &change).await?, id(bare, &before).await?);
    let Some(tree) = carried_over(bare, &before, &change, &state.base).await? else {
        println!("[opentiger] what {reference} holds no longer fits the base: the work starts again");
        return Ok(Fetched::Unfit);
    };
    keep_base(inputs, paths, bare, &state.base).await?;
    let session = session(bare).await?.unwrap_or_else(|| "{}".into());
    // Last: from here on the agent takes the checkout for one that has been worked on.
    exchange::write_text(&paths.exchange, RESUMED, &session).map_err(unwritten)?;
    Ok(Fetched::Tree(tree))
}

fn unwritten(error: io::Error) -> GitError {
    GitError::new(FailureKind::Other, "write beside the checkout", error.to_string())
}

async fn id(git: &Git, revision: &str) -> Result<String, GitError> {
    git.command("rev-parse").args(["--verify", "--end-of-options", revision]).line().await
}

/// The tree of `change`, made on `before`, as it is on `base`. `None` when it does not fit.
async fn carried_over(git: &Git, before: &str, change: &str, base: &str) -> Result<Option<String>, GitError> {
    if before == base {
        return id(git, &format!("{change}^{{tree}}")).await.map(Some);
    }
    // The histories are cut off: the new base is made a child of the old, so that both have it in common.
    let tree = id(git, &format!("{base}^{{tree}}")).await?;
    let moved = git.command("commit-tree").args(["-p", before, "-m", "base", &tree]).line().await?;
    let merged =
        git.command("merge-tree").args(["--write-tree", "-z", &moved, change]).answers().answer().await?;
    let text = String::from_utf8_lossy(&merged.output);
    Ok(text.split('\0').next().filter(|_| merged.yes).map(Into::into))
}

/// Puts the files of the base that an agent must have no hand in beside the checkout. Links and what is
/// larger than any of them may be are left out, as they are in a checkout.
async fn keep_base(inputs: &Inputs, paths: &Paths, git: &Git, base: &str) -> Result<(), GitError> {
    let directory = paths.exchange.join(BASE);
    let write = |name: &str, content: &[u8]| {
        let place = directory.join(name);
        fs::create_dir_all(place.parent().unwrap_or(&directory))?;
        fs::write(place, content)
    };
    fs::create_dir_all(&directory).map_err(unwritten)?;
    for name in source::all(inputs) {
        let listing = git.command("ls-tree").args(["-l", "--full-tree", base, "--", name]).run().await?;
        let listing = String::from_utf8_lossy(&listing).into_owned();
        let mut words = listing.split_whitespace();
        let (mode, size) = (words.next().unwrap_or_default(), words.nth(2));
        let size: Option<u64> = size.and_then(|size| size.parse().ok());
        if mode.starts_with("100") && size.is_some_and(|size| size <= MAX_BASE_BYTES) {
            let content = git.command("cat-file").args(["blob", &format!("{base}:{name}")]).run().await?;
            write(name, &content).map_err(unwritten)?;
        }
    }
    Ok(())
}

/// Makes the files of the checkout those of `tree`; HEAD and index stay at the base.
async fn apply(
    paths: &Paths,
    bare: &Git,
    tree: &str,
    base: &str,
    stop: &CancellationToken,
) -> Result<(), GitError> {
    let commit = bare.command("commit-tree").args(["-p", base, "-m", "resumed", tree]).line().await?;
    bare.command("update-ref").args([WANTED, &commit]).run().await?;
    let git = Git::new(&paths.checkout.join(".git"), &paths.private(), stop);
    git.command("fetch")
        .env("GIT_ALLOW_PROTOCOL", "file")
        .args(["--quiet", "--no-tags", "--no-write-fetch-head", "--depth=1", "--end-of-options"])
        .args([bare.git_dir()])
        .args([format!("+{WANTED}:{WANTED}")])
        .run()
        .await?;
    git.command_in(&paths.checkout, "read-tree").args(["-u", "--reset", WANTED]).run().await?;
    git.command("read-tree").args(["HEAD"]).run().await?;
    git.command("update-ref").args(["-d", WANTED]).run().await.map(drop)
}

/// The session in the checkpoint, when there is one of a size that can be.
async fn session(git: &Git) -> Result<Option<String>, GitError> {
    let listing = git.command("ls-tree").args(["-l", FETCHED, SESSION]).run().await?;
    let listing = String::from_utf8_lossy(&listing).into_owned();
    let size: Option<u64> = listing.split_whitespace().nth(3).and_then(|size| size.parse().ok());
    if size.is_none_or(|size| size > MAX_SESSION_BYTES) {
        return Ok(None);
    }
    let content = git.command("cat-file").args(["blob", &format!("{FETCHED}:{SESSION}")]).run().await?;
    Ok(String::from_utf8(content).ok())
}
