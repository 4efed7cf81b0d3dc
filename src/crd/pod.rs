//! What we keep of a Pod: a slim projection, never the typed object.

use jiff::Timestamp;
use k8s_openapi::api::core::v1 as core;
use kube::ResourceExt;

use super::{labels, run::Purpose};

/// `status.phase` of a Pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PodPhase {
    #[default]
    Pending,
    Running,
    Succeeded,
    Failed,
    Unknown,
}

impl PodPhase {
    /// Whether all its containers have ended for good.
    pub fn is_terminal(self) -> bool {
        match self {
            Self::Succeeded | Self::Failed => true,
            Self::Pending | Self::Running | Self::Unknown => false,
        }
    }
}

/// State of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContainerState {
    Waiting { reason: String, message: String },
    Running { started: Option<Timestamp> },
    Terminated(Box<Terminated>),
}

/// How a container ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terminated {
    pub exit_code: i32,
    pub reason: String,
    /// Termination message.
    pub message: String,
    pub started: Option<Timestamp>,
    pub finished: Option<Timestamp>,
}

/// A container and its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerFacts {
    pub name: String,
    pub state: ContainerState,
}

/// The projection of a Pod of ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodFacts {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub version: u64,
    /// Name of the Run (label).
    pub run: String,
    /// Uid of the owning Run; empty when no Run controls it.
    pub run_uid: String,
    /// Name of the Task (label).
    pub task: String,
    /// Uid of the Task (label).
    pub task_uid: String,
    pub pool: String,
    pub agent: String,
    pub lane: String,
    pub areas: Vec<String>,
    /// What its Run is for (label).
    pub purpose: Purpose,
    pub phase: PodPhase,
    pub created: Option<Timestamp>,
    /// When its deletion was requested.
    pub deleted: Option<Timestamp>,
    /// Grace time of the deletion, seconds.
    pub grace_seconds: i64,
    pub node: String,
    pub reason: String,
    pub message: String,
    /// Condition `DisruptionTarget`: reason and message.
    pub disruption: Option<String>,
    /// Why the scheduler has not placed it.
    pub unschedulable: Option<String>,
    /// Init containers and containers, in order.
    pub containers: Vec<ContainerFacts>,
}

impl PodFacts {
    /// The state of the container of this name.
    pub fn container(&self, name: &str) -> Option<&ContainerState> {
        self.containers.iter().find(|c| c.name == name).map(|c| &c.state)
    }

    /// Whether it may still run something: a Pod that is being deleted counts until it is gone.
    pub fn is_live(&self) -> bool {
        !self.phase.is_terminal()
    }
}

impl From<core::Pod> for PodFacts {
    fn from(pod: core::Pod) -> Self {
        let label = |key: &str| pod.labels().get(key).cloned().unwrap_or_default();
        let (run, task, task_uid, pool) =
            (label(labels::RUN), label(labels::TASK), label(labels::TASK_UID), label(labels::POOL));
        let (agent, lane) = (label(labels::AGENT), label(labels::LANE));
        let purpose = Purpose::from_label(&label(labels::PURPOSE));
        let areas = pod
            .annotations()
            .get(labels::AREAS)
            .map(|text| text.lines().map(str::to_string).collect())
            .unwrap_or_default();
        let run_uid = pod
            .owner_references()
            .iter()
            .find(|o| o.controller == Some(true) && o.kind == "Run")
            .map(|o| o.uid.clone())
            .unwrap_or_default();
        let version = pod.resource_version().and_then(|v| v.parse().ok()).unwrap_or(0);
        let node = pod.spec.as_ref().and_then(|s| s.node_name.clone()).unwrap_or_default();
        let status = pod.status.unwrap_or_default();
        let condition = |type_: &str, value: &str| {
            status.conditions.iter().flatten().find(|c| c.type_ == type_ && c.status == value).map(|c| {
                format!(
                    "{}: {}",
                    c.reason.as_deref().unwrap_or("Unknown"),
                    c.message.as_deref().unwrap_or("")
                )
            })
        };
        let containers = status
            .init_container_statuses
            .iter()
            .flatten()
            .chain(status.container_statuses.iter().flatten())
            .map(container_facts)
            .collect();
        Self {
            namespace: pod.metadata.namespace.unwrap_or_default(),
            name: pod.metadata.name.unwrap_or_default(),
            uid: pod.metadata.uid.unwrap_or_default(),
            version,
            run,
            run_uid,
            task,
            task_uid,
            pool,
            agent,
            lane,
            areas,
            purpose,
            phase: match status.phase.as_deref() {
                Some("Running") => PodPhase::Running,
                Some("Succeeded") => PodPhase::Succeeded,
                Some("Failed") => PodPhase::Failed,
                Some("Unknown") => PodPhase::Unknown,
                _ => PodPhase::Pending,
            },
            created: pod.metadata.creation_timestamp.map(|t| t.0),
            deleted: pod.metadata.deletion_timestamp.map(|t| t.0),
            grace_seconds: pod.metadata.deletion_grace_period_seconds.unwrap_or(30),
            node,
            disruption: condition("DisruptionTarget", "True"),
            unschedulable: condition("PodScheduled", "False"),
            reason: status.reason.unwrap_or_default(),
            message: status.message.unwrap_or_default(),
            containers,
        }
    }
}

fn container_facts(status: &core::ContainerStatus) -> ContainerFacts {
    let state = status.state.clone().unwrap_or_default();
    let state = if let Some(t) = state.terminated {
        ContainerState::Terminated(Box::new(Terminated {
            exit_code: t.exit_code,
            reason: t.reason.unwrap_or_default(),
            message: t.message.unwrap_or_default(),
            started: t.started_at.map(|t| t.0),
            finished: t.finished_at.map(|t| t.0),
        }))
    } else if let Some(r) = state.running {
        ContainerState::Running { started: r.started_at.map(|t| t.0) }
    } else {
        let w = state.waiting.unwrap_or_default();
        ContainerState::Waiting {
            reason: w.reason.unwrap_or_default(),
            message: w.message.unwrap_or_default(),
        }
    };
    ContainerFacts { name: status.name.clone(), state }
}
