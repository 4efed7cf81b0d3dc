//! A file whose content may change while the program runs, such as a mounted Secret.
//!
//! Looked at once a second at most, and only when somebody asks.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

/// How often the file is looked at, at most.
const INTERVAL: Duration = Duration::from_secs(1);

/// A file and what was last read from it.
pub struct Watched<T> {
    path: PathBuf,
    parse: fn(&str) -> T,
    loaded: Mutex<Loaded<T>>,
}

struct Loaded<T> {
    value: Arc<T>,
    stamp: Option<(SystemTime, u64)>,
    checked: Instant,
}

impl<T> Watched<T> {
    /// Reads the file.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn open(path: PathBuf, parse: fn(&str) -> T) -> std::io::Result<Self> {
        let stamp = stamp(&path);
        let value = Arc::new(parse(&std::fs::read_to_string(&path)?));
        Ok(Self { path, parse, loaded: Mutex::new(Loaded { value, stamp, checked: Instant::now() }) })
    }

    /// What the file says now, at most a second old.
    pub fn current(&self) -> Arc<T> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if loaded.checked.elapsed() >= INTERVAL {
            self.reload(&mut loaded);
        }
        loaded.value.clone()
    }

    /// A file that is gone is an empty one; one that cannot be read for another reason keeps what was
    /// read last.
    fn reload(&self, loaded: &mut Loaded<T>) {
        loaded.checked = Instant::now();
        let now = stamp(&self.path);
        if now.is_some() && now == loaded.stamp {
            return;
        }
        match std::fs::read_to_string(&self.path) {
            Ok(text) => {
                tracing::info!(path = %self.path.display(), "file of secrets read again");
                loaded.value = Arc::new((self.parse)(&text));
                loaded.stamp = now;
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                loaded.value = Arc::new((self.parse)(""));
                loaded.stamp = None;
            }
            Err(error) => {
                tracing::warn!(path = %self.path.display(), error = %error, "file of secrets cannot be read, the last ones stay");
            }
        }
    }
}

fn stamp(path: &Path) -> Option<(SystemTime, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}
