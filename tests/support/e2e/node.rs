//! The real node for tests: helm installs the chart once for all of them, beside a git server and a
//! Postgres inside the cluster. Starting the cluster and building the images is not done here.
//!
//! What earlier runs left is removed at the start, so that a cluster can be used again.
#![allow(dead_code, reason = "each part of the tests uses a part")]

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;

/// Names the kubeconfig of a cluster with a real node that has the images.
const KUBECONFIG: &str = "OPENTIGER_TEST_NODE_KUBECONFIG";
/// Prefix of the images.
const IMAGES: &str = "OPENTIGER_TEST_IMAGES";
/// Marks the namespaces of these tests.
const MARK: &str = "opentiger-test=e2e";
/// Namespace of the release that most tests share.
pub const RELEASE: &str = "e2e-release";
/// Namespace of git server and Postgres.
pub const SERVICES: &str = "e2e-services";
/// Namespace of the release that is upgraded and uninstalled.
pub const SECOND: &str = "e2e-second";
/// Password of the git server: whoever prints it has seen the credentials.
pub const GIT_CANARY: &str = "canary-git-5b2f0c7e9d";
/// Key for the model in every namespace.
pub const MODEL_CANARY: &str = "canary-model-81c4aa03f6";
/// Password of Postgres.
pub const DATABASE_CANARY: &str = "canary-database-c07d11e2b4";
/// Files of the repository that the git server starts with.
const SEED: [&str; 7] = [
    "README.md",
    "Makefile",
    ".gitignore",
    "src/__init__.py",
    "src/calc.py",
    "tests/__init__.py",
    "tests/test_divide.py",
];

/// The cluster, with everything installed.
pub struct Node {
    kubeconfig: PathBuf,
    images: String,
}

/// The root of the repository.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The cluster. The first caller installs, the others wait; `spaces` are the namespaces of the tests.
pub fn node(spaces: &[&str]) -> &'static Node {
    static NODE: OnceLock<Node> = OnceLock::new();
    NODE.get_or_init(|| {
        let variable = |name: &str| {
            std::env::var(name).unwrap_or_else(|_| {
                panic!(
                    "{name} is not set: run `make test`, which starts a cluster with a real node and sets it"
                )
            })
        };
        let node = Node { kubeconfig: variable(KUBECONFIG).into(), images: variable(IMAGES) };
        node.clean();
        node.start_services();
        node.add_namespace(RELEASE);
        for space in spaces {
            node.add_namespace(space);
        }
        node.install(RELEASE, spaces, &[]);
        node
    })
}

impl Node {
    /// The name of image `name`.
    pub fn image(&self, name: &str) -> String {
        format!("{}/{name}:dev", self.images)
    }

    /// The kubeconfig.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.current_dir(root()).env("KUBECONFIG", &self.kubeconfig).args(args);
        command
    }

    /// Runs kubectl or helm, whatever comes of it.
    pub fn run(&self, program: &str, args: &[&str]) -> Output {
        self.command(program, args).stdin(Stdio::null()).output().unwrap_or_else(|e| {
            panic!("{program} cannot be started ({e}): run `make test`, which provides it")
        })
    }

    /// Standard output of a kubectl or helm that must end well.
    pub fn ok(&self, program: &str, args: &[&str]) -> String {
        let output = self.run(program, args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program} {}:\n{stderr}", args.join(" "));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// `kubectl` with arguments.
    pub fn kubectl(&self, args: &[&str]) -> String {
        self.ok("kubectl", args)
    }

    /// `kubectl apply` of a text.
    pub fn apply(&self, namespace: &str, yaml: &str) {
        let mut child = self
            .command("kubectl", &["-n", namespace, "apply", "-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl");
        child.stdin.take().expect("a pipe").write_all(yaml.as_bytes()).expect("written");
        let output = child.wait_with_output().expect("ended");
        assert!(output.status.success(), "{}\n{yaml}", String::from_utf8_lossy(&output.stderr));
    }

    fn clean(&self) {
        for release in [RELEASE, SECOND] {
            let uninstall =
                ["uninstall", "opentiger", "--ignore-not-found", "--wait", "--namespace", release];
            self.ok("helm", &uninstall);
        }
        self.kubectl(&["delete", "namespace", "--selector", MARK, "--ignore-not-found", "--timeout=120s"]);
    }

    /// A namespace as those of users should be: it enforces Pod Security `restricted`.
    pub fn add_namespace(&self, name: &str) {
        self.kubectl(&["create", "namespace", name]);
        self.kubectl(&["label", "namespace", name, MARK, "pod-security.kubernetes.io/enforce=restricted"]);
        self.secret(
            name,
            "git-credentials",
            "kubernetes.io/basic-auth",
            &[("username", "agent"), ("password", GIT_CANARY)],
        );
        self.secret(name, "model-key", "Opaque", &[("MODEL_API_KEY", MODEL_CANARY)]);
    }

    fn secret(&self, namespace: &str, name: &str, kind: &str, data: &[(&str, &str)]) {
        let data: String = data.iter().map(|(key, value)| format!("{key}: \"{value}\", ")).collect();
        self.apply(
            namespace,
            &format!(
                "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\ntype: {kind}\nstringData: {{{data}}}\n"
            ),
        );
    }

    fn start_services(&self) {
        self.kubectl(&["create", "namespace", SERVICES]);
        let seed: Vec<String> = SEED
            .iter()
            .map(|file| format!("--from-file={}=tests/demo/calculator/{file}", file.replace('/', ".")))
            .collect();
        let mut create = vec!["-n", SERVICES, "create", "configmap", "calculator"];
        create.extend(seed.iter().map(String::as_str));
        self.kubectl(&create);
        self.secret(
            SERVICES,
            "git-users",
            "kubernetes.io/basic-auth",
            &[("username", "agent"), ("password", GIT_CANARY)],
        );
        self.secret(SERVICES, "postgres", "Opaque", &[("password", DATABASE_CANARY)]);
        let services = std::fs::read_to_string(root().join("tests/demo/services.yaml")).expect("readable");
        let services = services
            .replace("demo-services", SERVICES)
            .replace("IMAGE_PREFIX", &self.images)
            .replace("IMAGE_TAG", "dev");
        self.apply(SERVICES, &services);
        self.kubectl(&["label", "namespace", SERVICES, MARK]);
        for deployment in ["deployment/git", "deployment/postgres"] {
            self.kubectl(&["-n", SERVICES, "rollout", "status", deployment, "--timeout=120s"]);
        }
    }

    /// Installs the chart in `release` for the namespaces `spaces`, and waits until it is up. The namespaces must
    /// exist.
    pub fn install(&self, release: &str, spaces: &[&str], more: &[&str]) {
        let url = format!(
            "postgres://opentiger:{DATABASE_CANARY}@postgres.{SERVICES}.svc.cluster.local:5432/opentiger?sslmode=disable"
        );
        self.secret(release, "database", "Opaque", &[("url", &url)]);
        let (image, runner) = (format!("image={}", self.image("operator")), self.image("runner"));
        let (runner, spaces) =
            (format!("runner.image={runner}"), format!("watchNamespaces={{{}}}", spaces.join(",")));
        let mut args = vec!["upgrade", "--install", "opentiger", "charts/opentiger", "--namespace", release];
        args.extend(["--wait", "--timeout", "120s", "--set", &image, "--set", &runner, "--set", &spaces]);
        args.extend(["--set", "database.existingSecret.name=database"]);
        args.extend(more);
        self.ok("helm", &args);
    }

    /// A way to a Service of the cluster through the API server.
    pub fn forward(&self, namespace: &str, service: &str, port: u16) -> Forward {
        let mut child = self
            .command("kubectl", &["-n", namespace, "port-forward", &format!("service/{service}")])
            .arg(format!(":{port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("kubectl");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let first = lines.next().and_then(Result::ok).unwrap_or_default();
        let port = first.split(" -> ").next().and_then(|l| l.rsplit(':').next()).and_then(|p| p.parse().ok());
        // Kept open: kubectl writes a line for each connection.
        let reader = std::thread::spawn(move || lines.for_each(drop));
        let port = port.unwrap_or_else(|| panic!("kubectl port-forward to {service} said {first:?}"));
        Forward { child, port, _reader: reader }
    }

    /// A fresh clone of the repository with all its branches.
    pub fn clone_repository(&self) -> Clone {
        let forward = self.forward(SERVICES, "git", 80);
        let dir = tempfile::tempdir().expect("a directory");
        let url = format!("http://agent:{GIT_CANARY}@127.0.0.1:{}/calculator.git", forward.port);
        let clone = Clone { dir };
        clone.git(&["clone", "--quiet", "--mirror", &url, "."]);
        clone
    }

    /// The log of every Pod of the release, both programs.
    pub fn release_logs(&self) -> String {
        let selector = "app.kubernetes.io/name=opentiger";
        self.kubectl(&[
            "-n",
            RELEASE,
            "logs",
            "--selector",
            selector,
            "--all-containers",
            "--tail=-1",
            "--prefix",
        ])
    }
}

/// A port of loopback that leads into the cluster while this value lives.
pub struct Forward {
    child: Child,
    pub port: u16,
    _reader: std::thread::JoinHandle<()>,
}

impl Drop for Forward {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A mirror of the repository.
pub struct Clone {
    dir: tempfile::TempDir,
}

impl Clone {
    /// Standard output of git, without white space around it.
    pub fn git(&self, args: &[&str]) -> String {
        let output = Command::new("git")
            .current_dir(self.dir.path())
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_TERMINAL_PROMPT", "0")
            .args(args)
            .output()
            .expect("git");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "git {}: {stderr}", args.join(" "));
        String::from_utf8_lossy(&output.stdout).trim().to_string()
    }

    /// The branches on the server.
    pub fn branches(&self) -> Vec<String> {
        let text = self.git(&["for-each-ref", "--format=%(refname:short)", "refs/heads"]);
        text.lines().map(str::to_string).collect()
    }
}
