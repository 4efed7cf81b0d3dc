//! The Tasks that a review leads to (spec agents 5.6, 5.12).
//!
//! | | AutoFix | AutoFix-Conflict | Recreate-From-Main | documentation |
//! |---|---|---|---|---|
//! | starts from | the refused branch | the base branch | the base branch | the base branch |
//! | goes to | the source's base | the source's base | the source's base | the source's base |
//! | may change | what the source may | `**` | what the source may | documentation |
//! | priority, lane | 80, conflict_recovery | 90, conflict_recovery | 85, conflict_recovery | source's, docser |
//! | timebox | 60m | 60m | 60m | 45m |
//!
//! An AutoFix-Conflict starts from the base because a commit of ours has one parent: made on top of the
//! branch, it would conflict with the base again. Names are functions of the source's uid, the kind,
//! the commit and the ordinal, so that each exists once. Builds objects only; whether and when is
//! decided in [`super::fix`] and [`super::merge`].

use kube::ResourceExt;
use kube::api::ObjectMeta;

use super::fix::Kind;
use super::key::allowed_paths;
use super::verdict::file_of;
use crate::crd::pool::Role;
use crate::crd::task::{FINDINGS, RiskLevel, TaskContext};
use crate::crd::{GoDuration, JudgeStatus, Task, TaskSpec, labels, names};
use crate::plan::lanes::CONFLICT_RECOVERY;
use crate::plan::task::Observed;

/// Value of [`labels::CREATED_BY`].
const CREATED_BY: &str = "judge";
/// Values of [`labels::ORIGIN`] of Tasks that mend nothing.
const RECREATE: &str = "recreate";
const DOCSER: &str = "docser";
/// Longest texts and lists that the schema of a Task takes, with room for what is put around them.
const MAX_TITLE: usize = 200;
const MAX_GOAL: usize = 12_000;
const MAX_NOTES: usize = 12_000;
const MAX_PATHS: usize = 200;
const MAX_AREA: usize = 256;
const MAX_BRANCH: usize = 255;
const MAX_REPLACED: usize = 20;

/// What a Task was made to mend, if it was.
pub(super) fn kind_of(task: &Task) -> Option<Kind> {
    let origin = task.labels().get(labels::ORIGIN)?;
    [Kind::AutoFix, Kind::Conflict].into_iter().find(|kind| kind.origin() == origin)
}

/// Whether another Task waits for this one to mend its work.
pub(super) fn is_mending(task: &Task) -> bool {
    task.labels().contains_key(labels::PARENT_UID) && kind_of(task).is_some()
}

/// What the review has found, or what is known of why the work is not in.
pub(super) fn findings(judge: &JudgeStatus) -> Vec<String> {
    let found = judge.result.as_ref().map(|result| result.findings.clone()).unwrap_or_default();
    if found.is_empty() && !judge.last_error.is_empty() { vec![judge.last_error.clone()] } else { found }
}

/// The `ordinal`th Task of this kind that mends the work of the Task under review.
pub(super) fn mending(o: &Observed, judge: &JudgeStatus, kind: Kind, ordinal: i32) -> Task {
    let source = o.task.name_any();
    let limit = o.system.judge.auto_fix_max_attempts;
    let (branch, base, commit) = (&judge.branch, &judge.base_branch, &judge.head_commit);
    let found = findings(judge);
    let list: String = found.iter().map(|finding| format!("\n- {finding}")).collect();
    let goal = clip(&o.task.spec.goal, MAX_GOAL);
    let mut spec = followed_spec(o);
    spec.risk_level = RiskLevel::Medium;
    match kind {
        Kind::AutoFix => {
            let files: Vec<String> = files_of(&found);
            spec.title = clip(&format!("[AutoFix] {source} (attempt {ordinal}/{limit})"), MAX_TITLE);
            spec.goal = format!(
                "Every finding of the review of Task {source} is dealt with, and what that Task asks for \
                 still holds:\n{goal}"
            );
            spec.priority = 80;
            spec.base_branch = (branch.len() <= MAX_BRANCH).then(|| branch.clone());
            spec.touches.clone_from(&files);
            let notes = format!(
                "## {FINDINGS}\n\nThe review of {branch} at {commit} against {base} has found:{list}"
            );
            spec.context = Some(context(o, files, &notes));
        }
        Kind::Conflict => {
            spec.title = clip(&format!("[AutoFix-Conflict] {source} (attempt {ordinal}/{limit})"), MAX_TITLE);
            spec.goal = format!(
                "The work of Task {source} is in, on top of what {base} now holds. What that Task asks \
                 for:\n{goal}"
            );
            spec.priority = 90;
            spec.base_branch = Some(base.clone());
            spec.allowed_paths = vec!["**".into()];
            spec.target_area = Some(clip(&format!("conflict:{branch}"), MAX_AREA));
            let notes = format!(
                "The work stands approved on {branch} at {commit}, but {base} has changed the same places: {}",
                judge.last_error
            );
            spec.context = Some(context(o, Vec::new(), &notes));
        }
    }
    let word = match kind {
        Kind::AutoFix => format!("autofix{ordinal}"),
        Kind::Conflict => format!("conflict{ordinal}"),
    };
    let mut task = child(o, judge, &word, kind.origin(), spec);
    task.annotations_mut().insert(labels::MERGE_INTO.into(), base.clone());
    replace(&mut task, o, judge);
    task
}

/// The Task that does the work of this one anew from the base branch, unless that was done as often as
/// it may be.
pub(super) fn recreated(o: &Observed, judge: &JudgeStatus) -> Option<Task> {
    let before: i32 = o.task.labels().get(labels::RECREATED).and_then(|n| n.parse().ok()).unwrap_or(0);
    let ordinal = before.saturating_add(1);
    if ordinal > o.system.judge.recreate_max_attempts {
        return None;
    }
    let source = o.task.name_any();
    let mut spec = followed_spec(o);
    spec.title = clip(&format!("[Recreate-From-Main] {source} (attempt {ordinal})"), MAX_TITLE);
    spec.goal.clone_from(&o.task.spec.goal);
    spec.priority = 85;
    spec.risk_level = RiskLevel::Medium;
    spec.base_branch.clone_from(&o.task.spec.base_branch);
    spec.touches.clone_from(&o.task.spec.touches);
    spec.target_area.clone_from(&o.task.spec.target_area);
    let given = o.task.spec.context.clone().unwrap_or_default();
    let notes = format!(
        "{}\n{} could not be merged into {}: {}",
        given.notes, judge.branch, judge.base_branch, judge.last_error
    );
    spec.context = Some(TaskContext { notes: clip(notes.trim(), MAX_NOTES), ..given });
    let mut task = child(o, judge, &format!("recreate{ordinal}"), RECREATE, spec);
    task.labels_mut().insert(labels::RECREATED.into(), ordinal.to_string());
    replace(&mut task, o, judge);
    Some(task)
}

/// The documentation Task that follows a merged change of code: once for each source, never for
/// documentation itself or for a Task that mends another's work.
pub(super) fn docser(o: &Observed, judge: &JudgeStatus) -> Option<Task> {
    let code_files = judge.result.as_ref().map_or(0, |result| result.code_files);
    let wanted = o.system.judge.docser_follow_up && code_files > 0;
    if !wanted || o.task.spec.role == Role::Docser || is_mending(o.task) {
        return None;
    }
    let source = o.task.name_any();
    let paths = ["docs/**", "ops/runbooks/**", "README.md"];
    let touches = ["docs/README.md", "README.md", "docs", "ops/runbooks"];
    let notes =
        format!("Task {source} has changed {code_files} files that are no documentation; it has asked for:");
    let spec = TaskSpec {
        title: clip(&format!("Documentation update: {}", o.task.spec.title), MAX_TITLE),
        goal: format!("The documentation says what is true since Task {source} was merged."),
        role: Role::Docser,
        kind: o.task.spec.kind.clone(),
        priority: o.task.spec.priority,
        risk_level: RiskLevel::Low,
        allowed_paths: paths.map(String::from).to_vec(),
        dependencies: vec![source],
        target_area: Some("docser:global".into()),
        touches: touches.map(String::from).to_vec(),
        timebox: GoDuration::from_secs(45 * 60),
        base_branch: Some(judge.base_branch.clone()).filter(|base| *base != o.system.repository.base_branch),
        context: Some(TaskContext {
            notes: format!("{notes}\n{}", clip(&o.task.spec.goal, MAX_NOTES)),
            ..TaskContext::default()
        }),
        ..TaskSpec::default()
    };
    Some(child(o, &JudgeStatus::default(), "docs", DOCSER, spec))
}

/// What every Task that carries work on has from its source.
fn followed_spec(o: &Observed) -> TaskSpec {
    let status = o.task.status.clone().unwrap_or_default();
    let mut allowed = allowed_paths(o.task, &status);
    if allowed.is_empty() {
        allowed.push("**".into());
    }
    allowed.truncate(MAX_PATHS);
    let commands = status.effective.and_then(|effective| effective.commands);
    TaskSpec {
        role: o.task.spec.role,
        kind: o.task.spec.kind.clone(),
        lane: Some(CONFLICT_RECOVERY.into()),
        allowed_paths: allowed,
        denied_paths: o.task.spec.denied_paths.clone(),
        commands: commands.unwrap_or_else(|| o.task.spec.commands.clone()),
        timebox: GoDuration::from_secs(60 * 60),
        ..TaskSpec::default()
    }
}

fn context(o: &Observed, files: Vec<String>, notes: &str) -> TaskContext {
    let given = o.task.spec.context.clone().unwrap_or_default();
    // Its pull request is the one that is merged, and so the one that closes the issue.
    TaskContext { files, notes: clip(notes, MAX_NOTES), ..given }
}

/// Notes that the branch under review is given up for another.
pub(super) fn give_up_branch(judge: &mut JudgeStatus) {
    if !judge.branch.is_empty() && !judge.replaced.contains(&judge.branch) {
        judge.replaced.push(judge.branch.clone());
        let excess = judge.replaced.len().saturating_sub(MAX_REPLACED);
        judge.replaced.drain(..excess);
    }
}

/// Notes that the branch of `task` takes the place of those that were given up for it, here and where this
/// Task comes from.
fn replace(task: &mut Task, o: &Observed, judge: &JudgeStatus) {
    let before = o.task.annotations().get(labels::REPLACES).map(String::as_str).unwrap_or_default();
    let all: Vec<&str> = before.lines().chain(judge.replaced.iter().map(String::as_str)).collect();
    let kept = all.iter().skip(all.len().saturating_sub(MAX_REPLACED)).copied();
    task.annotations_mut().insert(labels::REPLACES.into(), kept.collect::<Vec<_>>().join("\n"));
}

/// Files that findings are about, each once, as far as a Task may name them.
fn files_of(findings: &[String]) -> Vec<String> {
    let mut files = Vec::new();
    for file in findings.iter().filter_map(|finding| file_of(finding)) {
        let inside = !file.starts_with('/') && file.split('/').all(|name| name != "..");
        if inside && !files.iter().any(|known| known == file) {
            files.push(file.to_string());
        }
    }
    files
}

fn child(o: &Observed, judge: &JudgeStatus, word: &str, origin: &str, spec: TaskSpec) -> Task {
    let (source, uid) = (o.task.name_any(), o.task.uid().unwrap_or_default());
    let name = names::child_name(&source, word, &format!("{uid}/{word}/{}", judge.head_commit));
    let mut task = Task::new(&name, spec);
    let mut labels = vec![
        (labels::PARENT, source),
        (labels::PARENT_UID, uid),
        (labels::CREATED_BY, CREATED_BY.to_string()),
        (labels::ORIGIN, origin.to_string()),
    ];
    labels.extend(o.task.labels().get(labels::REWORK_DEPTH).map(|n| (labels::REWORK_DEPTH, n.clone())));
    task.metadata = ObjectMeta {
        name: Some(name),
        namespace: o.task.namespace(),
        labels: Some(labels.into_iter().map(|(key, value)| (key.to_string(), value)).collect()),
        ..ObjectMeta::default()
    };
    task
}

fn clip(text: &str, chars: usize) -> String {
    text.chars().take(chars).collect()
}
