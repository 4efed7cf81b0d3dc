//! One pull request per branch: found again, updated, never doubled.
//!
//! Knows nothing of one forge. The creation is the one request that is not simply repeated: after an
//! answer that got lost the pull request may be there, so it is looked for before every try.

use super::github::{GitHub, TRIES};
use super::{Forge, ForgeError, Pull, State, Text};
use crate::crd::run::PullRequest;

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ensured {
    /// It is there.
    Pull(Box<Pull>),
    /// The base already has everything the branch has.
    NothingToMerge,
}

/// As it is reported.
pub fn reference(pull: &Pull) -> PullRequest {
    PullRequest { number: pull.number, url: pull.url.clone() }
}

/// Makes sure that there is a pull request from `head` to `base`. One that is there gets `text`, unless
/// it is over or `keep` says that its text is to stay.
///
/// # Errors
/// [`ForgeError`].
pub async fn ensure(
    forge: &GitHub,
    head: &str,
    base: &str,
    text: &Text,
    keep: bool,
) -> Result<Ensured, ForgeError> {
    let mut tries = 1;
    loop {
        if let Some(pull) = forge.find(head, base).await? {
            let pull = match pull.state {
                State::Open if !keep => forge.update(pull.number, text).await?,
                State::Open | State::Closed | State::Merged => pull,
            };
            return Ok(Ensured::Pull(Box::new(pull)));
        }
        match forge.create(head, base, text).await {
            Ok(pull) => return Ok(Ensured::Pull(Box::new(pull))),
            Err(error) if error.says("no commits between") => return Ok(Ensured::NothingToMerge),
            // Somebody was faster, or the answer of an earlier try of ours got lost: it is found now.
            Err(error) if error.says("already exists") && tries < TRIES => {}
            Err(error) if tries < TRIES => forge.pause(error, tries).await?,
            Err(error) => return Err(error),
        }
        tries += 1;
    }
}
