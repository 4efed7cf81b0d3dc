//! A write answers once its row is there: at most a second, else 503 "not yet" (design 7, invariant S24).
//! The object is accepted by then, so also a database that is away means "not yet".

use std::time::{Duration, Instant};

use kube::Resource;
use uuid::Uuid;

use super::error::ApiError;
use super::state::ApiState;
use super::tasks::{Task, load_view};
use crate::crd;
use crate::postgres::queries::{self, RunRecord, TaskRecord};

/// Longest wait for a row.
const ROW_DEADLINE: Duration = Duration::from_secs(1);
/// Time between two looks for it.
const ROW_INTERVAL: Duration = Duration::from_millis(20);

/// The time for looking.
struct Looks {
    deadline: Instant,
}

impl Looks {
    fn new() -> Self {
        Self { deadline: Instant::now() + ROW_DEADLINE }
    }

    /// Waits for the next look; false when the time is over.
    async fn again(&self) -> bool {
        if Instant::now() >= self.deadline {
            return false;
        }
        tokio::time::sleep(ROW_INTERVAL).await;
        true
    }
}

/// Uid and version of an object as the tables hold them.
fn version<K: Resource>(object: &K) -> (Uuid, i64) {
    let meta = object.meta();
    let uid = meta.uid.as_deref().and_then(|u| u.parse().ok()).unwrap_or_default();
    (uid, meta.resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(i64::MAX))
}

/// The Task once its row has at least the accepted version.
///
/// # Errors
/// 503 that names the Task when it has not after a second.
pub async fn task(state: &ApiState, accepted: &crd::Task) -> Result<Task, ApiError> {
    task_that(state, accepted, |_| true).await
}

/// The Task once its row has at least the accepted version and is as `wanted`; after a second any row
/// of at least that version will do, because what is wanted is on its way.
///
/// # Errors
/// 503 that names the Task when there is no such row after a second.
pub async fn task_that(
    state: &ApiState,
    accepted: &crd::Task,
    wanted: impl Fn(&TaskRecord) -> bool,
) -> Result<Task, ApiError> {
    let (uid, version) = version(accepted);
    let (looks, mut last) = (Looks::new(), None);
    loop {
        last = queries::get_task(&state.pool, &state.namespace, uid, version, true)
            .await
            .ok()
            .flatten()
            .or(last);
        if last.as_ref().is_some_and(&wanted) || !looks.again().await {
            break;
        }
    }
    match last {
        Some(record) => load_view(state, record).await,
        None => Err(not_yet(&format!(
            "the Task was accepted (id {uid}) and is not readable yet, see /tasks/{uid}"
        ))),
    }
}

/// The Run once its row shows that it has ended.
///
/// # Errors
/// 503 that names the Run when it does not after a second.
pub async fn ended_run(state: &ApiState, uid: Uuid) -> Result<RunRecord, ApiError> {
    let looks = Looks::new();
    loop {
        let row = queries::get_run(&state.pool, &state.namespace, uid, true).await.ok().flatten();
        match row {
            Some(row) if row.status != "running" => return Ok(row),
            Some(_) | None => {}
        }
        if !looks.again().await {
            return Err(not_yet(&format!("the Run {uid} has ended and its row does not show it yet")));
        }
    }
}

/// Waits until the row of a deleted Task is marked as such.
///
/// # Errors
/// 503 when it is not after a second.
pub async fn task_gone(state: &ApiState, uid: Uuid) -> Result<(), ApiError> {
    let looks = Looks::new();
    loop {
        if let Ok(None) = queries::get_task(&state.pool, &state.namespace, uid, 0, false).await {
            return Ok(());
        }
        if !looks.again().await {
            return Err(not_yet(&format!("the Task {uid} was deleted and its row does not show it yet")));
        }
    }
}

/// 503: accepted, and not there yet.
pub fn not_yet(problem: &str) -> ApiError {
    ApiError::unavailable("not_yet_visible", problem)
}
