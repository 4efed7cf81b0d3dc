//! What a Task delivers: a branch with the allowed change, and logs that outlive the Pod.

use std::sync::OnceLock;
use std::time::Duration;

use kube::ResourceExt;
use opentiger::crd::{Run, RunPhase, TaskPhase, TaskStatus};

use super::node;
use super::space::{ATTEMPT, Space};

/// Each Task of this namespace by the name of its Run.
const SCRIPT: &str = r#"
set -eu
echo "working on $OPENTIGER_RUN, attempt $OPENTIGER_ATTEMPT"
case $OPENTIGER_RUN in
  fix-*)
    sed -i 's/return 0/raise ValueError("division by zero")/' src/calc.py
    mkdir -p src/__pycache__ && echo ignored >src/__pycache__/calc.pyc ;;
  second-*)
    echo "$OPENTIGER_ATTEMPT" >notes.txt
    [ "$OPENTIGER_ATTEMPT" = 1 ] || sed -i 's/return 0/raise ValueError("division by zero")/' src/calc.py ;;
  kept-*) echo '# kept' >>src/calc.py ;;
  outside-*) echo all: >Makefile ;;
esac
echo "what is said on the error stream" >&2
"#;

/// The namespace that the tests of this file share.
async fn space() -> Space {
    static READY: OnceLock<()> = OnceLock::new();
    let space = Space::connect(node(), "e2e-delivery").await;
    READY.get_or_init(|| {
        space.arm();
        space.command_pool("Worker", "demo-agent", SCRIPT);
    });
    space
}

fn succeeded(runs: &[Run]) -> Vec<bool> {
    runs.iter().map(|run| run.status.as_ref().is_some_and(|s| s.phase == RunPhase::Success)).collect()
}

/// That the branch of the Task's last Run holds one commit of that Run with exactly `changed`.
fn assert_pushed(space: &Space, status: &TaskStatus, run: &Run, changed: &[&str]) {
    assert_eq!(status.branch, format!("agent/{}", run.name_any()));
    let clone = space.node.clone_repository();
    let branch = format!("refs/heads/{}", status.branch);
    assert_eq!(clone.git(&["rev-parse", &branch]), status.head_commit);
    assert_eq!(clone.git(&["rev-list", "--count", &format!("refs/heads/main..{branch}")]), "1");
    let trailer = "--format=%(trailers:key=OpenTiger-Run,valueonly,separator=%x20)";
    assert_eq!(clone.git(&["log", "-1", trailer, &branch]), run.uid().expect("a uid"));
    let names = clone.git(&["diff", "--name-only", "refs/heads/main", &branch]);
    assert_eq!(names.lines().collect::<Vec<_>>(), changed);
}

#[tokio::test]
async fn a_task_applied_with_kubectl_ends_with_a_pushed_branch_that_carries_its_run() {
    let space = space().await;
    space.task("fix", "  allowedPaths: [src/**]\n  commands: [make test]");
    let status = space.done("fix", ATTEMPT).await;
    let runs = space.runs("fix").await;
    assert_eq!((status.attempts, succeeded(&runs)), (1, vec![true]));
    assert_pushed(&space, &status, &runs[0], &["src/calc.py"]);
    let wait = ["-n", &space.name, "wait", "--for=condition=Complete", "ott/fix", "--timeout=5s"];
    space.node.kubectl(&wait);
}

#[tokio::test]
async fn logs_of_every_container_are_kept_after_the_pod_is_gone() {
    let space = space().await;
    space.task("kept", "  allowedPaths: [src/**]\n  targetArea: kept");
    space.done("kept", ATTEMPT).await;
    space.no_pod("kept", Duration::from_secs(60)).await;
    let run = space.runs("kept").await.remove(0);
    for (container, words) in [
        ("checkout", &["checked out main"][..]),
        ("agent", &["working on kept-", "what is said on the error stream"]),
        ("publish", &["Success: agent/kept-"]),
    ] {
        let log = space.log(&run, container).await;
        let log = log.unwrap_or_else(|| panic!("the log of {container} is not in run_logs"));
        for word in words {
            assert!(log.contains(word), "{container} said {word:?}:\n{log}");
        }
    }
}

#[tokio::test]
async fn a_failed_verification_is_tried_again_and_succeeds() {
    let space = space().await;
    space.task("second", "  allowedPaths: [src/**, notes.txt]\n  commands: [make test]\n  targetArea: own");
    let status = space.done("second", 2 * ATTEMPT).await;
    let runs = space.runs("second").await;
    assert_eq!((status.attempts, succeeded(&runs)), (2, vec![false, true]));
    let first = runs[0].status.clone().expect("a status");
    assert_eq!(first.failure_code, "verification_command_failed", "{}", first.summary);
    assert_eq!((status.retries.rework, status.retries.failure, status.retries.infra), (1, 0, 0));
    assert_pushed(&space, &status, &runs[1], &["notes.txt", "src/calc.py"]);
}

#[tokio::test]
async fn a_change_of_a_denied_path_is_not_pushed_and_a_person_is_told() {
    let space = space().await;
    space.task("outside", "  allowedPaths: [src/**]\n  deniedPaths: [Makefile]\n  targetArea: outside");
    let refused = |status: &TaskStatus| status.phase == TaskPhase::Blocked;
    let status = space.until("outside", "refused", ATTEMPT, refused).await;
    let failure = status.last_failure.expect("a failure");
    assert_eq!(failure.code, "policy_violation");
    assert!(failure.summary.contains("Makefile"), "{}", failure.summary);
    assert!(status.next.expect("a next step").detail.contains("edit the Task's spec"));
    let branches = space.node.clone_repository().branches();
    assert!(!branches.iter().any(|branch| branch.contains("/outside-")), "{branches:?}");
}
