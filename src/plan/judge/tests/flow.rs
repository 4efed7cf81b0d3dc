//! From a pushed branch to Done: claim, review, merge, and everything that brings no verdict.

use kube::ResourceExt;

use super::world::{End, World, events};
use crate::crd::condition::is_true;
use crate::crd::judge::JudgeStage;
use crate::crd::task::condition;
use crate::crd::*;
use crate::plan::task::TaskPlan;

const MODEL: End = End::Fails("execution_failed", Some(FailureClass::Model));
const MOVED: End = End::Fails("merge_base_moved", None);

fn pushed() -> World {
    let mut world = World::new();
    world.run("fix", &End::Good);
    world
}

fn approved() -> World {
    let mut world = pushed();
    world.run("fix", &End::Good);
    world
}

#[test]
fn a_pushed_branch_waits_for_a_judge_under_its_key_a7() {
    let world = pushed();
    let status = world.status("fix");
    assert_eq!((status.phase, status.block_reason), (TaskPhase::Blocked, Some(BlockReason::AwaitingJudge)));
    let judge = status.judge.unwrap();
    let run = &world.runs[0];
    assert_eq!((judge.stage, judge.run.as_str()), (JudgeStage::Review, run.name_any().as_str()));
    assert_eq!(Some(judge.run_uid), run.metadata.uid);
    assert_eq!(judge.head_commit, format!("head-{}", run.name_any()));
    assert_eq!((judge.base_branch.as_str(), judge.policy_version.len()), ("main", 16));
    assert!(status.next.is_some());
    assert_eq!(world.wanted("fix"), Some(Purpose::Judge));
}

#[test]
fn without_a_judge_or_a_branch_success_is_done_a9() {
    for (enabled, end) in [(false, End::Good), (true, End::Bad), (false, End::Bad)] {
        let mut world = World::new();
        world.system.spec.judge.enabled = enabled;
        world.run("fix", &end);
        assert_eq!(world.status("fix").phase, TaskPhase::Done, "{enabled} {end:?}");
        assert_eq!(world.status("fix").judge, None);
    }
}

#[test]
fn an_approved_branch_is_merged_and_documented_once_a67() {
    let mut world = approved();
    let judge = world.judge("fix");
    assert_eq!((judge.stage, judge.approved_at), (JudgeStage::Merge, Some(world.now)));
    assert_eq!(events(&world.status("fix"), 2), ["judge.review", "judge.merge_queue_enqueued"]);
    assert_eq!(world.status("fix").block_reason, Some(BlockReason::AwaitingJudge), "T27");
    let run = world.run("fix", &End::Good);
    assert_eq!((run.spec.purpose, run.spec.repository.base_branch.as_str()), (Purpose::Merge, "main"));
    let status = world.status("fix");
    assert_eq!(status.phase, TaskPhase::Done);
    assert_eq!(
        (status.branch.as_str(), status.head_commit.clone()),
        ("main", format!("merge-{}", run.name_any()))
    );
    assert_eq!(events(&status, 2), ["docser.task_created", "judge.merge_queue_merged"]);
    world.settle();
    let follow: Vec<&Task> = world.tasks.values().filter(|t| t.spec.role == Role::Docser).collect();
    assert_eq!(follow.len(), 1);
    assert_eq!(follow[0].spec.title, "Documentation update: t");
    assert_eq!(follow[0].spec.dependencies, ["fix"]);
    assert_eq!(follow[0].spec.target_area.as_deref(), Some("docser:global"));
    // Its own merge is followed by nothing.
    let docs = follow[0].name_any();
    for _ in 0..3 {
        world.run(&docs, &End::Good);
    }
    assert_eq!((world.status(&docs).phase, world.tasks.len()), (TaskPhase::Done, 2));
}

#[test]
fn no_documentation_follows_where_it_is_not_wanted() {
    for change in ["setting", "docs only", "docser"] {
        let mut world = approved();
        match change {
            "setting" => world.system.spec.judge.docser_follow_up = false,
            "docser" => world.tasks.get_mut("fix").unwrap().spec.role = Role::Docser,
            _ => {
                let status = world.tasks.get_mut("fix").unwrap().status.as_mut().unwrap();
                status.judge.as_mut().unwrap().result.as_mut().unwrap().code_files = 0;
            }
        }
        world.run("fix", &End::Good);
        assert_eq!((world.status("fix").phase, world.tasks.len()), (TaskPhase::Done, 1), "{change}");
    }
}

#[test]
fn approved_without_auto_merge_is_done_with_its_branch_named() {
    for late in [false, true] {
        let mut world = if late { approved() } else { pushed() };
        world.system.spec.judge.auto_merge = false;
        if late {
            world.settle();
        } else {
            world.run("fix", &End::Good);
        }
        let status = world.status("fix");
        assert_eq!(status.phase, TaskPhase::Done, "T24");
        assert!(
            status.branch.starts_with("agent/fix-") && status.branch.ends_with("-r1"),
            "{}",
            status.branch
        );
    }
}

#[test]
fn a_judge_that_is_switched_off_leaves_nobody_waiting() {
    for mut world in [pushed(), approved()] {
        world.system.spec.judge.enabled = false;
        world.settle();
        let status = world.status("fix");
        assert_eq!(status.phase, TaskPhase::Done);
        assert!(status.branch.starts_with("agent/") && !status.head_commit.is_empty());
    }
}

#[test]
fn what_the_cluster_or_a_person_spoils_costs_no_verdict() {
    let infra = End::Fails("pod_lost", Some(FailureClass::Infra));
    let quota = End::Fails("quota_failure", Some(FailureClass::Env));
    for end in [End::Cancelled, End::Deleted, infra, quota] {
        for mut world in [pushed(), approved()] {
            let stage = world.judge("fix").stage;
            let first = world.run("fix", &end);
            let (status, judge) = (world.status("fix"), world.judge("fix"));
            assert_eq!(status.block_reason, Some(BlockReason::AwaitingJudge), "{end:?}");
            assert_eq!((judge.stage, status.retries.judge, judge.merge_failures), (stage, 0, 0), "{end:?}");
            assert_eq!(status.retry_at.is_some(), end != End::Cancelled, "{end:?}");
            world.later(100_000);
            world.settle();
            assert_eq!(world.status("fix").retry_at, None);
            let second = world.run("fix", &End::Good);
            assert_ne!(first.name_any(), second.name_any());
            assert_eq!(second.spec.review.unwrap().version, 2);
        }
    }
}

#[test]
fn a_stated_reset_of_the_provider_is_waited_for() {
    let mut world = pushed();
    let run = world.admit("fix");
    let reset = world.now.checked_add(jiff::SignedDuration::from_secs(77)).unwrap();
    world.end(&run.name_any(), &End::Fails("quota_failure", Some(FailureClass::Env)));
    world.runs.last_mut().unwrap().status.as_mut().unwrap().retry_at = Some(reset);
    world.settle();
    let status = world.status("fix");
    assert_eq!((status.retry_at, status.retries.quota), (Some(reset), 1));
    assert_eq!(world.wanted("fix"), None);
}

#[test]
fn a_reviewer_that_keeps_failing_is_asked_a_bounded_number_of_times_q22() {
    let mut world = pushed();
    let mut asked = 0;
    while world.wanted("fix").is_some() {
        world.run("fix", &MODEL);
        asked += 1;
        assert!(asked <= 5, "no end");
        world.later(120);
        world.settle();
    }
    let status = world.status("fix");
    assert_eq!((asked, status.retries.judge, status.retries.failure), (5, 5, 0));
    assert_eq!(status.next.clone().unwrap().kind, NextKind::Operator);
    assert!(is_true(&status.conditions, condition::STALLED));
    assert_eq!(events(&status, 1), ["task.recovery_escalated"]);
    // An edit is one more question.
    world.edit("fix", |task| task.spec.priority = 7);
    world.settle();
    assert_eq!(world.wanted("fix"), Some(Purpose::Judge));
    world.run("fix", &End::Good);
    assert_eq!(world.judge("fix").stage, JudgeStage::Merge);
}

#[test]
fn a_failed_review_waits_for_the_cooldown_a60() {
    let mut world = pushed();
    world.run("fix", &MODEL);
    let status = world.status("fix");
    assert_eq!(events(&status, 1), ["judge.task_requeued"]);
    assert_eq!(status.retry_at, Some(crate::plan::fixtures::at(120)));
    world.later(119);
    assert_eq!(world.wanted("fix"), None);
    world.later(1);
    world.settle();
    assert_eq!(world.wanted("fix"), Some(Purpose::Judge));
    assert_eq!(world.status("fix").next.unwrap().kind, NextKind::Watch);
}

#[test]
fn a_review_that_ends_without_a_verdict_counts_as_failed() {
    let mut world = pushed();
    let run = world.admit("fix");
    world.end(&run.name_any(), &End::Good);
    world.runs.last_mut().unwrap().status.as_mut().unwrap().review = None;
    world.settle();
    assert_eq!(world.status("fix").retries.judge, 1);
    assert!(world.judge("fix").last_error.starts_with("review_no_verdict"));
}

#[test]
fn a_key_has_one_verdict_and_an_answer_to_an_older_question_is_none_a52() {
    let mut world = pushed();
    let first = world.judge("fix").policy_version;
    let run = world.admit("fix");
    world.system.spec.judge.max_lines = 10;
    world.end(&run.name_any(), &End::Bad);
    world.settle();
    let judge = world.judge("fix");
    assert_ne!(judge.policy_version, first);
    assert_eq!((judge.stage, judge.result, world.tasks.len()), (JudgeStage::Review, None, 1));
    let second = world.run("fix", &End::Good);
    assert_eq!(second.spec.review.as_ref().unwrap().policy_version, judge.policy_version);
    assert_eq!(world.judge("fix").stage, JudgeStage::Merge);
    // Back to the first rules: their verdict was given, nobody is asked again.
    world.system.spec.judge.max_lines = 5000;
    world.settle();
    assert_eq!(world.status("fix").block_reason, Some(BlockReason::NeedsRework), "it was a refusal");
    assert_eq!(world.admitted.iter().filter(|p| **p == Purpose::Judge).count(), 2);
}

#[test]
fn an_approval_by_rules_that_no_longer_hold_is_not_merged() {
    let mut world = approved();
    world.edit("fix", |task| task.spec.denied_paths = vec!["src/secret/**".into()]);
    world.settle();
    assert_eq!((world.judge("fix").stage, world.judge("fix").approved_at), (JudgeStage::Review, None));
    let run = world.run("fix", &End::Good);
    assert_eq!(run.spec.inputs.denied_paths, ["src/secret/**"]);
    assert_eq!(world.judge("fix").stage, JudgeStage::Merge);
}

#[test]
fn a_run_of_an_older_question_that_was_never_marked_does_not_block_the_name() {
    let mut world = pushed();
    let mut orphan = crate::plan::fixtures::review_run_of(&world.tasks["fix"], &world.system, Purpose::Judge);
    world.system.spec.judge.max_files = 7;
    world.settle();
    orphan.status = Some(RunStatus { phase: RunPhase::Cancelled, ..RunStatus::default() });
    world.runs.push(orphan);
    world.settle();
    let run = world.run("fix", &End::Good);
    assert!(run.name_any().ends_with("-j2"), "{}", run.name_any());
}

#[test]
fn a_new_attempt_is_a_new_question() {
    let mut world = pushed();
    world.run("fix", &End::Bad);
    let child = world.judge("fix").follow_up;
    world.edit(&child, |task| task.spec.cancel = true);
    world.settle();
    assert_eq!(world.status("fix").next.unwrap().kind, NextKind::Operator);
    world.edit("fix", |task| task.spec.goal = "g, but better".into());
    world.settle();
    assert_eq!(world.wanted("fix"), Some(Purpose::Execute));
    world.run("fix", &End::Good);
    let judge = world.judge("fix");
    assert!(judge.run.ends_with("-r2") && judge.stage == JudgeStage::Review && judge.result.is_none());
    assert_eq!((judge.reviews, judge.auto_fixes), (0, 1), "what it has cost stays");
}

#[test]
fn a_cancelled_task_is_cancelled_at_every_stage() {
    for mut world in [pushed(), approved()] {
        world.edit("fix", |task| task.spec.cancel = true);
        world.settle();
        assert_eq!(world.status("fix").phase, TaskPhase::Cancelled);
    }
    let mut world = pushed();
    let run = world.admit("fix");
    world.edit("fix", |task| task.spec.cancel = true);
    world.end(&run.name_any(), &End::Bad);
    world.settle();
    assert_eq!((world.status("fix").phase, world.tasks.len()), (TaskPhase::Cancelled, 1));
}

#[test]
fn a_lost_race_to_the_base_is_run_again_after_the_delay_a56() {
    let mut world = approved();
    world.run("fix", &MOVED);
    let status = world.status("fix");
    assert_eq!(status.retry_at, Some(crate::plan::fixtures::at(30)), "A59's delay");
    assert_eq!(events(&status, 1), ["judge.merge_queue_retried"]);
    assert_eq!((world.judge("fix").stage, world.judge("fix").merge_failures), (JudgeStage::Merge, 1));
    world.later(30);
    world.settle();
    world.run("fix", &End::Good);
    assert_eq!(world.status("fix").phase, TaskPhase::Done);
}

#[test]
fn a_merge_that_is_never_reached_goes_the_way_of_a_conflict_a57() {
    let mut world = approved();
    for _ in 0..3 {
        world.run("fix", &MOVED);
        world.later(30);
        world.settle();
    }
    let status = world.status("fix");
    assert_eq!(status.block_reason, Some(BlockReason::NeedsRework));
    assert_eq!(events(&status, 2), ["judge.merge_queue_failed", "judge.conflict_autofix_task_created"]);
}

#[test]
fn a_protected_base_is_for_a_person_and_is_merged_once_he_has_acted() {
    let mut world = approved();
    world.run("fix", &End::Fails("merge_refused", None));
    let next = world.status("fix").next.unwrap();
    assert_eq!(next.kind, NextKind::Operator);
    assert!(next.detail.contains("main") && next.detail.contains("by hand"), "{}", next.detail);
    assert_eq!(world.wanted("fix"), None);
    world.edit("fix", |task| task.spec.priority = 1);
    world.settle();
    assert_eq!(world.wanted("fix"), Some(Purpose::Merge), "the verdict stands");
    world.run("fix", &End::Good);
    assert_eq!(world.status("fix").phase, TaskPhase::Done);
}

#[test]
fn a_merge_that_fails_for_an_unknown_reason_ends_with_a_person() {
    let mut world = approved();
    for left in [2, 1, 0] {
        world.run("fix", &End::Fails("execution_failed", Some(FailureClass::Model)));
        world.later(30);
        world.settle();
        assert_eq!(world.wanted("fix").is_some(), left > 0);
    }
    assert_eq!(world.status("fix").next.unwrap().kind, NextKind::Operator);
}

#[test]
fn awaiting_without_a_question_is_asked_about_what_was_pushed_last_c90() {
    let mut world = pushed();
    world.tasks.get_mut("fix").unwrap().status.as_mut().unwrap().judge = None;
    world.settle();
    assert_eq!(world.judge("fix").stage, JudgeStage::Review, "RB21");
    // Without anything to ask about it is done anew, once (H13, H21).
    world.tasks.get_mut("fix").unwrap().status.as_mut().unwrap().judge = None;
    world.runs.clear();
    world.settle();
    assert_eq!(world.wanted("fix"), Some(Purpose::Execute), "RB22");
}

#[test]
fn waiting_changes_nothing_and_always_says_when_it_looks_again() {
    for world in [pushed(), approved()] {
        match world.plan("fix") {
            TaskPlan::Wait { until: Some(at) } => assert!(at > world.now),
            other => panic!("{other:?}"),
        }
    }
}

/// Repository mode `GitHub`: open checks cost nothing and are asked about later and later.
#[test]
fn checks_that_are_not_over_are_waited_for_at_no_cost_q18() {
    for mut world in [pushed(), approved()] {
        let (before, stage) = (world.status("fix").retries, world.judge("fix").stage);
        let mut waits = Vec::new();
        for _ in 0..8 {
            world.run("fix", &End::Fails("checks_pending", None));
            let status = world.status("fix");
            let wait = status.retry_at.unwrap().duration_since(world.now).as_secs();
            waits.push(wait);
            assert_eq!(status.retries, before);
            assert_eq!((world.judge("fix").stage, world.judge("fix").merge_failures), (stage, 0));
            assert_eq!(world.wanted("fix"), None);
            world.later(wait);
            world.settle();
        }
        assert_eq!(waits, [30, 60, 120, 240, 480, 600, 600, 600]);
        world.run("fix", &End::Good);
        assert_ne!(world.judge("fix").stage, stage, "the wait ends");
    }
}

#[test]
fn a_pull_request_that_a_person_has_merged_is_done_and_a_closed_one_asks_a_person() {
    for mut closed in [pushed(), approved()] {
        let stage = closed.judge("fix").stage;
        closed.run("fix", &End::Fails("pull_request_closed", None));
        let status = closed.status("fix");
        assert_eq!(
            (status.phase, status.block_reason),
            (TaskPhase::Blocked, Some(BlockReason::AwaitingJudge))
        );
        assert!(is_true(&status.conditions, condition::STALLED), "a person is asked at {stage:?}");
        assert_eq!(closed.wanted("fix"), None);
    }
    let mut world = pushed();
    world.run("fix", &End::Fails("pull_request_merged", None));
    assert_eq!((world.status("fix").phase, world.status("fix").branch.as_str()), (TaskPhase::Done, "main"));
}
