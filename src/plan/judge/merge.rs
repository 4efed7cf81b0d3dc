//! A Merge Run has ended: merged, tried again, or handed to whoever can help (spec agents 5.7).

use super::{children, done, fix, judge_of, retry};
use crate::crd::{FailureClass, Run, RunPhase, RunStatus, TaskStatus};
use crate::plan::run::add;
use crate::plan::task::ended::finished;
use crate::plan::task::status::first_line;
use crate::plan::task::{Observed, TaskPlan};
use crate::plan::verdict::code;

/// Its Merge Run has ended. A merge that happened happened, whatever was edited meanwhile.
pub fn merged(o: &Observed, run: &Run, status: TaskStatus) -> TaskPlan {
    let name = run.metadata.name.clone().unwrap_or_default();
    let verdict = run.status.clone().unwrap_or_default();
    if status.judge.is_none() {
        return super::unasked(o, status);
    }
    match verdict.phase {
        RunPhase::Success => in_base(o, status, &name, &verdict),
        RunPhase::Cancelled => {
            let detail = "the merge was cancelled, which costs nothing";
            TaskPlan::Write(Box::new(retry::at_no_cost(o, status, &name, "run_cancelled", detail)))
        }
        RunPhase::Failed | RunPhase::Running => not_merged(o, status, &name, &verdict),
    }
}

pub(super) fn in_base(o: &Observed, mut status: TaskStatus, run: &str, verdict: &RunStatus) -> TaskPlan {
    let judge = judge_of(&mut status).clone();
    let commit =
        if verdict.head_commit.is_empty() { judge.head_commit.clone() } else { verdict.head_commit.clone() };
    let message = format!("merged {} into {} as {commit}", judge.branch, judge.base_branch);
    status.branch.clone_from(&judge.base_branch);
    status.head_commit = commit;
    let follow_up = children::docser(o, &judge);
    done(o, status, run, ("judge.merge_queue_merged", ""), &message, follow_up)
}

fn not_merged(o: &Observed, mut status: TaskStatus, run: &str, verdict: &RunStatus) -> TaskPlan {
    if verdict.failure_class == Some(FailureClass::Infra) {
        return TaskPlan::Write(Box::new(retry::infra(o, status, run, verdict)));
    }
    if verdict.failure_code == code::CHECKS_PENDING {
        return TaskPlan::Write(Box::new(retry::for_checks(o, status, run, verdict)));
    }
    if verdict.failure_code == "quota_failure" {
        return TaskPlan::Write(Box::new(retry::quota(o, status, run, verdict)));
    }
    let error = format!("{}: {}", verdict.failure_code, first_line(&verdict.summary, 400));
    let judge = judge_of(&mut status);
    judge.last_error.clone_from(&error);
    judge.merge_failures = judge.merge_failures.saturating_add(1);
    let exhausted = judge.merge_failures >= o.system.judge.merge_max_attempts;
    let (base, branch) = (judge.base_branch.clone(), judge.branch.clone());
    let code = verdict.failure_code.as_str();
    if code == code::PULL_REQUEST_CLOSED {
        let why = first_line(&verdict.summary, 300);
        return TaskPlan::Write(Box::new(retry::park(o, status, run, &why, code)));
    }
    if code == code::MERGE_REFUSED {
        let why = format!(
            "the server refuses the push to {base} ({}): let the credentials of the repository push to \
             it, or merge {branch} by hand",
            first_line(&verdict.summary, 300)
        );
        return TaskPlan::Write(Box::new(retry::park(o, status, run, &why, "merge_refused")));
    }
    if code == code::MERGE_CONFLICT
        || (code != code::MERGE_BASE_MOVED && is_conflict_reason(&verdict.summary))
    {
        return fix::conflict(o, status, run);
    }
    if exhausted && code == code::MERGE_BASE_MOVED {
        return fix::conflict(o, status, run);
    }
    if exhausted {
        let why = format!("{branch} could not be merged into {base}: {error}");
        return TaskPlan::Write(Box::new(retry::park(o, status, run, &why, "merge_attempt_limit_reached")));
    }
    let at = add(finished(verdict, o.now), o.system.judge.merge_retry_delay());
    TaskPlan::Write(Box::new(retry::again(o, status, run, "merge_deferred", &error, Some(at))))
}

/// Whether a text says that branches conflict (correction 26; `Conflict-free` counts, as in the
/// original). Only where a failure has no code of its own.
pub fn is_conflict_reason(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    ["conflict", "dirty", "mergeable_state", "not mergeable"].iter().any(|word| text.contains(word))
}
