//! What is read from the audit log: verdicts and plans.

use deadpool_postgres::Pool;
use jiff::Timestamp;
use serde_json::Value;
use tokio_postgres::Row;
use uuid::Uuid;

use super::Error;
use super::derived::{PLAN_CREATED, REVIEW};
use super::page::Page;

/// Event types of what recovery does about refused paths (spec/api.md 1.4).
const RECOVERY: [&str; 3] =
    ["task.policy_recovery_decided", "task.policy_recovery_applied", "task.policy_recovery_denied"];
const EVENT_SELECT: &str = "SELECT e.id, e.uid, e.type, e.agent_id, e.payload, e.created_at FROM events e";
const NEWEST: &str = "e.created_at DESC, e.id DESC";

/// One row of the audit log.
#[derive(Clone, Debug)]
pub struct EventRecord {
    pub id: Uuid,
    /// The object it is about; of verdicts and plans a Task.
    pub uid: Uuid,
    pub kind: String,
    pub agent_id: Option<String>,
    pub payload: Option<Value>,
    pub created_at: Timestamp,
}

/// Which verdicts to list.
#[derive(Clone, Debug, Default)]
pub struct JudgementFilter {
    pub task: Option<Uuid>,
    /// Uid of the Run that was reviewed.
    pub run: Option<String>,
    pub verdict: Option<String>,
    /// Also what recovery did about refused paths.
    pub include_recovery: bool,
}

/// At most `limit` verdicts, newest first.
///
/// # Errors
/// `Connect` or `Statement`.
pub async fn judgements(
    pool: &Pool,
    namespace: &str,
    filter: &JudgementFilter,
    limit: i64,
) -> Result<Vec<EventRecord>, Error> {
    let review = REVIEW.to_owned();
    let kinds: Vec<String> = RECOVERY.into_iter().chain([REVIEW]).map(ToOwned::to_owned).collect();
    let page = Page::all("e", &namespace);
    let page = if filter.include_recovery {
        page.one_of("e.type", &kinds)
    } else {
        page.equal("e.type", Some(&review))
    };
    let (sql, values) = page
        .equal("e.uid", filter.task.as_ref())
        .equal("e.payload ->> 'runId'", filter.run.as_ref())
        .equal("e.payload ->> 'verdict'", filter.verdict.as_ref())
        .finish(EVENT_SELECT, NEWEST, &limit);
    let client = pool.get().await.map_err(Error::Connect)?;
    let statement = client.prepare_cached(&sql).await?;
    client.query(&statement, &values).await?.iter().map(event).collect()
}

/// The verdict with this id.
///
/// # Errors
/// `Connect` or `Statement`.
pub async fn judgement(pool: &Pool, namespace: &str, id: Uuid) -> Result<Option<EventRecord>, Error> {
    let client = pool.get().await.map_err(Error::Connect)?;
    let sql = format!("{EVENT_SELECT} WHERE e.namespace = $1 AND e.id = $2 AND e.type = $3");
    let statement = client.prepare_cached(&sql).await?;
    client.query_opt(&statement, &[&namespace, &id, &REVIEW]).await?.as_ref().map(event).transpose()
}

/// At most `limit` plans, newest first.
///
/// # Errors
/// `Connect` or `Statement`.
pub async fn plans(pool: &Pool, namespace: &str, limit: i64) -> Result<Vec<EventRecord>, Error> {
    let kind = PLAN_CREATED.to_owned();
    let (sql, values) =
        Page::all("e", &namespace).equal("e.type", Some(&kind)).finish(EVENT_SELECT, NEWEST, &limit);
    let client = pool.get().await.map_err(Error::Connect)?;
    let statement = client.prepare_cached(&sql).await?;
    client.query(&statement, &values).await?.iter().map(event).collect()
}

fn event(row: &Row) -> Result<EventRecord, Error> {
    Ok(EventRecord {
        id: row.try_get("id")?,
        uid: row.try_get("uid")?,
        kind: row.try_get("type")?,
        agent_id: row.try_get("agent_id")?,
        payload: row.try_get("payload")?,
        created_at: row.try_get("created_at")?,
    })
}
