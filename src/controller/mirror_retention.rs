//! Removes rows of deleted objects by age, while this replica leads. Never looks at live objects, and
//! a database that is away is no error: it is tried again at the next turn.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use crate::postgres::Pool;
use crate::postgres::retention::{Removed, remove_batch};

/// Time between two turns.
const INTERVAL: Duration = Duration::from_secs(600);
/// Pause between two batches: others come first.
const PAUSE: Duration = Duration::from_millis(100);

/// Removes rows that are deleted for more than `days` days, until `shutdown`.
pub struct RowRetention {
    pool: Pool,
    days: i32,
    removed: Counter,
}

impl RowRetention {
    /// One that has yet to [`run`](Self::run).
    pub fn new(pool: Pool, days: i32) -> Self {
        Self { pool, days, removed: Counter::default() }
    }

    /// Registers its metric.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "mirror_rows_expired",
            "Rows of deleted objects removed by age",
            self.removed.clone(),
        );
    }

    /// Works until `shutdown`, in batches.
    pub async fn run(self, shutdown: CancellationToken) {
        loop {
            let pause = match remove_batch(&self.pool, self.days).await {
                Ok(removed) => self.note(removed),
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "old rows cannot be removed, will retry"
                    );
                    INTERVAL
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    fn note(&self, removed: Removed) -> Duration {
        let Removed { objects, more } = removed;
        self.removed.inc_by(objects);
        if objects > 0 {
            tracing::info!(objects, days = self.days, "rows removed by age");
        }
        if more { PAUSE } else { INTERVAL }
    }
}
