//! `/agents`: the slots of the pools.

use axum::Json;
use axum::extract::{Path, State};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use super::error::{ApiError, ErrorBody};
use super::query::{Params, page};
use super::state::ApiState;
use crate::postgres::queries::{self, AgentRecord};

/// Words of `role`.
pub const ROLES: [&str; 5] = ["planner", "worker", "judge", "tester", "docser"];
/// Words of `status`.
pub const STATUSES: [&str; 3] = ["idle", "busy", "offline"];

/// A slot of a pool.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Agent {
    /// E.g. `worker-1`.
    id: String,
    /// `planner`, `worker`, `judge`, `tester` or `docser`.
    role: String,
    /// `idle`, `busy` or `offline` (suspended, or beyond the pool's replicas).
    status: String,
    #[schema(value_type = Option<String>, format = "uuid")]
    current_task_id: Option<Uuid>,
    /// When a Run in this slot was last seen to change: admitted, condition, ended.
    #[schema(value_type = Option<String>, format = DateTime)]
    last_heartbeat: Option<Timestamp>,
    /// `provider`: the pool's executor.
    #[schema(value_type = Object)]
    metadata: Value,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
}

impl From<AgentRecord> for Agent {
    fn from(record: AgentRecord) -> Self {
        let AgentRecord {
            id,
            pool: _,
            slot: _,
            role,
            status,
            current_task_id,
            last_heartbeat,
            metadata,
            created_at,
        } = record;
        Self { id, role, status, current_task_id, last_heartbeat, metadata, created_at }
    }
}

/// A page of agents.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Agents {
    agents: Vec<Agent>,
    /// Value of `cursor` for the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// One agent.
#[derive(Debug, Serialize, ToSchema)]
pub struct OneAgent {
    pub agent: Agent,
}

/// Agents by pool and slot.
#[utoipa::path(get, path = "/agents", tag = "agents",
    params(
        ("role" = Option<String>, Query, description = "planner, worker, judge, tester or docser"),
        ("status" = Option<String>, Query, description = "idle, busy or offline"),
        ("limit" = Option<i64>, Query, description = "rows at most, 1 to 1000 (default 1000)"),
        ("cursor" = Option<String>, Query, description = "nextCursor of the page before")),
    responses((status = 200, body = Agents), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub async fn list(State(state): State<ApiState>, params: Params) -> Result<Json<Agents>, ApiError> {
    let role = params.word("role", &ROLES)?;
    let status = params.word("status", &STATUSES)?;
    let (limit, (pool, slot)) = (params.limit()?, params.after_slot()?);
    let rows = queries::list_agents(
        &state.pool,
        &state.namespace,
        role.as_deref(),
        status.as_deref(),
        (&pool, slot),
        limit + 1,
    )
    .await?;
    let (rows, next_cursor) = page(rows, limit, |r| (r.pool.clone(), r.slot.to_string()));
    Ok(Json(Agents { agents: rows.into_iter().map(Agent::from).collect(), next_cursor }))
}

/// One agent.
#[utoipa::path(get, path = "/agents/{id}", tag = "agents", params(("id" = String, Path, description = "e.g. worker-1")),
    responses((status = 200, body = OneAgent), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 404, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub async fn get(State(state): State<ApiState>, Path(id): Path<String>) -> Result<Json<OneAgent>, ApiError> {
    let record = find(&state, &id).await?.ok_or_else(|| ApiError::not_found("agent"))?;
    Ok(Json(OneAgent { agent: record.into() }))
}

/// The agent with this id.
///
/// # Errors
/// 503 when the database cannot be read.
pub async fn find(state: &ApiState, id: &str) -> Result<Option<AgentRecord>, ApiError> {
    // Postgres refuses NUL in a parameter; no agent has one in its name.
    if id.contains('\0') {
        return Ok(None);
    }
    Ok(queries::get_agent(&state.pool, &state.namespace, id).await?)
}
