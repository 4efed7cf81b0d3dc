//! `/runs` as a client of the original uses it (spec/api.md 1.3): read, cancelled, and given artifacts;
//! never made or set.

use axum::body::{Body, to_bytes};
use axum::http::{Method, Request};
use k8s_openapi::api::authentication::v1::TokenRequest;
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::Api;
use kube::api::PostParams;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::postgres::eventually;
use crate::service::Service;
use crate::tasks::{body, body_in, keyed, posted, settled, until};

/// The newest Run of a Task, once there is one.
async fn run_of(service: &Service, task: &str) -> Value {
    let path = format!("/runs?taskId={task}");
    eventually("the Task has a Run", async || service.get(&path).await.ok()["runs"] != json!([])).await;
    service.get(&path).await.ok()["runs"][0].clone()
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_in_progress_is_cancelled_once_and_its_task_goes_on() {
    let service = Service::start("cancel").await;
    service.world.pool("worker", 2, "{outcome: Succeed, delay: 10m}").await;
    let (first, second) =
        (posted(&service, body_in("first")).await, posted(&service, body_in("second")).await);
    for id in [&first, &second] {
        until(&service, id, "running").await;
    }
    let (run, other) = (run_of(&service, &first).await, run_of(&service, &second).await);
    let path = format!("/runs/{}/cancel", text(&run["id"]));
    let once = async || keyed(&service, Method::POST, &path, "k1", &json!({})).await;
    let cancelled = settled(once).await;
    assert_eq!(cancelled.ok()["run"]["status"], json!("cancelled"), "{}", cancelled.body);
    assert!(cancelled.body["run"]["finishedAt"].is_string());
    // Its Task has not been hurt, and has another attempt.
    eventually("the Task runs again", async || {
        let task = service.get(&format!("/tasks/{first}")).await.ok()["task"].clone();
        task["status"] == json!("running") && task["attempts"] == json!(2) && task["retryCount"] == json!(0)
    })
    .await;
    let same = service.get(&format!("/runs/{}", text(&other["id"]))).await.ok()["run"].clone();
    assert_eq!(same["status"], json!("running"), "the other Run goes on");
    let repeat = keyed(&service, Method::POST, &path, "k1", &json!({})).await;
    assert_eq!(repeat.ok()["run"]["status"], json!("cancelled"));
    let again = service.post(&path, json!({})).await;
    again.refused(409, "illegal_transition");
    assert!(
        again.body["error"].as_str().is_some_and(|e| e.matches("cancelled").count() == 2),
        "{}",
        again.body
    );
    let elsewhere = format!("/runs/{}/cancel", text(&other["id"]));
    keyed(&service, Method::POST, &elsewhere, "k1", &json!({})).await.refused(422, "idempotency_key_reused");
    assert_eq!(
        service.get(&format!("/runs/{}", text(&other["id"]))).await.ok()["run"]["status"],
        json!("running")
    );
    for id in ["00000000-0000-0000-0000-000000000000", "not-a-uuid"] {
        service.post(&format!("/runs/{id}/cancel"), json!({})).await.refused(404, "not_found");
    }

    // Lists, and the log of a Run that has none yet.
    let agent = text(&other["agentId"]);
    let of_agent = service.get(&format!("/runs?agentId={agent}&status=running")).await;
    assert_eq!(of_agent.ok()["runs"][0]["id"], other["id"]);
    assert_eq!(service.get("/runs?agentId=worker-99").await.ok()["runs"], json!([]));
    for bad in ["taskId=5", "status=ended", "agentId=%00"] {
        service.get(&format!("/runs?{bad}")).await.refused(400, "invalid_field");
    }
    assert!(text(&same["logContent"]).contains(&format!("/logs/agents/{agent}")), "{same}");
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_cannot_be_made_or_set_and_the_answer_says_what_to_do() {
    let service = Service::start("set-runs").await;
    service.world.pool("worker", 1, "{outcome: Succeed, delay: 10m}").await;
    let task = posted(&service, body("Fix")).await;
    let run = run_of(&service, &task).await;
    let made = service.post("/runs", json!({"taskId": task, "agentId": "worker-1"})).await;
    made.refused(409, "runs_are_admitted");
    assert!(text(&made.body["error"]).contains("/runs/{id}/cancel"), "{}", made.body);
    for (field, body) in [
        ("taskId", json!({"agentId": "worker-1"})),
        ("taskId", json!({"taskId": "5", "agentId": "worker-1"})),
        ("agentId", json!({"taskId": task})),
        ("agentId", json!({"taskId": task, "agentId": ""})),
    ] {
        let answer = service.post("/runs", body).await;
        answer.refused(400, "invalid_field");
        assert!(text(&answer.body["error"]).starts_with(field), "{}", answer.body);
    }
    let path = format!("/runs/{}", text(&run["id"]));
    let full = json!({"status": "success", "costTokens": 5, "errorMessage": "x"});
    service.patch(&path, full.clone()).await.refused(409, "runs_are_admitted");
    for (field, value) in [
        ("status", json!("running")),
        ("status", Value::Null),
        ("costTokens", json!(-1)),
        ("errorMessage", json!(1)),
    ] {
        let mut bad = full.clone();
        bad[field] = value;
        let answer = service.patch(&path, bad).await;
        answer.refused(400, "invalid_field");
        assert!(text(&answer.body["error"]).starts_with(field), "{}", answer.body);
    }
    service.patch("/runs/00000000-0000-0000-0000-000000000000", full).await.refused(404, "not_found");
    assert_eq!(service.get(&path).await.ok()["run"]["status"], json!("running"), "nothing was set");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_counted_by_the_day_and_the_limit_is_that_of_the_budget() {
    let service = Service::start_with("stats", json!({"budgets": {"perDay": 5000}})).await;
    service.world.pool("worker", 1, "{outcome: Succeed}").await;
    let before = service.get("/runs/stats").await.ok().clone();
    assert_eq!((&before["dailyTokens"], &before["tokenLimit"]), (&json!(0), &json!(5000)));
    assert_eq!(before["timeZone"], json!("UTC"));
    assert!(text(&before["since"]).ends_with("T00:00:00Z"), "{before}");
    for title in ["One", "Two", "Three"] {
        let id = posted(&service, body(title)).await;
        until(&service, &id, "done").await;
    }
    let today = text(&before["since"]);
    for (n, (tokens, at)) in [
        ("7", format!("'{today}'")),
        ("100", "now()".into()),
        ("9000", format!("'{today}'::timestamptz - interval '1 s'")),
    ]
    .iter()
    .enumerate()
    {
        let sql = format!(
            "UPDATE runs SET cost_tokens = {tokens}, finished_at = {at}
              WHERE uid = (SELECT uid FROM runs ORDER BY created_at, uid LIMIT 1 OFFSET {n})"
        );
        service.database.execute(&sql).await;
    }
    assert_eq!(service.get("/runs/stats").await.ok()["dailyTokens"], json!(107), "yesterday's do not count");
    let unlimited = Service::start("no-limit").await;
    assert_eq!(unlimited.get("/runs/stats").await.ok()["tokenLimit"], json!(-1));
}

#[tokio::test(flavor = "multi_thread")]
async fn artifacts_are_kept_served_and_bounded_and_direct_edit_is_taken_trap_14() {
    let service = Service::start("artifacts").await;
    service.world.pool("worker", 1, "{outcome: Succeed, delay: 10m}").await;
    let task = posted(&service, body("Fix")).await;
    let run = run_of(&service, &task).await;
    let id = text(&run["id"]).to_owned();
    let path = format!("/runs/{id}/artifacts");

    for kind in [
        "pr",
        "commit",
        "ci_result",
        "branch",
        "worktree",
        "base_repo_diff",
        "research_claim",
        "research_source",
        "research_report",
        "direct_edit",
    ] {
        let link =
            json!({"type": kind, "ref": "r", "url": "https://git.example.com/1", "metadata": {"n": 1}});
        let made = service.post(&path, link).await;
        assert_eq!(made.status, 201, "{kind}: {}", made.body);
        let artifact = &made.body["artifact"];
        assert_eq!(
            (&artifact["type"], &artifact["runId"], &artifact["metadata"]),
            (&json!(kind), &json!(id), &json!({"n": 1}))
        );
    }
    let listed = service.get(&format!("/runs/{id}")).await.ok()["artifacts"].clone();
    assert_eq!(listed.as_array().map(Vec::len), Some(10));
    let bare = format!("{path}/{}/content", text(&listed[0]["id"]));
    service.get(&bare).await.refused(404, "no_content");

    // Bytes come back as they were, and as nothing a browser would run.
    let page = json!({"type": "ci_result", "ref": "x.html", "content": "PGI+", "contentEncoding": "base64"});
    let made = service.post(&path, page).await.ok()["artifact"].clone();
    let request = Request::get(format!("{path}/{}/content", text(&made["id"])));
    let response =
        service.router.clone().oneshot(request.body(Body::empty()).expect("request")).await.expect("answer");
    let header = |name: &str| {
        response.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned()
    };
    assert_eq!(
        (
            header("content-type").as_str(),
            header("cache-control").as_str(),
            header("content-length").as_str()
        ),
        ("application/octet-stream", "no-store", "3")
    );
    assert_eq!(header("x-content-type-options"), "nosniff");
    assert_eq!(to_bytes(response.into_body(), 100).await.expect("body"), "<b>");
    let log = json!({"type": "ci_result", "ref": "ci.log", "content": "ok ä"});
    let log = service.post(&path, log).await.ok()["artifact"].clone();
    let content = service.get(&format!("{path}/{}/content", text(&log["id"]))).await;
    assert_eq!(content.body, json!("ok ä"));
    assert_eq!(content.headers["content-type"], "text/plain; charset=utf-8");

    // Once for a key.
    let once = json!({"type": "commit", "ref": "main"});
    let first = keyed(&service, Method::POST, &path, "k1", &once).await;
    let repeat = keyed(&service, Method::POST, &path, "k1", &once).await;
    assert_eq!((first.status, &first.body), (201, &repeat.body));
    keyed(&service, Method::POST, &path, "k1", &json!({"type": "pr"}))
        .await
        .refused(422, "idempotency_key_reused");

    for (field, body) in [
        ("type", json!({"type": "picture"})),
        ("type", json!({})),
        ("type", json!({"type": 5})),
        ("ref", json!({"type": "pr", "ref": 1})),
        ("ref", json!({"type": "pr", "ref": "a\u{0}b"})),
        ("url", json!({"type": "pr", "url": "javascript:alert(1)"})),
        ("metadata", json!({"type": "pr", "metadata": []})),
        ("metadata", json!({"type": "pr", "metadata": {"a": ["\u{0}"]}})),
        ("content", json!({"type": "pr", "content": "!", "contentEncoding": "base64"})),
        ("content", json!({"type": "pr", "content": "x".repeat((1 << 20) + 1)})),
        ("contentEncoding", json!({"type": "pr", "contentEncoding": "gzip"})),
    ] {
        let answer = service.post(&path, body).await;
        answer.refused(400, "invalid_field");
        assert!(text(&answer.body["error"]).starts_with(field), "{field}: {}", answer.body);
    }
    let huge = service.post(&path, json!({"type": "pr", "content": "x".repeat(2 << 20)})).await;
    huge.refused(413, "body_too_large");
    for nowhere in ["00000000-0000-0000-0000-000000000000", "no-such-run", "%00"] {
        service.post(&format!("/runs/{nowhere}/artifacts"), once.clone()).await.refused(404, "not_found");
    }
    for nowhere in ["00000000-0000-0000-0000-000000000000", "x"] {
        service.get(&format!("{path}/{nowhere}/content")).await.refused(404, "not_found");
    }

    // As many as it may have.
    service
        .database
        .execute(&format!(
            "INSERT INTO posted_artifacts (id, run_uid, namespace, type)
             SELECT gen_random_uuid(), '{id}', '{}', 'pr' FROM generate_series(1, 100)",
            service.world.name
        ))
        .await;
    service.post(&path, once).await.refused(409, "too_many_artifacts");
}

/// A token for the API that is bound to a Pod, as the kubelet projects it.
async fn token(service: &Service, pod: &Pod, audience: &str) -> String {
    let accounts: Api<ServiceAccount> = Api::namespaced(service.world.client.clone(), &service.world.name);
    let account = pod.spec.as_ref().and_then(|s| s.service_account_name.clone()).unwrap_or("default".into());
    let request: TokenRequest = serde_json::from_value(json!({"spec": {
        "audiences": [audience], "expirationSeconds": 600,
        "boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": pod.metadata.name, "uid": pod.metadata.uid},
    }}))
    .expect("a request");
    let issued = accounts.create_token_request(&account, &PostParams::default(), &request).await;
    issued.expect("a token").status.expect("a status").token
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_gives_artifacts_to_its_own_run_only() {
    let service = Service::start("pod-artifacts").await;
    service.world.pool("worker", 2, "{outcome: Succeed, delay: 10m}").await;
    let (mine, other) = (posted(&service, body_in("mine")).await, posted(&service, body_in("other")).await);
    for id in [&mine, &other] {
        until(&service, id, "running").await;
    }
    let (mine, other) = (run_of(&service, &mine).await, run_of(&service, &other).await);
    let pods: Api<Pod> = Api::namespaced(service.world.client.clone(), &service.world.name);
    eventually("it has a Pod", async || pods.get_opt(text(&mine["name"])).await.expect("asked").is_some())
        .await;
    let pod = pods.get(text(&mine["name"])).await.expect("the Pod");
    let own = token(&service, &pod, "opentiger-api").await;
    let foreign = token(&service, &pod, "somebody-else").await;
    let post = async |run: &Value, token: &str| {
        let request = Request::post(format!("/runs/{}/artifacts", text(run)));
        let request = request.header("authorization", format!("Bearer {token}"));
        let body = json!({"type": "direct_edit", "content": "diff"}).to_string();
        service.send(request.body(Body::from(body)).expect("request")).await
    };
    assert_eq!(post(&mine["id"], &own).await.status, 201);
    assert_eq!(post(&mine["name"], &own).await.status, 201, "a Pod knows its Run by name");
    post(&other["id"], &own).await.refused(403, "forbidden");
    post(&mine["id"], &foreign).await.refused(401, "unauthorized");
    post(&mine["id"], "garbage").await.refused(401, "unauthorized");
    post(&json!("00000000-0000-0000-0000-000000000000"), "garbage").await.refused(401, "unauthorized");
    let count = service.get(&format!("/runs/{}", text(&mine["id"]))).await.ok()["artifacts"].clone();
    assert_eq!(count.as_array().map(Vec::len), Some(2));
}
