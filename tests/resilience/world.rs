//! A namespace with operators of its own, everything that happens in it recorded, and the hands of a
//! person who works in it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use opentiger::crd::{AgentPool, Run, System, Task, TaskPhase};
use serde_json::{Value, json};

use super::check::violations;
use super::record::Record;
use super::support::cluster::{TestNamespace, client, eventually, install_crds, yaml};
use super::support::helm;
use super::support::operator::{Operator, OperatorOptions, free_address, kubeconfig_for};
use super::support::proxy::Proxy;

/// Duration of the operators' Lease.
pub const LEASE: Duration = Duration::from_secs(4);
/// Longest wait for what has no bound of its own.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Kinds of ours, and Pods.
pub trait Kind:
    kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
    + Clone
    + std::fmt::Debug
    + serde::Serialize
    + serde::de::DeserializeOwned
{
}
impl Kind for Task {}
impl Kind for Run {}
impl Kind for Pod {}
impl Kind for AgentPool {}
impl Kind for System {}
impl Kind for k8s_openapi::api::core::v1::ResourceQuota {}

/// A namespace under test.
pub struct World {
    pub client: Client,
    pub name: String,
    pub record: Record,
    pub dir: PathBuf,
    gauges: Arc<Mutex<Vec<Gauge>>>,
    policy: Option<String>,
    _dir: tempfile::TempDir,
    _namespace: TestNamespace,
}

/// What one operator's metrics said.
#[derive(Default)]
struct Gauge {
    scrapes: usize,
    most_without_next: f64,
    leading: bool,
}

/// One operator with its own proxy.
pub struct Member {
    pub operator: Operator,
    pub proxy: Proxy,
    gauges: Arc<Mutex<Vec<Gauge>>>,
    index: usize,
}

impl Member {
    /// Whether it says that it leads.
    pub fn leads(&self) -> bool {
        self.gauges.lock().unwrap()[self.index].leading
    }
}

impl World {
    /// A namespace with an armed System.
    pub async fn start(prefix: &str) -> Self {
        Self::start_with(prefix, json!({})).await
    }

    /// A namespace whose System has this spec besides.
    pub async fn start_with(prefix: &str, system: Value) -> Self {
        let client = client().await;
        install_crds(&client).await;
        let namespace = TestNamespace::create(&client, prefix).await;
        let dir = tempfile::tempdir().expect("a directory");
        let record = Record::follow(&client, &namespace.name).await;
        let world = Self {
            client,
            name: namespace.name.clone(),
            record,
            dir: dir.path().into(),
            gauges: Arc::default(),
            policy: None,
            _dir: dir,
            _namespace: namespace,
        };
        let mut spec = yaml("{runtimeHatch: Armed, repository: {url: 'https://git.example.com/app.git'}}");
        merge(&mut spec, system);
        world.create::<System>("System", "default", spec).await;
        world
    }

    /// Installs the chart's admission policy for this namespace and waits until it is in force.
    pub async fn install_policy(&mut self) {
        let args = ["install", "opentiger", "charts/opentiger", "--skip-crds", "--namespace", &self.name];
        helm::helm_ok(&[&args[..], &["--set=operator.replicas=0", "--set=api.enabled=false"]].concat());
        self.policy = Some(self.name.clone());
        let mut pod = yaml(
            "{apiVersion: v1, kind: Pod, metadata: {name: stray, labels: {opentiger.dev/run: stray}}, spec: {
               securityContext: {runAsNonRoot: true, runAsUser: 65532, seccompProfile: {type: RuntimeDefault}},
               containers: [{name: agent, image: agent:test, securityContext:
                 {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}}]}}",
        );
        merge(&mut pod, json!({"metadata": {"namespace": self.name}}));
        let pod: Pod = serde_json::from_value(pod).expect("a Pod");
        let dry_run = PostParams { dry_run: true, ..PostParams::default() };
        eventually("the admission policy refuses a stray Pod", || async {
            let refusal = self.api::<Pod>().create(&dry_run, &pod).await.err()?.to_string();
            refusal.contains("hatch is disarmed").then_some(())
        })
        .await;
    }

    /// Starts an operator.
    pub fn operator(&self, identity: &str) -> Start<'_> {
        Start { world: self, identity: identity.into(), database: None }
    }

    fn api<K: Kind>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), &self.name)
    }

    /// Creates an object of ours.
    pub async fn create<K: Kind>(&self, kind: &str, name: &str, spec: Value) {
        let api_version = K::api_version(&());
        let object =
            json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name}, "spec": spec});
        let object: K = serde_json::from_value(object).expect("an object");
        self.api::<K>().create(&PostParams::default(), &object).await.expect("accepted");
    }

    /// Creates a pool of Workers whose agents do what `mock` says.
    pub async fn pool(&self, name: &str, replicas: u32, mock: &str) {
        self.pool_with(name, replicas, mock, json!({})).await;
    }

    /// Creates a pool with this spec besides.
    pub async fn pool_with(&self, name: &str, replicas: u32, mock: &str, more: Value) {
        let mut spec = json!({"role": "Worker", "replicas": replicas, "image": "agent:test",
            "executor": {"type": "Mock", "mock": yaml(mock)}});
        merge(&mut spec, more);
        self.create::<AgentPool>("AgentPool", name, spec).await;
    }

    /// Creates a Task with this spec besides.
    pub async fn task(&self, name: &str, more: &str) {
        let mut spec = yaml("{title: Fix, goal: It works, allowedPaths: ['**'], timebox: 5m}");
        merge(&mut spec, yaml(more));
        self.create::<Task>("Task", name, spec).await;
    }

    /// Creates Tasks `t-1` to `t-<count>`.
    pub async fn backlog(&self, count: usize) {
        for n in 1..=count {
            self.task(&format!("t-{n}"), "{}").await;
        }
    }

    /// Changes an object as a person does with `kubectl patch`.
    pub async fn patch<K: Kind>(&self, name: &str, patch: Value) {
        let patched = self.api::<K>().patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await;
        patched.expect("accepted patch");
    }

    /// Changes the status of an object, in the place of a kubelet.
    pub async fn patch_status<K: Kind>(&self, name: &str, status: Value) {
        let patch = Patch::Strategic(json!({ "status": status }));
        self.api::<K>().patch_status(name, &PatchParams::default(), &patch).await.expect("accepted status");
    }

    /// Deletes an object as a person does with `kubectl delete`.
    pub async fn delete<K: Kind>(&self, name: &str) {
        self.api::<K>().delete(name, &DeleteParams::background()).await.expect("accepted deletion");
    }

    /// Deletes a Pod, its node being given this grace time.
    pub async fn delete_pod(&self, name: &str, grace: u32) {
        self.api::<Pod>().delete(name, &DeleteParams::default().grace_period(grace)).await.expect("accepted");
    }

    /// Lets a simulated Pod end.
    pub async fn finish_pod(&self, name: &str) {
        self.patch::<Pod>(name, json!({"metadata": {"annotations": {"kwok.opentiger.dev/run-for": "0s"}}}))
            .await;
    }

    /// Waits until `seen` answers; fails with `what` and what the operators said last.
    pub async fn until<T>(
        &self,
        what: &str,
        within: Duration,
        mut seen: impl FnMut(&Record) -> Option<T>,
    ) -> T {
        let deadline = Instant::now() + within;
        loop {
            if let Some(answer) = seen(&self.record) {
                return answer;
            }
            if Instant::now() > deadline {
                panic!("waited {within:?} in vain: {what}\n{}", self.report());
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    /// Waits until every one of `count` Tasks is Done and no Pod is left.
    pub async fn all_done(&self, count: usize) {
        self.until(&format!("all {count} Tasks are Done"), PATIENCE, |record| {
            (record.done() == count).then_some(())
        })
        .await;
    }

    /// Fails when an invariant was broken at any moment, or a Task was without a next move.
    pub fn verify(&self) {
        let broken = violations(&self.record.history());
        assert!(broken.is_empty(), "{} violations:\n{}\n{}", broken.len(), broken.join("\n"), self.report());
        for gauge in self.gauges.lock().unwrap().iter() {
            assert!(gauge.scrapes > 0, "the metrics of each operator were read");
            assert!(gauge.most_without_next == 0.0, "a Task was without a next move");
        }
    }

    /// The Tasks and the ends of the logs, for the message of a failed test.
    pub fn report(&self) -> String {
        let mut lines: Vec<String> = Vec::new();
        for (name, task) in self.record.tasks() {
            let status = task.status.clone().unwrap_or_default();
            if status.phase != TaskPhase::Done {
                lines.push(format!(
                    "{name}: {:?} attempts {} {:?}",
                    status.phase, status.attempts, status.next
                ));
            }
        }
        lines.sort();
        let logs = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        for log in logs.filter(|entry| entry.path().extension().is_some_and(|e| e == "log")) {
            let text = std::fs::read_to_string(log.path()).unwrap_or_default();
            let all: Vec<&str> = text.lines().collect();
            lines.push(format!("--- {}", log.file_name().display()));
            lines.extend(all[all.len().saturating_sub(30)..].iter().map(ToString::to_string));
        }
        lines.join("\n")
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(namespace) = &self.policy {
            drop(helm::helm(&["uninstall", "opentiger", "--ignore-not-found", "--namespace", namespace]));
        }
    }
}

/// An operator about to be started.
pub struct Start<'a> {
    world: &'a World,
    identity: String,
    database: Option<String>,
}

impl Start<'_> {
    /// Mirrors into this database.
    pub fn database(mut self, url: &str) -> Self {
        self.database = Some(url.into());
        self
    }

    /// Starts it, and reads its metrics ten times a second from now on.
    pub async fn start(self) -> Member {
        let world = self.world;
        let dir = world.dir.join(&self.identity);
        std::fs::create_dir_all(&dir).expect("a directory");
        let proxy = Proxy::start(world.client.clone()).await;
        let kubeconfig = kubeconfig_for(proxy.address, &dir);
        let options = OperatorOptions {
            kubeconfig: &kubeconfig,
            namespace: &world.name,
            identity: &self.identity,
            log: world.dir.join(format!("{}.log", self.identity)),
            database_url: self.database.as_deref(),
        };
        let address = free_address();
        let operator = Operator::start_with_metrics(&options, &address);
        let gauges = world.gauges.clone();
        let index = {
            let mut list = gauges.lock().unwrap();
            list.push(Gauge::default());
            list.len() - 1
        };
        tokio::spawn(scrape(format!("http://{address}/metrics"), gauges.clone(), index));
        Member { operator, proxy, gauges, index }
    }
}

async fn scrape(url: String, gauges: Arc<Mutex<Vec<Gauge>>>, index: usize) {
    let client = reqwest::Client::builder().timeout(Duration::from_secs(1)).build().expect("a client");
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let Ok(reply) = client.get(&url).send().await else { continue };
        let Ok(text) = reply.text().await else { continue };
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            line.and_then(|value| value.parse::<f64>().ok()).unwrap_or(f64::NAN)
        };
        let mut list = gauges.lock().unwrap();
        let gauge = &mut list[index];
        gauge.scrapes += 1;
        let without = value("opentiger_tasks_without_next");
        // A metric that is not there is no good sign either.
        let without = if without.is_nan() { f64::INFINITY } else { without };
        gauge.most_without_next = gauge.most_without_next.max(without);
        gauge.leading = value("opentiger_leading") == 1.0;
    }
}

/// Lays `more` over `base`, as a merge patch does.
pub fn merge(base: &mut Value, more: Value) {
    match (base, more) {
        (Value::Object(base), Value::Object(more)) => {
            for (key, value) in more {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, more) => *base = more,
    }
}
