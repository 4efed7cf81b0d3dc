//! The sign of life that the liveness probe of container `agent` looks at.
//!
//! Only the runner's own loop beats, never a thread beside it: a runner that hangs stops beating. It
//! lies in the exchange directory, because the repository's code often empties `/tmp`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Name of the file in the exchange directory.
pub const FILE: &str = "agent.heartbeat";
/// Time between two beats.
pub const INTERVAL: Duration = Duration::from_secs(2);

/// The file that is touched.
#[derive(Clone, Debug)]
pub struct Heartbeat {
    path: PathBuf,
}

impl Heartbeat {
    /// The heartbeat of the agent in the exchange directory `dir`.
    pub fn new(dir: &Path) -> Self {
        Self { path: dir.join(FILE) }
    }

    /// Touches the file. A beat that cannot be written is a missed beat, which the probe reports.
    pub fn beat(&self) {
        if let Err(error) = fs::write(&self.path, b"alive\n") {
            eprintln!("[opentiger] failed to write {}: {error}", self.path.display());
        }
    }

    /// Whether the last beat is at most `window` old. A beat from the future counts: clocks step.
    ///
    /// # Errors
    /// When there is no beat to look at.
    pub fn is_alive(&self, window: Duration) -> io::Result<bool> {
        let beat = fs::metadata(&self.path)?.modified()?;
        Ok(beat.elapsed().is_ok_and(|age| age <= window) || beat.elapsed().is_err())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::SystemTime;

    #[test]
    fn a_beat_ages() {
        let dir = tempfile::tempdir().expect("directory");
        let heartbeat = Heartbeat::new(dir.path());
        assert!(heartbeat.is_alive(Duration::from_secs(60)).is_err(), "no beat yet");
        heartbeat.beat();
        assert!(heartbeat.is_alive(Duration::from_secs(60)).expect("beat"));
        let file = fs::File::options().write(true).open(dir.path().join(FILE)).expect("file");
        let old = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
        file.set_modified(old).expect("aged");
        assert!(!heartbeat.is_alive(Duration::from_secs(60)).expect("beat"));
    }
}
