//! `/system/*` besides the processes: hatch, preflight, clean-up, requirement, throughput, and what
//! there is nothing to say about.

use kube::Client;
use kube::api::PostParams;
use opentiger::crd::{Operation, Run, System, Task};
use serde_json::json;

use crate::postgres::eventually;
use crate::service::Service;
use crate::system::{REQUIREMENT, api, manual, operations, plans, raw, running, start, status, system};

#[tokio::test(flavor = "multi_thread")]
async fn whoever_sets_the_hatch_is_seen_at_once_trap_4() {
    let service = manual("hatch").await;
    let armed = service.post("/system/hatch/arm", json!({"reason": "monday"})).await;
    assert_eq!(
        (&armed.ok()["hatch"]["armed"], &armed.body["hatch"]["reason"]),
        (&json!(true), &json!("monday"))
    );
    assert_eq!(armed.body["hatch"]["history"][0]["state"], json!("armed"));
    // Past this API, as the command line does it.
    let disarm = json!({"apiVersion": "opentiger.dev/v1alpha1", "kind": "Operation", "metadata": {"name": "cli"},
        "spec": {"type": "Disarm", "requestedBy": "ann"}});
    let disarm: Operation = serde_json::from_value(disarm).unwrap();
    api::<Operation>(&service).create(&PostParams::default(), &disarm).await.unwrap();
    eventually("it is carried out", async || {
        api::<Operation>(&service).get("cli").await.unwrap().phase().is_terminal()
    })
    .await;
    let seen = service.get("/system/hatch").await;
    assert_eq!((&seen.ok()["hatch"]["armed"], &seen.ok()["hatch"]["by"]), (&json!(false), &json!("ann")));
    assert_eq!(status(&service, "dispatcher").await, "idle");
    let disarmed = raw(&service, "/system/hatch/disarm", "").await;
    assert_eq!(disarmed.ok()["hatch"]["armed"], json!(false));
}

#[tokio::test(flavor = "multi_thread")]
async fn preflight_recommends_by_the_table_and_changes_nothing_traps_11_and_18() {
    let service = manual("preflight").await;
    service.world.pool("worker", 3, "{outcome: Succeed}").await;
    service.world.pool_with("planner", 2, "{outcome: Succeed}", json!({"role": "Planner"})).await;
    let empty = service.post("/system/preflight", json!({})).await.ok().clone();
    assert_eq!(empty["preflight"]["local"]["queuedTaskCount"], json!(0));
    let fields: Vec<&String> = empty["preflight"]["github"].as_object().unwrap().keys().collect();
    let expected = [
        "enabled",
        "generatedTaskCount",
        "generatedTaskIds",
        "issueTaskBacklogCount",
        "openIssueCount",
        "openPrCount",
        "skippedIssueNumbers",
        "warnings",
    ];
    assert_eq!(fields, expected);
    let nothing = ["startPlanner", "startDispatcher", "startJudge", "startCycleManager"];
    assert!(nothing.iter().all(|field| empty["recommendations"][field] == json!(false)), "{empty}");
    // S1: a requirement only.
    let planned = service.post("/system/preflight", json!({"content": REQUIREMENT})).await;
    let found = planned.ok()["recommendations"].clone();
    assert_eq!(
        (&found["startPlanner"], &found["plannerCount"], &found["workerCount"]),
        (&json!(true), &json!(1), &json!(3))
    );
    assert_eq!((&found["startDispatcher"], &found["startCycleManager"]), (&json!(true), &json!(true)));
    assert_eq!(found["reasons"].as_array().unwrap().len(), 4);
    // S4: Tasks, whatever the body looks like.
    service.world.task("t-1", "{role: Docser}").await;
    let before = api::<Task>(&service).get("t-1").await.unwrap();
    for body in [
        "",
        "{",
        "[]",
        "{\"content\": 5, \"autoCreateIssueTasks\": \"yes\"}",
        "{\"autoCreateIssueTasks\": true}",
    ] {
        let answer = raw(&service, "/system/preflight", body).await;
        let found = answer.ok();
        assert_eq!(found["preflight"]["local"]["queuedTaskCount"], json!(1), "{body}");
        assert_eq!(found["recommendations"]["startDispatcher"], json!(true), "{body}");
        assert_eq!(found["recommendations"]["startPlanner"], json!(false), "{body}");
        // As many as there are slots for: nothing is guessed.
        assert_eq!(found["recommendations"]["workerCount"], json!(3), "{body}");
        assert_eq!(found["recommendations"]["docserCount"], json!(0), "{body}");
    }
    let after = api::<Task>(&service).get("t-1").await.unwrap();
    assert_eq!(after.spec, before.spec);
    assert!(operations(&service).await.is_empty() && plans(&service).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_up_asks_for_the_namespace_and_leaves_agents_and_settings_trap_6() {
    let service = Service::start("cleanup").await;
    service.world.pool("worker", 1, "{outcome: Succeed, delay: 10m}").await;
    service.world.backlog(2).await;
    running(&service, 1).await;
    let name = service.world.name.clone();
    for body in ["", "{}", "{\"confirm\": \"default\"}", "{\"confirm\": 5}"] {
        let refused = raw(&service, "/system/cleanup", body).await;
        refused.refused(409, "confirmation_required");
        assert!(refused.body["error"].as_str().unwrap().contains(&name), "it says what to send");
    }
    let text = json!({"confirm": name, "force": "yes"});
    service.post("/system/cleanup", text).await.refused(400, "invalid_field");
    let armed = service.post("/system/cleanup", json!({"confirm": name})).await;
    armed.refused(409, "operation_failed");
    assert!(armed.body["error"].as_str().unwrap().contains("armed"), "{}", armed.body);
    let dry = service.post("/system/cleanup", json!({"confirm": name, "dryRun": true})).await;
    assert_eq!((&dry.ok()["cleaned"], &dry.ok()["tasks"]), (&json!(false), &json!(2)));
    assert_eq!(service.world.record.tasks().len(), 2);
    service.post("/system/hatch/disarm", json!({})).await.ok();
    let cleaned = service.post("/system/cleanup", json!({"confirm": name})).await;
    let body = cleaned.ok();
    assert_eq!(
        (&body["cleaned"], &body["queuesObliterated"], &body["tasks"]),
        (&json!(true), &json!(0), &json!(2))
    );
    assert!(api::<Run>(&service).list(&Default::default()).await.unwrap().items.is_empty());
    let agents = service.get("/agents").await;
    assert_eq!(agents.ok()["agents"].as_array().unwrap().len(), 1, "the agent stays");
    assert!(system(&service).await.status.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_requirement_is_kept_in_the_system_and_its_path_in_the_repository() {
    let service = manual("requirement").await;
    for (body, field) in [
        (json!({}), "content"),
        (json!({"content": " "}), "content"),
        (json!({"content": 5}), "content"),
        (json!({"content": "x".repeat(20000)}), "content"),
        (json!({"content": REQUIREMENT, "path": "/etc/passwd"}), "path"),
        (json!({"content": REQUIREMENT, "path": "a/../../b"}), "path"),
    ] {
        let refused = service.post("/system/requirements", body).await;
        refused.refused(400, "invalid_field");
        assert!(
            refused.body["error"].as_str().unwrap().starts_with(&format!("{field}: ")),
            "{}",
            refused.body
        );
    }
    let stored =
        service.post("/system/requirements", json!({"content": REQUIREMENT, "path": "docs/a.md"})).await;
    let body = stored.ok();
    assert_eq!(
        (&body["requirementPath"], &body["canonicalPath"]),
        (&json!("docs/a.md"), &json!("docs/requirement.md"))
    );
    assert_eq!(body["committed"], json!(false));
    let read = service.get("/system/requirements").await;
    assert_eq!(read.ok(), &json!({"path": "docs/requirement.md", "content": REQUIREMENT}));
    service.get("/system/requirements?path=docs%2Frequirement.md").await.ok();
    service.get("/system/requirements?path=other.md").await.refused(404, "not_found");
    service.get("/system/requirements?path=..%2Fx").await.refused(400, "invalid_field");
    let path = json!({"spec": {"planner": {"requirement": null, "requirementPath": "docs/goal.md"}}});
    service.world.patch::<System>("default", path).await;
    service.get("/system/requirements").await.refused(409, "requirement_in_repository");
    service.post("/system/requirements", json!({"content": REQUIREMENT})).await.ok();
    assert_eq!(system(&service).await.spec.planner.requirement_path, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn throughput_counts_lanes_and_what_was_written_down() {
    let service = Service::start("throughput").await;
    service.world.pool("worker", 1, "{outcome: Succeed, delay: 10m}").await;
    service.world.backlog(1).await;
    running(&service, 1).await;
    service.world.task("t-2", "{lane: research}").await;
    let row = "INSERT INTO events (uid, sequence, id, namespace, type, entity_type, created_at) VALUES
        (gen_random_uuid(), 1, gen_random_uuid(), $1, $2, 'task', now() - make_interval(hours => $3))";
    let database = service.database.pool.get().await.unwrap();
    for (type_, hours) in [("judge.merge_queue_merged", 5), ("judge.merge_queue_merged", 7), ("task.done", 1)]
    {
        database.execute(row, &[&service.world.name, &type_, &hours]).await.unwrap();
    }
    let answer = service.get("/system/runtime/throughput").await;
    let body = answer.ok();
    assert_eq!(body["lanes"]["activeBacklogCounts"], json!({"feature": 1, "research": 1}), "{body}");
    assert_eq!(body["lanes"]["runningCounts"], json!({"feature": 1}));
    assert_eq!(body["mergeQueue"]["statusCounts"], json!({"pending": 0, "processing": 0}));
    assert_eq!(body["recentEvents"]["windowHours"], json!(6));
    assert_eq!(body["recentEvents"]["counts"]["judge.merge_queue_merged"], json!(1));
    assert_eq!(body["recentEvents"]["counts"]["dispatcher.lane_throttled"], json!(0));
    assert_eq!(body["recentEvents"]["counts"].as_object().unwrap().len(), 7);
    assert!(body["checkedAt"].is_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_first_page_asks_for_is_answered_with_nothing_to_say() {
    let service = manual("landing").await;
    let shape = |path: &'static str, fields: &'static [&'static str]| (path, fields);
    for (path, fields) in [
        shape("/", &["description", "name", "version"]),
        shape("/plugins", &["plugins"]),
        shape("/chat/conversations", &["conversations"]),
        shape("/system/host/neofetch", &["available", "checkedAt", "message"]),
        shape("/system/host/context", &["refreshed", "snapshot"]),
        shape("/system/github/auth", &["authenticated", "available", "checkedAt", "message", "mode"]),
        shape("/system/github/repos?owner=x", &["repos", "viewerLogin"]),
        shape(
            "/system/claude/auth",
            &["authenticated", "available", "checkedAt", "executionEnvironment", "message"],
        ),
        shape(
            "/system/codex/auth?environment=sandbox",
            &["authenticated", "available", "checkedAt", "executionEnvironment", "message"],
        ),
    ] {
        let answer = service.get(path).await;
        let found: Vec<&String> = answer.ok().as_object().expect(path).keys().collect();
        assert_eq!(found, fields, "{path}");
    }
    service.get("/system/claude/auth?environment=moon").await.refused(400, "invalid_field");
    service.get("/system/nothing").await.refused(404, "no_such_path");
    service.patch("/system/hatch", json!({})).await.refused(405, "method_not_allowed");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_system_and_no_kubernetes_are_said() {
    let service = manual("none").await;
    service.world.delete::<System>("default").await;
    eventually("it is gone", async || api::<System>(&service).get_opt("default").await.unwrap().is_none())
        .await;
    start(&service, "dispatcher").await.refused(409, "no_system");
    start(&service, "planner").await.refused(409, "no_system");
    let content = json!({"content": REQUIREMENT});
    service.post("/system/requirements", content).await.refused(409, "no_system");
    assert_eq!(status(&service, "dispatcher").await, "idle");
    let without = Service::configured("blind", json!({}), |config| config.client = None::<Client>).await;
    for path in ["/system/processes", "/system/hatch", "/system/requirements", "/system/runtime/throughput"] {
        without.get(path).await.refused(503, "kubernetes_unavailable");
    }
    for path in [
        "/system/processes/worker-1/start",
        "/system/processes/stop-all",
        "/system/preflight",
        "/system/cleanup",
    ] {
        without.post(path, json!({})).await.refused(503, "kubernetes_unavailable");
    }
}
