//! The loop over bare Pods: created, completed by the simulated node, deleted.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use futures::FutureExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{Api, ApiResource, DeleteParams, PostParams};
use serde_json::json;

use crate::Outcome;
use crate::measure::Percentiles;
use crate::pace::{Pace, drive};
use crate::watch::Watch;

/// Runs `count` Pods at this pace.
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
    let pods =
        Arc::new(Watch::start(client.clone(), namespace, &ApiResource::erase::<Pod>(&()), None).await?);
    let api: Api<Pod> = Api::namespaced(client, namespace);
    let prefix = prefix.to_string();
    let begin = Instant::now();
    let took = drive(pace, count, |i| {
        let (api, pods, name) = (api.clone(), pods.clone(), format!("{prefix}-{i}"));
        async move {
            let start = Instant::now();
            api.create(&PostParams::default(), &pod(&name)?).await.context("failed to create a Pod")?;
            pods.ended(&name).await?;
            api.delete(&name, &DeleteParams::default()).await.context("failed to delete a Pod")?;
            Ok(start.elapsed())
        }
        .boxed()
    })
    .await?;
    pods.empty().await?;
    let elapsed = begin.elapsed();
    Ok(Outcome { elapsed, create_to_done: Percentiles::of(took), queued_to_pod: None, failed: 0 })
}

/// The smallest Pod that the simulated nodes complete.
fn pod(name: &str) -> anyhow::Result<Pod> {
    Ok(serde_json::from_value(json!({
        "metadata": {"name": name, "labels": {opentiger::crd::labels::RUN: name}},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": false,
            "containers": [{"name": "main", "image": "localhost/agent"}],
        },
    }))?)
}
