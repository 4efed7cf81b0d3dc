//! Work that is refused or does not merge: the Tasks that mend it, and what their end means.
//!
//! The refused Task (the source) makes one mending Task at a time, waits for it, and decides what comes
//! next; a mending Task that is refused itself only ends. So the source alone counts, and the caps
//! hold along the whole lineage (trap Q21).

use super::{children, done, judge_of, retry, settle};
use crate::crd::judge::JudgeStage;
use crate::crd::task::{LastFailure, condition};
use crate::crd::{BlockReason, FailureClass, JudgeStatus, Task, TaskPhase, TaskStatus};
use crate::plan::task::status::{enter, finish, first_line, mark, watch};
use crate::plan::task::{Observed, TaskPlan};

/// What a mending Task is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Deals with the findings of a review; starts from the refused branch.
    AutoFix,
    /// Brings approved work onto a base that conflicts with it; starts from the base.
    Conflict,
}

impl Kind {
    /// Value of the label that says why the Task was made.
    pub fn origin(self) -> &'static str {
        match self {
            Self::AutoFix => "autofix",
            Self::Conflict => "autofix_conflict",
        }
    }

    fn count(self, judge: &JudgeStatus) -> i32 {
        match self {
            Self::AutoFix => judge.auto_fixes,
            Self::Conflict => judge.conflict_fixes,
        }
    }
}

/// The commit is refused; `status.judge.result` says why.
pub(super) fn refused(o: &Observed, mut status: TaskStatus, run: &str) -> TaskPlan {
    let findings = children::findings(judge_of(&mut status)).join("; ");
    status.last_failure = Some(failure("review_refused", &findings));
    if children::is_mending(o.task) {
        return mending_ended(o, status, run, "autofix_needs_rework_suppressed", &findings);
    }
    let limit = o.system.judge.auto_fix_max_attempts;
    if Kind::AutoFix.count(judge_of(&mut status)) < limit {
        return mend(o, status, run, Kind::AutoFix);
    }
    let why = format!("refused, and the limit of {limit} AutoFix Tasks is reached: {findings}");
    TaskPlan::Write(Box::new(retry::give_up(o, status, run, &why, "autofix_attempt_limit_reached")))
}

/// The commit is approved, but cannot be merged; `status.judge.lastError` says why.
pub(super) fn conflict(o: &Observed, mut status: TaskStatus, run: &str) -> TaskPlan {
    let error = judge_of(&mut status).last_error.clone();
    status.last_failure = Some(failure("merge_conflict", &error));
    let (awaits, next) = (Some(BlockReason::AwaitingJudge), status.next.clone());
    let event = ("judge.merge_queue_failed", "merge_conflict");
    enter(&mut status, TaskPhase::Blocked, awaits, next, event, run, o.now);
    if children::is_mending(o.task) {
        return mending_ended(o, status, run, "conflict_autofix_needs_rework_suppressed", &error);
    }
    let limit = o.system.judge.auto_fix_max_attempts;
    if Kind::Conflict.count(judge_of(&mut status)) < limit {
        return mend(o, status, run, Kind::Conflict);
    }
    begun_anew(o, status, run, &error)
}

/// Makes the next mending Task and waits for it.
fn mend(o: &Observed, mut status: TaskStatus, run: &str, kind: Kind) -> TaskPlan {
    settle(&mut status);
    let judge = judge_of(&mut status);
    let (event, what) = match kind {
        Kind::AutoFix => {
            judge.auto_fixes = judge.auto_fixes.saturating_add(1);
            ("judge.autofix_task_created", "deals with what the review has found")
        }
        Kind::Conflict => {
            judge.conflict_fixes = judge.conflict_fixes.saturating_add(1);
            ("judge.conflict_autofix_task_created", "resolves the conflict with the base branch")
        }
    };
    children::give_up_branch(judge);
    let task = children::mending(o, judge, kind, kind.count(judge));
    let child = task.metadata.name.clone().unwrap_or_default();
    judge.follow_up.clone_from(&child);
    let detail = format!("waits for {child}, which {what}");
    let (rework, next) = (Some(BlockReason::NeedsRework), Some(watch(detail.clone())));
    status.retry_at = None;
    enter(&mut status, TaskPhase::Blocked, rework, next, (event, &child), run, o.now);
    mark(&mut status, condition::PROGRESSING, false, "NeedsRework", &detail, o.task, o.now);
    TaskPlan::CreateThenWrite { tasks: vec![task], status: Box::new(status) }
}

/// The work is begun anew from the base branch by another Task, which takes this one's place.
fn begun_anew(o: &Observed, mut status: TaskStatus, run: &str, error: &str) -> TaskPlan {
    let limit = o.system.judge.recreate_max_attempts;
    children::give_up_branch(judge_of(&mut status));
    let Some(task) = children::recreated(o, judge_of(&mut status)) else {
        let why = format!("cannot be merged, and was begun anew {limit} times already: {error}");
        return TaskPlan::Write(Box::new(retry::give_up(o, status, run, &why, "recreate_limit_reached")));
    };
    let child = task.metadata.name.clone().unwrap_or_default();
    settle(&mut status);
    status.superseded_by.clone_from(&child);
    let event = ("judge.mainline_recreate_task_created", child.as_str());
    enter(&mut status, TaskPhase::Cancelled, None, None, event, run, o.now);
    let message = format!("cannot be merged, begun anew as {child}: {error}");
    finish(&mut status, "Superseded", &first_line(&message, 1000), o);
    TaskPlan::CreateThenWrite { tasks: vec![task], status: Box::new(status) }
}

/// A mending Task has not mended: it ends, and the Task it was made for decides (RB4).
fn mending_ended(o: &Observed, mut status: TaskStatus, run: &str, reason: &str, why: &str) -> TaskPlan {
    settle(&mut status);
    enter(&mut status, TaskPhase::Cancelled, None, None, ("task.cancelled", reason), run, o.now);
    let message = format!("the Task it was made for decides what comes next: {why}");
    finish(&mut status, "NotMended", &first_line(&message, 1000), o);
    TaskPlan::Write(Box::new(status))
}

/// A source waits for its mending Task.
pub(super) fn followed(o: &Observed, mut status: TaskStatus) -> TaskPlan {
    let name = judge_of(&mut status).follow_up.clone();
    let child = o.children.iter().find(|child| child.metadata.name.as_deref() == Some(name.as_str()));
    let Some(child) = child else {
        return missing(o, status, &name);
    };
    let state = child.status.clone().unwrap_or_default();
    match state.phase {
        TaskPhase::Queued | TaskPhase::Running | TaskPhase::Blocked | TaskPhase::Failed => {
            super::wait(o, None)
        }
        TaskPhase::Done if state.branch.is_empty() => nothing_done(o, status, child),
        TaskPhase::Done => mended(o, status, &name, &state),
        TaskPhase::Cancelled => not_mended(o, status, child, &state),
    }
}

/// It was created before this Task said that it waits for it, so it was deleted: it is made again.
fn missing(o: &Observed, mut status: TaskStatus, name: &str) -> TaskPlan {
    let judge = judge_of(&mut status);
    let made =
        [Kind::AutoFix, Kind::Conflict].map(|kind| children::mending(o, judge, kind, kind.count(judge)));
    match made.into_iter().find(|task| task.metadata.name.as_deref() == Some(name)) {
        Some(task) => TaskPlan::CreateThenWrite { tasks: vec![task], status: Box::new(status) },
        None => {
            let run = status.last_run.clone();
            let why = format!("the Task {name} that was to mend the work is gone");
            TaskPlan::Write(Box::new(retry::give_up(o, status, &run, &why, "autofix_task_missing")))
        }
    }
}

/// Its work, and with it this Task's, is where the child's is.
fn mended(o: &Observed, mut status: TaskStatus, name: &str, child: &TaskStatus) -> TaskPlan {
    status.branch.clone_from(&child.branch);
    status.head_commit.clone_from(&child.head_commit);
    let judge = judge_of(&mut status);
    let in_base = child.branch == judge.base_branch;
    if let Some(result) = child.judge.as_ref().and_then(|judge| judge.result.clone()) {
        judge.result = Some(result);
    }
    let follow_up = if in_base { children::docser(o, &judge.clone()) } else { None };
    let message = format!("carried out by {name}: {} at {}", child.branch, child.head_commit);
    let run = status.last_run.clone();
    settle(&mut status);
    done(o, status, &run, ("task.done", "autofix_done"), &message, follow_up)
}

/// It found nothing to change: a conflict may be gone (case A10), a refusal is not.
fn nothing_done(o: &Observed, mut status: TaskStatus, child: &Task) -> TaskPlan {
    let run = status.last_run.clone();
    let judge = judge_of(&mut status);
    judge.follow_up = String::new();
    if children::kind_of(child) == Some(Kind::Conflict) && super::is_approved(judge) {
        judge.stage = JudgeStage::Merge;
        judge.merge_failures = 0;
        let base = judge.base_branch.clone();
        let next = watch(format!("waits for its turn to be merged into {base}"));
        let event = ("judge.merge_queue_enqueued", "conflict_autofix_no_change");
        let awaits = Some(BlockReason::AwaitingJudge);
        enter(&mut status, TaskPhase::Blocked, awaits, Some(next), event, &run, o.now);
        let detail = "nothing had to be changed, it is merged again";
        mark(&mut status, condition::PROGRESSING, false, "AwaitingMerge", detail, o.task, o.now);
        return TaskPlan::Write(Box::new(status));
    }
    next_step(o, status, child, &run)
}

/// It was cancelled: by a person, for another Task, or because it did not mend.
fn not_mended(o: &Observed, mut status: TaskStatus, child: &Task, state: &TaskStatus) -> TaskPlan {
    let name = child.metadata.name.clone().unwrap_or_default();
    let run = status.last_run.clone();
    if !state.superseded_by.is_empty() {
        settle(&mut status);
        status.superseded_by.clone_from(&name);
        let event = ("task.cancelled", "autofix_superseded");
        enter(&mut status, TaskPhase::Cancelled, None, None, event, &run, o.now);
        let message = format!("carried on by {name} and {}", state.superseded_by);
        finish(&mut status, "Superseded", &message, o);
        return TaskPlan::Write(Box::new(status));
    }
    if child.spec.cancel {
        let why = format!("{name}, which was to mend the work, was cancelled by a person");
        return TaskPlan::Write(Box::new(retry::give_up(o, status, &run, &why, "autofix_cancelled")));
    }
    if let Some(newer) = state.judge.as_ref().filter(|judge| judge.result.is_some()) {
        let judge = judge_of(&mut status);
        judge.branch.clone_from(&newer.branch);
        judge.head_commit.clone_from(&newer.head_commit);
        judge.result.clone_from(&newer.result);
        judge.last_error.clone_from(&newer.last_error);
        if super::is_approved(newer) {
            return conflict(o, status, &run);
        }
        return refused(o, status, &run);
    }
    next_step(o, status, child, &run)
}

/// The next attempt of the same kind.
fn next_step(o: &Observed, status: TaskStatus, child: &Task, run: &str) -> TaskPlan {
    match children::kind_of(child) {
        Some(Kind::Conflict) => conflict(o, status, run),
        Some(Kind::AutoFix) | None => refused(o, status, run),
    }
}

fn failure(code: &str, summary: &str) -> LastFailure {
    LastFailure {
        class: FailureClass::Policy.word().into(),
        code: code.into(),
        summary: summary.chars().take(2000).collect(),
        ..LastFailure::default()
    }
}
