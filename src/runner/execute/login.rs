//! The login of an agent program by a file instead of a key: read from the pool's Secret, checked, and
//! copied into the home, where the program can renew it. A mounted Secret cannot be written.
//!
//! What the program renews stays in the Pod. Must not print anything of the file.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use serde_json::Value;

use super::cli;
use super::{Early, Settings, early, infra};
use crate::crd::run::SecretRef;
use crate::crd::wire::{Inputs, Outcome};

/// Failure code for what a person must set up.
const CODE_SETUP: &str = "setup_or_bootstrap_issue";
/// Largest file that is taken, in bytes.
const MAX_BYTES: u64 = 256 * 1024;
/// A text in the file from this length on is taken for a secret, in bytes.
const SECRET_BYTES: usize = 20;

/// A login that is to be copied.
#[derive(Debug)]
pub(super) struct Login {
    content: Vec<u8>,
    /// Where it goes, below the home.
    place: &'static str,
    /// What must be seen nowhere.
    pub secrets: Vec<String>,
}

/// Reads the login that the pool names, if it names one.
///
/// # Errors
/// When it is not there, or is not a login of this program: the result of the Run.
pub(super) fn read(inputs: &Inputs, settings: &Settings) -> Result<Option<Login>, Early> {
    let template = &inputs.spec.template;
    let (Some(secret), Some(cli)) = (&template.login_secret_ref, cli::of(template.executor.type_)) else {
        return Ok(None);
    };
    let file = cli.login();
    let refused = |what: String| {
        let pool = &inputs.spec.pool;
        let summary = format!(
            "loginSecretRef of AgentPool {pool}: {what}; log in with {} and make it anew: {}",
            file.program,
            recipe(secret, &file)
        );
        early(Outcome::Failed, CODE_SETUP, summary)
    };
    let name = &secret.name;
    let content = content(&settings.login.join(file.key))
        .map_err(|what| refused(format!("key {} of Secret {name} {what}", file.key)))?;
    let value: Value = serde_json::from_slice(&content)
        .map_err(|_| refused(format!("key {} of Secret {name} is not JSON", file.key)))?;
    cli.check_login(&template.executor, &value)
        .map_err(|what| refused(format!("key {} of Secret {name} {what}", file.key)))?;
    let mut secrets = Vec::new();
    texts(&value, &mut secrets);
    Ok(Some(Login { content, place: file.place, secrets }))
}

/// The command that makes the Secret.
fn recipe(secret: &SecretRef, file: &cli::LoginFile) -> String {
    format!("kubectl create secret generic {} --from-file={}=$HOME/{}", secret.name, file.key, file.place)
}

/// The content of a file. The error completes a sentence about it.
fn content(file: &Path) -> Result<Vec<u8>, String> {
    let size = fs::metadata(file).map(|found| found.len()).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => "is not there".to_string(),
        _ => format!("cannot be read ({error})"),
    })?;
    if size > MAX_BYTES {
        return Err(format!("has {size} bytes and at most {MAX_BYTES} are taken"));
    }
    fs::read(file).map_err(|error| format!("cannot be read ({error})"))
}

/// Every long text in a document.
fn texts(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::String(text) if text.len() >= SECRET_BYTES => found.push(text.clone()),
        Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => {}
        Value::Array(values) => values.iter().for_each(|value| texts(value, found)),
        Value::Object(members) => members.values().for_each(|value| texts(value, found)),
    }
}

/// Copies the login into the home, for its owner only.
///
/// # Errors
/// When it cannot be written: the result of the Run.
pub(super) fn place(login: Option<Login>, settings: &Settings) -> Result<(), Early> {
    let Some(login) = login else { return Ok(()) };
    let place = super::resume::home(settings).join(login.place);
    write(&place, &login.content)
        .map_err(|error| infra("failed to copy the login into the home", &error).into())
}

fn write(place: &Path, content: &[u8]) -> io::Result<()> {
    if let Some(directory) = place.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    match fs::remove_file(place) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(place)?.write_all(content)
}
