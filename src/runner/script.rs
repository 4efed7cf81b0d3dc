//! The mock executor's script in a Task: a line in `context.notes` that takes the place of the pool's
//! `executor.mock`, so that one pool plays many parts.
//!
//! ```text
//! mock: Crash; Fail test_failure; Quota 20s; Succeed docs/a.txt
//! mock-review: Reject; Succeed
//! ```
//!
//! The n-th attempt plays the n-th outcome, later ones play the last. `mock-review` is the script of
//! the Judge Runs, which are counted over all attempts of the Task. With any other executor the lines are notes like others.

use crate::crd::pool::{MockExecutor, MockOutcome};
use crate::crd::wire::Inputs;
use crate::crd::{ExecutorType, GoDuration, Purpose};
use crate::runner::execute::mock::ordinal;

/// The inputs with the Task's script in place of the pool's mock executor, where there is one that can
/// be read. A line that cannot be read changes nothing.
pub fn applied(mut inputs: Inputs) -> Inputs {
    let spec = &inputs.spec;
    if spec.template.executor.type_ != ExecutorType::Mock {
        return inputs;
    }
    let key = match spec.purpose {
        Purpose::Execute | Purpose::Plan => "mock:",
        Purpose::Judge | Purpose::Merge => "mock-review:",
    };
    let ordinal = ordinal(&inputs);
    let line = spec.inputs.context.notes.lines().find_map(|line| line.trim().strip_prefix(key));
    if let Some(step) = line.and_then(|line| step(line, ordinal)) {
        let pool = inputs.spec.template.executor.mock.take().unwrap_or_default();
        let delay = pool.delay;
        inputs.spec.template.executor.mock = Some(MockExecutor { delay, ..step });
    }
    inputs
}

/// The `ordinal`th outcome of a script, counted from 1; the last one stands for all that follow.
fn step(line: &str, ordinal: i32) -> Option<MockExecutor> {
    let steps: Vec<&str> = line.split(';').map(str::trim).filter(|step| !step.is_empty()).collect();
    let index = usize::try_from(ordinal.max(1)).ok()?.checked_sub(1)?;
    let words = steps.get(index).or(steps.last())?;
    let (outcome, argument) = words.split_once(' ').unwrap_or((words, ""));
    let argument = Some(argument.trim()).filter(|argument| !argument.is_empty()).map(str::to_string);
    let outcome: MockOutcome = serde_json::from_value(serde_json::Value::from(outcome)).ok()?;
    let mut mock = MockExecutor { outcome, ..MockExecutor::default() };
    match outcome {
        MockOutcome::Succeed => mock.file = argument,
        MockOutcome::Fail => mock.failure_code = argument,
        MockOutcome::Quota => mock.reset_after = argument.map(GoDuration),
        MockOutcome::Reject => mock.message = argument,
        MockOutcome::Hang | MockOutcome::Loop | MockOutcome::Crash | MockOutcome::Garbage => {}
    }
    Some(mock)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_attempt_plays_its_own_outcome_and_later_ones_the_last() {
        let line = "Crash; Fail test_failure ;Quota 20s; Succeed docs/a.txt";
        let at = |ordinal| step(line, ordinal).expect("a step");
        assert_eq!(at(1).outcome, MockOutcome::Crash);
        assert_eq!((at(2).outcome, at(2).failure_code.as_deref()), (MockOutcome::Fail, Some("test_failure")));
        assert_eq!(at(3).reset_after, Some(GoDuration("20s".into())));
        for ordinal in [4, 5, 99] {
            assert_eq!(at(ordinal).outcome, MockOutcome::Succeed);
            assert_eq!(at(ordinal).file.as_deref(), Some("docs/a.txt"));
        }
    }

    #[test]
    fn what_cannot_be_read_changes_nothing() {
        assert_eq!(step("Explode", 1), None);
        assert_eq!(step(" ; ", 1), None);
    }
}
