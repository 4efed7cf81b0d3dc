//! The stream of changes: which rows a statement has changed, numbered in the order of the commits.
//! Written by triggers (migration V5), kept for 15 minutes, read here.

use std::sync::Arc;

use tokio::sync::Notify;
use tokio_postgres::Client;
use uuid::Uuid;

use super::{DatabaseConfig, Error, pool};

/// Told of by every transaction that changes a row.
const CHANNEL: &str = "opentiger_changes";

/// Rows of one kind that one statement has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Its number; rises from commit to commit, with gaps.
    pub seq: i64,
    /// `task`, `run`, `pool`, `system` or `operation`.
    pub kind: String,
    pub rows: Vec<Changed>,
}

/// One changed row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Changed {
    pub uid: Uuid,
    /// resourceVersion of the object; -1 when it is about to be set back.
    pub version: i64,
    pub deleted: bool,
}

/// Where the stream begins and ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Numbers of another epoch mean nothing here.
    pub epoch: String,
    /// The last number that is no longer kept.
    pub pruned_to: i64,
    /// The last number that is.
    pub head: i64,
}

impl Extent {
    /// Whether all that came after `seq` is still there.
    pub fn covers(&self, seq: i64) -> bool {
        (self.pruned_to..=self.head).contains(&seq)
    }
}

/// Where the stream of `namespace` begins and ends now.
///
/// # Errors
/// `Statement`, or `Value` when the state is missing.
pub async fn extent(client: &Client) -> Result<Extent, Error> {
    let row = client
        .query_opt(
            "SELECT epoch, pruned_to, greatest(pruned_to, (SELECT max(seq) FROM changes)) FROM change_state",
            &[],
        )
        .await?
        .ok_or_else(|| Error::Value("change_state has no row".into()))?;
    Ok(Extent { epoch: row.try_get(0)?, pruned_to: row.try_get(1)?, head: row.try_get(2)? })
}

/// At most `limit` batches of `namespace` after `seq`, in their order.
///
/// # Errors
/// `Statement`.
pub async fn after(client: &Client, namespace: &str, seq: i64, limit: i64) -> Result<Vec<Batch>, Error> {
    let rows = client
        .query(
            "SELECT seq, kind, uids, versions, deleted FROM changes
              WHERE namespace = $1 AND seq > $2 ORDER BY seq LIMIT $3",
            &[&namespace, &seq, &limit],
        )
        .await?;
    rows.iter()
        .map(|row| {
            let uids: Vec<Uuid> = row.try_get("uids")?;
            let versions: Vec<i64> = row.try_get("versions")?;
            let deleted: Vec<bool> = row.try_get("deleted")?;
            let rows = uids.into_iter().zip(versions).zip(deleted);
            Ok(Batch {
                seq: row.try_get("seq")?,
                kind: row.try_get("kind")?,
                rows: rows.map(|((uid, version), deleted)| Changed { uid, version, deleted }).collect(),
            })
        })
        .collect()
}

/// A connection of its own that is told of every change.
pub struct Listener {
    client: Client,
    heard: Arc<Notify>,
}

impl Listener {
    /// Connects.
    ///
    /// # Errors
    /// `Settings` or `Statement`.
    pub async fn connect(config: &DatabaseConfig) -> Result<Self, Error> {
        let heard = Arc::new(Notify::new());
        let client = pool::listen(config, CHANNEL, heard.clone()).await?;
        Ok(Self { client, heard })
    }

    /// For queries.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Until something has changed since the last call, or the connection has ended.
    pub async fn changed(&self) {
        self.heard.notified().await;
    }
}
