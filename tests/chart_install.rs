//! The chart on a real control plane: what the admission policy lets through, that every Pod passes
//! Pod Security `restricted`, and that upgrade and uninstall keep what is the user's.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Pod, Secret, ServiceAccount};
use kube::api::{Api, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::{Client, discovery};
use opentiger::crd::{Run, System, Task};
use serde_json::{Value, json};
use support::cluster::{self, TestNamespace, eventually, yaml};
use support::helm::{helm_ok, objects, root, template, text};

/// The chart with the policy and nothing that runs.
const POLICY_ONLY: [&str; 2] = ["--set=operator.replicas=0", "--set=api.enabled=false"];

/// A control plane with our definitions, and a namespace that enforces `restricted`.
async fn fixture() -> (Client, TestNamespace) {
    let client = cluster::client().await;
    cluster::install_crds(&client).await;
    let namespace = TestNamespace::create(&client, "chart").await;
    (client, namespace)
}

/// A release that is uninstalled when this value goes away.
struct Release {
    namespace: String,
}

impl Release {
    fn install(namespace: &str, set: &[&str]) -> Self {
        let mut args =
            vec!["install", "opentiger", "charts/opentiger", "--skip-crds", "--namespace", namespace];
        args.extend(set);
        helm_ok(&args);
        Self { namespace: namespace.into() }
    }
}

impl Drop for Release {
    fn drop(&mut self) {
        drop(support::helm::helm(&[
            "uninstall",
            "opentiger",
            "--ignore-not-found",
            "--namespace",
            &self.namespace,
        ]));
    }
}

/// A request to create something, which is decided by the policy and not stored.
async fn try_create<K>(client: &Client, namespace: &str, object: Value) -> Result<(), String>
where
    K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>
        + serde::de::DeserializeOwned
        + serde::Serialize,
    K: Clone + std::fmt::Debug,
    <K as kube::Resource>::DynamicType: Default,
{
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    let object: K = serde_json::from_value(object).expect("an object");
    match api.create(&PostParams { dry_run: true, ..PostParams::default() }, &object).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) => Err(status.message.clone()),
        Err(other) => panic!("failed to ask the control plane: {other}"),
    }
}

/// A Run with the labels.
fn run(labels: Value) -> Value {
    let mut run = yaml(
        "
apiVersion: opentiger.dev/v1alpha1
kind: Run
metadata: {name: fix-x7k2-r1}
spec:
  taskRef: {name: fix, uid: 5f0c3d1e-0000-4000-8000-000000000001}
  attempt: 1
  pool: worker
  agent: worker-1
  role: Worker
  lane: feature
  inputs: {title: t, goal: g, kind: code, riskLevel: Low, timebox: 1h}
  repository: {url: 'http://git/x.git', baseBranch: main, branch: agent/fix-x7k2-r1}
  template: {image: agent:1, imagePullPolicy: IfNotPresent, executor: {type: Command, command: {argv: ['true']}}}
  limits: {startupTimeout: 15m, agentLivenessWindow: 2m}",
    );
    run["metadata"]["labels"] = labels;
    run
}

/// A Pod with the labels that passes `restricted`.
fn pod(labels: Value) -> Value {
    let mut pod = yaml(
        "
apiVersion: v1
kind: Pod
metadata: {name: fix-x7k2-r1}
spec:
  securityContext: {runAsNonRoot: true, runAsUser: 65532, seccompProfile: {type: RuntimeDefault}}
  containers:
  - {name: agent, image: agent:1, securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}}",
    );
    pod["metadata"]["labels"] = labels;
    pod
}

fn system() -> Value {
    yaml(
        "
apiVersion: opentiger.dev/v1alpha1
kind: System
metadata: {name: default}
spec: {repository: {url: 'http://git/x.git'}}",
    )
}

/// Creates the System of a namespace.
async fn create_system(client: &Client, namespace: &str) -> Api<System> {
    let systems: Api<System> = Api::namespaced(client.clone(), namespace);
    let system: System = serde_json::from_value(system()).expect("a System");
    systems.create(&PostParams::default(), &system).await.expect("a System");
    systems
}

/// Sets the latch and the term, as the system controller does.
async fn set_hatch(systems: &Api<System>, state: &str, term: i64) {
    let status = json!({"status": {"hatch": {"state": state, "by": "test", "reason": ""}, "term": term}});
    systems.patch_status("default", &PatchParams::default(), &Patch::Merge(&status)).await.expect("status");
}

/// The labels of a Run's Pod under a term.
fn term(term: &str) -> Value {
    json!({"opentiger.dev/run": "fix-x7k2-r1", "opentiger.dev/term": term})
}

/// What is refused, once the policy and its parameter are in force.
async fn refused_with(client: &Client, namespace: &str, labels: Value, words: &str) {
    eventually(&format!("a Run is refused with '{words}'"), || async {
        let message = try_create::<Run>(client, namespace, run(labels.clone())).await.err()?;
        message.contains(words).then_some(())
    })
    .await;
    let message = try_create::<Pod>(client, namespace, pod(with_run(labels))).await.expect_err("the Pod too");
    assert!(message.contains(words), "{message}");
}

/// The labels of a Pod of ours.
fn with_run(mut labels: Value) -> Value {
    labels["opentiger.dev/run"] = json!("fix-x7k2-r1");
    labels
}

#[tokio::test]
async fn runs_and_their_pods_start_only_while_armed_and_under_the_term_in_force() {
    let (client, namespace) = fixture().await;
    let elsewhere = TestNamespace::create(&client, "chart-elsewhere").await;
    let _release = Release::install(&namespace.name, &POLICY_ONLY);
    let ns = &namespace.name;
    for ns in [ns, &elsewhere.name] {
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), ns);
        eventually("the default account", || async { accounts.get("default").await.ok() }).await;
    }
    let plain_pods_are_free = || async {
        for labels in [json!({}), json!({"app": "web", "opentiger.dev/term": "99"})] {
            assert_eq!(
                try_create::<Pod>(&client, ns, pod(labels)).await,
                Ok(()),
                "a foreign Pod is not looked at"
            );
        }
    };

    refused_with(&client, ns, term("1"), "no params found").await;
    plain_pods_are_free().await;

    let systems = create_system(&client, ns).await;
    refused_with(&client, ns, term("0"), "hatch is disarmed").await;
    plain_pods_are_free().await;

    set_hatch(&systems, "Armed", 7).await;
    eventually("a Run of the term in force is let through", || async {
        try_create::<Run>(&client, ns, run(term("7"))).await.ok()
    })
    .await;
    assert_eq!(try_create::<Pod>(&client, ns, pod(term("7"))).await, Ok(()));
    refused_with(&client, ns, term("6"), "label opentiger.dev/term is 6 but the term in force is 7").await;
    refused_with(&client, ns, json!({}), "label opentiger.dev/term is absent but the term in force is 7")
        .await;

    let locked = json!({"spec": {"runtimeHatch": "Disarmed"}});
    systems.patch("default", &PatchParams::default(), &Patch::Merge(&locked)).await.expect("locked");
    refused_with(&client, ns, term("7"), "hatch is disarmed").await;
    plain_pods_are_free().await;

    assert_eq!(
        try_create::<Run>(&client, &elsewhere.name, run(json!({}))).await,
        Ok(()),
        "not a watched namespace"
    );
}

/// Invariant S12: no create is accepted later than 1 s after the disarm.
#[tokio::test]
async fn a_disarm_is_in_force_within_a_second() {
    let (client, namespace) = fixture().await;
    let _release = Release::install(&namespace.name, &POLICY_ONLY);
    let systems = create_system(&client, &namespace.name).await;
    let attempt = || try_create::<Run>(&client, &namespace.name, run(term("1")));
    let mut taken = Vec::new();
    refused_with_run(&attempt, "hatch is disarmed").await;
    for _ in 0..5 {
        set_hatch(&systems, "Armed", 1).await;
        eventually("armed", || async { attempt().await.ok() }).await;
        set_hatch(&systems, "Disarmed", 1).await;
        let since = Instant::now();
        eventually("disarmed", || async { attempt().await.err() }).await;
        taken.push(since.elapsed());
    }
    println!("disarmed after {taken:?}");
    assert!(taken.iter().all(|t| *t < Duration::from_secs(1)), "{taken:?}");
}

/// Waits until `attempt` is refused with `words`.
async fn refused_with_run<F: Future<Output = Result<(), String>>>(attempt: &impl Fn() -> F, words: &str) {
    eventually(words, || async { attempt().await.err().filter(|m| m.contains(words)) }).await;
}

#[tokio::test]
async fn every_pod_of_the_chart_passes_restricted() {
    let (client, namespace) = fixture().await;
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), &namespace.name);
    eventually("the default account", || async { accounts.get("default").await.ok() }).await;
    let mut seen = Vec::new();
    for set in [
        &["database.bundled.enabled=true"][..],
        &["database.bundled.enabled=true", "database.bundled.persistence.enabled=false"],
    ] {
        for object in objects(&template(&namespace.name, set)) {
            let Some(template) = object.pointer("/spec/template") else { continue };
            let name = text(&object, "/metadata/name");
            let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": template["spec"]});
            // The account is made by the release, which this test does not install.
            pod["spec"]["serviceAccountName"] = json!("default");
            if let Some(claims) = object.pointer("/spec/volumeClaimTemplates") {
                assert_eq!(claims[0]["metadata"]["name"], "data");
                let claim = json!({"name": "data", "persistentVolumeClaim": {"claimName": "data"}});
                pod["spec"]["volumes"].as_array_mut().expect("volumes").push(claim);
            }
            assert_eq!(try_create::<Pod>(&client, &namespace.name, pod).await, Ok(()), "{name}");
            for container in containers(&object) {
                assert_eq!(
                    container["securityContext"]["readOnlyRootFilesystem"], true,
                    "{name}: read-only root"
                );
                assert!(container["resources"]["requests"]["memory"].is_string(), "{name}: requests");
                assert!(container["resources"]["limits"]["memory"].is_string(), "{name}: limits");
            }
            seen.push(name.to_string());
        }
    }
    assert_eq!(seen.len(), 6, "operator, API and Postgres, twice: {seen:?}");
    let bad = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "bad"}, "spec": {"containers": [{"name": "a", "image": "a"}]}});
    let refusal = try_create::<Pod>(&client, &namespace.name, bad).await.expect_err("the namespace enforces");
    assert!(refusal.contains("violates PodSecurity \"restricted"), "{refusal}");
}

/// Containers and init containers of a workload.
fn containers(workload: &Value) -> Vec<Value> {
    ["initContainers", "containers"]
        .iter()
        .filter_map(|key| workload.pointer(&format!("/spec/template/spec/{key}"))?.as_array().cloned())
        .flatten()
        .collect()
}

#[tokio::test]
async fn upgrade_and_uninstall_keep_what_is_the_users() {
    let (client, namespace) = fixture().await;
    let ns = namespace.name.as_str();
    let _release = Release::install(ns, &["--set=database.bundled.enabled=true"]);
    let secrets: Api<Secret> = Api::namespaced(client.clone(), ns);
    let read = |name: &'static str| {
        let secrets = secrets.clone();
        async move { secrets.get(name).await.expect("a Secret").data.unwrap_or_default() }
    };
    let (keys, database) = (read("opentiger-api-keys").await, read("opentiger-database").await);
    assert_eq!(keys["keys"].0.len(), 40);
    let url = String::from_utf8(database["url"].0.clone()).expect("text");
    let password = String::from_utf8(database["password"].0.clone()).expect("text");
    assert_eq!(
        url,
        format!("postgres://opentiger:{password}@opentiger-postgres.{ns}.svc:5432/opentiger?sslmode=disable")
    );

    // A Task with a Run that nobody works on: the operator is down, as in the worst uninstall.
    let tasks: Api<Task> = Api::namespaced(client.clone(), ns);
    let task: Task = serde_json::from_value(yaml(
        "
apiVersion: opentiger.dev/v1alpha1
kind: Task
metadata: {name: fix}
spec: {title: t, goal: g}",
    ))
    .expect("a Task");
    let created = tasks.create(&PostParams::default(), &task).await.expect("a Task");

    let set = ["--set=database.bundled.enabled=true", "--set=operator.replicas=1"];
    helm_ok(
        &[&["upgrade", "opentiger", "charts/opentiger", "--skip-crds", "--namespace", ns][..], &set].concat(),
    );
    assert_eq!(read("opentiger-api-keys").await, keys, "an upgrade keeps the API keys");
    assert_eq!(read("opentiger-database").await, database, "an upgrade keeps the password");
    assert_eq!(tasks.get("fix").await.expect("kept").metadata.uid, created.metadata.uid);

    let since = Instant::now();
    helm_ok(&["uninstall", "opentiger", "--namespace", ns]);
    assert!(
        since.elapsed() < Duration::from_secs(20),
        "nothing of ours holds an uninstall: {:?}",
        since.elapsed()
    );
    assert_eq!(tasks.get("fix").await.expect("kept").metadata.uid, created.metadata.uid);
    assert_eq!(read("opentiger-database").await, database, "the volume is kept, and so is its password");

    let _again = Release::install(ns, &["--set=database.bundled.enabled=true"]);
    assert_eq!(
        read("opentiger-database").await,
        database,
        "a second install finds the password of the volume"
    );
}

#[tokio::test]
async fn the_examples_are_accepted() {
    let (client, namespace) = fixture().await;
    let mut kinds = Vec::new();
    for file in ["system", "agentpools", "tasks", "operation"] {
        let path = root().join(format!("manifests/examples/{file}.yaml"));
        let content = std::fs::read_to_string(&path)
            .unwrap_or_else(|e| panic!("failed to read {}: {e}", path.display()));
        for object in objects(&content) {
            let (kind, name) =
                (text(&object, "/kind").to_string(), text(&object, "/metadata/name").to_string());
            let gvk = GroupVersionKind::gvk("opentiger.dev", "v1alpha1", &kind);
            let (resource, _) = discovery::pinned_kind(&client, &gvk).await.expect("a served kind");
            let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace.name, &resource);
            let request = http::Request::post(format!("{}?fieldValidation=Strict", api.resource_url()))
                .header("Content-Type", "application/json")
                .body(serde_json::to_vec(&object).expect("JSON"))
                .expect("a request");
            let answer: Result<Value, _> = client.request(request).await;
            assert!(answer.is_ok(), "{kind} {name}: {answer:?}");
            kinds.push(kind);
        }
    }
    assert_eq!(kinds, ["System", "AgentPool", "AgentPool", "Task", "Task", "Operation"]);
}
