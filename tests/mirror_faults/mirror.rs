//! A running mirror of a cluster in memory.

use std::sync::Arc;
use std::time::Duration;

use opentiger::controller::mirror::{Bounds, Kind, Mirror, Mirrored};
use opentiger::postgres::{DatabaseConfig, Pool, connect};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::history::{NAMESPACE, Objects};
use super::postgres::eventually;

pub struct Running {
    pub mirror: Mirror,
    pub cluster: Objects,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

/// Small delays, so that tests need not wait for the defaults.
pub fn quick() -> Bounds {
    Bounds {
        delay: Duration::from_millis(2),
        confirm: Duration::from_millis(200),
        max_backoff: Duration::from_millis(100),
        ..Bounds::default()
    }
}

pub fn pool(url: &str) -> Pool {
    connect(&DatabaseConfig::new(url, "test-faults")).expect("pool")
}

impl Running {
    /// A mirror of `cluster`.
    pub fn of(cluster: Objects, pool: &Pool) -> Self {
        Self::with(cluster, pool, quick())
    }

    pub fn with(cluster: Objects, pool: &Pool, bounds: Bounds) -> Self {
        let mirror = Mirror::new(pool.clone(), Arc::new(cluster.clone()), bounds);
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(mirror.clone().run(shutdown.clone()));
        Self { mirror, cluster, shutdown, task }
    }

    /// The watch shows what the cluster has now, new or changed.
    pub fn put(&self, object: Mirrored) {
        self.cluster.put(object.clone());
        self.mirror.applied(object);
    }

    /// The watch shows that an object is gone.
    pub fn remove(&self, object: Mirrored) {
        self.cluster.remove(&object);
        self.mirror.deleted(object);
    }

    /// A watch begins: it delivers every object, then says that this was all.
    pub fn list(&self) {
        for kind in Kind::ALL {
            for object in self.cluster.of(kind, NAMESPACE) {
                self.mirror.applied(object);
            }
            self.mirror.listed(kind, "", self.cluster.list(kind));
        }
    }

    pub async fn drained(&self) {
        eventually("the backlog is written", async || self.mirror.backlog() == 0).await;
    }

    pub async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.expect("mirror ends without a panic");
    }

    /// The process dies: nothing is flushed.
    pub async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}
