//! Errors of the Kubernetes API, sorted by what a caller does about them.

use http::StatusCode;

/// What a failed request means for the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// Try again with backoff: network, overload, timeouts.
    Transient,
    /// The object changed or exists already: observe again.
    Conflict,
    /// The object is gone.
    Gone,
    /// The request was refused for its content or by a policy or quota.
    Refused,
    /// Nothing will change by itself: missing rights, unknown kind.
    Permanent,
}

impl ErrorClass {
    /// Metric label.
    pub fn word(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::Conflict => "conflict",
            Self::Gone => "gone",
            Self::Refused => "refused",
            Self::Permanent => "permanent",
        }
    }
}

/// A failed request to the Kubernetes API.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("failed to {verb} {kind} {name}")]
    Request {
        verb: &'static str,
        kind: String,
        name: String,
        #[source]
        source: Box<kube::Error>,
    },
    /// What a decision was made of is no longer so: decide again.
    #[error("failed to act on {name}: it changed meanwhile")]
    Stale { name: String },
    #[error("failed to encode {kind} {name}")]
    Encode {
        kind: String,
        name: String,
        #[source]
        source: serde_json::Error,
    },
}

impl Error {
    /// How to go on.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Encode { kind: _, name: _, source: _ } => ErrorClass::Permanent,
            Self::Stale { name: _ } => ErrorClass::Conflict,
            Self::Request { verb: _, kind: _, name: _, source } => match source.as_ref() {
                kube::Error::Api(status) => class_of(status.code, &status.reason),
                _ => ErrorClass::Transient,
            },
        }
    }

    /// The API server's own sentence, for people; empty when the request never got an answer.
    pub fn server_message(&self) -> &str {
        match self {
            Self::Request { verb: _, kind: _, name: _, source } => match source.as_ref() {
                kube::Error::Api(status) => &status.message,
                _ => "",
            },
            Self::Encode { kind: _, name: _, source: _ } | Self::Stale { name: _ } => "",
        }
    }
}

fn class_of(code: u16, reason: &str) -> ErrorClass {
    match StatusCode::from_u16(code) {
        Ok(StatusCode::CONFLICT) => ErrorClass::Conflict,
        Ok(StatusCode::NOT_FOUND | StatusCode::GONE) => ErrorClass::Gone,
        // Quota, Pod Security and admission policies answer 403 or 422 with a sentence worth showing;
        // missing rights answer 403 too and heal when somebody grants them.
        Ok(StatusCode::FORBIDDEN | StatusCode::UNPROCESSABLE_ENTITY | StatusCode::BAD_REQUEST) => {
            ErrorClass::Refused
        }
        Ok(StatusCode::UNAUTHORIZED) => ErrorClass::Transient,
        Ok(s) if s.is_server_error() || s == StatusCode::TOO_MANY_REQUESTS => ErrorClass::Transient,
        Ok(StatusCode::REQUEST_TIMEOUT) => ErrorClass::Transient,
        _ if reason == "Timeout" => ErrorClass::Transient,
        _ => ErrorClass::Permanent,
    }
}
