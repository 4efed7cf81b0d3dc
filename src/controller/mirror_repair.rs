//! Makes the tables equal to the cluster, whatever happened to either: compares every object with its
//! row, writes what differs, marks what is gone.
//!
//! Exact without waiting, and so safe beside any number of running mirrors, a former leader's too: what
//! is in doubt is first read in Postgres and then in the cluster. A row that was live before a complete
//! list was asked for and is not in it is gone; a row newer than its object as it is now is of a time
//! before the cluster was restored. A row is only set back from the very version that was judged.

use std::collections::HashSet;

use deadpool_postgres::Pool;
use uuid::Uuid;

use super::mirror_cluster::Cluster;
use super::mirrored::Mirrored;
use crate::postgres::compare::{self, Difference, Found, difference};
use crate::postgres::write::{self, StateChange, Writer};
use crate::postgres::{Error as DatabaseError, Kind, Row};

/// Rows marked as deleted by one statement.
const TOMBSTONES: usize = 1000;

/// Why a repair did not come to its end; it may begin again.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("failed to use the database")]
    Database(#[from] DatabaseError),
    #[error("failed to read {0} from the cluster")]
    Cluster(&'static str, #[source] Box<kube::Error>),
}

impl Error {
    pub(super) fn cluster(kind: Kind) -> impl Fn(kube::Error) -> Self {
        move |error| Self::Cluster(kind.table(), Box::new(error))
    }
}

/// What a repair did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Objects looked at.
    pub objects: u64,
    /// Rows that were missing, older or different, and are written.
    pub written: u64,
    /// Rows set back to an older version: the cluster was restored.
    pub set_back: u64,
    /// Rows marked as deleted.
    pub tombstoned: u64,
    /// Objects that were set aside and no longer are.
    pub unparked: u64,
    /// Objects set aside.
    pub parked: u64,
}

impl std::ops::AddAssign for Repaired {
    fn add_assign(&mut self, more: Self) {
        let Self { objects, written, set_back, tombstoned, unparked, parked } = more;
        self.objects += objects;
        self.written += written;
        self.set_back += set_back;
        self.tombstoned += tombstoned;
        self.unparked += unparked;
        self.parked += parked;
    }
}

/// One repair's means.
pub struct Repair<'a> {
    pub pool: &'a Pool,
    pub cluster: &'a dyn Cluster,
    /// Whether what was refused in its present version is tried again.
    pub retry_parked: bool,
    pub writer: Writer,
}

impl<'a> Repair<'a> {
    /// A repair that leaves what was refused alone until it changes.
    pub fn new(pool: &'a Pool, cluster: &'a dyn Cluster) -> Self {
        Self { pool, cluster, retry_parked: false, writer: Writer::default() }
    }

    /// Repairs the rows of `kind` in `namespace` (empty: in all).
    ///
    /// # Errors
    /// When the database or the cluster cannot be asked; what was done by then stands.
    pub async fn run(&mut self, kind: Kind, namespace: &str) -> Result<Repaired, Error> {
        let mut done = Repaired::default();
        let parked_before: HashSet<String> =
            compare::parked(self.pool, kind, namespace).await?.into_iter().collect();
        let mut gone = compare::live(self.pool, kind, namespace).await?;
        let mut listed_parked = HashSet::new();
        let mut after = None;
        loop {
            let page = self.cluster.page(kind, namespace, after).await.map_err(Error::cluster(kind))?;
            for object in &page.objects {
                let uid = object.uid();
                if let Ok(uid) = Uuid::parse_str(&uid) {
                    gone.remove(&uid);
                }
                if parked_before.contains(&uid) {
                    listed_parked.insert(uid);
                }
            }
            done += self.repair_page(kind, page.objects).await?;
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        let gone: Vec<Uuid> = gone.into_iter().collect();
        for uids in gone.chunks(TOMBSTONES) {
            write::tombstone(self.pool, kind, uids, &mut self.writer).await?;
            done.tombstoned += uids.len() as u64;
        }
        let forgotten: Vec<String> = parked_before.difference(&listed_parked).cloned().collect();
        done.unparked += compare::unpark(self.pool, kind, &forgotten).await?;
        if done.set_back > 0 {
            let change = StateChange { restored: done.set_back, ..StateChange::default() };
            write::add_state(self.pool, kind, namespace, change).await?;
        }
        Ok(done)
    }

    async fn repair_page(&mut self, kind: Kind, objects: Vec<Mirrored>) -> Result<Repaired, Error> {
        let mut done = Repaired { objects: objects.len() as u64, ..Repaired::default() };
        let rows = self.rows(&objects, &mut done).await?;
        let found = compare::find(self.pool, kind, &rows).await?;
        let (mut write, mut right) = (Vec::new(), Vec::new());
        for (row, found) in rows.into_iter().zip(found) {
            match difference(row.resource_version, &found) {
                None => {}
                Some(Difference::Missing | Difference::Behind { .. }) => write.push(row),
                Some(Difference::Parked(_)) => self.retry(row, &found, &mut write, &mut right),
                Some(
                    Difference::Deleted
                    | Difference::Ahead { .. }
                    | Difference::Columns(_)
                    | Difference::Parts(_),
                ) => write.extend(self.confirm(kind, &row, &found, &mut done).await?),
                // Of rows without an object only.
                Some(Difference::Gone) => {}
            }
        }
        let again = write.iter().filter(|row| row.replaces.is_none()).count();
        let outcome = write::write_as(self.pool, &write, &mut self.writer).await?;
        done.written += (write.len() as u64).saturating_sub(outcome.parked);
        done.parked += outcome.parked;
        done.unparked += compare::unpark(self.pool, kind, &right).await?;
        tracing::debug!(kind = kind.table(), again, written = done.written, "page compared");
        Ok(done)
    }

    /// What becomes of an object that was set aside: forgotten where its row is right, tried again when
    /// it has changed or somebody asked for it.
    fn retry(&self, row: Row, found: &Found, write: &mut Vec<Row>, right: &mut Vec<String>) {
        let at = found.parked.as_ref().map(|(version, _)| version.as_str());
        if found.version == Some(row.resource_version) {
            right.push(row.uid.to_string());
        } else if self.retry_parked || at != Some(row.resource_version.to_string().as_str()) {
            write.push(row);
        }
    }

    /// Judges a row by the object as it is now, after the row was read.
    async fn confirm(
        &self,
        kind: Kind,
        row: &Row,
        found: &Found,
        done: &mut Repaired,
    ) -> Result<Option<Row>, Error> {
        let now = self.cluster.get(kind, &row.namespace, &row.name).await.map_err(Error::cluster(kind))?;
        let now = now.filter(|object| object.uid() == row.uid.to_string());
        let (Some(object), Some(stored)) = (now, found.version) else {
            // It is gone meanwhile, and whoever saw it go says so; or the next comparison does.
            return Ok(None);
        };
        let Ok(mut row) = object.row() else { return Ok(None) };
        if row.resource_version <= stored || found.deleted {
            row.replaces = Some(stored);
        }
        done.set_back += u64::from(row.resource_version < stored);
        Ok(Some(row))
    }

    /// The rows of `objects`; those that have none are set aside.
    async fn rows(&self, objects: &[Mirrored], done: &mut Repaired) -> Result<Vec<Row>, Error> {
        let mut rows = Vec::with_capacity(objects.len());
        for object in objects {
            match object.row() {
                Ok(row) => rows.push(row),
                Err(error) => {
                    park(self.pool, object, &error.to_string()).await?;
                    done.parked += 1;
                }
            }
        }
        Ok(rows)
    }
}

/// Sets an object aside that has no row.
///
/// # Errors
/// When the database cannot be asked.
pub async fn park(pool: &Pool, object: &Mirrored, error: &str) -> Result<(), DatabaseError> {
    let meta = object.meta();
    let text = |t: &Option<String>| t.clone().unwrap_or_default();
    let (uid, version) = (text(&meta.uid), text(&meta.resource_version));
    let (namespace, name) = (text(&meta.namespace), text(&meta.name));
    write::park(pool, object.kind(), &uid, &namespace, &name, version, error).await
}
