//! `/runs`: attempts, their logs and what they left behind.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use super::error::{ApiError, ErrorBody};
use super::live::Place;
use super::live::ServerSentEvent;
use super::log_follow;
use super::log_lines;
use super::query::{Params, page};
use super::state::ApiState;
use crate::crd::System;
use crate::postgres::logs::{self, ContainerLog};
use crate::postgres::queries::{self, ArtifactRecord, RunFilter, RunRecord};

/// Most bytes of `logContent`; of a longer one the end is given.
const MAX_LOG_CONTENT: usize = 1024 * 1024;

/// One attempt at a Task.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    #[schema(value_type = String, format = "uuid")]
    id: Uuid,
    /// Name of the Run and of its Pod in Kubernetes.
    name: String,
    #[schema(value_type = String, format = "uuid")]
    task_id: Uuid,
    agent_id: String,
    /// Ordinal of the attempt, from 1.
    attempt: i32,
    /// `execute`, `judge`, `merge` or `plan`.
    purpose: String,
    /// `running`, `success`, `failed` or `cancelled`.
    status: String,
    #[schema(value_type = String, format = DateTime)]
    started_at: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime)]
    finished_at: Option<Timestamp>,
    cost_tokens: Option<i64>,
    /// Where its logs are, once they are kept.
    log_path: Option<String>,
    error_message: Option<String>,
    /// `failureCode`, `failureClass`, `retryAt`.
    #[schema(value_type = Option<Object>)]
    error_meta: Option<Value>,
    /// When a judge gave its verdict; null while no judge is configured.
    #[schema(value_type = Option<String>, format = DateTime)]
    judged_at: Option<Timestamp>,
    /// Verdicts given so far; 0 while no judge is configured.
    judgement_version: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    deleted_at: Option<Timestamp>,
}

impl From<RunRecord> for Run {
    fn from(record: RunRecord) -> Self {
        let RunRecord {
            uid,
            name,
            task_uid,
            agent,
            attempt,
            purpose,
            status,
            started_at,
            finished_at,
            cost_tokens,
            error_message,
            error_meta,
            logs: _,
            has_logs,
            created_at: _,
            deleted_at,
        } = record;
        Self {
            id: uid,
            name,
            task_id: task_uid,
            agent_id: agent,
            attempt,
            purpose,
            status,
            started_at,
            finished_at,
            cost_tokens,
            log_path: has_logs.then(|| format!("/runs/{uid}/logs")),
            error_message,
            error_meta,
            judged_at: None,
            judgement_version: 0,
            deleted_at,
        }
    }
}

/// A page of Runs.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Runs {
    runs: Vec<Run>,
    /// Value of `cursor` for the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// A Run with its logs in one text.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunWithLog {
    #[serde(flatten)]
    run: Run,
    /// The logs of all containers, at most the last MiB after a line that says so; a sentence that
    /// begins with `[System]` when there are none.
    log_content: String,
}

/// What a Run left behind, or what was posted about it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Artifact {
    #[schema(value_type = String, format = "uuid")]
    id: Uuid,
    #[schema(value_type = String, format = "uuid")]
    run_id: Uuid,
    /// `branch`, `commit`, or what was posted.
    #[serde(rename = "type")]
    kind: String,
    /// Of a branch or a commit: the pushed branch.
    #[serde(rename = "ref")]
    reference: Option<String>,
    url: Option<String>,
    /// Of a commit: `headSha`, `changedFiles`.
    #[schema(value_type = Option<Object>)]
    metadata: Option<Value>,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
}

impl From<ArtifactRecord> for Artifact {
    fn from(record: ArtifactRecord) -> Self {
        let ArtifactRecord { id, run_uid, kind, reference, url, metadata, created_at } = record;
        Self { id, run_id: run_uid, kind, reference, url, metadata, created_at }
    }
}

/// One Run.
#[derive(Debug, Serialize, ToSchema)]
pub struct RunRow {
    pub run: Run,
}

/// One Run and what it left behind.
#[derive(Debug, Serialize, ToSchema)]
pub struct OneRun {
    run: RunWithLog,
    artifacts: Vec<Artifact>,
}

/// Log of one container.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunLog {
    /// `checkout`, `agent` or `publish`.
    container: String,
    /// Lines with timestamps; a cut is marked with a line.
    content: String,
    /// Bytes the container wrote.
    total_bytes: i64,
    /// Bytes that are missing from `content`.
    cut_bytes: i64,
}

impl From<ContainerLog> for RunLog {
    fn from(log: ContainerLog) -> Self {
        let ContainerLog { container, content, total_bytes, cut_bytes } = log;
        Self { container, content, total_bytes, cut_bytes }
    }
}

/// Logs of a Run.
#[derive(Debug, Serialize, ToSchema)]
pub struct RunLogs {
    logs: Vec<RunLog>,
}

/// Runs, newest first.
#[utoipa::path(get, path = "/runs", tag = "runs",
    params(
        ("taskId" = Option<String>, Query, description = "Runs of this Task"),
        ("status" = Option<String>, Query, description = "running, success, failed or cancelled"),
        ("agentId" = Option<String>, Query, description = "Runs in this slot, e.g. worker-3"),
        ("includeDeleted" = Option<bool>, Query, description = "also Runs that were deleted, with deletedAt"),
        ("limit" = Option<i64>, Query, description = "rows at most, 1 to 1000 (default 1000)"),
        ("cursor" = Option<String>, Query, description = "nextCursor of the page before")),
    responses((status = 200, body = Runs), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub async fn list(State(state): State<ApiState>, params: Params) -> Result<Json<Runs>, ApiError> {
    let filter = RunFilter {
        task: params.uuid("taskId")?,
        status: params.word("status", &["running", "success", "failed", "cancelled"])?,
        agent: params.label("agentId")?,
        include_deleted: params.flag("includeDeleted")?,
    };
    let (limit, after) = (params.limit()?, params.after()?);
    let rows = queries::list_runs(&state.pool, &state.namespace, &filter, after, limit + 1).await?;
    let (rows, next_cursor) = page(rows, limit, |r| (r.created_at.to_string(), r.uid.to_string()));
    Ok(Json(Runs { runs: rows.into_iter().map(Run::from).collect(), next_cursor }))
}

/// What Runs have used of a day's tokens.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunStats {
    /// Tokens of the Runs that have ended on this day, as the budgets count them.
    daily_tokens: i64,
    /// `budgets.perDay` of the System; -1: no limit.
    token_limit: i64,
    /// Beginning of the day.
    #[schema(value_type = String, format = DateTime)]
    since: Timestamp,
    /// `UTC`, whatever the zone of this program.
    time_zone: &'static str,
}

/// Tokens used today (UTC).
#[utoipa::path(get, path = "/runs/stats", tag = "runs",
    responses((status = 200, body = RunStats), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 503, body = ErrorBody)))]
pub async fn stats(State(state): State<ApiState>) -> Result<Json<RunStats>, ApiError> {
    let system: Option<System> = state.kubernetes()?.get("default").await?;
    let limit = system.and_then(|system| system.spec.budgets.per_day);
    let now = (state.now)();
    let since =
        Timestamp::from_second(now.as_second() - now.as_second().rem_euclid(24 * 3600)).unwrap_or(now);
    let daily_tokens = queries::tokens_since(&state.pool, &state.namespace, since).await?;
    Ok(Json(RunStats { daily_tokens, token_limit: limit.unwrap_or(-1), since, time_zone: "UTC" }))
}

/// One Run with its logs and artifacts.
#[utoipa::path(get, path = "/runs/{id}", tag = "runs",
    params(("id" = String, Path, description = "uid of the Run"),
        ("includeDeleted" = Option<bool>, Query, description = "also if it was deleted")),
    responses((status = 200, body = OneRun), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 404, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub async fn get(
    State(state): State<ApiState>,
    Path(id): Path<String>,
    params: Params,
) -> Result<Json<OneRun>, ApiError> {
    let record = find(&state, &id, params.flag("includeDeleted")?).await?;
    let artifacts = queries::artifacts(&state.pool, &state.namespace, record.uid).await?;
    let log_content = match (record.logs.as_deref(), record.has_logs) {
        (Some("lost"), _) => "[System] the logs of this run could not be kept".to_owned(),
        (Some("not_kept"), _) => "[System] the logs of this run were not kept".to_owned(),
        (_, true) => {
            let _place = state.live.place(Place::Read).await?;
            let since = logs::bound(&state.pool, &state.namespace).await?;
            let kept = logs::load(&state.pool, &state.namespace, record.uid, None).await?;
            joined(kept.into_iter().map(|log| log_lines::since(log, since)))
        }
        (_, false) if record.status == "running" => {
            format!("[System] the run is in progress, see /logs/agents/{}", record.agent)
        }
        (_, false) => "[System] the logs of this run are being kept, ask again".to_owned(),
    };
    let run = RunWithLog { run: record.into(), log_content };
    Ok(Json(OneRun { run, artifacts: artifacts.into_iter().map(Artifact::from).collect() }))
}

/// The kept logs of a Run, one per container; or, as server-sent events, the log while it is written.
///
/// The stream (`follow=true`, or `Accept: text/event-stream`) begins with the last `lines` lines of each
/// container, goes on until the Run is over, and ends with an event `end`.
#[utoipa::path(get, path = "/runs/{id}/logs", tag = "runs",
    params(("id" = String, Path, description = "uid of the Run"),
        ("container" = Option<String>, Query, description = "checkout, agent or publish"),
        ("follow" = Option<bool>, Query, description = "answer with a stream"),
        ("lines" = Option<u32>, Query, description = "of a stream: lines of each container to begin with, 1 to 20000 (default 2000)"),
        ("Last-Event-ID" = Option<String>, Header, description = "of a stream: id of the last event that was received; what came after it is sent")),
    responses((status = 200, description = "logs; a stream of events `log` and `end`",
            content((RunLogs = "application/json"), (ServerSentEvent = "text/event-stream"))),
        (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 404, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub async fn logs(
    State(state): State<ApiState>,
    Path(id): Path<String>,
    headers: HeaderMap,
    params: Params,
) -> Result<Response, ApiError> {
    let container = params.word("container", &crate::crd::wire::container::ALL)?;
    let accepts = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let follow = params.flag("follow")? || accepts.contains("text/event-stream");
    // Logs outlive their Run.
    let record = find(&state, &id, true).await?;
    if follow {
        return log_follow::follow(state, &record, container, &params, &headers).await;
    }
    let _place = state.live.place(Place::Read).await?;
    let since = logs::bound(&state.pool, &state.namespace).await?;
    let logs = logs::load(&state.pool, &state.namespace, record.uid, container.as_deref()).await?;
    let logs = logs.into_iter().map(|log| RunLog::from(log_lines::since(log, since))).collect();
    Ok(Json(RunLogs { logs }).into_response())
}

pub(super) async fn find(state: &ApiState, id: &str, include_deleted: bool) -> Result<RunRecord, ApiError> {
    let uid = Uuid::parse_str(id).map_err(|_| ApiError::not_found("run"))?;
    queries::get_run(&state.pool, &state.namespace, uid, include_deleted)
        .await?
        .ok_or_else(|| ApiError::not_found("run"))
}

/// All logs in one text, the last MiB of it.
fn joined(logs: impl Iterator<Item = ContainerLog>) -> String {
    let text: String = logs.map(|l| format!("==> {} <==\n{}\n", l.container, l.content)).collect();
    if text.len() <= MAX_LOG_CONTENT {
        return text;
    }
    let mut start = text.len() - MAX_LOG_CONTENT;
    while !text.is_char_boundary(start) {
        start += 1;
    }
    format!("[... {start} bytes cut, see /runs/:id/logs ...]\n{}", text.get(start..).unwrap_or_default())
}
