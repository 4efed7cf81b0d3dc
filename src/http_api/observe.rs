//! Around every request: id, access log, header limit, time limit. No query, header or body is
//! logged.

use std::time::{Duration, Instant};

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tower_http::request_id::{MakeRequestId, MakeRequestUuid};

use super::auth::Identity;
use super::auth::address;
use super::error::ApiError;
use super::state::ApiState;

/// Largest sum of all header names and values, in bytes.
const MAX_HEADER_BYTES: usize = 16 * 1024;
/// Longest time one answer may take.
const TIMEOUT: Duration = Duration::from_secs(30);
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Middleware of the whole router.
pub async fn observe(State(state): State<ApiState>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let method = method(request.method());
    let client = address(&state, &request);
    let route = request.extensions().get::<MatchedPath>().cloned();
    let id = request_id(&request);
    let header_bytes: usize =
        request.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    let mut response = if header_bytes > MAX_HEADER_BYTES {
        ApiError::headers_too_large().into_response()
    } else {
        match tokio::time::timeout(TIMEOUT, next.run(request)).await {
            Ok(response) => response,
            Err(_) => ApiError::unavailable("timeout", "the answer took longer than 30 s").into_response(),
        }
    };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Some(id) = &id {
        headers.insert(REQUEST_ID, id.clone());
    }
    let status = response.status().as_u16();
    let route = route.as_ref().map_or("-", MatchedPath::as_str);
    let id = id.as_ref().and_then(|id| id.to_str().ok()).unwrap_or_default();
    let identity = response.extensions().get::<Identity>();
    let caller = identity.map_or("-", Identity::word);
    let name = identity.map(Identity::name).unwrap_or_default();
    let ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    if status >= 500 {
        tracing::warn!(method, route, status, ms, request_id = id, caller, name, %client, "request");
    } else if route.starts_with("/health") {
        tracing::debug!(method, route, status, ms, request_id = id, caller, name, %client, "request");
    } else {
        tracing::info!(method, route, status, ms, request_id = id, caller, name, %client, "request");
    }
    response
}

/// A method for the log: what is none of HTTP's own is not written down.
fn method(method: &Method) -> &'static str {
    let known = [
        Method::GET,
        Method::HEAD,
        Method::POST,
        Method::PUT,
        Method::PATCH,
        Method::DELETE,
        Method::OPTIONS,
    ];
    let words = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    known.iter().zip(words).find(|(m, _)| *m == method).map_or("other", |(_, word)| word)
}

/// The caller's id if it is short and plain, else a new one.
fn request_id(request: &Request) -> Option<HeaderValue> {
    let plain = |v: &&HeaderValue| {
        (1..=64).contains(&v.len())
            && v.as_bytes().iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-' || *b == b'_')
    };
    match request.headers().get(REQUEST_ID).filter(plain) {
        Some(id) => Some(id.clone()),
        None => MakeRequestUuid.make_request_id(request).map(|id| id.header_value().clone()),
    }
}
