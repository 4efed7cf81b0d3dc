//! Keys of executors and models. What works on a Task is the program of an AgentPool with all that
//! belongs to it, so nothing here can be set apart from it.

use super::super::key::{Component, Home, Key};
use super::fixed;
use crate::crd::Role;

const IN_THE_POOL: &str =
    "the executor is that of each AgentPool, in `spec.executor`, and its program names its model";
const PROVIDER: &str =
    "a credential whose provider has reached its limit is held until the stated reset, then tried once";

pub(super) static KEYS: &[Key] = &[
    fixed("LLM_EXECUTOR", "codex", "codex", IN_THE_POOL),
    executor("WORKER_LLM_EXECUTOR", &[Component::Worker], Role::Worker),
    executor("TESTER_LLM_EXECUTOR", &[Component::Tester], Role::Tester),
    executor("DOCSER_LLM_EXECUTOR", &[Component::Docser], Role::Docser),
    executor("JUDGE_LLM_EXECUTOR", &[Component::Judge], Role::Judge),
    executor("PLANNER_LLM_EXECUTOR", &[Component::Planner], Role::Planner),
    model("WORKER_MODEL", "google/gemini-3-flash-preview"),
    model("TESTER_MODEL", "google/gemini-3-flash-preview"),
    model("DOCSER_MODEL", "google/gemini-3-flash-preview"),
    model("JUDGE_MODEL", "google/gemini-3-pro-preview"),
    model("PLANNER_MODEL", "google/gemini-3-pro-preview"),
    model("CLAUDE_CODE_MODEL", "claude-opus-4-6"),
    model("CLAUDE_CODE_PERMISSION_MODE", "bypassPermissions"),
    model("CLAUDE_CODE_MAX_TURNS", "0"),
    model("CLAUDE_CODE_ALLOWED_TOOLS", ""),
    model("CLAUDE_CODE_DISALLOWED_TOOLS", ""),
    model("CLAUDE_CODE_APPEND_SYSTEM_PROMPT", ""),
    model("CODEX_MODEL", "gpt-5.3-codex"),
    model("CODEX_MAX_RETRIES", "3"),
    model("CODEX_RETRY_DELAY_MS", "5000"),
    model("OPENCODE_MODEL", "google/gemini-3-flash-preview"),
    model("OPENCODE_SMALL_MODEL", "google/gemini-2.5-flash"),
    fixed("OPENCODE_WAIT_ON_QUOTA", "true", "true", PROVIDER),
    fixed("OPENCODE_QUOTA_RETRY_DELAY_MS", "30000", "30000", PROVIDER),
    fixed("OPENCODE_MAX_QUOTA_WAITS", "-1", "-1", PROVIDER),
];

const fn executor(name: &'static str, affects: &'static [Component], role: Role) -> Key {
    let about = "The executor of the AgentPool; `inherit` when there is none";
    Key { name, original: "inherit", about, env: false, affects, home: Home::Executor(role) }
}

/// The original's value is shown, so that a client finds what it expects; it has no effect.
const fn model(name: &'static str, original: &'static str) -> Key {
    fixed(name, original, original, IN_THE_POOL)
}
