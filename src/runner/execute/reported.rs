//! What the report of an agent program means for the Run: codes and next steps (spec agents 2.2, 2.3).

use super::cli::{CALL_LIMIT, Failure, Kind, Report};
use super::process::{Ending, Finished};
use super::{LOOP_LIMIT, Settings};
use crate::crd::wire::{ContainerResult, Inputs, Outcome};
use crate::plan::classify::AUTHENTICATION_FAILED;
use crate::plan::quota::{self, Refusal};

/// The failure that the program reports, whatever its exit code; `None` when it reports none, or was
/// ended for what its output shows anyway.
pub(super) fn failure(inputs: &Inputs, finished: &Finished, settings: &Settings) -> Option<ContainerResult> {
    let report = finished.report.as_ref()?;
    let failed = match finished.ending {
        Ending::Exited(code) => code != 0,
        Ending::Killed(_) | Ending::GaveUp | Ending::TimedOut | Ending::Idle => true,
        Ending::Looped | Ending::OverBudget | Ending::Stopped => return None,
    };
    let failure = report.failure(failed)?;
    // Out of time for another reason than a limit: the work that is there is looked at.
    if finished.ending == Ending::TimedOut && failure.kind != Kind::Refused(Refusal::Quota) {
        return None;
    }
    // Silence says more than a complaint that the program seemed to have got over.
    if finished.ending == Ending::Idle && failure.kind == Kind::Other {
        return None;
    }
    Some(result(inputs, &failure, settings))
}

fn result(inputs: &Inputs, failure: &Failure, settings: &Settings) -> ContainerResult {
    let said = failure.message.split_whitespace().collect::<Vec<_>>().join(" ");
    let failed = |code: &str, summary: String| ContainerResult::failure(Outcome::Failed, code, summary);
    match failure.kind {
        Kind::Refused(Refusal::Quota) => {
            let mut result = ContainerResult::failure(Outcome::QuotaWait, "quota_failure", said);
            let stated = || quota::stated_reset(&failure.message, (settings.now)());
            result.retry_at = failure.resets_at.or_else(stated);
            result
        }
        Kind::Refused(Refusal::Authentication) => {
            failed(AUTHENTICATION_FAILED, format!("{}: {said}", check_the_key(inputs)))
        }
        Kind::Refused(Refusal::Overloaded) => {
            failed("transient_or_flaky_failure", format!("the provider is temporarily unavailable: {said}"))
        }
        Kind::Refused(Refusal::ContextTooLong) => failed(
            "model_or_unknown_failure",
            format!("the task does not fit into the model's context: {said}"),
        ),
        Kind::MaxTurns => {
            failed("model_or_unknown_failure", format!("the executor used up its turns (maxTurns): {said}"))
        }
        Kind::Permission => failed("external_directory_permission_prompt", said),
        Kind::Other => failed("execution_failed", format!("the executor failed: {said}")),
    }
}

/// What a person has to do about a key that is refused.
fn check_the_key(inputs: &Inputs) -> String {
    let pool = &inputs.spec.pool;
    match inputs.spec.template.credential() {
        Some(secret) => {
            format!("the provider refused the key, check Secret {} of AgentPool {pool}", secret.name)
        }
        None => {
            format!("the provider wants a key, name its Secret in credentialsSecretRef of AgentPool {pool}")
        }
    }
}

/// How a program that was ended for it has repeated itself.
pub(super) fn repetition(finished: &Finished) -> String {
    if finished.report.as_ref().is_some_and(Report::is_stuck) {
        format!("made the same tool call {CALL_LIMIT} times in a row")
    } else {
        format!("printed the same line {LOOP_LIMIT} times")
    }
}
