//! A scripted backlog left alone on a real node: every way an agent, a review or a merge can end,
//! everything stopped in the middle, the operator killed twice. `tests/demo/chaos` plays it, as it does
//! for `make demo-chaos`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "support/e2e/node.rs"]
mod node;

use std::process::Command;

use node::{RELEASE, SERVICES};

const SPACE: &str = "e2e-chaos";

#[test]
fn forty_tasks_that_meet_every_failure_end_as_they_should() {
    let node = node::node(&[SPACE]);
    let url = format!("http://git.{SERVICES}.svc.cluster.local/calculator.git");
    let played = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/demo/chaos"))
        .args([SPACE, RELEASE, &node.image("runner"), &url])
        .env("KUBECONFIG", node.kubeconfig())
        .output()
        .expect("the script runs");
    let said = String::from_utf8_lossy(&played.stdout);
    println!("{said}");
    assert!(played.status.success(), "{said}\n{}", String::from_utf8_lossy(&played.stderr));
    // What was approved is in the base branch, merged.
    let files = node.clone_repository().git(&["ls-tree", "-r", "--name-only", "main"]);
    for file in ["chaos/ok-01.txt", "chaos/refused-1.txt", "chaos/shared.txt"] {
        assert!(files.lines().any(|line| line == file), "{file} is not in main:\n{files}");
    }
}
