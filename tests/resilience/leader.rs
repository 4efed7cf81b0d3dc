//! Two operators, one of which leads (S14, L4).

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::support::proxy::Write;
use super::world::{LEASE, Member, PATIENCE, World};

/// Tasks of the backlog: more than are done before and during the takeover.
const TASKS: usize = 60;

/// Two operators under load, the leader first.
async fn two_operators(prefix: &str) -> (World, Member, Member) {
    let mut world = World::start(prefix).await;
    world.install_policy().await;
    world.pool("worker", 4, "{outcome: Succeed, delay: 300ms}").await;
    let one = world.operator("one").start().await;
    let two = world.operator("two").start().await;
    world.backlog(TASKS).await;
    world
        .until("some Tasks are done", PATIENCE, |record| {
            (record.done() >= 8 && one.leads() != two.leads()).then_some(())
        })
        .await;
    if one.leads() { (world, one, two) } else { (world, two, one) }
}

/// A write that moves the backlog on: a Run, or a Task's state.
fn moves_on(write: &Write) -> bool {
    let task = write.method == "PATCH" && write.path.contains("/tasks/");
    (write.creates("runs") || task) && write.succeeded()
}

/// Every Task ended at the first attempt, whoever led.
async fn every_task_ends_once(world: &World) {
    world.all_done(TASKS).await;
    for (name, task) in world.record.tasks() {
        let status = task.status.clone().unwrap_or_default();
        assert_eq!((status.attempts, status.retries), (1, Default::default()), "{name}: {status:?}");
    }
    world.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_death_of_the_leader_the_other_goes_on_within_the_lease_and_a_second() {
    let (world, leader, other) = two_operators("killed").await;
    assert!(!other.proxy.writes().iter().any(|w| !w.is_lease()), "one that waits writes nothing");
    let killed = Instant::now();
    leader.operator.kill();
    let first =
        world.until("the other goes on", PATIENCE, |_| other.proxy.writes().into_iter().find(moves_on)).await;
    let gap = first.answered.expect("an answer").duration_since(killed);
    println!("the next write came {gap:?} after the kill");
    let most = LEASE + Duration::from_secs(1);
    assert!(gap <= most, "the next write came after {gap:?}: {first:?}\n{}", world.report());
    every_task_ends_once(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_was_paused_and_goes_on_after_the_takeover_creates_nothing_and_ends() {
    let (world, mut leader, other) = two_operators("paused").await;
    leader.proxy.hold_next_create(&["runs", "pods"]);
    world
        .until("a Run and a Pod are on their way", PATIENCE, |_| leader.proxy.holds_all().then_some(()))
        .await;
    leader.operator.signal(Signal::SIGSTOP);
    world
        .until("the other leads", PATIENCE, |_| other.proxy.writes().iter().any(moves_on).then_some(()))
        .await;
    leader.proxy.release();
    let late = |write: &Write| (write.creates("runs") || write.creates("pods")) && !write.succeeded();
    let refused = world
        .until("what was on its way has been answered", PATIENCE, |_| {
            let writes = leader.proxy.writes();
            let answered = writes.iter().all(|w| w.is_lease() || w.answered.is_some());
            answered.then(|| writes.into_iter().filter(late).collect::<Vec<_>>())
        })
        .await;
    assert_eq!(refused.len(), 2, "{refused:#?}");
    for write in &refused {
        assert!(write.status == 422 || write.status == 403, "{write:?}");
        assert!(
            write.message.contains("label opentiger.dev/term is 1 but the term in force is 2"),
            "{write:?}"
        );
    }
    let resumed = Instant::now();
    leader.operator.signal(Signal::SIGCONT);
    world.until("the old leader ends", PATIENCE, |_| leader.operator.ended().map(|_| ())).await;
    println!("the old leader ended {:?} after it went on", resumed.elapsed());
    let writes = leader.proxy.writes();
    let after: Vec<&Write> = writes.iter().filter(|w| w.sent > resumed && !w.is_lease()).collect();
    println!("it sent {} writes meanwhile", after.len());
    // What it knows too late can only be a status that nobody has changed since, fenced by its version,
    // or an ended Pod that it removes by its uid.
    let fenced = |w: &Write| w.path.ends_with("/status") || w.method == "DELETE";
    let harmful: Vec<&&Write> = after.iter().filter(|w| w.succeeded() && !fenced(w)).collect();
    assert!(harmful.is_empty(), "the old leader changed something: {harmful:#?}");
    every_task_ends_once(&world).await;
}
