//! The proof that we are a GitHub App: a JSON Web Token signed with the App's key (RS256), good for a few
//! minutes and for nothing but the exchange against an installation token.
//!
//! Signed by the crate's own TLS library, so that there is one implementation of RSA. Keeps nothing.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use rustls::SignatureScheme;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use serde_json::json;

use super::failure::{FailureKind, ForgeError};

/// The server's clock may be behind ours.
const BEFORE_SECS: i64 = 60;
/// GitHub takes at most 600 s.
const VALID_SECS: i64 = 540;

fn unusable(detail: &str) -> ForgeError {
    ForgeError::new(FailureKind::Misconfigured, "use the App's private key", detail)
}

/// The token of the App `id` with the PEM key `key` at `now`.
///
/// # Errors
/// [`FailureKind::Misconfigured`] for a key that is none; the key is not in the text.
pub fn token(id: &str, key: &[u8], now: Timestamp) -> Result<String, ForgeError> {
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|_| unusable("the key privateKey of the Secret is no private key in PEM format"))?;
    let key = rustls::crypto::ring::sign::any_supported_type(&key)
        .map_err(|_| unusable("the key privateKey of the Secret is no RSA key"))?;
    let signer = key
        .choose_scheme(&[SignatureScheme::RSA_PKCS1_SHA256])
        .ok_or_else(|| unusable("the key privateKey of the Secret is no RSA key"))?;
    let at = now.as_second();
    let claims = json!({"iat": at - BEFORE_SECS, "exp": at + VALID_SECS, "iss": id});
    let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(json!({"alg": "RS256", "typ": "JWT"})), part(claims));
    let signature =
        signer.sign(signed.as_bytes()).map_err(|_| unusable("nothing could be signed with it"))?;
    Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
}
