//! The `opentiger` program: wiring only.

use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use opentiger::config::OperatorConfig;
use opentiger::controller::{probes, run_operator};
use opentiger::metrics::Metrics;
use opentiger::postgres::{self, DatabaseConfig};
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
    /// Bring the database schema up to date.
    Migrate(MigrateConfig),
    /// Print the CustomResourceDefinitions as YAML.
    Crds,
}

#[derive(Args)]
struct MigrateConfig {
    /// Postgres, as its owner.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    database_url: String,
    /// Wait up to ten minutes for the database to answer.
    #[arg(long)]
    wait: bool,
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Operator(config) => runtime()?.block_on(operator(config)),
        Command::Migrate(config) => runtime()?.block_on(migrate(config)),
        Command::Crds => {
            for crd in opentiger::crd::schema::all()? {
                println!("---\n{}", serde_saphyr::to_string(&crd)?.trim_end());
            }
            Ok(())
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
    let client = kube::Client::try_default().await.context("failed to find a Kubernetes cluster")?;
    let database = config
        .database_url
        .as_ref()
        .map(|url| postgres::connect(&DatabaseConfig::new(url, "opentiger-operator")))
        .transpose()
        .context("failed to use the database settings")?;
    run_operator(client, config, database, metrics, shutdown.clone()).await?;
    shutdown.cancel();
    serving.await.context("failed to end the probes")
}

async fn migrate(config: MigrateConfig) -> anyhow::Result<()> {
    let database = DatabaseConfig::new(config.database_url, "opentiger-migrate");
    let wait = config.wait.then_some(Duration::from_secs(600));
    let version = postgres::migrate(&database, wait).await.context("failed to migrate the database")?;
    tracing::info!(version, "schema is up to date");
    Ok(())
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
