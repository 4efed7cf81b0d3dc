//! Nothing waits for the database longer than its settings say.

use std::time::{Duration, Instant};

use opentiger::postgres::migrate::migrate_to;
use opentiger::postgres::{DatabaseConfig, Error, Fault, connect, logs};
use uuid::Uuid;

use crate::postgres::{Database, eventually};
use crate::refusal;

#[tokio::test]
async fn a_statement_that_takes_too_long_or_waits_for_a_lock_is_given_up() {
    let database = Database::migrated().await;
    let config = DatabaseConfig {
        statement_timeout: Duration::from_millis(1500),
        lock_timeout: Duration::from_millis(300),
        ..DatabaseConfig::new(&database.url, "test")
    };
    let pool = connect(&config).expect("pool");
    let started = Instant::now();
    assert_eq!(refusal(&pool, "SELECT pg_sleep(60)").await, "57014", "cancelled");
    assert!(started.elapsed() < Duration::from_secs(15));

    let mut holder = database.pool.get().await.expect("connection");
    let transaction = holder.transaction().await.expect("begun");
    transaction.batch_execute("LOCK TABLE run_logs").await.expect("locked");
    let started = Instant::now();
    let error = logs::kept(&pool, Uuid::nil()).await.expect_err("locked");
    assert!(started.elapsed() < Duration::from_millis(1500), "by the timeout of locks");
    assert_eq!(error.fault(), Fault::Transient, "it is tried again, not set aside: {error}");
    drop(transaction);
    logs::kept(&pool, Uuid::nil()).await.expect("free again");
}

#[tokio::test]
async fn a_connection_that_is_not_given_back_is_not_waited_for_for_ever() {
    let database = Database::migrated().await;
    let config = DatabaseConfig { max_connections: 1, ..DatabaseConfig::new(&database.url, "test") };
    let pool = connect(&config).expect("pool");
    let _held = pool.get().await.expect("the only one");
    let error = logs::kept(&pool, Uuid::nil()).await.expect_err("none is left");
    assert!(matches!(error, Error::Connect(_)), "{error}");
}

#[tokio::test]
async fn a_migration_does_not_hold_up_everybody_behind_a_lock_it_waits_for() {
    let database = Database::empty().await;
    let config = DatabaseConfig::new(&database.url, "test");
    migrate_to(&config, None, 1).await.expect("the first version");
    let mut holder = database.pool.get().await.expect("connection");
    let transaction = holder.transaction().await.expect("begun");
    transaction.batch_execute("LOCK TABLE tasks, runs IN ROW EXCLUSIVE MODE").await.expect("locked");
    let waiting = "SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database
                    WHERE NOT granted AND d.datname = current_database()";
    let migration =
        tokio::spawn(
            async move { opentiger::postgres::migrate(&config, Some(Duration::from_secs(60))).await },
        );
    eventually("it waits", async || database.value::<i64>(waiting).await > 0).await;
    eventually("it lets go", async || database.value::<i64>(waiting).await == 0).await;
    assert_eq!(database.value::<i32>("SELECT max(version) FROM refinery_schema_history").await, 1);
    drop(transaction);
    let version = migration.await.expect("joined").expect("migrated once the lock is free");
    assert_eq!(version, opentiger::postgres::migrate::expected_version());
}
