//! Mirror writes: batches of rows in one transaction, guarded by resourceVersion, idempotent.

use std::sync::LazyLock;

use deadpool_postgres::{Object, Pool, Transaction};
use serde_json::Value;
use tokio_postgres::types::Json;
use uuid::Uuid;

use super::rows::{Kind, Row};
use super::{Error, Fault};

const TASK_COLUMNS: &[&str] = &[
    "title",
    "goal",
    "context",
    "allowed_paths",
    "denied_paths",
    "commands",
    "priority",
    "risk_level",
    "role",
    "lane",
    "kind",
    "status",
    "block_reason",
    "target_area",
    "touches",
    "dependency_names",
    "resolved_dependencies",
    "timebox_minutes",
    "attempts",
    "retry_count",
    "retries",
    "retry_at",
    "next_kind",
    "failure_class",
    "failure_code",
    "request_key",
    "request_hash",
];
const RUN_COLUMNS: &[&str] = &[
    "task_uid",
    "task_name",
    "attempt",
    "purpose",
    "pool",
    "agent",
    "role",
    "lane",
    "status",
    "started_at",
    "finished_at",
    "cost_tokens",
    "error_message",
    "error_meta",
    "branch",
    "head_commit",
    "changed_files",
    "logs",
];
const POOL_COLUMNS: &[&str] = &["role", "replicas", "peak_replicas", "suspended", "metadata"];
const SYSTEM_COLUMNS: &[&str] = &["failed_cooldown_ms", "blocked_cooldown_ms", "max_retries"];
const COMMON_COLUMNS: &[&str] =
    &["uid", "namespace", "name", "resource_version", "generation", "created_at", "updated_at"];

/// Statements of one kind.
struct Statements {
    upsert: String,
    /// Makes room for a state older than the stored one.
    restore: String,
    tombstone: String,
    versions: String,
    present: String,
}

impl Statements {
    fn new(kind: Kind) -> Self {
        let columns = match kind {
            Kind::Task => TASK_COLUMNS,
            Kind::Run => RUN_COLUMNS,
            Kind::Pool => POOL_COLUMNS,
            Kind::System => SYSTEM_COLUMNS,
        };
        let table = kind.table();
        let all: Vec<&str> = COMMON_COLUMNS.iter().chain(columns).copied().collect();
        let list = all.join(", ");
        let set: Vec<String> = all
            .iter()
            .filter(|c| **c != "uid")
            .map(|c| match *c {
                "peak_replicas" => format!("{c} = greatest({table}.{c}, excluded.{c})"),
                _ => format!("{c} = excluded.{c}"),
            })
            .collect();
        Self {
            // The guard: never back.
            upsert: format!(
                "INSERT INTO {table} ({list}) SELECT {list} FROM jsonb_populate_recordset(NULL::{table}, $1)
                 ON CONFLICT (uid) DO UPDATE SET {}
                 WHERE {table}.resource_version < excluded.resource_version",
                set.join(", ")
            ),
            restore: format!(
                "UPDATE {table} SET resource_version = -1, deleted_at = NULL WHERE uid = ANY($1)"
            ),
            tombstone: format!(
                "UPDATE {table} SET deleted_at = now() WHERE uid = ANY($1) AND deleted_at IS NULL"
            ),
            versions: format!(
                "SELECT uid, resource_version, deleted_at IS NOT NULL AS deleted FROM {table}
                  WHERE namespace = $1 AND (deleted_at IS NULL OR uid = ANY($2))"
            ),
            present: format!("SELECT count(*) FROM {table} WHERE uid = ANY($1)"),
        }
    }

    fn of(kind: Kind) -> &'static Self {
        static ALL: LazyLock<[Statements; 4]> = LazyLock::new(|| Kind::ALL.map(Statements::new));
        let [task, run, pool, system] = &*ALL;
        match kind {
            Kind::Task => task,
            Kind::Run => run,
            Kind::Pool => pool,
            Kind::System => system,
        }
    }
}

/// Transitions newer than those stored; a hole before them becomes one gap row (invariant S22).
const INSERT_EVENTS: &str = "
WITH incoming AS (
    SELECT uid, sequence, namespace, type, entity_type, payload, created_at
      FROM jsonb_populate_recordset(NULL::events, $1)
), known AS (
    SELECT i.uid, coalesce((SELECT max(e.sequence) FROM events e WHERE e.uid = i.uid), 0) AS last,
           min(i.sequence) AS first, min(i.created_at) AS at, min(i.namespace) AS namespace
      FROM incoming i GROUP BY i.uid
), fresh AS (
    SELECT i.uid, i.sequence, i.namespace, i.type, i.entity_type, i.payload, i.created_at, NULL::bigint AS gap_to
      FROM incoming i JOIN known k USING (uid) WHERE i.sequence > k.last
     UNION ALL
    SELECT uid, last + 1, namespace, 'mirror.gap', 'task',
           jsonb_build_object('from', last + 1, 'to', first - 1), at, first - 1
      FROM known WHERE first > last + 1
)
INSERT INTO events (uid, sequence, id, namespace, type, entity_type, payload, created_at, gap_to)
SELECT uid, sequence, md5(uid::text || ':' || sequence)::uuid, namespace, type, entity_type, payload, created_at, gap_to
  FROM fresh
ON CONFLICT (uid, sequence) DO NOTHING";

const FORGET_EVENTS: &str = "
DELETE FROM events e USING unnest($1::uuid[], $2::bigint[]) AS f(uid, first)
 WHERE e.uid = f.uid AND e.sequence >= f.first";

const INSERT_ARTIFACTS: &str = "
INSERT INTO artifacts (id, run_uid, namespace, type, ref, metadata, created_at)
SELECT id, run_uid, namespace, type, ref, metadata, created_at FROM jsonb_populate_recordset(NULL::artifacts, $1)
ON CONFLICT (id) DO NOTHING";

const FORGET_ARTIFACTS: &str = "DELETE FROM artifacts WHERE run_uid = ANY($1)";

const UNPARK: &str = "DELETE FROM mirror_parked WHERE kind = $1 AND uid = ANY($2)";

const PARK: &str = "
INSERT INTO mirror_parked (kind, uid, namespace, name, resource_version, error, parked_at)
VALUES ($1, $2, $3, $4, $5, $6, now())
ON CONFLICT (kind, uid) DO UPDATE SET resource_version = excluded.resource_version, error = excluded.error";

/// What became of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Rows inserted or changed; a replay changes none.
    pub changed: u64,
    /// Rows the database refused, now in `mirror_parked`.
    pub parked: u64,
}

/// Writes `rows`. A row the database refuses is found by halving the batch, and parked: it never
/// holds up the others. Nothing is half-written: each part is one transaction.
///
/// # Errors
/// Only what waiting can cure (`Fault::Transient`); the whole batch may then be written again.
pub async fn write(pool: &Pool, rows: &[Row]) -> Result<Written, Error> {
    let mut client = pool.get().await.map_err(Error::Connect)?;
    let mut written = Written::default();
    let mut parts = vec![rows];
    while let Some(part) = parts.pop() {
        match write_part(&mut client, part).await {
            Ok(changed) => written.changed += changed,
            Err(error) if error.fault() == Fault::Row => match part {
                [row] => {
                    park(
                        pool,
                        row.kind,
                        &row.uid.to_string(),
                        &row.namespace,
                        &row.name,
                        row.resource_version,
                        &error.to_string(),
                    )
                    .await?;
                    written.parked += 1;
                }
                _ => {
                    let (left, right) = part.split_at(part.len() / 2);
                    parts.push(right);
                    parts.push(left);
                }
            },
            Err(error) => return Err(error),
        }
    }
    Ok(written)
}

/// Records an object that has no row.
///
/// # Errors
/// `Connect` or `Statement`.
pub async fn park(
    pool: &Pool,
    kind: Kind,
    uid: &str,
    namespace: &str,
    name: &str,
    version: impl std::fmt::Display,
    error: &str,
) -> Result<(), Error> {
    tracing::error!(kind = kind.table(), uid, namespace, name, error, "row set aside");
    let client = pool.get().await.map_err(Error::Connect)?;
    let version = version.to_string();
    let texts = [uid, namespace, name, &version, error].map(|t| t.replace('\0', "\\u0000"));
    let [uid, namespace, name, version, error] = &texts;
    client.execute(PARK, &[&kind.table(), uid, namespace, name, version, error]).await?;
    Ok(())
}

async fn write_part(client: &mut Object, rows: &[Row]) -> Result<u64, Error> {
    let transaction = client.transaction().await?;
    let mut changed = 0;
    for kind in Kind::ALL {
        let of_kind: Vec<&Row> = rows.iter().filter(|r| r.kind == kind).collect();
        if !of_kind.is_empty() {
            changed += write_kind(&transaction, kind, &of_kind).await?;
        }
    }
    transaction.commit().await?;
    Ok(changed)
}

async fn write_kind(transaction: &Transaction<'_>, kind: Kind, rows: &[&Row]) -> Result<u64, Error> {
    let statements = Statements::of(kind);
    let restored: Vec<&Row> = rows.iter().filter(|r| r.restored).copied().collect();
    if !restored.is_empty() {
        forget(transaction, statements, &restored).await?;
    }
    let columns: Vec<&Value> = rows.iter().map(|r| &r.columns).collect();
    let upsert = transaction.prepare_cached(&statements.upsert).await?;
    let mut changed = transaction.execute(&upsert, &[&Json(columns)]).await?;
    let gone: Vec<Uuid> = rows.iter().filter(|r| r.deleted).map(|r| r.uid).collect();
    if !gone.is_empty() {
        changed += tombstone_in(transaction, statements, &gone).await?;
    }
    insert_all(transaction, INSERT_EVENTS, rows.iter().flat_map(|r| &r.events)).await?;
    insert_all(transaction, INSERT_ARTIFACTS, rows.iter().flat_map(|r| &r.artifacts)).await?;
    let uids: Vec<String> = rows.iter().map(|r| r.uid.to_string()).collect();
    let unpark = transaction.prepare_cached(UNPARK).await?;
    transaction.execute(&unpark, &[&kind.table(), &uids]).await?;
    Ok(changed)
}

/// Drops what belongs to another past of the restored objects.
async fn forget(transaction: &Transaction<'_>, statements: &Statements, rows: &[&Row]) -> Result<(), Error> {
    let uids: Vec<Uuid> = rows.iter().map(|r| r.uid).collect();
    let first: Vec<i64> = rows.iter().map(|r| r.first_sequence).collect();
    transaction.execute(&statements.restore, &[&uids]).await?;
    transaction.execute(FORGET_EVENTS, &[&uids, &first]).await?;
    transaction.execute(FORGET_ARTIFACTS, &[&uids]).await?;
    Ok(())
}

async fn insert_all<'a>(
    transaction: &Transaction<'_>,
    sql: &str,
    values: impl Iterator<Item = &'a Value>,
) -> Result<(), Error> {
    let values: Vec<&Value> = values.collect();
    if !values.is_empty() {
        let statement = transaction.prepare_cached(sql).await?;
        transaction.execute(&statement, &[&Json(values)]).await?;
    }
    Ok(())
}

async fn tombstone_in(
    transaction: &Transaction<'_>,
    statements: &Statements,
    uids: &[Uuid],
) -> Result<u64, Error> {
    let statement = transaction.prepare_cached(&statements.tombstone).await?;
    Ok(transaction.execute(&statement, &[&uids]).await?)
}

/// Marks rows as deleted without a last state. Returns how many uids have no row at all.
///
/// # Errors
/// `Connect` or `Statement`.
pub async fn tombstone(pool: &Pool, kind: Kind, uids: &[Uuid]) -> Result<u64, Error> {
    let mut client = pool.get().await.map_err(Error::Connect)?;
    let statements = Statements::of(kind);
    let transaction = client.transaction().await?;
    tombstone_in(&transaction, statements, uids).await?;
    let present: i64 = transaction.query_one(&statements.present, &[&uids]).await?.get(0);
    transaction.commit().await?;
    Ok((uids.len() as u64).saturating_sub(u64::try_from(present).unwrap_or_default()))
}

/// A stored version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    pub uid: Uuid,
    pub resource_version: i64,
    pub deleted: bool,
}

/// Versions of the rows of `kind` in `namespace` that are not deleted, and of `uids` even if they are.
///
/// # Errors
/// `Connect` or `Statement`.
pub async fn versions(pool: &Pool, kind: Kind, namespace: &str, uids: &[Uuid]) -> Result<Vec<Stored>, Error> {
    let client = pool.get().await.map_err(Error::Connect)?;
    let rows = client.query(&Statements::of(kind).versions, &[&namespace, &uids]).await?;
    rows.iter()
        .map(|r| {
            Ok(Stored {
                uid: r.try_get("uid")?,
                resource_version: r.try_get("resource_version")?,
                deleted: r.try_get("deleted")?,
            })
        })
        .collect()
}

/// What to add to `mirror_state`.
#[derive(Clone, Copy, Debug, Default)]
pub struct StateChange {
    /// A complete list was compared.
    pub listed: bool,
    pub restored: u64,
    pub lost: u64,
}

/// Adds to `mirror_state`.
///
/// # Errors
/// `Connect` or `Statement`.
pub async fn add_state(pool: &Pool, kind: Kind, namespace: &str, change: StateChange) -> Result<(), Error> {
    let client = pool.get().await.map_err(Error::Connect)?;
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    client
        .execute(
            "INSERT INTO mirror_state AS s (kind, namespace, listed_at, restored, lost)
             VALUES ($1, $2, CASE WHEN $3 THEN now() END, $4, $5)
             ON CONFLICT (kind, namespace) DO UPDATE SET
                 listed_at = coalesce(excluded.listed_at, s.listed_at),
                 restored = s.restored + excluded.restored,
                 lost = s.lost + excluded.lost",
            &[&kind.table(), &namespace, &change.listed, &number(change.restored), &number(change.lost)],
        )
        .await?;
    Ok(())
}
