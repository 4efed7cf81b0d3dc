//! Follows what happens to the objects of one kind in a namespace.

use futures::StreamExt;
use kube::api::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event};
use kube::{Client, Resource};
use tokio::sync::oneshot;

/// Tells `see` of every object and change, but not of where lists begin and end. Returns once the first
/// list is complete, so that nothing after it is missed; a watch that breaks begins anew.
pub async fn follow<K>(client: &Client, namespace: &str, mut see: impl FnMut(Event<K>) + Send + 'static)
where
    K: Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + serde::de::DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    let (listed, complete) = oneshot::channel();
    tokio::spawn(async move {
        let mut listed = Some(listed);
        let mut stream = Box::pin(watcher::watcher(api, watcher::Config::default()).default_backoff());
        while let Some(event) = stream.next().await {
            match event {
                Ok(Event::Init) | Err(_) => {}
                // Nobody may wait for it any more.
                Ok(Event::InitDone) => drop(listed.take().map(|listed| listed.send(()))),
                Ok(event) => see(event),
            }
        }
    });
    complete.await.expect("a list");
}
