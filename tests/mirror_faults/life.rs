//! One Task's whole life as the watches deliver it, and what the tables have to hold afterwards, said
//! here once more and not by the product.

use std::sync::Arc;

use opentiger::controller::mirror::Mirrored;
use opentiger::crd::run::{ReviewResult, ReviewTarget};
use opentiger::crd::task::Transition;
use opentiger::crd::{
    BlockReason, Operation, OperationPhase, OperationSpec, OperationStatus, OperationType, Purpose, Run,
    RunPhase, Task, TaskPhase,
};
use serde_json::{Value, json};

use super::history::*;
use super::postgres::Database;

/// What a watch delivers.
pub enum Seen {
    Applied(Mirrored),
    Deleted(Mirrored),
}

/// The transitions of the Task, in order: phase, event, Run.
const STEPS: [(TaskPhase, &str, &str); 8] = [
    (TaskPhase::Running, "task.started", "fix-r1"),
    (TaskPhase::Failed, "task.failed", "fix-r1"),
    (TaskPhase::Queued, "task.requeued", ""),
    (TaskPhase::Running, "task.started", "fix-r2"),
    (TaskPhase::Blocked, "task.blocked", "fix-r2"),
    (TaskPhase::Blocked, "judge.review", "fix-j1"),
    (TaskPhase::Blocked, "judge.merge_queue_enqueued", "fix-j1"),
    (TaskPhase::Done, "judge.merge_queue_merged", "fix-m1"),
];

fn fix(version: i64, steps: usize) -> Task {
    let mut task = task("fix", 1, version);
    let status = status(&mut task);
    for (n, (phase, event, run)) in STEPS.iter().take(steps).enumerate() {
        let sequence = i64::try_from(n).expect("small") + 1;
        status.phase = *phase;
        status.block_reason = (*phase == TaskPhase::Blocked).then_some(BlockReason::AwaitingJudge);
        status.transitions.push(Transition {
            sequence,
            at: at(100 + sequence),
            phase: *phase,
            block_reason: status.block_reason,
            event: (*event).into(),
            reason: String::new(),
            run: (*run).into(),
        });
    }
    task
}

fn judge(version: i64, phase: RunPhase) -> Run {
    let mut judge = run("fix-j1", 12, version, 1, "judge-1", phase);
    judge.spec.purpose = Purpose::Judge;
    judge.spec.review = Some(ReviewTarget { run_uid: uid(11).to_string(), ..ReviewTarget::default() });
    let status = judge.status.get_or_insert_default();
    status.branch = String::new();
    status.review = (phase == RunPhase::Success).then(ReviewResult::default);
    judge
}

fn operation(version: i64, phase: OperationPhase) -> Operation {
    let mut operation =
        Operation::new("arm-1", OperationSpec { type_: OperationType::Arm, ..OperationSpec::default() });
    operation.metadata = meta("arm-1", uid(30), version, 0);
    operation.status = Some(OperationStatus { phase, ..OperationStatus::default() });
    operation
}

/// The whole life: two attempts, a review, a merge; one Run is pruned in the end.
pub fn life() -> Vec<Seen> {
    let task = |version, steps| Seen::Applied(mirrored(&fix(version, steps)));
    let attempt = |name: &str, n, version, phase| mirrored_run(&run(name, n, version, 1, "worker-1", phase));
    let judged = |version, phase| Seen::Applied(mirrored_run(&judge(version, phase)));
    let operation = |version, phase| Seen::Applied(Mirrored::Operation(Arc::new(operation(version, phase))));
    vec![
        Seen::Applied(mirrored_pool(&pool(20, 5, 2, false))),
        operation(6, OperationPhase::Pending),
        operation(7, OperationPhase::Succeeded),
        task(10, 0),
        Seen::Applied(attempt("fix-r1", 10, 11, RunPhase::Running)),
        task(12, 1),
        Seen::Applied(attempt("fix-r1", 10, 13, RunPhase::Failed)),
        task(14, 2),
        task(15, 3),
        Seen::Applied(attempt("fix-r2", 11, 16, RunPhase::Running)),
        task(17, 4),
        Seen::Applied(attempt("fix-r2", 11, 18, RunPhase::Success)),
        task(19, 5),
        judged(20, RunPhase::Running),
        judged(21, RunPhase::Success),
        task(22, 7),
        task(24, 8),
        Seen::Deleted(attempt("fix-r1", 10, 25, RunPhase::Failed)),
    ]
}

/// Fails unless the tables hold exactly this life.
pub async fn tables_hold_the_life(database: &Database, when: &str) {
    let rows = |table: &str, columns: &str| {
        format!(
            "SELECT name, resource_version, deleted_at IS NOT NULL AS deleted, {columns} FROM {table} ORDER BY uid"
        )
    };
    let is =
        async |sql: &str, expected: Value| assert_eq!(database.json(sql).await, expected, "{when}: {sql}");
    is(
        &rows("tasks", "status, title"),
        json!([{"name": "fix", "resource_version": 24, "deleted": false, "status": "done", "title": "Title of fix"}]),
    )
    .await;
    let run = |name: &str, version: i64, deleted: bool, status: &str| json!({"name": name, "resource_version": version, "deleted": deleted, "status": status});
    is(
        &rows("runs", "status"),
        json!([
            run("fix-r1", 25, true, "failed"),
            run("fix-r2", 18, false, "success"),
            run("fix-j1", 21, false, "success"),
        ]),
    )
    .await;
    is(
        &rows("pools", "replicas"),
        json!([{"name": "worker", "resource_version": 5, "deleted": false, "replicas": 2}]),
    )
    .await;
    is(
        &rows("operations", "phase"),
        json!([{"name": "arm-1", "resource_version": 7, "deleted": false, "phase": "succeeded"}]),
    )
    .await;
    let events: Vec<Value> = STEPS
        .iter()
        .zip(1..)
        .map(|((_, event, run), sequence)| {
            let verdict = (*event == "judge.review").then_some("approve");
            json!({"sequence": sequence, "type": event, "run": run, "verdict": verdict, "gap_to": null})
        })
        .collect();
    let sql = format!(
        "SELECT sequence, type, payload->'run' AS run, payload->'verdict' AS verdict, gap_to FROM events
          WHERE uid = '{}' ORDER BY sequence",
        uid(1)
    );
    is(&sql, Value::Array(events)).await;
    is("SELECT count(*) AS n FROM events", json!([{"n": STEPS.len()}])).await;
    is("SELECT type FROM artifacts ORDER BY type", json!([{"type": "branch"}, {"type": "commit"}])).await;
    is("SELECT name FROM mirror_parked", json!([])).await;
}
