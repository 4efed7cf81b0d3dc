//! Connections: how many, and how long one may take for what. No route, no authentication.
//!
//! A connection either waits for a request's head or carries a request. When there is no place for a new
//! one, the one that has waited longest gives way: whoever opens thousands and sends slowly pushes out
//! his own, while a client that sends its request at once is served. Only if all carry requests a new
//! one is answered 503.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::http::{Request, Response};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::peer::Socket;
use super::write_deadline::WriteDeadline;

/// Most bytes of a request's head. Heads over the limit of `observe` and up to this are answered with
/// our JSON, larger ones with a bare 431.
const MAX_HEAD_BYTES: usize = 32 * 1024;
/// Most headers.
const MAX_HEADERS: usize = 100;
/// Longest time in which a client takes nothing of its answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Files the program needs besides its connections: database, Kubernetes, logs.
const OTHER_FILES: u64 = 128;
/// Wait after a failure to accept, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// What a client gets that finds no place.
const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: 73\r\n\r\n{\"error\":\"all connections are in use, try again\",\"code\":\"no_connections\"}";

/// Serves `router` until `shutdown`; then each connection ends after the request under way.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    max_connections: usize,
    header_timeout: Duration,
    shutdown: CancellationToken,
) {
    let most = max_connections.min(raise_file_limit()).max(1);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS);
    let (waiting, tasks) = (Waiting::default(), TaskTracker::new());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => break,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(error = %error, "connection cannot be accepted");
                waiting.evict_oldest();
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if tasks.len() >= most && !waiting.evict_oldest() {
            // What does not fit into the socket's buffer is not worth a wait.
            drop(stream.try_write(BUSY));
            continue;
        }
        tasks.spawn(connection(
            http.clone(),
            stream,
            address,
            router.clone(),
            waiting.clone(),
            shutdown.clone(),
        ));
    }
    drop(listener);
    tasks.close();
    tasks.wait().await;
}

/// One connection from its first byte to its last.
async fn connection(
    http: http1::Builder,
    stream: TcpStream,
    address: SocketAddr,
    router: Router,
    waiting: Waiting,
    shutdown: CancellationToken,
) {
    // Small answers are not held back.
    drop(stream.set_nodelay(true));
    let place = Arc::new(Place::new(waiting));
    let evicted = place.evicted.clone();
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Socket(address.ip()));
        let (router, busy) = (router.clone(), Busy::new(place.clone()));
        async move {
            let response = router.oneshot(request.map(Body::new)).await?;
            Ok::<Response<Answer>, Infallible>(response.map(|body| Answer { body, _busy: busy }))
        }
    });
    let io = TokioIo::new(WriteDeadline::new(stream, WRITE_TIMEOUT));
    let mut served = pin!(http.serve_connection(io, service));
    tokio::select! {
        // The client went, was too slow or is no client of HTTP: nothing of ours is wrong.
        _ = served.as_mut() => return,
        () = evicted.cancelled() => return,
        () = shutdown.cancelled() => served.as_mut().graceful_shutdown(),
    }
    drop(served.await);
}

/// The connections that wait for a head, in the order in which they began to.
#[derive(Clone, Default)]
struct Waiting(Arc<Mutex<Queue>>);

#[derive(Default)]
struct Queue {
    next: u64,
    connections: BTreeMap<u64, CancellationToken>,
}

impl Waiting {
    fn enter(&self, connection: &CancellationToken) -> u64 {
        let mut queue = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        queue.next += 1;
        let number = queue.next;
        queue.connections.insert(number, connection.clone());
        number
    }

    fn leave(&self, number: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).connections.remove(&number);
    }

    /// Ends the one that has waited longest. `false`: none waits.
    fn evict_oldest(&self) -> bool {
        let mut queue = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = queue.connections.pop_first();
        oldest.is_some_and(|(_, connection)| {
            connection.cancel();
            true
        })
    }
}

/// One connection's place among those that wait.
struct Place {
    waiting: Waiting,
    evicted: CancellationToken,
    number: Mutex<u64>,
}

impl Place {
    fn new(waiting: Waiting) -> Self {
        let evicted = CancellationToken::new();
        let number = Mutex::new(waiting.enter(&evicted));
        Self { waiting, evicted, number }
    }

    fn leave(&self) {
        self.waiting.leave(*self.number.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn enter(&self) {
        *self.number.lock().unwrap_or_else(PoisonError::into_inner) = self.waiting.enter(&self.evicted);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave();
    }
}

/// A request under way: from its head to the end of its answer.
struct Busy(Arc<Place>);

impl Busy {
    fn new(place: Arc<Place>) -> Self {
        place.leave();
        Self(place)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.enter();
    }
}

/// An answer's body; the connection is busy until it has been sent.
struct Answer {
    body: Body,
    _busy: Busy,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Lets the program have as many open files as it may, and says how many connections that is.
fn raise_file_limit() -> usize {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return usize::MAX };
    let now = if setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() { hard } else { soft };
    usize::try_from(now.saturating_sub(OTHER_FILES)).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_without_a_place_is_whole() {
        let text = std::str::from_utf8(BUSY).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").expect("head and body");
        assert!(
            head.contains(&format!("content-length: {}\r\n", body.len()))
                || head.ends_with(&format!("content-length: {}", body.len())),
            "{}",
            body.len()
        );
        assert!(body.starts_with("{\"error\":") && body.ends_with("\"}"));
    }

    #[test]
    fn the_connection_that_waits_longest_gives_way_and_a_busy_one_does_not() {
        let waiting = Waiting::default();
        let places: Vec<_> = (0..3).map(|_| Arc::new(Place::new(waiting.clone()))).collect();
        let evicted = || places.iter().map(|p| p.evicted.is_cancelled()).collect::<Vec<_>>();
        let busy = Busy::new(places[0].clone());
        assert!(waiting.evict_oldest());
        assert_eq!(evicted(), [false, true, false]);
        drop(busy);
        assert!(waiting.evict_oldest());
        assert_eq!(evicted(), [false, true, true], "it waits again, but not as long");
        let busy = Busy::new(places[0].clone());
        assert!(!waiting.evict_oldest(), "none waits");
        drop((busy, places));
        assert!(waiting.0.lock().expect("lock").connections.is_empty(), "what ended waits no more");
    }
}
