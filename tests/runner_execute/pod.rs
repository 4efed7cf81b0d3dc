//! A checkout, an exchange directory and inputs, and the runner started on them.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use opentiger::crd::GoDuration;
use opentiger::crd::pool::{CommandExecutor, Executor, ExecutorType, MockExecutor, MockOutcome};
use opentiger::crd::run::RunSpec;
use opentiger::crd::wire::{ContainerResult, Inputs, SCHEMA_VERSION};
use opentiger::runner::exchange;
use tempfile::TempDir;

/// Longest time that anything here is waited for.
pub const LONG: Duration = Duration::from_secs(60);

/// What a Pod gives to the runner.
pub struct Pod {
    dir: TempDir,
    pub inputs: Inputs,
    pub env: Vec<(String, String)>,
    pub flags: Vec<String>,
    /// Longest time that the runner's end is waited for.
    pub patience: Duration,
}

/// How the runner ended.
pub struct Ended {
    pub code: Option<i32>,
    pub signal: Option<i32>,
    /// Termination message.
    pub message: Option<ContainerResult>,
    /// What `publish` would read.
    pub testimony: Option<ContainerResult>,
    pub stdout: String,
    pub stderr: String,
    pub elapsed: Duration,
    /// Largest resident memory seen, in KiB.
    pub peak_kib: u64,
}

impl Ended {
    /// The termination message of a run that ended in an orderly way.
    pub fn result(&self) -> &ContainerResult {
        self.message
            .as_ref()
            .unwrap_or_else(|| panic!("no result, {:?} {:?}\n{}", self.code, self.signal, self.stderr))
    }

    /// Outcome, code and exit code in one text.
    pub fn brief(&self) -> String {
        let result = self.result();
        format!(
            "{:?} {} {}",
            result.outcome,
            result.failure_code.as_deref().unwrap_or("-"),
            self.code.unwrap_or(-1)
        )
    }
}

impl Pod {
    /// A checkout of one commit (`src/a.txt`, `.gitignore` with `ignored/`), everything allowed.
    pub fn new(executor: Executor) -> Self {
        let dir = tempfile::tempdir().expect("directory");
        let mut spec = RunSpec { attempt: 1, ..RunSpec::default() };
        spec.inputs.title = "Change a file".into();
        spec.inputs.goal = "Implement it.".into();
        spec.inputs.timebox = GoDuration("60s".into());
        spec.inputs.allowed_paths = vec!["**".into()];
        spec.template.executor = executor;
        let inputs = Inputs {
            schema_version: SCHEMA_VERSION,
            namespace: "default".into(),
            run: "task-abcd-r1".into(),
            run_uid: "uid".into(),
            spec,
        };
        let flags = vec!["--kill-after".into(), "1s".into()];
        let pod = Self { dir, inputs, env: Vec::new(), flags, patience: LONG };
        fs::create_dir_all(pod.exchange()).expect("made");
        exchange::create(&pod.exchange()).expect("fifo");
        pod.write("src/a.txt", "one\n");
        pod.write(".gitignore", "ignored/\n");
        pod.git(&["init", "-q", "-b", "main"]);
        pod.git(&["add", "-A"]);
        pod.git(&["commit", "-q", "-m", "first"]);
        pod
    }

    /// A pod whose executor is a shell script.
    pub fn shell(script: &str) -> Self {
        let argv = vec!["/bin/sh".into(), "-c".into(), script.into()];
        Self::new(Executor {
            type_: ExecutorType::Command,
            command: Some(CommandExecutor { argv }),
            ..Executor::default()
        })
    }

    /// A pod with a mock executor.
    pub fn mock(outcome: MockOutcome) -> Self {
        Self::scripted(MockExecutor { outcome, ..MockExecutor::default() })
    }

    /// A pod with a mock executor and its settings.
    pub fn scripted(mock: MockExecutor) -> Self {
        Self::new(Executor { type_: ExecutorType::Mock, mock: Some(mock), ..Executor::default() })
    }

    pub fn timebox(mut self, timebox: &str) -> Self {
        self.inputs.spec.inputs.timebox = GoDuration(timebox.into());
        self
    }

    pub fn commands(mut self, commands: &[&str]) -> Self {
        self.inputs.spec.inputs.commands = commands.iter().map(ToString::to_string).collect();
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    pub fn flag(mut self, name: &str, value: &str) -> Self {
        self.flags.extend([name.into(), value.into()]);
        self
    }

    pub fn repo(&self) -> PathBuf {
        self.dir.path().join("repo")
    }

    pub fn exchange(&self) -> PathBuf {
        self.dir.path().join("exchange")
    }

    /// A place outside the checkout.
    pub fn outside(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, path: &str, content: &str) {
        let path = self.repo().join(path);
        fs::create_dir_all(path.parent().expect("parent")).expect("made");
        fs::write(path, content).expect("written");
    }

    pub fn git(&self, args: &[&str]) {
        let identity = ["-c", "user.name=t", "-c", "user.email=t@example.com"];
        let status =
            Command::new("git").args(identity).args(args).current_dir(self.repo()).status().expect("git");
        assert!(status.success(), "git {args:?}");
    }

    /// Starts the runner. Nobody is on the other side of the FIFO yet.
    pub fn start(&self) -> Running {
        let inputs = self.outside("run.json");
        fs::write(&inputs, serde_json::to_string(&self.inputs).expect("json")).expect("written");
        let log = |name: &str| File::create(self.outside(name)).expect("log");
        let child = Command::new(env!("CARGO_BIN_EXE_opentiger-runner"))
            .arg("execute")
            .args(["--inputs".as_ref(), inputs.as_os_str()])
            .args(["--termination-log".as_ref(), self.outside("message").as_os_str()])
            .args(["--checkout".as_ref(), self.repo().as_os_str()])
            .args(["--exchange".as_ref(), self.exchange().as_os_str()])
            .args(&self.flags)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").expect("PATH"))
            .env("HOME", self.dir.path())
            .env("OUTSIDE", self.dir.path())
            .envs(self.env.iter().cloned())
            .stdin(Stdio::null())
            .stdout(log("stdout"))
            .stderr(log("stderr"))
            .spawn()
            .expect("runner");
        Running { child, started: Instant::now() }
    }

    /// Comes to the other side of the FIFO, as `publish` does.
    pub fn meet(&self) -> File {
        OpenOptions::new()
            .read(true)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(self.exchange().join(exchange::FIFO))
            .expect("fifo")
    }

    /// Runs the runner to its end.
    pub fn run(&self) -> Ended {
        let running = self.start();
        let mut fifo = self.meet();
        let ended = self.end_of(running);
        let mut rest = Vec::new();
        assert_eq!(
            fifo.read_to_end(&mut rest).expect("end of file"),
            0,
            "the FIFO is closed with the runner"
        );
        ended
    }

    /// Waits for the runner's end.
    pub fn end_of(&self, mut running: Running) -> Ended {
        let mut peak_kib = 0;
        let status = poll_for(self.patience, "the runner ends", || {
            peak_kib = peak_kib.max(peak(running.child.id()).unwrap_or(0));
            running.child.try_wait().expect("state")
        });
        let text =
            |name: &str| fs::read(self.outside(name)).map(|b| String::from_utf8_lossy(&b).into_owned());
        Ended {
            code: status.code(),
            signal: status.signal(),
            message: text("message").ok().and_then(|text| ContainerResult::from_message(&text)),
            testimony: exchange::read_result(&self.exchange()),
            stdout: text("stdout").expect("stdout"),
            stderr: text("stderr").expect("stderr"),
            elapsed: running.started.elapsed(),
            peak_kib,
        }
    }

    /// Asks the liveness probe.
    pub fn is_alive(&self, window: &str) -> bool {
        Command::new(env!("CARGO_BIN_EXE_opentiger-runner"))
            .args(["alive", "--window", window, "--exchange"])
            .arg(self.exchange())
            .stderr(Stdio::null())
            .status()
            .expect("probe")
            .success()
    }
}

/// A runner at work.
pub struct Running {
    pub child: Child,
    started: Instant,
}

impl Drop for Running {
    /// A failed test leaves nothing behind: the runner ends what it started.
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).expect("pid"));
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
            let _ = self.child.wait();
        }
    }
}

fn peak(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Asks until there is an answer.
pub fn poll<T>(what: &str, ask: impl FnMut() -> Option<T>) -> T {
    poll_for(LONG, what, ask)
}

/// Asks until there is an answer, no longer than `patience`.
pub fn poll_for<T>(patience: Duration, what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited too long: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The process id that a script wrote.
pub fn pid_in(path: &Path) -> i32 {
    poll("a pid is written", || fs::read_to_string(path).ok()?.trim().parse().ok())
}

/// Whether a process is there and not a zombie.
pub fn lives(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}
