//! What the executor has changed, as far as the agent can tell. Testimony: `publish` recomputes it.
//!
//! With `git` in the image: everything that differs from the commit that was checked out, whatever the
//! executor has committed or staged since, and what is untracked and not ignored. Without it (images
//! without a shell): everything whose inode changed after the executor's start, which cannot tell what
//! is ignored, so no policy is checked on it here.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::process::{Ending, Output, Program, Supervisor};

/// Most bytes of a list of paths; more changes than that are not listed here.
const MAX_LIST_BYTES: usize = 8 * 1024 * 1024;
/// Time for one git command: the repository is the executor's, and so are its filters.
const GIT_LIMIT: Duration = Duration::from_secs(120);
/// Most entries that are looked at without git.
const MAX_ENTRIES: usize = 500_000;

/// How the state before the executor is remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Baseline {
    /// The commit that was checked out.
    Commit(String),
    /// Change time of a file written just before the executor started, in seconds and nanoseconds.
    Moment(i64, i64),
}

/// What was changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changes {
    /// These paths, ignored ones left out.
    Listed(Vec<String>),
    /// These paths and perhaps more, ignored ones among them.
    Touched(Vec<String>),
}

impl Changes {
    /// The paths.
    pub fn paths(&self) -> &[String] {
        match self {
            Self::Listed(paths) | Self::Touched(paths) => paths,
        }
    }

    /// Whether the list is exact enough for the path policy.
    pub fn is_exact(&self) -> bool {
        match self {
            Self::Listed(_) => true,
            Self::Touched(_) => false,
        }
    }
}

/// Remembers the state of `checkout`. `marker` is a scratch file on the same kind of file system.
///
/// # Errors
/// When neither git nor the marker works.
pub async fn baseline(
    supervisor: &mut Supervisor,
    checkout: &Path,
    marker: &Path,
    env: &[(OsString, OsString)],
) -> io::Result<Baseline> {
    if let Some(head) = git(supervisor, checkout, env, &["rev-parse", "--verify", "HEAD"]).await {
        let head = String::from_utf8_lossy(&head).trim().to_string();
        if head.len() >= 40 && head.chars().all(|c| c.is_ascii_hexdigit()) {
            return Ok(Baseline::Commit(head));
        }
    }
    fs::write(marker, b"start\n")?;
    let meta = fs::metadata(marker)?;
    Ok(Baseline::Moment(meta.ctime(), meta.ctime_nsec()))
}

/// What differs from `baseline`.
///
/// # Errors
/// When the checkout cannot be read, or git, which was there before, fails now.
pub async fn since(
    supervisor: &mut Supervisor,
    checkout: &Path,
    baseline: &Baseline,
    env: &[(OsString, OsString)],
) -> io::Result<Changes> {
    let head = match baseline {
        Baseline::Moment(seconds, nanoseconds) => {
            return touched_since(checkout, (*seconds, *nanoseconds)).map(Changes::Touched);
        }
        Baseline::Commit(head) => head,
    };
    let differ = ["diff", "--name-only", "-z", "--no-renames", "--no-ext-diff", "--no-textconv", head, "--"];
    let untracked = ["ls-files", "--others", "--exclude-standard", "-z"];
    let mut paths = Vec::new();
    for args in [&differ[..], &untracked[..]] {
        let Some(list) = git(supervisor, checkout, env, args).await else {
            return Err(io::Error::other(format!("git {} did not answer", args.first().unwrap_or(&""))));
        };
        let names = list.split(|byte| *byte == 0).filter(|name| !name.is_empty());
        paths.extend(names.map(|name| String::from_utf8_lossy(name).into_owned()));
    }
    paths.sort();
    paths.dedup();
    Ok(Changes::Listed(paths))
}

/// Runs git without anything of the repository that can be switched off. `None` when it is not there,
/// fails, or says too much.
async fn git(
    supervisor: &mut Supervisor,
    checkout: &Path,
    env: &[(OsString, OsString)],
    args: &[&str],
) -> Option<Vec<u8>> {
    let fixed = [
        "git",
        "-c",
        "safe.directory=*",
        "-c",
        "core.fsmonitor=false",
        "-c",
        "core.hooksPath=/dev/null",
        "-c",
        "core.quotePath=false",
    ];
    let mut env = env.to_vec();
    env.push(("GIT_OPTIONAL_LOCKS".into(), "0".into()));
    env.push(("GIT_TERMINAL_PROMPT".into(), "0".into()));
    let program = Program {
        argv: fixed.iter().chain(args).map(OsString::from).collect(),
        cwd: checkout.into(),
        env,
        limit: GIT_LIMIT,
        idle_limit: None,
        loop_limit: None,
        sweep: true,
        stdin: None,
        output: Output::Capture(MAX_LIST_BYTES),
    };
    let finished = supervisor.run(&program).await.ok()?;
    (finished.ending == Ending::Exited(0)).then_some(finished.captured)
}

/// Paths below `root` whose inode changed at or after `moment`. A directory, with `/` at its end,
/// stands for entries that were removed from it, the root included; `.git` is left out.
fn touched_since(root: &Path, moment: (i64, i64)) -> io::Result<Vec<String>> {
    let changed = |meta: &fs::Metadata| (meta.ctime(), meta.ctime_nsec()) >= moment;
    let mut found = Vec::from_iter(changed(&fs::metadata(root)?).then(|| "./".to_string()));
    let mut directories: Vec<PathBuf> = vec![root.into()];
    let mut seen = 0;
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory)? {
            let entry = entry?;
            seen += 1;
            if seen > MAX_ENTRIES {
                return Err(io::Error::other(format!("more than {MAX_ENTRIES} files")));
            }
            if directory == root && entry.file_name() == OsStr::new(".git") {
                continue;
            }
            let path = entry.path();
            let meta = fs::symlink_metadata(&path)?;
            if changed(&meta) {
                let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
                found.push(if meta.is_dir() { format!("{name}/") } else { name });
            }
            if meta.is_dir() {
                directories.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn touched_files_are_found_without_git() {
        let dir = tempfile::tempdir().expect("directory");
        let root = dir.path().join("repo");
        fs::create_dir_all(root.join(".git")).expect("made");
        fs::create_dir_all(root.join("src/deep")).expect("made");
        fs::create_dir_all(root.join("old")).expect("made");
        for file in ["src/a", "src/deep/b", "old/c", "top", "old/d"] {
            fs::write(root.join(file), "x").expect("written");
        }
        // File times are as coarse as the kernel's clock: wait until it has moved on.
        let time = |path: &Path| fs::metadata(path).map(|m| (m.ctime(), m.ctime_nsec())).expect("times");
        let marker = dir.path().join("marker");
        let before = time(&root.join("old/d"));
        let moment = loop {
            fs::write(&marker, "x").expect("written");
            if time(&marker) > before {
                break time(&marker);
            }
        };
        assert_eq!(touched_since(&root, moment).expect("read"), Vec::<String>::new());
        fs::write(root.join("src/deep/b"), "y").expect("written");
        fs::write(root.join(".git/index"), "y").expect("written");
        fs::remove_file(root.join("old/c")).expect("removed");
        fs::remove_file(root.join("top")).expect("removed");
        assert_eq!(touched_since(&root, moment).expect("read"), ["./", "old/", "src/deep/b"]);
    }
}
