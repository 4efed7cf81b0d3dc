//! Kubernetes Events, for warnings and operations only: transitions are in status and Postgres (conventions, rule
//! 13). Best effort: an Event that cannot be written is logged and forgotten.

use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource};

/// Publishes warnings about objects, and the ends of Operations.
#[derive(Clone)]
pub struct Events {
    recorder: Recorder,
}

impl Events {
    /// Events of this replica.
    pub fn new(client: Client, instance: &str) -> Self {
        let reporter =
            Reporter { controller: "opentiger.dev/operator".into(), instance: Some(instance.to_string()) };
        Self { recorder: Recorder::new(client, reporter) }
    }

    /// Warns about `object` without waiting for the answer. `reason` is the CamelCase word that the
    /// object's condition has too, `note` one sentence.
    pub fn warn<K: Resource<DynamicType = ()>>(&self, object: &K, reason: &str, note: &str) {
        self.publish(object, EventType::Warning, reason, note);
    }

    /// Says that an Operation has had its effect; as [`Self::warn`].
    pub fn note<K: Resource<DynamicType = ()>>(&self, object: &K, reason: &str, note: &str) {
        self.publish(object, EventType::Normal, reason, note);
    }

    fn publish<K: Resource<DynamicType = ()>>(&self, object: &K, type_: EventType, reason: &str, note: &str) {
        let recorder = self.recorder.clone();
        let reference = object.object_ref(&());
        let event = Event {
            type_,
            reason: reason.to_string(),
            note: Some(note.chars().take(1000).collect()),
            action: "Reconcile".into(),
            secondary: None,
        };
        tokio::spawn(async move {
            if let Err(error) = recorder.publish(&event, &reference).await {
                tracing::debug!(error = %error, "event not written");
            }
        });
    }
}
