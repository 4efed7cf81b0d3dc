//! `/plans` and `/judgements` as a client of the original uses them (spec/api.md 1.4).

use kube::Api;
use kube::api::PostParams;
use opentiger::crd::{Task, labels};
use serde_json::{Value, json};

use crate::postgres::eventually;
use crate::service::Service;
use crate::tasks::{body, delete, posted};

const SIGNATURE: &str = "5f0c3d1e";

/// An event as the mirror writes it; returns its id.
async fn event(service: &Service, of: &str, sequence: i64, kind: &str, payload: &Value) -> String {
    let payload = payload.to_string().replace('\'', "''");
    service
        .database
        .execute(&format!(
            "INSERT INTO events (uid, sequence, id, namespace, type, entity_type, agent_id, payload, created_at)
             VALUES ('{of}', {sequence}, gen_random_uuid(), '{}', '{kind}', 'task', 'judge-1', '{payload}',
                     timestamptz '2026-02-13' + interval '1 s' * {sequence})",
            service.world.name
        ))
        .await;
    service
        .database
        .value(&format!("SELECT id::text FROM events WHERE uid = '{of}' AND sequence = {sequence}"))
        .await
}

/// A Task as a plan makes it; returns its id.
async fn planned(service: &Service, parent: &str, name: &str) -> String {
    let task: Task = serde_json::from_value(json!({
        "apiVersion": "opentiger.dev/v1alpha1", "kind": "Task",
        "metadata": {"name": name, "labels": {labels::PARENT_UID: parent, labels::CREATED_BY: "planner"},
            "annotations": {labels::PLAN_SIGNATURE: SIGNATURE}},
        "spec": {"title": format!("Title of {name}"), "goal": "It works", "allowedPaths": ["**"]},
    }))
    .expect("a Task");
    let api: Api<Task> = Api::namespaced(service.world.client.clone(), &service.world.name);
    api.create(&PostParams::default(), &task).await.expect("made").metadata.uid.expect("a uid")
}

#[tokio::test(flavor = "multi_thread")]
async fn plans_are_listed_with_their_tasks_in_the_order_of_the_planner() {
    let service = Service::start("plans").await;
    let (older, newer) = (posted(&service, body("Plans")).await, posted(&service, body("Plans again")).await);
    let mut ids = Vec::new();
    // Made in another order than planned.
    for number in [10, 2, 1] {
        ids.insert(0, planned(&service, &newer, &format!("{SIGNATURE}-{number}-do-it")).await);
    }
    eventually("they are mirrored", async || {
        let path = format!("/tasks?parentId={newer}&createdBy=planner");
        service.get(&path).await.ok()["tasks"].as_array().map(Vec::len) == Some(3)
    })
    .await;
    let payload = json!({"requirement": {"path": "docs/r.md"}, "summary": {"text": "3 tasks"}, "policyRecoveryHintApplications": []});
    event(&service, &older, -1, "planner.plan_created", &json!({})).await;
    let newest = event(&service, &newer, -1, "planner.plan_created", &payload).await;
    service
        .database
        .execute(&format!("UPDATE events SET created_at = created_at + interval '1 h' WHERE id = '{newest}'"))
        .await;
    delete(&service, &ids[1]).await;

    let plans = service.get("/plans").await.ok()["plans"].clone();
    assert_eq!(plans.as_array().map(Vec::len), Some(2), "{plans}");
    let plan = &plans[0];
    assert_eq!(plan["id"], json!(newest), "newest first");
    assert_eq!(
        (&plan["requirement"], &plan["summary"], &plan["agentId"]),
        (&payload["requirement"], &payload["summary"], &json!("judge-1"))
    );
    assert_eq!(plan["taskIds"], json!(ids));
    let tasks: Vec<&Value> = plan["tasks"].as_array().expect("a list").iter().map(|t| &t["id"]).collect();
    assert_eq!(tasks, [&json!(ids[0]), &json!(ids[2])], "what was deleted is left out");
    let keys: Vec<&String> = plan["tasks"][0].as_object().expect("an object").keys().collect();
    assert_eq!(keys, ["createdAt", "dependencies", "id", "priority", "riskLevel", "role", "status", "title"]);
    assert_eq!((&plans[1]["tasks"], &plans[1]["requirement"]), (&json!([]), &json!({})));
    for (limit, rows) in [("1", 1), ("0", 2), ("many", 2), ("1000", 2)] {
        let answer = service.get(&format!("/plans?limit={limit}")).await;
        assert_eq!(answer.ok()["plans"].as_array().map(Vec::len), Some(rows), "{limit}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn judgements_are_filtered_and_their_change_is_shown_where_it_was_kept() {
    let service = Service::start("judgements").await;
    service.world.pool("worker", 1, "{outcome: Succeed, delay: 10m}").await;
    let (task, other) = (posted(&service, body("Fix")).await, posted(&service, body("Other")).await);
    let path = format!("/runs?taskId={task}");
    eventually("it has a Run", async || service.get(&path).await.ok()["runs"] != json!([])).await;
    let run = service.get(&path).await.ok()["runs"][0]["id"].clone();
    let review = |verdict: &str, run: &Value| json!({"verdict": verdict, "runId": run, "summary": {"ci": null}, "reasons": ["it's wrong"]});
    let refused = event(&service, &task, 100, "judge.review", &review("request_changes", &run)).await;
    let approved = event(&service, &task, 101, "judge.review", &review("approve", &json!(other))).await;
    let of_other = event(&service, &other, 102, "judge.review", &review("approve", &json!(other))).await;
    let recovery =
        event(&service, &task, 103, "task.policy_recovery_applied", &json!({"summary": "two paths"})).await;
    let list = async |query: &str| {
        let answer = service.get(&format!("/judgements{query}")).await;
        let rows = answer.ok()["judgements"].as_array().expect("a list").clone();
        rows.into_iter().map(|row| row["id"].as_str().expect("an id").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(list("").await, [of_other.clone(), approved.clone(), refused.clone()], "newest first");
    assert_eq!(list(&format!("?taskId={task}")).await, [approved.clone(), refused.clone()]);
    assert_eq!(
        list(&format!("?runId={}", run.as_str().expect("an id"))).await,
        std::slice::from_ref(&refused)
    );
    assert_eq!(list("?verdict=approve&limit=1").await, std::slice::from_ref(&of_other));
    assert_eq!(list(&format!("?includeRecovery=true&taskId={task}")).await[0], recovery);
    assert_eq!(list("?limit=none").await.len(), 3);
    let rows =
        service.get(&format!("/judgements?includeRecovery=true&taskId={task}")).await.ok()["judgements"]
            .clone();
    assert_eq!(
        (&rows[0]["payload"]["recoverySummary"], &rows[0]["taskId"]),
        (&json!("two paths"), &json!(task))
    );
    assert_eq!(
        (&rows[2]["payload"]["reasons"][0], &rows[2]["agentId"]),
        (&json!("it's wrong"), &json!("judge-1"))
    );
    for bad in ["taskId=5", "runId=5", "verdict=yes", "includeRecovery=1"] {
        service.get(&format!("/judgements?{bad}")).await.refused(400, "invalid_field");
    }

    let diff = format!("/judgements/{refused}/diff");
    service.get(&diff).await.refused(404, "no_content");
    let artifact = json!({"type": "base_repo_diff", "metadata": {"diff": "+ä\n".repeat(10_000)}});
    service.post(&format!("/runs/{}/artifacts", run.as_str().expect("an id")), artifact).await.ok();
    let whole = service.get(&diff).await.ok().clone();
    assert_eq!((&whole["source"], &whole["truncated"]), (&json!("base_repo_diff"), &json!(true)));
    let text = whole["diff"].as_str().expect("a text");
    assert!(text.ends_with("\n... (truncated)") && text.chars().count() > 20_000, "{}", text.len());
    let cut = service.get(&format!("{diff}?limit=2")).await.ok()["diff"].clone();
    assert_eq!(cut, json!("+ä\n... (truncated)"));
    assert_eq!(service.get(&format!("{diff}?limit=120000")).await.ok()["truncated"], json!(false));
    for unknown in [recovery.as_str(), "00000000-0000-0000-0000-000000000000", "x"] {
        service.get(&format!("/judgements/{unknown}/diff")).await.refused(404, "not_found");
    }
}
