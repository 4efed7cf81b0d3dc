//! Tests of [`super`]: the shape of a Pod and its deadline.

use super::*;
use crate::crd::run::SecretRef;
use crate::plan::fixtures;

fn pod(purpose: Purpose) -> Pod {
    let (run, runner) = run_and_runner(purpose);
    build_pod(&run, &runner, 1).expect("small")
}

fn run_and_runner(purpose: Purpose) -> (Run, RunnerImage) {
    let mut run = fixtures::run_of(&fixtures::task("a"));
    run.spec.purpose = purpose;
    run.spec.inputs.timebox = GoDuration("10m".into());
    run.spec.template.credentials_secret_ref = Some(SecretRef { name: "model".into() });
    run.spec.repository.credentials_secret_ref = Some(SecretRef { name: "git".into() });
    let runner = RunnerImage {
        image: "runner:1".into(),
        pull_policy: "IfNotPresent".into(),
        api_url: Some("http://api:4301".into()),
    };
    (run, runner)
}

/// Each container with its image, its mounts and what it takes from Secrets, in order; then the
/// volumes and the deadline.
fn shape(purpose: Purpose) -> Vec<String> {
    let spec = pod(purpose).spec.expect("spec");
    let described = |c: &Container| {
        let mounts =
            c.volume_mounts.iter().flatten().map(|mount| {
                format!("{}{}", mount.name, if mount.read_only == Some(true) { ":ro" } else { "" })
            });
        let env = c.env_from.iter().flatten().filter_map(|e| e.secret_ref.as_ref()).map(|s| s.name.clone());
        let all: Vec<String> = mounts.chain(env.map(|name| format!("env:{name}"))).collect();
        format!("{} {} {}", c.name, c.command.iter().flatten().nth(1).expect("step"), all.join(" "))
    };
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers).map(described);
    let volumes: Vec<String> = spec.volumes.iter().flatten().map(|volume| volume.name.clone()).collect();
    let last = [volumes.join(" "), spec.active_deadline_seconds.expect("deadline").to_string()];
    containers.chain(last).collect()
}

#[test]
fn an_execute_pod_has_all_three_and_the_agent_has_no_git_token() {
    let all = "repo scratch inputs opentiger workspace exchange home tmp git-credentials";
    assert_eq!(
        shape(Purpose::Execute),
        [
            "checkout checkout repo inputs:ro scratch opentiger workspace exchange git-credentials:ro",
            "agent execute opentiger:ro workspace exchange inputs:ro home tmp env:model",
            "publish publish repo inputs:ro scratch workspace:ro exchange:ro git-credentials:ro",
            all,
            "1800",
        ]
    );
}

#[test]
fn a_plan_pod_hands_its_tasks_over_with_a_token_that_the_agent_does_not_see() {
    let [checkout, agent, publish, volumes, _] = &shape(Purpose::Plan)[..] else { panic!("five parts") };
    assert_eq!([checkout, agent], [&shape(Purpose::Execute)[0], &shape(Purpose::Execute)[1]]);
    assert_eq!(publish, "publish publish repo inputs:ro scratch exchange:ro api-token:ro");
    assert_eq!(
        volumes,
        "repo scratch inputs opentiger workspace exchange home tmp api-token git-credentials"
    );
}

#[test]
fn the_verdict_of_a_judge_pod_sees_neither_workspace_nor_token() {
    assert_eq!(
        shape(Purpose::Judge),
        [
            "checkout checkout repo inputs:ro scratch opentiger workspace exchange git-credentials:ro",
            "agent execute opentiger:ro workspace exchange inputs:ro home tmp env:model",
            "publish publish repo inputs:ro scratch exchange:ro",
            "repo scratch inputs opentiger workspace exchange home tmp git-credentials",
            "1800",
        ]
    );
}

#[test]
fn on_github_the_publish_of_a_review_comments_with_the_token_and_its_agent_still_has_none() {
    let (mut run, runner) = run_and_runner(Purpose::Judge);
    run.spec.repository.mode = RepositoryMode::GitHub;
    let spec = build_pod(&run, &runner, 1).expect("small").spec.expect("spec");
    let mounts = |name: &str| {
        let container = spec.containers.iter().find(|c| c.name == name).expect("there");
        let names = container.volume_mounts.iter().flatten().map(|mount| mount.name.as_str());
        names.collect::<Vec<_>>()
    };
    assert!(mounts("publish").contains(&"git-credentials") && !mounts("publish").contains(&"workspace"));
    assert!(!mounts("agent").contains(&"git-credentials"));
}

#[test]
fn a_merge_pod_has_no_agent_and_no_model_key() {
    assert_eq!(
        shape(Purpose::Merge),
        [
            "checkout checkout repo inputs:ro scratch git-credentials:ro",
            "publish publish repo inputs:ro scratch git-credentials:ro",
            "repo scratch inputs git-credentials",
            "1200",
        ]
    );
    let annotations = pod(Purpose::Merge).metadata.annotations.expect("annotations");
    assert_eq!(annotations["kubectl.kubernetes.io/default-container"], "publish");
}

#[test]
fn every_container_of_every_purpose_is_restricted_and_limited_s31() {
    for purpose in [Purpose::Execute, Purpose::Judge, Purpose::Merge, Purpose::Plan] {
        let spec = pod(purpose).spec.expect("spec");
        assert_eq!(spec.automount_service_account_token, Some(false));
        let security = spec.security_context.expect("security context");
        assert_eq!((security.run_as_non_root, security.run_as_user), (Some(true), Some(USER)));
        assert!(security.seccomp_profile.is_some());
        let names: Vec<&str> = spec.containers.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(names, container::of(purpose)[1..], "{purpose:?}");
        for c in spec.init_containers.iter().flatten().chain(&spec.containers) {
            let security = c.security_context.as_ref().expect("security context");
            assert_eq!(security.read_only_root_filesystem, Some(true), "{purpose:?} {}", c.name);
            assert_eq!(security.allow_privilege_escalation, Some(false));
            assert!(security.capabilities.as_ref().is_some_and(|c| c.drop == Some(vec!["ALL".into()])));
            let limits = c.resources.as_ref().and_then(|r| r.limits.as_ref()).expect("limits");
            assert!(limits.contains_key("cpu") && limits.contains_key("memory"));
        }
    }
}
