//! `POST /system/cleanup`: removes the Tasks and Runs of the namespace. Asks for its name, unlike the
//! original, and is refused while the hatch is armed (design, decision "cleanup").

use axum::Extension;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::response::Response;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::auth::Identity;
use super::error::{ApiError, ErrorBody};
use super::operations::{carry_out, spec, text, tolerant};
use super::state::ApiState;
use crate::crd::{OperationSpec, OperationType};

/// What was removed.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Cleaned {
    /// False: a dry run, or the Operation is not over yet.
    cleaned: bool,
    /// Always 0: there are no queues.
    queues_obliterated: i32,
    tasks: i32,
    runs: i32,
    operations: i32,
    message: String,
    /// Name of the Operation that is not over yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    operation: Option<String>,
}

/// Removes all Tasks with their Runs, and the finished Operations. Pools, System, hatch and agents stay.
#[utoipa::path(post, path = "/system/cleanup", tag = "system",
    request_body(content = Object, description = "`confirm`: the name of the namespace; `force`: although the hatch is armed; `dryRun`: only count"),
    responses((status = 200, body = Cleaned), (status = 202, body = Cleaned, description = "the Operation is not over yet"),
        (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 409, body = ErrorBody, description = "not confirmed, or the hatch is armed"),
        (status = 413, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub async fn clean_up(
    State(state): State<ApiState>,
    Extension(identity): Extension<Identity>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let body = tolerant(&body?);
    let kubernetes = state.kubernetes()?;
    let namespace = kubernetes.namespace();
    let (force, dry_run) = (flag(&body, "force")?, flag(&body, "dryRun")?);
    if text(&body, "confirm") != Some(namespace) {
        let problem = format!(
            "this removes every Task and Run of namespace {namespace} for good: to confirm, send {{\"confirm\": \"{namespace}\"}}"
        );
        return Err(ApiError::conflict("confirmation_required", problem));
    }
    let spec = OperationSpec {
        confirm: Some(namespace.to_owned()),
        force,
        dry_run,
        ..spec(OperationType::Cleanup, "system.cleanup")
    };
    let carried = carry_out(kubernetes, &identity, spec).await?;
    let count = |number: Option<i32>| number.unwrap_or(0);
    let body = Cleaned {
        cleaned: carried.going.is_none() && !dry_run,
        queues_obliterated: 0,
        tasks: count(carried.result.tasks),
        runs: count(carried.result.runs),
        operations: count(carried.result.operations),
        message: carried.message.clone(),
        operation: carried.going.clone(),
    };
    Ok(carried.answer(body))
}

fn flag(body: &Map<String, Value>, name: &str) -> Result<bool, ApiError> {
    match body.get(name) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(flag)) => Ok(*flag),
        Some(_) => Err(ApiError::invalid(name, "must be true or false")),
    }
}
