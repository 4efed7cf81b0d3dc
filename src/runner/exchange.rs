//! The rendezvous between the containers `agent` and `publish` on their shared emptyDir.
//!
//! The agent holds a FIFO open for writing while it lives; `publish` has it open for reading and sees
//! end of file on any death of the agent, SIGKILL and the OOM killer included. Beside it lies the
//! agent's result file, whose absence means a crash. Everything in the directory can be changed by the
//! agent, so what `publish` reads here is testimony: it never follows links, never blocks on what it
//! finds, and never takes more than [`MAX_RESULT_FILE_BYTES`].
//!
//! Must not know what a result means, and must not touch the workspace.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use sha2::{Digest, Sha256};
use tokio::net::unix::pipe;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::crd::wire::ContainerResult;

/// Name of the FIFO in the exchange directory.
pub const FIFO: &str = "agent.alive";
/// Name of the agent's result file in the exchange directory.
pub const RESULT: &str = "agent.json";
/// Largest prompt that is read, in bytes.
pub const MAX_PROMPT_BYTES: u64 = 512 * 1024;
/// Largest file of the agent's that is read, in bytes.
pub const MAX_RESULT_FILE_BYTES: u64 = 64 * 1024;

/// The agent's end of the FIFO. The agent counts as alive until this is dropped or its process ends;
/// children do not inherit it.
#[derive(Debug)]
pub struct AgentEnd {
    _fifo: File,
}

/// Why [`wait_for_agent`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgentEnded {
    /// The agent has ended, one way or another.
    Ended,
    /// We were told to stop first.
    Stopped,
}

/// Makes the FIFO (container `checkout`). A FIFO that is already there is kept, so that a repeated
/// checkout does no harm.
///
/// # Errors
/// When the directory is not writable or the name is taken by something else.
pub fn create(dir: &Path) -> io::Result<()> {
    let path = dir.join(FIFO);
    match nix::unistd::mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR) {
        Ok(()) => {}
        Err(Errno::EEXIST) if is_fifo(&path)? => {}
        Err(error) => return Err(error.into()),
    }
    // Explicit, because the umask would take the group's bits away. The uid is shared by the whole Pod.
    fs::set_permissions(&path, Permissions::from_mode(0o660))
}

fn is_fifo(path: &Path) -> io::Result<bool> {
    use std::os::unix::fs::FileTypeExt;
    Ok(fs::symlink_metadata(path)?.file_type().is_fifo())
}

/// Opens the agent's end. **Blocks** until `publish` has opened its own, so in async code it belongs
/// on a blocking thread; no code of the repository or the model may run before it returns.
///
/// # Errors
/// When the FIFO is missing or cannot be opened.
pub fn open_as_agent(dir: &Path) -> io::Result<AgentEnd> {
    // std opens with O_CLOEXEC: a child that outlives the agent must not keep it alive.
    let fifo = OpenOptions::new().write(true).open(dir.join(FIFO))?;
    Ok(AgentEnd { _fifo: fifo })
}

/// Opens the reading end, which lets the agent start, and waits until the agent has ended, or until
/// `grace` after `stop` was cancelled. Bytes in the FIFO mean nothing and are dropped.
///
/// # Errors
/// When the FIFO is missing, is not a FIFO, or cannot be read.
pub async fn wait_for_agent(dir: &Path, stop: &CancellationToken, grace: Duration) -> io::Result<AgentEnded> {
    // Opened without blocking, so that a stop is noticed also when no agent ever comes. Linux reports
    // the hang-up of a FIFO only after a first writer has been there.
    let fifo = pipe::OpenOptions::new().open_receiver(dir.join(FIFO))?;
    let mut buffer = [0_u8; 4096];
    let mut stopped = std::pin::pin!(async {
        stop.cancelled().await;
        tokio::time::sleep(grace).await;
    });
    loop {
        tokio::select! {
            () = &mut stopped => return Ok(AgentEnded::Stopped),
            ready = fifo.readable() => ready?,
        }
        match fifo.try_read(&mut buffer) {
            Ok(0) => return Ok(AgentEnded::Ended),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// Writes the agent's result (container `agent`): whole or not at all.
///
/// # Errors
/// When the directory is not writable or full.
pub fn write_result(dir: &Path, result: &ContainerResult) -> io::Result<()> {
    write_text(dir, RESULT, &result.to_message())
}

/// Writes a file of the agent's: whole or not at all.
///
/// # Errors
/// When the directory is not writable or full.
pub fn write_text(dir: &Path, name: &str, text: &str) -> io::Result<()> {
    let temporary = dir.join(format!(".{name}.{}", std::process::id()));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, dir.join(name))
}

/// Name of the file that holds the prompt with this hash.
pub fn prompt_file(hash: &str) -> String {
    format!("prompt-{hash}.md")
}

/// Reads the prompt with this SHA-256 (container `publish`). `None` when it is not there as it was: the
/// executor can write in this directory too.
pub fn read_prompt(dir: &Path, hash: &str) -> Option<String> {
    if hash.len() != 64 || !hash.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let text = read_text_within(dir, &prompt_file(hash), MAX_PROMPT_BYTES)?;
    let found: String = Sha256::digest(&text).iter().map(|byte| format!("{byte:02x}")).collect();
    (found == hash).then_some(text)
}

/// Reads what the agent left (container `publish`). `None` when there is nothing, or nothing that can
/// be trusted to be a result: a link, a FIFO, a directory, too large, not ours. All of it means that
/// the agent did not end in an orderly way.
pub fn read_result(dir: &Path) -> Option<ContainerResult> {
    ContainerResult::from_message(&read_text(dir, RESULT)?)
}

/// Reads a file that the agent left, as carefully as [`read_result`].
pub fn read_text(dir: &Path, name: &str) -> Option<String> {
    read_text_within(dir, name, MAX_RESULT_FILE_BYTES)
}

/// As [`read_text`], with another limit in bytes.
pub fn read_text_within(dir: &Path, name: &str, limit: u64) -> Option<String> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
        .open(dir.join(name))
        .ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(limit.saturating_add(1)).read_to_end(&mut bytes).ok()?;
    if bytes.len() as u64 > limit {
        return None;
    }
    String::from_utf8(bytes).ok()
}

/// A token that is cancelled by SIGTERM or SIGINT. The runner is process 1 of its container, to which
/// the kernel does not apply the default dispositions: without this a SIGTERM would be ignored.
/// Needs a tokio runtime.
///
/// # Errors
/// When the handlers cannot be installed.
pub fn stop_on_signals() -> io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = CancellationToken::new();
    let cancel = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        cancel.cancel();
    });
    Ok(stop)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::process::{Command, Stdio};

    use tempfile::TempDir;
    use tokio::time::timeout;

    use super::*;
    use crate::crd::wire::Outcome;

    const LONG: Duration = Duration::from_secs(20);

    fn exchange() -> TempDir {
        let dir = tempfile::tempdir().expect("directory");
        create(dir.path()).expect("fifo");
        create(dir.path()).expect("a repeated checkout keeps the fifo");
        dir
    }

    #[tokio::test]
    async fn neither_side_goes_on_before_the_other_is_there() {
        let dir = exchange();
        let path = dir.path().to_path_buf();
        let agent = tokio::task::spawn_blocking(move || open_as_agent(&path));
        assert!(!agent.is_finished());
        let stop = CancellationToken::new();
        let publish = {
            let (path, stop) = (dir.path().to_path_buf(), stop.clone());
            tokio::spawn(async move { wait_for_agent(&path, &stop, Duration::ZERO).await })
        };
        let end = timeout(LONG, agent).await.expect("in time").expect("thread").expect("open");
        assert!(!publish.is_finished(), "the agent lives");
        drop(end);
        assert_eq!(
            timeout(LONG, publish).await.expect("in time").expect("task").expect("read"),
            AgentEnded::Ended
        );
    }

    #[tokio::test]
    async fn a_killed_agent_is_noticed_and_its_writing_is_ignored() {
        let dir = exchange();
        let script = r#"exec 3>"$0"; yes | head -c 300000 >&3; kill -9 $$"#;
        let mut agent =
            Command::new("sh").arg("-c").arg(script).arg(dir.path().join(FIFO)).spawn().expect("sh");
        let ended = timeout(LONG, wait_for_agent(dir.path(), &CancellationToken::new(), Duration::ZERO))
            .await
            .expect("in time");
        assert_eq!(ended.expect("read"), AgentEnded::Ended);
        agent.wait().expect("reaped");
    }

    #[tokio::test]
    async fn a_child_of_the_agent_does_not_keep_it_alive() {
        let dir = exchange();
        let path = dir.path().to_path_buf();
        let agent = tokio::task::spawn_blocking(move || {
            let end = open_as_agent(&path).expect("open");
            let child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("cat");
            drop(end);
            child
        });
        let ended = timeout(LONG, wait_for_agent(dir.path(), &CancellationToken::new(), Duration::ZERO))
            .await
            .expect("in time");
        assert_eq!(ended.expect("read"), AgentEnded::Ended);
        let mut child = agent.await.expect("thread");
        assert!(child.try_wait().expect("state").is_none(), "the child still lives");
        child.kill().expect("kill");
        child.wait().expect("reaped");
    }

    #[tokio::test]
    async fn a_stop_ends_the_wait_also_when_no_agent_ever_comes() {
        let dir = exchange();
        let stop = CancellationToken::new();
        stop.cancel();
        let ended = timeout(LONG, wait_for_agent(dir.path(), &stop, Duration::ZERO)).await.expect("in time");
        assert_eq!(ended.expect("read"), AgentEnded::Stopped);
    }

    #[tokio::test]
    async fn sigterm_cancels_the_token() {
        let stop = stop_on_signals().expect("handlers");
        nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGTERM).expect("kill");
        timeout(LONG, stop.cancelled()).await.expect("in time");
    }

    #[test]
    fn a_result_is_read_back() {
        let dir = exchange();
        assert_eq!(read_result(dir.path()), None);
        let result = ContainerResult::failure(Outcome::NeedsRework, "verification_command_failed", "no");
        write_result(dir.path(), &result).expect("write");
        assert_eq!(read_result(dir.path()), Some(result));
    }

    #[test]
    fn what_is_not_plainly_a_result_counts_as_absent() {
        let dir = exchange();
        let path = dir.path().join(RESULT);
        let good = ContainerResult::new(Outcome::Success).to_message();

        fs::write(dir.path().join("elsewhere"), &good).expect("write");
        symlink(dir.path().join("elsewhere"), &path).expect("link");
        assert_eq!(read_result(dir.path()), None, "a link");
        fs::remove_file(&path).expect("remove");

        nix::unistd::mkfifo(&path, Mode::S_IRWXU).expect("fifo");
        assert_eq!(read_result(dir.path()), None, "a fifo");
        fs::remove_file(&path).expect("remove");

        fs::create_dir(&path).expect("directory");
        assert_eq!(read_result(dir.path()), None, "a directory");
        fs::remove_dir(&path).expect("remove");

        fs::write(&path, format!("{good}{}", " ".repeat(MAX_RESULT_FILE_BYTES as usize))).expect("write");
        assert_eq!(read_result(dir.path()), None, "too large");
        fs::write(&path, [0xff, 0xfe]).expect("write");
        assert_eq!(read_result(dir.path()), None, "not text");
        fs::write(&path, &good).expect("write");
        assert!(read_result(dir.path()).is_some());
    }

    #[test]
    fn a_prompt_is_read_only_as_it_was_handed_over() {
        let dir = tempfile::tempdir().expect("directory");
        let hash: String = Sha256::digest("Fix it.").iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(read_prompt(dir.path(), &hash), None, "there is none");
        write_text(dir.path(), &prompt_file(&hash), "Fix it.").expect("written");
        assert_eq!(read_prompt(dir.path(), &hash).as_deref(), Some("Fix it."));
        write_text(dir.path(), &prompt_file(&hash), "Fix it!").expect("written");
        assert_eq!(read_prompt(dir.path(), &hash), None, "somebody has changed it");
        let outside = format!("../{}", "a".repeat(61));
        assert_eq!((outside.len(), read_prompt(dir.path(), &outside)), (64, None));
    }
}
