//! The work of an interrupted attempt, from one Pod to the next, over a real git server.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod git_support;

use std::fs;
use std::time::{Duration, Instant};

use git_support::*;
use opentiger::crd::checkpoint::Checkpoint;
use opentiger::crd::wire::{ContainerResult, Outcome};
use opentiger::crd::{ExecutorType, GoDuration};
use opentiger::runner::checkpoint::session::Session;
use opentiger::runner::checkpoint::{RESUMED, SESSION};
use opentiger::runner::{exchange, publish};

/// All refs of checkpoints.
fn checkpoints(repository: &std::path::Path) -> Vec<String> {
    let refs = git(repository, &["for-each-ref", "--format=%(refname)", "refs/opentiger"]);
    refs.lines().map(Into::into).collect()
}

fn branches(repository: &std::path::Path) -> String {
    git(repository, &["for-each-ref", "--format=%(refname:short)", "refs/heads"])
}

/// A Pod of the Task on a pool that keeps checkpoints.
fn pod(server: &Server) -> Pod {
    let mut pod = Pod::new(&server.url("app.git"));
    pod.inputs.spec.template.checkpoint = Some(Checkpoint { interval: GoDuration("1h".into()) });
    pod
}

fn seeded(server: &Server) -> std::path::PathBuf {
    server.seed(
        "app.git",
        &[
            ("100644", b"src/a.txt", b"one\ntwo\nthree\nfour\nfive\nsix\nseven\n"),
            ("100644", b"src/gone.txt", b"x\n"),
            ("100755", b"run.sh", b"#!/bin/sh\n"),
            ("100644", b"Makefile", b"test:\n\tmake real\n"),
        ],
    )
}

/// The agent ends like this, and could have gone on.
fn interrupted(outcome: Outcome) -> Option<ContainerResult> {
    Some(ContainerResult { interrupted: true, ..ContainerResult::new(outcome) })
}

fn session() -> Session {
    Session {
        executor: ExecutorType::ClaudeCode,
        id: "0b6f0e9e-7c1d-4a44-9d0c-1f6f0b5b8a11".into(),
        place: ".claude/projects/-workspace-repo/0b6f0e9e-7c1d-4a44-9d0c-1f6f0b5b8a11.jsonl".into(),
        text: "{\"type\":\"user\"}\n".into(),
    }
}

/// An attempt that a provider's limit ends in the middle of its work.
async fn limited(server: &Server) -> Pod {
    let first = pod(server);
    first.checked_out().await;
    first.write("src/a.txt", "one\ntwo\nthree\nfour\nfive\nsix\nseven\neight\n");
    first.write("src/new file.txt", "new\n");
    fs::remove_file(first.file("src/gone.txt")).expect("remove");
    first.write("Makefile", "test:\n\ttrue\n");
    let text = serde_json::to_string(&session()).expect("JSON");
    exchange::write_text(&first.paths.exchange, SESSION, &text).expect("write");
    let result = first.publish_with(interrupted(Outcome::QuotaWait), |_| Ok(Vec::new())).await;
    assert_eq!((result.outcome, result.interrupted), (Outcome::QuotaWait, false));
    first
}

#[tokio::test]
async fn what_a_limit_interrupts_goes_on_where_it_was() {
    let server = Server::start();
    let repository = seeded(&server);
    limited(&server).await;
    let kept = checkpoints(&repository);
    assert_eq!(kept.len(), 1, "{kept:?}");
    assert!(kept[0].starts_with("refs/opentiger/checkpoints/add-x-"), "{kept:?}");
    assert_eq!(branches(&repository), "main\n", "no branch shows it");

    let next = pod(&server);
    next.checked_out().await;
    assert_eq!(fs::read_to_string(next.file("src/new file.txt")).expect("kept"), "new\n");
    assert!(fs::read_to_string(next.file("src/a.txt")).expect("kept").ends_with("eight\n"));
    assert!(!next.file("src/gone.txt").exists());
    let status = git(&next.paths.checkout, &["status", "--porcelain"]);
    assert_eq!(status, " M Makefile\n M src/a.txt\n D src/gone.txt\n?? \"src/new file.txt\"\n");
    let resumed = fs::read_to_string(next.paths.exchange.join(RESUMED)).expect("a session");
    assert_eq!(serde_json::from_str::<Session>(&resumed).expect("JSON"), session());

    let base = fs::read_to_string(next.paths.exchange.join("base/Makefile")).expect("that of the base");
    assert_eq!(base, "test:\n\tmake real\n");
    assert!(
        fs::read_to_string(next.file("Makefile")).expect("there").contains("true"),
        "that of the attempt"
    );
    next.write("Makefile", "test:\n\tmake real\n");

    next.write("src/more.txt", "more\n");
    let result = next.published().await;
    assert_eq!(result.changed_files, Some(4), "{}", result.summary);
    let branch = result.branch.expect("a branch");
    let names = git(&repository, &["diff", "--name-only", &format!("main..{branch}")]);
    assert_eq!(
        names.lines().collect::<Vec<_>>(),
        ["src/a.txt", "src/gone.txt", "src/more.txt", "src/new file.txt"]
    );
    assert_eq!(checkpoints(&repository), [""; 0], "a Task that has succeeded needs none");
}

#[tokio::test]
async fn a_base_that_moved_is_carried_along_and_what_does_not_fit_starts_again() {
    let server = Server::start();
    let repository = seeded(&server);
    limited(&server).await;
    commit_on_main(
        &repository,
        &[("src/a.txt", "ONE\ntwo\nthree\nfour\nfive\nsix\nseven\n"), ("b.txt", "b\n")],
    );
    let next = pod(&server);
    next.checked_out().await;
    let text = fs::read_to_string(next.file("src/a.txt")).expect("there");
    assert_eq!(text, "ONE\ntwo\nthree\nfour\nfive\nsix\nseven\neight\n", "both");
    assert_eq!(fs::read_to_string(next.file("b.txt")).expect("there"), "b\n");

    commit_on_main(&repository, &[("src/a.txt", "one\ntwo\nthree\nfour\nfive\nsix\nseven\nNINE\n")]);
    let next = pod(&server);
    next.checked_out().await;
    assert!(fs::read_to_string(next.file("src/a.txt")).expect("there").ends_with("NINE\n"), "the base");
    assert!(!next.file("src/new file.txt").exists() && !next.paths.exchange.join(RESUMED).exists());
    // The server still has it: once this attempt has ended in an orderly way it is gone.
    assert_eq!(checkpoints(&repository).len(), 1);
    next.publish(Outcome::NeedsRework).await;
    assert_eq!(checkpoints(&repository), [""; 0]);
}

#[tokio::test]
async fn only_an_interrupted_attempt_is_kept_and_only_where_it_is_asked_for() {
    let server = Server::start();
    let repository = seeded(&server);
    for (outcome, interrupted) in
        [(Outcome::Failed, false), (Outcome::NeedsRework, false), (Outcome::Success, true)]
    {
        let mut pod = pod(&server);
        pod.inputs.spec.repository.branch = format!("agent/{outcome:?}").to_lowercase();
        pod.checked_out().await;
        pod.write("src/a.txt", "half\n");
        let agent = ContainerResult { interrupted, ..ContainerResult::new(outcome) };
        pod.publish_with(Some(agent), |_| Ok(Vec::new())).await;
        assert_eq!(checkpoints(&repository), [""; 0], "{outcome:?}");
    }
    let mut without = pod(&server);
    without.inputs.spec.template.checkpoint = None;
    without.checked_out().await;
    without.write("src/a.txt", "half\n");
    without.publish_with(interrupted(Outcome::QuotaWait), |_| Ok(Vec::new())).await;
    assert_eq!(checkpoints(&repository), [""; 0]);

    // The agent was killed: nobody has said anything.
    let crashed = pod(&server);
    crashed.checked_out().await;
    crashed.write("src/a.txt", "half\n");
    crashed.publish_with(None, |_| Ok(Vec::new())).await;
    assert_eq!(checkpoints(&repository).len(), 1);
}

/// An agent that works until it is told to end, beside a `publish`.
async fn with_a_working_agent(pod: &Pod, works: impl AsyncFnOnce()) -> ContainerResult {
    let directory = pod.paths.exchange.clone();
    let agent = async {
        let end = tokio::task::spawn_blocking(move || exchange::open_as_agent(&directory)).await;
        let end = end.expect("thread").expect("opened");
        works().await;
        drop(end);
    };
    let publish = publish::run(&pod.inputs, &pod.paths, |_: &[String]| Ok(Vec::new()), &pod.stop);
    tokio::join!(publish, agent).0
}

#[tokio::test]
async fn work_is_saved_while_the_agent_works_in_the_place_of_what_was_saved_before() {
    let server = Server::start();
    let repository = seeded(&server);
    limited(&server).await;
    let today = checkpoints(&repository).pop().expect("kept");
    let (own, _) = today.rsplit_once('/').expect("a day");
    let earlier = format!("{own}/2020-01-01");
    let other = "refs/opentiger/checkpoints/other-000000000000/2999-01-01";
    for name in [&earlier, other, "refs/opentiger/checkpoints/other-111111111111/2020-01-01"] {
        git(&repository, &["update-ref", name, "main"]);
    }

    let mut working = pod(&server);
    working.inputs.spec.template.checkpoint = Some(Checkpoint { interval: GoDuration("50ms".into()) });
    working.checked_out().await;
    let saved = async || {
        working.write("src/later.txt", "later\n");
        let deadline = Instant::now() + Duration::from_secs(30);
        while !git(&repository, &["ls-tree", "-r", "--name-only", &format!("{today}^1")])
            .contains("later.txt")
        {
            assert!(Instant::now() < deadline, "it was never saved: {:?}", checkpoints(&repository));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(checkpoints(&repository), [today.clone(), other.to_string()], "and nothing stale");
    };
    // It crashes: what was saved stays.
    with_a_working_agent(&working, saved).await;
    assert_eq!(checkpoints(&repository), [today.clone(), other.to_string()]);
    let private = fs::read_dir(working.paths.private()).expect("private").flatten();
    assert!(private.map(|entry| entry.file_name()).all(|name| name != "checkpoint.git"), "nothing is left");
}

#[tokio::test]
async fn a_stop_waits_for_the_agent_s_end_and_saves_and_pushes_nothing_else() {
    let server = Server::start();
    let repository = seeded(&server);
    let stopped = pod(&server);
    stopped.checked_out().await;
    let works = async || {
        stopped.stop.cancel();
        // The agent ends what it has started before it ends itself.
        tokio::time::sleep(Duration::from_millis(300)).await;
        stopped.write("src/a.txt", "the last words\n");
    };
    let result = with_a_working_agent(&stopped, works).await;
    assert_eq!(result.outcome, Outcome::Cancelled);
    let kept = checkpoints(&repository).pop().expect("kept");
    assert_eq!(git(&repository, &["show", &format!("{kept}^1:src/a.txt")]), "the last words\n");
    assert_eq!(branches(&repository), "main\n");
}

/// A push of the result that the server does not take because of its own trouble keeps the work.
#[tokio::test]
async fn finished_work_that_cannot_be_pushed_is_kept() {
    let server = Server::start();
    let repository = seeded(&server);
    let unlucky = pod(&server);
    unlucky.checked_out().await;
    unlucky.write("src/a.txt", "whole\n");
    // Three pushes, after each of which is asked whether it was carried out; nothing that comes after.
    server.behaviour.lock().expect("lock").unavailable = 6;
    let result = unlucky.publish(Outcome::Success).await;
    assert_eq!(result.outcome, Outcome::Infra, "{}", result.summary);
    let kept = checkpoints(&repository).pop().expect("kept");
    assert_eq!(git(&repository, &["show", &format!("{kept}^1:src/a.txt")]), "whole\n");
}

#[tokio::test]
async fn a_server_that_refuses_checkpoints_harms_nothing() {
    let server = Server::start();
    let repository = seeded(&server);
    git(&repository, &["config", "receive.hideRefs", "refs/opentiger"]);
    limited(&server).await;
    assert_eq!(checkpoints(&repository), [""; 0]);
    let next = pod(&server);
    next.checked_out().await;
    next.write("src/a.txt", "whole\n");
    next.published().await;
}
