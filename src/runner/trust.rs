//! The authorities that the programs of a Pod trust: those of the runner image and those of the pool,
//! in one file that `checkout` writes before it does anything else.
//!
//! Must not decide which variable names the file: that is in the Pod.

use std::fs;
use std::io;
use std::path::Path;

use super::git::failure::CODE_SETUP;
use crate::crd::network::CaBundleRef;
use crate::crd::wire::{ContainerResult, Inputs, Outcome};

/// The authorities of the runner image (Debian's package ca-certificates).
pub const SYSTEM: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Largest bundle that is taken, in bytes; the public authorities are about 220 KB.
const MAX_BYTES: usize = 4 * 1024 * 1024;
const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// Why the file was not written.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    #[error(
        "caBundleRef of AgentPool {pool}: {kind} {name} {what}; put the authorities' certificates as PEM under key {key}"
    )]
    Unusable { pool: String, kind: &'static str, name: String, key: String, what: String },
    #[error("failed to write the trusted authorities: {0}")]
    File(#[from] io::Error),
}

impl TrustError {
    /// The result of a container that ended with this error.
    pub fn into_result(self) -> ContainerResult {
        match self {
            Self::Unusable { .. } => ContainerResult::failure(Outcome::Failed, CODE_SETUP, self.to_string()),
            Self::File(ref source) => super::git::failure::of_file(&self.to_string(), source),
        }
    }
}

/// Writes `target` when the pool names authorities of its own. An image without authorities at
/// `system` has those of the pool only.
///
/// # Errors
/// When the pool's are not certificates, or the file cannot be written.
pub fn write(inputs: &Inputs, system: &Path, own: &Path, target: &Path) -> Result<(), TrustError> {
    let template = &inputs.spec.template;
    let Some(bundle) = &template.ca_bundle_ref else { return Ok(()) };
    let certificates = read(own).map_err(|what| unusable(inputs, bundle, what))?;
    let mut all = match fs::read_to_string(system) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error.into()),
    };
    if !all.is_empty() && !all.ends_with('\n') {
        all.push('\n');
    }
    all.push_str(&certificates);
    Ok(fs::write(target, all)?)
}

fn unusable(inputs: &Inputs, bundle: &CaBundleRef, what: String) -> TrustError {
    TrustError::Unusable {
        pool: inputs.spec.pool.clone(),
        kind: bundle.kind.word(),
        name: bundle.name.clone(),
        key: bundle.key.clone(),
        what,
    }
}

/// The certificates in a file, and nothing else of it: a private key beside them goes nowhere. The
/// error completes a sentence about what holds the file.
fn read(file: &Path) -> Result<String, String> {
    let text = fs::read(file).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => "is not there or has no such key".to_string(),
        _ => format!("cannot be read ({error})"),
    })?;
    if text.len() > MAX_BYTES {
        return Err(format!("holds {} bytes and at most {MAX_BYTES} are taken", text.len()));
    }
    let text = String::from_utf8(text).map_err(|_| "does not hold text: convert DER to PEM".to_string())?;
    let mut certificates = String::new();
    let mut inside = false;
    for line in text.lines().map(str::trim) {
        inside |= line == BEGIN;
        if inside {
            certificates.push_str(line);
            certificates.push('\n');
        }
        inside &= line != END;
    }
    if certificates.is_empty() {
        return Err(format!("holds no line {BEGIN}"));
    }
    if inside {
        return Err(format!("ends within a certificate: its last line is not {END}"));
    }
    Ok(certificates)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::RunSpec;
    use crate::crd::wire::SCHEMA_VERSION;

    fn inputs(named: bool) -> Inputs {
        let mut spec = RunSpec { pool: "worker".into(), ..RunSpec::default() };
        let bundle = CaBundleRef { name: "corporate-ca".into(), key: "ca.crt".into(), ..Default::default() };
        spec.template.ca_bundle_ref = named.then_some(bundle);
        let text = String::new;
        Inputs { schema_version: SCHEMA_VERSION, namespace: text(), run: text(), run_uid: text(), spec }
    }

    fn certificate(body: &str) -> String {
        format!("{BEGIN}\n{body}\n{END}\n")
    }

    #[test]
    fn the_file_holds_the_public_authorities_and_the_pool_s_and_no_key() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("system"), certificate("public").trim_end()).unwrap();
        let key = "-----BEGIN PRIVATE KEY-----\nsecret\n-----END PRIVATE KEY-----\n";
        let own =
            format!("# ours\r\n{}{key}{}", certificate("one").replace('\n', "\r\n"), certificate("two"));
        fs::write(at("own"), own).unwrap();
        let write = |named, system: &str| write(&inputs(named), &at(system), &at("own"), &at("all"));
        write(false, "system").unwrap();
        assert!(!at("all").exists(), "nothing is written when nothing is named");
        write(true, "system").unwrap();
        let expected = ["public", "one", "two"].map(certificate).concat();
        assert_eq!(fs::read_to_string(at("all")).unwrap(), expected);
        write(true, "absent").unwrap();
        assert_eq!(fs::read_to_string(at("all")).unwrap(), ["one", "two"].map(certificate).concat());
    }

    #[test]
    fn what_is_no_bundle_is_refused_with_what_to_change() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("own");
        let cut = format!("{BEGIN}\nabc\n");
        let cases: [(Option<&[u8]>, &str); 4] = [
            (None, "ConfigMap corporate-ca is not there or has no such key;"),
            (Some(b""), "holds no line -----BEGIN CERTIFICATE-----"),
            (Some(&[0x30, 0x82, 0xff]), "convert DER to PEM"),
            (Some(cut.as_bytes()), "ends within a certificate"),
        ];
        for (content, said) in cases {
            if let Some(content) = content {
                fs::write(&own, content).unwrap();
            }
            let error = write(&inputs(true), &own, &own, &dir.path().join("all")).unwrap_err();
            let result = error.into_result();
            assert_eq!((result.outcome, result.failure_code.as_deref()), (Outcome::Failed, Some(CODE_SETUP)));
            assert!(result.summary.starts_with("caBundleRef of AgentPool worker:"), "{}", result.summary);
            assert!(
                result.summary.contains(said) && result.summary.contains("under key ca.crt"),
                "{}",
                result.summary
            );
        }
    }
}
