//! The HTTP API: reads come from Postgres, writes create Kubernetes objects (design, section 7).
//!
//! One file per resource. Errors are always JSON `{error, code}`; bad input is never a 500.

pub mod access;
pub mod agent_write;
pub mod agents;
pub mod auth;
pub mod auth_kubernetes;
pub mod change_feed;
pub mod changes;
pub mod cleanup;
pub mod config;
pub mod connections;
pub mod edge;
pub mod error;
pub mod every_route;
pub mod fields;
pub mod hatch;
pub mod health;
pub mod idempotency;
pub mod judgements;
pub mod keys;
pub mod kubernetes;
pub mod limits;
pub mod live;
pub mod log_follow;
pub mod log_lines;
pub mod log_live;
pub mod log_merge;
pub mod logs;
pub mod metrics;
pub mod nothing;
pub mod observe;
pub mod operations;
pub mod peer;
pub mod plan_list;
pub mod plan_store;
pub mod planner_start;
pub mod plans;
pub mod preflight;
pub mod process_info;
pub mod processes;
pub mod query;
pub mod requirements;
pub mod retry;
pub mod run_artifacts;
pub mod run_write;
pub mod runs;
pub mod state;
pub mod task_act;
pub mod task_change;
pub mod task_create;
pub mod task_request;
pub mod task_writer;
pub mod tasks;
pub mod throughput;
pub mod watched;
pub mod webhook;
pub mod webhook_event;
pub mod write_deadline;
pub mod written;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::middleware::from_fn_with_state;
use axum::routing::get;
use jiff::Timestamp;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower::util::option_layer;
use utoipa::OpenApi;
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme,
};
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouterExt};
use utoipa_axum::routes;

use self::auth::Auth;
use self::auth_kubernetes::KubernetesAuth;
use self::edge::{Edge, EdgeConfig, OpenMode};
use self::error::ApiError;
use self::keys::ApiKeys;
use self::kubernetes::Kubernetes;
use self::live::{Live, OperatorPods};
use self::metrics::ApiMetrics;
use self::plan_store::{KubernetesPlans, PlanStore};
use self::state::ApiState;
use self::task_writer::{KubernetesTasks, TaskWriter};
use crate::postgres::{self, DatabaseConfig};

/// Largest body, in bytes.
const MAX_BODY_BYTES: usize = 256 * 1024;
/// Time for answers under way after the shutdown.
const DRAIN_DEADLINE: Duration = Duration::from_secs(10);

/// How to run the API.
#[derive(Clone)]
pub struct ApiConfig {
    pub listen: SocketAddr,
    /// The namespace whose rows are served and in which Tasks are made.
    pub namespace: String,
    pub database: DatabaseConfig,
    /// File of API keys (see [`keys`]); read again when it changes.
    pub api_keys_file: Option<PathBuf>,
    /// Accept Kubernetes bearer tokens; needs `client`.
    pub kubernetes_auth: bool,
    /// Serve everybody when no other way is configured.
    pub insecure_no_auth: bool,
    /// Name of the Secret of the namespace that keys of `/config` are written to; without it they are refused.
    pub config_secret: Option<String>,
    /// Creates Tasks and checks tokens; without it the API only reads.
    pub client: Option<kube::Client>,
    /// Where the operator's own logs are; without it they are not served.
    pub operator_pods: Option<OperatorPods>,
    /// Limits, proxies, origins, connections, the webhook.
    pub edge: EdgeConfig,
    /// The clock.
    pub now: fn() -> Timestamp,
}

impl ApiConfig {
    /// Everything off that can be: on any port of loopback, nobody is let in, it only reads.
    pub fn new(namespace: impl Into<String>, database: DatabaseConfig, now: fn() -> Timestamp) -> Self {
        Self {
            listen: ([127, 0, 0, 1], 0).into(),
            namespace: namespace.into(),
            database,
            api_keys_file: None,
            kubernetes_auth: false,
            insecure_no_auth: false,
            config_secret: None,
            client: None,
            operator_pods: None,
            edge: EdgeConfig::default(),
            now,
        }
    }
}

/// Why the API does not run.
#[derive(Debug, Error)]
pub enum Error {
    #[error(
        "failed to start: no authentication is configured, name a file of API keys (--api-keys-file), accept Kubernetes tokens (--kubernetes-auth), or serve everybody (--insecure-no-auth)"
    )]
    NoAuthentication,
    #[error("failed to start: Kubernetes tokens are to be accepted, but there is no access to Kubernetes")]
    NoKubernetes,
    #[error("failed to read the file of API keys {path}")]
    Keys {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("failed to read the file of webhook secrets {path}")]
    WebhookSecret {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error(
        "failed to start: without authentication everybody who reaches {0} could do everything, listen on 127.0.0.1 (--listen=127.0.0.1:4301) or say that you want it (--insecure-listen-anywhere)"
    )]
    OpenToTheNetwork(SocketAddr),
    #[error("failed to use the database settings")]
    Database(#[source] postgres::Error),
    #[error("failed to listen on {address}")]
    Listen {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
}

/// The state behind the routes.
///
/// # Errors
/// `NoAuthentication`, `NoKubernetes`, `Keys`, `WebhookSecret`, `OpenToTheNetwork`, `Database`.
pub fn state(config: &ApiConfig) -> Result<ApiState, Error> {
    if config.api_keys_file.is_none() && !config.kubernetes_auth && !config.insecure_no_auth {
        return Err(Error::NoAuthentication);
    }
    let keys = match &config.api_keys_file {
        Some(path) => {
            Some(ApiKeys::open(path.clone()).map_err(|source| Error::Keys { path: path.clone(), source })?)
        }
        None => None,
    };
    let kubernetes = match (config.kubernetes_auth, &config.client) {
        (true, Some(client)) => Some(Arc::new(KubernetesAuth::new(client.clone()))),
        (true, None) => return Err(Error::NoKubernetes),
        (false, _) => None,
    };
    let open = if keys.is_none() && kubernetes.is_none() { Some(open_mode(config)?) } else { None };
    let edge = Edge::new(&config.edge).map_err(|source| Error::WebhookSecret {
        path: config.edge.github_webhook_secret_file.clone().unwrap_or_default(),
        source,
    })?;
    let writer = config.client.clone().map(|client| {
        let writer: Arc<dyn TaskWriter> = Arc::new(KubernetesTasks::new(client, &config.namespace));
        writer
    });
    let plans = config.client.clone().map(|client| {
        let plans: Arc<dyn PlanStore> = Arc::new(KubernetesPlans::new(client, &config.namespace));
        plans
    });
    let pool = postgres::connect(&config.database).map_err(Error::Database)?;
    Ok(ApiState {
        metrics: ApiMetrics::new(pool.clone()),
        pool,
        namespace: config.namespace.as_str().into(),
        auth: Arc::new(Auth { keys, kubernetes, open }),
        edge: Arc::new(edge),
        kubernetes: config.client.clone().map(|client| Kubernetes::new(client, &config.namespace)),
        config_secret: config.config_secret.as_deref().map(Into::into),
        writer,
        plans,
        live: Arc::new(Live::new(&config.database, &config.namespace, config.operator_pods.clone())),
        now: config.now,
    })
}

/// Whom open mode serves.
fn open_mode(config: &ApiConfig) -> Result<OpenMode, Error> {
    match (config.listen.ip().is_loopback(), config.edge.insecure_listen_anywhere) {
        (true, _) => {
            tracing::warn!("serving everybody on this machine: no authentication is configured");
            Ok(OpenMode::Loopback)
        }
        (false, true) => {
            tracing::warn!("serving everybody who reaches the address: no authentication is configured");
            Ok(OpenMode::Anywhere)
        }
        (false, false) => Err(Error::OpenToTheNetwork(config.listen)),
    }
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "openTiger",
        description = "Tasks, their Runs and the agents that work on them. Lists are ordered newest first (agents by pool and slot) and paged with `limit` and `cursor`."
    ),
    components(schemas(changes::Change, log_follow::FollowedLine, log_follow::FollowedEnd))
)]
struct Document;

fn routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(health::health))
        .routes(routes!(health::ready))
        .routes(routes!(tasks::list, task_create::create))
        .routes(routes!(tasks::get, task_change::change, task_act::delete))
        .routes(routes!(task_act::retry))
        .routes(routes!(runs::list, run_write::create))
        .routes(routes!(runs::stats))
        .routes(routes!(runs::get, run_write::change))
        .routes(routes!(run_write::cancel))
        .routes(
            routes!(run_artifacts::post).layer(DefaultBodyLimit::max(run_artifacts::MAX_ARTIFACT_BODY_BYTES)),
        )
        .routes(routes!(run_artifacts::content))
        .routes(routes!(runs::logs))
        .routes(routes!(logs::agent))
        .routes(routes!(logs::cycle_manager))
        .routes(routes!(log_merge::all))
        .routes(routes!(logs::clear))
        .routes(routes!(changes::stream))
        .routes(routes!(plans::hand_over).layer(DefaultBodyLimit::max(plans::MAX_PLAN_BYTES)))
        .routes(routes!(agents::list, agent_write::register))
        .routes(routes!(agents::get, agent_write::delete))
        .routes(routes!(agent_write::heartbeat))
        .routes(routes!(plan_list::list))
        .routes(routes!(judgements::list))
        .routes(routes!(judgements::diff))
        .routes(routes!(webhook::github))
        .routes(routes!(webhook::github_alias))
        .routes(routes!(config::get::get, config::patch::patch))
        .merge(system_routes())
}

/// What starts, stops and looks at the system as a whole.
fn system_routes() -> OpenApiRouter<ApiState> {
    OpenApiRouter::new()
        .routes(routes!(nothing::root))
        .routes(routes!(nothing::plugins))
        .routes(routes!(processes::list_all))
        .routes(routes!(processes::get))
        .routes(routes!(processes::start))
        .routes(routes!(processes::stop))
        .routes(routes!(processes::stop_all))
        .routes(routes!(preflight::check))
        .routes(routes!(throughput::get))
        .routes(routes!(cleanup::clean_up))
        .routes(routes!(hatch::get))
        .routes(routes!(hatch::arm))
        .routes(routes!(hatch::disarm))
        .routes(routes!(requirements::get, requirements::set))
        .routes(routes!(nothing::github_auth))
        .routes(routes!(nothing::claude_auth))
        .routes(routes!(nothing::codex_auth))
        .routes(routes!(nothing::github_repos))
        .routes(routes!(nothing::neofetch))
        .routes(routes!(nothing::host_context))
        .routes(routes!(nothing::conversations))
}

/// The OpenAPI document, as served at `/openapi.json`.
pub fn openapi() -> utoipa::openapi::OpenApi {
    let mut document = routes().into_openapi();
    let components = document.components.get_or_insert_default();
    components
        .add_security_scheme("apiKey", SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new("X-API-Key"))));
    components.add_security_scheme(
        "bearer",
        SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build()),
    );
    let none: [&str; 0] = [];
    document.security =
        Some(vec![SecurityRequirement::new("apiKey", none), SecurityRequirement::new("bearer", none)]);
    every_route::document(&mut document);
    document
}

/// Every route with its middleware.
pub fn router(state: ApiState) -> Router {
    let document = openapi();
    let (router, _) = routes().split_for_parts();
    router
        .route("/openapi.json", get(async move || Json(document)))
        .fallback(async || ApiError::no_route())
        .method_not_allowed_fallback(async || ApiError::method_not_allowed())
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(from_fn_with_state(state.clone(), auth::authorize))
        .layer(option_layer(state.edge.cors()))
        .layer(from_fn_with_state(state.clone(), observe::observe))
        .layer(from_fn_with_state(state.metrics.clone(), metrics::measure))
        .with_state(state)
}

/// Serves until `shutdown`, then finishes what is under way within 10 s; with `metrics_listen`, its
/// metrics there.
///
/// # Errors
/// See [`Error`]; a database or Kubernetes that is away is none.
pub async fn serve(
    config: ApiConfig,
    metrics_listen: Option<SocketAddr>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let state = state(&config)?;
    if let Some(address) = metrics_listen {
        let listener =
            TcpListener::bind(address).await.map_err(|source| Error::Listen { address, source })?;
        tokio::spawn(metrics::serve(listener, state.metrics.clone(), shutdown.clone()));
    }
    let closing = state.live.closing.clone();
    let router = router(state);
    let address = config.listen;
    let listener = TcpListener::bind(address).await.map_err(|source| Error::Listen { address, source })?;
    tracing::info!(%address, namespace = config.namespace, "API serves");
    let EdgeConfig { max_connections, header_timeout, .. } = config.edge;
    let stopping = shutdown.clone();
    let stopped = shutdown.clone();
    // Streams would not end by themselves.
    tokio::spawn(async move {
        stopped.cancelled().await;
        closing.cancel();
    });
    tokio::select! {
        () = connections::serve(listener, router, max_connections, header_timeout, stopping) => {}
        () = async { shutdown.cancelled().await; tokio::time::sleep(DRAIN_DEADLINE).await } => {}
    }
    Ok(())
}
