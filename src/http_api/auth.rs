//! Who may ask: API keys, else Kubernetes bearer tokens; open only when told so. Fails closed.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::Response;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::auth_kubernetes::{Decision, KubernetesAuth};
use super::error::ApiError;
use super::state::ApiState;

/// How often the file of keys is looked at, at most.
const RELOAD_INTERVAL: Duration = Duration::from_secs(1);

/// How a caller was recognised; in the request's extensions and the access log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    ApiKey,
    Kubernetes,
    /// Open mode.
    Anonymous,
}

impl Identity {
    /// The word in the access log.
    pub fn word(self) -> &'static str {
        match self {
            Self::ApiKey => "api-key",
            Self::Kubernetes => "kubernetes",
            Self::Anonymous => "none",
        }
    }
}

/// The configured ways.
pub struct Auth {
    pub keys: Option<ApiKeys>,
    pub kubernetes: Option<Arc<KubernetesAuth>>,
    /// Everybody may do everything.
    pub insecure: bool,
}

/// API keys of a file, one a line, `#` comments; hashed in memory, read again when the file changes.
pub struct ApiKeys {
    path: PathBuf,
    loaded: Mutex<Loaded>,
}

struct Loaded {
    hashes: Vec<[u8; 32]>,
    stamp: Option<(SystemTime, u64)>,
    checked: Instant,
}

impl ApiKeys {
    /// Reads the file.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn open(path: PathBuf) -> std::io::Result<Self> {
        let stamp = stamp(&path);
        let hashes = read(&path)?;
        if hashes.is_empty() {
            tracing::warn!(path = %path.display(), "the file of API keys holds no key");
        }
        Ok(Self { path, loaded: Mutex::new(Loaded { hashes, stamp, checked: Instant::now() }) })
    }

    /// Whether `key` is one of them; takes the same time whichever it is.
    fn contains(&self, key: &str) -> bool {
        let hash = hash(key);
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if loaded.checked.elapsed() >= RELOAD_INTERVAL {
            self.reload(&mut loaded);
        }
        let found = loaded.hashes.iter().fold(0u8, |found, known| found | known.ct_eq(&hash).unwrap_u8());
        found == 1
    }

    /// A file that is gone has no keys; one that cannot be read for another reason keeps the last.
    fn reload(&self, loaded: &mut Loaded) {
        loaded.checked = Instant::now();
        let now = stamp(&self.path);
        if now.is_some() && now == loaded.stamp {
            return;
        }
        match read(&self.path) {
            Ok(hashes) => {
                tracing::info!(keys = hashes.len(), "API keys read again");
                loaded.hashes = hashes;
                loaded.stamp = now;
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                loaded.hashes.clear();
                loaded.stamp = None;
            }
            Err(error) => {
                tracing::warn!(error = %error, "the file of API keys cannot be read, the last keys stay")
            }
        }
    }
}

fn stamp(path: &PathBuf) -> Option<(SystemTime, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

fn read(path: &PathBuf) -> std::io::Result<Vec<[u8; 32]>> {
    let text = std::fs::read_to_string(path)?;
    Ok(text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')).map(hash).collect())
}

fn hash(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

/// What a route touches, in the words of Kubernetes authorization.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Everybody: no data behind it.
    Open,
    /// The Pod of a Run, which the route itself recognises by its token.
    Run,
    /// The same, or who may `verb` `resource` of the group: then the request carries an [`Identity`].
    RunOr { verb: &'static str, resource: &'static str },
    /// `verb` on `resource` of the group.
    Resource { verb: &'static str, resource: &'static str },
}

/// What `method` on `route` touches. `None`: unknown, and therefore refused.
pub fn access(method: &Method, route: &str) -> Option<Access> {
    let on = |verb, resource| Some(Access::Resource { verb, resource });
    let read = method == Method::GET || method == Method::HEAD;
    match (read, route) {
        (true, "/health" | "/health/ready" | "/openapi.json") => Some(Access::Open),
        (true, "/tasks") => on("list", "tasks"),
        (true, "/tasks/{id}") => on("get", "tasks"),
        (true, "/runs") => on("list", "runs"),
        (true, "/runs/stats") => on("list", "runs"),
        (true, "/runs/{id}" | "/runs/{id}/logs" | "/runs/{id}/artifacts/{artifactId}/content") => {
            on("get", "runs")
        }
        (true, "/plans" | "/judgements") => on("list", "tasks"),
        (true, "/judgements/{id}/diff") => on("get", "tasks"),
        (true, "/logs/agents/{id}" | "/logs/cycle-manager" | "/logs/all") => on("get", "runs"),
        (true, "/events/stream") => on("watch", "tasks"),
        (false, "/logs/clear") if method == Method::POST => on("create", "operations"),
        (true, "/agents") => on("list", "agentpools"),
        (true, "/agents/{id}") => on("get", "agentpools"),
        (true, "/config") => on("get", "systems"),
        (false, "/config") if method == Method::PATCH => on("patch", "systems"),
        (false, "/tasks") if method == Method::POST => on("create", "tasks"),
        (false, "/tasks/{id}") if method == Method::PATCH => on("patch", "tasks"),
        (false, "/tasks/{id}") if method == Method::DELETE => on("delete", "tasks"),
        (false, "/tasks/{id}/retry") if method == Method::POST => on("create", "operations"),
        (false, "/runs") if method == Method::POST => on("create", "runs"),
        (false, "/runs/{id}") if method == Method::PATCH => on("patch", "runs"),
        (false, "/runs/{id}/cancel") if method == Method::POST => on("create", "operations"),
        (false, "/runs/{id}/artifacts") if method == Method::POST => {
            Some(Access::RunOr { verb: "patch", resource: "runs" })
        }
        (false, "/agents") if method == Method::POST => on("create", "agentpools"),
        (false, "/agents/{id}/heartbeat") if method == Method::POST => on("patch", "agentpools"),
        (false, "/agents/{id}") if method == Method::DELETE => on("delete", "agentpools"),
        (false, "/runs/{id}/tasks") if method == Method::POST => Some(Access::Run),
        (read, route) => system_access(read, method == Method::POST, route),
    }
}

/// The rows of what concerns the system as a whole.
fn system_access(read: bool, post: bool, route: &str) -> Option<Access> {
    let on = |verb, resource| Some(Access::Resource { verb, resource });
    match route {
        "/chat/conversations" if read => on("list", "tasks"),
        "/" | "/plugins" if read => on("get", "systems"),
        "/system/requirements" if post => on("patch", "systems"),
        route if !route.starts_with("/system/") => None,
        _ if read => on("get", "systems"),
        _ if post => on("create", "operations"),
        _ => None,
    }
}

/// Middleware of every route.
///
/// # Errors
/// 401, 403, or 503 when Kubernetes cannot be asked.
pub async fn authorize(
    State(state): State<ApiState>,
    route: MatchedPath,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let access = access(request.method(), route.as_str());
    if matches!(access, Some(Access::Open | Access::Run)) {
        return Ok(next.run(request).await);
    }
    let identity = match identify(&state.auth, &state.namespace, request.headers(), access).await {
        Ok(identity) => identity,
        // A token that is nobody's may be that of the Run's Pod: the route looks.
        Err(_) if is_run_or(access) && request.headers().contains_key(header::AUTHORIZATION) => {
            return Ok(next.run(request).await);
        }
        Err(error) => return Err(error),
    };
    request.extensions_mut().insert(identity);
    let mut response = next.run(request).await;
    response.extensions_mut().insert(identity);
    Ok(response)
}

fn is_run_or(access: Option<Access>) -> bool {
    matches!(access, Some(Access::RunOr { .. }))
}

async fn identify(
    auth: &Auth,
    namespace: &str,
    headers: &HeaderMap,
    access: Option<Access>,
) -> Result<Identity, ApiError> {
    let known = |key: &str| auth.keys.as_ref().is_some_and(|keys| keys.contains(key));
    if let Some(key) = headers.get("x-api-key").filter(|v| !v.is_empty()) {
        // A wrong key is refused even in open mode: the caller believes to be somebody.
        return match key.to_str() {
            Ok(key) if known(key) => Ok(Identity::ApiKey),
            Ok(_) | Err(_) => Err(ApiError::unauthorized()),
        };
    }
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let token = value.to_str().ok().and_then(bearer).ok_or_else(ApiError::unauthorized)?;
        if known(token) {
            return Ok(Identity::ApiKey);
        }
        let Some(kubernetes) = &auth.kubernetes else { return Err(ApiError::unauthorized()) };
        let Some(Access::Resource { verb, resource } | Access::RunOr { verb, resource }) = access else {
            return Err(ApiError::method_not_allowed());
        };
        return match kubernetes.decide(token, namespace, verb, resource).await? {
            Decision::Allowed => Ok(Identity::Kubernetes),
            Decision::Denied => {
                Err(ApiError::forbidden(format!("this account may not {verb} {resource}.opentiger.dev")))
            }
            Decision::Unknown => Err(ApiError::unauthorized()),
        };
    }
    if auth.insecure { Ok(Identity::Anonymous) } else { Err(ApiError::unauthorized()) }
}

/// The token of `Bearer <token>`.
pub(super) fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}
