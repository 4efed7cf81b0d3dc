//! Removal of rows by age: of deleted objects with all that belongs to them, such as the events of a Task
//! and the logs of a Run. Never of live objects: only rows with `deleted_at` are looked at.

use deadpool_postgres::Pool;

use super::Error;

/// Objects of one table that one batch removes at most. A batch is one transaction; it locks only what
/// it removes.
pub const BATCH: i64 = 500;

/// Tables of objects, and the tables and columns that point to them.
const OBJECTS: &[(&str, &[(&str, &str)])] = &[
    ("runs", &[("run_logs", "run_uid"), ("artifacts", "run_uid"), ("posted_artifacts", "run_uid")]),
    ("tasks", &[("events", "uid")]),
    ("operations", &[]),
];

/// What one batch removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Rows of objects, without what belongs to them.
    pub objects: u64,
    /// There may be more to remove.
    pub more: bool,
}

/// Removes one batch of what was deleted more than `days` days ago, by the database's clock.
///
/// # Errors
/// `Connect` or `Statement`.
pub async fn remove_batch(pool: &Pool, days: i32) -> Result<Removed, Error> {
    let client = pool.get().await.map_err(Error::Connect)?;
    let present =
        client.query("SELECT tablename::text FROM pg_tables WHERE schemaname = 'public'", &[]).await?;
    let present: Vec<String> = present.iter().map(|r| r.try_get(0)).collect::<Result<_, _>>()?;
    let is_there = |table: &str| present.iter().any(|p| p == table);
    let mut removed = Removed::default();
    for (table, parts) in OBJECTS.iter().filter(|(table, _)| is_there(table)) {
        let sql = statement(table, parts.iter().filter(|(part, _)| is_there(part)));
        let objects = client.execute(&sql, &[&days, &BATCH]).await?;
        removed.objects += objects;
        removed.more |= objects >= BATCH.unsigned_abs();
    }
    Ok(removed)
}

/// Removes objects of `table` (days: $1, at most: $2) and what belongs to them. What somebody else holds
/// locked is left for the next time.
fn statement<'a>(table: &str, parts: impl Iterator<Item = &'a (&'a str, &'a str)>) -> String {
    let parts: String = parts
        .map(|(part, column)| {
            format!(", of_{part} AS (DELETE FROM {part} USING old WHERE {part}.{column} = old.uid)")
        })
        .collect();
    format!(
        "WITH old AS (
            SELECT uid FROM {table} WHERE deleted_at < now() - make_interval(days => $1)
             ORDER BY deleted_at LIMIT $2 FOR UPDATE SKIP LOCKED
         ){parts}
         DELETE FROM {table} USING old WHERE {table}.uid = old.uid"
    )
}
