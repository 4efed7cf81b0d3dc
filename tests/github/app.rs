//! A GitHub App in place of a token.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use opentiger::runner::forge::app;
use rustls::SignatureScheme;
use serde_json::Value;

use crate::{World, brief};

/// A key as GitHub hands it out, and its public half: made now, used nowhere else.
static KEYS: LazyLock<(Vec<u8>, Vec<u8>)> = LazyLock::new(|| {
    let key = openssl(&["genrsa", "-traditional", "2048"], &[]);
    let public = openssl(&["rsa", "-RSAPublicKey_out", "-outform", "DER"], &key);
    (key, public)
});

/// What openssl, which comes with the certificates of the system, makes of `input`.
fn openssl(arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut command = Command::new("openssl");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().expect("openssl, of the Debian package of that name");
    child.stdin.take().expect("a pipe").write_all(input).expect("written");
    let output = child.wait_with_output().expect("an end");
    assert!(output.status.success(), "openssl {arguments:?}");
    output.stdout
}

/// The claims of a proof whose signature is the key's.
fn claims(proof: &str) -> Option<Value> {
    let (signed, signature) = proof.rsplit_once('.')?;
    let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
    let provider = rustls::crypto::ring::default_provider();
    let known = provider.signature_verification_algorithms.mapping;
    let (_, algorithms) = known.iter().find(|(scheme, _)| *scheme == SignatureScheme::RSA_PKCS1_SHA256)?;
    let valid = algorithms.iter().any(|a| a.verify_signature(&KEYS.1, signed.as_bytes(), &signature).is_ok());
    let (_, claims) = signed.split_once('.')?;
    valid.then(|| serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok())?
}

#[tokio::test]
async fn an_app_exchanges_its_key_for_a_token_of_this_repository() {
    let world = World::start().await;
    let pod = world.pod();
    let secret = pod.paths.credentials.clone();
    fs::remove_file(secret.join("token")).expect("remove");
    fs::write(secret.join("appId"), "12345\n").expect("write");
    fs::write(secret.join("installationId"), "678").expect("write");
    assert_eq!(brief(&pod.checkout().await), "Failed forge_misconfigured", "half of it");
    fs::write(secret.join("privateKey"), &KEYS.0).expect("write");
    pod.checked_out().await;
    pod.write("src/a.rs", "changed\n");
    let result = pod.published().await;
    assert_eq!(result.pr.map(|pr| pr.number), Some(41));
    let fake = world.github.world();
    assert_eq!(fake.count("POST /app/installations/678/access_tokens"), 2, "one of each container");
    for proof in &fake.proofs {
        let claims = claims(proof.strip_prefix("Bearer ").expect("a token")).expect("a valid signature");
        let (iat, exp) = (claims["iat"].as_i64().expect("a time"), claims["exp"].as_i64().expect("a time"));
        assert_eq!((claims["iss"].as_str(), exp - iat <= 600), (Some("12345"), true));
    }
}

#[test]
fn a_key_that_is_none_is_refused_without_being_shown() {
    let now = jiff::Timestamp::UNIX_EPOCH;
    for key in [&b"canary"[..], b"-----BEGIN RSA PRIVATE KEY-----\nY2FuYXJ5\n-----END RSA PRIVATE KEY-----\n"]
    {
        let error = app::token("1", key, now).expect_err("refused");
        assert!(!error.to_string().contains("canary") && !error.to_string().contains("Y2Fu"), "{error}");
    }
    let proof = app::token("1", &KEYS.0, now).expect("a proof");
    let forged = proof.replace('e', "f");
    assert!(claims(&proof).is_some() && claims(&forged).is_none());
}
