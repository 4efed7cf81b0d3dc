//! The only place where a Task's phase, next move and conditions are set; along the edges of
//! `task::table` only.

use jiff::Timestamp;

use super::Observed;
use super::table::{Counter, State, Trigger, edge, is_declared};
use crate::crd::condition::is_true;
use crate::crd::task::{MAX_TRANSITIONS, Transition, condition};
use crate::crd::{BlockReason, Next, NextKind, Task, TaskPhase, TaskStatus, set_condition};
use crate::plan::lanes;

/// Follows the edge of `trigger` from where the Task stands: phase, block reason, counter and the
/// event's usual word are the table's. Where the table has none, nothing is written and the answer is
/// false.
pub(in crate::plan) fn follow(
    status: &mut TaskStatus,
    trigger: Trigger,
    reason: &str,
    next: Option<Next>,
    run: &str,
    now: Timestamp,
) -> bool {
    let Some(edge) = edge(trigger, State::of(status)) else { return false };
    let retries = &mut status.retries;
    match edge.counter {
        Some(Counter::Failure) => retries.failure = retries.failure.saturating_add(1),
        Some(Counter::Quota) => retries.quota = retries.quota.saturating_add(1),
        Some(Counter::Infra) => retries.infra = retries.infra.saturating_add(1),
        Some(Counter::Rework) => retries.rework = retries.rework.saturating_add(1),
        None => {}
    }
    let event = edge.events.first().copied().unwrap_or_default();
    append(status, edge.to, next, (event, reason), run, now);
    true
}

/// As [`follow`], for callers that know where they want to go and under which word, and count for
/// themselves. An edge that the table does not declare is not written.
pub(in crate::plan) fn enter(
    status: &mut TaskStatus,
    phase: TaskPhase,
    block_reason: Option<BlockReason>,
    next: Option<Next>,
    (event, reason): (&str, &str),
    run: &str,
    now: Timestamp,
) {
    let (from, into) = (State::of(status), State::new(phase, block_reason));
    let declared = is_declared(from, into, event);
    debug_assert!(declared, "no edge from {from:?} to {into:?} by {event}: declare it in task::table");
    if declared {
        append(status, into, next, (event, reason), run, now);
    }
}

/// The one place where a phase changes: appends the numbered transition and sets what moves it next.
fn append(
    status: &mut TaskStatus,
    into: State,
    next: Option<Next>,
    (event, reason): (&str, &str),
    run: &str,
    now: Timestamp,
) {
    let (phase, block_reason) = into.parts();
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

/// Whether the spec was edited since it was last looked at.
pub(in crate::plan) fn is_edited(task: &Task, status: &TaskStatus) -> bool {
    generation(task) > status.observed_generation
}

/// An edit of the spec counts for all of it: what recovery had put in its place goes. Returns whether
/// there was anything.
pub(in crate::plan) fn drop_adjustments(task: &Task, status: &mut TaskStatus) -> bool {
    let Some(effective) = &status.effective else { return false };
    let own = task.spec.lane.as_deref().unwrap_or_else(|| lanes::default_lane(task.spec.role));
    let adjusted = effective.allowed_paths.is_some()
        || effective.commands.is_some()
        || effective.lane.as_ref().is_some_and(|lane| lane != own);
    status.effective = None;
    adjusted
}

pub(in crate::plan) fn generation(task: &Task) -> i64 {
    task.metadata.generation.unwrap_or(0)
}

/// Takes the present spec as seen. What recovery had put in place of another one is void.
pub(in crate::plan) fn observe_spec(status: &mut TaskStatus, task: &Task) {
    if is_edited(task, status) {
        drop_adjustments(task, status);
    }
    status.observed_generation = generation(task);
}

pub(in crate::plan) fn watch(detail: String) -> Next {
    Next { kind: NextKind::Watch, at: None, detail }
}

pub(in crate::plan) fn first_line(text: &str, chars: usize) -> String {
    text.lines().next().unwrap_or_default().chars().take(chars).collect()
}
