//! The pull request of an Execute Run.

use jiff::Timestamp;
use opentiger::crd::run::PullRequest;
use opentiger::crd::task::RiskLevel;
use opentiger::crd::wire::Outcome;

use crate::fake::Fault;
use crate::git_support::{BRANCH, git};
use crate::{TOKEN, World, brief, holding_the_token, infra};

#[tokio::test]
async fn a_result_gets_one_pull_request_that_a_second_attempt_finds_and_updates_a8() {
    let world = World::start().await;
    let (pod, result) = world.published().await;
    let url = "https://git.example/team/app/pull/41";
    assert_eq!(result.pr, Some(PullRequest { number: 41, url: url.into() }));
    assert!(result.summary.contains(url), "{}", result.summary);
    {
        let fake = world.github.world();
        let pull = &fake.pulls[0];
        assert_eq!(
            (pull.title.as_str(), pull.head.as_str(), pull.base.as_str()),
            ("[openTiger] Add x", BRANCH, "main")
        );
        assert_eq!(pull.labels, ["agent", "autogen", "low-risk"]);
        for line in [
            "x is there. Closes issue #1",
            "- [task:task-uid]",
            "- Risk: low",
            "1 files, +1 -1",
            "- `src/a.rs`",
        ] {
            assert!(pull.body.contains(line), "{line}: {}", pull.body);
        }
    }
    // The same Run again: its push is found, its pull request gets the present text.
    let mut again = world.pod();
    again.inputs.spec.inputs.title = "Add x and y".into();
    again.inputs.spec.inputs.risk_level = RiskLevel::High;
    again.inputs.spec.inputs.commands = vec!["make `test`".into()];
    again.checked_out().await;
    let second = again.published().await;
    assert_eq!((second.pr, second.head), (result.pr, result.head));
    let fake = world.github.world();
    assert_eq!((fake.pulls.len(), fake.pulls[0].title.as_str()), (1, "[openTiger] Add x and y"));
    assert!(fake.pulls[0].body.contains("- `make 'test'`") && fake.pulls[0].body.contains("Risk: high"));
    assert_eq!(fake.count("POST /repos/team/app/pulls"), 1);
    drop(pod);
}

#[tokio::test]
async fn a_creation_whose_answer_got_lost_is_found_and_not_repeated() {
    let world = World::start().await;
    world.github.world().faults.push(Fault::new("POST", "/app/pulls", 500).carried_out());
    let (_, result) = world.published().await;
    assert_eq!(result.pr.map(|pr| pr.number), Some(41));
    let fake = world.github.world();
    assert_eq!((fake.pulls.len(), fake.count("POST /repos/team/app/pulls")), (1, 1));
}

#[tokio::test]
async fn of_several_pull_requests_the_open_one_is_used() {
    let world = World::start().await;
    for state in ["closed", "open", "closed"] {
        world.github.world().add(BRANCH, "main", state);
    }
    world.github.world().add("agent/another", "main", "open");
    let (_, result) = world.published().await;
    assert_eq!(result.pr.map(|pr| pr.number), Some(42));
    assert_eq!(world.github.world().count("POST /repos/team/app/pulls"), 0);
}

#[tokio::test]
async fn a_short_limit_is_waited_for_and_a_long_one_is_told_with_its_reset() {
    let world = World::start().await;
    let secondary =
        || Fault::new("POST", "/app/pulls", 403).saying("You have exceeded a secondary rate limit.");
    world.github.world().faults.push(secondary().with("retry-after", 1));
    world.published().await;
    assert_eq!(world.github.world().count("POST /repos/team/app/pulls"), 2);

    let world = World::start().await;
    world.github.world().faults.push(secondary().with("retry-after", 3600));
    let pod = world.pod();
    pod.checked_out().await;
    pod.write("src/a.rs", "changed\n");
    let before = Timestamp::now();
    let result = pod.publish(Outcome::Success).await;
    assert_eq!(brief(&result), infra("forge_rate_limited"), "{}", result.summary);
    let wait = result.retry_at.expect("a time").as_second() - before.as_second();
    assert!((3600..3700).contains(&wait), "{wait}");
    assert_eq!(world.github.world().count("POST /repos/team/app/pulls"), 1, "not asked again");
}

#[tokio::test]
async fn a_server_that_fails_is_asked_three_times() {
    let world = World::start().await;
    for _ in 0..3 {
        world.github.world().faults.push(Fault::new("GET", "/app/pulls", 502));
    }
    let pod = world.pod();
    pod.checked_out().await;
    pod.write("src/a.rs", "changed\n");
    let result = pod.publish(Outcome::Success).await;
    assert_eq!(brief(&result), infra("forge_unreachable"), "{}", result.summary);
    assert_eq!(world.github.world().count("GET /repos/team/app/pulls"), 3);
    assert!(world.github.world().pulls.is_empty());
    // The next try of the same Run finds what was pushed.
    pod.checked_out().await;
    assert_eq!(pod.published().await.pr.map(|pr| pr.number), Some(41));
}

#[tokio::test]
async fn labels_that_fail_are_no_failure() {
    let world = World::start().await;
    world.github.world().faults.push(Fault::new("POST", "/labels", 422).saying("Validation Failed"));
    let (_, result) = world.published().await;
    assert_eq!(result.pr.map(|pr| pr.number), Some(41));
    assert!(world.github.world().pulls[0].labels.is_empty());
}

#[tokio::test]
async fn what_the_base_has_already_is_a_success_without_a_change_a11() {
    let world = World::start().await;
    let pod = world.pod();
    pod.checked_out().await;
    pod.write("src/a.rs", "changed\n");
    crate::git_support::commit_on_main(&world.repository, &[("src/a.rs", "changed\n")]);
    let result = pod.publish(Outcome::Success).await;
    assert_eq!(brief(&result), "Noop -", "{}", result.summary);
}

#[tokio::test]
async fn the_token_is_in_no_output_and_in_no_file_that_stays() {
    let world = World::start().await;
    let echo = || Fault::new("POST", "/app/pulls", 422).saying("no such thing as $TOKEN");
    world.github.world().faults.push(echo());
    let pod = world.pod();
    pod.checked_out().await;
    assert_eq!(holding_the_token(&pod.paths.repository), Vec::<std::path::PathBuf>::new(), "after checkout");
    assert_eq!(holding_the_token(&pod.paths.checkout), Vec::<std::path::PathBuf>::new());
    pod.write("src/a.rs", "changed\n");
    let result = pod.publish(Outcome::Success).await;
    assert_eq!(brief(&result), "Failed forge_refused");
    assert!(result.summary.contains("no such thing as ***"), "{}", result.summary);
    assert!(!result.to_message().contains(TOKEN));
    assert_eq!(holding_the_token(&pod.paths.repository), Vec::<std::path::PathBuf>::new(), "after publish");
    assert!(!git(&world.repository, &["log", "--all", "--format=%B"]).contains(TOKEN));
}

#[tokio::test]
async fn a_secret_that_cannot_be_used_says_what_to_change() {
    let world = World::start().await;
    let pod = world.pod();
    let secret = pod.paths.credentials.clone();
    std::fs::write(secret.join("token"), "expired").expect("write");
    let result = pod.checkout().await;
    // git's server says so first.
    assert_eq!(brief(&result), "Failed repository_authentication_refused", "{}", result.summary);
    std::fs::write(secret.join("token"), "two words").expect("write");
    assert_eq!(brief(&pod.checkout().await), "Failed forge_misconfigured");
    std::fs::remove_file(secret.join("token")).expect("remove");
    let result = pod.checkout().await;
    assert!(result.summary.contains("neither the key token nor the keys appId"), "{}", result.summary);
    // What is not the API is told as such.
    let mut pod = world.pod();
    pod.inputs.spec.repository.api_url = Some(world.github.url.replace("/api/v3", "/elsewhere"));
    pod.checked_out().await;
    pod.write("src/a.rs", "changed\n");
    let result = pod.publish(Outcome::Success).await;
    assert_eq!(brief(&result), "Failed forge_repository_not_found", "{}", result.summary);
}

#[tokio::test]
async fn work_that_mends_another_s_is_proposed_to_the_branch_it_is_merged_into() {
    let world = World::start().await;
    let mut pod = world.pod();
    git(&world.repository, &["branch", "agent/older-r1", "main"]);
    pod.inputs.spec.repository.base_branch = "agent/older-r1".into();
    pod.inputs.spec.repository.merge_into = Some("main".into());
    pod.checked_out().await;
    pod.write("src/a.rs", "mended\n");
    pod.published().await;
    assert_eq!(world.github.world().pulls[0].base, "main");
}
