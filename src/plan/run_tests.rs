//! Decisions about a Run, case by case.

use kube::ResourceExt;

use super::fixtures::*;
use super::run::*;
use super::verdict::{code, of_lost_pod, of_pod};
use crate::crd::run::condition::POD_STARTED;
use crate::crd::run::{AgentSession, CommandOutcome, CommandSource, VerificationReport};
use crate::crd::wire::{ContainerResult, Outcome, container};
use crate::crd::*;

fn decide(run: &Run, task: Option<&Task>, system: Option<&System>, pod: PodView, secs: i64) -> RunPlan {
    plan_run(&Observed { run, task, system, pod, refusal: None, cancel: None, now: at(secs) })
}

fn finish(plan: RunPlan) -> super::verdict::Verdict {
    match plan {
        RunPlan::Finish(verdict) => *verdict,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_claimed_run_of_an_armed_system_gets_its_pod() {
    let (task, run) = running("a");
    assert_eq!(decide(&run, Some(&task), Some(&system()), PodView::Unseen, 0), RunPlan::CreatePod);
}

#[test]
fn a_run_that_its_task_has_not_claimed_yet_waits() {
    let task = task("a");
    let run = run_of(&task);
    let plan = decide(&run, Some(&task), Some(&system()), PodView::Unseen, 0);
    assert_eq!(plan, RunPlan::Wait { until: None, show: None });
}

#[test]
fn a_run_whose_task_went_on_never_gets_a_pod() {
    let (mut task, run) = running("a");
    let status = task.status.as_mut().unwrap();
    status.phase = TaskPhase::Done;
    status.current_run = String::new();
    let verdict = finish(decide(&run, Some(&task), Some(&system()), PodView::Unseen, 0));
    assert_eq!((verdict.phase, verdict.class), (RunPhase::Cancelled, None));
    let pod = pod_of(&run);
    let plan = decide(&run, Some(&task), Some(&system()), PodView::Present(&pod), 0);
    assert!(matches!(plan, RunPlan::DeletePod { .. }), "{plan:?}");
}

#[test]
fn a_hatch_that_closes_before_the_pod_cancels_at_no_cost() {
    let (task, run) = running("a");
    let mut disarmed = system();
    disarmed.status.as_mut().unwrap().hatch.state = HatchState::Disarmed;
    for system in [Some(&disarmed), None] {
        let verdict = finish(decide(&run, Some(&task), system, PodView::Unseen, 0));
        assert_eq!((verdict.phase, verdict.class), (RunPhase::Cancelled, None));
    }
    let pod = pod_of(&run);
    let plan = decide(&run, Some(&task), Some(&disarmed), PodView::Present(&pod), 5);
    assert_eq!(plan, RunPlan::Wait { until: None, show: None }, "running Pods finish");
}

#[test]
fn spec_cancel_ends_the_pod_first_and_the_run_when_it_is_gone() {
    let (mut task, run) = running("a");
    task.spec.cancel = true;
    let mut pod = pod_of(&run);
    let plan = decide(&run, Some(&task), Some(&system()), PodView::Present(&pod), 5);
    assert!(matches!(plan, RunPlan::DeletePod { .. }));
    pod.deleted = Some(at(35));
    let plan = decide(&run, Some(&task), Some(&system()), PodView::Present(&pod), 6);
    assert!(matches!(plan, RunPlan::Wait { .. }), "not terminal while its Pod lives: {plan:?}");
    assert_eq!(
        finish(decide(&run, Some(&task), Some(&system()), PodView::Gone(&pod), 36)).phase,
        RunPhase::Cancelled
    );
}

#[test]
fn a_pod_that_is_not_confirmed_gone_is_waited_for_and_shown() {
    let (task, run) = running("a");
    let mut pod = pod_of(&run);
    pod.deleted = Some(at(0));
    let plan = decide(&run, Some(&task), Some(&system()), PodView::Present(&pod), 31);
    let RunPlan::Wait { until: None, show: Some(shown) } = plan else { panic!("{plan:?}") };
    assert_eq!(shown.reason, reason::TERMINATING);
    assert!(shown.message.contains("node-1"));
}

#[test]
fn an_image_that_cannot_be_pulled_is_shown_after_ten_seconds_and_given_up_as_infra() {
    let (task, run) = running("a");
    let mut pod = pod_of(&run);
    pod.phase = PodPhase::Pending;
    pod.containers = vec![ContainerFacts {
        name: container::CHECKOUT.into(),
        state: ContainerState::Waiting {
            reason: "ImagePullBackOff".into(),
            message: "no such image x".into(),
        },
    }];
    let view = PodView::Present(&pod);
    let sys = system();
    assert_eq!(
        decide(&run, Some(&task), Some(&sys), view, 1),
        RunPlan::Wait { until: Some(at(10)), show: None }
    );
    let RunPlan::Wait { until, show: Some(shown) } = decide(&run, Some(&task), Some(&sys), view, 11) else {
        panic!("not shown")
    };
    assert_eq!(until, Some(at(45)));
    assert!(shown.message.contains("no such image x"), "{}", shown.message);
    assert_eq!(shown.reason, reason::CONTAINER_WAITING, "another kind than a start that takes its time");
    assert!(matches!(decide(&run, Some(&task), Some(&sys), view, 46), RunPlan::DeletePod { .. }));
    let verdict = finish(decide(&run, Some(&task), Some(&sys), PodView::Gone(&pod), 47));
    assert_eq!(verdict.class, Some(FailureClass::Infra));
    assert_eq!(verdict.code, code::POD_NOT_STARTED);
    assert!(verdict.summary.contains("no such image x"), "{}", verdict.summary);
}

#[test]
fn a_slow_start_that_was_shown_is_shown_as_over() {
    let (task, mut run) = running("a");
    let mut pod = pod_of(&run);
    pod.containers = vec![ContainerFacts {
        name: container::AGENT.into(),
        state: ContainerState::Running { started: Some(at(12)) },
    }];
    let sys = system();
    let view = PodView::Present(&pod);
    assert_eq!(
        decide(&run, Some(&task), Some(&sys), view, 13),
        RunPlan::Wait { until: None, show: None },
        "nothing was shown"
    );
    let mut status = crate::crd::RunStatus::default();
    let shown = (POD_STARTED, reason::STARTING);
    crate::crd::set_condition(&mut status.conditions, shown.0, false, shown.1, "slow", 1, at(10));
    run.status = Some(status.clone());
    assert_eq!(decide(&run, Some(&task), Some(&sys), view, 13), RunPlan::ShowStarted);
    crate::crd::set_condition(&mut status.conditions, shown.0, true, reason::STARTED, "", 1, at(13));
    run.status = Some(status);
    assert_eq!(decide(&run, Some(&task), Some(&sys), view, 14), RunPlan::Wait { until: None, show: None });
}

#[test]
fn a_pod_ended_because_it_did_not_start_says_why_and_costs_nothing() {
    let (task, mut run) = running("a");
    let mut status = crate::crd::RunStatus::default();
    let why = "container agent: ImagePullBackOff: no such image x";
    let conditions = &mut status.conditions;
    crate::crd::set_condition(conditions, POD_STARTED, false, reason::CONTAINER_WAITING, why, 1, at(10));
    run.status = Some(status);
    let never_ran =
        Terminated { exit_code: 137, reason: "ContainerStatusUnknown".into(), ..Terminated::default() };
    let stopped = Terminated {
        exit_code: 1,
        message: ContainerResult::new(Outcome::Cancelled).to_message(),
        ..Terminated::default()
    };
    // `publish` waits for the agent and may have the time to say that it was stopped, or not.
    for publish in [stopped, never_ran.clone()] {
        let mut pod = pod_of(&run);
        pod.phase = PodPhase::Failed;
        pod.deleted = Some(at(45));
        pod.containers = [(container::AGENT, never_ran.clone()), (container::PUBLISH, publish)]
            .map(|(name, end)| ContainerFacts {
                name: name.into(),
                state: ContainerState::Terminated(Box::new(end)),
            })
            .into();
        let view = PodView::Present(&pod);
        let verdict = finish(decide(&run, Some(&task), Some(&system()), view, 50));
        assert_eq!(
            (verdict.class, verdict.code.as_str()),
            (Some(FailureClass::Infra), code::POD_NOT_STARTED)
        );
        assert!(verdict.summary.contains("no such image x"), "{}", verdict.summary);
    }
}

#[test]
fn a_slow_start_is_given_the_whole_startup_timeout() {
    let (task, mut run) = running("a");
    run.spec.limits.startup_timeout = GoDuration("2m".into());
    let mut pod = pod_of(&run);
    pod.phase = PodPhase::Pending;
    pod.node = String::new();
    pod.containers = Vec::new();
    pod.unschedulable = Some("Unschedulable: 0/3 nodes are available".into());
    let view = PodView::Present(&pod);
    let plan = decide(&run, Some(&task), Some(&system()), view, 60);
    let RunPlan::Wait { until, show: Some(shown) } = plan else { panic!("{plan:?}") };
    assert_eq!((until, shown.reason), (Some(at(120)), reason::UNSCHEDULABLE));
    assert!(matches!(decide(&run, Some(&task), Some(&system()), view, 121), RunPlan::DeletePod { .. }));
}

#[test]
fn a_refused_pod_is_tried_until_the_startup_timeout_and_costs_nothing() {
    let (task, run) = running("a");
    let sys = system();
    let refusal = Some("exceeded quota: pods=10");
    let plan = |secs| {
        plan_run(&Observed {
            run: &run,
            task: Some(&task),
            system: Some(&sys),
            pod: PodView::Unseen,
            refusal,
            cancel: None,
            now: at(secs),
        })
    };
    assert_eq!(plan(100), RunPlan::CreatePod);
    let verdict = finish(plan(901));
    assert_eq!(verdict.class, Some(FailureClass::Infra));
    assert!(verdict.summary.contains("exceeded quota"));
    assert_eq!(refused(&run, "x", at(9)), None);
    assert_eq!(refused(&run, "x", at(10)).unwrap().reason, reason::POD_REFUSED);
}

#[test]
fn an_ended_run_keeps_its_verdict_and_only_cleans_up() {
    let (task, mut run) = running("a");
    let pod = pod_with(&run, &ContainerResult::new(Outcome::Success));
    let verdict = finish(decide(&run, Some(&task), Some(&system()), PodView::Present(&pod), 30));
    run.status = Some(verdict.status(&run, 1));
    let again = decide(&run, Some(&task), Some(&system()), PodView::Present(&pod), 31);
    assert_eq!(again, RunPlan::CleanUp);
    assert_eq!(decide(&run, Some(&task), Some(&system()), PodView::Gone(&pod), 32), RunPlan::Nothing);
}

#[test]
fn a_run_without_its_task_only_removes_the_pod() {
    let (_, run) = running("a");
    let pod = pod_of(&run);
    assert!(matches!(
        decide(&run, None, Some(&system()), PodView::Present(&pod), 0),
        RunPlan::DeletePod { .. }
    ));
    assert_eq!(decide(&run, None, Some(&system()), PodView::Unseen, 0), RunPlan::Nothing);
}

#[test]
fn the_result_of_publish_is_the_verdict() {
    let (_, run) = running("a");
    let mut success = ContainerResult::new(Outcome::Success);
    success.branch = Some("agent/a".into());
    success.head = Some("abc".into());
    let verdict = of_pod(&run, &pod_with(&run, &success), false, at(30));
    assert_eq!(
        (verdict.phase, verdict.branch.as_str(), verdict.head.as_str()),
        (RunPhase::Success, "agent/a", "abc")
    );
    assert_eq!((verdict.started, verdict.finished), (Some(at(1)), at(20)));

    let table = [
        (Outcome::NeedsRework, "verification_command_failed", FailureClass::Test),
        (Outcome::NeedsRework, "policy_violation", FailureClass::Policy),
        (Outcome::Failed, "model_doom_loop", FailureClass::ModelLoop),
        (Outcome::QuotaWait, "quota_failure", FailureClass::Env),
        (Outcome::Infra, "infrastructure_fault", FailureClass::Infra),
        (Outcome::Cancelled, "", FailureClass::Model),
    ];
    for (outcome, code, class) in table {
        let result = ContainerResult::failure(outcome, code, "why");
        let verdict = of_pod(&run, &pod_with(&run, &result), false, at(30));
        assert_eq!((verdict.phase, verdict.class), (RunPhase::Failed, Some(class)), "{outcome:?}");
    }
}

/// What the API server would refuse to keep must not stop the Run from ending.
#[test]
fn what_a_container_says_of_itself_is_kept_within_the_bounds_of_the_status() {
    let (_, run) = running("a");
    let mut said = ContainerResult::new(Outcome::Success);
    said.session = Some(AgentSession { id: "s".repeat(64), turns: 3 });
    said.prompt_hash = "0a".repeat(32);
    let mut report = VerificationReport { repairs: 1, ..VerificationReport::default() };
    report.add("make test", CommandSource::Explicit, CommandOutcome::Passed, 2);
    said.verification = Some(report.clone());
    let good = of_pod(&run, &pod_with(&run, &said), false, at(30));
    assert_eq!((&good.session, &good.prompt_hash), (&said.session, &said.prompt_hash));
    assert_eq!(good.verification, Some(report));

    said.session = Some(AgentSession { id: "s".repeat(65), turns: 3 });
    said.prompt_hash = "0".repeat(63) + "g";
    said.verification = Some(VerificationReport { repairs: -1, ..VerificationReport::default() });
    let odd = of_pod(&run, &pod_with(&run, &said), false, at(30));
    assert_eq!((odd.session, odd.prompt_hash.as_str()), (None, ""));
    assert_eq!(odd.verification.map(|report| report.repairs), Some(0));

    // A reset in a thousand years would keep the Task, and all of its credential, waiting for ever.
    let mut limited = ContainerResult::failure(Outcome::QuotaWait, "quota_failure", "wait");
    limited.retry_at = Some(at(3_600));
    assert_eq!(of_pod(&run, &pod_with(&run, &limited), false, at(30)).retry_at, Some(at(3_600)));
    limited.retry_at = "3026-01-01T00:00:00Z".parse().ok();
    assert_eq!(of_pod(&run, &pod_with(&run, &limited), false, at(30)).retry_at, None);
}

#[test]
fn an_end_from_outside_is_free_and_one_from_inside_is_not() {
    let (_, run) = running("a");
    let mut pod = pod_with(&run, &ContainerResult::new(Outcome::Cancelled));
    assert_eq!(of_pod(&run, &pod, false, at(30)).class, Some(FailureClass::Model));
    pod.deleted = Some(at(10));
    assert_eq!(of_pod(&run, &pod, false, at(30)).class, Some(FailureClass::Infra));
    assert_eq!(of_pod(&run, &pod, true, at(30)).phase, RunPhase::Cancelled);
}

#[test]
fn a_pod_that_the_cluster_gave_up_while_its_containers_ran_costs_nothing() {
    let (_, run) = running("a");
    let mut pod = pod_of(&run);
    pod.phase = PodPhase::Failed;
    pod.containers = [container::AGENT, container::PUBLISH]
        .map(|name| ContainerFacts { name: name.into(), state: ContainerState::Running { started: None } })
        .into();
    let verdict = of_pod(&run, &pod, false, at(30));
    assert_eq!((verdict.class, verdict.code.as_str()), (Some(FailureClass::Infra), code::POD_LOST));
}

#[test]
fn what_the_kubelet_says_decides_when_there_is_no_result() {
    let (_, run) = running("a");
    let with = |change: &dyn Fn(&mut PodFacts)| {
        let mut pod = pod_of(&run);
        pod.phase = PodPhase::Failed;
        pod.containers =
            vec![ended(container::CHECKOUT, 0, "Completed", ""), ended(container::AGENT, 1, "Error", "")];
        change(&mut pod);
        let verdict = of_pod(&run, &pod, false, at(30));
        (verdict.class.unwrap(), verdict.code)
    };
    let oom: &dyn Fn(&mut PodFacts) =
        &|p| p.containers.push(ended(container::PUBLISH, 1, "Error", "garbage"));
    assert_eq!(with(oom).0, FailureClass::Model);
    assert_eq!(
        with(&|p| p.containers[1] = ended(container::AGENT, 137, "OOMKilled", "")),
        (FailureClass::Env, "environment_issue".into()),
        "its own memory costs"
    );
    assert_eq!(with(&|p| p.reason = "Evicted".into()).0, FailureClass::Env, "its own disk costs");
    assert_eq!(with(&|p| p.reason = "DeadlineExceeded".into()).0, FailureClass::Flaky);
    assert_eq!(with(&|p| p.disruption = Some("EvictionByEvictionAPI: drain".into())).0, FailureClass::Infra);
    assert_eq!(
        with(&|p| {
            p.disruption = Some("DeletionByTaintManager: x".into());
            p.reason = "Evicted".into();
        })
        .0,
        FailureClass::Infra
    );
    assert_eq!(
        with(&|p| p.containers[1] = ended(container::AGENT, 128, "StartError", "no such file")).0,
        FailureClass::Infra
    );
    let auth = ContainerResult::failure(Outcome::Failed, "setup_or_bootstrap_issue", "authentication failed")
        .to_message();
    assert_eq!(
        with(&|p| p.containers = vec![ended(container::CHECKOUT, 30, "Error", &auth)]).0,
        FailureClass::Setup
    );
    let net =
        ContainerResult::failure(Outcome::Infra, "infrastructure_fault", "host unreachable").to_message();
    assert_eq!(
        with(&|p| p.containers = vec![ended(container::CHECKOUT, 75, "Error", &net)]).0,
        FailureClass::Infra
    );
}

#[test]
fn a_pod_deleted_by_hand_costs_no_attempt() {
    let (_, run) = running("a");
    let verdict = of_lost_pod(&run, &pod_of(&run), at(9));
    assert_eq!((verdict.class, verdict.code.as_str()), (Some(FailureClass::Infra), code::POD_LOST));
    assert_eq!(run.name_any(), "a-".to_string() + &names::uid_hash("uid-a") + "-r1");
}

/// The Run of a review or merge, and its Task, which asks about it and has not marked it yet.
fn asked(purpose: Purpose) -> (Task, Run) {
    let mut task = task("a");
    let status = task.status.as_mut().unwrap();
    (status.phase, status.block_reason) = (TaskPhase::Blocked, Some(BlockReason::AwaitingJudge));
    status.attempts = 1;
    status.judge = Some(judge::JudgeStatus {
        run: "a-bcdf-r1".into(),
        run_uid: "uid-r1".into(),
        head_commit: "c0ffee".into(),
        ..judge::JudgeStatus::default()
    });
    let run = review_run_of(&task, &system(), purpose);
    (task, run)
}

/// As [`asked`], with the Run marked as the one in progress.
fn reviewing(purpose: Purpose) -> (Task, Run) {
    let (mut task, run) = asked(purpose);
    let status = task.status.as_mut().unwrap();
    (status.phase, status.block_reason) = (TaskPhase::Running, None);
    status.current_run = run.name_any();
    let judge = status.judge.as_mut().unwrap();
    (judge.reviews, judge.merges) = (1, 1);
    (task, run)
}

#[test]
fn a_review_that_its_task_has_not_marked_waits_and_one_it_no_longer_asks_for_is_cancelled_s28() {
    for purpose in [Purpose::Judge, Purpose::Merge] {
        let (task, run) = asked(purpose);
        let decide = |task: &Task| decide(&run, Some(task), Some(&system()), PodView::Unseen, 0);
        assert_eq!(decide(&task), RunPlan::Wait { until: None, show: None });
        let changes: [&dyn Fn(&mut judge::JudgeStatus); 5] = [
            &|judge| judge.head_commit = "other".into(),
            &|judge| judge.policy_version = "other".into(),
            &|judge| judge.run_uid = "other".into(),
            &|judge| (judge.reviews, judge.merges) = (1, 1),
            &|judge| judge.stage = judge::JudgeStage::Settled,
        ];
        for change in changes {
            let mut task = task.clone();
            change(task.status.as_mut().unwrap().judge.as_mut().unwrap());
            assert_eq!(finish(decide(&task)).phase, RunPhase::Cancelled, "{purpose:?} {:?}", task.status);
        }
        let (task, _) = reviewing(purpose);
        assert_eq!(decide(&task), RunPlan::CreatePod);
    }
}

#[test]
fn a_merge_has_started_once_its_publish_has() {
    let (task, run) = reviewing(Purpose::Merge);
    let mut pod = pod_of(&run);
    let with = |state| vec![ended(container::CHECKOUT, 0, "Completed", ""), state];
    let waiting = ContainerState::Waiting { reason: "ImagePullBackOff".into(), message: "no image".into() };
    pod.containers = with(ContainerFacts { name: container::PUBLISH.into(), state: waiting });
    let plan = decide(&run, Some(&task), Some(&system()), PodView::Present(&pod), 11);
    assert!(matches!(plan, RunPlan::Wait { show: Some(_), .. }), "{plan:?}");
    let lost = of_lost_pod(&run, &pod, at(12));
    assert_eq!(lost.code, code::POD_NOT_STARTED);
    let running = ContainerState::Running { started: Some(at(12)) };
    pod.containers = with(ContainerFacts { name: container::PUBLISH.into(), state: running });
    let plan = decide(&run, Some(&task), Some(&system()), PodView::Present(&pod), 400);
    assert_eq!(plan, RunPlan::Wait { until: None, show: None });
    assert_eq!(of_lost_pod(&run, &pod, at(401)).code, code::POD_LOST);
}

#[test]
fn a_review_gives_its_verdict_and_without_one_it_has_failed() {
    let (_, run) = reviewing(Purpose::Judge);
    let mut result = ContainerResult::new(Outcome::Success);
    let none = of_pod(&run, &pod_with(&run, &result), false, at(30));
    assert_eq!((none.phase, none.code.as_str()), (RunPhase::Failed, code::REVIEW_NO_VERDICT));
    assert_eq!(none.class, Some(FailureClass::Model));
    result.review = Some(crate::crd::run::ReviewResult { confidence: 7, ..Default::default() });
    let verdict = of_pod(&run, &pod_with(&run, &result), false, at(30));
    assert_eq!(verdict.phase, RunPhase::Success);
    assert_eq!(verdict.status(&run, 1).review, result.review);
    let (_, other) = running("b");
    let execute = of_pod(&other, &pod_with(&other, &result), false, at(30));
    assert_eq!(execute.review, None, "nothing but a review reviews");
}

#[test]
fn what_a_merge_meets_has_its_code_and_no_class_of_the_task_s_own_failures() {
    let (_, run) = reviewing(Purpose::Merge);
    for code in [code::MERGE_CONFLICT, code::MERGE_BASE_MOVED, code::MERGE_REFUSED, code::REVIEW_HEAD_MOVED] {
        // Words that the table of messages would take for something else.
        let result = ContainerResult::failure(Outcome::Failed, code, "test failed in package.json");
        let mut pod = pod_with(&run, &result);
        pod.containers.retain(|c| c.name != container::AGENT);
        let verdict = of_pod(&run, &pod, false, at(30));
        assert_eq!((verdict.phase, verdict.code.as_str()), (RunPhase::Failed, code));
        assert_eq!((verdict.class, verdict.started), (None, Some(at(1))));
    }
    let mut pod = pod_of(&run);
    pod.phase = PodPhase::Failed;
    pod.containers =
        vec![ended(container::CHECKOUT, 0, "Completed", ""), ended(container::PUBLISH, 137, "OOMKilled", "")];
    let killed = of_pod(&run, &pod, false, at(30));
    assert_eq!((killed.code.as_str(), killed.class), ("environment_issue", Some(FailureClass::Env)));
    let moved = ContainerResult::failure(Outcome::Failed, code::REVIEW_HEAD_MOVED, "moved").to_message();
    pod.containers = vec![ended(container::CHECKOUT, 30, "Error", &moved)];
    assert_eq!(of_pod(&run, &pod, false, at(30)).code, code::REVIEW_HEAD_MOVED);
}

/// The original cancelled whatever ran for 15 minutes; here the timebox counts, and only a Pod that
/// outlives its own deadline is ended, as flaky.
#[test]
fn a_run_is_not_ended_after_a_quarter_of_an_hour_but_beyond_its_deadline_as_flaky_c93() {
    let (task, run) = running("a");
    let pod = pod_of(&run);
    let plan = decide(&run, Some(&task), Some(&system()), PodView::Present(&pod), 15 * 60 + 1);
    assert_eq!(plan, RunPlan::Wait { until: None, show: None });
    let mut over = pod_of(&run);
    over.phase = PodPhase::Failed;
    over.reason = "DeadlineExceeded".into();
    over.containers = vec![ended(container::AGENT, 143, "Error", "")];
    let verdict = of_pod(&run, &over, false, at(9000));
    assert_eq!((verdict.phase, verdict.class), (RunPhase::Failed, Some(FailureClass::Flaky)));
}

#[test]
fn an_agent_that_was_killed_or_ran_out_of_memory_counts_as_crashed_and_no_other() {
    use crate::crd::restart::AgentCrash;
    let (_, run) = running("a");
    let failed = ContainerResult::failure(Outcome::Failed, "model_or_unknown_failure", "no result");
    let crash = |exit: i32, reason: &str, change: &dyn Fn(&mut PodFacts)| {
        let mut pod = pod_with(&run, &failed);
        pod.containers[1] = ended(container::AGENT, exit, reason, "");
        change(&mut pod);
        of_pod(&run, &pod, false, now()).agent_crash
    };
    assert_eq!(crash(137, "Error", &|_| {}), Some(AgentCrash::Killed));
    assert_eq!(crash(137, "OOMKilled", &|_| {}), Some(AgentCrash::OutOfMemory));
    assert_eq!(crash(0, "Completed", &|_| {}), None, "a failure is no crash");
    assert_eq!(crash(1, "Error", &|_| {}), None);
    let disrupted = |pod: &mut PodFacts| {
        pod.containers.pop();
        pod.disruption = Some("DeletionByTaintManager".into());
    };
    assert_eq!(crash(137, "Error", &disrupted), None, "the cluster's doing is not the agent's");
    let mut cancelled = pod_with(&run, &failed);
    cancelled.containers = vec![ended(container::AGENT, 137, "Error", "")];
    assert_eq!(of_pod(&run, &cancelled, true, now()).agent_crash, None);
    let verdict = of_pod(&run, &cancelled, false, now());
    assert_eq!(verdict.status(&run, 1).agent_crash, Some(AgentCrash::Killed));
}
