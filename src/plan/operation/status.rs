//! The only place where the status of an Operation is put together.

use super::{Observed, OperationPlan};
use crate::crd::operation::{OperationResult, OperationStep, StepState, condition};
use crate::crd::{OperationPhase, OperationStatus, set_condition};

/// A step with the name, its state, and what it does or waits for.
pub(super) fn step(name: &str, done: bool, detail: &str) -> OperationStep {
    let state = if done { StepState::Done } else { StepState::Pending };
    OperationStep { name: name.into(), state, detail: detail.into() }
}

/// It is in progress and has got this far. Waits when that has been said already.
pub(super) fn in_progress(o: &Observed, message: &str, steps: Vec<OperationStep>) -> OperationPlan {
    in_progress_with(o, message, steps, None)
}

/// As [`in_progress`], and what it will have counted in the end is known already.
pub(super) fn in_progress_with(
    o: &Observed,
    message: &str,
    steps: Vec<OperationStep>,
    result: Option<OperationResult>,
) -> OperationPlan {
    let mut status = base(o);
    status.phase = OperationPhase::Running;
    status.started_at = status.started_at.or(Some(o.now));
    status.steps = steps;
    status.result = result.or(status.result);
    say(&mut status, message);
    written(o, status)
}

/// It has to wait before it may begin.
pub(super) fn waiting(o: &Observed, message: &str) -> OperationPlan {
    let mut status = base(o);
    say(&mut status, message);
    written(o, status)
}

/// It is over and did what it should.
pub(super) fn succeeded(o: &Observed, message: &str, result: Option<OperationResult>) -> OperationPlan {
    ended(o, OperationPhase::Succeeded, message, result)
}

/// It is over and did not do what it should; the message says why and what helps.
pub(super) fn failed(o: &Observed, message: &str) -> OperationPlan {
    ended(o, OperationPhase::Failed, message, None)
}

/// As [`failed`], with what was counted.
pub(super) fn refused(o: &Observed, message: &str, result: OperationResult) -> OperationPlan {
    ended(o, OperationPhase::Failed, message, Some(result))
}

fn ended(
    o: &Observed,
    phase: OperationPhase,
    message: &str,
    result: Option<OperationResult>,
) -> OperationPlan {
    let mut status = base(o);
    status.phase = phase;
    status.started_at = status.started_at.or(Some(o.now));
    status.finished_at = Some(o.now);
    status.result = result.or(status.result);
    if phase == OperationPhase::Succeeded {
        for step in &mut status.steps {
            step.state = StepState::Done;
        }
    }
    say(&mut status, message);
    let (word, generation) = (phase.word(), status.observed_generation);
    set_condition(&mut status.conditions, condition::COMPLETE, true, word, message, generation, o.now);
    OperationPlan::Write(Box::new(status))
}

fn base(o: &Observed) -> OperationStatus {
    let mut status = o.operation.status.clone().unwrap_or_default();
    status.order = Some(o.operation.order());
    status.observed_generation = o.operation.metadata.generation.unwrap_or(0);
    status
}

fn say(status: &mut OperationStatus, message: &str) {
    status.message = message.chars().take(1000).collect();
}

fn written(o: &Observed, status: OperationStatus) -> OperationPlan {
    if o.operation.status.as_ref() == Some(&status) {
        OperationPlan::Wait { until: o.soon() }
    } else {
        OperationPlan::Write(Box::new(status))
    }
}
