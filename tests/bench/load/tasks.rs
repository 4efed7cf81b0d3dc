//! The loop over Tasks: created here, carried out by the operator.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use futures::FutureExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, ApiResource, DeleteParams, PostParams};
use opentiger::crd::{GoDuration, Run, Task, TaskSpec, labels};

use crate::Outcome;
use crate::measure::Percentiles;
use crate::pace::{Pace, drive};
use crate::watch::Watch;

/// A Task of ordinary size.
pub fn task(name: &str) -> Task {
    let spec = TaskSpec {
        title: format!("Divide by zero gives an error ({name})"),
        goal: "`divide(1, 0)` raises ZeroDivisionError; it must return an error value that names both operands, \
               and the test of it must pass. Keep the signature of every other function."
            .into(),
        allowed_paths: vec!["src/**".into(), "tests/**".into()],
        commands: vec!["make test".into()],
        kind: "code".into(),
        // Tasks of one area exclude each other.
        target_area: Some(name.into()),
        timebox: GoDuration::from_secs(3600),
        ..TaskSpec::default()
    };
    Task::new(name, spec)
}

/// Runs `count` Tasks to Done at this pace, then waits for their last Pod to be gone.
///
/// # Errors
/// When a request fails or a Task does not end in time.
pub async fn run(
    client: Client,
    namespace: &str,
    prefix: &str,
    count: usize,
    pace: Pace,
) -> anyhow::Result<Outcome> {
    let tasks =
        Arc::new(Watch::start(client.clone(), namespace, &ApiResource::erase::<Task>(&()), None).await?);
    let pods =
        Watch::start(client.clone(), namespace, &ApiResource::erase::<Pod>(&()), Some(labels::TASK)).await?;
    let api: Api<Task> = Api::namespaced(client, namespace);
    let prefix = prefix.to_string();
    let begin = Instant::now();
    let ended = drive(pace, count, |i| {
        let (api, tasks, name) = (api.clone(), tasks.clone(), format!("{prefix}-{i}"));
        async move {
            let start = Instant::now();
            api.create(&PostParams::default(), &task(&name)).await.context("failed to create a Task")?;
            let seen = tasks.ended(&name).await?;
            Ok((name, start, seen))
        }
        .boxed()
    })
    .await?;
    pods.empty().await?;
    let elapsed = begin.elapsed();
    let mut queued_to_pod = Vec::with_capacity(count);
    let mut create_to_done = Vec::with_capacity(count);
    let mut failed = 0;
    for (name, start, seen) in ended {
        failed += usize::from(seen.phase != "Done");
        create_to_done.extend(seen.ended.map(|end| end.duration_since(start)));
        if let (Some(queued), Some(pod)) = (seen.first, pods.seen(&name).first) {
            queued_to_pod.push(pod.saturating_duration_since(queued));
        }
    }
    Ok(Outcome {
        elapsed,
        create_to_done: Percentiles::of(create_to_done),
        queued_to_pod: Some(Percentiles::of(queued_to_pod)),
        failed,
    })
}

/// Creates Tasks and does not wait for them.
///
/// # Errors
/// When a request fails.
pub async fn fill(
    client: Client,
    namespace: &str,
    prefix: &str,
    count: usize,
    cancelled: bool,
) -> anyhow::Result<()> {
    let api: Api<Task> = Api::namespaced(client, namespace);
    let prefix = prefix.to_string();
    drive(Pace::Closed { in_flight: 16 }, count, |i| {
        let (api, name) = (api.clone(), format!("{prefix}-{i}"));
        async move {
            let mut task = task(&name);
            task.spec.cancel = cancelled;
            Ok(api.create(&PostParams::default(), &task).await.map(|_| ())?)
        }
        .boxed()
    })
    .await
    .map(|_| ())
}

/// Deletes every Task; waits until they and their Runs are gone.
///
/// # Errors
/// When a request fails or something is left for too long.
pub async fn purge(client: Client, namespace: &str) -> anyhow::Result<()> {
    let tasks: Api<Task> = Api::namespaced(client.clone(), namespace);
    tasks.delete_collection(&DeleteParams::default(), &Default::default()).await?;
    for resource in
        [ApiResource::erase::<Task>(&()), ApiResource::erase::<Run>(&()), ApiResource::erase::<Pod>(&())]
    {
        Watch::start(client.clone(), namespace, &resource, None).await?.empty().await?;
    }
    Ok(())
}
