//! The Pod of a Run: init `checkout`, containers `agent` and `publish` (design, section 5). What there
//! is depends on the purpose: a merge has no agent and no workspace; the `publish` of a review has no
//! git credentials and does not see the workspace, because its verdict needs neither.
//!
//! The container that runs the model or the repository's code mounts no git credentials, no
//! service-account token and not the trusted clone; the one that pushes mounts the workspace
//! read-only and runs nothing from it.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::core::v1::{
    Capabilities, Container, DownwardAPIVolumeFile, DownwardAPIVolumeSource, EmptyDirVolumeSource,
    EnvFromSource, EnvVar, ExecAction, LocalObjectReference, ObjectFieldSelector, Pod, PodSecurityContext,
    PodSpec, Probe, ProjectedVolumeSource, ResourceRequirements, SeccompProfile, SecretEnvSource,
    SecretVolumeSource, SecurityContext, ServiceAccountTokenProjection, Volume, VolumeMount,
    VolumeProjection,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;
use kube::api::ObjectMeta;

use super::run::run_labels;
use super::{proxy, trust};
use crate::crd::run::SecretRef;
use crate::crd::system::RepositoryMode;
use crate::crd::wire::{self, API_AUDIENCE, container, path};
use crate::crd::{GoDuration, Purpose, Run, RunSpec, labels};

/// One uid, gid and fsGroup for the whole Pod.
const USER: i64 = 65532;
/// Start-up allowance in `activeDeadlineSeconds`.
const DEADLINE_START_SECS: i64 = 900;
/// Allowance per verification command.
const DEADLINE_COMMAND_SECS: i64 = 120;
/// Allowance for publishing.
const DEADLINE_PUBLISH_SECS: i64 = 300;
/// Time between SIGTERM and SIGKILL; the runner ends its process group by half of it.
const GRACE_SECS: i64 = 30;

/// Volume of the Run's token for the API.
const API_TOKEN: &str = "api-token";
/// Where it is mounted; [`path::API_TOKEN`] lies in it.
const API_TOKEN_DIR: &str = "/credentials/api";
/// How long the token is valid; the kubelet renews it in time.
const API_TOKEN_SECS: i64 = 3600;

/// Volume of the agent program's login.
const LOGIN: &str = "login";

/// Where the runner comes from.
#[derive(Clone, Debug)]
pub struct RunnerImage {
    pub image: String,
    pub pull_policy: String,
    /// Where Pods reach the API, which takes plans.
    pub api_url: Option<String>,
}

/// Why a Pod cannot be built.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BuildError {
    #[error(
        "the Task is too large: its inputs are {bytes} bytes and at most {max} fit into a Pod, shorten goal, context or path lists"
    )]
    InputsTooLarge { bytes: usize, max: usize },
    #[error("the operator was not told where the API is (--api-url), so a plan could not be handed over")]
    NoApi,
    #[error(
        "AgentPool {pool} would give its agents the repository's credentials: {field} names Secret {secret}, which is the repository's credentialsSecretRef in the System; use two Secrets"
    )]
    SharedSecret { pool: String, field: &'static str, secret: String },
    #[error("the inputs cannot be encoded: {0}")]
    Encode(String),
}

/// Builds the Pod of `run` under leadership term `term`.
///
/// # Errors
/// When the inputs do not fit into an annotation, or the agent would be given what it must not have.
pub fn build_pod(run: &Run, runner: &RunnerImage, term: i64) -> Result<Pod, BuildError> {
    let inputs = encode_inputs(run)?;
    let spec = &run.spec;
    if spec.purpose == Purpose::Plan && runner.api_url.is_none() {
        return Err(BuildError::NoApi);
    }
    keep_apart(spec)?;
    let mut pod_labels = run_labels(spec, term);
    pod_labels.insert(labels::RUN.into(), run.name_any());
    let annotations = [
        (labels::INPUTS, inputs),
        (labels::AREAS, spec.target_areas.join("\n")),
        ("kubectl.kubernetes.io/default-container", container::main(spec.purpose).into()),
        ("sidecar.istio.io/inject", "false".into()),
        ("cluster-autoscaler.kubernetes.io/safe-to-evict", "false".into()),
        ("karpenter.sh/do-not-disrupt", "true".into()),
    ];
    Ok(Pod {
        metadata: ObjectMeta {
            name: Some(run.name_any()),
            namespace: run.namespace(),
            labels: Some(pod_labels),
            annotations: Some(annotations.into_iter().map(|(k, v)| (k.to_string(), v)).collect()),
            owner_references: Some(vec![OwnerReference {
                api_version: format!("{}/{}", crate::crd::GROUP, crate::crd::VERSION),
                kind: "Run".into(),
                name: run.name_any(),
                uid: run.uid().unwrap_or_default(),
                controller: Some(true),
                block_owner_deletion: None,
            }]),
            ..ObjectMeta::default()
        },
        spec: Some(pod_spec(spec, runner)),
        status: None,
    })
}

/// The agent never gets what git pushes with, whoever named it (design, rule 3.10).
fn keep_apart(spec: &RunSpec) -> Result<(), BuildError> {
    let template = &spec.template;
    let given = [
        ("credentialsSecretRef", &template.credentials_secret_ref),
        ("loginSecretRef", &template.login_secret_ref),
    ];
    for (field, secret) in given {
        let both = secret.as_ref().filter(|_| *secret == spec.repository.credentials_secret_ref);
        if let Some(secret) = both.filter(|_| has_agent(spec)) {
            let (pool, secret) = (spec.pool.clone(), secret.name.clone());
            return Err(BuildError::SharedSecret { pool, field, secret });
        }
    }
    Ok(())
}

fn encode_inputs(run: &Run) -> Result<String, BuildError> {
    let mut spec = run.spec.clone();
    // The runner needs the executor and the names of what it is given, not the rest of the template.
    spec.template = crate::crd::run::RunTemplate {
        executor: spec.template.executor,
        credentials_secret_ref: spec.template.credentials_secret_ref,
        login_secret_ref: spec.template.login_secret_ref,
        ca_bundle_ref: spec.template.ca_bundle_ref,
        checkpoint: spec.template.checkpoint,
        ..Default::default()
    };
    let inputs = wire::Inputs {
        schema_version: wire::SCHEMA_VERSION,
        namespace: run.namespace().unwrap_or_default(),
        run: run.name_any(),
        run_uid: run.uid().unwrap_or_default(),
        spec,
    };
    let text = serde_json::to_string(&inputs).map_err(|e| BuildError::Encode(e.to_string()))?;
    if text.len() > wire::MAX_INPUTS_BYTES {
        return Err(BuildError::InputsTooLarge { bytes: text.len(), max: wire::MAX_INPUTS_BYTES });
    }
    Ok(text)
}

fn pod_spec(spec: &RunSpec, runner: &RunnerImage) -> PodSpec {
    let template = &spec.template;
    PodSpec {
        restart_policy: Some("Never".into()),
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        active_deadline_seconds: Some(deadline_seconds(spec)),
        termination_grace_period_seconds: Some(GRACE_SECS),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            fs_group: Some(USER),
            fs_group_change_policy: Some("OnRootMismatch".into()),
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), localhost_profile: None }),
            ..PodSecurityContext::default()
        }),
        runtime_class_name: template.runtime_class_name.clone(),
        node_selector: (!template.node_selector.is_empty()).then(|| template.node_selector.clone()),
        tolerations: (!template.tolerations.is_empty()).then(|| template.tolerations.clone()),
        image_pull_secrets: (!template.image_pull_secrets.is_empty()).then(|| {
            template
                .image_pull_secrets
                .iter()
                .map(|s| LocalObjectReference { name: s.name.clone() })
                .collect()
        }),
        init_containers: Some(vec![checkout(spec, runner)]),
        containers: match spec.purpose {
            Purpose::Execute | Purpose::Judge | Purpose::Plan => {
                vec![agent(spec, runner), publish(spec, runner)]
            }
            Purpose::Merge => vec![publish(spec, runner)],
        },
        volumes: Some(volumes(spec, runner)),
        ..PodSpec::default()
    }
}

/// `activeDeadlineSeconds`: a bound on the whole Pod, beyond the timebox that the runner keeps. A merge
/// has no agent and so no timebox.
pub fn deadline_seconds(spec: &RunSpec) -> i64 {
    if spec.purpose == Purpose::Merge {
        return DEADLINE_START_SECS + DEADLINE_PUBLISH_SECS;
    }
    let timebox = GoDuration::or(Some(&spec.inputs.timebox), Duration::from_secs(3600)).as_secs();
    let automatic = if spec.purpose == Purpose::Execute { spec.verification.most() } else { 0 };
    let commands = i64::try_from(spec.inputs.commands.len().saturating_add(automatic)).unwrap_or(70);
    DEADLINE_START_SECS
        + i64::try_from(timebox).unwrap_or(86_400)
        + DEADLINE_COMMAND_SECS * commands
        + DEADLINE_PUBLISH_SECS
}

fn has_agent(spec: &RunSpec) -> bool {
    container::of(spec.purpose).contains(&container::AGENT)
}

fn checkout(spec: &RunSpec, runner: &RunnerImage) -> Container {
    let mut mounts = vec![
        mount("repo", path::BARE, false),
        mount("inputs", "/inputs", true),
        mount("scratch", "/tmp", false),
    ];
    if has_agent(spec) {
        mounts.extend([
            mount("opentiger", path::BIN, false),
            mount("workspace", path::WORKSPACE, false),
            mount("exchange", path::EXCHANGE, false),
        ]);
    }
    mounts.extend(credentials_mount(spec));
    mounts.extend(trust::checkout_mounts(spec.template.ca_bundle_ref.as_ref()));
    Container {
        name: container::CHECKOUT.into(),
        image: Some(runner.image.clone()),
        image_pull_policy: Some(runner.pull_policy.clone()),
        command: Some(vec!["/opentiger-runner".into(), "checkout".into()]),
        env: Some(environment(spec, runner, "/tmp")),
        resources: Some(runner_resources()),
        security_context: Some(security_context()),
        volume_mounts: Some(mounts),
        ..Container::default()
    }
}

fn agent(spec: &RunSpec, runner: &RunnerImage) -> Container {
    let template = &spec.template;
    let window = GoDuration::or(Some(&spec.limits.agent_liveness_window), Duration::from_secs(120)).as_secs();
    let period = i32::try_from((window / 4).clamp(5, 60)).unwrap_or(30);
    let mut mounts = vec![
        mount("opentiger", path::BIN, true),
        mount("workspace", path::WORKSPACE, false),
        mount("exchange", path::EXCHANGE, false),
        mount("inputs", "/inputs", true),
        mount("home", path::HOME, false),
        mount("tmp", "/tmp", false),
    ];
    mounts.extend(template.login_secret_ref.as_ref().map(|_| mount(LOGIN, path::LOGIN, true)));
    mounts.extend(trust::mounts(template.ca_bundle_ref.as_ref()));
    Container {
        name: container::AGENT.into(),
        image: Some(template.image.clone()),
        image_pull_policy: Some(template.image_pull_policy.word().into()),
        command: Some(vec![path::RUNNER.into(), "execute".into()]),
        working_dir: Some(path::CHECKOUT.into()),
        env: Some(environment(spec, runner, path::HOME)),
        env_from: template.credentials_secret_ref.as_ref().map(|secret| {
            vec![EnvFromSource {
                secret_ref: Some(SecretEnvSource { name: secret.name.clone(), optional: None }),
                ..EnvFromSource::default()
            }]
        }),
        resources: Some(agent_resources(spec)),
        security_context: Some(security_context()),
        liveness_probe: Some(Probe {
            exec: Some(ExecAction {
                command: Some(vec![
                    path::RUNNER.into(),
                    "alive".into(),
                    "--window".into(),
                    format!("{window}s"),
                ]),
            }),
            initial_delay_seconds: Some(period),
            period_seconds: Some(period),
            timeout_seconds: Some(10),
            failure_threshold: Some(2),
            ..Probe::default()
        }),
        volume_mounts: Some(mounts),
        ..Container::default()
    }
}

fn publish(spec: &RunSpec, runner: &RunnerImage) -> Container {
    let mut mounts = vec![
        mount("repo", path::BARE, false),
        mount("inputs", "/inputs", true),
        mount("scratch", "/tmp", false),
    ];
    match spec.purpose {
        Purpose::Execute => {
            mounts.push(mount("workspace", path::WORKSPACE, true));
            mounts.push(mount("exchange", path::EXCHANGE, true));
            mounts.extend(credentials_mount(spec));
        }
        Purpose::Judge => {
            mounts.push(mount("exchange", path::EXCHANGE, true));
            // For a comment on the pull request.
            match spec.repository.mode {
                RepositoryMode::Git => {}
                RepositoryMode::GitHub => mounts.extend(credentials_mount(spec)),
            }
        }
        Purpose::Plan => {
            mounts.push(mount("exchange", path::EXCHANGE, true));
            // To mark the issues that have become Tasks.
            if spec.plan.as_ref().is_some_and(|plan| plan.issues.is_some()) {
                mounts.extend(credentials_mount(spec));
            }
        }
        Purpose::Merge => mounts.extend(credentials_mount(spec)),
    }
    mounts.extend(talks_to_api(spec, runner).then(|| mount(API_TOKEN, API_TOKEN_DIR, true)));
    mounts.extend(trust::mounts(spec.template.ca_bundle_ref.as_ref()));
    Container {
        name: container::PUBLISH.into(),
        image: Some(runner.image.clone()),
        image_pull_policy: Some(runner.pull_policy.clone()),
        command: Some(publish_command(spec, runner)),
        env: Some(environment(spec, runner, "/tmp")),
        resources: Some(runner_resources()),
        security_context: Some(security_context()),
        volume_mounts: Some(mounts),
        ..Container::default()
    }
}

/// Whether the API is told something by the Run itself: its plan, the change that it reviews, its prompt.
/// All but a plan do without.
fn talks_to_api(spec: &RunSpec, runner: &RunnerImage) -> bool {
    match spec.purpose {
        Purpose::Plan => true,
        Purpose::Execute | Purpose::Judge => runner.api_url.is_some(),
        Purpose::Merge => false,
    }
}

/// Who talks to the API is told where it is.
fn publish_command(spec: &RunSpec, runner: &RunnerImage) -> Vec<String> {
    let mut command = vec!["/opentiger-runner".to_string(), "publish".into()];
    if let Some(url) = runner.api_url.as_ref().filter(|_| talks_to_api(spec, runner)) {
        command.extend(["--api-url".into(), url.clone()]);
    }
    command
}

/// The Run's token: for the API alone, bound to this Pod, renewed by the kubelet. It opens nothing in
/// Kubernetes.
fn api_token() -> Volume {
    Volume {
        name: API_TOKEN.into(),
        projected: Some(ProjectedVolumeSource {
            sources: Some(vec![VolumeProjection {
                service_account_token: Some(ServiceAccountTokenProjection {
                    audience: Some(API_AUDIENCE.into()),
                    expiration_seconds: Some(API_TOKEN_SECS),
                    path: "token".into(),
                }),
                ..VolumeProjection::default()
            }]),
            default_mode: Some(0o440),
        }),
        ..Volume::default()
    }
}

/// The file of a subscription's login. It may be missing, so that the runner can say what to change.
fn login(secret: &SecretRef) -> Volume {
    Volume {
        name: LOGIN.into(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(secret.name.clone()),
            default_mode: Some(0o440),
            optional: Some(true),
            items: None,
        }),
        ..Volume::default()
    }
}

fn volumes(spec: &RunSpec, runner: &RunnerImage) -> Vec<Volume> {
    let mut volumes = vec![
        empty_dir("repo", "8Gi"),
        empty_dir("scratch", "4Gi"),
        Volume {
            name: "inputs".into(),
            downward_api: Some(DownwardAPIVolumeSource {
                items: Some(vec![DownwardAPIVolumeFile {
                    path: "run.json".into(),
                    field_ref: Some(ObjectFieldSelector {
                        field_path: format!("metadata.annotations['{}']", labels::INPUTS),
                        api_version: None,
                    }),
                    ..DownwardAPIVolumeFile::default()
                }]),
                default_mode: None,
            }),
            ..Volume::default()
        },
    ];
    if has_agent(spec) {
        volumes.extend([
            empty_dir("opentiger", "128Mi"),
            empty_dir("workspace", "16Gi"),
            // A session goes through it twice: that of this attempt and that of the one before.
            empty_dir("exchange", if spec.template.checkpoint.is_some() { "64Mi" } else { "16Mi" }),
            empty_dir("home", "4Gi"),
            empty_dir("tmp", "4Gi"),
        ]);
        volumes.extend(spec.template.login_secret_ref.as_ref().map(login));
    }
    volumes.extend(trust::volumes(spec.template.ca_bundle_ref.as_ref()));
    volumes.extend(talks_to_api(spec, runner).then(api_token));
    volumes.extend(spec.repository.credentials_secret_ref.as_ref().map(|secret| Volume {
        name: "git-credentials".into(),
        secret: Some(SecretVolumeSource {
            secret_name: Some(secret.name.clone()),
            default_mode: Some(0o440),
            ..SecretVolumeSource::default()
        }),
        ..Volume::default()
    }));
    volumes
}

fn credentials_mount(spec: &RunSpec) -> Option<VolumeMount> {
    spec.repository.credentials_secret_ref.as_ref().map(|_| mount("git-credentials", path::CREDENTIALS, true))
}

fn empty_dir(name: &str, limit: &str) -> Volume {
    Volume {
        name: name.into(),
        empty_dir: Some(EmptyDirVolumeSource { size_limit: Some(Quantity(limit.into())), medium: None }),
        ..Volume::default()
    }
}

fn mount(name: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount {
        name: name.into(),
        mount_path: path.into(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    }
}

/// What every container is told: its home, the way out, and whom to trust.
fn environment(spec: &RunSpec, runner: &RunnerImage, home: &str) -> Vec<EnvVar> {
    let template = &spec.template;
    let home = EnvVar { name: "HOME".into(), value: Some(home.into()), value_from: None };
    let way_out =
        proxy::environment(template.proxy_url.as_deref(), &template.no_proxy, runner.api_url.as_deref());
    [home].into_iter().chain(way_out).chain(trust::environment(template.ca_bundle_ref.as_ref())).collect()
}

fn security_context() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".into()]), add: None }),
        read_only_root_filesystem: Some(true),
        ..SecurityContext::default()
    }
}

fn quantities<'a>(items: impl IntoIterator<Item = (&'a str, &'a str)>) -> BTreeMap<String, Quantity> {
    items.into_iter().map(|(k, v)| (k.to_string(), Quantity(v.to_string()))).collect()
}

fn runner_resources() -> ResourceRequirements {
    ResourceRequirements {
        requests: Some(quantities([("cpu", "50m"), ("memory", "64Mi")])),
        limits: Some(quantities([("cpu", "2"), ("memory", "1Gi")])),
        claims: None,
    }
}

/// The pool's resources, with a limit for CPU and memory where it names none (invariant S31).
fn agent_resources(spec: &RunSpec) -> ResourceRequirements {
    let resources = &spec.template.resources;
    let mut limits = quantities([("cpu", "2"), ("memory", "4Gi")]);
    limits.extend(resources.limits.iter().map(|(k, v)| (k.clone(), Quantity(v.clone()))));
    let mut requests = quantities([("cpu", "100m"), ("memory", "256Mi")]);
    for (key, value) in &resources.limits {
        // A request above a smaller limit is refused by the API server.
        if requests.contains_key(key) && !resources.requests.contains_key(key) {
            requests.insert(key.clone(), Quantity(value.clone()));
        }
    }
    requests.extend(resources.requests.iter().map(|(k, v)| (k.clone(), Quantity(v.clone()))));
    ResourceRequirements { requests: Some(requests), limits: Some(limits), claims: None }
}

#[cfg(test)]
#[path = "pod_tests.rs"]
mod tests;
