//! The connection pool: bounded, with timeouts, pinned `search_path`, TLS where the URL asks for it.

use std::future::poll_fn;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod, Runtime, Timeouts};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio_postgres::config::SslMode;
use tokio_postgres::{AsyncMessage, Connection, NoTls};

use super::{Error, tls};

/// Longest time a transaction may stay open with nothing asked.
const IDLE_IN_TRANSACTION: Duration = Duration::from_secs(30);

/// How to reach the database.
#[derive(Clone)]
pub struct DatabaseConfig {
    /// `postgres://user:password@host:port/database?sslmode=disable|prefer|require|verify-full&sslrootcert=FILE`.
    /// With TLS the server's certificate and its host name are always verified.
    pub url: String,
    /// PEM file of the certificate authority, before `sslrootcert`; without both those of the system
    /// are trusted.
    pub ca_file: Option<PathBuf>,
    /// Most connections held at once.
    pub max_connections: usize,
    /// Longest time one statement may take.
    pub statement_timeout: Duration,
    /// Longest time one statement may wait for a lock.
    pub lock_timeout: Duration,
    /// Plan every statement for its own parameters. Right for lists, where a page costs as much as its
    /// limit and filters say; wasted on the mirror's batches.
    pub custom_plans: bool,
    /// Shown in `pg_stat_activity`.
    pub application_name: String,
}

impl DatabaseConfig {
    /// Settings with the defaults: 8 connections, 15 s a statement, 5 s for a lock, certificate
    /// authorities of the system.
    pub fn new(url: impl Into<String>, application_name: &str) -> Self {
        Self {
            url: url.into(),
            ca_file: None,
            max_connections: 8,
            statement_timeout: Duration::from_secs(15),
            lock_timeout: Duration::from_secs(5),
            custom_plans: true,
            application_name: application_name.into(),
        }
    }
}

impl std::fmt::Debug for DatabaseConfig {
    /// Without the URL, which holds the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DatabaseConfig")
            .field("ca_file", &self.ca_file)
            .field("max_connections", &self.max_connections)
            .field("statement_timeout", &self.statement_timeout)
            .field("lock_timeout", &self.lock_timeout)
            .field("custom_plans", &self.custom_plans)
            .field("application_name", &self.application_name)
            .finish_non_exhaustive()
    }
}

/// Makes the pool. Connects lazily: a database that is away is no error here.
///
/// # Errors
/// `Settings` when the URL or the certificate authority file cannot be used.
pub fn connect(config: &DatabaseConfig) -> Result<Pool, Error> {
    let (postgres, ca_file) = parse(config)?;
    let manager_config = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    let manager = match postgres.get_ssl_mode() {
        SslMode::Disable => Manager::from_config(postgres, NoTls, manager_config),
        _ => Manager::from_config(postgres, tls::connector(ca_file.as_deref())?, manager_config),
    };
    Pool::builder(manager)
        .max_size(config.max_connections.max(1))
        .runtime(Runtime::Tokio1)
        .timeouts(Timeouts {
            wait: Some(Duration::from_secs(5)),
            create: Some(Duration::from_secs(5)),
            recycle: Some(Duration::from_secs(5)),
        })
        .build()
        .map_err(|e| Error::Settings(e.to_string()))
}

/// One connection of its own that hears `NOTIFY` on `channel`; `heard` is told of each and once more
/// when the connection has ended. It ends with the client.
///
/// # Errors
/// `Settings`, or `Statement` when there is no connection.
pub(super) async fn listen(
    config: &DatabaseConfig,
    channel: &str,
    heard: Arc<Notify>,
) -> Result<tokio_postgres::Client, Error> {
    let (mut postgres, ca_file) = parse(config)?;
    postgres.application_name(format!("{}-changes", config.application_name));
    let client = match postgres.get_ssl_mode() {
        SslMode::Disable => {
            let (client, connection) = postgres.connect(NoTls).await?;
            tokio::spawn(hear(connection, heard));
            client
        }
        _ => {
            let (client, connection) = postgres.connect(tls::connector(ca_file.as_deref())?).await?;
            tokio::spawn(hear(connection, heard));
            client
        }
    };
    client.batch_execute(&format!("LISTEN {channel}")).await?;
    Ok(client)
}

async fn hear<S, T>(mut connection: Connection<S, T>, heard: Arc<Notify>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
        if matches!(message, AsyncMessage::Notification(_)) {
            heard.notify_one();
        }
    }
    heard.notify_one();
}

/// Reads the URL and pins what must not depend on the server's or the role's settings.
fn parse(config: &DatabaseConfig) -> Result<(tokio_postgres::Config, Option<PathBuf>), Error> {
    let tls::Split { url, mode, ca_file } = tls::split(&config.url)?;
    let mut postgres: tokio_postgres::Config = url.parse().map_err(|_| {
        Error::Settings("the database URL is not of the form postgres://user:password@host/database".into())
    })?;
    let options = format!(
        "{} -c search_path=public -c statement_timeout={} -c lock_timeout={} -c idle_in_transaction_session_timeout={} -c plan_cache_mode={} -c jit=off -c TimeZone=UTC",
        postgres.get_options().unwrap_or_default(),
        config.statement_timeout.as_millis(),
        config.lock_timeout.as_millis(),
        IDLE_IN_TRANSACTION.as_millis(),
        if config.custom_plans { "force_custom_plan" } else { "auto" },
    );
    postgres
        .options(options.trim_start())
        .ssl_mode(mode)
        .application_name(&config.application_name)
        .connect_timeout(Duration::from_secs(5))
        .tcp_user_timeout(Duration::from_secs(10))
        .keepalives_idle(Duration::from_secs(30));
    Ok((postgres, config.ca_file.clone().or(ca_file)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_url_never_shows_in_debug_or_errors() {
        let config = DatabaseConfig::new("postgres://tiger:canary@nowhere:bad/db", "test");
        assert!(!format!("{config:?}").contains("canary"));
        let error = connect(&config).map(|_| ()).expect_err("bad port");
        assert!(!format!("{error} {error:?}").contains("canary"));
    }

    #[test]
    fn settings_are_pinned_and_verify_modes_are_understood() {
        let config = DatabaseConfig {
            statement_timeout: Duration::from_millis(1500),
            lock_timeout: Duration::from_millis(700),
            ..DatabaseConfig::new("postgres://a@b/c?sslmode=verify-full&sslrootcert=/ca.pem", "test")
        };
        let (parsed, ca_file) = parse(&config).expect("readable");
        assert_eq!(parsed.get_ssl_mode(), SslMode::Require);
        assert_eq!(ca_file, Some("/ca.pem".into()));
        let options = parsed.get_options().expect("options");
        for setting in ["search_path=public", "statement_timeout=1500", "lock_timeout=700"] {
            assert!(options.contains(setting), "{options}");
        }
        let own = DatabaseConfig { ca_file: Some("/own.pem".into()), ..config };
        assert_eq!(parse(&own).expect("readable").1, Some("/own.pem".into()));
    }
}
