//! Removal of rows by age: of deleted Tasks with their events, of deleted Runs with their logs and
//! artifacts. Never of live objects: only rows with `deleted_at` are looked at.

use deadpool_postgres::Pool;

use super::Error;

/// Rows that one batch removes at most of each table, besides what belongs to them. A batch is one
/// transaction; it locks only what it removes.
pub const BATCH: i64 = 500;

const TASKS: &str = "
WITH old AS (
    SELECT uid FROM tasks WHERE deleted_at < now() - make_interval(days => $1)
     ORDER BY deleted_at LIMIT $2 FOR UPDATE SKIP LOCKED
), e AS (DELETE FROM events USING old WHERE events.uid = old.uid)
DELETE FROM tasks USING old WHERE tasks.uid = old.uid";

const RUNS: &str = "
WITH old AS (
    SELECT uid FROM runs WHERE deleted_at < now() - make_interval(days => $1)
     ORDER BY deleted_at LIMIT $2 FOR UPDATE SKIP LOCKED
), l AS (DELETE FROM run_logs USING old WHERE run_logs.run_uid = old.uid),
   a AS (DELETE FROM artifacts USING old WHERE artifacts.run_uid = old.uid)
DELETE FROM runs USING old WHERE runs.uid = old.uid";

/// What one batch removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    pub tasks: u64,
    pub runs: u64,
}

impl Removed {
    /// Whether there may be more to remove.
    pub fn is_full(self) -> bool {
        let batch = BATCH.unsigned_abs();
        self.tasks >= batch || self.runs >= batch
    }
}

/// Removes one batch of what was deleted more than `days` days ago, by the database's clock.
///
/// # Errors
/// `Connect` or `Statement`.
pub async fn remove_batch(pool: &Pool, days: i32) -> Result<Removed, Error> {
    let client = pool.get().await.map_err(Error::Connect)?;
    let runs = client.execute(RUNS, &[&days, &BATCH]).await?;
    let tasks = client.execute(TASKS, &[&days, &BATCH]).await?;
    Ok(Removed { tasks, runs })
}
