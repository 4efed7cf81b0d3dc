//! What went wrong when the `git` program failed, told from its own words, and what to do about it: the
//! one table of codes and next steps of odd repositories.
//!
//! Pure: text in, kind out. Must not run anything.

use std::fmt;
use std::io;

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
    /// What is to be planned from is not there or not readable.
    RequirementUnusable,
    /// A submodule is not on the repository's own server, or its commit is not there.
    SubmoduleRefused,
    /// The server is not the one that the Secret or the trust store names.
    ServerNotTrusted,
    /// The name of the server has no address.
    HostUnknown,
    /// Connection, or an answer of the kind 429 or 5xx.
    Unreachable,
    /// No answer within the time allowed.
    TimedOut,
    /// The branch on the server is not what it was expected to be.
    Diverged,
    /// The server protects this branch.
    BranchProtected,
    /// The server refuses this push for another reason: a hook, a size.
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
/// Failure code for what a person must set up, other than the repository.
pub const CODE_SETUP: &str = "setup_or_bootstrap_issue";
/// Failure code for the surroundings: processes, files.
pub const CODE_ENVIRONMENT: &str = "environment_issue";

/// What follows from a failure: outcome of the container, failure code of `plan::classify`, and what a
/// person or the engine does next, in one sentence.
struct Ending(Outcome, &'static str, &'static str);

impl FailureKind {
    /// All of them, in the order of the documentation.
    pub const ALL: [Self; 17] = [
        Self::AuthenticationFailed,
        Self::RepositoryNotFound,
        Self::RepositoryEmpty,
        Self::BaseBranchMissing,
        Self::Misconfigured,
        Self::RequirementUnusable,
        Self::SubmoduleRefused,
        Self::ServerNotTrusted,
        Self::HostUnknown,
        Self::Unreachable,
        Self::TimedOut,
        Self::Diverged,
        Self::BranchProtected,
        Self::PushRefused,
        Self::DiskFull,
        Self::Stopped,
        Self::Other,
    ];

    /// The table of the states of a repository; `docs/repositories.md` shows it to people.
    fn ending(self) -> Ending {
        use Outcome::{Cancelled, Failed, Infra};
        match self {
            Self::AuthenticationFailed => Ending(
                Failed,
                "repository_authentication_refused",
                "Check the Secret named by the repository's credentialsSecretRef: it must be valid for this repository and allow pushing.",
            ),
            Self::RepositoryNotFound => Ending(
                Failed,
                "repository_not_found",
                "Check the repository URL, and that the credentials may see the repository.",
            ),
            Self::RepositoryEmpty => {
                Ending(Failed, "repository_empty", "Push a first commit to the base branch.")
            }
            Self::BaseBranchMissing => {
                Ending(Failed, "base_branch_missing", "Create the base branch or name one that exists.")
            }
            Self::Misconfigured => Ending(
                Failed,
                "repository_misconfigured",
                "Correct the repository URL, its branches or its credentials Secret.",
            ),
            Self::RequirementUnusable => Ending(
                Failed,
                CODE_SETUP,
                "Write the requirement into the file that planner.requirementPath names on the base branch, or name another file.",
            ),
            Self::SubmoduleRefused => Ending(
                Failed,
                "submodule_refused",
                "Let .gitmodules name a repository on the repository's own server and a commit that is there, or set repository.submodules to Ignore.",
            ),
            Self::ServerNotTrusted => Ending(
                Failed,
                "repository_host_not_trusted",
                "Put the server's host key into known_hosts of the Secret, or name the authority of its certificate in caBundleRef of the AgentPool.",
            ),
            Self::HostUnknown => Ending(
                Infra,
                "repository_host_unknown",
                "The attempt is repeated by itself; if it stays, check the host in the repository URL and the cluster's DNS.",
            ),
            Self::Unreachable => Ending(
                Infra,
                "repository_unreachable",
                "The attempt is repeated by itself; if it stays, check the git server and the pool's egress rules.",
            ),
            Self::TimedOut => Ending(
                Infra,
                "repository_timed_out",
                "The attempt is repeated by itself; if it stays, check the git server's speed.",
            ),
            Self::Diverged => Ending(
                Failed,
                CODE_DIVERGED,
                "The next attempt starts from the base branch on a branch of its own.",
            ),
            Self::BranchProtected => Ending(
                Failed,
                "branch_protected",
                "Choose a branchPrefix that the server does not protect, or let the credentials push to this branch.",
            ),
            Self::PushRefused => Ending(
                Failed,
                "push_refused",
                "Read what the server said: let the credentials create this branch, or relax the server's hook or limit.",
            ),
            Self::DiskFull => Ending(
                Failed,
                "disk_full",
                "Raise the size limit of the pool's workspace or make the repository smaller.",
            ),
            Self::Stopped => Ending(Cancelled, CODE_ENVIRONMENT, "Nothing was published."),
            Self::Other => Ending(Failed, CODE_ENVIRONMENT, "See the container's log."),
        }
    }

    /// Whether the same request may succeed a moment later.
    pub fn is_transient(self) -> bool {
        self.ending().0 == Outcome::Infra
    }

    /// Outcome of the container.
    pub fn outcome(self) -> Outcome {
        self.ending().0
    }

    /// Failure code of `plan::classify`.
    pub fn code(self) -> &'static str {
        self.ending().1
    }

    /// What a person or the engine does next, one sentence.
    pub fn next_step(self) -> &'static str {
        self.ending().2
    }

    /// The result of a container that ended so.
    fn result(self, text: &str) -> ContainerResult {
        let summary = format!("{}. {}", text.trim_end_matches('.'), self.next_step());
        ContainerResult::failure(self.outcome(), self.code(), summary)
    }
}

/// The result of a container that could not read or write a file of its own; `text` says which.
pub fn of_file(text: &str, source: &io::Error) -> ContainerResult {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => FailureKind::DiskFull.result(text),
        _ => ContainerResult::failure(Outcome::Failed, CODE_ENVIRONMENT, text),
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
        self.kind.result(&self.to_string())
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
        FailureKind::BranchProtected,
        &["protected branch", "branch is protected", "protected ref", "gh013: repository rule violations"],
    ),
    (
        FailureKind::PushRefused,
        &["hook declined", "[remote rejected]", "shallow update not allowed", "denying "],
    ),
    (FailureKind::Diverged, &["stale info", "non-fast-forward", "fetch first", "cannot lock ref"]),
    (
        FailureKind::HostUnknown,
        &[
            "could not resolve host",
            "could not resolve proxy",
            "name or service not known",
            "temporary failure in name resolution",
        ],
    ),
    (
        FailureKind::Unreachable,
        &[
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
    use crate::plan::classify;

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
            ("fatal: unable to access 'https://h/': Could not resolve host: h", HostUnknown),
            (
                "ssh: Could not resolve hostname h: Name or service not known\nfatal: Could not read from remote repository.",
                HostUnknown,
            ),
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
            (
                "remote: error: GH006: Protected branch update failed for refs/heads/main.\n! [remote rejected] x -> main (protected branch hook declined)",
                BranchProtected,
            ),
            (
                "remote: error: GH013: Repository rule violations found for refs/heads/main.\n! [remote rejected]",
                BranchProtected,
            ),
            (
                "remote: GitLab: You are not allowed to push code to protected branches on this project.",
                BranchProtected,
            ),
            ("remote: error: File big.bin is 120.00 MB\n ! [remote rejected] x -> b (declined)", PushRefused),
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
    fn every_state_is_known_to_who_decides_about_it_and_to_people() {
        let page = include_str!("../../../docs/repositories.md");
        for kind in FailureKind::ALL {
            let code = kind.code();
            assert!(classify::by_code(code).is_some(), "{code}");
            let (sentence, end) = kind.next_step().split_at(kind.next_step().len() - 1);
            assert!(end == "." && !sentence.contains(". "), "one sentence: {sentence}");
            let row = page.lines().find(|line| line.contains(&format!("| `{code}` |")));
            assert!(
                matches!(kind, FailureKind::Stopped | FailureKind::Other | FailureKind::RequirementUnusable)
                    || row.is_some_and(|row| row.contains(kind.next_step())),
                "docs/repositories.md: {code}: {}",
                kind.next_step()
            );
        }
    }

    #[test]
    fn states_that_differ_have_codes_that_differ() {
        let general = [CODE_SETUP, CODE_ENVIRONMENT];
        let mut codes: Vec<_> = FailureKind::ALL.map(FailureKind::code).to_vec();
        codes.retain(|code| !general.contains(code));
        codes.sort_unstable();
        let all = codes.len();
        codes.dedup();
        assert_eq!((codes.len(), all), (all, FailureKind::ALL.len() - 3));
    }

    #[test]
    fn a_full_disk_is_told_from_another_fault_of_files() {
        let full = of_file("failed to write x", &io::ErrorKind::StorageFull.into());
        assert_eq!(full.failure_code.as_deref(), Some("disk_full"));
        let other = of_file("failed to write x", &io::ErrorKind::NotFound.into());
        assert_eq!(other.failure_code.as_deref(), Some(CODE_ENVIRONMENT));
    }

    #[test]
    fn a_result_says_what_to_do_next() {
        let result = GitError::new(FailureKind::Unreachable, "fetch", "no route").into_result();
        assert_eq!(result.outcome, Outcome::Infra);
        assert!(result.summary.contains("failed to fetch: no route"), "{}", result.summary);
        assert!(result.summary.contains(FailureKind::Unreachable.next_step()));
    }
}
