//! Pods that vanish, cannot start or are refused: each leads to a stated next step at no cost.

use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Node, Pod, ResourceQuota};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use opentiger::crd::{AgentPool, NextKind, TaskPhase, TaskStatus};
use serde_json::{Value, json};

use super::record::Record;
use super::world::{PATIENCE, World};

/// The Task `fix` has ended after a fault of the cluster, at no cost.
async fn ends_done_at_no_cost(world: &World) {
    world.all_done(1).await;
    let status = world.record.status("fix");
    let retries = status.retries;
    assert_eq!((status.attempts, retries.failure, retries.quota, retries.infra), (2, 0, 0, 1), "{status:?}");
    let phases: Vec<TaskPhase> = status.transitions.iter().map(|t| t.phase).collect();
    assert_eq!(phases, [TaskPhase::Running, TaskPhase::Queued, TaskPhase::Running, TaskPhase::Done]);
    world.verify();
}

/// The Task `fix` once it is queued again, which says when it is tried again.
async fn requeued(world: &World, within: Duration) -> TaskStatus {
    let status = world
        .until("the Task is queued again", within, |record| {
            let mut all = record.statuses("fix").into_iter();
            all.find(|status| status.phase == TaskPhase::Queued && status.attempts == 1)
        })
        .await;
    let next = status.next.clone().expect("a next step");
    assert_eq!(next.kind, NextKind::Time, "{next:?}");
    assert!(next.at.is_some() && next.detail.contains("at no cost"), "{next:?}");
    status
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

/// The one Pod, once it runs.
fn running_pod(record: &Record) -> Option<Arc<Pod>> {
    record.pods().into_values().find(|pod| phase(pod) == "Running")
}

/// The sentence about what moves a Task next.
fn detail(status: &TaskStatus) -> String {
    status.next.as_ref().map(|next| next.detail.clone()).unwrap_or_default()
}

fn succeed() -> Value {
    json!({"spec": {"executor": {"mock": {"outcome": "Succeed"}}}})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_deleted_by_hand_costs_its_task_no_attempt() {
    let world = World::start("deleted").await;
    world.pool("worker", 1, "{outcome: Hang}").await;
    world.task("fix", "{}").await;
    let _operator = world.operator("one").start().await;
    let pod = world.until("the Pod runs", PATIENCE, running_pod).await;
    world.patch::<AgentPool>("worker", succeed()).await;
    world.delete::<Pod>(&pod.name_any()).await;
    let status = requeued(&world, PATIENCE).await;
    assert_eq!(status.last_failure.map(|f| f.class).as_deref(), Some("infra"));
    ends_done_at_no_cost(&world).await;
}

/// A Node without a kubelet, which nobody simulates; deleted when this value goes away.
struct DeadNode {
    api: Api<Node>,
    name: String,
}

impl DeadNode {
    /// Creates the Node; it looks ready at first.
    async fn create(world: &World) -> Self {
        let (api, name) = (Api::<Node>::all(world.client.clone()), format!("dead-{}", world.name));
        let room = json!({"cpu": "100", "memory": "100Gi", "pods": "100", "ephemeral-storage": "1Ti"});
        let node = json!({"metadata": {"name": name, "labels": {"opentiger.dev/test-node": name}},
            "status": {"capacity": room, "allocatable": room,
                "conditions": [{"type": "Ready", "status": "True"}]}});
        let node: Node = serde_json::from_value(node).expect("a Node");
        api.create(&PostParams::default(), &node).await.expect("a Node");
        Self { api, name }
    }

    /// Its machine is gone, and an administrator says so.
    async fn out_of_service(&self) {
        let gone = json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}});
        let params = PatchParams::default();
        self.api.patch_status(&self.name, &params, &Patch::Strategic(&gone)).await.expect("accepted");
        let taint = json!({"spec": {"taints": [
            {"key": "node.kubernetes.io/out-of-service", "value": "nodeshutdown", "effect": "NoExecute"}]}});
        self.api.patch(&self.name, &params, &Patch::Merge(&taint)).await.expect("accepted");
    }
}

impl Drop for DeadNode {
    fn drop(&mut self) {
        let name = self.name.clone();
        let deleted = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let api: Api<Node> = Api::all(super::support::cluster::client().await);
                drop(api.delete(&name, &DeleteParams::default()).await);
            });
        });
        drop(deleted.join());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_whose_node_is_lost_waits_until_its_pod_is_gone_and_then_goes_on_at_no_cost() {
    let world = World::start("node").await;
    let node = DeadNode::create(&world).await;
    let there = json!({"nodeSelector": {"opentiger.dev/test-node": node.name}, "tolerations": [{"operator": "Exists"}]});
    world.pool_with("worker", 1, "{outcome: Succeed}", there).await;
    world.task("fix", "{}").await;
    let _operator = world.operator("one").start().await;
    let pod = world
        .until("the Pod is bound", PATIENCE, |record| {
            let bound = |pod: &Arc<Pod>| pod.spec.as_ref().and_then(|s| s.node_name.clone()).is_some();
            record.pods().into_values().find(bound)
        })
        .await;
    let name = pod.name_any();
    let running = |container: &str| {
        json!({"name": container, "image": "a", "imageID": "", "ready": true, "restartCount": 0,
            "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}})
    };
    let status = json!({"phase": "Running", "containerStatuses": [running("agent"), running("publish")]});
    world.patch_status::<Pod>(&name, status).await;
    world.until("the Pod runs", PATIENCE, running_pod).await;
    world.patch::<AgentPool>("worker", json!({"spec": {"nodeSelector": null}})).await;
    // What the eviction of a lost node does; its kubelet does not answer.
    world.delete_pod(&name, 1).await;
    let deleted = Instant::now();
    let told = world
        .until("the Task says that the node does not answer", PATIENCE, |record| {
            let status = record.status("fix");
            assert_eq!(status.attempts, 1, "no replacement while the Pod may still run");
            detail(&status).contains(&node.name).then_some(status)
        })
        .await;
    println!("told after {:?}: {}", deleted.elapsed(), detail(&told));
    assert!(detail(&told).contains("out-of-service"), "it says what a person can do: {}", detail(&told));
    assert_eq!(world.record.pods().len(), 1);
    node.out_of_service().await;
    requeued(&world, PATIENCE).await;
    ends_done_at_no_cost(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_does_not_exist_is_named_and_given_up_at_no_cost() {
    let system = json!({"recovery": {"startupTimeout": "16s"}});
    let world = World::start_with("image", system).await;
    world.pool_with("worker", 1, "{outcome: Succeed}", json!({"image": "absent:test"})).await;
    world.task("fix", "{}").await;
    let _operator = world.operator("one").start().await;
    let told = world
        .until("the Task says why it does not start", PATIENCE, |record| {
            let status = record.status("fix");
            assert!(status.attempts <= 1, "given up without a word: {status:?}");
            detail(&status).contains("ImagePullBackOff").then_some(status)
        })
        .await;
    assert_eq!(told.phase, TaskPhase::Running);
    world.patch::<AgentPool>("worker", json!({"spec": {"image": "agent:test"}})).await;
    let status = requeued(&world, PATIENCE).await;
    assert!(detail(&status).contains("ImagePullBackOff"), "it still says why: {}", detail(&status));
    ends_done_at_no_cost(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_says_that_the_quota_of_the_namespace_is_reached_and_goes_on_once_there_is_room() {
    let world = World::start("quota").await;
    let hard = json!({"hard": {"pods": "1"}});
    world.create::<ResourceQuota>("ResourceQuota", "few", hard).await;
    let quotas: Api<ResourceQuota> = Api::namespaced(world.client.clone(), &world.name);
    super::support::cluster::eventually("the quota is in force", || async {
        quotas.get("few").await.ok()?.status?.hard.map(|_| ())
    })
    .await;
    world.pool("worker", 2, "{outcome: Succeed, delay: 10m}").await;
    world.backlog(2).await;
    let _operator = world.operator("one").start().await;
    let told = world
        .until("a Task names the quota", PATIENCE, |record| {
            let tasks = record.tasks();
            let status = tasks.into_values().filter_map(|t| t.status.clone());
            status.into_iter().find(|s| detail(s).contains("exceeded quota: few"))
        })
        .await;
    let progressing = told.conditions.iter().find(|c| c.type_ == "Progressing").expect("a condition");
    assert_eq!((progressing.status.as_str(), progressing.reason.as_str()), ("False", "PodRefused"));
    assert_eq!(world.record.pods().len(), 1);
    world.finish_pod(&world.record.pods().into_keys().next().expect("a Pod")).await;
    let second = world
        .until("the other runs", PATIENCE, |record| {
            let pods = record.pods();
            pods.into_iter().find(|(name, pod)| *name == told.current_run && phase(pod) == "Running")
        })
        .await;
    world.finish_pod(&second.0).await;
    world.all_done(2).await;
    for task in world.record.tasks().into_values() {
        let status = task.status.clone().unwrap_or_default();
        assert_eq!((status.attempts, status.retries), (1, Default::default()), "{status:?}");
    }
    world.verify();
}
