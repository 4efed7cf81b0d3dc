//! The mirror into Postgres: watches hand it what they see, it writes batches.
//!
//! Guarantees: handing over never waits and never fails; memory is bounded whatever the database
//! does; rows never go back (invariants S19 to S23). Must not be read by any decision: Kubernetes is
//! the only truth.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::{counter::ConstCounter, gauge::ConstGauge};
use prometheus_client::registry::Registry;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub use super::mirror_intake::Bounds;
use super::mirror_intake::{Intake, Pending, Work};
use super::mirror_metrics::BatchMetrics;
pub use super::mirrored::Mirrored;
pub use crate::postgres::Kind;
use crate::postgres::write::{self, StateChange};
use crate::postgres::{Error, Pool, migrate};

/// First wait after a failed write; doubles up to `Bounds::max_backoff`.
const MIN_BACKOFF: Duration = Duration::from_millis(100);
/// Time to write what is left after the shutdown.
const FLUSH_DEADLINE: Duration = Duration::from_secs(5);

/// A cheap handle: clones share one intake.
#[derive(Clone)]
pub struct Mirror {
    shared: Arc<Shared>,
}

struct Shared {
    pool: Pool,
    intake: Mutex<Intake>,
    wake: Notify,
    max_backoff: Duration,
    written: AtomicU64,
    parked: AtomicU64,
    failures: AtomicU64,
    restored: AtomicU64,
    lost: AtomicU64,
    batches: BatchMetrics,
}

impl Mirror {
    /// A mirror that writes through `pool` once [`Mirror::run`] runs.
    pub fn new(pool: Pool, bounds: Bounds) -> Self {
        Self {
            shared: Arc::new(Shared {
                pool,
                intake: Mutex::new(Intake::new(bounds)),
                wake: Notify::new(),
                max_backoff: bounds.max_backoff,
                written: AtomicU64::new(0),
                parked: AtomicU64::new(0),
                failures: AtomicU64::new(0),
                restored: AtomicU64::new(0),
                lost: AtomicU64::new(0),
                batches: BatchMetrics::default(),
            }),
        }
    }

    /// A watch saw `object`, new or changed. Never waits.
    pub fn applied(&self, object: Mirrored) {
        self.intake().applied(object, Instant::now());
        self.shared.wake.notify_one();
    }

    /// A watch saw `object` go; `object` is its last known state. Never waits.
    pub fn deleted(&self, object: Mirrored) {
        self.intake().deleted(object, Instant::now());
        self.shared.wake.notify_one();
    }

    /// `objects` is the complete list of `kind` in `namespace`, as at the start of a watch. Each is
    /// applied; rows that are not in it are marked as deleted, and rows newer than it are set back
    /// (the cluster was restored to an older state), both once the watch has not contradicted it for
    /// `Bounds::confirm`. Never waits.
    pub fn listed(&self, kind: Kind, namespace: &str, objects: Vec<Mirrored>) {
        self.intake().listed(kind, namespace, objects, Instant::now());
        self.shared.wake.notify_one();
    }

    /// Changes not yet written.
    pub fn backlog(&self) -> usize {
        self.intake().backlog()
    }

    /// Whether everything that was handed over about the object with this uid is in the database (or
    /// was refused by it for good).
    pub fn has(&self, uid: &str) -> bool {
        self.intake().has(uid)
    }

    /// Age of the oldest change not yet written; zero when all is written.
    pub fn lag(&self) -> Duration {
        self.intake().lag(Instant::now())
    }

    /// Rows refused by the database since the start.
    pub fn parked(&self) -> u64 {
        self.shared.parked.load(Ordering::Relaxed)
    }

    /// Registers the mirror's metrics. They are computed at each scrape, so a mirror that has
    /// stopped shows a growing lag.
    pub fn register(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(self.clone()));
        self.shared.batches.register(registry);
    }

    /// Writes until `shutdown`, then what is left for at most 5 s.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut backoff = MIN_BACKOFF;
        let mut ready = false;
        while !shutdown.is_cancelled() {
            let step = tokio::select! {
                () = shutdown.cancelled() => break,
                step = self.step(&mut ready, false) => step,
            };
            match step {
                Ok(()) => backoff = MIN_BACKOFF,
                Err(error) => {
                    self.shared.failures.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        backlog = self.backlog(),
                        wait_ms = u64::try_from(backoff.as_millis()).unwrap_or(u64::MAX),
                        "mirror cannot write, will retry"
                    );
                    tokio::select! {
                        () = shutdown.cancelled() => break,
                        () = tokio::time::sleep(backoff) => {}
                    }
                    backoff = (backoff * 2).min(self.shared.max_backoff);
                }
            }
        }
        let flush = async {
            while !self.intake().is_idle() {
                if self.step(&mut ready, true).await.is_err() {
                    tokio::time::sleep(MIN_BACKOFF).await;
                }
            }
        };
        if tokio::time::timeout(FLUSH_DEADLINE, flush).await.is_err() {
            tracing::warn!(
                backlog = self.backlog(),
                "mirror stopped with changes unwritten, the next list repeats them"
            );
        }
    }

    /// Does one piece of work, or waits until there is some.
    async fn step(&self, ready: &mut bool, flush: bool) -> Result<(), Error> {
        if !*ready {
            migrate::check_version(&self.shared.pool).await?;
            *ready = true;
        }
        let work = self.intake().take(Instant::now(), flush);
        let Some(work) = work else {
            self.wait().await;
            return Ok(());
        };
        // Dropped in the middle (shutdown), the work goes back.
        let mut guard = InFlight { mirror: self, work: Some(work) };
        let result = match &guard.work {
            Some(work) => self.perform(work).await,
            None => Ok(()),
        };
        if result.is_ok() {
            guard.work = None;
            self.intake().done();
        }
        result
    }

    async fn wait(&self) {
        let deadline = self.intake().next_deadline();
        match deadline {
            Some(at) => tokio::select! {
                () = self.shared.wake.notified() => {}
                () = tokio::time::sleep_until(at.into()) => {}
            },
            None => self.shared.wake.notified().await,
        }
    }

    async fn perform(&self, work: &Work) -> Result<(), Error> {
        let pool = &self.shared.pool;
        match work {
            Work::Batch(batch) => self.write_batch(batch).await,
            Work::Tombstones { kind, namespace, uids, since: _ } => {
                let lost = write::tombstone(pool, *kind, uids).await?;
                if lost > 0 {
                    self.shared.lost.fetch_add(lost, Ordering::Relaxed);
                    write::add_state(pool, *kind, namespace, StateChange { lost, ..StateChange::default() })
                        .await?;
                }
                Ok(())
            }
            Work::Compare { kind, namespace, ticket, uids } => {
                let stored = write::versions(pool, *kind, namespace, uids).await?;
                write::add_state(
                    pool,
                    *kind,
                    namespace,
                    StateChange { listed: true, ..StateChange::default() },
                )
                .await?;
                self.intake().settle(*ticket, &stored, Instant::now());
                Ok(())
            }
        }
    }

    async fn write_batch(&self, batch: &[Pending]) -> Result<(), Error> {
        let pool = &self.shared.pool;
        let mut rows = Vec::with_capacity(batch.len());
        for pending in batch {
            match pending.object.row() {
                Ok(mut row) => {
                    row.deleted = pending.deleted;
                    row.restored = pending.restored;
                    rows.push(row);
                }
                Err(error) => {
                    let meta = pending.object.meta();
                    let text = |t: &Option<String>| t.clone().unwrap_or_default();
                    let (uid, version) = (text(&meta.uid), text(&meta.resource_version));
                    write::park(
                        pool,
                        pending.object.kind(),
                        &uid,
                        &text(&meta.namespace),
                        &text(&meta.name),
                        version,
                        &error.to_string(),
                    )
                    .await?;
                    self.shared.parked.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        let started = Instant::now();
        let written = write::write(pool, &rows).await?;
        self.shared.batches.note(rows.len(), started.elapsed());
        self.shared.written.fetch_add(written.changed, Ordering::Relaxed);
        self.shared.parked.fetch_add(written.parked, Ordering::Relaxed);
        let restored = std::mem::take(&mut self.intake().restored);
        for ((kind, namespace), restored) in restored {
            self.shared.restored.fetch_add(restored, Ordering::Relaxed);
            tracing::warn!(
                kind = kind.table(),
                namespace,
                restored,
                "cluster was restored to an older state, rows set back"
            );
            write::add_state(pool, kind, &namespace, StateChange { restored, ..StateChange::default() })
                .await?;
        }
        Ok(())
    }

    fn intake(&self) -> MutexGuard<'_, Intake> {
        self.shared.intake.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Puts unfinished work back, whatever ends it.
struct InFlight<'a> {
    mirror: &'a Mirror,
    work: Option<Work>,
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        if let Some(work) = self.work.take() {
            self.mirror.intake().put_back(work);
        }
    }
}

impl fmt::Debug for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mirror").field("backlog", &self.backlog()).finish_non_exhaustive()
    }
}

impl Collector for Mirror {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let (backlog, lag) = {
            let intake = self.intake();
            (intake.backlog(), intake.lag(Instant::now()))
        };
        let backlog = ConstGauge::new(i64::try_from(backlog).unwrap_or(i64::MAX));
        let lag = ConstGauge::new(lag.as_secs_f64());
        let name = "mirror_backlog";
        backlog.encode(encoder.encode_descriptor(
            name,
            "Changes not yet in the database",
            None,
            backlog.metric_type(),
        )?)?;
        let name = "mirror_lag_seconds";
        lag.encode(encoder.encode_descriptor(
            name,
            "Age of the oldest change not yet in the database",
            None,
            lag.metric_type(),
        )?)?;
        let counters: [(&str, &str, &AtomicU64); 5] = [
            ("mirror_rows_written", "Rows inserted or changed", &self.shared.written),
            ("mirror_rows_parked", "Rows the database refused", &self.shared.parked),
            ("mirror_write_failures", "Writes that failed and were tried again", &self.shared.failures),
            ("mirror_rows_restored", "Rows set back after the cluster was restored", &self.shared.restored),
            ("mirror_objects_lost", "Deleted objects of which nothing could be kept", &self.shared.lost),
        ];
        for (name, help, value) in counters {
            let counter = ConstCounter::new(value.load(Ordering::Relaxed));
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        Ok(())
    }
}
