//! The repository's own guidance for agents, for the prompt: files with known names at its root.
//!
//! Read from the checkout before the executor runs. Links are not followed and the sizes are bounded.
//! Must not fail a Run: a file that cannot be read as text is left out, and the log says so.

use std::io;
use std::path::Path;

use cap_std::ambient_authority;
use cap_std::fs::Dir;

use super::source;

/// The files, in the order of the prompt.
pub const NAMES: [&str; 3] = ["AGENTS.md", "CLAUDE.md", ".opentiger/instructions.md"];
/// Most that is taken of one file, in bytes.
pub const MAX_FILE_BYTES: usize = 16 * 1024;

/// A file and its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guidance {
    /// Path in the repository.
    pub path: &'static str,
    /// Its text, at most [`MAX_FILE_BYTES`].
    pub text: String,
    /// There is more of it.
    pub cut: bool,
}

/// What the repository says, each text once.
pub fn read(checkout: &Path) -> Vec<Guidance> {
    let Ok(root) = Dir::open_ambient_dir(checkout, ambient_authority()) else { return Vec::new() };
    let mut all: Vec<Guidance> = Vec::new();
    for path in NAMES {
        match read_file(&root, path) {
            Ok(found) if found.text.trim().is_empty() || all.iter().any(|other| other.text == found.text) => {
            }
            Ok(found) => all.push(found),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => println!("[opentiger] {path} is left out of the prompt: {error}"),
        }
    }
    all
}

fn read_file(root: &Dir, path: &'static str) -> io::Result<Guidance> {
    let source::Text { text, cut } = source::read(root, path, MAX_FILE_BYTES)?;
    Ok(Guidance { path, text, cut })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn guidance_is_read_once_and_within_bounds() {
        let dir = tempfile::tempdir().expect("directory");
        fs::write(dir.path().join("AGENTS.md"), "Use tabs.\n").expect("write");
        fs::write(dir.path().join("CLAUDE.md"), "Use tabs.\n").expect("write");
        fs::create_dir(dir.path().join(".opentiger")).expect("directory");
        fs::write(dir.path().join(NAMES[2]), format!("x{}", "ä".repeat(MAX_FILE_BYTES))).expect("write");
        let found = read(dir.path());
        let paths: Vec<&str> = found.iter().map(|file| file.path).collect();
        assert_eq!(paths, ["AGENTS.md", ".opentiger/instructions.md"]);
        assert!(!found[0].cut && found[1].cut);
        assert_eq!(found[1].text.len(), MAX_FILE_BYTES - 1, "cut at a character");
    }

    #[test]
    fn links_and_what_is_no_text_are_left_out() {
        let dir = tempfile::tempdir().expect("directory");
        let outside = tempfile::tempdir().expect("directory");
        fs::write(outside.path().join("secret"), "hidden").expect("write");
        fs::write(outside.path().join("instructions.md"), "hidden").expect("write");
        symlink(outside.path().join("secret"), dir.path().join("AGENTS.md")).expect("link");
        symlink(outside.path(), dir.path().join(".opentiger")).expect("link");
        fs::write(dir.path().join("CLAUDE.md"), [0xff, 0xfe]).expect("write");
        assert_eq!(read(dir.path()), []);
    }
}
