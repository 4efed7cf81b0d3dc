//! `POST /webhook/github`: what the forge says. Signed, each delivery carried out once, and its one
//! effect (a merged pull request ends its Task) left to the Task's controller.
//!
//! GitHub signs the body and no time. A replay of a signed body is known by the body's hash, under
//! whatever delivery number it comes, for 14 days; a merge older than 7 days has no effect.

use std::path::PathBuf;
use std::time::Duration;

use axum::Json;
use axum::body::{Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::HeaderMap;
use hmac::{Hmac, KeyInit, Mac};
use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use utoipa::ToSchema;
use uuid::Uuid;

use super::error::{ApiError, ErrorBody};
use super::state::ApiState;
use super::watched::Watched;
use super::webhook_event::{Event, Merged, delivery_id, read};
use crate::crd::operation::OperationTask;
use crate::crd::{OperationPhase, OperationSpec, OperationType, Task, TaskPhase};
use crate::postgres::deliveries::{self, Claim, Delivery};
use crate::postgres::queries;

/// Largest body, in bytes: that of a pull request is at most a tenth of it.
const MAX_BODY_BYTES: usize = 1024 * 1024;
/// Bodies read at once: nobody is known before his body is there.
const MAX_BODIES: usize = 16;
/// Longest time for a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// GitHub waits 10 s for an answer.
const EFFECT_TIMEOUT: Duration = Duration::from_secs(9);
/// Who asks for the end of a Task.
const REQUESTED_BY: &str = "github-webhook";

/// The webhook's secrets and the bodies under way.
pub struct Webhook {
    secrets: Watched<Vec<Vec<u8>>>,
    bodies: Semaphore,
}

impl Webhook {
    /// Reads the file of secrets: one a line, so that an old and a new one can be valid together.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn open(path: PathBuf) -> std::io::Result<Self> {
        let secrets = Watched::open(path.clone(), parse)?;
        if secrets.current().is_empty() {
            tracing::warn!(path = %path.display(), "the file of webhook secrets holds none");
        }
        Ok(Self { secrets, bodies: Semaphore::new(MAX_BODIES) })
    }

    /// Whether `signature` (`sha256=<hex>`) is that of `body` under one of the secrets; every comparison
    /// takes the same time whatever is wrong.
    fn signed(&self, body: &[u8], signature: &[u8]) -> bool {
        self.secrets.current().iter().fold(false, |found, secret| {
            let mac = Hmac::<Sha256>::new_from_slice(secret).map(|mac| mac.chain_update(body));
            found | mac.is_ok_and(|mac| mac.verify_slice(signature).is_ok())
        })
    }
}

fn parse(text: &str) -> Vec<Vec<u8>> {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).map(|line| line.as_bytes().to_vec()).collect()
}

/// What became of a delivery. Which fields there are depends on the event.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = WebhookAnswer)]
pub struct Answer {
    message: String,
    #[schema(value_type = String, format = "uuid")]
    event_id: Uuid,
    #[schema(required = false)]
    issue_number: Option<i64>,
    #[schema(required = false)]
    pr_number: Option<i64>,
    /// Whether the branch is one of ours.
    #[schema(required = false, rename = "isOpenTigerPR")]
    is_open_tiger_pr: Option<bool>,
    #[schema(required = false)]
    r#ref: Option<String>,
    #[schema(required = false)]
    commit_count: Option<u64>,
    #[schema(required = false)]
    status: Option<String>,
    #[schema(required = false)]
    conclusion: Option<String>,
    /// Why a merged pull request ended no Task, or what of it is still to come.
    #[schema(required = false)]
    note: Option<String>,
}

/// Takes a delivery of GitHub. A repeat gets the first one's answer.
#[utoipa::path(post, path = "/webhook/github", tag = "webhook", security(()),
    params(("X-Hub-Signature-256" = String, Header, description = "sha256= and the HMAC-SHA256 of the body under the webhook's secret"),
        ("X-GitHub-Event" = Option<String>, Header, description = "word such as pull_request"),
        ("X-GitHub-Delivery" = Option<String>, Header, description = "1 to 100 visible characters")),
    request_body(content = Object, description = "the event, at most 1 MiB"),
    responses((status = 200, body = Answer), (status = 400, body = ErrorBody),
        (status = 401, body = ErrorBody, description = "not signed, or not with the right secret"),
        (status = 404, body = ErrorBody, description = "no secret is configured"), (status = 413, body = ErrorBody),
        (status = 422, body = ErrorBody, description = "the delivery's number was used for another body"),
        (status = 503, body = ErrorBody)))]
pub async fn github(State(state): State<ApiState>, request: Request) -> Result<Json<Value>, ApiError> {
    take(&state, request).await.map(Json)
}

/// The same under the prefix that clients of the original use.
#[utoipa::path(post, path = "/api/webhook/github", tag = "webhook", security(()),
    params(("X-Hub-Signature-256" = String, Header, description = "sha256= and the HMAC-SHA256 of the body under the webhook's secret")),
    request_body(content = Object, description = "the event, at most 1 MiB"),
    responses((status = 200, body = Answer), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 404, body = ErrorBody), (status = 413, body = ErrorBody), (status = 422, body = ErrorBody),
        (status = 503, body = ErrorBody)))]
pub async fn github_alias(State(state): State<ApiState>, request: Request) -> Result<Json<Value>, ApiError> {
    take(&state, request).await.map(Json)
}

async fn take(state: &ApiState, request: Request) -> Result<Value, ApiError> {
    let webhook = state.edge.webhook.as_ref().ok_or_else(ApiError::no_webhook)?;
    let signature = signature(request.headers()).ok_or_else(ApiError::bad_signature)?;
    let (parts, body) = request.into_parts();
    let body = {
        let _turn = webhook.bodies.try_acquire().map_err(|_| busy())?;
        read_body(body).await?
    };
    if !webhook.signed(&body, &signature) {
        return Err(ApiError::bad_signature());
    }
    let event = read(&parts.headers, &body, (state.now)())?;
    let hash = Sha256::digest(&body);
    let given = delivery_id(&parts.headers)?.map(str::to_owned);
    let delivery = given.unwrap_or_else(|| format!("body-{}", hex(&hash)));
    once(state, &event, &delivery, &hash).await
}

fn busy() -> ApiError {
    ApiError::unavailable("webhook_busy", "too many deliveries at once, deliver it again")
}

async fn read_body(body: axum::body::Body) -> Result<Bytes, ApiError> {
    let read = tokio::time::timeout(BODY_TIMEOUT, to_bytes(body, MAX_BODY_BYTES)).await;
    match read {
        Err(_) => Err(ApiError::bad_request("the body did not arrive within 10 s")),
        Ok(Ok(body)) => Ok(body),
        Ok(Err(error)) if is_limit(&error) => Err(ApiError::body_too_large()),
        Ok(Err(_)) => Err(ApiError::bad_request("the body cannot be read")),
    }
}

/// Whether it was the length that was wrong.
fn is_limit(error: &axum::Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        if inner.to_string() == "length limit exceeded" {
            return true;
        }
        cause = inner.source();
    }
    false
}

/// The 32 bytes of `sha256=<hex>`.
fn signature(headers: &HeaderMap) -> Option<Vec<u8>> {
    let text = headers.get("x-hub-signature-256")?.to_str().ok()?.strip_prefix("sha256=")?;
    let digits: Option<Vec<u8>> =
        text.chars().map(|c| c.to_digit(16).and_then(|d| u8::try_from(d).ok())).collect();
    let digits = digits.filter(|digits| digits.len() == 64)?;
    Some(digits.chunks_exact(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Carries a delivery out unless it was, and answers as the first time.
async fn once(state: &ApiState, event: &Event, delivery: &str, hash: &[u8]) -> Result<Value, ApiError> {
    let id = hash
        .first_chunk::<16>()
        .map_or(Uuid::nil(), |bytes| uuid::Builder::from_custom_bytes(*bytes).into_uuid());
    let (pool, namespace) = (&state.pool, &*state.namespace);
    let row =
        Delivery { namespace, delivery, body_hash: hash, id, type_: &event.type_, payload: &event.payload };
    match deliveries::claim(pool, &row).await? {
        Claim::Ours => {}
        Claim::Answered(answer) => return Ok(answer),
        Claim::InProgress => return Err(busy()),
        Claim::Reused => {
            return Err(ApiError::unprocessable(
                "delivery_reused",
                "X-GitHub-Delivery was used for another body",
            ));
        }
    }
    let mut answer = event.answer.clone();
    answer.insert("eventId".into(), Value::String(id.to_string()));
    if let Some(merged) = &event.merged {
        match effect(state, merged).await {
            Ok(Some(note)) => drop(answer.insert("note".into(), Value::String(note))),
            Ok(None) => drop(answer.insert("message".into(), Value::String("the Task is done".into()))),
            Err(error) => {
                deliveries::give_back(pool, namespace, hash).await?;
                return Err(error);
            }
        }
    }
    let answer = Value::Object(answer);
    deliveries::answered(pool, namespace, hash, &answer).await?;
    tracing::info!(event = event.type_, delivery, "webhook");
    Ok(answer)
}

/// Ends the Task of a merged pull request, or says why not.
async fn effect(state: &ApiState, merged: &Merged) -> Result<Option<String>, ApiError> {
    if merged.stale {
        return Ok(Some("the merge is more than 7 days old and ends no Task any more".into()));
    }
    let late = || {
        ApiError::unavailable(
            "kubernetes_unavailable",
            "the Task's end is not confirmed yet, deliver it again",
        )
    };
    tokio::time::timeout(EFFECT_TIMEOUT, complete(state, merged)).await.map_err(|_| late())?
}

async fn complete(state: &ApiState, merged: &Merged) -> Result<Option<String>, ApiError> {
    let Merged { task: uid, pull_request, stale: _ } = merged;
    let unknown = || Ok(Some(format!("there is no Task {uid}")));
    let names = queries::task_names(&state.pool, &state.namespace, &[*uid]).await?;
    let Some((_, name)) = names.into_iter().next() else { return unknown() };
    let kubernetes = state.kubernetes()?;
    let task: Option<Task> = kubernetes.get(&name).await?;
    let same = |task: &Task| task.metadata.uid.as_deref() == Some(uid.to_string().as_str());
    let Some(task) = task.filter(same) else { return unknown() };
    match task.status.as_ref().map(|s| s.phase).unwrap_or_default() {
        TaskPhase::Done => return Ok(Some("the Task is done already".into())),
        TaskPhase::Cancelled => return Ok(Some("the Task is cancelled for good".into())),
        TaskPhase::Queued | TaskPhase::Running | TaskPhase::Blocked | TaskPhase::Failed => {}
    }
    let spec = OperationSpec {
        type_: OperationType::Complete,
        reason: format!("pull request {pull_request} was merged"),
        task_ref: Some(OperationTask { name }),
        ..OperationSpec::default()
    };
    let operation = kubernetes.carry_out(spec, REQUESTED_BY).await?;
    let message = operation.status.as_ref().map(|s| s.message.clone()).unwrap_or_default();
    Ok(match operation.phase() {
        OperationPhase::Succeeded => None,
        OperationPhase::Failed => Some(message),
        OperationPhase::Pending | OperationPhase::Running => {
            Some(format!("Operation {} is in progress", operation.name_str()))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn webhook(secrets: &str) -> (tempfile::NamedTempFile, Webhook) {
        let file = tempfile::NamedTempFile::new().expect("file");
        std::fs::write(file.path(), secrets).expect("written");
        let webhook = Webhook::open(file.path().into()).expect("read");
        (file, webhook)
    }

    fn header(value: &str) -> Option<Vec<u8>> {
        signature(&HeaderMap::from_iter([(
            axum::http::HeaderName::from_static("x-hub-signature-256"),
            value.parse().expect("value"),
        )]))
    }

    /// The example of GitHub's documentation.
    const EXAMPLE: &str = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";

    #[test]
    fn a_signature_is_checked_against_every_secret_and_no_other() {
        let (_file, both) = webhook("old one\nIt's a Secret to Everybody\n");
        let good = header(EXAMPLE).expect("signature");
        assert!(both.signed(b"Hello, World!", &good));
        assert!(!both.signed(b"Hello, World?", &good));
        assert!(!both.signed(b"Hello, World!", &[0; 32]));
        let (_file, other) = webhook("another\n");
        assert!(!other.signed(b"Hello, World!", &good));
        let (_file, none) = webhook("\n");
        assert!(!none.signed(b"Hello, World!", &good), "no secret opens nothing");
    }

    #[test]
    fn only_the_whole_form_is_a_signature() {
        let hex = EXAMPLE.trim_start_matches("sha256=");
        for bad in
            ["", "sha256=", hex, &EXAMPLE[..70], &format!("{EXAMPLE}0"), &EXAMPLE.replace("757", "75g")]
        {
            assert_eq!(header(bad), None, "{bad}");
        }
        assert_eq!(header(&format!("sha256={}", hex.to_uppercase())), header(EXAMPLE));
        assert_eq!(signature(&HeaderMap::new()), None);
    }
}
