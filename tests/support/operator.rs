//! The operator as a process of its own, against any API server.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A running operator; killed when this value goes away.
pub struct Operator {
    child: Child,
    log: PathBuf,
}

/// How an operator is started.
pub struct OperatorOptions<'a> {
    pub kubeconfig: &'a Path,
    pub namespace: &'a str,
    pub identity: &'a str,
    pub log: PathBuf,
    pub database_url: Option<&'a str>,
}

impl Operator {
    /// Starts an operator for one namespace, which holds its Lease too.
    pub fn start(options: &OperatorOptions) -> Self {
        Self::start_with_metrics(options, "127.0.0.1:0")
    }

    /// Starts an operator that serves its metrics at `address`.
    pub fn start_with_metrics(options: &OperatorOptions, address: &str) -> Self {
        let log =
            std::fs::OpenOptions::new().create(true).append(true).open(&options.log).expect("a log file");
        let mut command = Command::new(env!("CARGO_BIN_EXE_opentiger"));
        command
            .args(["operator", "--namespace", options.namespace, "--lease-namespace", options.namespace])
            .args(["--identity", options.identity, "--runner-image", "runner:test"])
            .args(["--lease-seconds", "4", "--lease-grace-seconds", "2"])
            .args(["--metrics-listen", address])
            .env("KUBECONFIG", options.kubeconfig)
            .env("RUST_LOG", "opentiger=debug,info")
            .env_remove("DATABASE_URL")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        if let Some(url) = options.database_url {
            command.env("DATABASE_URL", url);
        }
        Self { child: command.spawn().expect("the operator"), log: options.log.clone() }
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal, such as SIGSTOP.
    pub fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = nix::unistd::Pid::from_raw(self.pid() as i32);
        nix::sys::signal::kill(pid, signal).expect("the operator lives");
    }

    /// Kills it and waits for its end.
    pub fn kill(mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }

    /// Whether it has ended, and how.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().expect("a child")
    }

    /// The last lines of its log, for the message of a failed test.
    pub fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// An address on loopback with a port that nobody listens on.
pub fn free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").to_string()
}

/// Writes a kubeconfig that reaches the API server through a proxy on loopback.
pub fn kubeconfig_for(address: SocketAddr, dir: &Path) -> PathBuf {
    let file = dir.join("kubeconfig");
    let text = format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: proxy\n\
         clusters: [{{name: proxy, cluster: {{server: \"http://{address}\"}}}}]\n\
         contexts: [{{name: proxy, context: {{cluster: proxy, user: proxy}}}}]\n\
         users: [{{name: proxy, user: {{}}}}]\n"
    );
    std::fs::write(&file, text).expect("a kubeconfig");
    file
}
