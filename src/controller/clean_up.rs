//! Clean-up controller: keeps the logs of an ended Run's Pod, then deletes the Pod. Apart from the run
//! controller, so that a database or a node that does not answer slows nothing else down.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use super::context::Context;
use super::logs;
use super::queue::Action;
use super::run::until;
use crate::cluster::{Error, Key};
use crate::crd::wire::container;
use crate::crd::{Logs, PodFacts, Run};
use crate::plan::run::add;

/// How long a finished Pod waits for its logs to be kept (invariant S18).
const LOGS_WITHIN: Duration = Duration::from_secs(60);
/// Between two tries to keep them.
const RETRY: Duration = Duration::from_secs(5);

/// When the archive may be tried again after it failed: one try at a time finds out whether the
/// database is back, the others do not wait for it.
#[derive(Default)]
pub struct Gate {
    closed_until: Mutex<Option<Timestamp>>,
}

impl Gate {
    fn is_closed(&self, now: Timestamp) -> bool {
        self.closed_until.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|at| now < at)
    }

    fn close(&self, now: Timestamp) {
        *self.closed_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(add(now, RETRY));
    }
}

/// Keeps the logs of an ended Run and removes its Pod.
///
/// # Errors
/// When a request failed; the queue retries.
pub async fn reconcile(ctx: Arc<Context>, key: Key) -> Result<Action, Error> {
    let Some(run) = ctx.runs.get(&key) else { return Ok(Action::Await) };
    let uid = run.uid().unwrap_or_default();
    let ended = run.status.as_ref().is_some_and(|s| s.phase.is_terminal());
    let pod = ctx.pods.get(&key).filter(|p| p.run_uid == uid && p.deleted.is_none());
    let Some(pod) = pod.filter(|_| ended) else { return Ok(Action::Await) };
    if !kept(&ctx, &run, &pod).await {
        let finished = run.status.as_ref().and_then(|s| s.finished_at).unwrap_or_else(|| ctx.now());
        if ctx.now() < add(finished, LOGS_WITHIN) {
            return Ok(Action::After(RETRY));
        }
        tracing::warn!(run = %run.name_any(), "logs lost");
        let mut status = run.status.clone().unwrap_or_default();
        status.logs = Some(Logs::Lost);
        if let Some(written) = ctx.writer.patch_status(run.as_ref(), run.status.as_ref(), &status).await? {
            ctx.runs.wrote(written);
        }
    }
    // Everything in it has ended: no grace time is needed.
    ctx.writer.delete::<Pod>(&pod.namespace, &pod.name, &pod.uid, None).await?;
    // The watch shows the deletion; should it be late, look again.
    let soon = until(add(ctx.now(), RETRY), ctx.now());
    Ok(Action::After(soon))
}

/// Whether the logs are kept, or need not be.
async fn kept(ctx: &Context, run: &Run, pod: &PodFacts) -> bool {
    let Some(database) = &ctx.logs else { return true };
    if ctx.archive.is_closed(ctx.now()) {
        return false;
    }
    let uid = run.uid().unwrap_or_default();
    let client = ctx.writer.client();
    match logs::archive(client, database, &pod.namespace, &uid, &pod.name, container::of(run.spec.purpose))
        .await
    {
        Ok(()) => true,
        Err(error) => {
            if matches!(error, logs::Error::Store { .. }) {
                ctx.archive.close(ctx.now());
            }
            let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            tracing::warn!(run = %run.name_any(), error = %error, cause, "logs not kept yet, will retry");
            false
        }
    }
}
