//! The operator is killed at every request that changes something while a StopAll is carried out, in
//! each position, and another takes over: the Operation ends in the same state (S13).

use futures::StreamExt;
use opentiger::crd::{HatchState, OperationPhase, RunPhase, TaskPhase};
use serde_json::json;

use super::requests::{ask, ended, message, system};
use super::support::proxy::Position;
use super::world::{PATIENCE, World};

/// Cases that run at once.
const PARALLEL: usize = 6;

/// Plays one case in a namespace of its own; `None`: nobody is killed. Returns the requests that the
/// first operator sent for the Operation.
async fn play(kill: Option<(usize, Position)>) -> Vec<String> {
    let world = World::start("killed").await;
    world.pool("worker", 2, "{outcome: Succeed, delay: 10m}").await;
    let member = world.operator("one").start().await;
    world.backlog(2).await;
    world
        .until("two run, and that has been noted", PATIENCE, |record| {
            let running = |p: &k8s_openapi::api::core::v1::Pod| {
                p.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running")
            };
            let claimed = record
                .tasks()
                .values()
                .all(|t| t.status.as_ref().is_some_and(|s| s.phase == TaskPhase::Running));
            (claimed && record.pods().values().filter(|p| running(p)).count() == 2).then_some(())
        })
        .await;
    let before = member.proxy.mutations().len();
    if let Some((n, position)) = kill {
        member.proxy.kill_at(member.operator.pid(), before + n, position);
    }
    let name = ask(&world, json!({"type": "StopAll"})).await;
    let mut second = None;
    if kill.is_some() {
        // What it says of its progress may be one request more or less: then it is killed at the end.
        tokio::select! {
            () = member.proxy.killed() => {}
            _ = ended(&world, &name) => {}
        }
        member.operator.kill();
        let next = world.operator("two").start().await;
        world.until("another has taken over", PATIENCE, |_| next.leads().then_some(())).await;
        second = Some(next);
    }
    let stopped = ended(&world, &name).await;
    assert_eq!(stopped.phase(), OperationPhase::Succeeded, "{}", message(&stopped));
    let result = stopped.status.clone().unwrap().result.unwrap();
    assert_eq!((result.cancelled_runs, result.requeued_tasks), (Some(2), Some(2)));
    world.until("no Pod is left", PATIENCE, |r| r.pods().is_empty().then_some(())).await;
    for run in world.record.runs().into_values() {
        assert_eq!(run.status.clone().unwrap_or_default().phase, RunPhase::Cancelled);
    }
    for task in world.record.tasks().into_values() {
        let status = task.status.clone().unwrap_or_default();
        assert_eq!((status.phase, status.attempts), (TaskPhase::Queued, 1), "{status:?}");
        assert_eq!((status.retries, status.retry_at), Default::default(), "{status:?}");
    }
    let latched = system(&world).await.status.unwrap();
    assert_eq!((latched.hatch.state, latched.stopped.len()), (HatchState::Disarmed, 4));
    let by_it = latched.hatch.history.iter().filter(|c| Some(&c.operation) == stopped.metadata.uid.as_ref());
    assert_eq!(by_it.count(), 1, "disarmed once: {:?}", latched.hatch.history);
    world.verify();
    drop(second);
    member.proxy.mutations().split_off(before)
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_all_killed_at_any_request_and_taken_over_ends_in_the_same_state() {
    let requests = play(None).await;
    println!("{} requests: {requests:#?}", requests.len());
    assert!(requests.len() >= 8, "{requests:#?}");
    survives_every_kill(&requests, |n, position| play(Some((n, position)))).await;
}

/// Plays the same with the operator killed at each of these requests, in each position.
pub async fn survives_every_kill<F>(requests: &[String], play: impl Fn(usize, Position) -> F)
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    let positions = [Position::Before, Position::ReplyLost, Position::After];
    let cases = (1..=requests.len()).flat_map(|n| positions.map(|position| (n, position)));
    let failures: Vec<String> = futures::stream::iter(cases)
        .map(|(n, position)| {
            let played = tokio::spawn(play(n, position));
            async move { played.await.err().map(|_| format!("killed {position:?} request {n}, see above")) }
        })
        .buffer_unordered(PARALLEL)
        .filter_map(async |failure| failure)
        .collect()
        .await;
    assert!(failures.is_empty(), "{}\nof {requests:#?}", failures.join("\n"));
}
