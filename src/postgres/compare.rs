//! Rows beside objects: what differs. Reads only; what to do about a difference is not decided here.

use std::collections::{HashMap, HashSet};
use std::fmt;

use deadpool_postgres::{Object, Pool};
use serde_json::Value;
use tokio_postgres::types::Json;
use uuid::Uuid;

use super::Error;
use super::rows::{Kind, Row};
use super::statements::{self as sql, Statements};

/// How a row differs from its object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Difference {
    /// The object has no row.
    Missing,
    /// The row is marked as deleted, the object lives.
    Deleted,
    /// The row shows an older version.
    Behind { row: i64, object: i64 },
    /// The row shows a newer version: of a time before the cluster was restored, or just written.
    Ahead { row: i64, object: i64 },
    /// The versions are the same, these columns are not.
    Columns(Vec<String>),
    /// Transitions, plans or artifacts that are missing, different or too many.
    Parts(Vec<String>),
    /// The row has no object and is not marked as deleted.
    Gone,
    /// Postgres refused the row, or the object has none, with these words.
    Parked(String),
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => write!(f, "has no row"),
            Self::Deleted => write!(f, "lives and its row is marked as deleted"),
            Self::Behind { row, object } => write!(f, "is at version {object}, its row at {row}"),
            Self::Ahead { row, object } => write!(f, "is at version {object}, its row already at {row}"),
            Self::Columns(columns) => write!(f, "differs in {}", columns.join(", ")),
            Self::Parts(parts) => write!(f, "{}", parts.join("; ")),
            Self::Gone => write!(f, "is gone and its row is not marked as deleted"),
            Self::Parked(error) => write!(f, "was set aside: {error}"),
        }
    }
}

/// What the tables hold about one object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Version in the row; `None`: there is none.
    pub version: Option<i64>,
    pub deleted: bool,
    /// Columns that differ from those of the object.
    pub columns: Vec<String>,
    /// What is wrong with its events and artifacts.
    pub parts: Vec<String>,
    /// Why its row was set aside, and at which version.
    pub parked: Option<(String, String)>,
}

/// How what was found differs from the object at `version`. An older row needs no further words.
pub fn difference(version: i64, found: &Found) -> Option<Difference> {
    let parked = found.parked.as_ref().map(|(_, error)| Difference::Parked(error.clone()));
    let Some(row) = found.version else {
        return Some(parked.unwrap_or(Difference::Missing));
    };
    if found.deleted {
        return Some(Difference::Deleted);
    }
    if row < version {
        return Some(parked.unwrap_or(Difference::Behind { row, object: version }));
    }
    if row > version {
        return Some(Difference::Ahead { row, object: version });
    }
    if !found.columns.is_empty() {
        return Some(Difference::Columns(found.columns.clone()));
    }
    if !found.parts.is_empty() {
        return Some(Difference::Parts(found.parts.clone()));
    }
    parked
}

/// What the tables hold about these objects of one kind, in their order.
///
/// # Errors
/// `Connect` or `Statement`.
pub async fn find(pool: &Pool, kind: Kind, rows: &[Row]) -> Result<Vec<Found>, Error> {
    let client = pool.get().await.map_err(Error::Connect)?;
    let mut found: HashMap<Uuid, Found> = HashMap::new();
    let columns: Vec<&Value> = rows.iter().map(|r| &r.columns).collect();
    for row in client.query(&Statements::of(kind).compare, &[&Json(columns)]).await? {
        let version: Option<i64> = row.try_get("resource_version")?;
        found.insert(
            row.try_get("uid")?,
            Found {
                version,
                deleted: row.try_get("deleted")?,
                columns: if version.is_some() { row.try_get("columns")? } else { Vec::new() },
                ..Found::default()
            },
        );
    }
    let events: Vec<&Value> = rows.iter().flat_map(|r| &r.events).collect();
    parts(&client, sql::COMPARE_EVENTS, &events, &mut found).await?;
    let derived: Vec<&Value> = rows.iter().flat_map(|r| &r.derived).collect();
    parts(&client, sql::COMPARE_DERIVED, &derived, &mut found).await?;
    let artifacts: Vec<&Value> = rows.iter().flat_map(|r| &r.artifacts).collect();
    parts(&client, sql::COMPARE_ARTIFACTS, &artifacts, &mut found).await?;
    let uids: Vec<String> = rows.iter().map(|r| r.uid.to_string()).collect();
    for row in client.query(sql::PARKED_OF, &[&kind.table(), &uids]).await? {
        if let Ok(uid) = Uuid::parse_str(row.try_get("uid")?) {
            found.entry(uid).or_default().parked = Some((row.try_get("version")?, row.try_get("error")?));
        }
    }
    Ok(rows.iter().map(|r| found.remove(&r.uid).unwrap_or_default()).collect())
}

async fn parts(
    client: &Object,
    sql: &str,
    values: &[&Value],
    found: &mut HashMap<Uuid, Found>,
) -> Result<(), Error> {
    if values.is_empty() {
        return Ok(());
    }
    for row in client.query(sql, &[&Json(values)]).await? {
        found.entry(row.try_get("uid")?).or_default().parts.push(row.try_get("part")?);
    }
    Ok(())
}

/// Uids of the rows of `kind` in `namespace` (empty: in all) that are not marked as deleted.
///
/// # Errors
/// `Connect` or `Statement`.
pub async fn live(pool: &Pool, kind: Kind, namespace: &str) -> Result<HashSet<Uuid>, Error> {
    let client = pool.get().await.map_err(Error::Connect)?;
    let rows = client.query(&Statements::of(kind).live, &[&namespace]).await?;
    rows.iter().map(|r| Ok(r.try_get(0)?)).collect()
}

/// Namespace and name of those of `uids` whose rows are not marked as deleted.
///
/// # Errors
/// `Connect` or `Statement`.
pub async fn names(pool: &Pool, kind: Kind, uids: &[Uuid]) -> Result<Vec<(Uuid, String, String)>, Error> {
    let client = pool.get().await.map_err(Error::Connect)?;
    let rows = client.query(&Statements::of(kind).names, &[&uids]).await?;
    rows.iter().map(|r| Ok((r.try_get(0)?, r.try_get(1)?, r.try_get(2)?))).collect()
}

/// Uids of the objects of `kind` in `namespace` (empty: in all) that are set aside.
///
/// # Errors
/// `Connect` or `Statement`.
pub async fn parked(pool: &Pool, kind: Kind, namespace: &str) -> Result<Vec<String>, Error> {
    let client = pool.get().await.map_err(Error::Connect)?;
    let rows = client.query(sql::PARKED, &[&kind.table(), &namespace]).await?;
    rows.iter().map(|r| Ok(r.try_get(0)?)).collect()
}

/// Forgets that objects were set aside: they are gone, or their rows are right.
///
/// # Errors
/// `Connect` or `Statement`.
pub async fn unpark(pool: &Pool, kind: Kind, uids: &[String]) -> Result<u64, Error> {
    let client = pool.get().await.map_err(Error::Connect)?;
    Ok(client.execute(sql::UNPARK, &[&kind.table(), &uids]).await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(version: i64) -> Found {
        Found { version: Some(version), ..Found::default() }
    }

    #[test]
    fn a_row_is_compared_by_existence_then_version_then_content() {
        let columns = vec!["title".to_owned()];
        let parts = vec!["transition 3 is missing".to_owned()];
        let parked = Some(("7".to_owned(), "refused".to_owned()));
        let cases = [
            (Found::default(), Some(Difference::Missing)),
            (found(10), None),
            (found(9), Some(Difference::Behind { row: 9, object: 10 })),
            (found(11), Some(Difference::Ahead { row: 11, object: 10 })),
            (Found { deleted: true, ..found(9) }, Some(Difference::Deleted)),
            (Found { deleted: true, ..found(11) }, Some(Difference::Deleted)),
            // An older row differs in its columns, too: that says nothing more.
            (Found { columns: columns.clone(), ..found(9) }, Some(Difference::Behind { row: 9, object: 10 })),
            (
                Found { columns: columns.clone(), parts: parts.clone(), ..found(10) },
                Some(Difference::Columns(columns)),
            ),
            (Found { parts: parts.clone(), ..found(10) }, Some(Difference::Parts(parts))),
            (
                Found { parked: parked.clone(), ..Found::default() },
                Some(Difference::Parked("refused".into())),
            ),
            (Found { parked: parked.clone(), ..found(9) }, Some(Difference::Parked("refused".into()))),
            (Found { parked, ..found(10) }, Some(Difference::Parked("refused".into()))),
        ];
        for (found, expected) in cases {
            assert_eq!(difference(10, &found), expected, "{found:?}");
        }
    }
}
