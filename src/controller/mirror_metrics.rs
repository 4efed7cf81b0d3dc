//! How large the mirror's batches are and how long they take.

use std::time::Duration;

use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// Measures of the batches; clones share them.
#[derive(Clone, Debug)]
pub(super) struct BatchMetrics {
    rows: Histogram,
    seconds: Histogram,
}

impl Default for BatchMetrics {
    fn default() -> Self {
        Self {
            rows: Histogram::new(exponential_buckets(1.0, 4.0, 7)),
            seconds: Histogram::new(exponential_buckets(0.002, 2.0, 13)),
        }
    }
}

impl BatchMetrics {
    /// Registers them.
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("mirror_batch_rows", "Rows of a batch that was written", self.rows.clone());
        registry.register("mirror_batch_seconds", "Time to write a batch", self.seconds.clone());
    }

    /// Notes a batch that was written.
    #[allow(clippy::cast_precision_loss)]
    pub(super) fn note(&self, rows: usize, took: Duration) {
        self.rows.observe(rows as f64);
        self.seconds.observe(took.as_secs_f64());
    }
}
