//! The chart's life with live Tasks: upgrade and uninstall.

use std::time::{Duration, Instant};

use kube::ResourceExt;
use opentiger::crd::TaskPhase;

use super::space::Space;
use super::{SECOND, node};

/// A smaller release is enough here.
const SMALL: [&str; 4] = ["--set", "api.enabled=false", "--set", "operator.replicas=1"];

#[tokio::test]
async fn an_upgrade_keeps_what_runs_and_an_uninstall_does_not_wait_for_it() {
    let node = node();
    node.add_namespace(SECOND);
    node.install(SECOND, &[SECOND], &SMALL);
    let space = Space::armed(node, SECOND).await;
    space.command_pool("Worker", "demo-agent", "sleep 600");
    space.task("long", "  allowedPaths: [src/**]");
    let pod = space.agent_running("long").await;

    // Something that replaces the operator's Pod.
    node.install(
        SECOND,
        &[SECOND],
        &[&SMALL[..], &["--set", "operator.podAnnotations.upgraded=yes"]].concat(),
    );
    let still = space.agent_running("long").await;
    assert_eq!(still.uid(), pod.uid(), "an upgrade leaves what runs alone");
    let status = space.status("long").await;
    assert_eq!((status.phase, status.attempts), (TaskPhase::Running, 1));
    // The new operator has taken over: what is asked of it happens.
    node.kubectl(&[
        "-n",
        SECOND,
        "patch",
        "ott",
        "long",
        "--type=merge",
        "-p",
        r#"{"spec":{"cancel":true}}"#,
    ]);
    space.no_pod("long", Duration::from_secs(60)).await;
    let cancelled = |status: &opentiger::crd::TaskStatus| status.phase == TaskPhase::Cancelled;
    space.until("long", "Cancelled", Duration::from_secs(30), cancelled).await;

    space.task("longer", "  allowedPaths: [src/**]");
    let pod = space.agent_running("longer").await;
    let since = Instant::now();
    node.ok("helm", &["uninstall", "opentiger", "--namespace", SECOND, "--wait", "--timeout", "60s"]);
    assert!(since.elapsed() < Duration::from_secs(50), "{:?}", since.elapsed());
    assert_eq!(space.status("longer").await.phase, TaskPhase::Running, "objects survive an uninstall");
    assert_eq!(space.agent_running("longer").await.uid(), pod.uid());
    // Nothing of ours keeps a namespace from ending.
    let since = Instant::now();
    node.kubectl(&["delete", "namespace", SECOND, "--timeout=90s"]);
    assert!(since.elapsed() < Duration::from_secs(80), "{:?}", since.elapsed());
}
