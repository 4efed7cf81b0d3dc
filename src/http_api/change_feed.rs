//! The one database listener of this replica: it reads each change once, whoever many clients want it.
//! Runs while there are clients.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

use super::error::ApiError;
use crate::postgres::changes::{Batch, Extent, Listener, after, extent};
use crate::postgres::{DatabaseConfig, Error};

/// Batches kept for clients that are behind.
const KEPT: usize = 256;
/// Batches in one reading.
pub const PAGE: i64 = 100;
/// How often it looks without having been told: a notification may be lost on its way (a connection
/// pooler), a commit may not.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How often clients are told how far it is.
const ANNOUNCE_EVERY: Duration = Duration::from_secs(60);
/// Longest time for one question to the database.
const ANSWER: Duration = Duration::from_secs(10);
/// Longest wait of a client for the listener's start.
const START: Duration = Duration::from_secs(5);
/// First wait after a failure; doubles up to the last.
const MIN_BACKOFF: Duration = Duration::from_millis(100);
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// What clients are told.
#[derive(Clone, Debug)]
pub enum Signal {
    /// Rows have changed.
    Batch(Arc<Batch>),
    /// All up to this number has been told. Keeps the position of a client in a quiet namespace new.
    Reached(i64),
    /// What was seen before may not hold: read everything again, then go on after `head`.
    Reset(Extent),
}

/// Hands each change to every client.
pub struct ChangeFeed {
    database: DatabaseConfig,
    namespace: Arc<str>,
    signals: broadcast::Sender<Signal>,
    /// Whether it reads, and from a position that it has announced.
    reading: watch::Sender<bool>,
    running: Mutex<bool>,
    closing: CancellationToken,
}

impl ChangeFeed {
    /// Idle until the first client comes.
    pub fn new(database: &DatabaseConfig, namespace: &str, closing: CancellationToken) -> Self {
        Self {
            database: database.clone(),
            namespace: namespace.into(),
            signals: broadcast::channel(KEPT).0,
            reading: watch::channel(false).0,
            running: Mutex::new(false),
            closing,
        }
    }

    /// Everything that is committed from now on.
    ///
    /// # Errors
    /// 503 when the database does not answer.
    pub async fn subscribe(self: &Arc<Self>) -> Result<broadcast::Receiver<Signal>, ApiError> {
        let receiver = {
            let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
            let receiver = self.signals.subscribe();
            if !*running {
                *running = true;
                tokio::spawn(self.clone().run());
            }
            receiver
        };
        let mut reading = self.reading.subscribe();
        match tokio::time::timeout(START, reading.wait_for(|reading| *reading)).await {
            Ok(Ok(_)) => Ok(receiver),
            Ok(Err(_)) | Err(_) => Err(ApiError::unavailable(
                "database_unavailable",
                "the database cannot be read now, try again",
            )),
        }
    }

    async fn run(self: Arc<Self>) {
        let mut backoff = MIN_BACKOFF;
        let mut lost = false;
        loop {
            let session = tokio::select! {
                session = self.session(lost) => session,
                () = self.closing.cancelled() => return,
            };
            let was_reading = self.reading.send_replace(false);
            if session.is_ok() && self.may_end() {
                return;
            }
            if let Err(error) = session {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "changes cannot be read, will retry"
                );
            }
            if self.may_end() {
                return;
            }
            lost = true;
            backoff = if was_reading { MIN_BACKOFF } else { (backoff * 2).min(MAX_BACKOFF) };
            tokio::select! {
                () = tokio::time::sleep(backoff) => {}
                () = self.closing.cancelled() => return,
            }
        }
    }

    /// Whether nobody listens; then the next client starts it again.
    fn may_end(&self) -> bool {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if self.signals.receiver_count() == 0 {
            *running = false;
        }
        !*running
    }

    /// Reads until nobody listens or the connection fails.
    async fn session(&self, lost: bool) -> Result<(), Error> {
        let listener = in_time(Listener::connect(&self.database)).await?;
        let start = in_time(extent(listener.client())).await?;
        let (mut last, mut announced) = (start.head, Instant::now());
        if lost {
            self.send(Signal::Reset(start.clone()));
        }
        self.reading.send_replace(true);
        loop {
            let now = in_time(extent(listener.client())).await?;
            // It went back (another database answers now), or what came next is gone.
            if now.epoch != start.epoch || !now.covers(last) {
                self.send(Signal::Reset(now.clone()));
                return Err(Error::Value("the stream of changes does not go on where it was".into()));
            }
            loop {
                let page = in_time(after(listener.client(), &self.namespace, last, PAGE)).await?;
                let more = i64::try_from(page.len()).is_ok_and(|n| n == PAGE);
                for batch in page {
                    last = batch.seq;
                    self.send(Signal::Batch(Arc::new(batch)));
                }
                if !more {
                    break;
                }
            }
            // What else there is up to here is of other namespaces.
            last = last.max(now.head);
            if announced.elapsed() >= ANNOUNCE_EVERY {
                announced = Instant::now();
                self.send(Signal::Reached(last));
            }
            tokio::select! {
                () = listener.changed() => {}
                () = tokio::time::sleep(LOOK_EVERY) => {
                    if self.signals.receiver_count() == 0 {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// To all clients; none is no error.
    fn send(&self, signal: Signal) {
        drop(self.signals.send(signal));
    }
}

async fn in_time<T>(answer: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::time::timeout(ANSWER, answer)
        .await
        .unwrap_or_else(|_| Err(Error::Value("no answer of the database within 10 s".into())))
}
