//! The mirror's SQL. Rows arrive as JSON and are turned into records by Postgres, so that each statement
//! is one round trip whatever the number of rows.

use std::sync::LazyLock;

use super::rows::Kind;

const TASK_COLUMNS: &[&str] = &[
    "title",
    "goal",
    "context",
    "allowed_paths",
    "denied_paths",
    "commands",
    "priority",
    "risk_level",
    "role",
    "lane",
    "kind",
    "status",
    "block_reason",
    "target_area",
    "touches",
    "dependency_names",
    "resolved_dependencies",
    "timebox_minutes",
    "attempts",
    "retry_count",
    "retries",
    "retry_at",
    "next_kind",
    "failure_class",
    "failure_code",
    "request_key",
    "request_hash",
    "parent_uid",
    "parent_name",
    "created_by",
    "origin",
    "plan_signature",
];
const RUN_COLUMNS: &[&str] = &[
    "task_uid",
    "task_name",
    "attempt",
    "purpose",
    "pool",
    "agent",
    "role",
    "lane",
    "status",
    "started_at",
    "finished_at",
    "cost_tokens",
    "error_message",
    "error_meta",
    "branch",
    "head_commit",
    "changed_files",
    "logs",
    "review",
];
const POOL_COLUMNS: &[&str] = &["role", "replicas", "peak_replicas", "suspended", "metadata"];
const SYSTEM_COLUMNS: &[&str] = &["failed_cooldown_ms", "blocked_cooldown_ms", "max_retries"];
const OPERATION_COLUMNS: &[&str] = &[
    "type",
    "phase",
    "target",
    "task_name",
    "requested_by",
    "reason",
    "message",
    "result",
    "dry_run",
    "force",
    "started_at",
    "finished_at",
];
const COMMON_COLUMNS: &[&str] =
    &["uid", "namespace", "name", "resource_version", "generation", "shape", "created_at", "updated_at"];

/// Statements of one kind. `$1` of those that take rows is a JSON array of them.
pub(super) struct Statements {
    pub upsert: String,
    /// Makes room for a state older than the stored one, if that is still the one that was seen.
    pub restore: String,
    pub tombstone: String,
    pub versions: String,
    pub present: String,
    /// Each given row beside the stored one, with the names of the columns that differ.
    pub compare: String,
    /// Uids of the rows that are not deleted, of one namespace or (empty) of all.
    pub live: String,
    /// Uid, namespace and name of those of the given rows that are not deleted.
    pub names: String,
}

impl Statements {
    fn new(kind: Kind) -> Self {
        let columns = match kind {
            Kind::Task => TASK_COLUMNS,
            Kind::Run => RUN_COLUMNS,
            Kind::Pool => POOL_COLUMNS,
            Kind::System => SYSTEM_COLUMNS,
            Kind::Operation => OPERATION_COLUMNS,
        };
        let table = kind.table();
        let all: Vec<&str> = COMMON_COLUMNS.iter().chain(columns).copied().collect();
        let list = all.join(", ");
        let set: Vec<String> = all
            .iter()
            .filter(|c| **c != "uid")
            .map(|c| match *c {
                "peak_replicas" => format!("{c} = greatest({table}.{c}, excluded.{c})"),
                _ => format!("{c} = excluded.{c}"),
            })
            .collect();
        // What a pool once had is not in the object.
        let differ: Vec<String> = all
            .iter()
            .filter(|c| !["uid", "peak_replicas", "shape"].contains(c))
            .map(|c| format!("CASE WHEN t.{c} IS DISTINCT FROM i.{c} THEN '{c}' END"))
            .collect();
        Self {
            // The guard: never back.
            upsert: format!(
                "INSERT INTO {table} ({list}) SELECT {list} FROM jsonb_populate_recordset(NULL::{table}, $1)
                 ON CONFLICT (uid) DO UPDATE SET {}
                 WHERE ({table}.resource_version, {table}.shape) < (excluded.resource_version, excluded.shape)",
                set.join(", ")
            ),
            restore: format!(
                "UPDATE {table} t SET resource_version = -1, deleted_at = NULL
                   FROM unnest($1::uuid[], $2::bigint[]) AS seen(uid, version)
                  WHERE t.uid = seen.uid AND t.resource_version = seen.version RETURNING t.uid"
            ),
            tombstone: format!(
                "UPDATE {table} SET deleted_at = now() WHERE uid = ANY($1) AND deleted_at IS NULL"
            ),
            // What is parked counts as stored: it was seen, and is not missing.
            versions: format!(
                "SELECT uid, max(resource_version) AS resource_version, bool_or(deleted) AS deleted FROM (
                    SELECT uid, resource_version, deleted_at IS NOT NULL AS deleted FROM {table}
                     WHERE ($1 = '' OR namespace = $1) AND (deleted_at IS NULL OR uid = ANY($2))
                     UNION ALL
                    SELECT uid::uuid, resource_version::bigint, false FROM mirror_parked
                     WHERE kind = '{table}' AND ($1 = '' OR namespace = $1) AND uid = ANY($2::uuid[]::text[])
                       AND resource_version ~ '^[0-9]{{1,18}}$') AS q
                  GROUP BY uid"
            ),
            present: format!("SELECT count(*) FROM {table} WHERE uid = ANY($1)"),
            compare: format!(
                "SELECT i.uid, t.resource_version, t.deleted_at IS NOT NULL AS deleted,
                        array_remove(ARRAY[{}], NULL) AS columns
                   FROM jsonb_populate_recordset(NULL::{table}, $1) AS i LEFT JOIN {table} AS t ON t.uid = i.uid",
                differ.join(", ")
            ),
            live: format!(
                "SELECT uid FROM {table} WHERE ($1 = '' OR namespace = $1) AND deleted_at IS NULL"
            ),
            names: format!(
                "SELECT uid, namespace, name FROM {table} WHERE uid = ANY($1) AND deleted_at IS NULL"
            ),
        }
    }

    pub fn of(kind: Kind) -> &'static Self {
        static ALL: LazyLock<[Statements; 5]> = LazyLock::new(|| Kind::ALL.map(Statements::new));
        let [task, run, pool, system, operation] = &*ALL;
        match kind {
            Kind::Task => task,
            Kind::Run => run,
            Kind::Pool => pool,
            Kind::System => system,
            Kind::Operation => operation,
        }
    }
}

/// Transitions newer than those stored; a hole before them becomes one gap row (invariant S22).
pub(super) const INSERT_EVENTS: &str = "
WITH incoming AS (
    SELECT uid, sequence, namespace, type, entity_type, payload, created_at
      FROM jsonb_populate_recordset(NULL::events, $1)
), known AS (
    SELECT i.uid, coalesce((SELECT max(coalesce(e.gap_to, e.sequence)) FROM events e WHERE e.uid = i.uid AND e.sequence > 0), 0) AS last,
           min(i.sequence) AS first, min(i.created_at) AS at, min(i.namespace) AS namespace
      FROM incoming i GROUP BY i.uid
), fresh AS (
    SELECT i.uid, i.sequence, i.namespace, i.type, i.entity_type, i.payload, i.created_at, NULL::bigint AS gap_to
      FROM incoming i JOIN known k USING (uid) WHERE i.sequence > k.last
     UNION ALL
    SELECT uid, last + 1, namespace, 'mirror.gap', 'task',
           jsonb_build_object('from', last + 1, 'to', first - 1), at, first - 1
      FROM known WHERE first > last + 1
)
INSERT INTO events (uid, sequence, id, namespace, type, entity_type, payload, created_at, gap_to)
SELECT uid, sequence, md5(uid::text || ':' || sequence)::uuid, namespace, type, entity_type, payload, created_at, gap_to
  FROM fresh
ON CONFLICT (uid, sequence) DO NOTHING";

/// Events that are of no transition.
pub(super) const INSERT_DERIVED: &str = "
INSERT INTO events (uid, sequence, id, namespace, type, entity_type, agent_id, payload, created_at)
SELECT uid, sequence, md5(uid::text || ':' || sequence)::uuid, namespace, type, entity_type, agent_id, payload, created_at
  FROM jsonb_populate_recordset(NULL::events, $1)
ON CONFLICT (uid, sequence) DO NOTHING";

/// Completes the `judge.review` events of these Tasks with what their Judge Runs say, whichever of the
/// two was stored first.
pub(super) const COMPLETE_REVIEWS: &str = "
UPDATE events e SET payload = e.payload || r.review, agent_id = r.agent
  FROM runs r
 WHERE e.uid = ANY($1) AND e.type = 'judge.review' AND NOT e.payload ? 'verdict'
   AND r.task_uid = e.uid AND r.name = e.payload ->> 'run' AND r.review IS NOT NULL";

pub(super) const FORGET_EVENTS: &str = "
DELETE FROM events e USING unnest($1::uuid[], $2::bigint[]) AS f(uid, first)
 WHERE e.uid = f.uid AND e.sequence >= f.first";

pub(super) const INSERT_ARTIFACTS: &str = "
INSERT INTO artifacts (id, run_uid, namespace, type, ref, metadata, created_at)
SELECT id, run_uid, namespace, type, ref, metadata, created_at FROM jsonb_populate_recordset(NULL::artifacts, $1)
ON CONFLICT (id) DO NOTHING";

/// Plans of Runs that are of another past.
pub(super) const FORGET_DERIVED: &str = "
DELETE FROM events e USING runs r
 WHERE r.uid = ANY($1) AND e.uid = r.task_uid AND e.sequence < 0 AND e.payload ->> 'runId' = r.uid::text";

pub(super) const FORGET_ARTIFACTS: &str = "DELETE FROM artifacts WHERE run_uid = ANY($1)";

pub(super) const UNPARK: &str = "DELETE FROM mirror_parked WHERE kind = $1 AND uid = ANY($2)";

pub(super) const PARK: &str = "
INSERT INTO mirror_parked (kind, uid, namespace, name, resource_version, error, parked_at)
VALUES ($1, $2, $3, $4, $5, $6, now())
ON CONFLICT (kind, uid) DO UPDATE SET resource_version = excluded.resource_version, error = excluded.error,
    parked_at = excluded.parked_at";

/// Counts one more batch of a writer; no row when the database does not know it (any more).
pub(super) const ADVANCE: &str =
    "UPDATE mirror_writers SET batches = batches + 1, written_at = now() WHERE writer = $1 RETURNING batches";

/// Registers a writer whose batches so far are `$2`.
pub(super) const REGISTER: &str = "
INSERT INTO mirror_writers (writer, batches, written_at) VALUES (coalesce($1, gen_random_uuid()), $2, now())
ON CONFLICT (writer) DO UPDATE SET batches = excluded.batches RETURNING writer";

/// Forgets writers that have been silent for a week.
pub(super) const FORGET_WRITERS: &str =
    "DELETE FROM mirror_writers WHERE written_at < now() - interval '7 days'";

/// Transitions that are not stored as they are, and stored ones that are none. A recorded gap stands
/// for what is in it.
pub(super) const COMPARE_EVENTS: &str = "
WITH incoming AS (
    SELECT uid, sequence, type, payload, created_at FROM jsonb_populate_recordset(NULL::events, $1)
)
SELECT i.uid, 'transition ' || i.sequence || CASE WHEN e.uid IS NULL THEN ' is missing' ELSE ' differs' END AS part
  FROM incoming i LEFT JOIN events e ON e.uid = i.uid AND e.sequence = i.sequence
 WHERE CASE WHEN e.uid IS NULL
            THEN NOT EXISTS (SELECT 1 FROM events g WHERE g.uid = i.uid AND g.sequence < i.sequence AND g.gap_to >= i.sequence)
            ELSE e.gap_to IS NULL AND (e.type <> i.type OR e.created_at <> i.created_at OR NOT e.payload @> i.payload) END
 UNION ALL
SELECT e.uid, 'event ' || e.sequence || ' is of no transition'
  FROM events e JOIN (SELECT uid, max(sequence) AS last FROM incoming GROUP BY uid) AS l ON l.uid = e.uid
 WHERE e.sequence > l.last
 UNION ALL
SELECT e.uid, 'verdict ' || e.sequence || ' is not told'
  FROM events e JOIN runs r ON r.task_uid = e.uid AND r.name = e.payload ->> 'run' AND r.review IS NOT NULL
 WHERE e.uid IN (SELECT uid FROM incoming) AND e.type = 'judge.review' AND NOT e.payload ? 'verdict'";

/// Plans that are not stored, by the Run that made them.
pub(super) const COMPARE_DERIVED: &str = "
SELECT (i.payload ->> 'runId')::uuid AS uid, i.type || ' is missing' AS part
  FROM jsonb_populate_recordset(NULL::events, $1) i
 WHERE NOT EXISTS (SELECT 1 FROM events e WHERE e.uid = i.uid AND e.sequence = i.sequence)";

/// Artifacts that are not stored.
pub(super) const COMPARE_ARTIFACTS: &str = "
SELECT i.run_uid AS uid, 'artifact ' || i.type || ' is missing' AS part
  FROM jsonb_populate_recordset(NULL::artifacts, $1) i
 WHERE NOT EXISTS (SELECT 1 FROM artifacts a WHERE a.id = i.id)";

/// Which of the given objects are set aside.
pub(super) const PARKED_OF: &str =
    "SELECT uid, resource_version AS version, error FROM mirror_parked WHERE kind = $1 AND uid = ANY($2)";

/// The objects of a kind that are set aside, of one namespace or (empty) of all.
pub(super) const PARKED: &str =
    "SELECT uid FROM mirror_parked WHERE kind = $1 AND ($2 = '' OR namespace = $2)";
