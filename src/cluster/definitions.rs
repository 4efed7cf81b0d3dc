//! Compares the installed CustomResourceDefinitions with those this program was built with. Helm
//! installs them once and never upgrades them, so a new operator may meet old ones.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::Api;
use kube::{Client, ResourceExt};

use crate::crd::labels::SCHEMA_HASH;
use crate::crd::schema;

/// Logs one line for each definition that is missing or differs, and says what to do. Nothing is
/// stopped: what the old schema knows goes on working.
pub async fn compare(client: &Client) {
    let Ok(ours) = schema::all() else { return };
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    for definition in ours {
        let name = definition.name_any();
        let wanted = definition.annotations().get(SCHEMA_HASH).cloned();
        match api.get_opt(&name).await {
            Ok(Some(installed)) if installed.annotations().get(SCHEMA_HASH).cloned() == wanted => {}
            Ok(Some(_)) => tracing::error!(
                definition = name,
                "the installed CustomResourceDefinition is not of this version: run kubectl apply --server-side -f crds/"
            ),
            Ok(None) => tracing::error!(
                definition = name,
                "the CustomResourceDefinition is not installed: run kubectl apply --server-side -f crds/"
            ),
            Err(error) => {
                tracing::warn!(definition = name, error = %error, "failed to read a CustomResourceDefinition");
            }
        }
    }
}
