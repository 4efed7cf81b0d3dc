//! Operating the database, on a real Postgres: TLS, timeouts, roles, upgrades, retention of rows.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "../support/history.rs"]
mod history;
#[path = "../support/postgres.rs"]
mod postgres;

mod retention;
mod roles;
mod timeouts;
mod tls;
mod upgrade;
mod version_1;

use opentiger::controller::mirror::{Bounds, Mirror, Mirrored};
use opentiger::postgres::Pool;
use postgres::eventually;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Writes `objects` as the mirror does, through `pool`.
async fn write(pool: &Pool, objects: impl IntoIterator<Item = Mirrored>) {
    let objects: Vec<Mirrored> = objects.into_iter().collect();
    let cluster = history::Objects::default();
    objects.iter().for_each(|o| cluster.put(o.clone()));
    let mirror = Mirror::new(pool.clone(), Arc::new(cluster), Bounds::default());
    let shutdown = CancellationToken::new();
    let running = tokio::spawn(mirror.clone().run(shutdown.clone()));
    objects.into_iter().for_each(|o| mirror.applied(o));
    eventually("the mirror has written", async || mirror.backlog() == 0).await;
    shutdown.cancel();
    running.await.expect("joined");
    assert_eq!(mirror.parked(), 0);
}

/// What Postgres calls the error of this statement.
async fn refusal(pool: &Pool, sql: &str) -> String {
    let client = pool.get().await.expect("connection");
    match client.batch_execute(sql).await {
        Ok(()) => format!("accepted: {sql}"),
        Err(error) => error.as_db_error().expect("an answer of the server").code().code().to_owned(),
    }
}
