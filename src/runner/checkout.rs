//! The init container `checkout`: the trusted bare clone, the working clone of the agent, the manifest
//! of the checked-out files, the runner for the agent's container, and the rendezvous.
//!
//! What a review and a merge check out is in `runner::review`; this file holds what all have in common.
//!
//! The working clone is made before the agent has ever run and holds no credentials and no remote.
//! Files are checked out as the bytes of their blobs (no line-end, filter or encoding conversion), so
//! that `publish` can commit working files as they are.

pub mod manifest;
pub mod submodules;

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use self::manifest::Manifest;
use super::checkpoint::{self, restore::Restored};
use super::exchange;
use super::forge::github::GitHub;
use super::forge::{Access, ForgeError};
use super::git::failure;
use super::git::remote::{Remote, retry};
use super::git::{FailureKind, Git, GitError, IDENTITY};
use super::planning;
use super::review::{self, ReviewError};
use super::trust;
use crate::crd::Purpose;
use crate::crd::wire::{ContainerResult, Inputs, Outcome, path};

/// Trailer of our commits: uid of the Run.
pub const RUN_TRAILER: &str = "OpenTiger-Run";
/// Where an earlier push of ours is fetched to.
const PUBLISHED: &str = "refs/opentiger/published";

/// The directories of a Run's Pod, as [`crate::crd::wire::path`] names them.
#[derive(Clone, Debug)]
pub struct Paths {
    /// Trusted, seen by `checkout` and `publish` only.
    pub repository: PathBuf,
    /// Working clone, written by the agent.
    pub checkout: PathBuf,
    /// Shared with the agent.
    pub exchange: PathBuf,
    /// Git credentials, mounted in `checkout` and `publish` only.
    pub credentials: PathBuf,
    /// The pool's own certificate authorities, mounted in `checkout` only.
    pub authorities: PathBuf,
    /// The public ones.
    pub system_authorities: PathBuf,
    /// Where both are put for all containers.
    pub trusted: PathBuf,
    /// Where the runner is put for the agent's container.
    pub runner: PathBuf,
    /// The running program.
    pub executable: PathBuf,
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            repository: path::BARE.into(),
            checkout: path::CHECKOUT.into(),
            exchange: path::EXCHANGE.into(),
            credentials: path::CREDENTIALS.into(),
            authorities: Path::new(path::CA_BUNDLE).join(path::CA_FILE),
            system_authorities: trust::SYSTEM.into(),
            trusted: path::TRUSTED.into(),
            runner: path::RUNNER.into(),
            executable: "/proc/self/exe".into(),
        }
    }
}

impl Paths {
    /// The bare clone. Not the mount point itself, because git wants to own its directory.
    pub fn git_dir(&self) -> PathBuf {
        self.repository.join("base.git")
    }

    /// Scratch space and HOME of git.
    pub fn private(&self) -> PathBuf {
        self.repository.join("private")
    }

    /// The manifest of the checkout.
    pub fn manifest(&self) -> PathBuf {
        self.repository.join("manifest")
    }

    /// What a reviewing agent is given; beside the checkout.
    pub fn review(&self) -> PathBuf {
        review::bundle::directory(&self.checkout)
    }

    /// Clones of the submodules.
    pub fn submodules(&self) -> PathBuf {
        self.repository.join("submodules")
    }

    /// What `checkout` found, for `publish`.
    pub fn state(&self) -> PathBuf {
        self.repository.join("state.json")
    }
}

/// What `checkout` found, for `publish`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// Commit that the work starts from.
    pub base: String,
    /// Head of the branch on the server, when this Run had pushed it before.
    pub earlier_push: Option<String>,
    /// Whether the server has a checkpoint of the Task (`runner::checkpoint`).
    #[serde(default)]
    pub checkpoint: bool,
}

impl State {
    /// Reads what `checkout` wrote.
    ///
    /// # Errors
    /// When it cannot be read or is something else.
    pub fn load(paths: &Paths) -> io::Result<Self> {
        Ok(serde_json::from_slice(&fs::read(paths.state())?)?)
    }

    fn save(&self, paths: &Paths) -> io::Result<()> {
        fs::write(paths.state(), serde_json::to_vec(self)?)
    }
}

/// Why the checkout failed.
#[derive(Debug, thiserror::Error)]
pub enum CheckoutError {
    #[error(transparent)]
    Git(#[from] GitError),
    #[error(transparent)]
    Forge(#[from] ForgeError),
    #[error("failed to {what}: {source}")]
    File { what: &'static str, source: io::Error },
}

impl CheckoutError {
    /// The result of a container that ended with this error.
    pub fn into_result(self) -> ContainerResult {
        match self {
            Self::Git(error) => error.into_result(),
            Self::Forge(error) => error.into_result(),
            Self::File { ref source, what: _ } => failure::of_file(&self.to_string(), source),
        }
    }
}

pub(super) fn file(what: &'static str) -> impl Fn(io::Error) -> CheckoutError {
    move |source| CheckoutError::File { what, source }
}

/// Prepares everything the agent needs. `stop` ends it early.
pub async fn run(inputs: &Inputs, paths: &Paths, stop: &CancellationToken) -> ContainerResult {
    let access = match Access::open(inputs, paths, stop).await {
        Ok(access) => access,
        Err(error) => return error.into_result(),
    };
    let paths = &access.paths;
    let base = &inputs.spec.repository.base_branch;
    let done = |head: String, summary: String| {
        println!("[opentiger] {summary} at {head}");
        ContainerResult { head: Some(head), summary, ..ContainerResult::new(Outcome::Success) }
    };
    println!("[opentiger] fetching {base}");
    if let Err(error) = trust::write(inputs, &paths.system_authorities, &paths.authorities, &paths.trusted) {
        return error.into_result();
    }
    match inputs.spec.purpose {
        Purpose::Execute | Purpose::Plan => prepare(inputs, paths, access.forge.as_ref(), stop)
            .await
            .map(|state| done(state.base, format!("checked out {base}")))
            .unwrap_or_else(CheckoutError::into_result),
        Purpose::Judge => review::checkout::prepare(inputs, paths, access.forge.as_ref(), stop)
            .await
            .map(|head| done(head, "checked out what is to be reviewed".into()))
            .unwrap_or_else(ReviewError::into_result),
        Purpose::Merge => review::checkout::prepare_merge(inputs, paths, stop)
            .await
            .map(|base_head| done(base_head, format!("fetched {base}")))
            .unwrap_or_else(ReviewError::into_result),
    }
}

async fn prepare(
    inputs: &Inputs,
    paths: &Paths,
    forge: Option<&GitHub>,
    stop: &CancellationToken,
) -> Result<State, CheckoutError> {
    clear(paths).map_err(file("prepare the directories"))?;
    let bare = Git::new(&paths.git_dir(), &paths.private(), stop);
    let mut state = fetch_base(inputs, paths, &bare).await?;
    let base_ref = format!("refs/heads/{}", inputs.spec.repository.base_branch);
    working_clone(inputs, paths, &bare, &[(&base_ref, &base_ref)], &base_ref, stop).await?;
    let listing = bare.command("ls-tree").args(["-r", "-z", "--full-tree", &state.base]).run().await?;
    Manifest::of_checkout(&listing, &paths.checkout)
        .and_then(|manifest| manifest.save(&paths.manifest()))
        .map_err(file("write the manifest"))?;
    hand_over(paths)?;
    // After the manifest, to which what is put into the checkout now is a change.
    let restored = checkpoint::restore::restore(inputs, paths, &bare, &state, stop).await?;
    state.checkpoint = restored != Restored::Nothing;
    state.save(paths).map_err(file("write what was found"))?;
    if inputs.spec.purpose == Purpose::Plan {
        planning::prepare(inputs, paths, &bare, &state.base, forge).await?;
    }
    Ok(state)
}

/// What the agent's container needs besides its checkout.
pub(super) fn hand_over(paths: &Paths) -> Result<(), CheckoutError> {
    install_runner(&paths.executable, &paths.runner).map_err(file("install the runner"))?;
    exchange::create(&paths.exchange).map_err(file("create the rendezvous"))
}

/// Empties what an interrupted checkout may have left: init containers can run twice.
pub(super) fn clear(paths: &Paths) -> io::Result<()> {
    clear_clone(paths)?;
    remove(&paths.checkout)?;
    fs::DirBuilder::new().recursive(true).create(&paths.checkout)
}

/// As [`clear`], for a Pod that has no workspace: only the trusted clone.
pub(super) fn clear_clone(paths: &Paths) -> io::Result<()> {
    remove(&paths.git_dir())?;
    remove(&paths.submodules())?;
    remove(&paths.private())?;
    fs::DirBuilder::new().mode(0o700).create(paths.private())
}

fn remove(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The trusted bare clone: the base branch alone, one commit deep.
async fn fetch_base(inputs: &Inputs, paths: &Paths, bare: &Git) -> Result<State, GitError> {
    let repository = &inputs.spec.repository;
    let base_ref = format!("refs/heads/{}", repository.base_branch);
    let (remote, heads) = open(inputs, paths, bare).await?;
    retry(|| remote.fetch(bare, &base_ref, &base_ref, 1)).await?;
    let base = bare.command("rev-parse").args(["--verify", "--end-of-options", &base_ref]).line().await?;
    let earlier_push = match heads.contains_key(&format!("refs/heads/{}", repository.branch)) {
        true => Some(retry(|| own_push(bare, &remote, &repository.branch, &inputs.run_uid)).await?),
        false => None,
    };
    Ok(State { base, earlier_push, checkpoint: false })
}

/// Asks the server for base and result branch, and makes the empty bare clone.
pub(super) async fn open(
    inputs: &Inputs,
    paths: &Paths,
    bare: &Git,
) -> Result<(Remote, BTreeMap<String, String>), GitError> {
    let repository = &inputs.spec.repository;
    for branch in [&repository.base_branch, &repository.branch] {
        check_branch_name(bare, branch).await?;
    }
    let remote = Remote::open(&repository.url, &paths.credentials, &paths.private())?;
    let branches = [repository.base_branch.as_str(), &repository.branch];
    let heads = retry(|| remote.heads(bare, &branches)).await?;
    let Some(base) = heads.get(&format!("refs/heads/{}", repository.base_branch)) else {
        return Err(missing_base(&remote, bare, &repository.base_branch).await);
    };
    let format = if base.len() == 64 { "--object-format=sha256" } else { "--object-format=sha1" };
    bare.command("init").args(["--quiet", "--bare", "--template=", format]).run().await?;
    Ok((remote, heads))
}

/// Fetches the head of a branch that exists on the server and returns it when this Run made it.
///
/// # Errors
/// [`FailureKind::Diverged`] when somebody else did.
pub async fn own_push(git: &Git, remote: &Remote, branch: &str, run_uid: &str) -> Result<String, GitError> {
    remote.fetch(git, &format!("refs/heads/{branch}"), PUBLISHED, 2).await?;
    let format = format!("--format=%H %(trailers:key={RUN_TRAILER},valueonly,separator=%x20)");
    let line = git.command("log").args(["-1", &format, "--end-of-options", PUBLISHED]).line().await?;
    match line.split_once(' ') {
        Some((commit, run)) if !run_uid.is_empty() && run == run_uid => Ok(commit.to_string()),
        _ => Err(GitError::new(
            FailureKind::Diverged,
            "use the branch",
            format!("the server already has a branch {branch} that this Run did not make"),
        )),
    }
}

/// A colon or an asterisk in a name would change what a refspec means.
async fn check_branch_name(git: &Git, branch: &str) -> Result<(), GitError> {
    let name = format!("refs/heads/{branch}");
    match git.command("check-ref-format").args([&name]).run().await {
        Ok(_) => Ok(()),
        Err(error) if error.kind == FailureKind::Stopped => Err(error),
        Err(_) => {
            let text = format!("{branch:?} is not a branch name");
            Err(GitError::new(FailureKind::Misconfigured, "open the repository", text))
        }
    }
}

async fn missing_base(remote: &Remote, git: &Git, base: &str) -> GitError {
    match retry(|| remote.heads(git, &[])).await {
        Err(error) => error,
        Ok(heads) if heads.is_empty() => GitError::new(
            FailureKind::RepositoryEmpty,
            "find the base branch",
            "the repository has no commit yet",
        ),
        Ok(heads) => {
            let names: Vec<&str> =
                heads.keys().take(5).map(|name| name.strip_prefix("refs/heads/").unwrap_or(name)).collect();
            let text = format!("there is no branch {base:?}; there is {}", names.join(", "));
            GitError::new(FailureKind::BaseBranchMissing, "find the base branch", text)
        }
    }
}

/// The agent's clone: the base branch, and the result branch at `start`; no remote, nothing that
/// converts files. `refs` are fetched from the trusted clone, one commit deep: source and target.
pub(super) async fn working_clone(
    inputs: &Inputs,
    paths: &Paths,
    bare: &Git,
    refs: &[(&str, &str)],
    start: &str,
    stop: &CancellationToken,
) -> Result<(), CheckoutError> {
    let repository = &inputs.spec.repository;
    let git_dir = paths.checkout.join(".git");
    let git = Git::new(&git_dir, &paths.private(), stop);
    let format = bare.command("rev-parse").args(["--show-object-format"]).line().await?;
    let (branch, format) =
        (format!("--initial-branch={}", repository.branch), format!("--object-format={format}"));
    git.command("init").args(["--quiet", "--template=", &branch, &format]).run().await?;
    // Through the transport, so that nothing is shared with the trusted clone by a hard link.
    git.command("fetch")
        .env("GIT_ALLOW_PROTOCOL", "file")
        .args(["--quiet", "--no-tags", "--no-write-fetch-head", "--depth=1", "--end-of-options"])
        .args([bare.git_dir()])
        .args(refs.iter().map(|(source, target)| format!("+{source}:{target}")))
        .run()
        .await?;
    fs::create_dir_all(git_dir.join("info"))
        .and_then(|()| fs::write(git_dir.join("info/attributes"), RAW))
        .map_err(file("write the attributes"))?;
    for (key, value) in [("user.name", IDENTITY.0), ("user.email", IDENTITY.1)] {
        git.command("config").args([key, value]).run().await?;
    }
    git.command_in(&paths.checkout, "checkout")
        .args(["--quiet", "--force", "--no-track", "-B", &repository.branch, start])
        .run()
        .await?;
    submodules::check_out(inputs, paths, bare, start, stop).await
}

/// Attributes that win over those of the repository: files are their blobs.
const RAW: &str = "* -text !eol -ident -filter -working-tree-encoding\n";

/// Copies the static runner to where the agent's container finds it, readable and executable only.
fn install_runner(executable: &Path, target: &Path) -> io::Result<()> {
    let temporary = target.with_extension("new");
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::copy(executable, &temporary)?;
    fs::set_permissions(&temporary, Permissions::from_mode(0o555))?;
    fs::rename(&temporary, target)
}
