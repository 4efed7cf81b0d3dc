//! One watch per kind and namespace, feeding a store. Its stream is never dropped: every error is
//! logged and counted, and the watch goes on with backoff.

use std::fmt::Debug;
use std::sync::Arc;

use futures::StreamExt;
use kube::api::Api;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Resource, ResourceExt};
use tokio_util::sync::CancellationToken;

use super::lean::{FromParts, Lean};
use super::store::{Cached, Store};
use crate::metrics::Metrics;

/// What a complete list named: called after every (re)list with the namespace watched (empty: all).
pub type Listed = Box<dyn Fn(&str) + Send + Sync>;

/// Watches `K` in `namespace` (all namespaces when `None`), turns each object into `C` and keeps
/// `store` up to date until `shutdown`. A cluster that went back to an older state ends the process
/// (`stop`): nothing that was learned before is true any more.
#[allow(clippy::too_many_arguments)]
pub async fn run<K, C>(
    client: Client,
    namespace: Option<String>,
    selector: Option<&'static str>,
    convert: fn(K) -> C,
    store: Arc<Store<C>>,
    listed: Listed,
    metrics: Metrics,
    stop: CancellationToken,
    shutdown: CancellationToken,
) where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + FromParts
        + Clone
        + Debug
        + Send
        + 'static,
    C: Cached,
{
    let api: Api<Lean<K>> = match &namespace {
        Some(ns) => Api::namespaced(client, ns),
        None => Api::all(client),
    };
    let config = watcher::Config { label_selector: selector.map(Into::into), ..watcher::Config::default() };
    let kind = K::kind(&()).into_owned();
    let scope = namespace.as_deref().unwrap_or("");
    let mut stream = Box::pin(watcher(api.clone(), config).backoff(watcher::DefaultBackoff::default()));
    loop {
        let event = tokio::select! {
            () = shutdown.cancelled() => return,
            event = stream.next() => event,
        };
        match event {
            Some(Ok(watcher::Event::Init)) => store.list_started(scope),
            Some(Ok(watcher::Event::InitApply(o) | watcher::Event::Apply(o))) => store.apply(convert(o.0)),
            Some(Ok(watcher::Event::Delete(o))) => store.delete(convert(o.0)),
            Some(Ok(watcher::Event::InitDone)) => {
                let done = store.list_done(scope);
                if done.went_back {
                    tracing::error!(kind, "the cluster went back to an older state, starting afresh");
                    stop.cancel();
                    return;
                }
                for key in done.doubtful {
                    confirm(&api, &store, convert, &key.namespace, &key.name).await;
                }
                listed(scope);
                tracing::debug!(kind, "list complete");
            }
            Some(Err(error)) => {
                metrics.watch_error(&kind);
                tracing::warn!(kind, error = %error, "watch failed, will retry");
            }
            None => {
                tracing::error!(kind, "the watch has ended, starting afresh");
                stop.cancel();
                return;
            }
        }
    }
}

/// Reads one object that a list did not name although we have just written it.
async fn confirm<K, C>(api: &Api<Lean<K>>, store: &Store<C>, convert: fn(K) -> C, namespace: &str, name: &str)
where
    K: Resource<DynamicType = ()> + FromParts + Clone + Debug,
    C: Cached,
{
    match api.get_opt(name).await {
        Ok(Some(object)) if object.namespace().as_deref() == Some(namespace) => {
            store.apply(convert(object.0))
        }
        Ok(_) => {
            let key = super::Key::new(namespace, name);
            if let Some(object) = store.get(&key) {
                store.delete(C::clone(&object));
            }
        }
        Err(error) => tracing::warn!(error = %error, "failed to confirm an object, the watch will"),
    }
}
