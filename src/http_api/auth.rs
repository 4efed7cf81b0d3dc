//! Who may ask: API keys, else Kubernetes bearer tokens; open only when told so. Fails closed.
//!
//! Every request passes [`authorize`]: it finds the caller, counts the request against the caller's
//! limit (`limits`), and compares what the caller may do with the route's row (`access`).

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Instant;

use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

pub use super::access::{Access, access};
use super::access::{Scope, scope};
use super::auth_kubernetes::{Decision, KubernetesAuth};
use super::edge::OpenMode;
use super::error::ApiError;
use super::keys::{ApiKeys, Key};
use super::limits::Budget;
use super::peer::{self, Socket};
use super::state::ApiState;
use crate::crd::wire::API_AUDIENCE;

/// Who a caller is; in the extensions of request and response, and the access log.
///
/// A handler takes it as an argument to know who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// A key, by its name.
    ApiKey(Arc<str>),
    /// An account, by its user name.
    Kubernetes(Arc<str>),
    /// Open mode.
    Anonymous,
}

impl Identity {
    /// The way it was recognised, for the access log.
    pub fn word(&self) -> &'static str {
        match self {
            Self::ApiKey(_) => "api-key",
            Self::Kubernetes(_) => "kubernetes",
            Self::Anonymous => "none",
        }
    }

    /// Who it is, for `requestedBy` of an Operation: `key:NAME`, the account's user name, or `anonymous`.
    pub fn name(&self) -> String {
        match self {
            Self::ApiKey(name) => format!("key:{name}"),
            Self::Kubernetes(user) => user.to_string(),
            Self::Anonymous => "anonymous".to_owned(),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Identity {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        parts.extensions.get::<Self>().cloned().ok_or_else(ApiError::unauthorized)
    }
}

/// The configured ways.
pub struct Auth {
    pub keys: Option<ApiKeys>,
    pub kubernetes: Option<Arc<KubernetesAuth>>,
    /// Everybody may do everything.
    pub open: Option<OpenMode>,
}

/// What a caller shows.
enum Credentials<'a> {
    /// `X-API-Key`.
    Key(&'a str),
    /// `Authorization: Bearer`.
    Bearer(&'a str),
    /// Something that is neither.
    Unreadable,
    None,
}

impl<'a> Credentials<'a> {
    fn of(headers: &'a HeaderMap) -> Self {
        if let Some(key) = headers.get("x-api-key").filter(|v| !v.is_empty()) {
            return key.to_str().map_or(Self::Unreadable, Self::Key);
        }
        match headers.get(header::AUTHORIZATION) {
            Some(value) => value.to_str().ok().and_then(bearer).map_or(Self::Unreadable, Self::Bearer),
            None => Self::None,
        }
    }
}

/// The answer to who is not let through.
type Refused = Box<Response>;

/// A recognised caller.
struct Caller {
    identity: Identity,
    /// The most a key may do; accounts are asked about one by one.
    scope: Scope,
    /// What Kubernetes says about an account.
    denied: bool,
}

/// One request, as far as authorization needs it.
struct Asked<'a> {
    state: &'a ApiState,
    method: &'a Method,
    route: &'a str,
    headers: &'a HeaderMap,
    address: IpAddr,
    now: Instant,
}

/// Middleware of everything: 401, 403, 405 for a method without a row, 429, or 503 when Kubernetes
/// cannot be asked.
pub async fn authorize(
    State(state): State<ApiState>,
    route: Option<MatchedPath>,
    mut request: Request,
    next: Next,
) -> Response {
    let address = address(&state, &request);
    let (method, headers) = (request.method().clone(), request.headers().clone());
    let route = route.as_ref().map(MatchedPath::as_str);
    let asked = Asked {
        state: &state,
        method: &method,
        route: route.unwrap_or_default(),
        headers: &headers,
        address,
        now: Instant::now(),
    };
    let access = route.and_then(|route| access(&method, route)).map(|a| a.resolve(is_run_token(&headers)));
    match (route, access) {
        // The probes of the kubelet must not meet a limit.
        (Some(route), Some(Access::Open)) if route.starts_with("/health") => next.run(request).await,
        (None, _) | (_, Some(Access::Open)) => match asked.count_address() {
            Err(refused) => *refused,
            Ok(budget) => with(budget, next.run(request).await),
        },
        (_, Some(Access::Run | Access::Signed)) => match asked.count_stranger() {
            Err(refused) => *refused,
            Ok(budget) => {
                let response = next.run(request).await;
                if response.status() == axum::http::StatusCode::UNAUTHORIZED {
                    asked.count_failure();
                }
                with(budget, response)
            }
        },
        (_, Some(Access::Resource { .. } | Access::RunOr { .. }) | None) => {
            match asked.identify(access).await {
                Err(refused) => *refused,
                Ok((caller, budget)) => {
                    let identity = caller.identity.clone();
                    let mut response = match asked.permit(&caller, access) {
                        Err(error) => error.into_response(),
                        Ok(()) => {
                            request.extensions_mut().insert(identity.clone());
                            next.run(request).await
                        }
                    };
                    response.extensions_mut().insert(identity);
                    with(budget, response)
                }
            }
        }
    }
}

fn with(budget: Option<Budget>, mut response: Response) -> Response {
    if let Some(budget) = budget {
        budget.write(response.headers_mut());
    }
    response
}

/// The client's address; unspecified when the request came by no socket.
pub(super) fn address(state: &ApiState, request: &Request) -> IpAddr {
    let socket = request.extensions().get::<Socket>().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |s| s.0);
    peer::client(socket, request.headers(), &state.edge.proxies)
}

impl Asked<'_> {
    /// Counts a request of somebody who did not say who he is.
    fn count_address(&self) -> Result<Option<Budget>, Refused> {
        let Some(limits) = &self.state.edge.limits else { return Ok(None) };
        let budget = limits.addresses.take(&peer::bucket(self.address), self.now);
        within(budget, "this address")
    }

    /// The same for a route that authenticates by itself: failures count too.
    fn count_stranger(&self) -> Result<Option<Budget>, Refused> {
        self.may_fail()?;
        self.count_address()
    }

    /// Whether this address has failed too often to try again.
    fn may_fail(&self) -> Result<(), Refused> {
        let Some(limits) = &self.state.edge.limits else { return Ok(()) };
        within(limits.failures.look(&peer::bucket(self.address), self.now), "failed attempts of this address")
            .map(drop)
    }

    fn count_failure(&self) -> Option<Budget> {
        let limits = self.state.edge.limits.as_ref()?;
        Some(limits.failures.take(&peer::bucket(self.address), self.now))
    }

    /// Counts a request of a caller that is known.
    fn count(&self, identity: &Identity) -> Result<Option<Budget>, Refused> {
        let Some(limits) = &self.state.edge.limits else { return Ok(None) };
        match identity {
            Identity::ApiKey(_) | Identity::Kubernetes(_) => {
                within(limits.identities.take(&identity.name(), self.now), "this caller")
            }
            Identity::Anonymous => self.count_address(),
        }
    }

    async fn identify(&self, access: Option<Access>) -> Result<(Caller, Option<Budget>), Refused> {
        let caller = match Credentials::of(self.headers) {
            // A wrong key is refused even in open mode: the caller believes to be somebody.
            Credentials::Key(key) => self.key(key),
            Credentials::Bearer(token) => match self.key(token) {
                Some(caller) => Some(caller),
                None => self.account(token, access).await?,
            },
            Credentials::Unreadable => None,
            Credentials::None => self.anonymous()?,
        };
        match caller {
            Some(caller) => match self.count(&caller.identity) {
                Ok(budget) => Ok((caller, budget)),
                Err(mut refused) => {
                    refused.extensions_mut().insert(caller.identity);
                    Err(refused)
                }
            },
            None => {
                self.may_fail()?;
                let budget = self.count_failure();
                Err(with(budget, ApiError::unauthorized().into_response()).into())
            }
        }
    }

    fn key(&self, presented: &str) -> Option<Caller> {
        let Key { name, scope, .. } = self.state.auth.keys.as_ref()?.find(presented)?;
        Some(Caller { identity: Identity::ApiKey(name), scope, denied: false })
    }

    async fn account(&self, token: &str, access: Option<Access>) -> Result<Option<Caller>, Refused> {
        let Some(kubernetes) = &self.state.auth.kubernetes else { return Ok(None) };
        let Some(Access::Resource { verb, resource }) = access else {
            return Err(with(self.count_address()?, ApiError::method_not_allowed().into_response()).into());
        };
        let namespace = &self.state.namespace;
        let decision = match kubernetes.kept(token, namespace, verb, resource) {
            Some(decision) => decision,
            None => {
                // Every unknown token costs the API server a review.
                self.may_fail()?;
                let asked = kubernetes.decide(token, namespace, verb, resource).await;
                asked.map_err(|error| error.into_response())?
            }
        };
        let known =
            |user, denied| Caller { identity: Identity::Kubernetes(user), scope: Scope::System, denied };
        Ok(match decision {
            Decision::Allowed(user) => Some(known(user, false)),
            Decision::Denied(user) => Some(known(user, true)),
            Decision::Unknown => None,
        })
    }

    fn anonymous(&self) -> Result<Option<Caller>, Refused> {
        let Some(open) = self.state.auth.open else { return Ok(None) };
        open.refuse_pages(self.headers, &self.state.edge.origins).map_err(|error| error.into_response())?;
        Ok(Some(Caller { identity: Identity::Anonymous, scope: Scope::System, denied: false }))
    }

    /// Whether the caller may do this.
    fn permit(&self, caller: &Caller, access: Option<Access>) -> Result<(), ApiError> {
        let Some(access @ Access::Resource { verb, resource }) = access else {
            return Err(ApiError::method_not_allowed());
        };
        if caller.denied {
            return Err(ApiError::forbidden(format!("this account may not {verb} {resource}.opentiger.dev")));
        }
        match scope(self.method, self.route, access) {
            Some(needed) if caller.scope < needed => Err(ApiError::forbidden(format!(
                "this key has the scope {}, and this needs {}",
                caller.scope.word(),
                needed.word()
            ))),
            Some(_) | None => Ok(()),
        }
    }
}

/// The budget, or 429 with it.
fn within(budget: Budget, whose: &str) -> Result<Option<Budget>, Refused> {
    if budget.allowed {
        return Ok(Some(budget));
    }
    let refused = ApiError::too_many(
        budget.reset,
        format!("more than {} a minute for {whose}, try again in {} s", budget.limit, budget.reset),
    );
    Err(with(Some(budget), refused.into_response()).into())
}

/// Whether the bearer token says of itself that it was made for us, as that of a Run's Pod does. Only a
/// hint: the route checks it.
fn is_run_token(headers: &HeaderMap) -> bool {
    let Credentials::Bearer(token) = Credentials::of(headers) else { return false };
    let claims = token.split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
    let claims: Option<serde_json::Value> = claims.and_then(|claims| serde_json::from_slice(&claims).ok());
    let audiences = claims.as_ref().and_then(|claims| claims.get("aud"));
    audiences.is_some_and(|aud| match aud {
        serde_json::Value::String(one) => one == API_AUDIENCE,
        serde_json::Value::Array(all) => all.iter().any(|one| one == API_AUDIENCE),
        serde_json::Value::Null
        | serde_json::Value::Bool(_)
        | serde_json::Value::Number(_)
        | serde_json::Value::Object(_) => false,
    })
}

/// The token of `Bearer <token>`.
pub(super) fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}
