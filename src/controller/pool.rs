//! Pool controller: occupancy and scale status of an AgentPool, and the NetworkPolicy of its Pods.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::ResourceExt;

use super::context::Context;
use super::queue::Action;
use crate::build::network_policy::build_network_policy;
use crate::cluster::{Error, Key};
use crate::crd::{AgentPool, AgentPoolStatus, labels, set_condition};

/// Occupancy is written at most this often (design, rule 3.12: at most once a second). Under load every
/// one of these writes comes on top of the six that a Task costs.
pub const WRITE_EVERY: Duration = Duration::from_secs(5);
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
    let status = plan_status(&pool, &busy.agents(&key), ctx.now());
    if let Some(written) = ctx.writer.patch_status(pool.as_ref(), pool.status.as_ref(), &status).await? {
        ctx.pools.wrote(written);
    }
    Ok(Action::Await)
}

/// The status of a pool whose agents `busy` hold a Run or a Pod.
fn plan_status(pool: &AgentPool, busy: &HashSet<String>, now: jiff::Timestamp) -> AgentPoolStatus {
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
    set_condition(&mut status.conditions, "Ready", ready, reason, message, generation, now);
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
