//! The change, recomputed: the walker's files go through one `git fast-import` into the trusted clone,
//! and what then has another mode or object id than at the checkout has changed.
//!
//! fast-import instead of one `hash-object` per file: it applies no filter and knows no work tree
//! either, but takes 200,000 files in one process with bounded memory, and hashes as the repository
//! does (SHA-1 or SHA-256). Must not decide what is allowed.

use std::collections::HashMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::runner::checkout::Paths;
use crate::runner::checkout::manifest::{Manifest, Mode};
use crate::runner::forge::ForgeError;
use crate::runner::git::{Git, GitError, Input};
use crate::runner::walker::{self, Blobs, Candidate, Found, Limits, Walk, WalkError};

/// Size of the pieces handed to git, in bytes; a few of them are on their way at any time.
const CHUNK: usize = 256 * 1024;
const CHUNKS: usize = 4;

/// One changed path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub path: String,
    /// New mode and object id; `None` for a deleted file.
    pub to: Option<(Mode, String)>,
}

/// Why the change could not be told.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    #[error(transparent)]
    Walk(#[from] WalkError),
    #[error(transparent)]
    Git(#[from] GitError),
    #[error(transparent)]
    Forge(#[from] ForgeError),
    #[error("failed to {what}: {source}")]
    File { what: &'static str, source: io::Error },
}

/// The changes of the work tree against its checkout, sorted by path. Their content is in the trusted
/// clone afterwards.
///
/// # Errors
/// [`ChangeError`].
pub async fn recompute(
    git: &Git,
    paths: &Paths,
    limits: Limits,
    stop: &CancellationToken,
) -> Result<Vec<Change>, ChangeError> {
    let marks = paths.private().join("marks");
    let (sender, receiver) = mpsc::channel(CHUNKS);
    let import = git
        .command("fast-import")
        .config("fastimport.unpackLimit", "0")
        .args(["--quiet", "--done", "--depth=0", "--big-file-threshold=1m"])
        .args([format!("--export-marks={}", marks.display())])
        .input(Input::Chunks(receiver))
        .run();
    let walk = tokio::task::spawn_blocking({
        let (paths, stop) = (paths.clone(), stop.clone());
        move || store_files(&paths, limits, &stop, sender)
    });
    let (import, walk) = tokio::join!(import, walk);
    let walk = walk.map_err(|error| ChangeError::File { what: "walk", source: io::Error::other(error) })?;
    let (manifest, found) = match (walk, import) {
        // The walk's own reason comes first, except that a dead git is the reason for an unstored file.
        (Err(ChangeError::Walk(WalkError::Store { .. })), Err(error)) => return Err(error.into()),
        (Err(error), _) => return Err(error),
        (Ok(_), Err(error)) => return Err(error.into()),
        (Ok(found), Ok(_)) => found,
    };
    let ids =
        read_marks(&marks).map_err(|source| ChangeError::File { what: "read the object ids", source })?;
    compare(&manifest, found, &ids)
}

fn store_files(
    paths: &Paths,
    limits: Limits,
    stop: &CancellationToken,
    chunks: mpsc::Sender<Vec<u8>>,
) -> Result<(Manifest, Found), ChangeError> {
    let file = |what| move |source| ChangeError::File { what, source };
    let manifest = Manifest::load(&paths.manifest()).map_err(file("load the manifest"))?;
    let mut spool = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(paths.private().join("spool"))
        .map_err(file("open the spool"))?;
    let mut stream = Stream { chunks, buffer: Vec::with_capacity(CHUNK * 2), count: 0 };
    let walk = Walk { manifest: &manifest, limits, stop, spool: &mut spool, blobs: &mut stream };
    let found = walker::walk(&paths.checkout, walk)?;
    // Without this last word git throws everything away: a walk that failed leaves nothing.
    stream.write(b"done\n").and_then(|()| stream.flush()).map_err(file("hand the files to git"))?;
    Ok((manifest, found))
}

/// Writes the language of `git fast-import`.
struct Stream {
    chunks: mpsc::Sender<Vec<u8>>,
    buffer: Vec<u8>,
    count: u64,
}

impl Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        let chunk = std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK * 2));
        self.chunks.blocking_send(chunk).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Blobs for Stream {
    fn store(&mut self, length: u64, content: &mut dyn Read) -> io::Result<u64> {
        self.count += 1;
        self.write(format!("blob\nmark :{}\ndata {length}\n", self.count).as_bytes())?;
        let mut buffer = vec![0_u8; CHUNK.min(usize::try_from(length).unwrap_or(CHUNK).max(1))];
        let mut left = length;
        while left > 0 {
            let want = buffer.len().min(usize::try_from(left).unwrap_or(buffer.len()));
            let piece = buffer.get_mut(..want).unwrap_or_default();
            content.read_exact(piece)?;
            self.buffer.extend_from_slice(piece);
            self.write(b"")?;
            left -= want as u64;
        }
        self.write(b"\n")?;
        Ok(self.count)
    }
}

fn read_marks(path: &PathBuf) -> io::Result<HashMap<u64, String>> {
    let damaged = || io::Error::new(io::ErrorKind::InvalidData, "failed to read the marks");
    fs::read_to_string(path)?
        .lines()
        .map(|line| {
            let (mark, id) = line.strip_prefix(':')?.split_once(' ')?;
            Some((mark.parse().ok()?, id.to_string()))
        })
        .map(|entry| entry.ok_or_else(damaged))
        .collect()
}

fn compare(
    manifest: &Manifest,
    found: Found,
    ids: &HashMap<u64, String>,
) -> Result<Vec<Change>, ChangeError> {
    let mut changes = Vec::new();
    for Candidate { path, mode, blob, tracked } in found.candidates {
        let id = ids.get(&blob).cloned().ok_or_else(|| ChangeError::File {
            what: "find the object id",
            source: io::Error::new(io::ErrorKind::NotFound, path.clone()),
        })?;
        let before = tracked.and_then(|index| manifest.entries().get(index));
        if before.is_none_or(|before| before.mode != mode || before.id != id) {
            changes.push(Change { path, to: Some((mode, id)) });
        }
    }
    changes.extend(found.deleted.into_iter().map(|path| Change { path, to: None }));
    changes.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    Ok(changes)
}
