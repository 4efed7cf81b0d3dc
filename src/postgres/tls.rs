//! What the database URL says about TLS, and the connector that does so.
//!
//! The driver knows `disable`, `prefer` and `require` only and has no `sslrootcert`: both are read here
//! and taken out of the URL. With TLS the certificate and its host name are always verified, so that
//! `require`, `verify-ca` and `verify-full` mean the same: what is asked for least is never all one gets.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, pem::PemObject};
use tokio_postgres::config::SslMode;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::Error;

/// Value of `sslrootcert` for the certificate authorities of the system.
const SYSTEM: &str = "system";

/// A database URL without what the driver does not know.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Split {
    pub url: String,
    pub mode: SslMode,
    /// From `sslrootcert`.
    pub ca_file: Option<PathBuf>,
}

/// Takes `sslmode` and `sslrootcert` out of `url`.
///
/// # Errors
/// `Settings` when `sslmode` is none of the words.
pub(super) fn split(url: &str) -> Result<Split, Error> {
    let (base, query) = url.split_once('?').unwrap_or((url, ""));
    let mut split = Split { url: base.into(), mode: SslMode::Prefer, ca_file: None };
    let mut kept = Vec::new();
    for pair in query.split('&').filter(|p| !p.is_empty()) {
        match pair.split_once('=') {
            Some(("sslmode", word)) => split.mode = mode(word)?,
            Some(("sslrootcert", path)) => {
                let path = percent_decoded(path);
                split.ca_file = (path != SYSTEM).then(|| path.into());
            }
            _ => kept.push(pair),
        }
    }
    if !kept.is_empty() {
        split.url = format!("{base}?{}", kept.join("&"));
    }
    Ok(split)
}

fn mode(word: &str) -> Result<SslMode, Error> {
    match word {
        "disable" => Ok(SslMode::Disable),
        "prefer" => Ok(SslMode::Prefer),
        "require" | "verify-ca" | "verify-full" => Ok(SslMode::Require),
        _ => Err(Error::Settings(
            "sslmode of the database URL: use disable, prefer, require, verify-ca or verify-full".into(),
        )),
    }
}

/// `%2F` and the like; anything else stays as it is.
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let hex = (*first == b'%').then(|| tail.get(..2)).flatten();
        let byte = hex.and_then(|h| std::str::from_utf8(h).ok()).and_then(|h| u8::from_str_radix(h, 16).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = match byte {
            Some(_) => tail.get(2..).unwrap_or_default(),
            None => tail,
        };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A connector that trusts the certificates in `ca_file`, or those of the system.
///
/// # Errors
/// `Settings` when the file cannot be read or holds no certificate.
pub(super) fn connector(ca_file: Option<&Path>) -> Result<MakeRustlsConnect, Error> {
    let mut roots = rustls::RootCertStore::empty();
    match ca_file {
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
    fn what_the_driver_does_not_know_is_read_and_taken_out() {
        let cases = [
            ("postgres://h/d", "postgres://h/d", SslMode::Prefer, None),
            ("postgres://h/d?sslmode=disable", "postgres://h/d", SslMode::Disable, None),
            (
                "postgres://h/d?sslmode=verify-full&sslrootcert=%2Fca%20s%2Fca.pem",
                "postgres://h/d",
                SslMode::Require,
                Some("/ca s/ca.pem"),
            ),
            (
                "postgres://h/d?connect_timeout=3&sslmode=verify-ca&sslrootcert=system&keepalives=1",
                "postgres://h/d?connect_timeout=3&keepalives=1",
                SslMode::Require,
                None,
            ),
        ];
        for (url, rest, mode, ca) in cases {
            let expected = Split { url: rest.into(), mode, ca_file: ca.map(Into::into) };
            assert_eq!(split(url).expect("readable"), expected, "{url}");
        }
        // A word of libpq that means less than it says, and a typing error: never taken for "no TLS".
        for word in ["allow", "verify_full", ""] {
            let error = split(&format!("postgres://h/d?sslmode={word}")).expect_err("refused");
            assert!(error.to_string().contains("verify-full"), "{error}");
        }
    }
}
