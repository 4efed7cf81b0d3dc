//! One namespace of the real node: a System, pools, Tasks, and waiting for what becomes of them.
#![allow(dead_code, reason = "each part of the tests uses a part")]

use std::pin::pin;
use std::time::{Duration, Instant};

use futures::StreamExt;
use k8s_openapi::api::core::v1::{ContainerState, Event, Pod};
use kube::api::{Api, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher;
use kube::{Client, Config, ResourceExt};
use opentiger::crd::{Run, Task, TaskPhase, TaskStatus};
use tokio_postgres::NoTls;

use super::node::{DATABASE_CANARY, Node, SERVICES};

/// Between two looks.
const POLL: Duration = Duration::from_millis(250);
/// Longest wait for one Pod to be scheduled, run and be gone again, on a busy machine.
pub const ATTEMPT: Duration = Duration::from_secs(90);

/// A namespace that the release works on.
pub struct Space {
    pub node: &'static Node,
    pub name: String,
    pub client: Client,
}

impl Space {
    /// The namespace, as it is.
    pub async fn connect(node: &'static Node, name: &str) -> Self {
        let kubeconfig = Kubeconfig::read_from(node.kubeconfig()).expect("a kubeconfig");
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
        let client = Client::try_from(config.expect("a usable kubeconfig")).expect("a client");
        Self { node, name: name.into(), client }
    }

    /// The namespace, armed, with cooldowns of 1 s.
    pub async fn armed(node: &'static Node, name: &str) -> Self {
        let space = Self::connect(node, name).await;
        space.arm();
        space
    }

    /// Arms the namespace.
    pub fn arm(&self) {
        self.apply(&format!(
            "
apiVersion: opentiger.dev/v1alpha1
kind: System
metadata: {{name: default}}
spec:
  runtimeHatch: Armed
  repository:
    url: http://git.{SERVICES}.svc.cluster.local/calculator.git
    credentialsSecretRef: {{name: git-credentials}}
  recovery: {{failedCooldown: 1s, blockedCooldown: 1s, autoReworkMaxDepth: 0}}"
        ));
    }

    /// `kubectl apply` in this namespace.
    pub fn apply(&self, yaml: &str) {
        self.node.apply(&self.name, yaml);
    }

    /// A pool for `role` whose agent is the shell script `script` in `image`.
    pub fn command_pool(&self, role: &str, image: &str, script: &str) {
        let argv = serde_json::json!(["/bin/sh", "-c", script]);
        let image = self.node.image(image);
        self.pool(role, &image, &format!("{{type: Command, command: {{argv: {argv}}}}}"));
    }

    /// A pool for `role` with the mock executor.
    pub fn mock_pool(&self, role: &str, mock: &str) {
        self.pool(role, &self.node.image("runner"), &format!("{{type: Mock, mock: {mock}}}"));
    }

    /// A pool for `role`.
    pub fn pool(&self, role: &str, image: &str, executor: &str) {
        let name = role.to_lowercase();
        self.apply(&format!(
            "
apiVersion: opentiger.dev/v1alpha1
kind: AgentPool
metadata: {{name: {name}}}
spec:
  role: {role}
  replicas: 3
  image: {image}
  credentialsSecretRef: {{name: model-key}}
  resources: {{requests: {{cpu: 10m, memory: 32Mi}}, limits: {{memory: 128Mi}}}}
  executor: {executor}
"
        ));
    }

    /// `kubectl apply` of a Task; `spec` is more YAML for its spec.
    pub fn task(&self, name: &str, spec: &str) {
        self.apply(&format!(
            "
apiVersion: opentiger.dev/v1alpha1
kind: Task
metadata: {{name: {name}}}
spec:
  title: {name}
  goal: {name} ends as the test says
{spec}"
        ));
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.name)
    }

    /// The status of a Task.
    pub async fn status(&self, task: &str) -> TaskStatus {
        self.api::<Task>().get(task).await.expect("the Task").status.unwrap_or_default()
    }

    /// The Runs of a Task in order.
    pub async fn runs(&self, task: &str) -> Vec<Run> {
        let mut runs = self.api::<Run>().list(&ListParams::default()).await.expect("Runs").items;
        runs.retain(|run| run.spec.task_ref.name == task);
        runs.sort_by_key(|run| run.spec.attempt);
        runs
    }

    /// The Pods of a Task.
    pub async fn pods(&self, task: &str) -> Vec<Pod> {
        let of_task = ListParams::default().labels(&format!("opentiger.dev/task={task}"));
        self.api::<Pod>().list(&of_task).await.expect("Pods").items
    }

    /// Everything that can be read of this namespace's objects and Events, as text.
    pub async fn objects_text(&self) -> String {
        let all = ListParams::default();
        let mut text = Vec::new();
        text.extend(self.api::<Task>().list(&all).await.iter().map(serde_json::to_string));
        text.extend(self.api::<Run>().list(&all).await.iter().map(serde_json::to_string));
        text.extend(self.api::<Pod>().list(&all).await.iter().map(serde_json::to_string));
        text.extend(self.api::<Event>().list(&all).await.iter().map(serde_json::to_string));
        assert_eq!(text.len(), 4, "all kinds were read");
        text.into_iter().map(|part| part.expect("JSON")).collect()
    }

    /// Waits until the status of a Task passes `check`, and returns it: every state that the Task has
    /// from now on is looked at, however short it lasts.
    pub async fn until(
        &self,
        task: &str,
        what: &str,
        limit: Duration,
        check: impl Fn(&TaskStatus) -> bool,
    ) -> TaskStatus {
        let deadline = tokio::time::Instant::now() + limit;
        let mut states = pin!(watcher::watch_object(self.api::<Task>(), task));
        loop {
            let state = tokio::time::timeout_at(deadline, states.next()).await;
            let Ok(state) = state else { break };
            // The watch tries again by itself when it fails.
            let Some(Ok(Some(task))) = state else { continue };
            let status = task.status.unwrap_or_default();
            if check(&status) {
                return status;
            }
            if status.phase.is_terminal() && !is_waiting_for_terminal(what) {
                break;
            }
        }
        panic!("{task} was to be {what}:\n{}", self.explain(task).await);
    }

    /// Waits until a Task is Done.
    pub async fn done(&self, task: &str, limit: Duration) -> TaskStatus {
        self.until(task, "Done", limit, |status| status.phase == TaskPhase::Done).await
    }

    /// Waits until a Pod of the Task has a running agent, and returns it.
    pub async fn agent_running(&self, task: &str) -> Pod {
        self.pod_where(task, "a running agent", agent_runs).await
    }

    /// Waits for a Pod of the Task that passes `check`.
    pub async fn pod_where(&self, task: &str, what: &str, check: impl Fn(&Pod) -> bool) -> Pod {
        let deadline = Instant::now() + ATTEMPT;
        loop {
            if let Some(pod) = self.pods(task).await.into_iter().find(|pod| check(pod)) {
                return pod;
            }
            assert!(Instant::now() < deadline, "{task} was to have {what}:\n{}", self.explain(task).await);
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until no Pod of the Task is left.
    pub async fn no_pod(&self, task: &str, limit: Duration) {
        let deadline = Instant::now() + limit;
        while !self.pods(task).await.is_empty() {
            assert!(Instant::now() < deadline, "{task} still has a Pod:\n{}", self.explain(task).await);
            tokio::time::sleep(POLL).await;
        }
    }

    /// What is known of a Task, for the message of a failed test.
    async fn explain(&self, task: &str) -> String {
        let mut text = format!("{:#?}\n", self.status(task).await);
        for run in self.runs(task).await {
            text.push_str(&format!("{}: {:?}\n", run.name_any(), run.status));
        }
        for pod in self.pods(task).await {
            text.push_str(&format!("{}: {}\n", pod.name_any(), serde_json::json!(pod.status)));
        }
        let log = self.node.release_logs();
        let lines: Vec<&str> = log.lines().filter(|line| line.contains(task)).collect();
        text + &lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// The kept log of one container of a Run.
    pub async fn log(&self, run: &Run, container: &str) -> Option<String> {
        let uid: uuid::Uuid = run.uid().expect("a uid").parse().expect("a uid");
        let database = Database::connect(self.node).await;
        let sql = "SELECT content FROM run_logs WHERE run_uid = $1 AND container = $2";
        let row = database.client.query_opt(sql, &[&uid, &container]).await.expect("an answer");
        row.map(|row| row.get(0))
    }
}

/// A Task that ends while something else is awaited will never get there.
fn is_waiting_for_terminal(what: &str) -> bool {
    matches!(what, "Done" | "Cancelled")
}

fn agent_runs(pod: &Pod) -> bool {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_ref());
    let running = |state: &Option<ContainerState>| state.as_ref().is_some_and(|s| s.running.is_some());
    statuses.is_some_and(|list| list.iter().filter(|c| running(&c.state)).count() == 2)
}

/// The Postgres of the release.
pub struct Database {
    pub client: tokio_postgres::Client,
    _forward: super::node::Forward,
}

impl Database {
    pub async fn connect(node: &Node) -> Self {
        let forward = node.forward(SERVICES, "postgres", 5432);
        let config = format!(
            "host=127.0.0.1 port={} user=opentiger password={DATABASE_CANARY} dbname=opentiger",
            forward.port
        );
        let (client, connection) = tokio_postgres::connect(&config, NoTls).await.expect("a connection");
        tokio::spawn(connection);
        Self { client, _forward: forward }
    }

    /// Every row of every table of ours, as text.
    pub async fn everything(&self) -> String {
        let sql = "SELECT quote_ident(schemaname) || '.' || quote_ident(tablename) FROM pg_tables
                   WHERE schemaname NOT IN ('pg_catalog', 'information_schema')";
        let mut text = String::new();
        for table in self.client.query(sql, &[]).await.expect("tables") {
            let rows = format!(
                "SELECT coalesce(string_agg(t::text, E'\\n'), '') FROM {} AS t",
                table.get::<_, String>(0)
            );
            text.push_str(&self.client.query_one(&rows, &[]).await.expect("rows").get::<_, String>(0));
        }
        text
    }
}
