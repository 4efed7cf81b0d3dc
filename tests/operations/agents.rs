//! One agent and one component stopped alone.

use opentiger::crd::{OperationPhase, RunPhase, Task, TaskPhase};
use serde_json::json;

use super::requests::{carried_out, message, says, system};
use super::world::{PATIENCE, World};

#[tokio::test(flavor = "multi_thread")]
async fn worker_3_stopped_alone_gives_its_task_back_and_stays_stopped_c109() {
    let world = World::start("agent").await;
    world.pool("worker", 3, "{outcome: Succeed, delay: 10m}").await;
    let member = world.operator("one").start().await;
    world.backlog(3).await;
    let run = world
        .until("worker-3 works", PATIENCE, |record| {
            let all = record.pods().len() == 3;
            record.runs().into_values().find(|r| all && r.spec.agent == "worker-3")
        })
        .await;
    let task = run.spec.task_ref.name.clone();
    let stopped = carried_out(&world, json!({"type": "Stop", "target": "worker-03"})).await;
    let result = stopped.status.clone().unwrap().result.unwrap_or_default();
    assert_eq!(stopped.phase(), OperationPhase::Succeeded, "{}", message(&stopped));
    assert_eq!((result.cancelled_runs, result.requeued_tasks), (Some(1), Some(1)));
    let ended = world.record.runs()[run.metadata.name.as_deref().unwrap()].status.clone().unwrap();
    assert_eq!((ended.phase, ended.cancelled_by), (RunPhase::Cancelled, stopped.metadata.uid.unwrap()));
    // The design decides C109: Queued, at no cost, not Cancelled.
    let status = world.record.status(&task);
    assert_eq!((status.phase, status.retry_at), (TaskPhase::Queued, None), "{status:?}");
    assert_eq!(status.retries, Default::default());
    // Durable: another operator does not use it either; the Task takes the next free slot.
    member.operator.kill();
    let _second = world.operator("two").start().await;
    let other = world.record.runs().into_values().find(|r| r.spec.agent == "worker-1").expect("a Run");
    world.finish_pod(other.metadata.name.as_deref().unwrap()).await;
    world
        .until("the Task runs in slot 1", PATIENCE, |record| {
            let status = record.status(&task);
            (status.phase == TaskPhase::Running && status.agent == "worker-1").then_some(())
        })
        .await;
    assert_eq!(world.record.runs().values().filter(|r| r.spec.agent == "worker-3").count(), 1);
    assert_eq!(system(&world).await.status.unwrap().stopped, ["worker-3"]);
    says(&world, &["start", "worker-3"]);
    world.task("more", "{}").await;
    world
        .until("worker-3 works again", PATIENCE, |record| {
            (record.status("more").agent == "worker-3").then_some(())
        })
        .await;
    world.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_cycle_manager_holds_back_a_retry_until_it_is_started() {
    let world = World::start_with("cycle", json!({"recovery": {"failedCooldown": "2s"}})).await;
    let _member = world.operator("one").start().await;
    world.pool("worker", 1, "{outcome: Fail, failureCode: execution_failed, firstAttempts: 1}").await;
    says(&world, &["stop", "cycle-manager"]);
    world.task("fix", "{}").await;
    let held = world
        .until("the Task says why its retry does not happen", PATIENCE, |record| {
            let status = record.status("fix");
            status.conditions.iter().any(|c| c.reason == "CycleManagerStopped").then_some(status)
        })
        .await;
    assert_eq!(held.phase, TaskPhase::Failed);
    assert_eq!(held.next.as_ref().map(|n| n.kind), Some(opentiger::crd::NextKind::Operator), "{held:?}");
    says(&world, &["start", "cycle-manager"]);
    world.all_done(1).await;
    let done: Task = (*world.record.tasks()["fix"]).clone();
    assert_eq!(done.status.unwrap().attempts, 2);
    world.verify();
}
