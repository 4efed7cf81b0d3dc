//! `GET /system/runtime/throughput`: merge queue and lanes as they are, and what was written down in
//! the last hours (`spec/api.md` 1.7).

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use jiff::Timestamp;
use kube::api::ListParams;
use serde::Serialize;
use utoipa::ToSchema;

use super::error::{ApiError, ErrorBody};
use super::processes::list;
use super::state::ApiState;
use crate::crd::judge::JudgeStage;
use crate::crd::{BlockReason, Task, TaskPhase};
use crate::plan::lanes::default_lane;
use crate::postgres::throughput::count_events;

/// Hours that are looked back.
const WINDOW_HOURS: i32 = 6;
/// Types that are always shown, also when there was none.
const EVENTS: [&str; 7] = [
    "judge.merge_queue_enqueued",
    "judge.merge_queue_claim_recovered",
    "judge.merge_queue_merged",
    "judge.merge_queue_retried",
    "judge.merge_queue_failed",
    "dispatcher.lane_throttled",
    "worker.push_divergence_guard_triggered",
];

/// How the work gets on.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Throughput {
    #[schema(value_type = String, format = DateTime)]
    checked_at: Timestamp,
    merge_queue: MergeQueue,
    lanes: Lanes,
    recent_events: RecentEvents,
}

/// Approved changes: `pending` wait for their turn, `processing` are being merged.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct MergeQueue {
    status_counts: BTreeMap<&'static str, i64>,
}

/// Tasks by lane.
#[derive(Debug, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Lanes {
    /// Queued, running or blocked.
    active_backlog_counts: BTreeMap<String, i64>,
    running_counts: BTreeMap<String, i64>,
}

/// Events by type.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct RecentEvents {
    window_hours: i32,
    counts: BTreeMap<&'static str, i64>,
}

/// Merge queue, lanes, and the events of the last six hours.
#[utoipa::path(get, path = "/system/runtime/throughput", tag = "system",
    responses((status = 200, body = Throughput), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 503, body = ErrorBody)))]
pub async fn get(State(state): State<ApiState>) -> Result<Json<Throughput>, ApiError> {
    let tasks: Vec<Task> = list(state.kubernetes()?.api(), ListParams::default()).await?;
    let counted = count_events(&state.pool, &state.namespace, &EVENTS, WINDOW_HOURS).await?;
    let counts = EVENTS.map(|type_| (type_, counted.get(type_).copied().unwrap_or(0)));
    Ok(Json(Throughput {
        checked_at: (state.now)(),
        merge_queue: merge_queue(&tasks),
        lanes: lanes(&tasks),
        recent_events: RecentEvents { window_hours: WINDOW_HOURS, counts: counts.into() },
    }))
}

fn merge_queue(tasks: &[Task]) -> MergeQueue {
    let mut counts = BTreeMap::from([("pending", 0), ("processing", 0)]);
    let waiting = tasks.iter().filter_map(|task| task.status.as_ref()).filter(|status| {
        status.block_reason == Some(BlockReason::AwaitingJudge)
            && status.judge.as_ref().is_some_and(|judge| judge.stage == JudgeStage::Merge)
    });
    for status in waiting {
        let state = if status.current_run.is_empty() { "pending" } else { "processing" };
        *counts.entry(state).or_default() += 1;
    }
    MergeQueue { status_counts: counts }
}

fn lanes(tasks: &[Task]) -> Lanes {
    let mut lanes = Lanes::default();
    for task in tasks {
        let status = task.status.clone().unwrap_or_default();
        let active = match status.phase {
            TaskPhase::Queued | TaskPhase::Running | TaskPhase::Blocked => true,
            TaskPhase::Failed | TaskPhase::Done | TaskPhase::Cancelled => false,
        };
        if !active {
            continue;
        }
        let lane = status.effective.and_then(|effective| effective.lane).or_else(|| task.spec.lane.clone());
        let lane = lane.unwrap_or_else(|| default_lane(task.spec.role).to_owned());
        if status.phase == TaskPhase::Running {
            *lanes.running_counts.entry(lane.clone()).or_default() += 1;
        }
        *lanes.active_backlog_counts.entry(lane).or_default() += 1;
    }
    lanes
}
