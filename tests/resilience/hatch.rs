//! The runtime hatch closed and opened under load (S12, design rule 9).

use std::time::{Duration, Instant};

use opentiger::crd::{RunPhase, System, TaskPhase};
use serde_json::json;

use super::world::{PATIENCE, World};

const TASKS: usize = 30;

fn hatch(state: &str) -> serde_json::Value {
    json!({"spec": {"runtimeHatch": state}})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_hatch_starts_nothing_lets_what_runs_finish_and_gives_back_what_was_not_begun() {
    let mut world = World::start("hatch").await;
    world.install_policy().await;
    world.pool("worker", 4, "{outcome: Succeed, delay: 400ms}").await;
    let member = world.operator("one").start().await;
    world.backlog(TASKS).await;
    world.until("some Tasks are done", PATIENCE, |record| (record.done() >= 6).then_some(())).await;
    // One Run is admitted and its Pod on its way when the hatch closes.
    member.proxy.hold_next_create(&["pods"]);
    world.until("a Pod is on its way", PATIENCE, |_| member.proxy.holds_all().then_some(())).await;
    world.patch::<System>("default", hatch("Disarmed")).await;
    let closed = Instant::now();
    tokio::time::sleep(Duration::from_secs(1)).await;
    // Others that were on their way as well have been answered by now.
    let held = member.proxy.writes().into_iter().rfind(|w| w.creates("pods") && w.answered.is_none());
    let held = held.expect("the Pod on its way").name;
    member.proxy.release();
    world
        .until("what ran has finished, and the Run without a Pod is cancelled", PATIENCE, |record| {
            let cancelled = record.runs().get(&held)?.status.as_ref()?.phase == RunPhase::Cancelled;
            let still = record
                .tasks()
                .values()
                .any(|t| t.status.as_ref().is_some_and(|s| s.phase == TaskPhase::Running));
            (cancelled && !still && record.pods().is_empty()).then_some(())
        })
        .await;
    // Long enough for a retry of whatever was refused.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let late = |resource: &str| {
        let writes = member.proxy.writes().into_iter();
        let late = writes.filter(|w| w.creates(resource) && w.succeeded());
        late.filter(|w| w.answered.is_some_and(|at| at > closed + Duration::from_secs(1))).collect::<Vec<_>>()
    };
    assert!(late("pods").is_empty() && late("runs").is_empty(), "{:?} {:?}", late("pods"), late("runs"));
    for run in world.record.runs().into_values() {
        let status = run.status.clone().unwrap_or_default();
        assert!(matches!(status.phase, RunPhase::Success | RunPhase::Cancelled), "{status:?}");
    }
    let waiting: Vec<_> = world.record.tasks().into_values().filter_map(|t| t.status.clone()).collect();
    assert!(waiting.iter().any(|s| s.phase == TaskPhase::Queued), "there is work left");
    for status in &waiting {
        assert!(matches!(status.phase, TaskPhase::Queued | TaskPhase::Done), "{status:?}");
        assert_eq!(status.retries, Default::default(), "a closed hatch costs nothing: {status:?}");
    }
    world
        .until("a waiting Task says that the hatch is closed", PATIENCE, |record| {
            let mut waiting = record.tasks().into_values().filter_map(|t| t.status.clone()?.next);
            waiting.any(|next| next.detail.contains("hatch")).then_some(())
        })
        .await;
    let events = member.proxy.writes().into_iter().filter(|w| w.creates("events")).count();
    assert_eq!(events, 0, "what all Tasks wait for is no Event of each");
    world.patch::<System>("default", hatch("Armed")).await;
    world.all_done(TASKS).await;
    for task in world.record.tasks().into_values() {
        let status = task.status.clone().unwrap_or_default();
        let runs = world.record.runs();
        let cancelled = runs.values().filter(|r| {
            r.spec.task_ref.name == task.metadata.name.clone().unwrap_or_default()
                && r.status.as_ref().is_some_and(|s| s.phase == RunPhase::Cancelled)
        });
        assert_eq!(status.attempts as usize, 1 + cancelled.count(), "{status:?}");
        assert_eq!(status.retries, Default::default(), "{status:?}");
    }
    world.verify();
}
