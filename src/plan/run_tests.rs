//! Decisions about a Run, case by case.

use kube::ResourceExt;

use super::fixtures::*;
use super::run::*;
use super::verdict::{code, of_lost_pod, of_pod};
use crate::crd::run::condition::POD_STARTED;
use crate::crd::wire::{ContainerResult, Outcome, container};
use crate::crd::*;

fn decide(run: &Run, task: Option<&Task>, system: Option<&System>, pod: PodView, secs: i64) -> RunPlan {
    plan_run(&Observed { run, task, system, pod, refusal: None, now: at(secs) })
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
