//! What a reviewing agent is given, beside its checkout: a description of the change as JSON, and the
//! change as a patch. Both are bounded.
//!
//! Made by `checkout` before the agent lives. `publish` does not read it: the agent could have changed it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::change::ChangedFile;
use crate::crd::wire::path::REVIEW_FILE;

/// Most files that are listed.
pub const MAX_FILES: usize = 2_000;
/// Most bytes of the patch.
pub const MAX_PATCH_BYTES: usize = 256 * 1024;
/// Most violations that are listed.
pub const MAX_VIOLATIONS: usize = 50;
/// Largest description that is read, in bytes.
const MAX_BYTES: u64 = 32 * 1024 * 1024;
/// Name of the patch.
const PATCH: &str = "change.patch";

/// The description, `review.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Bundle {
    pub title: String,
    /// What the change is for.
    pub goal: String,
    pub base_branch: String,
    /// Commit where the change starts; the base branch of the checkout.
    pub start_commit: String,
    /// Commit under review; what is checked out.
    pub head_commit: String,
    /// Changed files, at most [`MAX_FILES`] of them.
    pub files: Vec<ChangedFile>,
    /// How many there are in all.
    pub file_count: usize,
    /// Path of the change as a patch.
    pub patch: PathBuf,
    /// Whether the patch was cut at [`MAX_PATCH_BYTES`].
    pub patch_cut: bool,
    /// What decides without the agent: violations of the path policy or of the size rules.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub violations: Vec<String>,
    /// What people who may write to the repository have said about lines of the change.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub comments: Vec<String>,
}

impl Bundle {
    /// Whether there is nothing for an agent to say (spec agents 5.3: the model is asked only when the
    /// policy passes, and an empty change passes).
    pub fn is_decided(&self) -> bool {
        self.file_count == 0 || !self.violations.is_empty()
    }
}

/// Where the bundle of a checkout is.
pub fn directory(checkout: &Path) -> PathBuf {
    checkout.with_file_name("review")
}

/// Writes description and patch into `directory`, which must not exist.
///
/// # Errors
/// When they cannot be written.
pub fn write(directory: &Path, mut bundle: Bundle, patch: &[u8]) -> io::Result<()> {
    fs::create_dir(directory)?;
    bundle.files.truncate(MAX_FILES);
    bundle.violations.truncate(MAX_VIOLATIONS);
    bundle.patch = directory.join(PATCH);
    fs::write(&bundle.patch, patch)?;
    fs::write(directory.join(REVIEW_FILE), serde_json::to_vec_pretty(&bundle)?)
}

/// Reads the description.
///
/// # Errors
/// When it is not there or not one.
pub fn read(directory: &Path) -> io::Result<Bundle> {
    let file = directory.join(REVIEW_FILE);
    if fs::metadata(&file)?.len() > MAX_BYTES {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(serde_json::from_slice(&fs::read(file)?)?)
}
