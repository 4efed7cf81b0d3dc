//! The floor: the writes that a Task costs, made by a client without any controller. The objects are
//! those that the operator would build.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use futures::FutureExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ApiResource, DeleteParams, Patch, PatchParams, PostParams};
use kube::{Client, ResourceExt as _};
use opentiger::build::pod::{RunnerImage, build_pod};
use opentiger::build::run::{Slot, build_run};
use opentiger::crd::{AgentPool, Run, System, Task};
use serde_json::{Value, json};

use crate::measure::Percentiles;
use crate::pace::{Pace, drive};
use crate::watch::Watch;
use crate::{Outcome, tasks};

struct Floor {
    tasks: Api<Task>,
    runs: Api<Run>,
    pods: Api<Pod>,
    watch: Watch,
    system: System,
    pool: AgentPool,
}

/// Runs `count` of them at this pace.
///
/// # Errors
/// When a request fails or a Pod does not end in time.
pub async fn run(
    client: Client,
    namespace: &str,
    prefix: &str,
    count: usize,
    pace: Pace,
) -> anyhow::Result<Outcome> {
    let floor = Arc::new(Floor {
        tasks: Api::namespaced(client.clone(), namespace),
        runs: Api::namespaced(client.clone(), namespace),
        pods: Api::namespaced(client.clone(), namespace),
        watch: Watch::start(client.clone(), namespace, &ApiResource::erase::<Pod>(&()), None).await?,
        system: Api::namespaced(client.clone(), namespace).get("default").await?,
        pool: Api::namespaced(client, namespace).get("worker").await?,
    });
    let prefix = prefix.to_string();
    let begin = Instant::now();
    let took = drive(pace, count, |i| {
        let (floor, name) = (floor.clone(), format!("{prefix}-{i}"));
        async move {
            let start = Instant::now();
            floor.one(&name, i).await?;
            Ok(start.elapsed())
        }
        .boxed()
    })
    .await?;
    floor.watch.empty().await?;
    let elapsed = begin.elapsed();
    Ok(Outcome { elapsed, create_to_done: Percentiles::of(took), queued_to_pod: None, failed: 0 })
}

impl Floor {
    async fn one(&self, name: &str, i: usize) -> anyhow::Result<()> {
        let create = PostParams::default();
        let task = self.tasks.create(&create, &tasks::task(name)).await.context("failed to create a Task")?;
        let slot = Slot {
            agent: format!("worker-{}", i % 50 + 1),
            lane: "feature".into(),
            target_areas: Vec::new(),
            term: self.system.term(),
            tokens: None,
        };
        let run = self
            .runs
            .create(&create, &build_run(&task, &self.system, &self.pool, &slot))
            .await
            .context("failed to create a Run")?;
        let run_name = run.name_any();
        let running = json!({
            "phase": "Running", "attempts": 1, "currentRun": run_name, "lastRun": run_name, "agent": slot.agent,
            "next": {"kind": "Watch", "detail": "the Run is in progress"},
            "transitions": [transition(1, "Running", &run_name)],
        });
        self.patch(&self.tasks, name, running).await?;
        let runner = RunnerImage {
            image: "localhost/runner".into(),
            pull_policy: "IfNotPresent".into(),
            api_url: None,
        };
        self.pods
            .create(&create, &build_pod(&run, &runner, slot.term)?)
            .await
            .context("failed to create a Pod")?;
        self.watch.ended(&run_name).await?;
        let ended = json!({
            "phase": "Success", "branch": run.spec.repository.branch, "headCommit": "0".repeat(40), "logs": "NotKept",
            "startedAt": "2026-01-01T00:00:00Z", "finishedAt": "2026-01-01T00:00:01Z",
        });
        self.patch(&self.runs, &run_name, ended).await?;
        let done = json!({
            "phase": "Done", "currentRun": null, "agent": null, "next": null, "branch": run.spec.repository.branch,
            "transitions": [transition(1, "Running", &run_name), transition(2, "Done", &run_name)],
        });
        self.patch(&self.tasks, name, done).await?;
        self.pods.delete(&run_name, &DeleteParams::default()).await.context("failed to delete a Pod")?;
        Ok(())
    }

    async fn patch<K>(&self, api: &Api<K>, name: &str, status: Value) -> anyhow::Result<()>
    where
        K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
    {
        let patch = Patch::Merge(json!({"status": status}));
        api.patch_status(name, &PatchParams::default(), &patch)
            .await
            .with_context(|| format!("failed to patch the status of {name}"))?;
        Ok(())
    }
}

fn transition(sequence: i64, phase: &str, run: &str) -> Value {
    json!({"sequence": sequence, "at": "2026-01-01T00:00:00Z", "phase": phase, "event": phase, "reason": "", "run": run})
}
