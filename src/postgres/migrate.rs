//! Migrations: embedded SQL, run under an advisory lock so that several replicas may start at once.

use std::time::Duration;

use deadpool_postgres::Pool;
use tokio::time::Instant;

use super::{DatabaseConfig, Error, pool::connect};

mod embedded {
    refinery::embed_migrations!("src/postgres/migrations");
}

/// Key of the advisory lock that serialises migrations; an arbitrary constant.
const LOCK: i64 = 0x6f70_656e_7469_6765;

/// Version of the tables this program was written for.
pub fn expected_version() -> i32 {
    embedded::migrations::runner()
        .get_migrations()
        .iter()
        .map(refinery::Migration::version)
        .max()
        .unwrap_or_default()
}

/// Brings the tables up to date. With `wait`, a database that is not there yet is tried again for
/// so long. Does nothing where nothing is to be done. Returns the version now in force.
///
/// # Errors
/// The last failure once `wait` is over; at once when a migration itself fails.
pub async fn migrate(config: &DatabaseConfig, wait: Option<Duration>) -> Result<i32, Error> {
    let pool = connect(&DatabaseConfig { max_connections: 1, ..config.clone() })?;
    let deadline = Instant::now() + wait.unwrap_or_default();
    loop {
        match attempt(&pool).await {
            Err(error @ (Error::Connect(_) | Error::Statement(_))) if Instant::now() < deadline => {
                tracing::info!(error = &error as &dyn std::error::Error, "database is not ready, waiting");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            done => return done,
        }
    }
}

async fn attempt(pool: &Pool) -> Result<i32, Error> {
    let mut client = pool.get().await.map_err(Error::Connect)?;
    client.batch_execute("SET statement_timeout = 0").await?;
    client.execute("SELECT pg_advisory_lock($1)", &[&LOCK]).await?;
    // The lock ends with the session at the latest.
    let report = embedded::migrations::runner()
        .run_async(&mut **client)
        .await
        .map_err(|e| Error::Migrate(Box::new(e)))?;
    client.execute("SELECT pg_advisory_unlock($1)", &[&LOCK]).await?;
    for migration in report.applied_migrations() {
        tracing::info!(version = migration.version(), name = migration.name(), "migration applied");
    }
    read_version(&client).await
}

/// Version of the tables that are there; 0 when there are none.
///
/// # Errors
/// `Connect` or `Statement` when the database cannot be asked.
pub async fn schema_version(pool: &Pool) -> Result<i32, Error> {
    let client = pool.get().await.map_err(Error::Connect)?;
    read_version(&client).await
}

async fn read_version(client: &tokio_postgres::Client) -> Result<i32, Error> {
    let exists: bool = client
        .query_one("SELECT to_regclass('public.refinery_schema_history') IS NOT NULL", &[])
        .await?
        .get(0);
    if !exists {
        return Ok(0);
    }
    Ok(client.query_one("SELECT coalesce(max(version), 0) FROM refinery_schema_history", &[]).await?.get(0))
}

/// Succeeds when the tables are at least in the version this program was written for.
///
/// # Errors
/// `Schema` when they are older, `Connect` or `Statement` when the database cannot be asked.
pub async fn check_version(pool: &Pool) -> Result<(), Error> {
    let found = schema_version(pool).await?;
    let expected = expected_version();
    if found < expected { Err(Error::Schema { expected, found }) } else { Ok(()) }
}
