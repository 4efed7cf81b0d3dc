//! The way from `publish` to the API with the Run's own token: one request, repeated while the API is
//! away. What is posted must be safe to repeat, so that a lost answer does no harm.

use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

/// Time for one request.
const REQUEST_LIMIT: Duration = Duration::from_secs(60);
/// Characters of an answer in an error.
const SAID: usize = 400;

/// Where the API is, and what opens it.
#[derive(Clone, Debug)]
pub struct Api {
    /// `http` URL without a path; absent: there is none.
    pub url: Option<String>,
    /// File with the Run's token. Read for each request, because it is renewed.
    pub token: PathBuf,
}

/// Why something was not taken.
#[derive(Debug, thiserror::Error)]
pub enum PostError {
    #[error("the Pod was not told where the API is")]
    NoApi,
    #[error("failed to read the token for the API: {0}")]
    Token(#[source] std::io::Error),
    #[error("{0}")]
    Unreachable(String),
    #[error("the API answered {status}: {said}")]
    Refused { status: u16, said: String },
}

/// Posts `body` to `path`, again after each of `waits` (seconds) while the API is away. `stop` ends it
/// early. `key` becomes the `Idempotency-Key`.
///
/// # Errors
/// When the API refuses it, or is away for longer than the waits.
pub async fn post<B: Serialize, A: DeserializeOwned>(
    api: &Api,
    path: &str,
    key: Option<&str>,
    body: &B,
    waits: &[u64],
    stop: &CancellationToken,
) -> Result<A, PostError> {
    let base = api.url.as_ref().ok_or(PostError::NoApi)?;
    let url = format!("{}{path}", base.trim_end_matches('/'));
    let client = reqwest::Client::builder()
        .timeout(REQUEST_LIMIT)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .map_err(|error| PostError::Unreachable(error.to_string()))?;
    let mut waits = waits.iter();
    loop {
        let mut request = client.post(&url).json(body);
        if let Some(key) = key {
            request = request.header("Idempotency-Key", key);
        }
        let error = match once(request, api).await {
            Err(error @ PostError::Unreachable(_)) => error,
            ended => return ended,
        };
        let Some(wait) = waits.next() else { return Err(error) };
        println!("[opentiger] {error}, again in {wait} s");
        tokio::select! {
            () = stop.cancelled() => return Err(error),
            () = tokio::time::sleep(Duration::from_secs(*wait)) => {}
        }
    }
}

async fn once<A: DeserializeOwned>(request: reqwest::RequestBuilder, api: &Api) -> Result<A, PostError> {
    let token = std::fs::read_to_string(&api.token).map_err(PostError::Token)?;
    let away = |error: reqwest::Error| PostError::Unreachable(error.without_url().to_string());
    let answer = request.bearer_auth(token.trim()).send().await.map_err(away)?;
    let status = answer.status();
    if status.is_success() {
        return answer.json().await.map_err(away);
    }
    let said: String = answer.text().await.unwrap_or_default().chars().take(SAID).collect();
    // Too busy, or not able to ask Kubernetes now: it is worth another try.
    if status.is_server_error() || status.as_u16() == 429 || status.as_u16() == 408 {
        return Err(PostError::Unreachable(format!("the API answered {status}: {said}")));
    }
    Err(PostError::Refused { status: status.as_u16(), said })
}
