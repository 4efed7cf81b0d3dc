//! Prometheus metrics. No object names in labels.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Labels of the error counters.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ErrorLabels {
    source: String,
    class: String,
}

/// Labels of the reconcile counter.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ControllerLabels {
    controller: String,
}

/// Every metric of the operator; cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    errors: Family<ErrorLabels, Counter>,
    reconciles: Family<ControllerLabels, Counter>,
    /// Runs admitted.
    pub admissions: Counter,
    /// Non-terminal Tasks whose `status.next` is absent; must be 0.
    pub tasks_without_next: Gauge,
    /// 1 while this replica leads.
    pub leading: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("opentiger");
        let errors = Family::<ErrorLabels, Counter>::default();
        registry.register("errors", "Failed reconciles and watches by class", errors.clone());
        let reconciles = Family::<ControllerLabels, Counter>::default();
        registry.register("reconciles", "Reconciles by controller", reconciles.clone());
        let admissions = Counter::default();
        registry.register("admissions", "Runs admitted", admissions.clone());
        let tasks_without_next = Gauge::default();
        registry.register(
            "tasks_without_next",
            "Non-terminal Tasks without a next move; must be 0",
            tasks_without_next.clone(),
        );
        let leading = Gauge::default();
        registry.register("leading", "1 while this replica leads", leading.clone());
        Self {
            registry: Arc::new(Mutex::new(registry)),
            errors,
            reconciles,
            admissions,
            tasks_without_next,
            leading,
        }
    }
}

impl Metrics {
    /// Counts a failed watch.
    pub fn watch_error(&self, kind: &str) {
        self.error(kind, "watch");
    }

    /// Counts an error of `source` with its class.
    pub fn error(&self, source: &str, class: &str) {
        self.errors.get_or_create(&ErrorLabels { source: source.into(), class: class.into() }).inc();
    }

    /// Counts a reconcile.
    pub fn reconcile(&self, controller: &'static str) {
        self.reconciles.get_or_create(&ControllerLabels { controller: controller.into() }).inc();
    }

    /// Adds the metrics of another part, e.g. of the mirror.
    pub fn register(&self, add: impl FnOnce(&mut Registry)) {
        add(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// The text exposition.
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry.lock().unwrap_or_else(PoisonError::into_inner));
        text
    }
}
