//! `POST /tasks`: makes a Task object and answers once its row is there.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::{HeaderMap, StatusCode};
use sha2::{Digest, Sha256};

use super::error::{ApiError, ErrorBody};
use super::state::ApiState;
use super::task_request::{CreateTask, NewTask};
use super::task_writer::TaskWriter;
use super::tasks::{OneTask, load_view};
use crate::crd::{Task, labels};
use crate::postgres::queries;

/// Longest wait for the row of an accepted Task.
const ROW_DEADLINE: Duration = Duration::from_secs(1);
/// Time between two looks for it.
const ROW_INTERVAL: Duration = Duration::from_millis(20);
/// Longest wait for the API server.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest beginning of a generated name: with `-` and the server's 5 characters it is at most 48.
const MAX_PREFIX: usize = 42;

/// The caller's key with the hash of what was asked for.
struct Request {
    key: String,
    body: String,
}

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
    let request =
        idempotency_key(&headers)?.map(|key| Request { key: hash(key), body: hash(&new.canonical) });
    let writer = state.writer.as_deref().ok_or_else(ApiError::reads_only)?;
    if let Some(request) = &request {
        refuse_deleted(&state, request).await?;
    }
    let names = dependency_names(&state, &new).await?;
    let task = build_task(new, names, request.as_ref());
    let accepted = match tokio::time::timeout(WRITE_TIMEOUT, write(writer, &task, request.as_ref())).await {
        Ok(result) => result?,
        Err(_) => return Err(kubernetes_unavailable()),
    };
    Ok((StatusCode::CREATED, Json(OneTask { task: wait_for_row(&state, &accepted).await? })))
}

/// The header's value, if it is there.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let bad = || ApiError::invalid("Idempotency-Key", "must be 1 to 255 visible ASCII characters");
    let key = value.to_str().map_err(|_| bad())?.trim();
    if (1..=255).contains(&key.len()) { Ok(Some(key)) } else { Err(bad()) }
}

fn hash(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().take(16).map(|b| format!("{b:02x}")).collect()
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

async fn dependency_names(state: &ApiState, new: &NewTask) -> Result<Vec<String>, ApiError> {
    if new.dependencies.is_empty() {
        return Ok(Vec::new());
    }
    let known: HashMap<_, _> =
        queries::task_names(&state.pool, &state.namespace, &new.dependencies).await?.into_iter().collect();
    new.dependencies
        .iter()
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
    match request {
        Some(Request { key, body }) => {
            task.metadata.name = Some(format!("task-{}", key.get(..16).unwrap_or(key)));
            task.metadata.annotations = Some(BTreeMap::from([
                (labels::REQUEST_KEY.to_owned(), key.clone()),
                (labels::REQUEST_HASH.to_owned(), body.clone()),
            ]));
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
            replayed(existing.ok_or_else(kubernetes_unavailable)?, request)
        }
        (400 | 422, _, _) => Err(refused(status)),
        _ => Err(unavailable(&error)),
    }
}

/// The Task that the first request with this key made, if this is the same request.
fn replayed(existing: Task, request: &Request) -> Result<Task, ApiError> {
    let annotation = |key: &str| existing.metadata.annotations.as_ref().and_then(|a| a.get(key));
    if annotation(labels::REQUEST_KEY) != Some(&request.key) {
        return Err(ApiError::conflict(
            "name_taken",
            "a Task with the name for this Idempotency-Key exists already",
        ));
    }
    if annotation(labels::REQUEST_HASH) != Some(&request.body) {
        return Err(ApiError::unprocessable(
            "idempotency_key_reused",
            "this Idempotency-Key was used for another request",
        ));
    }
    Ok(existing)
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
    tracing::warn!(error = error as &dyn std::error::Error, "task cannot be created");
    kubernetes_unavailable()
}

fn kubernetes_unavailable() -> ApiError {
    ApiError::unavailable("kubernetes_unavailable", "Kubernetes cannot be written to now, try again")
}

/// The row of at least the accepted version, or 503: "not yet" (invariant S24).
async fn wait_for_row(state: &ApiState, accepted: &Task) -> Result<super::tasks::Task, ApiError> {
    let uid = accepted.metadata.uid.as_deref().and_then(|u| u.parse().ok()).unwrap_or_default();
    let version =
        accepted.metadata.resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(i64::MAX);
    let deadline = Instant::now() + ROW_DEADLINE;
    while Instant::now() < deadline {
        // The Task is accepted: also a database that is away now means "not yet".
        if let Ok(Some(record)) = queries::get_task(&state.pool, &state.namespace, uid, version, true).await {
            return load_view(state, record).await;
        }
        tokio::time::sleep(ROW_INTERVAL).await;
    }
    let problem = format!("the Task was accepted (id {uid}) and is not readable yet, see /tasks/{uid}");
    Err(ApiError::unavailable("not_yet_visible", problem))
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
