//! The work of container `agent` in a review: the executor reads the bundle and leaves its opinion.
//!
//! Nothing is verified and no change of the checkout matters. What the path policy or the size rules
//! have already decided is not asked about, so that no model is paid for it.

use std::ffi::OsString;
use std::path::PathBuf;

use super::process::{Finished, Supervisor};
use super::{Early, Settings, cancelled, early, execute, infra, last_words, prompt, quota_wait};
use crate::crd::Purpose;
use crate::crd::wire::path::{REVIEW_FILE, VERDICT_FILE};
use crate::crd::wire::{ContainerResult, Inputs, Outcome};
use crate::plan::verdict::code;
use crate::runner::exchange;
use crate::runner::review::{bundle, opinion};

/// Variable that names the description of the change.
pub const REVIEW: &str = "OPENTIGER_REVIEW";
/// Variable that names the file for the verdict.
pub const VERDICT: &str = "OPENTIGER_VERDICT";

/// What the executor of a review finds in its environment besides that of every Run.
pub(super) fn environment(inputs: &Inputs, settings: &Settings) -> Vec<(OsString, OsString)> {
    let files: [(&str, PathBuf); 2] = [
        (REVIEW, bundle::directory(&settings.checkout).join(REVIEW_FILE)),
        (VERDICT, settings.exchange.join(VERDICT_FILE)),
    ];
    match inputs.spec.purpose {
        Purpose::Judge => files.map(|(name, path)| (name.into(), path.into())).into(),
        Purpose::Execute | Purpose::Merge | Purpose::Plan => Vec::new(),
    }
}

/// The steps in order. `Err` is the result of a step that ends the work early.
pub(super) async fn work(
    supervisor: &mut Supervisor,
    inputs: &Inputs,
    settings: &Settings,
) -> Result<ContainerResult, Early> {
    let bundle = bundle::read(&bundle::directory(&settings.checkout))
        .map_err(|error| infra("failed to read the review bundle", &error))?;
    if bundle.is_decided() {
        return Ok(done("the change is decided without the agent"));
    }
    let verdict = settings.exchange.join(VERDICT_FILE);
    let files = prompt::write_review(&settings.exchange, inputs, &bundle, &verdict, supervisor.mask())
        .map_err(|error| infra("failed to write the prompt", &error))?;
    if let Some(finished) = execute(supervisor, inputs, settings, &files, None).await? {
        return Err(out_of_time(inputs, settings, &finished));
    }
    if supervisor.is_stopped() {
        return Err(cancelled().into());
    }
    let said = exchange::read_text(&settings.exchange, VERDICT_FILE);
    let Some(opinion) = said.as_deref().and_then(opinion::parse) else {
        let what = if said.is_some() { "is not the JSON that was asked for" } else { "is missing" };
        let summary = format!("the reviewer ended well, but its verdict {what}");
        return Err(early(Outcome::Failed, code::REVIEW_NO_VERDICT, summary));
    };
    // Written again within bounds and without secrets: `publish` does not know them.
    let text = supervisor.mask().hide(opinion::text(&opinion)).into_owned();
    exchange::write_text(&settings.exchange, VERDICT_FILE, &text)
        .map_err(|error| infra("failed to write the verdict for publish", &error))?;
    Ok(done(&opinion.summary))
}

fn done(summary: &str) -> ContainerResult {
    ContainerResult { summary: summary.into(), ..ContainerResult::new(Outcome::Success) }
}

fn out_of_time(inputs: &Inputs, settings: &Settings, finished: &Finished) -> Early {
    if let Some(result) = quota_wait(finished, settings) {
        return result.into();
    }
    let timebox = &inputs.spec.inputs.timebox.0;
    let summary = format!("the reviewer timed out after {timebox}: {}", last_words(finished));
    early(Outcome::Failed, "execution_failed", summary)
}
