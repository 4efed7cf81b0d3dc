//! The repository on its server: its URL, the credentials for it, and the requests that go there.
//!
//! Credentials are bound to scheme, host, port and path of that one URL. A password is read by git's
//! credential helper at the moment of use; an ssh key is copied to a private file that only we can
//! read. Must not put a secret into an argument, the environment, or a file that another container
//! can see.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine;
use http::Uri;

use super::failure::{FailureKind, GitError};
use super::{Git, Input, Invocation};

/// Tries of a request that fails for a passing reason (spec agents.md 1.3, steps 1 and 6c).
const TRIES: u32 = 3;
/// Wait before the second try; the third waits twice as long.
const WAIT: Duration = Duration::from_millis(1200);

/// File names of the Secret types `kubernetes.io/basic-auth` and `kubernetes.io/ssh-auth`.
const USERNAME: &str = "username";
const PASSWORD: &str = "password";
const SSH_KEY: &str = "ssh-privatekey";
const KNOWN_HOSTS: &str = "known_hosts";

/// A repository on a server, with what is needed to reach it. Every request is made once; what may be
/// repeated goes through [`retry`].
#[derive(Debug)]
pub struct Remote {
    url: String,
    access: Access,
    secrets: Vec<String>,
}

#[derive(Debug)]
enum Access {
    Anonymous,
    Basic { directory: PathBuf },
    Ssh { key: PrivateFile, known_hosts: PrivateFile },
}

/// A file that only we can read, removed when dropped.
#[derive(Debug)]
struct PrivateFile(PathBuf);

impl PrivateFile {
    fn create(path: PathBuf, content: &[u8]) -> io::Result<Self> {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        let private = Self(path);
        file.write_all(content)?;
        // OpenSSH refuses a key without a final newline.
        if !content.ends_with(b"\n") {
            file.write_all(b"\n")?;
        }
        Ok(private)
    }
}

impl Drop for PrivateFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Http,
    Ssh,
}

impl Remote {
    /// Prepares to reach `url` with the Secret mounted at `credentials` (which need not exist).
    /// `private` is a directory that no other container can see.
    ///
    /// # Errors
    /// [`FailureKind::Misconfigured`] for a URL or Secret that cannot be used.
    pub fn open(url: &str, credentials: &Path, private: &Path) -> Result<Self, GitError> {
        let scheme = scheme(url)?;
        let (access, secrets) = match scheme {
            Scheme::Http => basic_access(credentials)?,
            Scheme::Ssh => (ssh_access(credentials, private)?, Vec::new()),
        };
        Ok(Self { url: url.to_string(), access, secrets })
    }

    /// Branches of the server among `branches` (all when empty), by full ref name.
    ///
    /// # Errors
    /// As git.
    pub async fn heads(&self, git: &Git, branches: &[&str]) -> Result<BTreeMap<String, String>, GitError> {
        let refs: Vec<String> = branches.iter().map(|branch| format!("refs/heads/{branch}")).collect();
        self.listed(git, &["--heads"], &refs).await
    }

    /// Refs of the server that match `patterns`, of any kind, by full name.
    ///
    /// # Errors
    /// As git.
    pub async fn refs(&self, git: &Git, patterns: &[&str]) -> Result<BTreeMap<String, String>, GitError> {
        let patterns: Vec<String> = patterns.iter().map(|pattern| (*pattern).to_string()).collect();
        self.listed(git, &["--refs"], &patterns).await
    }

    async fn listed(
        &self,
        git: &Git,
        manner: &[&str],
        patterns: &[String],
    ) -> Result<BTreeMap<String, String>, GitError> {
        let command =
            git.command("ls-remote").args(manner).args(["--end-of-options", &self.url]).args(patterns);
        let output = self.prepare(command).run().await?;
        Ok(String::from_utf8_lossy(&output)
            .lines()
            .filter_map(|line| line.split_once('\t'))
            .map(|(id, name)| (name.to_string(), id.to_string()))
            .collect())
    }

    /// Fetches `source` into the local ref `target`, `depth` commits deep and without tags.
    ///
    /// # Errors
    /// As git.
    pub async fn fetch(&self, git: &Git, source: &str, target: &str, depth: u32) -> Result<(), GitError> {
        self.fetch_as(git, &["--no-filter"], source, target, depth).await
    }

    /// As [`Remote::fetch`], but leaves out the content of files where the server can leave it out; a
    /// server that cannot sends everything. [`Remote::fetch_contents`] gets what is needed of it:
    /// nothing fetches by itself, because other commands have no credentials.
    ///
    /// # Errors
    /// As git.
    pub async fn fetch_history(
        &self,
        git: &Git,
        source: &str,
        target: &str,
        depth: u32,
    ) -> Result<(), GitError> {
        self.fetch_as(git, &["--filter=blob:none"], source, target, depth).await
    }

    /// As [`Remote::fetch`], whatever is there already: what was left out comes, too.
    ///
    /// # Errors
    /// As git.
    pub async fn fetch_again(
        &self,
        git: &Git,
        source: &str,
        target: &str,
        depth: u32,
    ) -> Result<(), GitError> {
        self.fetch_as(git, &["--no-filter", "--refetch"], source, target, depth).await
    }

    async fn fetch_as(
        &self,
        git: &Git,
        manner: &[&str],
        source: &str,
        target: &str,
        depth: u32,
    ) -> Result<(), GitError> {
        let (depth, refspec) = (format!("--depth={depth}"), format!("+{source}:{target}"));
        let arguments = ["--quiet", "--no-tags", "--no-write-fetch-head", &depth];
        let command = git.command("fetch").args(arguments).args(manner);
        self.prepare(command.args(["--end-of-options", &self.url, &refspec])).run().await.map(drop)
    }

    /// Fetches the files of `commits` that [`Remote::fetch_history`] left out, all in one request.
    ///
    /// # Errors
    /// As git; a server of the old protocol may refuse to send single objects.
    pub async fn fetch_contents(&self, git: &Git, commits: &[&str]) -> Result<(), GitError> {
        let listing = ["--objects", "--no-object-names", "--missing=print", "--no-walk", "--end-of-options"];
        let listing = git.command("rev-list").args(listing).args(commits).run().await?;
        let missing: Vec<u8> = listing
            .split(|byte| *byte == b'\n')
            .filter_map(|line| line.strip_prefix(b"?"))
            .flat_map(|id| [id, b"\n"].concat())
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let arguments = ["--quiet", "--no-tags", "--no-write-fetch-head", "--filter=blob:none", "--stdin"];
        let command = git
            .command("fetch")
            .config("fetch.negotiationAlgorithm", "noop")
            .args(arguments)
            .args(["--end-of-options", &self.url])
            .input(Input::Bytes(missing));
        self.prepare(command).run().await.map(drop)
    }

    /// Pushes `commit` to the new branch `branch`, once. The server must not have the branch.
    ///
    /// # Errors
    /// As git; [`FailureKind::Diverged`] when the branch exists.
    pub async fn push_new(&self, git: &Git, commit: &str, branch: &str) -> Result<(), GitError> {
        self.push_onto(git, commit, branch, "").await
    }

    /// Pushes `commit` to `branch`, once. The branch on the server must be at `expected`; empty: must
    /// not be there. Whether `commit` descends from it is the caller's to know.
    ///
    /// # Errors
    /// As git; [`FailureKind::Diverged`] when the branch is elsewhere.
    pub async fn push_onto(
        &self,
        git: &Git,
        commit: &str,
        branch: &str,
        expected: &str,
    ) -> Result<(), GitError> {
        let lease = format!("--force-with-lease=refs/heads/{branch}:{expected}");
        let refspec = format!("{commit}:refs/heads/{branch}");
        let arguments = [
            "--porcelain",
            "--no-verify",
            "--no-follow-tags",
            &lease,
            "--end-of-options",
            &self.url,
            &refspec,
        ];
        self.prepare(git.command("push").args(arguments)).run().await.map(drop)
    }

    /// Pushes these refspecs, once, whatever the refs are at. Only for refs that nobody else writes.
    ///
    /// # Errors
    /// As git.
    pub async fn push_refs(&self, git: &Git, refspecs: &[String]) -> Result<(), GitError> {
        let arguments = ["--porcelain", "--no-verify", "--no-follow-tags", "--end-of-options", &self.url];
        self.prepare(git.command("push").args(arguments).args(refspecs)).run().await.map(drop)
    }

    fn prepare(&self, invocation: Invocation) -> Invocation {
        let invocation = invocation.masking(&self.secrets);
        match &self.access {
            Access::Anonymous => invocation,
            // Reads the files when git asks, and answers nothing but `get`. printf is part of the
            // shell: the password is never an argument of a process.
            Access::Basic { directory } => invocation
                .config("credential.useHttpPath", "true")
                .config(
                    format!("credential.{}.helper", self.url),
                    "!f() { test \"$1\" = get || exit 0; printf 'username=%s\\npassword=%s\\n' \
                     \"$(cat \"$OPENTIGER_CREDENTIALS/username\")\" \"$(cat \"$OPENTIGER_CREDENTIALS/password\")\"; }; f",
                )
                .env("OPENTIGER_CREDENTIALS", directory),
            Access::Ssh { key, known_hosts } => invocation
                .env("GIT_SSH_VARIANT", "ssh")
                .env("GIT_SSH_COMMAND", ssh_command(&key.0, &known_hosts.0)),
        }
    }
}

/// Runs `attempt` up to [`TRIES`] times while it fails for a passing reason.
///
/// # Errors
/// That of the last try.
pub async fn retry<T, F>(mut attempt: impl FnMut() -> F) -> Result<T, GitError>
where
    F: Future<Output = Result<T, GitError>>,
{
    let mut tries = 1;
    loop {
        match attempt().await {
            Err(error) if error.kind.is_transient() && tries < TRIES => {
                tracing::warn!(operation = error.operation, error = %error, tries, "git request is repeated");
                tokio::time::sleep(WAIT * tries).await;
                tries += 1;
            }
            ended => return ended,
        }
    }
}

fn misconfigured(detail: impl Into<String>) -> GitError {
    GitError::new(FailureKind::Misconfigured, "open the repository", detail)
}

/// The scheme of a URL that may be used: https, http, ssh, or `user@host:path`.
fn scheme(url: &str) -> Result<Scheme, GitError> {
    if url.starts_with('-') || url.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(misconfigured("the URL starts with a dash or holds white space"));
    }
    if !url.contains("://") {
        // scp form; a colon before the first slash makes the difference to a local path.
        let host = url.split_once(':').map(|(host, _)| host).filter(|host| !host.contains('/'));
        return match host {
            Some(host) if !host.is_empty() && !url.contains("::") => Ok(Scheme::Ssh),
            _ => Err(misconfigured("the URL is neither https, http nor ssh")),
        };
    }
    let uri: Uri = url.parse().map_err(|_| misconfigured("the URL is neither https, http nor ssh"))?;
    let user = uri.authority().is_some_and(|authority| authority.as_str().contains('@'));
    match uri.scheme_str() {
        Some("https" | "http") if user => {
            Err(misconfigured("the URL holds a user name; credentials belong in the Secret"))
        }
        Some("https" | "http") => Ok(Scheme::Http),
        Some("ssh") => Ok(Scheme::Ssh),
        _ => Err(misconfigured("the URL is neither https, http nor ssh")),
    }
}

/// Whether both addresses are ones that may be used and of the same scheme, user, host and port.
pub fn is_same_server(one: &str, other: &str) -> bool {
    let server = |url: &str| {
        scheme(url).ok()?;
        let (protocol, rest) = match url.split_once("://") {
            Some((protocol, rest)) => (protocol, rest.split('/').next()?),
            None => ("ssh", url.split_once(':')?.0),
        };
        let (user, host) = rest.rsplit_once('@').unwrap_or(("", rest));
        (!host.is_empty()).then(|| (protocol.to_lowercase(), user.to_string(), host.to_lowercase()))
    };
    server(one).is_some_and(|first| server(other) == Some(first))
}

fn read(directory: &Path, name: &str) -> Result<Option<Vec<u8>>, GitError> {
    match fs::read(directory.join(name)) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(misconfigured(format!("the key {name} of the Secret cannot be read: {error}"))),
    }
}

fn basic_access(credentials: &Path) -> Result<(Access, Vec<String>), GitError> {
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).trim_end_matches('\n').to_string();
    match (read(credentials, USERNAME)?.map(text), read(credentials, PASSWORD)?.map(text)) {
        (Some(username), Some(password)) => {
            let pair = format!("{username}:{password}");
            let mut secrets = vec![base64::engine::general_purpose::STANDARD.encode(pair), password];
            // Some servers take the token as the user name.
            if username.len() >= 12 {
                secrets.push(username);
            }
            Ok((Access::Basic { directory: credentials.into() }, secrets))
        }
        (None, None) if read(credentials, SSH_KEY)?.is_some() => {
            Err(misconfigured("the Secret holds an ssh key, but the URL is not an ssh URL"))
        }
        (None, None) => Ok((Access::Anonymous, Vec::new())),
        (None, Some(_)) => Err(misconfigured("the Secret has no key username")),
        (Some(_), None) => Err(misconfigured("the Secret has no key password")),
    }
}

fn ssh_access(credentials: &Path, private: &Path) -> Result<Access, GitError> {
    let wanted = |name: &'static str| {
        read(credentials, name)?
            .ok_or_else(|| misconfigured(format!("ssh needs the key {name} in the Secret")))
    };
    let (key, hosts) = (wanted(SSH_KEY)?, wanted(KNOWN_HOSTS)?);
    let uid = nix::unistd::getuid();
    if !matches!(nix::unistd::User::from_uid(uid), Ok(Some(_))) {
        return Err(misconfigured(format!(
            "ssh works only for a user id with a passwd entry, and {uid} has none in the runner image; use https or the image's own user id"
        )));
    }
    let failed = |error: io::Error| misconfigured(format!("the ssh key cannot be copied: {error}"));
    Ok(Access::Ssh {
        key: PrivateFile::create(private.join("ssh-key"), &key).map_err(failed)?,
        known_hosts: PrivateFile::create(private.join("known-hosts"), &hosts).map_err(failed)?,
    })
}

/// The ssh client with nothing but what we hand to it. git gives this to a shell.
fn ssh_command(key: &Path, known_hosts: &Path) -> String {
    let quote = |path: &Path| format!("'{}'", path.display().to_string().replace('\'', r"'\''"));
    format!(
        "ssh -F /dev/null -i {} -o UserKnownHostsFile={} -o GlobalKnownHostsFile=/dev/null \
         -o StrictHostKeyChecking=yes -o IdentitiesOnly=yes -o IdentityAgent=none -o BatchMode=yes \
         -o ForwardAgent=no -o ConnectTimeout=30 -o ServerAliveInterval=15 -o ServerAliveCountMax=4",
        quote(key),
        quote(known_hosts)
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use tokio_util::sync::CancellationToken;

    use super::*;

    #[test]
    fn only_https_http_and_ssh_are_urls_for_us() {
        for good in ["https://h/a.git", "http://127.0.0.1:80/a", "ssh://git@h:22/a.git", "git@h:a/b.git"] {
            assert!(scheme(good).is_ok(), "{good}");
        }
        for bad in [
            "--upload-pack=touch /tmp/x",
            "ext::sh -c id",
            "ext::id",
            "file:///etc",
            "/etc",
            "../x",
            "git://h/x",
            "https://user:secret@h/x",
            "https://token@h/x",
            "ssh://h/x y",
            "",
            "C:\\x\n",
        ] {
            assert_eq!(scheme(bad).err().map(|e| e.kind), Some(FailureKind::Misconfigured), "{bad}");
        }
    }

    #[test]
    fn a_secret_must_fit_the_url() {
        let dir = tempfile::tempdir().expect("directory");
        let open = |url: &str| Remote::open(url, dir.path(), dir.path());
        assert!(matches!(open("https://h/r").expect("anonymous").access, Access::Anonymous));
        assert!(open("ssh://git@h/r").expect_err("no key").detail.contains("ssh-privatekey"));
        fs::write(dir.path().join(SSH_KEY), "KEY").expect("write");
        assert!(open("ssh://git@h/r").expect_err("no host keys").detail.contains("known_hosts"));
        assert!(open("https://h/r").expect_err("wrong kind").detail.contains("not an ssh URL"));
        fs::write(dir.path().join(USERNAME), "u").expect("write");
        assert!(open("https://h/r").expect_err("half").detail.contains("password"));
    }

    /// Asks git for the credentials of another address than the remote's own.
    async fn asked_for(remote: &Remote, dir: &Path, host: &str, path: &str) -> Option<String> {
        let git = Git::new(&dir.join("git"), dir, &CancellationToken::new());
        let request = format!("protocol=http\nhost={host}\npath={path}\n\n");
        let command = git.command("credential").args(["fill"]).input(Input::Bytes(request.into_bytes()));
        remote.prepare(command).line().await.ok()
    }

    #[tokio::test]
    async fn a_password_is_bound_to_scheme_host_port_and_path() {
        let dir = tempfile::tempdir().expect("directory");
        fs::write(dir.path().join(USERNAME), "robot").expect("write");
        fs::write(dir.path().join(PASSWORD), "pass$(id)'\"word\n").expect("write");
        let remote = Remote::open("http://h:81/team/app.git", dir.path(), dir.path()).expect("open");
        let answer = asked_for(&remote, dir.path(), "h:81", "team/app.git").await.expect("answer");
        assert!(answer.contains("username=robot\npassword=pass$(id)'\"word"), "{answer}");
        for (host, path) in [
            ("h", "team/app.git"),
            ("h:82", "team/app.git"),
            ("other:81", "team/app.git"),
            ("h:81", "team/other.git"),
            ("h:81", ""),
        ] {
            assert_eq!(asked_for(&remote, dir.path(), host, path).await, None, "{host} {path}");
        }
    }

    #[test]
    fn an_ssh_key_is_private_ends_with_a_newline_and_goes_away() {
        let dir = tempfile::tempdir().expect("directory");
        fs::write(dir.path().join(SSH_KEY), "KEY").expect("write");
        fs::write(dir.path().join(KNOWN_HOSTS), "h ssh-ed25519 AAAA\n").expect("write");
        let private = tempfile::tempdir().expect("directory");
        let remote = Remote::open("git@h:r.git", dir.path(), private.path()).expect("open");
        let key = private.path().join("ssh-key");
        assert_eq!(fs::metadata(&key).expect("there").permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_to_string(&key).expect("text"), "KEY\n");
        drop(remote);
        assert!(!key.exists());
    }
}
