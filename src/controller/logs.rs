//! Keeps the container logs of ended Runs in Postgres before their Pod is deleted. Bounded in memory
//! whatever a container wrote; decides nothing about the Pod.

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::LogParams;
use thiserror::Error;
use uuid::Uuid;

use crate::cluster::pod_logs::{Excerpt, Opened, Window, drain, open};
use crate::postgres::logs::{ContainerLog, kept, store};
use crate::postgres::{self, Pool};

/// Bytes kept from the beginning of a log.
const HEAD_BYTES: usize = 128 * 1024;
/// Bytes kept from its end.
const TAIL_BYTES: usize = 384 * 1024;

/// Why logs could not be kept. All but `Uid` may be cured by another try.
#[derive(Debug, Error)]
pub enum Error {
    #[error("failed to read the uid of the Run: {0:?}")]
    Uid(String),
    /// The API server or the node did not deliver.
    #[error("failed to read the log of container {container} of Pod {pod}")]
    Read {
        pod: String,
        container: String,
        #[source]
        source: Box<kube::Error>,
    },
    /// The stream broke off.
    #[error("failed to read the log of container {container} of Pod {pod} to its end")]
    Stream {
        pod: String,
        container: String,
        #[source]
        source: std::io::Error,
    },
    /// The Pod is gone and some log was not kept before.
    #[error("failed to find Pod {pod}, the log of container {container} is lost")]
    Gone { pod: String, container: String },
    #[error("failed to store the log of container {container} of Pod {pod}")]
    Store {
        pod: String,
        container: String,
        #[source]
        source: postgres::Error,
    },
}

/// Keeps the log of each of `containers` of `pod`, with timestamps, one row each: the first 128 KiB
/// and the last 384 KiB, the cut marked with a line. A container that never started has an empty
/// log. A repeat changes nothing, also after the Pod has gone.
///
/// # Errors
/// The first container that could not be kept; those before it are kept. The caller bounds the time.
pub async fn archive(
    client: &kube::Client,
    pool: &Pool,
    namespace: &str,
    run_uid: &str,
    pod: &str,
    containers: &[&str],
) -> Result<(), Error> {
    let run = Uuid::parse_str(run_uid).map_err(|_| Error::Uid(run_uid.to_owned()))?;
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    for container in containers {
        let names = || (pod.to_owned(), (*container).to_owned());
        let log = match read(&api, pod, container).await? {
            Some(log) => log,
            None => {
                let before = kept(pool, run).await.map_err(|source| {
                    let (pod, container) = names();
                    Error::Store { pod, container, source }
                })?;
                if before.iter().any(|c| c == container) {
                    continue;
                }
                let (pod, container) = names();
                return Err(Error::Gone { pod, container });
            }
        };
        store(pool, namespace, run, pod, &log).await.map_err(|source| {
            let (pod, container) = names();
            Error::Store { pod, container, source }
        })?;
    }
    Ok(())
}

/// The log of one container within the bounds; `None` when the Pod is gone.
async fn read(api: &Api<Pod>, pod: &str, container: &str) -> Result<Option<ContainerLog>, Error> {
    let parameters =
        LogParams { container: Some(container.to_owned()), timestamps: true, ..LogParams::default() };
    let mut window = Window::new(HEAD_BYTES, TAIL_BYTES);
    let failed = |source| Error::Read {
        pod: pod.to_owned(),
        container: container.to_owned(),
        source: Box::new(source),
    };
    match open(api, pod, &parameters).await.map_err(failed)? {
        Opened::Stream(stream) => drain(stream, &mut window).await.map_err(|source| Error::Stream {
            pod: pod.to_owned(),
            container: container.to_owned(),
            source,
        })?,
        Opened::NotStarted => {}
        Opened::Gone => return Ok(None),
    }
    let Excerpt { content, total_bytes, cut_bytes } = window.finish();
    let bytes = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    Ok(Some(ContainerLog {
        container: container.to_owned(),
        content,
        total_bytes: bytes(total_bytes),
        cut_bytes: bytes(cut_bytes),
    }))
}
