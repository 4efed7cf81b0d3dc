//! The only place where a Task's phase, next move and conditions are set.

use jiff::Timestamp;

use super::Observed;
use crate::crd::condition::is_true;
use crate::crd::task::{MAX_TRANSITIONS, Transition, condition};
use crate::crd::{BlockReason, Next, NextKind, Task, TaskPhase, TaskStatus, set_condition};

/// The one place where a phase changes: appends the numbered transition and sets what moves it next.
pub(in crate::plan) fn enter(
    status: &mut TaskStatus,
    phase: TaskPhase,
    block_reason: Option<BlockReason>,
    next: Option<Next>,
    (event, reason): (&str, &str),
    run: &str,
    now: Timestamp,
) {
    status.phase = phase;
    status.block_reason = block_reason;
    status.next = next;
    let sequence = status.transitions.last().map_or(0, |t| t.sequence) + 1;
    status.transitions.push(Transition {
        sequence,
        at: now,
        phase,
        block_reason,
        event: event.into(),
        reason: reason.into(),
        run: run.into(),
    });
    let excess = status.transitions.len().saturating_sub(MAX_TRANSITIONS);
    status.transitions.drain(..excess);
}

pub(in crate::plan) fn finish(status: &mut TaskStatus, reason: &str, message: &str, o: &Observed) {
    status.retry_at = None;
    status.agent = String::new();
    status.current_run = String::new();
    status.observed_generation = generation(o.task);
    mark(status, condition::COMPLETE, true, reason, message, o.task, o.now);
    mark(status, condition::PROGRESSING, false, reason, message, o.task, o.now);
    mark_false(status, condition::STALLED, message, o);
}

pub(in crate::plan) fn wait_until(status: &mut TaskStatus, at: Timestamp, detail: &str) {
    // Times in objects have whole seconds; rounding up never retries early.
    let at = at
        .round(jiff::TimestampRound::new().smallest(jiff::Unit::Second).mode(jiff::RoundMode::Ceil))
        .unwrap_or(at);
    status.retry_at = Some(at);
    status.next = Some(Next { kind: NextKind::Time, at: Some(at), detail: first_line(detail, 1000) });
}

pub(in crate::plan) fn mark(
    status: &mut TaskStatus,
    type_: &str,
    value: bool,
    reason: &str,
    message: &str,
    task: &Task,
    now: Timestamp,
) {
    set_condition(&mut status.conditions, type_, value, reason, message, generation(task), now);
}

/// Clears a condition that was set; one that never was is not written.
pub(in crate::plan) fn mark_false(status: &mut TaskStatus, type_: &str, message: &str, o: &Observed) {
    if is_true(&status.conditions, type_) {
        mark(status, type_, false, "Resolved", message, o.task, o.now);
    }
}

pub(in crate::plan) fn generation(task: &Task) -> i64 {
    task.metadata.generation.unwrap_or(0)
}

/// Takes the present spec as seen. What recovery had put in place of another one is void.
pub(in crate::plan) fn observe_spec(status: &mut TaskStatus, task: &Task) {
    if status.observed_generation != generation(task) {
        status.effective = None;
    }
    status.observed_generation = generation(task);
}

pub(in crate::plan) fn watch(detail: String) -> Next {
    Next { kind: NextKind::Watch, at: None, detail }
}

pub(in crate::plan) fn first_line(text: &str, chars: usize) -> String {
    text.lines().next().unwrap_or_default().chars().take(chars).collect()
}
