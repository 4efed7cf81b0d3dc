//! Replan on a control plane: one plan, whoever is killed when, and nothing of a refused one.

use std::sync::Arc;

use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use opentiger::crd::pool::Role;
use opentiger::crd::{OperationPhase, System, Task, labels};
use serde_json::json;

use super::killed::survives_every_kill;
use super::requests::{ask, carried_out, command, ended, get, message, says, system};
use super::support::cluster::eventually;
use super::support::proxy::Position;
use super::world::{PATIENCE, World};

async fn planner() -> World {
    let planner = json!({"enabled": true, "autoReplan": false, "requirement": "# Goal\n\nShip it\n"});
    World::start_with("replan", json!({"planner": planner})).await
}

fn plans(world: &World) -> Vec<Arc<Task>> {
    world.record.tasks().into_values().filter(|task| task.spec.role == Role::Planner).collect()
}

/// Plays one case in a namespace of its own; `None`: nobody is killed. Returns the requests that the
/// first operator sent for the Operation.
async fn play(kill: Option<(usize, Position)>) -> Vec<String> {
    let world = planner().await;
    let member = world.operator("one").start().await;
    carried_out(&world, json!({"type": "Stop", "target": "planner"})).await;
    let before = member.proxy.mutations().len();
    if let Some((n, position)) = kill {
        member.proxy.kill_at(member.operator.pid(), before + n, position);
    }
    let name = ask(&world, json!({"type": "Replan"})).await;
    let mut second = None;
    if kill.is_some() {
        tokio::select! {
            () = member.proxy.killed() => {}
            _ = ended(&world, &name) => {}
        }
        member.operator.kill();
        let next = world.operator("two").start().await;
        world.until("another has taken over", PATIENCE, |_| next.leads().then_some(())).await;
        second = Some(next);
    }
    let operation = ended(&world, &name).await;
    assert_eq!(operation.phase(), OperationPhase::Succeeded, "{}", message(&operation));
    let task = operation.status.clone().unwrap().result.unwrap().task.expect("a name");
    let latched = eventually("the planner notes its Task", || async {
        let status = system(&world).await.status?;
        (status.planner.as_ref()?.current == task).then_some(status)
    })
    .await;
    assert!(!latched.stopped.contains(&"planner".to_owned()), "{:?}", latched.stopped);
    let plans = plans(&world);
    assert_eq!(plans.iter().map(|plan| plan.name_any()).collect::<Vec<_>>(), [task]);
    assert_eq!(plans[0].labels().get(labels::OPERATION), operation.metadata.uid.as_ref());
    world.verify();
    drop(second);
    member.proxy.mutations().split_off(before)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replan_asked_for_right_after_an_edit_plans_what_was_edited() {
    let world = planner().await;
    let member = world.operator("one").start().await;
    carried_out(&world, json!({"type": "Stop", "target": "planner"})).await;
    member.proxy.hold_watches("systems");
    let edit = json!({"spec": {"planner": {"requirement": "# Goal\n\nShip the other\n"}}});
    let systems: Api<System> = Api::namespaced(world.client.clone(), &world.name);
    systems.patch("default", &PatchParams::default(), &Patch::Merge(edit)).await.expect("edited");
    let name = ask(&world, json!({"type": "Replan"})).await;
    eventually("it is decided on", || async {
        get(&world, &name).await.filter(|operation| !operation.is_new())
    })
    .await;
    member.proxy.release();
    let ended = ended(&world, &name).await;
    assert_eq!(ended.phase(), OperationPhase::Succeeded, "{}", message(&ended));
    let planned = plans(&world).first().map(|plan| plan.spec.goal.clone()).expect("a plan");
    assert!(planned.contains("Ship the other"), "{planned}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replan_killed_at_any_request_and_taken_over_makes_one_plan() {
    let requests = play(None).await;
    println!("{} requests: {requests:#?}", requests.len());
    assert!(requests.len() >= 4, "{requests:#?}");
    survives_every_kill(&requests, |n, position| play(Some((n, position)))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_refuses_a_replan_and_the_command_starts_a_stopped_planner_all_the_same() {
    let world = planner().await;
    let _member = world.operator("one").start().await;
    world.backlog(1).await;
    let refused = carried_out(&world, json!({"type": "Replan"})).await;
    assert_eq!(refused.phase(), OperationPhase::Failed);
    let backlog = refused.status.clone().unwrap().result.unwrap().backlog.expect("counts");
    assert_eq!((backlog.queued_tasks, backlog.failed_tasks), (1, 0), "{}", message(&refused));
    let output = command(&world, &["start", "planner"]);
    assert!(!output.status.success(), "nothing was stopped and nothing is planned");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("there is a backlog: 1 Tasks Queued"), "{text}");
    says(&world, &["stop", "planner"]);
    let text = says(&world, &["start", "planner"]);
    assert!(text.contains("planner is started") && text.contains("no plan is made now"), "{text}");
    assert!(!system(&world).await.is_stopped("planner"));
    world.delete::<Task>("t-1").await;
    world.until("the backlog is empty", PATIENCE, |r| r.tasks().is_empty().then_some(())).await;
    let text = says(&world, &["start", "planner"]);
    assert!(text.contains(" plans"), "{text}");
    assert_eq!(plans(&world).len(), 1);
}
