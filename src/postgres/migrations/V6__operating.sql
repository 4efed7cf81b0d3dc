-- What operating the database needs. Additive: programs of versions 1 to 5 work on.

-- Lists of what is not deleted, at any depth, however many deleted rows there are.
CREATE INDEX tasks_undeleted ON tasks (namespace, created_at DESC, uid DESC) WHERE deleted_at IS NULL;
CREATE INDEX runs_undeleted ON runs (namespace, created_at DESC, uid DESC) WHERE deleted_at IS NULL;

-- Retention by age.
CREATE INDEX tasks_deleted ON tasks (deleted_at) WHERE deleted_at IS NOT NULL;
CREATE INDEX runs_deleted ON runs (deleted_at) WHERE deleted_at IS NOT NULL;
DO $$
BEGIN
    IF to_regclass('public.operations') IS NOT NULL THEN
        CREATE INDEX operations_deleted ON operations (deleted_at) WHERE deleted_at IS NOT NULL;
    END IF;
END;
$$;

-- The oldest program, by the version of the tables it was written for, that works with these tables.
-- A migration that takes something away from older programs sets it to its own version.
CREATE TABLE schema_compatibility (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    oldest_program integer NOT NULL
);
INSERT INTO schema_compatibility (oldest_program) VALUES (1);
