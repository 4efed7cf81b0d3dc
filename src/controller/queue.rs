//! A keyed work queue: each key is worked on by one reconcile at a time, wake-ups while it works are
//! not lost, and delays are kept per key (the earliest wins).

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cluster::{self, ErrorClass, Key};
use crate::metrics::Metrics;

/// When to look at a key again without an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Only when something changes.
    Await,
    /// After this time at the latest.
    After(Duration),
}

#[derive(Default)]
struct Inner {
    ready: VecDeque<Key>,
    queued: HashSet<Key>,
    working: HashSet<Key>,
    again: HashSet<Key>,
    timers: BTreeSet<(Instant, Key)>,
    timer_of: HashMap<Key, Instant>,
    failures: HashMap<Key, u32>,
}

/// The queue of one controller. Cheap to clone.
#[derive(Clone, Default)]
pub struct WorkQueue {
    inner: Arc<Mutex<Inner>>,
    wake: Arc<Notify>,
}

impl WorkQueue {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for `key` to be looked at now.
    pub fn add(&self, key: Key) {
        let mut inner = self.lock();
        if inner.working.contains(&key) {
            inner.again.insert(key);
            return;
        }
        if inner.queued.insert(key.clone()) {
            inner.ready.push_back(key);
            self.wake.notify_one();
        }
    }

    /// Asks for `key` to be looked at after `delay`, unless that happens sooner anyway.
    pub fn add_after(&self, key: Key, delay: Duration) {
        let at = Instant::now() + delay;
        let mut inner = self.lock();
        if let Some(old) = inner.timer_of.get(&key).copied() {
            if old <= at {
                return;
            }
            inner.timers.remove(&(old, key.clone()));
        }
        inner.timer_of.insert(key.clone(), at);
        inner.timers.insert((at, key));
        self.wake.notify_one();
    }

    /// The next key to work on; it stays claimed until [`Self::done`].
    pub(super) async fn next(&self) -> Key {
        loop {
            let sleep_until = {
                let mut inner = self.lock();
                inner.fire(Instant::now());
                if let Some(key) = inner.ready.pop_front() {
                    inner.queued.remove(&key);
                    inner.working.insert(key.clone());
                    return key;
                }
                inner.timers.first().map(|(at, _)| *at)
            };
            match sleep_until {
                Some(at) => {
                    tokio::select! {
                        () = self.wake.notified() => {}
                        () = tokio::time::sleep_until(at) => {}
                    }
                }
                None => self.wake.notified().await,
            }
        }
    }

    fn done(&self, key: Key, result: &Result<Action, cluster::Error>) {
        let delay = {
            let mut inner = self.lock();
            inner.working.remove(&key);
            if inner.again.remove(&key) && inner.queued.insert(key.clone()) {
                inner.ready.push_back(key.clone());
                self.wake.notify_one();
            }
            match result {
                Ok(action) => {
                    inner.failures.remove(&key);
                    match action {
                        Action::Await => None,
                        Action::After(delay) => Some(*delay),
                    }
                }
                Err(_) => {
                    let failures = inner.failures.entry(key.clone()).or_default();
                    *failures = failures.saturating_add(1);
                    Some(backoff(*failures, &key))
                }
            }
        };
        if let Some(delay) = delay {
            self.add_after(key, delay);
        }
    }
}

impl Inner {
    fn fire(&mut self, now: Instant) {
        while let Some((at, key)) = self.timers.first().cloned() {
            if at > now {
                return;
            }
            self.timers.remove(&(at, key.clone()));
            self.timer_of.remove(&key);
            if self.working.contains(&key) {
                self.again.insert(key);
            } else if self.queued.insert(key.clone()) {
                self.ready.push_back(key);
            }
        }
    }
}

/// Exponential from 1 s to 5 min with a jitter of up to a fifth that is fixed per key, so that many
/// objects that failed together do not return together (conventions, rule 8).
fn backoff(failures: u32, key: &Key) -> Duration {
    let base = Duration::from_secs(1).saturating_mul(2u32.saturating_pow(failures.saturating_sub(1).min(9)));
    let hash = key.name.bytes().fold(0u32, |h, b| h.wrapping_mul(31).wrapping_add(u32::from(b)));
    let base = base.min(Duration::from_secs(300));
    base + base.mul_f64(f64::from(hash % 100) / 500.0)
}

/// Works off `queue` with at most `concurrency` reconciles at once, until `shutdown`.
///
/// Errors are never dropped: each is logged with its cause, counted by class, and retried with
/// backoff; a conflict only means that a newer object is on its way.
pub async fn run<F, Fut>(
    controller: &'static str,
    queue: WorkQueue,
    concurrency: usize,
    metrics: Metrics,
    shutdown: CancellationToken,
    reconcile: F,
) where
    F: Fn(Key) -> Fut,
    Fut: Future<Output = Result<Action, cluster::Error>> + Send + 'static,
{
    let slots = Arc::new(Semaphore::new(concurrency));
    let tasks = TaskTracker::new();
    loop {
        let slot = tokio::select! {
            // The end comes first: nothing new is begun once it is known.
            biased;
            () = shutdown.cancelled() => break,
            slot = slots.clone().acquire_owned() => slot,
        };
        let key = tokio::select! {
            // The end comes first: nothing new is begun once it is known.
            biased;
            () = shutdown.cancelled() => break,
            key = queue.next() => key,
        };
        let (queue, metrics, work) = (queue.clone(), metrics.clone(), reconcile(key.clone()));
        tasks.spawn(async move {
            let result = work.await;
            metrics.reconcile(controller);
            if let Err(error) = &result {
                report(controller, &key, error, &metrics);
            }
            queue.done(key, &result);
            drop(slot);
        });
    }
    tasks.close();
    tasks.wait().await;
}

/// The one reporter of controller errors.
fn report(controller: &'static str, key: &Key, error: &cluster::Error, metrics: &Metrics) {
    let class = error.class();
    metrics.error(controller, class.word());
    let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    match class {
        ErrorClass::Conflict | ErrorClass::Gone => {
            tracing::debug!(controller, object = %key, error = %error, cause, "object changed, observing again");
        }
        ErrorClass::Transient | ErrorClass::Refused => {
            tracing::warn!(controller, object = %key, error = %error, cause, "reconcile failed, will retry");
        }
        ErrorClass::Permanent => {
            tracing::error!(controller, object = %key, error = %error, cause, "reconcile failed, an operator must act");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn key(name: &str) -> Key {
        Key::new("ns", name)
    }

    #[tokio::test(start_paused = true)]
    async fn a_wake_up_during_work_is_not_lost_and_never_runs_twice_at_once() {
        let queue = WorkQueue::default();
        let (running, most, runs) =
            (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let shutdown = CancellationToken::new();
        let worker = {
            let (q, r, m, n, s) =
                (queue.clone(), running.clone(), most.clone(), runs.clone(), shutdown.clone());
            tokio::spawn(run("test", queue.clone(), 8, Metrics::default(), s, move |k| {
                let (q, r, m, n) = (q.clone(), r.clone(), m.clone(), n.clone());
                async move {
                    m.fetch_max(r.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    if n.fetch_add(1, Ordering::SeqCst) == 0 {
                        q.add(k);
                    }
                    tokio::task::yield_now().await;
                    r.fetch_sub(1, Ordering::SeqCst);
                    Ok(Action::Await)
                }
            }))
        };
        queue.add(key("a"));
        while runs.load(Ordering::SeqCst) < 2 {
            tokio::task::yield_now().await;
        }
        shutdown.cancel();
        worker.await.unwrap();
        assert_eq!(most.load(Ordering::SeqCst), 1);
        assert_eq!(runs.load(Ordering::SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn the_earliest_delay_wins() {
        let queue = WorkQueue::default();
        let start = Instant::now();
        queue.add_after(key("a"), Duration::from_secs(60));
        queue.add_after(key("a"), Duration::from_secs(5));
        queue.add_after(key("a"), Duration::from_secs(30));
        assert_eq!(queue.next().await, key("a"));
        assert_eq!(start.elapsed(), Duration::from_secs(5));
        queue.done(key("a"), &Ok(Action::Await));
        assert!(queue.lock().timers.is_empty());
    }
}
