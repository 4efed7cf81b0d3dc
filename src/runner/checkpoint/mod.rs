//! What an interrupted attempt leaves for the next: its change and its agent's session, as a commit
//! under a hidden ref (`plan::checkpoint`).
//!
//! The commit's parent is the change on its base; its own tree holds the session alone, so that the
//! change can be looked at with any git. `publish` saves and removes, `checkout` restores, `agent`
//! hands its session over in the exchange directory. All of it may fail without harm to the Run.

pub mod keeper;
pub mod restore;
pub mod session;

use jiff::tz::TimeZone;

use super::clock;
use super::git::remote::{Remote, retry};
use super::git::{Git, GitError};
use crate::crd::wire::Inputs;
use crate::crd::{GoDuration, Purpose};
use crate::plan::checkpoint;

/// File of the session, in the exchange directory and in the commit.
pub const SESSION: &str = "session.json";
/// File in the exchange directory that tells the agent that there is work to go on with: a [`SESSION`],
/// or an empty object.
pub const RESUMED: &str = "resumed.json";
/// Directory in the exchange directory with the files of the base that say how to work and what verifies
/// the work, where the checkout has been worked on.
pub const BASE: &str = "base";
/// Largest session that is kept, in bytes of the file.
pub const MAX_SESSION_BYTES: u64 = 16 * 1024 * 1024;

/// How often this Run saves its work; `None` when it does not.
pub fn interval(inputs: &Inputs) -> Option<std::time::Duration> {
    let checkpoint = inputs.spec.template.checkpoint.as_ref()?;
    let wanted = inputs.spec.purpose == Purpose::Execute;
    wanted.then(|| GoDuration::or(Some(&checkpoint.interval), std::time::Duration::from_secs(300)))
}

/// The checkpoints of this Run's Task on the server: ref and commit, the newest last.
async fn found(remote: &Remote, git: &Git, inputs: &Inputs) -> Result<Vec<(String, String)>, GitError> {
    let task = &inputs.spec.task_ref;
    let pattern = format!("{}*", checkpoint::of_task(&task.name, &task.uid));
    let patterns = [pattern.as_str()];
    Ok(retry(|| remote.refs(git, &patterns)).await?.into_iter().collect())
}

fn today() -> jiff::civil::Date {
    clock::now().to_zoned(TimeZone::UTC).date()
}
