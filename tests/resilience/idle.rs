//! Nothing to do: nothing is written (S17).

use std::time::{Duration, Instant};

use opentiger::crd::TaskPhase;
use serde_json::json;

use super::support::proxy::Write;
use super::world::{PATIENCE, World};

/// For how long nothing may be written.
const QUIET: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread")]
async fn while_nothing_happens_nothing_is_written_but_the_lease() {
    let world = World::start("idle").await;
    world.pool("worker", 1, "{outcome: Succeed}").await;
    let fails = "{outcome: Fail, failureCode: inputs_too_large, message: only an edit helps}";
    world.pool_with("tester", 1, fails, json!({"role": "Tester"})).await;
    world.task("done", "{}").await;
    world.task("blocked", "{role: Tester}").await;
    world.task("waiting", "{dependencies: [nobody]}").await;
    world.task("no-pool", "{role: Docser}").await;
    let member = world.operator("one").start().await;
    world
        .until("one is done, one blocked, and two say why they wait", PATIENCE, |record| {
            let phases = ["done", "blocked"].map(|name| record.status(name).phase);
            let told = |name: &str| {
                record
                    .status(name)
                    .conditions
                    .iter()
                    .any(|c| c.reason.contains("No") || c.reason.contains("Unknown"))
            };
            let settled = phases == [TaskPhase::Done, TaskPhase::Blocked] && record.pods().is_empty();
            (settled && told("waiting") && told("no-pool")).then_some(())
        })
        .await;
    // The occupancy of pools is the last that follows.
    tokio::time::sleep(opentiger::controller::pool::WRITE_EVERY + Duration::from_secs(2)).await;
    let (quiet, versions) = (Instant::now(), world.record.history().len());
    tokio::time::sleep(QUIET).await;
    let writes: Vec<Write> = member.proxy.writes().into_iter().filter(|w| w.sent > quiet).collect();
    let (leases, others): (Vec<Write>, Vec<Write>) = writes.into_iter().partition(Write::is_lease);
    assert!(others.is_empty(), "{others:#?}");
    assert!(leases.len() >= 3, "the Lease is renewed all the time: {}", leases.len());
    assert_eq!(world.record.history().len(), versions, "no object changed");
    world.verify();
}
