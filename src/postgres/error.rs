//! Errors of the database client, and whose fault they are.

use deadpool_postgres::PoolError;
use rustls::CertificateError;
use thiserror::Error;
use tokio_postgres::error::SqlState;

/// What can go wrong with the database. No text contains the URL or a password.
#[derive(Debug, Error)]
pub enum Error {
    /// The URL or the certificate authority file cannot be used.
    #[error("failed to read the database settings: {0}")]
    Settings(String),
    /// No connection could be had.
    #[error("failed to connect to the database: {}", connection(.0))]
    Connect(#[source] PoolError),
    /// A statement failed.
    #[error("failed to run a statement: {}", describe(.0))]
    Statement(#[from] tokio_postgres::Error),
    /// A migration failed.
    #[error("failed to migrate the database")]
    Migrate(#[source] Box<refinery::Error>),
    /// The tables are older than this program.
    #[error(
        "failed to find the tables in version {expected}, they are in version {found}: run `opentiger migrate`"
    )]
    Schema { expected: i32, found: i32 },
    /// The tables are newer than this program can work with.
    #[error(
        "failed to use the tables: they are in version {found}, which needs programs of version {oldest_program} on, and this one is of version {expected}: upgrade it"
    )]
    Outdated { expected: i32, found: i32, oldest_program: i32 },
    /// A stored value is not of the kind this program wrote.
    #[error("failed to read a stored value: {0}")]
    Value(String),
}

/// Whose fault an error is: decides between waiting and setting the row aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Database or network: the same write may work later.
    Transient,
    /// The row: the same write will be refused again.
    Row,
}

impl Error {
    /// Whose fault the error is.
    pub fn fault(&self) -> Fault {
        match self {
            Self::Statement(error) => statement_fault(error),
            Self::Settings(_)
            | Self::Connect(_)
            | Self::Migrate(_)
            | Self::Schema { .. }
            | Self::Outdated { .. }
            | Self::Value(_) => Fault::Transient,
        }
    }
}

/// The server's own words without the row's values, which may be large or private.
fn describe(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(db) => format!("{} ({})", db.message(), db.code().code()),
        None => error.to_string(),
    }
}

/// One sentence on why no connection could be had.
fn connection(error: &PoolError) -> String {
    match error {
        PoolError::Backend(error) => match error.as_db_error() {
            Some(db) => format!("{} ({})", db.message(), db.code().code()),
            None => root_cause(error),
        },
        PoolError::Timeout(_)
        | PoolError::Closed
        | PoolError::NoRuntimeSpecified
        | PoolError::PostCreateHook(_) => error.to_string(),
    }
}

/// The innermost error; of a certificate, what is wrong with it.
fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut last = error;
    loop {
        let inner = last.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        match inner.map(|e| e as &(dyn std::error::Error + 'static)).or_else(|| last.source()) {
            Some(next) => last = next,
            None => break,
        }
    }
    match last.downcast_ref::<rustls::Error>() {
        Some(rustls::Error::InvalidCertificate(certificate)) => match certificate {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => "the certificate of the server is not signed by a certificate authority that is trusted: name its own with --database-ca-file or sslrootcert".into(),
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "the certificate of the server is not for the host name in the database URL".into()
            }
            other => format!("the certificate of the server is refused: {other}"),
        },
        _ if last.to_string().contains("does not support TLS") => {
            "the server does not offer TLS, which sslmode of the database URL asks for".into()
        }
        _ => last.to_string(),
    }
}

/// A statement refused because of its values has an answer of the server whose class is none of
/// those that stand for the server's own state.
fn statement_fault(error: &tokio_postgres::Error) -> Fault {
    let Some(db) = error.as_db_error() else {
        return Fault::Transient;
    };
    let code: &SqlState = db.code();
    // connection, transaction state, authorisation, roll-back, names, resources, prerequisites,
    // operator intervention, system error, configuration, internal error
    let transient = ["08", "25", "28", "2D", "3D", "3F", "40", "42", "53", "55", "57", "58", "F0", "XX"];
    match code.code().get(..2) {
        Some(class) if !transient.contains(&class) => Fault::Row,
        Some(_) | None => Fault::Transient,
    }
}
