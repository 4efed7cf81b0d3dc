//! The one Secret that holds provider keys and tokens. Written, never shown: an answer says whether a
//! key is set. No value is logged, and none is in an error.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use super::draft::Live;
use super::key::Key;
use crate::http_api::error::ApiError;
use crate::http_api::kubernetes::Kubernetes;

/// Longest wait for the API server.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The token of a forge: nothing that runs a model may have it (design, rule 10).
const GITHUB_TOKEN: &str = "GITHUB_TOKEN";

/// Names of the keys that have a value; none without a Secret.
///
/// # Errors
/// 503 when it cannot be read.
pub(super) async fn set_keys(
    kubernetes: &Kubernetes,
    name: Option<&str>,
) -> Result<BTreeSet<String>, ApiError> {
    let Some(name) = name else { return Ok(BTreeSet::new()) };
    let api = kubernetes.api::<Secret>();
    let problem = match tokio::time::timeout(TIMEOUT, api.get_opt(name)).await {
        Ok(Ok(secret)) => {
            let data = secret.and_then(|secret| secret.data).unwrap_or_default();
            return Ok(data
                .into_iter()
                .filter(|(_, value)| !value.0.is_empty())
                .map(|(key, _)| key)
                .collect());
        }
        Ok(Err(kube::Error::Api(status))) if status.code == 403 => {
            format!("this API's account may not read the Secret {name}: give it get and patch on it")
        }
        Ok(Err(_)) | Err(_) => "Kubernetes cannot be read now, try again".to_owned(),
    };
    tracing::warn!(secret = name, "the Secret of the configuration cannot be read");
    Err(ApiError::unavailable("kubernetes_unavailable", problem))
}

/// Why a key may not be set at all, if so.
pub(super) fn refusal(key: &Key, secret: Option<&str>, live: &Live) -> Option<String> {
    let Some(name) = secret else {
        return Some(
            "cannot be set: this API was started without a Secret for it (--config-secret, in the chart api.configSecret)"
                .to_owned(),
        );
    };
    let pool = users(live, name).into_iter().next().filter(|_| key.name == GITHUB_TOKEN)?;
    Some(format!(
        "cannot be set: AgentPool {pool} gives its agents every key of the Secret {name}, and no agent may have this token"
    ))
}

/// Names of the AgentPools that give this Secret to their agents.
pub(super) fn users(live: &Live, secret: &str) -> Vec<String> {
    let names = |pool: &&crate::crd::AgentPool| {
        let given = [&pool.spec.credentials_secret_ref, &pool.spec.login_secret_ref];
        given.into_iter().flatten().any(|reference| reference.name == secret)
    };
    live.pools.iter().filter(names).map(|pool| pool.name_any()).collect()
}

/// Sets keys of the Secret.
///
/// # Errors
/// One sentence about what is wrong.
pub(super) async fn write(
    kubernetes: &Kubernetes,
    name: &str,
    values: &BTreeMap<&str, &str>,
) -> Result<(), String> {
    let patch = Patch::Merge(json!({ "stringData": values }));
    let api = kubernetes.api::<Secret>();
    let params = PatchParams::default();
    match tokio::time::timeout(TIMEOUT, api.patch_metadata(name, &params, &patch)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(kube::Error::Api(status))) => Err(match status.code {
            404 => format!("there is no Secret {name}: kubectl create secret generic {name}"),
            403 => format!("this API's account may not write the Secret {name}: give it get and patch on it"),
            400 | 422 => format!("Kubernetes refuses to change the Secret {name}"),
            _ => "Kubernetes cannot be written to now, try again".to_owned(),
        }),
        Ok(Err(_)) | Err(_) => Err("Kubernetes cannot be written to now, try again".to_owned()),
    }
}
