//! Objects decoded without what nobody here reads: `managedFields`, and of Pods all but the node and
//! the parts of the status that [`crate::crd::PodFacts`] keeps.
//!
//! `managedFields` alone is more than half of an answer of the API server and is decoded into a tree
//! of maps; skipping it saves about a quarter of the operator's CPU time (make bench).

use std::borrow::Cow;
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod, PodCondition, PodSpec, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use kube::Resource;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};

use crate::crd::{AgentPool, Operation, Run, System, Task};

/// A kind that is put together from the decoded parts.
pub trait FromParts: Sized {
    /// What is decoded of `spec`.
    type Spec: DeserializeOwned;
    /// What is decoded of `status`.
    type Status: DeserializeOwned;
    /// The object.
    fn from_parts(metadata: ObjectMeta, spec: Self::Spec, status: Option<Self::Status>) -> Self;
}

/// `K`, decoded as described in the module.
#[derive(Clone, Debug)]
pub struct Lean<K>(pub K);

impl<'de, K: FromParts> Deserialize<'de> for Lean<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let parts = Parts::<K::Spec, K::Status>::deserialize(deserializer)?;
        Ok(Self(K::from_parts(parts.metadata.into(), parts.spec, parts.status)))
    }
}

impl<K: Resource> Resource for Lean<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(dt: &Self::DynamicType) -> Cow<'_, str> {
        K::kind(dt)
    }
    fn group(dt: &Self::DynamicType) -> Cow<'_, str> {
        K::group(dt)
    }
    fn version(dt: &Self::DynamicType) -> Cow<'_, str> {
        K::version(dt)
    }
    fn plural(dt: &Self::DynamicType) -> Cow<'_, str> {
        K::plural(dt)
    }
    fn meta(&self) -> &ObjectMeta {
        self.0.meta()
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.0.meta_mut()
    }
}

#[derive(Deserialize)]
struct Parts<S, T> {
    metadata: Metadata,
    spec: S,
    // A generic field has no default without this.
    #[serde(default = "absent")]
    status: Option<T>,
}

fn absent<T>() -> Option<T> {
    None
}

/// ObjectMeta without `managedFields`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    annotations: Option<BTreeMap<String, String>>,
    creation_timestamp: Option<Time>,
    deletion_grace_period_seconds: Option<i64>,
    deletion_timestamp: Option<Time>,
    finalizers: Option<Vec<String>>,
    generate_name: Option<String>,
    generation: Option<i64>,
    labels: Option<BTreeMap<String, String>>,
    name: Option<String>,
    namespace: Option<String>,
    owner_references: Option<Vec<OwnerReference>>,
    resource_version: Option<String>,
    uid: Option<String>,
}

impl From<Metadata> for ObjectMeta {
    fn from(m: Metadata) -> Self {
        Self {
            annotations: m.annotations,
            creation_timestamp: m.creation_timestamp,
            deletion_grace_period_seconds: m.deletion_grace_period_seconds,
            deletion_timestamp: m.deletion_timestamp,
            finalizers: m.finalizers,
            generate_name: m.generate_name,
            generation: m.generation,
            labels: m.labels,
            managed_fields: None,
            name: m.name,
            namespace: m.namespace,
            owner_references: m.owner_references,
            resource_version: m.resource_version,
            self_link: None,
            uid: m.uid,
        }
    }
}

macro_rules! whole {
    ($kind:ty, $spec:ty, $status:ty) => {
        impl FromParts for $kind {
            type Spec = $spec;
            type Status = $status;
            fn from_parts(metadata: ObjectMeta, spec: $spec, status: Option<$status>) -> Self {
                Self { metadata, spec, status }
            }
        }
    };
}
whole!(Task, crate::crd::TaskSpec, crate::crd::TaskStatus);
whole!(Run, crate::crd::RunSpec, crate::crd::RunStatus);
whole!(AgentPool, crate::crd::AgentPoolSpec, crate::crd::AgentPoolStatus);
whole!(Operation, crate::crd::OperationSpec, crate::crd::OperationStatus);
whole!(System, crate::crd::SystemSpec, crate::crd::SystemStatus);

/// What is read of a Pod's spec.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodPlace {
    node_name: Option<String>,
}

/// What is read of a Pod's status.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodState {
    conditions: Option<Vec<PodCondition>>,
    container_statuses: Option<Vec<Container>>,
    init_container_statuses: Option<Vec<Container>>,
    message: Option<String>,
    phase: Option<String>,
    reason: Option<String>,
}

#[derive(Deserialize)]
struct Container {
    name: String,
    state: Option<ContainerState>,
}

impl FromParts for Pod {
    type Spec = PodPlace;
    type Status = PodState;
    fn from_parts(metadata: ObjectMeta, spec: PodPlace, status: Option<PodState>) -> Self {
        let status = status.map(|s| PodStatus {
            conditions: s.conditions,
            container_statuses: s.container_statuses.map(statuses),
            init_container_statuses: s.init_container_statuses.map(statuses),
            message: s.message,
            phase: s.phase,
            reason: s.reason,
            ..PodStatus::default()
        });
        Self { metadata, spec: Some(PodSpec { node_name: spec.node_name, ..PodSpec::default() }), status }
    }
}

fn statuses(containers: Vec<Container>) -> Vec<ContainerStatus> {
    let status =
        |c: Container| ContainerStatus { name: c.name, state: c.state, ..ContainerStatus::default() };
    containers.into_iter().map(status).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::crd::PodFacts;

    fn both<K: FromParts + DeserializeOwned>(object: serde_json::Value) -> (Lean<K>, K) {
        (serde_json::from_value(object.clone()).unwrap(), serde_json::from_value(object).unwrap())
    }

    #[test]
    fn a_pod_decoded_lean_gives_the_same_facts() {
        let (lean, whole) = both::<Pod>(json!({
            "metadata": {
                "name": "a-r1", "namespace": "ns", "uid": "u1", "resourceVersion": "7",
                "creationTimestamp": "2026-01-01T00:00:00Z", "deletionTimestamp": "2026-01-01T00:01:00Z",
                "deletionGracePeriodSeconds": 12,
                "labels": {"opentiger.dev/run": "a-r1", "opentiger.dev/task": "a", "opentiger.dev/task-uid": "t1",
                           "opentiger.dev/pool": "worker", "opentiger.dev/agent": "worker-1", "opentiger.dev/lane": "feature"},
                "annotations": {"opentiger.dev/areas": "path:src\npath:docs"},
                "ownerReferences": [{"apiVersion": "opentiger.dev/v1alpha1", "kind": "Run", "name": "a-r1", "uid": "r1", "controller": true}],
                "managedFields": [{"manager": "opentiger", "operation": "Update", "fieldsType": "FieldsV1", "fieldsV1": {"f:metadata": {}}}],
            },
            "spec": {"nodeName": "n1", "containers": [{"name": "agent", "image": "i"}]},
            "status": {
                "phase": "Failed", "reason": "Evicted", "message": "gone",
                "conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": "m"},
                               {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "none fits"}],
                "initContainerStatuses": [{"name": "checkout", "image": "i", "imageID": "", "ready": true, "restartCount": 0,
                    "state": {"terminated": {"exitCode": 0, "reason": "Completed", "startedAt": "2026-01-01T00:00:01Z", "finishedAt": "2026-01-01T00:00:02Z"}}}],
                "containerStatuses": [
                    {"name": "agent", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": {"waiting": {"reason": "ErrImagePull", "message": "no"}}},
                    {"name": "publish", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
                     "state": {"terminated": {"exitCode": 3, "message": "{}"}}}],
            },
        }));
        assert_eq!(PodFacts::from(lean.0), PodFacts::from(whole));
    }

    #[test]
    fn a_task_decoded_lean_lacks_nothing_but_managed_fields() {
        let (lean, mut whole) = both::<Task>(json!({
            "apiVersion": "opentiger.dev/v1alpha1", "kind": "Task",
            "metadata": {
                "name": "a", "namespace": "ns", "uid": "u1", "resourceVersion": "7", "generation": 2, "generateName": "x-",
                "creationTimestamp": "2026-01-01T00:00:00Z", "deletionTimestamp": "2026-01-01T00:01:00Z",
                "deletionGracePeriodSeconds": 0, "labels": {"a": "b"}, "annotations": {"c": "d"}, "finalizers": ["f"],
                "ownerReferences": [{"apiVersion": "v1", "kind": "K", "name": "n", "uid": "o1"}],
                "managedFields": [{"manager": "kubectl"}],
            },
            "spec": {"title": "t", "goal": "g", "role": "Worker", "kind": "code", "timebox": "1h", "priority": 3, "riskLevel": "Low"},
            "status": {"phase": "Running", "attempts": 1, "currentRun": "a-r1"},
        }));
        whole.metadata.managed_fields = None;
        assert_eq!(lean.0, whole);
    }
}
