//! The one module that starts the `git` program.
//!
//! Every command gets a clean environment, no configuration but ours, no hooks, no prompts, no other
//! transport than https, http and ssh, a time limit, and bounded output with secrets masked. Nothing
//! secret is ever an argument, in the environment, in a URL or in a repository's configuration.
//!
//! Must not know what a Run is, and must not decide what to publish.

pub mod failure;
pub mod remote;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub use failure::{FailureKind, GitError};

/// Time a single git command may take.
pub const TIME_LIMIT: Duration = Duration::from_secs(900);
/// Name and address on our commits.
pub const IDENTITY: (&str, &str) = ("openTiger runner", "runner@opentiger.dev");
/// Largest standard output that is kept, in bytes.
const MAX_OUTPUT: usize = 512 * 1024 * 1024;
/// How much of standard error is kept, in bytes, from its end.
const MAX_ERRORS: usize = 16 * 1024;
/// How much of it goes into an error, in bytes, from its end.
const MAX_DETAIL: usize = 600;

/// Variables taken over from our own environment: where programs are, and what reaching the server
/// through the cluster's proxy and trust store needs.
const INHERITED: [&str; 10] = [
    "PATH",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "GIT_SSL_CAINFO",
];

/// Configuration of every command. It is handed over in the environment of git (`GIT_CONFIG_COUNT`),
/// which overrides that of the repository.
const CONFIG: [(&str, &str); 20] = [
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("core.attributesFile", "/dev/null"),
    ("core.excludesFile", "/dev/null"),
    ("core.protectHFS", "true"),
    ("core.protectNTFS", "true"),
    ("core.quotePath", "false"),
    ("commit.gpgSign", "false"),
    ("push.gpgSign", "false"),
    ("push.recurseSubmodules", "no"),
    ("submodule.recurse", "false"),
    ("fetch.recurseSubmodules", "false"),
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("pack.windowMemory", "64m"),
    ("protocol.ext.allow", "never"),
    ("http.followRedirects", "false"),
    // A connection that stands still for a minute is an error long before the time limit.
    ("http.lowSpeedLimit", "1"),
    ("http.lowSpeedTime", "60"),
    ("credential.helper", ""),
];

/// Commands on one git directory.
#[derive(Clone, Debug)]
pub struct Git {
    git_dir: PathBuf,
    private: PathBuf,
    stop: CancellationToken,
}

/// What a command reads from its standard input.
pub enum Input {
    Nothing,
    Bytes(Vec<u8>),
    /// Chunks as they come; the end of the channel is the end of input.
    Chunks(mpsc::Receiver<Vec<u8>>),
}

/// A command about to run.
pub struct Invocation {
    operation: &'static str,
    command: Command,
    config: Vec<(String, String)>,
    input: Input,
    secrets: Vec<String>,
    stop: CancellationToken,
    limit: Duration,
    answers: bool,
    keep: Option<usize>,
}

/// How a command answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// False: exit code 1 of a command whose exit code is an answer.
    pub yes: bool,
    /// Standard output.
    pub output: Vec<u8>,
    /// Whether there was more of it.
    pub cut: bool,
}

impl Git {
    /// Commands on `git_dir`. `private` is an existing directory that no other container can write;
    /// it is the commands' HOME and working directory. `stop` ends a running command.
    pub fn new(git_dir: &Path, private: &Path, stop: &CancellationToken) -> Self {
        Self { git_dir: git_dir.into(), private: private.into(), stop: stop.clone() }
    }

    /// The git directory.
    pub fn git_dir(&self) -> &Path {
        &self.git_dir
    }

    /// A command without a work tree.
    pub fn command(&self, operation: &'static str) -> Invocation {
        self.invocation(operation, &[])
    }

    /// A command with a work tree. Only for `checkout`, before the agent has ever run: git in a
    /// directory that the agent could write runs the agent's programs.
    pub fn command_in(&self, work_tree: &Path, operation: &'static str) -> Invocation {
        self.invocation(operation, &[OsString::from("--work-tree"), work_tree.into()])
    }

    fn invocation(&self, operation: &'static str, global: &[OsString]) -> Invocation {
        let mut command = Command::new("git");
        command
            .env_clear()
            .envs(std::env::vars_os().filter(|(name, _)| INHERITED.iter().any(|kept| name == kept)))
            .env("HOME", &self.private)
            .env("XDG_CONFIG_HOME", &self.private)
            .env("LC_ALL", "C")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_ATTR_NOSYSTEM", "1")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_ALLOW_PROTOCOL", "https:http:ssh")
            .env("GIT_NO_REPLACE_OBJECTS", "1")
            .env("GIT_OPTIONAL_LOCKS", "0")
            .env("GIT_AUTHOR_NAME", IDENTITY.0)
            .env("GIT_AUTHOR_EMAIL", IDENTITY.1)
            .env("GIT_COMMITTER_NAME", IDENTITY.0)
            .env("GIT_COMMITTER_EMAIL", IDENTITY.1)
            .current_dir(&self.private)
            .arg("--git-dir")
            .arg(&self.git_dir)
            .args(global)
            .arg(operation);
        Invocation {
            operation,
            command,
            config: Vec::new(),
            input: Input::Nothing,
            secrets: Vec::new(),
            stop: self.stop.clone(),
            limit: TIME_LIMIT,
            answers: false,
            keep: None,
        }
    }
}

impl Invocation {
    /// Adds arguments.
    pub fn args<I>(mut self, args: I) -> Self
    where
        I: IntoIterator,
        I::Item: AsRef<std::ffi::OsStr>,
    {
        self.command.args(args);
        self
    }

    /// Adds a variable to the environment. Not for secrets.
    pub fn env(mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Adds a configuration value, which wins over the standard ones. Not for secrets.
    pub fn config(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.config.push((key.into(), value.into()));
        self
    }

    /// Sets what the command reads.
    pub fn input(mut self, input: Input) -> Self {
        self.input = input;
        self
    }

    /// Values that must not appear in an error.
    pub fn masking(mut self, secrets: &[String]) -> Self {
        self.secrets.extend_from_slice(secrets);
        self
    }

    /// Another time limit than [`TIME_LIMIT`].
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Takes exit code 1 for an answer, not for a failure.
    pub fn answers(mut self) -> Self {
        self.answers = true;
        self
    }

    /// Keeps only the first `bytes` of standard output; a command that says more is ended in peace.
    pub fn keep(mut self, bytes: usize) -> Self {
        self.keep = Some(bytes);
        self
    }

    /// Runs the command and returns its standard output.
    ///
    /// # Errors
    /// When it cannot be started, fails, takes too long, says too much, or is stopped.
    pub async fn run(self) -> Result<Vec<u8>, GitError> {
        self.answer().await.map(|answer| answer.output)
    }

    /// Runs the command and returns how it answered.
    ///
    /// # Errors
    /// As [`Invocation::run`].
    pub async fn answer(mut self) -> Result<Answer, GitError> {
        let failed = |kind, detail: String| GitError::new(kind, self.operation, detail);
        let settings = CONFIG
            .iter()
            .map(|(key, value)| ((*key).to_string(), (*value).to_string()))
            .chain(std::mem::take(&mut self.config));
        let mut count = 0_usize;
        for (key, value) in settings {
            self.command.env(format!("GIT_CONFIG_KEY_{count}"), key);
            self.command.env(format!("GIT_CONFIG_VALUE_{count}"), value);
            count += 1;
        }
        self.command
            .env("GIT_CONFIG_COUNT", count.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        let mut child = self.command.spawn().map_err(|error| {
            failed(FailureKind::Other, format!("the git program does not start: {error}"))
        })?;
        let group = child.id();
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let input = std::mem::replace(&mut self.input, Input::Nothing);
        let keep = self.keep;
        let work = async {
            let bound = keep.unwrap_or(MAX_OUTPUT);
            let ((), output, errors) = tokio::join!(feed(stdin, input), head(stdout, bound), tail(stderr));
            (child.wait().await, output, errors)
        };
        let ended = tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(failed(FailureKind::Stopped, "stopped by a signal".into())),
            ended = work => Ok(ended),
            () = tokio::time::sleep(self.limit) => {
                Err(failed(FailureKind::TimedOut, format!("no end within {} s", self.limit.as_secs())))
            }
        };
        let (status, output, errors) = match ended {
            Ok(ended) => ended,
            Err(error) => {
                kill_group(group, &mut child).await;
                return Err(error);
            }
        };
        let status = status.map_err(|error| failed(FailureKind::Other, error.to_string()))?;
        let (output, cut) = output;
        if cut && keep.is_none() {
            return Err(failed(FailureKind::Other, format!("more than {MAX_OUTPUT} bytes of output")));
        }
        // A command whose output is closed ends by a signal or an error about it.
        let no = self.answers && status.code() == Some(1);
        if cut || no || status.success() {
            return Ok(Answer { yes: !no, output, cut });
        }
        // `push --porcelain` gives its reasons on standard output.
        let said = format!("{}\n{}", String::from_utf8_lossy(&output), String::from_utf8_lossy(&errors));
        let detail = excerpt(&mask(said.trim(), &self.secrets), &status.to_string());
        Err(failed(failure::classify(&said), detail))
    }

    /// Runs the command and returns its standard output as one trimmed line.
    ///
    /// # Errors
    /// As [`Invocation::run`].
    pub async fn line(self) -> Result<String, GitError> {
        Ok(String::from_utf8_lossy(&self.run().await?).trim().to_string())
    }
}

/// Ends the command with everything it has started.
async fn kill_group(group: Option<u32>, child: &mut Child) {
    if let Some(group) = group.and_then(|id| i32::try_from(id).ok()) {
        // Already gone is as good.
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
    let _ = child.kill().await;
}

/// Writes the input. A command that closes its input early says why by its exit status.
async fn feed(stdin: Option<ChildStdin>, input: Input) {
    let Some(mut stdin) = stdin else { return };
    match input {
        Input::Nothing => {}
        Input::Bytes(bytes) => {
            let _ = stdin.write_all(&bytes).await;
        }
        Input::Chunks(mut chunks) => {
            while let Some(chunk) = chunks.recv().await {
                if stdin.write_all(&chunk).await.is_err() {
                    return;
                }
            }
        }
    }
    let _ = stdin.shutdown().await;
}

/// The first `bound` bytes, and whether there are more. A read error counts as the end.
async fn head(stream: Option<impl AsyncRead + Unpin>, bound: usize) -> (Vec<u8>, bool) {
    let mut kept = Vec::new();
    if let Some(stream) = stream {
        let _ = stream.take(bound as u64 + 1).read_to_end(&mut kept).await;
    }
    let cut = kept.len() > bound;
    kept.truncate(bound);
    (kept, cut)
}

/// The last [`MAX_ERRORS`] bytes.
async fn tail(stream: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let mut kept = Vec::new();
    let Some(mut stream) = stream else { return kept };
    let mut buffer = vec![0_u8; 8 * 1024];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        kept.extend_from_slice(buffer.get(..count).unwrap_or_default());
        let surplus = kept.len().saturating_sub(MAX_ERRORS);
        kept.drain(..surplus);
    }
    kept
}

/// Replaces secrets.
fn mask(text: &str, secrets: &[String]) -> String {
    secrets
        .iter()
        .filter(|secret| !secret.is_empty())
        .fold(text.to_string(), |text, secret| text.replace(secret.as_str(), "***"))
}

/// The end of what git said on one line, or `otherwise` when it said nothing.
fn excerpt(text: &str, otherwise: &str) -> String {
    let line = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
    let mut start = line.len().saturating_sub(MAX_DETAIL);
    while !line.is_char_boundary(start) {
        start += 1;
    }
    match line.get(start..) {
        Some(end) if !end.is_empty() => end.to_string(),
        _ => otherwise.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn git(dir: &Path) -> Git {
        Git::new(&dir.join("git"), dir, &CancellationToken::new())
    }

    /// Whether the process runs; one that has ended and waits to be reaped does not.
    fn lives(pid: &str) -> bool {
        std::fs::read_to_string(format!("/proc/{pid}/stat"))
            .is_ok_and(|stat| !stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')))
    }

    #[tokio::test]
    async fn a_command_that_takes_too_long_is_ended_with_its_children() {
        let dir = tempfile::tempdir().expect("directory");
        let script = format!("!sleep 600 & echo $! > '{}/child'; wait; :", dir.path().display());
        let slow =
            git(dir.path()).command("slow").config("alias.slow", script).limit(Duration::from_millis(500));
        let error = slow.run().await.expect_err("too slow");
        assert_eq!(error.kind, FailureKind::TimedOut);
        let child = std::fs::read_to_string(dir.path().join("child")).expect("started");
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while lives(child.trim()) {
            assert!(std::time::Instant::now() < deadline, "process {child} still runs");
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_stop_ends_a_command() {
        let dir = tempfile::tempdir().expect("directory");
        let git = git(dir.path());
        git.stop.cancel();
        let error = git.command("slow").config("alias.slow", "!sleep 600").run().await.expect_err("stopped");
        assert_eq!(error.kind, FailureKind::Stopped);
    }

    #[tokio::test]
    async fn the_environment_is_ours_alone() {
        let dir = tempfile::tempdir().expect("directory");
        let text = git(dir.path()).command("show").config("alias.show", "").args(["x"]).run().await;
        assert!(text.is_err(), "no repository, no show");
        let output = git(dir.path()).command("all").config("alias.all", "!env").line().await.expect("env");
        let names: Vec<&str> =
            output.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
        for name in &names {
            let ours = name.starts_with("GIT_")
                || ["HOME", "XDG_CONFIG_HOME", "LC_ALL", "PWD", "_", "SHLVL"].contains(name);
            assert!(ours || INHERITED.contains(name), "{name}");
        }
        assert!(names.contains(&"GIT_CONFIG_NOSYSTEM"));
    }

    #[tokio::test]
    async fn secrets_do_not_appear_in_errors() {
        let dir = tempfile::tempdir().expect("directory");
        let command =
            git(dir.path()).command("leak").config("alias.leak", "!echo token-hunter2 >&2; exit 1 #");
        let error = command.masking(&["token-hunter2".into()]).run().await.expect_err("fails");
        assert_eq!(error.detail, "***");
    }

    #[tokio::test]
    async fn what_is_enough_is_kept_and_a_no_is_an_answer() {
        let dir = tempfile::tempdir().expect("directory");
        let say = |script: &str| git(dir.path()).command("say").config("alias.say", script);
        let answer = say("!yes").keep(10).answer().await.expect("cut");
        assert_eq!(answer, Answer { yes: true, output: b"y\ny\ny\ny\ny\n".to_vec(), cut: true });
        let answer = say("!echo no; exit 1 #").answers().answer().await.expect("an answer");
        assert_eq!((answer.yes, answer.output.as_slice()), (false, b"no\n".as_slice()));
        assert!(say("!exit 1 #").answer().await.is_err());
        assert!(say("!exit 2 #").answers().answer().await.is_err());
    }

    #[tokio::test]
    async fn an_endless_talker_is_bounded() {
        let dir = tempfile::tempdir().expect("directory");
        let command = git(dir.path())
            .command("talk")
            .config("alias.talk", "!head -c 3000000 /dev/zero | tr '\\0' x >&2; exit 1 #");
        let error = command.run().await.expect_err("fails");
        assert!(error.detail.len() <= MAX_DETAIL, "{}", error.detail.len());
    }
}
