//! What the hand-over of a plan needs of Kubernetes: who calls, its Run and Task, and Tasks to create.

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::Api;
use kube::api::{ListParams, PostParams};

use super::error::ApiError;
use super::task_create::{refused, unavailable};
use crate::crd::wire::API_AUDIENCE;
use crate::crd::{Run, Task};

/// Key under which a token names the Pod that it is bound to.
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";

/// Whom a token belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Namespace of the service account, and so of the Pod.
    pub namespace: String,
    /// Pod that the token is bound to.
    pub pod: Option<String>,
}

/// Kubernetes, as the hand-over sees it. Every error is an answer already.
pub trait PlanStore: Send + Sync {
    /// Whom `token` belongs to; `None` when it is not valid for our audience.
    fn caller<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Option<Caller>, ApiError>>;
    /// The Run `name`.
    fn run<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Run>, ApiError>>;
    /// The Task `name`.
    fn task<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Task>, ApiError>>;
    /// All Tasks.
    fn tasks(&self) -> BoxFuture<'_, Result<Vec<Task>, ApiError>>;
    /// Asks whether `task` would be accepted. A name that is taken is no refusal.
    fn try_create<'a>(&'a self, task: &'a Task) -> BoxFuture<'a, Result<(), ApiError>>;
    /// Creates `task`; returns the one that has its name already, if there is one.
    fn create<'a>(&'a self, task: &'a Task) -> BoxFuture<'a, Result<Option<Task>, ApiError>>;
}

/// One namespace of Kubernetes.
pub struct KubernetesPlans {
    client: kube::Client,
    tasks: Api<Task>,
    runs: Api<Run>,
}

impl KubernetesPlans {
    /// `namespace` through `client`, whose account may create, get and list Tasks, get Runs and
    /// create TokenReviews.
    pub fn new(client: kube::Client, namespace: &str) -> Self {
        Self {
            tasks: Api::namespaced(client.clone(), namespace),
            runs: Api::namespaced(client.clone(), namespace),
            client,
        }
    }

    async fn review(&self, token: &str) -> Result<Option<Caller>, kube::Error> {
        let spec =
            TokenReviewSpec { token: Some(token.to_owned()), audiences: Some(vec![API_AUDIENCE.into()]) };
        let review = TokenReview { spec, ..TokenReview::default() };
        let review = Api::all(self.client.clone()).create(&PostParams::default(), &review).await?;
        let status = review.status.unwrap_or_default();
        let ours = status.audiences.unwrap_or_default().iter().any(|audience| audience == API_AUDIENCE);
        let Some(user) = status.user.filter(|_| status.authenticated == Some(true) && ours) else {
            return Ok(None);
        };
        let account = user.username.as_deref().and_then(|name| name.strip_prefix("system:serviceaccount:"));
        let Some((namespace, _)) = account.and_then(|account| account.split_once(':')) else {
            return Ok(None);
        };
        let pod = user.extra.unwrap_or_default().remove(POD_NAME).and_then(|names| names.into_iter().next());
        Ok(Some(Caller { namespace: namespace.to_owned(), pod }))
    }

    async fn create_with(&self, params: PostParams, task: &Task) -> Result<bool, ApiError> {
        match self.tasks.create(&params, task).await {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(kube::Error::Api(status)) if status.code == 400 || status.code == 422 => {
                Err(refused(&status))
            }
            Err(error) => Err(unavailable(&error)),
        }
    }
}

impl PlanStore for KubernetesPlans {
    fn caller<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Option<Caller>, ApiError>> {
        async move { self.review(token).await.map_err(|error| unavailable(&error)) }.boxed()
    }

    fn run<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Run>, ApiError>> {
        async move { self.runs.get_opt(name).await.map_err(|error| unavailable(&error)) }.boxed()
    }

    fn task<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Task>, ApiError>> {
        async move { self.tasks.get_opt(name).await.map_err(|error| unavailable(&error)) }.boxed()
    }

    fn tasks(&self) -> BoxFuture<'_, Result<Vec<Task>, ApiError>> {
        async move {
            let list = self.tasks.list(&ListParams::default()).await;
            list.map(|list| list.items).map_err(|error| unavailable(&error))
        }
        .boxed()
    }

    fn try_create<'a>(&'a self, task: &'a Task) -> BoxFuture<'a, Result<(), ApiError>> {
        let params = PostParams { dry_run: true, ..PostParams::default() };
        async move { self.create_with(params, task).await.map(|_| ()) }.boxed()
    }

    fn create<'a>(&'a self, task: &'a Task) -> BoxFuture<'a, Result<Option<Task>, ApiError>> {
        async move {
            if self.create_with(PostParams::default(), task).await? {
                return Ok(None);
            }
            let name = task.metadata.name.as_deref().unwrap_or_default();
            self.tasks.get_opt(name).await.map_err(|error| unavailable(&error))
        }
        .boxed()
    }
}
