//! Every write to Kubernetes goes through here: create-once, fenced status patch, delete with a uid,
//! server-side apply of objects that we own whole.

use std::fmt::Debug;
use std::time::Duration;

use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions, Request};
use kube::{Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::{Map, Value, json};

use super::error::{Error, ErrorClass};
use super::lean::{FromParts, Lean};

/// Field manager of every write.
const MANAGER: &str = "opentiger";
/// Between two questions whether an object was created.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// Answer to a create whose name is the claim.
#[derive(Debug)]
pub enum Created<K> {
    /// The object is ours and new.
    New(K),
    /// An object of this name exists; the caller compares owners.
    Exists(Box<K>),
}

/// Writes to Kubernetes.
#[derive(Clone)]
pub struct Writer {
    client: Client,
}

/// What a writable kind of ours is.
pub trait Writable:
    Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
    + Clone
    + Debug
    + Serialize
    + DeserializeOwned
    + Send
    + Sync
{
}

impl<K> Writable for K where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned
        + Send
        + Sync
{
}

impl Writer {
    /// A writer on this client.
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// The client, for reads.
    pub fn client(&self) -> &Client {
        &self.client
    }

    fn api<K: Writable>(&self, namespace: &str) -> Api<K> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Reads one object from the API server itself. Before absence is acted upon it is confirmed here:
    /// caches of different kinds do not advance together.
    ///
    /// # Errors
    /// Any answer but the object or "not found".
    pub async fn read<K: Writable>(&self, namespace: &str, name: &str) -> Result<Option<K>, Error> {
        self.api::<K>(namespace).get_opt(name).await.map_err(|e| request::<K>("get", name, e))
    }

    /// Creates `object`; when the name is taken, reads who has it. A create whose answer was lost is
    /// found by its repetition.
    ///
    /// # Errors
    /// Any refusal but "already exists"; `Conflict` when the holder vanished between the two requests.
    pub async fn create<K: Writable + FromParts>(&self, object: &K) -> Result<Created<K>, Error> {
        let (namespace, name) = place(object);
        let params = PostParams { field_manager: Some(MANAGER.into()), ..PostParams::default() };
        let body = serde_json::to_vec(object).map_err(|source| encode::<K>(&name, source))?;
        match self.send(path::<K>(&namespace).create(&params, body)).await {
            Ok(created) => Ok(Created::New(created)),
            Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {
                let existing = self.api::<K>(&namespace).get(&name).await;
                let existing = existing.map_err(|e| request::<K>("get", &name, e))?;
                Ok(Created::Exists(Box::new(existing)))
            }
            Err(error) => Err(request::<K>("create", &name, error)),
        }
    }

    /// Creates `object` and does not return before it is known whether it exists: after an answer that
    /// leaves it open the API server is asked, again and again. Whatever was set aside for the object
    /// stays so meanwhile (invariants S1, S8 to S10).
    ///
    /// # Errors
    /// Any refusal but "already exists"; the object does not exist then.
    pub async fn create_surely<K: Writable + FromParts>(&self, object: &K) -> Result<Created<K>, Error> {
        let error = match self.create(object).await {
            Err(error) if error.class() == ErrorClass::Transient => error,
            known => return known,
        };
        let (namespace, name) = place(object);
        loop {
            match self.read::<K>(&namespace, &name).await {
                Ok(Some(existing)) => return Ok(Created::Exists(Box::new(existing))),
                Ok(None) => return Err(error),
                Err(unknown) => {
                    tracing::warn!(object = name, error = %unknown, "not known whether it was created, asking again");
                    tokio::time::sleep(ASK_AGAIN).await;
                }
            }
        }
    }

    /// Sends a request and decodes the answer lean.
    async fn send<K: FromParts>(
        &self,
        request: Result<http::Request<Vec<u8>>, kube::core::request::Error>,
    ) -> Result<K, kube::Error> {
        let request = request.map_err(kube::Error::BuildRequest)?;
        self.client.request::<Lean<K>>(request).await.map(|lean| lean.0)
    }

    /// Writes the difference between two statuses of `object`, fenced by the resourceVersion of
    /// `object`: a uid in a patch of `/status` is ignored by the server, a resourceVersion is not
    /// (invariant S15). Returns `None` without a request when nothing differs (S17).
    ///
    /// # Errors
    /// `Conflict` when the object changed since it was read.
    pub async fn patch_status<K: Writable + FromParts, S: Serialize>(
        &self,
        object: &K,
        old: Option<&S>,
        new: &S,
    ) -> Result<Option<K>, Error> {
        let (namespace, name) = place(object);
        let failed = |source| encode::<K>(&name, source);
        let old = old.map(serde_json::to_value).transpose().map_err(failed)?.unwrap_or_else(|| json!({}));
        let new = serde_json::to_value(new).map_err(failed)?;
        let Some(difference) = merge_patch(&old, &new) else { return Ok(None) };
        let patch = json!({
            "metadata": {"resourceVersion": object.resource_version().unwrap_or_default()},
            "status": difference,
        });
        let params = PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() };
        self.send(path::<K>(&namespace).patch_subresource("status", &name, &params, &Patch::Merge(&patch)))
            .await
            .map(Some)
            .map_err(|e| request::<K>("patch status of", &name, e))
    }

    /// Deletes the object of this name if it still has this uid. `Ok(false)`: it is gone already, or
    /// another object has the name.
    ///
    /// # Errors
    /// Any other refusal.
    pub async fn delete<K: Writable>(
        &self,
        namespace: &str,
        name: &str,
        uid: &str,
        grace_seconds: Option<u32>,
    ) -> Result<bool, Error> {
        let params = DeleteParams {
            grace_period_seconds: grace_seconds,
            preconditions: Some(Preconditions { uid: Some(uid.into()), resource_version: None }),
            ..DeleteParams::default()
        };
        let deletion = path::<K>(namespace).delete(name, &params).map_err(kube::Error::BuildRequest);
        let answer = match deletion {
            Ok(deletion) => self.client.request::<IgnoredAny>(deletion).await,
            Err(error) => Err(error),
        };
        match answer {
            Ok(_) => Ok(true),
            Err(error) => {
                let error = request::<K>("delete", name, error);
                match error.class() {
                    ErrorClass::Gone | ErrorClass::Conflict => Ok(false),
                    ErrorClass::Transient | ErrorClass::Refused | ErrorClass::Permanent => Err(error),
                }
            }
        }
    }

    /// Server-side apply of an object that we own whole.
    ///
    /// # Errors
    /// Any refusal.
    pub async fn apply<K: Writable>(&self, object: &K, manager: &str) -> Result<K, Error> {
        let (namespace, name) = place(object);
        self.api::<K>(&namespace)
            .patch(&name, &PatchParams::apply(manager).force(), &Patch::Apply(object))
            .await
            .map_err(|e| request::<K>("apply", &name, e))
    }
}

/// Requests to the objects of a kind in a namespace.
fn path<K: Resource<DynamicType = ()>>(namespace: &str) -> Request {
    Request::new(K::url_path(&(), Some(namespace)))
}

fn encode<K: Resource<DynamicType = ()>>(name: &str, source: serde_json::Error) -> Error {
    Error::Encode { kind: K::kind(&()).into_owned(), name: name.into(), source }
}

fn place<K: Resource<DynamicType = ()>>(object: &K) -> (String, String) {
    (object.namespace().unwrap_or_default(), object.name_any())
}

fn request<K: Resource<DynamicType = ()>>(verb: &'static str, name: &str, source: kube::Error) -> Error {
    Error::Request { verb, kind: K::kind(&()).into_owned(), name: name.into(), source: Box::new(source) }
}

/// The JSON merge patch (RFC 7386) that turns `old` into `new`, with an explicit null for every key
/// that goes away. `None` when they are equal.
pub fn merge_patch(old: &Value, new: &Value) -> Option<Value> {
    if old == new {
        return None;
    }
    let (Value::Object(a), Value::Object(b)) = (old, new) else { return Some(new.clone()) };
    let mut patch = Map::new();
    for key in a.keys() {
        if !b.contains_key(key) {
            patch.insert(key.clone(), Value::Null);
        }
    }
    for (key, value) in b {
        match a.get(key) {
            Some(before) => {
                if let Some(inner) = merge_patch(before, value) {
                    patch.insert(key.clone(), inner);
                }
            }
            None => {
                patch.insert(key.clone(), value.clone());
            }
        }
    }
    Some(Value::Object(patch))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patch_names_only_what_differs_and_nulls_what_goes() {
        let old =
            json!({"phase": "Running", "agent": "worker-1", "retries": {"failure": 1, "infra": 0}, "t": [1]});
        let new = json!({"phase": "Queued", "retries": {"failure": 2, "infra": 0}, "t": [1, 2]});
        assert_eq!(
            merge_patch(&old, &new),
            Some(json!({"phase": "Queued", "agent": null, "retries": {"failure": 2}, "t": [1, 2]}))
        );
        assert_eq!(merge_patch(&old, &old.clone()), None);
    }
}
