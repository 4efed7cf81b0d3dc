//! `/health` and `/health/ready`. Open to everybody; no data behind them.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::state::ApiState;
use crate::postgres::migrate::check_version;

/// Longest wait for the database.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The process answers.
#[derive(Serialize, ToSchema)]
pub struct Health {
    /// `ok`.
    status: &'static str,
    #[schema(value_type = String, format = DateTime)]
    timestamp: Timestamp,
}

/// Whether what the API needs is there.
#[derive(Serialize, ToSchema)]
pub struct Readiness {
    /// `ok` or `degraded`.
    status: &'static str,
    /// `ok` or `error` by service.
    services: BTreeMap<&'static str, &'static str>,
    /// What is wrong by service.
    errors: BTreeMap<&'static str, String>,
    #[schema(value_type = String, format = DateTime)]
    timestamp: Timestamp,
}

/// The process answers; asks nobody else.
#[utoipa::path(get, path = "/health", tag = "health", security(()), responses((status = 200, body = Health)))]
pub async fn health(State(state): State<ApiState>) -> Json<Health> {
    Json(Health { status: "ok", timestamp: (state.now)() })
}

/// The database answers and its tables are as new as this program.
#[utoipa::path(get, path = "/health/ready", tag = "health", security(()),
    responses((status = 200, body = Readiness), (status = 503, body = Readiness)))]
pub async fn ready(State(state): State<ApiState>) -> Response {
    let problem = match tokio::time::timeout(TIMEOUT, check_version(&state.pool)).await {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some("failed to get an answer within 2 s".to_owned()),
    };
    let (code, status, service) = match problem {
        None => (StatusCode::OK, "ok", "ok"),
        Some(_) => (StatusCode::SERVICE_UNAVAILABLE, "degraded", "error"),
    };
    let body = Readiness {
        status,
        services: BTreeMap::from([("database", service)]),
        errors: problem.map(|p| ("database", p)).into_iter().collect(),
        timestamp: (state.now)(),
    };
    (code, Json(body)).into_response()
}
