//! Review and merge of what agents push: when a Judge or Merge Run is wanted, and what its end makes
//! of the Task (`spec/agents.md` 5, `spec/convergence.md` T22 to T29, in repository mode `Git`).
//!
//! | from | when | to | event |
//! |---|---|---|---|
//! | Running | a branch was pushed, the judge is on | AwaitingJudge, stage Review | `task.blocked` |
//! | Review | approved, `autoMerge` | stage Merge | `judge.review`, `judge.merge_queue_enqueued` |
//! | Review | approved, no `autoMerge` | Done, unmerged | `judge.review`, `task.done` |
//! | Review | changes requested | NeedsRework, waits for an AutoFix Task | `judge.review`, `judge.autofix_task_created` |
//! | Review | the same, cap reached | NeedsRework, a person decides | `judge.review`, `task.recovery_escalated` |
//! | Review | no verdict: cancelled, cluster, provider | Review again, no cost | `judge.task_requeued` |
//! | Review | no verdict: the reviewer failed | Review again, `retries.judge`; at `maxFailures` a person | `judge.task_requeued` |
//! | Merge | merged | Done | `judge.merge_queue_merged`, `docser.task_created` |
//! | Merge | base moved | Merge again after `mergeRetryDelay`; at `mergeMaxAttempts` as a conflict | `judge.merge_queue_retried` |
//! | Merge | conflict | NeedsRework, waits for an AutoFix-Conflict Task | `judge.merge_queue_failed`, `judge.conflict_autofix_task_created` |
//! | Merge | the same, cap reached | Cancelled, superseded by a Recreate-From-Main Task | `judge.mainline_recreate_task_created` |
//! | Merge | the server refuses the push | a person decides | `task.recovery_escalated` |
//! | any | the judge is switched off | Done, unmerged | `task.done` |
//! | waits for a mending Task | that one is Done | Done: the work is where that one's is | `task.done` |
//! | the same | that one did not mend | the next of its kind, from where that one came to | as above |
//!
//! Decisions
//! - **Key.** (Execute Run, head commit, policy version) has at most one verdict (S28). The policy
//!   version is a hash of base branch, limits and the Task's paths. An edit of those makes a new key:
//!   an answer that is under way is ignored, an approval that is not merged yet is asked for anew, and
//!   an edit back finds the verdict that was given.
//! - **Lineage.** A source has one mending Task at a time and waits for it, `next: Watch`. A mending
//!   Task is itself reviewed and merged into the source's base. Merged: the source is Done too. Refused
//!   or in conflict: it is Cancelled and the source makes the next one, starting from what that one has
//!   pushed. So the source counts for all of them (`status.judge.autoFixes`, `conflictFixes`), and no
//!   dependent is told Done before the work is in the base. `supersededBy` is set only when the source
//!   is Cancelled for another Task.
//! - **One cap** (Q21, Q22): `autoFixMaxAttempts` bounds refusals of one lineage (one more than that),
//!   so a breaker for non-approvals beside it would say the same; `maxFailures` bounds reviews that
//!   bring no verdict; `mergeMaxAttempts` and `recreateMaxAttempts` bound merges.
//! - **A person's cancel of a mending Task** is not answered by another one: the source asks a person.
//! - **The judge is switched off:** what awaits it is Done unmerged, with its branch named.
//! - **A mending Task that finds nothing to change** brings its source back to the merge queue after a
//!   conflict (A10) and counts as not mended after a refusal.
//!
//! Pure. `status.judge` written fenced is the claim; the dispatcher creates the Run that it asks for.

pub mod change;
mod children;
pub mod ci;
mod fix;
pub mod key;
mod merge;
mod retry;
mod review;
#[cfg(test)]
mod tests;
pub mod verdict;

use std::time::Duration;

use jiff::Timestamp;

pub use self::key::{is_branch, review_base};
pub use self::merge::{is_conflict_reason, merged};
pub(in crate::plan) use self::retry::reopened;
pub use self::review::reviewed;
use self::review::{is_approved, is_outdated};
use super::run::add;
use super::task::requeue;
use super::task::status::{enter, finish, first_line, generation, mark, watch};
use super::task::table::Trigger;
use super::task::{Observed, TaskPlan};
use crate::crd::judge::{JudgeStage, JudgeStatus};
use crate::crd::task::condition;
use crate::crd::{BlockReason, Purpose, Run, RunStatus, Task, TaskPhase, TaskStatus};

/// A waiting Task is looked at again after this time at the latest, so that an edit of the settings
/// reaches it whatever else happens.
const RECHECK: Duration = Duration::from_secs(60);

/// The status of a Task whose attempt has just pushed something that is to be reviewed (T22). Written,
/// it is the claim: nobody reviews before.
pub(in crate::plan) fn claim(
    o: &Observed,
    verdict: &RunStatus,
    status: &TaskStatus,
    run: &str,
) -> Option<TaskStatus> {
    let pushed_by = o.runs.iter().find(|r| r.metadata.name.as_deref() == Some(run))?;
    match pushed_by.spec.purpose {
        Purpose::Execute => {}
        Purpose::Judge | Purpose::Merge | Purpose::Plan => return None,
    }
    let judge = key::question(o, status, pushed_by, verdict)?;
    let mut status = status.clone();
    status.branch.clone_from(&verdict.branch);
    status.head_commit.clone_from(&verdict.head_commit);
    status.retry_at = None;
    let detail = format!("{} at {} waits for a review", judge.branch, judge.head_commit);
    status.judge = Some(judge);
    let next = Some(watch(detail.clone()));
    let awaits = Some(BlockReason::AwaitingJudge);
    enter(&mut status, TaskPhase::Blocked, awaits, next, ("task.blocked", "awaiting_judge"), run, o.now);
    mark(&mut status, condition::PROGRESSING, false, "AwaitingJudge", &detail, o.task, o.now);
    Some(status)
}

/// Whether a Blocked Task is this module's to move.
pub(in crate::plan) fn owns(status: &TaskStatus) -> bool {
    let follows = status.judge.as_ref().is_some_and(|judge| !judge.follow_up.is_empty());
    let rework = status.block_reason == Some(BlockReason::NeedsRework);
    status.block_reason == Some(BlockReason::AwaitingJudge) || (rework && follows)
}

/// A Task that waits for a review, a merge or a mending Task, and has no Run in progress.
pub fn awaiting(o: &Observed, mut status: TaskStatus) -> TaskPlan {
    let Some(judge) = status.judge.as_mut() else {
        return unasked(o, status);
    };
    if !judge.follow_up.is_empty() {
        return fix::followed(o, status);
    }
    let run = status.last_run.clone();
    if !o.system.judge.enabled {
        return done_unmerged(o, status, &run, "the judge is switched off");
    }
    if is_outdated(o, &status) {
        return review::renew(o, status, &run);
    }
    match judge_of(&mut status).stage {
        JudgeStage::Settled => parked(o, status),
        JudgeStage::Merge if !o.system.judge.auto_merge => {
            done_unmerged(o, status, &run, "approved, merging is off")
        }
        JudgeStage::Review | JudgeStage::Merge => queued(o, status),
    }
}

/// A person was asked for and may have acted.
fn parked(o: &Observed, status: TaskStatus) -> TaskPlan {
    let present = generation(o.task);
    if present <= status.observed_generation {
        return wait(o, None);
    }
    let mut status = reopened(o, status, "spec_edited", "the spec was edited");
    status.observed_generation = present;
    TaskPlan::Write(Box::new(status))
}

/// Waits for the dispatcher, perhaps from a later moment on.
fn queued(o: &Observed, mut status: TaskStatus) -> TaskPlan {
    let before = judge_of(&mut status).clone();
    let other = |run: &&Run| run.spec.review.as_ref().is_some_and(|target| !key::is_about(&before, target));
    let others: Vec<&Run> = o.runs.iter().copied().filter(other).collect();
    let mut judge = before.clone();
    key::number(&others, &mut judge);
    let renumbered = judge != before;
    status.judge = Some(judge);
    match status.retry_at {
        Some(at) if o.now < at && !renumbered => wait(o, Some(at)),
        Some(at) if o.now >= at => {
            status.retry_at = None;
            status.next = Some(watch("waits for the dispatcher and a free judge".into()));
            TaskPlan::Write(Box::new(status))
        }
        Some(_) | None if renumbered => TaskPlan::Write(Box::new(status)),
        Some(_) | None => wait(o, None),
    }
}

/// The Judge or Merge Run in progress was deleted: a fault of the cluster, at no cost.
pub(in crate::plan) fn vanished(o: &Observed, status: TaskStatus, run: &str) -> TaskStatus {
    let verdict = RunStatus {
        failure_code: "run_deleted".into(),
        summary: format!("Run {run} was deleted"),
        ..RunStatus::default()
    };
    retry::infra(o, status, run, &verdict)
}

/// Blocked AwaitingJudge without a question: only a hand or an older version writes that. What was
/// pushed last is asked about; without anything it is done anew (RB22, RB23; hazards H13, H21).
fn unasked(o: &Observed, status: TaskStatus) -> TaskPlan {
    let run = status.last_run.clone();
    if let Some((pushed_by, verdict)) = key::newest_result(o) {
        let name = pushed_by.metadata.name.clone().unwrap_or_default();
        return match claim(o, verdict, &status, &name) {
            Some(claimed) => TaskPlan::Write(Box::new(claimed)),
            None => done_unmerged(o, status, &run, "the judge is switched off"),
        };
    }
    let detail = "nothing was pushed that could be reviewed";
    TaskPlan::Write(Box::new(requeue(
        o,
        status,
        (Trigger::ReviewRequeued, "awaiting_judge_missing_run_retry"),
        &run,
        detail,
    )))
}

fn wait(o: &Observed, at: Option<Timestamp>) -> TaskPlan {
    let recheck = add(o.now, RECHECK);
    TaskPlan::Wait { until: Some(at.map_or(recheck, |at| at.min(recheck))) }
}

/// Done without a merge: the branch holds the work.
fn done_unmerged(o: &Observed, mut status: TaskStatus, run: &str, why: &str) -> TaskPlan {
    if let Some(judge) = status.judge.as_mut() {
        status.branch.clone_from(&judge.branch);
        status.head_commit.clone_from(&judge.head_commit);
    }
    let message = format!("{why}: the work is on branch {} at {}", status.branch, status.head_commit);
    done(o, status, run, ("task.done", "unmerged"), &message, None)
}

/// Done, with the Task that follows it.
fn done(
    o: &Observed,
    mut status: TaskStatus,
    run: &str,
    event: (&str, &str),
    message: &str,
    follow_up: Option<Task>,
) -> TaskPlan {
    settle(&mut status);
    if let Some(child) = &follow_up {
        let name = child.metadata.name.clone().unwrap_or_default();
        let (block, next) = (status.block_reason, status.next.clone());
        enter(&mut status, TaskPhase::Blocked, block, next, ("docser.task_created", &name), run, o.now);
    }
    enter(&mut status, TaskPhase::Done, None, None, event, run, o.now);
    finish(&mut status, "Done", &first_line(message, 1000), o);
    let status = Box::new(status);
    match follow_up {
        Some(child) => TaskPlan::CreateThenWrite { tasks: vec![child], status },
        None => TaskPlan::Write(status),
    }
}

/// Nothing more is asked about this commit.
fn settle(status: &mut TaskStatus) {
    if let Some(judge) = status.judge.as_mut() {
        judge.stage = JudgeStage::Settled;
        judge.follow_up = String::new();
    }
}

fn judge_of(status: &mut TaskStatus) -> &mut JudgeStatus {
    status.judge.get_or_insert_default()
}
