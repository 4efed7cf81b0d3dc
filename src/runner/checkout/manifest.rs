//! The manifest of the checked-out tree: what `checkout` wrote, so that `publish` can tell unchanged
//! files without reading them. It lies beside the trusted clone, out of the agent's reach.
//!
//! A file counts as unchanged when size, modification time, change time and inode are those of the
//! checkout. The change time cannot be set by a process without the clock, and a false "unchanged"
//! could only ever drop a change of the agent's, never add one.

use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What kind of entry a path is in git's sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Regular,
    Executable,
    Symlink,
    /// A submodule's commit. Not checked out, carried over.
    Gitlink,
}

impl Mode {
    /// git's octal word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Regular => "100644",
            Self::Executable => "100755",
            Self::Symlink => "120000",
            Self::Gitlink => "160000",
        }
    }

    fn from_word(word: &[u8]) -> Option<Self> {
        match word {
            b"100644" | b"100664" => Some(Self::Regular),
            b"100755" => Some(Self::Executable),
            b"120000" => Some(Self::Symlink),
            b"160000" => Some(Self::Gitlink),
            _ => None,
        }
    }
}

/// What tells a changed file from an unchanged one. Times in nanoseconds since the epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    pub size: u64,
    pub modified: i64,
    pub changed: i64,
    pub inode: u64,
}

/// Nanoseconds since the epoch.
pub fn nanoseconds(seconds: i64, nanoseconds: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
}

/// One tracked path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub path: Vec<u8>,
    pub mode: Mode,
    /// Object id in hexadecimal.
    pub id: String,
    /// Of the working file; absent for submodules.
    pub stat: Option<Stat>,
}

/// All tracked paths, sorted by path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest(Vec<Entry>);

impl Manifest {
    /// From the output of `git ls-tree -r -z --full-tree` and the freshly checked-out files below
    /// `root`.
    ///
    /// # Errors
    /// When the listing cannot be read or a file is missing.
    pub fn of_checkout(listing: &[u8], root: &Path) -> io::Result<Self> {
        let mut entries = Vec::new();
        for record in listing.split(|byte| *byte == 0).filter(|record| !record.is_empty()) {
            let mut entry =
                tree_record(record).ok_or_else(|| invalid("failed to read the tree's listing"))?;
            if entry.mode != Mode::Gitlink {
                let file = fs::symlink_metadata(root.join(std::ffi::OsStr::from_bytes(&entry.path)))?;
                entry.stat = Some(Stat {
                    size: file.size(),
                    modified: nanoseconds(file.mtime(), file.mtime_nsec()),
                    changed: nanoseconds(file.ctime(), file.ctime_nsec()),
                    inode: file.ino(),
                });
            }
            entries.push(entry);
        }
        Ok(Self::sorted(entries))
    }

    fn sorted(mut entries: Vec<Entry>) -> Self {
        entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        Self(entries)
    }

    /// Writes it to `path`.
    ///
    /// # Errors
    /// As the file system's.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let mut out = io::BufWriter::new(fs::File::create(path)?);
        for Entry { path, mode, id, stat } in &self.0 {
            write!(out, "{} {id}", mode.word())?;
            if let Some(Stat { size, modified, changed, inode }) = stat {
                write!(out, " {size} {modified} {changed} {inode}")?;
            }
            out.write_all(b"\t")?;
            out.write_all(path)?;
            out.write_all(b"\0")?;
        }
        out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
    }

    /// Reads what [`Manifest::save`] wrote.
    ///
    /// # Errors
    /// When it is missing or damaged.
    pub fn load(path: &Path) -> io::Result<Self> {
        let bytes = fs::read(path)?;
        bytes
            .split(|byte| *byte == 0)
            .filter(|record| !record.is_empty())
            .map(|record| own_record(record).ok_or_else(|| invalid("failed to read the manifest")))
            .collect::<io::Result<Vec<_>>>()
            .map(Self::sorted)
    }

    /// All entries, sorted by path.
    pub fn entries(&self) -> &[Entry] {
        &self.0
    }

    /// Index and entry of a path.
    pub fn find(&self, path: &[u8]) -> Option<(usize, &Entry)> {
        let index = self.0.binary_search_by(|entry| entry.path.as_slice().cmp(path)).ok()?;
        self.0.get(index).map(|entry| (index, entry))
    }

    /// Whether there is a tracked path below the directory `path`.
    pub fn holds_below(&self, path: &[u8]) -> bool {
        let prefix = [path, b"/"].concat();
        let index = self.0.partition_point(|entry| entry.path < prefix);
        self.0.get(index).is_some_and(|entry| entry.path.starts_with(&prefix))
    }
}

/// Path and commit of every submodule in a listing as [`Manifest::of_checkout`] takes it.
pub fn gitlinks(listing: &[u8]) -> Vec<(Vec<u8>, String)> {
    let entries = listing.split(|byte| *byte == 0).filter_map(tree_record);
    entries.filter(|entry| entry.mode == Mode::Gitlink).map(|entry| (entry.path, entry.id)).collect()
}

fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

fn split_path(record: &[u8]) -> Option<(Vec<&str>, Vec<u8>)> {
    let tab = record.iter().position(|byte| *byte == b'\t')?;
    let (fields, path) = record.split_at_checked(tab)?;
    let fields = std::str::from_utf8(fields).ok()?.split(' ').collect();
    Some((fields, path.get(1..).filter(|path| !path.is_empty())?.to_vec()))
}

/// `<mode> <type> <id>\t<path>`
fn tree_record(record: &[u8]) -> Option<Entry> {
    let (fields, path) = split_path(record)?;
    let [mode, _, id] = fields.as_slice() else { return None };
    Some(Entry { path, mode: Mode::from_word(mode.as_bytes())?, id: (*id).to_string(), stat: None })
}

/// `<mode> <id>[ <size> <modified> <changed> <inode>]\t<path>`
fn own_record(record: &[u8]) -> Option<Entry> {
    let (fields, path) = split_path(record)?;
    let (mode, id, stat) = match fields.as_slice() {
        [mode, id] => (mode, id, None),
        [mode, id, size, modified, changed, inode] => {
            let stat = Stat {
                size: size.parse().ok()?,
                modified: modified.parse().ok()?,
                changed: changed.parse().ok()?,
                inode: inode.parse().ok()?,
            };
            (mode, id, Some(stat))
        }
        _ => return None,
    };
    Some(Entry { path, mode: Mode::from_word(mode.as_bytes())?, id: (*id).to_string(), stat })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_loaded_whatever_the_names() {
        let dir = tempfile::tempdir().expect("directory");
        let stat = Stat { size: 3, modified: -5, changed: 7, inode: 9 };
        let entry = |path: &[u8], mode, stat| Entry { path: path.to_vec(), mode, id: "ab".repeat(20), stat };
        let manifest = Manifest::sorted(vec![
            entry(b"src/\xff\n\t \"x", Mode::Executable, Some(stat)),
            entry(b"module", Mode::Gitlink, None),
            entry(b"src.rs", Mode::Regular, Some(stat)),
        ]);
        let path = dir.path().join("manifest");
        manifest.save(&path).expect("save");
        let loaded = Manifest::load(&path).expect("load");
        assert_eq!(loaded, manifest);
        assert!(loaded.holds_below(b"src"));
        assert!(!loaded.holds_below(b"module"));
        assert_eq!(loaded.find(b"src.rs").map(|(_, entry)| entry.mode), Some(Mode::Regular));
        fs::write(&path, "100644 zz 1\tx\0").expect("write");
        assert!(Manifest::load(&path).is_err());
    }
}
