//! A real control plane for tests: a client, the CustomResourceDefinitions, a namespace of one's
//! own, and waiting for a condition. Starting the control plane is not done here.

use std::future::Future;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use opentiger::crd::labels::SCHEMA_HASH;
use serde_json::{Value, json};

/// Names the kubeconfig of the control plane.
pub const KUBECONFIG: &str = "OPENTIGER_TEST_KUBECONFIG";
/// Longest wait for anything that a control plane does on its own.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The kubeconfig of the control plane. Fails with one line when there is none.
pub fn kubeconfig() -> PathBuf {
    std::env::var_os(KUBECONFIG).map(PathBuf::from).unwrap_or_else(|| {
        panic!("{KUBECONFIG} is not set: run `make test`, which starts a control plane and sets it")
    })
}

/// A client of the control plane.
pub async fn client() -> Client {
    let file = kubeconfig();
    let kubeconfig =
        Kubeconfig::read_from(&file).unwrap_or_else(|e| panic!("failed to read {}: {e}", file.display()));
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .unwrap_or_else(|e| panic!("failed to use {}: {e}", file.display()));
    Client::try_from(config).expect("a client")
}

/// Applies our CustomResourceDefinitions and waits until they are served. Safe to repeat and to
/// run in several tests at once.
pub async fn install_crds(client: &Client) {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    for crd in opentiger::crd::schema::all().expect("definitions") {
        let name = crd.metadata.name.clone().expect("a name");
        let hash = crd.metadata.annotations.clone().unwrap_or_default();
        let served = api.get_opt(&name).await.expect("an answer").is_some_and(|present| {
            let annotations = present.metadata.annotations.clone().unwrap_or_default();
            annotations.get(SCHEMA_HASH) == hash.get(SCHEMA_HASH) && is_established(&present)
        });
        if served {
            continue;
        }
        let params = PatchParams::apply("opentiger-tests").force();
        api.patch(&name, &params, &Patch::Apply(&crd)).await.expect("accepted definition");
        eventually(&format!("{name} is established"), || async {
            is_established(&api.get(&name).await.ok()?).then_some(())
        })
        .await;
    }
}

fn is_established(crd: &CustomResourceDefinition) -> bool {
    let conditions = crd.status.as_ref().and_then(|s| s.conditions.as_ref());
    conditions.is_some_and(|list| list.iter().any(|c| c.type_ == "Established" && c.status == "True"))
}

/// A namespace that is deleted when this value goes away.
pub struct TestNamespace {
    pub name: String,
}

impl TestNamespace {
    /// Creates a namespace that enforces Pod Security `restricted`, as those of users should.
    pub async fn create(client: &Client, prefix: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(1);
        let name = format!("{prefix}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let namespace: Namespace = serde_json::from_value(json!({
            "metadata": {"name": name, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}}
        }))
        .expect("a namespace");
        let api: Api<Namespace> = Api::all(client.clone());
        api.create(&PostParams::default(), &namespace).await.expect("a namespace of its own");
        Self { name }
    }
}

impl Drop for TestNamespace {
    fn drop(&mut self) {
        let name = std::mem::take(&mut self.name);
        // A runtime of its own: that of the test may be ending, and a client belongs to its runtime.
        let deleted = std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let api: Api<Namespace> = Api::all(client().await);
                drop(api.delete(&name, &DeleteParams::default()).await);
            });
        });
        drop(deleted.join());
    }
}

/// Polls `check` until it answers, and fails with `what` after [`PATIENCE`].
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut check: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = check().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A YAML document as JSON, for test data that reads as what people type.
pub fn yaml(text: &str) -> Value {
    serde_saphyr::from_str(text).unwrap_or_else(|e| panic!("failed to read YAML: {e}\n{text}"))
}
