//! Requeue and Complete: a person decides about one Task.

use opentiger::crd::{AgentPool, OperationPhase, TaskPhase};
use serde_json::{Value, json};

use super::requests::{carried_out, message};
use super::world::{PATIENCE, World};

fn of(type_: &str, task: &str) -> Value {
    json!({"type": type_, "taskRef": {"name": task}})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_task_is_requeued_at_once_or_completed_and_other_phases_are_refused() {
    let world = World::start_with("requeue", json!({"recovery": {"failedCooldown": "24h"}})).await;
    world.pool("worker", 2, "{outcome: Fail, failureCode: execution_failed}").await;
    let _member = world.operator("one").start().await;
    world.task("a", "{}").await;
    world.task("b", "{}").await;
    for name in ["a", "b"] {
        world
            .until("it has failed", PATIENCE, |r| (r.status(name).phase == TaskPhase::Failed).then_some(()))
            .await;
    }
    world.patch::<AgentPool>("worker", json!({"spec": {"executor": {"mock": {"outcome": "Hang"}}}})).await;
    let requeued = carried_out(&world, of("Requeue", "a")).await;
    assert_eq!(requeued.phase(), OperationPhase::Succeeded, "{}", message(&requeued));
    world
        .until("it runs again", PATIENCE, |r| (r.status("a").phase == TaskPhase::Running).then_some(()))
        .await;
    let status = world.record.status("a");
    assert_eq!((status.retries.failure, status.attempts), (1, 2), "the request itself costs nothing");
    assert!(status.transitions.iter().any(|t| t.event == "task.requeued" && t.reason == "operation"));
    let refused = carried_out(&world, of("Requeue", "a")).await;
    assert!(refused.phase() == OperationPhase::Failed, "{}", message(&refused));
    assert!(message(&refused).contains("in progress"), "{}", message(&refused));
    let completed = carried_out(&world, of("Complete", "b")).await;
    assert_eq!(completed.phase(), OperationPhase::Succeeded, "{}", message(&completed));
    world.until("b is done", PATIENCE, |r| (r.done() == 1).then_some(())).await;
    let refused = carried_out(&world, of("Requeue", "b")).await;
    assert_eq!(message(&refused), "Task b is Done for good");
    world.verify();
}
