//! What answers that take long share: how many there may be at once, and how a body is handed to its
//! client piece by piece. Nothing here outlives its client or the API by more than its bounds.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, KeepAliveStream, Sse};
use futures::Stream;
use futures::stream::BoxStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use super::change_feed::ChangeFeed;
use super::error::ApiError;
use crate::postgres::DatabaseConfig;

/// Answers that read logs into memory, at once.
const READS: usize = 8;
/// Answers that merge logs, at once.
const MERGES: usize = 2;
/// Logs that are followed, at once.
const FOLLOWS: usize = 64;
/// Clients of the change stream, at once.
const STREAMS: usize = 256;
/// Longest wait for a place among `READS` and `MERGES`.
const QUEUE: Duration = Duration::from_secs(10);
/// Longest time a client may take for the next piece before it is given up.
const SLOW: Duration = Duration::from_secs(30);
/// Pieces that wait for a client.
const WAITING: usize = 16;
/// How often a stream shows that it lives.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// Longest life of a stream. A client goes on where it was; one whose rights were taken away does not.
pub const MAX_LIFE: Duration = Duration::from_secs(1800);

/// Where the operator's own logs are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorPods {
    pub namespace: String,
    /// Label selector, e.g. `app.kubernetes.io/component=operator`.
    pub labels: String,
}

/// Shared by all handlers.
pub struct Live {
    pub operator: Option<OperatorPods>,
    pub changes: Arc<ChangeFeed>,
    /// Streams end when this is cancelled.
    pub closing: CancellationToken,
    reads: Arc<Semaphore>,
    merges: Arc<Semaphore>,
    follows: Arc<Semaphore>,
    streams: Arc<Semaphore>,
}

/// What a place is wanted for.
#[derive(Clone, Copy, Debug)]
pub enum Place {
    /// Reading a log.
    Read,
    /// Merging logs.
    Merge,
    /// Following a log.
    Follow,
    /// The change stream.
    Stream,
}

impl Live {
    /// Streams the changes of `namespace` in `database`.
    pub fn new(database: &DatabaseConfig, namespace: &str, operator: Option<OperatorPods>) -> Self {
        let closing = CancellationToken::new();
        let places = |n| Arc::new(Semaphore::new(n));
        Self {
            operator,
            changes: Arc::new(ChangeFeed::new(database, namespace, closing.clone())),
            closing,
            reads: places(READS),
            merges: places(MERGES),
            follows: places(FOLLOWS),
            streams: places(STREAMS),
        }
    }

    /// A place, given back when the value goes away.
    ///
    /// # Errors
    /// 503 when there is none; for short answers after 10 s.
    pub async fn place(&self, place: Place) -> Result<OwnedSemaphorePermit, ApiError> {
        let (places, wait) = match place {
            Place::Read => (&self.reads, QUEUE),
            Place::Merge => (&self.merges, QUEUE),
            Place::Follow => (&self.follows, Duration::ZERO),
            Place::Stream => (&self.streams, Duration::ZERO),
        };
        let full =
            || ApiError::unavailable("too_many_streams", "too many of these are open, try again later");
        match tokio::time::timeout(wait, places.clone().acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(full()),
        }
    }
}

/// The near end of a body that is made while it is sent.
pub struct Outlet<T> {
    sender: mpsc::Sender<Result<T, Infallible>>,
}

/// A body and its near end, which waits for the client: only a few pieces are held at once.
pub fn outlet<T: Send + 'static>() -> (Outlet<T>, BoxStream<'static, Result<T, Infallible>>) {
    let (sender, receiver) = mpsc::channel(WAITING);
    let stream = futures::stream::unfold(receiver, async |mut receiver| {
        let piece = receiver.recv().await?;
        Some((piece, receiver))
    });
    (Outlet { sender }, Box::pin(stream))
}

impl<T> Outlet<T> {
    /// Hands the next piece over. False when the client has gone, or takes nothing for 30 s.
    #[must_use]
    pub async fn send(&self, piece: T) -> bool {
        matches!(tokio::time::timeout(SLOW, self.sender.send(Ok(piece))).await, Ok(Ok(())))
    }

    /// Until the client has gone.
    pub async fn gone(&self) {
        self.sender.closed().await;
    }
}

/// An event of a stream (WHATWG HTML, server-sent events), for the description of the API.
#[derive(Debug, ToSchema)]
pub struct ServerSentEvent {
    /// What it is: `log` or `end` of a log; `ready`, `change` or `reset` of the changes.
    pub event: Option<String>,
    /// For `Last-Event-ID`.
    pub id: Option<String>,
    /// JSON: `FollowedLine` of a `log`, `FollowedEnd` of an `end`, `Change` of a `change`, else an empty
    /// object.
    #[schema(content_media_type = "application/json")]
    pub data: Option<String>,
}

/// An answer of server-sent events with heartbeats, which go on whatever the stream waits for.
pub fn sse(
    stream: BoxStream<'static, Result<Event, Infallible>>,
) -> Sse<KeepAliveStream<impl Stream<Item = Result<Event, Infallible>>>> {
    Sse::new(stream).keep_alive(KeepAlive::new().interval(HEARTBEAT).text("heartbeat"))
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_is_given_up() {
        let (outlet, mut stream) = outlet();
        let mut sent = 0;
        while outlet.send(sent).await {
            sent += 1;
        }
        assert_eq!(sent, WAITING);
        drop(outlet);
        assert_eq!(stream.next().await, Some(Ok(0)));
        assert_eq!(stream.count().await, WAITING - 1);
    }

    #[tokio::test(start_paused = true)]
    async fn places_are_bounded_and_given_back() {
        let live = Live::new(&DatabaseConfig::new("postgres://a@b/c", "test"), "tiger", None);
        let mut held = Vec::new();
        for _ in 0..FOLLOWS {
            held.push(live.place(Place::Follow).await.expect("a place"));
        }
        assert!(live.place(Place::Follow).await.is_err());
        held.pop();
        assert!(live.place(Place::Follow).await.is_ok());
        let _reading: Vec<_> = futures::future::join_all((0..MERGES).map(|_| live.place(Place::Merge))).await;
        assert!(live.place(Place::Merge).await.is_err(), "after a wait");
    }
}
