//! Merges against a real git server: what is made, what is found again, and what stops one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod git_support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use git_support::{BRANCH, Pod, Server, advance, commit_on_main, git, import, prepared};
use opentiger::crd::Purpose;
use opentiger::crd::wire::{ContainerResult, Outcome};
use opentiger::runner::publish;

/// A server whose repository has a pushed result that changes `src/a.rs`, and the Pod that pushed it.
async fn published(server: &Server) -> (PathBuf, Pod) {
    let (repository, pod) = prepared(server).await;
    pod.write("src/a.rs", "changed\n");
    pod.published().await;
    (repository, pod)
}

async fn merge(pod: &Pod) -> ContainerResult {
    pod.checked_out().await;
    publish_merge(pod).await
}

/// The container `publish` of a merge: there is no agent to wait for.
async fn publish_merge(pod: &Pod) -> ContainerResult {
    publish::run(&pod.inputs, &pod.paths, |_| Err("not asked".into()), &pod.stop).await
}

fn main_of(repository: &Path) -> String {
    git(repository, &["rev-parse", "main"]).trim().to_string()
}

fn brief(result: &ContainerResult) -> String {
    format!("{:?} {}", result.outcome, result.failure_code.as_deref().unwrap_or("-"))
}

#[tokio::test]
async fn a_merge_is_one_commit_on_the_base_and_is_made_once() {
    let server = Server::start();
    let (repository, run) = published(&server).await;
    let base = commit_on_main(&repository, &[("src/b.rs", "theirs\n")]);
    let pod = run.looking_at(&repository, Purpose::Merge);
    let result = merge(&pod).await;
    assert_eq!(brief(&result), "Success -", "{}", result.summary);
    let main = main_of(&repository);
    assert_eq!(result.head.as_deref(), Some(main.as_str()));
    assert_eq!((result.branch.as_deref(), result.changed_files), (Some("main"), Some(1)));
    let head = git(&repository, &["rev-parse", BRANCH]);
    assert_eq!(
        git(&repository, &["log", "-1", "--format=%P", "main"]).trim(),
        format!("{base} {}", head.trim())
    );
    assert_eq!(git(&repository, &["show", "main:src/a.rs"]), "changed\n");
    assert_eq!(git(&repository, &["show", "main:src/b.rs"]), "theirs\n");
    let log = git(&repository, &["log", "-1", "--format=%s|%(trailers:only,separator=%x7C)", "main"]);
    assert_eq!(
        log.trim(),
        "[openTiger] Merge: Add x|OpenTiger-Task: team/add-x|OpenTiger-Run: run-uid-2|OpenTiger-Merge: run-uid-1"
    );
    // Again, on another Pod, after somebody else has gone on: found, not repeated.
    let now = advance(&repository);
    let again = merge(&run.looking_at(&repository, Purpose::Merge)).await;
    assert_eq!((brief(&again).as_str(), again.head.as_deref()), ("Success -", Some(main.as_str())));
    // The same when the branch has been tidied away, or has gone on.
    let late = run.looking_at(&repository, Purpose::Merge);
    git(&repository, &["update-ref", &format!("refs/heads/{BRANCH}"), &now]);
    assert_eq!(merge(&late).await.head.as_deref(), Some(main.as_str()));
    git(&repository, &["update-ref", "-d", &format!("refs/heads/{BRANCH}")]);
    let gone = merge(&late).await;
    assert_eq!((brief(&gone).as_str(), gone.head.as_deref()), ("Success -", Some(main.as_str())));
    assert_eq!(main_of(&repository), now);
}

#[tokio::test]
async fn a_branch_that_can_be_fast_forwarded_gets_its_merge_commit_too() {
    let server = Server::start();
    let (repository, run) = published(&server).await;
    let result = merge(&run.looking_at(&repository, Purpose::Merge)).await;
    assert_eq!(brief(&result), "Success -", "{}", result.summary);
    assert_eq!(git(&repository, &["log", "-1", "--format=%P", "main"]).split_whitespace().count(), 2);
}

#[tokio::test]
async fn a_base_that_moves_under_the_push_is_merged_into_anew_and_given_up_at_last() {
    for (before, during, expected) in
        [(1, 0, "Success -"), (0, 1, "Success -"), (1, 1, "Success -"), (3, 0, "Failed merge_base_moved")]
    {
        let server = Server::start();
        let (repository, run) = published(&server).await;
        let start = main_of(&repository);
        let pod = run.looking_at(&repository, Purpose::Merge);
        pod.checked_out().await;
        {
            let mut behaviour = server.behaviour.lock().expect("lock");
            (behaviour.moves_before_push, behaviour.moves_during_push) = (before, during);
        }
        let result = publish_merge(&pod).await;
        assert_eq!(brief(&result), expected, "{before} {during}: {}", result.summary);
        // What somebody else pushed is never lost.
        let range = format!("{start}..main");
        let theirs = git(&repository, &["log", "--format=%s", &range]);
        assert_eq!(theirs.lines().filter(|line| *line == "of somebody else").count(), before + during);
    }
}

#[tokio::test]
async fn a_lost_answer_is_not_a_second_merge() {
    let server = Server::start();
    let (repository, run) = published(&server).await;
    let pod = run.looking_at(&repository, Purpose::Merge);
    pod.checked_out().await;
    server.behaviour.lock().expect("lock").lost_answers = 1;
    let result = publish_merge(&pod).await;
    assert_eq!(brief(&result), "Success -", "{}", result.summary);
    assert_eq!(result.head.as_deref(), Some(main_of(&repository).as_str()));
    assert_eq!(git(&repository, &["rev-list", "--merges", "--count", "main"]).trim(), "1");
}

#[tokio::test]
async fn a_conflict_names_its_files_and_leaves_the_base_alone() {
    let server = Server::start();
    let (repository, run) = published(&server).await;
    let base = commit_on_main(&repository, &[("src/a.rs", "theirs\n"), ("src/b.rs", "b2\n")]);
    let result = merge(&run.looking_at(&repository, Purpose::Merge)).await;
    assert_eq!(brief(&result), "Failed merge_conflict");
    assert!(result.summary.ends_with("both changed src/a.rs"), "{}", result.summary);
    assert_eq!(main_of(&repository), base);
}

#[tokio::test]
async fn a_server_that_declines_the_push_is_a_refusal() {
    let server = Server::start();
    let (repository, run) = published(&server).await;
    let hook = repository.join("hooks/pre-receive");
    fs::create_dir_all(repository.join("hooks")).expect("directory");
    fs::write(&hook, "#!/bin/sh\necho 'main is protected' >&2\nexit 1\n").expect("write");
    fs::set_permissions(&hook, fs::Permissions::from_mode(0o755)).expect("chmod");
    let base = main_of(&repository);
    let result = merge(&run.looking_at(&repository, Purpose::Merge)).await;
    assert_eq!(brief(&result), "Failed merge_refused", "{}", result.summary);
    assert!(result.summary.contains("main is protected"), "{}", result.summary);
    assert_eq!(main_of(&repository), base);
}

#[tokio::test]
async fn a_branch_that_is_not_what_was_approved_is_not_merged() {
    let server = Server::start();
    let (repository, run) = published(&server).await;
    let pod = run.looking_at(&repository, Purpose::Merge);
    let base = advance(&repository);
    git(&repository, &["update-ref", &format!("refs/heads/{BRANCH}"), &base]);
    let moved = merge(&pod).await;
    assert_eq!(brief(&moved), "Failed review_head_moved");
    assert!(moved.summary.contains(&base), "{}", moved.summary);
    git(&repository, &["update-ref", "-d", &format!("refs/heads/{BRANCH}")]);
    let gone = merge(&pod).await;
    assert_eq!(brief(&gone), "Failed review_head_moved");
    assert!(gone.summary.ends_with("is gone"), "{}", gone.summary);
    assert_eq!(main_of(&repository), base);
}

#[tokio::test]
async fn a_base_far_ahead_is_merged_into_from_where_they_parted() {
    let server = Server::start();
    let (repository, run) = published(&server).await;
    for _ in 0..70 {
        advance(&repository);
    }
    commit_on_main(&repository, &[("src/b.rs", "theirs\n")]);
    let pod = run.looking_at(&repository, Purpose::Merge);
    let result = merge(&pod).await;
    assert_eq!((brief(&result).as_str(), result.changed_files), ("Success -", Some(1)), "{}", result.summary);
    assert_eq!(git(&repository, &["show", "main:src/b.rs"]), "theirs\n");
    assert_eq!(git(&repository, &["rev-list", "--count", "main"]).trim(), "74");
}

/// A commit in the language of fast-import.
fn commit(to: &str, mark: usize, parents: &[String], change: &str) -> String {
    let from = parents.first().map_or(String::new(), |parent| format!("from {parent}\n"));
    let merges: String = parents.iter().skip(1).map(|parent| format!("merge {parent}\n")).collect();
    format!(
        "commit refs/heads/{to}\nmark :{mark}\ncommitter T <t@example.com> 17{mark:08} +0000\ndata 1\nx\n\
         {from}{merges}{change}\n"
    )
}

/// Both branches reach an old commit by a short way and the one where they really part by a long one.
/// Merged from the old one, a file that the base has deleted would come back.
#[tokio::test]
async fn a_short_way_to_an_older_ancestor_does_not_hide_where_the_branches_parted() {
    let server = Server::start();
    let (repository, run) = published(&server).await;
    let root = main_of(&repository);
    let file = "M 100644 inline file\ndata 4\nfile\n";
    let mut stream = commit("main", 1, std::slice::from_ref(&root), file);
    stream.push_str(&commit("side", 2, &[root], "M 100644 inline side\ndata 4\nside\n"));
    for n in 3..63 {
        let change = if n == 3 { "D file\n" } else { "" };
        let parent = if n == 3 { 1 } else { n - 1 };
        stream.push_str(&commit("main", n, &[format!(":{parent}")], change));
    }
    for n in 63..123 {
        let parent = if n == 63 { 1 } else { n - 1 };
        stream.push_str(&commit("work", n, &[format!(":{parent}")], ""));
    }
    stream.push_str(&commit("main", 123, &[":62".into(), ":2".into()], ""));
    stream.push_str(&commit(
        "work",
        124,
        &[":122".into(), ":2".into()],
        "M 100644 inline new\ndata 3\nnew\n",
    ));
    import(&repository, stream.as_bytes());
    git(&repository, &["update-ref", &format!("refs/heads/{BRANCH}"), "work"]);
    let result = merge(&run.looking_at(&repository, Purpose::Merge)).await;
    assert_eq!(brief(&result), "Success -", "{}", result.summary);
    let names = git(&repository, &["ls-tree", "--name-only", "main"]);
    assert!(names.lines().any(|name| name == "new") && !names.lines().any(|name| name == "file"), "{names}");
}

#[tokio::test]
async fn a_stop_merges_nothing() {
    let server = Server::start();
    let (repository, run) = published(&server).await;
    let base = main_of(&repository);
    let pod = run.looking_at(&repository, Purpose::Merge);
    pod.checked_out().await;
    pod.stop.cancel();
    assert_eq!(brief(&publish_merge(&pod).await), "Cancelled -");
    assert_eq!(main_of(&repository), base);
}

#[tokio::test]
async fn a_server_out_of_reach_is_a_fault_of_the_cluster() {
    let server = Server::start();
    let (repository, run) = published(&server).await;
    let pod = run.looking_at(&repository, Purpose::Merge);
    pod.checked_out().await;
    server.behaviour.lock().expect("lock").unavailable = 100;
    assert_eq!(publish_merge(&pod).await.outcome, Outcome::Infra);
}
