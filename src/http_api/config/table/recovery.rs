//! Keys of recovery, of restarts, of self-healing and of cycles.

use super::super::key::{Component, Key, Kind, narrow};
use super::{fixed, variable};
use crate::crd::verification::AutomaticCommands;

const MANAGER: &[Component] = &[Component::CycleManager];
const RETRY: &[Component] = &[Component::CycleManager, Component::Api];
const DISPATCHER: &[Component] = &[Component::Dispatcher];
const AGENTS: &[Component] =
    &[Component::Judge, Component::Planner, Component::Worker, Component::Tester, Component::Docser];
const CHANGING: &[Component] = &[Component::Worker, Component::Tester, Component::Docser];
const CONTRACT: &str = "contract";
const OFF: &str = "off";
const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;
const A_RETRY_IS_A_RUN: &str =
    "an attempt that failed is followed by another Run, which is told why; this is not repeated inside one";
const REPAIRS: &str =
    "an agent is started again on what a verification command finds, at most twice in a Run";
const ONE_REPAIR: &str = "there is one kind of repair, see `WORKER_VERIFY_RECOVERY_ATTEMPTS`";

pub(super) static KEYS: &[Key] = &[
    fixed("BLOCKED_NEEDS_REWORK_IN_PLACE_RETRY_LIMIT", "5", "5", "the limit is 5"),
    fixed("WORKER_NO_CHANGE_RECOVERY_ATTEMPTS", "5", "0", A_RETRY_IS_A_RUN),
    fixed("WORKER_POLICY_RECOVERY_ATTEMPTS", "5", "0", A_RETRY_IS_A_RUN),
    fixed("WORKER_VERIFY_RECOVERY_ATTEMPTS", "5", "2", REPAIRS),
    fixed("WORKER_SETUP_IN_PROCESS_RECOVERY", "true", "true", REPAIRS),
    fixed("WORKER_VERIFY_LLM_INLINE_RECOVERY", "true", "false", ONE_REPAIR),
    fixed("WORKER_VERIFY_LLM_INLINE_RECOVERY_ATTEMPTS", "3", "0", ONE_REPAIR),
    variable(
        "WORKER_AUTO_VERIFY_MODE",
        "hybrid",
        CHANGING,
        "Commands of the repository's contract: `contract` or `off`; no model is asked for commands",
        "spec.verification.automatic",
        Kind::Text {
            optional: false,
            most: 16,
            check: automatic_word,
            get: |s| match s.verification.automatic {
                AutomaticCommands::Contract => CONTRACT,
                AutomaticCommands::Off => OFF,
            },
            set: |s, word| {
                let off = word == OFF;
                s.verification.automatic =
                    if off { AutomaticCommands::Off } else { AutomaticCommands::Contract };
            },
        },
    ),
    variable(
        "WORKER_VERIFY_CONTRACT_PATH",
        ".opentiger/verify.contract.json",
        CHANGING,
        "The contract in the repository",
        "spec.verification.contractPath",
        Kind::Text {
            optional: false,
            most: 512,
            check: inside,
            get: |s| &s.verification.contract_path,
            set: |s, path| s.verification.contract_path = path,
        },
    ),
    variable(
        "WORKER_AUTO_VERIFY_MAX_COMMANDS",
        "4",
        CHANGING,
        "Automatic commands of one verification",
        "spec.verification.maxAutomaticCommands",
        Kind::Whole {
            least: 1,
            most: 20,
            get: |s| s.verification.max_automatic_commands.into(),
            set: |s, n| s.verification.max_automatic_commands = narrow(n),
        },
    ),
    variable(
        "WORKER_VERIFY_AUTO_NON_BLOCKING_AFTER_EXPLICIT_PASS",
        "true",
        CHANGING,
        "Whether the last automatic command may fail once one of the Task has passed",
        "spec.verification.automaticMayFail",
        Kind::Flag {
            get: |s| s.verification.automatic_may_fail,
            set: |s, on| s.verification.automatic_may_fail = on,
        },
    ),
    variable(
        "FAILED_TASK_RETRY_COOLDOWN_MS",
        "30000",
        RETRY,
        "Wait after a failed attempt",
        "spec.recovery.failedCooldown",
        Kind::Millis {
            least: 0,
            most: DAY,
            absent: None,
            get: |s| Some(&s.recovery.failed_cooldown),
            set: |s, d| s.recovery.failed_cooldown = d.unwrap_or_default(),
        },
    ),
    variable(
        "BLOCKED_TASK_RETRY_COOLDOWN_MS",
        "120000",
        RETRY,
        "Wait of a Task that needs rework",
        "spec.recovery.blockedCooldown",
        Kind::Millis {
            least: 0,
            most: DAY,
            absent: None,
            get: |s| Some(&s.recovery.blocked_cooldown),
            set: |s, d| s.recovery.blocked_cooldown = d.unwrap_or_default(),
        },
    ),
    variable(
        "FAILED_TASK_MAX_RETRY_COUNT",
        "-1",
        RETRY,
        "Failed attempts that a Task may cost in all",
        "spec.recovery.maxRetries",
        Kind::Limit {
            least: 0,
            most: 1000,
            get: |s| s.recovery.max_retries.map(i64::from),
            set: |s, n| s.recovery.max_retries = n.map(narrow),
        },
    ),
    variable(
        "DISPATCH_RETRY_DELAY_MS",
        "300000",
        DISPATCHER,
        "Least time between two attempts of one Task",
        "spec.recovery.dispatchRetryDelay",
        Kind::Millis {
            least: 0,
            most: DAY,
            absent: Some(0),
            get: |s| s.recovery.dispatch_retry_delay.as_ref(),
            set: |s, d| s.recovery.dispatch_retry_delay = d,
        },
    ),
    variable(
        "BLOCKED_POLICY_SUPPRESSION_MAX_RETRIES",
        "5",
        MANAGER,
        "Attempts with paths that cannot be allowed",
        "spec.recovery.policySuppressionMaxRetries",
        Kind::Whole {
            least: 1,
            most: 1000,
            get: |s| s.recovery.policy_suppression_max_retries.into(),
            set: |s, n| s.recovery.policy_suppression_max_retries = narrow(n),
        },
    ),
    variable(
        "AUTO_REWORK_MAX_DEPTH",
        "2",
        MANAGER,
        "Rework Tasks that may follow one another",
        "spec.recovery.autoReworkMaxDepth",
        Kind::Whole {
            least: 0,
            most: 10,
            get: |s| s.recovery.auto_rework_max_depth.into(),
            set: |s, n| s.recovery.auto_rework_max_depth = narrow(n),
        },
    ),
    variable(
        "SYSTEM_PROCESS_AUTO_RESTART",
        "true",
        MANAGER,
        "Whether an agent that crashed takes Runs again by itself",
        "spec.autoRestart.enabled",
        Kind::Flag { get: |s| s.auto_restart.enabled, set: |s, on| s.auto_restart.enabled = on },
    ),
    variable(
        "SYSTEM_PROCESS_AUTO_RESTART_DELAY_MS",
        "2000",
        MANAGER,
        "Wait after its first crash",
        "spec.autoRestart.delay",
        Kind::Millis {
            least: 0,
            most: 60_000,
            absent: None,
            get: |s| Some(&s.auto_restart.delay),
            set: |s, d| s.auto_restart.delay = d.unwrap_or_default(),
        },
    ),
    variable(
        "SYSTEM_PROCESS_AUTO_RESTART_WINDOW_MS",
        "300000",
        MANAGER,
        "Time in which its crashes are counted",
        "spec.autoRestart.window",
        Kind::Millis {
            least: 1000,
            most: DAY,
            absent: None,
            get: |s| Some(&s.auto_restart.window),
            set: |s, d| s.auto_restart.window = d.unwrap_or_default(),
        },
    ),
    variable(
        "SYSTEM_PROCESS_AUTO_RESTART_MAX_ATTEMPTS",
        "-1",
        MANAGER,
        "Restarts in that time",
        "spec.autoRestart.maxAttempts",
        Kind::Limit {
            least: 1,
            most: 1000,
            get: |s| s.auto_restart.max_attempts.map(i64::from),
            set: |s, n| s.auto_restart.max_attempts = n.map(narrow),
        },
    ),
    variable(
        "SYSTEM_PROCESS_SELF_HEAL",
        "true",
        MANAGER,
        "Whether anomalies are looked for",
        "spec.selfHeal.enabled",
        Kind::Flag { get: |s| s.self_heal.enabled, set: |s, on| s.self_heal.enabled = on },
    ),
    variable(
        "SYSTEM_PROCESS_SELF_HEAL_INTERVAL_MS",
        "30000",
        MANAGER,
        "Time between two looks",
        "spec.selfHeal.interval",
        Kind::Millis {
            least: 1000,
            most: HOUR,
            absent: None,
            get: |s| Some(&s.self_heal.interval),
            set: |s, d| s.self_heal.interval = d.unwrap_or_default(),
        },
    ),
    variable(
        "SYSTEM_PROCESS_SELF_HEAL_STARTUP_GRACE_MS",
        "120000",
        MANAGER,
        "Time after a takeover in which nothing is missed",
        "spec.selfHeal.startupGrace",
        Kind::Millis {
            least: 0,
            most: HOUR,
            absent: None,
            get: |s| Some(&s.self_heal.startup_grace),
            set: |s, d| s.self_heal.startup_grace = d.unwrap_or_default(),
        },
    ),
    variable(
        "SYSTEM_AGENT_LIVENESS_WINDOW_MS",
        "120000",
        AGENTS,
        "Time without a sign of life after which an agent is ended",
        "spec.selfHeal.agentLivenessWindow",
        Kind::Millis {
            least: 10_000,
            most: HOUR,
            absent: None,
            get: |s| Some(&s.self_heal.agent_liveness_window),
            set: |s, d| s.self_heal.agent_liveness_window = d.unwrap_or_default(),
        },
    ),
    variable(
        "CYCLE_MAX_DURATION_MS",
        "14400000",
        MANAGER,
        "Time after which a cycle ends",
        "spec.cycles.maxDuration",
        Kind::Millis {
            least: 1000,
            most: 8760 * HOUR,
            absent: Some(-1),
            get: |s| s.cycles.max_duration.as_ref(),
            set: |s, d| s.cycles.max_duration = d,
        },
    ),
    variable(
        "CYCLE_MAX_TASKS",
        "100",
        MANAGER,
        "Successful attempts after which a cycle ends",
        "spec.cycles.maxTasks",
        Kind::Limit {
            least: 1,
            most: 1_000_000,
            get: |s| s.cycles.max_tasks.map(i64::from),
            set: |s, n| s.cycles.max_tasks = n.map(narrow),
        },
    ),
    variable(
        "CYCLE_MAX_FAILURE_RATE",
        "0.3",
        MANAGER,
        "Failed attempts, as a part of all, after which a cycle ends; in percent in the field",
        "spec.cycles.maxFailureRate",
        Kind::Ratio { get: |s| s.cycles.max_failure_rate, set: |s, n| s.cycles.max_failure_rate = n },
    ),
];

/// The original's other words ask a model for commands.
fn automatic_word(word: &str) -> Result<(), &'static str> {
    match word {
        CONTRACT | OFF => Ok(()),
        _ => Err("must be contract or off: no model is asked for commands"),
    }
}

fn inside(path: &str) -> Result<(), &'static str> {
    let leaves = path.starts_with('/') || path.split('/').any(|name| name == "..");
    if leaves || path.ends_with('/') {
        Err("must be a file relative to the repository, without '..'")
    } else {
        Ok(())
    }
}
