//! System controller: leadership term, runtime hatch, summary condition.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};

use super::context::Context;
use super::queue::Action;
use crate::cluster::{Error, Key};
use crate::crd::{HatchState, RuntimeHatch, System, SystemStatus, set_condition};

/// Tries to raise the terms before the process gives up, and the time between two of them.
const TRIES: u32 = 10;
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// Raises the term of every System in the watched namespaces, before anything is listed: what a
/// former leader still creates is refused by the admission policy from then on (design, rule 3.5).
///
/// # Errors
/// When the Systems cannot be read or written, several times over.
pub async fn take_over(ctx: &Context, client: &Client, namespace: Option<&str>) -> Result<(), Error> {
    let mut tries = 1;
    loop {
        match raise_terms(ctx, client, namespace).await {
            Err(error) if tries < TRIES => {
                tracing::warn!(error = %error, "terms not raised yet");
                tokio::time::sleep(TRY_AGAIN).await;
                tries += 1;
            }
            result => return result,
        }
    }
}

async fn raise_terms(ctx: &Context, client: &Client, namespace: Option<&str>) -> Result<(), Error> {
    let api: Api<System> = match namespace {
        Some(ns) => Api::namespaced(client.clone(), ns),
        None => Api::all(client.clone()),
    };
    let systems = api.list(&ListParams::default()).await.map_err(|source| Error::Request {
        verb: "list",
        kind: "System".into(),
        name: namespace.unwrap_or_default().into(),
        source: Box::new(source),
    })?;
    for system in systems {
        if known_term(ctx, &system) != Some(system.term()) {
            raise_term(ctx, &system).await?;
        }
    }
    Ok(())
}

/// Keeps one System's hatch, term and condition.
///
/// # Errors
/// When the status could not be written; the queue retries.
pub async fn reconcile(ctx: Arc<Context>, key: Key) -> Result<Action, Error> {
    let Some(system) = ctx.systems.get(&key) else { return Ok(Action::Await) };
    match known_term(&ctx, &system) {
        // Made since this leader took over: nobody has created anything under it.
        None if system.term() == 0 => raise_term(&ctx, &system).await?,
        None => {
            tracing::error!("another leader works on a System that is new here, starting afresh");
            ctx.stop.cancel();
        }
        Some(term) if system.term() > term => {
            tracing::error!("another leader has raised the term, stopping");
            ctx.stop.cancel();
        }
        Some(term) => {
            let status = plan_status(&system, term, ctx.now());
            if let Some(written) =
                ctx.writer.patch_status(system.as_ref(), system.status.as_ref(), &status).await?
            {
                ctx.systems.wrote(written);
            }
        }
    }
    Ok(Action::Await)
}

fn known_term(ctx: &Context, system: &System) -> Option<i64> {
    let uid = system.uid()?;
    ctx.terms.lock().unwrap_or_else(PoisonError::into_inner).get(&uid).copied()
}

async fn raise_term(ctx: &Context, system: &System) -> Result<(), Error> {
    let term = system.term() + 1;
    let status = plan_status(system, term, ctx.now());
    if let Some(written) = ctx.writer.patch_status(system, system.status.as_ref(), &status).await? {
        let uid = system.uid().unwrap_or_default();
        ctx.terms.lock().unwrap_or_else(PoisonError::into_inner).insert(uid, term);
        ctx.systems.wrote(written);
        tracing::info!(term, "leadership term raised");
    }
    Ok(())
}

/// The status of a System: the hatch follows the spec, `Manual` leaves it as it is.
fn plan_status(system: &System, term: i64, now: jiff::Timestamp) -> SystemStatus {
    let mut status = system.status.clone().unwrap_or_default();
    let generation = system.metadata.generation.unwrap_or(0);
    let wanted = match system.spec.runtime_hatch {
        RuntimeHatch::Armed => HatchState::Armed,
        RuntimeHatch::Disarmed => HatchState::Disarmed,
        RuntimeHatch::Manual => status.hatch.state,
    };
    if status.hatch.state != wanted || status.hatch.since.is_none() {
        status.hatch.state = wanted;
        status.hatch.since = Some(now);
        status.hatch.by = "spec".into();
        status.hatch.reason = format!("spec.runtimeHatch is {}", hatch_word(system.spec.runtime_hatch));
    }
    status.term = term;
    status.observed_generation = generation;
    let (ready, reason, message) = match wanted {
        HatchState::Armed => (true, "Armed", "Runs are started"),
        HatchState::Disarmed => (false, "Disarmed", "the runtime hatch is disarmed: nothing is started"),
    };
    set_condition(&mut status.conditions, "Ready", ready, reason, message, generation, now);
    status
}

fn hatch_word(hatch: RuntimeHatch) -> &'static str {
    match hatch {
        RuntimeHatch::Manual => "Manual",
        RuntimeHatch::Armed => "Armed",
        RuntimeHatch::Disarmed => "Disarmed",
    }
}
