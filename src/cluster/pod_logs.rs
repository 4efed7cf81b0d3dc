//! Logs of containers, read from Kubernetes as a stream of bytes. Bounded in memory whatever a
//! container wrote; writes nothing and decides nothing.

use std::collections::VecDeque;

use futures::{AsyncBufRead, AsyncBufReadExt};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::LogParams;

/// What there is of a container's log.
pub enum Opened<S> {
    /// Its bytes.
    Stream(S),
    /// The container has not started, so it wrote nothing.
    NotStarted,
    /// There is no such Pod.
    Gone,
}

/// Opens the log of a container of `pod`.
///
/// # Errors
/// When the API server or the node does not deliver.
pub async fn open(
    api: &Api<Pod>,
    pod: &str,
    parameters: &LogParams,
) -> Result<Opened<impl AsyncBufRead + Send + use<>>, kube::Error> {
    match api.log_stream(pod, parameters).await {
        Ok(stream) => Ok(Opened::Stream(stream)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Opened::Gone),
        // "container ... is waiting to start"
        Err(kube::Error::Api(status)) if status.code == 400 => Ok(Opened::NotStarted),
        Err(error) => Err(error),
    }
}

/// Reads `stream` to its end.
///
/// # Errors
/// When it breaks off.
pub async fn drain(stream: impl AsyncBufRead, window: &mut Window) -> std::io::Result<()> {
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

/// The beginning and the end of a stream of bytes.
pub struct Window {
    head_bytes: usize,
    tail_bytes: usize,
    head: Vec<u8>,
    tail: VecDeque<u8>,
    total: usize,
}

/// What a [`Window`] has kept.
#[derive(Debug, PartialEq, Eq)]
pub struct Excerpt {
    /// Cut at line ends where there are any, the cut marked with a line. Bytes that are no UTF-8 are
    /// replaced.
    pub content: String,
    /// Bytes of the whole stream.
    pub total_bytes: usize,
    /// Bytes that are missing from `content`.
    pub cut_bytes: usize,
}

impl Window {
    /// Keeps the first `head_bytes` and the last `tail_bytes`.
    pub fn new(head_bytes: usize, tail_bytes: usize) -> Self {
        Self { head_bytes, tail_bytes, head: Vec::new(), tail: VecDeque::new(), total: 0 }
    }

    /// The next bytes.
    pub fn push(&mut self, bytes: &[u8]) {
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

    /// Only the end, without a mark: whole lines where there are any.
    pub fn into_tail(mut self) -> Excerpt {
        let tail = self.tail.make_contiguous();
        let cut_line = self.total > tail.len();
        let start = if cut_line { tail.iter().position(|b| *b == b'\n').map_or(0, |i| i + 1) } else { 0 };
        let tail = tail.get(start..).unwrap_or_default();
        Excerpt {
            content: String::from_utf8_lossy(tail).into_owned(),
            total_bytes: self.total,
            cut_bytes: self.total - tail.len(),
        }
    }

    /// Beginning and end.
    pub fn finish(mut self) -> Excerpt {
        let tail = self.tail.make_contiguous();
        let missing = self.total - self.head.len() - tail.len();
        let (content, cut_bytes) = if missing == 0 {
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
        Excerpt {
            content: String::from_utf8_lossy(&content).into_owned(),
            total_bytes: self.total,
            cut_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn windowed(chunks: &[Vec<u8>], head: usize, tail: usize) -> Excerpt {
        let mut window = Window::new(head, tail);
        chunks.iter().for_each(|c| window.push(c));
        window.finish()
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

    #[test]
    fn a_tail_begins_with_a_whole_line() {
        for (bytes, expected) in
            [(&b"one\ntwo\n"[..], "two\n"), (b"two\n", "two\n"), (b"longer than it", "than it")]
        {
            let mut window = Window::new(0, 7);
            window.push(bytes);
            let tail = window.into_tail();
            assert_eq!(tail.content, expected);
            assert_eq!((tail.total_bytes, tail.cut_bytes), (bytes.len(), bytes.len() - expected.len()));
        }
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
            prop_assert_eq!(whole.total_bytes, bytes.len());
            if whole.cut_bytes == 0 {
                prop_assert_eq!(whole.content.as_bytes(), &bytes[..]);
            }
        }
    }
}
