//! Tests of [`super`]: the shape of a Pod and its deadline.

use super::*;
use crate::crd::ExecutorType;
use crate::crd::network::{CaBundleKind, CaBundleRef};
use crate::crd::planner::{IssueImport, PlanTarget};
use crate::plan::fixtures;

fn secret(name: &str) -> Option<SecretRef> {
    Some(SecretRef { name: name.into() })
}

fn run(purpose: Purpose) -> Run {
    let mut run = fixtures::run_of(&fixtures::task("a"));
    run.spec.purpose = purpose;
    run.spec.inputs.timebox = GoDuration("10m".into());
    run.spec.template.credentials_secret_ref = secret("model");
    run.spec.repository.credentials_secret_ref = secret("git");
    run
}

fn build(run: &Run) -> Result<Pod, BuildError> {
    let runner = RunnerImage {
        image: "runner:1".into(),
        pull_policy: "IfNotPresent".into(),
        api_url: Some("http://api:4301".into()),
    };
    build_pod(run, &runner, 1)
}

fn pod(purpose: Purpose) -> Pod {
    build(&run(purpose)).expect("small")
}

/// Everything in a container that is not an empty volume or a value written into the Pod: Secrets,
/// ConfigMaps, tokens and whatever else may be added one day, with where it is seen.
fn given(spec: &PodSpec, container: &Container) -> Vec<String> {
    let mounted = container.volume_mounts.iter().flatten().filter_map(|mount| {
        let volume = spec.volumes.iter().flatten().find(|v| v.name == mount.name).expect("a volume");
        if volume.empty_dir.is_some() || volume.downward_api.is_some() {
            return None;
        }
        let name = volume.secret.as_ref().and_then(|s| s.secret_name.clone());
        let name = name.or_else(|| volume.config_map.as_ref().map(|map| map.name.clone()));
        assert_eq!(mount.read_only, Some(true), "{}", mount.name);
        Some(format!("{} at {}", name.unwrap_or_else(|| volume.name.clone()), mount.mount_path))
    });
    let all = container.env_from.iter().flatten();
    let all = all.map(|e| e.secret_ref.as_ref().map(|s| s.name.clone()).expect("only Secrets"));
    let single = container.env.iter().flatten().filter(|e| e.value_from.is_some());
    mounted
        .chain(all.map(|name| format!("{name} as variables")))
        .chain(single.map(|e| e.name.clone()))
        .collect()
}

/// Which container sees what, for every purpose and executor. What the table does not name is seen by
/// none.
#[test]
fn every_credential_is_seen_only_where_it_is_used() {
    const TABLE: [(Purpose, &str, &[&str]); 11] = [
        (Purpose::Execute, "checkout", &["git at /credentials/git", "authorities at /credentials/ca"]),
        (Purpose::Execute, "agent", &["login at /credentials/login", "model as variables"]),
        (Purpose::Execute, "publish", &["git at /credentials/git", "api-token at /credentials/api"]),
        (Purpose::Judge, "checkout", &["git at /credentials/git", "authorities at /credentials/ca"]),
        (Purpose::Judge, "agent", &["login at /credentials/login", "model as variables"]),
        (Purpose::Judge, "publish", &["api-token at /credentials/api"]),
        (Purpose::Plan, "checkout", &["git at /credentials/git", "authorities at /credentials/ca"]),
        (Purpose::Plan, "agent", &["login at /credentials/login", "model as variables"]),
        (Purpose::Plan, "publish", &["api-token at /credentials/api"]),
        (Purpose::Merge, "checkout", &["git at /credentials/git", "authorities at /credentials/ca"]),
        (Purpose::Merge, "publish", &["git at /credentials/git"]),
    ];
    let executors = [
        ExecutorType::ClaudeCode,
        ExecutorType::Codex,
        ExecutorType::OpenCode,
        ExecutorType::Command,
        ExecutorType::Mock,
    ];
    for type_ in executors {
        for kind in [CaBundleKind::ConfigMap, CaBundleKind::Secret] {
            let mut seen = Vec::new();
            for purpose in [Purpose::Execute, Purpose::Judge, Purpose::Plan, Purpose::Merge] {
                let mut run = run(purpose);
                run.spec.template.executor.type_ = type_;
                run.spec.template.login_secret_ref = secret("login");
                let bundle = CaBundleRef { kind, name: "authorities".into(), key: "ca.crt".into() };
                run.spec.template.ca_bundle_ref = Some(bundle);
                let spec = build(&run).expect("small").spec.expect("spec");
                assert_eq!(spec.automount_service_account_token, Some(false));
                for c in spec.init_containers.iter().flatten().chain(&spec.containers) {
                    seen.push((purpose, c.name.clone(), given(&spec, c)));
                }
            }
            let table = TABLE.map(|(purpose, name, given)| {
                (purpose, name.to_string(), given.iter().map(ToString::to_string).collect::<Vec<_>>())
            });
            assert_eq!(seen, table, "{type_:?} {kind:?}");
        }
    }
}

#[test]
fn who_marks_issues_has_the_token_of_the_forge_and_the_agent_beside_it_has_not() {
    let mut run = run(Purpose::Plan);
    run.spec.plan = Some(PlanTarget { issues: Some(IssueImport::default()), ..PlanTarget::default() });
    let spec = build(&run).expect("small").spec.expect("spec");
    let git = |c: &Container| given(&spec, c).iter().any(|given| given.starts_with("git at"));
    let seen: Vec<(&str, bool)> = spec.containers.iter().map(|c| (c.name.as_str(), git(c))).collect();
    assert_eq!(seen, [(container::AGENT, false), (container::PUBLISH, true)]);
}

#[test]
fn the_trusted_clone_and_the_agent_s_directories_are_apart() {
    for purpose in [Purpose::Execute, Purpose::Judge, Purpose::Plan, Purpose::Merge] {
        let spec = pod(purpose).spec.expect("spec");
        for c in spec.init_containers.iter().flatten().chain(&spec.containers) {
            let mounts = |name: &str| c.volume_mounts.iter().flatten().any(|mount| mount.name == name);
            let is_agent = c.name == container::AGENT;
            assert_eq!(mounts("repo"), !is_agent, "{purpose:?} {}", c.name);
            assert_eq!(mounts("home"), is_agent, "{purpose:?} {}", c.name);
        }
    }
}

#[test]
fn what_git_pushes_with_is_never_given_to_an_agent() {
    for (field, credentials, login) in
        [("credentialsSecretRef", "git", "login"), ("loginSecretRef", "model", "git")]
    {
        let mut run = run(Purpose::Execute);
        run.spec.pool = "worker".into();
        run.spec.template.credentials_secret_ref = secret(credentials);
        run.spec.template.login_secret_ref = secret(login);
        let said = build(&run).expect_err("refused").to_string();
        assert!(said.contains("AgentPool worker") && said.contains(field), "{said}");
        run.spec.purpose = Purpose::Merge;
        assert!(build(&run).is_ok(), "a merge has no agent");
    }
}

#[test]
fn every_container_knows_the_proxy_and_whom_to_trust() {
    let mut run = run(Purpose::Execute);
    run.spec.template.proxy_url = Some("http://proxy.example.com:3128".into());
    run.spec.template.no_proxy = vec!["git.corp".into()];
    run.spec.template.ca_bundle_ref =
        Some(CaBundleRef { name: "authorities".into(), key: "bundle.pem".into(), ..CaBundleRef::default() });
    let spec = build(&run).expect("small").spec.expect("spec");
    for c in spec.init_containers.iter().flatten().chain(&spec.containers) {
        let value = |name: &str| c.env.iter().flatten().find(|e| e.name == name)?.value.as_deref();
        for name in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"] {
            assert_eq!(value(name), Some("http://proxy.example.com:3128"), "{} {name}", c.name);
        }
        let direct: Vec<&str> = value("NO_PROXY").expect("exceptions").split(',').collect();
        assert!(["git.corp", "api", ".svc"].iter().all(|host| direct.contains(host)), "{direct:?}");
        for name in ["SSL_CERT_FILE", "GIT_SSL_CAINFO", "NODE_EXTRA_CA_CERTS", "CARGO_HTTP_CAINFO"] {
            assert_eq!(value(name), Some("/trust/ca.crt"), "{} {name}", c.name);
        }
        let trust = c.volume_mounts.iter().flatten().find(|mount| mount.name == "trust").expect("trust");
        assert_eq!(trust.read_only == Some(true), c.name != container::CHECKOUT, "checkout alone writes it");
    }
    let own = spec.volumes.iter().flatten().find(|volume| volume.name == "ca-bundle").expect("a volume");
    let items = own.config_map.as_ref().and_then(|map| map.items.as_ref()).expect("one key");
    assert_eq!((items[0].key.as_str(), items[0].path.as_str(), items.len()), ("bundle.pem", "ca.crt", 1));
    let plain = pod(Purpose::Execute).spec.expect("spec");
    assert!(plain.containers.iter().all(|c| c.env.as_ref().is_some_and(|env| env.len() == 1)), "only HOME");
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
    let all = "repo scratch inputs opentiger workspace exchange home tmp api-token git-credentials";
    assert_eq!(
        shape(Purpose::Execute),
        [
            "checkout checkout repo inputs:ro scratch opentiger workspace exchange git-credentials:ro",
            "agent execute opentiger:ro workspace exchange inputs:ro home tmp env:model",
            "publish publish repo inputs:ro scratch workspace:ro exchange:ro git-credentials:ro api-token:ro",
            all,
            "2280",
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
fn without_an_api_only_a_plan_is_refused_and_no_token_is_given() {
    let runner = RunnerImage { image: "runner:1".into(), pull_policy: "IfNotPresent".into(), api_url: None };
    for purpose in [Purpose::Execute, Purpose::Judge, Purpose::Merge] {
        let spec = build_pod(&run(purpose), &runner, 1).expect("built").spec.expect("spec");
        assert!(!serde_json::to_string(&spec).expect("json").contains("api-token"), "{purpose:?}");
    }
    assert_eq!(build_pod(&run(Purpose::Plan), &runner, 1), Err(BuildError::NoApi));
}

#[test]
fn the_verdict_of_a_judge_pod_sees_neither_workspace_nor_git_token() {
    assert_eq!(
        shape(Purpose::Judge),
        [
            "checkout checkout repo inputs:ro scratch opentiger workspace exchange git-credentials:ro",
            "agent execute opentiger:ro workspace exchange inputs:ro home tmp env:model",
            "publish publish repo inputs:ro scratch exchange:ro api-token:ro",
            "repo scratch inputs opentiger workspace exchange home tmp api-token git-credentials",
            "1800",
        ]
    );
}

#[test]
fn on_github_the_publish_of_a_review_comments_with_the_token_and_its_agent_still_has_none() {
    let mut run = run(Purpose::Judge);
    run.spec.repository.mode = RepositoryMode::GitHub;
    let spec = build(&run).expect("small").spec.expect("spec");
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
