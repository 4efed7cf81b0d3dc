//! Operation controller: carries out Operations step by step (`plan::operation`), for one namespace at a
//! time. It writes Operations and deletes objects; of other objects it changes only the latches in the
//! System's status, through `controller::system`.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

use super::context::Context;
use super::queue::Action;
use super::run::until;
use super::system;
use crate::cluster::write::Created;
use crate::cluster::{Cached, Error, Key, Store};
use crate::crd::system as system_crd;
use crate::crd::{AgentPool, Operation, OperationPhase, OperationStatus, PodFacts, Run, System, Task};
use crate::plan::operation::{
    Doomed, DoomedKind, LOOK_AGAIN, Observed, OperationPlan, place, plan_operation,
};

/// While the first lists are incomplete nothing is decided.
const NOT_SYNCED: Duration = Duration::from_millis(200);

/// The key under which the Operations of a namespace are worked on.
pub fn key(namespace: &str) -> Key {
    Key::new(namespace, "")
}

/// Brings every Operation of a namespace that may go on one step further.
///
/// # Errors
/// When a request failed; the queue retries.
pub async fn reconcile(ctx: Arc<Context>, key: Key) -> Result<Action, Error> {
    // The index holds those that are not over.
    let mut waiting = ctx.operations.by_index(&key.namespace);
    if waiting.is_empty() {
        return Ok(Action::Await);
    }
    if !ctx.synced() {
        return Ok(Action::After(NOT_SYNCED));
    }
    waiting.sort_by(|a, b| place(a).cmp(&place(b)));
    if waiting.iter().any(|operation| operation.is_new()) {
        refresh_system(&ctx, &key.namespace).await?;
    }
    let mut result = Ok(Action::Await);
    let mut world = World::observe(&ctx, &key.namespace);
    for operation in waiting {
        let plan = world.plan(&ctx, &operation);
        let acts = !matches!(plan, OperationPlan::Nothing | OperationPlan::Wait { until: _ });
        // One that cannot go on does not hold up a Disarm behind it.
        match carry_out(&ctx, &operation, plan).await {
            Ok(Some(after)) => result = result.map(|action| sooner(action, after)),
            Ok(None) => {}
            Err(error) => result = Err(error),
        }
        if acts {
            // While it wrote, others did: the next one decides on what there is then.
            world = World::observe(&ctx, &key.namespace);
        }
    }
    result
}

fn sooner(action: Action, after: Duration) -> Action {
    match action {
        Action::Await => Action::After(after),
        Action::After(other) => Action::After(other.min(after)),
    }
}

/// Reads the System from the API server into the cache. Whoever edits it and then asks for something
/// means the edited one, while the watch of Operations may be ahead of that of Systems.
async fn refresh_system(ctx: &Context, namespace: &str) -> Result<(), Error> {
    if let Some(present) = ctx.writer.read::<System>(namespace, system_crd::NAME).await? {
        ctx.systems.wrote(present);
    }
    Ok(())
}

/// Everything in a namespace.
struct World {
    operations: Vec<Arc<Operation>>,
    tasks: Vec<Arc<Task>>,
    runs: Vec<Arc<Run>>,
    pods: Vec<Arc<PodFacts>>,
    pools: Vec<Arc<AgentPool>>,
}

impl World {
    fn observe(ctx: &Context, namespace: &str) -> Self {
        Self {
            operations: all(&ctx.operations, namespace),
            tasks: all(&ctx.tasks, namespace),
            runs: all(&ctx.runs, namespace),
            pods: all(&ctx.pods, namespace),
            pools: all(&ctx.pools, namespace),
        }
    }

    /// The next step of an Operation.
    fn plan(&self, ctx: &Context, operation: &Operation) -> OperationPlan {
        let namespace = operation.key().namespace;
        plan_operation(&Observed {
            operation,
            operations: &refs(&self.operations),
            system: ctx.system(&namespace).as_deref(),
            tasks: &refs(&self.tasks),
            runs: &refs(&self.runs),
            pods: &refs(&self.pods),
            pools: &refs(&self.pools),
            now: ctx.now(),
        })
    }
}

fn all<K: Cached>(store: &Store<K>, namespace: &str) -> Vec<Arc<K>> {
    store.all().into_iter().filter(|o| o.key().namespace == namespace).collect()
}

fn refs<K>(objects: &[Arc<K>]) -> Vec<&K> {
    objects.iter().map(AsRef::as_ref).collect()
}

/// Carries out one step of one Operation. Returns when to look again, `None`: when something changes.
async fn carry_out(
    ctx: &Context,
    operation: &Operation,
    plan: OperationPlan,
) -> Result<Option<Duration>, Error> {
    let namespace = operation.key().namespace;
    let (system, now) = (ctx.system(&namespace), ctx.now());
    match plan {
        OperationPlan::Nothing => Ok(None),
        OperationPlan::Wait { until: at } => Ok(Some(until(at, now))),
        OperationPlan::Write(status) => apply_status(ctx, operation, &status).await.map(|()| None),
        OperationPlan::Latch { hatch, stopped } => {
            let Some(system) = system else { return Ok(Some(LOOK_AGAIN)) };
            let written = system::apply_latch(ctx, &system, *hatch, stopped).await?;
            // The change wakes this controller; before its term is raised the System is not ours yet.
            Ok((!written).then_some(NOT_SYNCED))
        }
        OperationPlan::EndCycle { by } => {
            let Some(system) = system else { return Ok(Some(LOOK_AGAIN)) };
            let ended = system::end_cycle(ctx, &system, &by, &operation.spec.reason).await?;
            Ok(ended.is_none().then_some(LOOK_AGAIN))
        }
        OperationPlan::Create(task) => {
            if let Created::New(created) = ctx.writer.create(task.as_ref()).await? {
                tracing::info!(operation = %operation.key(), task = %created.key(), "created for an operation");
                ctx.tasks.wrote(created);
            }
            Ok(Some(LOOK_AGAIN))
        }
        OperationPlan::Delete(doomed) => {
            for object in &doomed {
                apply_delete(ctx, &namespace, object).await?;
            }
            tracing::info!(operation = %operation.key(), objects = doomed.len(), "deleted for an operation");
            Ok(Some(LOOK_AGAIN))
        }
    }
}

async fn apply_status(ctx: &Context, operation: &Operation, status: &OperationStatus) -> Result<(), Error> {
    let written = ctx.writer.patch_status(operation, operation.status.as_ref(), status).await?;
    let Some(written) = written else { return Ok(()) };
    let (type_, message) = (operation.spec.type_.word(), status.message.as_str());
    match status.phase {
        OperationPhase::Succeeded => {
            tracing::info!(operation = %operation.key(), type_, message, "operation succeeded");
            ctx.events.note(operation, "OperationSucceeded", &format!("{type_}: {message}"));
        }
        OperationPhase::Failed => {
            tracing::warn!(operation = %operation.key(), type_, message, "operation failed");
            ctx.events.warn(operation, "OperationFailed", &format!("{type_}: {message}"));
        }
        OperationPhase::Pending | OperationPhase::Running => {
            tracing::debug!(operation = %operation.key(), type_, message, "operation goes on");
        }
    }
    ctx.operations.wrote(written);
    Ok(())
}

async fn apply_delete(ctx: &Context, namespace: &str, object: &Doomed) -> Result<(), Error> {
    let (name, uid) = (object.name.as_str(), object.uid.as_str());
    match object.kind {
        DoomedKind::Pod => ctx.writer.delete::<Pod>(namespace, name, uid, None).await?,
        DoomedKind::Task => ctx.writer.delete::<Task>(namespace, name, uid, None).await?,
        DoomedKind::Operation => ctx.writer.delete::<Operation>(namespace, name, uid, None).await?,
    };
    Ok(())
}
