-- History of one or more clusters' objects. Keys are object uids; `resource_version` is compared as a
-- number and never goes back; `deleted_at` is set once and only once.

CREATE TABLE tasks (
    uid uuid PRIMARY KEY,
    namespace text NOT NULL,
    name text NOT NULL,
    resource_version bigint NOT NULL,
    generation bigint NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    deleted_at timestamptz,
    title text NOT NULL,
    goal text NOT NULL,
    context jsonb,
    allowed_paths text[] NOT NULL,
    denied_paths text[] NOT NULL,
    commands text[] NOT NULL,
    priority integer NOT NULL,
    risk_level text NOT NULL,
    role text NOT NULL,
    lane text NOT NULL,
    kind text NOT NULL,
    status text NOT NULL,
    block_reason text,
    target_area text,
    touches text[] NOT NULL,
    -- Names as written in the spec; `resolved_dependencies` maps those resolved so far to uids.
    dependency_names text[] NOT NULL,
    resolved_dependencies jsonb NOT NULL,
    timebox_minutes integer NOT NULL,
    attempts integer NOT NULL,
    retry_count integer NOT NULL,
    retries jsonb NOT NULL,
    retry_at timestamptz,
    next_kind text,
    failure_class text,
    failure_code text,
    -- Hashes of the Idempotency-Key and of the request body that created the Task.
    request_key text,
    request_hash text
);
CREATE INDEX tasks_newest ON tasks (namespace, created_at DESC, uid DESC);
CREATE INDEX tasks_status ON tasks (namespace, status, created_at DESC, uid DESC) WHERE deleted_at IS NULL;
CREATE INDEX tasks_name ON tasks (namespace, name);
CREATE INDEX tasks_request_key ON tasks (namespace, request_key) WHERE request_key IS NOT NULL;

CREATE TABLE runs (
    uid uuid PRIMARY KEY,
    namespace text NOT NULL,
    name text NOT NULL,
    resource_version bigint NOT NULL,
    generation bigint NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    deleted_at timestamptz,
    task_uid uuid NOT NULL,
    task_name text NOT NULL,
    attempt integer NOT NULL,
    purpose text NOT NULL,
    pool text NOT NULL,
    agent text NOT NULL,
    role text NOT NULL,
    lane text NOT NULL,
    status text NOT NULL,
    started_at timestamptz NOT NULL,
    finished_at timestamptz,
    cost_tokens bigint,
    error_message text,
    error_meta jsonb,
    branch text,
    head_commit text,
    changed_files bigint,
    logs text
);
CREATE INDEX runs_newest ON runs (namespace, created_at DESC, uid DESC);
CREATE INDEX runs_task ON runs (task_uid, created_at DESC, uid DESC);
CREATE INDEX runs_agent ON runs (namespace, agent, updated_at DESC);
CREATE INDEX runs_live ON runs (namespace, agent) WHERE status = 'running' AND deleted_at IS NULL;

CREATE TABLE artifacts (
    id uuid PRIMARY KEY,
    run_uid uuid NOT NULL,
    namespace text NOT NULL,
    type text NOT NULL,
    ref text,
    url text,
    metadata jsonb,
    created_at timestamptz NOT NULL
);
CREATE INDEX artifacts_run ON artifacts (run_uid);

CREATE TABLE pools (
    uid uuid PRIMARY KEY,
    namespace text NOT NULL,
    name text NOT NULL,
    resource_version bigint NOT NULL,
    generation bigint NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    deleted_at timestamptz,
    role text NOT NULL,
    replicas integer NOT NULL,
    -- Most slots the pool ever had: agents beyond `replicas` are shown offline, not forgotten.
    peak_replicas integer NOT NULL,
    suspended boolean NOT NULL,
    metadata jsonb NOT NULL
);
CREATE INDEX pools_name ON pools (namespace, name);

CREATE TABLE systems (
    uid uuid PRIMARY KEY,
    namespace text NOT NULL,
    name text NOT NULL,
    resource_version bigint NOT NULL,
    generation bigint NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    deleted_at timestamptz,
    failed_cooldown_ms bigint NOT NULL,
    blocked_cooldown_ms bigint NOT NULL,
    max_retries integer
);
CREATE INDEX systems_namespace ON systems (namespace);

-- The slots of the live pools. Derived at read time, so that no order of events can leave a stale state.
-- last_heartbeat: when a Run in the slot was last seen to change (admitted, condition, ended).
CREATE VIEW agents AS
SELECT p.namespace,
       p.name || '-' || s.slot AS id,
       p.uid AS pool_uid,
       p.name AS pool,
       s.slot,
       p.role,
       CASE WHEN busy.uid IS NOT NULL THEN 'busy'
            WHEN p.suspended OR s.slot > p.replicas THEN 'offline'
            ELSE 'idle' END AS status,
       busy.task_uid AS current_task_id,
       (SELECT max(r.updated_at) FROM runs r
         WHERE r.namespace = p.namespace AND r.agent = p.name || '-' || s.slot AND r.pool = p.name) AS last_heartbeat,
       p.metadata,
       p.created_at
  FROM pools p
 CROSS JOIN LATERAL generate_series(1, p.peak_replicas) AS s(slot)
  LEFT JOIN LATERAL (
        SELECT r.uid, r.task_uid FROM runs r
         WHERE r.namespace = p.namespace AND r.agent = p.name || '-' || s.slot AND r.pool = p.name
           AND r.status = 'running' AND r.deleted_at IS NULL
         ORDER BY r.created_at DESC LIMIT 1) AS busy ON true
 WHERE p.deleted_at IS NULL;

-- The audit log: one row per transition, keyed by the object's uid and the transition's number.
-- A row with gap_to stands for transitions sequence..gap_to, which were dropped before they could be read.
CREATE TABLE events (
    uid uuid NOT NULL,
    sequence bigint NOT NULL,
    id uuid NOT NULL,
    namespace text NOT NULL,
    type text NOT NULL,
    entity_type text NOT NULL,
    agent_id text,
    payload jsonb,
    created_at timestamptz NOT NULL,
    gap_to bigint,
    PRIMARY KEY (uid, sequence)
);
CREATE INDEX events_newest ON events (namespace, created_at DESC, id DESC);

CREATE TABLE run_logs (
    run_uid uuid NOT NULL,
    container text NOT NULL,
    namespace text NOT NULL,
    pod text NOT NULL,
    content text NOT NULL,
    -- Bytes the container wrote, and how many of them are missing from content.
    total_bytes bigint NOT NULL,
    cut_bytes bigint NOT NULL,
    archived_at timestamptz NOT NULL,
    PRIMARY KEY (run_uid, container)
);

-- What the mirror knows about itself, per kind and namespace.
CREATE TABLE mirror_state (
    kind text NOT NULL,
    namespace text NOT NULL,
    listed_at timestamptz,
    -- Rows set back because the cluster was restored to an older state.
    restored bigint NOT NULL DEFAULT 0,
    -- Deleted objects of which nothing could be kept.
    lost bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (kind, namespace)
);

-- Objects whose row was refused, so that one bad row never holds up the others.
CREATE TABLE mirror_parked (
    kind text NOT NULL,
    uid text NOT NULL,
    namespace text NOT NULL,
    name text NOT NULL,
    resource_version text NOT NULL,
    error text NOT NULL,
    parked_at timestamptz NOT NULL,
    PRIMARY KEY (kind, uid)
);
