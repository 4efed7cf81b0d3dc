//! What clients of the original do to Runs. A Run is admitted by the dispatcher and reported by its own
//! Pod, so rows cannot be made or set; one in progress can be cancelled.

use std::convert::Infallible;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use serde::Deserialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::auth::Identity;
use super::error::{ApiError, ErrorBody};
use super::fields::Fields;
use super::idempotency::Request;
use super::kubernetes::outcome;
use super::runs::{RunRow, find};
use super::state::ApiState;
use super::written;
use crate::crd::operation::OperationRun;
use crate::crd::words::snake;
use crate::crd::{OperationSpec, OperationType, Run, RunPhase};

/// A Run as the original's dispatcher writes it.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[allow(dead_code, reason = "describes the body; it is read field by field")]
pub struct CreateRun {
    #[schema(value_type = String, format = "uuid")]
    task_id: Uuid,
    agent_id: String,
}

/// The end of a Run as the original's agents write it.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[allow(dead_code, reason = "describes the body; it is read field by field")]
pub struct ChangeRun {
    /// `success`, `failed` or `cancelled`.
    status: String,
    cost_tokens: Option<u64>,
    error_message: Option<String>,
}

fn admitted() -> ApiError {
    ApiError::conflict(
        "runs_are_admitted",
        "a Run is admitted by the dispatcher and reported by its own Pod: post a Task to have one made, and cancel one in progress with POST /runs/{id}/cancel",
    )
}

/// Refused: Runs are admitted by the dispatcher.
#[utoipa::path(post, path = "/runs", tag = "runs", request_body = CreateRun,
    responses((status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 409, body = ErrorBody, description = "always, with what to do in its place"),
        (status = 413, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub async fn create(body: Result<Bytes, BytesRejection>) -> Result<Infallible, ApiError> {
    let fields = Fields::parse(&body?)?;
    fields.required::<Uuid>("taskId")?;
    fields.text("agentId")?;
    Err(admitted())
}

/// Refused: a Run is reported by its own Pod.
#[utoipa::path(patch, path = "/runs/{id}", tag = "runs", request_body = ChangeRun,
    params(("id" = String, Path, description = "uid of the Run")),
    responses((status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 404, body = ErrorBody),
        (status = 409, body = ErrorBody, description = "always, with what to do in its place"),
        (status = 413, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub async fn change(
    State(state): State<ApiState>,
    Path(id): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Infallible, ApiError> {
    let fields = Fields::parse(&body?)?;
    let status: Option<RunPhase> = fields.word("status", &["success", "failed", "cancelled"])?;
    status.ok_or_else(|| fields.invalid("status", "is required"))?;
    fields.optional::<u64>("costTokens")?;
    fields.optional::<String>("errorMessage")?;
    find(&state, &id, false).await?;
    Err(admitted())
}

/// Ends a Run in progress. Its Task goes back to the queue at no cost.
#[utoipa::path(post, path = "/runs/{id}/cancel", tag = "runs",
    params(("id" = String, Path, description = "uid of the Run"),
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible characters; makes a repeat safe")),
    responses((status = 200, body = RunRow), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 404, body = ErrorBody),
        (status = 409, body = ErrorBody, description = "the Run has ended"),
        (status = 422, body = ErrorBody, description = "the Idempotency-Key was used for another request"),
        (status = 503, body = ErrorBody)))]
pub async fn cancel(
    State(state): State<ApiState>,
    Path(id): Path<String>,
    identity: Identity,
    headers: HeaderMap,
) -> Result<Json<RunRow>, ApiError> {
    let request = Request::read(&headers, &format!("/runs/{id}/cancel"))?;
    let row = find(&state, &id, false).await?;
    let kubernetes = state.kubernetes()?;
    // A repeat is answered as the first time.
    let repeated = match &request {
        Some(request) => kubernetes.repeated(OperationType::CancelRun, request).await?.is_some(),
        None => false,
    };
    if !repeated {
        let run: Option<Run> = kubernetes.get(&row.name).await?;
        let run = run.filter(|run| run.metadata.uid.as_deref() == Some(&row.uid.to_string()));
        let run = run.ok_or_else(|| ApiError::not_found("run"))?;
        let phase = run.status.map(|status| status.phase).unwrap_or_default();
        if phase.is_terminal() {
            return Err(illegal(&snake(phase.word()), ""));
        }
    }
    let spec = OperationSpec {
        type_: OperationType::CancelRun,
        run_ref: Some(OperationRun { name: row.name.clone() }),
        ..OperationSpec::default()
    };
    let by = identity.name();
    let operation = kubernetes.carry_out_once(spec, &by, request.as_ref()).await?;
    let refused = outcome(&operation)?.err();
    let row = written::ended_run(&state, row.uid).await?;
    match refused {
        None => Ok(Json(RunRow { run: row.into() })),
        Some(why) => Err(illegal(&row.status, &format!(": {why}"))),
    }
}

/// 409 that names both states.
fn illegal(from: &str, why: &str) -> ApiError {
    ApiError::conflict(
        "illegal_transition",
        format!("status: a Run that is {from} cannot become cancelled{why}"),
    )
}
