//! `/tasks`: the backlog as rows.

use axum::Json;
use axum::extract::{Path, State};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use super::error::{ApiError, ErrorBody};
use super::query::{Params, page};
use super::retry::{Retry, view};
use super::state::ApiState;
use crate::postgres::queries::{self, RecoverySettings, TaskFilter, TaskRecord};

/// Words of `status`.
pub const STATUSES: [&str; 6] = ["queued", "running", "blocked", "failed", "done", "cancelled"];

/// A Task.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Task {
    #[schema(value_type = String, format = "uuid")]
    id: Uuid,
    /// Name in Kubernetes.
    name: String,
    title: String,
    goal: String,
    #[schema(value_type = Option<Object>)]
    context: Option<Value>,
    allowed_paths: Vec<String>,
    denied_paths: Vec<String>,
    commands: Vec<String>,
    priority: i32,
    /// `low`, `medium` or `high`.
    risk_level: String,
    /// `worker`, `tester`, `docser` or `planner`.
    role: String,
    lane: String,
    kind: String,
    /// `queued`, `running`, `blocked`, `failed`, `done` or `cancelled`.
    status: String,
    /// While blocked: `awaiting_judge`, `quota_wait`, `needs_rework` or `issue_linking`.
    block_reason: Option<String>,
    target_area: Option<String>,
    touches: Vec<String>,
    /// Ids of the Tasks it depends on, as far as they exist.
    dependencies: Vec<String>,
    timebox_minutes: i32,
    /// Ordinal of the last Run.
    attempts: i32,
    /// What attempts have cost in all; infrastructure faults cost nothing.
    retry_count: i32,
    /// Task that this one follows: the one that planned it, was split, or is mended by it.
    #[schema(value_type = Option<String>, format = "uuid")]
    parent_id: Option<Uuid>,
    /// Who made it, unless a person did: `planner`, `judge`, `rework` or `api`.
    created_by: Option<String>,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// When its state last changed.
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    deleted_at: Option<Timestamp>,
    /// When and why it goes on; null unless failed or blocked.
    retry: Option<Retry>,
}

impl Task {
    /// The row with the retry view of `now`.
    pub fn new(record: TaskRecord, settings: Option<RecoverySettings>, now: Timestamp) -> Self {
        let retry = view(&record, settings, now);
        let TaskRecord {
            uid,
            name,
            title,
            goal,
            context,
            allowed_paths,
            denied_paths,
            commands,
            priority,
            risk_level,
            role,
            lane,
            kind,
            status,
            block_reason,
            target_area,
            touches,
            dependencies,
            timebox_minutes,
            attempts,
            retry_count,
            retries: _,
            retry_at: _,
            next_kind: _,
            failure_class: _,
            failure_code: _,
            parent_uid,
            created_by,
            created_at,
            updated_at,
            deleted_at,
        } = record;
        Self {
            id: uid,
            name,
            title,
            goal,
            context,
            allowed_paths,
            denied_paths,
            commands,
            priority,
            risk_level,
            role,
            lane,
            kind,
            status,
            block_reason,
            target_area,
            touches,
            dependencies,
            timebox_minutes,
            attempts,
            retry_count,
            parent_id: parent_uid,
            created_by,
            created_at,
            updated_at,
            deleted_at,
            retry,
        }
    }
}

/// A page of Tasks.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Tasks {
    tasks: Vec<Task>,
    /// Value of `cursor` for the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// One Task.
#[derive(Debug, Serialize, ToSchema)]
pub struct OneTask {
    pub task: Task,
}

/// Tasks, newest first.
#[utoipa::path(get, path = "/tasks", tag = "tasks",
    params(
        ("status" = Option<String>, Query, description = "queued, running, blocked, failed, done or cancelled"),
        ("role" = Option<String>, Query, description = "worker, tester, docser or planner"),
        ("lane" = Option<String>, Query, description = "e.g. feature"),
        ("kind" = Option<String>, Query, description = "e.g. code"),
        ("createdBy" = Option<String>, Query, description = "who made it, unless a person did: planner, judge, rework or api"),
        ("parentId" = Option<String>, Query, description = "uid of the Task that it follows"),
        ("includeDeleted" = Option<bool>, Query, description = "also Tasks that were deleted, with deletedAt"),
        ("limit" = Option<i64>, Query, description = "rows at most, 1 to 1000 (default 1000)"),
        ("cursor" = Option<String>, Query, description = "nextCursor of the page before")),
    responses((status = 200, body = Tasks), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub async fn list(State(state): State<ApiState>, params: Params) -> Result<Json<Tasks>, ApiError> {
    let filter = TaskFilter {
        status: params.word("status", &STATUSES)?,
        role: params.word("role", &["worker", "tester", "docser", "planner"])?,
        lane: params.label("lane")?,
        kind: params.label("kind")?,
        created_by: params.label("createdBy")?,
        parent: params.uuid("parentId")?,
        include_deleted: params.flag("includeDeleted")?,
    };
    let (limit, after) = (params.limit()?, params.after()?);
    let rows = queries::list_tasks(&state.pool, &state.namespace, &filter, after, limit + 1).await?;
    let (rows, next_cursor) = page(rows, limit, |r| (r.created_at.to_string(), r.uid.to_string()));
    let settings = queries::recovery_settings(&state.pool, &state.namespace).await?;
    let now = (state.now)();
    Ok(Json(Tasks { tasks: rows.into_iter().map(|r| Task::new(r, settings, now)).collect(), next_cursor }))
}

/// One Task.
#[utoipa::path(get, path = "/tasks/{id}", tag = "tasks",
    params(("id" = String, Path, description = "uid of the Task"),
        ("includeDeleted" = Option<bool>, Query, description = "also if it was deleted")),
    responses((status = 200, body = OneTask), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 404, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub async fn get(
    State(state): State<ApiState>,
    Path(id): Path<String>,
    params: Params,
) -> Result<Json<OneTask>, ApiError> {
    let uid = Uuid::parse_str(&id).map_err(|_| ApiError::not_found("task"))?;
    let include_deleted = params.flag("includeDeleted")?;
    let record = queries::get_task(&state.pool, &state.namespace, uid, 0, include_deleted).await?;
    let record = record.ok_or_else(|| ApiError::not_found("task"))?;
    Ok(Json(OneTask { task: load_view(&state, record).await? }))
}

/// The answer for one row.
///
/// # Errors
/// 503 when the database cannot be read.
pub async fn load_view(state: &ApiState, record: TaskRecord) -> Result<Task, ApiError> {
    let settings = queries::recovery_settings(&state.pool, &state.namespace).await?;
    Ok(Task::new(record, settings, (state.now)()))
}
