//! Rows of Operations, and the events that are more than a transition: verdicts and plans.

use std::sync::Arc;

use opentiger::controller::mirror::Mirrored;
use opentiger::crd::run::{ReviewResult, ReviewTarget, ReviewVerdict};
use opentiger::crd::{
    Operation, OperationPhase, OperationSpec, OperationStatus, OperationType, Purpose, Run, RunPhase,
    TaskPhase, labels,
};
use serde_json::json;

use super::history::*;
use super::postgres::Database;
use super::{Running, quick};

#[tokio::test]
async fn operations_are_rows() {
    let database = Database::migrated().await;
    let running = Running::start(&database.pool, quick());
    let mut operation = Operation::new(
        "stop-1",
        OperationSpec {
            type_: OperationType::StopAll,
            requested_by: "ada".into(),
            reason: "nightly".into(),
            ..OperationSpec::default()
        },
    );
    operation.metadata = meta("stop-1", uid(1), 10, 0);
    running.mirror.applied(Mirrored::Operation(Arc::new(operation.clone())));
    running.drained().await;
    operation.metadata.resource_version = Some("11".into());
    operation.status = Some(OperationStatus {
        phase: OperationPhase::Succeeded,
        message: "2 Runs were cancelled".into(),
        result: Some(opentiger::crd::operation::OperationResult {
            cancelled_runs: Some(2),
            ..Default::default()
        }),
        started_at: Some(at(5)),
        finished_at: Some(at(9)),
        ..OperationStatus::default()
    });
    running.mirror.applied(Mirrored::Operation(Arc::new(operation.clone())));
    running.mirror.deleted(Mirrored::Operation(Arc::new(operation)));
    running.stop().await;
    let rows = database
        .json(
            "SELECT name, resource_version, type, phase, target, requested_by, reason, message, result, started_at,
             finished_at, updated_at, deleted_at IS NOT NULL AS deleted FROM operations",
        )
        .await;
    let expected = json!([{
        "name": "stop-1", "resource_version": 11, "type": "stop_all", "phase": "succeeded", "target": null,
        "requested_by": "ada", "reason": "nightly", "message": "2 Runs were cancelled",
        "result": {"cancelledRuns": 2}, "started_at": "2026-02-13T14:00:05+00:00",
        "finished_at": "2026-02-13T14:00:09+00:00", "updated_at": "2026-02-13T14:00:09+00:00", "deleted": true,
    }]);
    assert_eq!(rows, expected);
}

fn judge_run() -> Run {
    let mut run = run("fix-x-j1", 5, 30, 1, "judge-1", RunPhase::Success);
    run.spec.purpose = Purpose::Judge;
    run.spec.review = Some(ReviewTarget { run_uid: uid(4).to_string(), ..ReviewTarget::default() });
    let status = run.status.get_or_insert_default();
    status.review = Some(ReviewResult {
        verdict: ReviewVerdict::RequestChanges,
        confidence: 70,
        findings: vec!["src/a.rs:1: no".into()],
        ..ReviewResult::default()
    });
    run
}

#[tokio::test]
async fn a_verdict_is_one_event_whichever_object_comes_first() {
    let mut reviewed = with_transitions(task("fix", 1, 40), 1..=3, TaskPhase::Blocked);
    let last = status(&mut reviewed).transitions.last_mut().expect("three");
    last.event = "judge.review".into();
    last.run = "fix-x-j1".into();
    for run_first in [true, false] {
        let database = Database::migrated().await;
        let running = Running::start(&database.pool, quick());
        let mut objects = [mirrored_run(&judge_run()), mirrored(&reviewed)];
        if !run_first {
            objects.reverse();
        }
        // Twice: a replay completes nothing twice.
        for object in objects.iter().chain(&objects) {
            running.mirror.applied(object.clone());
            running.drained().await;
        }
        running.stop().await;
        let events = database
            .json(
                "SELECT uid, sequence, entity_type, agent_id, payload->'verdict' AS verdict, payload->'runId' AS run,
                 payload->'reason' AS reason, payload->'autoMerge' AS merge
                   FROM events WHERE type = 'judge.review'",
            )
            .await;
        let expected = json!([{
            "uid": uid(1), "sequence": 3, "entity_type": "task", "agent_id": "judge-1",
            "verdict": "request_changes", "run": uid(4), "reason": "cooldown_retry", "merge": false,
        }]);
        assert_eq!(events, expected, "Run first: {run_first}");
    }
}

#[tokio::test]
async fn a_plan_is_one_event_and_names_its_tasks_by_their_parent() {
    let database = Database::migrated().await;
    let running = Running::start(&database.pool, quick());
    let mut plan = run("plan-x-r1", 5, 30, 1, "planner-1", RunPhase::Success);
    plan.spec.purpose = Purpose::Plan;
    let mut child = task("0a1b2c3d-1-fix", 7, 31);
    child.metadata.labels = Some(
        [(labels::PARENT_UID, uid(1).to_string()), (labels::ORIGIN, "plan".into())]
            .map(|(key, value)| (key.to_owned(), value))
            .into(),
    );
    // The planner's own transitions come after: the plan's number is in nobody's way.
    for _ in 0..2 {
        running.mirror.applied(mirrored_run(&plan));
        running.drained().await;
        running.mirror.applied(mirrored(&with_transitions(task("plan", 1, 40), 1..=2, TaskPhase::Done)));
        running.mirror.applied(mirrored(&child));
        running.drained().await;
    }
    running.stop().await;
    let events = database
        .json("SELECT sequence, type, entity_type, agent_id, gap_to FROM events ORDER BY sequence")
        .await;
    let transition = |n: i64| json!({"sequence": n, "type": "task.requeued", "entity_type": "task", "agent_id": null, "gap_to": null});
    let created = json!({
        "sequence": -1, "type": "planner.plan_created", "entity_type": "plan", "agent_id": "planner-1", "gap_to": null
    });
    assert_eq!(events, json!([created, transition(1), transition(2)]));
    let tasks = format!("SELECT uid FROM tasks WHERE parent_uid = '{}' AND origin = 'plan'", uid(1));
    assert_eq!(database.json(&tasks).await, json!([{"uid": uid(7)}]));
}

#[tokio::test]
async fn a_row_of_an_older_shape_is_written_again_and_then_left_alone() {
    let database = Database::migrated().await;
    let mut child = task("child", 7, 31);
    child.metadata.labels = Some([(labels::ORIGIN.to_owned(), "rework".to_owned())].into());
    let running = Running::start(&database.pool, quick());
    running.mirror.applied(mirrored(&child));
    running.drained().await;
    // As the version before wrote it.
    database.execute("UPDATE tasks SET shape = 1, origin = NULL").await;
    running.mirror.applied(mirrored(&child));
    running.drained().await;
    assert_eq!(database.value::<Option<String>>("SELECT origin FROM tasks").await.as_deref(), Some("rework"));
    let written: String = database.value("SELECT xmin::text FROM tasks").await;
    running.mirror.applied(mirrored(&child));
    running.stop().await;
    assert_eq!(database.value::<String>("SELECT xmin::text FROM tasks").await, written);
}
