//! When the next object is started: as soon as one of N in flight has ended (closed loop), or at a
//! fixed rate whatever is in flight (open loop).

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// See the module.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    Closed { in_flight: usize },
    Open { rate: f64 },
}

/// Runs `one` for 0..count at this pace; the results in no particular order.
///
/// # Errors
/// The first error ends the loop.
pub async fn drive<T: Send + 'static>(
    pace: Pace,
    count: usize,
    one: impl Fn(usize) -> BoxFuture<'static, anyhow::Result<T>>,
) -> anyhow::Result<Vec<T>> {
    let permits = match pace {
        Pace::Closed { in_flight } => in_flight,
        Pace::Open { rate: _ } => count,
    };
    let slots = Arc::new(Semaphore::new(permits.max(1)));
    let begin = Instant::now();
    let mut running = JoinSet::new();
    let mut results = Vec::with_capacity(count);
    for i in 0..count {
        if let Pace::Open { rate } = pace {
            tokio::time::sleep_until(begin + Duration::from_secs_f64(crate::as_f64(i) / rate)).await;
        }
        let slot = slots.clone().acquire_owned().await?;
        let work = one(i);
        running.spawn(async move {
            let result = work.await;
            drop(slot);
            result
        });
        while let Some(done) = running.try_join_next() {
            results.push(done??);
        }
    }
    while let Some(done) = running.join_next().await {
        results.push(done??);
    }
    Ok(results)
}
