//! What clients of the original ask for at once and what this product has nothing to say about: logins
//! of command line tools, the host, conversations, plugins. Well-formed answers that say so
//! (`spec/api.md` 1.1, 1.7, 1.8 and corrections 22); without them a first page shows errors.

use axum::Json;
use axum::extract::State;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::error::{ApiError, ErrorBody};
use super::query::Params;
use super::state::ApiState;

/// What this is.
#[derive(Debug, Serialize, ToSchema)]
pub struct Root {
    name: &'static str,
    version: &'static str,
    description: &'static str,
}

/// Name and version of this API.
#[utoipa::path(get, path = "/", tag = "health",
    responses((status = 200, body = Root), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody)))]
pub async fn root() -> Json<Root> {
    Json(Root {
        name: "openTiger",
        version: env!("CARGO_PKG_VERSION"),
        description: "Tasks for coding agents on Kubernetes: see /openapi.json",
    })
}

/// Plugins: there are none.
#[derive(Debug, Serialize, ToSchema)]
pub struct Plugins {
    /// Always empty.
    plugins: Vec<Value>,
}

/// Plugins: there are none.
#[utoipa::path(get, path = "/plugins", tag = "system",
    responses((status = 200, body = Plugins), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody)))]
pub async fn plugins() -> Json<Plugins> {
    Json(Plugins { plugins: Vec::new() })
}

/// Whether a tool on the host is logged in: there is no host.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Login {
    /// Always false.
    available: bool,
    /// Always false: it is not looked at.
    authenticated: bool,
    /// `token`, of GitHub.
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<&'static str>,
    /// `sandbox`, of an executor: it works in Pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    execution_environment: Option<&'static str>,
    #[schema(value_type = String, format = DateTime)]
    checked_at: Timestamp,
    message: &'static str,
}

/// GitHub: the credentials are a Secret that this API does not read.
#[utoipa::path(get, path = "/system/github/auth", tag = "system",
    responses((status = 200, body = Login), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody)))]
pub async fn github_auth(State(state): State<ApiState>) -> Json<Login> {
    Json(Login {
        available: false,
        authenticated: false,
        mode: Some("token"),
        execution_environment: None,
        checked_at: (state.now)(),
        message: "not looked at: git uses the Secret that repository.credentialsSecretRef of the System names",
    })
}

/// Claude Code: the credentials are a Secret that this API does not read.
#[utoipa::path(get, path = "/system/claude/auth", tag = "system",
    params(("environment" = Option<String>, Query, description = "host or sandbox; without effect")),
    responses((status = 200, body = Login), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody)))]
pub async fn claude_auth(State(state): State<ApiState>, params: Params) -> Result<Json<Login>, ApiError> {
    executor(&state, &params)
}

/// Codex: the credentials are a Secret that this API does not read.
#[utoipa::path(get, path = "/system/codex/auth", tag = "system",
    params(("environment" = Option<String>, Query, description = "host or sandbox; without effect")),
    responses((status = 200, body = Login), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody)))]
pub async fn codex_auth(State(state): State<ApiState>, params: Params) -> Result<Json<Login>, ApiError> {
    executor(&state, &params)
}

fn executor(state: &ApiState, params: &Params) -> Result<Json<Login>, ApiError> {
    params.word("environment", &["host", "sandbox"])?;
    Ok(Json(Login {
        available: false,
        authenticated: false,
        mode: None,
        execution_environment: Some("sandbox"),
        checked_at: (state.now)(),
        message: "not looked at: agents use the Secret that credentialsSecretRef of their AgentPool names",
    }))
}

/// Repositories to choose from: none.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Repositories {
    /// Always empty.
    repos: Vec<Value>,
    /// Always empty.
    viewer_login: &'static str,
}

/// Repositories to choose from: none, the repository is set in the System.
#[utoipa::path(get, path = "/system/github/repos", tag = "system",
    params(("owner" = Option<String>, Query, description = "without effect")),
    responses((status = 200, body = Repositories), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody)))]
pub async fn github_repos() -> Json<Repositories> {
    Json(Repositories { repos: Vec::new(), viewer_login: "" })
}

/// The host: there is none.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Host {
    /// Always false.
    available: bool,
    #[schema(value_type = String, format = DateTime)]
    checked_at: Timestamp,
    message: &'static str,
}

/// The host: there is none, agents work in Pods.
#[utoipa::path(get, path = "/system/host/neofetch", tag = "system",
    responses((status = 200, body = Host), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody)))]
pub async fn neofetch(State(state): State<ApiState>) -> Json<Host> {
    let message = "there is no host to look at: agents work in Pods";
    Json(Host { available: false, checked_at: (state.now)(), message })
}

/// What is known of the host: nothing.
#[derive(Debug, Serialize, ToSchema)]
pub struct HostContext {
    /// Always false.
    refreshed: bool,
    /// Always null.
    #[schema(value_type = Option<Object>)]
    snapshot: Option<Value>,
}

/// What is known of the host: nothing.
#[utoipa::path(get, path = "/system/host/context", tag = "system",
    responses((status = 200, body = HostContext), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody)))]
pub async fn host_context() -> Json<HostContext> {
    Json(HostContext { refreshed: false, snapshot: None })
}

/// Conversations: there are none.
#[derive(Debug, Serialize, ToSchema)]
pub struct Conversations {
    /// Always empty.
    conversations: Vec<Value>,
}

/// Conversations with the planner: there are none.
#[utoipa::path(get, path = "/chat/conversations", tag = "system",
    responses((status = 200, body = Conversations), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody)))]
pub async fn conversations() -> Json<Conversations> {
    Json(Conversations { conversations: Vec::new() })
}
