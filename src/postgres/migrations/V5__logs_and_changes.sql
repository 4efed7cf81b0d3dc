-- Logs in one place, and the stream of changes. Adds only: the version before goes on reading and
-- writing, and what it writes is in the stream too.

-- Lines of `content`; null for logs that an older version kept.
ALTER TABLE run_logs ADD COLUMN lines bigint;
CREATE INDEX run_logs_newest ON run_logs (namespace, archived_at DESC, run_uid DESC, container DESC);

-- POST /logs/clear: no line before this time is shown any more.
CREATE TABLE log_bounds (
    namespace text PRIMARY KEY,
    cleared_at timestamptz NOT NULL
);

-- What a statement has changed: one row for all its rows of one namespace. Numbers become visible in
-- their order, so a reader that has seen one has seen every lower one.
CREATE TABLE changes (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    namespace text NOT NULL,
    kind text NOT NULL,
    -- Side by side. Version -1: the object is about to be set back.
    uids uuid[] NOT NULL,
    versions bigint[] NOT NULL,
    deleted boolean[] NOT NULL,
    at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX changes_namespace ON changes (namespace, seq);

-- One row. `epoch`: numbers of another epoch mean nothing here. `pruned_to`: the last number that is
-- no longer kept.
CREATE TABLE change_state (
    epoch text NOT NULL,
    pruned_to bigint NOT NULL
);
INSERT INTO change_state VALUES (substr(md5(gen_random_uuid()::text), 1, 12), 0);

-- Runs with the rights of the owner, so that who writes a row needs no right on the stream.
CREATE FUNCTION record_changes() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    first_seq bigint;
    last_seq bigint;
BEGIN
    IF NOT EXISTS (SELECT FROM changed) THEN
        RETURN NULL;
    END IF;
    -- Held until the commit: the next number is not given before this one is visible or given up.
    PERFORM pg_advisory_xact_lock(8030604370001);
    WITH written AS (
        INSERT INTO changes (namespace, kind, uids, versions, deleted)
        SELECT namespace, TG_ARGV[0], array_agg(uid), array_agg(resource_version), array_agg(deleted_at IS NOT NULL)
          FROM changed GROUP BY namespace
        RETURNING seq
    )
    SELECT min(seq), max(seq) INTO first_seq, last_seq FROM written;
    -- Every 64 numbers: what is older than 15 minutes, or 50,000 numbers, goes.
    IF last_seq / 64 <> (first_seq - 1) / 64 THEN
        WITH old AS (
            DELETE FROM changes
             WHERE seq IN (SELECT seq FROM changes ORDER BY seq LIMIT 512)
               AND (at < now() - interval '15 minutes' OR seq < last_seq - 50000)
            RETURNING seq
        )
        UPDATE change_state SET pruned_to = greatest(pruned_to, (SELECT max(seq) FROM old))
         WHERE EXISTS (SELECT FROM old);
    END IF;
    -- One per transaction, whatever it has changed.
    PERFORM pg_notify('opentiger_changes', '');
    RETURN NULL;
END;
$$;

DO $$
DECLARE
    of text[];
BEGIN
    FOREACH of SLICE 1 IN ARRAY ARRAY[['tasks', 'task'], ['runs', 'run'], ['pools', 'pool'],
                                      ['systems', 'system'], ['operations', 'operation']] LOOP
        CONTINUE WHEN to_regclass('public.' || of[1]) IS NULL;
        EXECUTE format('CREATE TRIGGER record_inserts AFTER INSERT ON %I REFERENCING NEW TABLE AS changed
                        FOR EACH STATEMENT EXECUTE FUNCTION record_changes(%L)', of[1], of[2]);
        EXECUTE format('CREATE TRIGGER record_updates AFTER UPDATE ON %I REFERENCING NEW TABLE AS changed
                        FOR EACH STATEMENT EXECUTE FUNCTION record_changes(%L)', of[1], of[2]);
    END LOOP;
END;
$$;
