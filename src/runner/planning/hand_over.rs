//! The way from `publish` to the API: one request, repeated while the API is away. A repetition of the
//! same plan creates nothing twice, so a lost answer does no harm.

use std::path::PathBuf;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::crd::planner::{HandedOver, PlanHandOver};
use crate::crd::wire::{ContainerResult, Outcome};

/// Failure code: the API did not take the plan.
pub const CODE_REFUSED: &str = "plan_refused";
/// Failure code: the API could not be reached.
pub const CODE_UNREACHABLE: &str = "api_unreachable";
/// Time for one request.
const REQUEST_LIMIT: Duration = Duration::from_secs(60);
/// Waits between the requests.
const WAITS: [u64; 6] = [1, 2, 5, 10, 20, 30];
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

/// Why a plan was not taken.
#[derive(Debug, thiserror::Error)]
pub enum HandOverError {
    #[error("failed to hand the plan over: the Pod was not told where the API is")]
    NoApi,
    #[error("failed to read the token for the API")]
    Token(#[source] std::io::Error),
    #[error("failed to hand the plan over: {0}")]
    Unreachable(String),
    #[error("failed to hand the plan over: the API answered {status}: {said}")]
    Refused { status: u16, said: String },
}

impl HandOverError {
    /// The result of a container that ended with this error. An API that is away is a fault of the
    /// cluster.
    pub fn into_result(self) -> ContainerResult {
        let (outcome, code) = match self {
            Self::NoApi | Self::Refused { .. } => (Outcome::Failed, CODE_REFUSED),
            Self::Token(_) | Self::Unreachable(_) => (Outcome::Infra, CODE_UNREACHABLE),
        };
        ContainerResult::failure(outcome, code, self.to_string())
    }
}

/// Hands a plan over as the Run `run`. `stop` ends it early.
///
/// # Errors
/// When the API refuses it, or is away for longer than the waits.
pub async fn post(
    api: &Api,
    run: &str,
    plan: &PlanHandOver,
    stop: &CancellationToken,
) -> Result<HandedOver, HandOverError> {
    let base = api.url.as_ref().ok_or(HandOverError::NoApi)?;
    let url = format!("{}/runs/{run}/tasks", base.trim_end_matches('/'));
    let client = reqwest::Client::builder()
        .timeout(REQUEST_LIMIT)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .map_err(|error| HandOverError::Unreachable(error.to_string()))?;
    let mut waits = WAITS.into_iter();
    loop {
        let error = match request(&client, &url, api, plan).await {
            Err(error @ HandOverError::Unreachable(_)) => error,
            ended => return ended,
        };
        let Some(wait) = waits.next() else { return Err(error) };
        println!("[opentiger] {error}, again in {wait} s");
        tokio::select! {
            () = stop.cancelled() => return Err(error),
            () = tokio::time::sleep(Duration::from_secs(wait)) => {}
        }
    }
}

async fn request(
    client: &reqwest::Client,
    url: &str,
    api: &Api,
    plan: &PlanHandOver,
) -> Result<HandedOver, HandOverError> {
    let token = std::fs::read_to_string(&api.token).map_err(HandOverError::Token)?;
    let away = |error: reqwest::Error| HandOverError::Unreachable(error.without_url().to_string());
    let answer = client.post(url).bearer_auth(token.trim()).json(plan).send().await.map_err(away)?;
    let status = answer.status();
    if status.is_success() {
        return answer.json().await.map_err(away);
    }
    let said: String = answer.text().await.unwrap_or_default().chars().take(SAID).collect();
    // Too busy, or not able to ask Kubernetes now: it is worth another try.
    if status.is_server_error() || status.as_u16() == 429 || status.as_u16() == 408 {
        return Err(HandOverError::Unreachable(format!("the API answered {status}: {said}")));
    }
    Err(HandOverError::Refused { status: status.as_u16(), said })
}
