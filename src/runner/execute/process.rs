//! Runs one program to its end: output forwarded, time bounded, its group and all it left behind ended.
//!
//! One loop does everything, so that its heartbeat means that all of it is alive. Must not know what
//! the program is for.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal as Signo, kill, killpg};
use nix::sys::wait::WaitStatus;
use nix::unistd::Pid;
use tokio::net::unix::pipe::Receiver;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::cli::{self, Cli, Report, Transcript};
use super::descendants::{living, reap, sweep};
use super::heartbeat::{Heartbeat, INTERVAL};
use super::mask::Mask;
use super::output::Lines;
use crate::crd::TokenUsage;
use crate::crd::run::AgentSession;

/// Time for the output to end after the program has.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);
/// Bytes read at once.
const CHUNK_BYTES: usize = 64 * 1024;

/// A program to run.
#[derive(Debug)]
pub struct Program {
    /// Program and arguments.
    pub argv: Vec<OsString>,
    /// Where it runs.
    pub cwd: PathBuf,
    /// File that is its standard input; none: it is empty.
    pub stdin: Option<PathBuf>,
    /// Its whole environment.
    pub env: Vec<(OsString, OsString)>,
    /// Time it may take.
    pub limit: Duration,
    /// Time that it may go on without any output; none: as long as it likes.
    pub idle_limit: Option<Duration>,
    /// A line repeated this often in a row ends it.
    pub loop_limit: Option<usize>,
    /// Whether everything it leaves behind is ended with it.
    pub sweep: bool,
    /// Where its output goes.
    pub output: Output,
}

/// Where the output of a program goes.
#[derive(Clone, Copy, Debug)]
pub enum Output {
    /// To the container's log.
    Forward,
    /// To the container's log as readable lines; what it says is reported.
    Events(&'static dyn Cli),
    /// Standard output is kept, up to so many bytes; more is an error. Nothing is shown.
    Capture(usize),
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// By itself, with this code.
    Exited(i32),
    /// By a signal that was not ours.
    Killed(Signo),
    /// By us, at its time limit.
    TimedOut,
    /// By us, because it has said nothing for its idle limit.
    Idle,
    /// By us, because it repeated itself.
    Looped,
    /// By us, because it waited for what would not come.
    GaveUp,
    /// By us, because the Task's tokens are used up.
    OverBudget,
    /// By us, because we were told to stop.
    Stopped,
}

/// What a program left.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub ending: Ending,
    /// End of its standard output, masked. Empty when captured.
    pub stdout: String,
    /// End of its standard error, masked.
    pub stderr: String,
    /// Captured standard output.
    pub captured: Vec<u8>,
    /// What it said of its work, when its output is events.
    pub report: Option<Report>,
}

impl Finished {
    /// What is said about a failure: standard error, else standard output.
    pub fn said(&self) -> &str {
        if self.stderr.trim().is_empty() { &self.stdout } else { &self.stderr }
    }
}

/// Runs programs, one at a time. There is one in the process: it collects every child that ends.
#[derive(Debug)]
pub struct Supervisor {
    children: Signal,
    stop: CancellationToken,
    heartbeat: Heartbeat,
    mask: Mask,
    kill_after: Duration,
    spent: Spent,
    token_limit: Option<i64>,
}

/// What the programs of a Run have used together.
#[derive(Clone, Debug, Default)]
pub struct Spent {
    /// Tokens of all of them (trap Q10).
    pub tokens: Option<TokenUsage>,
    /// The last conversation.
    pub session: Option<AgentSession>,
    /// SHA-256 in hex of the prompt that the last executor was handed.
    pub prompt_hash: String,
    /// The last text of the last program that reports.
    pub answer: String,
}

/// Why we end a program, and when it is killed.
#[derive(Clone, Copy, Debug)]
struct Ended {
    because: Ending,
    kill_at: Instant,
}

impl Supervisor {
    /// Takes over the orphans of this process and hides its memory and environment from its children.
    ///
    /// # Errors
    /// When the kernel refuses either, or outside a tokio runtime.
    pub fn new(
        stop: CancellationToken,
        heartbeat: Heartbeat,
        mask: Mask,
        kill_after: Duration,
    ) -> io::Result<Self> {
        nix::sys::prctl::set_child_subreaper(true)?;
        nix::sys::prctl::set_dumpable(false)?;
        let children = signal(SignalKind::child())?;
        Ok(Self { children, stop, heartbeat, mask, kill_after, spent: Spent::default(), token_limit: None })
    }

    /// Ends a program that goes on after all programs together have reported as many tokens.
    pub fn limit_tokens(&mut self, limit: Option<i64>) {
        self.token_limit = limit;
    }

    /// Tokens that the next program may use.
    pub fn tokens_left(&self) -> Option<i64> {
        let spent = self.spent.tokens.map_or(0, |tokens| tokens.total);
        self.token_limit.map(|limit| limit.saturating_sub(spent))
    }

    /// The secrets to hide.
    pub fn mask(&self) -> &Mask {
        &self.mask
    }

    /// What was used so far.
    pub fn spent(&self) -> &Spent {
        &self.spent
    }

    /// Whether we were told to stop.
    pub fn is_stopped(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Waits for `future` with a beating heart. `None` when we were told to stop first.
    pub async fn beat_while<T>(&mut self, future: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(future);
        let mut beat = tokio::time::interval(INTERVAL);
        loop {
            tokio::select! {
                done = &mut future => return Some(done),
                () = self.stop.cancelled() => return None,
                _ = beat.tick() => self.heartbeat.beat(),
            }
        }
    }

    /// Remembers what the next executor is handed.
    pub fn hand_over(&mut self, prompt_hash: &str) {
        self.spent.prompt_hash = prompt_hash.into();
    }

    /// Runs `program` to its end.
    ///
    /// # Errors
    /// When it cannot be started, its output cannot be forwarded, or captures more than allowed.
    pub async fn run(&mut self, program: &Program) -> io::Result<Finished> {
        let (pid, stdout, stderr) = start(program)?;
        let result = self.follow(program, pid, stdout, stderr).await;
        if let Some(report) = result.as_ref().ok().and_then(|finished| finished.report.as_ref()) {
            self.spent.tokens = match (self.spent.tokens, report.tokens()) {
                (Some(before), Some(now)) => Some(cli::sum(before, now)),
                (before, now) => now.or(before),
            };
            self.spent.answer.clone_from(&report.answer);
            self.spent.session = report.session().or(self.spent.session.take());
        }
        if program.sweep || result.is_err() {
            sweep().await;
        }
        result
    }

    async fn follow(
        &mut self,
        program: &Program,
        pid: Pid,
        out: Receiver,
        err: Receiver,
    ) -> io::Result<Finished> {
        let limit = Instant::now() + program.limit;
        let mut heard = Instant::now();
        let mut ended: Option<Ended> = None;
        let mut status: Option<WaitStatus> = None;
        let mut drain: Option<Instant> = None;
        let (capture, transcript) = match program.output {
            Output::Forward => (None, None),
            Output::Events(cli) => (None, Some(Transcript::new(cli, self.tokens_left()))),
            Output::Capture(limit) => (Some(limit), None),
        };
        let mut stdout = Stream { capture, transcript, ..Stream::new(out, &self.mask) };
        let mut stderr = Stream::new(err, &self.mask);
        let mut log: (Box<dyn Write>, Box<dyn Write>) = match program.output {
            Output::Forward | Output::Events(_) => (Box::new(io::stdout()), Box::new(io::stderr())),
            Output::Capture(_) => (Box::new(io::sink()), Box::new(io::sink())),
        };
        let mut beat = tokio::time::interval(INTERVAL);
        let mut buffer = vec![0u8; CHUNK_BYTES];
        while status.is_none() || (stdout.open || stderr.open) {
            let idle = program.idle_limit.map(|idle| heard + idle).filter(|idle| *idle < limit);
            let (due, because) = idle.map_or((limit, Ending::TimedOut), |idle| (idle, Ending::Idle));
            let wake = drain.unwrap_or_else(|| ended.map_or(due, |ended| ended.kill_at));
            tokio::select! {
                ready = stdout.receiver.readable(), if stdout.open => {
                    ready?;
                    if !stdout.read(&mut buffer, &mut log.0)?.is_empty() {
                        heard = Instant::now();
                    }
                }
                ready = stderr.receiver.readable(), if stderr.open => {
                    ready?;
                    let bytes = stderr.read(&mut buffer, &mut log.1)?;
                    if !bytes.is_empty() {
                        heard = Instant::now();
                    }
                    if let Some(transcript) = &mut stdout.transcript {
                        transcript.complain(bytes);
                    }
                }
                _ = self.children.recv() => {}
                _ = beat.tick() => self.heartbeat.beat(),
                () = tokio::time::sleep_until(wake.into()) => {
                    if drain.is_some() {
                        break;
                    }
                    match ended {
                        None => ended = Some(terminate(pid, because, self.kill_after)),
                        Some(reason) => ended = Some(kill_all(pid, reason)),
                    }
                }
                () = self.stop.cancelled(), if !ended.is_some_and(|e| e.because == Ending::Stopped) => {
                    ended = Some(terminate(pid, Ending::Stopped, self.kill_after));
                }
            }
            let looped = program
                .loop_limit
                .is_some_and(|limit| stdout.lines.repeats().max(stderr.lines.repeats()) >= limit);
            let report = stdout.transcript.as_ref().map(Transcript::report);
            if ended.is_none() && (looped || report.is_some_and(Report::is_stuck)) {
                ended = Some(terminate(pid, Ending::Looped, self.kill_after));
            }
            if ended.is_none() && report.is_some_and(Report::is_hopeless) {
                ended = Some(terminate(pid, Ending::GaveUp, self.kill_after));
            }
            if ended.is_none() && report.is_some_and(Report::is_over_budget) {
                ended = Some(terminate(pid, Ending::OverBudget, self.kill_after));
            }
            if status.is_none() {
                status = reap().into_iter().find(|status| status.pid() == Some(pid));
                if status.is_some() {
                    drain = Some(Instant::now() + DRAIN_LIMIT);
                    if program.sweep {
                        sweep().await;
                    }
                }
            }
        }
        let rest = stdout.transcript.as_mut().map(Transcript::finish).unwrap_or_default();
        stdout.lines.take(rest.as_bytes(), &mut log.0)?;
        stdout.lines.finish(&mut log.0)?;
        stderr.lines.finish(&mut log.1)?;
        let by_itself = match status {
            Some(WaitStatus::Exited(_, code)) => Ending::Exited(code),
            Some(WaitStatus::Signaled(_, signal, _)) => Ending::Killed(signal),
            Some(_) | None => Ending::Killed(Signo::SIGKILL),
        };
        Ok(Finished {
            ending: ended.map_or(by_itself, |ended| ended.because),
            stdout: stdout.lines.tail().to_string(),
            stderr: stderr.lines.tail().to_string(),
            captured: stdout.captured,
            report: stdout.transcript.map(Transcript::into_report),
        })
    }
}

fn start(program: &Program) -> io::Result<(Pid, Receiver, Receiver)> {
    let [name, args @ ..] = program.argv.as_slice() else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "there is no program to run"));
    };
    let stdin = match &program.stdin {
        Some(path) => Stdio::from(File::open(path)?),
        None => Stdio::null(),
    };
    let mut child = Command::new(name)
        .args(args)
        .current_dir(&program.cwd)
        .env_clear()
        .envs(program.env.iter().map(|(name, value)| (name, value)))
        .stdin(stdin)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()?;
    let pid = i32::try_from(child.id()).map(Pid::from_raw).map_err(io::Error::other)?;
    let pipe = |fd: Option<OwnedFd>| Receiver::from_owned_fd(fd.ok_or(io::ErrorKind::BrokenPipe)?);
    let stdout = pipe(child.stdout.take().map(OwnedFd::from))?;
    let stderr = pipe(child.stderr.take().map(OwnedFd::from))?;
    Ok((pid, stdout, stderr))
}

/// Asks the group to end.
fn terminate(pid: Pid, because: Ending, kill_after: Duration) -> Ended {
    let _ = killpg(pid, Signo::SIGTERM);
    // A stopped process does not see SIGTERM before it goes on.
    let _ = killpg(pid, Signo::SIGCONT);
    Ended { because, kill_at: Instant::now() + kill_after }
}

/// Ends the group and everything that left it. Repeated until the program is gone.
fn kill_all(pid: Pid, ended: Ended) -> Ended {
    let _ = killpg(pid, Signo::SIGKILL);
    for pid in living() {
        let _ = kill(pid, Signo::SIGKILL);
    }
    Ended { kill_at: Instant::now() + Duration::from_millis(100), ..ended }
}

/// One stream and what has become of it.
struct Stream<'a> {
    receiver: Receiver,
    open: bool,
    lines: Lines<'a>,
    /// Kept instead of shown, up to so many bytes.
    capture: Option<usize>,
    captured: Vec<u8>,
    /// Reads its events, when it has any.
    transcript: Option<Transcript>,
}

impl<'a> Stream<'a> {
    fn new(receiver: Receiver, mask: &'a Mask) -> Self {
        let (capture, captured, transcript) = (None, Vec::new(), None);
        Self { receiver, open: true, lines: Lines::new(mask), capture, captured, transcript }
    }

    /// Takes what there is. Returns it.
    fn read<'b>(&mut self, buffer: &'b mut [u8], sink: &mut impl Write) -> io::Result<&'b [u8]> {
        match self.receiver.try_read(buffer) {
            Ok(0) => self.open = false,
            Ok(length) => {
                let bytes = buffer.get(..length).unwrap_or_default();
                match (self.capture, &mut self.transcript) {
                    (None, None) => self.lines.take(bytes, sink)?,
                    (None, Some(transcript)) => {
                        let shown = transcript.take(bytes)?;
                        self.lines.take(shown.as_bytes(), sink)?;
                    }
                    (Some(limit), _) if self.captured.len() + length > limit => {
                        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "too much output"));
                    }
                    (Some(_), _) => self.captured.extend_from_slice(bytes),
                }
                return Ok(bytes);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        Ok(&[])
    }
}
