//! Keeps the container logs of ended Runs in Postgres before their Pod is deleted. Bounded in memory
//! whatever a container wrote; decides nothing about the Pod.

use std::collections::VecDeque;

use futures::{AsyncBufRead, AsyncBufReadExt};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::LogParams;
use thiserror::Error;
use uuid::Uuid;

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
    match api.log_stream(pod, &parameters).await {
        Ok(stream) => drain(stream, &mut window).await.map_err(|source| Error::Stream {
            pod: pod.to_owned(),
            container: container.to_owned(),
            source,
        })?,
        Err(kube::Error::Api(status)) if status.code == 404 => return Ok(None),
        // "container ... is waiting to start": it never ran, so it wrote nothing
        Err(kube::Error::Api(status)) if status.code == 400 => {}
        Err(source) => {
            return Err(Error::Read {
                pod: pod.to_owned(),
                container: container.to_owned(),
                source: Box::new(source),
            });
        }
    }
    Ok(Some(window.finish(container)))
}

async fn drain(stream: impl AsyncBufRead, window: &mut Window) -> std::io::Result<()> {
    let mut stream = std::pin::pin!(stream);
    loop {
        let chunk = stream.fill_buf().await?;
        if chunk.is_empty() {
            return Ok(());
        }
        window.push(chunk);
        let read = chunk.len();
        stream.consume_unpin(read);
    }
}

/// The beginning and the end of a stream.
struct Window {
    head_bytes: usize,
    tail_bytes: usize,
    head: Vec<u8>,
    tail: VecDeque<u8>,
    total: usize,
}

impl Window {
    fn new(head_bytes: usize, tail_bytes: usize) -> Self {
        Self { head_bytes, tail_bytes, head: Vec::new(), tail: VecDeque::new(), total: 0 }
    }

    fn push(&mut self, bytes: &[u8]) {
        self.total += bytes.len();
        let room = self.head_bytes.saturating_sub(self.head.len());
        let (head, rest) = bytes.split_at(room.min(bytes.len()));
        self.head.extend_from_slice(head);
        // Of a chunk larger than the tail only its end can stay.
        let rest = rest.get(rest.len().saturating_sub(self.tail_bytes)..).unwrap_or_default();
        let excess = (self.tail.len() + rest.len()).saturating_sub(self.tail_bytes);
        self.tail.drain(..excess.min(self.tail.len()));
        self.tail.extend(rest);
    }

    /// Cut at line ends where there are any. Bytes that are no UTF-8 are replaced.
    fn finish(mut self, container: &str) -> ContainerLog {
        let tail = self.tail.make_contiguous();
        let missing = self.total - self.head.len() - tail.len();
        let (content, cut) = if missing == 0 {
            ([&self.head, &*tail].concat(), 0)
        } else {
            let head_end = self.head.iter().rposition(|b| *b == b'\n').map_or(self.head.len(), |i| i + 1);
            let tail_start = tail.iter().position(|b| *b == b'\n').map_or(0, |i| i + 1);
            let head = self.head.get(..head_end).unwrap_or_default();
            let tail = tail.get(tail_start..).unwrap_or_default();
            let cut = self.total - head.len() - tail.len();
            let newline: &[u8] = if head.ends_with(b"\n") { b"" } else { b"\n" };
            let mark = format!("[... {cut} bytes cut ...]\n");
            ([head, newline, mark.as_bytes(), tail].concat(), cut)
        };
        let bytes = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        ContainerLog {
            container: container.to_owned(),
            content: String::from_utf8_lossy(&content).into_owned(),
            total_bytes: bytes(self.total),
            cut_bytes: bytes(cut),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn windowed(chunks: &[Vec<u8>], head: usize, tail: usize) -> ContainerLog {
        let mut window = Window::new(head, tail);
        chunks.iter().for_each(|c| window.push(c));
        window.finish("agent")
    }

    #[test]
    fn a_short_log_is_kept_whole() {
        let log = windowed(&[b"one\n".to_vec(), b"two\n".to_vec()], 4, 4);
        assert_eq!((log.content.as_str(), log.total_bytes, log.cut_bytes), ("one\ntwo\n", 8, 0));
    }

    #[test]
    fn the_cut_is_marked_and_falls_between_lines() {
        let log = windowed(&[b"first\nsecond\nthird\nfourth\nfifth\n".to_vec()], 8, 9);
        assert_eq!(log.content, "first\n[... 20 bytes cut ...]\nfifth\n");
        assert_eq!(log.cut_bytes, 20);
    }

    proptest! {
        /// However a log arrives in pieces, the result is the same, bounded, and its figures add up.
        #[test]
        fn pieces_do_not_matter(bytes in proptest::collection::vec(97u8..102, 0..400), at in 0usize..400, head in 0usize..60, tail in 1usize..60) {
            let bytes: Vec<u8> = bytes.into_iter().map(|b| if b == 97 { b'\n' } else { b }).collect();
            let (left, right) = bytes.split_at(at.min(bytes.len()));
            let whole = windowed(std::slice::from_ref(&bytes), head, tail);
            let pieces = windowed(&[left.to_vec(), right.to_vec()], head, tail);
            prop_assert_eq!(&whole, &pieces);
            prop_assert!(whole.content.len() <= head + tail + 64);
            prop_assert_eq!(whole.total_bytes as usize, bytes.len());
            if whole.cut_bytes == 0 {
                prop_assert_eq!(whole.content.as_bytes(), &bytes[..]);
            }
        }
    }
}
