//! A Task waits: until a moment, for a Task that repairs its result, for an edit, or to be cancelled.

use jiff::Timestamp;
use kube::ResourceExt;

use super::status::{
    drop_adjustments, finish, follow, generation, is_edited, mark, mark_false, wait_until, watch,
};
use super::table::{State, Trigger};
use super::{Observed, TaskPlan};
use crate::crd::task::condition;
use crate::crd::{NextKind, Task, TaskPhase, TaskStatus, labels};
use crate::plan::judge;
use crate::plan::recovery::is_active;
use crate::plan::run::add;

/// First part of the origins of Tasks that repair the result of their parent.
const AUTOFIX: &str = "autofix";

pub(in crate::plan) fn waiting(o: &Observed, status: TaskStatus) -> TaskPlan {
    if o.task.spec.cancel {
        return cancel(o, status);
    }
    if judge::owns(&status) {
        return judge::awaiting(o, status);
    }
    match State::of(&status) {
        State::AwaitingJudge => judge::awaiting(o, status),
        State::IssueLinking => issue_linking(status),
        State::NeedsRework => repaired(o, &status).unwrap_or_else(|| until_retry(o, status)),
        State::Failed | State::QuotaWait | State::Blocked => until_retry(o, status),
        State::Queued | State::Running | State::Done | State::Cancelled => TaskPlan::Wait { until: None },
    }
}

/// Queued: the dispatcher moves it. An edit of the spec ends what recovery had put in its place.
pub(in crate::plan) fn queued(o: &Observed, mut status: TaskStatus) -> TaskPlan {
    if o.task.spec.cancel {
        return cancel(o, status);
    }
    let dropped = is_edited(o.task, &status) && drop_adjustments(o.task, &mut status);
    if dropped {
        status.observed_generation = generation(o.task);
    }
    if status.next.is_some() && !dropped {
        return TaskPlan::Wait { until: None };
    }
    status.next.get_or_insert_with(|| watch("waiting for the dispatcher".into()));
    TaskPlan::Write(Box::new(status))
}

/// Who makes the issue moves the Task; nothing here forces it (H12).
fn issue_linking(mut status: TaskStatus) -> TaskPlan {
    if status.next.is_some() && status.retry_at.is_none() {
        return TaskPlan::Wait { until: None };
    }
    status.retry_at = None;
    status.next = Some(watch("waiting until its issue is linked".into()));
    TaskPlan::Write(Box::new(status))
}

/// Failed, or Blocked with a time or an edit to wait for.
fn until_retry(o: &Observed, mut status: TaskStatus) -> TaskPlan {
    let edited = is_edited(o.task, &status);
    if let Some(at) = status.retry_at {
        if o.now < at {
            return still_cooling(o, status, at, edited);
        }
        return TaskPlan::Write(Box::new(cooldown_over(o, status)));
    }
    if edited {
        drop_adjustments(o.task, &mut status);
        let run = status.last_run.clone();
        let next = queue(o, status, (Trigger::SpecEdited, "spec_edited"), &run, "the spec was edited");
        return TaskPlan::Write(Box::new(next));
    }
    if status.next.as_ref().is_some_and(|next| next.kind == NextKind::Operator) {
        return TaskPlan::Wait { until: None };
    }
    // Nothing says what moves it: a hand or an older version wrote it.
    let recovery = &o.system.recovery;
    let cooldown = match status.phase {
        TaskPhase::Failed => recovery.failed_cooldown(),
        TaskPhase::Queued
        | TaskPhase::Running
        | TaskPhase::Blocked
        | TaskPhase::Done
        | TaskPhase::Cancelled => recovery.blocked_cooldown(),
    };
    wait_until(&mut status, add(o.now, cooldown), "tried again after the cooldown");
    TaskPlan::Write(Box::new(status))
}

/// Before the time has come. An edit counts from the next Run, which must not find what it replaces.
fn still_cooling(o: &Observed, mut status: TaskStatus, at: Timestamp, edited: bool) -> TaskPlan {
    let dropped = edited && drop_adjustments(o.task, &mut status);
    if dropped {
        status.observed_generation = generation(o.task);
    }
    if status.next.is_some() && !dropped {
        return TaskPlan::Wait { until: Some(at) };
    }
    if status.next.is_none() {
        wait_until(&mut status, at, "tried again after the cooldown");
    }
    TaskPlan::Write(Box::new(status))
}

fn cooldown_over(o: &Observed, mut status: TaskStatus) -> TaskStatus {
    if is_edited(o.task, &status) {
        drop_adjustments(o.task, &mut status);
    }
    let remedy = status.last_failure.as_ref().map(|failure| failure.remedy.clone()).unwrap_or_default();
    let usual = match State::of(&status) {
        State::QuotaWait => "quota_wait_retry",
        State::NeedsRework => "needs_rework_in_place_retry",
        State::Failed => "cooldown_retry",
        State::Blocked
        | State::AwaitingJudge
        | State::IssueLinking
        | State::Queued
        | State::Running
        | State::Done
        | State::Cancelled => "blocked_cooldown_retry",
    };
    let reason = match State::of(&status) {
        State::NeedsRework | State::Failed if !remedy.is_empty() => remedy.as_str(),
        _ => usual,
    };
    let run = status.last_run.clone();
    queue(o, status, (Trigger::CooldownOver, reason), &run, "the cooldown is over")
}

/// A review has handed the Task to another one that repairs its result (RB1, H11): it is held while
/// that one works, and follows it when it has ended.
fn repaired(o: &Observed, status: &TaskStatus) -> Option<TaskPlan> {
    let is_repair = |task: &&&Task| task.labels().get(labels::ORIGIN).is_some_and(|o| o.starts_with(AUTOFIX));
    let repairs: Vec<&Task> = o.children.iter().copied().filter(|task| is_repair(&task)).collect();
    if let Some(active) = repairs.iter().find(|task| is_active(task)) {
        return Some(held(status, &active.name_any()));
    }
    // Only a Task that was held follows; one that went on since has a retry of its own.
    let was_held =
        status.retry_at.is_none() && status.next.as_ref().is_some_and(|n| n.kind == NextKind::Watch);
    let newest = repairs
        .iter()
        .filter(|_| was_held)
        .max_by_key(|task| (task.metadata.creation_timestamp.as_ref().map(|t| t.0), task.name_any()))?;
    Some(TaskPlan::Write(Box::new(follow_repair(o, status.clone(), newest))))
}

fn held(status: &TaskStatus, name: &str) -> TaskPlan {
    let detail = format!("Task {name} repairs what the review found");
    let told = status.next.as_ref().is_some_and(|next| next.kind == NextKind::Watch && next.detail == detail);
    if told && status.retry_at.is_none() {
        return TaskPlan::Wait { until: None };
    }
    let status = TaskStatus { retry_at: None, next: Some(watch(detail)), ..status.clone() };
    TaskPlan::Write(Box::new(status))
}

/// Done, or itself carried on: nothing is left to do here. Otherwise the Task tries again itself.
fn follow_repair(o: &Observed, mut status: TaskStatus, repair: &Task) -> TaskStatus {
    let name = repair.name_any();
    let run = status.last_run.clone();
    let end = repair.status.clone().unwrap_or_default();
    if end.phase != TaskPhase::Done && end.superseded_by.is_empty() {
        let detail = format!("Task {name} ended without a repair");
        return queue(o, status, (Trigger::ChildGone, "autofix_ended_retry"), &run, &detail);
    }
    follow(&mut status, Trigger::ChildDone, "autofix_settled", None, &run, o.now);
    finish(&mut status, "Superseded", &format!("its work is in Task {name}"), o);
    status.superseded_by = name;
    status
}

/// Queued again after a Run that cost nothing.
pub(in crate::plan) fn requeue(
    o: &Observed,
    status: TaskStatus,
    run: &str,
    reason: &str,
    detail: &str,
) -> TaskStatus {
    queue(o, status, (Trigger::RunCancelled, reason), run, detail)
}

fn queue(
    o: &Observed,
    mut status: TaskStatus,
    (trigger, reason): (Trigger, &str),
    run: &str,
    detail: &str,
) -> TaskStatus {
    status.retry_at = None;
    status.observed_generation = generation(o.task);
    let next = watch(format!("waiting for the dispatcher: {detail}"));
    follow(&mut status, trigger, reason, Some(next), run, o.now);
    mark(&mut status, condition::PROGRESSING, false, "Queued", detail, o.task, o.now);
    mark_false(&mut status, condition::STALLED, detail, o);
    status
}

pub(in crate::plan) fn cancel(o: &Observed, status: TaskStatus) -> TaskPlan {
    if o.live_pod {
        return TaskPlan::Wait { until: None };
    }
    let run = status.last_run.clone();
    TaskPlan::Write(Box::new(cancelled(o, status, &run)))
}

pub(in crate::plan) fn cancelled(o: &Observed, mut status: TaskStatus, run: &str) -> TaskStatus {
    follow(&mut status, Trigger::SpecCancelled, "spec_cancel", None, run, o.now);
    finish(&mut status, "Cancelled", "cancelled by spec.cancel", o);
    status
}
