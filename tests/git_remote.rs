//! Checkout and push against a real git server: credentials, faults of the network, and what the
//! server refuses.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod git_support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use git_support::{BRANCH, Pod, Server, content, git, pushed};
use opentiger::crd::run::TokenUsage;
use opentiger::crd::wire::{ContainerResult, Outcome};
use opentiger::runner::git::Git;

const FILES: [(&str, &[u8], &[u8]); 3] = [
    ("100644", b"README.md", b"hello\n"),
    ("100755", b"run.sh", b"#!/bin/sh\n"),
    ("100644", b"src/a.rs", b"a\n"),
];

const SECRET: &str = "s3cret-t0ken-value";

fn assert_nowhere(directory: &Path, secret: &str) {
    for entry in fs::read_dir(directory).expect("readable") {
        let path = entry.expect("entry").path();
        let kind = fs::symlink_metadata(&path).expect("metadata").file_type();
        if kind.is_dir() {
            assert_nowhere(&path, secret);
        } else if kind.is_file() {
            let text = fs::read(&path).expect("readable");
            assert!(!String::from_utf8_lossy(&text).contains(secret), "{}", path.display());
        }
    }
}

#[tokio::test]
async fn a_change_becomes_a_pushed_commit_with_its_trailers() {
    let server = Server::start();
    let repository = server.seed("app.git", &FILES);
    let pod = Pod::new(&server.url("app.git"));
    pod.checked_out().await;
    assert_eq!(fs::metadata(&pod.paths.runner).expect("runner").permissions().mode() & 0o777, 0o555);
    assert_eq!(git(&pod.paths.checkout, &["status", "--porcelain"]), "");
    assert_eq!(git(&pod.paths.checkout, &["branch", "--show-current"]).trim(), BRANCH);
    assert_eq!(git(&pod.paths.checkout, &["remote"]), "");

    pod.write("src/a.rs", "changed\n");
    pod.write("src/new file.rs", "new\n");
    fs::remove_file(pod.file("README.md")).expect("remove");
    fs::set_permissions(pod.file("run.sh"), fs::Permissions::from_mode(0o644)).expect("chmod");
    // Commits of the agent's own do not matter: the files count.
    git(&pod.paths.checkout, &["add", "-A"]);
    git(&pod.paths.checkout, &["commit", "--quiet", "-m", "mine"]);

    let mut agent = ContainerResult::new(Outcome::Success);
    agent.tokens = Some(TokenUsage { input: 1, output: 2, total: 3, ..Default::default() });
    let result = pod.publish_with(Some(agent.clone()), |_| Ok(Vec::new())).await;
    assert_eq!(result.outcome, Outcome::Success, "{}", result.summary);
    assert_eq!(
        pushed(&repository),
        ["D README.md", "100644 run.sh", "100644 src/a.rs", "100644 src/new file.rs"]
    );
    assert_eq!(content(&repository, "src/a.rs"), "changed\n");
    assert_eq!(result.changed_files, Some(4));
    assert_eq!(result.branch.as_deref(), Some(BRANCH));
    assert_eq!(result.head.as_deref(), Some(git(&repository, &["rev-parse", BRANCH]).trim()));
    assert_eq!(result.tokens, agent.tokens);
    let log = git(&repository, &["log", "-1", "--format=%an|%s|%(trailers:only,separator=%x7C)", BRANCH]);
    assert_eq!(
        log.trim(),
        "openTiger runner|[openTiger] Add x|OpenTiger-Task: team/add-x|OpenTiger-Run: run-uid-1"
    );
    assert_eq!(git(&repository, &["rev-list", "--count", &format!("main..{BRANCH}")]).trim(), "1");

    // The same Run again, on a new Pod: its own push is recognised and not repeated.
    let again = Pod::new(&server.url("app.git"));
    again.checked_out().await;
    again.write("other.rs", "other\n");
    let second = again.published().await;
    assert_eq!(second.head, result.head);
    assert_eq!(second.changed_files, Some(4));
    assert_eq!(pushed(&repository).len(), 4);
}

#[tokio::test]
async fn a_password_opens_the_server_and_is_left_nowhere() {
    let server = Server::start();
    let repository = server.seed("team/app.git", &FILES);
    server.behaviour.lock().expect("lock").basic = Some(format!("robot:{SECRET}"));
    let pod = Pod::new(&server.url("team/app.git"));
    pod.credentials("robot", &format!("{SECRET}\n"));
    pod.checked_out().await;
    pod.write("src/a.rs", "changed\n");
    pod.published().await;
    assert_eq!(pushed(&repository), ["100644 src/a.rs"]);
    for directory in ["workspace", "repo", "exchange"] {
        assert_nowhere(&pod.dir.path().join(directory), SECRET);
    }
}

#[tokio::test]
async fn a_wrong_password_is_named_without_being_told() {
    let server = Server::start();
    server.seed("app.git", &FILES);
    server.behaviour.lock().expect("lock").basic = Some("robot:right".into());
    let pod = Pod::new(&server.url("app.git"));
    let missing = pod.checkout().await;
    let refused = Some("repository_authentication_refused");
    assert_eq!(missing.failure_code.as_deref(), refused, "{}", missing.summary);
    pod.credentials(SECRET, SECRET);
    let wrong = pod.checkout().await;
    assert_eq!(wrong.outcome, Outcome::Failed);
    assert_eq!(wrong.failure_code.as_deref(), refused);
    assert!(wrong.summary.contains("credentialsSecretRef"), "{}", wrong.summary);
    assert!(!wrong.summary.contains(SECRET), "{}", wrong.summary);
}

#[tokio::test]
async fn a_redirect_does_not_take_the_password_elsewhere() {
    let server = Server::start();
    let other = Server::start();
    other.seed("app.git", &FILES);
    other.behaviour.lock().expect("lock").basic = Some(format!("robot:{SECRET}"));
    server.behaviour.lock().expect("lock").redirect = Some(format!("http://{}", other.address));
    let pod = Pod::new(&server.url("app.git"));
    pod.credentials("robot", SECRET);
    let result = pod.checkout().await;
    assert_eq!(result.outcome, Outcome::Failed, "{}", result.summary);
    assert_eq!(other.behaviour.lock().expect("lock").log, Vec::<String>::new());
}

#[tokio::test]
async fn a_passing_fault_is_waited_out_and_a_lasting_one_is_the_clusters() {
    let server = Server::start();
    let repository = server.seed("app.git", &FILES);
    server.behaviour.lock().expect("lock").unavailable = 2;
    let pod = Pod::new(&server.url("app.git"));
    pod.checked_out().await;
    pod.write("x", "x");
    // The server takes the push, but the answer is lost: the repetition recognises it.
    server.behaviour.lock().expect("lock").lost_answers = 1;
    let result = pod.published().await;
    assert_eq!(result.head.as_deref(), Some(git(&repository, &["rev-parse", BRANCH]).trim()));

    server.behaviour.lock().expect("lock").unavailable = 100;
    let result = Pod::new(&server.url("app.git")).checkout().await;
    assert_eq!(result.outcome, Outcome::Infra, "{}", result.summary);
    assert_eq!(result.failure_code.as_deref(), Some("repository_unreachable"));
    assert_eq!(server.behaviour.lock().expect("lock").unavailable, 97, "three tries");
}

#[tokio::test]
async fn what_is_missing_on_the_server_is_told_apart() {
    let server = Server::start();
    server.create("empty.git");
    server.seed("app.git", &FILES);
    let fails = async |url: String, base: &str, code: &str, text: &str| {
        let mut pod = Pod::new(&url);
        pod.inputs.spec.repository.base_branch = base.into();
        let result = pod.checkout().await;
        assert_eq!(result.outcome, Outcome::Failed, "{}", result.summary);
        assert_eq!(result.failure_code.as_deref(), Some(code), "{}", result.summary);
        assert!(result.summary.contains(text), "{}", result.summary);
    };
    fails(server.url("none.git"), "main", "repository_not_found", "Check the repository URL").await;
    fails(server.url("empty.git"), "main", "repository_empty", "no commit yet").await;
    fails(server.url("app.git"), "develop", "base_branch_missing", "there is main").await;
    let unusable = "repository_misconfigured";
    fails(server.url("app.git"), "main:refs/heads/x", unusable, "not a branch name").await;
    let with_password = format!("http://robot:{SECRET}@{}/app.git", server.address);
    fails(with_password, "main", unusable, "belong in the Secret").await;
    fails("file:///etc".into(), "main", unusable, "neither https, http nor ssh").await;
}

#[tokio::test]
async fn somebody_elses_branch_is_never_overwritten_a14() {
    let server = Server::start();
    let repository = server.seed("app.git", &FILES);
    let pod = Pod::new(&server.url("app.git"));
    pod.checked_out().await;
    pod.write("x", "x");
    // It appears between checkout and publish.
    git(&repository, &["branch", BRANCH, "main"]);
    let result = pod.publish(Outcome::Success).await;
    assert_eq!(result.outcome, Outcome::Failed, "{}", result.summary);
    assert_eq!(
        result.failure_code.as_deref(),
        Some("branch_diverged_requires_recreate"),
        "{}",
        result.summary
    );
    assert_eq!(pushed(&repository), Vec::<String>::new());
    // It was there before.
    let result = Pod::new(&server.url("app.git")).checkout().await;
    assert_eq!(
        result.failure_code.as_deref(),
        Some("branch_diverged_requires_recreate"),
        "{}",
        result.summary
    );
}

#[tokio::test]
async fn a_refused_push_says_whether_the_branch_is_protected() {
    let server = Server::start();
    let repository = server.seed("app.git", &FILES);
    let hook = repository.join("hooks/pre-receive");
    fs::create_dir_all(repository.join("hooks")).expect("directory");
    let pod = Pod::new(&server.url("app.git"));
    pod.checked_out().await;
    pod.write("x", "x");
    for (said, code, next) in [
        ("remote: no tabs, please", "push_refused", "relax the server's hook"),
        ("GH006: Protected branch update failed for refs/heads/agent/x.", "branch_protected", "branchPrefix"),
    ] {
        fs::write(&hook, format!("#!/bin/sh\necho '{said}' >&2\nexit 1\n")).expect("write");
        fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).expect("chmod");
        let result = pod.publish(Outcome::Success).await;
        assert_eq!(result.outcome, Outcome::Failed, "{}", result.summary);
        assert_eq!(result.failure_code.as_deref(), Some(code), "{}", result.summary);
        assert!(result.summary.contains(said) && result.summary.contains(next), "{}", result.summary);
    }
}

#[tokio::test]
async fn a_host_that_has_no_address_is_the_clusters_fault_and_named() {
    // A label of more than 63 characters: no name server is asked.
    let result = Pod::new(&format!("http://{}.invalid/app.git", "a".repeat(64))).checkout().await;
    assert_eq!(result.outcome, Outcome::Infra, "{}", result.summary);
    assert_eq!(result.failure_code.as_deref(), Some("repository_host_unknown"), "{}", result.summary);
    assert!(result.summary.contains("the host in the repository URL"), "{}", result.summary);
}

#[tokio::test]
async fn a_full_disk_is_named_whoever_meets_it() {
    let server = Server::start();
    server.seed("app.git", &FILES);
    let pod = Pod::new(&server.url("app.git"));
    std::os::unix::fs::symlink("/dev/full", pod.paths.manifest()).expect("link");
    let ours = pod.checkout().await;
    let git = Git::new(&pod.paths.git_dir(), &pod.paths.private(), &pod.stop);
    let full = git.command("full").config("alias.full", "!git version >/dev/full #");
    let gits = full.run().await.expect_err("no space").into_result();
    for result in [ours, gits] {
        assert_eq!(result.outcome, Outcome::Failed, "{}", result.summary);
        assert_eq!(result.failure_code.as_deref(), Some("disk_full"), "{}", result.summary);
        assert!(result.summary.contains("Raise the size limit"), "{}", result.summary);
    }
}

#[tokio::test]
async fn only_an_orderly_success_is_published() {
    let server = Server::start();
    let repository = server.seed("app.git", &FILES);
    let pod = Pod::new(&server.url("app.git"));
    pod.checked_out().await;
    assert_eq!(pod.publish(Outcome::Noop).await.outcome, Outcome::Noop);
    let result = pod.publish(Outcome::Success).await;
    assert_eq!(
        (result.outcome, result.failure_code.as_deref()),
        (Outcome::NeedsRework, Some("no_actionable_changes"))
    );

    pod.write("x", "x");
    for outcome in [Outcome::NeedsRework, Outcome::QuotaWait, Outcome::Failed, Outcome::Cancelled] {
        let agent = ContainerResult::failure(outcome, "some_code", "said so");
        assert_eq!(pod.publish_with(Some(agent.clone()), |_| Ok(Vec::new())).await, agent);
    }
    // A fault of the cluster costs no attempt: the container that runs foreign code cannot claim one.
    let claimed = ContainerResult::failure(Outcome::Infra, "some_code", "said so");
    let result = pod.publish_with(Some(claimed), |_| Ok(Vec::new())).await;
    assert_eq!((result.outcome, result.failure_code.as_deref()), (Outcome::Failed, Some("some_code")));
    fs::remove_file(pod.paths.exchange.join("agent.json")).expect("remove");
    let crashed = pod.publish_with(None, |_| Ok(Vec::new())).await;
    assert_eq!(crashed.failure_code.as_deref(), Some("model_or_unknown_failure"));

    let success = || Some(ContainerResult::new(Outcome::Success));
    let denied = pod
        .publish_with(success(), |paths| {
            Ok(paths.iter().map(|path| format!("change to denied path: {path}")).collect())
        })
        .await;
    assert_eq!(denied.failure_code.as_deref(), Some("policy_violation"));
    assert_eq!(denied.summary, "change to denied path: x");
    let broken = pod.publish_with(success(), |_| Err("bad pattern".into())).await;
    assert_eq!(
        (broken.outcome, broken.failure_code.as_deref()),
        (Outcome::NeedsRework, Some("policy_violation"))
    );

    let stop = pod.stop.clone();
    let stopped = pod
        .publish_with(success(), |_| {
            stop.cancel();
            Ok(Vec::new())
        })
        .await;
    assert_eq!(stopped.outcome, Outcome::Cancelled, "{}", stopped.summary);
    assert!(!git(&repository, &["branch", "--list", "agent/*"]).contains("agent/"), "nothing was pushed");
}

#[tokio::test]
async fn files_are_checked_out_and_committed_as_their_bytes() {
    let server = Server::start();
    let attributes = b"*.txt text eol=crlf\n*.id ident\n*.lfs filter=lfs\n*.w working-tree-encoding=UTF-16\n";
    let repository = server.seed(
        "app.git",
        &[
            ("100644", b".gitattributes", attributes),
            ("100644", b"a.txt", b"one\ntwo\n"),
            ("100644", b"b.txt", b"one\ntwo\n"),
            ("100644", b"c.id", b"$Id$\n"),
            ("100644", b"d.lfs", b"pointer\n"),
            ("100644", b"e.w", b"text\n"),
        ],
    );
    let pod = Pod::new(&server.url("app.git"));
    pod.checked_out().await;
    for (name, text) in
        [("a.txt", "one\ntwo\n"), ("c.id", "$Id$\n"), ("d.lfs", "pointer\n"), ("e.w", "text\n")]
    {
        assert_eq!(fs::read_to_string(pod.file(name)).expect("text"), text, "{name}");
    }
    assert_eq!(git(&pod.paths.checkout, &["status", "--porcelain"]), "");
    pod.write("a.txt", "one\nthree\n");
    pod.published().await;
    assert_eq!(pushed(&repository), ["100644 a.txt"]);
    assert_eq!(content(&repository, "a.txt"), "one\nthree\n");
}

#[tokio::test]
async fn a_repository_of_sha256_works_like_any_other() {
    let server = Server::start();
    let repository = server.path("new.git");
    git(
        server.root.path(),
        &["init", "--quiet", "--bare", "-b", "main", "--object-format=sha256", "new.git"],
    );
    git(&repository, &["config", "http.receivepack", "true"]);
    let stream = "commit refs/heads/main\ncommitter T <t@example.com> 1700000000 +0000\ndata 4\nseed\nM 100644 inline a\ndata 2\na\n\n";
    git_support::import(&repository, stream.as_bytes());
    let pod = Pod::new(&server.url("new.git"));
    pod.checked_out().await;
    pod.write("a", "b\n");
    pod.published().await;
    assert_eq!(pushed(&repository), ["100644 a"]);
}
