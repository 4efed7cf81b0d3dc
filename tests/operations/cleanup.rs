//! Cleanup: refused, tried dry, forced.

use opentiger::crd::{AgentPool, OperationPhase};
use serde_json::json;

use super::requests::{ask, carried_out, ended, message, names, system};
use super::world::{PATIENCE, World};

#[tokio::test(flavor = "multi_thread")]
async fn cleanup_is_refused_while_armed_counts_when_dry_and_removes_all_when_forced() {
    let world = World::start("cleanup").await;
    world.pool("worker", 2, "{outcome: Succeed, delay: 10m}").await;
    let _member = world.operator("one").start().await;
    world.backlog(5).await;
    world.until("two run", PATIENCE, |r| (r.pods().len() == 2).then_some(())).await;
    let cleanup = |more: serde_json::Value| {
        let mut spec = json!({"type": "Cleanup", "confirm": world.name});
        super::world::merge(&mut spec, more);
        spec
    };
    let wrong = carried_out(&world, cleanup(json!({"confirm": "other"}))).await;
    assert!(
        wrong.phase() == OperationPhase::Failed && message(&wrong).contains("does not name"),
        "{wrong:?}"
    );
    let refused = carried_out(&world, cleanup(json!({}))).await;
    assert!(refused.phase() == OperationPhase::Failed && message(&refused).contains("armed"), "{refused:?}");
    let dry = carried_out(&world, cleanup(json!({"dryRun": true}))).await;
    let counted = dry.status.clone().unwrap().result.unwrap();
    assert_eq!((counted.tasks, counted.runs, counted.operations), (Some(5), Some(2), Some(2)));
    assert_eq!((world.record.tasks().len(), world.record.runs().len()), (5, 2), "nothing is gone");
    let name = ask(&world, cleanup(json!({"force": true}))).await;
    let done = ended(&world, &name).await;
    assert_eq!(done.phase(), OperationPhase::Succeeded, "{}", message(&done));
    let counted = done.status.clone().unwrap().result.unwrap();
    assert_eq!((counted.tasks, counted.operations), (Some(5), Some(3)));
    world
        .until("nothing is left", PATIENCE, |r| {
            (r.tasks().is_empty() && r.runs().is_empty() && r.pods().is_empty()).then_some(())
        })
        .await;
    assert_eq!(names(&world).await, [name], "all finished Operations but itself");
    assert!(system(&world).await.is_armed(), "the hatch is left as it was");
    let pools: kube::Api<AgentPool> = kube::Api::namespaced(world.client.clone(), &world.name);
    assert_eq!(pools.list(&Default::default()).await.expect("pools").items.len(), 1);
}
