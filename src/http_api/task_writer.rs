//! Creates Task objects. The only write of the API.

use futures::FutureExt;
use futures::future::BoxFuture;
use kube::Api;
use kube::api::PostParams;

use crate::crd::Task;

/// Where `POST /tasks` puts a Task.
pub trait TaskWriter: Send + Sync {
    /// Creates `task`, named by `name` or `generateName`.
    fn create<'a>(&'a self, task: &'a Task) -> BoxFuture<'a, Result<Task, kube::Error>>;

    /// The Task `name`, if there is one.
    fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Task>, kube::Error>>;
}

/// Tasks of one namespace in Kubernetes.
pub struct KubernetesTasks {
    api: Api<Task>,
}

impl KubernetesTasks {
    /// Tasks of `namespace` through `client`, whose account may create and get them.
    pub fn new(client: kube::Client, namespace: &str) -> Self {
        Self { api: Api::namespaced(client, namespace) }
    }
}

impl TaskWriter for KubernetesTasks {
    fn create<'a>(&'a self, task: &'a Task) -> BoxFuture<'a, Result<Task, kube::Error>> {
        async move { self.api.create(&PostParams::default(), task).await }.boxed()
    }

    fn get<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Task>, kube::Error>> {
        self.api.get_opt(name).boxed()
    }
}
