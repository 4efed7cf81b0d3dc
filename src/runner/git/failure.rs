//! What went wrong when the `git` program failed, told from its own words, and what to do about it.
//!
//! Pure: text in, kind out. Must not run anything.

use std::fmt;

use crate::crd::wire::{ContainerResult, Outcome};

/// A way in which git fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The server does not accept the credentials, or wants some.
    AuthenticationFailed,
    /// The server knows no such repository (many servers say so, too, when it may not be seen).
    RepositoryNotFound,
    /// The repository has commits, but not the branch to start from.
    BaseBranchMissing,
    /// The repository has no commit at all.
    RepositoryEmpty,
    /// The URL or the Secret cannot be used as they are.
    Misconfigured,
    /// The server is not the one that the Secret or the trust store names.
    ServerNotTrusted,
    /// Name resolution, connection, or an answer of the kind 429 or 5xx.
    Unreachable,
    /// No answer within the time allowed.
    TimedOut,
    /// The branch on the server is not what it was expected to be.
    Diverged,
    /// The server refuses this push: protected branch or hook.
    PushRefused,
    /// No space on our own disk.
    DiskFull,
    /// We were told to stop.
    Stopped,
    /// Anything else.
    Other,
}

/// Failure code of `plan::classify` for a divergence.
pub const CODE_DIVERGED: &str = "branch_diverged_requires_recreate";
/// Failure code for what a person must set up.
pub const CODE_SETUP: &str = "setup_or_bootstrap_issue";
/// Failure code for the surroundings: disk, processes.
pub const CODE_ENVIRONMENT: &str = "environment_issue";
/// Failure code for faults of network and servers.
pub const CODE_TRANSIENT: &str = "transient_or_flaky_failure";

impl FailureKind {
    /// Whether the same request may succeed a moment later.
    pub fn is_transient(self) -> bool {
        match self {
            Self::Unreachable | Self::TimedOut => true,
            Self::AuthenticationFailed
            | Self::RepositoryNotFound
            | Self::BaseBranchMissing
            | Self::RepositoryEmpty
            | Self::Misconfigured
            | Self::ServerNotTrusted
            | Self::Diverged
            | Self::PushRefused
            | Self::DiskFull
            | Self::Stopped
            | Self::Other => false,
        }
    }

    /// Outcome of the container.
    pub fn outcome(self) -> Outcome {
        match self {
            Self::Unreachable | Self::TimedOut => Outcome::Infra,
            Self::Stopped => Outcome::Cancelled,
            Self::AuthenticationFailed
            | Self::RepositoryNotFound
            | Self::BaseBranchMissing
            | Self::RepositoryEmpty
            | Self::Misconfigured
            | Self::ServerNotTrusted
            | Self::Diverged
            | Self::PushRefused
            | Self::DiskFull
            | Self::Other => Outcome::Failed,
        }
    }

    /// Failure code of `plan::classify`.
    pub fn code(self) -> &'static str {
        match self {
            Self::AuthenticationFailed
            | Self::RepositoryNotFound
            | Self::BaseBranchMissing
            | Self::RepositoryEmpty
            | Self::Misconfigured
            | Self::ServerNotTrusted
            | Self::PushRefused => CODE_SETUP,
            Self::Unreachable | Self::TimedOut => CODE_TRANSIENT,
            Self::Diverged => CODE_DIVERGED,
            Self::DiskFull | Self::Stopped | Self::Other => CODE_ENVIRONMENT,
        }
    }

    /// What a person or the engine does next, one sentence.
    pub fn next_step(self) -> &'static str {
        match self {
            Self::AuthenticationFailed => {
                "Check the Secret named by the repository's credentialsSecretRef: it must be valid for this repository and allow pushing."
            }
            Self::RepositoryNotFound => {
                "Check the repository URL, and that the credentials may see the repository."
            }
            Self::BaseBranchMissing => "Create the base branch or name one that exists.",
            Self::RepositoryEmpty => "Push a first commit to the base branch.",
            Self::Misconfigured => "Correct the repository URL or its credentials Secret.",
            Self::ServerNotTrusted => {
                "Put the server's host key into known_hosts of the Secret, or make its certificate trusted in the runner image."
            }
            Self::Unreachable => {
                "The attempt is repeated by itself; if it stays, check the git server, DNS and the pool's egress rules."
            }
            Self::TimedOut => "The attempt is repeated by itself; if it stays, check the git server's speed.",
            Self::Diverged => "The next attempt starts from the base branch on a branch of its own.",
            Self::PushRefused => "Allow the credentials to create this branch, or relax the server's hook.",
            Self::DiskFull => "Raise the size limit of the pool's workspace or make the repository smaller.",
            Self::Stopped => "Nothing was published.",
            Self::Other => "See the container's log.",
        }
    }
}

/// A failed git command.
#[derive(Clone, Debug, thiserror::Error)]
pub struct GitError {
    pub kind: FailureKind,
    /// Subcommand, e.g. `fetch`.
    pub operation: &'static str,
    /// Last lines of what git said, bounded, secrets masked.
    pub detail: String,
}

impl fmt::Display for GitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "failed to {}: {}", self.operation, self.detail)
    }
}

impl GitError {
    /// An error that we found ourselves.
    pub fn new(kind: FailureKind, operation: &'static str, detail: impl Into<String>) -> Self {
        Self { kind, operation, detail: detail.into() }
    }

    /// The result of a container that ended with this error.
    pub fn into_result(self) -> ContainerResult {
        let summary = format!("{}. {}", self.to_string().trim_end_matches('.'), self.kind.next_step());
        ContainerResult::failure(self.kind.outcome(), self.kind.code(), summary)
    }
}

/// Words on which a kind is recognised, all lower case. The first row that matches wins: what is
/// particular comes before what git adds to every failure ("failed to push some refs").
const SIGNS: &[(FailureKind, &[&str])] = &[
    (
        FailureKind::AuthenticationFailed,
        &[
            "authentication failed",
            "could not read username",
            "could not read password",
            "access denied",
            "returned error: 401",
            "returned error: 403",
            "permission denied (",
            "write access to repository not granted",
            "terminal prompts disabled",
        ],
    ),
    (
        FailureKind::ServerNotTrusted,
        &[
            "host key verification failed",
            "certificate verification failed",
            "ssl certificate problem",
            "certificate verify failed",
            "unable to get local issuer certificate",
        ],
    ),
    (
        FailureKind::PushRefused,
        &["hook declined", "protected branch", "[remote rejected]", "shallow update not allowed", "denying "],
    ),
    (FailureKind::Diverged, &["stale info", "non-fast-forward", "fetch first", "cannot lock ref"]),
    (
        FailureKind::Unreachable,
        &[
            "could not resolve host",
            "temporary failure in name resolution",
            "failed to connect",
            "couldn't connect",
            "connection refused",
            "connection timed out",
            "connection reset",
            "connection closed",
            "operation timed out",
            "operation too slow",
            "network is unreachable",
            "no route to host",
            "returned error: 429",
            "returned error: 5",
            "rpc failed",
            "early eof",
            "unexpected disconnect",
            "hung up unexpectedly",
            "empty reply from server",
            "ssl_error",
            "gnutls",
            "unpacker error",
            "remote: fatal",
        ],
    ),
    (
        FailureKind::RepositoryNotFound,
        &[
            "repository not found",
            "does not appear to be a git repository",
            "returned error: 404",
            "did you run git update-server-info",
            "does not exist",
        ],
    ),
    (
        FailureKind::Misconfigured,
        &[
            "returned error: 30",
            "transport '",
            "unable to find remote helper",
            "url using bad/illegal format",
        ],
    ),
    (FailureKind::BaseBranchMissing, &["couldn't find remote ref", "remote branch "]),
    (FailureKind::Diverged, &["failed to push some refs"]),
];

/// Tells the kind from everything git printed. Lines that the server sent (`remote: ...`) count, but
/// a full disk there is the server's fault, not ours.
pub fn classify(text: &str) -> FailureKind {
    let text = text.to_lowercase();
    let full = |line: &str| line.contains("no space left on device") || line.contains("disk quota exceeded");
    if text.lines().any(|line| full(line) && !line.starts_with("remote:")) {
        return FailureKind::DiskFull;
    }
    if text.lines().any(full) {
        return FailureKind::Unreachable;
    }
    // "fatal: repository 'https://...' not found" has the URL between the words.
    let not_found = |line: &str| line.contains("repository '") && line.contains("not found");
    SIGNS
        .iter()
        .find(|(_, signs)| signs.iter().any(|sign| text.contains(sign)))
        .map(|(kind, _)| *kind)
        .or_else(|| text.lines().any(not_found).then_some(FailureKind::RepositoryNotFound))
        .unwrap_or(FailureKind::Other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn git_s_own_words_are_understood() {
        use FailureKind::*;
        for (text, kind) in [
            (
                "fatal: could not read Username for 'http://h': terminal prompts disabled",
                AuthenticationFailed,
            ),
            (
                "remote: HTTP Basic: Access denied\nfatal: Authentication failed for 'https://h/r/'",
                AuthenticationFailed,
            ),
            (
                "git@h: Permission denied (publickey).\nfatal: Could not read from remote repository.",
                AuthenticationFailed,
            ),
            (
                "fatal: unable to access 'http://h/': The requested URL returned error: 403",
                AuthenticationFailed,
            ),
            ("fatal: repository 'http://127.0.0.1:1/x.git/' not found", RepositoryNotFound),
            (
                "ERROR: Repository not found.\nfatal: Could not read from remote repository.",
                RepositoryNotFound,
            ),
            ("fatal: '/x.git' does not appear to be a git repository", RepositoryNotFound),
            ("fatal: unable to access 'https://h/': Could not resolve host: h", Unreachable),
            (
                "fatal: unable to access 'http://h/': Failed to connect to h port 1: Connection refused",
                Unreachable,
            ),
            ("error: RPC failed; HTTP 502 curl 22 The requested URL returned error: 502", Unreachable),
            ("ssh: connect to host h port 22: Connection timed out", Unreachable),
            (
                "Host key verification failed.\nfatal: Could not read from remote repository.",
                ServerNotTrusted,
            ),
            (
                "fatal: unable to access 'https://h/': SSL certificate problem: self-signed certificate",
                ServerNotTrusted,
            ),
            (
                "!\tabc:refs/heads/b\t[rejected] (stale info)\nerror: failed to push some refs to 'x'",
                Diverged,
            ),
            ("! [rejected] (non-fast-forward)", Diverged),
            (
                "! [remote rejected] x -> b (pre-receive hook declined)\nerror: failed to push some refs",
                PushRefused,
            ),
            ("remote: error: GH006: Protected branch update failed", PushRefused),
            ("fatal: write error: No space left on device", DiskFull),
            ("remote: fatal: write error: No space left on device", Unreachable),
            ("fatal: couldn't find remote ref refs/heads/x", BaseBranchMissing),
            ("fatal: unable to update url base from redirection: returned error: 301", Misconfigured),
            ("fatal: transport 'file' not allowed", Misconfigured),
            ("Segmentation fault", Other),
        ] {
            assert_eq!(classify(text), kind, "{text}");
        }
    }

    /// Rows of the vector `push_non_fast_forward`.
    #[test]
    fn a_rejected_push_is_a_divergence_in_every_spelling() {
        for (text, diverged) in [
            ("error: failed to push some refs to 'x'", true),
            ("Everything up-to-date", false),
            ("Fetch First", true),
            ("remote: error", false),
            ("NON-FAST-FORWARD", true),
        ] {
            assert_eq!(classify(text) == FailureKind::Diverged, diverged, "{text}");
        }
    }

    #[test]
    fn a_result_says_what_to_do_next() {
        let result = GitError::new(FailureKind::Unreachable, "fetch", "no route").into_result();
        assert_eq!(result.outcome, Outcome::Infra);
        assert!(result.summary.contains("failed to fetch: no route"), "{}", result.summary);
        assert!(result.summary.contains(FailureKind::Unreachable.next_step()));
    }
}
