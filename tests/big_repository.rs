//! Big repositories: what is fetched of a long history and of many files, and the memory it takes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod git_support;

use std::fs;
use std::path::{Path, PathBuf};

use git_support::{BRANCH, Pod, Server, content, git, import, pushed};
use nix::sys::resource::{UsageWho, getrusage};
use opentiger::crd::Purpose;
use opentiger::crd::wire::Outcome;
use opentiger::runner::publish;

/// Files in the tree of the big repository.
const FILES: usize = 100_000;
/// Commits of the long history, and the size of the file that each replaces, in bytes.
const COMMITS: usize = 60;
const LARGE: usize = 256 * 1024;
/// Largest git process, ours or the server's, in KiB.
const MAX_GIT_KIB: i64 = 128 * 1024;
/// Largest that this process becomes, server, manifest and all, in KiB.
const MAX_SELF_KIB: i64 = 192 * 1024;

/// Bytes that no compression makes smaller, another sequence for each seed.
fn noise(seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..LARGE / 8).flat_map(|_| next()).collect()
}

/// A repository whose every commit replaces one large file.
fn long_history(server: &Server) -> PathBuf {
    let repository = server.create("app.git");
    let mut stream = Vec::new();
    for n in 0..COMMITS {
        let when = 1_700_000_000 + n;
        stream.extend(format!("commit refs/heads/main\ncommitter T <t@example.com> {when} +0000\n").bytes());
        stream.extend(format!("data 4\nseed\nM 100644 inline big.bin\ndata {LARGE}\n").bytes());
        stream.extend(noise(n as u64 + 1));
        stream.extend(b"\nM 100644 inline a.rs\ndata 2\na\n\n");
    }
    import(&repository, &stream);
    repository
}

fn sent(server: &Server) -> usize {
    std::mem::take(&mut server.behaviour.lock().expect("lock").sent)
}

/// A result, reviewed and merged. Returns the bytes that the server sent for each.
async fn reviewed_and_merged(server: &Server, repository: &Path) -> [usize; 3] {
    sent(server);
    let pod = Pod::new(&server.url("app.git"));
    pod.checked_out().await;
    pod.write("a.rs", "changed\n");
    pod.published().await;
    let execute = sent(server);
    // The base moves on, in the same file, elsewhere.
    git_support::commit_on_main(repository, &[("b.rs", "b\n")]);

    let judge = pod.looking_at(repository, Purpose::Judge);
    judge.checked_out().await;
    assert_eq!(fs::read_to_string(judge.file("a.rs")).expect("text"), "changed\n");
    assert_eq!(fs::read(judge.file("big.bin")).expect("bytes"), noise(COMMITS as u64));
    let review = sent(server);

    let merge = pod.looking_at(repository, Purpose::Merge);
    merge.checked_out().await;
    let result = publish::run(&merge.inputs, &merge.paths, |_| Err("not asked".into()), &merge.stop).await;
    assert_eq!(result.outcome, Outcome::Success, "{}", result.summary);
    assert_eq!(result.head.as_deref(), Some(git(repository, &["rev-parse", "main"]).trim()));
    assert_eq!(git(repository, &["show", "main:a.rs"]), "changed\n");
    assert_eq!(git(repository, &["show", "main:b.rs"]), "b\n");
    git(repository, &["fsck", "--strict"]);
    [execute, review, sent(server)]
}

#[tokio::test]
async fn of_a_long_history_only_the_files_that_are_needed_are_fetched() {
    let server = Server::start();
    let repository = long_history(&server);
    git(&repository, &["config", "uploadpack.allowFilter", "true"]);
    let bytes = reviewed_and_merged(&server, &repository).await;
    // One version of the large file, and no other, for each of the three Pods.
    assert!(bytes.iter().all(|bytes| (LARGE..2 * LARGE).contains(bytes)), "{bytes:?}");
}

#[tokio::test]
async fn a_server_that_cannot_leave_files_out_sends_them_all_and_everything_works() {
    let server = Server::start();
    let repository = long_history(&server);
    git(&repository, &["config", "uploadpack.allowFilter", "false"]);
    let [execute, review, merge] = reviewed_and_merged(&server, &repository).await;
    assert!(execute < 2 * LARGE, "{execute}");
    assert!(review > 40 * LARGE && merge > 40 * LARGE, "{review} {merge}");
}

#[tokio::test]
async fn a_server_that_leaves_files_out_but_sends_no_single_one_is_asked_for_all() {
    let server = Server::start();
    let repository = long_history(&server);
    git(&repository, &["config", "uploadpack.allowFilter", "true"]);
    server.behaviour.lock().expect("lock").old_protocol = true;
    let [_, review, merge] = reviewed_and_merged(&server, &repository).await;
    assert!(review > 40 * LARGE && merge > 40 * LARGE, "{review} {merge}");
}

#[tokio::test]
async fn a_password_also_opens_what_is_fetched_later() {
    let server = Server::start();
    let repository = long_history(&server);
    git(&repository, &["config", "uploadpack.allowFilter", "true"]);
    server.behaviour.lock().expect("lock").basic = Some("robot:pass".into());
    let pod = Pod::new(&server.url("app.git"));
    pod.credentials("robot", "pass");
    pod.checked_out().await;
    pod.write("a.rs", "changed\n");
    pod.published().await;
    let judge = pod.looking_at(&repository, Purpose::Judge);
    judge.credentials("robot", "pass");
    judge.checked_out().await;
    // Nothing of the remote is left where the agent sees it.
    let config = fs::read_to_string(judge.paths.checkout.join(".git/config")).expect("text");
    assert!(!config.contains("promisor") && !config.contains(&server.address), "{config}");
}

#[tokio::test]
async fn a_hundred_thousand_files_fit_into_the_stated_memory() {
    let server = Server::start();
    let repository = server.create("app.git");
    let mut stream =
        b"commit refs/heads/main\ncommitter T <t@example.com> 1700000000 +0000\ndata 4\nseed\n".to_vec();
    for n in 0..FILES {
        let text = format!("file {n}\n");
        let (a, b) = (n / 1000, n / 100 % 10);
        stream.extend(format!("M 100644 inline d{a}/e{b}/f{n}.rs\ndata {}\n{text}\n", text.len()).bytes());
    }
    import(&repository, &stream);
    drop(stream);
    let pod = Pod::in_memory(&server.url("app.git"));
    pod.checked_out().await;
    pod.write("d7/e3/f7300.rs", "changed\n");
    let result = pod.publish(Outcome::Success).await;
    assert_eq!(result.changed_files, Some(1), "{}", result.summary);
    assert_eq!(pushed(&repository), ["100644 d7/e3/f7300.rs"]);
    assert_eq!(content(&repository, "d7/e3/f7300.rs"), "changed\n");
    assert_eq!(git(&repository, &["rev-list", "--count", &format!("main..{BRANCH}")]).trim(), "1");

    let peak = |who| getrusage(who).expect("usage").max_rss();
    let (ours, gits) = (peak(UsageWho::RUSAGE_SELF), peak(UsageWho::RUSAGE_CHILDREN));
    println!("peak resident memory in KiB: this process {ours}, largest git {gits}");
    assert!(ours < MAX_SELF_KIB && gits < MAX_GIT_KIB, "{ours} {gits}");
}
