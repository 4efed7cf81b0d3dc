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

pub use super::mirror_cluster::{Cluster, Kubernetes, Page};
pub use super::mirror_intake::Bounds;
use super::mirror_intake::{Intake, Pending, Work};
use super::mirror_metrics::BatchMetrics;
use super::mirror_repair::{self, Repair, Repaired};
pub use super::mirrored::Mirrored;
pub use crate::postgres::Kind;
use crate::postgres::write::{self, StateChange, Writer};
use crate::postgres::{Error, Pool, Row, migrate};

/// First wait after a failed write; doubles up to `Bounds::max_backoff`.
const MIN_BACKOFF: Duration = Duration::from_millis(100);
/// How often it is looked whether the database went back, while nothing is written.
const CHECK_EVERY: Duration = Duration::from_secs(10);
/// Rows in one transaction.
const PART_ROWS: usize = 1000;
/// Time to write what is left after the shutdown.
const FLUSH_DEADLINE: Duration = Duration::from_secs(5);

/// A cheap handle: clones share one intake.
#[derive(Clone)]
pub struct Mirror {
    shared: Arc<Shared>,
}

struct Shared {
    pool: Pool,
    cluster: Arc<dyn Cluster>,
    intake: Mutex<Intake>,
    wake: Notify,
    /// Something is to be compared.
    doubt: Notify,
    max_backoff: Duration,
    written: AtomicU64,
    parked: AtomicU64,
    failures: AtomicU64,
    restored: AtomicU64,
    lost: AtomicU64,
    repairs: AtomicU64,
    batches: BatchMetrics,
}

/// What the writing loop knows.
#[derive(Default)]
struct Session {
    /// The tables are there.
    ready: bool,
    writer: Writer,
    checked: Option<Instant>,
}

impl Mirror {
    /// A mirror of `cluster` that writes through `pool` once [`Mirror::run`] runs.
    pub fn new(pool: Pool, cluster: Arc<dyn Cluster>, bounds: Bounds) -> Self {
        Self {
            shared: Arc::new(Shared {
                pool,
                cluster,
                intake: Mutex::new(Intake::new(bounds)),
                wake: Notify::new(),
                doubt: Notify::new(),
                max_backoff: bounds.max_backoff,
                written: AtomicU64::new(0),
                parked: AtomicU64::new(0),
                failures: AtomicU64::new(0),
                restored: AtomicU64::new(0),
                lost: AtomicU64::new(0),
                repairs: AtomicU64::new(0),
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

    /// `objects` are the uids and versions of all objects of `kind` in `namespace` (empty: in all), as at
    /// the start of a watch, each of which was or will be applied. Rows that contradict it, and that the
    /// watch does not explain within `Bounds::confirm`, are compared with the cluster. Never waits.
    pub fn listed(&self, kind: Kind, namespace: &str, objects: Vec<(String, i64)>) {
        self.intake().listed(kind, namespace, objects);
        self.shared.wake.notify_one();
    }

    /// Objects and uids that are kept in memory.
    pub fn kept(&self) -> usize {
        self.intake().kept()
    }

    /// Comparisons of all objects of a kind with their rows since the start.
    pub fn repairs(&self) -> u64 {
        self.shared.repairs.load(Ordering::Relaxed)
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
        let mut session = Session::default();
        tokio::join!(self.write_until(&mut session, &shutdown), self.compare_until(&shutdown));
        let flush = async {
            while !self.intake().is_idle() {
                if self.step(&mut session, true).await.is_err() {
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

    async fn write_until(&self, session: &mut Session, shutdown: &CancellationToken) {
        let mut backoff = MIN_BACKOFF;
        loop {
            let step = tokio::select! {
                () = shutdown.cancelled() => return,
                step = self.step(session, false) => step,
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
                        () = shutdown.cancelled() => return,
                        () = tokio::time::sleep(backoff) => {}
                    }
                    backoff = (backoff * 2).min(self.shared.max_backoff);
                }
            }
        }
    }

    /// Compares what is in doubt, beside the writing: both may touch the same rows in any order.
    async fn compare_until(&self, shutdown: &CancellationToken) {
        let mut backoff = MIN_BACKOFF;
        loop {
            let what = self.intake().take_doubt();
            let Some((kind, namespace)) = what else {
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = self.shared.doubt.notified() => continue,
                }
            };
            let compared = tokio::select! {
                () = shutdown.cancelled() => return,
                compared = self.compare(kind, &namespace) => compared,
            };
            self.intake().compared(compared.is_ok());
            match compared {
                Ok(done) => {
                    backoff = MIN_BACKOFF;
                    self.note_repair(kind, &namespace, done);
                }
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        kind = kind.table(),
                        namespace,
                        "mirror cannot compare, will retry"
                    );
                    tokio::select! {
                        () = shutdown.cancelled() => return,
                        () = tokio::time::sleep(backoff) => {}
                    }
                    backoff = (backoff * 2).min(self.shared.max_backoff);
                }
            }
        }
    }

    async fn compare(&self, kind: Kind, namespace: &str) -> Result<Repaired, mirror_repair::Error> {
        migrate::check_version(&self.shared.pool).await?;
        Repair::new(&self.shared.pool, self.shared.cluster.as_ref()).run(kind, namespace).await
    }

    fn note_repair(&self, kind: Kind, namespace: &str, done: Repaired) {
        let Repaired { objects, written, set_back, tombstoned, unparked: _, parked } = done;
        self.shared.repairs.fetch_add(1, Ordering::Relaxed);
        self.shared.written.fetch_add(written + tombstoned, Ordering::Relaxed);
        self.shared.restored.fetch_add(set_back, Ordering::Relaxed);
        self.shared.parked.fetch_add(parked, Ordering::Relaxed);
        let kind = kind.table();
        tracing::info!(
            kind,
            namespace,
            objects,
            written,
            set_back,
            tombstoned,
            "rows compared with the cluster"
        );
    }

    /// Does one piece of work, or waits until there is some.
    async fn step(&self, session: &mut Session, flush: bool) -> Result<(), Error> {
        if !session.ready {
            migrate::check_version(&self.shared.pool).await?;
            session.ready = true;
        }
        let work = self.intake().take(Instant::now(), flush);
        if self.intake().is_in_doubt() {
            self.shared.doubt.notify_one();
        }
        let Some(work) = work else {
            if session.checked.is_none_or(|at| at.elapsed() >= CHECK_EVERY) {
                session.writer.check(&self.shared.pool).await?;
                session.checked = Some(Instant::now());
                self.note_database(&mut session.writer);
            }
            let _ = tokio::time::timeout(CHECK_EVERY, self.wait()).await;
            return Ok(());
        };
        // Dropped in the middle (shutdown), the work goes back.
        let mut guard = InFlight { mirror: self, work: Some(work) };
        let result = match &guard.work {
            Some(work) => self.perform(work, &mut session.writer).await,
            None => Ok(()),
        };
        if result.is_ok() {
            guard.work = None;
            self.intake().done();
        }
        drop(guard);
        self.note_database(&mut session.writer);
        result
    }

    /// After the database went back nothing that was written is sure to be there.
    fn note_database(&self, writer: &mut Writer) {
        if !writer.take_went_back() {
            return;
        }
        tracing::error!("the database lacks what it had confirmed, comparing all rows with the cluster");
        let mut intake = self.intake();
        for (kind, scope) in Kind::ALL
            .into_iter()
            .flat_map(|kind| self.shared.cluster.scopes().into_iter().map(move |s| (kind, s)))
        {
            intake.doubt(kind, &scope, Instant::now());
        }
        drop(intake);
        self.shared.doubt.notify_one();
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

    async fn perform(&self, work: &Work, writer: &mut Writer) -> Result<(), Error> {
        let pool = &self.shared.pool;
        match work {
            Work::Batch(batch) => self.write_batch(batch, writer).await,
            Work::Tombstones { kind, namespace, uids, since: _ } => {
                let lost = write::tombstone(pool, *kind, uids, writer).await?;
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

    /// Writes a batch part by part. While Postgres works on one the rows of the next are made; after an
    /// error all of it is written again.
    async fn write_batch(&self, batch: &[Pending], writer: &mut Writer) -> Result<(), Error> {
        let mut parts = batch.chunks(PART_ROWS);
        let mut part = rows(parts.next().unwrap_or_default());
        loop {
            for (object, error) in &part.refused {
                mirror_repair::park(&self.shared.pool, object, error).await?;
                self.shared.parked.fetch_add(1, Ordering::Relaxed);
            }
            let following = parts.next();
            let made = async { following.map(rows) };
            let (written, next) = tokio::join!(biased; self.write_rows(&part.rows, writer), made);
            written?;
            match next {
                Some(next) => part = next,
                None => return Ok(()),
            }
        }
    }

    async fn write_rows(&self, rows: &[Row], writer: &mut Writer) -> Result<(), Error> {
        let started = Instant::now();
        let written = write::write_as(&self.shared.pool, rows, writer).await?;
        self.shared.batches.note(rows.len(), started.elapsed());
        self.shared.written.fetch_add(written.changed, Ordering::Relaxed);
        self.shared.parked.fetch_add(written.parked, Ordering::Relaxed);
        Ok(())
    }

    fn intake(&self) -> MutexGuard<'_, Intake> {
        self.shared.intake.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Rows of one transaction, and objects that have none, with the reason.
struct Part<'a> {
    rows: Vec<Row>,
    refused: Vec<(&'a Mirrored, String)>,
}

fn rows(batch: &[Pending]) -> Part<'_> {
    let mut part = Part { rows: Vec::with_capacity(batch.len()), refused: Vec::new() };
    for pending in batch {
        match pending.object.row() {
            Ok(mut row) => {
                row.deleted = pending.deleted;
                part.rows.push(row);
            }
            Err(error) => part.refused.push((&pending.object, error.to_string())),
        }
    }
    part
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
        let counters: [(&str, &str, &AtomicU64); 6] = [
            ("mirror_repairs", "Comparisons of all objects of a kind with their rows", &self.shared.repairs),
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
