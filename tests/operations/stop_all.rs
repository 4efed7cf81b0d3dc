//! StopAll under load (C108, S13), interrupted, repeated, and undone.

use k8s_openapi::api::core::v1::Pod;
use opentiger::crd::{OperationPhase, RunPhase, TaskPhase};
use serde_json::json;

use super::record::Record;
use super::requests::{ask, carried_out, ended, get, message, says, system};
use super::world::{PATIENCE, World};

const TASKS: usize = 12;

fn running(record: &Record) -> usize {
    let phase = |pod: &Pod| pod.status.as_ref().and_then(|s| s.phase.clone()).unwrap_or_default();
    record.pods().values().filter(|pod| phase(pod) == "Running").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_all_under_load_ends_everything_at_no_cost_once_and_after_a_crash_c108() {
    let world = World::start("stop-all").await;
    world.pool("worker", 4, "{outcome: Succeed, delay: 10m}").await;
    let member = world.operator("one").start().await;
    world.backlog(TASKS).await;
    world.until("four run", PATIENCE, |r| (running(r) == 4).then_some(())).await;
    let finished = world.record.pods().into_keys().next().expect("a Pod");
    world.finish_pod(&finished).await;
    world
        .until("one is done and four run", PATIENCE, |r| (r.done() == 1 && running(r) == 4).then_some(()))
        .await;
    let name = ask(&world, json!({"type": "StopAll", "reason": "upgrade", "requestedBy": "ann"})).await;
    // Killed as soon as the latch is written; the next leader goes on.
    world
        .until("the hatch is disarmed", PATIENCE, |record| {
            let armed = record.history().iter().rev().find_map(|entry| match &entry.seen {
                super::record::Seen::System(system) => Some(system.is_armed()),
                _ => None,
            });
            (armed == Some(false)).then_some(())
        })
        .await;
    member.operator.kill();
    let _second = world.operator("two").start().await;
    let stopped = ended(&world, &name).await;
    assert_eq!(stopped.phase(), OperationPhase::Succeeded, "{}", message(&stopped));
    let result = stopped.status.clone().unwrap().result.unwrap();
    assert_eq!((result.cancelled_runs, result.requeued_tasks), (Some(4), Some(4)), "{}", message(&stopped));
    world.until("no Pod is left", PATIENCE, |r| r.pods().is_empty().then_some(())).await;
    for run in world.record.runs().into_values() {
        let status = run.status.clone().unwrap_or_default();
        assert!(matches!(status.phase, RunPhase::Success | RunPhase::Cancelled), "{status:?}");
    }
    for task in world.record.tasks().into_values() {
        let status = task.status.clone().unwrap_or_default();
        assert!(matches!(status.phase, TaskPhase::Queued | TaskPhase::Done), "{status:?}");
        assert_eq!((status.retries, status.retry_at), Default::default(), "{status:?}");
    }
    let latched = system(&world).await;
    let stopped = latched.status.clone().unwrap().stopped;
    assert_eq!(stopped, ["dispatcher", "cycle-manager", "judge", "planner"]);
    // S13: repeating it changes nothing.
    let again = carried_out(&world, json!({"type": "StopAll"})).await;
    assert_eq!(again.status.unwrap().result.unwrap().cancelled_runs, Some(0));
    assert_eq!(system(&world).await.metadata.resource_version, latched.metadata.resource_version);
    assert_eq!(world.record.runs().len(), 5);
    // And it can be undone.
    let text = says(&world, &["start", "--all"]);
    assert!(text.contains("planner is started; nothing runs before the hatch is armed"), "{text}");
    says(&world, &["hatch", "arm"]);
    world.until("four run again", PATIENCE, |r| (running(r) == 4).then_some(())).await;
    world.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_all_deletes_pods_that_no_run_accounts_for() {
    let world = World::start("stray").await;
    let _member = world.operator("one").start().await;
    let restricted = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}});
    let stray: Pod = serde_json::from_value(json!({
        "metadata": {"name": "stray", "labels": {"opentiger.dev/run": "stray"},
            "annotations": {"kwok.opentiger.dev/run-for": "10m"}},
        "spec": {"securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{"name": "agent", "image": "agent:test", "securityContext": restricted}]},
    }))
    .expect("a Pod");
    let pods: kube::Api<Pod> = kube::Api::namespaced(world.client.clone(), &world.name);
    pods.create(&Default::default(), &stray).await.expect("accepted");
    world.until("the stray is there", PATIENCE, |r| (!r.pods().is_empty()).then_some(())).await;
    let stopped = carried_out(&world, json!({"type": "StopAll"})).await;
    assert_eq!(stopped.phase(), OperationPhase::Succeeded, "{}", message(&stopped));
    world.until("it is gone", PATIENCE, |r| r.pods().is_empty().then_some(())).await;
    assert!(get(&world, &stopped.metadata.name.unwrap()).await.is_some());
}
