//! System controller: leadership term, runtime hatch, summary condition; budgets, cycles, anomalies and
//! retention by `upkeep`.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};

use super::context::Context;
use super::planner;
use super::queue::Action;
use super::run::until;
use super::upkeep;
use crate::cluster::{Error, Key};
use crate::crd::system::component;
use crate::crd::{Hatch, HatchState, System, SystemStatus, set_condition};
use crate::plan::upkeep::show_cycle;
use crate::plan::{cycle, hatch};

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
            let now = ctx.now();
            let mut status = plan_status(&system, term, now);
            let again = planner::step(&ctx, &system, &mut status, now).await?;
            let look = upkeep::apply_status(&ctx, &system, status).await?;
            let removal = upkeep::remove_finished(&ctx, &system).await?;
            let again = again.map(|at| until(at, now));
            return Ok(look
                .into_iter()
                .chain(removal)
                .chain(again)
                .min()
                .map_or(Action::Await, Action::After));
        }
    }
    Ok(Action::Await)
}

/// Ends the present cycle, for an Operation of type EndCycle. Acts on the stored cycle (hazard H19);
/// what runs goes on. Returns the number of the cycle that has ended, `None` when none was running.
///
/// # Errors
/// `Conflict` when the System changed meanwhile: read it again and repeat.
pub async fn end_cycle(ctx: &Context, system: &System, by: &str, reason: &str) -> Result<Option<i64>, Error> {
    let mut status = system.status.clone().unwrap_or_default();
    let Some(mut present) = status.cycle.clone() else { return Ok(None) };
    let namespace = system.namespace().unwrap_or_default();
    let stats = ctx.books.with(&namespace, |books| {
        books.restore(&status);
        books.tally().stats()
    });
    present.stats = stats;
    let stopped = system.is_stopped(component::CYCLE_MANAGER);
    let advance = cycle::end(&present, by, reason, stopped, ctx.now());
    if advance.ended.is_none() {
        return Ok(None);
    }
    let generation = system.metadata.generation.unwrap_or(0);
    show_cycle(&mut status, advance, generation, ctx.now());
    if let Some(written) = ctx.writer.patch_status(system, system.status.as_ref(), &status).await? {
        upkeep::note_cycle(ctx, system, &status);
        ctx.systems.wrote(written);
    }
    Ok(Some(present.number))
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

/// Puts what an Operation has decided into the System: the hatch, and what is stopped. Returns `false`
/// without a write while this leader's term is not in force.
///
/// # Errors
/// `Conflict` when the System has changed since it was read.
pub async fn apply_latch(
    ctx: &Context,
    system: &System,
    hatch: Hatch,
    stopped: Vec<String>,
) -> Result<bool, Error> {
    let Some(term) = ctx.term(system) else { return Ok(false) };
    let mut latched = system.clone();
    let status = latched.status.get_or_insert_default();
    (status.hatch, status.stopped) = (hatch, stopped);
    let status = plan_status(&latched, term, ctx.now());
    if let Some(written) = ctx.writer.patch_status(system, system.status.as_ref(), &status).await? {
        tracing::info!(armed = written.is_armed(), stopped = status.stopped.len(), "latch written");
        ctx.systems.wrote(written);
    }
    Ok(true)
}

/// The status of a System: the hatch follows the spec where that says something new, and the condition
/// follows the hatch.
fn plan_status(system: &System, term: i64, now: jiff::Timestamp) -> SystemStatus {
    let mut status = system.status.clone().unwrap_or_default();
    let generation = system.metadata.generation.unwrap_or(0);
    status.hatch = hatch::following(system, now);
    status.term = term;
    status.observed_generation = generation;
    let (ready, reason, message) = match status.hatch.state {
        HatchState::Armed if system.is_stopped(component::DISPATCHER) => {
            (false, "DispatcherStopped", "the dispatcher is stopped: nothing new is started")
        }
        HatchState::Armed => (true, "Armed", "Runs are started"),
        HatchState::Disarmed => (false, "Disarmed", "the runtime hatch is disarmed: nothing is started"),
    };
    set_condition(&mut status.conditions, "Ready", ready, reason, message, generation, now);
    status
}
