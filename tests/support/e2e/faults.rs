//! How attempts end badly, what that costs, and what follows.

use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use opentiger::crd::{BlockReason, FailureClass, NextKind, Run, RunPhase, TaskPhase, TaskStatus};

use super::node;
use super::space::{ATTEMPT, Space};

/// The change that every second attempt makes.
const CHANGE: &str = "echo '# changed' >>src/calc.py";
const PATHS: &str = "  allowedPaths: [src/**]";

fn verdict(run: &Run) -> (RunPhase, String, Option<FailureClass>) {
    let status = run.status.clone().expect("a status");
    (status.phase, status.failure_code, status.failure_class)
}

#[tokio::test]
async fn an_agent_out_of_memory_is_a_fault_of_its_environment_and_costs() {
    let space = Space::armed(node(), "e2e-memory").await;
    let script =
        format!("[ $OPENTIGER_ATTEMPT != 1 ] || python3 -c 'print(len(bytearray(1 << 30)))'; {CHANGE}");
    // The shell must fail with its child for the attempt to fail with it.
    space.command_pool("Worker", "demo-agent", &format!("set -e\n{script}"));
    space.task("greedy", PATHS);
    let status = space.done("greedy", 2 * ATTEMPT).await;
    let runs = space.runs("greedy").await;
    let env = Some(FailureClass::Env);
    assert_eq!(verdict(&runs[0]), (RunPhase::Failed, "environment_issue".into(), env));
    let summary = runs[0].status.clone().unwrap_or_default().summary;
    assert!(summary.contains("resources.limits.memory"), "it says what to change: {summary}");
    assert_eq!((status.attempts, status.retries.failure, status.retries.infra), (2, 1, 0));
}

#[tokio::test]
async fn a_crash_a_limit_and_garbage_each_lead_to_their_next_step() {
    let space = Space::armed(node(), "e2e-endings").await;
    space.mock_pool("Worker", "{outcome: Garbage}");
    space.mock_pool("Tester", "{outcome: Crash, firstAttempts: 1, file: src/mock.py}");
    space.mock_pool("Docser", "{outcome: Quota, firstAttempts: 1, resetAfter: 8s, file: docs/mock.md}");
    // With files that are to change, no change is no success.
    space.task("garbage", &format!("  context: {{files: [src/calc.py]}}\n{PATHS}"));
    space.task("crash", &format!("  role: Tester\n  targetArea: crash\n{PATHS}"));
    space.task("limit", "  role: Docser\n  allowedPaths: [docs/**]");

    let waiting = |status: &TaskStatus| status.block_reason == Some(BlockReason::QuotaWait);
    let limited = space.until("limit", "waiting for the provider", ATTEMPT, waiting).await;
    let next = limited.next.expect("a next step");
    let run = space.runs("limit").await.remove(0).status.expect("a status");
    assert_eq!((next.kind, next.at), (NextKind::Time, limited.retry_at));
    let (reset, retry) = (run.retry_at.expect("a reset"), limited.retry_at.expect("a time"));
    let after = retry.duration_since(reset).as_millis();
    assert!((0..=1000).contains(&after), "tried again at the stated reset, not {after} ms after");

    let crashed = space.done("crash", 2 * ATTEMPT).await;
    let runs = space.runs("crash").await;
    let model = Some(FailureClass::Model);
    assert_eq!(verdict(&runs[0]), (RunPhase::Failed, "model_or_unknown_failure".into(), model));
    assert_eq!((crashed.attempts, crashed.retries.failure, crashed.retries.infra), (2, 1, 0));

    let person = |status: &TaskStatus| status.phase == TaskPhase::Blocked;
    let garbage = space.until("garbage", "handed to a person", ATTEMPT, person).await;
    assert_eq!(garbage.last_failure.expect("a failure").code, "no_actionable_changes");
    assert_eq!(garbage.next.expect("a next step").kind, NextKind::Operator);
    assert_eq!(garbage.attempts, 1);

    let limit = space.done("limit", 2 * ATTEMPT).await;
    assert_eq!((limit.attempts, limit.retries.quota, limit.retries.failure), (2, 1, 0));
    let again = space.runs("limit").await.remove(1).creation_timestamp().expect("a time").0;
    assert!(again >= retry, "not before: {again}, {retry}");
}

#[tokio::test]
async fn a_hanging_agent_is_ended_at_its_timebox() {
    let space = Space::armed(node(), "e2e-hang").await;
    space.mock_pool("Worker", "{outcome: Hang, firstAttempts: 1, file: src/mock.py}");
    space.task("hang", &format!("  timebox: 1m\n{PATHS}"));
    let status = space.done("hang", 3 * ATTEMPT).await;
    let first = space.runs("hang").await.remove(0).status.expect("a status");
    assert!(first.summary.contains("timed out after 1m"), "{}", first.summary);
    let (started, finished) = (first.started_at.expect("a start"), first.finished_at.expect("an end"));
    let taken = finished.duration_since(started).as_secs();
    assert!((59..80).contains(&taken), "ended after {taken} s of a timebox of 60 s");
    assert_eq!((status.attempts, status.retries.failure), (2, 1));
}

/// A Pod whose agent container waits for an image.
fn waits_for_image(pod: &Pod) -> bool {
    let statuses = pod.status.as_ref().and_then(|s| s.container_statuses.as_ref());
    statuses.into_iter().flatten().any(|container| {
        let waiting = container.state.as_ref().and_then(|state| state.waiting.as_ref());
        let reason = waiting.and_then(|waiting| waiting.reason.as_deref());
        container.name == "agent" && matches!(reason, Some("ErrImagePull" | "ImagePullBackOff"))
    })
}

#[tokio::test]
async fn an_image_that_does_not_exist_is_named_on_the_task_and_costs_no_attempt() {
    let space = Space::armed(node(), "e2e-image").await;
    space.pool("Worker", "localhost/opentiger/absent:none", "{type: Command, command: {argv: ['true']}}");
    space.task("absent", PATHS);
    space.pod_where("absent", "an agent that waits for its image", waits_for_image).await;
    let names_it = |status: &TaskStatus| {
        status.next.as_ref().is_some_and(|next| next.detail.contains("localhost/opentiger/absent:none"))
    };
    let shown = space.until("absent", "explained while it starts", Duration::from_secs(30), names_it).await;
    assert_eq!(shown.phase, TaskPhase::Running);
    let given_up = |status: &TaskStatus| status.retries.infra > 0;
    let status = space.until("absent", "queued again", ATTEMPT, given_up).await;
    assert_eq!((status.phase, status.retries.failure, status.retries.infra), (TaskPhase::Queued, 0, 1));
    let next = status.next.expect("a next step");
    assert_eq!(next.kind, NextKind::Time);
    assert!(next.detail.contains("localhost/opentiger/absent:none"), "{}", next.detail);
    let run = space.runs("absent").await.remove(0);
    assert_eq!(verdict(&run), (RunPhase::Failed, "pod_not_started".into(), Some(FailureClass::Infra)));
}

/// Works on until it is told to stop, except in a second attempt; one task does not listen.
const LONG: &str = "
case $OPENTIGER_RUN in stubborn-*) trap '' TERM ;; esac
[ $OPENTIGER_ATTEMPT != 1 ] || { sleep 600 & wait; sleep 600; }
echo '# changed' >>src/calc.py
";

#[tokio::test]
async fn what_is_interrupted_ends_in_time_and_costs_no_attempt() {
    let space = Space::armed(node(), "e2e-interrupted").await;
    space.command_pool("Worker", "demo-agent", LONG);
    for task in ["deleted", "stubborn", "willing"] {
        space.task(task, &format!("  targetArea: {task}\n{PATHS}"));
    }
    // Deleted by hand: queued again at no cost, and done.
    let pod = space.agent_running("deleted").await.name_any();
    space.node.kubectl(&["-n", &space.name, "delete", "pod", &pod, "--wait=false"]);
    // Cancelled: the Pod is gone within its grace time, whether the agent listens or not.
    for (task, limit) in [("willing", 20), ("stubborn", 35)] {
        space.agent_running(task).await;
        space.node.kubectl(&[
            "-n",
            &space.name,
            "patch",
            "ott",
            task,
            "--type=merge",
            "-p",
            r#"{"spec":{"cancel":true}}"#,
        ]);
        let cancelled = |status: &TaskStatus| status.phase == TaskPhase::Cancelled;
        let limit = Duration::from_secs(limit);
        let since = Instant::now();
        space.no_pod(task, limit).await;
        let status = space.until(task, "Cancelled", limit.saturating_sub(since.elapsed()), cancelled).await;
        assert_eq!((status.attempts, status.retries.failure, status.retries.infra), (1, 0, 0), "{task}");
        assert_eq!(verdict(&space.runs(task).await[0]).0, RunPhase::Cancelled, "{task}");
    }
    let status = space.done("deleted", 2 * ATTEMPT).await;
    assert_eq!((status.attempts, status.retries.failure, status.retries.infra), (2, 0, 1));
    let first = verdict(&space.runs("deleted").await[0]);
    assert_eq!((first.0, first.2), (RunPhase::Failed, Some(FailureClass::Infra)), "{}", first.1);
}
