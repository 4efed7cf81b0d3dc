//! Planning: starts a Task that plans when the gate is open, and takes in how it ended. A step of the
//! system controller, which writes the status; what is decided is [`crate::plan::planner::start`].

use jiff::Timestamp;
use kube::ResourceExt;

use super::context::Context;
use crate::cluster::Error;
use crate::cluster::write::Created;
use crate::crd::{System, SystemStatus, Task, labels};
use crate::plan::planner::start::{Planning, decide};

/// Carries out planning's next step for `system` and notes it in `status`. Returns when to look again.
///
/// # Errors
/// When a Task could not be created; nothing is noted then.
pub async fn step(
    ctx: &Context,
    system: &System,
    status: &mut SystemStatus,
    now: Timestamp,
) -> Result<Option<Timestamp>, Error> {
    if !system.spec.planner.enabled && system.status.as_ref().is_none_or(|s| s.planner.is_none()) {
        return Ok(None);
    }
    if !ctx.tasks.synced() {
        return Ok(Some(now));
    }
    let namespace = system.namespace().unwrap_or_default();
    let tasks = ctx.tasks.all();
    let tasks: Vec<&Task> = tasks
        .iter()
        .map(AsRef::as_ref)
        .filter(|task: &&Task| task.metadata.namespace.as_deref() == Some(&namespace))
        .collect();
    let mut planning = decide(system, &tasks, now);
    if let Some(task) = planning.create.take() {
        match ctx.writer.create(&task).await? {
            Created::New(created) => {
                tracing::info!(task = %created.name_any(), "planning starts");
                ctx.tasks.wrote(created);
            }
            Created::Exists(other) if is_ours(&other) => {}
            Created::Exists(other) => planning.name_taken(&other.name_any()),
        }
    }
    let Planning { again_at, .. } = planning;
    planning.note(system, status, now);
    Ok(again_at)
}

fn is_ours(task: &Task) -> bool {
    task.labels().get(labels::CREATED_BY).is_some_and(|by| by == labels::PLANNER)
}
