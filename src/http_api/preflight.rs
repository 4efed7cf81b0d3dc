//! `POST /system/preflight`: what there is to do and what to start for it (`spec/api.md` 3), from the
//! objects as they are. It creates and changes nothing, whatever the body asks for (trap 11), and needs
//! no operator.

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use kube::api::ListParams;
use serde::Serialize;
use utoipa::ToSchema;

use super::error::{ApiError, ErrorBody};
use super::operations::{text, tolerant};
use super::processes::list;
use super::state::ApiState;
use crate::crd::operation::{PreflightResult, Recommendations};
use crate::crd::{AgentPool, System, Task, system};
use crate::plan::operation::preflight::preflight;

/// Sentences of a recommendation that clients of the original show.
const REASONS: usize = 4;

/// What there is, and what to start.
#[derive(Debug, Serialize, ToSchema)]
pub struct Preflight {
    preflight: Found,
    recommendations: Recommended,
}

#[derive(Debug, Serialize, ToSchema)]
struct Found {
    github: Forge,
    local: Local,
}

/// Issues and pull requests: not looked at here.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Forge {
    enabled: bool,
    open_issue_count: i32,
    open_pr_count: i32,
    issue_task_backlog_count: i32,
    generated_task_count: i32,
    generated_task_ids: Vec<String>,
    skipped_issue_numbers: Vec<i32>,
    warnings: Vec<&'static str>,
}

/// Tasks by state.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Local {
    queued_task_count: i32,
    running_task_count: i32,
    failed_task_count: i32,
    /// Blocked for whatever reason.
    blocked_task_count: i32,
    /// Of these, waiting for a review.
    pending_judge_task_count: i32,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Recommended {
    start_planner: bool,
    start_dispatcher: bool,
    start_judge: bool,
    start_cycle_manager: bool,
    planner_count: i32,
    judge_count: i32,
    worker_count: i32,
    tester_count: i32,
    docser_count: i32,
    /// Four sentences: work, reviews, agents that plan, whether to plan.
    reasons: Vec<String>,
}

/// Says what there is to do and what to start for it; changes nothing.
#[utoipa::path(post, path = "/system/preflight", tag = "system",
    request_body(content = Object, description = "`content`: the requirement that would be planned; anything but an object counts as empty"),
    responses((status = 200, body = Preflight), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 413, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub async fn check(
    State(state): State<ApiState>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Preflight>, ApiError> {
    let body = tolerant(&body?);
    let requirement = text(&body, "content").is_some_and(|content| !content.trim().is_empty());
    let kubernetes = state.kubernetes()?;
    let (system, tasks, pools) = tokio::try_join!(
        kubernetes.get::<System>(system::NAME),
        list(kubernetes.api::<Task>(), ListParams::default()),
        list(kubernetes.api::<AgentPool>(), ListParams::default()),
    )?;
    let (tasks, pools) = (tasks.iter().collect::<Vec<_>>(), pools.iter().collect::<Vec<_>>());
    Ok(Json(shown(preflight(system.as_ref(), &tasks, &pools, requirement))))
}

fn shown(result: PreflightResult) -> Preflight {
    let PreflightResult {
        queued_tasks,
        running_tasks,
        failed_tasks,
        blocked_tasks,
        pending_judge_tasks,
        hatch: _,
        stopped: _,
        pools: _,
        recommendations,
    } = result;
    let Recommendations {
        start_planner,
        start_dispatcher,
        start_judge,
        start_cycle_manager,
        planner_count,
        judge_count,
        worker_count,
        tester_count,
        docser_count,
        reasons,
    } = recommendations;
    Preflight {
        preflight: Found {
            github: Forge {
                enabled: false,
                open_issue_count: 0,
                open_pr_count: 0,
                issue_task_backlog_count: 0,
                generated_task_count: 0,
                generated_task_ids: Vec::new(),
                skipped_issue_numbers: Vec::new(),
                warnings: vec!["issues and pull requests are not looked at"],
            },
            local: Local {
                queued_task_count: queued_tasks,
                running_task_count: running_tasks,
                failed_task_count: failed_tasks,
                blocked_task_count: blocked_tasks,
                pending_judge_task_count: pending_judge_tasks,
            },
        },
        recommendations: Recommended {
            start_planner,
            start_dispatcher,
            start_judge,
            start_cycle_manager,
            planner_count,
            judge_count,
            worker_count,
            tester_count,
            docser_count,
            reasons: reasons.into_iter().take(REASONS).collect(),
        },
    }
}
