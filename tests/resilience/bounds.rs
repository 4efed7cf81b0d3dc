//! Bounds that span objects: slots, concurrency, areas, dependencies, order (S8, S10, S11).

use std::time::Duration;

use kube::ResourceExt;
use opentiger::crd::{AgentPool, Run, System};
use serde_json::json;

use super::record::{Record, Seen};
use super::world::{PATIENCE, World};

#[tokio::test(flavor = "multi_thread")]
async fn no_run_is_admitted_above_the_slots_while_the_pool_shrinks_grows_pauses_and_comes_back() {
    let system = json!({"dispatch": {"maxConcurrent": 3}});
    let world = World::start_with("slots", system).await;
    let mock = "{outcome: Succeed, delay: 250ms}";
    world.pool("worker", 5, mock).await;
    let _operator = world.operator("one").start().await;
    let count = 160;
    world.backlog(count).await;
    let more = async |few: usize| {
        let reached = world.record.done() + few;
        world.until(&format!("{few} more are done"), PATIENCE, |r| (r.done() >= reached).then_some(())).await;
    };
    more(10).await;
    world.patch::<System>("default", json!({"spec": {"dispatch": {"maxConcurrent": null}}})).await;
    more(15).await;
    world.patch::<AgentPool>("worker", json!({"spec": {"replicas": 1}})).await;
    more(8).await;
    world.patch::<AgentPool>("worker", json!({"spec": {"replicas": 6}})).await;
    more(15).await;
    world.patch::<AgentPool>("worker", json!({"spec": {"suspend": true}})).await;
    world.until("what ran has finished", PATIENCE, |r| r.pods().is_empty().then_some(())).await;
    // Longer than the bounds lag, so that a later admission would be seen.
    tokio::time::sleep(Duration::from_secs(2)).await;
    world.patch::<AgentPool>("worker", json!({"spec": {"suspend": false, "replicas": 4}})).await;
    more(10).await;
    world.delete::<AgentPool>("worker").await;
    world.until("what ran has finished", PATIENCE, |r| r.pods().is_empty().then_some(())).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(world.record.done() < count, "there is work left");
    world.pool("worker", 2, mock).await;
    more(4).await;
    world.patch::<AgentPool>("worker", json!({"spec": {"replicas": 8}})).await;
    world.all_done(count).await;
    for task in world.record.tasks().into_values() {
        assert_eq!(task.status.as_ref().map(|s| (s.attempts, s.retries)), Some((1, Default::default())));
    }
    world.verify();
}

/// Names of the Tasks in the order of their Runs.
fn order(record: &Record) -> Vec<String> {
    let mut order: Vec<String> = Vec::new();
    for entry in record.history() {
        if let Seen::Run(run) = entry.seen
            && !order.contains(&run.spec.task_ref.name)
        {
            order.push(run.spec.task_ref.name.clone());
        }
    }
    order
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_starts_after_its_dependencies_and_one_that_cannot_start_says_why_and_has_no_pod() {
    let world = World::start("dependencies").await;
    world.pool("worker", 4, "{outcome: Succeed, delay: 300ms}").await;
    world.task("second", "{dependencies: [first]}").await;
    world.task("third", "{dependencies: [first, second]}").await;
    world.task("unknown", "{dependencies: [nobody]}").await;
    world.task("egg", "{dependencies: [hen]}").await;
    world.task("hen", "{dependencies: [egg]}").await;
    let operator = world.operator("one").start().await;
    let reason = |record: &Record, task: &str| {
        let status = record.status(task);
        let progressing =
            status.conditions.into_iter().find(|c| c.type_ == "Progressing" && c.status == "False");
        progressing.map(|c| (c.reason, c.message))
    };
    let (unknown, cycle) = world
        .until("those that cannot start say why", PATIENCE, |record| {
            reason(record, "hen")?;
            Some((reason(record, "unknown")?, reason(record, "egg")?))
        })
        .await;
    assert_eq!(unknown.0, "UnknownDependency");
    assert!(unknown.1.contains("nobody"), "{}", unknown.1);
    assert_eq!(cycle.0, "DependencyCycle");
    assert!(cycle.1.contains("hen") && cycle.1.contains("egg"), "{}", cycle.1);
    assert!(world.record.runs().is_empty(), "first is not there yet");
    world.task("first", "{}").await;
    world.all_done(3).await;
    assert_eq!(order(&world.record), ["first", "second", "third"]);
    let warned = operator.proxy.writes().into_iter().any(|w| w.creates("events") && w.succeeded());
    assert!(warned, "what is to be mended in the Task itself is an Event");
    for (before, after) in [("first", "second"), ("second", "third")] {
        let ended = world.record.status(before).transitions.last().map(|t| t.at);
        let started = world.record.status(after).transitions.first().map(|t| t.at);
        assert!(ended <= started, "{after} started at {started:?}, {before} ended at {ended:?}");
    }
    // The way out that the conditions name.
    world.task("nobody", "{}").await;
    world.patch::<opentiger::crd::Task>("egg", json!({"spec": {"dependencies": []}})).await;
    world.all_done(7).await;
    world.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_tasks_of_one_area_never_run_at_once_and_the_more_urgent_goes_first() {
    let world = World::start("areas").await;
    world.pool("worker", 1, "{outcome: Succeed, delay: 100ms}").await;
    for (name, priority) in [("low", -5), ("middle", 0), ("high", 5), ("highest", 9)] {
        world.task(name, &format!("{{priority: {priority}}}")).await;
    }
    let _operator = world.operator("one").start().await;
    world.all_done(4).await;
    assert_eq!(order(&world.record), ["highest", "high", "middle", "low"]);
    // Now there is room, and an area that only one may work in.
    world
        .patch::<AgentPool>(
            "worker",
            json!({"spec": {"replicas": 6, "executor": {"mock": {"delay": "300ms"}}}}),
        )
        .await;
    for n in 1..=6 {
        world.task(&format!("api-{n}"), "{targetArea: api}").await;
        world.task(&format!("docs-{n}"), "{targetArea: docs}").await;
    }
    world.all_done(16).await;
    let both = most_at_once(&world.record);
    assert_eq!(both, 2, "two areas, so two at once and never more");
    world.verify();
}

/// Most Runs with an area that were in progress at one moment.
fn most_at_once(record: &Record) -> usize {
    let (mut open, mut most) = (std::collections::HashSet::new(), 0);
    for entry in record.history() {
        let Seen::Run(run) = entry.seen else { continue };
        if run.spec.target_areas.is_empty() {
            continue;
        }
        let over = |run: &Run| run.status.as_ref().is_some_and(|s| s.phase.is_terminal());
        if entry.deleted || over(&run) {
            open.remove(&run.uid());
        } else {
            open.insert(run.uid());
        }
        most = most.max(open.len());
    }
    most
}
