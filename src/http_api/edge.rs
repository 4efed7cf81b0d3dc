//! How the API meets its clients: limits, proxies, pages of other origins, the webhook's secret.

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use tower_http::cors::{AllowOrigin, CorsLayer};

use super::error::ApiError;
use super::limits::Limits;
use super::peer::Cidr;
use super::webhook::Webhook;

/// Settings.
#[derive(Clone, Debug)]
pub struct EdgeConfig {
    /// Requests of one caller in a minute; 0: no limit.
    pub rate_limit_per_minute: u32,
    /// Whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<Cidr>,
    /// Origins whose pages may call from a browser.
    pub cors_origins: Vec<Origin>,
    /// Connections at once.
    pub max_connections: usize,
    /// Time for a request's head, also for that of the next one on the same connection.
    pub header_timeout: Duration,
    /// File of secrets that GitHub signs with, one a line; without it there is no webhook.
    pub github_webhook_secret_file: Option<PathBuf>,
    /// Open mode may listen on an address that others reach.
    pub insecure_listen_anywhere: bool,
}

impl Default for EdgeConfig {
    /// 1200 requests a minute, 1024 connections, 30 s for a head; no proxy, no origin, no webhook.
    fn default() -> Self {
        Self {
            rate_limit_per_minute: 1200,
            trusted_proxies: Vec::new(),
            cors_origins: Vec::new(),
            max_connections: 1024,
            header_timeout: Duration::from_secs(30),
            github_webhook_secret_file: None,
            insecure_listen_anywhere: false,
        }
    }
}

/// What follows from the settings; shared by all requests.
pub struct Edge {
    pub limits: Option<Limits>,
    pub proxies: Vec<Cidr>,
    pub origins: Vec<Origin>,
    pub webhook: Option<Webhook>,
}

impl Edge {
    /// Reads the webhook's secret.
    ///
    /// # Errors
    /// When its file cannot be read.
    pub fn new(config: &EdgeConfig) -> std::io::Result<Self> {
        Ok(Self {
            limits: Limits::new(config.rate_limit_per_minute),
            proxies: config.trusted_proxies.clone(),
            origins: config.cors_origins.clone(),
            webhook: config.github_webhook_secret_file.clone().map(Webhook::open).transpose()?,
        })
    }

    /// Answers to browsers on behalf of pages of the configured origins; `None` without any.
    pub fn cors(&self) -> Option<CorsLayer> {
        if self.origins.is_empty() {
            return None;
        }
        let asked = ["authorization", "x-api-key", "content-type", "idempotency-key", "last-event-id"];
        let shown = [
            "x-request-id",
            "retry-after",
            "x-ratelimit-limit",
            "x-ratelimit-remaining",
            "x-ratelimit-reset",
        ];
        Some(
            CorsLayer::new()
                .allow_origin(AllowOrigin::list(self.origins.iter().map(|o| o.0.clone())))
                .allow_methods([Method::GET, Method::POST, Method::PATCH, Method::DELETE])
                .allow_headers(asked.map(HeaderName::from_static))
                .expose_headers(shown.map(HeaderName::from_static))
                .max_age(Duration::from_secs(3600)),
        )
    }
}

/// An origin of pages: `https://dashboard.example.com`, without a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(HeaderValue);

impl FromStr for Origin {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad =
            || format!("{text}: must be an origin such as https://dashboard.example.com, without a path");
        let uri: Uri = text.parse().map_err(|_| bad())?;
        let http = matches!(uri.scheme_str(), Some("http" | "https"));
        let authority = uri.authority().map(|a| a.as_str()).unwrap_or_default();
        let whole = uri.scheme_str().map(|scheme| format!("{scheme}://{authority}"));
        if !http || authority.contains('@') || whole.as_deref() != Some(text) {
            return Err(bad());
        }
        HeaderValue::from_str(&text.to_ascii_lowercase()).map(Self).map_err(|_| bad())
    }
}

/// Everybody may do everything: whom the API serves then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// Programs on this machine.
    Loopback,
    /// Whoever reaches the address.
    Anywhere,
}

impl OpenMode {
    /// Refuses what a browser sends on behalf of a page that is not of this machine: every page
    /// somebody opens could otherwise command the API of his machine.
    ///
    /// # Errors
    /// 403.
    pub fn refuse_pages(self, headers: &HeaderMap, origins: &[Origin]) -> Result<(), ApiError> {
        if let Some(origin) = headers.get(header::ORIGIN) {
            let named = origins.iter().any(|o| o.0 == origin);
            let uri = origin.to_str().ok().and_then(|text| text.parse::<Uri>().ok());
            if !named && !uri.as_ref().and_then(Uri::host).is_some_and(is_loopback) {
                return Err(ApiError::forbidden(
                    "without authentication only pages of this machine may call: name the page's origin in --cors-origins",
                ));
            }
        }
        // A name that somebody points at this machine makes his page one of the same origin.
        let host = headers.get(header::HOST);
        let ours = |host: &HeaderValue| {
            let uri = host.to_str().ok().and_then(|text| text.parse::<Uri>().ok());
            uri.as_ref().and_then(Uri::host).is_some_and(is_loopback)
        };
        match (self, host) {
            (Self::Loopback, Some(host)) if !ours(host) => Err(ApiError::forbidden(
                "without authentication this API answers to localhost only, not to other names",
            )),
            (Self::Loopback | Self::Anywhere, _) => Ok(()),
        }
    }
}

fn is_loopback(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok_and(|a| a.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(k, v)| (HeaderName::from_static(k), v.parse().expect("value"))).collect()
    }

    #[test]
    fn open_mode_serves_no_foreign_page() {
        let origins = ["https://ui.example.com".parse::<Origin>().expect("origin")];
        let ok = |mode: OpenMode, pairs: &[(&'static str, &str)]| {
            mode.refuse_pages(&headers(pairs), &origins).is_ok()
        };
        for pairs in [
            &[][..],
            &[("host", "localhost:4301")],
            &[("host", "127.0.0.1:4301"), ("origin", "http://localhost:3000")],
            &[("host", "[::1]:4301")],
            &[("host", "localhost"), ("origin", "https://ui.example.com")],
        ] {
            assert!(ok(OpenMode::Loopback, pairs), "{pairs:?}");
        }
        for pairs in [
            &[("host", "attacker.example.com")][..],
            &[("host", "localhost.attacker.example.com")],
            &[("host", "localhost"), ("origin", "https://attacker.example.com")],
            &[("host", "localhost"), ("origin", "null")],
            &[("host", "localhost"), ("origin", "http://localhost.attacker.example.com")],
        ] {
            assert!(!ok(OpenMode::Loopback, pairs), "{pairs:?}");
        }
        assert!(ok(OpenMode::Anywhere, &[("host", "api.example.com")]));
        assert!(!ok(OpenMode::Anywhere, &[("origin", "https://attacker.example.com")]));
    }

    #[test]
    fn an_origin_is_exact() {
        for good in ["https://ui.example.com", "http://localhost:3000", "http://[::1]:80"] {
            assert!(good.parse::<Origin>().is_ok(), "{good}");
        }
        for bad in ["*", "null", "ui.example.com", "https://x/", "https://x/y", "ftp://x", "https://a@x", ""]
        {
            assert!(bad.parse::<Origin>().is_err(), "{bad}");
        }
    }
}
