//! `/system/hatch`: the runtime hatch as the System has it (`spec/api.md` 2.8). Never kept here, so that
//! what anybody sets is seen at once (trap 4).

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::response::Response;
use axum::{Extension, Json};
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::auth::Identity;
use super::error::{ApiError, ErrorBody};
use super::kubernetes::Kubernetes;
use super::operations::{carry_out, spec, text, tolerant};
use super::state::ApiState;
use crate::crd::words::snake;
use crate::crd::{HatchChange, HatchState, OperationType, RuntimeHatch, System, system};

/// The hatch, and what is stopped.
#[derive(Debug, Serialize, ToSchema)]
pub struct HatchAnswer {
    hatch: Hatch,
    /// Components and agents that are stopped.
    stopped: Vec<String>,
    /// Name of the Operation that is not over yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    operation: Option<String>,
}

#[derive(Debug, Serialize, ToSchema)]
struct Hatch {
    /// Whether Runs may start.
    armed: bool,
    /// `spec.runtimeHatch` of the System is Disarmed: it cannot be armed.
    locked: bool,
    /// When it came to be so.
    #[schema(value_type = Option<String>, format = DateTime)]
    since: Option<Timestamp>,
    by: String,
    reason: String,
    /// The last changes, newest first.
    history: Vec<Change>,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = HatchChange)]
struct Change {
    /// `armed` or `disarmed`.
    state: String,
    #[schema(value_type = String, format = DateTime)]
    at: Timestamp,
    by: String,
    reason: String,
}

impl HatchAnswer {
    fn new(system: Option<System>, operation: Option<String>) -> Self {
        let armed = system.as_ref().is_some_and(System::is_armed);
        let locked = system.as_ref().is_some_and(|s| s.spec.runtime_hatch == RuntimeHatch::Disarmed);
        let status = system.and_then(|system| system.status).unwrap_or_default();
        let change = |change: &HatchChange| Change {
            state: snake(match change.state {
                HatchState::Armed => "Armed",
                HatchState::Disarmed => "Disarmed",
            }),
            at: change.at,
            by: change.by.clone(),
            reason: change.reason.clone(),
        };
        let history = status.hatch.history.iter().rev().map(change).collect();
        let crate::crd::Hatch { state: _, since, by, reason, followed: _, history: _ } = status.hatch;
        Self {
            hatch: Hatch { armed, locked, since, by, reason, history },
            stopped: status.stopped,
            operation,
        }
    }
}

/// Whether Runs may start, since when and by whom.
#[utoipa::path(get, path = "/system/hatch", tag = "system",
    responses((status = 200, body = HatchAnswer), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 503, body = ErrorBody)))]
pub async fn get(State(state): State<ApiState>) -> Result<Json<HatchAnswer>, ApiError> {
    let system = state.kubernetes()?.get::<System>(system::NAME).await?;
    Ok(Json(HatchAnswer::new(system, None)))
}

/// Lets Runs start.
#[utoipa::path(post, path = "/system/hatch/arm", tag = "system",
    request_body(content = Object, description = "`reason`, for people; anything but an object counts as empty"),
    responses((status = 200, body = HatchAnswer), (status = 202, body = HatchAnswer, description = "the Operation is not over yet"),
        (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 409, body = ErrorBody, description = "the System's spec locks the hatch"),
        (status = 413, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub async fn arm(
    State(state): State<ApiState>,
    Extension(identity): Extension<Identity>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    set(state.kubernetes()?, &identity, OperationType::Arm, &body?).await
}

/// Starts nothing any more; what runs finishes.
#[utoipa::path(post, path = "/system/hatch/disarm", tag = "system",
    request_body(content = Object, description = "`reason`, for people; anything but an object counts as empty"),
    responses((status = 200, body = HatchAnswer), (status = 202, body = HatchAnswer, description = "the Operation is not over yet"),
        (status = 401, body = ErrorBody), (status = 403, body = ErrorBody), (status = 409, body = ErrorBody),
        (status = 413, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub async fn disarm(
    State(state): State<ApiState>,
    Extension(identity): Extension<Identity>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    set(state.kubernetes()?, &identity, OperationType::Disarm, &body?).await
}

async fn set(
    kubernetes: &Kubernetes,
    identity: &Identity,
    type_: OperationType,
    body: &[u8],
) -> Result<Response, ApiError> {
    let body = tolerant(body);
    let carried =
        carry_out(kubernetes, identity, spec(type_, text(&body, "reason").unwrap_or("system.hatch"))).await?;
    let system = kubernetes.get::<System>(system::NAME).await?;
    let operation = carried.going.clone();
    Ok(carried.answer(HatchAnswer::new(system, operation)))
}
