//! Files of the repository that are read before the executor runs, so that no executor has a hand in them.
//!
//! Links are not followed and the size is bounded: the repository is not to be trusted either.

use std::io::{self, Read};

use cap_std::fs::Dir;

use super::guidance;
use crate::crd::wire::Inputs;
use crate::plan::command::makefile;

/// The files that are read so, in their paths.
pub fn all(inputs: &Inputs) -> Vec<&str> {
    let contract = inputs.spec.verification.contract_path.as_str();
    [contract].into_iter().chain(makefile::NAMES).chain(guidance::NAMES).collect()
}

/// A file's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// At most as long as asked for, cut at a character.
    pub text: String,
    /// There is more of it.
    pub cut: bool,
}

/// Reads at most `limit` bytes of the file at `path`.
///
/// # Errors
/// When there is no such file, it is a link or no regular file, cannot be read, or is not UTF-8.
pub fn read(root: &Dir, path: &str, limit: usize) -> io::Result<Text> {
    // A link, or a file that a read would wait for, is not opened.
    let kind = root.symlink_metadata(path)?;
    if !kind.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let most = u64::try_from(limit).unwrap_or(u64::MAX);
    let mut bytes = Vec::new();
    root.open(path)?.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    let cut = bytes.len() > limit;
    bytes.truncate(limit);
    let text = match String::from_utf8(bytes) {
        Ok(text) => text,
        // Only the character at the cut may be incomplete.
        Err(error) if cut && error.utf8_error().error_len().is_none() => {
            let valid = error.utf8_error().valid_up_to();
            let mut bytes = error.into_bytes();
            bytes.truncate(valid);
            String::from_utf8_lossy(&bytes).into_owned()
        }
        Err(_) => return Err(io::Error::other("it is not UTF-8")),
    };
    Ok(Text { text, cut })
}
