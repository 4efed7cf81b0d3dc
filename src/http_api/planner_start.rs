//! The planner's start: a plan now (`spec/api.md` 2.3 and 2.4). Everything that refuses is looked at
//! before anything is changed, so that a refused start leaves requirement and hatch alone (trap 3).

use std::time::Duration;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Json, response};
use jiff::Timestamp;
use kube::api::ListParams;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::auth::Identity;
use super::error::ApiError;
use super::kubernetes::Kubernetes;
use super::operations::{Carried, carried, spec, text};
use super::process_info::{Known, Objects, ProcessInfo, info};
use super::processes::{OneProcess, START, arm, list, look, unlocked};
use super::requirements::{self, Source};
use super::state::ApiState;
use crate::crd::operation::Backlog;
use crate::crd::{Operation, OperationPhase, OperationType, Task};
use crate::plan::planner::start::{Refusal, on_request};

/// Why the planner is not started.
#[derive(Debug, Serialize, ToSchema)]
pub struct PlannerRefused {
    /// One sentence for a person.
    pub error: String,
    /// `planner_running`, `backlog` or `no_requirement`; also what any other 409 answers.
    pub code: &'static str,
    /// The planner, when it is running.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<ProcessInfo>,
    /// Only of a planner.
    #[schema(required = false)]
    pub counts: StartCounts,
}

/// What there is to do already.
#[derive(Clone, Copy, Debug, Default, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct StartCounts {
    queued_task_count: i32,
    running_task_count: i32,
    failed_task_count: i32,
    blocked_task_count: i32,
    pending_judge_task_count: i32,
    /// Always 0: this API does not ask the forge.
    issue_task_backlog_count: i32,
    /// Always 0, as above.
    open_pr_count: i32,
}

impl From<Backlog> for StartCounts {
    fn from(backlog: Backlog) -> Self {
        let Backlog { queued_tasks, running_tasks, failed_tasks, blocked_tasks, pending_judge_tasks } =
            backlog;
        Self {
            queued_task_count: queued_tasks,
            running_task_count: running_tasks,
            failed_task_count: failed_tasks,
            blocked_task_count: blocked_tasks,
            pending_judge_task_count: pending_judge_tasks,
            issue_task_backlog_count: 0,
            open_pr_count: 0,
        }
    }
}

/// Makes a plan now: from the requirement of the body, else from that of the System.
pub async fn start(
    state: &ApiState,
    identity: &Identity,
    body: &Map<String, Value>,
    known: &Known,
    objects: Objects,
) -> Result<Response, ApiError> {
    let (kubernetes, asked_at) = (state.kubernetes()?, (state.now)());
    let source = source(identity, body)?;
    let mut wanted = unlocked(&objects)?.clone();
    if let Some(source) = &source {
        source.set(&mut wanted.spec.planner);
    }
    let tasks: Vec<Task> = list(kubernetes.api(), ListParams::default()).await?;
    let tasks: Vec<&Task> = tasks.iter().collect();
    if let Err(refusal) = on_request(&wanted, &tasks, asked_at) {
        return Ok(refused(refusal.sentence.clone(), &counted(refusal), info(known, &objects, asked_at)));
    }
    if let Some(source) = &source {
        requirements::store(kubernetes, source).await?;
    }
    let replan = kubernetes.carry_out(spec(OperationType::Replan, START), &identity.name()).await?;
    let replan = match replan.phase() {
        OperationPhase::Failed if !has_begun_by_itself(kubernetes, &replan, &wanted, asked_at).await? => {
            let status = replan.status.unwrap_or_default();
            let result = status.result.unwrap_or_default();
            let Some(backlog) = result.backlog else {
                return Err(ApiError::conflict("operation_failed", status.message));
            };
            let counted = Counted { planning: result.task.is_some(), counts: backlog.into() };
            let process = look(kubernetes, &known.process.name, asked_at).await?;
            return Ok(refused(status.message, &counted, process));
        }
        OperationPhase::Failed => Carried { going: None, message: String::new(), result: Default::default() },
        OperationPhase::Pending | OperationPhase::Running | OperationPhase::Succeeded => carried(replan)?,
    };
    let mut going = replan.going.clone();
    if !wanted.is_armed() {
        going = going.or(arm(kubernetes, identity, &known.process.name).await?.going);
    }
    let process = look(kubernetes, &known.process.name, asked_at).await?;
    let answered = Carried { going: going.clone(), ..replan };
    Ok(answered.answer(OneProcess { operation: going, ..OneProcess::new(process) }))
}

/// What the body says to plan from. `content` comes before `requirementPath`, which then only names it.
fn source(identity: &Identity, body: &Map<String, Value>) -> Result<Option<Source>, ApiError> {
    if body.contains_key("researchJobId") {
        let problem = "research jobs are not known here, leave it out";
        return Err(ApiError::invalid("researchJobId", problem));
    }
    let source = match (text(body, "content"), text(body, "requirementPath")) {
        (Some(content), _) => Some(Source::text(content)?),
        (None, Some(path)) if !path.is_empty() => Some(Source::path("requirementPath", path)?),
        (None, _) => None,
    };
    // Whoever may start is not yet one who may change the settings.
    if source.is_some() && matches!(identity, Identity::Kubernetes(_)) {
        return Err(ApiError::forbidden(
            "a requirement is set by POST /system/requirements, which needs patch on systems.opentiger.dev; start the planner without one then",
        ));
    }
    Ok(source)
}

/// Whether the planner, set to plan by itself, has begun with this very requirement since it was asked:
/// then it does what is wanted.
async fn has_begun_by_itself(
    kubernetes: &Kubernetes,
    replan: &Operation,
    wanted: &crate::crd::System,
    asked_at: Timestamp,
) -> Result<bool, ApiError> {
    let result = replan.status.as_ref().and_then(|status| status.result.as_ref());
    let Some(name) = result.and_then(|result| result.task.as_deref()) else { return Ok(false) };
    let Some(task) = kubernetes.get::<Task>(name).await? else { return Ok(false) };
    // Times of creation have whole seconds.
    let since = asked_at.checked_sub(Duration::from_secs(1)).unwrap_or(asked_at);
    let created = task.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let same = on_request(wanted, &[], asked_at).is_ok_and(|plan| plan.spec.goal == task.spec.goal);
    Ok(same && created.is_some_and(|at| at >= since))
}

struct Counted {
    planning: bool,
    counts: StartCounts,
}

fn counted(refusal: Refusal) -> Counted {
    let number = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
    let Refusal { sentence: _, planning, counts, pending_reviews } = refusal;
    Counted {
        planning: planning.is_some(),
        counts: StartCounts {
            queued_task_count: number(counts.queued),
            running_task_count: number(counts.running),
            failed_task_count: number(counts.failed),
            blocked_task_count: number(counts.blocked),
            pending_judge_task_count: number(pending_reviews),
            ..StartCounts::default()
        },
    }
}

fn refused(error: String, counted: &Counted, process: ProcessInfo) -> response::Response {
    let StartCounts {
        queued_task_count,
        running_task_count,
        failed_task_count,
        blocked_task_count,
        pending_judge_task_count: _,
        issue_task_backlog_count: _,
        open_pr_count: _,
    } = counted.counts;
    let work = queued_task_count + running_task_count + failed_task_count + blocked_task_count;
    let code = match (counted.planning, work) {
        (true, _) => "planner_running",
        (false, 1..) => "backlog",
        (false, _) => "no_requirement",
    };
    let process = counted.planning.then_some(process);
    let body = PlannerRefused { error, code, process, counts: counted.counts };
    (StatusCode::CONFLICT, Json(body)).into_response()
}
