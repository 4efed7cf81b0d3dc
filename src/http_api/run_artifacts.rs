//! `/runs/{id}/artifacts`: small results that are posted about a Run, by its own Pod or by who may
//! change Runs, and their bytes.

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::rejection::BytesRejection;
use axum::extract::{Extension, Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;
use uuid::Uuid;

use super::auth::{Identity, bearer};
use super::error::{ApiError, ErrorBody};
use super::fields::Fields;
use super::idempotency::Request;
use super::plan_store::Caller;
use super::runs::{Artifact, find};
use super::state::ApiState;
use crate::postgres::artifacts::{self, Kept, MAX_PER_RUN, NewArtifact};
use crate::postgres::queries::{self, RunRecord};

/// Most bytes of a content.
const MAX_CONTENT_BYTES: usize = 1024 * 1024;
/// Largest body, in bytes: such a content as base64, and what is said about it.
pub const MAX_ARTIFACT_BODY_BYTES: usize = 2 * 1024 * 1024;
/// Words of `type`. The original knows `direct_edit` and does not take it (trap 14 of spec/api.md 9);
/// `prompt` is ours.
const TYPES: [&str; 11] = [
    "pr",
    "commit",
    "ci_result",
    "branch",
    "worktree",
    "base_repo_diff",
    "research_claim",
    "research_source",
    "research_report",
    "direct_edit",
    "prompt",
];
/// Types of content that are served as such, by the end of a file's name; all others are bytes.
const CONTENT_TYPES: [(&str, &str); 8] = [
    ("png", "image/png"),
    ("jpg", "image/jpeg"),
    ("jpeg", "image/jpeg"),
    ("webp", "image/webp"),
    ("bmp", "image/bmp"),
    ("json", "application/json"),
    ("txt", "text/plain; charset=utf-8"),
    ("log", "text/plain; charset=utf-8"),
];
/// What has no other type.
const BYTES: &str = "application/octet-stream";

/// What was made or found.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[allow(dead_code, reason = "describes the body; it is read field by field")]
pub struct PostArtifact {
    /// `pr`, `commit`, `ci_result`, `branch`, `worktree`, `base_repo_diff`, `research_claim`,
    /// `research_source`, `research_report`, `direct_edit` or `prompt`.
    #[serde(rename = "type")]
    kind: String,
    #[serde(rename = "ref")]
    reference: Option<String>,
    /// `http` or `https`.
    url: Option<String>,
    #[schema(value_type = Option<Object>)]
    metadata: Option<Map<String, Value>>,
    /// At most 1 MiB, kept and served by `/runs/{id}/artifacts/{artifactId}/content`; its type is
    /// `metadata.mimeType`, or follows from the end of `ref`.
    content: Option<String>,
    /// `utf8` (default) or `base64`.
    content_encoding: Option<String>,
}

/// One artifact.
#[derive(Debug, Serialize, ToSchema)]
pub struct OneArtifact {
    artifact: Artifact,
}

/// Keeps an artifact of a Run. `id` is the Run's uid, or its name.
#[utoipa::path(post, path = "/runs/{id}/artifacts", tag = "runs", request_body = PostArtifact,
    params(("id" = String, Path, description = "uid or name of the Run"),
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible characters; makes a repeat safe")),
    responses((status = 201, body = OneArtifact), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 404, body = ErrorBody),
        (status = 409, body = ErrorBody, description = "the Run has as many as it may have"),
        (status = 413, body = ErrorBody),
        (status = 422, body = ErrorBody, description = "the Idempotency-Key was used for another request"),
        (status = 503, body = ErrorBody)))]
pub async fn post(
    State(state): State<ApiState>,
    Path(id): Path<String>,
    identity: Option<Extension<Identity>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, Json<OneArtifact>), ApiError> {
    let pod = match identity {
        Some(_) => None,
        None => Some(pod(&state, &headers).await?),
    };
    let run = run(&state, &id).await?;
    if pod.is_some_and(|pod| pod != run.name) {
        return Err(ApiError::forbidden("this token is not that of the Run's Pod"));
    }
    let fields = Fields::parse(&body?)?;
    let request = Request::read(&headers, &format!("/runs/{}/artifacts {}", run.uid, fields.canonical()))?;
    let new = parse(&fields, run.uid, request)?;
    match artifacts::keep(&state.pool, &state.namespace, &new).await? {
        Kept::There(record) => Ok((StatusCode::CREATED, Json(OneArtifact { artifact: (*record).into() }))),
        Kept::Other => Err(Request::reused()),
        Kept::Full => Err(ApiError::conflict(
            "too_many_artifacts",
            format!("the Run has {MAX_PER_RUN} artifacts, which is as many as it may have"),
        )),
    }
}

/// The Pod whose token this is. A Pod has the name of its Run.
async fn pod(state: &ApiState, headers: &HeaderMap) -> Result<String, ApiError> {
    let token = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(bearer);
    let token = token.ok_or_else(ApiError::unauthorized)?;
    let store = state.plans.as_deref().ok_or_else(ApiError::reads_only)?;
    match store.caller(token).await? {
        None => Err(ApiError::unauthorized()),
        Some(Caller { namespace, pod: Some(pod) }) if namespace == *state.namespace => Ok(pod),
        Some(Caller { namespace: _, pod: _ }) => {
            Err(ApiError::forbidden("this token is not that of a Run's Pod of this namespace"))
        }
    }
}

/// The Run with this uid or name.
async fn run(state: &ApiState, id: &str) -> Result<RunRecord, ApiError> {
    if Uuid::parse_str(id).is_ok() || id.contains('\0') {
        return find(state, id, false).await;
    }
    let uid = queries::run_named(&state.pool, &state.namespace, id).await?;
    find(state, &uid.ok_or_else(|| ApiError::not_found("run"))?.to_string(), false).await
}

fn parse(fields: &Fields, run: Uuid, request: Option<Request>) -> Result<NewArtifact, ApiError> {
    let kind: Option<String> = fields.optional("type")?;
    let kind = kind.ok_or_else(|| fields.invalid("type", "is required"))?;
    if !TYPES.contains(&kind.as_str()) {
        return Err(fields.invalid("type", format!("must be one of {}", TYPES.join(", "))));
    }
    let reference: Option<String> = fields.optional("ref")?;
    let url: Option<String> = fields.optional("url")?;
    let metadata: Option<Map<String, Value>> = fields.optional("metadata")?;
    let metadata = metadata.map(Value::Object);
    if let Some(url) = &url
        && !is_link(url)
    {
        return Err(fields.invalid("url", "must be an http or https URL"));
    }
    for (name, has_nul) in [
        ("ref", reference.as_ref().is_some_and(|text| text.contains('\0'))),
        ("url", url.as_ref().is_some_and(|text| text.contains('\0'))),
        ("metadata", metadata.as_ref().is_some_and(has_nul)),
    ] {
        if has_nul {
            return Err(fields.invalid(name, "must not contain the character U+0000"));
        }
    }
    let content = content_of(fields)?;
    let content_type = content.is_some().then(|| content_type(reference.as_deref(), metadata.as_ref()));
    Ok(NewArtifact {
        id: request.as_ref().map(|request| derived_id(run, &request.key)),
        run_uid: run,
        kind,
        reference,
        url,
        metadata,
        content,
        content_type: content_type.map(ToOwned::to_owned),
        request_hash: request.map(|request| request.body),
    })
}

fn is_link(url: &str) -> bool {
    let uri: Option<Uri> = url.parse().ok();
    uri.is_some_and(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some())
}

fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(items) => items.iter().any(has_nul),
        Value::Object(fields) => fields.iter().any(|(name, value)| name.contains('\0') || has_nul(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

fn content_of(fields: &Fields) -> Result<Option<Vec<u8>>, ApiError> {
    let encoding: Option<String> = fields.optional("contentEncoding")?;
    let content: Option<String> = fields.optional("content")?;
    let bytes = match (content, encoding.as_deref()) {
        (content, None | Some("utf8")) => content.map(String::into_bytes),
        (content, Some("base64")) => content
            .map(|text| STANDARD.decode(text))
            .transpose()
            .map_err(|_| fields.invalid("content", "is not base64"))?,
        (_, Some(_)) => return Err(fields.invalid("contentEncoding", "must be one of utf8, base64")),
    };
    if bytes.as_ref().is_some_and(|bytes| bytes.len() > MAX_CONTENT_BYTES) {
        return Err(fields.invalid("content", "must be at most 1 MiB"));
    }
    Ok(bytes)
}

/// The type to serve it as: only what a browser shows without running anything.
fn content_type(reference: Option<&str>, metadata: Option<&Value>) -> &'static str {
    let said = metadata.and_then(|metadata| metadata.get("mimeType")).and_then(Value::as_str);
    let is_said = |known: &str| said.is_some_and(|said| known.split(';').next() == said.split(';').next());
    let ending = reference.and_then(|name| name.rsplit_once('.')).map(|(_, end)| end.to_ascii_lowercase());
    CONTENT_TYPES
        .iter()
        .find(|(end, known)| is_said(known) || (said.is_none() && ending.as_deref() == Some(end)))
        .map_or(BYTES, |(_, known)| known)
}

/// The id of the artifact that a request with an Idempotency-Key makes.
fn derived_id(run: Uuid, key: &str) -> Uuid {
    let digest = Sha256::new().chain_update(run.as_bytes()).chain_update(key.as_bytes()).finalize();
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().zip(digest.iter()) {
        *to = *from;
    }
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

/// The bytes of an artifact.
#[utoipa::path(get, path = "/runs/{id}/artifacts/{artifactId}/content", tag = "runs",
    params(("id" = String, Path, description = "uid of the Run"),
        ("artifactId" = String, Path, description = "id of the artifact")),
    responses((status = 200, body = Vec<u8>, content_type = "application/octet-stream",
            description = "also image/png, image/jpeg, image/webp, image/bmp, application/json and text/plain"),
        (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 404, body = ErrorBody, description = "there is no such artifact, or it is only a reference"),
        (status = 503, body = ErrorBody)))]
pub async fn content(
    State(state): State<ApiState>,
    Path((id, artifact)): Path<(String, String)>,
) -> Result<Response, ApiError> {
    // Artifacts outlive their Run.
    let run = find(&state, &id, true).await?;
    let unknown = || ApiError::not_found("artifact");
    let uid = Uuid::parse_str(&artifact).map_err(|_| unknown())?;
    let found = artifacts::content(&state.pool, &state.namespace, run.uid, uid).await?.ok_or_else(unknown)?;
    let content =
        found.ok_or_else(|| ApiError::no_content("the artifact is a reference and has no content"))?;
    let kind = content.content_type.as_deref().and_then(|kind| HeaderValue::from_str(kind).ok());
    let mut response = Response::new(Body::from(content.bytes));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, kind.unwrap_or(HeaderValue::from_static(BYTES)));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_type_is_what_is_said_else_what_the_name_ends_in_and_never_a_script() {
        let of = |reference: Option<&str>, said: Option<&str>| {
            content_type(reference, said.map(|said| json!({"mimeType": said})).as_ref())
        };
        assert_eq!(of(Some("a/shot.PNG"), None), "image/png");
        assert_eq!(of(Some("run.log"), None), "text/plain; charset=utf-8");
        assert_eq!(of(Some("x.png"), Some("application/json")), "application/json");
        assert_eq!(of(None, Some("text/plain")), "text/plain; charset=utf-8");
        for (reference, said) in [
            (Some("x.html"), None),
            (Some("x.png"), Some("text/html")),
            (None, None),
            (None, Some("image/svg+xml")),
        ] {
            assert_eq!(of(reference, said), BYTES, "{reference:?} {said:?}");
        }
    }

    #[test]
    fn a_link_is_one_that_can_be_followed_without_running_anything() {
        assert!(is_link("https://git.example.com/pr/1?x=y"));
        for url in ["javascript:alert(1)", "/x", "", "ftp://a/b", "http://", "data:text/html,x"] {
            assert!(!is_link(url), "{url}");
        }
    }
}
