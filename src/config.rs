//! Settings of the programs: command line and environment, read once at start.

use std::path::PathBuf;

use clap::{Args, value_parser};

/// `opentiger operator`.
#[derive(Args, Clone, Debug)]
pub struct OperatorConfig {
    /// Namespace to work in; repeat for several, leave out for all.
    #[arg(long = "namespace", env = "WATCH_NAMESPACES", value_delimiter = ',')]
    pub namespaces: Vec<String>,
    /// Namespace of the leader election's Lease.
    #[arg(long, env = "POD_NAMESPACE", default_value = "default")]
    pub lease_namespace: String,
    /// Name of this replica in the leader election.
    #[arg(long, env = "POD_NAME", default_value = "opentiger")]
    pub identity: String,
    /// Time after the last renewal at which another replica may take over, seconds.
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u64).range(2..=600))]
    pub lease_seconds: u64,
    /// How long before that the leader renews, seconds.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=300))]
    pub lease_grace_seconds: u64,
    /// Image of the runner: git and the `opentiger-runner` program.
    #[arg(long, env = "RUNNER_IMAGE")]
    pub runner_image: String,
    /// When nodes pull the runner image.
    #[arg(long, env = "RUNNER_IMAGE_PULL_POLICY", default_value = "IfNotPresent")]
    pub runner_image_pull_policy: String,
    /// Where the Pods of Plan Runs reach the API: an `http` URL. Absent: Tasks of role Planner cannot
    /// be carried out.
    #[arg(long, env = "API_URL")]
    pub api_url: Option<String>,
    /// Address of /healthz, /readyz and /metrics.
    #[arg(long, default_value = "0.0.0.0:8081")]
    pub metrics_listen: std::net::SocketAddr,
    /// Keep the container logs of ended Runs in Postgres before their Pods are deleted. Turn it off
    /// where another system keeps the logs of all Pods.
    #[arg(long, env = "KEEP_LOGS", default_value_t = true, action = clap::ArgAction::Set)]
    pub keep_logs: bool,
    /// Postgres to mirror into and to keep logs in; absent: no mirror, no logs.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    pub database_url: Option<String>,
    #[command(flatten)]
    pub database: DatabaseOptions,
    /// Remove rows of Tasks and Runs from Postgres this many days after the objects were deleted, with
    /// their events, logs and artifacts; absent: keep them for ever.
    #[arg(long, env = "DATABASE_RETENTION_DAYS", value_parser = value_parser!(u16).range(1..=36500))]
    pub database_retention_days: Option<u16>,
}

/// How to use Postgres, beside its URL; for operator, API and migrations.
#[derive(Args, Clone, Debug)]
pub struct DatabaseOptions {
    /// PEM file of the certificate authority of Postgres; absent: `sslrootcert` of the URL, or those of
    /// the system.
    #[arg(long, env = "DATABASE_CA_FILE")]
    pub database_ca_file: Option<PathBuf>,
    /// Most connections held at once.
    #[arg(long, env = "DATABASE_MAX_CONNECTIONS", default_value_t = 8, value_parser = value_parser!(u16).range(1..=1000))]
    pub database_max_connections: u16,
    /// Longest time one statement may take, seconds.
    #[arg(long, env = "DATABASE_STATEMENT_TIMEOUT_SECONDS", default_value_t = 15, value_parser = value_parser!(u64).range(1..=3600))]
    pub database_statement_timeout_seconds: u64,
    /// Longest time one statement may wait for a lock, seconds.
    #[arg(long, env = "DATABASE_LOCK_TIMEOUT_SECONDS", default_value_t = 5, value_parser = value_parser!(u64).range(1..=3600))]
    pub database_lock_timeout_seconds: u64,
}

impl Default for DatabaseOptions {
    fn default() -> Self {
        Self {
            database_ca_file: None,
            database_max_connections: 8,
            database_statement_timeout_seconds: 15,
            database_lock_timeout_seconds: 5,
        }
    }
}
