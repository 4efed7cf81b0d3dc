//! A node whose containers write what a test says, behind an API server that serves their logs as a
//! kubelet does: `timestamps`, `tailLines`, `sinceTime` (whole seconds), `follow`.
#![allow(dead_code, reason = "each test program uses a part")]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use axum::body::{Body, Bytes};
use axum::http::{Request, Response};
use futures::stream;
use jiff::Timestamp;
use kube::Client;
use serde_json::json;
use tokio::sync::watch;

/// What a container has written.
#[derive(Clone, Default)]
struct Log {
    /// Each with its time in front and without its line feed.
    lines: Vec<Vec<u8>>,
    ended: bool,
}

/// Containers by `<namespace>/<pod>/<container>`.
#[derive(Clone, Default)]
pub struct Node {
    logs: Arc<Mutex<BTreeMap<String, watch::Sender<Log>>>>,
    /// Containers that answer with an endless flood of this many bytes instead.
    floods: Arc<Mutex<BTreeMap<String, u64>>>,
    /// What was asked for.
    asked: Arc<Mutex<Vec<String>>>,
}

impl Node {
    /// A container writes a line.
    pub fn writes(&self, container: &str, line: impl AsRef<[u8]>) {
        let mut logs = self.logs.lock().unwrap();
        let log = logs.entry(container.into()).or_insert_with(|| watch::channel(Log::default()).0);
        log.send_modify(|log| log.lines.push(line.as_ref().to_vec()));
    }

    /// A container ends.
    pub fn ends(&self, container: &str) {
        self.logs.lock().unwrap()[container].send_modify(|log| log.ended = true);
    }

    /// A container has written this many bytes: one line over and over.
    pub fn floods(&self, container: &str, bytes: u64) {
        self.floods.lock().unwrap().insert(container.into(), bytes);
    }

    /// The Pods of a namespace are gone.
    pub fn forgets(&self, pod: &str) {
        self.logs.lock().unwrap().retain(|name, _| !name.starts_with(&format!("{pod}/")));
    }

    /// Streams that follow a container now.
    pub fn followers(&self, container: &str) -> usize {
        self.logs.lock().unwrap().get(container).map_or(0, watch::Sender::receiver_count)
    }

    /// The requests so far.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }

    /// A client of the API server in front of it.
    pub fn client(&self) -> Client {
        let node = self.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let answer = node.answer(&request.uri().to_string());
            async move { Ok::<_, Infallible>(answer) }
        });
        Client::new(service, "default")
    }

    fn answer(&self, uri: &str) -> Response<Body> {
        self.asked.lock().unwrap().push(uri.to_owned());
        let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
        let query: BTreeMap<String, String> = query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(k, v)| (k.to_owned(), v.replace("%3A", ":").replace("%2B", "+")))
            .collect();
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        match parts[..] {
            ["api", "v1", "namespaces", namespace, "pods"] => self.list(namespace),
            ["api", "v1", "namespaces", namespace, "pods", pod, "log"] => {
                assert_eq!(query.get("timestamps").map(String::as_str), Some("true"), "{uri}");
                let container = format!("{namespace}/{pod}/{}", query["container"]);
                self.log(&container, &query)
            }
            _ => panic!("nobody asks for {uri}"),
        }
    }

    fn list(&self, namespace: &str) -> Response<Body> {
        let logs = self.logs.lock().unwrap();
        let mut pods: Vec<&str> = logs
            .keys()
            .filter_map(|name| name.strip_prefix(&format!("{namespace}/"))?.split('/').next())
            .collect();
        pods.dedup();
        let items: Vec<_> = pods.iter().map(|pod| json!({"metadata": {"name": pod}})).collect();
        let list = json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1", "metadata": {}, "items": items});
        Response::new(Body::from(list.to_string()))
    }

    fn log(&self, container: &str, query: &BTreeMap<String, String>) -> Response<Body> {
        if let Some(bytes) = self.floods.lock().unwrap().get(container) {
            return Response::new(flood(*bytes));
        }
        let logs = self.logs.lock().unwrap();
        let Some(log) = logs.get(container) else {
            let (pod, _) = container.rsplit_once('/').expect("a pod");
            let starts = logs.keys().any(|name| name.starts_with(&format!("{pod}/")));
            return failure(if starts { 400 } else { 404 });
        };
        let since: Option<Timestamp> = query.get("sinceTime").map(|t| t.parse().expect("a time"));
        let since = since.map(Timestamp::as_second);
        let tail: Option<usize> = query.get("tailLines").map(|n| n.parse().expect("a number"));
        let follow = query.get("follow").is_some_and(|f| f == "true");
        let lines = log.borrow().lines.clone();
        let selected = (0..lines.len()).filter(|n| since.is_none_or(|s| second(&lines[*n]) >= s));
        let first = selected.min().unwrap_or(lines.len());
        let first = tail.map_or(first, |tail| first.max(lines.len().saturating_sub(tail)));
        if !follow {
            return Response::new(Body::from(text(&lines[first..])));
        }
        let receiver = log.subscribe();
        let body = stream::unfold((receiver, first), |(mut receiver, sent)| async move {
            let log = receiver.wait_for(|log| log.lines.len() > sent || log.ended).await.ok()?.clone();
            let lines = log.lines.get(sent..).unwrap_or_default();
            if lines.is_empty() {
                return None;
            }
            Some((Ok::<_, Infallible>(text(lines)), (receiver, log.lines.len())))
        });
        Response::new(Body::from_stream(body))
    }
}

fn second(line: &[u8]) -> i64 {
    let time = String::from_utf8_lossy(line.split(|b| *b == b' ').next().unwrap_or_default()).into_owned();
    time.parse::<Timestamp>().expect("each line begins with a time").as_second()
}

fn text(lines: &[Vec<u8>]) -> Bytes {
    lines.iter().flat_map(|line| line.iter().copied().chain([b'\n'])).collect()
}

/// So many bytes, made as they are read.
fn flood(bytes: u64) -> Body {
    let line = "2026-02-13T14:00:00.123456789Z the same line again and again, as a loop writes it\n";
    let chunk = Bytes::from(line.repeat(64 * 1024 / line.len()));
    Body::from_stream(stream::unfold(0, move |sent| {
        let chunk = chunk.clone();
        async move {
            (sent < bytes).then(|| {
                let length = chunk.len() as u64;
                (Ok::<_, Infallible>(chunk), sent + length)
            })
        }
    }))
}

fn failure(code: u16) -> Response<Body> {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": "no", "reason": "x", "code": code});
    Response::builder().status(code).body(Body::from(status.to_string())).expect("a response")
}
