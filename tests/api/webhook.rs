//! The webhook of GitHub, with the operator that carries its one effect out.

use axum::body::Body;
use axum::http::Request;
use hmac::{Hmac, KeyInit, Mac};
use kube::api::{Api, ListParams};
use opentiger::crd::Operation;
use serde_json::{Value, json};

use crate::postgres::eventually;
use crate::service::{Answer, Service};

const SECRET: &str = "webhook-test-secret";

async fn service(prefix: &str) -> (Service, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().expect("file");
    std::fs::write(file.path(), format!("{SECRET}\n")).expect("written");
    let path = file.path().to_owned();
    let service = Service::configured(prefix, json!({}), |config| {
        config.edge.github_webhook_secret_file = Some(path);
    })
    .await;
    (service, file)
}

fn sign(body: &[u8]) -> String {
    let mac = Hmac::<sha2::Sha256>::new_from_slice(SECRET.as_bytes()).expect("key").chain_update(body);
    let hex: String = mac.finalize().into_bytes().iter().map(|b| format!("{b:02x}")).collect();
    format!("sha256={hex}")
}

fn delivery(event: &str, id: &str, body: &Value) -> Request<Body> {
    let body = body.to_string();
    Request::post("/webhook/github")
        .header("x-github-event", event)
        .header("x-github-delivery", id)
        .header("x-hub-signature-256", sign(body.as_bytes()))
        .body(Body::from(body))
        .expect("request")
}

fn merged(number: u32, text: &str) -> Value {
    json!({
        "action": "closed", "number": number, "sender": {"login": "mona"}, "repository": {"full_name": "o/r"},
        "pull_request": {"number": number, "merged": true, "merged_at": jiff::Timestamp::now().to_string(),
            "body": text, "head": {"ref": "agent/fix"}},
    })
}

/// A Task and its id, once the API shows it.
async fn task(service: &Service, name: &str) -> String {
    service.world.task(name, "{}").await;
    let mut id = None;
    eventually("the Task's row is there", async || {
        let tasks = service.get("/tasks").await.body["tasks"].clone();
        let found = tasks.as_array().and_then(|all| all.iter().find(|t| t["name"] == name).cloned());
        id = found.and_then(|t| t["id"].as_str().map(str::to_owned));
        id.is_some()
    })
    .await;
    id.expect("an id")
}

async fn status(service: &Service, id: &str) -> Value {
    service.get(&format!("/tasks/{id}")).await.ok()["task"]["status"].clone()
}

async fn operations(service: &Service) -> Vec<Operation> {
    let api: Api<Operation> = Api::namespaced(service.world.client.clone(), &service.world.name);
    api.list(&ListParams::default()).await.expect("list").items
}

#[tokio::test]
async fn a_merged_pull_request_ends_its_task_once_however_often_it_is_delivered() {
    let (service, _file) = service("hook").await;
    let (id, other) = (task(&service, "fix").await, task(&service, "other").await);
    let body = merged(7, &format!("Done.\n\n[task:{id}]"));

    // The same delivery four times at once, as two replicas may get it: one is at it.
    let sent = || service.send(delivery("pull_request", "d-1", &body));
    let all: [Answer; 4] = tokio::join!(sent(), sent(), sent(), sent()).into();
    assert!(all.iter().all(|a| [200, 503].contains(&a.status)), "{:?}", all.map(|a| a.body));
    let first = sent().await;
    assert_eq!(first.ok()["prNumber"], json!(7));
    assert_eq!(first.body["isOpenTigerPR"], json!(true));
    assert!(first.body.get("note").is_none(), "{}", first.body);
    eventually("the Task is done", async || status(&service, &id).await == json!("done")).await;
    assert_eq!(status(&service, &other).await, json!("queued"));

    // Again, and under another number: the same answer and no second effect.
    assert_eq!(sent().await.ok(), &first.body);
    assert_eq!(service.send(delivery("pull_request", "d-2", &body)).await.ok(), &first.body);
    let operations = operations(&service).await;
    assert_eq!(operations.len(), 1);
    assert_eq!(operations[0].spec.requested_by, "github-webhook");
    assert_eq!(operations[0].spec.reason, "pull request o/r#7 was merged");
    service.send(delivery("pull_request", "d-1", &merged(8, "other"))).await.refused(422, "delivery_reused");

    // What ends no Task says why.
    for (number, text, note) in [
        (9, format!("[task:{id}]"), "the Task is done already"),
        (
            10,
            "[task:0191d5a2-0000-7000-8000-00000000002a]".to_owned(),
            "there is no Task 0191d5a2-0000-7000-8000-00000000002a",
        ),
    ] {
        let answer =
            service.send(delivery("pull_request", &format!("d-{number}"), &merged(number, &text))).await;
        assert_eq!(answer.ok()["note"], json!(note));
    }
    let rows =
        service.database.json("SELECT type, payload FROM webhook_deliveries ORDER BY created_at").await;
    assert_eq!(
        rows[0],
        json!({"type": "webhook.pull_request.closed", "payload":
            {"action": "closed", "sender": "mona", "repository": "o/r", "deliveryId": "d-1"}})
    );
}

#[tokio::test]
async fn a_delivery_must_be_signed_and_bad_input_is_never_a_fault() {
    let (service, _file) = service("hook").await;
    let unsigned = |path: &str, signature: Option<&str>, body: &str| {
        let request = Request::post(path).header("x-github-event", "ping");
        let request = signature.into_iter().fold(request, |r, s| r.header("x-hub-signature-256", s));
        service.send(request.body(Body::from(body.to_owned())).expect("request"))
    };
    for path in ["/webhook/github", "/api/webhook/github"] {
        unsigned(path, None, "{}").await.refused(401, "bad_signature");
        unsigned(path, Some("sha256=00"), "{}").await.refused(401, "bad_signature");
        unsigned(path, Some(&sign(b"{} ")), "{}").await.refused(401, "bad_signature");
        unsigned(path, Some(&sign(b"{")), "{").await.refused(400, "bad_request");
        let large = "x".repeat(2 << 20);
        unsigned(path, Some(&sign(large.as_bytes())), &large).await.refused(413, "body_too_large");
    }
    let answer = unsigned("/api/webhook/github", Some(&sign(b"{}")), "{}").await;
    assert_eq!(answer.ok()["message"], json!("pong"));
    assert!(answer.body["eventId"].is_string());

    for (event, body) in
        [("issues", json!({})), ("pull_request", json!({"pull_request": []})), ("x y", json!({}))]
    {
        service.send(delivery(event, "bad", &body)).await.refused(400, "invalid_field");
    }
    let long = "n".repeat(101);
    service.send(delivery("ping", &long, &json!({"a": 1}))).await.refused(400, "invalid_field");
    // What Postgres refuses never gets there.
    let strange =
        json!({"ref": "\u{0}'; DROP TABLE tasks; --", "sender": {"login": "\u{0}\n"}, "commits": 5});
    let answer = service.send(delivery("push", "strange", &strange)).await;
    assert_eq!(answer.ok()["ref"], json!("'; DROP TABLE tasks; --"));
    assert_eq!(operations(&service).await.len(), 0);

    let without = Service::start("hook").await;
    without.send(delivery("ping", "d", &json!({}))).await.refused(404, "webhook_disabled");
}
