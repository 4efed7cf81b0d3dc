//! `/system/processes`: components and agents as the processes of the original. What they are is
//! derived (`process_info`); start and stop are Operations.

use axum::Extension;
use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use jiff::Timestamp;
use kube::api::ListParams;
use kube::{Api, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use utoipa::ToSchema;

use super::auth::Identity;
use super::error::{ApiError, ErrorBody};
use super::kubernetes::{Kubernetes, answer};
use super::operations::{Carried, carry_out, spec, text, tolerant};
use super::planner_start;
use super::process_info::{Kind, Known, Objects, ProcessInfo, all, info, known, slot};
use super::state::ApiState;
use crate::crd::system::component;
use crate::crd::{AgentPool, OperationSpec, OperationType, RuntimeHatch, System, labels, system};
use crate::postgres::migrate::check_version;

/// What is kept as the reason of what is asked for here (`spec/api.md` 2.8).
pub const START: &str = "system.process.start";
const STOP: &str = "system.process.stop";
const STOP_ALL: &str = "system.process.stop-all";

/// Every process.
#[derive(Debug, Serialize, ToSchema)]
pub struct Processes {
    processes: Vec<ProcessInfo>,
}

/// One process.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct OneProcess {
    pub process: ProcessInfo,
    /// True: it was running, nothing was changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub already_running: Option<bool>,
    /// Name of the Operation that is not over yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
}

impl OneProcess {
    pub fn new(process: ProcessInfo) -> Self {
        Self { process, already_running: None, operation: None }
    }
}

/// What a stop of everything has done.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct StoppedAll {
    /// Processes that were running.
    stopped: Vec<String>,
    /// Processes that were not, or cannot be stopped.
    skipped: Vec<String>,
    orphan_cleanup: OrphanCleanup,
    cancelled_runs: i32,
    requeued_tasks: i32,
    released_merge_queue_claims: i32,
    message: String,
    /// Name of the Operation that is not over yet; the numbers are those so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    operation: Option<String>,
}

/// Pods of ours that no Run accounted for.
#[derive(Debug, Serialize, ToSchema)]
pub struct OrphanCleanup {
    matched: i32,
    signaled: i32,
    killed: i32,
    /// Always empty: there are no process ids.
    pids: Vec<i32>,
}

/// Everything the processes are derived from; of Runs only those of `agent`, where one is named.
pub async fn observe(kubernetes: &Kubernetes, agent: Option<&str>) -> Result<Objects, ApiError> {
    let of_agent = |agent: &str| ListParams::default().labels(&format!("{}={agent}", labels::AGENT));
    let runs = agent.filter(|agent| labels::is_label_value(agent)).map_or_else(ListParams::default, of_agent);
    let own = format!("{}={},!{}", labels::CREATED_BY, labels::PLANNER, labels::PARENT_UID);
    let plans = ListParams::default().labels(&own);
    let (system, pools, runs, plans) = tokio::try_join!(
        kubernetes.get::<System>(system::NAME),
        list(kubernetes.api::<AgentPool>(), ListParams::default()),
        list(kubernetes.api(), runs),
        list(kubernetes.api(), plans),
    )?;
    Ok(Objects { system, pools, runs, plans })
}

/// The objects of one kind.
pub async fn list<K>(api: Api<K>, params: ListParams) -> Result<Vec<K>, ApiError>
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
{
    Ok(answer(api.list(&params)).await?.items)
}

/// The process of this name and what it is derived from.
async fn find(kubernetes: &Kubernetes, name: &str) -> Result<(Known, Objects), ApiError> {
    // Before anything is asked for: no object has such a name.
    if name.len() > 63 || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Err(ApiError::not_found("process"));
    }
    let only = known(name, &[]).filter(|known| matches!(known.kind, Kind::Agent { .. }));
    let objects = observe(kubernetes, only.as_ref().map(|known| known.process.name.as_str())).await?;
    let known = known(name, &objects.pools).ok_or_else(|| ApiError::not_found("process"))?;
    Ok((known, objects))
}

/// One process as it is now.
pub async fn look(kubernetes: &Kubernetes, name: &str, now: Timestamp) -> Result<ProcessInfo, ApiError> {
    let (known, objects) = find(kubernetes, name).await?;
    Ok(info(&known, &objects, now))
}

/// Every process: planner, dispatcher, cycle-manager, the three of the database, judge, then the slots
/// of all pools.
#[utoipa::path(get, path = "/system/processes", tag = "system",
    responses((status = 200, body = Processes), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 503, body = ErrorBody)))]
pub async fn list_all(State(state): State<ApiState>) -> Result<Json<Processes>, ApiError> {
    let objects = observe(state.kubernetes()?, None).await?;
    Ok(Json(Processes { processes: all(&objects, (state.now)()) }))
}

/// One process; `idle` when nothing of that name has ever been there, but could be.
#[utoipa::path(get, path = "/system/processes/{name}", tag = "system",
    params(("name" = String, Path, description = "e.g. dispatcher or worker-3")),
    responses((status = 200, body = OneProcess), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 404, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub async fn get(
    State(state): State<ApiState>,
    Path(name): Path<String>,
) -> Result<Json<OneProcess>, ApiError> {
    let process = look(state.kubernetes()?, &name, (state.now)()).await?;
    Ok(Json(OneProcess::new(process)))
}

/// Starts a component or an agent that was stopped or held, and arms the hatch; the planner makes a plan
/// now. A request that is refused changes nothing.
#[utoipa::path(post, path = "/system/processes/{name}/start", tag = "system",
    params(("name" = String, Path, description = "e.g. dispatcher or worker-3")),
    request_body(content = Object, description = "for the planner: `content`, the requirement, or `requirementPath`, its path in the repository; anything but an object counts as empty"),
    responses((status = 200, body = OneProcess), (status = 202, body = OneProcess, description = "an Operation is not over yet"),
        (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 404, body = ErrorBody),
        (status = 409, body = planner_start::PlannerRefused, description = "it cannot be started; `process` and `counts` only from the planner"),
        (status = 413, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub async fn start(
    State(state): State<ApiState>,
    Extension(identity): Extension<Identity>,
    Path(name): Path<String>,
    body: Result<Bytes, axum::extract::rejection::BytesRejection>,
) -> Result<Response, ApiError> {
    let body = tolerant(&body?);
    let kubernetes = state.kubernetes()?;
    let (known, objects) = find(kubernetes, &name).await?;
    if text(&body, "content").is_some_and(|content| content.trim().is_empty()) {
        return Err(ApiError::invalid("content", "must not be blank, leave it out to plan from what is set"));
    }
    let target = match &known.kind {
        Kind::Database => return start_database(&state, known).await,
        Kind::Component(component::PLANNER) => {
            return planner_start::start(&state, &identity, &body, &known, objects).await;
        }
        Kind::Component(name) => (*name).to_owned(),
        Kind::Agent { .. } => known.process.name.clone(),
    };
    let system = may_start(&known, &objects)?;
    let before = info(&known, &objects, (state.now)());
    let mut already = before.status == "running";
    let mut going = None;
    if !already && !matches!(before.status, "idle") {
        let about = OperationSpec { target: Some(target.clone()), ..spec(OperationType::Start, START) };
        going = carry_out(kubernetes, &identity, about).await?.going;
    }
    if !system.is_armed() {
        already = false;
        let armed = arm(kubernetes, &identity, &target).await?;
        going = going.or(armed.going);
    }
    let process = look(kubernetes, &known.process.name, (state.now)()).await?;
    let answered = Carried { going: going.clone(), message: String::new(), result: Default::default() };
    Ok(answered.answer(OneProcess { process, already_running: already.then_some(true), operation: going }))
}

/// Arms the hatch because `process` was started.
pub async fn arm(kubernetes: &Kubernetes, identity: &Identity, process: &str) -> Result<Carried, ApiError> {
    carry_out(kubernetes, identity, spec(OperationType::Arm, format!("{START}: {process}"))).await
}

/// Whether the hatch can be armed at all.
///
/// # Errors
/// 409 without a System, and when its spec locks the hatch.
pub fn unlocked(objects: &Objects) -> Result<&System, ApiError> {
    let Some(system) = &objects.system else {
        let problem = "there is no System named default in this namespace: create it first";
        return Err(ApiError::conflict("no_system", problem));
    };
    match system.spec.runtime_hatch {
        RuntimeHatch::Manual | RuntimeHatch::Armed => Ok(system),
        RuntimeHatch::Disarmed => Err(ApiError::conflict(
            "hatch_locked",
            "spec.runtimeHatch of the System is Disarmed, which locks the hatch: set it to Manual or Armed",
        )),
    }
}

/// What can be known to fail is refused before anything is changed (trap 3).
fn may_start<'a>(known: &Known, objects: &'a Objects) -> Result<&'a System, ApiError> {
    let system = unlocked(objects)?;
    match &known.kind {
        Kind::Agent { pool, index } => slot(pool, *index, &objects.pools)
            .map_err(|why| ApiError::conflict("no_slot", format!("{}: {why}", known.process.name)))?,
        Kind::Component(component::JUDGE) if !system.spec.judge.enabled => {
            let problem = "judge.enabled of the System is false: set it to true";
            return Err(ApiError::conflict("judge_disabled", problem));
        }
        Kind::Component(_) | Kind::Database => {}
    }
    Ok(system)
}

/// `db-push` is done when the tables are as new as this program; the rest is not in this API's hands.
async fn start_database(state: &ApiState, known: Known) -> Result<Response, ApiError> {
    if known.process.name != "db-push" {
        return Err(ApiError::conflict(
            "database_external",
            "Postgres is not run by this API: start and stop it where it runs (the chart's own is a StatefulSet: kubectl scale)",
        ));
    }
    check_version(&state.pool).await.map_err(|error| match error {
        crate::postgres::Error::Schema { .. } => {
            let problem = format!("{error}: run `opentiger migrate` with the owner's URL, or `helm upgrade`");
            ApiError::conflict("migration_needed", problem)
        }
        other => other.into(),
    })?;
    let mut process = info(&known, &Objects::default(), (state.now)());
    process.status = "completed";
    process.message = "the tables are as new as this program".to_owned();
    Ok(Json(OneProcess::new(process)).into_response())
}

/// Stops a component or an agent until it is started. The Run of an agent is Cancelled and its Task
/// Queued, at no cost; what other components have begun finishes.
#[utoipa::path(post, path = "/system/processes/{name}/stop", tag = "system",
    params(("name" = String, Path, description = "e.g. dispatcher or worker-3")),
    responses((status = 200, body = OneProcess), (status = 202, body = OneProcess, description = "an Operation is not over yet"),
        (status = 400, body = ErrorBody), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 404, body = ErrorBody), (status = 409, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub async fn stop(
    State(state): State<ApiState>,
    Extension(identity): Extension<Identity>,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    let kubernetes = state.kubernetes()?;
    let (known, _) = find(kubernetes, &name).await?;
    if !known.process.supports_stop {
        return Err(ApiError::bad_request(format!("{} cannot be stopped", known.process.name)));
    }
    let target = Some(known.process.name.clone());
    let carried =
        carry_out(kubernetes, &identity, OperationSpec { target, ..spec(OperationType::Stop, STOP) }).await?;
    let process = look(kubernetes, &known.process.name, (state.now)()).await?;
    let operation = carried.going.clone();
    Ok(carried.answer(OneProcess { operation, ..OneProcess::new(process) }))
}

/// Disarms the hatch, stops every component, ends every Run and Pod; Tasks go back to the queue at no
/// cost and without a wait.
#[utoipa::path(post, path = "/system/processes/stop-all", tag = "system",
    responses((status = 200, body = StoppedAll), (status = 202, body = StoppedAll, description = "the Operation is not over yet"),
        (status = 401, body = ErrorBody), (status = 403, body = ErrorBody), (status = 409, body = ErrorBody),
        (status = 503, body = ErrorBody)))]
pub async fn stop_all(
    State(state): State<ApiState>,
    Extension(identity): Extension<Identity>,
) -> Result<Response, ApiError> {
    let kubernetes = state.kubernetes()?;
    let before = all(&observe(kubernetes, None).await?, (state.now)());
    let carried = carry_out(kubernetes, &identity, spec(OperationType::StopAll, STOP_ALL)).await?;
    let runs = |process: &ProcessInfo| process.supports_stop && process.status == "running";
    let (stopped, skipped): (Vec<_>, Vec<_>) = before.into_iter().partition(runs);
    let names = |list: Vec<ProcessInfo>| list.into_iter().map(|process| process.name).collect();
    let count = |number: Option<i32>| number.unwrap_or(0);
    let strays = count(carried.result.stray_pods);
    let body = StoppedAll {
        stopped: names(stopped),
        skipped: names(skipped),
        orphan_cleanup: OrphanCleanup { matched: strays, signaled: strays, killed: 0, pids: Vec::new() },
        cancelled_runs: count(carried.result.cancelled_runs),
        requeued_tasks: count(carried.result.requeued_tasks),
        released_merge_queue_claims: count(carried.result.released_merges),
        message: carried.message.clone(),
        operation: carried.going.clone(),
    };
    Ok(carried.answer(body))
}
