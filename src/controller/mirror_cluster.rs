//! The cluster as the mirror asks it when a row is in doubt: complete lists in pages, and single
//! objects. Both show the newest state (no cache), which is what makes a comparison exact.

use std::fmt::Debug;
use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use k8s_openapi::NamespaceResourceScope;
use kube::api::ListParams;
use kube::{Api, Client, Resource};

use super::mirrored::Mirrored;
use crate::cluster::lean::{FromParts, Lean};
use crate::crd::{AgentPool, Operation, Run, System, Task};
use crate::postgres::Kind;

/// Objects in one page.
const PAGE: u32 = 500;

/// Some of a list's objects.
#[derive(Debug, Default)]
pub struct Page {
    pub objects: Vec<Mirrored>,
    /// Where the next page begins; `None`: this was the last.
    pub next: Option<String>,
}

/// Where the truth is read.
pub trait Cluster: Send + Sync {
    /// Namespaces that are mirrored; an empty name stands for all.
    fn scopes(&self) -> Vec<String>;
    /// A page of the objects of `kind` in `namespace` (empty: in all). All pages of a list show the
    /// state of one moment after its first page was asked for.
    fn page<'a>(
        &'a self,
        kind: Kind,
        namespace: &'a str,
        after: Option<String>,
    ) -> BoxFuture<'a, Result<Page, kube::Error>>;
    /// The object of this name as it is now.
    fn get<'a>(
        &'a self,
        kind: Kind,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Option<Mirrored>, kube::Error>>;
}

/// Kubernetes.
pub struct Kubernetes {
    client: Client,
    scopes: Vec<String>,
}

impl Kubernetes {
    /// These namespaces (one empty name: all) through `client`, whose account may get and list.
    pub fn new(client: Client, scopes: Vec<String>) -> Self {
        Self { client, scopes }
    }

    fn api<K>(&self, namespace: &str) -> Api<Lean<K>>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + FromParts,
    {
        match namespace {
            "" => Api::all(self.client.clone()),
            name => Api::namespaced(self.client.clone(), name),
        }
    }

    async fn page_of<K>(
        &self,
        namespace: &str,
        after: Option<String>,
        wrap: fn(Arc<K>) -> Mirrored,
    ) -> Result<Page, kube::Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + FromParts + Clone + Debug,
    {
        let params = ListParams { limit: Some(PAGE), continue_token: after, ..ListParams::default() };
        let list = self.api::<K>(namespace).list(&params).await?;
        Ok(Page {
            objects: list.items.into_iter().map(|o| wrap(Arc::new(o.0))).collect(),
            next: list.metadata.continue_.filter(|token| !token.is_empty()),
        })
    }

    async fn get_one<K>(
        &self,
        namespace: &str,
        name: &str,
        wrap: fn(Arc<K>) -> Mirrored,
    ) -> Result<Option<Mirrored>, kube::Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + FromParts + Clone + Debug,
    {
        Ok(self.api::<K>(namespace).get_opt(name).await?.map(|o| wrap(Arc::new(o.0))))
    }
}

impl Cluster for Kubernetes {
    fn scopes(&self) -> Vec<String> {
        self.scopes.clone()
    }

    fn page<'a>(
        &'a self,
        kind: Kind,
        namespace: &'a str,
        after: Option<String>,
    ) -> BoxFuture<'a, Result<Page, kube::Error>> {
        match kind {
            Kind::Task => self.page_of::<Task>(namespace, after, Mirrored::Task).boxed(),
            Kind::Run => self.page_of::<Run>(namespace, after, Mirrored::Run).boxed(),
            Kind::Pool => self.page_of::<AgentPool>(namespace, after, Mirrored::Pool).boxed(),
            Kind::System => self.page_of::<System>(namespace, after, Mirrored::System).boxed(),
            Kind::Operation => self.page_of::<Operation>(namespace, after, Mirrored::Operation).boxed(),
        }
    }

    fn get<'a>(
        &'a self,
        kind: Kind,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Option<Mirrored>, kube::Error>> {
        match kind {
            Kind::Task => self.get_one::<Task>(namespace, name, Mirrored::Task).boxed(),
            Kind::Run => self.get_one::<Run>(namespace, name, Mirrored::Run).boxed(),
            Kind::Pool => self.get_one::<AgentPool>(namespace, name, Mirrored::Pool).boxed(),
            Kind::System => self.get_one::<System>(namespace, name, Mirrored::System).boxed(),
            Kind::Operation => self.get_one::<Operation>(namespace, name, Mirrored::Operation).boxed(),
        }
    }
}
