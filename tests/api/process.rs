//! `opentiger api` as a process of its own with its log, and a client that writes raw bytes.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::postgres::eventually;
use crate::support::cluster::kubeconfig;
use crate::support::operator::free_address;

/// Longest wait for one answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A running API; killed when this value goes away.
pub struct Api {
    child: Child,
    pub address: String,
    log: PathBuf,
    pub dir: tempfile::TempDir,
}

/// One answer, as it came over the wire.
#[derive(Debug)]
pub struct Raw {
    pub status: u16,
    pub text: String,
}

impl Raw {
    /// The body's JSON, null when it is none.
    pub fn json(&self) -> Value {
        let body = self.text.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
        serde_json::from_str(body).unwrap_or(Value::Null)
    }
}

impl Api {
    /// Starts it with these files of keys and webhook secrets, and more arguments.
    pub async fn start(database: &str, keys: &str, secrets: &str, more: &[&str]) -> Self {
        Self::start_in(database, keys, secrets, &[&["--namespace", "security"], more].concat()).await
    }

    /// The same; the namespace is among the arguments.
    pub async fn start_in(database: &str, keys: &str, secrets: &str, more: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let (key_file, secret_file) = (dir.path().join("keys"), dir.path().join("secrets"));
        std::fs::write(&key_file, keys).expect("written");
        std::fs::write(&secret_file, secrets).expect("written");
        let (address, log) = (free_address(), dir.path().join("log"));
        let child = Command::new(env!("CARGO_BIN_EXE_opentiger"))
            .args(["api", "--listen", &address, "--kubernetes-auth"])
            .arg("--api-keys-file")
            .arg(key_file)
            .arg("--github-webhook-secret-file")
            .arg(secret_file)
            .args(more)
            .env("DATABASE_URL", database)
            .env("KUBECONFIG", kubeconfig())
            .env("RUST_LOG", "trace,h2=info,hyper_util=info,rustls=info")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log).expect("a log file"))
            .spawn()
            .expect("the API");
        let api = Self { child, address, log, dir };
        eventually("the API answers", async || TcpStream::connect(&api.address).await.is_ok()).await;
        api
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).expect("a log")
    }

    /// Most memory it ever had, in KiB.
    pub fn peak_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("status");
        let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).expect("VmHWM");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(&self.address).await.expect("connected")
    }

    /// Sends `request` and reads until the connection ends. Status 0: it ended without an answer.
    pub async fn raw(&self, request: &[u8]) -> Raw {
        let mut stream = self.connect().await;
        // The answer may come, and the connection end, before everything is sent.
        drop(stream.write_all(request).await);
        read(&mut stream).await
    }

    /// A request without a body; `head` are lines of headers.
    pub async fn ask(&self, method: &str, path: &str, head: &str) -> Raw {
        self.raw(format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{head}\r\n").as_bytes())
            .await
    }

    /// A request with a body.
    pub async fn send(&self, method: &str, path: &str, head: &str, body: &str) -> Raw {
        let length = body.len();
        let head = format!("{head}content-length: {length}\r\n");
        let request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{head}\r\n{body}");
        self.raw(request.as_bytes()).await
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Reads one answer until the connection ends or the answer is complete.
pub async fn read(stream: &mut TcpStream) -> Raw {
    let mut bytes = Vec::new();
    let reading = async {
        let mut buffer = [0; 16 * 1024];
        loop {
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(n) => bytes.extend_from_slice(&buffer[..n]),
            }
            if complete(&bytes) {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("an answer in time");
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let status = text.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    Raw { status, text }
}

/// Whether everything is there that `content-length` announces; of a stream, the head.
fn complete(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    // A stream has no end.
    if head.contains("content-type: text/event-stream") {
        return true;
    }
    let length = head.lines().find_map(|l| l.strip_prefix("content-length: ")?.parse::<usize>().ok());
    length.is_some_and(|length| body.len() >= length)
}
