//! Container logs of ended Runs, and which Runs still have theirs on a node.

use deadpool_postgres::Pool;
use jiff::Timestamp;
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
    let lines = content.lines().filter(|l| !l.trim().is_empty()).count();
    let lines = i64::try_from(lines).unwrap_or(i64::MAX);
    client
        .execute(
            "INSERT INTO run_logs AS l (run_uid, container, namespace, pod, content, total_bytes, cut_bytes, lines, archived_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, now())
             ON CONFLICT (run_uid, container) DO UPDATE SET
                 content = excluded.content, total_bytes = excluded.total_bytes, cut_bytes = excluded.cut_bytes,
                 lines = excluded.lines
             WHERE l.total_bytes < excluded.total_bytes",
            &[&run, &log.container, &namespace, &pod, &content, &log.total_bytes, &log.cut_bytes, &lines],
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

/// What `/logs/all` calls a log: agent, Run and container. `r` is the Run, `l` the log.
const SOURCE: &str = "(coalesce(r.agent, '-') || '/runs/' || l.pod || '/' || l.container)";

/// Which kept logs to look at.
#[derive(Clone, Debug, Default)]
pub struct LogFilter {
    /// Logs that were kept before this time have no line of interest.
    pub since: Option<Timestamp>,
    /// A part of their source, in any case.
    pub source: Option<String>,
}

/// A kept log without its content.
#[derive(Clone, Debug)]
pub struct LogKey {
    pub run: Uuid,
    pub container: String,
    /// `<agent>/runs/<run>/<container>`.
    pub source: String,
    /// No line is newer, but for the difference of two clocks.
    pub archived_at: Timestamp,
    /// Bytes of the content.
    pub bytes: i64,
}

/// At most `limit` kept logs that pass `filter`, newest first, after `after`.
///
/// # Errors
/// `Connect` or `Statement`.
pub async fn newest(
    pool: &Pool,
    namespace: &str,
    filter: &LogFilter,
    after: Option<&LogKey>,
    limit: i64,
) -> Result<Vec<LogKey>, Error> {
    let client = pool.get().await.map_err(Error::Connect)?;
    let sql = format!(
        "SELECT l.run_uid, l.container, {SOURCE}, l.archived_at, l.total_bytes - l.cut_bytes
           FROM run_logs l LEFT JOIN runs r ON r.uid = l.run_uid
          WHERE {} ORDER BY l.archived_at DESC, l.run_uid DESC, l.container DESC LIMIT $7",
        matching()
    );
    let (at, run, container) = position(after);
    let rows = client
        .query(&sql, &[&namespace, &filter.since, &filter.source, &at, &run, &container, &limit])
        .await?;
    rows.iter()
        .map(|r| {
            Ok(LogKey {
                run: r.try_get(0)?,
                container: r.try_get(1)?,
                source: r.try_get(2)?,
                archived_at: r.try_get(3)?,
                bytes: r.try_get(4)?,
            })
        })
        .collect()
}

/// Lines of the kept logs that pass `filter` after `after`.
///
/// # Errors
/// `Connect` or `Statement`.
pub async fn lines_after(
    pool: &Pool,
    namespace: &str,
    filter: &LogFilter,
    after: Option<&LogKey>,
) -> Result<i64, Error> {
    let client = pool.get().await.map_err(Error::Connect)?;
    let sql = format!(
        "SELECT coalesce(sum(l.lines), 0)::bigint FROM run_logs l LEFT JOIN runs r ON r.uid = l.run_uid
          WHERE {}",
        matching()
    );
    let (at, run, container) = position(after);
    let row =
        client.query_one(&sql, &[&namespace, &filter.since, &filter.source, &at, &run, &container]).await?;
    Ok(row.try_get(0)?)
}

fn matching() -> String {
    format!(
        "l.namespace = $1 AND ($2::timestamptz IS NULL OR l.archived_at >= $2)
            AND ($3::text IS NULL OR position(lower($3) IN lower({SOURCE})) > 0)
            AND (l.archived_at, l.run_uid, l.container) < ($4, $5, $6)"
    )
}

fn position(after: Option<&LogKey>) -> (Timestamp, Uuid, String) {
    match after {
        Some(key) => (key.archived_at, key.run, key.container.clone()),
        None => (Timestamp::MAX, Uuid::max(), String::new()),
    }
}

/// The contents of `keys`, in no order.
///
/// # Errors
/// `Connect` or `Statement`.
pub async fn contents(pool: &Pool, keys: &[LogKey]) -> Result<Vec<(Uuid, String, String)>, Error> {
    let client = pool.get().await.map_err(Error::Connect)?;
    let runs: Vec<Uuid> = keys.iter().map(|k| k.run).collect();
    let containers: Vec<&str> = keys.iter().map(|k| k.container.as_str()).collect();
    let rows = client
        .query(
            "SELECT l.run_uid, l.container, l.content FROM run_logs l
               JOIN unnest($1::uuid[], $2::text[]) AS k(run_uid, container) USING (run_uid, container)",
            &[&runs, &containers],
        )
        .await?;
    rows.iter().map(|r| Ok((r.try_get(0)?, r.try_get(1)?, r.try_get(2)?))).collect()
}

/// Kept logs of a namespace.
///
/// # Errors
/// `Connect` or `Statement`.
pub async fn count(pool: &Pool, namespace: &str) -> Result<i64, Error> {
    let client = pool.get().await.map_err(Error::Connect)?;
    let row = client.query_one("SELECT count(*) FROM run_logs WHERE namespace = $1", &[&namespace]).await?;
    Ok(row.try_get(0)?)
}

/// A Run whose logs are asked for.
#[derive(Clone, Debug)]
pub struct LoggedRun {
    pub uid: Uuid,
    /// Name of the Run and of its Pod.
    pub name: String,
    pub agent: String,
    /// lower_snake.
    pub purpose: String,
    /// Its logs are in the database; else they are on a node, or lost.
    pub kept: bool,
}

/// Columns of a [`LoggedRun`] and whether its logs may be on a node.
const LOGGED: &str = "
SELECT r.uid, r.name, r.agent, r.purpose, r.updated_at, k.kept,
       NOT k.kept AND r.deleted_at IS NULL
           AND (r.status = 'running' OR (r.logs IS NULL AND r.finished_at > now() - interval '10 minutes')) AS live
  FROM runs r CROSS JOIN LATERAL (SELECT EXISTS (SELECT FROM run_logs l WHERE l.run_uid = r.uid) AS kept) AS k";

/// The newest Runs of `agent` that have logs or may have them on a node: the latter first, then
/// newest first.
///
/// # Errors
/// `Connect` or `Statement`.
pub async fn of_agent(
    pool: &Pool,
    namespace: &str,
    agent: &str,
    limit: i64,
) -> Result<Vec<LoggedRun>, Error> {
    let client = pool.get().await.map_err(Error::Connect)?;
    let sql = format!(
        "SELECT * FROM ({LOGGED} WHERE r.namespace = $1 AND r.agent = $2 ORDER BY r.updated_at DESC LIMIT 200) AS q
          WHERE q.kept OR q.live ORDER BY q.live DESC, q.updated_at DESC LIMIT $3"
    );
    let rows = client.query(&sql, &[&namespace, &agent, &limit]).await?;
    rows.iter().map(logged_run).collect()
}

/// At most `limit` Runs whose logs are on a node, newest first.
///
/// # Errors
/// `Connect` or `Statement`.
pub async fn live(pool: &Pool, namespace: &str, limit: i64) -> Result<Vec<LoggedRun>, Error> {
    let client = pool.get().await.map_err(Error::Connect)?;
    // Those that have just ended are among the newest.
    let sql = format!(
        "SELECT * FROM (
            ({LOGGED} WHERE r.namespace = $1 AND r.status = 'running' AND r.deleted_at IS NULL
              ORDER BY r.created_at DESC LIMIT $2)
            UNION
            ({LOGGED} WHERE r.namespace = $1 ORDER BY r.created_at DESC LIMIT $2)) AS q
          WHERE q.live ORDER BY q.name LIMIT $2"
    );
    let rows = client.query(&sql, &[&namespace, &limit]).await?;
    rows.iter().map(logged_run).collect()
}

fn logged_run(row: &tokio_postgres::Row) -> Result<LoggedRun, Error> {
    Ok(LoggedRun {
        uid: row.try_get("uid")?,
        name: row.try_get("name")?,
        agent: row.try_get("agent")?,
        purpose: row.try_get("purpose")?,
        kept: row.try_get("kept")?,
    })
}

/// The time before which no line is shown: that of the last [`clear`].
///
/// # Errors
/// `Connect` or `Statement`.
pub async fn bound(pool: &Pool, namespace: &str) -> Result<Option<Timestamp>, Error> {
    let client = pool.get().await.map_err(Error::Connect)?;
    let row =
        client.query_opt("SELECT cleared_at FROM log_bounds WHERE namespace = $1", &[&namespace]).await?;
    row.map(|r| Ok(r.try_get(0)?)).transpose()
}

/// What [`clear`] has done with the kept logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cleared {
    pub removed: u64,
    /// Left, but hidden: the archive may still ask whether it has kept them.
    pub hidden: i64,
    /// Left because the database refused.
    pub failed: i64,
}

/// Hides every line up to now and deletes the logs that were kept more than a minute ago.
///
/// # Errors
/// `Connect`, or `Statement` when the time could not be noted; logs that could not be deleted are
/// counted.
pub async fn clear(pool: &Pool, namespace: &str) -> Result<Cleared, Error> {
    let client = pool.get().await.map_err(Error::Connect)?;
    let at: Timestamp = client
        .query_one(
            "INSERT INTO log_bounds AS b (namespace, cleared_at) VALUES ($1, now())
             ON CONFLICT (namespace) DO UPDATE SET cleared_at = greatest(b.cleared_at, excluded.cleared_at)
             RETURNING cleared_at",
            &[&namespace],
        )
        .await?
        .try_get(0)?;
    let mut removed = 0;
    let refused = loop {
        let deleted = client
            .execute(
                "DELETE FROM run_logs WHERE (run_uid, container) IN (
                     SELECT run_uid, container FROM run_logs
                      WHERE namespace = $1 AND archived_at < $2::timestamptz - interval '1 minute' LIMIT 500)",
                &[&namespace, &at],
            )
            .await;
        match deleted {
            Ok(0) => break false,
            Ok(rows) => removed += rows,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "logs not deleted");
                break true;
            }
        }
    };
    let left: i64 = client
        .query_one(
            "SELECT count(*) FROM run_logs WHERE namespace = $1 AND archived_at <= $2",
            &[&namespace, &at],
        )
        .await?
        .try_get(0)?;
    let (hidden, failed) = if refused { (0, left) } else { (left, 0) };
    Ok(Cleared { removed, hidden, failed })
}
