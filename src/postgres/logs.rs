//! Container logs of ended Runs.

use deadpool_postgres::Pool;
use uuid::Uuid;

use super::Error;

/// Log of one container, cut to its bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerLog {
    pub container: String,
    pub content: String,
    /// Bytes the container wrote.
    pub total_bytes: i64,
    /// Bytes that are missing from `content`.
    pub cut_bytes: i64,
}

/// Keeps `log`. A repeat changes nothing, a shorter one (the container's log was rotated or its node
/// is going) never replaces a longer one.
///
/// # Errors
/// `Connect` or `Statement`.
pub async fn store(
    pool: &Pool,
    namespace: &str,
    run: Uuid,
    pod: &str,
    log: &ContainerLog,
) -> Result<(), Error> {
    let client = pool.get().await.map_err(Error::Connect)?;
    let content = log.content.replace('\0', "\\u0000");
    client
        .execute(
            "INSERT INTO run_logs AS l (run_uid, container, namespace, pod, content, total_bytes, cut_bytes, archived_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, now())
             ON CONFLICT (run_uid, container) DO UPDATE SET
                 content = excluded.content, total_bytes = excluded.total_bytes, cut_bytes = excluded.cut_bytes
             WHERE l.total_bytes < excluded.total_bytes",
            &[&run, &log.container, &namespace, &pod, &content, &log.total_bytes, &log.cut_bytes],
        )
        .await?;
    Ok(())
}

/// Names of the containers whose logs are kept.
///
/// # Errors
/// `Connect` or `Statement`.
pub async fn kept(pool: &Pool, run: Uuid) -> Result<Vec<String>, Error> {
    let client = pool.get().await.map_err(Error::Connect)?;
    let rows = client.query("SELECT container FROM run_logs WHERE run_uid = $1", &[&run]).await?;
    rows.iter().map(|r| Ok(r.try_get(0)?)).collect()
}

/// The kept logs of a Run of `namespace` in the order they were kept, all or of one container.
///
/// # Errors
/// `Connect` or `Statement`.
pub async fn load(
    pool: &Pool,
    namespace: &str,
    run: Uuid,
    container: Option<&str>,
) -> Result<Vec<ContainerLog>, Error> {
    let client = pool.get().await.map_err(Error::Connect)?;
    let rows = client
        .query(
            "SELECT container, content, total_bytes, cut_bytes FROM run_logs
              WHERE run_uid = $1 AND namespace = $2 AND ($3::text IS NULL OR container = $3)
              ORDER BY archived_at, container",
            &[&run, &namespace, &container],
        )
        .await?;
    rows.iter()
        .map(|r| {
            Ok(ContainerLog {
                container: r.try_get(0)?,
                content: r.try_get(1)?,
                total_bytes: r.try_get(2)?,
                cut_bytes: r.try_get(3)?,
            })
        })
        .collect()
}
