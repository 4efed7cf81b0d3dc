-- Operations; where a Task comes from; verdicts of Runs; how far each writer is.
-- Adds only: the version before goes on reading and writing while this one starts.

CREATE TABLE operations (
    uid uuid PRIMARY KEY,
    namespace text NOT NULL,
    name text NOT NULL,
    resource_version bigint NOT NULL,
    generation bigint NOT NULL,
    shape smallint NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    deleted_at timestamptz,
    -- lower_snake words of spec.type and status.phase.
    type text NOT NULL,
    phase text NOT NULL,
    target text,
    task_name text,
    requested_by text,
    reason text,
    message text,
    -- status.result as it is, in camelCase.
    result jsonb,
    dry_run boolean NOT NULL,
    force boolean NOT NULL,
    started_at timestamptz,
    finished_at timestamptz
);
CREATE INDEX operations_newest ON operations (namespace, created_at DESC, uid DESC);

-- Which columns a row was written with. A row of an older shape is written again although its object
-- has not changed, so that new columns are filled after an upgrade.
ALTER TABLE tasks ADD COLUMN shape smallint NOT NULL DEFAULT 1;
ALTER TABLE runs ADD COLUMN shape smallint NOT NULL DEFAULT 1;
ALTER TABLE pools ADD COLUMN shape smallint NOT NULL DEFAULT 1;
ALTER TABLE systems ADD COLUMN shape smallint NOT NULL DEFAULT 1;

-- Where a Task comes from (labels of the object): the Task that it follows, who made it and why.
ALTER TABLE tasks
    ADD COLUMN parent_uid uuid,
    ADD COLUMN parent_name text,
    ADD COLUMN created_by text,
    ADD COLUMN origin text,
    ADD COLUMN plan_signature text;
CREATE INDEX tasks_parent ON tasks (parent_uid) WHERE parent_uid IS NOT NULL;

-- Of Judge Runs with a verdict: what is added to the payload of their `judge.review` event.
ALTER TABLE runs ADD COLUMN review jsonb;

-- GET /judgements and GET /plans read the newest events of one type.
CREATE INDEX events_type ON events (namespace, type, created_at DESC, id DESC);

-- Batches committed by each running mirror. One that finds fewer than it was told of knows that the
-- database went back (restored, or failed over with a loss), and compares everything.
CREATE TABLE mirror_writers (
    writer uuid PRIMARY KEY,
    batches bigint NOT NULL,
    written_at timestamptz NOT NULL
);
