//! Reviews against a real git server: what the agent is told, how its word becomes a verdict, and what
//! it cannot do to it (invariants S28, S30).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod git_support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use axum::{Json, Router};

use git_support::{BRANCH, Pod, Server, commit_on_main, git, mkfifo, prepared};
use opentiger::crd::Purpose;
use opentiger::crd::run::{ReviewResult, ReviewSource, ReviewVerdict, TokenUsage};
use opentiger::crd::wire::path::VERDICT_FILE;
use opentiger::crd::wire::{ContainerResult, Outcome};
use opentiger::runner::api::Api;
use opentiger::runner::review::bundle::{self, Bundle};
use opentiger::runner::review::keep;
use opentiger::runner::{exchange, publish};
use serde_json::{Value, json};

const YES: &str = r#"{"pass": true, "confidence": 0.9, "issues": [], "summary": "good"}"#;
const NO: &str = r#"{"pass": false, "confidence": 0.9, "summary": "bad", "issues": [
    {"severity": "error", "message": "wrong", "file": "src/a.rs", "line": 1}]}"#;

/// A Pod that has checked out the review of a change that `write` makes.
async fn reviewing(server: &Server, write: impl Fn(&Pod)) -> (PathBuf, Pod) {
    let (repository, run) = prepared(server).await;
    write(&run);
    run.published().await;
    // The base has gone on since: that is no part of the change.
    commit_on_main(&repository, &[("src/b.rs", "theirs\n"), ("src/c.rs", "new\n")]);
    let pod = run.looking_at(&repository, Purpose::Judge);
    pod.checked_out().await;
    (repository, pod)
}

fn small(pod: &Pod) {
    pod.write("src/a.rs", "changed\n");
}

fn bundle_of(pod: &Pod) -> Bundle {
    bundle::read(&pod.paths.review()).expect("bundle")
}

/// The agent leaves this opinion and ends well.
async fn said(pod: &Pod, opinion: &str) -> ContainerResult {
    fs::write(pod.paths.exchange.join(VERDICT_FILE), opinion).expect("write");
    pod.publish(Outcome::Success).await
}

fn review(result: &ContainerResult) -> &ReviewResult {
    result.review.as_ref().unwrap_or_else(|| panic!("no review: {result:?}"))
}

fn verdict(result: &ContainerResult) -> (ReviewVerdict, ReviewSource) {
    (review(result).verdict, review(result).source)
}

#[tokio::test]
async fn a_reviewer_is_told_the_change_and_its_word_becomes_the_verdict() {
    let server = Server::start();
    let (repository, pod) = reviewing(&server, small).await;
    let bundle = bundle_of(&pod);
    assert_eq!((bundle.file_count, bundle.files[0].path.as_str()), (1, "src/a.rs"), "{bundle:?}");
    assert_eq!((bundle.files[0].added, bundle.files[0].deleted), (Some(1), Some(1)));
    assert!(fs::read_to_string(&bundle.patch).expect("patch").contains("-a\n+changed\n"));
    assert!(!bundle.patch_cut && !bundle.is_decided());
    assert_eq!(fs::read_to_string(pod.file("src/a.rs")).expect("checkout"), "changed\n");
    assert_eq!(git(&pod.paths.checkout, &["diff", "--name-only", "main"]).trim(), "src/a.rs");
    assert_eq!(git(&pod.paths.checkout, &["remote"]), "");

    fs::write(pod.paths.exchange.join(VERDICT_FILE), NO).expect("write");
    let mut agent = ContainerResult::new(Outcome::Success);
    agent.tokens = Some(TokenUsage { input: 1, output: 2, total: 3, ..Default::default() });
    let result = pod.publish_with(Some(agent.clone()), |_| panic!("not asked")).await;
    assert_eq!(result.outcome, Outcome::Success, "a refusal is a result: {}", result.summary);
    assert_eq!(verdict(&result), (ReviewVerdict::RequestChanges, ReviewSource::Agent));
    assert_eq!((review(&result).confidence, review(&result).code_files), (90, 1));
    assert_eq!(review(&result).findings, ["src/a.rs:1: wrong"]);
    assert_eq!(result.head.as_deref(), Some(git(&repository, &["rev-parse", BRANCH]).trim()));
    assert_eq!((result.branch.as_deref(), result.tokens), (Some(BRANCH), agent.tokens));
    assert!(
        ContainerResult::from_message(&result.to_message()).is_some_and(|back| back.review == result.review)
    );
    let main = git(&repository, &["rev-parse", "main"]);
    assert_eq!(verdict(&said(&pod, YES).await), (ReviewVerdict::Approve, ReviewSource::Agent));
    assert_eq!(git(&repository, &["rev-parse", "main"]), main, "a review pushes nothing");
}

#[tokio::test]
async fn a_branch_that_has_moved_is_not_reviewed() {
    let server = Server::start();
    let (repository, pod) = reviewing(&server, small).await;
    git(&repository, &["update-ref", &format!("refs/heads/{BRANCH}"), "main"]);
    let moved = pod.checkout().await;
    assert_eq!(moved.failure_code.as_deref(), Some("review_head_moved"), "{}", moved.summary);
    git(&repository, &["update-ref", "-d", &format!("refs/heads/{BRANCH}")]);
    let gone = pod.checkout().await;
    assert_eq!((gone.outcome, gone.failure_code.as_deref()), (Outcome::Failed, Some("review_head_moved")));
}

#[tokio::test]
async fn the_policy_decides_before_the_agent_and_whatever_it_says() {
    let server = Server::start();
    let (repository, run) = prepared(&server).await;
    small(&run);
    run.published().await;
    let mut pod = run.looking_at(&repository, Purpose::Judge);
    pod.inputs.spec.inputs.allowed_paths = vec!["docs/**".into()];
    pod.checked_out().await;
    assert_eq!(bundle_of(&pod).violations, ["Change outside allowed paths: src/a.rs"]);
    for result in [said(&pod, YES).await, pod.publish_with(None, |_| Ok(Vec::new())).await] {
        assert_eq!(verdict(&result), (ReviewVerdict::RequestChanges, ReviewSource::Policy));
        assert_eq!(review(&result).findings, ["Change outside allowed paths: src/a.rs"]);
    }
    pod.inputs.spec.inputs.allowed_paths = vec!["!src/**".into()];
    let unreadable = said(&pod, YES).await;
    assert_eq!(review(&unreadable).verdict, ReviewVerdict::RequestChanges, "fails closed");
}

#[tokio::test]
async fn an_agent_that_fails_gives_no_verdict() {
    let server = Server::start();
    let (_, pod) = reviewing(&server, small).await;
    fs::write(pod.paths.exchange.join(VERDICT_FILE), YES).expect("write");
    let quota = ContainerResult::failure(Outcome::QuotaWait, "quota_failure", "wait");
    let infra = ContainerResult::failure(Outcome::Infra, "runner_failed", "no");
    for (agent, outcome, code) in [
        (Some(quota), Outcome::QuotaWait, "quota_failure"),
        (Some(infra), Outcome::Failed, "runner_failed"),
        (None, Outcome::Failed, "model_or_unknown_failure"),
    ] {
        let _ = fs::remove_file(pod.paths.exchange.join("agent.json"));
        let result = pod.publish_with(agent, |_| Ok(Vec::new())).await;
        assert_eq!((result.outcome, result.failure_code.as_deref()), (outcome, Some(code)));
        assert_eq!(result.review, None);
    }
}

#[tokio::test]
async fn a_hostile_reviewer_changes_nothing_but_its_own_opinion() {
    let server = Server::start();
    let (_, pod) = reviewing(&server, small).await;
    let marker = pod.dir.path().join("ran");
    let touch = format!("touch '{}'", marker.display());
    // A repository and a configuration of its own, hooks, attributes, another bundle, another change.
    for directory in [pod.paths.checkout.clone(), pod.paths.checkout.join("src"), pod.paths.review()] {
        if !directory.join(".git").exists() {
            git(&directory, &["init", "--quiet"]);
        }
        for (key, value) in
            [("core.fsmonitor", &touch), ("filter.x.clean", &touch), ("diff.external", &touch)]
        {
            git(&directory, &["config", key, value]);
        }
        fs::write(directory.join(".gitattributes"), "* filter=x diff=x\n").expect("write");
    }
    pod.write("src/b.rs", "not in the change\n");
    let mut bundle = bundle_of(&pod);
    bundle.files[0].path = "src/b.rs".into();
    bundle.violations = vec!["invented".into()];
    fs::remove_dir_all(pod.paths.review()).expect("remove");
    bundle::write(&pod.paths.review(), bundle, b"nothing").expect("write");
    let elsewhere = NO.replace("src/a.rs", "src/b.rs");
    let result = said(&pod, &elsewhere).await;
    assert_eq!(verdict(&result), (ReviewVerdict::Approve, ReviewSource::Agent), "b.rs is not in the change");
    assert!(review(&result).findings.is_empty());
    // A verdict in its result file is not the verdict.
    let mut claim = ContainerResult::new(Outcome::Success);
    claim.review = Some(ReviewResult { confidence: 1, ..ReviewResult::default() });
    (claim.head, claim.branch) = (Some("f00".into()), Some("main".into()));
    fs::write(pod.paths.exchange.join(VERDICT_FILE), NO).expect("write");
    let result = pod.publish_with(Some(claim), |_| Ok(Vec::new())).await;
    assert_eq!(verdict(&result), (ReviewVerdict::RequestChanges, ReviewSource::Agent));
    assert_eq!(result.branch.as_deref(), Some(BRANCH));
    assert!(!marker.exists(), "nothing of the agent's ran");
}

#[tokio::test]
async fn what_is_not_plainly_a_verdict_is_none() {
    type Way<'a> = (&'a str, &'a dyn Fn(&std::path::Path));
    let server = Server::start();
    let (_, pod) = reviewing(&server, small).await;
    let file = pod.paths.exchange.join(VERDICT_FILE);
    let outside = pod.dir.path().join("outside.json");
    fs::write(&outside, YES).expect("write");
    let ways: [Way; 6] = [
        ("nothing", &|_| {}),
        ("a link", &|file| symlink(&outside, file).expect("link")),
        ("a pipe", &|file| mkfifo(file)),
        ("too large", &|file| fs::write(file, format!("{YES}{}", " ".repeat(70_000))).expect("write")),
        ("not text", &|file| fs::write(file, [0xff, 0xfe]).expect("write")),
        ("not an answer", &|file| fs::write(file, r#"{"confidence": 1}"#).expect("write")),
    ];
    for (what, make) in ways {
        let _ = fs::remove_file(&file);
        make(&file);
        let result = pod.publish(Outcome::Success).await;
        assert_eq!(result.failure_code.as_deref(), Some("review_no_verdict"), "{what}: {}", result.summary);
        assert_eq!((result.outcome, result.review), (Outcome::Failed, None), "{what}");
    }
}

#[tokio::test]
async fn a_huge_change_is_shown_in_part_and_one_of_too_many_lines_is_refused() {
    let server = Server::start();
    let long = |pod: &Pod| pod.write("src/a.rs", format!("{}\n", "x".repeat(3_000_000)));
    let (_, pod) = reviewing(&server, long).await;
    let bundle = bundle_of(&pod);
    assert!(bundle.patch_cut && !bundle.is_decided(), "one line more, however long");
    assert_eq!(fs::metadata(&bundle.patch).expect("patch").len(), bundle::MAX_PATCH_BYTES as u64);
    assert_eq!(review(&said(&pod, YES).await).verdict, ReviewVerdict::Approve);

    let server = Server::start();
    let (_, pod) = reviewing(&server, |pod| pod.write("src/a.rs", "x\n".repeat(6_000))).await;
    assert!(bundle_of(&pod).is_decided());
    let result = said(&pod, YES).await;
    assert_eq!(verdict(&result), (ReviewVerdict::RequestChanges, ReviewSource::Policy));
    assert_eq!(review(&result).findings, ["6001 changed lines are more than the 5000 that are allowed"]);
}

#[tokio::test]
async fn a_stop_gives_no_verdict() {
    let server = Server::start();
    let (_, pod) = reviewing(&server, small).await;
    fs::write(pod.paths.exchange.join(VERDICT_FILE), YES).expect("write");
    exchange::write_result(&pod.paths.exchange, &ContainerResult::new(Outcome::Success)).expect("write");
    pod.stop.cancel();
    let result = publish::run(&pod.inputs, &pod.paths, |_| Ok(Vec::new()), &pod.stop).await;
    assert_eq!((result.outcome, result.review), (Outcome::Cancelled, None));
}

/// Requests that a stand-in for the API was sent: run, token, key and body.
type Posted = Arc<Mutex<Vec<(String, String, String, Value)>>>;

/// A stand-in for the API on loopback that is busy for the first request of each run `r-busy`.
async fn api(pod: &Pod) -> (Api, Posted) {
    async fn take(
        State(posted): State<Posted>,
        Path(run): Path<String>,
        headers: HeaderMap,
        Json(body): Json<Value>,
    ) -> (StatusCode, Json<Value>) {
        let header = |name: &str| headers[name].to_str().expect("text").to_owned();
        let mut posted = posted.lock().expect("lock");
        posted.push((run, header("authorization"), header("idempotency-key"), body));
        let status = if posted.len() == 1 { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::CREATED };
        (status, Json(json!({})))
    }
    let posted = Posted::default();
    let router = Router::new().route("/runs/{id}/artifacts", post(take)).with_state(posted.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("listen");
    let address = listener.local_addr().expect("address");
    tokio::spawn(async move { axum::serve(listener, router).await });
    let token = pod.dir.path().join("token");
    fs::write(&token, "the-token\n").expect("write");
    (Api { url: Some(format!("http://{address}")), token }, posted)
}

#[tokio::test]
async fn the_change_is_kept_with_its_verdict_and_a_verdict_does_not_depend_on_it() {
    let server = Server::start();
    let (_, pod) = reviewing(&server, small).await;
    let (api, posted) = api(&pod).await;
    let result = said(&pod, YES).await;
    keep::change(&pod.inputs, &pod.paths, &api, &result, &pod.stop).await;
    let sent = posted.lock().expect("lock").clone();
    assert_eq!(sent.len(), 2, "once more while the API is busy");
    assert_eq!(sent[0], sent[1]);
    let (run, token, key, body) = &sent[1];
    let head = result.head.clone().expect("a head");
    assert_eq!((run, token.as_str(), key), (&pod.inputs.run, "Bearer the-token", &format!("change-{head}")));
    assert_eq!((body["type"].as_str(), body["ref"].as_str()), (Some("base_repo_diff"), Some(head.as_str())));
    assert!(body["content"].as_str().expect("text").contains("-a\n+changed\n"), "{body}");
    assert_eq!(body["metadata"]["truncated"], false);

    // No verdict, no API, an API that is away: nothing is posted, and nothing fails.
    let none = ContainerResult::new(Outcome::Failed);
    keep::change(&pod.inputs, &pod.paths, &api, &none, &pod.stop).await;
    let nowhere = Api { url: None, token: api.token.clone() };
    keep::change(&pod.inputs, &pod.paths, &nowhere, &result, &pod.stop).await;
    pod.stop.cancel();
    let away = Api { url: Some("http://127.0.0.1:9".into()), token: api.token.clone() };
    keep::change(&pod.inputs, &pod.paths, &away, &result, &pod.stop).await;
    assert_eq!(posted.lock().expect("lock").len(), 2);
}
