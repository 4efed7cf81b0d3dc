//! What every handler shares.

use std::sync::Arc;

use jiff::Timestamp;

use super::auth::Auth;
use super::edge::Edge;
use super::error::ApiError;
use super::kubernetes::Kubernetes;
use super::live::Live;
use super::metrics::ApiMetrics;
use super::plan_store::PlanStore;
use super::task_writer::TaskWriter;
use crate::postgres::Pool;

/// Shared by clones.
#[derive(Clone)]
pub struct ApiState {
    pub pool: Pool,
    pub metrics: ApiMetrics,
    /// The namespace this API serves.
    pub namespace: Arc<str>,
    pub auth: Arc<Auth>,
    /// Limits, proxies, origins, the webhook's secret.
    pub edge: Arc<Edge>,
    /// The objects of the namespace; without it the API only reads.
    pub kubernetes: Option<Kubernetes>,
    /// Name of the Secret that keys of `/config` are written to; without it they are refused.
    pub config_secret: Option<Arc<str>>,
    /// Creates Tasks; without it `POST /tasks` answers 503.
    pub writer: Option<Arc<dyn TaskWriter>>,
    /// Takes plans; without it `POST /runs/{id}/tasks` answers 503.
    pub plans: Option<Arc<dyn PlanStore>>,
    /// What answers that take long share.
    pub live: Arc<Live>,
    /// The clock.
    pub now: fn() -> Timestamp,
}

impl ApiState {
    /// Kubernetes.
    ///
    /// # Errors
    /// 503 when this API was started without it.
    pub fn kubernetes(&self) -> Result<&Kubernetes, ApiError> {
        self.kubernetes.as_ref().ok_or_else(ApiError::reads_only)
    }
}
