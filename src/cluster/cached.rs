//! How our kinds and Pods are kept in a store.

use kube::ResourceExt;

use super::store::{Cached, Key};
use crate::crd::run::RunTemplate;
use crate::crd::{AgentPool, Operation, PodFacts, Run, System, Task, labels};

/// What is the same of every kind: where its identity stands.
macro_rules! by_metadata {
    () => {
        fn key(&self) -> Key {
            Key::new(self.namespace().unwrap_or_default(), self.name_any())
        }
        fn uid(&self) -> &str {
            self.metadata.uid.as_deref().unwrap_or_default()
        }
        fn version(&self) -> u64 {
            self.metadata.resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0)
        }
    };
}

impl Cached for Task {
    by_metadata!();

    /// By the uid of the Task that it carries on or follows up.
    fn index(&self) -> Option<&str> {
        self.metadata.labels.as_ref()?.get(labels::PARENT_UID).map(String::as_str)
    }
    /// An ended Task is kept for its name, its labels and its phase only (dependencies refer to it, and
    /// the planner to the plan that it belongs to).
    fn slim(&mut self) {
        self.metadata.managed_fields = None;
        if !self.status.as_ref().is_some_and(|s| s.phase.is_terminal()) {
            return;
        }
        let cancel = self.spec.cancel;
        self.spec = crate::crd::TaskSpec { cancel, ..Default::default() };
        if let Some(annotations) = self.metadata.annotations.as_mut() {
            annotations.retain(|key, _| key == labels::PLAN_SIGNATURE);
        }
        if let Some(status) = self.status.as_mut() {
            status.transitions = Vec::new();
            status.conditions = Vec::new();
            status.last_failure = None;
        }
    }
}

impl Cached for Run {
    by_metadata!();

    /// By the uid of the Task.
    fn index(&self) -> Option<&str> {
        Some(&self.spec.task_ref.uid)
    }
    /// An ended Run no longer needs the inputs and the template of its Pod, but for the credential:
    /// what it found out about that one's limit holds for all.
    fn slim(&mut self) {
        self.metadata.managed_fields = None;
        if self.status.as_ref().is_some_and(|s| s.phase.is_terminal()) {
            self.spec.inputs = Default::default();
            let credentials_secret_ref = self.spec.template.credential().cloned();
            self.spec.template = RunTemplate { credentials_secret_ref, ..Default::default() };
            self.metadata.annotations = None;
        }
    }
}

impl Cached for AgentPool {
    by_metadata!();

    /// By namespace: there are few.
    fn index(&self) -> Option<&str> {
        self.metadata.namespace.as_deref()
    }
    fn slim(&mut self) {
        self.metadata.managed_fields = None;
    }
}

impl Cached for System {
    by_metadata!();

    fn index(&self) -> Option<&str> {
        None
    }
    fn slim(&mut self) {
        self.metadata.managed_fields = None;
    }
}

impl Cached for Operation {
    by_metadata!();

    /// By namespace while it is not over: these are few, however many are kept.
    fn index(&self) -> Option<&str> {
        self.metadata.namespace.as_deref().filter(|_| !self.phase().is_terminal())
    }
    fn slim(&mut self) {
        self.metadata.managed_fields = None;
    }
}

impl Cached for PodFacts {
    fn key(&self) -> Key {
        Key::new(&self.namespace, &self.name)
    }
    fn uid(&self) -> &str {
        &self.uid
    }
    fn version(&self) -> u64 {
        self.version
    }
    /// By the uid of the Task.
    fn index(&self) -> Option<&str> {
        Some(&self.task_uid)
    }
    fn slim(&mut self) {}
}
