//! In `agent`: hands the program's session over to `publish`, without secrets, and puts that of an
//! interrupted attempt where the program finds it.
//!
//! The file may come from anybody who can push to the repository, so what it names is checked.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::{MAX_SESSION_BYTES, RESUMED, SESSION};
use crate::crd::ExecutorType;
use crate::runner::exchange;

/// Directories inside each other that are looked through for sessions.
const DEPTH: usize = 5;
/// Most files that are looked at.
const MAX_FILES: usize = 2_000;
/// Longest name of a session, in characters.
const MAX_ID_CHARS: usize = 64;

/// The session of an agent program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Session {
    /// The program that it is of.
    pub executor: ExecutorType,
    /// Its name for the session.
    pub id: String,
    /// Where the program keeps it, below the home.
    pub place: String,
    /// The file's content.
    pub text: String,
}

/// Where a program keeps its sessions and how a file's name gives the session's.
#[derive(Clone, Copy, Debug)]
pub struct Sessions {
    /// Directory below the home.
    pub root: &'static str,
    /// The session's name from that of a file, without the ending `.jsonl`.
    pub id: fn(&str) -> Option<&str>,
}

/// Leaves the newest session for `publish`; `hide` takes the secrets out of it. Without one nothing is
/// left, and one that is too large is left out.
///
/// # Errors
/// When it cannot be read or handed over.
pub fn hand_over(
    home: &Path,
    dir: &Path,
    executor: ExecutorType,
    sessions: Sessions,
    hide: impl FnOnce(String) -> String,
) -> io::Result<()> {
    let Some((file, id)) = newest(&home.join(sessions.root), sessions) else { return Ok(()) };
    let place = file.strip_prefix(home).map_err(io::Error::other)?.to_string_lossy().into_owned();
    if fs::metadata(&file)?.len() > MAX_SESSION_BYTES / 2 {
        return Ok(());
    }
    let text = hide(String::from_utf8_lossy(&fs::read(&file)?).into_owned());
    let document = serde_json::to_string(&Session { executor, id, place, text })?;
    if document.len() as u64 > MAX_SESSION_BYTES {
        return Ok(());
    }
    exchange::write_text(dir, SESSION, &document)
}

/// The session file that was written last, and its session.
fn newest(root: &Path, sessions: Sessions) -> Option<(PathBuf, String)> {
    let mut found: Option<(SystemTime, PathBuf, String)> = None;
    let (mut open, mut seen) = (vec![(root.to_path_buf(), 0)], 0);
    while let Some((directory, depth)) = open.pop() {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            seen += 1;
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() && depth < DEPTH {
                open.push((entry.path(), depth + 1));
            }
            if seen > MAX_FILES || !kind.is_file() {
                continue;
            }
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(id) = name.strip_suffix(".jsonl").and_then(sessions.id).filter(|id| is_id(id)) else {
                continue;
            };
            let written = entry.metadata().and_then(|meta| meta.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
            if found.as_ref().is_none_or(|(other, _, _)| *other < written) {
                found = Some((written, entry.path(), id.to_string()));
            }
        }
    }
    found.map(|(_, file, id)| (file, id))
}

/// Whether `checkout` has put the work of an interrupted attempt into the checkout.
pub fn is_resumed(dir: &Path) -> bool {
    dir.join(RESUMED).exists()
}

/// Puts the session of an interrupted attempt into the home. Its name, for the program's command line;
/// `None` when there is none that this program can go on with.
///
/// # Errors
/// When it cannot be written.
pub fn take_over(
    home: &Path,
    dir: &Path,
    executor: ExecutorType,
    sessions: Sessions,
) -> io::Result<Option<String>> {
    let text = exchange::read_text_within(dir, RESUMED, MAX_SESSION_BYTES);
    let Some(session) = text.and_then(|text| serde_json::from_str::<Session>(&text).ok()) else {
        return Ok(None);
    };
    let name = Path::new(&session.place).file_name().and_then(|name| name.to_str());
    let named = name.and_then(|name| name.strip_suffix(".jsonl")).and_then(sessions.id);
    let fits = session.executor == executor
        && is_id(&session.id)
        && named == Some(session.id.as_str())
        && is_below(&session.place, sessions.root);
    if !fits {
        return Ok(None);
    }
    let place = home.join(&session.place);
    if let Some(directory) = place.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&place)?;
    file.write_all(session.text.as_bytes())?;
    Ok(Some(session.id))
}

/// A name that is no option and no path.
fn is_id(id: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    (8..=MAX_ID_CHARS).contains(&id.len()) && !id.starts_with('-') && id.chars().all(plain)
}

/// Whether a path stays below `root`, piece by piece.
fn is_below(place: &str, root: &str) -> bool {
    let rest = place.strip_prefix(root).and_then(|rest| rest.strip_prefix('/'));
    rest.is_some_and(|rest| rest.split('/').all(|piece| !matches!(piece, "" | "." | "..")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSIONS: Sessions = Sessions { root: ".agent/sessions", id: |name| name.strip_prefix("s-") };

    fn session(home: &Path, name: &str, text: &str) {
        let file = home.join(".agent/sessions").join(name);
        fs::create_dir_all(file.parent().expect("parent")).expect("directory");
        fs::write(file, text).expect("write");
    }

    #[test]
    fn the_newest_session_goes_over_without_its_secrets() {
        let (home, dir, next) = (tempfile::tempdir(), tempfile::tempdir(), tempfile::tempdir());
        let (home, dir, next) = (home.expect("dir"), dir.expect("dir"), next.expect("dir"));
        let hand_over = || {
            let hide = |text: String| text.replace("sk-secret", "***");
            super::hand_over(home.path(), dir.path(), ExecutorType::Codex, SESSIONS, hide)
                .expect("handed over");
        };
        hand_over();
        assert!(!dir.path().join(SESSION).exists(), "there is none yet");
        session(home.path(), "2026/01/s-00000000-aa.jsonl", "old");
        session(home.path(), "2026/01/other.jsonl", "not one");
        let old = SystemTime::now() - std::time::Duration::from_secs(60);
        let file = fs::File::options()
            .write(true)
            .open(home.path().join(".agent/sessions/2026/01/s-00000000-aa.jsonl"));
        file.expect("open").set_modified(old).expect("time");
        session(home.path(), "2026/02/s-00000000-bb.jsonl", "said sk-secret");
        hand_over();

        fs::rename(dir.path().join(SESSION), dir.path().join(RESUMED)).expect("the way over the server");
        let take = |executor| take_over(next.path(), dir.path(), executor, SESSIONS).expect("taken over");
        assert_eq!(take(ExecutorType::ClaudeCode), None, "another program");
        assert_eq!(take(ExecutorType::Codex).as_deref(), Some("00000000-bb"));
        let text = fs::read_to_string(next.path().join(".agent/sessions/2026/02/s-00000000-bb.jsonl"));
        assert_eq!(text.expect("there"), "said ***");
    }

    #[rstest::rstest]
    #[case::up("../s-00000000.jsonl", "00000000")]
    #[case::up_later(".agent/sessions/../../s-00000000.jsonl", "00000000")]
    #[case::absolute("/etc/s-00000000.jsonl", "00000000")]
    #[case::elsewhere(".ssh/s-00000000.jsonl", "00000000")]
    #[case::no_file_of_it(".agent/sessions/s-00000000.sh", "00000000")]
    #[case::another_name(".agent/sessions/s-00000000.jsonl", "11111111")]
    #[case::option(".agent/sessions/s---dangerous.jsonl", "--dangerous")]
    #[case::short(".agent/sessions/s-x.jsonl", "x")]
    fn a_session_that_names_another_place_is_not_taken(#[case] place: &str, #[case] id: &str) {
        let (home, dir) = (tempfile::tempdir().expect("dir"), tempfile::tempdir().expect("dir"));
        let session =
            Session { executor: ExecutorType::Codex, id: id.into(), place: place.into(), text: "x".into() };
        let document = serde_json::to_string(&session).expect("JSON");
        exchange::write_text(dir.path(), RESUMED, &document).expect("write");
        let taken = take_over(home.path(), dir.path(), ExecutorType::Codex, SESSIONS).expect("no error");
        assert_eq!(taken, None);
        assert_eq!(fs::read_dir(home.path()).expect("home").count(), 0);
    }
}
