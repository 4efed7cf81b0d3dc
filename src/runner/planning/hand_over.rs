//! How a plan comes to the API. A repetition of the same plan creates nothing twice.

use tokio_util::sync::CancellationToken;

use crate::crd::planner::{HandedOver, PlanHandOver};
use crate::crd::wire::{ContainerResult, Outcome};
use crate::runner::api::{self, Api, PostError};

/// Failure code: the API did not take the plan.
pub const CODE_REFUSED: &str = "plan_refused";
/// Failure code: the API could not be reached.
pub const CODE_UNREACHABLE: &str = "api_unreachable";
/// Waits between the requests, in seconds.
const WAITS: [u64; 6] = [1, 2, 5, 10, 20, 30];

/// The result of a container whose plan was not taken. An API that is away is a fault of the cluster.
pub fn refused(error: &PostError) -> ContainerResult {
    let (outcome, code) = match error {
        PostError::NoApi | PostError::Refused { .. } => (Outcome::Failed, CODE_REFUSED),
        PostError::Token(_) | PostError::Unreachable(_) => (Outcome::Infra, CODE_UNREACHABLE),
    };
    ContainerResult::failure(outcome, code, format!("failed to hand the plan over: {error}"))
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
) -> Result<HandedOver, PostError> {
    api::post(api, &format!("/runs/{run}/tasks"), None, plan, &WAITS, stop).await
}
