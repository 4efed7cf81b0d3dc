//! The `opentiger` program: wiring only.

mod cli;

use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use opentiger::config::{DatabaseOptions, OperatorConfig};
use opentiger::controller::{self, probes, run_operator};
use opentiger::http_api::edge::{EdgeConfig, Origin};
use opentiger::http_api::live::OperatorPods;
use opentiger::http_api::peer::Cidr;
use opentiger::http_api::{self, ApiConfig};
use opentiger::metrics::Metrics;
use opentiger::postgres::{self, DatabaseConfig, roles};
use opentiger::telemetry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Runs coding agents on Kubernetes and keeps a backlog of tasks converging.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the controllers.
    Operator(OperatorConfig),
    /// Serve the HTTP API.
    Api(ApiArgs),
    /// Print the description of the HTTP API (OpenAPI, JSON).
    Openapi,
    /// Bring the database schema up to date.
    Migrate(MigrateConfig),
    /// Print the CustomResourceDefinitions as YAML.
    Crds,
    /// See, arm or disarm the runtime hatch.
    #[command(subcommand)]
    Hatch(cli::Hatch),
    /// Stop a component or an agent until it is started, or everything.
    Stop(cli::Target),
    /// Start a component or an agent that was stopped, or everything that is; `planner` plans now.
    Start(cli::Target),
    /// Say why a Task does not move, step by step, from the objects of its namespace.
    Why(WhyArgs),
    /// Compare the tables with the cluster, or make them equal.
    #[command(subcommand)]
    Mirror(cli::Mirror),
}

#[derive(Args)]
struct WhyArgs {
    /// `task/NAME` or `NAME`.
    task: String,
    /// Namespace of the Task; by default that of the kubeconfig.
    #[arg(long, short)]
    namespace: Option<String>,
}

#[derive(Args)]
struct MigrateConfig {
    /// Postgres, as its owner.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true, required_unless_present = "roles_sql")]
    database_url: Option<String>,
    #[command(flatten)]
    database: DatabaseOptions,
    /// Wait up to ten minutes for the database to answer.
    #[arg(long)]
    wait: bool,
    /// Role that the operator's mirror uses: it is given its rights on the tables.
    #[arg(long, env = "MIRROR_ROLE")]
    mirror_role: Option<String>,
    /// Role that the API uses: it is given its rights on the tables.
    #[arg(long, env = "API_ROLE")]
    api_role: Option<String>,
    /// Create the two roles first, or set their passwords; needs an administrator's URL.
    #[arg(long, requires_all = ["mirror_role", "api_role", "mirror_password", "api_password"])]
    create_roles: bool,
    #[arg(long, env = "MIRROR_PASSWORD", hide_env_values = true)]
    mirror_password: Option<String>,
    #[arg(long, env = "API_PASSWORD", hide_env_values = true)]
    api_password: Option<String>,
    /// Print the SQL with which an administrator creates owner, mirror and API role, and do nothing.
    #[arg(long)]
    roles_sql: bool,
}

#[derive(Args)]
struct ApiArgs {
    /// Address to listen on.
    #[arg(long, default_value = "0.0.0.0:4301")]
    listen: std::net::SocketAddr,
    /// Namespace whose objects are served and created.
    #[arg(long, env = "POD_NAMESPACE", default_value = "default")]
    namespace: String,
    /// Postgres that the operator mirrors into.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    database_url: String,
    #[command(flatten)]
    database: DatabaseOptions,
    /// Address of /metrics; absent: none.
    #[arg(long)]
    metrics_listen: Option<std::net::SocketAddr>,
    /// File of API keys, one a line; read again when it changes.
    #[arg(long)]
    api_keys_file: Option<std::path::PathBuf>,
    /// Accept Kubernetes bearer tokens (TokenReview and SubjectAccessReview).
    #[arg(long, env = "KUBERNETES_AUTH")]
    kubernetes_auth: bool,
    /// Namespace of the operator's Pods, whose logs are served; by default that of --namespace.
    #[arg(long)]
    operator_namespace: Option<String>,
    /// Labels of the operator's Pods, a selector; absent: their logs are not served.
    #[arg(long)]
    operator_labels: Option<String>,
    /// Secret of the namespace that keys of PATCH /config are written to; without it they are refused.
    #[arg(long, env = "CONFIG_SECRET")]
    config_secret: Option<String>,
    /// Serve everybody. For trials: listens on loopback only.
    #[arg(long)]
    insecure_no_auth: bool,
    /// With --insecure-no-auth: listen on any address all the same.
    #[arg(long)]
    insecure_listen_anywhere: bool,
    /// Requests of one caller in a minute; 0: no limit.
    #[arg(long, default_value_t = 1200)]
    rate_limit_per_minute: u32,
    /// Address ranges of proxies whose X-Forwarded-For is believed, with commas between.
    #[arg(long, value_delimiter = ',')]
    trusted_proxies: Vec<Cidr>,
    /// Origins whose pages may call from a browser, with commas between.
    #[arg(long, value_delimiter = ',')]
    cors_origins: Vec<Origin>,
    /// Connections at once.
    #[arg(long, default_value_t = 1024)]
    max_connections: usize,
    /// File of the secrets that GitHub signs its webhook with, one a line; read again when it changes.
    #[arg(long)]
    github_webhook_secret_file: Option<std::path::PathBuf>,
}

/// What the commands for people call themselves in the audit log of the API server.
const CLI: &str = concat!("opentiger-cli/", env!("CARGO_PKG_VERSION"));

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Operator(config) => runtime()?.block_on(operator(config)),
        Command::Api(args) => runtime()?.block_on(api(args)),
        Command::Openapi => {
            println!("{}", http_api::openapi().to_pretty_json()?);
            Ok(())
        }
        Command::Migrate(config) => runtime()?.block_on(migrate(config)),
        Command::Why(args) => runtime()?.block_on(why(args)),
        Command::Crds => {
            for crd in opentiger::crd::schema::all()? {
                println!("---\n{}", serde_saphyr::to_string(&crd)?.trim_end());
            }
            Ok(())
        }
        Command::Hatch(command) => {
            runtime()?.block_on(async { cli::hatch(kubernetes(CLI).await?, command).await })
        }
        Command::Stop(target) => {
            runtime()?.block_on(async { cli::stop(kubernetes(CLI).await?, target).await })
        }
        Command::Mirror(command) => {
            runtime()?.block_on(async { cli::mirror(kubernetes(CLI).await?, command).await })
        }
        Command::Start(target) => {
            runtime()?.block_on(async { cli::start(kubernetes(CLI).await?, target).await })
        }
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    telemetry::init();
    // One provider for every TLS connection of the process; a second call finds it installed.
    let _ = rustls::crypto::ring::default_provider().install_default();
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("failed to start the runtime")
}

async fn operator(config: OperatorConfig) -> anyhow::Result<()> {
    let shutdown = shutdown_signal()?;
    let metrics = Metrics::default();
    let listener = TcpListener::bind(config.metrics_listen)
        .await
        .with_context(|| format!("failed to listen on {}", config.metrics_listen))?;
    let serving = tokio::spawn(probes::serve(listener, metrics.clone(), shutdown.clone()));
    let agent = concat!("opentiger-operator/", env!("CARGO_PKG_VERSION"));
    let client = kubernetes(agent).await.context("failed to find a Kubernetes cluster")?;
    let database = config
        .database_url
        .as_ref()
        .map(|url| {
            let database = database(url, "opentiger-operator", &config.database);
            postgres::connect(&DatabaseConfig { custom_plans: false, ..database })
        })
        .transpose()
        .context("failed to use the database settings")?;
    run_operator(client, config, database, metrics, shutdown.clone()).await?;
    shutdown.cancel();
    serving.await.context("failed to end the probes")
}

async fn api(args: ApiArgs) -> anyhow::Result<()> {
    let shutdown = shutdown_signal()?;
    // Without a cluster the API reads only; it says so when somebody writes.
    let client = match kubernetes(concat!("opentiger-api/", env!("CARGO_PKG_VERSION"))).await {
        Ok(client) => Some(client),
        Err(error) => {
            tracing::warn!(error = %error, "no access to Kubernetes, the API only reads");
            None
        }
    };
    let of_operator = args.operator_namespace.unwrap_or_else(|| args.namespace.clone());
    let operator_pods = args.operator_labels.map(|labels| OperatorPods { namespace: of_operator, labels });
    let config = ApiConfig {
        listen: args.listen,
        namespace: args.namespace,
        database: database(&args.database_url, "opentiger-api", &args.database),
        api_keys_file: args.api_keys_file,
        kubernetes_auth: args.kubernetes_auth,
        insecure_no_auth: args.insecure_no_auth,
        config_secret: args.config_secret.filter(|name| !name.is_empty()),
        client,
        operator_pods,
        edge: EdgeConfig {
            rate_limit_per_minute: args.rate_limit_per_minute,
            trusted_proxies: args.trusted_proxies,
            cors_origins: args.cors_origins,
            max_connections: args.max_connections,
            github_webhook_secret_file: args.github_webhook_secret_file,
            insecure_listen_anywhere: args.insecure_listen_anywhere,
            ..EdgeConfig::default()
        },
        now: jiff::Timestamp::now,
    };
    http_api::serve(config, args.metrics_listen, shutdown).await.context("failed to serve the API")
}

async fn why(args: WhyArgs) -> anyhow::Result<()> {
    let client = kubernetes(concat!("opentiger-why/", env!("CARGO_PKG_VERSION")))
        .await
        .context("failed to find a Kubernetes cluster")?;
    let namespace = args.namespace.unwrap_or_else(|| client.default_namespace().to_owned());
    print!("{}", controller::why::why(&client, &namespace, &args.task, jiff::Timestamp::now).await?);
    Ok(())
}

/// A client of the cluster at hand that names itself in the audit log of the API server.
async fn kubernetes(agent: &'static str) -> anyhow::Result<kube::Client> {
    let mut config = kube::Config::infer().await?;
    config.headers.push((http::header::USER_AGENT, http::HeaderValue::from_static(agent)));
    Ok(kube::Client::try_from(config)?)
}

async fn migrate(config: MigrateConfig) -> anyhow::Result<()> {
    let MigrateConfig { database_url, mirror_role, api_role, .. } = &config;
    let name = |role: &Option<String>, default: &str| role.clone().unwrap_or_else(|| default.into());
    let (mirror, api) = (name(mirror_role, "opentiger_mirror"), name(api_role, "opentiger_api"));
    if config.roles_sql {
        print!("{}", roles::creation_sql("opentiger_owner", &mirror, &api));
        return Ok(());
    }
    let url = database_url.as_deref().unwrap_or_default();
    let database = database(url, "opentiger-migrate", &config.database);
    let wait = config.wait.then_some(Duration::from_secs(600));
    let version = postgres::migrate(&database, wait).await.context("failed to migrate the database")?;
    tracing::info!(version, "schema is up to date");
    if let (true, Some(of_mirror), Some(of_api)) =
        (config.create_roles, &config.mirror_password, &config.api_password)
    {
        let passwords = [(mirror.as_str(), of_mirror.as_str()), (api.as_str(), of_api.as_str())];
        roles::create(&database, &passwords).await.context("failed to create the roles")?;
    }
    let roles = roles::Roles { mirror: config.mirror_role, api: config.api_role };
    roles::grant(&database, &roles).await.context("failed to give the roles their rights")
}

/// How to reach Postgres.
fn database(url: &str, application_name: &str, options: &DatabaseOptions) -> DatabaseConfig {
    let DatabaseOptions {
        database_ca_file,
        database_max_connections,
        database_statement_timeout_seconds,
        database_lock_timeout_seconds,
    } = options;
    DatabaseConfig {
        ca_file: database_ca_file.clone(),
        max_connections: usize::from(*database_max_connections),
        statement_timeout: Duration::from_secs(*database_statement_timeout_seconds),
        lock_timeout: Duration::from_secs(*database_lock_timeout_seconds),
        ..DatabaseConfig::new(url, application_name)
    }
}

/// A token that is cancelled by SIGTERM or SIGINT.
fn shutdown_signal() -> anyhow::Result<CancellationToken> {
    use tokio::signal::unix::{SignalKind, signal};
    let token = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let cancel = token.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping");
        cancel.cancel();
    });
    Ok(token)
}
