//! Pool controller: occupancy, held agents and scale status of an AgentPool, and the NetworkPolicy of its Pods.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt;

use super::context::Context;
use super::queue::Action;
use super::run::until;
use crate::build::network_policy::build_network_policy;
use crate::cluster::{Error, Key};
use crate::crd::condition::is_true;
use crate::crd::pool::{AgentHold, condition};
use crate::crd::restart::AutoRestart;
use crate::crd::{AgentPool, AgentPoolStatus, Operation, labels, set_condition};
use crate::plan::operation::released_by;
use crate::plan::restart::{self, Holds, is_held};

/// Occupancy is written at most this often (design, rule 3.12: at most once a second). Under load every
/// one of these writes comes on top of the six that a Task costs.
pub const WRITE_EVERY: Duration = Duration::from_secs(5);
/// Least time until the next look at holds that end.
const SOON: Duration = Duration::from_millis(200);
const MANAGER: &str = "opentiger.dev/pool";

/// Brings one AgentPool's status and NetworkPolicy up to date.
///
/// # Errors
/// When a request failed; the queue retries.
pub async fn reconcile(
    ctx: Arc<Context>,
    busy: Arc<super::dispatcher::Busy>,
    key: Key,
) -> Result<Action, Error> {
    let Some(pool) = ctx.pools.get(&key) else { return Ok(Action::Await) };
    let url = ctx.system(&key.namespace).map(|s| s.spec.repository.url.clone());
    apply_network_policy(&ctx, &pool, url.as_deref()).await?;
    let (system, now) = (ctx.system(&key.namespace), ctx.now());
    let restart = system.as_ref().map(|s| s.spec.auto_restart.clone()).unwrap_or_default();
    // Before the first lists are complete nothing is known of the crashes, so nothing is forgotten.
    let holds = if ctx.synced() {
        ctx.books.holds(&pool, system.as_deref(), now)
    } else {
        Holds { held: pool.status.as_ref().map(|s| s.held.clone()).unwrap_or_default(), look_at: Some(now) }
    };
    let look_at = holds.look_at;
    let held = freed(&ctx, &key.namespace, holds.held, &restart, now);
    let status = plan_status(&pool, &busy.agents(&key), held, &restart, now);
    if let Some(written) = ctx.writer.patch_status(pool.as_ref(), pool.status.as_ref(), &status).await? {
        if let Some(message) = newly_exhausted(&pool, &written) {
            tracing::warn!(pool = %pool.name_any(), message, "agents crashed too often");
            ctx.events.warn(pool.as_ref(), condition::RESTART_EXHAUSTED, &message);
        }
        ctx.pools.wrote(written);
    }
    Ok(look_at.map_or(Action::Await, |at| Action::After(until(at, now).max(SOON))))
}

/// `held` without the agents that an Operation of type Start has freed since.
fn freed(
    ctx: &Context,
    namespace: &str,
    held: Vec<AgentHold>,
    settings: &AutoRestart,
    now: jiff::Timestamp,
) -> Vec<AgentHold> {
    if held.is_empty() {
        return held;
    }
    let operations = ctx.operations.all();
    let is_here = |o: &&Operation| o.metadata.namespace.as_deref() == Some(namespace);
    let here = || operations.iter().map(AsRef::as_ref).filter(is_here);
    let is_freed = |hold: &&AgentHold| is_held(&held, &hold.name, now) && released_by(here(), hold);
    let released: BTreeSet<String> = held.iter().filter(is_freed).map(|hold| hold.name.clone()).collect();
    if released.is_empty() {
        return held;
    }
    restart::plan(&held, &BTreeSet::new(), &released, settings, now).held
}

/// The sentence of a pool whose condition `RestartExhausted` has just become True.
fn newly_exhausted(before: &AgentPool, after: &AgentPool) -> Option<String> {
    let find = |pool: &AgentPool| {
        let conditions = pool.status.iter().flat_map(|s| s.conditions.clone());
        conditions.into_iter().find(|c| c.type_ == condition::RESTART_EXHAUSTED && c.status == "True")
    };
    find(after).filter(|_| find(before).is_none()).map(|c| c.message)
}

/// Writes who is held, and condition `RestartExhausted` once anybody needs help.
fn show_holds(
    status: &mut AgentPoolStatus,
    held: Vec<AgentHold>,
    settings: &AutoRestart,
    generation: i64,
    now: jiff::Timestamp,
) {
    status.held = held;
    let type_ = condition::RESTART_EXHAUSTED;
    match restart::exhausted(&status.held, settings) {
        Some(message) => {
            set_condition(&mut status.conditions, type_, true, "CrashedTooOften", &message, generation, now);
        }
        None if is_true(&status.conditions, type_) => {
            let message = "every agent takes Runs";
            set_condition(&mut status.conditions, type_, false, "Released", message, generation, now);
        }
        None => {}
    }
}

/// The status of a pool whose agents `busy` hold a Run or a Pod.
fn plan_status(
    pool: &AgentPool,
    busy: &HashSet<String>,
    held: Vec<AgentHold>,
    restart: &AutoRestart,
    now: jiff::Timestamp,
) -> AgentPoolStatus {
    let mut status = pool.status.clone().unwrap_or_default();
    let generation = pool.metadata.generation.unwrap_or(0);
    status.replicas = pool.spec.replicas;
    status.selector = format!("{}={}", labels::POOL, pool.name_any());
    status.busy = i32::try_from(busy.len()).unwrap_or(i32::MAX);
    status.observed_generation = generation;
    let (ready, reason, message) = if pool.spec.suspend {
        (false, "Suspended", "spec.suspend is true: nothing new starts in this pool")
    } else if pool.spec.replicas == 0 {
        (false, "NoSlots", "spec.replicas is 0: nothing starts in this pool")
    } else {
        (true, "Ready", "Runs are admitted into its slots")
    };
    set_condition(&mut status.conditions, condition::READY, ready, reason, message, generation, now);
    show_holds(&mut status, held, restart, generation, now);
    status
}

/// Applies the NetworkPolicy when the pool's or the System's spec asks for another one than was last
/// applied in this process; server-side apply of an equal object changes nothing.
async fn apply_network_policy(ctx: &Context, pool: &AgentPool, url: Option<&str>) -> Result<(), Error> {
    let policy = build_network_policy(pool, url, ctx.runner.api_url.as_deref());
    let fingerprint = serde_json::to_string(&policy.spec).unwrap_or_default();
    let uid = pool.uid().unwrap_or_default();
    if ctx.policies.is(&uid, &fingerprint) {
        return Ok(());
    }
    let name = policy.name_any();
    let namespace = pool.namespace().unwrap_or_default();
    let existing = ctx.writer.read::<NetworkPolicy>(&namespace, &name).await?;
    if existing.is_none_or(|e| {
        e.spec != policy.spec || e.metadata.owner_references != policy.metadata.owner_references
    }) {
        ctx.writer.apply(&policy, MANAGER).await?;
    }
    ctx.policies.note(&uid, &fingerprint);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::AgentPoolSpec;
    use crate::crd::pool::AgentHoldReason;

    #[test]
    fn an_exhausted_agent_is_named_with_what_to_do_until_it_is_freed() {
        let mut pool = AgentPool::new("worker", AgentPoolSpec { replicas: 2, ..AgentPoolSpec::default() });
        let (settings, now) = (AutoRestart::default(), jiff::Timestamp::UNIX_EPOCH);
        let hold =
            AgentHold { name: "worker-2".into(), reason: AgentHoldReason::Exhausted, ..AgentHold::default() };
        let plan = |pool: &AgentPool, held| plan_status(pool, &HashSet::new(), held, &settings, now);
        let calm = plan(&pool, vec![]);
        assert!(
            calm.conditions.iter().all(|c| c.type_ == condition::READY),
            "nothing that never was is written"
        );
        pool.status = Some(calm);
        let mut held = pool.clone();
        held.status = Some(plan(&pool, vec![hold.clone()]));
        let message = newly_exhausted(&pool, &held).expect("news");
        assert!(message.contains("worker-2") && message.contains("type Start"), "{message}");
        assert_eq!(plan(&held, vec![hold]), held.status.clone().expect("a status"), "said once");
        assert_eq!(newly_exhausted(&held, &held), None);
        let freed = plan(&held, vec![]);
        assert!(!is_true(&freed.conditions, condition::RESTART_EXHAUSTED));
        assert!(freed.held.is_empty());
    }
}
