//! The connection pool: bounded, with timeouts, pinned `search_path`, TLS where the URL asks for it.

use std::future::poll_fn;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod, Runtime, Timeouts};
use rustls::pki_types::{CertificateDer, pem::PemObject};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio_postgres::config::SslMode;
use tokio_postgres::{AsyncMessage, Connection, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::Error;

/// Longest time one statement may take, in milliseconds.
const STATEMENT_TIMEOUT_MS: u32 = 15_000;

/// How to reach the database.
#[derive(Clone)]
pub struct DatabaseConfig {
    /// `postgres://user:password@host:port/database?sslmode=disable|prefer|require|verify-full`.
    /// With TLS the server's certificate is always verified.
    pub url: String,
    /// PEM file of the certificate authority; without it those of the system are trusted.
    pub ca_file: Option<PathBuf>,
    /// Most connections held at once.
    pub max_connections: usize,
    /// Shown in `pg_stat_activity`.
    pub application_name: String,
}

impl DatabaseConfig {
    /// Settings with the defaults: 8 connections, certificate authorities of the system.
    pub fn new(url: impl Into<String>, application_name: &str) -> Self {
        Self { url: url.into(), ca_file: None, max_connections: 8, application_name: application_name.into() }
    }
}

impl std::fmt::Debug for DatabaseConfig {
    /// Without the URL, which holds the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DatabaseConfig")
            .field("ca_file", &self.ca_file)
            .field("max_connections", &self.max_connections)
            .field("application_name", &self.application_name)
            .finish_non_exhaustive()
    }
}

/// Makes the pool. Connects lazily: a database that is away is no error here.
///
/// # Errors
/// `Settings` when the URL or the certificate authority file cannot be used.
pub fn connect(config: &DatabaseConfig) -> Result<Pool, Error> {
    let postgres = parse(config)?;
    let manager_config = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    let manager = match postgres.get_ssl_mode() {
        SslMode::Disable => Manager::from_config(postgres, NoTls, manager_config),
        _ => Manager::from_config(postgres, tls(config)?, manager_config),
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
    let mut postgres = parse(config)?;
    postgres.application_name(format!("{}-changes", config.application_name));
    let client = match postgres.get_ssl_mode() {
        SslMode::Disable => {
            let (client, connection) = postgres.connect(NoTls).await?;
            tokio::spawn(hear(connection, heard));
            client
        }
        _ => {
            let (client, connection) = postgres.connect(tls(config)?).await?;
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
fn parse(config: &DatabaseConfig) -> Result<tokio_postgres::Config, Error> {
    // The driver knows no verify modes; ours always verifies, so they mean the same as require.
    let url = config
        .url
        .replace("sslmode=verify-full", "sslmode=require")
        .replace("sslmode=verify-ca", "sslmode=require");
    let mut postgres: tokio_postgres::Config = url.parse().map_err(|_| {
        Error::Settings("the database URL is not of the form postgres://user:password@host/database".into())
    })?;
    let options = format!(
        "{} -c search_path=public -c statement_timeout={STATEMENT_TIMEOUT_MS} -c TimeZone=UTC",
        postgres.get_options().unwrap_or_default()
    );
    postgres
        .options(options.trim_start())
        .application_name(&config.application_name)
        .connect_timeout(Duration::from_secs(5))
        .tcp_user_timeout(Duration::from_secs(10))
        .keepalives_idle(Duration::from_secs(30));
    Ok(postgres)
}

/// A verifying TLS connector.
fn tls(config: &DatabaseConfig) -> Result<MakeRustlsConnect, Error> {
    let mut roots = rustls::RootCertStore::empty();
    match &config.ca_file {
        Some(path) => {
            let certificates = CertificateDer::pem_file_iter(path)
                .and_then(Iterator::collect::<Result<Vec<_>, _>>)
                .map_err(|e| Error::Settings(format!("certificate authority file: {e}")))?;
            roots.add_parsable_certificates(certificates);
            if roots.is_empty() {
                return Err(Error::Settings("certificate authority file: it holds no certificate".into()));
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| Error::Settings(e.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(client))
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
        let config = DatabaseConfig::new("postgres://a@b/c?sslmode=verify-full", "test");
        let parsed = parse(&config).expect("readable");
        assert_eq!(parsed.get_ssl_mode(), SslMode::Require);
        assert!(parsed.get_options().expect("options").contains("search_path=public"));
    }
}
