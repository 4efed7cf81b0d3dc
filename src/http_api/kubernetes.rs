//! Kubernetes, as the handlers see it: the objects of one namespace, and Operations that are carried
//! out while the caller waits. Every error is an answer already.

use std::fmt::Debug;
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use kube::api::PostParams;
use kube::runtime::wait::await_condition;
use kube::{Api, Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use super::error::ApiError;
use super::idempotency::Request;
use super::task_create::{refused, unavailable};
use crate::crd::words::snake;
use crate::crd::{Operation, OperationPhase, OperationSpec, OperationType};

/// Longest wait for one answer of the API server.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Longest wait for the end of an Operation; it goes on afterwards.
const OPERATION_DEADLINE: Duration = Duration::from_secs(20);

/// The objects of one namespace.
#[derive(Clone)]
pub struct Kubernetes {
    client: Client,
    namespace: String,
}

impl Kubernetes {
    /// `namespace` through `client`, whose account needs the verbs of the chart's API Role.
    pub fn new(client: Client, namespace: &str) -> Self {
        Self { client, namespace: namespace.to_owned() }
    }

    /// The client.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Objects of one kind.
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The object `name`, if there is one.
    ///
    /// # Errors
    /// 503 when the API server cannot be asked.
    pub async fn get<K>(&self, name: &str) -> Result<Option<K>, ApiError>
    where
        K: Resource<Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
        K::DynamicType: Default,
    {
        answer(self.api::<K>().get_opt(name)).await
    }

    /// The Operation that an earlier request with the same key has created, if there is one.
    ///
    /// # Errors
    /// 422 when it was another request, 503 when the API server cannot be asked.
    pub async fn repeated(
        &self,
        type_: OperationType,
        request: &Request,
    ) -> Result<Option<Operation>, ApiError> {
        let existing: Option<Operation> = self.get(&request.name(&prefix(type_))).await?;
        if let Some(existing) = &existing {
            request.check(existing.metadata.annotations.as_ref())?;
        }
        Ok(existing)
    }

    /// Creates an Operation in the name of `by` and waits for its end, at most 20 s.
    ///
    /// The Operation that is returned is in its last known state: see its phase and message.
    ///
    /// # Errors
    /// 400 with the API server's words when it is refused, 503 when the API server cannot be asked.
    pub async fn carry_out(&self, spec: OperationSpec, by: &str) -> Result<Operation, ApiError> {
        self.carry_out_once(spec, by, None).await
    }

    /// As [`Self::carry_out`]; with a `request` a repeat waits for the Operation of the first time.
    /// The key is known for as long as that Operation exists.
    ///
    /// # Errors
    /// Also 422 when the key was used for another request.
    pub async fn carry_out_once(
        &self,
        mut spec: OperationSpec,
        by: &str,
        request: Option<&Request>,
    ) -> Result<Operation, ApiError> {
        spec.requested_by = by.chars().take(200).collect();
        let prefix = prefix(spec.type_);
        let mut operation = Operation::new("", spec);
        operation.metadata.name = request.map(|request| request.name(&prefix));
        operation.metadata.annotations = request.map(Request::annotations);
        if request.is_none() {
            operation.metadata.generate_name = Some(format!("{prefix}-"));
        }
        let api = self.api::<Operation>();
        let created = match (answer(api.create(&PostParams::default(), &operation)).await, request) {
            (Err(error), Some(request)) if error.is_conflict() => {
                self.repeated(operation.spec.type_, request).await?.ok_or(error)?
            }
            (result, _) => result?,
        };
        let name = created.name_any();
        let over = |operation: Option<&Operation>| operation.is_none_or(|o| o.phase().is_terminal());
        let end = tokio::time::timeout(OPERATION_DEADLINE, await_condition(api.clone(), &name, over)).await;
        match end {
            Ok(Ok(Some(last))) => Ok(last),
            // Gone, not over yet, or the watch failed: what it looks like now.
            Ok(Ok(None)) | Ok(Err(_)) | Err(_) => Ok(self.get(&name).await?.unwrap_or(created)),
        }
    }
}

/// Beginning of the names of Operations of a type.
fn prefix(type_: OperationType) -> String {
    snake(type_.word()).replace('_', "-")
}

/// What came of an Operation: nothing went wrong, or the sentence that says what did.
///
/// # Errors
/// 503 that names it when it is not over yet.
pub fn outcome(operation: &Operation) -> Result<Result<(), String>, ApiError> {
    let status = operation.status.clone().unwrap_or_default();
    match status.phase {
        OperationPhase::Succeeded => Ok(Ok(())),
        OperationPhase::Failed => Ok(Err(status.message)),
        OperationPhase::Pending | OperationPhase::Running => Err(ApiError::unavailable(
            "not_yet_carried_out",
            format!(
                "Operation {} was accepted and is not over yet: {}",
                operation.name_any(),
                status.message
            ),
        )),
    }
}

/// The result of a call to the API server, or the answer that says what went wrong: 400 with the
/// server's words for what it refuses, 409 for a conflict, 404, else 503.
pub async fn answer<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, ApiError> {
    match tokio::time::timeout(TIMEOUT, call).await {
        Err(_) => {
            Err(ApiError::unavailable("kubernetes_unavailable", "Kubernetes does not answer now, try again"))
        }
        Ok(Ok(value)) => Ok(value),
        Ok(Err(kube::Error::Api(status))) => match status.code {
            400 | 422 => Err(refused(&status)),
            404 => Err(ApiError::not_found(status.details.as_ref().map_or("object", |d| d.kind.as_str()))),
            409 => Err(ApiError::conflict("conflict", status.message.clone())),
            _ => Err(unavailable(&kube::Error::Api(status))),
        },
        Ok(Err(error)) => Err(unavailable(&error)),
    }
}
