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
/// Longest time a migration waits for a lock that others hold, in milliseconds.
const LOCK_TIMEOUT_MS: u32 = 5_000;

/// Version of the tables this program was written for.
pub fn expected_version() -> i32 {
    embedded::migrations::runner()
        .get_migrations()
        .iter()
        .map(refinery::Migration::version)
        .max()
        .unwrap_or_default()
}

/// Brings the tables up to date. With `wait`, a database that is not there yet, or whose tables
/// others hold locked, is tried again for so long. Does nothing where nothing is to be done, nor to
/// tables that are newer than this program but suit it. Returns the version now in force.
///
/// # Errors
/// The last failure once `wait` is over; at once when a migration itself fails.
pub async fn migrate(config: &DatabaseConfig, wait: Option<Duration>) -> Result<i32, Error> {
    migrate_to(config, wait, expected_version()).await
}

/// Brings the tables to `target`, which is not newer than this program; for tests of upgrades.
///
/// # Errors
/// Those of [`migrate`].
pub async fn migrate_to(config: &DatabaseConfig, wait: Option<Duration>, target: i32) -> Result<i32, Error> {
    let pool = connect(&DatabaseConfig { max_connections: 1, ..config.clone() })?;
    let deadline = Instant::now() + wait.unwrap_or_default();
    loop {
        match attempt(&pool, target).await {
            Err(error) if may_pass(&error) && Instant::now() < deadline => {
                tracing::info!(error = &error as &dyn std::error::Error, "database is not ready, waiting");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            done => return done,
        }
    }
}

async fn attempt(pool: &Pool, target: i32) -> Result<i32, Error> {
    let mut client = pool.get().await.map_err(Error::Connect)?;
    client.batch_execute("SET statement_timeout = 0; SET lock_timeout = 0").await?;
    client.execute("SELECT pg_advisory_lock($1)", &[&LOCK]).await?;
    // Whoever waits for a table's lock holds up everybody behind it: rather give up and try again.
    client.batch_execute(&format!("SET lock_timeout = {LOCK_TIMEOUT_MS}")).await?;
    if read_version(&client).await? < target {
        // The lock ends with the session at the latest.
        let report = embedded::migrations::runner()
            .set_target(refinery::Target::Version(target))
            .run_async(&mut **client)
            .await
            .map_err(|e| Error::Migrate(Box::new(e)))?;
        for migration in report.applied_migrations() {
            tracing::info!(version = migration.version(), name = migration.name(), "migration applied");
        }
    }
    client.execute("SELECT pg_advisory_unlock($1)", &[&LOCK]).await?;
    match read_version(&client).await? {
        found if found > target => accept(&client, target).await,
        found => Ok(found),
    }
}

/// Whether trying again may help: the database is away, or somebody holds a table locked.
fn may_pass(error: &Error) -> bool {
    match error {
        Error::Connect(_) | Error::Statement(_) => true,
        Error::Migrate(error) => {
            let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&**error);
            while let Some(error) = cause {
                let code = error.downcast_ref::<tokio_postgres::Error>().and_then(|e| e.code());
                if code == Some(&tokio_postgres::error::SqlState::LOCK_NOT_AVAILABLE) {
                    return true;
                }
                cause = error.source();
            }
            false
        }
        Error::Settings(_) | Error::Schema { .. } | Error::Outdated { .. } | Error::Value(_) => false,
    }
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
    if !exists(client, "refinery_schema_history").await? {
        return Ok(0);
    }
    Ok(client.query_one("SELECT coalesce(max(version), 0) FROM refinery_schema_history", &[]).await?.get(0))
}

async fn exists(client: &tokio_postgres::Client, table: &str) -> Result<bool, Error> {
    let name = format!("public.{table}");
    Ok(client.query_one("SELECT to_regclass($1) IS NOT NULL", &[&name]).await?.get(0))
}

/// Succeeds when this program can work with the tables: they are at least in the version it was
/// written for, and no newer migration has been marked as breaking it (`schema_compatibility`), so
/// that the old programs work on while an upgrade is under way.
///
/// # Errors
/// `Schema` when they are older, `Outdated` when they are too new, `Connect` or `Statement` when the
/// database cannot be asked.
pub async fn check_version(pool: &Pool) -> Result<(), Error> {
    let client = pool.get().await.map_err(Error::Connect)?;
    accept(&client, expected_version()).await.map(|_| ())
}

/// The version of the tables, if a program of version `expected` can work with them.
async fn accept(client: &tokio_postgres::Client, expected: i32) -> Result<i32, Error> {
    let found = read_version(client).await?;
    if found < expected {
        return Err(Error::Schema { expected, found });
    }
    if found > expected && exists(client, "schema_compatibility").await? {
        let oldest_program: i32 = client
            .query_one("SELECT coalesce(max(oldest_program), 0) FROM schema_compatibility", &[])
            .await?
            .get(0);
        if expected < oldest_program {
            return Err(Error::Outdated { expected, found, oldest_program });
        }
    }
    Ok(found)
}
