//! Container `checkout` of a review and of a merge.

use std::fs;
use std::io;

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::bundle::{self, Bundle};
use super::history::{self, HEAD, History};
use super::pull::{self, Proposal};
use super::{ReviewError, change, evaluated, head_moved, target};
use crate::crd::wire::Inputs;
use crate::runner::checkout::{
    CheckoutError, Paths, clear, clear_clone, file, hand_over, open, working_clone,
};
use crate::runner::forge::github::GitHub;
use crate::runner::git::Git;

/// Where the change starts, in the trusted clone.
const START: &str = "refs/opentiger/start";

/// The two commits of a review, for `publish`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Scope {
    /// Where the change starts.
    pub start: String,
    /// What is reviewed.
    pub head: String,
    /// In repository mode `GitHub`: its pull request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proposal: Option<Proposal>,
}

impl Scope {
    /// Reads what `checkout` has written.
    ///
    /// # Errors
    /// When it is not there or not readable.
    pub fn load(paths: &Paths) -> Result<Self, CheckoutError> {
        fs::read(paths.state())
            .and_then(|text| Ok(serde_json::from_slice(&text)?))
            .map_err(file("read what checkout found"))
    }

    fn save(&self, paths: &Paths) -> Result<(), CheckoutError> {
        serde_json::to_vec(self)
            .map_err(io::Error::other)
            .and_then(|text| fs::write(paths.state(), text))
            .map_err(file("write what was found"))
    }
}

/// Prepares a review and returns the commit under review.
///
/// # Errors
/// [`ReviewError`]; the branch must be at the commit that was asked about.
pub async fn prepare(
    inputs: &Inputs,
    paths: &Paths,
    forge: Option<&GitHub>,
    stop: &CancellationToken,
) -> Result<String, ReviewError> {
    let target = target(inputs)?;
    if let Some(forge) = forge {
        pull::is_over(inputs, forge).await?;
    }
    clear(paths).map_err(file("prepare the directories"))?;
    let bare = Git::new(&paths.git_dir(), &paths.private(), stop);
    let (remote, heads) = open(inputs, paths, &bare).await?;
    let found = heads.get(&format!("refs/heads/{}", inputs.spec.repository.branch)).map(String::as_str);
    if found != Some(target.head_commit.as_str()) {
        return Err(head_moved(target, found));
    }
    let repository = &inputs.spec.repository;
    let History { base, head, start } =
        history::fetch(&bare, &remote, &repository.base_branch, &repository.branch).await?;
    if head != target.head_commit {
        return Err(head_moved(target, Some(&head)));
    }
    let mut scope = Scope { start: start.unwrap_or(base), head, proposal: None };
    let files = change::files(&bare, &scope.start, &scope.head).await?;
    if let Some(forge) = forge {
        scope.proposal = pull::look(inputs, forge, &files).await?;
    }
    describe(inputs, paths, &bare, &scope, files).await?;
    bare.command("update-ref").args([START, &scope.start]).run().await?;
    let base_ref = format!("refs/heads/{}", repository.base_branch);
    working_clone(inputs, paths, &bare, &[(START, &base_ref), (HEAD, HEAD)], HEAD, stop).await?;
    scope.save(paths)?;
    hand_over(paths)?;
    Ok(scope.head)
}

/// Writes the bundle for the agent.
async fn describe(
    inputs: &Inputs,
    paths: &Paths,
    bare: &Git,
    scope: &Scope,
    files: Vec<change::ChangedFile>,
) -> Result<(), ReviewError> {
    let patch = change::patch(bare, &scope.start, &scope.head, bundle::MAX_PATCH_BYTES).await?;
    let mut violations = evaluated(inputs, target(inputs)?, &files).findings;
    let proposal = scope.proposal.clone().unwrap_or_default();
    violations.extend(proposal.failed_checks.iter().map(|name| format!("check failed: {name}")));
    let bundle = Bundle {
        title: inputs.spec.inputs.title.clone(),
        goal: inputs.spec.inputs.goal.clone(),
        base_branch: inputs.spec.repository.base_branch.clone(),
        start_commit: scope.start.clone(),
        head_commit: scope.head.clone(),
        file_count: files.len(),
        files,
        patch_cut: patch.cut,
        violations,
        comments: proposal.comments,
        ..Bundle::default()
    };
    bundle::write(&paths.review(), bundle, &patch.output).map_err(file("write the review bundle"))?;
    Ok(())
}

/// Prepares a merge and returns the head of the base branch: access is proved and the clone is there.
/// All that is decided is decided by `publish`, which looks at the server again.
///
/// # Errors
/// [`ReviewError`].
pub async fn prepare_merge(
    inputs: &Inputs,
    paths: &Paths,
    stop: &CancellationToken,
) -> Result<String, ReviewError> {
    target(inputs)?;
    clear_clone(paths).map_err(file("prepare the directories"))?;
    let bare = Git::new(&paths.git_dir(), &paths.private(), stop);
    let (remote, _) = open(inputs, paths, &bare).await?;
    Ok(history::fetch_base(&bare, &remote, &inputs.spec.repository.base_branch).await?)
}
