//! The CustomResourceDefinitions as they are installed: what the derive macros say, plus what they
//! cannot say (defaults of `status`, the schema hash).

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{AgentPool, Operation, Run, System, Task, labels};

/// Every CustomResourceDefinition, ready to apply, in a fixed order.
///
/// # Errors
/// When a generated definition does not have the shape expected here, which the tests rule out.
pub fn all() -> Result<Vec<CustomResourceDefinition>, serde_json::Error> {
    [
        (AgentPool::crd(), json!({})),
        (Operation::crd(), json!({"phase": "Pending"})),
        (Run::crd(), json!({"phase": "Running"})),
        (System::crd(), json!({"hatch": {"state": "Disarmed"}, "term": 0})),
        (Task::crd(), json!({"phase": "Queued", "next": {"kind": "Watch", "detail": "not yet considered"}})),
    ]
    .into_iter()
    .map(|(crd, status)| finish(crd, status))
    .collect()
}

/// Schema defaults carry the first state: a new object reads right at once, even with the operator
/// down, and costs no write (design, section 2).
fn finish(
    crd: CustomResourceDefinition,
    status_default: Value,
) -> Result<CustomResourceDefinition, serde_json::Error> {
    let mut value = serde_json::to_value(crd)?;
    drop_nullable(&mut value);
    let has_default = status_default.as_object().is_some_and(|o| !o.is_empty());
    if has_default
        && let Some(status) = value.pointer_mut("/spec/versions/0/schema/openAPIV3Schema/properties/status")
        && let Some(object) = status.as_object_mut()
    {
        object.insert("default".into(), status_default);
    }
    if let Some(conditions) =
        value.pointer_mut("/spec/versions/0/schema/openAPIV3Schema/properties/status/properties/conditions")
        && let Some(object) = conditions.as_object_mut()
    {
        object.insert("x-kubernetes-list-type".into(), json!("map"));
        object.insert("x-kubernetes-list-map-keys".into(), json!(["type"]));
    }
    let spec = serde_json::to_vec(value.get("spec").unwrap_or(&Value::Null))?;
    let hash: String = Sha256::digest(&spec).iter().take(8).map(|b| format!("{b:02x}")).collect();
    if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("annotations".into(), json!({ labels::SCHEMA_HASH: hash }));
    }
    serde_json::from_value(value)
}

/// An optional field is absent, never null: the API server then prunes a null instead of storing it.
fn drop_nullable(value: &mut Value) {
    match value {
        Value::Object(object) => {
            object.remove("nullable");
            object.values_mut().for_each(drop_nullable);
        }
        Value::Array(items) => items.iter_mut().for_each(drop_nullable),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
