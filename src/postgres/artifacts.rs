//! What was posted over HTTP about Runs, kept in Postgres. Written by the API, in this table only; what
//! follows from a Run itself is the mirror's (`artifacts`).

use deadpool_postgres::Pool;
use serde_json::Value;
use uuid::Uuid;

use super::Error;
use super::queries::ArtifactRecord;

/// Most artifacts that one Run may have posted about it.
pub const MAX_PER_RUN: i64 = 100;

/// An artifact about to be kept.
#[derive(Clone, Debug)]
pub struct NewArtifact {
    /// The same for every repeat of a request; absent: a new one.
    pub id: Option<Uuid>,
    pub run_uid: Uuid,
    pub kind: String,
    pub reference: Option<String>,
    pub url: Option<String>,
    pub metadata: Option<Value>,
    pub content: Option<Vec<u8>>,
    pub content_type: Option<String>,
    /// Hash of the request.
    pub request_hash: Option<String>,
}

/// What became of it.
#[derive(Clone, Debug)]
pub enum Kept {
    /// It is there now, or was already by the same request.
    There(Box<ArtifactRecord>),
    /// Another request has its id.
    Other,
    /// The Run has [`MAX_PER_RUN`] already.
    Full,
}

/// Keeps `new`. The same again changes nothing.
///
/// # Errors
/// `Connect` or `Statement`.
pub async fn keep(pool: &Pool, namespace: &str, new: &NewArtifact) -> Result<Kept, Error> {
    let client = pool.get().await.map_err(Error::Connect)?;
    let inserted = client
        .query_opt(
            "INSERT INTO posted_artifacts
                 (id, run_uid, namespace, type, ref, url, metadata, content, content_type, request_hash)
             SELECT coalesce($1, gen_random_uuid()), $2, $3, $4, $5, $6, $7, $8, $9, $10
              WHERE (SELECT count(*) FROM posted_artifacts WHERE run_uid = $2) < $11
             ON CONFLICT (id) DO NOTHING
             RETURNING id, run_uid, type, ref, url, metadata, created_at",
            &[
                &new.id,
                &new.run_uid,
                &namespace,
                &new.kind,
                &new.reference,
                &new.url,
                &new.metadata,
                &new.content,
                &new.content_type,
                &new.request_hash,
                &MAX_PER_RUN,
            ],
        )
        .await?;
    if let Some(row) = inserted {
        return Ok(Kept::There(Box::new(ArtifactRecord::read(&row)?)));
    }
    let known = client
        .query_opt(
            "SELECT id, run_uid, type, ref, url, metadata, created_at,
                    request_hash IS NOT DISTINCT FROM $2 AS same
               FROM posted_artifacts WHERE id = $1",
            &[&new.id, &new.request_hash],
        )
        .await?;
    match known {
        None => Ok(Kept::Full),
        Some(row) if row.try_get("same")? => Ok(Kept::There(Box::new(ArtifactRecord::read(&row)?))),
        Some(_) => Ok(Kept::Other),
    }
}

/// Bytes and their type.
#[derive(Clone, Debug)]
pub struct Content {
    pub bytes: Vec<u8>,
    pub content_type: Option<String>,
}

/// The bytes of an artifact of a Run. `None`: there is no such artifact; `Some(None)`: it has none.
///
/// # Errors
/// `Connect` or `Statement`.
pub async fn content(
    pool: &Pool,
    namespace: &str,
    run: Uuid,
    id: Uuid,
) -> Result<Option<Option<Content>>, Error> {
    let client = pool.get().await.map_err(Error::Connect)?;
    let row = client
        .query_opt(
            "SELECT content, content_type FROM posted_artifacts
              WHERE id = $1 AND run_uid = $2 AND namespace = $3
             UNION ALL
             SELECT NULL, NULL FROM artifacts WHERE id = $1 AND run_uid = $2 AND namespace = $3
             LIMIT 1",
            &[&id, &run, &namespace],
        )
        .await?;
    let Some(row) = row else { return Ok(None) };
    let bytes: Option<Vec<u8>> = row.try_get(0)?;
    let content_type = row.try_get(1)?;
    Ok(Some(bytes.map(|bytes| Content { bytes, content_type })))
}

/// The newest diff posted about one of `runs` as `base_repo_diff`: `metadata.diff`, else the content.
///
/// # Errors
/// `Connect` or `Statement`.
pub async fn diff(pool: &Pool, namespace: &str, runs: &[Uuid]) -> Result<Option<String>, Error> {
    let client = pool.get().await.map_err(Error::Connect)?;
    let row = client
        .query_opt(
            "SELECT metadata ->> 'diff', content FROM posted_artifacts
              WHERE namespace = $1 AND run_uid = ANY($2) AND type = 'base_repo_diff'
                AND (metadata ->> 'diff' IS NOT NULL OR content IS NOT NULL)
              ORDER BY created_at DESC LIMIT 1",
            &[&namespace, &runs],
        )
        .await?;
    let Some(row) = row else { return Ok(None) };
    let (diff, content): (Option<String>, Option<Vec<u8>>) = (row.try_get(0)?, row.try_get(1)?);
    Ok(diff.or_else(|| content.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())))
}
