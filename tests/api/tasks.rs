//! `/tasks` as a client of the original uses it (spec/api.md 1.2), with the state changes checked.

use axum::body::Body;
use axum::http::{Method, Request};
use kube::{Api, ResourceExt};
use opentiger::crd::{Operation, Task, labels};
use serde_json::{Value, json};

use crate::postgres::eventually;
use crate::service::{Answer, Service};

pub fn body(title: &str) -> Value {
    json!({"title": title, "goal": "It works", "allowedPaths": ["src/**"], "commands": ["make test"]})
}

/// The same in a directory of its own: it need not wait for others.
pub fn body_in(directory: &str) -> Value {
    let mut body = body(directory);
    body["allowedPaths"] = json!([format!("{directory}/**")]);
    body
}

/// Sends a request that may be repeated until what was written can be read, as a client does when it is
/// told "not yet": a busy machine may need more than the second that the API waits.
pub async fn settled(send: impl AsyncFn() -> Answer) -> Answer {
    let mut last = send().await;
    let code = |answer: &Answer| answer.body["code"].as_str().unwrap_or_default().to_owned();
    for _ in 0..20 {
        if last.status != 503 || !code(&last).starts_with("not_yet") {
            break;
        }
        last = send().await;
    }
    last
}

/// Posts a Task and returns its id.
pub async fn posted(service: &Service, body: Value) -> String {
    let key = format!("{:?}", std::time::SystemTime::now());
    let made = settled(async || keyed(service, Method::POST, "/tasks", &key, &body).await).await;
    assert_eq!(made.status, 201, "{}", made.body);
    made.body["task"]["id"].as_str().expect("an id").to_owned()
}

/// Changes a Task.
async fn patched(service: &Service, id: &str, body: Value) -> Answer {
    settled(async || service.patch(&format!("/tasks/{id}"), body.clone()).await).await
}

/// Deletes a Task.
pub async fn delete(service: &Service, id: &str) {
    let answer = service.delete(&format!("/tasks/{id}")).await;
    match answer.status {
        200 => assert_eq!(answer.body, json!({"deleted": true})),
        _ => answer.refused(503, "not_yet_visible"),
    }
    eventually("it is gone", async || service.get(&format!("/tasks/{id}")).await.status == 404).await;
}

pub async fn status(service: &Service, id: &str) -> String {
    service.get(&format!("/tasks/{id}")).await.ok()["task"]["status"].as_str().expect("a word").to_owned()
}

/// Waits until the Task has this status.
pub async fn until(service: &Service, id: &str, wanted: &str) {
    eventually(&format!("{id} is {wanted}"), async || status(service, id).await == wanted).await;
}

/// Sends a request with an Idempotency-Key.
pub async fn keyed(service: &Service, method: Method, path: &str, key: &str, body: &Value) -> Answer {
    let request = Request::builder().method(method).uri(path).header("idempotency-key", key);
    service.send(request.body(Body::from(body.to_string())).expect("request")).await
}

fn names(answer: &Answer) -> Vec<&str> {
    answer.ok()["tasks"].as_array().expect("a list").iter().filter_map(|t| t["title"].as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_posted_changed_filtered_and_deleted() {
    let service = Service::start("tasks").await;
    let other = posted(&service, body("Other")).await;
    let mut docs = body("Docs");
    docs["role"] = json!("docser");
    docs["timeboxMinutes"] = json!(90);
    docs["context"] = json!({"files": ["a.md"], "specs": "s", "notes": "n"});
    docs["unknown"] = json!("is ignored");
    let docs = posted(&service, docs).await;
    let api: Api<Task> = Api::namespaced(service.world.client.clone(), &service.world.name);
    let row = service.get(&format!("/tasks/{docs}")).await.ok()["task"].clone();
    let name = row["name"].as_str().expect("a name");
    let object = api.get(name).await.expect("the object");
    assert_eq!(object.labels().get(labels::CREATED_BY).map(String::as_str), Some("api"), "may be pruned");
    assert_eq!((&row["lane"], &row["kind"]), (&json!("docser"), &json!("code")), "the lane of the role");

    // Every field, read back at once.
    let change = json!({
        "title": "Docs, all of them", "goal": "All is said", "allowedPaths": ["docs/**"], "commands": [],
        "context": {"notes": "only this"}, "priority": 7, "riskLevel": "high", "role": "tester",
        "lane": "conflict_recovery", "kind": "code", "timeboxMinutes": 5, "dependencies": [other],
    });
    let changed = patched(&service, &docs, change.clone()).await;
    let task = &changed.ok()["task"];
    for (field, value) in change.as_object().expect("an object") {
        assert_eq!(&task[field], value, "{field}");
    }
    assert_eq!(task["status"], json!("queued"));
    // What is absent stays, and the same again writes nothing.
    let version = api.get(name).await.expect("the object").resource_version();
    let same = patched(&service, &docs, json!({"priority": 7, "status": "queued"})).await;
    assert_eq!(same.ok()["task"]["title"], json!("Docs, all of them"));
    assert_eq!(api.get(name).await.expect("the object").resource_version(), version);

    for (query, expected) in [
        ("", vec!["Docs, all of them", "Other"]),
        ("?status=queued&role=worker", vec!["Other"]),
        ("?role=tester", vec!["Docs, all of them"]),
        ("?lane=conflict_recovery&kind=code", vec!["Docs, all of them"]),
        ("?lane=docser", vec![]),
        ("?kind=plan", vec![]),
        ("?status=", vec!["Docs, all of them", "Other"]),
    ] {
        let answer = service.get(&format!("/tasks{query}")).await;
        let mut found = names(&answer);
        // Made in the same second, they are ordered by uid.
        found.sort_unstable();
        assert_eq!(found, expected, "{query}");
    }
    for (query, field) in
        [("status=Queued", "status"), ("role=judge", "role"), ("lane=%00", "lane"), ("kind=a%20b", "kind")]
    {
        let answer = service.get(&format!("/tasks?{query}")).await;
        answer.refused(400, "invalid_field");
        assert!(answer.body["error"].as_str().is_some_and(|e| e.starts_with(field)), "{}", answer.body);
    }
    let words = service.get("/tasks?status=waiting").await.body["error"].to_string();
    assert!(words.contains("queued, running, blocked, failed, done, cancelled"), "{words}");

    delete(&service, &docs).await;
    assert!(api.get_opt(name).await.expect("asked").is_none());
    for answer in [
        service.delete(&format!("/tasks/{docs}")).await,
        service.get(&format!("/tasks/{docs}")).await,
        service.patch(&format!("/tasks/{docs}"), json!({"priority": 1})).await,
        service.post(&format!("/tasks/{docs}/retry"), json!({})).await,
        service.delete("/tasks/not-a-uuid").await,
    ] {
        answer.refused(404, "not_found");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn input_that_is_not_as_it_must_be_is_a_400_that_names_the_field() {
    let service = Service::start("bad-tasks").await;
    let id = posted(&service, body("Fix")).await;
    let bad = [
        ("title", json!("")),
        ("title", json!("x".repeat(201))),
        ("goal", json!(5)),
        ("allowedPaths", json!(["/etc"])),
        ("allowedPaths", json!("src")),
        ("commands", json!([" "])),
        ("context", json!("notes")),
        ("context.files", json!({"files": [1]})),
        ("priority", json!(1001)),
        ("priority", json!("high")),
        ("riskLevel", json!("extreme")),
        ("role", json!("planner")),
        ("kind", json!("research")),
        ("kind", json!("plan")),
        ("dependencies", json!(["not-a-uuid"])),
        ("dependencies", json!(["00000000-0000-0000-0000-00000000000a"])),
        ("timeboxMinutes", json!(0)),
        ("timeboxMinutes", json!(1441)),
    ];
    let only_of_a_change = [
        ("lane", json!("featrue")),
        ("lane", json!(1)),
        ("status", json!("retry")),
        ("blockReason", json!("needs_human")),
    ];
    for (field, value) in bad.iter().chain(&only_of_a_change) {
        let key = field.split('.').next().expect("a part");
        let patched = service.patch(&format!("/tasks/{id}"), json!({ key: value })).await;
        let mut whole = body("Fix");
        whole[key] = value.clone();
        let posted = if bad.iter().any(|(name, _)| name == field) {
            service.post("/tasks", whole).await
        } else {
            service.patch(&format!("/tasks/{id}"), whole).await
        };
        for answer in [patched, posted] {
            answer.refused(400, "invalid_field");
            assert!(answer.body["error"].as_str().is_some_and(|e| e.starts_with(field)), "{}", answer.body);
        }
    }
    let itself = service.patch(&format!("/tasks/{id}"), json!({"dependencies": [id]})).await;
    assert_eq!(
        (itself.status, itself.body["error"].to_string().contains("itself")),
        (400, true),
        "{}",
        itself.body
    );
    for missing in ["title", "goal", "allowedPaths", "commands"] {
        let mut part = body("Fix");
        part.as_object_mut().expect("an object").remove(missing);
        let answer = service.post("/tasks", part).await;
        answer.refused(400, "invalid_field");
        assert_eq!(answer.body["error"], json!(format!("{missing}: is required")));
    }
    for text in ["", "[]", "{", "null", "\"x\""] {
        let request = Request::patch(format!("/tasks/{id}")).body(Body::from(text)).expect("request");
        service.send(request).await.refused(400, "bad_request");
    }
    assert_eq!(names(&service.get("/tasks").await), ["Fix"], "nothing was made");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_nobody_can_order_is_a_409_that_names_both_trap_15() {
    let recovery = json!({"recovery": {"failedCooldown": "10m"}});
    let service = Service::start_with("states", recovery).await;
    let id = posted(&service, body("Fix")).await;
    let path = format!("/tasks/{id}");
    let refused = async |wanted: &str, now: &str| {
        let answer = service.patch(&path, json!({"status": wanted, "priority": 3})).await;
        answer.refused(409, "illegal_transition");
        let text = answer.body["error"].as_str().expect("a sentence").to_owned();
        assert!(text.contains(now) && text.contains(wanted), "{text}");
    };
    for wanted in ["running", "blocked", "failed"] {
        refused(wanted, "queued").await;
    }
    let row = service.get(&path).await.ok()["task"].clone();
    assert_eq!((&row["status"], &row["priority"]), (&json!("queued"), &json!(0)), "nothing half done");
    let reason = service.patch(&path, json!({"blockReason": "needs_rework"})).await;
    reason.refused(409, "block_reason_is_computed");
    let early = service.post(&format!("{path}/retry"), json!({})).await;
    early.refused(409, "illegal_transition");
    assert!(early.body["error"].as_str().is_some_and(|e| e.matches("queued").count() == 2), "{}", early.body);

    // It fails once, and is put back by hand, once for each key.
    service.world.pool("worker", 1, "{outcome: Fail, failureCode: execution_failed, firstAttempts: 1}").await;
    until(&service, &id, "failed").await;
    refused("running", "failed").await;
    let (again, none) = (format!("{path}/retry"), json!({}));
    let once = async || keyed(&service, Method::POST, &again, "k1", &none).await;
    let (a, b) = tokio::join!(settled(once), settled(once));
    assert_eq!((a.status, b.status), (200, 200), "{} {}", a.body, b.body);
    until(&service, &id, "done").await;
    let repeat = keyed(&service, Method::POST, &again, "k1", &none).await;
    assert_eq!(repeat.ok()["task"]["status"], json!("done"), "a repeat is no second effect");
    let operations: Api<Operation> = Api::namespaced(service.world.client.clone(), &service.world.name);
    let all = operations.list(&Default::default()).await.expect("a list").items;
    assert_eq!(all.len(), 1, "{all:?}");
    assert_eq!(service.get(&path).await.ok()["task"]["attempts"], json!(2));
    let second = posted(&service, body("Another")).await;
    keyed(&service, Method::POST, &format!("/tasks/{second}/retry"), "k1", &json!({}))
        .await
        .refused(422, "idempotency_key_reused");

    // What has ended stays as it is.
    for wanted in ["queued", "running", "blocked", "failed", "cancelled"] {
        refused(wanted, "done").await;
    }
    let edited = service.patch(&path, json!({"priority": 3})).await;
    edited.refused(409, "task_ended");
    assert!(edited.body["error"].as_str().is_some_and(|e| e.contains("done")), "{}", edited.body);
    assert_eq!(
        service.patch(&path, json!({"status": "done", "title": "Fix"})).await.status,
        200,
        "no change"
    );
    service.post(&format!("{path}/retry"), json!({})).await.refused(409, "illegal_transition");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_ends_tasks_over_http_whatever_they_do() {
    let service = Service::start("ends").await;
    let waiting = posted(&service, body("Cancelled while it waits")).await;
    let cancelled = patched(&service, &waiting, json!({"status": "cancelled", "priority": 2})).await;
    let task = &cancelled.ok()["task"];
    assert_eq!((&task["status"], &task["priority"]), (&json!("cancelled"), &json!(2)));
    let finished = posted(&service, body("Said to be done")).await;
    let done = patched(&service, &finished, json!({"status": "done"})).await;
    assert_eq!(done.ok()["task"]["status"], json!("done"));

    service.world.pool("worker", 1, "{outcome: Succeed, delay: 10m}").await;
    let running = posted(&service, body("Cancelled while it runs")).await;
    until(&service, &running, "running").await;
    for wanted in ["done", "queued"] {
        let answer = service.patch(&format!("/tasks/{running}"), json!({"status": wanted})).await;
        answer.refused(409, "illegal_transition");
        assert!(answer.body["error"].as_str().is_some_and(|e| e.contains("running")), "{}", answer.body);
    }
    patched(&service, &running, json!({"status": "cancelled"})).await.ok();
    until(&service, &running, "cancelled").await;
    let runs = service.get(&format!("/runs?taskId={running}")).await.ok()["runs"].clone();
    assert_eq!(runs[0]["status"], json!("cancelled"), "its Run has ended with it");

    // A Task that runs is deleted with its Run; its history stays.
    let doomed = posted(&service, body("Deleted while it runs")).await;
    until(&service, &doomed, "running").await;
    delete(&service, &doomed).await;
    eventually("its Run is gone", async || {
        service.get(&format!("/runs?taskId={doomed}")).await.ok()["runs"] == json!([])
    })
    .await;
    let kept = service.get(&format!("/runs?taskId={doomed}&includeDeleted=true")).await.ok()["runs"].clone();
    assert_eq!(kept.as_array().map(Vec::len), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_mirror_a_write_is_accepted_and_says_not_yet() {
    let service = Service::start("late").await;
    let id = posted(&service, body("Fix")).await;
    let Service { world, database, router, operator } = service;
    operator.operator.kill();
    let operator = world.operator("blind").start().await;
    let mut service = Service { world, database, router, operator };
    let changed = service.patch(&format!("/tasks/{id}"), json!({"priority": 9})).await;
    changed.refused(503, "not_yet_visible");
    assert!(changed.headers.contains_key("retry-after"));
    let deleted = service.delete(&format!("/tasks/{id}")).await;
    deleted.refused(503, "not_yet_visible");
    service.delete(&format!("/tasks/{id}")).await.refused(404, "not_found");
    service.operator = service.world.operator("two").database(&service.database.url).start().await;
    eventually("the new operator's mirror shows it", async || {
        service.get(&format!("/tasks/{id}")).await.status == 404
    })
    .await;
}
