-- What was posted over HTTP about a Run: references and small contents. Apart from `artifacts`, which
-- follow from the Run itself and are made again when the cluster is restored; these cannot be.
CREATE TABLE posted_artifacts (
    id uuid PRIMARY KEY,
    run_uid uuid NOT NULL,
    namespace text NOT NULL,
    type text NOT NULL,
    ref text,
    url text,
    metadata jsonb,
    content bytea,
    content_type text,
    -- Hash of the request that posted it; a repeat with the same Idempotency-Key has the same id.
    request_hash text,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX posted_artifacts_run ON posted_artifacts (run_uid, created_at);

CREATE INDEX runs_name ON runs (namespace, name);
-- One verdict by its id.
CREATE INDEX events_id ON events (id) WHERE type = 'judge.review';
-- Lists with one filter, newest first.
CREATE INDEX tasks_role ON tasks (namespace, role, created_at DESC, uid DESC) WHERE deleted_at IS NULL;
CREATE INDEX tasks_lane ON tasks (namespace, lane, created_at DESC, uid DESC) WHERE deleted_at IS NULL;
CREATE INDEX tasks_created_by ON tasks (namespace, created_by, created_at DESC, uid DESC)
    WHERE created_by IS NOT NULL AND deleted_at IS NULL;
CREATE INDEX runs_agent_newest ON runs (namespace, agent, created_at DESC, uid DESC);
CREATE INDEX runs_status ON runs (namespace, status, created_at DESC, uid DESC) WHERE deleted_at IS NULL;
-- Tokens by the day in which a Run has ended.
CREATE INDEX runs_finished ON runs (namespace, finished_at) INCLUDE (cost_tokens) WHERE cost_tokens IS NOT NULL;
