//! Every error answer: JSON `{error, code}`, never a stack, a query or a secret.

use axum::Json;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::postgres;

/// Body of an error answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct ErrorBody {
    /// One sentence for a person.
    pub error: String,
    /// Word for a program, e.g. `invalid_field`.
    pub code: &'static str,
}

/// An answer that is no success.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
    /// Seconds.
    retry_after: Option<u64>,
}

impl ApiError {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), retry_after: None }
    }

    /// 400: `field` of the body or the query is not as it must be.
    pub fn invalid(field: &str, problem: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_field", format!("{field}: {problem}"))
    }

    /// 400: the request as a whole cannot be read.
    pub fn bad_request(problem: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", problem)
    }

    /// 404: there is no such `what`.
    pub fn not_found(what: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", format!("{what} not found"))
    }

    /// 404: it is there and has no content.
    pub fn no_content(problem: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "no_content", problem)
    }

    /// 404 in other words.
    pub fn missing(problem: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", problem)
    }

    /// 404: there is no such path.
    pub fn no_route() -> Self {
        Self::new(StatusCode::NOT_FOUND, "no_such_path", "there is no such path, see /openapi.json")
    }

    /// 405.
    pub fn method_not_allowed() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            "this path does not know this method, see /openapi.json",
        )
    }

    /// 401.
    pub fn unauthorized() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            "send an API key in X-API-Key or a token in Authorization: Bearer",
        )
    }

    /// 403.
    pub fn forbidden(problem: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", problem)
    }

    /// 409.
    pub fn conflict(code: &'static str, problem: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, code, problem)
    }

    /// Whether this is a 409.
    pub fn is_conflict(&self) -> bool {
        self.status == StatusCode::CONFLICT
    }

    /// 422.
    pub fn unprocessable(code: &'static str, problem: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, problem)
    }

    /// 429 with Retry-After: `seconds` until the next request is taken.
    pub fn too_many(seconds: u64, problem: impl Into<String>) -> Self {
        Self {
            retry_after: Some(seconds),
            ..Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", problem)
        }
    }

    /// 401: what is signed is not signed, or not with the right secret.
    pub fn bad_signature() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "bad_signature",
            "X-Hub-Signature-256 must be sha256= and the HMAC of the body under the webhook's secret",
        )
    }

    /// 404: the installation has no webhook.
    pub fn no_webhook() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "webhook_disabled",
            "the API was started without --github-webhook-secret-file and takes no webhook",
        )
    }

    /// 413.
    pub fn body_too_large() -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", "the body is larger than this path takes")
    }

    /// 431.
    pub fn headers_too_large() -> Self {
        Self::new(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "headers_too_large",
            "the headers are larger than 16 KiB",
        )
    }

    /// 503 with Retry-After: something this program needs is away, or an answer took too long.
    pub fn unavailable(code: &'static str, problem: impl Into<String>) -> Self {
        Self { retry_after: Some(1), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, code, problem) }
    }
}

impl ApiError {
    /// 503: there is no Kubernetes behind this API.
    pub fn reads_only() -> Self {
        Self::unavailable("kubernetes_unavailable", "this API was started without Kubernetes and only reads")
    }
}

impl From<postgres::Error> for ApiError {
    fn from(error: postgres::Error) -> Self {
        tracing::warn!(error = &error as &dyn std::error::Error, "database cannot be read");
        Self::unavailable("database_unavailable", "the database cannot be read now, try again")
    }
}

impl From<BytesRejection> for ApiError {
    fn from(rejection: BytesRejection) -> Self {
        match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => Self::body_too_large(),
            _ => Self::bad_request("the body cannot be read"),
        }
    }
}

impl From<QueryRejection> for ApiError {
    fn from(_: QueryRejection) -> Self {
        Self::bad_request("the query cannot be read")
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response =
            (self.status, Json(ErrorBody { error: self.message, code: self.code })).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
