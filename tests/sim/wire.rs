//! The way from a client to the server: every request waits on the wire until the simulation decides
//! what becomes of it and of its answer.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures::future::BoxFuture;
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tower::Service;

use super::server::{Actor, Kind, Refusal, Server};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What a request asks for.
#[derive(Clone, Debug)]
pub enum Ask {
    Get(Kind, String),
    List(Kind),
    Create(Kind, Value),
    PatchStatus(Kind, String, Value),
    Apply(Kind, String, Value),
    Delete(Kind, String, Value),
    /// Nothing that an operator has any business with.
    Foreign(String),
}

/// Answer: status code and body; an error breaks the connection.
pub type Answer = Result<(u16, Value), ()>;

/// A request on the wire.
#[derive(Debug)]
pub struct Call {
    pub from: usize,
    pub ask: Ask,
    reply: Option<oneshot::Sender<Answer>>,
}

impl Call {
    /// Answers it.
    pub fn answer(mut self, answer: Answer) {
        if let Some(reply) = self.reply.take() {
            // Whoever has asked may be gone.
            let _ = reply.send(answer);
        }
    }
}

/// Where the requests of all operators arrive.
pub type Arrivals = Arc<Mutex<Vec<Call>>>;

/// The connection of one operator.
#[derive(Clone)]
pub struct Wire {
    pub from: usize,
    pub arrivals: Arrivals,
}

impl Service<Request<Body>> for Wire {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let wire = self.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let bytes = body.collect().await?.to_bytes();
            let body: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
            if parts.uri.path().contains("/events") {
                // Warnings for people: best effort, without influence on anything.
                return response(201, &body);
            }
            let (reply, answer) = oneshot::channel();
            let ask = ask(&parts.method, parts.uri.path(), body);
            let call = Call { from: wire.from, ask, reply: Some(reply) };
            wire.arrivals.lock().unwrap_or_else(PoisonError::into_inner).push(call);
            match answer.await {
                Ok(Ok((code, body))) => response(code, &body),
                Ok(Err(())) | Err(_) => Err("the connection was closed".into()),
            }
        })
    }
}

fn response(code: u16, body: &Value) -> Result<Response<Body>, BoxError> {
    Ok(Response::builder().status(code).body(Body::from(body.to_string().into_bytes()))?)
}

fn ask(method: &Method, path: &str, body: Value) -> Ask {
    let parts: Vec<&str> = path.split('/').filter(|p| !p.is_empty()).collect();
    let at = parts.iter().position(|p| *p == "namespaces").map_or(parts.len(), |i| i + 2);
    let kind = parts.get(at).and_then(|plural| Kind::of(plural));
    let foreign = || Ask::Foreign(format!("{method} {path}"));
    let Some(kind) = kind else { return foreign() };
    let name = parts.get(at + 1).map(|n| (*n).to_string());
    let sub = parts.get(at + 2).copied();
    match (method.as_str(), name, sub) {
        ("GET", None, None) => Ask::List(kind),
        ("GET", Some(name), None) => Ask::Get(kind, name),
        ("POST", None, None) => Ask::Create(kind, body),
        ("PATCH", Some(name), Some("status")) => Ask::PatchStatus(kind, name, body),
        ("PATCH", Some(name), None) if kind == Kind::NetworkPolicy => Ask::Apply(kind, name, body),
        ("DELETE", Some(name), None) => Ask::Delete(kind, name, body),
        _ => foreign(),
    }
}

/// Carries out a request. Returns the answer that a client would get.
pub fn carry_out(server: &mut Server, from: usize, ask: &Ask) -> (u16, Value) {
    let by = Actor::Operator(from);
    let whole = |object: std::sync::Arc<Value>| Value::clone(&object);
    let result = match ask {
        Ask::Get(kind, name) => {
            server.read(*kind, name).map(whole).ok_or_else(|| Refusal::new(404, "NotFound", "not found"))
        }
        Ask::List(kind) => {
            let items: Vec<Value> = server.all(*kind).into_iter().map(whole).collect();
            let (word, api) = kind.words();
            Ok(json!({"kind": format!("{word}List"), "apiVersion": api, "items": items,
                      "metadata": {"resourceVersion": server.version().to_string()}}))
        }
        Ask::Create(kind, body) => server.create(*kind, body.clone(), by).map(whole),
        Ask::PatchStatus(kind, name, patch) => server.patch_status(*kind, name, patch, by).map(whole),
        Ask::Apply(kind, name, body) => {
            if server.get(*kind, name).is_some() {
                server.change(*kind, name, by, |object| object["spec"] = body["spec"].clone());
                server.get(*kind, name).map(whole).ok_or_else(|| Refusal::new(404, "NotFound", "not found"))
            } else {
                server.create(*kind, body.clone(), by).map(whole)
            }
        }
        Ask::Delete(kind, name, options) => {
            let uid = super::server::text(options, "/preconditions/uid").to_string();
            let grace = options.get("gracePeriodSeconds").and_then(Value::as_i64);
            let done = server.delete(*kind, name, &uid, grace, by);
            done.map(|()| json!({"kind": "Status", "apiVersion": "v1", "status": "Success"}))
        }
        Ask::Foreign(_) => Err(Refusal::new(403, "Forbidden", "not allowed")),
    };
    match result {
        Ok(body) => (if matches!(ask, Ask::Create(..)) { 201 } else { 200 }, body),
        Err(refusal) => (refusal.code, refusal.body()),
    }
}
