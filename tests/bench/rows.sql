-- Task rows as a busy system has them, numbered from :first to :last. Created over 90 days, the newest last; one in ten deleted,
-- one in five with a dependency, half of them resolved, texts of the length that planners write.
INSERT INTO tasks (uid, namespace, name, resource_version, generation, created_at, updated_at, deleted_at, title, goal, context,
    allowed_paths, denied_paths, commands, priority, risk_level, role, lane, kind, status, block_reason, target_area, touches,
    dependency_names, resolved_dependencies, timebox_minutes, attempts, retry_count, retries, retry_at, next_kind, failure_class, failure_code)
SELECT md5('bench-' || n)::uuid, CASE WHEN n % 10 = 0 THEN 'elsewhere' ELSE 'bench' END, 'task-' || n, n, 1, made, made + interval '20 minutes',
    CASE WHEN n % 11 = 0 THEN made + interval '7 days' END,
    'Validate the input of module ' || n % 977, 'All commands pass; the change is limited to the paths that are allowed. ' || repeat(md5(n::text), 4),
    jsonb_build_object('files', jsonb_build_array('src/module' || n % 977 || '.rs', 'tests/module' || n % 977 || '.rs'),
        'specs', 'Reject what is empty or too long, and name the field. ' || repeat(md5((n * 7)::text), 4), 'notes', NULL),
    ARRAY['src/module' || n % 977 || '/**', 'tests/**', 'docs/**'], ARRAY['.github/**'], ARRAY['make check', 'make test'],
    (n % 100)::int, (ARRAY['low', 'low', 'medium', 'high'])[1 + n % 4], (ARRAY['worker', 'worker', 'tester', 'docser'])[1 + n % 4],
    (ARRAY['feature', 'feature', 'feature', 'docs', 'conflict_recovery'])[1 + n % 5], 'code', status,
    CASE WHEN status = 'blocked' THEN (ARRAY['awaiting_judge', 'quota_wait', 'needs_rework'])[1 + n % 3] END,
    CASE WHEN n % 3 = 0 THEN 'area-' || n % 31 END, '{}',
    CASE WHEN n % 5 = 1 AND n > 50 THEN ARRAY['task-' || n - 41] ELSE '{}' END,
    CASE WHEN n % 10 = 6 AND n > 50 THEN jsonb_build_object('task-' || n - 41, md5('bench-' || n - 41)::uuid) ELSE '{}' END,
    60, 1 + (n % 3)::int, (n % 3)::int, '{"failure": 1}', CASE WHEN status IN ('failed', 'blocked') THEN made + interval '1 hour' END,
    CASE WHEN status IN ('queued', 'running', 'blocked', 'failed') THEN 'watch' END,
    CASE WHEN status = 'failed' THEN 'env' END, CASE WHEN status = 'failed' THEN 'verification_command_failed' END
  FROM (SELECT n, now() - interval '90 days' + n * interval '7 seconds' AS made,
               CASE WHEN h < 80 THEN 'done' WHEN h < 88 THEN 'cancelled' WHEN h < 91 THEN 'failed' WHEN h < 95 THEN 'blocked'
                    WHEN h < 99 THEN 'queued' ELSE 'running' END AS status
          FROM (SELECT n, abs(hashint8(n)) % 100 AS h FROM generate_series(:first::bigint, :last::bigint) AS n) AS hashed) AS numbered;
