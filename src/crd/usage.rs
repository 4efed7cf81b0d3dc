//! What an executor says of its work: tokens and conversation. Types only.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Tokens reported by the executor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TokenUsage {
    /// What the model read, cached tokens included.
    pub input: i64,
    pub output: i64,
    /// Part of `input` that the provider had in its cache.
    #[serde(skip_serializing_if = "is_zero")]
    pub cached: i64,
    /// `input` and `output`.
    pub total: i64,
}

fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// Longest [`AgentSession::id`] that a status can hold, in characters.
pub const MAX_SESSION_ID_CHARS: usize = 64;

/// The conversation of an executor with its model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct AgentSession {
    /// The executor's own name for it.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 64))]
    pub id: String,
    /// Answers of the model.
    pub turns: i64,
}
