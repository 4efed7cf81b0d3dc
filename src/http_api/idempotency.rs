//! `Idempotency-Key`: the same key has one effect (invariant S25). The effect is an object whose name
//! is a function of the key alone, so that the API server itself refuses a second one.

use std::collections::BTreeMap;

use axum::http::HeaderMap;
use sha2::{Digest, Sha256};

use super::error::ApiError;
use crate::crd::labels;

/// A request that may be repeated: hashes of its key and of what it asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub key: String,
    pub body: String,
}

impl Request {
    /// The request, if it carries a key. `what` says in full what it asks for: path and body.
    ///
    /// # Errors
    /// 400 that names the header.
    pub fn read(headers: &HeaderMap, what: &str) -> Result<Option<Self>, ApiError> {
        let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
        let bad = || ApiError::invalid("Idempotency-Key", "must be 1 to 255 visible ASCII characters");
        let key = value.to_str().map_err(|_| bad())?.trim();
        if !(1..=255).contains(&key.len()) {
            return Err(bad());
        }
        Ok(Some(Self { key: hash(key), body: hash(what) }))
    }

    /// Name of the object that is the effect: `<prefix>-<16 characters>`.
    pub fn name(&self, prefix: &str) -> String {
        format!("{prefix}-{}", self.key.get(..16).unwrap_or(&self.key))
    }

    /// What marks the object.
    pub fn annotations(&self) -> BTreeMap<String, String> {
        BTreeMap::from([
            (labels::REQUEST_KEY.to_owned(), self.key.clone()),
            (labels::REQUEST_HASH.to_owned(), self.body.clone()),
        ])
    }

    /// Whether an object that has the name already is the effect of this very request.
    ///
    /// # Errors
    /// 409 when it is somebody else's, 422 when the key was used for another request.
    pub fn check(&self, annotations: Option<&BTreeMap<String, String>>) -> Result<(), ApiError> {
        let annotation = |key: &str| annotations.and_then(|a| a.get(key));
        if annotation(labels::REQUEST_KEY) != Some(&self.key) {
            return Err(ApiError::conflict(
                "name_taken",
                "an object with the name for this Idempotency-Key exists already",
            ));
        }
        if annotation(labels::REQUEST_HASH) == Some(&self.body) { Ok(()) } else { Err(Self::reused()) }
    }

    /// 422: the key was used for another request.
    pub fn reused() -> ApiError {
        ApiError::unprocessable("idempotency_key_reused", "this Idempotency-Key was used for another request")
    }
}

fn hash(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().take(16).map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(key: &str, what: &str) -> Option<Request> {
        let mut headers = HeaderMap::new();
        headers.insert("idempotency-key", key.parse().expect("a value"));
        Request::read(&headers, what).ok().flatten()
    }

    #[test]
    fn a_key_names_one_object_and_one_request() {
        let first = request("k", "/a {}").expect("read");
        assert_eq!(first.name("requeue"), request("k", "/b {}").expect("read").name("requeue"));
        assert!(first.check(Some(&first.annotations())).is_ok());
        let other = request("k", "/b {}").expect("read");
        assert!(format!("{:?}", other.check(Some(&first.annotations()))).contains("idempotency_key_reused"));
        assert!(format!("{:?}", first.check(None)).contains("name_taken"));
        assert_eq!(request(&"k".repeat(256), ""), None);
    }
}
