//! The key of a verdict: Execute Run, head commit, policy version (invariant S28).
//!
//! Owns what the key is made of, the claim that is written before a Run may review, and whether an
//! answer belongs to the question. A key that was answered once is never asked about again.

use kube::ResourceExt;

use super::children::give_up_branch;
use crate::crd::judge::{JudgeStage, JudgeStatus};
use crate::crd::run::{ReviewResult, ReviewTarget};
use crate::crd::system::{RepositoryMode, SystemSpec};
use crate::crd::{Purpose, Run, RunPhase, RunStatus, Task, TaskStatus, labels, names};
use crate::plan::task::Observed;

/// Branch that the Task's result is compared with and merged into: the one its annotation
/// [`labels::MERGE_INTO`] names, else the one it starts from, else the System's. A Task that starts
/// from a branch that Runs push mends another's work and goes to the System's base branch.
pub fn review_base(task: &Task, system: &SystemSpec) -> String {
    let repository = &system.repository;
    let told = task.annotations().get(labels::MERGE_INTO).filter(|branch| is_branch(branch));
    let own = task.spec.base_branch.as_ref();
    told.or_else(|| own.filter(|branch| !branch.starts_with(&repository.branch_prefix)))
        .unwrap_or(&repository.base_branch)
        .clone()
}

/// As the schema of `spec.baseBranch`, which does not reach an annotation.
pub fn is_branch(name: &str) -> bool {
    let inside = |c: char| c.is_ascii_alphanumeric() || "._/+@-".contains(c);
    let refused = ["..", "//", "@{", "/.", ".lock/"];
    (1..=255).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        && name.chars().all(inside)
        && !refused.iter().any(|part| name.contains(part))
        && ![".lock", "/", "."].iter().any(|end| name.ends_with(end))
}

/// Paths the Task may change, as recovery has left them.
pub fn allowed_paths(task: &Task, status: &TaskStatus) -> Vec<String> {
    let effective = status.effective.as_ref().and_then(|effective| effective.allowed_paths.clone());
    effective.unwrap_or_else(|| task.spec.allowed_paths.clone())
}

/// Hash of the rules that a verdict goes by: base branch, limits, and the Task's paths.
pub fn policy_version(task: &Task, status: &TaskStatus, system: &SystemSpec) -> String {
    let rules = system.judge.rules();
    let (lines, files) = (rules.max_lines.to_string(), rules.max_files.to_string());
    let (allowed, base) = (allowed_paths(task, status), review_base(task, system));
    let head = [base.as_str(), &lines, &files, if rules.model_may_fail { "yes" } else { "no" }];
    let allowed = allowed.iter().map(String::as_str);
    let denied = task.spec.denied_paths.iter().map(String::as_str);
    // The empty text is no path: it ends the list.
    names::digest(head.into_iter().chain(allowed).chain([""]).chain(denied))
}

/// Whether results in this mode are reviewed.
fn is_reviewed(mode: RepositoryMode) -> bool {
    match mode {
        RepositoryMode::Git | RepositoryMode::GitHub => true,
    }
}

/// The question about what `run` has pushed, or `None` when nobody is to be asked: the judge is off,
/// or nothing was pushed (T23). What earlier questions have cost is carried over.
pub(super) fn question(
    o: &Observed,
    status: &TaskStatus,
    run: &Run,
    verdict: &RunStatus,
) -> Option<JudgeStatus> {
    let asked = o.system.judge.enabled && is_reviewed(o.system.repository.mode);
    if !asked || verdict.branch.is_empty() || verdict.head_commit.is_empty() {
        return None;
    }
    let mut before = status.judge.clone().unwrap_or_default();
    if before.branch != verdict.branch {
        give_up_branch(&mut before);
    }
    let mut judge = JudgeStatus {
        run: run.name_any(),
        run_uid: run.uid().unwrap_or_default(),
        branch: verdict.branch.clone(),
        head_commit: verdict.head_commit.clone(),
        base_branch: review_base(o.task, o.system),
        policy_version: policy_version(o.task, status, o.system),
        auto_fixes: before.auto_fixes,
        conflict_fixes: before.conflict_fixes,
        replaced: before.replaced,
        ..JudgeStatus::default()
    };
    number(o.runs, &mut judge);
    Some(judge)
}

/// The newest pushed result of the Task.
pub(super) fn newest_result<'a>(o: &Observed<'a>) -> Option<(&'a Run, &'a RunStatus)> {
    o.runs
        .iter()
        .filter(|run| run.spec.purpose == Purpose::Execute)
        .filter_map(|run| run.status.as_ref().map(|status| (*run, status)))
        .filter(|(_, status)| status.phase == RunPhase::Success && !status.branch.is_empty())
        .max_by_key(|(run, _)| run.spec.attempt)
}

/// The same question under the rules now in force.
pub(super) fn renewed(o: &Observed, status: &TaskStatus, judge: &JudgeStatus) -> JudgeStatus {
    let mut judge = JudgeStatus {
        stage: JudgeStage::Review,
        base_branch: review_base(o.task, o.system),
        policy_version: policy_version(o.task, status, o.system),
        approved_at: None,
        result: None,
        merge_failures: 0,
        last_error: String::new(),
        ..judge.clone()
    };
    number(o.runs, &mut judge);
    judge
}

/// Raises the ordinals to those of Runs that exist, so that the next Run gets a name of its own: one
/// that was created for an older question has taken its.
pub(super) fn number(runs: &[&Run], judge: &mut JudgeStatus) {
    for run in runs {
        let Some(target) = run.spec.review.as_ref().filter(|target| target.run_uid == judge.run_uid) else {
            continue;
        };
        match run.spec.purpose {
            Purpose::Judge => judge.reviews = judge.reviews.max(target.version),
            Purpose::Merge => judge.merges = judge.merges.max(target.version),
            Purpose::Execute | Purpose::Plan => {}
        }
    }
}

/// Whether a Run was asked this very question.
pub(super) fn is_about(judge: &JudgeStatus, target: &ReviewTarget) -> bool {
    judge.run_uid == target.run_uid
        && judge.head_commit == target.head_commit
        && judge.policy_version == target.policy_version
}

/// The verdict that an ended Judge Run has given on this key, and the Run.
pub(super) fn known<'a>(o: &Observed<'a>, judge: &JudgeStatus) -> Option<(&'a Run, &'a ReviewResult)> {
    o.runs
        .iter()
        .filter(|run| run.spec.purpose == Purpose::Judge)
        .filter(|run| run.spec.review.as_ref().is_some_and(|target| is_about(judge, target)))
        .filter_map(|run| {
            let status = run.status.as_ref().filter(|status| status.phase == RunPhase::Success)?;
            status.review.as_ref().map(|result| (*run, result))
        })
        .min_by_key(|(run, _)| run.spec.review.as_ref().map_or(0, |target| target.version))
}
