//! The System's upkeep: writes what `plan::upkeep` says, and removes what `plan::retention` names.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt;

use super::context::Context;
use super::run::until;
use crate::cluster::{Cached, Error, Key};
use crate::crd::system::{component, condition};
use crate::crd::{AgentPool, Operation, Run, System, SystemStatus, Task};
use crate::plan::retention::{Finished, Removals};
use crate::plan::upkeep::{COUNTERS_EVERY, PoolView, Upkeep, WRITE_EVERY, is_more_than_numbers, left, plan};

/// Objects removed in one go, and the time between two of them.
const REMOVED_AT_ONCE: usize = 50;
const REMOVE_EVERY: Duration = Duration::from_secs(1);
/// Objects of each kind that are looked at in one go.
const CANDIDATES: usize = 500;
/// Wait when none of them may go yet.
const TRY_AGAIN: Duration = Duration::from_secs(30);

/// When something was last done to a System, by uid.
#[derive(Default)]
pub struct Written {
    inner: Mutex<HashMap<String, Timestamp>>,
}

impl Written {
    fn at(&self, uid: &str) -> Option<Timestamp> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).get(uid).copied()
    }

    fn note(&self, uid: &str, now: Timestamp) {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).insert(uid.to_string(), now);
    }
}

/// Writes `base`, which is the status with hatch and term up to date, with what the books add to it.
/// Returns when to look again.
pub async fn apply_status(
    ctx: &Context,
    system: &System,
    base: SystemStatus,
) -> Result<Option<Duration>, Error> {
    let now = ctx.now();
    let old = system.status.clone().unwrap_or_default();
    // The hatch never waits for the numbers.
    let urgent = base != old;
    let Upkeep { status, look_at, busy, news } = if ctx.synced() {
        let pools = observe_pools(ctx, system);
        let namespace = system.namespace().unwrap_or_default();
        ctx.books.with(&namespace, |books| plan(system, base, books, &pools, now))
    } else {
        Upkeep { status: base, look_at: Some(now), busy: false, news: Vec::new() }
    };
    let uid = Cached::uid(system).to_string();
    let spacing = if urgent {
        Duration::ZERO
    } else if busy && !is_more_than_numbers(&old, &status) {
        COUNTERS_EVERY
    } else {
        WRITE_EVERY
    };
    let again = look_at.map(|at| until(at, now).max(Duration::from_millis(100)));
    if status == old {
        return Ok(again);
    }
    if let Some(wait) = left(ctx.systems_written.at(&uid), spacing, now) {
        return Ok(Some(again.map_or(wait, |again| again.min(wait))));
    }
    if let Some(written) = ctx.writer.patch_status(system, system.status.as_ref(), &status).await? {
        ctx.systems_written.note(&uid, now);
        note_cycle(ctx, system, &status);
        ctx.systems.wrote(written);
        for (reason, message) in news {
            tracing::info!(reason, message, "system condition set");
            // The end of a cycle is no cause for concern.
            if reason != condition::CYCLE_ENDED {
                ctx.events.warn(system, reason, &message);
            }
        }
    }
    Ok(again)
}

/// The books begin the cycle that was written.
pub fn note_cycle(ctx: &Context, system: &System, status: &SystemStatus) {
    if let Some(start) = status.cycle.as_ref().and_then(|cycle| cycle.started_at) {
        ctx.books.with(&system.namespace().unwrap_or_default(), |books| books.begin_cycle(start));
    }
}

fn observe_pools(ctx: &Context, system: &System) -> Vec<PoolView> {
    let pools = ctx.pools.by_index(&system.namespace().unwrap_or_default());
    pools.iter().map(|pool| view(pool)).collect()
}

fn view(pool: &AgentPool) -> PoolView {
    let slots = if pool.spec.suspend { 0 } else { usize::try_from(pool.spec.replicas).unwrap_or(0) };
    let taken = pool
        .status
        .as_ref()
        .map_or(0, |status| usize::try_from(status.busy).unwrap_or(0).saturating_add(status.held.len()));
    PoolView { role: pool.spec.role, slots, free: slots.saturating_sub(taken) }
}

/// Removes what has been kept long enough. Returns when to look again.
///
/// # Errors
/// When a delete failed; what was removed before it is gone.
pub async fn remove_finished(ctx: &Context, system: &System) -> Result<Option<Duration>, Error> {
    if !ctx.synced() || system.is_stopped(component::CYCLE_MANAGER) {
        return Ok(None);
    }
    let (namespace, now) = (system.namespace().unwrap_or_default(), ctx.now());
    if let Some(wait) = left(ctx.removals.at(Cached::uid(system)), REMOVE_EVERY, now) {
        return Ok(Some(wait));
    }
    let settings = &system.spec.retention;
    // Stores and mirror are asked outside the lock of the books, which the stores' listeners take.
    let Removals { mut runs, mut tasks, mut operations, look_at } =
        ctx.books.with(&namespace, |books| books.retention().plan(settings, CANDIDATES, now));
    let blocked = (!runs.is_empty() || !tasks.is_empty() || !operations.is_empty()).then_some(TRY_AGAIN);
    tasks.retain(|task| may_go(ctx, &namespace, task));
    tasks.truncate(REMOVED_AT_ONCE);
    runs.retain(|run| may_go(ctx, &namespace, run));
    runs.truncate(REMOVED_AT_ONCE.saturating_sub(tasks.len()));
    operations.retain(|operation| is_stored(ctx, &operation.uid));
    operations.truncate(REMOVED_AT_ONCE.saturating_sub(tasks.len() + runs.len()));
    let removed = runs.len() + tasks.len() + operations.len();
    if removed > 0 {
        ctx.removals.note(Cached::uid(system), now);
    }
    for task in &tasks {
        ctx.writer.delete::<Task>(&namespace, &task.name, &task.uid, None).await?;
    }
    for run in &runs {
        ctx.writer.delete::<Run>(&namespace, &run.name, &run.uid, None).await?;
    }
    for operation in &operations {
        ctx.writer.delete::<Operation>(&namespace, &operation.name, &operation.uid, None).await?;
    }
    if removed > 0 {
        let (runs, tasks, operations) = (runs.len(), tasks.len(), operations.len());
        tracing::info!(runs, tasks, operations, "finished objects removed");
        return Ok(Some(REMOVE_EVERY));
    }
    Ok(look_at.map(|at| until(at, now)).into_iter().chain(blocked).min())
}

/// Whether nothing is lost with an object: its Pods are gone (their logs are kept by then), and the
/// database, when there is one, has it and its Runs.
fn may_go(ctx: &Context, namespace: &str, object: &Finished) -> bool {
    let runs = ctx.runs.by_index(&object.uid);
    let pod = |name: &str| ctx.pods.get(&Key::new(namespace, name)).is_some();
    is_stored(ctx, &object.uid)
        && !pod(&object.name)
        && runs.iter().all(|run| is_stored(ctx, Cached::uid(run.as_ref())) && !pod(&run.name_any()))
}

/// Whether the database, when there is one, has an object.
fn is_stored(ctx: &Context, uid: &str) -> bool {
    ctx.mirror.as_ref().is_none_or(|mirror| mirror.has(uid))
}
