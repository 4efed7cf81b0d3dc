//! `PATCH /config`: changes the fields that the keys stand for, the control plane before the agents.
//!
//! A client saves all keys at once with what it has read, masks included (corrections 25): what is equal
//! is not written, and what is refused is named in the answer and keeps nothing else from being
//! applied. One merge patch for each object that changes, fenced by its resourceVersion.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use k8s_openapi::NamespaceResourceScope;
use kube::api::{Patch, PatchParams};
use kube::{Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::draft::{Draft, Live, known, plan_changes};
use super::get::{observe, shown};
use super::key::{Component, Home, Key};
use super::{secrets, table};
use crate::crd::{OperationPhase, OperationSpec, OperationType};
use crate::http_api::auth::Identity;
use crate::http_api::error::{ApiError, ErrorBody};
use crate::http_api::kubernetes::Kubernetes;
use crate::http_api::state::ApiState;

/// Longest wait for one answer of the API server.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Rounds of reading and writing: one for each object, one for each conflict or refusal.
const ROUNDS: usize = 40;
/// What the API server notes as the writer.
const MANAGER: &str = "opentiger-api";

/// Values to set.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(dead_code, reason = "describes the body; it is read field by field")]
pub struct ConfigUpdates {
    /// Value by key, all of them strings. An empty value stands for the default; a masked or empty
    /// secret is left as it is.
    updates: BTreeMap<String, String>,
}

/// What came of it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigUpdated {
    /// Every key with its value now, as in `GET /config`.
    config: BTreeMap<&'static str, String>,
    /// False: a change is followed without a restart.
    requires_restart: bool,
    warnings: Vec<String>,
    /// Keys that have a new value.
    applied: Vec<&'static str>,
    /// Keys that had the value already, and secrets that came back masked or empty.
    unchanged: Vec<&'static str>,
    /// Keys that were not applied; the others are.
    refused: Vec<Refused>,
    /// Who follows the changes, the control plane first. What runs already is left alone.
    affected_components: Vec<&'static str>,
}

/// A key that was not applied.
#[derive(Debug, Serialize, ToSchema)]
pub struct Refused {
    key: String,
    /// One sentence.
    problem: String,
}

/// Sets keys of the configuration. A key that is refused keeps no other from being applied.
#[utoipa::path(patch, path = "/config", tag = "config", request_body = ConfigUpdates,
    responses((status = 200, body = ConfigUpdated), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 404, body = ErrorBody, description = "there is no System"),
        (status = 413, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub async fn patch(
    State(state): State<ApiState>,
    identity: Identity,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<ConfigUpdated>, ApiError> {
    let (wanted, unknown) = known(updates(&body?)?);
    let kubernetes = state.kubernetes()?;
    let secret = state.config_secret.as_deref();
    let mut saving = Saving { kubernetes, wanted, applied: BTreeSet::new(), refused: unknown };
    saving.settle(Part::System).await?;
    saving.switch_components(&identity).await?;
    saving.settle(Part::Pools).await?;
    saving.store_secrets(secret).await?;
    let (live, set) = futures::try_join!(observe(kubernetes), secrets::set_keys(kubernetes, secret))?;
    let warnings = unused(&saving.applied, secret, &live).into_iter().collect();
    Ok(Json(saving.answer(shown(&live, &set, false), warnings)))
}

/// The body's `updates`.
fn updates(body: &[u8]) -> Result<BTreeMap<String, String>, ApiError> {
    let value: Value = serde_json::from_slice(body)
        .map_err(|e| ApiError::bad_request(format!("the body is not JSON: {e}")))?;
    let Value::Object(mut fields) = value else {
        return Err(ApiError::bad_request("the body must be a JSON object"));
    };
    let Some(Value::Object(updates)) = fields.remove("updates") else {
        return Err(ApiError::invalid("updates", "must be an object of keys and values"));
    };
    let text = |(key, value): (String, Value)| match value {
        Value::String(value) => Ok((key, value)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            let short: String = key.chars().take(100).collect();
            Err(ApiError::invalid(&format!("updates.{short}"), "must be a string"))
        }
    };
    updates.into_iter().map(text).collect()
}

/// Which objects are written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    System,
    Pools,
}

/// A request while it is carried out.
struct Saving<'a> {
    kubernetes: &'a Kubernetes,
    /// What has not been refused.
    wanted: BTreeMap<&'static str, String>,
    applied: BTreeSet<&'static str>,
    refused: BTreeMap<String, String>,
}

/// What came of one write.
enum Written {
    Yes,
    /// Somebody else was faster.
    Conflict,
    /// The API server says no, to these fields.
    No(Box<kube::core::Status>),
    Unavailable,
}

impl Saving<'_> {
    /// The objects as they are, and what is still to be done with them.
    async fn plan(&mut self) -> Result<(Live, Draft), ApiError> {
        let live = observe(self.kubernetes).await?;
        let mut draft = plan_changes(&live, &self.wanted);
        for (key, problem) in std::mem::take(&mut draft.refused) {
            self.refuse(key, problem);
        }
        Ok((live, draft))
    }

    fn refuse(&mut self, key: &'static str, problem: String) {
        self.wanted.remove(key);
        self.refused.insert(key.to_owned(), problem);
    }

    /// Writes until nothing of `part` is to be written any more.
    async fn settle(&mut self, part: Part) -> Result<(), ApiError> {
        for _ in 0..ROUNDS {
            let (live, draft) = self.plan().await?;
            let (keys, written) = match part {
                Part::System if draft.system_keys.is_empty() => return Ok(()),
                Part::System => {
                    let (before, after) = (json!(live.system.spec), json!(draft.system));
                    (draft.system_keys, self.write(&live.system, &before, &after).await)
                }
                Part::Pools => {
                    let Some((name, (spec, keys))) = draft.pools.into_iter().next() else { return Ok(()) };
                    let Some(pool) = live.pools.iter().find(|pool| pool.name_any() == name) else { continue };
                    (keys, self.write(pool, &json!(pool.spec), &json!(spec)).await)
                }
            };
            match written {
                Written::Yes => self.applied.extend(keys.iter().map(|key| key.name)),
                Written::Conflict => {}
                Written::No(status) => {
                    for (key, problem) in blame(&status, &keys) {
                        self.refuse(key, problem);
                    }
                }
                Written::Unavailable => return self.give_up(&keys),
            }
        }
        let (_, draft) = self.plan().await?;
        let pools = draft.pools.values().flat_map(|(_, keys)| keys);
        let left: Vec<_> = draft.system_keys.iter().chain(pools).map(|key| key.name).collect();
        for key in left {
            self.refuse(key, "others change the same object all the time, try again".into());
        }
        Ok(())
    }

    /// One merge patch with what differs.
    async fn write<K>(&self, object: &K, before: &Value, after: &Value) -> Written
    where
        K: Resource<Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
        K::DynamicType: Default,
    {
        let patch = json!({
            "metadata": {"resourceVersion": object.resource_version()},
            "spec": merge_patch(before, after),
        });
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        let (api, name, patch) = (self.kubernetes.api::<K>(), object.name_any(), Patch::Merge(&patch));
        let call = api.patch_metadata(&name, &params, &patch);
        match tokio::time::timeout(TIMEOUT, call).await {
            Ok(Ok(_)) => Written::Yes,
            Ok(Err(kube::Error::Api(status))) => match status.code {
                // Gone in between: what it stood for is judged anew.
                404 | 409 => Written::Conflict,
                400 | 403 | 422 => Written::No(status),
                _ => Written::Unavailable,
            },
            Ok(Err(error)) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "configuration cannot be written");
                Written::Unavailable
            }
            Err(_) => Written::Unavailable,
        }
    }

    /// What has been written stays: then the rest is refused, else the whole request fails.
    fn give_up(&mut self, keys: &[&'static Key]) -> Result<(), ApiError> {
        let problem = "Kubernetes cannot be written to now, try again";
        if self.applied.is_empty() {
            return Err(ApiError::unavailable("kubernetes_unavailable", problem));
        }
        for key in keys {
            self.refuse(key.name, problem.to_owned());
        }
        Ok(())
    }

    /// Stops and starts components, all at once: an Operation may take its time.
    async fn switch_components(&mut self, identity: &Identity) -> Result<(), ApiError> {
        let (_, draft) = self.plan().await?;
        let kubernetes = self.kubernetes;
        let ends = draft.latches.iter().map(|(key, component, on)| async move {
            let spec = OperationSpec {
                type_: if *on { OperationType::Start } else { OperationType::Stop },
                target: Some((*component).to_owned()),
                reason: format!("PATCH /config: {} was set to {on}", key.name),
                ..OperationSpec::default()
            };
            (*key, kubernetes.carry_out(spec, &identity.name()).await)
        });
        for (key, end) in futures::future::join_all(ends).await {
            let operation = match end {
                Ok(operation) => operation,
                Err(_) => {
                    self.give_up(&[key])?;
                    continue;
                }
            };
            let message = operation.status.as_ref().map(|s| s.message.clone()).unwrap_or_default();
            match operation.phase() {
                OperationPhase::Succeeded => drop(self.applied.insert(key.name)),
                OperationPhase::Failed => self.refuse(key.name, message),
                OperationPhase::Pending | OperationPhase::Running => {
                    let name = operation.name_any();
                    self.refuse(
                        key.name,
                        format!("Operation {name} is accepted and not over yet, look again"),
                    );
                }
            }
        }
        Ok(())
    }

    async fn store_secrets(&mut self, secret: Option<&str>) -> Result<(), ApiError> {
        let (live, draft) = self.plan().await?;
        let mut values = BTreeMap::new();
        for (key, value) in &draft.secrets {
            match secrets::refusal(key, secret, &live) {
                Some(problem) => self.refuse(key.name, problem),
                None => drop(values.insert(key.name, value.as_str())),
            }
        }
        if let (false, Some(name)) = (values.is_empty(), secret) {
            match secrets::write(self.kubernetes, name, &values).await {
                Ok(()) => self.applied.extend(values.keys()),
                Err(problem) => {
                    for key in values.into_keys() {
                        self.refuse(key, problem.clone());
                    }
                }
            }
        }
        Ok(())
    }

    fn answer(self, config: BTreeMap<&'static str, String>, warnings: Vec<String>) -> ConfigUpdated {
        let Self { kubernetes: _, wanted, applied, refused } = self;
        let unchanged = wanted.into_keys().filter(|key| !applied.contains(key)).collect();
        let refused = refused.into_iter().map(|(key, problem)| Refused { key, problem }).collect();
        let affected: BTreeSet<Component> =
            applied.iter().filter_map(|key| table::find(key)).flat_map(|key| key.affects).copied().collect();
        ConfigUpdated {
            config,
            requires_restart: false,
            warnings,
            applied: applied.into_iter().collect(),
            unchanged,
            refused,
            affected_components: affected.into_iter().map(Component::word).collect(),
        }
    }
}

/// A warning when keys of providers were set and nobody is given them.
fn unused(applied: &BTreeSet<&'static str>, secret: Option<&str>, live: &Live) -> Option<String> {
    let is_secret = |key: &Key| matches!(key.home, Home::Secret) && !key.affects.is_empty();
    let set = applied.iter().filter_map(|key| table::find(key)).any(is_secret);
    let name = secret.filter(|name| set && secrets::users(live, name).is_empty())?;
    Some(format!(
        "no agent is given the keys: name the Secret {name} in spec.credentialsSecretRef of an AgentPool"
    ))
}

/// Which keys the API server's refusal is about; all when it names none of their fields.
fn blame(status: &kube::core::Status, keys: &[&'static Key]) -> BTreeMap<&'static str, String> {
    let causes = status.details.as_ref().map(|details| details.causes.as_slice()).unwrap_or_default();
    let mut blamed = BTreeMap::new();
    for cause in causes.iter().filter(|cause| !cause.field.is_empty()) {
        let about = |key: &&&'static Key| {
            let path = path(key);
            path.starts_with(&cause.field) || cause.field.starts_with(path)
        };
        for key in keys.iter().filter(about) {
            blamed.insert(key.name, without_value(&cause.message));
        }
    }
    if blamed.is_empty() {
        let problem = match status.code {
            403 => "Kubernetes does not allow this API's account to change it",
            _ => "Kubernetes refuses the change as a whole",
        };
        blamed.extend(keys.iter().map(|key| (key.name, problem.to_owned())));
    }
    blamed
}

fn path(key: &Key) -> &'static str {
    match &key.home {
        Home::System(field) => field.path,
        Home::Pool(_, field) => field.path,
        Home::Executor(_) | Home::Latch(_) | Home::Secret | Home::Fixed { .. } => "",
    }
}

/// The sentence without the value that it repeats.
fn without_value(message: &str) -> String {
    let sentence = match message.strip_prefix("Invalid value: ") {
        Some(rest) if rest.starts_with('"') => rest.rsplit_once("\": ").map(|(_, sentence)| sentence),
        Some(rest) => rest.split_once(": ").map(|(_, sentence)| sentence),
        None => Some(message),
    };
    sentence.unwrap_or("is not as it must be").to_owned()
}

/// RFC 7396: what turns `before` into `after`.
fn merge_patch(before: &Value, after: &Value) -> Value {
    let (Value::Object(before), Value::Object(after)) = (before, after) else { return after.clone() };
    let mut patch = Map::new();
    for (name, value) in after {
        match before.get(name) {
            Some(old) if old == value => {}
            Some(old) => drop(patch.insert(name.clone(), merge_patch(old, value))),
            None => drop(patch.insert(name.clone(), value.clone())),
        }
    }
    for name in before.keys().filter(|name| !after.contains_key(*name)) {
        patch.insert(name.clone(), Value::Null);
    }
    Value::Object(patch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_says_what_differs_and_no_more() {
        let before = json!({"a": 1, "b": {"c": 2, "d": 3}, "e": [1], "f": 4});
        let after = json!({"a": 1, "b": {"c": 2, "d": 4}, "e": [1, 2], "g": 5});
        let patch = json!({"b": {"d": 4}, "e": [1, 2], "f": null, "g": 5});
        assert_eq!(merge_patch(&before, &after), patch);
        assert_eq!(merge_patch(&before, &before), json!({}));
    }

    #[test]
    fn a_refusal_does_not_repeat_the_value() {
        let sentence = "baseBranch: must be a git branch name";
        assert_eq!(without_value(&format!("Invalid value: \"s3cret\": {sentence}")), sentence);
        assert_eq!(without_value("Invalid value: 7: must be less than 5"), "must be less than 5");
        assert_eq!(without_value("Invalid value: \"s3cret"), "is not as it must be");
        assert_eq!(without_value("Required value"), "Required value");
    }
}
