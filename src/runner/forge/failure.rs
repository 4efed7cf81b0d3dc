//! What went wrong when a forge's API was asked, told from status, headers and words of its answer, and
//! what to do about it: the one table of codes and next steps of the forge.
//!
//! Pure: answer in, kind out. Must not send anything.

use std::fmt;
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::crd::wire::{ContainerResult, Outcome};
use crate::runner::git::failure::CODE_ENVIRONMENT;

/// Longest text of an answer that is told, in characters.
const MAX_TEXT: usize = 400;
/// What GitHub asks to wait at least when it states no time.
const UNSTATED: Duration = Duration::from_secs(60);

/// A way in which a request to the forge fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The token is not valid (any more), or the App's key is not.
    AuthenticationRefused,
    /// The token is valid, but not for this.
    PermissionMissing,
    /// There is no such repository, or it may not be seen.
    NotFound,
    /// URL or Secret cannot be used as they are.
    Misconfigured,
    /// A primary or secondary rate limit.
    RateLimited,
    /// No connection, no answer in time, or an answer of the kind 5xx.
    Unreachable,
    /// Any other refusal.
    Refused,
    /// We were told to stop.
    Stopped,
}

/// Outcome of the container, failure code of `plan::classify`, next step in one sentence.
struct Ending(Outcome, &'static str, &'static str);

impl FailureKind {
    /// All of them, in the order of the documentation.
    pub const ALL: [Self; 8] = [
        Self::AuthenticationRefused,
        Self::PermissionMissing,
        Self::NotFound,
        Self::Misconfigured,
        Self::RateLimited,
        Self::Unreachable,
        Self::Refused,
        Self::Stopped,
    ];

    /// The table; `docs/github.md` shows it to people.
    fn ending(self) -> Ending {
        use Outcome::{Cancelled, Failed, Infra};
        match self {
            Self::AuthenticationRefused => Ending(
                Failed,
                "forge_authentication_refused",
                "Put a valid token, or the id, installation and key of the App, into the Secret named by the repository's credentialsSecretRef.",
            ),
            Self::PermissionMissing => Ending(
                Failed,
                "forge_permission_missing",
                "Give the token or the App the permissions that docs/github.md lists, for this repository.",
            ),
            Self::NotFound => Ending(
                Failed,
                "forge_repository_not_found",
                "Check url and apiURL of the repository, and that the token or the App may see it.",
            ),
            Self::Misconfigured => {
                Ending(Failed, "forge_misconfigured", "Correct url, apiURL or the Secret of the repository.")
            }
            Self::RateLimited => Ending(
                Infra,
                "forge_rate_limited",
                "The attempt is repeated by itself once the limit resets; if it stays, use a GitHub App or a token of its own.",
            ),
            Self::Unreachable => Ending(
                Infra,
                "forge_unreachable",
                "The attempt is repeated by itself; if it stays, check apiURL, the server and the pool's egress rules.",
            ),
            Self::Refused => Ending(
                Failed,
                "forge_refused",
                "Read what the server said and change the repository's settings there.",
            ),
            Self::Stopped => Ending(Cancelled, CODE_ENVIRONMENT, "Nothing more was sent."),
        }
    }

    /// Failure code of `plan::classify`.
    pub fn code(self) -> &'static str {
        self.ending().1
    }

    /// What a person or the engine does next, one sentence.
    pub fn next_step(self) -> &'static str {
        self.ending().2
    }

    /// Whether the same request may succeed later by itself.
    pub fn is_transient(self) -> bool {
        self.ending().0 == Outcome::Infra
    }
}

/// A failed request.
#[derive(Clone, Debug, thiserror::Error)]
pub struct ForgeError {
    pub kind: FailureKind,
    /// What was tried, e.g. `create the pull request`.
    pub operation: &'static str,
    /// What the server said, bounded, secrets masked.
    pub detail: String,
    /// Status of the answer, if there was one.
    pub status: Option<u16>,
    /// What the server asks to wait.
    pub wait: Option<Duration>,
    /// When the limit resets.
    pub retry_at: Option<Timestamp>,
}

impl fmt::Display for ForgeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "failed to {}: {}", self.operation, self.detail)
    }
}

impl ForgeError {
    /// An error that we found ourselves.
    pub fn new(kind: FailureKind, operation: &'static str, detail: impl Into<String>) -> Self {
        let detail = detail.into().chars().take(MAX_TEXT).collect();
        Self { kind, operation, detail, status: None, wait: None, retry_at: None }
    }

    /// The error that an answer other than 2xx is. `now` turns a wait into a time and back.
    pub fn of_answer(
        operation: &'static str,
        status: StatusCode,
        headers: &HeaderMap,
        body: &str,
        now: Timestamp,
    ) -> Self {
        let said = words(body);
        let limit = limited(status, headers, &said, now);
        let kind = match status.as_u16() {
            _ if limit.is_some() => FailureKind::RateLimited,
            401 => FailureKind::AuthenticationRefused,
            403 => FailureKind::PermissionMissing,
            404 | 410 | 451 => FailureKind::NotFound,
            300..=399 => FailureKind::Misconfigured,
            408 | 500..=599 => FailureKind::Unreachable,
            _ => FailureKind::Refused,
        };
        let text = match kind {
            FailureKind::Misconfigured => format!("{status}: the repository has moved"),
            _ if said.is_empty() => status.to_string(),
            _ => format!("{status}: {said}"),
        };
        Self {
            status: Some(status.as_u16()),
            wait: limit,
            retry_at: limit
                .and_then(|wait| SignedDuration::try_from(wait).ok())
                .and_then(|wait| now.checked_add(wait).ok()),
            ..Self::new(kind, operation, text)
        }
    }

    /// The same without `secrets` in it.
    pub fn masking(mut self, secrets: &[String]) -> Self {
        for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
            self.detail = self.detail.replace(secret.as_str(), "***");
        }
        self
    }

    /// Whether the server's words hold `sign` (lower case).
    pub fn says(&self, sign: &str) -> bool {
        self.detail.to_lowercase().contains(sign)
    }

    /// The result of a container that ended with this error.
    pub fn into_result(self) -> ContainerResult {
        let Ending(outcome, code, next) = self.kind.ending();
        let summary = format!("{}. {next}", self.to_string().trim_end_matches('.'));
        ContainerResult { retry_at: self.retry_at, ..ContainerResult::failure(outcome, code, summary) }
    }
}

/// The wait that a rate limit asks for: `retry-after`, else the reset of a used up quota, else a minute
/// (docs.github.com, "Rate limits for the REST API"). `None` when the answer is none.
fn limited(status: StatusCode, headers: &HeaderMap, said: &str, now: Timestamp) -> Option<Duration> {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<u64>().ok();
    let after = number("retry-after").map(Duration::from_secs);
    let used_up = number("x-ratelimit-remaining") == Some(0);
    let spoken = said.to_lowercase().contains("rate limit");
    let is_limit = match status.as_u16() {
        429 => true,
        403 => after.is_some() || used_up || spoken,
        _ => false,
    };
    if !is_limit {
        return None;
    }
    let reset = number("x-ratelimit-reset").filter(|_| used_up).map(|at| {
        let now = u64::try_from(now.as_second()).unwrap_or(0);
        Duration::from_secs(at.saturating_sub(now))
    });
    Some(after.or(reset).unwrap_or(UNSTATED))
}

/// `message` and the texts in `errors` of an answer.
fn words(body: &str) -> String {
    let Ok(value) = serde_json::from_str::<Value>(body) else { return String::new() };
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let mut all: Vec<String> = value.get("message").and_then(text).into_iter().collect();
    for error in value.get("errors").and_then(Value::as_array).into_iter().flatten() {
        all.extend(error.get("message").and_then(text).or_else(|| text(error)));
    }
    all.join("; ").split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::plan::classify;

    fn answer(status: u16, headers: &[(&'static str, &str)], body: &str) -> ForgeError {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, HeaderValue::from_str(value).expect("a header"));
        }
        let status = StatusCode::from_u16(status).expect("a status");
        ForgeError::of_answer("ask", status, &map, body, Timestamp::from_second(1_000).expect("a time"))
    }

    #[test]
    fn a_limit_is_told_from_a_missing_permission_and_states_its_reset() {
        let secondary = r#"{"message": "You have exceeded a secondary rate limit. Please wait."}"#;
        for (status, headers, body, kind, wait) in [
            (403, &[("retry-after", "7")][..], secondary, FailureKind::RateLimited, Some(7)),
            (403, &[], secondary, FailureKind::RateLimited, Some(60)),
            (429, &[], "", FailureKind::RateLimited, Some(60)),
            (
                403,
                &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "1090")],
                "{}",
                FailureKind::RateLimited,
                Some(90),
            ),
            (
                403,
                &[("x-ratelimit-remaining", "12"), ("x-ratelimit-reset", "1090")],
                r#"{"message": "Resource not accessible by integration"}"#,
                FailureKind::PermissionMissing,
                None,
            ),
            (401, &[], r#"{"message": "Bad credentials"}"#, FailureKind::AuthenticationRefused, None),
            (404, &[], r#"{"message": "Not Found"}"#, FailureKind::NotFound, None),
            (301, &[], "", FailureKind::Misconfigured, None),
            (502, &[], "<html>", FailureKind::Unreachable, None),
            (422, &[], r#"{"message": "Validation Failed"}"#, FailureKind::Refused, None),
        ] {
            let error = answer(status, headers, body);
            assert_eq!((error.kind, error.wait.map(|w| w.as_secs())), (kind, wait), "{status} {body}");
            let at = wait.map(|wait| 1_000 + i64::try_from(wait).expect("small"));
            assert_eq!(error.into_result().retry_at.map(|at| at.as_second()), at);
        }
    }

    #[test]
    fn what_the_server_says_is_told_and_a_secret_in_it_is_not() {
        let body = r#"{"message": "Validation Failed", "errors": [{"message": "No commits between main and x"}, "token s3cr3t"]}"#;
        let error = answer(422, &[], body).masking(&["s3cr3t".into()]);
        assert_eq!(
            error.detail,
            "422 Unprocessable Entity: Validation Failed; No commits between main and x; token ***"
        );
        assert!(error.says("no commits between"));
    }

    #[test]
    fn every_failure_is_known_to_who_decides_about_it_and_to_people() {
        let page = include_str!("../../../docs/github.md");
        for kind in FailureKind::ALL {
            let code = kind.code();
            assert!(classify::by_code(code).is_some(), "{code}");
            let row = page.lines().find(|line| line.contains(&format!("| `{code}` |")));
            assert!(
                kind == FailureKind::Stopped || row.is_some_and(|row| row.contains(kind.next_step())),
                "docs/github.md: {code}: {}",
                kind.next_step()
            );
        }
    }
}
