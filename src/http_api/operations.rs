//! Operations behind a request: carried out while the caller waits, and what the answer says of one
//! that is not over in time.
//!
//! An Operation that is taken up and goes on beyond the wait is answered with 202 and its name; one that
//! nobody has taken up with 503, because then no operator works. Repeating either request is harmless.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use kube::ResourceExt;
use serde::Serialize;
use serde_json::{Map, Value};

use super::auth::Identity;
use super::error::ApiError;
use super::kubernetes::Kubernetes;
use crate::crd::operation::OperationResult;
use crate::crd::{Operation, OperationPhase, OperationSpec, OperationType};

/// An Operation that was accepted and did not fail.
#[derive(Debug)]
pub struct Carried {
    /// Its name, while it is not over.
    pub going: Option<String>,
    pub message: String,
    pub result: OperationResult,
}

impl Carried {
    /// The answer: 200, or 202 while it goes on.
    pub fn answer(&self, body: impl Serialize) -> Response {
        let status = if self.going.is_some() { StatusCode::ACCEPTED } else { StatusCode::OK };
        (status, Json(body)).into_response()
    }
}

/// Has `spec` carried out in the name of `identity`.
///
/// # Errors
/// 409 `operation_failed` with its sentence, 503 `operator_unavailable` when nobody takes it up.
pub async fn carry_out(
    kubernetes: &Kubernetes,
    identity: &Identity,
    spec: OperationSpec,
) -> Result<Carried, ApiError> {
    let last = kubernetes.carry_out(spec, &identity.name()).await?;
    carried(last)
}

/// What became of an Operation.
///
/// # Errors
/// As [`carry_out`].
pub fn carried(last: Operation) -> Result<Carried, ApiError> {
    let (phase, name) = (last.phase(), last.name_any());
    let status = last.status.unwrap_or_default();
    let (message, result) = (status.message, status.result.unwrap_or_default());
    match phase {
        OperationPhase::Succeeded => Ok(Carried { going: None, message, result }),
        OperationPhase::Failed => Err(ApiError::conflict("operation_failed", message)),
        OperationPhase::Pending if message.is_empty() => {
            let problem = format!(
                "Operation {name} was accepted and nobody has taken it up yet: is there an operator that leads?"
            );
            Err(ApiError::unavailable("operator_unavailable", problem))
        }
        OperationPhase::Pending | OperationPhase::Running => {
            Ok(Carried { going: Some(name), message, result })
        }
    }
}

/// A spec of this type with a reason.
pub fn spec(type_: OperationType, reason: impl Into<String>) -> OperationSpec {
    let reason = reason.into().chars().take(1024).collect();
    OperationSpec { type_, reason, ..OperationSpec::default() }
}

/// A body that need not be there: anything but a JSON object counts as an empty one, as clients of the
/// original are used to (`spec/api.md` 1.6, corrections 20).
pub fn tolerant(body: &[u8]) -> Map<String, Value> {
    match serde_json::from_slice(body) {
        Ok(Value::Object(fields)) => fields,
        Ok(_) | Err(_) => Map::new(),
    }
}

/// The text `name` of a tolerant body; of another type: absent.
pub fn text<'a>(body: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    body.get(name).and_then(Value::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::OperationStatus;

    #[test]
    fn what_became_of_an_operation_decides_the_answer() {
        let of = |phase, message: &str| {
            let mut operation = Operation::new("stop-x", OperationSpec::default());
            operation.status =
                Some(OperationStatus { phase, message: message.into(), ..OperationStatus::default() });
            carried(operation).map(|c| c.answer(()).status().as_u16()).map_err(|e| e.into_response().status())
        };
        assert_eq!(of(OperationPhase::Succeeded, "done"), Ok(200));
        assert_eq!(of(OperationPhase::Running, "ending Pods"), Ok(202));
        assert_eq!(of(OperationPhase::Pending, "waits for the end of Operation a"), Ok(202));
        assert_eq!(of(OperationPhase::Pending, ""), Err(StatusCode::SERVICE_UNAVAILABLE));
        assert_eq!(of(OperationPhase::Failed, "no"), Err(StatusCode::CONFLICT));
    }

    #[test]
    fn a_body_that_is_no_object_counts_as_an_empty_one() {
        for body in ["", "{", "5", "[]", "null", "\"x\"", "\u{0}"] {
            assert!(tolerant(body.as_bytes()).is_empty(), "{body}");
        }
        let body = tolerant(br#"{"content": 5, "path": "a"}"#);
        assert_eq!((text(&body, "content"), text(&body, "path")), (None, Some("a")));
    }
}
