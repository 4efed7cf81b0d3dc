//! What a control plane fills in for and refuses of the System's settings for budgets, cycles,
//! restarts and retention: a section left out has its defaults, a member left out of a given section
//! means "unlimited".
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

use kube::api::{Api, DeleteParams, PostParams};
use opentiger::crd::System;
use serde_json::{Value, json};
use support::cluster::{self, TestNamespace};

/// What becomes of a System with these settings: its spec as it is stored, or the refusal.
async fn stored(api: &Api<System>, settings: Value) -> Result<Value, String> {
    let mut spec = json!({"repository": {"url": "http://git/x.git"}});
    for (key, value) in settings.as_object().expect("settings") {
        spec[key] = value.clone();
    }
    // The raw spec, so that nothing is filled in on this side.
    let object = json!({"apiVersion": "opentiger.dev/v1alpha1", "kind": "System", "metadata": {"name": "default"}, "spec": spec});
    let request = kube::core::Request::new(api.resource_url())
        .create(&PostParams::default(), serde_json::to_vec(&object).expect("JSON"))
        .expect("a request");
    let answer = api.clone().into_client().request::<Value>(request).await.map_err(|e| e.to_string())?;
    api.delete("default", &DeleteParams::default()).await.expect("deleted");
    Ok(answer["spec"].clone())
}

#[tokio::test]
async fn sections_have_defaults_and_members_of_a_given_section_have_none() {
    let client = cluster::client().await;
    cluster::install_crds(&client).await;
    let namespace = TestNamespace::create(&client, "settings").await;
    let api: Api<System> = Api::namespaced(client, &namespace.name);
    let spec = stored(&api, json!({})).await.expect("accepted");
    let cycles =
        json!({"maxDuration": "4h", "maxTasks": 100, "maxFailureRate": 30, "minTasksForFailureCheck": 10});
    assert_eq!(spec["cycles"], cycles);
    assert_eq!(spec["retention"], json!({"finishedAfter": "168h", "maxFinished": 1000}));
    assert_eq!(spec["autoRestart"], json!({"enabled": true, "delay": "2s", "window": "5m"}));
    assert_eq!(spec["budgets"], json!({}));
    let heal = json!({"enabled": true, "interval": "30s", "startupGrace": "2m", "judgeBacklog": "StartWhenArmed", "agentLivenessWindow": "2m"});
    assert_eq!(spec["selfHeal"], heal);
    let verification = json!({"automatic": "Contract", "contractPath": ".opentiger/verify.contract.json", "maxAutomaticCommands": 4, "automaticMayFail": true});
    assert_eq!(spec["verification"], verification);
    let spec = stored(&api, json!({"cycles": {"maxTasks": 5}, "retention": {}})).await.expect("accepted");
    assert_eq!(spec["cycles"], json!({"maxTasks": 5, "minTasksForFailureCheck": 10}));
    assert_eq!(spec["retention"], json!({}));
    let refused = [
        (json!({"budgets": {"perDay": 0}}), "greater than or equal to 1"),
        (json!({"cycles": {"maxTasks": 0}}), "greater than or equal to 1"),
        (json!({"cycles": {"maxFailureRate": 101}}), "less than or equal to 100"),
        (json!({"cycles": {"maxDuration": "0s"}}), "maxDuration: must be a duration between 1s and 8760h"),
        (json!({"autoRestart": {"delay": "61s"}}), "delay: must be a duration of at most 60s"),
        (json!({"autoRestart": {"window": "0s"}}), "window: must be a duration between 1s and 24h"),
        (json!({"autoRestart": {"maxAttempts": -1}}), "greater than or equal to 1"),
        (json!({"retention": {"finishedAfter": "1s"}}), "finishedAfter: must be a duration between 1m"),
        (json!({"retention": {"maxFinished": 0}}), "greater than or equal to 1"),
        (json!({"selfHeal": {"interval": "0s"}}), "interval: must be a duration between 1s and 1h"),
        (
            json!({"selfHeal": {"judgeBacklog": "Sometimes"}}),
            "supported values: \"StartWhenArmed\", \"Ignore\"",
        ),
    ];
    for (settings, message) in refused {
        let answer = stored(&api, settings.clone()).await.expect_err("refused");
        assert!(answer.contains(message), "{settings}: {answer}");
    }
}
