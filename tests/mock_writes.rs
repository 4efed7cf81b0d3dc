//! What goes over the wire when the operator writes, request by request, against a scripted API
//! server (invariants S15, S17; conventions rule 9).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use http::{Method, Request, Response};
use http_body_util::BodyExt;
use kube::Client;
use kube::client::Body;
use opentiger::cluster::write::Created;
use opentiger::cluster::{ErrorClass, Writer};
use opentiger::crd::{Run, RunSpec, Task, TaskPhase, TaskSpec, TaskStatus};
use serde_json::{Value, json};
use tower_test::mock;

type Handle = mock::Handle<Request<Body>, Response<Body>>;

fn writer() -> (Writer, Handle) {
    let (service, handle) = mock::pair::<Request<Body>, Response<Body>>();
    (Writer::new(Client::new(service, "default")), handle)
}

/// Takes the next request, answers it, and returns what it said.
async fn answer(handle: &mut Handle, status: u16, body: Value) -> (Method, String, Value) {
    let (request, send) = handle.next_request().await.expect("a request");
    let (parts, sent) = request.into_parts();
    let bytes = sent.collect().await.expect("a body").to_bytes();
    let sent = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    let reply =
        Response::builder().status(status).body(Body::from(body.to_string().into_bytes())).expect("a reply");
    send.send_response(reply);
    (parts.method, parts.uri.path().to_string(), sent)
}

fn failure(code: u16, reason: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": reason, "reason": reason, "code": code})
}

fn task(version: &str, phase: TaskPhase, agent: &str) -> Task {
    let mut task = Task::new("fix", TaskSpec::default());
    task.metadata.namespace = Some("ns".into());
    task.metadata.resource_version = Some(version.into());
    task.status = Some(TaskStatus { phase, agent: agent.into(), ..TaskStatus::default() });
    task
}

#[tokio::test]
async fn a_status_write_is_fenced_and_names_only_what_changes() {
    let (writer, mut handle) = writer();
    let old = task("41", TaskPhase::Running, "worker-1");
    let new = task("41", TaskPhase::Queued, "").status.unwrap();
    let written = json!(task("42", TaskPhase::Queued, ""));
    let (result, (method, path, sent)) =
        tokio::join!(writer.patch_status(&old, old.status.as_ref(), &new), answer(&mut handle, 200, written));
    assert_eq!(result.unwrap().unwrap().metadata.resource_version.as_deref(), Some("42"));
    assert_eq!(method, Method::PATCH);
    assert_eq!(path, "/apis/opentiger.dev/v1alpha1/namespaces/ns/tasks/fix/status");
    assert_eq!(
        sent,
        json!({"metadata": {"resourceVersion": "41"}, "status": {"phase": "Queued", "agent": null}})
    );
}

#[tokio::test]
async fn an_equal_status_causes_no_request() {
    let (writer, handle) = writer();
    let same = task("41", TaskPhase::Queued, "");
    let result = writer.patch_status(&same, same.status.as_ref(), same.status.as_ref().unwrap()).await;
    assert!(result.unwrap().is_none());
    drop(handle);
}

#[tokio::test]
async fn a_status_that_changed_meanwhile_is_a_conflict() {
    let (writer, mut handle) = writer();
    let old = task("41", TaskPhase::Running, "");
    let new = task("41", TaskPhase::Done, "").status.unwrap();
    let (result, _) = tokio::join!(
        writer.patch_status(&old, old.status.as_ref(), &new),
        answer(&mut handle, 409, failure(409, "Conflict"))
    );
    assert_eq!(result.unwrap_err().class(), ErrorClass::Conflict);
}

#[tokio::test]
async fn a_taken_name_is_answered_with_who_has_it_c36_a4() {
    let (writer, mut handle) = writer();
    let mut run = Run::new("fix-x7k2-r1", RunSpec::default());
    run.metadata.namespace = Some("ns".into());
    let mut taken = run.clone();
    taken.metadata.uid = Some("other".into());
    let script = async {
        let first = answer(&mut handle, 409, failure(409, "AlreadyExists")).await;
        let second = answer(&mut handle, 200, json!(taken)).await;
        (first.0, second.0)
    };
    let (result, methods) = tokio::join!(writer.create(&run), script);
    assert_eq!(methods, (Method::POST, Method::GET));
    let Created::Exists(existing) = result.unwrap() else { panic!("created") };
    assert_eq!(existing.metadata.uid.as_deref(), Some("other"));
}

#[tokio::test(start_paused = true)]
async fn a_create_without_an_answer_is_asked_about_until_it_is_known() {
    for exists in [true, false] {
        let (writer, mut handle) = writer();
        let mut run = Run::new("fix-x7k2-r1", RunSpec::default());
        run.metadata.namespace = Some("ns".into());
        let found = if exists { (200, json!(run)) } else { (404, failure(404, "NotFound")) };
        let script = async {
            let create = answer(&mut handle, 504, failure(504, "Timeout")).await;
            let unknown = answer(&mut handle, 500, failure(500, "InternalError")).await;
            let known = answer(&mut handle, found.0, found.1.clone()).await;
            [create.0, unknown.0, known.0]
        };
        let (result, methods) = tokio::join!(writer.create_surely(&run), script);
        assert_eq!(methods, [Method::POST, Method::GET, Method::GET]);
        match result {
            Ok(created) => assert!(exists && matches!(created, Created::Exists(_))),
            Err(error) => assert!(!exists && error.class() == ErrorClass::Transient),
        }
    }
}

#[tokio::test]
async fn a_delete_names_the_uid_and_another_object_of_the_name_is_left_alone() {
    let (writer, mut handle) = writer();
    let (result, (method, _, sent)) = tokio::join!(
        writer.delete::<Run>("ns", "fix-x7k2-r1", "u1", None),
        answer(&mut handle, 409, failure(409, "Conflict"))
    );
    assert_eq!((method, result.unwrap()), (Method::DELETE, false));
    assert_eq!(sent["preconditions"]["uid"], "u1");
}
