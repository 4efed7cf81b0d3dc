//! A proxy between the operator and the API server that kills the operator at a chosen request, can
//! hold a create back, can answer its first lists from an older time, and notes every write.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use futures::StreamExt;
use kube::Client;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::watch;

/// Where in the life of a request the operator is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// The API server never sees the request.
    Before,
    /// The API server carries it out, the operator never sees the reply.
    ReplyLost,
    /// The operator sees the reply and has a moment to act on it.
    After,
}

/// One write, as the API server answered it.
#[derive(Clone, Debug)]
pub struct Write {
    /// When the operator sent it.
    pub sent: Instant,
    /// When the API server answered; `None`: not yet.
    pub answered: Option<Instant>,
    pub method: String,
    pub path: String,
    /// `metadata.name` of the body, for creates.
    pub name: String,
    /// HTTP status; 0 without an answer.
    pub status: u16,
    /// The API server's words, for refusals.
    pub message: String,
}

impl Write {
    /// Whether it renews or takes the Lease.
    pub fn is_lease(&self) -> bool {
        self.path.contains("/leases")
    }

    /// Whether it creates an object of this resource, such as `pods`.
    pub fn creates(&self, resource: &str) -> bool {
        self.method == "POST" && self.path.ends_with(&format!("/{resource}"))
    }

    /// Whether the API server carried it out.
    pub fn succeeded(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

#[derive(Default)]
struct Inner {
    writes: Vec<Write>,
    /// Resources whose next create is held back.
    hold: Vec<String>,
    pid: Option<i32>,
    kill_at: Option<(usize, Position)>,
    mutations: Vec<String>,
    recorded: HashMap<String, Vec<u8>>,
    stale: HashMap<String, Vec<u8>>,
    /// Until then no watch of Tasks, Runs and Pods delivers anything.
    lag_until: Option<Instant>,
    /// The resource whose watches deliver nothing until [`Proxy::release`].
    blind: Option<&'static str>,
}

/// A running proxy.
#[derive(Clone)]
pub struct Proxy {
    inner: Arc<Mutex<Inner>>,
    client: Client,
    killed: Arc<watch::Sender<bool>>,
    gate: Arc<watch::Sender<bool>>,
    pub address: SocketAddr,
}

impl Proxy {
    /// Starts a proxy in front of the API server of `client`.
    pub async fn start(client: Client) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let proxy = Self {
            inner: Arc::default(),
            client,
            killed: Arc::new(watch::channel(false).0),
            gate: Arc::new(watch::channel(false).0),
            address: listener.local_addr().expect("an address"),
        };
        let router = Router::new().fallback(forward).with_state(proxy.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        proxy
    }

    /// Kills process `pid` at its `n`-th mutating request (from 1).
    pub fn kill_at(&self, pid: u32, n: usize, position: Position) {
        let mut inner = self.inner.lock().unwrap();
        inner.pid = Some(pid as i32);
        inner.kill_at = Some((n, position));
    }

    /// From now on the first list of Tasks, Runs and Pods is answered as it was first answered before,
    /// and their watches deliver nothing for `lag`.
    pub fn serve_stale_lists(&self, lag: Duration) {
        let mut inner = self.inner.lock().unwrap();
        inner.stale = std::mem::take(&mut inner.recorded);
        inner.lag_until = Some(Instant::now() + lag);
    }

    /// Waits until the operator was killed.
    pub async fn killed(&self) {
        self.killed.subscribe().wait_for(|k| *k).await.expect("the proxy lives");
    }

    /// The mutating requests seen so far.
    pub fn mutations(&self) -> Vec<String> {
        self.inner.lock().unwrap().mutations.clone()
    }

    /// Every write so far, Leases and Events included, in the order they were sent.
    pub fn writes(&self) -> Vec<Write> {
        self.inner.lock().unwrap().writes.clone()
    }

    /// Holds back the next create of each of `resources` until [`Proxy::release`]. The operator waits.
    pub fn hold_next_create(&self, resources: &[&str]) {
        self.gate.send_replace(false);
        self.inner.lock().unwrap().hold = resources.iter().map(ToString::to_string).collect();
    }

    /// Holds back what watches of `resource` deliver until [`Proxy::release`].
    pub fn hold_watches(&self, resource: &'static str) {
        self.gate.send_replace(false);
        self.inner.lock().unwrap().blind = Some(resource);
    }

    /// Waits while the watch at `path` is held back.
    async fn sees(&self, path: &str) {
        let blind = self.inner.lock().unwrap().blind;
        if blind.is_some_and(|resource| path.contains(&format!("/{resource}?"))) {
            drop(self.gate.subscribe().wait_for(|open| *open).await);
        }
    }

    /// Whether all that was to be held back is.
    pub fn holds_all(&self) -> bool {
        self.inner.lock().unwrap().hold.is_empty()
    }

    /// Sends what was held back on to the API server.
    pub fn release(&self) {
        self.gate.send_replace(true);
    }

    /// Notes a write and says whether it is to be held back.
    fn note(&self, method: &str, path: &str, body: &[u8]) -> (usize, bool) {
        let body: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
        let name = body.pointer("/metadata/name").and_then(|n| n.as_str()).unwrap_or_default();
        let write = Write {
            sent: Instant::now(),
            answered: None,
            method: method.into(),
            path: path.into(),
            name: name.into(),
            status: 0,
            message: String::new(),
        };
        let mut inner = self.inner.lock().unwrap();
        let held = inner.hold.iter().position(|resource| write.creates(resource));
        if let Some(held) = held {
            inner.hold.remove(held);
        }
        inner.writes.push(write);
        (inner.writes.len() - 1, held.is_some())
    }

    fn note_answer(&self, write: usize, status: u16, message: &str) {
        let mut inner = self.inner.lock().unwrap();
        let write = &mut inner.writes[write];
        write.answered = Some(Instant::now());
        write.status = status;
        write.message = message.into();
    }

    fn strike(&self) {
        let pid = self.inner.lock().unwrap().pid.take();
        if let Some(pid) = pid {
            kill(Pid::from_raw(pid), Signal::SIGKILL).expect("the operator lives");
            self.killed.send_replace(true);
        }
    }

    /// Counts a mutating request and says whether the operator is to die of it.
    fn count(&self, request: &Request) -> Option<Position> {
        let path = request.uri().path();
        let mutating = !matches!(request.method().as_str(), "GET" | "HEAD");
        if !mutating || path.contains("/leases/") || path.ends_with("/leases") || path.contains("/events") {
            return None;
        }
        let mut inner = self.inner.lock().unwrap();
        inner.mutations.push(format!("{} {path}", request.method()));
        let n = inner.mutations.len();
        inner.kill_at.filter(|(at, _)| *at == n && inner.pid.is_some()).map(|(_, position)| position)
    }
}

async fn forward(State(proxy): State<Proxy>, request: Request) -> Response {
    let fate = proxy.count(&request);
    if fate == Some(Position::Before) {
        proxy.strike();
        return error();
    }
    let (parts, body) = request.into_parts();
    if parts.uri.path().ends_with("/log") {
        // Simulated nodes keep no logs.
        return Response::new(Body::from("2026-01-01T00:00:00Z a line\n"));
    }
    let path = parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    let list = parts.method == "GET" && is_lagging(&path) && !path.contains("watch=true");
    if list && let Some(old) = proxy.inner.lock().unwrap().stale.remove(&path) {
        return Response::builder()
            .header("content-type", "application/json")
            .body(Body::from(old))
            .expect("a reply");
    }
    let bytes = to_bytes(body, 8 << 20).await.expect("a request");
    if fate.is_none() && !matches!(parts.method.as_str(), "GET" | "HEAD") {
        // Carried out also when the operator is gone by then: the request is on its way.
        let write = tokio::spawn(forward_write(proxy, parts, bytes.to_vec()));
        return write.await.unwrap_or_else(|_| error());
    }
    let mut upstream = http::Request::builder().method(parts.method).uri(path.clone());
    for name in ["content-type", "accept"] {
        if let Some(value) = parts.headers.get(name) {
            upstream = upstream.header(name, value);
        }
    }
    let lag =
        proxy.inner.lock().unwrap().lag_until.filter(|_| is_lagging(&path) && path.contains("watch=true"));
    if let Some(until) = lag {
        tokio::time::sleep_until(until.into()).await;
    }
    let upstream = upstream.body(kube::client::Body::from(bytes.to_vec())).expect("a request");
    let Ok(reply) = proxy.client.send(upstream).await else { return error() };
    match fate {
        Some(Position::ReplyLost) => {
            proxy.strike();
            error()
        }
        Some(Position::After | Position::Before) => {
            let doomed = proxy.clone();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(8)).await;
                doomed.strike();
            });
            reply.map(Body::new)
        }
        None if list && reply.status().is_success() => {
            let (mut parts, body) = reply.into_parts();
            parts.headers.remove("transfer-encoding");
            let bytes = to_bytes(Body::new(body), 64 << 20).await.expect("a list");
            proxy.inner.lock().unwrap().recorded.entry(path).or_insert_with(|| bytes.to_vec());
            Response::from_parts(parts, Body::from(bytes))
        }
        None if path.contains("watch=true") => reply.map(|body| {
            let frames = Body::new(body).into_data_stream().then(move |frame| {
                let (proxy, path) = (proxy.clone(), path.clone());
                async move {
                    proxy.sees(&path).await;
                    frame
                }
            });
            Body::from_stream(frames)
        }),
        None => reply.map(Body::new),
    }
}

/// Sends a write to the API server and notes what became of it.
async fn forward_write(proxy: Proxy, parts: http::request::Parts, body: Vec<u8>) -> Response {
    let (write, held) = proxy.note(parts.method.as_str(), parts.uri.path(), &body);
    if held {
        drop(proxy.gate.subscribe().wait_for(|open| *open).await);
    }
    let path = parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    let mut upstream = http::Request::builder().method(parts.method).uri(path);
    for name in ["content-type", "accept"] {
        if let Some(value) = parts.headers.get(name) {
            upstream = upstream.header(name, value);
        }
    }
    let upstream = upstream.body(kube::client::Body::from(body)).expect("a request");
    let Ok(reply) = proxy.client.send(upstream).await else { return error() };
    let (mut parts, body) = reply.into_parts();
    parts.headers.remove("transfer-encoding");
    let Ok(bytes) = to_bytes(Body::new(body), 64 << 20).await else { return error() };
    let answer: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let message = if parts.status.is_success() { "" } else { answer["message"].as_str().unwrap_or_default() };
    proxy.note_answer(write, parts.status.as_u16(), message);
    Response::from_parts(parts, Body::from(bytes))
}

/// Whether a path is a list or watch of a kind that lags behind in the stale cases.
fn is_lagging(path: &str) -> bool {
    ["/tasks?", "/runs?", "/pods?"].iter().any(|kind| path.contains(kind))
}

fn error() -> Response {
    Response::builder().status(502).body(Body::empty()).expect("a reply")
}
