//! The change of a hostile work tree: which files differ from the checkout, read without git.
//!
//! Directories are opened one name at a time and without following links (`cap-std`), so nothing
//! outside the tree can be reached however it changes meanwhile. A file is opened without blocking,
//! its type is asked of the open handle, and what was read is what gets committed. Must not run any
//! program, and must not decide what is allowed.

pub mod ignored;
pub mod names;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use cap_fs_ext::{DirExt, FollowSymlinks, OpenOptionsFollowExt};
use cap_std::fs::{Dir, Metadata, MetadataExt, OpenOptions, OpenOptionsExt};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use tokio_util::sync::CancellationToken;

use self::ignored::{MAX_RULES, Rules};
use super::checkout::manifest::{Manifest, Mode, Stat, nanoseconds};

/// Bounds of a change. What goes beyond is refused with the path's name.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Largest changed file, in bytes.
    pub file_bytes: u64,
    /// All files that are new or of another size, together, in bytes.
    pub total_bytes: u64,
    /// Changed files.
    pub files: usize,
    /// Entries looked at.
    pub entries: usize,
    /// Directories inside each other.
    pub depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            file_bytes: 100 * 1024 * 1024,
            total_bytes: 1024 * 1024 * 1024,
            files: 100_000,
            entries: 2_000_000,
            depth: 200,
        }
    }
}

/// Files up to this size are read into memory, larger ones through the spool file.
const IN_MEMORY: u64 = 1024 * 1024;
/// Longest text of a symbolic link, in bytes.
const MAX_LINK: usize = 4096;
/// How often an entry that changes its type while it is read is tried.
const TRIES: u32 = 3;

/// Takes the content of files.
pub trait Blobs {
    /// Stores `length` bytes from `content` and returns a number for them.
    ///
    /// # Errors
    /// When it can take no more.
    fn store(&mut self, length: u64, content: &mut dyn Read) -> io::Result<u64>;
}

/// A file that may have changed: its content has been stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub path: String,
    pub mode: Mode,
    /// What [`Blobs::store`] answered.
    pub blob: u64,
    /// Index in the manifest, for a tracked path.
    pub tracked: Option<usize>,
}

/// What the walk found.
#[derive(Debug, Default)]
pub struct Found {
    pub candidates: Vec<Candidate>,
    /// Tracked paths that are gone.
    pub deleted: Vec<String>,
}

/// Why the walk ended early.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    /// The tree holds something that is not published.
    #[error("{path}: {reason}")]
    Refused { path: String, reason: String },
    #[error("failed to store the content of {path}: {source}")]
    Store { path: String, source: io::Error },
    #[error("failed to open the work tree: {0}")]
    Open(#[source] io::Error),
    #[error("stopped")]
    Stopped,
}

fn refused(path: &[u8], reason: impl Into<String>) -> WalkError {
    // Escaped: names come from the agent and end up in logs and tables.
    let path = String::from_utf8_lossy(path).escape_debug().collect::<String>();
    let path = match path.char_indices().nth(300) {
        Some((end, _)) => format!("{}...", path.get(..end).unwrap_or_default()),
        None => path,
    };
    WalkError::Refused { path, reason: reason.into() }
}

fn unstored(path: &[u8], source: io::Error) -> WalkError {
    WalkError::Store { path: String::from_utf8_lossy(path).escape_debug().collect(), source }
}

/// What a walk needs beside the tree.
pub struct Walk<'a> {
    pub manifest: &'a Manifest,
    pub limits: Limits,
    pub stop: &'a CancellationToken,
    /// A private scratch file, open for reading and writing.
    pub spool: &'a mut File,
    pub blobs: &'a mut dyn Blobs,
}

/// Compares the work tree at `root` with the manifest. `root` itself must not be replaceable by the
/// agent, or must at least be a directory and no link.
///
/// # Errors
/// [`WalkError`].
pub fn walk(root: &Path, walk: Walk<'_>) -> Result<Found, WalkError> {
    let seen = vec![false; walk.manifest.entries().len()];
    let mut walker = Walker {
        walk,
        seen,
        rules: Rules::default(),
        found: Found::default(),
        entries: 0,
        changed: 0,
        total: 0,
    };
    walker.directories(root)?;
    walker.deletions()
}

/// A directory being read.
struct Frame {
    dir: Dir,
    /// Path from the top with its final slash, empty at the top.
    prefix: Vec<u8>,
    /// All names, sorted, and how many of them are done.
    names: Vec<OsString>,
    done: usize,
    /// Whether only tracked paths count here.
    ignored: bool,
}

struct Walker<'a> {
    walk: Walk<'a>,
    /// For each entry of the manifest, whether the tree still has it.
    seen: Vec<bool>,
    rules: Rules,
    found: Found,
    entries: usize,
    changed: usize,
    total: u64,
}

impl Walker<'_> {
    fn directories(&mut self, root: &Path) -> Result<(), WalkError> {
        let top = open_root(root).map_err(WalkError::Open)?;
        let mut stack = vec![self.enter(top, Vec::new(), false)?];
        while let Some(frame) = stack.last_mut() {
            let Some(name) = frame.names.get(frame.done).cloned() else {
                stack.pop();
                self.rules.leave();
                continue;
            };
            frame.done += 1;
            if self.walk.stop.is_cancelled() {
                return Err(WalkError::Stopped);
            }
            if let Some((dir, prefix, ignored)) = self.entry(frame, &name)? {
                if stack.len() >= self.walk.limits.depth {
                    return Err(refused(&prefix, "the directories are nested too deep"));
                }
                stack.push(self.enter(dir, prefix, ignored)?);
            }
        }
        Ok(())
    }

    fn enter(&mut self, dir: Dir, prefix: Vec<u8>, ignored: bool) -> Result<Frame, WalkError> {
        let unreadable =
            |error: io::Error| refused(&prefix, format!("the directory cannot be read: {error}"));
        let mut names = Vec::new();
        for entry in dir.entries().map_err(unreadable)? {
            names.push(entry.map_err(unreadable)?.file_name());
            self.entries += 1;
            if self.entries > self.walk.limits.entries {
                return Err(refused(&prefix, format!("more than {} entries", self.walk.limits.entries)));
            }
        }
        names.sort_unstable();
        let text = match names.binary_search_by(|name| name.as_os_str().cmp(OsStr::new(".gitignore"))) {
            Ok(_) => read_rules(&dir, &prefix)?,
            Err(_) => None,
        };
        self.rules
            .enter(prefix.len(), text.as_deref())
            .map_err(|error| refused(&prefix, format!("its .gitignore cannot be used: {error}")))?;
        Ok(Frame { dir, prefix, names, done: 0, ignored })
    }

    /// Looks at one entry. Returns a directory to go into.
    fn entry(&mut self, frame: &Frame, name: &OsStr) -> Result<Option<(Dir, Vec<u8>, bool)>, WalkError> {
        let bytes = name.as_bytes();
        let path = [frame.prefix.as_slice(), bytes].concat();
        if names::is_dot_git(bytes) {
            return match frame.prefix.is_empty() && bytes == b".git" {
                true => Ok(None),
                false if frame.ignored => Ok(None),
                false => Err(refused(&path, "a repository inside the repository is not published")),
            };
        }
        for _ in 0..TRIES {
            let metadata = match frame.dir.symlink_metadata(name) {
                Ok(metadata) => metadata,
                // Gone since the directory was read.
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(refused(&path, format!("it cannot be examined: {error}"))),
            };
            let step = if metadata.is_dir() {
                self.directory(frame, name, &path)
            } else {
                self.file(frame, name, &path, &metadata).map(|done| done.map(|()| None))
            };
            if let Some(answer) = step? {
                return Ok(answer);
            }
        }
        Err(refused(&path, "it changes while it is read"))
    }

    /// A directory: where to go on. `None` outside means that it has become something else.
    #[allow(clippy::type_complexity, reason = "an answer or a retry, used once")]
    fn directory(
        &mut self,
        frame: &Frame,
        name: &OsStr,
        path: &[u8],
    ) -> Result<Option<Option<(Dir, Vec<u8>, bool)>>, WalkError> {
        if let Some((index, entry)) = self.walk.manifest.find(path)
            && entry.mode == Mode::Gitlink
        {
            self.see(index);
            return Ok(Some(None));
        }
        if names::is_generated_directory(path) {
            return Ok(Some(None));
        }
        let ignored = frame.ignored || self.rules.ignored(Path::new(OsStr::from_bytes(path)), true);
        if ignored && !self.walk.manifest.holds_below(path) {
            return Ok(Some(None));
        }
        match frame.dir.open_dir_nofollow(name) {
            Ok(dir) => Ok(Some(Some((dir, [path, b"/"].concat(), ignored)))),
            Err(error) if has_changed(&error) => Ok(None),
            Err(error) => Err(refused(path, format!("the directory cannot be opened: {error}"))),
        }
    }

    /// Anything but a directory. `None` means that it has become something else.
    fn file(
        &mut self,
        frame: &Frame,
        name: &OsStr,
        path: &[u8],
        metadata: &Metadata,
    ) -> Result<Option<()>, WalkError> {
        let tracked = self.walk.manifest.find(path).map(|(index, entry)| (index, entry.mode, entry.stat));
        if names::is_generated(path) || (tracked.is_none() && self.is_left_out(frame, name, path)) {
            return Ok(Some(()));
        }
        if let Some((index, mode, stat)) = tracked {
            if mode == Mode::Gitlink {
                return Err(refused(path, "a file takes the place of a submodule"));
            }
            if metadata.file_type().is_file() | metadata.is_symlink() && stat == Some(stat_of(metadata)) {
                self.see(index);
                return Ok(Some(()));
            }
        }
        let text = names::committable(path).map_err(|reason| refused(path, reason))?;
        let known = tracked.and_then(|(_, _, stat)| stat).map(|stat| stat.size);
        let stored = if metadata.is_symlink() {
            self.link(frame, name, path)?
        } else if metadata.is_file() {
            self.regular(frame, name, path, known)?
        } else {
            return Err(refused(path, "sockets, pipes and devices are not published"));
        };
        let Some((mode, blob)) = stored else { return Ok(None) };
        let tracked = tracked.map(|(index, _, _)| index);
        if let Some(index) = tracked {
            self.see(index);
        }
        self.found.candidates.push(Candidate { path: text.to_string(), mode, blob, tracked });
        Ok(Some(()))
    }

    /// Whether an untracked file does not belong to the change.
    fn is_left_out(&self, frame: &Frame, name: &OsStr, path: &[u8]) -> bool {
        let compiled = || {
            let sources = name.to_str().and_then(names::typescript_sources);
            sources.is_some_and(|sources| {
                sources.iter().any(|source| {
                    frame.names.binary_search_by(|n| n.as_os_str().cmp(OsStr::new(source))).is_ok()
                })
            })
        };
        frame.ignored || self.rules.ignored(Path::new(OsStr::from_bytes(path)), false) || compiled()
    }

    /// Stores a link as its text.
    fn link(&mut self, frame: &Frame, name: &OsStr, path: &[u8]) -> Result<Option<(Mode, u64)>, WalkError> {
        if names::is_dot_gitmodules(name.as_bytes()) {
            return Err(refused(path, "git does not allow it to be a link"));
        }
        let target = match frame.dir.read_link_contents(name) {
            Ok(target) => target,
            Err(error) if has_changed(&error) => return Ok(None),
            Err(error) => return Err(refused(path, format!("the link cannot be read: {error}"))),
        };
        let target = target.as_os_str().as_bytes();
        if target.len() > MAX_LINK {
            return Err(refused(path, "the link's text is too long"));
        }
        self.count(path, target.len() as u64)?;
        let blob = self.store(path, target.len() as u64, &mut &*target)?;
        Ok(Some((Mode::Symlink, blob)))
    }

    /// Stores a regular file. `known` is its size at the checkout: a file of that size is not bounded
    /// by the limits, because it is likely the same.
    fn regular(
        &mut self,
        frame: &Frame,
        name: &OsStr,
        path: &[u8],
        known: Option<u64>,
    ) -> Result<Option<(Mode, u64)>, WalkError> {
        let file = match open_file(&frame.dir, name) {
            Ok(file) => file,
            Err(error) if has_changed(&error) => return Ok(None),
            Err(error) => return Err(refused(path, format!("the file cannot be opened: {error}"))),
        };
        let unreadable = |error: io::Error| refused(path, format!("the file cannot be read: {error}"));
        let metadata = file.metadata().map_err(unreadable)?;
        if !metadata.is_file() {
            return Ok(None);
        }
        let mode = if metadata.mode() & 0o100 == 0 { Mode::Regular } else { Mode::Executable };
        let limit = if known == Some(metadata.size()) {
            metadata.size().max(self.walk.limits.file_bytes)
        } else {
            self.walk.limits.file_bytes
        };
        if metadata.size() > limit {
            return Err(self.too_large(path));
        }
        let mut content = Vec::new();
        let mut source = file.take(limit.saturating_add(1));
        (&mut source).take(IN_MEMORY + 1).read_to_end(&mut content).map_err(unreadable)?;
        let length = if content.len() as u64 <= IN_MEMORY {
            content.len() as u64
        } else {
            fill(self.walk.spool, &content, &mut source).map_err(|error| unstored(path, error))?
        };
        if length > limit {
            return Err(self.too_large(path));
        }
        if known != Some(length) {
            self.count(path, length)?;
        }
        let blob = if length <= IN_MEMORY {
            self.store(path, length, &mut content.as_slice())?
        } else {
            let mut spool = self.walk.spool.try_clone().map_err(|error| unstored(path, error))?;
            spool.seek(SeekFrom::Start(0)).map_err(|error| unstored(path, error))?;
            self.store(path, length, &mut spool)?
        };
        Ok(Some((mode, blob)))
    }

    fn too_large(&self, path: &[u8]) -> WalkError {
        refused(path, format!("the file is larger than {} bytes", self.walk.limits.file_bytes))
    }

    /// Counts a file that is surely changed: new, of another size, or a link.
    fn count(&mut self, path: &[u8], length: u64) -> Result<(), WalkError> {
        self.changed += 1;
        if self.changed > self.walk.limits.files {
            return Err(refused(path, format!("more than {} changed files", self.walk.limits.files)));
        }
        self.total = self.total.saturating_add(length);
        if self.total > self.walk.limits.total_bytes {
            return Err(refused(
                path,
                format!("the change is larger than {} bytes", self.walk.limits.total_bytes),
            ));
        }
        Ok(())
    }

    fn store(&mut self, path: &[u8], length: u64, content: &mut dyn Read) -> Result<u64, WalkError> {
        self.walk.blobs.store(length, content).map_err(|source| unstored(path, source))
    }

    fn see(&mut self, index: usize) {
        if let Some(seen) = self.seen.get_mut(index) {
            *seen = true;
        }
    }

    /// Adds the tracked paths that are gone.
    fn deletions(mut self) -> Result<Found, WalkError> {
        for (entry, seen) in self.walk.manifest.entries().iter().zip(&self.seen) {
            if *seen || entry.mode == Mode::Gitlink || names::is_generated(&entry.path) {
                continue;
            }
            let text = names::committable(&entry.path).map_err(|reason| refused(&entry.path, reason))?;
            self.found.deleted.push(text.to_string());
        }
        Ok(self.found)
    }
}

/// The top of the tree, which must be a directory and no link.
fn open_root(root: &Path) -> io::Result<Dir> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let file = std::fs::OpenOptions::new()
        .read(true)
        .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_DIRECTORY).bits())
        .open(root)?;
    Ok(Dir::from_std_file(file))
}

/// Opens a name for reading: no link followed, never waiting for a pipe's other side.
fn open_file(dir: &Dir, name: &OsStr) -> io::Result<cap_std::fs::File> {
    let mut options = OpenOptions::new();
    options.read(true).follow(FollowSymlinks::No).custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits());
    dir.open_with(name, &options)
}

/// Whether an error says that the entry is not what it was a moment ago: gone, a link, no link, no
/// directory, a socket.
fn has_changed(error: &io::Error) -> bool {
    error.raw_os_error().map(Errno::from_raw).is_some_and(|errno| {
        matches!(
            errno,
            Errno::ENOENT | Errno::ELOOP | Errno::EINVAL | Errno::ENOTDIR | Errno::ENXIO | Errno::EISDIR
        )
    })
}

/// The `.gitignore` of a directory. git does not follow links here, so neither do we.
fn read_rules(dir: &Dir, prefix: &[u8]) -> Result<Option<Vec<u8>>, WalkError> {
    let path = [prefix, b".gitignore"].concat();
    let Ok(file) = open_file(dir, OsStr::new(".gitignore")) else { return Ok(None) };
    if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return Ok(None);
    }
    let mut text = Vec::new();
    file.take(MAX_RULES + 1)
        .read_to_end(&mut text)
        .map_err(|error| refused(&path, format!("the file cannot be read: {error}")))?;
    if text.len() as u64 > MAX_RULES {
        return Err(refused(&path, format!("the file is larger than {MAX_RULES} bytes")));
    }
    Ok(Some(text))
}

/// Replaces the spool's content by `start` and the rest of `source`; returns the length.
fn fill(spool: &mut File, start: &[u8], source: &mut impl Read) -> io::Result<u64> {
    spool.seek(SeekFrom::Start(0))?;
    spool.set_len(0)?;
    spool.write_all(start)?;
    Ok(io::copy(source, spool)? + start.len() as u64)
}

fn stat_of(metadata: &Metadata) -> Stat {
    Stat {
        size: metadata.size(),
        modified: nanoseconds(metadata.mtime(), metadata.mtime_nsec()),
        changed: nanoseconds(metadata.ctime(), metadata.ctime_nsec()),
        inode: metadata.ino(),
    }
}
