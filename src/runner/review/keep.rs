//! The change under review is kept with the API, so that a verdict can be read beside what it is about
//! even after the branch has gone (spec api 1, `/judgements/:id/diff`).
//!
//! Taken from the trusted clone. A verdict does not depend on it: what cannot be kept is said in the log.

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::change;
use super::checkout::Scope;
use crate::crd::wire::{ContainerResult, Inputs};
use crate::runner::api::{self, Api};
use crate::runner::checkout::Paths;
use crate::runner::git::Git;

/// Most bytes of a change that are kept: more than the API shows at a time.
const MAX_BYTES: usize = 512 * 1024;
/// Waits between the requests, in seconds.
const WAITS: [u64; 3] = [1, 2, 5];

/// Keeps the change that `result` is a verdict about; nothing when it is none, or there is no API.
pub async fn change(
    inputs: &Inputs,
    paths: &Paths,
    api: &Api,
    result: &ContainerResult,
    stop: &CancellationToken,
) {
    if result.review.is_none() || api.url.is_none() {
        return;
    }
    if let Err(why) = post(inputs, paths, api, stop).await {
        eprintln!("[opentiger] the change was not kept with the verdict: {why}");
    }
}

async fn post(inputs: &Inputs, paths: &Paths, api: &Api, stop: &CancellationToken) -> Result<(), String> {
    let scope = Scope::load(paths).map_err(|error| error.to_string())?;
    let git = Git::new(&paths.git_dir(), &paths.private(), stop);
    let patch = change::patch(&git, &scope.start, &scope.head, MAX_BYTES).await;
    let patch = patch.map_err(|error| error.to_string())?;
    let body = json!({
        "type": "base_repo_diff",
        "ref": scope.head,
        "metadata": {
            "mimeType": "text/plain",
            "baseCommit": scope.start,
            "headCommit": scope.head,
            "truncated": patch.cut,
        },
        "content": String::from_utf8_lossy(&patch.output),
    });
    let (path, key) = (format!("/runs/{}/artifacts", inputs.run), format!("change-{}", scope.head));
    let kept: Result<Value, _> = api::post(api, &path, Some(&key), &body, &WAITS, stop).await;
    kept.map(|_| ()).map_err(|error| error.to_string())
}
