//! What the HTTP API reads: rows of one namespace, newest first, by keyset (never OFFSET).

use deadpool_postgres::{Object, Pool};
use jiff::Timestamp;
use serde_json::Value;
use tokio_postgres::Row;
use uuid::Uuid;

use super::Error;
use super::page::Page;
use crate::crd::task::Retries;

/// Where a page of tasks or runs begins: after this row in the order newest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct After {
    pub created_at: Timestamp,
    pub uid: Uuid,
}

impl After {
    /// Before the newest row.
    pub const START: Self = Self { created_at: Timestamp::MAX, uid: Uuid::max() };
}

/// A Task's row.
#[derive(Clone, Debug)]
pub struct TaskRecord {
    pub uid: Uuid,
    pub name: String,
    pub title: String,
    pub goal: String,
    pub context: Option<Value>,
    pub allowed_paths: Vec<String>,
    pub denied_paths: Vec<String>,
    pub commands: Vec<String>,
    pub priority: i32,
    pub risk_level: String,
    pub role: String,
    pub lane: String,
    pub kind: String,
    pub status: String,
    pub block_reason: Option<String>,
    pub target_area: Option<String>,
    pub touches: Vec<String>,
    /// Uids of the Tasks it depends on, as far as they exist.
    pub dependencies: Vec<String>,
    pub timebox_minutes: i32,
    pub attempts: i32,
    pub retry_count: i32,
    pub retries: Retries,
    pub retry_at: Option<Timestamp>,
    pub next_kind: Option<String>,
    pub failure_class: Option<String>,
    pub failure_code: Option<String>,
    /// Task that this one follows.
    pub parent_uid: Option<Uuid>,
    /// Who made it, unless a person did: `planner`, `judge`, `rework` or `api`.
    pub created_by: Option<String>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub deleted_at: Option<Timestamp>,
}

/// A Run's row.
#[derive(Clone, Debug)]
pub struct RunRecord {
    pub uid: Uuid,
    pub name: String,
    pub task_uid: Uuid,
    pub agent: String,
    pub attempt: i32,
    pub purpose: String,
    pub status: String,
    pub started_at: Timestamp,
    pub finished_at: Option<Timestamp>,
    pub cost_tokens: Option<i64>,
    pub error_message: Option<String>,
    pub error_meta: Option<Value>,
    pub logs: Option<String>,
    pub has_logs: bool,
    pub created_at: Timestamp,
    pub deleted_at: Option<Timestamp>,
}

/// What a Run left behind.
#[derive(Clone, Debug)]
pub struct ArtifactRecord {
    pub id: Uuid,
    pub run_uid: Uuid,
    pub kind: String,
    pub reference: Option<String>,
    pub url: Option<String>,
    pub metadata: Option<Value>,
    pub created_at: Timestamp,
}

impl ArtifactRecord {
    pub(super) fn read(row: &Row) -> Result<Self, Error> {
        Ok(Self {
            id: row.try_get("id")?,
            run_uid: row.try_get("run_uid")?,
            kind: row.try_get("type")?,
            reference: row.try_get("ref")?,
            url: row.try_get("url")?,
            metadata: row.try_get("metadata")?,
            created_at: row.try_get("created_at")?,
        })
    }
}

/// A slot of a pool.
#[derive(Clone, Debug)]
pub struct AgentRecord {
    pub id: String,
    pub pool: String,
    pub slot: i32,
    pub role: String,
    pub status: String,
    pub current_task_id: Option<Uuid>,
    pub last_heartbeat: Option<Timestamp>,
    pub metadata: Value,
    pub created_at: Timestamp,
}

/// The System's settings that explain a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecoverySettings {
    pub failed_cooldown_ms: i64,
    pub blocked_cooldown_ms: i64,
    pub max_retries: Option<i32>,
}

const TASK_SELECT: &str = "
SELECT t.uid, t.name, t.title, t.goal, t.context, t.allowed_paths, t.denied_paths, t.commands, t.priority,
       t.risk_level, t.role, t.lane, t.kind, t.status, t.block_reason, t.target_area, t.touches,
       ARRAY(SELECT q.uid FROM (
               SELECT d.n, coalesce(t.resolved_dependencies ->> d.name,
                      (SELECT x.uid::text FROM tasks x
                        WHERE x.namespace = t.namespace AND x.name = d.name AND x.deleted_at IS NULL
                        ORDER BY x.created_at DESC LIMIT 1)) AS uid
                 FROM unnest(t.dependency_names) WITH ORDINALITY AS d(name, n)) AS q
              WHERE q.uid IS NOT NULL ORDER BY q.n) AS dependencies,
       t.timebox_minutes, t.attempts, t.retry_count, t.retries, t.retry_at, t.next_kind, t.failure_class,
       t.failure_code, t.parent_uid, t.created_by, t.created_at, t.updated_at, t.deleted_at
  FROM tasks t";

const RUN_SELECT: &str = "
SELECT r.uid, r.name, r.task_uid, r.agent, r.attempt, r.purpose, r.status, r.started_at, r.finished_at,
       r.cost_tokens, r.error_message, r.error_meta, r.logs,
       EXISTS (SELECT 1 FROM run_logs l WHERE l.run_uid = r.uid) AS has_logs, r.created_at, r.deleted_at
  FROM runs r";

const AGENT_SELECT: &str = "
SELECT id, pool, slot, role, status, current_task_id, last_heartbeat, metadata, created_at FROM agents";

async fn connection(pool: &Pool) -> Result<Object, Error> {
    pool.get().await.map_err(Error::Connect)
}

/// Which Tasks to list.
#[derive(Clone, Debug, Default)]
pub struct TaskFilter {
    /// lower_snake phase.
    pub status: Option<String>,
    pub role: Option<String>,
    pub lane: Option<String>,
    pub kind: Option<String>,
    /// Who made it, e.g. `planner`.
    pub created_by: Option<String>,
    /// The Task that it follows.
    pub parent: Option<Uuid>,
    pub include_deleted: bool,
}

/// At most `limit` Tasks after `after`, newest first.
///
/// # Errors
/// `Connect`, `Statement` or `Value`.
pub async fn list_tasks(
    pool: &Pool,
    namespace: &str,
    filter: &TaskFilter,
    after: After,
    limit: i64,
) -> Result<Vec<TaskRecord>, Error> {
    let client = connection(pool).await?;
    let (sql, values) = Page::after("t", &namespace, &after)
        .equal("t.status", filter.status.as_ref())
        .equal("t.role", filter.role.as_ref())
        .equal("t.lane", filter.lane.as_ref())
        .equal("t.kind", filter.kind.as_ref())
        .equal("t.created_by", filter.created_by.as_ref())
        .equal("t.parent_uid", filter.parent.as_ref())
        .only(!filter.include_deleted, "t.deleted_at IS NULL")
        .finish(TASK_SELECT, "t.created_at DESC, t.uid DESC", &limit);
    let statement = client.prepare_cached(&sql).await?;
    let rows = client.query(&statement, &values).await?;
    rows.iter().map(task_record).collect()
}

/// One Task, if its row has at least `version`.
///
/// # Errors
/// `Connect`, `Statement` or `Value`.
pub async fn get_task(
    pool: &Pool,
    namespace: &str,
    uid: Uuid,
    version: i64,
    include_deleted: bool,
) -> Result<Option<TaskRecord>, Error> {
    let client = connection(pool).await?;
    let sql = format!(
        "{TASK_SELECT} WHERE t.namespace = $1 AND t.uid = $2 AND t.resource_version >= $3
            AND ($4 OR t.deleted_at IS NULL)"
    );
    let statement = client.prepare_cached(&sql).await?;
    let row = client.query_opt(&statement, &[&namespace, &uid, &version, &include_deleted]).await?;
    row.as_ref().map(task_record).transpose()
}

/// The Tasks of the plans that the Tasks `parents` have made, deleted ones included, oldest first.
///
/// # Errors
/// `Connect`, `Statement` or `Value`.
pub async fn planned_tasks(pool: &Pool, namespace: &str, parents: &[Uuid]) -> Result<Vec<TaskRecord>, Error> {
    let client = connection(pool).await?;
    let sql = format!(
        "{TASK_SELECT} WHERE t.namespace = $1 AND t.parent_uid = ANY($2) AND t.plan_signature IS NOT NULL
          ORDER BY t.created_at, t.uid"
    );
    let statement = client.prepare_cached(&sql).await?;
    let rows = client.query(&statement, &[&namespace, &parents]).await?;
    rows.iter().map(task_record).collect()
}

/// Names of live Tasks by uid.
///
/// # Errors
/// `Connect` or `Statement`.
pub async fn task_names(pool: &Pool, namespace: &str, uids: &[Uuid]) -> Result<Vec<(Uuid, String)>, Error> {
    let client = connection(pool).await?;
    let rows = client
        .query(
            "SELECT uid, name FROM tasks WHERE namespace = $1 AND uid = ANY($2) AND deleted_at IS NULL",
            &[&namespace, &uids],
        )
        .await?;
    rows.iter().map(|r| Ok((r.try_get(0)?, r.try_get(1)?))).collect()
}

/// A Task that was made for an Idempotency-Key, also when it has been deleted since.
#[derive(Clone, Debug)]
pub struct RequestRecord {
    pub uid: Uuid,
    pub request_hash: Option<String>,
    pub deleted: bool,
}

/// The Task made for the Idempotency-Key with the hash `key`.
///
/// # Errors
/// `Connect` or `Statement`.
pub async fn find_request(pool: &Pool, namespace: &str, key: &str) -> Result<Option<RequestRecord>, Error> {
    let client = connection(pool).await?;
    let row = client
        .query_opt(
            "SELECT uid, request_hash, deleted_at IS NOT NULL FROM tasks
              WHERE namespace = $1 AND request_key = $2 ORDER BY created_at LIMIT 1",
            &[&namespace, &key],
        )
        .await?;
    row.map(|r| Ok(RequestRecord { uid: r.try_get(0)?, request_hash: r.try_get(1)?, deleted: r.try_get(2)? }))
        .transpose()
}

/// Which Runs to list.
#[derive(Clone, Debug, Default)]
pub struct RunFilter {
    pub task: Option<Uuid>,
    /// lower_snake phase.
    pub status: Option<String>,
    /// Slot, e.g. `worker-3`.
    pub agent: Option<String>,
    pub include_deleted: bool,
}

/// At most `limit` Runs after `after`, newest first.
///
/// # Errors
/// `Connect`, `Statement` or `Value`.
pub async fn list_runs(
    pool: &Pool,
    namespace: &str,
    filter: &RunFilter,
    after: After,
    limit: i64,
) -> Result<Vec<RunRecord>, Error> {
    let client = connection(pool).await?;
    let (sql, values) = Page::after("r", &namespace, &after)
        .equal("r.task_uid", filter.task.as_ref())
        .equal("r.status", filter.status.as_ref())
        .equal("r.agent", filter.agent.as_ref())
        .only(!filter.include_deleted, "r.deleted_at IS NULL")
        .finish(RUN_SELECT, "r.created_at DESC, r.uid DESC", &limit);
    let statement = client.prepare_cached(&sql).await?;
    let rows = client.query(&statement, &values).await?;
    rows.iter().map(run_record).collect()
}

/// One Run.
///
/// # Errors
/// `Connect`, `Statement` or `Value`.
pub async fn get_run(
    pool: &Pool,
    namespace: &str,
    uid: Uuid,
    include_deleted: bool,
) -> Result<Option<RunRecord>, Error> {
    let client = connection(pool).await?;
    let sql = format!("{RUN_SELECT} WHERE r.namespace = $1 AND r.uid = $2 AND ($3 OR r.deleted_at IS NULL)");
    let statement = client.prepare_cached(&sql).await?;
    let row = client.query_opt(&statement, &[&namespace, &uid, &include_deleted]).await?;
    row.as_ref().map(run_record).transpose()
}

/// Uid of the newest Run of this name.
///
/// # Errors
/// `Connect` or `Statement`.
pub async fn run_named(pool: &Pool, namespace: &str, name: &str) -> Result<Option<Uuid>, Error> {
    let client = connection(pool).await?;
    let sql = "SELECT uid FROM runs WHERE namespace = $1 AND name = $2 ORDER BY created_at DESC LIMIT 1";
    let row = client.query_opt(sql, &[&namespace, &name]).await?;
    row.map(|row| Ok(row.try_get(0)?)).transpose()
}

/// What a Run left behind, oldest first.
///
/// # Errors
/// `Connect` or `Statement`.
pub async fn artifacts(pool: &Pool, namespace: &str, run: Uuid) -> Result<Vec<ArtifactRecord>, Error> {
    let client = connection(pool).await?;
    let rows = client
        .query(
            "SELECT id, run_uid, type, ref, url, metadata, created_at FROM artifacts
              WHERE namespace = $1 AND run_uid = $2
             UNION ALL
             SELECT id, run_uid, type, ref, url, metadata, created_at FROM posted_artifacts
              WHERE namespace = $1 AND run_uid = $2
              ORDER BY created_at, type, id",
            &[&namespace, &run],
        )
        .await?;
    rows.iter().map(ArtifactRecord::read).collect()
}

/// Tokens of the Runs that have ended since `since`, deleted ones included: they were used.
///
/// # Errors
/// `Connect` or `Statement`.
pub async fn tokens_since(pool: &Pool, namespace: &str, since: Timestamp) -> Result<i64, Error> {
    let client = connection(pool).await?;
    let row = client
        .query_one(
            "SELECT least(coalesce(sum(cost_tokens), 0), 9223372036854775807)::bigint FROM runs
              WHERE namespace = $1 AND finished_at >= $2 AND cost_tokens IS NOT NULL",
            &[&namespace, &since],
        )
        .await?;
    Ok(row.try_get(0)?)
}

/// At most `limit` agents after pool and slot `after`, by pool and slot.
///
/// # Errors
/// `Connect` or `Statement`.
pub async fn list_agents(
    pool: &Pool,
    namespace: &str,
    role: Option<&str>,
    status: Option<&str>,
    after: (&str, i32),
    limit: i64,
) -> Result<Vec<AgentRecord>, Error> {
    let client = connection(pool).await?;
    let sql = format!(
        "{AGENT_SELECT} WHERE namespace = $1 AND (pool, slot) > ($2, $3)
            AND ($4::text IS NULL OR role = $4) AND ($5::text IS NULL OR status = $5)
          ORDER BY pool, slot LIMIT $6"
    );
    let rows = client.query(&sql, &[&namespace, &after.0, &after.1, &role, &status, &limit]).await?;
    rows.iter().map(agent_record).collect()
}

/// One agent.
///
/// # Errors
/// `Connect` or `Statement`.
pub async fn get_agent(pool: &Pool, namespace: &str, id: &str) -> Result<Option<AgentRecord>, Error> {
    let client = connection(pool).await?;
    let sql = format!("{AGENT_SELECT} WHERE namespace = $1 AND id = $2 ORDER BY created_at DESC LIMIT 1");
    let row = client.query_opt(&sql, &[&namespace, &id]).await?;
    row.as_ref().map(agent_record).transpose()
}

/// The System's settings, if there is one.
///
/// # Errors
/// `Connect` or `Statement`.
pub async fn recovery_settings(pool: &Pool, namespace: &str) -> Result<Option<RecoverySettings>, Error> {
    let client = connection(pool).await?;
    let row = client
        .query_opt(
            "SELECT failed_cooldown_ms, blocked_cooldown_ms, max_retries FROM systems
              WHERE namespace = $1 AND deleted_at IS NULL ORDER BY created_at DESC LIMIT 1",
            &[&namespace],
        )
        .await?;
    row.map(|r| {
        Ok(RecoverySettings {
            failed_cooldown_ms: r.try_get(0)?,
            blocked_cooldown_ms: r.try_get(1)?,
            max_retries: r.try_get(2)?,
        })
    })
    .transpose()
}

fn task_record(row: &Row) -> Result<TaskRecord, Error> {
    let retries: Value = row.try_get("retries")?;
    Ok(TaskRecord {
        uid: row.try_get("uid")?,
        name: row.try_get("name")?,
        title: row.try_get("title")?,
        goal: row.try_get("goal")?,
        context: row.try_get("context")?,
        allowed_paths: row.try_get("allowed_paths")?,
        denied_paths: row.try_get("denied_paths")?,
        commands: row.try_get("commands")?,
        priority: row.try_get("priority")?,
        risk_level: row.try_get("risk_level")?,
        role: row.try_get("role")?,
        lane: row.try_get("lane")?,
        kind: row.try_get("kind")?,
        status: row.try_get("status")?,
        block_reason: row.try_get("block_reason")?,
        target_area: row.try_get("target_area")?,
        touches: row.try_get("touches")?,
        dependencies: row.try_get("dependencies")?,
        timebox_minutes: row.try_get("timebox_minutes")?,
        attempts: row.try_get("attempts")?,
        retry_count: row.try_get("retry_count")?,
        retries: serde_json::from_value(retries).map_err(|e| Error::Value(format!("tasks.retries: {e}")))?,
        retry_at: row.try_get("retry_at")?,
        next_kind: row.try_get("next_kind")?,
        failure_class: row.try_get("failure_class")?,
        failure_code: row.try_get("failure_code")?,
        parent_uid: row.try_get("parent_uid")?,
        created_by: row.try_get("created_by")?,
        created_at: row.try_get("created_at")?,
        updated_at: row.try_get("updated_at")?,
        deleted_at: row.try_get("deleted_at")?,
    })
}

fn run_record(row: &Row) -> Result<RunRecord, Error> {
    Ok(RunRecord {
        uid: row.try_get("uid")?,
        name: row.try_get("name")?,
        task_uid: row.try_get("task_uid")?,
        agent: row.try_get("agent")?,
        attempt: row.try_get("attempt")?,
        purpose: row.try_get("purpose")?,
        status: row.try_get("status")?,
        started_at: row.try_get("started_at")?,
        finished_at: row.try_get("finished_at")?,
        cost_tokens: row.try_get("cost_tokens")?,
        error_message: row.try_get("error_message")?,
        error_meta: row.try_get("error_meta")?,
        logs: row.try_get("logs")?,
        has_logs: row.try_get("has_logs")?,
        created_at: row.try_get("created_at")?,
        deleted_at: row.try_get("deleted_at")?,
    })
}

fn agent_record(row: &Row) -> Result<AgentRecord, Error> {
    Ok(AgentRecord {
        id: row.try_get("id")?,
        pool: row.try_get("pool")?,
        slot: row.try_get("slot")?,
        role: row.try_get("role")?,
        status: row.try_get("status")?,
        current_task_id: row.try_get("current_task_id")?,
        last_heartbeat: row.try_get("last_heartbeat")?,
        metadata: row.try_get("metadata")?,
        created_at: row.try_get("created_at")?,
    })
}
