//! Task controller: keeps each Task moving (`plan::task`).

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;

use super::context::Context;
use super::queue::Action;
use super::run::until;
use crate::cluster::write::Created;
use crate::cluster::{Error, ErrorClass, Key};
use crate::crd::system::component;
use crate::crd::task::condition;
use crate::crd::{Next, NextKind, PodFacts, Run, Task, TaskStatus, labels};
use crate::plan::operation::requested_of;
use crate::plan::task::{Observed, Orders, TaskPlan, child_refused, plan_task};

/// How the sentence of [`apply_refusal`] starts.
const CANNOT_CREATE: &str = "a Task that carries this one on cannot be created";

/// When to look again at a Task whose Pod is being created.
const STARTING: Duration = Duration::from_secs(1);

/// Brings one Task a step further.
///
/// # Errors
/// When the status could not be written; the queue retries.
pub async fn reconcile(ctx: Arc<Context>, key: Key) -> Result<Action, Error> {
    step(&ctx, &key, false).await
}

async fn step(ctx: &Context, key: &Key, confirmed: bool) -> Result<Action, Error> {
    let Some(task) = ctx.tasks.get(key) else { return Ok(Action::Await) };
    if ctx.admitting.contains(task.metadata.uid.as_deref().unwrap_or_default()) {
        return Ok(Action::Await);
    }
    let (runs, pods) = observe(ctx, &task);
    let starting = ctx.starting.contains(task.metadata.uid.as_deref().unwrap_or_default());
    let runs: Vec<&Run> = runs.iter().map(AsRef::as_ref).collect();
    let system = ctx.system(&key.namespace);
    let settings = system.as_ref().map(|s| s.spec.clone()).unwrap_or_default();
    let children = ctx.tasks.by_index(task.metadata.uid.as_deref().unwrap_or_default());
    let children: Vec<&Task> = children.iter().map(AsRef::as_ref).collect();
    let operations = ctx.operations.by_index(&key.namespace);
    let orders = Orders {
        requested: requested_of(&task, operations.iter().map(AsRef::as_ref)),
        recovery_stopped: system.as_ref().is_some_and(|s| s.is_stopped(component::CYCLE_MANAGER)),
    };
    let now = ctx.now();
    let observed = Observed {
        task: &task,
        runs: &runs,
        live_pod: starting || pods.iter().any(|p| p.is_live()),
        confirmed,
        system: &settings,
        children: &children,
        orders,
        now,
    };
    match plan_task(&observed) {
        TaskPlan::Wait { until: None } if starting => Ok(Action::After(STARTING)),
        TaskPlan::Wait { until: None } => Ok(Action::Await),
        TaskPlan::Wait { until: Some(at) } => Ok(Action::After(until(at, now))),
        TaskPlan::Confirm { run } => {
            if apply_confirmation(ctx, &key.namespace, &run).await? {
                // What was found has been put into the caches, which wakes this Task again.
                return Ok(Action::Await);
            }
            Box::pin(step(ctx, key, true)).await
        }
        TaskPlan::CreateThenWrite { tasks, status } => match apply_children(ctx, key, &task, &tasks).await? {
            None => apply_status(ctx, key, &task, &status).await,
            Some(taken) => apply_status(ctx, key, &task, &child_refused(&observed, &status, &taken)).await,
        },
        TaskPlan::Write(status) => apply_status(ctx, key, &task, &status).await,
    }
}

/// Creates the Tasks that carry `task` on. Their names are functions of it, so that one which exists is
/// the one that was wanted, unless it names another parent: the answer is a name that is taken so.
async fn apply_children(
    ctx: &Context,
    key: &Key,
    task: &Task,
    children: &[Task],
) -> Result<Option<String>, Error> {
    for child in children {
        match ctx.writer.create(child).await {
            Ok(Created::New(created)) => ctx.tasks.wrote(created),
            Ok(Created::Exists(existing)) if has_parent(&existing, task) => ctx.tasks.wrote(*existing),
            Ok(Created::Exists(existing)) => return Ok(existing.metadata.name),
            Err(error) => {
                apply_refusal(ctx, key, task, &error).await?;
                return Err(error);
            }
        }
    }
    Ok(None)
}

fn has_parent(child: &Task, parent: &Task) -> bool {
    let label = child.metadata.labels.as_ref().and_then(|own| own.get(labels::PARENT_UID));
    label.is_some() && label == parent.metadata.uid.as_ref()
}

/// A quota or a policy of the cluster refuses the Task to be made: said once on its parent, which keeps
/// trying with the queue's backoff.
async fn apply_refusal(ctx: &Context, key: &Key, task: &Task, error: &Error) -> Result<(), Error> {
    match error.class() {
        ErrorClass::Refused | ErrorClass::Permanent => {}
        ErrorClass::Transient | ErrorClass::Conflict | ErrorClass::Gone => return Ok(()),
    }
    let said: String = error.server_message().chars().take(700).collect();
    let detail = format!("{CANNOT_CREATE}: {said}");
    let mut status = task.status.clone().unwrap_or_default();
    if status.next.as_ref().is_some_and(|next| next.detail.starts_with(CANNOT_CREATE)) {
        return Ok(());
    }
    status.next = Some(Next { kind: NextKind::Watch, at: None, detail: detail.clone() });
    ctx.events.warn(task, "ChildRefused", &detail);
    apply_status(ctx, key, task, &status).await.map(|_| ())
}

async fn apply_status(ctx: &Context, key: &Key, task: &Task, status: &TaskStatus) -> Result<Action, Error> {
    let written = ctx.writer.patch_status(task, task.status.as_ref(), status).await?;
    if let Some(written) = written {
        tracing::info!(task = %key, phase = status.phase.word(), "task moved");
        warn_of(ctx, task, status);
        ctx.tasks.wrote(written);
    }
    Ok(Action::Await)
}

/// A person should look: a limit is reached, or the cluster was at fault.
fn warn_of(ctx: &Context, task: &Task, status: &TaskStatus) {
    let Some(last) = status.transitions.last() else { return };
    let seen = task.status.as_ref().and_then(|s| s.transitions.last()).map(|t| t.sequence);
    let complete = status.conditions.iter().find(|c| c.type_ == condition::COMPLETE);
    let detail = match (&status.next, complete) {
        (Some(next), _) => next.detail.as_str(),
        (None, Some(complete)) => complete.message.as_str(),
        (None, None) => "",
    };
    if seen == Some(last.sequence) {
        return;
    }
    if last.event == "task.recovery_escalated" {
        ctx.events.warn(task, "NeedsRework", detail);
    } else if last.reason == "infra" {
        ctx.events.warn(task, "InfrastructureFault", detail);
    }
}

/// Reads a Run and its Pod from the API server into the caches. Returns whether either exists.
async fn apply_confirmation(ctx: &Context, namespace: &str, run: &str) -> Result<bool, Error> {
    let found = ctx.writer.read::<Run>(namespace, run).await?;
    let pod = ctx.writer.read::<Pod>(namespace, run).await?.map(PodFacts::from);
    let exists = found.is_some() || pod.as_ref().is_some_and(|p| p.run == run && p.is_live());
    if let Some(found) = found {
        ctx.runs.wrote(found);
    }
    if let Some(pod) = pod.filter(|p| p.run == run) {
        ctx.pods.wrote(pod);
    }
    Ok(exists)
}

/// Runs and Pods of this very Task, not of a predecessor of the same name.
fn observe(ctx: &Context, task: &Task) -> (Vec<Arc<Run>>, Vec<Arc<PodFacts>>) {
    let uid = task.metadata.uid.as_deref().unwrap_or_default();
    (ctx.runs.by_index(uid), ctx.pods.by_index(uid))
}
