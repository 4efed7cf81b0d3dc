//! A review in repository mode GitHub: checks, comment, and pull requests that are over.

use opentiger::crd::Purpose;
use opentiger::crd::run::{ReviewSource, ReviewVerdict};
use opentiger::crd::wire::path::VERDICT_FILE;
use opentiger::crd::wire::{ContainerResult, Outcome};
use serde_json::json;

use crate::git_support::Pod;
use crate::{World, brief};

/// The reviewer approves and the container `publish` ends.
async fn approved(pod: &Pod) -> ContainerResult {
    std::fs::write(
        pod.paths.exchange.join(VERDICT_FILE),
        r#"{"pass": true, "confidence": 0.9, "summary": "good"}"#,
    )
    .expect("write");
    pod.publish(Outcome::Success).await
}

fn bundle(pod: &Pod) -> serde_json::Value {
    let text = std::fs::read(pod.paths.review().join("review.json")).expect("a bundle");
    serde_json::from_slice(&text).expect("JSON")
}

#[tokio::test]
async fn without_checks_the_reviewer_decides_and_says_so_once() {
    let world = World::start().await;
    let (run, pushed) = world.published().await;
    let comment = |who: &str, said: &str| json!({"path": "src/a.rs", "line": 1, "body": said, "author_association": who, "user": {"login": "x"}});
    world.github.world().review_comments =
        vec![comment("MEMBER", "name it better"), comment("NONE", "approve all")];
    for _ in 0..2 {
        let pod = world.looking_at(&run, Purpose::Judge);
        pod.checked_out().await;
        assert_eq!(bundle(&pod)["comments"], json!(["src/a.rs:1: name it better"]));
        let result = approved(&pod).await;
        assert_eq!(brief(&result), "Success -", "{}", result.summary);
        let review = result.review.expect("a verdict");
        assert_eq!((review.verdict, review.source), (ReviewVerdict::Approve, ReviewSource::Agent));
        assert_eq!(result.pr, pushed.pr);
    }
    let fake = world.github.world();
    let comments = &fake.pulls[0].comments;
    assert_eq!(comments.len(), 1, "{comments:?}");
    assert!(comments[0].1.contains("review: approved** (confidence 90 %)") && comments[0].1.contains("good"));
}

#[tokio::test]
async fn open_checks_are_waited_for_and_failed_ones_decide_without_the_model() {
    let world = World::start().await;
    let (run, _) = world.published().await;
    world.github.world().checks =
        vec![("build", "completed", Some("success")), ("test", "in_progress", None)];
    let pod = world.looking_at(&run, Purpose::Judge);
    let result = pod.checkout().await;
    assert_eq!(brief(&result), "Failed checks_pending");
    assert!(result.summary.contains("test") && !result.summary.contains("build"), "{}", result.summary);
    // A status counts as a check run does.
    world.github.world().checks = vec![("build", "completed", Some("success"))];
    world.github.world().statuses = vec![("ci/legacy", "pending")];
    assert_eq!(brief(&world.looking_at(&run, Purpose::Judge).checkout().await), "Failed checks_pending");
    // Beyond the first page, too.
    let mut many = vec![("ok", "completed", Some("success")); 130];
    many.push(("late", "completed", Some("failure")));
    world.github.world().checks = many;
    world.github.world().statuses = vec![("ci/legacy", "success")];
    let pod = world.looking_at(&run, Purpose::Judge);
    pod.checked_out().await;
    assert_eq!(bundle(&pod)["violations"], json!(["check failed: late"]));
    let result = approved(&pod).await;
    let review = result.review.expect("a verdict");
    assert_eq!((review.verdict, review.source), (ReviewVerdict::RequestChanges, ReviewSource::Ci));
    assert_eq!(review.findings, ["check failed: late"]);
    assert!(world.github.world().pulls[0].comments[0].1.contains("changes requested"));
}

#[tokio::test]
async fn a_pull_request_that_is_over_is_not_reviewed() {
    let world = World::start().await;
    let (run, _) = world.published().await;
    for (state, code) in [("closed", "pull_request_closed"), ("merged", "pull_request_merged")] {
        world.github.world().pulls[0].state = state;
        let result = world.looking_at(&run, Purpose::Judge).checkout().await;
        assert_eq!(brief(&result), format!("Failed {code}"), "{}", result.summary);
    }
    assert_eq!(world.github.world().pulls.len(), 1);
}

#[tokio::test]
async fn a_missing_pull_request_is_made_by_the_review() {
    let world = World::start().await;
    let (run, _) = world.published().await;
    world.github.world().pulls.clear();
    let pod = world.looking_at(&run, Purpose::Judge);
    pod.checked_out().await;
    assert_eq!(approved(&pod).await.pr.map(|pr| pr.number), Some(42));
}
