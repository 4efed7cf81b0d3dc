//! In `publish`: saves the work while the agent works and when it was interrupted, and removes what is
//! of no use any more.
//!
//! Must not decide how a Run ends.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{MAX_SESSION_BYTES, SESSION, found, interval, today};
use crate::crd::wire::Inputs;
use crate::plan::checkpoint;
use crate::runner::checkout::{Paths, State};
use crate::runner::exchange;
use crate::runner::forge::Access;
use crate::runner::git::remote::Remote;
use crate::runner::git::{Git, GitError, Input};
use crate::runner::publish::change::{self, ChangeError};
use crate::runner::publish::commit;
use crate::runner::walker::Limits;

/// Most that is saved of a change: work in progress, not an archive.
const LIMITS: Limits = Limits {
    file_bytes: 16 * 1024 * 1024,
    total_bytes: 64 * 1024 * 1024,
    files: 10_000,
    entries: 2_000_000,
    depth: 200,
};
/// How long the agent is waited for after a stop: it ends its programs within 10 s.
pub const AGENT_GRACE: Duration = Duration::from_secs(12);
/// Time for the last save after a stop: with the wait for the agent within the Pod's grace period.
const LAST_SAVE: Duration = Duration::from_secs(12);

/// Saves for one Run.
#[derive(Debug)]
pub struct Keeper<'a> {
    inputs: &'a Inputs,
    paths: &'a Paths,
    interval: Option<Duration>,
    /// Tree of the change and content of the session, as they were saved last.
    saved: Option<(String, Option<String>)>,
    /// Whether the server has a checkpoint of the Task.
    exists: bool,
}

impl<'a> Keeper<'a> {
    /// `exists`: whether checkout found a checkpoint.
    pub fn new(inputs: &'a Inputs, paths: &'a Paths, exists: bool) -> Self {
        Self { inputs, paths, interval: interval(inputs), saved: None, exists }
    }

    /// How long the agent is to be waited for after a stop.
    pub fn grace(&self) -> Duration {
        if self.interval.is_some() { AGENT_GRACE } else { Duration::ZERO }
    }

    /// Saves every interval until `ended` is there.
    pub async fn while_waiting<T>(&mut self, ended: impl Future<Output = T>, stop: &CancellationToken) -> T {
        let mut ended = std::pin::pin!(ended);
        loop {
            let due = async {
                match self.interval {
                    Some(interval) => tokio::time::sleep(interval).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                ended = &mut ended => return ended,
                () = due => {}
            }
            if !stop.is_cancelled() {
                self.save(stop).await;
            }
        }
    }

    /// After the agent's end: saves the work when the next attempt is to `go_on` with it, else removes what
    /// there is. A stop leaves little time for it.
    pub async fn conclude(&mut self, go_on: bool, stop: &CancellationToken) {
        if self.interval.is_none() {
            return;
        }
        if go_on && stop.is_cancelled() {
            let limit = CancellationToken::new();
            let late = limit.clone();
            let timer = tokio::spawn(async move {
                tokio::time::sleep(LAST_SAVE).await;
                late.cancel();
            });
            self.save(&limit).await;
            timer.abort();
        } else if go_on {
            self.save(stop).await;
        } else if self.exists
            && let Err(error) = self.remove(stop).await
        {
            println!("[opentiger] the checkpoint was not removed: {error}");
        }
    }

    async fn save(&mut self, stop: &CancellationToken) {
        match self.try_save(stop).await {
            Ok(Some(reference)) => println!("[opentiger] saved the work in progress as {reference}"),
            Ok(None) => {}
            Err(error) => println!("[opentiger] the work in progress was not saved: {error}"),
        }
    }

    /// The ref that was written; `None` when there is nothing new.
    async fn try_save(&mut self, stop: &CancellationToken) -> Result<Option<String>, ChangeError> {
        let state = State::load(self.paths)
            .map_err(|source| ChangeError::File { what: "read what checkout found", source })?;
        let scratch = Scratch::of(self.paths)
            .map_err(|source| ChangeError::File { what: "make room for a checkpoint", source })?;
        let git = Git::new(&scratch.0, &self.paths.private(), stop);
        scratch.open(&git, self.paths, &state.base).await?;
        let changes = change::recompute(&git, self.paths, LIMITS, stop).await?;
        let session = exchange::read_text_within(&self.paths.exchange, SESSION, MAX_SESSION_BYTES);
        if changes.is_empty() && session.is_none() {
            return Ok(None);
        }
        let index = self.paths.private().join("checkpoint-index");
        let change = commit::commit(&git, &index, self.inputs, &state.base, &changes).await?;
        let tree = format!("{change}^{{tree}}");
        let tree = git.command("rev-parse").args(["--verify", "--end-of-options", &tree]).line().await?;
        let new = Some((tree, session));
        if self.saved == new {
            return Ok(None);
        }
        let session = new.as_ref().and_then(|(_, session)| session.as_deref());
        let kept = wrap(&git, &change, session, &self.inputs.run).await?;
        let reference = self.push(&git, &kept, stop).await?;
        (self.saved, self.exists) = (new, true);
        Ok(Some(reference))
    }

    /// Pushes `commit` as today's checkpoint; earlier ones of the Task go, and what nobody came back for.
    async fn push(&self, git: &Git, commit: &str, stop: &CancellationToken) -> Result<String, ChangeError> {
        let access = Access::open(self.inputs, self.paths, stop).await?;
        let remote = self.remote(&access.paths)?;
        let task = &self.inputs.spec.task_ref;
        let own = checkpoint::of_task(&task.name, &task.uid);
        let (today, reference) = (today(), checkpoint::on(&own, today()));
        let there = remote.refs(git, &[&format!("{}*", checkpoint::ROOT)]).await?;
        let gone = there.into_keys().filter(|name| {
            *name != reference && (name.starts_with(&own) || checkpoint::is_stale(name, today))
        });
        let refspecs: Vec<String> = std::iter::once(format!("+{commit}:{reference}"))
            .chain(gone.map(|name| format!(":{name}")))
            .collect();
        remote.push_refs(git, &refspecs).await?;
        Ok(reference)
    }

    async fn remove(&mut self, stop: &CancellationToken) -> Result<(), ChangeError> {
        let git = Git::new(&self.paths.git_dir(), &self.paths.private(), stop);
        let access = Access::open(self.inputs, self.paths, stop).await?;
        let remote = self.remote(&access.paths)?;
        let there = found(&remote, &git, self.inputs).await?;
        let refspecs: Vec<String> = there.into_iter().map(|(name, _)| format!(":{name}")).collect();
        if !refspecs.is_empty() {
            remote.push_refs(&git, &refspecs).await?;
        }
        self.exists = false;
        Ok(())
    }

    fn remote(&self, paths: &Paths) -> Result<Remote, GitError> {
        Remote::open(&self.inputs.spec.repository.url, &paths.credentials, &paths.private())
    }
}

/// The commit that holds the session, on top of the change.
async fn wrap(git: &Git, change: &str, session: Option<&str>, run: &str) -> Result<String, GitError> {
    let mut listing = Vec::new();
    if let Some(session) = session {
        let input = Input::Bytes(session.as_bytes().to_vec());
        let blob =
            git.command("hash-object").args(["-w", "--stdin", "--no-filters"]).input(input).line().await?;
        listing = format!("100644 blob {blob}\t{SESSION}\n").into_bytes();
    }
    let tree = git.command("mktree").input(Input::Bytes(listing)).line().await?;
    let message = format!("[openTiger] work in progress of Run {run}\n");
    let arguments = ["-p", change, "-F", "-", &tree];
    git.command("commit-tree").args(arguments).input(Input::Bytes(message.into_bytes())).line().await
}

/// A repository for the objects of one save, on top of the trusted clone: saves leave nothing there.
struct Scratch(PathBuf);

impl Scratch {
    fn of(paths: &Paths) -> std::io::Result<Self> {
        let directory = paths.private().join("checkpoint.git");
        match fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(Self(directory)),
        }
    }

    async fn open(&self, git: &Git, paths: &Paths, base: &str) -> Result<(), ChangeError> {
        let format = if base.len() == 64 { "--object-format=sha256" } else { "--object-format=sha1" };
        git.command("init").args(["--quiet", "--bare", "--template=", format]).run().await?;
        let trusted = paths.git_dir();
        let write = || {
            fs::create_dir_all(self.0.join("objects/info"))?;
            let objects = format!("{}\n", trusted.join("objects").display());
            fs::write(self.0.join("objects/info/alternates"), objects)?;
            // The trusted clone is shallow, so its history ends here, too.
            match fs::copy(trusted.join("shallow"), self.0.join("shallow")) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        };
        write().map_err(|source| ChangeError::File { what: "make room for a checkpoint", source })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
