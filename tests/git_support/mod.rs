//! A real git server on loopback (`git http-backend` behind a small HTTP server) and the directories
//! of one Run's Pod, for the tests of checkout and publish.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use opentiger::crd::Purpose;
use opentiger::crd::run::{ReviewTarget, RunRepository, RunSpec, TaskRef};
use opentiger::crd::system::Submodules;
use opentiger::crd::wire::{ContainerResult, Inputs, Outcome, SCHEMA_VERSION};
use opentiger::runner::checkout::{self, Paths};
use opentiger::runner::{exchange, publish};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// What the server does besides serving.
#[derive(Default)]
pub struct Behaviour {
    /// `user:password` that is asked for.
    pub basic: Option<String>,
    /// Number of requests that are answered with 503 instead.
    pub unavailable: usize,
    /// Number of pushes that are carried out and then answered with 502.
    pub lost_answers: usize,
    /// Number of times that `main` moves just before a push learns where it is.
    pub moves_before_push: usize,
    /// Number of times that `main` moves after a push has learnt where it is.
    pub moves_during_push: usize,
    /// Answers every request with a redirect to this base.
    pub redirect: Option<String>,
    /// Speaks the first version of the protocol only.
    pub old_protocol: bool,
    /// Bytes sent in answers.
    pub sent: usize,
    /// `<method> <path> <authorization>` of every request.
    pub log: Vec<String>,
}

pub struct Server {
    pub root: TempDir,
    pub address: String,
    pub behaviour: Arc<Mutex<Behaviour>>,
}

impl Server {
    pub fn start() -> Self {
        Self::speaking(|stream| stream)
    }

    /// As `start`, behind what `over` makes of each connection, such as TLS.
    pub fn speaking<S: Read + Write>(over: impl Fn(TcpStream) -> S + Send + Sync + 'static) -> Self {
        let over = Arc::new(over);
        let root = tempfile::tempdir().expect("directory");
        let listener = TcpListener::bind("127.0.0.1:0").expect("listen");
        let address = listener.local_addr().expect("address").to_string();
        let behaviour = Arc::new(Mutex::new(Behaviour::default()));
        let (projects, shared) = (root.path().to_path_buf(), behaviour.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (projects, shared, over) = (projects.clone(), shared.clone(), over.clone());
                std::thread::spawn(move || serve(over(stream), &projects, &shared));
            }
        });
        Self { root, address, behaviour }
    }

    pub fn url(&self, name: &str) -> String {
        format!("http://{}/{name}", self.address)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// An empty bare repository that may be pushed to.
    pub fn create(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        git(self.root.path(), &["init", "--quiet", "--bare", "-b", "main", name]);
        git(&path, &["config", "http.receivepack", "true"]);
        path
    }

    /// A repository with these files on `main`: mode, path, content (of a gitlink: its commit).
    pub fn seed(&self, name: &str, files: &[(&str, &[u8], &[u8])]) -> PathBuf {
        let path = self.create(name);
        let mut stream =
            b"commit refs/heads/main\ncommitter T <t@example.com> 1700000000 +0000\ndata 4\nseed\n".to_vec();
        for (mode, file, content) in files {
            if *mode == "160000" {
                stream.extend([b"M 160000 ", *content, b" ", *file, b"\n"].concat());
                continue;
            }
            stream.extend(format!("M {mode} inline ").bytes());
            stream.extend([*file, b"\n"].concat());
            stream.extend(format!("data {}\n", content.len()).bytes());
            stream.extend([*content, b"\n"].concat());
        }
        import(&path, &stream);
        path
    }
}

/// Feeds `git fast-import`.
pub fn import(repository: &Path, stream: &[u8]) {
    let mut child = plain_git(repository)
        .args(["fast-import", "--quiet"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("fast-import");
    child.stdin.take().expect("stdin").write_all(stream).expect("write");
    assert!(child.wait().expect("wait").success());
}

/// git without this machine's configuration.
pub fn plain_git(directory: &Path) -> Command {
    let mut command = Command::new("git");
    command.current_dir(directory).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.envs([
        ("GIT_CONFIG_NOSYSTEM", "1"),
        ("GIT_CONFIG_GLOBAL", "/dev/null"),
        ("HOME", "/nonexistent"),
    ]);
    command.envs([("GIT_AUTHOR_NAME", "T"), ("GIT_AUTHOR_EMAIL", "t@example.com")]);
    command.envs([("GIT_COMMITTER_NAME", "T"), ("GIT_COMMITTER_EMAIL", "t@example.com")]);
    command
}

/// Runs git and returns its output.
pub fn git(directory: &Path, arguments: &[&str]) -> String {
    let output = plain_git(directory).args(arguments).output().expect("git");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "git {arguments:?}: {errors}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn serve(stream: impl Read + Write, projects: &Path, behaviour: &Mutex<Behaviour>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_string(), words.next()?.to_string());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_lowercase(), value.trim().to_string());
    }
    let header = |name: &str| headers.get(name).cloned().unwrap_or_default();
    let authorization = header("authorization");
    if header("expect") == "100-continue" {
        reader.get_mut().write_all(b"HTTP/1.1 100 Continue\r\n\r\n").ok()?;
    }
    let body = body(&mut reader, &headers)?;
    let mut stream = reader.into_inner();
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let pushing = method == "POST" && path.ends_with("git-receive-pack");
    let refusal = {
        let mut behaviour = behaviour.lock().ok()?;
        behaviour.log.push(format!("{method} {path} {authorization}"));
        let wanted = behaviour.basic.as_ref().map(|pair| format!("Basic {}", base64(pair)));
        if behaviour.unavailable > 0 {
            behaviour.unavailable -= 1;
            Some("503 Service Unavailable\r\n".to_string())
        } else if let Some(base) = &behaviour.redirect {
            Some(format!("301 Moved Permanently\r\nLocation: {base}{target}\r\n"))
        } else if wanted.is_some_and(|wanted| wanted != authorization) {
            Some("401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"git\"\r\n".to_string())
        } else {
            None
        }
    };
    if let Some(status) = refusal {
        return stream
            .write_all(format!("HTTP/1.1 {status}Content-Length: 0\r\nConnection: close\r\n\r\n").as_bytes())
            .ok();
    }
    if moves(behaviour, query.contains("service=git-receive-pack"), pushing)? {
        advance(&projects.join(path.trim_start_matches('/').split(".git").next()?).with_extension("git"));
    }
    if behaviour.lock().ok()?.old_protocol {
        headers.remove("git-protocol");
    }
    let output = backend(projects, &method, path, query, &headers, &body)?;
    behaviour.lock().ok()?.sent += output.len();
    let end = output.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
    let (head, rest) = (String::from_utf8_lossy(&output[..end]).into_owned(), &output[end + 4..]);
    let status = head.lines().find_map(|line| line.strip_prefix("Status: ")).unwrap_or("200 OK").to_string();
    let lost = {
        let mut behaviour = behaviour.lock().ok()?;
        let lost = pushing && behaviour.lost_answers > 0;
        behaviour.lost_answers -= usize::from(lost);
        lost
    };
    if lost {
        return stream
            .write_all(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            .ok();
    }
    let fields: String =
        head.lines().filter(|line| !line.starts_with("Status: ")).map(|line| format!("{line}\r\n")).collect();
    let answer =
        format!("HTTP/1.1 {status}\r\n{fields}Content-Length: {}\r\nConnection: close\r\n\r\n", rest.len());
    stream.write_all(answer.as_bytes()).ok()?;
    stream.write_all(rest).ok()
}

/// Whether the base is to move now.
fn moves(behaviour: &Mutex<Behaviour>, asking: bool, pushing: bool) -> Option<bool> {
    let mut behaviour = behaviour.lock().ok()?;
    let counter = match (asking, pushing) {
        (true, _) => &mut behaviour.moves_before_push,
        (false, true) => &mut behaviour.moves_during_push,
        (false, false) => return Some(false),
    };
    let due = *counter > 0;
    *counter -= usize::from(due);
    Some(due)
}

/// One more commit on `main`, by somebody else, with the same files. Returns it.
pub fn advance(repository: &Path) -> String {
    let commit = git(repository, &["commit-tree", "-p", "main", "-m", "of somebody else", "main^{tree}"]);
    git(repository, &["update-ref", "refs/heads/main", commit.trim()]);
    commit.trim().to_string()
}

/// Replaces files of `main`, as somebody else.
pub fn commit_on_main(repository: &Path, files: &[(&str, &str)]) -> String {
    let base = git(repository, &["rev-parse", "main"]);
    let mut stream = format!(
        "commit refs/heads/main\ncommitter T <t@example.com> 1700000000 +0000\ndata 5\nother\nfrom {base}"
    );
    for (path, content) in files {
        stream.push_str(&format!("M 100644 inline {path}\ndata {}\n{content}\n", content.len()));
    }
    import(repository, stream.as_bytes());
    git(repository, &["rev-parse", "main"]).trim().to_string()
}

fn body(reader: &mut impl BufRead, headers: &BTreeMap<String, String>) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    if headers.get("transfer-encoding").is_some_and(|coding| coding == "chunked") {
        loop {
            let mut size = String::new();
            reader.read_line(&mut size).ok()?;
            let size = u64::from_str_radix(size.trim(), 16).ok()?;
            reader.take(size).read_to_end(&mut body).ok()?;
            reader.read_line(&mut String::new()).ok()?;
            if size == 0 {
                return Some(body);
            }
        }
    }
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    reader.take(length).read_to_end(&mut body).ok()?;
    Some(body)
}

fn backend(
    projects: &Path,
    method: &str,
    path: &str,
    query: &str,
    headers: &BTreeMap<String, String>,
    body: &[u8],
) -> Option<Vec<u8>> {
    let header = |name: &str| headers.get(name).cloned().unwrap_or_default();
    let mut child = plain_git(projects)
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", projects)
        .envs([
            ("GIT_HTTP_EXPORT_ALL", "1"),
            ("REQUEST_METHOD", method),
            ("PATH_INFO", path),
            ("QUERY_STRING", query),
        ])
        .env("CONTENT_TYPE", header("content-type"))
        .env("CONTENT_LENGTH", body.len().to_string())
        .env("HTTP_CONTENT_ENCODING", header("content-encoding"))
        .env("GIT_PROTOCOL", header("git-protocol"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let mut stdin = child.stdin.take()?;
    let body = body.to_vec();
    let feeder = std::thread::spawn(move || {
        let _ = stdin.write_all(&body);
    });
    let output = child.wait_with_output().ok()?;
    feeder.join().ok()?;
    Some(output.stdout)
}

fn base64(text: &str) -> String {
    use ::base64::Engine;
    ::base64::engine::general_purpose::STANDARD.encode(text)
}

/// The directories and inputs of one Run.
pub struct Pod {
    pub dir: TempDir,
    pub paths: Paths,
    pub inputs: Inputs,
    pub stop: CancellationToken,
}

pub const BRANCH: &str = "agent/add-x-ab12-r1";

impl Pod {
    pub fn new(url: &str) -> Self {
        Self::at(url, tempfile::tempdir().expect("directory"))
    }

    /// On a file system in memory, where there is one.
    pub fn in_memory(url: &str) -> Self {
        Self::at(url, tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("directory"))
    }

    fn at(url: &str, dir: TempDir) -> Self {
        for name in ["repo", "workspace", "exchange", "credentials", "opentiger"] {
            fs::create_dir(dir.path().join(name)).expect("directory");
        }
        let executable = dir.path().join("runner");
        fs::write(&executable, "runner").expect("write");
        let paths = Paths {
            repository: dir.path().join("repo"),
            checkout: dir.path().join("workspace/repo"),
            exchange: dir.path().join("exchange"),
            credentials: dir.path().join("credentials"),
            authorities: dir.path().join("authorities"),
            system_authorities: dir.path().join("system-authorities"),
            trusted: dir.path().join("trusted"),
            runner: dir.path().join("opentiger/opentiger-runner"),
            executable,
        };
        let mut spec = RunSpec {
            task_ref: TaskRef { name: "add-x".into(), uid: "task-uid".into() },
            ..RunSpec::default()
        };
        spec.inputs.title = "Add x".into();
        spec.repository = RunRepository {
            url: url.into(),
            base_branch: "main".into(),
            branch: BRANCH.into(),
            credentials_secret_ref: None,
            submodules: Submodules::Ignore,
            ..RunRepository::default()
        };
        let inputs = Inputs {
            schema_version: SCHEMA_VERSION,
            namespace: "team".into(),
            run: "add-x-ab12-r1".into(),
            run_uid: "run-uid-1".into(),
            spec,
        };
        Self { dir, paths, inputs, stop: CancellationToken::new() }
    }

    pub fn credentials(&self, username: &str, password: &str) {
        fs::write(self.paths.credentials.join("username"), username).expect("write");
        fs::write(self.paths.credentials.join("password"), password).expect("write");
    }

    pub async fn checkout(&self) -> ContainerResult {
        checkout::run(&self.inputs, &self.paths, &self.stop).await
    }

    /// A checkout that must succeed.
    pub async fn checked_out(&self) {
        let result = self.checkout().await;
        assert_eq!(result.outcome, Outcome::Success, "{}", result.summary);
        let workspace = self.inputs.spec.purpose != opentiger::crd::Purpose::Merge;
        assert_eq!(self.paths.checkout.exists(), workspace, "a Merge Pod has no workspace to write to");
    }

    /// A Pod that looks at this one's pushed branch.
    pub fn looking_at(&self, repository: &Path, purpose: Purpose) -> Self {
        let mut pod = Self::new(&self.inputs.spec.repository.url);
        pod.inputs.run = "add-x-ab12-r1-x1".into();
        pod.inputs.run_uid = "run-uid-2".into();
        pod.inputs.spec.purpose = purpose;
        pod.inputs.spec.inputs.allowed_paths = vec!["**".into()];
        pod.inputs.spec.review = Some(ReviewTarget {
            run: self.inputs.run.clone(),
            run_uid: self.inputs.run_uid.clone(),
            branch: BRANCH.into(),
            head_commit: git(repository, &["rev-parse", BRANCH]).trim().into(),
            policy_version: "1".into(),
            ..ReviewTarget::default()
        });
        pod
    }

    /// The path of a file in the working clone.
    pub fn file(&self, name: &str) -> PathBuf {
        self.paths.checkout.join(name)
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let path = self.file(name);
        fs::create_dir_all(path.parent().expect("parent")).expect("directory");
        fs::write(path, content).expect("write");
    }

    /// The agent reports `outcome` and ends; everything is allowed.
    pub async fn publish(&self, outcome: Outcome) -> ContainerResult {
        self.publish_with(Some(ContainerResult::new(outcome)), |_| Ok(Vec::new())).await
    }

    pub async fn publish_with(
        &self,
        agent: Option<ContainerResult>,
        policy: impl Fn(&[String]) -> Result<Vec<String>, String>,
    ) -> ContainerResult {
        if let Some(result) = agent {
            exchange::write_result(&self.paths.exchange, &result).expect("write");
        }
        let directory = self.paths.exchange.clone();
        let agent = tokio::task::spawn_blocking(move || exchange::open_as_agent(&directory).map(drop));
        let result = publish::run(&self.inputs, &self.paths, policy, &self.stop).await;
        agent.await.expect("thread").expect("open");
        result
    }

    /// A publish that must be refused as a policy violation; returns the summary.
    pub async fn refused(&self) -> String {
        let result = self.publish(Outcome::Success).await;
        assert_eq!(result.outcome, Outcome::NeedsRework, "{}", result.summary);
        assert_eq!(result.failure_code.as_deref(), Some("policy_violation"), "{}", result.summary);
        result.summary
    }

    /// A publish that must succeed.
    pub async fn published(&self) -> ContainerResult {
        let result = self.publish(Outcome::Success).await;
        assert_eq!(result.outcome, Outcome::Success, "{}", result.summary);
        result
    }
}

/// `<mode> <path>` of every file changed between the branch and `main` on the server, and `D <path>`
/// for the deleted ones.
pub fn pushed(repository: &Path) -> Vec<String> {
    let output = git(repository, &["diff-tree", "-r", "-z", "--no-renames", "main", BRANCH]);
    let mut fields = output.split('\0');
    let mut changes = Vec::new();
    while let (Some(meta), Some(path)) = (fields.next().filter(|meta| !meta.is_empty()), fields.next()) {
        let mode = meta.split(' ').nth(1).unwrap_or_default();
        changes.push(if mode == "000000" { format!("D {path}") } else { format!("{mode} {path}") });
    }
    changes
}

/// Content of a file on the pushed branch.
pub fn content(repository: &Path, path: &str) -> String {
    git(repository, &["show", &format!("{BRANCH}:{path}")])
}

/// A small repository.
pub const FILES: [(&str, &[u8], &[u8]); 4] = [
    ("100644", b"README.md", b"hello\n"),
    ("100644", b"src/a.rs", b"a\n"),
    ("100644", b"src/b.rs", b"b\n"),
    ("120000", b"link", b"README.md"),
];

/// A server with [`FILES`] and a Pod that has checked them out.
pub async fn prepared(server: &Server) -> (PathBuf, Pod) {
    let repository = server.seed("app.git", &FILES);
    let pod = Pod::new(&server.url("app.git"));
    pod.checked_out().await;
    (repository, pod)
}

/// Makes a named pipe.
pub fn mkfifo(path: &Path) {
    nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).expect("fifo");
}
