//! Compares the cluster with the tables and changes nothing. What differs is read again and again, so
//! that a row which is only on its way is not called a difference.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use deadpool_postgres::Pool;
use uuid::Uuid;

use super::mirror_cluster::Cluster;
use super::mirror_repair::Error;
use super::mirrored::Mirrored;
use crate::postgres::Kind;
use crate::postgres::compare::{self, Difference, difference};

/// Wait between two readings of what differs.
const AGAIN: Duration = Duration::from_millis(500);

/// One object that differs from its row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub kind: Kind,
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub what: Difference,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, namespace, name, uid, what } = self;
        write!(f, "{} {namespace}/{name} {uid} {what}", kind.table())
    }
}

/// What a comparison came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Objects compared.
    pub objects: u64,
    /// What still differs.
    pub differences: Vec<Line>,
}

type Differences = BTreeMap<(Kind, String), Line>;

/// Compares the objects of `namespace` (empty: of all) with their rows. What differs is compared again
/// until it has not changed for `settle`, or all is well, or `patience` is over.
///
/// # Errors
/// When the database or the cluster cannot be asked.
pub async fn verify(
    pool: &Pool,
    cluster: &dyn Cluster,
    namespace: &str,
    settle: Duration,
    patience: Duration,
) -> Result<Verified, Error> {
    let (mut objects, mut differ) = (0, Differences::new());
    for kind in Kind::ALL {
        objects += compare_all(pool, cluster, kind, namespace, &mut differ).await?;
    }
    let started = tokio::time::Instant::now();
    let mut stable_since = started;
    while !differ.is_empty() && stable_since.elapsed() < settle && started.elapsed() < patience {
        tokio::time::sleep(AGAIN).await;
        let still = again(pool, cluster, &differ).await?;
        if still != differ {
            stable_since = tokio::time::Instant::now();
        }
        differ = still;
    }
    Ok(Verified { objects, differences: differ.into_values().collect() })
}

async fn compare_all(
    pool: &Pool,
    cluster: &dyn Cluster,
    kind: Kind,
    namespace: &str,
    differ: &mut Differences,
) -> Result<u64, Error> {
    let (mut objects, mut after) = (0, None);
    let mut gone = compare::live(pool, kind, namespace).await?;
    loop {
        let page = cluster.page(kind, namespace, after).await.map_err(Error::cluster(kind))?;
        objects += page.objects.len() as u64;
        for object in &page.objects {
            if let Ok(uid) = Uuid::parse_str(&object.uid()) {
                gone.remove(&uid);
            }
        }
        compare_some(pool, kind, &page.objects, differ).await?;
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    let gone: Vec<Uuid> = gone.into_iter().collect();
    note_gone(pool, kind, &gone, differ).await?;
    Ok(objects)
}

async fn compare_some(
    pool: &Pool,
    kind: Kind,
    objects: &[Mirrored],
    differ: &mut Differences,
) -> Result<(), Error> {
    let mut rows = Vec::with_capacity(objects.len());
    for object in objects {
        match object.row() {
            Ok(row) => rows.push(row),
            Err(error) => {
                let what = Difference::Parked(error.to_string());
                note(differ, kind, object.namespace(), &object.name(), &object.uid(), what);
            }
        }
    }
    let found = compare::find(pool, kind, &rows).await?;
    for (row, found) in rows.iter().zip(&found) {
        if let Some(what) = difference(row.resource_version, found) {
            note(differ, kind, &row.namespace, &row.name, &row.uid.to_string(), what);
        }
    }
    Ok(())
}

async fn note_gone(pool: &Pool, kind: Kind, uids: &[Uuid], differ: &mut Differences) -> Result<(), Error> {
    if uids.is_empty() {
        return Ok(());
    }
    for (uid, namespace, name) in compare::names(pool, kind, uids).await? {
        note(differ, kind, &namespace, &name, &uid.to_string(), Difference::Gone);
    }
    Ok(())
}

/// Compares what differed once more.
async fn again(pool: &Pool, cluster: &dyn Cluster, before: &Differences) -> Result<Differences, Error> {
    let mut differ = Differences::new();
    for kind in Kind::ALL {
        let (mut objects, mut gone) = (Vec::new(), Vec::new());
        for line in before.values().filter(|line| line.kind == kind) {
            let now = cluster.get(kind, &line.namespace, &line.name).await.map_err(Error::cluster(kind))?;
            match now.filter(|object| object.uid() == line.uid) {
                Some(object) => objects.push(object),
                None => gone.extend(Uuid::parse_str(&line.uid)),
            }
        }
        compare_some(pool, kind, &objects, &mut differ).await?;
        note_gone(pool, kind, &gone, &mut differ).await?;
    }
    Ok(differ)
}

fn note(differ: &mut Differences, kind: Kind, namespace: &str, name: &str, uid: &str, what: Difference) {
    let line = Line { kind, namespace: namespace.into(), name: name.into(), uid: uid.into(), what };
    differ.insert((kind, uid.to_owned()), line);
}
