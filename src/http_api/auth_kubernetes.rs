//! Kubernetes bearer tokens: TokenReview says who, SubjectAccessReview says whether. Answers are kept
//! for a few seconds, so that a busy client does not load the API server.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, UserInfo};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::Api;
use kube::api::PostParams;
use sha2::{Digest, Sha256};

use super::error::ApiError;
use crate::crd::GROUP;

/// How long a yes is kept: a revoked account may go on for so long.
const KEEP_ALLOWED: Duration = Duration::from_secs(5);
/// How long a no is kept.
const KEEP_REFUSED: Duration = Duration::from_secs(1);
/// Answers kept at most.
const MAX_KEPT: usize = 4096;
/// Longest wait for the API server.
const TIMEOUT: Duration = Duration::from_secs(3);

/// What Kubernetes says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// A known account that may, by its user name.
    Allowed(Arc<str>),
    /// A known account that may not.
    Denied(Arc<str>),
    /// No valid token.
    Unknown,
}

/// Asks the API server.
pub struct KubernetesAuth {
    client: kube::Client,
    kept: Mutex<HashMap<[u8; 32], (Instant, Decision)>>,
}

impl KubernetesAuth {
    /// Asks through `client`, whose account needs `system:auth-delegator`.
    pub fn new(client: kube::Client) -> Self {
        Self { client, kept: Mutex::new(HashMap::new()) }
    }

    /// Whether the account of `token` may `verb` `resource` in `namespace`. The token must be for the
    /// audience of the API server: those that are made for other programs open nothing.
    ///
    /// # Errors
    /// 503 when the API server cannot be asked.
    pub async fn decide(
        &self,
        token: &str,
        namespace: &str,
        verb: &str,
        resource: &str,
    ) -> Result<Decision, ApiError> {
        let asked = tokio::time::timeout(TIMEOUT, self.ask(token, namespace, verb, resource)).await;
        let unavailable =
            || ApiError::unavailable("kubernetes_unavailable", "the token cannot be checked now, try again");
        let decision = asked.map_err(|_| unavailable())?.map_err(|error| {
            tracing::warn!(error = &error as &dyn std::error::Error, "token cannot be checked");
            unavailable()
        })?;
        self.keep(question(token, namespace, verb, resource), decision.clone());
        Ok(decision)
    }

    /// What was decided about this a few seconds ago.
    pub fn kept(&self, token: &str, namespace: &str, verb: &str, resource: &str) -> Option<Decision> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let known = kept.get(&question(token, namespace, verb, resource));
        known.filter(|(until, _)| *until > Instant::now()).map(|(_, decision)| decision.clone())
    }

    fn keep(&self, key: [u8; 32], decision: Decision) {
        let time = match decision {
            Decision::Allowed(_) => KEEP_ALLOWED,
            Decision::Denied(_) | Decision::Unknown => KEEP_REFUSED,
        };
        let now = Instant::now();
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= MAX_KEPT {
            kept.retain(|_, (until, _)| *until > now);
        }
        if kept.len() < MAX_KEPT {
            kept.insert(key, (now + time, decision));
        }
    }

    async fn ask(
        &self,
        token: &str,
        namespace: &str,
        verb: &str,
        resource: &str,
    ) -> Result<Decision, kube::Error> {
        let review = TokenReview {
            spec: TokenReviewSpec { token: Some(token.to_owned()), ..TokenReviewSpec::default() },
            ..TokenReview::default()
        };
        let review =
            Api::<TokenReview>::all(self.client.clone()).create(&PostParams::default(), &review).await?;
        let status = review.status.unwrap_or_default();
        let user = match status.user {
            Some(user) if status.authenticated == Some(true) => user,
            Some(_) | None => return Ok(Decision::Unknown),
        };
        let UserInfo { extra, groups, uid, username } = user;
        let name: Arc<str> = username.clone().unwrap_or_default().into();
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                extra,
                groups,
                uid,
                user: username,
                resource_attributes: Some(ResourceAttributes {
                    group: Some(GROUP.to_owned()),
                    namespace: Some(namespace.to_owned()),
                    resource: Some(resource.to_owned()),
                    verb: Some(verb.to_owned()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let review = Api::<SubjectAccessReview>::all(self.client.clone())
            .create(&PostParams::default(), &review)
            .await?;
        let allowed = review.status.is_some_and(|s| s.allowed);
        Ok(if allowed { Decision::Allowed(name) } else { Decision::Denied(name) })
    }
}

/// What a kept answer answers. No token is kept.
fn question(token: &str, namespace: &str, verb: &str, resource: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in [token, namespace, verb, resource] {
        hash.update(part.len().to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}
