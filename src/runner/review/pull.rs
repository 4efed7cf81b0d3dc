//! Repository mode `GitHub`, in a review: the pull request of the branch and what its checks say.
//!
//! What is over or not yet to be judged ends the Run here, before a model is paid for it.

use serde::{Deserialize, Serialize};

use super::change::ChangedFile;
use super::{ReviewError, target};
use crate::crd::run::PullRequest;
use crate::crd::wire::Inputs;
use crate::plan::judge::ci::Ci;
use crate::plan::verdict::code;
use crate::runner::forge::github::GitHub;
use crate::runner::forge::pull_request::{Ensured, ensure, reference};
use crate::runner::forge::{Forge, Pull, State, text};

/// What the forge says of the commit under review, for `publish`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Proposal {
    pub pr: PullRequest,
    /// Names of the checks that have failed; no other check is open.
    #[serde(default)]
    pub failed_checks: Vec<String>,
    /// What people have said about lines of the change.
    #[serde(default)]
    pub comments: Vec<String>,
}

impl Proposal {
    /// As the verdict takes it.
    pub fn ci(&self) -> Ci {
        match self.failed_checks.is_empty() {
            true => Ci::Success,
            false => Ci::Failure(self.failed_checks.clone()),
        }
    }
}

/// An error when the pull request is over.
///
/// # Errors
/// `pull_request_merged` and `pull_request_closed`.
pub fn must_be_open(pull: &Pull) -> Result<(), ReviewError> {
    match pull.state {
        State::Open => Ok(()),
        State::Merged => Err(ReviewError::Ended {
            code: code::PULL_REQUEST_MERGED,
            why: format!("pull request {} is merged already", pull.url),
        }),
        State::Closed => Err(ReviewError::Ended {
            code: code::PULL_REQUEST_CLOSED,
            why: format!("pull request {} was closed unmerged: reopen it, or cancel the Task", pull.url),
        }),
    }
}

/// Ends the Run when the branch's pull request is over; one that is not there is no error.
///
/// # Errors
/// As [`must_be_open`]; [`ReviewError::Forge`].
pub async fn is_over(inputs: &Inputs, forge: &GitHub) -> Result<(), ReviewError> {
    let repository = &inputs.spec.repository;
    match forge.find(&repository.branch, repository.proposed_to()).await? {
        Some(pull) => must_be_open(&pull),
        None => Ok(()),
    }
}

/// The pull request, made now if it is not there, and its checks. `None`: the base has all of it.
///
/// # Errors
/// As [`must_be_open`]; `checks_pending`; [`ReviewError::Forge`].
pub async fn look(
    inputs: &Inputs,
    forge: &GitHub,
    files: &[ChangedFile],
) -> Result<Option<Proposal>, ReviewError> {
    let repository = &inputs.spec.repository;
    let text = text::pull_request(inputs, files, "");
    let pull = match ensure(forge, &repository.branch, repository.proposed_to(), &text, true).await? {
        Ensured::Pull(pull) => pull,
        Ensured::NothingToMerge => return Ok(None),
    };
    must_be_open(&pull)?;
    let failed_checks = match forge.checks(&target(inputs)?.head_commit).await? {
        Ci::Success => Vec::new(),
        Ci::Failure(names) => names,
        Ci::Pending(names) => return Err(pending(&names.join(", "))),
        Ci::Unreadable(why) => return Err(pending(&why)),
    };
    let comments = forge.review_comments(pull.number).await?;
    Ok(Some(Proposal { pr: reference(&pull), failed_checks, comments }))
}

/// Checks are not over: a wait, not a verdict (trap Q18).
pub fn pending(names: &str) -> ReviewError {
    ReviewError::Ended { code: code::CHECKS_PENDING, why: format!("checks are not over: {names}") }
}
