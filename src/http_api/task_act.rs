//! What is ordered about one Task as an Operation, and its deletion: `POST /tasks/{id}/retry`,
//! `DELETE /tasks/{id}`. The Task's controller does the work; here it is asked and waited for.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use kube::ResourceExt;
use kube::api::{DeleteParams, Preconditions};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::auth::Identity;
use super::error::{ApiError, ErrorBody};
use super::idempotency::Request;
use super::kubernetes::{answer, outcome};
use super::state::ApiState;
use super::tasks::{self, OneTask};
use super::written;
use crate::crd::operation::OperationTask;
use crate::crd::words::snake;
use crate::crd::{OperationSpec, OperationType, Task, TaskPhase};
use crate::postgres::queries;

/// What an Operation does to a Task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    Requeue,
    Complete,
}

impl Act {
    fn operation(self) -> OperationType {
        match self {
            Self::Requeue => OperationType::Requeue,
            Self::Complete => OperationType::Complete,
        }
    }

    /// What the Task becomes.
    fn phase(self) -> TaskPhase {
        match self {
            Self::Requeue => TaskPhase::Queued,
            Self::Complete => TaskPhase::Done,
        }
    }
}

/// The answer to a deletion.
#[derive(Debug, Serialize, ToSchema)]
pub struct Deleted {
    /// True.
    pub deleted: bool,
}

/// Puts a failed or blocked Task back into the queue now, at no cost; one that waits in the queue for
/// its retry is freed of the wait.
#[utoipa::path(post, path = "/tasks/{id}/retry", tag = "tasks",
    params(("id" = String, Path, description = "uid of the Task"),
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible characters; makes a repeat safe")),
    responses((status = 200, body = OneTask), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 404, body = ErrorBody),
        (status = 409, body = ErrorBody, description = "the Task is neither failed nor blocked"),
        (status = 422, body = ErrorBody, description = "the Idempotency-Key was used for another request"),
        (status = 503, body = ErrorBody)))]
pub async fn retry(
    State(state): State<ApiState>,
    Path(id): Path<String>,
    identity: Identity,
    headers: HeaderMap,
) -> Result<Json<OneTask>, ApiError> {
    let request = Request::read(&headers, &format!("/tasks/{id}/retry"))?;
    let task = find(&state, &id).await?;
    // A repeat is answered as the first time, whatever the Task has become since.
    let repeated = match &request {
        Some(request) => state.kubernetes()?.repeated(OperationType::Requeue, request).await?.is_some(),
        None => false,
    };
    let status = task.status.clone().unwrap_or_default();
    let waits = match status.phase {
        TaskPhase::Failed | TaskPhase::Blocked => true,
        TaskPhase::Queued => status.retry_at.is_some(),
        TaskPhase::Running | TaskPhase::Done | TaskPhase::Cancelled => false,
    };
    if !waits && !repeated {
        return Err(illegal(status.phase, TaskPhase::Queued));
    }
    let by = identity.name();
    Ok(Json(OneTask { task: carry_out(&state, &task, Act::Requeue, &by, request.as_ref()).await? }))
}

/// Deletes a Task with its Runs and their Pods.
#[utoipa::path(delete, path = "/tasks/{id}", tag = "tasks",
    params(("id" = String, Path, description = "uid of the Task")),
    responses((status = 200, body = Deleted), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 404, body = ErrorBody, description = "there is no such Task, or no more"),
        (status = 503, body = ErrorBody)))]
pub async fn delete(
    State(state): State<ApiState>,
    Path(id): Path<String>,
) -> Result<Json<Deleted>, ApiError> {
    let task = find(&state, &id).await?;
    let uid = task.metadata.uid.clone();
    let only = Preconditions { uid: uid.clone(), resource_version: None };
    let api = state.kubernetes()?.api::<Task>();
    let (name, how) = (task.name_any(), DeleteParams::background().preconditions(only));
    match answer(api.delete(&name, &how)).await {
        Ok(_) => {}
        // Another Task has the name by now: this one is gone.
        Err(error) if error.is_conflict() => return Err(ApiError::not_found("task")),
        Err(error) => return Err(error),
    }
    written::task_gone(&state, uid.and_then(|u| u.parse().ok()).unwrap_or_default()).await?;
    Ok(Json(Deleted { deleted: true }))
}

/// The object of the Task with this id.
///
/// # Errors
/// 404 when there is none, 503 when the database or Kubernetes cannot be asked.
pub async fn find(state: &ApiState, id: &str) -> Result<Task, ApiError> {
    let gone = || ApiError::not_found("task");
    let uid = Uuid::parse_str(id).map_err(|_| gone())?;
    let kubernetes = state.kubernetes()?;
    let row = queries::get_task(&state.pool, &state.namespace, uid, 0, false).await?.ok_or_else(gone)?;
    let task: Option<Task> = kubernetes.get(&row.name).await?;
    // The row may be late: what counts is the object with this uid.
    task.filter(|task| task.metadata.uid.as_deref() == Some(&uid.to_string())).ok_or_else(gone)
}

/// 409 that names both states.
pub fn illegal(from: TaskPhase, to: TaskPhase) -> ApiError {
    ApiError::conflict(
        "illegal_transition",
        format!("status: a Task that is {} cannot become {}", snake(from.word()), snake(to.word())),
    )
}

/// Has `act` carried out on the Task and answers with its row after it.
///
/// # Errors
/// 409 when it is refused, 503 when it is not over in time.
pub async fn carry_out(
    state: &ApiState,
    task: &Task,
    act: Act,
    by: &str,
    request: Option<&Request>,
) -> Result<tasks::Task, ApiError> {
    let kubernetes = state.kubernetes()?;
    let name = task.name_any();
    let spec = OperationSpec {
        type_: act.operation(),
        task_ref: Some(OperationTask { name: name.clone() }),
        ..OperationSpec::default()
    };
    let operation = kubernetes.carry_out_once(spec, by, request).await?;
    if let Err(why) = outcome(&operation)? {
        let now: Option<Task> = kubernetes.get(&name).await?;
        let phase = now.and_then(|task| task.status).map(|status| status.phase).unwrap_or_default();
        let (from, to) = (snake(phase.word()), snake(act.phase().word()));
        return Err(ApiError::conflict(
            "illegal_transition",
            format!("status: a Task that is {from} cannot become {to}: {why}"),
        ));
    }
    let now: Option<Task> = kubernetes.get(&name).await?;
    let now = now.filter(|now| now.metadata.uid == task.metadata.uid);
    written::task(state, &now.ok_or_else(|| ApiError::not_found("task"))?).await
}
