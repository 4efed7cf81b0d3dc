//! The rework Task that carries on a Task which cannot go on by itself (spec: convergence 5.7).
//!
//! Name and content are functions of the parent and its last Run, so that a repetition after a crash
//! finds what was made before. It has no owner: it outlives its parent.

use kube::ResourceExt;
use kube::api::ObjectMeta;

use super::notes::{self, VerifyMark};
use super::paths::{command_driven, widened};
use crate::crd::task::TaskContext;
use crate::crd::{FailureDetail, GoDuration, Task, TaskSpec, labels, names};

/// Value of [`labels::ORIGIN`] and [`labels::CREATED_BY`].
pub const ORIGIN: &str = "rework";
/// Longest name of a Task, title, note, and list of paths (`TaskSpec`).
const MAX_NAME: usize = 48;
const MAX_TITLE: usize = 200;
const MAX_TEXT: usize = 16_384;
const MAX_PATHS: usize = 200;
const MAX_PRIORITY: i32 = 1000;
const PRIORITY_STEP: i32 = 5;
const LEAST_TIMEBOX_MINUTES: u64 = 30;

/// What the rework Task takes over from the attempt that failed.
#[derive(Clone, Debug)]
pub struct Inherited<'a> {
    /// As the Run had them.
    pub allowed_paths: &'a [String],
    pub commands: &'a [String],
    pub lane: Option<&'a str>,
    pub detail: Option<&'a FailureDetail>,
    /// What the Run said.
    pub summary: &'a str,
}

/// Rework splits between a Task and its first ancestor: by its label, or by the marks in its notes.
pub fn depth(task: &Task) -> i32 {
    let label = task.labels().get(labels::REWORK_DEPTH).and_then(|depth| depth.parse().ok()).unwrap_or(0);
    let noted = task.spec.context.as_ref().map_or(0, |context| notes::parents(&context.notes).len());
    i32::try_from(noted).unwrap_or(i32::MAX).max(label)
}

/// Name of the rework Task of `parent`: `<name>-rw<depth>-<h>`, `h` from the parent's uid.
pub fn name(parent: &Task) -> String {
    let depth = depth(parent).saturating_add(1);
    let suffix = format!("-rw{depth}-{}", names::uid_hash(&parent.uid().unwrap_or_default()));
    let own = parent.name_any();
    let base = first_name(&own);
    let room = MAX_NAME.saturating_sub(suffix.len());
    let base: String = base.chars().take(room).collect();
    format!("{}{suffix}", base.trim_end_matches('-'))
}

/// The name without the suffix of an earlier split.
fn first_name(name: &str) -> &str {
    let Some((base, hash)) = name.rsplit_once('-') else { return name };
    let Some((first, step)) = base.rsplit_once("-rw") else { return name };
    let is_split = hash.len() == 4 && !step.is_empty() && step.chars().all(|c| c.is_ascii_digit());
    if is_split && !first.is_empty() { first } else { name }
}

/// The rework Task.
pub fn child(parent: &Task, inherited: &Inherited) -> Task {
    let depth = depth(parent).saturating_add(1);
    let mark = failed_verification(parent, inherited);
    let spec = TaskSpec {
        title: title(&parent.spec.title, mark.is_some()),
        lane: inherited.lane.map(str::to_string).or_else(|| parent.spec.lane.clone()),
        priority: parent.spec.priority.saturating_add(PRIORITY_STEP).min(MAX_PRIORITY),
        allowed_paths: allowed_paths(parent, inherited),
        commands: inherited.commands.to_vec(),
        // The area follows from the paths again.
        target_area: None,
        touches: Vec::new(),
        timebox: timebox(&parent.spec.timebox),
        context: Some(context(parent, mark.as_ref())),
        cancel: false,
        ..parent.spec.clone()
    };
    let mut task = Task::new(&name(parent), spec);
    let own = [
        (labels::MANAGED_BY, labels::MANAGER.to_string()),
        (labels::PARENT, parent.name_any()),
        (labels::PARENT_UID, parent.uid().unwrap_or_default()),
        (labels::CREATED_BY, ORIGIN.to_string()),
        (labels::ORIGIN, ORIGIN.to_string()),
        (labels::REWORK_DEPTH, depth.to_string()),
    ];
    let own = own.into_iter().filter(|(_, value)| labels::is_label_value(value));
    task.metadata = ObjectMeta {
        name: task.metadata.name.take(),
        namespace: parent.namespace(),
        labels: Some(own.map(|(key, value)| (key.to_string(), value)).collect()),
        // What mends the work of another branch goes where that would have gone, and takes its place.
        annotations: Some(
            [labels::MERGE_INTO, labels::REPLACES]
                .into_iter()
                .filter_map(|key| Some((key.to_string(), parent.annotations().get(key)?.clone())))
                .collect(),
        ),
        ..ObjectMeta::default()
    };
    task
}

/// Which verification failed: by the Run, else by a mark in the notes.
fn failed_verification(parent: &Task, inherited: &Inherited) -> Option<VerifyMark> {
    let from_run = inherited.detail.filter(|detail| !detail.command.is_empty()).map(|detail| VerifyMark {
        failed_command: Some(detail.command.clone()),
        failed_command_source: Some(detail.source.clone()),
        stderr_summary: Some(said(inherited.summary)),
    });
    from_run.or_else(|| notes::verify_mark(&parent.spec.context.as_ref()?.notes))
}

/// What a failed command said: behind `verification failed at <command> [<source>]: `.
fn said(summary: &str) -> String {
    let text = summary.split_once("]: ").map_or(summary, |(_, said)| said);
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(400).collect()
}

fn title(title: &str, verification: bool) -> String {
    if title.starts_with("[Rework]") || title.starts_with("[Rework-Verify]") {
        return title.to_string();
    }
    let prefix = if verification { "[Rework-Verify] " } else { "[Rework] " };
    format!("{prefix}{title}").chars().take(MAX_TITLE).collect()
}

fn context(parent: &Task, mark: Option<&VerifyMark>) -> TaskContext {
    let own = parent.spec.context.clone().unwrap_or_default();
    let mut added = Vec::new();
    let mut focus = String::new();
    if let Some((command, mark)) = mark.and_then(|mark| Some((mark.failed_command.as_ref()?, mark))) {
        let source = mark.failed_command_source.as_deref().unwrap_or("explicit");
        added.push("[verify-rework] previous verification failure".to_string());
        added.push(format!("- command: {command}"));
        added.push(format!("- source: {source}"));
        added.push(format!("- stderr: {}", mark.stderr_summary.as_deref().unwrap_or("unavailable")));
        focus = format!("Focus on recovering failed verification command:\n- {command}\n- source: {source}");
    }
    added.push(notes::parent_line(&parent.uid().unwrap_or_default()));
    TaskContext {
        notes: joined(&notes::without_verify_marks(&own.notes), "\n", &added.join("\n")),
        specs: joined(own.specs.trim(), "\n\n", &focus),
        ..own
    }
}

/// `own`, cut where there is no room for it, and behind it `added`.
fn joined(own: &str, between: &str, added: &str) -> String {
    let room = MAX_TEXT.saturating_sub(added.chars().count() + between.len());
    let own: String = own.chars().take(room).collect();
    match (own.is_empty(), added.is_empty()) {
        (true, _) => added.to_string(),
        (false, true) => own,
        (false, false) => format!("{own}{between}{added}"),
    }
}

fn allowed_paths(parent: &Task, inherited: &Inherited) -> Vec<String> {
    let driven = command_driven(inherited.commands, parent.spec.role);
    let mut all =
        widened(inherited.allowed_paths, driven).unwrap_or_else(|| inherited.allowed_paths.to_vec());
    all.truncate(MAX_PATHS);
    all
}

/// Four fifths, in whole minutes, and at least half an hour.
fn timebox(own: &GoDuration) -> GoDuration {
    let default = std::time::Duration::from_secs(crate::crd::task::DEFAULT_TIMEBOX_SECS);
    let minutes = GoDuration::or(Some(own), default).as_secs() * 4 / 5 / 60;
    GoDuration(format!("{}m", minutes.max(LEAST_TIMEBOX_MINUTES)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::run::CommandSource;
    use crate::plan::fixtures::task;

    fn inherited<'a>() -> Inherited<'a> {
        Inherited { allowed_paths: &[], commands: &[], lane: None, detail: None, summary: "" }
    }

    #[test]
    fn a_child_is_more_urgent_and_shorter_than_its_parent_c85() {
        let mut parent = task("a");
        parent.spec.priority = 10;
        parent.spec.timebox = GoDuration("60m".into());
        let made = child(&parent, &inherited());
        assert_eq!((made.spec.priority, made.spec.timebox.0.as_str()), (15, "48m"));
        parent.spec.timebox = GoDuration("30m".into());
        parent.spec.priority = 998;
        let made = child(&parent, &inherited());
        assert_eq!((made.spec.priority, made.spec.timebox.0.as_str()), (1000, "30m"));
        assert_eq!((made.status, made.spec.cancel), (None, false), "nothing of its own yet");
    }

    #[test]
    fn the_title_says_once_that_it_is_rework_c86() {
        let mut parent = task("a");
        parent.spec.title = "[Rework] X".into();
        assert_eq!(child(&parent, &inherited()).spec.title, "[Rework] X");
        parent.spec.title = "X".into();
        assert_eq!(child(&parent, &inherited()).spec.title, "[Rework] X");
        let detail = FailureDetail::of_command("make test", CommandSource::Explicit);
        let summary = "verification failed at make test [explicit]: boom";
        let made = child(&parent, &Inherited { detail: Some(&detail), summary, ..inherited() });
        assert_eq!(made.spec.title, "[Rework-Verify] X");
        let context = made.spec.context.expect("a context");
        assert_eq!(
            context.notes,
            "[verify-rework] previous verification failure\n- command: make test\n- source: explicit\n- stderr: boom\n[auto-rework] parentTask=uid-a"
        );
        assert_eq!(
            context.specs,
            "Focus on recovering failed verification command:\n- make test\n- source: explicit"
        );
    }

    #[test]
    fn a_malformed_mark_makes_no_verify_child_c87() {
        let mut parent = task("a");
        parent.spec.context =
            Some(TaskContext { notes: "[verify-rework-json]%zz".into(), ..TaskContext::default() });
        let made = child(&parent, &inherited());
        assert_eq!(made.spec.title, "[Rework] t");
        assert_eq!(made.spec.context.expect("a context").notes, "[auto-rework] parentTask=uid-a");
    }

    #[test]
    fn names_are_repeatable_short_and_never_meet_those_of_another_parent() {
        let mut parent = task(&"long-name-".repeat(6));
        let first = child(&parent, &inherited());
        assert_eq!(first, child(&parent, &inherited()));
        assert!(first.name_any().len() <= 48, "{}", first.name_any());
        parent.metadata.uid = Some("another".into());
        assert_ne!(first.name_any(), name(&parent));
        let mut child = child(&task("fix"), &inherited());
        assert!(child.name_any().starts_with("fix-rw1-"), "{}", child.name_any());
        child.metadata.uid = Some("uid-child".into());
        assert_eq!(depth(&child), 1);
        assert!(name(&child).starts_with("fix-rw2-"), "{}", name(&child));
    }

    #[test]
    fn lineage_is_in_labels_and_notes_and_the_area_is_derived_anew() {
        let mut parent = task("a");
        parent.spec.target_area = Some("path:src".into());
        parent.spec.touches = vec!["src/a".into()];
        let commands = vec!["cargo test".to_string()];
        let allowed = vec!["src/**".to_string()];
        let made = child(
            &parent,
            &Inherited {
                commands: &commands,
                allowed_paths: &allowed,
                lane: Some("conflict_recovery"),
                ..inherited()
            },
        );
        assert_eq!((made.spec.target_area, made.spec.touches), (None, vec![]));
        assert_eq!(made.spec.allowed_paths, ["src/**", "Cargo.toml", "Cargo.lock"]);
        assert_eq!(made.spec.lane.as_deref(), Some("conflict_recovery"));
        let labels = made.metadata.labels.expect("labels");
        assert_eq!(labels.get(labels::PARENT_UID).map(String::as_str), Some("uid-a"));
        assert_eq!(labels.get(labels::REWORK_DEPTH).map(String::as_str), Some("1"));
        assert!(made.metadata.owner_references.is_none());
    }
}
