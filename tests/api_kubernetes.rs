//! The HTTP API against a real API server: `POST /tasks` with its validation, tokens with their
//! rights, and the log archive (whose node is a mock).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "support/history.rs"]
mod history;
#[path = "support/postgres.rs"]
mod postgres;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, Response};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, ObjectMeta, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::runtime::watcher;
use kube::{Client, ResourceExt};
use opentiger::controller::logs::{Error as LogError, archive};
use opentiger::controller::mirror::{Bounds, Kind, Kubernetes, Mirror, Mirrored};
use opentiger::crd::Task;
use opentiger::http_api::{ApiConfig, router, state};
use opentiger::postgres::DatabaseConfig;
use postgres::{Database, eventually};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

async fn client() -> Client {
    let Some(path) = std::env::var_os("OPENTIGER_TEST_KUBECONFIG") else {
        panic!("OPENTIGER_TEST_KUBECONFIG is not set: run `make test`, which starts a control plane");
    };
    let kubeconfig = Kubeconfig::read_from(path).expect("kubeconfig");
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .expect("config");
    let client = Client::try_from(config).expect("client");
    let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
    for crd in opentiger::crd::schema::all().expect("definitions") {
        let patch = PatchParams::apply("test").force();
        crds.patch(&crd.name_any(), &patch, &Patch::Apply(&crd)).await.expect("definition applied");
    }
    for crd in opentiger::crd::schema::all().expect("definitions") {
        eventually("the definition is established", async || {
            let crd = crds.get(&crd.name_any()).await.expect("definition");
            let conditions = crd.status.and_then(|s| s.conditions).unwrap_or_default();
            conditions.iter().any(|c| c.type_ == "Established" && c.status == "True")
        })
        .await;
    }
    client
}

/// A namespace of its own.
async fn namespace(client: &Client, prefix: &str) -> String {
    let metadata = ObjectMeta { generate_name: Some(format!("{prefix}-")), ..ObjectMeta::default() };
    let namespace = Namespace { metadata, ..Namespace::default() };
    Api::all(client.clone()).create(&PostParams::default(), &namespace).await.expect("namespace").name_any()
}

fn config(database: &Database, client: &Client, namespace: &str) -> ApiConfig {
    ApiConfig {
        insecure_no_auth: true,
        client: Some(client.clone()),
        ..ApiConfig::new(namespace, DatabaseConfig::new(&database.url, "test-api"), jiff::Timestamp::now)
    }
}

async fn send(router: &Router, request: Request<Body>) -> (u16, Value) {
    let response = router.clone().oneshot(request).await.expect("infallible");
    let status = response.status().as_u16();
    let bytes = to_bytes(response.into_body(), 16 << 20).await.expect("body");
    (status, serde_json::from_slice(&bytes).expect("always JSON"))
}

fn post(body: &Value, key: Option<&str>) -> Request<Body> {
    let request = Request::post("/tasks");
    let request = key.into_iter().fold(request, |r, k| r.header("idempotency-key", k));
    request.body(Body::from(body.to_string())).expect("request")
}

fn body(title: &str) -> Value {
    json!({"title": title, "goal": "tests pass", "allowedPaths": ["src/**"], "commands": ["make test"]})
}

/// Feeds the mirror from a watch, as the operator does.
fn follow(client: &Client, namespace: &str, mirror: Mirror) {
    let (api, namespace) = (Api::<Task>::namespaced(client.clone(), namespace), namespace.to_owned());
    tokio::spawn(async move {
        let mut events = watcher(api, watcher::Config::default()).boxed();
        let mut list = Vec::new();
        while let Some(event) = events.try_next().await.expect("watch") {
            match event {
                watcher::Event::Init => list.clear(),
                watcher::Event::InitApply(task) => {
                    let task = Mirrored::Task(Arc::new(task));
                    list.push((task.uid(), task.version()));
                    mirror.applied(task);
                }
                watcher::Event::InitDone => mirror.listed(Kind::Task, &namespace, std::mem::take(&mut list)),
                watcher::Event::Apply(task) => mirror.applied(Mirrored::Task(Arc::new(task))),
                watcher::Event::Delete(task) => mirror.deleted(Mirrored::Task(Arc::new(task))),
            }
        }
    });
}

#[tokio::test]
async fn a_posted_task_is_an_object_and_a_row() {
    let (client, database) = (client().await, Database::migrated().await);
    let namespace = namespace(&client, "post").await;
    let cluster = Kubernetes::new(client.clone(), vec![namespace.clone()]);
    let mirror = Mirror::new(
        database.pool.clone(),
        Arc::new(cluster),
        Bounds { delay: Duration::from_millis(5), ..Bounds::default() },
    );
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(mirror.clone().run(shutdown.clone()));
    follow(&client, &namespace, mirror.clone());
    let router = router(state(&config(&database, &client, &namespace)).expect("state"));

    let (status, made) = send(&router, post(&body("Divide by zero!"), None)).await;
    assert_eq!(status, 201, "{made}");
    let name = made["task"]["name"].as_str().expect("name");
    assert!(name.starts_with("divide-by-zero-"), "{name}");
    let api: Api<Task> = Api::namespaced(client.clone(), &namespace);
    let task = api.get(name).await.expect("object");
    assert_eq!(made["task"]["id"].as_str(), task.metadata.uid.as_deref());
    assert_eq!(made["task"]["status"], json!("queued"), "the schema's first state");

    let once = body("Once");
    let (a, b) = tokio::join!(send(&router, post(&once, Some("k1"))), send(&router, post(&once, Some("k1"))));
    assert_eq!((a.0, b.0), (201, 201), "{} {}", a.1, b.1);
    assert_eq!(a.1["task"]["id"], b.1["task"]["id"]);
    let (status, reused) = send(&router, post(&body("Other"), Some("k1"))).await;
    assert_eq!((status, reused["code"].as_str()), (422, Some("idempotency_key_reused")));
    assert_eq!(api.list(&Default::default()).await.expect("list").items.len(), 2);

    // What only Kubernetes validates is a 400 with the field's name all the same.
    for (field, value) in [
        ("title", json!("x".repeat(201))),
        ("priority", json!(1001)),
        ("allowedPaths", json!(["/etc"])),
        ("allowedPaths", json!(["a/../b"])),
        ("kind", json!("no label!")),
        ("commands", json!([" "])),
    ] {
        let mut bad = body("Bad");
        bad[field] = value;
        let (status, answer) = send(&router, post(&bad, None)).await;
        assert_eq!(status, 400, "{answer}");
        assert!(answer["error"].as_str().is_some_and(|e| e.starts_with(field)), "{field}: {answer}");
    }

    // Rows follow the objects until they go.
    api.delete(name, &DeleteParams::default()).await.expect("deleted");
    let path = format!("/tasks/{}", made["task"]["id"].as_str().expect("id"));
    eventually("the Task is gone from the API", async || {
        send(&router, Request::get(&path).body(Body::empty()).expect("request")).await.0 == 404
    })
    .await;
    shutdown.cancel();
    running.await.expect("ended");
}

#[tokio::test]
async fn a_task_that_a_dead_api_server_did_not_take_is_a_503() {
    let database = Database::migrated().await;
    let nowhere = kube::Config::new("http://127.0.0.1:1".parse().expect("address"));
    let client = Client::try_from(nowhere).expect("client");
    let config = ApiConfig { kubernetes_auth: true, ..config(&database, &client, "default") };
    let closed = router(state(&config).expect("state"));
    let request =
        Request::get("/tasks").header("authorization", "Bearer x").body(Body::empty()).expect("request");
    let (status, answer) = send(&closed, request).await;
    assert_eq!((status, answer["code"].as_str()), (503, Some("kubernetes_unavailable")));
    let open = router(state(&ApiConfig { kubernetes_auth: false, ..config }).expect("state"));
    let (status, answer) = send(&open, post(&body("x"), None)).await;
    assert_eq!((status, answer["code"].as_str()), (503, Some("kubernetes_unavailable")));
}

async fn token(client: &Client, namespace: &str, account: &str) -> String {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let metadata = ObjectMeta { name: Some(account.into()), ..ObjectMeta::default() };
    accounts
        .create(&PostParams::default(), &ServiceAccount { metadata, ..ServiceAccount::default() })
        .await
        .expect("account");
    let request: TokenRequest =
        serde_json::from_value(json!({"spec": {"audiences": [], "expirationSeconds": 600}}))
            .expect("request");
    let issued =
        accounts.create_token_request(account, &PostParams::default(), &request).await.expect("token");
    issued.status.expect("status").token
}

/// A token of an account, for an audience.
async fn token_for(client: &Client, namespace: &str, account: &str, audience: &str) -> String {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let request: TokenRequest =
        serde_json::from_value(json!({"spec": {"audiences": [audience], "expirationSeconds": 600}}))
            .expect("request");
    let issued = accounts.create_token_request(account, &PostParams::default(), &request).await;
    issued.expect("token").status.expect("status").token
}

async fn grant(client: &Client, namespace: &str, account: &str, rules: Value) {
    let role: Role =
        serde_json::from_value(json!({"metadata": {"name": account}, "rules": rules})).expect("role");
    Api::<Role>::namespaced(client.clone(), namespace)
        .create(&PostParams::default(), &role)
        .await
        .expect("role");
    let binding: RoleBinding = serde_json::from_value(json!({
        "metadata": {"name": account},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": account},
        "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": namespace}],
    }))
    .expect("binding");
    Api::<RoleBinding>::namespaced(client.clone(), namespace)
        .create(&PostParams::default(), &binding)
        .await
        .expect("binding");
}

#[tokio::test]
async fn tokens_may_what_their_account_may() {
    let (client, database) = (client().await, Database::migrated().await);
    let namespace = namespace(&client, "token").await;
    let reader = token(&client, &namespace, "reader").await;
    let nobody = token(&client, &namespace, "nobody").await;
    grant(
        &client,
        &namespace,
        "reader",
        json!([{"apiGroups": ["opentiger.dev"], "resources": ["tasks"], "verbs": ["get", "list"]}]),
    )
    .await;
    let with_tokens = ApiConfig { kubernetes_auth: true, ..config(&database, &client, &namespace) };
    let router = router(state(&with_tokens).expect("state"));
    let ask = async |token: Option<&str>, method: &str, path: &str| {
        let request = Request::builder().method(method).uri(path);
        let request =
            token.into_iter().fold(request, |r, t| r.header("authorization", format!("Bearer {t}")));
        send(&router, request.body(Body::from(body("x").to_string())).expect("request")).await
    };
    // The authorizer sees a new binding a moment later.
    eventually("the reader may read", async || ask(Some(&reader), "GET", "/tasks").await.0 == 200).await;
    for (token, method, path, expected) in [
        (Some(&reader), "GET", "/tasks/00000000-0000-0000-0000-000000000000", 404),
        (Some(&reader), "GET", "/runs", 403),
        (Some(&reader), "GET", "/agents", 403),
        (Some(&reader), "POST", "/tasks", 403),
        (Some(&reader), "DELETE", "/tasks", 405),
        (Some(&nobody), "GET", "/tasks", 403),
        (Some(&"not-a-token".to_owned()), "GET", "/tasks", 401),
        (None, "GET", "/tasks", 401),
        (None, "GET", "/health", 200),
    ] {
        let (status, answer) = ask(token.map(String::as_str), method, path).await;
        assert_eq!(status, expected, "{method} {path}: {answer}");
        assert!(status < 400 || answer["code"].is_string(), "{answer}");
        assert!(token.is_none_or(|t| !answer.to_string().contains(t.as_str())), "no token in an answer");
    }
    // The right is taken away: the answer is kept for a few seconds only.
    let bindings: Api<RoleBinding> = Api::namespaced(client.clone(), &namespace);
    bindings.delete("reader", &DeleteParams::default()).await.expect("deleted");
    eventually("the reader may no more", async || ask(Some(&reader), "GET", "/tasks").await.0 == 403).await;
}

#[tokio::test]
async fn an_account_of_another_namespace_and_a_token_for_another_program_open_nothing() {
    let (client, database) = (client().await, Database::migrated().await);
    let (ours, theirs) = (namespace(&client, "ours").await, namespace(&client, "theirs").await);
    let everything = json!([{"apiGroups": ["opentiger.dev"], "resources": ["*"], "verbs": ["*"]}]);
    // The same name and the same rights, in two namespaces.
    let (local, stranger) = (token(&client, &ours, "tiger").await, token(&client, &theirs, "tiger").await);
    grant(&client, &ours, "tiger", everything.clone()).await;
    grant(&client, &theirs, "tiger", everything).await;
    let with_tokens = ApiConfig { kubernetes_auth: true, ..config(&database, &client, &ours) };
    let router = router(state(&with_tokens).expect("state"));
    let ask = async |token: &str, path: &str| {
        let request = Request::get(path).header("authorization", format!("Bearer {token}"));
        send(&router, request.body(Body::empty()).expect("request")).await
    };
    eventually("our account may read", async || ask(&local, "/tasks").await.0 == 200).await;
    for path in ["/tasks", "/runs", "/agents", "/tasks/00000000-0000-0000-0000-000000000001"] {
        let (status, answer) = ask(&stranger, path).await;
        assert_eq!(status, 403, "{path}: {answer}");
    }
    // Made for another program: whoever got it there cannot use it here, nor the reverse.
    for audience in ["opentiger-api", "vault"] {
        let other = token_for(&client, &ours, "tiger", audience).await;
        assert_eq!(ask(&other, "/tasks").await.0, 401, "{audience}");
    }
    let (head, tail) = local.rsplit_once('.').expect("a signed token");
    assert_eq!(ask(&format!("{head}.{}", tail.chars().rev().collect::<String>()), "/tasks").await.0, 401);
}

/// A client whose API server answers by `answer(path and query)`.
fn mocked(answer: impl Fn(String) -> (u16, Vec<u8>) + Send + Sync + 'static) -> Client {
    let answer = Arc::new(answer);
    let service = tower::service_fn(move |request: Request<kube::client::Body>| {
        let (status, body) = answer(request.uri().to_string());
        async move {
            let response = Response::builder().status(status).body(kube::client::Body::from(body));
            Ok::<_, std::convert::Infallible>(response.expect("response"))
        }
    });
    Client::new(service, "default")
}

fn failure(code: u16, message: &str) -> (u16, Vec<u8>) {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "reason": "x", "code": code});
    (code, status.to_string().into_bytes())
}

#[tokio::test]
async fn logs_are_archived_within_bounds_and_once() {
    let database = Database::migrated().await;
    let run = history::uid(1).to_string();
    let containers = ["checkout", "agent", "publish"];
    let line = "2026-02-13T14:00:00.000000000Z the same line again\n";
    let long = line.repeat(40_000);
    let total = i64::try_from(long.len()).expect("small");
    let client = mocked(move |uri| {
        assert!(
            uri.starts_with("/api/v1/namespaces/tiger/pods/fix-x-r1/log?") && uri.contains("timestamps=true"),
            "{uri}"
        );
        if uri.contains("container=checkout") {
            (200, b"2026-02-13T14:00:00Z cloned \0 \xff\n".to_vec())
        } else if uri.contains("container=agent") {
            (200, long.clone().into_bytes())
        } else {
            failure(400, "container \"publish\" in pod \"fix-x-r1\" is waiting to start: PodInitializing")
        }
    });
    for _ in 0..2 {
        archive(&client, &database.pool, "tiger", &run, "fix-x-r1", &containers).await.expect("archived");
    }
    let rows = database.json("SELECT container, length(content) AS length, total_bytes, cut_bytes, xmin::text FROM run_logs ORDER BY container").await;
    assert_eq!(rows.as_array().map(Vec::len), Some(3), "one row per container: {rows}");
    assert_eq!(rows[0]["total_bytes"], json!(total));
    assert!(rows[0]["length"].as_i64().is_some_and(|n| n > 500 * 1024 && n <= 512 * 1024 + 64), "{rows}");
    assert_eq!((&rows[2]["length"], &rows[2]["total_bytes"]), (&json!(0), &json!(0)));
    let text: String = database.value("SELECT content FROM run_logs WHERE container = 'checkout'").await;
    assert_eq!(text, "2026-02-13T14:00:00Z cloned \\u0000 \u{fffd}\n");
    let text: String = database.value("SELECT content FROM run_logs WHERE container = 'agent'").await;
    let cut = rows[0]["cut_bytes"].as_i64().expect("number");
    assert!(text.contains(&format!("\n[... {cut} bytes cut ...]\n2026")));
    assert_eq!(
        i64::try_from(text.len()).expect("small")
            - i64::try_from(format!("[... {cut} bytes cut ...]\n").len()).expect("small")
            + cut,
        total
    );

    // The Pod goes: what was kept stays, what was not is an error.
    let gone = mocked(|_| failure(404, "pods \"fix-x-r1\" not found"));
    archive(&gone, &database.pool, "tiger", &run, "fix-x-r1", &containers).await.expect("kept before");
    let error =
        archive(&gone, &database.pool, "tiger", &history::uid(2).to_string(), "fix-x-r1", &containers)
            .await
            .expect_err("lost");
    assert!(matches!(error, LogError::Gone { .. }), "{error}");
    let broken = mocked(|_| failure(500, "node is unreachable"));
    let error = archive(&broken, &database.pool, "tiger", &run, "fix-x-r1", &containers)
        .await
        .expect_err("try again");
    assert!(matches!(error, LogError::Read { .. }), "{error}");
    let again = database.json("SELECT container, length(content) AS length, total_bytes, cut_bytes, xmin::text FROM run_logs ORDER BY container").await;
    assert_eq!(again, rows);
}
