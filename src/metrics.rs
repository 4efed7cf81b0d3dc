//! Prometheus metrics. No object names in labels.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;

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
    registry: Arc<Registry>,
    errors: Family<ErrorLabels, Counter>,
    reconciles: Family<ControllerLabels, Counter>,
    /// Runs admitted.
    pub admissions: Counter,
    /// Non-terminal Tasks whose `status.next` is absent; must be 0.
    pub tasks_without_next: Gauge,
    /// Objects waiting to be written to Postgres.
    pub mirror_backlog: Gauge,
    /// Age of the oldest change not yet in Postgres, milliseconds.
    pub mirror_lag_ms: Gauge<i64, AtomicI64>,
    /// Rows that Postgres refused and that were set aside.
    pub mirror_parked: Counter,
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
        let mirror_backlog = Gauge::default();
        registry.register("mirror_backlog", "Objects waiting to be mirrored", mirror_backlog.clone());
        let mirror_lag_ms = Gauge::default();
        registry.register(
            "mirror_lag_milliseconds",
            "Age of the oldest change not yet mirrored",
            mirror_lag_ms.clone(),
        );
        let mirror_parked = Counter::default();
        registry.register("mirror_parked", "Rows that Postgres refused", mirror_parked.clone());
        let leading = Gauge::default();
        registry.register("leading", "1 while this replica leads", leading.clone());
        Self {
            registry: Arc::new(registry),
            errors,
            reconciles,
            admissions,
            tasks_without_next,
            mirror_backlog,
            mirror_lag_ms,
            mirror_parked,
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

    /// The text exposition.
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
