//! Settings of the agent programs that an AgentPool can name as its executor.
//!
//! The words of a setting are those of the program, so that its own documentation holds. Must not know
//! how a program is called.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Claude Code (`claude`, npm package `@anthropic-ai/claude-code`). The pool's Secret gives
/// `ANTHROPIC_API_KEY`, or `ANTHROPIC_AUTH_TOKEN`, or `CLAUDE_CODE_OAUTH_TOKEN`, and where needed
/// `ANTHROPIC_BASE_URL`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClaudeCodeExecutor {
    /// Model or alias, with or without `anthropic/` before it; absent: the program's own default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9][^ ]*$') && !self.matches('^(google|openai|xai|deepseek|groq|ollama)/')").message("model: must be a model of Anthropic such as claude-opus-4-6"))]
    pub model: Option<String>,
    /// How much the model thinks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effort: Option<ClaudeEffort>,
    /// Answers of the model after which it is ended; absent: no limit but the timebox.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_turns: Option<i32>,
    /// What it may do without asking. Nobody answers: what it would ask for is refused, and the Run fails.
    #[serde(default)]
    pub permission_mode: PermissionMode,
}

/// Permission modes of Claude Code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PermissionMode {
    /// Everything: the Pod is the boundary.
    #[default]
    #[serde(rename = "bypassPermissions")]
    BypassPermissions,
    /// Edits of files in the checkout.
    #[serde(rename = "acceptEdits")]
    AcceptEdits,
    /// What its settings allow; all else is refused.
    #[serde(rename = "dontAsk")]
    DontAsk,
    /// Reading only.
    #[serde(rename = "plan")]
    Plan,
}

impl PermissionMode {
    /// The program's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::BypassPermissions => "bypassPermissions",
            Self::AcceptEdits => "acceptEdits",
            Self::DontAsk => "dontAsk",
            Self::Plan => "plan",
        }
    }
}

/// Effort levels of Claude Code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClaudeEffort {
    Low,
    Medium,
    High,
    Xhigh,
    Max,
}

impl ClaudeEffort {
    /// The program's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Xhigh => "xhigh",
            Self::Max => "max",
        }
    }
}

/// Codex (`codex`, npm package `@openai/codex`). The pool's Secret gives `CODEX_API_KEY` or
/// `OPENAI_API_KEY`, and where needed `OPENAI_BASE_URL`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct CodexExecutor {
    /// Model, with or without `openai/` before it; absent: the program's own default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 128))]
    #[x_kube(validation = Rule::new("self.matches('^(openai/)?[A-Za-z0-9][^ /]*$')").message("model: must be a model of OpenAI such as gpt-5.3-codex"))]
    pub model: Option<String>,
    /// How much the model thinks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effort: Option<CodexEffort>,
    /// What the commands of the model may reach.
    #[serde(default)]
    pub sandbox: CodexSandbox,
}

/// Effort levels of Codex.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CodexEffort {
    Minimal,
    Low,
    Medium,
    High,
    Xhigh,
}

impl CodexEffort {
    /// The program's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Minimal => "minimal",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Xhigh => "xhigh",
        }
    }
}

/// Sandboxes of Codex. All but the first need kernel features that a restricted Pod may refuse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CodexSandbox {
    /// None: the Pod is the boundary.
    #[default]
    DangerFullAccess,
    /// Writing in the checkout only, no network.
    WorkspaceWrite,
    /// Reading only.
    ReadOnly,
}

impl CodexSandbox {
    /// The program's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::DangerFullAccess => "danger-full-access",
            Self::WorkspaceWrite => "workspace-write",
            Self::ReadOnly => "read-only",
        }
    }
}

/// OpenCode (`opencode`, npm package `opencode-ai`). The pool's Secret gives the key of the model's
/// provider under the provider's own name, such as `ANTHROPIC_API_KEY`, and where needed its base URL,
/// such as `ANTHROPIC_BASE_URL`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct OpenCodeExecutor {
    /// Provider and model.
    #[schemars(length(min = 3, max = 128))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9][A-Za-z0-9_.-]*/[^ ]+$')").message("model: must be provider/model such as anthropic/claude-sonnet-4-5"))]
    pub model: String,
    /// How much the model thinks, in the provider's words: the variant of the model.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z][a-z0-9-]*$')").message("effort: must be a variant of the model such as high"))]
    pub effort: Option<String>,
}
