//! `POST /tasks`: makes a Task object and answers once its row is there.

use std::collections::HashMap;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, StatusCode};
use uuid::Uuid;

use super::error::{ApiError, ErrorBody};
use super::idempotency::Request;
use super::state::ApiState;
use super::task_request::{CreateTask, NewTask};
use super::task_writer::TaskWriter;
use super::tasks::OneTask;
use super::written;
use crate::crd::{Task, labels};
use crate::postgres::queries;

/// Longest wait for the API server.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest beginning of a generated name: with `-` and the server's 5 characters it is at most 48.
const MAX_PREFIX: usize = 42;

/// Makes a Task. With an `Idempotency-Key` a repeat answers with the same Task.
#[utoipa::path(post, path = "/tasks", tag = "tasks", request_body = CreateTask,
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible characters; makes a repeat safe")),
    responses((status = 201, body = OneTask), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 409, body = ErrorBody, description = "the Task of this Idempotency-Key was deleted"),
        (status = 413, body = ErrorBody), (status = 422, body = ErrorBody, description = "the Idempotency-Key was used for another request"),
        (status = 503, body = ErrorBody)))]
pub async fn create(
    State(state): State<ApiState>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, Json<OneTask>), ApiError> {
    let new = NewTask::parse(&body?)?;
    let request = Request::read(&headers, &new.canonical)?;
    let writer = state.writer.as_deref().ok_or_else(ApiError::reads_only)?;
    if let Some(request) = &request {
        refuse_deleted(&state, request).await?;
    }
    let names = dependency_names(&state, &new.dependencies).await?;
    let task = build_task(new, names, request.as_ref());
    let accepted = match tokio::time::timeout(WRITE_TIMEOUT, write(writer, &task, request.as_ref())).await {
        Ok(result) => result?,
        Err(_) => return Err(kubernetes_unavailable()),
    };
    Ok((StatusCode::CREATED, Json(OneTask { task: written::task(&state, &accepted).await? })))
}

/// A key whose Task was deleted has had its effect: making the Task again would be a second one.
async fn refuse_deleted(state: &ApiState, request: &Request) -> Result<(), ApiError> {
    match queries::find_request(&state.pool, &state.namespace, &request.key).await? {
        Some(known) if known.deleted => Err(ApiError::conflict(
            "deleted",
            format!("the Task of this Idempotency-Key was deleted (id {})", known.uid),
        )),
        Some(_) | None => Ok(()),
    }
}

/// Names of the Tasks with these ids.
///
/// # Errors
/// 400 that names an id which no live Task has.
pub(super) async fn dependency_names(state: &ApiState, uids: &[Uuid]) -> Result<Vec<String>, ApiError> {
    if uids.is_empty() {
        return Ok(Vec::new());
    }
    let known: HashMap<_, _> =
        queries::task_names(&state.pool, &state.namespace, uids).await?.into_iter().collect();
    uids.iter()
        .map(|uid| {
            known
                .get(uid)
                .cloned()
                .ok_or_else(|| ApiError::invalid("dependencies", format!("there is no task {uid}")))
        })
        .collect()
}

/// The object. With a key its name is a function of the key alone, so that the API server itself
/// refuses a second effect (invariant S25), else it begins with the title's words.
fn build_task(new: NewTask, dependencies: Vec<String>, request: Option<&Request>) -> Task {
    let NewTask { mut spec, dependencies: _, canonical: _ } = new;
    spec.dependencies = dependencies;
    let prefix = name_prefix(&spec.title);
    let mut task = Task::new("", spec);
    task.metadata.labels = Some([(labels::CREATED_BY.to_owned(), labels::API.to_owned())].into());
    match request {
        Some(request) => {
            task.metadata.name = Some(request.name("task"));
            task.metadata.annotations = Some(request.annotations());
        }
        None => {
            task.metadata.name = None;
            task.metadata.generate_name = Some(format!("{prefix}-"));
        }
    }
    task
}

/// Lower-case words of the title joined with `-`, at most [`MAX_PREFIX`] long; `task` when there are none.
fn name_prefix(title: &str) -> String {
    let words = title.split(|c: char| !c.is_ascii_alphanumeric()).filter(|w| !w.is_empty());
    let joined = words.collect::<Vec<_>>().join("-").to_ascii_lowercase();
    let cut = joined.get(..MAX_PREFIX).unwrap_or(&joined).trim_end_matches('-');
    if cut.is_empty() { "task".to_owned() } else { cut.to_owned() }
}

async fn write(writer: &dyn TaskWriter, task: &Task, request: Option<&Request>) -> Result<Task, ApiError> {
    let error = match writer.create(task).await {
        Ok(accepted) => return Ok(accepted),
        Err(error) => error,
    };
    let kube::Error::Api(status) = &error else { return Err(unavailable(&error)) };
    match (status.code, request, &task.metadata.name) {
        (409, Some(request), Some(name)) => {
            let existing = writer.get(name).await.map_err(|e| unavailable(&e))?;
            let existing = existing.ok_or_else(kubernetes_unavailable)?;
            request.check(existing.metadata.annotations.as_ref())?;
            Ok(existing)
        }
        (400 | 422, _, _) => Err(refused(status)),
        _ => Err(unavailable(&error)),
    }
}

/// What the API server's validation said, with the field's name as in the body where there is one.
pub(super) fn refused(status: &kube::core::Status) -> ApiError {
    let causes = status.details.as_ref().map(|d| d.causes.as_slice()).unwrap_or_default();
    match causes.iter().find(|c| !c.field.is_empty()) {
        Some(cause) => {
            let field = cause.field.strip_prefix("spec.").unwrap_or(&cause.field);
            ApiError::invalid(field, &cause.message)
        }
        None => ApiError::bad_request(status.message.clone()),
    }
}

pub(super) fn unavailable(error: &kube::Error) -> ApiError {
    tracing::warn!(error = error as &dyn std::error::Error, "Kubernetes cannot be asked");
    kubernetes_unavailable()
}

fn kubernetes_unavailable() -> ApiError {
    ApiError::unavailable("kubernetes_unavailable", "Kubernetes cannot be written to now, try again")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_begins_with_the_words_of_the_title() {
        assert_eq!(name_prefix("Divide by zero: is an error!"), "divide-by-zero-is-an-error");
        assert_eq!(name_prefix("虎の仕事"), "task");
        assert_eq!(name_prefix(""), "task");
        let long = name_prefix(&"ab ".repeat(100));
        assert!(long.len() <= MAX_PREFIX && !long.ends_with('-'), "{long}");
    }
}
