//! What a container has to reach the repository with: in mode `Git` the Secret as it is; in mode `GitHub`
//! a token, which is the Secret's or one that an App's key was exchanged for, for the API and for git.
//!
//! The token is written where git's credential helper reads it, a directory that only the trusted
//! containers see, and removed when this value is dropped. Must not put it anywhere else.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use super::failure::{FailureKind, ForgeError};
use super::github::GitHub;
use super::{Address, app};
use crate::crd::system::RepositoryMode;
use crate::crd::wire::Inputs;
use crate::runner::checkout::Paths;
use crate::runner::clock;

/// User name that GitHub wants beside a token.
const USERNAME: &str = "x-access-token";
/// Keys of the Secret.
const TOKEN: &str = "token";
const APP_ID: &str = "appId";
const INSTALLATION_ID: &str = "installationId";
const PRIVATE_KEY: &str = "privateKey";

/// How the repository is reached.
#[derive(Debug)]
pub struct Access {
    /// The Pod's directories, with the credentials that git is to use.
    pub paths: Paths,
    /// In mode `GitHub`: its API.
    pub forge: Option<GitHub>,
    written: Option<PathBuf>,
}

impl Drop for Access {
    fn drop(&mut self) {
        if let Some(directory) = &self.written {
            let _ = fs::remove_dir_all(directory);
        }
    }
}

impl Access {
    /// Reads the Secret and, for an App, asks for an installation token.
    ///
    /// # Errors
    /// [`ForgeError`] in mode `GitHub`.
    pub async fn open(inputs: &Inputs, paths: &Paths, stop: &CancellationToken) -> Result<Self, ForgeError> {
        let repository = &inputs.spec.repository;
        match repository.mode {
            RepositoryMode::Git => return Ok(Self { paths: paths.clone(), forge: None, written: None }),
            RepositoryMode::GitHub => {}
        }
        let address = Address::of(&repository.url, repository.api_url.as_deref())?;
        let token = token(&paths.credentials, &address, stop).await?;
        let directory = paths.repository.join("forge-credentials");
        // Before anything is written, so that it goes whatever happens.
        let mut access = Self { paths: paths.clone(), forge: None, written: Some(directory.clone()) };
        write(&directory, &token)
            .map_err(|error| misconfigured(format!("the token cannot be handed to git: {error}")))?;
        access.paths.credentials = directory;
        access.forge = Some(GitHub::new(address, &token, stop)?);
        Ok(access)
    }
}

fn misconfigured(detail: impl Into<String>) -> ForgeError {
    ForgeError::new(FailureKind::Misconfigured, "read the Secret of the repository", detail)
}

fn write(directory: &Path, token: &str) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::DirBuilder::new().mode(0o700).create(directory)?;
    for (name, content) in [("username", USERNAME), ("password", token)] {
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(directory.join(name))?;
        file.write_all(content.as_bytes())?;
    }
    Ok(())
}

/// The token of the Secret, or the one that its App gets.
async fn token(secret: &Path, address: &Address, stop: &CancellationToken) -> Result<String, ForgeError> {
    if let Some(token) = read(secret, TOKEN)? {
        return usable(TOKEN, &token);
    }
    let keys = [APP_ID, INSTALLATION_ID, PRIVATE_KEY].map(|name| read(secret, name));
    let [id, installation, key] = keys;
    match (id?, installation?, key?) {
        (Some(id), Some(installation), Some(key)) => {
            let (id, installation) = (usable(APP_ID, &id)?, usable(INSTALLATION_ID, &installation)?);
            if !installation.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(misconfigured("the key installationId of the Secret is no number"));
            }
            let proof = app::token(&id, &key, clock::now())?;
            GitHub::new(address.clone(), &proof, stop)?.installation_token(&installation).await
        }
        (None, None, None) => Err(misconfigured(
            "the Secret has neither the key token nor the keys appId, installationId and privateKey",
        )),
        (_, _, _) => Err(misconfigured("an App needs all of the keys appId, installationId and privateKey")),
    }
}

fn read(directory: &Path, name: &str) -> Result<Option<Vec<u8>>, ForgeError> {
    match fs::read(directory.join(name)) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(misconfigured(format!("the key {name} of the Secret cannot be read: {error}"))),
    }
}

/// A value that can stand in a header and in a line.
fn usable(name: &str, content: &[u8]) -> Result<String, ForgeError> {
    let text = String::from_utf8_lossy(content).trim().to_string();
    match !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic()) {
        true => Ok(text),
        false => Err(misconfigured(format!(
            "the key {name} of the Secret is empty or holds white space or other characters than ASCII"
        ))),
    }
}
