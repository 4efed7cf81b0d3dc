//! Keys of review, merge and planning.

use super::super::key::{Component, Key, Kind, any, narrow};
use super::{fixed, system, variable};

const JUDGE: &[Component] = &[Component::Judge];
const PLANNER: &[Component] = &[Component::CycleManager, Component::Planner];
const HOUR: i64 = 3_600_000;
const NO_COMMAND: &str = "a Plan Run is a Pod: there is no command, and it has its own checkout";
const SAME_REPOSITORY: &str = "planning reads `spec.repository.url`";

pub(super) static KEYS: &[Key] = &[
    system(
        "JUDGE_ENABLED",
        "true",
        JUDGE,
        "Whether what was pushed is reviewed and merged",
        "spec.judge.enabled",
        Kind::Flag { get: |s| s.judge.enabled, set: |s, on| s.judge.enabled = on },
    ),
    system(
        "JUDGE_MERGE_QUEUE_MAX_ATTEMPTS",
        "3",
        JUDGE,
        "Attempts to merge one approved commit",
        "spec.judge.mergeMaxAttempts",
        Kind::Whole {
            least: 1,
            most: 20,
            get: |s| s.judge.merge_max_attempts.into(),
            set: |s, n| s.judge.merge_max_attempts = narrow(n),
        },
    ),
    system(
        "JUDGE_MERGE_QUEUE_RETRY_DELAY_MS",
        "30000",
        JUDGE,
        "Wait between two of them",
        "spec.judge.mergeRetryDelay",
        Kind::Millis {
            least: 0,
            most: 24 * HOUR,
            absent: None,
            get: |s| Some(&s.judge.merge_retry_delay),
            set: |s, d| s.judge.merge_retry_delay = d.unwrap_or_default(),
        },
    ),
    fixed("JUDGE_MERGE_QUEUE_CLAIM_TTL_MS", "120000", "120000", "there are no claims that could expire"),
    variable(
        "JUDGE_MERGE_ON_APPROVE",
        "true",
        JUDGE,
        "Whether what is approved is merged",
        "spec.judge.autoMerge",
        Kind::Flag { get: |s| s.judge.auto_merge, set: |s, on| s.judge.auto_merge = on },
    ),
    variable(
        "JUDGE_ALLOW_LLM_FAIL_AUTOMERGE",
        "true",
        JUDGE,
        "Whether a change that only the model refuses is approved",
        "spec.judge.allowModelFailAutoMerge",
        Kind::Flag {
            get: |s| s.judge.allow_model_fail_auto_merge,
            set: |s, on| s.judge.allow_model_fail_auto_merge = on,
        },
    ),
    variable(
        "JUDGE_AUTO_FIX_MAX_ATTEMPTS",
        "3",
        JUDGE,
        "AutoFix Tasks of one Task",
        "spec.judge.autoFixMaxAttempts",
        Kind::Whole {
            least: 0,
            most: 20,
            get: |s| s.judge.auto_fix_max_attempts.into(),
            set: |s, n| s.judge.auto_fix_max_attempts = narrow(n),
        },
    ),
    system(
        "AUTO_REPLAN",
        "true",
        PLANNER,
        "Whether Tasks are planned whenever the backlog is empty: `spec.planner.enabled` and this field",
        "spec.planner.autoReplan",
        Kind::Flag {
            get: |s| s.planner.enabled && s.planner.auto_replan,
            set: |s, on| {
                s.planner.auto_replan = on;
                s.planner.enabled |= on;
            },
        },
    ),
    system(
        "REPLAN_REQUIREMENT_PATH",
        "docs/requirement.md",
        PLANNER,
        "What is planned from, in the repository",
        "spec.planner.requirementPath",
        Kind::Text {
            optional: true,
            most: 512,
            check: any,
            get: |s| s.planner.requirement_path.as_deref().unwrap_or_default(),
            set: |s, path| {
                let planner = &mut s.planner;
                planner.requirement_path = Some(path).filter(|path| !path.is_empty());
                // Without anything to plan from, planning must not be enabled; it was not automatic.
                let nothing = planner.requirement_path.is_none() && planner.requirement.is_none();
                planner.enabled &= planner.auto_replan || !nothing;
            },
        },
    ),
    system(
        "REPLAN_INTERVAL_MS",
        "60000",
        PLANNER,
        "Least time between two plans",
        "spec.planner.interval",
        Kind::Millis {
            least: 1000,
            most: 720 * HOUR,
            absent: None,
            get: |s| Some(&s.planner.interval),
            set: |s, d| s.planner.interval = d.unwrap_or_default(),
        },
    ),
    variable(
        "REPLAN_SKIP_SAME_SIGNATURE",
        "false",
        PLANNER,
        "Whether the same requirement for the same commit is planned once only",
        "spec.planner.skipSameSignature",
        Kind::Flag {
            get: |s| s.planner.skip_same_signature,
            set: |s, on| s.planner.skip_same_signature = on,
        },
    ),
    fixed("REPLAN_COMMAND", "pnpm --filter @openTiger/planner run start:fresh", "", NO_COMMAND),
    fixed("REPLAN_WORKDIR", "", "", NO_COMMAND),
    fixed("REPLAN_REPO_URL", "", "", SAME_REPOSITORY),
    fixed("PLANNER_REPO_URL", "", "", SAME_REPOSITORY),
    fixed("PLANNER_USE_REMOTE", "true", "true", SAME_REPOSITORY),
];
