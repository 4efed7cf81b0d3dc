//! The Tasks that mend refused or conflicting work, and the caps on them.

use kube::ResourceExt;

use super::world::{End, World, events};
use crate::crd::condition::is_true;
use crate::crd::judge::JudgeStage;
use crate::crd::system::RepositoryMode;
use crate::crd::task::{Retries, RiskLevel, condition};
use crate::crd::*;

fn refused() -> World {
    let mut world = World::new();
    world.run("fix", &End::Good);
    world.run("fix", &End::Bad);
    world
}

fn conflicting() -> World {
    let mut world = World::new();
    world.run("fix", &End::Good);
    world.run("fix", &End::Good);
    world.run("fix", &End::Bad);
    world
}

/// Lets the Task that `fix` waits for go through these Runs; returns its name.
fn child_runs(world: &mut World, ends: &[End]) -> String {
    let child = world.judge("fix").follow_up;
    for end in ends {
        world.run(&child, end);
    }
    child
}

#[test]
fn a_refused_change_is_mended_by_a_task_that_starts_from_its_branch_a54() {
    let world = refused();
    let (status, judge) = (world.status("fix"), world.judge("fix"));
    assert_eq!((status.phase, status.block_reason), (TaskPhase::Blocked, Some(BlockReason::NeedsRework)));
    let next = status.next.clone().unwrap();
    assert_eq!(next.kind, NextKind::Watch);
    assert!(next.detail.starts_with(&format!("waits for {}", judge.follow_up)), "{}", next.detail);
    assert_eq!(events(&status, 2), ["judge.review", "judge.autofix_task_created"]);
    assert_eq!(
        (status.retry_at, status.retries),
        (None, Retries::default()),
        "no second clock (H11), no cost"
    );
    let child = &world.tasks[&judge.follow_up];
    assert_eq!(child.spec.title, "[AutoFix] fix (attempt 1/3)");
    assert_eq!((child.spec.priority, child.spec.risk_level), (80, RiskLevel::Medium));
    assert_eq!(
        (child.spec.lane.as_deref(), child.spec.timebox.0.as_str()),
        (Some("conflict_recovery"), "1h")
    );
    assert_eq!(child.spec.base_branch, Some(judge.branch.clone()));
    assert_eq!(child.spec.allowed_paths, ["src/**"]);
    assert_eq!(
        (&child.spec.commands, &child.spec.touches),
        (&vec!["make test".into()], &vec!["src/a.rs".into()])
    );
    assert_eq!(child.annotations()[labels::REPLACES], judge.branch);
    let context = child.spec.context.clone().unwrap();
    assert_eq!(context.files, ["src/a.rs"]);
    assert!(context.notes.contains("returns the wrong sign") && child.spec.goal.ends_with("\ng"));
    for (label, value) in
        [(labels::PARENT, "fix"), (labels::PARENT_UID, "uid-fix"), (labels::ORIGIN, "autofix")]
    {
        assert_eq!(child.labels()[label], value);
    }
    assert!(child.metadata.owner_references.is_none());
}

#[test]
fn a_source_is_left_alone_while_its_mending_task_is_active_c89() {
    let mut world = refused();
    for _ in 0..3 {
        world.later(100_000);
        world.settle();
        assert_eq!(world.wanted("fix"), None);
        assert_eq!(world.judge("fix").auto_fixes, 1);
    }
}

#[test]
fn the_mending_task_is_merged_into_the_base_of_its_source_which_is_then_done() {
    let mut world = refused();
    let child = child_runs(&mut world, &[End::Good, End::Good]);
    assert_eq!(world.judge(&child).base_branch, "main", "not the branch it started from");
    assert_ne!(world.status("fix").phase, TaskPhase::Done, "not before the work is in the base");
    let merge = world.run(&child, &End::Good);
    assert_eq!(merge.spec.repository.base_branch, "main");
    let (source, child) = (world.status("fix"), world.status(&child));
    assert_eq!((source.phase, child.phase), (TaskPhase::Done, TaskPhase::Done));
    assert_eq!((&source.branch, &source.head_commit), (&"main".to_string(), &child.head_commit));
    assert_eq!(events(&source, 2), ["docser.task_created", "task.done"], "once, for the source (A67)");
    assert_eq!(world.tasks.len(), 3);
}

#[test]
fn the_mending_task_goes_where_its_source_would_have_gone() {
    let mut world = World::new();
    world.tasks.get_mut("fix").unwrap().spec.base_branch = Some("release/1.2".into());
    world.run("fix", &End::Good);
    world.run("fix", &End::Bad);
    let child = child_runs(&mut world, &[End::Good]);
    assert_eq!(world.judge(&child).base_branch, "release/1.2");
    assert_eq!(world.admit(&child).spec.repository.base_branch, "release/1.2");
}

#[test]
fn a_refused_mending_task_ends_and_the_next_starts_from_what_it_pushed() {
    let mut world = refused();
    world.findings = vec!["src/b.rs: still wrong".into()];
    let first = child_runs(&mut world, &[End::Good, End::Bad]);
    let ended = world.status(&first);
    assert_eq!(ended.phase, TaskPhase::Cancelled);
    assert_eq!(ended.transitions.last().unwrap().reason, "autofix_needs_rework_suppressed");
    let second = world.judge("fix").follow_up;
    assert_ne!(first, second);
    let task = &world.tasks[&second];
    assert_eq!(task.spec.title, "[AutoFix] fix (attempt 2/3)");
    assert_eq!(task.spec.base_branch, Some(ended.branch));
    assert_eq!(task.spec.touches, ["src/b.rs"]);
}

#[test]
fn the_cap_on_mending_tasks_holds_for_every_caller_q21() {
    let mut world = refused();
    for _ in 0..3 {
        child_runs(&mut world, &[End::Good, End::Bad]);
    }
    let status = world.status("fix");
    assert_eq!((world.tasks.len(), world.judge("fix").auto_fixes), (4, 3));
    assert_eq!(status.block_reason, Some(BlockReason::NeedsRework));
    let next = status.next.clone().unwrap();
    assert_eq!(next.kind, NextKind::Operator);
    assert!(next.detail.contains("limit of 3") && next.detail.contains("wrong sign"), "{}", next.detail);
    assert!(is_true(&status.conditions, condition::STALLED));
    // An edit is one more attempt, and not three more mending Tasks.
    world.edit("fix", |task| task.spec.goal = "better".into());
    world.settle();
    world.run("fix", &End::Good);
    world.run("fix", &End::Bad);
    assert_eq!((world.tasks.len(), world.wanted("fix")), (4, None));
}

#[test]
fn without_mending_tasks_a_refusal_is_for_a_person() {
    let mut world = World::new();
    world.system.spec.judge.auto_fix_max_attempts = 0;
    world.run("fix", &End::Good);
    world.run("fix", &End::Bad);
    assert_eq!((world.tasks.len(), world.status("fix").next.unwrap().kind), (1, NextKind::Operator));
    assert_eq!(world.status("fix").last_failure.unwrap().code, "review_refused", "the next attempt is told");
}

#[test]
fn a_reviewer_that_loops_a_third_time_has_refused_a55() {
    let mut world = World::new();
    world.run("fix", &End::Good);
    for _ in 0..2 {
        world.run("fix", &End::Fails("model_doom_loop", Some(FailureClass::ModelLoop)));
        assert!(world.judge("fix").follow_up.is_empty());
        world.later(120);
        world.settle();
    }
    world.run("fix", &End::Fails("model_doom_loop", Some(FailureClass::ModelLoop)));
    assert!(world.tasks[&world.judge("fix").follow_up].spec.title.starts_with("[AutoFix]"));
    assert_eq!(world.status("fix").retries.judge, 3);
}

#[test]
fn a_conflict_is_resolved_on_top_of_the_base_by_a_task_that_may_change_everything() {
    let world = conflicting();
    let judge = world.judge("fix");
    let child = &world.tasks[&judge.follow_up];
    assert_eq!(child.spec.title, "[AutoFix-Conflict] fix (attempt 1/3)");
    assert_eq!((child.spec.priority, child.spec.risk_level), (90, RiskLevel::Medium));
    assert_eq!(child.spec.lane.as_deref(), Some("conflict_recovery"));
    assert_eq!(child.spec.target_area, Some(format!("conflict:{}", judge.branch)));
    assert_eq!(
        (&child.spec.allowed_paths, child.spec.base_branch.as_deref()),
        (&vec!["**".into()], Some("main"))
    );
    assert!(child.spec.context.clone().unwrap().notes.contains(&judge.branch));
    assert_eq!(
        events(&world.status("fix"), 2),
        ["judge.merge_queue_failed", "judge.conflict_autofix_task_created"]
    );
}

#[test]
fn a_conflict_that_is_none_any_more_is_merged_a10() {
    let mut world = conflicting();
    let branch = world.judge("fix").branch;
    child_runs(&mut world, &[End::Bad]);
    assert_eq!((world.wanted("fix"), world.judge("fix").branch), (Some(Purpose::Merge), branch));
    let run = world.run("fix", &End::Good);
    assert!(run.name_any().ends_with("-m2"));
    assert_eq!(world.status("fix").phase, TaskPhase::Done);
}

#[test]
fn a_mending_task_that_changes_nothing_has_not_mended_a_refusal() {
    let mut world = refused();
    let first = child_runs(&mut world, &[End::Bad]);
    assert_eq!(world.status(&first).phase, TaskPhase::Done);
    assert_eq!((world.judge("fix").auto_fixes, world.status("fix").phase), (2, TaskPhase::Blocked));
}

#[test]
fn conflicting_work_is_begun_anew_once_the_cap_is_reached_a58() {
    let mut world = conflicting();
    for _ in 0..3 {
        let child = child_runs(&mut world, &[End::Good, End::Good, End::Bad]);
        let reason = world.status(&child).transitions.last().unwrap().reason.clone();
        assert_eq!(reason, "conflict_autofix_needs_rework_suppressed", "C88");
    }
    let status = world.status("fix");
    assert_eq!((status.phase, world.judge("fix").conflict_fixes), (TaskPhase::Cancelled, 3));
    let anew = status.superseded_by.clone();
    assert_eq!(events(&status, 1), ["judge.mainline_recreate_task_created"]);
    let task = &world.tasks[&anew];
    assert_eq!((task.spec.title.as_str(), task.spec.priority), ("[Recreate-From-Main] fix (attempt 1)", 85));
    assert_eq!((&task.spec.allowed_paths, &task.spec.base_branch), (&vec!["src/**".into()], &None));
    assert_eq!(task.spec.goal, "g");
    // Its own branch, and that of each attempt to solve the conflict.
    assert_eq!(task.annotations()[labels::REPLACES].lines().count(), 4);
    // It may be begun anew so often only.
    let mut at = anew;
    for end in [&End::Good, &End::Good, &End::Bad] {
        world.run(&at, end);
    }
    for _ in 0..3 {
        let child = world.judge(&at).follow_up;
        for end in [&End::Good, &End::Good, &End::Bad] {
            world.run(&child, end);
        }
    }
    assert_eq!(world.status(&at).next.unwrap().kind, NextKind::Operator);
    world.system.spec.judge.recreate_max_attempts = 2;
    world.edit(&at, |task| task.spec.goal = "better".into());
    world.settle();
    for end in [&End::Good, &End::Good, &End::Bad] {
        world.run(&at, end);
    }
    at = world.status(&at).superseded_by;
    assert_eq!(world.tasks[&at].labels()[labels::RECREATED], "2");
}

#[test]
fn an_approved_mending_task_that_conflicts_leads_to_a_conflict_task() {
    let mut world = refused();
    let child = child_runs(&mut world, &[End::Good, End::Good, End::Bad]);
    assert_eq!(world.status(&child).phase, TaskPhase::Cancelled);
    let judge = world.judge("fix");
    assert_eq!((judge.auto_fixes, judge.conflict_fixes), (1, 1));
    let next = &world.tasks[&judge.follow_up];
    assert!(next.spec.title.starts_with("[AutoFix-Conflict]"));
    assert_eq!(next.spec.target_area, Some(format!("conflict:{}", world.status(&child).branch)));
}

#[test]
fn a_person_who_cancels_a_mending_task_is_asked_and_not_answered_with_another_one() {
    let mut world = refused();
    let child = world.judge("fix").follow_up;
    world.edit(&child, |task| task.spec.cancel = true);
    world.settle();
    assert_eq!((world.tasks.len(), world.status("fix").next.unwrap().kind), (2, NextKind::Operator));
}

#[test]
fn a_mending_task_whose_work_another_one_carries_on_takes_its_source_along() {
    let mut world = refused();
    let child = world.judge("fix").follow_up;
    let status = world.tasks.get_mut(&child).unwrap().status.as_mut().unwrap();
    (status.phase, status.superseded_by) = (TaskPhase::Cancelled, "rework".into());
    world.settle();
    assert_eq!((world.status("fix").phase, world.status("fix").superseded_by), (TaskPhase::Cancelled, child));
}

#[test]
fn a_mending_task_is_made_once_and_made_again_when_it_is_deleted() {
    let mut world = refused();
    let child = world.judge("fix").follow_up;
    let task = world.tasks.remove(&child).unwrap();
    world.settle();
    assert_eq!(world.tasks[&child].spec, task.spec, "the very same");
    assert_eq!((world.tasks.len(), world.judge("fix").auto_fixes), (2, 1));
}

#[test]
fn a_mending_task_cancelled_by_recovery_costs_the_next_one() {
    let mut world = refused();
    let child = world.judge("fix").follow_up;
    world.tasks.get_mut(&child).unwrap().status.as_mut().unwrap().phase = TaskPhase::Cancelled;
    world.settle();
    assert_eq!(world.judge("fix").auto_fixes, 2);
    assert_ne!(world.judge("fix").follow_up, child);
}

#[test]
fn an_unmerged_mending_task_is_where_its_source_ends_too() {
    let mut world = refused();
    world.system.spec.judge.auto_merge = false;
    let child = child_runs(&mut world, &[End::Good, End::Good]);
    assert_eq!(world.status("fix").phase, TaskPhase::Done);
    assert_eq!(world.status("fix").branch, world.status(&child).branch);
    assert_eq!(world.tasks.len(), 2, "what is not merged is not documented");
}

#[test]
fn children_of_tasks_with_the_largest_inputs_are_within_the_schema() {
    let mut world = World::new();
    let task = world.tasks.get_mut("fix").unwrap();
    task.spec.goal = "ä".repeat(16_384);
    task.spec.title = "t".repeat(200);
    task.spec.context =
        Some(crate::crd::task::TaskContext { notes: "n".repeat(16_384), ..Default::default() });
    let effective = crate::crd::task::Effective {
        allowed_paths: Some((0..400).map(|n| format!("src/{n}/**")).collect()),
        ..Default::default()
    };
    let status = world.tasks.get_mut("fix").unwrap().status.as_mut().unwrap();
    (status.effective, status.observed_generation) = (Some(effective), 1);
    world.findings =
        ["/etc/x.conf:1: m", "../up.rs: m", "src/a.rs: m", "src/a.rs:2: m"].map(String::from).to_vec();
    world.system.spec.repository.branch_prefix = "p".repeat(200);
    world.run("fix", &End::Good);
    world.tasks.get_mut("fix").unwrap().status.as_mut().unwrap().judge.as_mut().unwrap().branch =
        "b".repeat(300);
    world.run("fix", &End::Bad);
    let spec = &world.tasks[&world.judge("fix").follow_up].spec;
    assert!(spec.title.chars().count() <= 200 && spec.goal.chars().count() <= 16_384);
    assert_eq!(
        (spec.allowed_paths.len(), spec.touches.as_slice()),
        (200, ["src/a.rs".to_string()].as_slice())
    );
    assert_eq!(spec.base_branch, None, "a branch that no Task can name");
    assert_eq!(world.judge("fix").stage, JudgeStage::Settled);
}

#[test]
fn what_mends_the_mended_takes_the_place_of_both_and_keeps_the_issue() {
    let mut world = World::new();
    world.system.spec.repository.mode = RepositoryMode::GitHub;
    world.edit("fix", |task| {
        let issue = crate::crd::task::IssueRef { number: 7, ..Default::default() };
        task.spec.context.get_or_insert_default().issue = Some(issue);
    });
    world.run("fix", &End::Good);
    let own = world.judge("fix").branch;
    world.run("fix", &End::Bad);
    let first = child_runs(&mut world, &[End::Good, End::Bad]);
    let second = world.judge("fix").follow_up;
    let task = &world.tasks[&second];
    let branches: Vec<&str> = task.annotations()[labels::REPLACES].lines().collect();
    assert_eq!(branches, [own.as_str(), world.status(&first).branch.as_str()]);
    let issue = task.spec.context.as_ref().and_then(|context| context.issue.clone());
    assert_eq!(issue.map(|issue| issue.number), Some(7));
    let branches: Vec<String> = branches.into_iter().map(String::from).collect();
    world.run(&second, &End::Good);
    assert_eq!(world.admit(&second).spec.review.unwrap().replaces, branches);
}

#[test]
fn a_new_attempt_takes_the_place_of_what_the_one_before_it_has_pushed() {
    let mut world = World::new();
    world.system.spec.repository.mode = RepositoryMode::GitHub;
    world.system.spec.judge.auto_fix_max_attempts = 0;
    world.run("fix", &End::Good);
    let first = world.judge("fix").branch;
    world.run("fix", &End::Bad);
    world.edit("fix", |task| task.spec.goal = "better".into());
    world.settle();
    world.run("fix", &End::Good);
    let judge = world.judge("fix");
    assert_ne!(judge.branch, first);
    assert_eq!(judge.replaced, std::slice::from_ref(&first));
    assert_eq!(world.admit("fix").spec.review.unwrap().replaces, [first]);
}
