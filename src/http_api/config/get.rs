//! `GET /config`: every key with its value, from the objects as they are now. A secret is masked.

use std::collections::{BTreeMap, BTreeSet};

use axum::Json;
use axum::extract::State;
use kube::api::ListParams;
use serde::Serialize;
use utoipa::ToSchema;

use super::draft::Live;
use super::{secrets, table};
use crate::crd::{AgentPool, System, system};
use crate::http_api::error::{ApiError, ErrorBody};
use crate::http_api::kubernetes::{Kubernetes, answer};
use crate::http_api::query::Params;
use crate::http_api::state::ApiState;

/// The configuration.
#[derive(Debug, Serialize, ToSchema)]
pub struct Config {
    /// Value by key, all of them strings; a secret is `********` when it is set, else empty.
    config: BTreeMap<&'static str, String>,
}

/// Every key of the configuration, see docs/configuration.md. Secrets are masked.
#[utoipa::path(get, path = "/config", tag = "config",
    params(("all" = Option<bool>, Query, description = "also the keys that were variables of the original's programs")),
    responses((status = 200, body = Config), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 404, body = ErrorBody, description = "there is no System"),
        (status = 503, body = ErrorBody)))]
pub async fn get(State(state): State<ApiState>, params: Params) -> Result<Json<Config>, ApiError> {
    let all = params.flag("all")?;
    let kubernetes = state.kubernetes()?;
    let (live, set) = futures::try_join!(
        observe(kubernetes),
        secrets::set_keys(kubernetes, state.config_secret.as_deref())
    )?;
    Ok(Json(Config { config: shown(&live, &set, all) }))
}

/// Values by key; `all`: also of keys that the original did not show.
pub(super) fn shown(live: &Live, set: &BTreeSet<String>, all: bool) -> BTreeMap<&'static str, String> {
    table::keys().filter(|key| all || !key.env).map(|key| (key.name, live.read(key, set))).collect()
}

/// The System and the AgentPools.
///
/// # Errors
/// 404 when there is no System, 503 when the API server cannot be asked.
pub(super) async fn observe(kubernetes: &Kubernetes) -> Result<Live, ApiError> {
    let (pools, everything) = (kubernetes.api::<AgentPool>(), ListParams::default());
    let (system, pools) =
        futures::try_join!(kubernetes.get::<System>(system::NAME), answer(pools.list(&everything)))?;
    let namespace = kubernetes.namespace();
    let what = format!("System {} of namespace {namespace}, which holds the configuration,", system::NAME);
    let system = system.ok_or_else(|| ApiError::not_found(&what))?;
    Ok(Live { system, pools: pools.items })
}
