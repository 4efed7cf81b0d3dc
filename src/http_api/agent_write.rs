//! What the original's agents say about themselves. Here an agent is a slot of an AgentPool and its
//! state follows from its Runs: to say what is so already is fine, anything else is a 409 that says how
//! to bring it about.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::convert::Infallible;
use utoipa::ToSchema;
use uuid::Uuid;

use super::agents::{OneAgent, ROLES, STATUSES, find};
use super::error::{ApiError, ErrorBody};
use super::fields::Fields;
use super::state::ApiState;
use crate::crd::Role;
use crate::crd::words::snake;

/// An agent that registers.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(dead_code, reason = "describes the body; it is read field by field")]
pub struct RegisterAgent {
    id: String,
    /// `planner`, `worker`, `judge`, `tester` or `docser`.
    role: String,
    /// Ignored: the pool says it.
    #[schema(value_type = Option<Object>)]
    metadata: Option<Map<String, Value>>,
}

/// A sign of life.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[allow(dead_code, reason = "describes the body; it is read field by field")]
pub struct Heartbeat {
    /// `idle`, `busy` or `offline`.
    status: Option<String>,
    #[schema(value_type = Option<String>, format = "uuid")]
    current_task_id: Option<Uuid>,
}

fn slots(problem: &str) -> ApiError {
    ApiError::conflict("agents_are_slots", problem)
}

/// Registers an agent: answers with the one that is there. docser can register (trap 14 of spec/api.md 9).
#[utoipa::path(post, path = "/agents", tag = "agents", request_body = RegisterAgent,
    responses((status = 200, body = OneAgent), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody),
        (status = 409, body = ErrorBody, description = "no AgentPool has such a slot, or it is of another role"),
        (status = 413, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub async fn register(
    State(state): State<ApiState>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<OneAgent>, ApiError> {
    let fields = Fields::parse(&body?)?;
    let id = fields.text("id")?;
    let role: Option<Role> = fields.word("role", &ROLES)?;
    let role = snake(role.ok_or_else(|| fields.invalid("role", "is required"))?.word());
    fields.optional::<Map<String, Value>>("metadata")?;
    let Some(record) = find(&state, &id).await? else {
        return Err(slots(
            "there is no such slot: agents are slots of AgentPools, raise the replicas of the pool",
        ));
    };
    if record.role != role {
        return Err(slots(&format!("role: this agent is of role {} and not {role}", record.role)));
    }
    Ok(Json(OneAgent { agent: record.into() }))
}

/// Takes a sign of life. State and Task of an agent follow from its Runs.
#[utoipa::path(post, path = "/agents/{id}/heartbeat", tag = "agents", request_body = Heartbeat,
    params(("id" = String, Path, description = "e.g. worker-1")),
    responses((status = 200, body = OneAgent), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 404, body = ErrorBody),
        (status = 409, body = ErrorBody, description = "the agent is in another state"),
        (status = 413, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub async fn heartbeat(
    State(state): State<ApiState>,
    Path(id): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<OneAgent>, ApiError> {
    let fields = Fields::parse(&body?)?;
    let status: Option<String> = fields.optional("status")?;
    if status.as_deref().is_some_and(|status| !STATUSES.contains(&status)) {
        return Err(fields.invalid("status", format!("must be one of {}", STATUSES.join(", "))));
    }
    let task: Option<Uuid> = fields.optional("currentTaskId")?;
    let record = find(&state, &id).await?.ok_or_else(|| ApiError::not_found("agent"))?;
    if let Some(said) = status.filter(|said| *said != record.status) {
        return Err(slots(&format!(
            "status: agent {id} is {} and cannot become {said} by saying so, its state follows from its Runs",
            record.status
        )));
    }
    if task.is_some() && task != record.current_task_id {
        return Err(slots("currentTaskId: the dispatcher decides which Task an agent works on"));
    }
    Ok(Json(OneAgent { agent: record.into() }))
}

/// Refused: a slot goes when its AgentPool gets smaller.
#[utoipa::path(delete, path = "/agents/{id}", tag = "agents",
    params(("id" = String, Path, description = "e.g. worker-1")),
    responses((status = 401, body = ErrorBody), (status = 403, body = ErrorBody), (status = 404, body = ErrorBody),
        (status = 409, body = ErrorBody, description = "always, with what to do in its place"),
        (status = 503, body = ErrorBody)))]
pub async fn delete(State(state): State<ApiState>, Path(id): Path<String>) -> Result<Infallible, ApiError> {
    let record = find(&state, &id).await?.ok_or_else(|| ApiError::not_found("agent"))?;
    Err(slots(&format!(
        "{id} is slot {} of AgentPool {}: lower the pool's replicas to be rid of it, or stop it with POST /system/processes/{id}/stop",
        record.slot, record.pool
    )))
}
