//! Mirror writes: batches of rows in one transaction, guarded by resourceVersion, idempotent.

use deadpool_postgres::{Object, Pool, Transaction};
use serde_json::Value;
use tokio_postgres::types::Json;
use uuid::Uuid;

use super::rows::{Kind, Row};
use super::statements::{self as sql, Statements};
use super::{Error, Fault};

/// What became of a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Rows inserted or changed; a replay changes none.
    pub changed: u64,
    /// Rows the database refused, now in `mirror_parked`.
    pub parked: u64,
}

/// One process that writes, and how many of its batches it knows to be committed.
#[derive(Clone, Debug, Default)]
pub struct Writer {
    id: Option<Uuid>,
    acknowledged: i64,
    went_back: bool,
}

impl Writer {
    /// Whether the database has lost batches that were acknowledged, since this was last asked: it was
    /// restored from a backup, or a replica that lagged took over.
    pub fn take_went_back(&mut self) -> bool {
        std::mem::take(&mut self.went_back)
    }

    /// Looks whether the database still has every acknowledged batch.
    ///
    /// # Errors
    /// `Connect` or `Statement`.
    pub async fn check(&mut self, pool: &Pool) -> Result<(), Error> {
        let Some(id) = self.id else { return Ok(()) };
        let client = pool.get().await.map_err(Error::Connect)?;
        let row = client.query_opt("SELECT batches FROM mirror_writers WHERE writer = $1", &[&id]).await?;
        let batches: Option<i64> = row.map(|r| r.try_get(0)).transpose()?;
        if self.acknowledged > 0 && batches.is_none_or(|batches| batches < self.acknowledged) {
            client.execute(sql::REGISTER, &[&Some(id), &self.acknowledged]).await?;
            self.went_back = true;
        }
        Ok(())
    }

    /// Counts a batch within its transaction. Returns the count to be remembered once it is committed.
    async fn advance(&mut self, transaction: &Transaction<'_>) -> Result<i64, Error> {
        if let Some(id) = self.id {
            let advance = transaction.prepare_cached(sql::ADVANCE).await?;
            let row = transaction.query_opt(&advance, &[&id]).await?;
            let batches: Option<i64> = row.map(|r| r.try_get(0)).transpose()?;
            if let Some(batches) = batches.filter(|batches| *batches > self.acknowledged) {
                return Ok(batches);
            }
            // Not known and nothing acknowledged: its first transaction was rolled back.
            self.went_back |= self.acknowledged > 0;
        } else {
            transaction.execute(sql::FORGET_WRITERS, &[]).await?;
        }
        let next = self.acknowledged + 1;
        let row = transaction.query_one(sql::REGISTER, &[&self.id, &next]).await?;
        self.id = Some(row.try_get(0)?);
        Ok(next)
    }
}

/// Writes `rows`. A row the database refuses is found by halving the batch, and parked: it never
/// holds up the others. Nothing is half-written: each part is one transaction.
///
/// # Errors
/// Only what waiting can cure (`Fault::Transient`); the whole batch may then be written again.
pub async fn write(pool: &Pool, rows: &[Row]) -> Result<Written, Error> {
    write_as(pool, rows, &mut Writer::default()).await
}

/// [`write`] of a writer that goes on.
///
/// # Errors
/// Only what waiting can cure (`Fault::Transient`); the whole batch may then be written again.
pub async fn write_as(pool: &Pool, rows: &[Row], writer: &mut Writer) -> Result<Written, Error> {
    let mut client = pool.get().await.map_err(Error::Connect)?;
    let mut written = Written::default();
    let mut parts = if rows.is_empty() { vec![] } else { vec![rows] };
    while let Some(part) = parts.pop() {
        match write_part(&mut client, part, writer).await {
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
    client.execute(sql::PARK, &[&kind.table(), uid, namespace, name, version, error]).await?;
    Ok(())
}

async fn write_part(client: &mut Object, rows: &[Row], writer: &mut Writer) -> Result<u64, Error> {
    let transaction = client.transaction().await?;
    let batches = writer.advance(&transaction).await?;
    let mut changed = 0;
    for kind in Kind::ALL {
        let of_kind: Vec<&Row> = rows.iter().filter(|r| r.kind == kind).collect();
        if !of_kind.is_empty() {
            changed += write_kind(&transaction, kind, &of_kind).await?;
        }
    }
    let reviewed: Vec<Uuid> = rows.iter().filter_map(|r| r.reviewed).collect();
    if !reviewed.is_empty() {
        let complete = transaction.prepare_cached(sql::COMPLETE_REVIEWS).await?;
        transaction.execute(&complete, &[&reviewed]).await?;
    }
    transaction.commit().await?;
    writer.acknowledged = batches;
    Ok(changed)
}

async fn write_kind(transaction: &Transaction<'_>, kind: Kind, rows: &[&Row]) -> Result<u64, Error> {
    let statements = Statements::of(kind);
    forget(transaction, statements, rows).await?;
    let columns: Vec<&Value> = rows.iter().map(|r| &r.columns).collect();
    let upsert = transaction.prepare_cached(&statements.upsert).await?;
    let mut changed = transaction.execute(&upsert, &[&Json(columns)]).await?;
    let gone: Vec<Uuid> = rows.iter().filter(|r| r.deleted).map(|r| r.uid).collect();
    if !gone.is_empty() {
        changed += tombstone_in(transaction, statements, &gone).await?;
    }
    insert_all(transaction, sql::INSERT_EVENTS, rows.iter().flat_map(|r| &r.events)).await?;
    insert_all(transaction, sql::INSERT_DERIVED, rows.iter().flat_map(|r| &r.derived)).await?;
    insert_all(transaction, sql::INSERT_ARTIFACTS, rows.iter().flat_map(|r| &r.artifacts)).await?;
    let uids: Vec<String> = rows.iter().map(|r| r.uid.to_string()).collect();
    let unpark = transaction.prepare_cached(sql::UNPARK).await?;
    transaction.execute(&unpark, &[&kind.table(), &uids]).await?;
    Ok(changed)
}

/// Drops what belongs to another past of the rows that are to be set back and have not changed since
/// that was decided.
async fn forget(transaction: &Transaction<'_>, statements: &Statements, rows: &[&Row]) -> Result<(), Error> {
    let (uids, seen): (Vec<Uuid>, Vec<i64>) =
        rows.iter().filter_map(|r| r.replaces.map(|seen| (r.uid, seen))).unzip();
    if uids.is_empty() {
        return Ok(());
    }
    let back = transaction.query(&statements.restore, &[&uids, &seen]).await?;
    let back: Vec<Uuid> = back.iter().map(|r| r.try_get(0)).collect::<Result<_, _>>()?;
    let first: Vec<i64> = rows.iter().filter(|r| back.contains(&r.uid)).map(|r| r.first_sequence).collect();
    let uids: Vec<Uuid> = rows.iter().filter(|r| back.contains(&r.uid)).map(|r| r.uid).collect();
    transaction.execute(sql::FORGET_EVENTS, &[&uids, &first]).await?;
    transaction.execute(sql::FORGET_DERIVED, &[&uids]).await?;
    transaction.execute(sql::FORGET_ARTIFACTS, &[&uids]).await?;
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
pub async fn tombstone(pool: &Pool, kind: Kind, uids: &[Uuid], writer: &mut Writer) -> Result<u64, Error> {
    let mut client = pool.get().await.map_err(Error::Connect)?;
    let statements = Statements::of(kind);
    let transaction = client.transaction().await?;
    let batches = writer.advance(&transaction).await?;
    tombstone_in(&transaction, statements, uids).await?;
    let present: i64 = transaction.query_one(&statements.present, &[&uids]).await?.get(0);
    let gone: Vec<String> = uids.iter().map(Uuid::to_string).collect();
    transaction.execute(sql::UNPARK, &[&kind.table(), &gone]).await?;
    transaction.commit().await?;
    writer.acknowledged = batches;
    Ok((uids.len() as u64).saturating_sub(u64::try_from(present).unwrap_or_default()))
}

/// A stored version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    pub uid: Uuid,
    pub resource_version: i64,
    pub deleted: bool,
}

/// Versions of the rows of `kind` in `namespace` (empty: in all) that are not deleted, and of `uids` even
/// if they are. A parked object counts as stored.
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
