//! The statements of the first version of mirror and API, as they were: a program of that version runs on
//! while the tables are brought up to date. Not to be edited.

/// Columns of each table that the first mirror writes.
pub const COLUMNS: [(&str, &str); 4] = [
    (
        "tasks",
        "uid, namespace, name, resource_version, generation, created_at, updated_at, title, goal, context, allowed_paths, denied_paths, commands, priority, risk_level, role, lane, kind, status, block_reason, target_area, touches, dependency_names, resolved_dependencies, timebox_minutes, attempts, retry_count, retries, retry_at, next_kind, failure_class, failure_code, request_key, request_hash",
    ),
    (
        "runs",
        "uid, namespace, name, resource_version, generation, created_at, updated_at, task_uid, task_name, attempt, purpose, pool, agent, role, lane, status, started_at, finished_at, cost_tokens, error_message, error_meta, branch, head_commit, changed_files, logs",
    ),
    (
        "pools",
        "uid, namespace, name, resource_version, generation, created_at, updated_at, role, replicas, peak_replicas, suspended, metadata",
    ),
    (
        "systems",
        "uid, namespace, name, resource_version, generation, created_at, updated_at, failed_cooldown_ms, blocked_cooldown_ms, max_retries",
    ),
];

pub const INSERT_EVENTS: &str = "
WITH incoming AS (
    SELECT uid, sequence, namespace, type, entity_type, payload, created_at
      FROM jsonb_populate_recordset(NULL::events, $1)
), known AS (
    SELECT i.uid, coalesce((SELECT max(e.sequence) FROM events e WHERE e.uid = i.uid), 0) AS last,
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

pub const INSERT_ARTIFACTS: &str = "
INSERT INTO artifacts (id, run_uid, namespace, type, ref, metadata, created_at)
SELECT id, run_uid, namespace, type, ref, metadata, created_at FROM jsonb_populate_recordset(NULL::artifacts, $1)
ON CONFLICT (id) DO NOTHING";

pub const FORGET_EVENTS: &str = "
DELETE FROM events e USING unnest($1::uuid[], $2::bigint[]) AS f(uid, first)
 WHERE e.uid = f.uid AND e.sequence >= f.first";

pub const FORGET_ARTIFACTS: &str = "
DELETE FROM artifacts WHERE run_uid = ANY($1)";

pub const UNPARK: &str = "
DELETE FROM mirror_parked WHERE kind = $1 AND uid = ANY($2)";

pub const PARK: &str = "
INSERT INTO mirror_parked (kind, uid, namespace, name, resource_version, error, parked_at)
VALUES ($1, $2, $3, $4, $5, $6, now())
ON CONFLICT (kind, uid) DO UPDATE SET resource_version = excluded.resource_version, error = excluded.error";

pub const LIST_TASKS: &str = "
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
       t.failure_code, t.created_at, t.updated_at, t.deleted_at
  FROM tasks t
 WHERE t.namespace = $1 AND (t.created_at, t.uid) < ($2, $3)
   AND ($4::text IS NULL OR t.status = $4) AND ($5 OR t.deleted_at IS NULL)
 ORDER BY t.created_at DESC, t.uid DESC LIMIT $6";

pub const LIST_RUNS: &str = "
SELECT r.uid, r.name, r.task_uid, r.agent, r.attempt, r.purpose, r.status, r.started_at, r.finished_at,
       r.cost_tokens, r.error_message, r.error_meta, r.logs,
       EXISTS (SELECT 1 FROM run_logs l WHERE l.run_uid = r.uid) AS has_logs, r.created_at, r.deleted_at
  FROM runs r
 WHERE r.namespace = $1 AND (r.created_at, r.uid) < ($2, $3)
   AND ($4::uuid IS NULL OR r.task_uid = $4) AND ($5::text IS NULL OR r.status = $5)
   AND ($6 OR r.deleted_at IS NULL)
 ORDER BY r.created_at DESC, r.uid DESC LIMIT $7";

pub const LIST_AGENTS: &str = "
SELECT id, pool, slot, role, status, current_task_id, last_heartbeat, metadata, created_at FROM agents
 WHERE namespace = $1 AND (pool, slot) > ($2, $3)
   AND ($4::text IS NULL OR role = $4) AND ($5::text IS NULL OR status = $5)
 ORDER BY pool, slot LIMIT $6";

pub const STORE_LOG: &str = "
INSERT INTO run_logs AS l (run_uid, container, namespace, pod, content, total_bytes, cut_bytes, archived_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, now())
ON CONFLICT (run_uid, container) DO UPDATE SET
    content = excluded.content, total_bytes = excluded.total_bytes, cut_bytes = excluded.cut_bytes
WHERE l.total_bytes < excluded.total_bytes";

pub const ADD_STATE: &str = "
INSERT INTO mirror_state AS s (kind, namespace, listed_at, restored, lost)
VALUES ($1, $2, CASE WHEN $3 THEN now() END, $4, $5)
ON CONFLICT (kind, namespace) DO UPDATE SET
    listed_at = coalesce(excluded.listed_at, s.listed_at),
    restored = s.restored + excluded.restored,
    lost = s.lost + excluded.lost";

/// Where no parameters are needed: the other reads of the first version.
pub const READS: [&str; 5] = [
    "SELECT uid, name FROM tasks WHERE namespace = '' AND uid = ANY('{}') AND deleted_at IS NULL",
    "SELECT uid, request_hash, deleted_at IS NOT NULL FROM tasks WHERE namespace = '' AND request_key = '' ORDER BY created_at LIMIT 1",
    "SELECT failed_cooldown_ms, blocked_cooldown_ms, max_retries FROM systems WHERE namespace = '' AND deleted_at IS NULL ORDER BY created_at DESC LIMIT 1",
    "SELECT id, run_uid, type, ref, url, metadata, created_at FROM artifacts WHERE namespace = '' AND run_uid = gen_random_uuid() ORDER BY created_at, type",
    "SELECT container, content, total_bytes, cut_bytes FROM run_logs WHERE run_uid = gen_random_uuid() AND namespace = '' ORDER BY archived_at, container",
];
