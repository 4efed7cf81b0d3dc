//! Planning outside of pure code: a plan's way from the checkout to the API, and the API's side of it
//! against a real API server.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod git_support;
mod support;

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use axum::{Json, Router};
use git_support::{Pod, Server};
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{Pod as KubePod, ServiceAccount};
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt};
use opentiger::build::pod::{RunnerImage, build_pod};
use opentiger::crd::planner::{HandedOver, PlanHandOver, PlanTarget};
use opentiger::crd::pool::{ExecutorType, MockExecutor};
use opentiger::crd::run::TaskRef;
use opentiger::crd::wire::{API_AUDIENCE, ContainerResult, Outcome};
use opentiger::crd::{GoDuration, Purpose, Run, RunSpec, System, Task, labels};
use opentiger::http_api::{ApiConfig, router, state};
use opentiger::postgres::DatabaseConfig;
use opentiger::runner::api::Api as PlanApi;
use opentiger::runner::exchange;
use opentiger::runner::planning::{PLAN_FILE, PlanFacts, SKIP_FILE, SNAPSHOT_FILE, publish};
use rstest::rstest;
use serde_json::{Value, json};
use support::cluster::{self, TestNamespace};
use support::operator::{Operator, OperatorOptions};

const FILES: [(&str, &[u8], &[u8]); 2] = [
    ("100644", b"README.md", b"hello\n"),
    ("100644", b"docs/requirement.md", b"# Goal\n\nShip it\n\n## Allowed Paths\n\n- `src/**`\n"),
];
const PLAN: &str = r#"Done: {"tasks": [{"title": "First", "goal": "g", "allowedPaths": ["src/a/**"]},
    {"title": "Second", "goal": "g", "dependsOn": [0]}]}"#;

/// What the stand-in for the API was sent, and how often it has to be busy first.
#[derive(Default)]
struct Sent {
    busy: usize,
    refuse: bool,
    plans: Vec<(String, PlanHandOver)>,
}

type Shared = Arc<Mutex<Sent>>;

async fn take(
    State(sent): State<Shared>,
    headers: HeaderMap,
    Json(plan): Json<PlanHandOver>,
) -> Result<Json<HandedOver>, (StatusCode, &'static str)> {
    let mut sent = sent.lock().expect("lock");
    if sent.busy > 0 {
        sent.busy -= 1;
        return Err((StatusCode::SERVICE_UNAVAILABLE, "busy"));
    }
    if sent.refuse {
        return Err((StatusCode::CONFLICT, "not in progress"));
    }
    let token = headers["authorization"].to_str().expect("text").to_owned();
    let tasks = plan.tasks.iter().map(|task| task.name.clone()).collect();
    sent.plans.push((token, plan));
    Ok(Json(HandedOver { tasks, earlier: false, warnings: Vec::new() }))
}

/// Serves `router` on loopback and returns its URL.
async fn serve(router: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("listen");
    let address = listener.local_addr().expect("address");
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}

/// A Plan Run's Pod, the API's stand-in, and the way there.
struct Planner {
    _server: Server,
    pod: Pod,
    sent: Shared,
    api: PlanApi,
}

impl Planner {
    async fn new() -> Self {
        let server = Server::start();
        server.seed("app.git", &FILES);
        let mut pod = Pod::new(&server.url("app.git"));
        pod.inputs.spec.purpose = Purpose::Plan;
        pod.inputs.spec.inputs.goal = "# Goal\n\nShip it\n".into();
        pod.inputs.spec.plan = Some(PlanTarget::default());
        let sent = Shared::default();
        let router = Router::new().route("/runs/{id}/tasks", post(take)).with_state(sent.clone());
        let token = pod.dir.path().join("token");
        fs::write(&token, "the-token\n").expect("write");
        let api = PlanApi { url: Some(serve(router).await), token };
        Self { _server: server, pod, sent, api }
    }

    /// The agent leaves `plan`, reports `outcome` and ends.
    async fn publish(&self, plan: &str, outcome: Outcome) -> ContainerResult {
        let exchange = self.pod.paths.exchange.clone();
        fs::write(exchange.join(PLAN_FILE), plan).expect("write");
        exchange::write_result(&exchange, &ContainerResult::new(outcome)).expect("write");
        let agent = tokio::task::spawn_blocking(move || exchange::open_as_agent(&exchange).map(drop));
        let result = publish::run(&self.pod.inputs, &self.pod.paths, &self.api, &self.pod.stop).await;
        agent.await.expect("thread").expect("open");
        result
    }

    fn plans(&self) -> usize {
        self.sent.lock().expect("lock").plans.len()
    }
}

#[tokio::test]
async fn a_plan_is_put_in_order_and_handed_over_with_the_token() {
    let planner = Planner::new().await;
    planner.pod.checked_out().await;
    let looks = exchange::read_text(&planner.pod.paths.exchange, SNAPSHOT_FILE).expect("a snapshot");
    let readme = "\nREADME.md, from its beginning:\n\n~~~~\n";
    assert!(
        looks.starts_with("The base branch has ") && looks.contains("\n- docs/requirement.md\n"),
        "{looks}"
    );
    assert!(looks.contains(readme), "{looks}");
    planner.sent.lock().expect("lock").busy = 1;
    let result = planner.publish(PLAN, Outcome::Success).await;
    assert_eq!(result.outcome, Outcome::Success, "{}", result.summary);
    assert!(result.summary.starts_with("planned 2 Tasks: "), "{}", result.summary);
    let facts = PlanFacts::load(&planner.pod.paths).expect("facts");
    assert_eq!(result.head.as_deref(), Some(facts.head.as_str()));
    let sent = planner.sent.lock().expect("lock");
    let (token, plan) = sent.plans.first().expect("a plan");
    assert_eq!((token.as_str(), &plan.signature), ("Bearer the-token", &facts.signature));
    assert_eq!(plan.tasks[1].spec.dependencies, [plan.tasks[0].name.clone()]);
    assert!(plan.tasks[0].name.starts_with(&facts.signature[..8]));
    assert!(!facts.repository_is_empty);
}

#[tokio::test]
async fn a_plan_that_would_be_the_last_one_again_ends_before_it_is_made_c105_a62() {
    let mut planner = Planner::new().await;
    planner.pod.checked_out().await;
    let facts = PlanFacts::load(&planner.pod.paths).expect("facts");
    let again = PlanTarget { unless_signature: Some(facts.signature.clone()), ..PlanTarget::default() };
    planner.pod.inputs.spec.plan = Some(again);
    planner.pod.checked_out().await;
    let skip = planner.pod.paths.exchange.join(SKIP_FILE);
    assert!(skip.exists(), "the agent is told");
    let result = planner.publish(PLAN, Outcome::Noop).await;
    assert_eq!((result.outcome, planner.plans()), (Outcome::Noop, 0), "{}", result.summary);
    assert!(result.summary.starts_with("no_diff"), "{}", result.summary);
    // The requirement was edited: there is something to plan.
    planner.pod.inputs.spec.inputs.goal.push_str("\nAnd more\n");
    planner.pod.checked_out().await;
    assert!(!skip.exists());
    assert_eq!(planner.publish(PLAN, Outcome::Success).await.outcome, Outcome::Success);
}

#[tokio::test]
async fn a_requirement_in_the_repository_is_read_from_the_trusted_clone() {
    let mut planner = Planner::new().await;
    let at = |path: &str| Some(PlanTarget { requirement_path: Some(path.into()), ..PlanTarget::default() });
    planner.pod.inputs.spec.plan = at("docs/requirement.md");
    planner.pod.checked_out().await;
    // What the agent makes of its copy does not count.
    planner.pod.write("docs/requirement.md", "# Goal\n\nSomething else\n");
    let facts = PlanFacts::load(&planner.pod.paths).expect("facts");
    assert!(facts.requirement.starts_with("# Goal\n\nShip it\n"), "{}", facts.requirement);
    planner.publish(PLAN, Outcome::Success).await;
    let paths = planner.sent.lock().expect("lock").plans[0].1.tasks[1].spec.allowed_paths.clone();
    assert_eq!(paths[0], "src/**", "the paths of the requirement");

    planner.pod.inputs.spec.plan = at("docs/absent.md");
    let result = planner.pod.checkout().await;
    assert_eq!(result.failure_code.as_deref(), Some("setup_or_bootstrap_issue"), "{}", result.summary);
    assert!(result.summary.contains("docs/absent.md"), "{}", result.summary);
}

#[rstest]
#[case::nothing("I could not decide.", "plan_unreadable")]
#[case::empty(r#"{"tasks": []}"#, "plan_empty")]
#[case::flood(&format!("{}{PLAN}", " ".repeat(600 * 1024)), "plan_unreadable")]
#[tokio::test]
async fn a_plan_that_cannot_be_used_is_a_failure_with_its_code_q23(#[case] plan: &str, #[case] code: &str) {
    let planner = Planner::new().await;
    planner.pod.checked_out().await;
    let result = planner.publish(plan, Outcome::Success).await;
    assert_eq!((result.outcome, result.failure_code.as_deref()), (Outcome::Failed, Some(code)));
    assert_eq!(planner.plans(), 0);
}

#[tokio::test]
async fn a_plan_that_the_api_refuses_is_not_sent_again() {
    let planner = Planner::new().await;
    planner.pod.checked_out().await;
    planner.sent.lock().expect("lock").refuse = true;
    let result = planner.publish(PLAN, Outcome::Success).await;
    assert_eq!(result.failure_code.as_deref(), Some("plan_refused"), "{}", result.summary);
    assert!(result.summary.contains("not in progress"), "{}", result.summary);
}

/// A namespace with a Task that is planning in its Run, and the Run's Pod.
async fn planning(client: &Client, namespace: &str) -> (Run, KubePod) {
    let tasks: Api<Task> = Api::namespaced(client.clone(), namespace);
    let task: Task = serde_json::from_value(json!({
        "apiVersion": "opentiger.dev/v1alpha1", "kind": "Task", "metadata": {"name": "plan-1"},
        "spec": {"title": "Plan", "goal": "g", "role": "Planner", "kind": "plan"},
    }))
    .expect("a Task");
    let task = tasks.create(&PostParams::default(), &task).await.expect("a Task");
    let status = json!({"status": {"phase": "Running", "currentRun": "plan-1-r1"}});
    tasks.patch_status("plan-1", &PatchParams::default(), &Patch::Merge(&status)).await.expect("status");

    let mut spec = RunSpec {
        task_ref: TaskRef { name: "plan-1".into(), uid: task.uid().expect("uid") },
        attempt: 1,
        purpose: Purpose::Plan,
        pool: "planner".into(),
        agent: "planner-1".into(),
        lane: "feature".into(),
        ..RunSpec::default()
    };
    spec.template.image = "agent:1".into();
    spec.template.executor.type_ = ExecutorType::Mock;
    spec.template.executor.mock = Some(MockExecutor::default());
    spec.limits.startup_timeout = GoDuration::from_secs(900);
    spec.limits.agent_liveness_window = GoDuration::from_secs(120);
    spec.inputs.timebox = GoDuration::from_secs(600);
    let runs: Api<Run> = Api::namespaced(client.clone(), namespace);
    let run = runs.create(&PostParams::default(), &Run::new("plan-1-r1", spec)).await.expect("a Run");

    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let account = ServiceAccount {
        metadata: ObjectMeta { name: Some("default".into()), ..ObjectMeta::default() },
        ..ServiceAccount::default()
    };
    if let Err(error) = accounts.create(&PostParams::default(), &account).await {
        assert!(error.to_string().contains("already exists"), "{error}");
    }
    let runner = RunnerImage {
        image: "runner:1".into(),
        pull_policy: "IfNotPresent".into(),
        api_url: Some("http://api.opentiger.svc:4301".into()),
    };
    let pod = build_pod(&run, &runner, 1).expect("a Pod");
    let pods: Api<KubePod> = Api::namespaced(client.clone(), namespace);
    // The restricted profile of the namespace lets the projected token through.
    let pod = pods.create(&PostParams::default(), &pod).await.expect("a Pod");
    (run, pod)
}

/// A token as the kubelet projects it: for `audience`, bound to `pod`.
async fn token(client: &Client, namespace: &str, pod: &KubePod, audience: &str) -> String {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let request: TokenRequest = serde_json::from_value(json!({"spec": {
        "audiences": [audience], "expirationSeconds": 600,
        "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": pod.name_any(), "uid": pod.uid()},
    }}))
    .expect("a request");
    let issued = accounts.create_token_request("default", &PostParams::default(), &request).await;
    issued.expect("a token").status.expect("status").token
}

#[tokio::test]
async fn a_run_s_pod_hands_its_plan_over_and_nobody_else_can() {
    let client = cluster::client().await;
    cluster::install_crds(&client).await;
    let space = TestNamespace::create(&client, "plan").await;
    let namespace = space.name.clone();
    let (run, pod) = planning(&client, &namespace).await;
    let config = ApiConfig {
        // No route of a plan reads it.
        insecure_no_auth: true,
        client: Some(client.clone()),
        ..ApiConfig::new(
            namespace.clone(),
            DatabaseConfig::new("postgres://nobody@127.0.0.1:1/none", "test-plans"),
            jiff::Timestamp::now,
        )
    };
    let url = serve(router(state(&config).expect("state"))).await;

    let planner = Planner::new().await;
    planner.pod.checked_out().await;
    let publish = async |token: &str, run: &str| {
        let mut inputs = planner.pod.inputs.clone();
        inputs.run = run.into();
        let file: PathBuf = planner.pod.dir.path().join("token");
        fs::write(&file, token).expect("write");
        let api = PlanApi { url: Some(url.clone()), token: file };
        let exchange = planner.pod.paths.exchange.clone();
        fs::write(exchange.join(PLAN_FILE), PLAN).expect("write");
        exchange::write_result(&exchange, &ContainerResult::new(Outcome::Success)).expect("write");
        let agent = tokio::task::spawn_blocking(move || exchange::open_as_agent(&exchange).map(drop));
        let result = publish::run(&inputs, &planner.pod.paths, &api, &planner.pod.stop).await;
        agent.await.expect("thread").expect("open");
        result
    };
    let own = token(&client, &namespace, &pod, API_AUDIENCE).await;
    let kubernetes = token(&client, &namespace, &pod, "https://kubernetes.default.svc").await;
    for (token, name, answer) in [
        (own.as_str(), "plan-1-r2", "403"),
        (kubernetes.as_str(), "plan-1-r1", "401"),
        ("no-token", "plan-1-r1", "401"),
    ] {
        let refused = publish(token, name).await;
        assert_eq!(refused.failure_code.as_deref(), Some("plan_refused"), "{}", refused.summary);
        assert!(refused.summary.contains(answer), "{}", refused.summary);
    }
    let tasks: Api<Task> = Api::namespaced(client.clone(), &namespace);
    assert_eq!(
        tasks.list(&Default::default()).await.expect("Tasks").items.len(),
        1,
        "only the Task that plans"
    );

    // Twice, as after a lost answer.
    for _ in 0..2 {
        let result = publish(&own, &run.name_any()).await;
        assert_eq!(result.outcome, Outcome::Success, "{}", result.summary);
    }
    let all = tasks.list(&Default::default()).await.expect("Tasks").items;
    let children: Vec<&Task> =
        all.iter().filter(|task| task.labels().contains_key(labels::PARENT_UID)).collect();
    assert_eq!((all.len(), children.len()), (3, 2));
    assert!(children.iter().all(|task| task.labels()[labels::PARENT] == "plan-1"));

    // The Run has ended: its token opens nothing any more.
    let runs: Api<Run> = Api::namespaced(client.clone(), &namespace);
    let ended = json!({"status": {"phase": "Cancelled"}});
    runs.patch_status("plan-1-r1", &PatchParams::default(), &Patch::Merge(&ended)).await.expect("status");
    let late = publish(&own, "plan-1-r1").await;
    assert!(late.summary.contains("409"), "{}", late.summary);
}

#[tokio::test]
async fn a_system_that_is_to_plan_starts_one_task_for_it_and_says_so() {
    let client = cluster::client().await;
    cluster::install_crds(&client).await;
    let space = TestNamespace::create(&client, "plan").await;
    let systems: Api<System> = Api::namespaced(client.clone(), &space.name);
    let system: System = serde_json::from_value(json!({
        "apiVersion": "opentiger.dev/v1alpha1", "kind": "System", "metadata": {"name": "default"},
        "spec": {"runtimeHatch": "Armed", "repository": {"url": "http://git.demo.svc/x.git"},
            "planner": {"enabled": true, "requirement": "# Goal\n\nShip it\n", "interval": "1s"}},
    }))
    .expect("a System");
    systems.create(&PostParams::default(), &system).await.expect("a System");
    let log = tempfile::tempdir().expect("directory");
    let operator = Operator::start(&OperatorOptions {
        kubeconfig: &cluster::kubeconfig(),
        namespace: &space.name,
        identity: "one",
        log: log.path().join("log"),
        database_url: None,
    });
    let status = async || systems.get("default").await.ok()?.status?.planner;
    let current = cluster::eventually("planning has started", || async {
        status().await.map(|planner| planner.current).filter(|current| !current.is_empty())
    })
    .await;
    let tasks: Api<Task> = Api::namespaced(client.clone(), &space.name);
    let made = tasks.list(&Default::default()).await.expect("Tasks").items;
    assert_eq!(
        made.iter().map(ResourceExt::name_any).collect::<Vec<_>>(),
        std::slice::from_ref(&current),
        "{}",
        operator.log_tail()
    );
    assert_eq!((made[0].spec.kind.as_str(), made[0].spec.goal.as_str()), ("plan", "# Goal\n\nShip it\n"));
    let said = systems.get("default").await.expect("a System").status.expect("status").conditions;
    let said = said.iter().find(|condition| condition.type_ == "Planner").expect("a condition");
    assert!(said.status == "True" && said.message.contains(&current), "{said:?}");

    // It is cancelled: that is taken in, and the next round has another name.
    let cancel = json!({"spec": {"cancel": true}});
    tasks.patch(&current, &PatchParams::default(), &Patch::Merge(&cancel)).await.expect("cancelled");
    cluster::eventually("the end is taken in", || async {
        let planner = status().await?;
        (planner.rounds >= 1 && planner.last_result.contains("ended Cancelled")).then_some(())
    })
    .await;
}

#[rstest]
#[case::judge("Task", json!({"title": "t", "goal": "g", "role": "Judge"}), "role: must not be Judge")]
#[case::kind("Task", json!({"title": "t", "goal": "g", "kind": "plan"}), "role Planner goes with kind plan")]
#[case::role("Task", json!({"title": "t", "goal": "g", "role": "Planner"}), "role Planner goes with kind plan")]
#[case::nothing("System", json!({"planner": {"enabled": true}}), "either requirement or requirementPath")]
#[case::both("System", json!({"planner": {"enabled": true, "requirement": "r", "requirementPath": "p"}}), "either requirement")]
#[case::path("System", json!({"planner": {"requirementPath": "../x"}}), "must be relative to the repository")]
#[case::issues_mode("System", json!({"planner": {"enabled": true, "issues": {"labels": ["opentiger"]}}}), "planner.issues: is for repository mode GitHub only")]
#[case::issues_labels("System", json!({"planner": {"issues": {"labels": []}}}), "spec.planner.issues.labels")]
#[case::issues_mark("System", json!({"planner": {"issues": {"labels": ["opentiger-imported"]}}}), "labels: must not be blank, hold a comma, or be opentiger-imported")]
#[case::issues_role("System", json!({"planner": {"issues": {"labels": ["a"], "defaultRole": "Judge"}}}), "defaultRole: must be Worker, Tester or Docser")]
#[case::interval("System", json!({"planner": {"interval": "0s"}}), "interval: must be a duration between 1s and 720h")]
#[tokio::test]
async fn what_cannot_be_planned_is_refused_with_what_to_change(
    #[case] kind: &str,
    #[case] mut spec: Value,
    #[case] problem: &str,
) {
    let client = cluster::client().await;
    cluster::install_crds(&client).await;
    let space = TestNamespace::create(&client, "plan").await;
    let namespace = space.name.clone();
    let name = if kind == "System" { "default" } else { "a" };
    if kind == "System" {
        spec["repository"] = json!({"url": "http://git.demo.svc/x.git"});
    }
    let object = json!({"apiVersion": "opentiger.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec});
    let url = format!("/apis/opentiger.dev/v1alpha1/namespaces/{namespace}/{}s", kind.to_lowercase());
    let request = axum::http::Request::post(url).header("content-type", "application/json");
    let body = serde_json::to_vec(&object).expect("json");
    let error = client.request::<Value>(request.body(body).expect("request")).await.expect_err("refused");
    assert!(error.to_string().contains(problem), "{error}");
}
