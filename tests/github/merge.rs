//! A merge through the forge.

use opentiger::crd::Purpose;

use crate::fake::Fault;
use crate::git_support::{BRANCH, commit_on_main, git};
use crate::{World, brief};

fn commits(world: &World) -> usize {
    git(&world.repository, &["rev-list", "--count", "main"]).trim().parse().expect("a number")
}

#[tokio::test]
async fn a_merge_is_one_commit_for_the_reviewed_head_and_is_made_once() {
    let world = World::start().await;
    let (run, _) = world.published().await;
    let pod = world.looking_at(&run, Purpose::Merge);
    let result = world.merge(&pod).await;
    assert_eq!(brief(&result), "Success -", "{}", result.summary);
    let main = git(&world.repository, &["rev-parse", "main"]).trim().to_string();
    assert_eq!((result.head.as_deref(), result.branch.as_deref()), (Some(main.as_str()), Some("main")));
    assert_eq!((result.changed_files, result.pr.map(|pr| pr.number)), (Some(1), Some(41)));
    let log = git(&world.repository, &["log", "-1", "--format=%s|%(trailers:only,separator=%x7C)", "main"]);
    assert_eq!(log.trim(), "[openTiger] Add x (#41)|OpenTiger-Task: team/add-x|OpenTiger-Run: run-uid-2");
    // Again, also when the branch is tidied away: found, not repeated.
    let late = world.looking_at(&run, Purpose::Merge);
    git(&world.repository, &["update-ref", "-d", &format!("refs/heads/{BRANCH}")]);
    let again = world.merge(&late).await;
    assert_eq!((brief(&again).as_str(), again.head.as_deref()), ("Success -", Some(main.as_str())));
    assert_eq!((commits(&world), world.github.world().count("PUT /repos/team/app/pulls/41/merge")), (2, 1));
}

#[tokio::test]
async fn a_merge_whose_answer_got_lost_is_found() {
    let world = World::start().await;
    let (run, _) = world.published().await;
    world.github.world().faults.push(Fault::new("PUT", "/merge", 502).carried_out());
    let result = world.merge(&world.looking_at(&run, Purpose::Merge)).await;
    assert_eq!(brief(&result), "Success -", "{}", result.summary);
    assert_eq!((commits(&world), world.github.world().count("PUT /repos/team/app/pulls/41/merge")), (2, 1));
}

#[tokio::test]
async fn a_head_that_moved_is_never_merged() {
    let world = World::start().await;
    let (run, _) = world.published().await;
    let pod = world.looking_at(&run, Purpose::Merge);
    let moved =
        git(&world.repository, &["commit-tree", "-p", BRANCH, "-m", "more", &format!("{BRANCH}^{{tree}}")]);
    git(&world.repository, &["update-ref", &format!("refs/heads/{BRANCH}"), moved.trim()]);
    assert_eq!(brief(&world.merge(&pod).await), "Failed review_head_moved");
    // Between our look and the merge: the server refuses, and the next look sees it.
    let pod = world.looking_at(&run, Purpose::Merge);
    let message = "Head branch was modified. Review and try the merge again.";
    world.github.world().faults.extend((0..3).map(|_| Fault::new("PUT", "/merge", 409).saying(message)));
    assert_eq!(brief(&world.merge(&pod).await), "Failed merge_base_moved");
    assert_eq!((commits(&world), world.github.world().count("PUT /repos/team/app/pulls/41/merge")), (1, 3));
}

#[tokio::test]
async fn a_branch_that_is_behind_is_updated_and_merged_by_a_later_run() {
    let world = World::start().await;
    let (run, _) = world.published().await;
    commit_on_main(&world.repository, &[("src/b.rs", "theirs\n")]);
    world.github.world().pulls[0].mergeable_state = "behind";
    let pod = world.looking_at(&run, Purpose::Merge);
    let result = world.merge(&pod).await;
    assert_eq!(brief(&result), "Failed checks_pending", "{}", result.summary);
    assert_ne!(
        git(&world.repository, &["rev-parse", BRANCH]).trim(),
        pod.inputs.spec.review.as_ref().unwrap().head_commit
    );
    // Its checks begin anew.
    world.github.world().checks = vec![("test", "queued", None)];
    assert_eq!(brief(&world.merge(&pod).await), "Failed checks_pending");
    world.github.world().checks = vec![("test", "completed", Some("failure"))];
    assert_eq!(brief(&world.merge(&pod).await), "Failed merge_conflict");
    world.github.world().checks = vec![("test", "completed", Some("success"))];
    let result = world.merge(&pod).await;
    assert_eq!(brief(&result), "Success -", "{}", result.summary);
    assert_eq!(git(&world.repository, &["show", "main:src/a.rs"]), "changed\n");
    assert_eq!(git(&world.repository, &["show", "main:src/b.rs"]), "theirs\n");
}

#[tokio::test]
async fn an_update_that_brings_more_than_the_base_is_not_the_reviewed_head() {
    let world = World::start().await;
    let (run, _) = world.published().await;
    let pod = world.looking_at(&run, Purpose::Merge);
    commit_on_main(&world.repository, &[("src/b.rs", "theirs\n")]);
    // Two parents and a tree of somebody's own making.
    let tree = git(&world.repository, &["rev-parse", "main^{tree}"]);
    let evil = git(
        &world.repository,
        &["commit-tree", "-p", BRANCH, "-p", "main", "-m", "Merge branch", tree.trim()],
    );
    git(&world.repository, &["update-ref", &format!("refs/heads/{BRANCH}"), evil.trim()]);
    let result = world.merge(&pod).await;
    assert_eq!(brief(&result), "Failed review_head_moved", "{}", result.summary);
    assert_eq!(world.github.world().count("PUT /repos/team/app/pulls/41/merge"), 0);
}

#[tokio::test]
async fn what_the_server_refuses_is_told_apart() {
    let world = World::start().await;
    let (run, _) = world.published().await;
    let merge = || async { world.merge(&world.looking_at(&run, Purpose::Merge)).await };
    world.github.world().pulls[0].mergeable_state = "dirty";
    assert_eq!(brief(&merge().await), "Failed merge_conflict");
    world.github.world().pulls[0].mergeable_state = "blocked";
    let rule = "At least 1 approving review is required by reviewers with write access.";
    world.github.world().faults.push(Fault::new("PUT", "/merge", 405).saying(rule));
    let result = merge().await;
    assert_eq!(brief(&result), "Failed merge_refused");
    assert!(result.summary.contains("approving review is required"), "{}", result.summary);
    world.github.world().faults.push(
        Fault::new("PUT", "/merge", 405).saying("Base branch was modified. Review and try the merge again."),
    );
    assert_eq!(brief(&merge().await), "Success -");
    world.github.world().pulls[0].state = "closed";
    assert_eq!(brief(&merge().await), "Failed pull_request_closed");
    assert_eq!(commits(&world), 2);
}

#[tokio::test]
async fn once_it_is_merged_what_it_has_taken_the_place_of_is_closed_and_nothing_else() {
    let world = World::start().await;
    {
        let mut fake = world.github.world();
        for (head, base) in
            [("agent/first", "main"), ("agent/second", "main"), ("agent/first", "next"), ("agent/x", "main")]
        {
            fake.add(head, base, "open");
        }
    }
    let (run, _) = world.published().await;
    let mut pod = world.looking_at(&run, Purpose::Merge);
    let review = pod.inputs.spec.review.as_mut().expect("a target");
    review.replaces = ["agent/gone", "agent/first", "agent/second"].map(String::from).to_vec();
    // The comment on the second is refused, which neither the merge nor the others suffer from.
    world.github.world().faults.push(Fault::new("POST", "/issues/42/comments", 403).saying("no"));
    let result = world.merge(&pod).await;
    assert_eq!(brief(&result), "Success -", "{}", result.summary);
    let states =
        || -> Vec<&'static str> { world.github.world().pulls.iter().map(|pull| pull.state).collect() };
    assert_eq!(states(), ["closed", "open", "open", "open", "merged"]);
    assert!(
        world.github.world().pulls[0].comments[0]
            .1
            .ends_with("#45 has taken the place of this pull request and is merged.")
    );
    // Once more: the merge is found, and what was left is closed.
    let mut late = world.looking_at(&run, Purpose::Merge);
    late.inputs.spec.review = pod.inputs.spec.review.clone();
    assert_eq!(brief(&world.merge(&late).await), "Success -");
    assert_eq!(states(), ["closed", "closed", "open", "open", "merged"]);
    assert_eq!(world.github.world().pulls[0].comments.len(), 1);
}
