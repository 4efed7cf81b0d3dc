//! Runs of purpose Judge and Merge: what they check out, what a reviewing agent is told and says, the
//! verdict, and the merge.
//!
//! | purpose | `checkout` | `agent` | `publish` |
//! |---|---|---|---|
//! | Judge | base and head, the change as a bundle for the agent, a working clone of the head | reads the bundle, leaves its opinion | recomputes the change from the trusted clone, applies path policy and rules to it and to the opinion |
//! | Merge | base | none | fetches base and head, merges them without a work tree, pushes with a lease on the base |
//!
//! What the agent says is testimony and touches nothing but the opinion: paths, sizes and file names
//! come from the trusted clone (invariant S30). A branch that has moved since it was asked about is
//! never judged or merged (S28).

pub mod bundle;
pub mod change;
pub mod checkout;
pub mod history;
pub mod keep;
pub mod merge;
pub mod merge_pull;
pub mod opinion;
pub mod publish;
pub mod pull;

use crate::crd::run::ReviewTarget;
use crate::crd::wire::{ContainerResult, Inputs, Outcome};
use crate::plan::judge::change::{self as rules, ChangeReview};
use crate::plan::verdict::code;
use crate::runner::checkout::CheckoutError;
use crate::runner::forge::ForgeError;
use crate::runner::git::GitError;
use crate::runner::git::failure::CODE_ENVIRONMENT;

/// Why a review or a merge did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    #[error(transparent)]
    Git(#[from] GitError),
    #[error(transparent)]
    Checkout(#[from] CheckoutError),
    #[error(transparent)]
    Forge(#[from] ForgeError),
    /// A stated end of another kind.
    #[error("{why}")]
    Ended {
        /// Failure code of `plan::verdict`.
        code: &'static str,
        why: String,
    },
}

impl ReviewError {
    /// The result of a container that ended with this error.
    pub fn into_result(self) -> ContainerResult {
        match self {
            Self::Git(error) => error.into_result(),
            Self::Checkout(error) => error.into_result(),
            Self::Forge(error) => error.into_result(),
            Self::Ended { code, why } => ContainerResult::failure(Outcome::Failed, code, why),
        }
    }
}

/// What the Run looks at.
fn target(inputs: &Inputs) -> Result<&ReviewTarget, ReviewError> {
    inputs.spec.review.as_ref().ok_or_else(|| ReviewError::Ended {
        code: CODE_ENVIRONMENT,
        why: "failed to read the run's inputs: they do not say what is to be reviewed".into(),
    })
}

/// The branch is gone or has another head than the one that was asked about.
fn head_moved(target: &ReviewTarget, found: Option<&str>) -> ReviewError {
    let found = found.map_or_else(|| "is gone".into(), |commit| format!("is at {commit}"));
    let why =
        format!("{} was to be looked at on branch {}, which {found}", target.head_commit, target.branch);
    ReviewError::Ended { code: code::REVIEW_HEAD_MOVED, why }
}

/// What paths and rules of the Run say of the change.
fn evaluated(inputs: &Inputs, target: &ReviewTarget, files: &[change::ChangedFile]) -> ChangeReview {
    let task = &inputs.spec.inputs;
    let counted: Vec<rules::ChangedFile> = files.iter().map(change::ChangedFile::counted).collect();
    rules::evaluate(&counted, &task.allowed_paths, &task.denied_paths, task.risk_level, &target.rules)
}
