//! `/agents` as a client of the original uses it (spec/api.md 1.4): slots of pools, which nobody
//! registers, beats for or deletes.

use serde_json::{Value, json};

use crate::postgres::eventually;
use crate::service::{Answer, Service};
use crate::tasks::{body, posted, until};

fn ids(answer: &Answer) -> Vec<&str> {
    answer.ok()["agents"].as_array().expect("a list").iter().filter_map(|a| a["id"].as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_are_listed_by_role_and_status_and_components_never_are() {
    let service = Service::start("agents").await;
    service.world.pool("worker", 2, "{outcome: Succeed, delay: 10m}").await;
    service.world.pool_with("judge", 1, "{outcome: Succeed}", json!({"role": "Judge"})).await;
    service.world.pool_with("docser", 1, "{outcome: Succeed}", json!({"role": "Docser"})).await;
    eventually("all are there", async || {
        ids(&service.get("/agents").await) == ["docser-1", "judge-1", "worker-1", "worker-2"]
    })
    .await;
    let task = posted(&service, body("Fix")).await;
    until(&service, &task, "running").await;
    eventually("one is busy", async || ids(&service.get("/agents?status=busy").await).len() == 1).await;
    let busy = service.get("/agents?status=busy").await.ok()["agents"][0].clone();
    assert_eq!((&busy["currentTaskId"], &busy["metadata"]["provider"]), (&json!(task), &json!("mock")));
    assert_eq!(ids(&service.get("/agents?role=judge").await), ["judge-1"]);
    assert_eq!(ids(&service.get("/agents?role=docser&status=idle").await), ["docser-1"]);
    assert_eq!(ids(&service.get("/agents?role=planner").await), [""; 0]);
    for bad in ["role=dispatcher", "status=lazy"] {
        let answer = service.get(&format!("/agents?{bad}")).await;
        answer.refused(400, "invalid_field");
        assert!(
            answer.body["error"].as_str().is_some_and(|e| e.contains("must be one of")),
            "{}",
            answer.body
        );
    }
    assert_eq!(service.get("/agents/worker-2").await.ok()["agent"]["id"], json!("worker-2"));
    for unknown in ["dispatcher", "cycle-manager", "worker-3", "%00"] {
        service.get(&format!("/agents/{unknown}")).await.refused(404, "not_found");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_may_say_what_is_so_already_and_nothing_else_trap_14() {
    let service = Service::start("registers").await;
    service.world.pool_with("docser", 1, "{outcome: Succeed}", json!({"role": "Docser"})).await;
    eventually("it is there", async || ids(&service.get("/agents").await) == ["docser-1"]).await;
    let register =
        |id: &str, role: &str| json!({"id": id, "role": role, "metadata": {"model": "m", "provider": "p"}});
    // The original cannot register a docser.
    let known = service.post("/agents", register("docser-1", "docser")).await;
    assert_eq!((known.status, &known.body["agent"]["id"]), (200, &json!("docser-1")), "{}", known.body);
    let new = service.post("/agents", register("docser-2", "docser")).await;
    new.refused(409, "agents_are_slots");
    assert!(new.body["error"].as_str().is_some_and(|e| e.contains("replicas")), "{}", new.body);
    let other = service.post("/agents", register("docser-1", "worker")).await;
    other.refused(409, "agents_are_slots");
    assert!(
        other.body["error"].as_str().is_some_and(|e| e.contains("docser and not worker")),
        "{}",
        other.body
    );

    let beat = async |body: Value| service.post("/agents/docser-1/heartbeat", body).await;
    for same in [json!({}), json!({"status": "idle"}), json!({"status": "idle", "currentTaskId": null})] {
        assert_eq!(beat(same).await.ok()["agent"]["status"], json!("idle"));
    }
    let busy = beat(json!({"status": "busy"})).await;
    busy.refused(409, "agents_are_slots");
    assert!(
        busy.body["error"].as_str().is_some_and(|e| e.contains("idle") && e.contains("busy")),
        "{}",
        busy.body
    );
    let task = "00000000-0000-0000-0000-000000000001";
    beat(json!({"currentTaskId": task})).await.refused(409, "agents_are_slots");
    for (field, body) in
        [("status", json!({"status": "lazy"})), ("currentTaskId", json!({"currentTaskId": "5"}))]
    {
        let answer = beat(body).await;
        answer.refused(400, "invalid_field");
        assert!(answer.body["error"].as_str().is_some_and(|e| e.starts_with(field)), "{}", answer.body);
    }
    for (field, body) in [
        ("id", json!({"role": "worker"})),
        ("id", json!({"id": " ", "role": "worker"})),
        ("role", json!({"id": "worker-1"})),
        ("role", json!({"id": "worker-1", "role": "dispatcher"})),
        ("metadata", json!({"id": "worker-1", "role": "worker", "metadata": []})),
    ] {
        let answer = service.post("/agents", body).await;
        answer.refused(400, "invalid_field");
        assert!(answer.body["error"].as_str().is_some_and(|e| e.starts_with(field)), "{}", answer.body);
    }
    let deleted = service.delete("/agents/docser-1").await;
    deleted.refused(409, "agents_are_slots");
    assert!(deleted.body["error"].as_str().is_some_and(|e| e.contains("/system/processes/docser-1/stop")));
    service.delete("/agents/docser-9").await.refused(404, "not_found");
    service.post("/agents/docser-9/heartbeat", json!({})).await.refused(404, "not_found");
    assert_eq!(ids(&service.get("/agents").await), ["docser-1"]);
}
