//! `POST /runs/{id}/tasks`: the Pod of a Plan Run hands its plan over, and Tasks are made of it.
//!
//! The caller is known by its token alone: for our audience, bound to the Pod of this very Run, which
//! must be the Run in progress of its Task. A plan is taken whole or not at all, and once: the same
//! plan again creates what is still missing, another plan of a later attempt creates nothing.

use std::collections::HashSet;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use serde::Serialize;
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use super::auth::bearer;
use super::error::{ApiError, ErrorBody};
use super::plan_store::{Caller, PlanStore};
use super::state::ApiState;
use crate::crd::planner::{HandedOver, PlanHandOver, PlanTask};
use crate::crd::pool::Role;
use crate::crd::{Purpose, Run, RunPhase, Task, TaskSpec, labels};
use crate::plan::planner::{
    Active, MAX_DEPENDENCIES, MAX_NAME, MAX_TASKS, NamedTask, is_name_of, issue, wait_for,
};

/// Largest body, in bytes: a plan of the largest answer with what is added to it.
pub const MAX_PLAN_BYTES: usize = 2 * 1024 * 1024;
/// Longest wait for all answers of the API server together.
const LIMIT: Duration = Duration::from_secs(50);

/// What has become of the plan.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Planned {
    /// Names of the Tasks that exist now.
    tasks: Vec<String>,
    /// An earlier attempt had handed over another plan: its Tasks stand, this plan made none.
    earlier: bool,
    /// What was left out, for people.
    warnings: Vec<String>,
}

impl From<HandedOver> for Planned {
    fn from(HandedOver { tasks, earlier, warnings }: HandedOver) -> Self {
        Self { tasks, earlier, warnings }
    }
}

/// Takes the plan of a Plan Run, from its own Pod only. `id` is the Run's name.
#[utoipa::path(post, path = "/runs/{id}/tasks", tag = "runs",
    params(("id" = String, Path, description = "name of the Run")),
    request_body(content = Object, description = "signature and Tasks of the plan"),
    responses((status = 200, body = Planned), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody, description = "the token is not that of this Run's Pod"),
        (status = 409, body = ErrorBody, description = "the Run is not the Plan Run in progress of its Task, or a name is taken"),
        (status = 413, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub async fn hand_over(
    State(state): State<ApiState>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, Json<Planned>), ApiError> {
    let store = state.plans.as_deref().ok_or_else(|| {
        ApiError::unavailable("kubernetes_unavailable", "this API was started without Kubernetes")
    })?;
    let token = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).and_then(bearer);
    let token = token.ok_or_else(ApiError::unauthorized)?;
    let work = async {
        authenticate(store, token, &state.namespace, &id).await?;
        let body = body?;
        let parent = parent(store, &id).await?;
        let plan = parse(&body)?;
        take(store, &parent, &plan, &hash(&body)).await
    };
    let done = tokio::time::timeout(LIMIT, work).await;
    let handed_over = done.map_err(|_| {
        ApiError::unavailable("kubernetes_unavailable", "Kubernetes did not answer in time, try again")
    })??;
    Ok((StatusCode::OK, Json(handed_over.into())))
}

/// The token is that of the Run's Pod (a Pod has the name of its Run), in the namespace that is served.
async fn authenticate(
    store: &dyn PlanStore,
    token: &str,
    namespace: &str,
    run: &str,
) -> Result<(), ApiError> {
    let Some(Caller { namespace: of, pod }) = store.caller(token).await? else {
        return Err(ApiError::unauthorized());
    };
    if of == namespace && pod.as_deref() == Some(run) {
        return Ok(());
    }
    Err(ApiError::forbidden("this token is not that of the Run's Pod"))
}

/// The Task that is planning in this Run.
async fn parent(store: &dyn PlanStore, id: &str) -> Result<Task, ApiError> {
    let refused = |why: &str| ApiError::conflict("not_planning", format!("Run {id} {why}"));
    let run: Run = store.run(id).await?.ok_or_else(|| refused("does not exist"))?;
    let ended = run.status.as_ref().is_some_and(|status| status.phase != RunPhase::Running);
    if run.spec.purpose != Purpose::Plan || ended {
        return Err(refused("is no Plan Run in progress"));
    }
    let task = store.task(&run.spec.task_ref.name).await?;
    let current = |task: &Task| {
        let status = task.status.as_ref();
        task.metadata.uid.as_deref() == Some(&run.spec.task_ref.uid)
            && status.is_some_and(|status| status.current_run == id && !status.phase.is_terminal())
    };
    task.filter(current).ok_or_else(|| refused("is not the one in progress of its Task"))
}

/// Reads a plan and checks what the Task kind itself cannot: that its names are those of the plan and
/// its dependencies point back.
fn parse(body: &[u8]) -> Result<PlanHandOver, ApiError> {
    let plan: PlanHandOver = serde_json::from_slice(body)
        .map_err(|e| ApiError::bad_request(format!("the body is no plan: {e}")))?;
    if plan.signature.len() != 64 || !plan.signature.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(ApiError::invalid("signature", "must be a SHA-256 hash in hex"));
    }
    // One more than an agent may plan: the foundation of an empty repository.
    if plan.tasks.is_empty() || plan.tasks.len() > MAX_TASKS + 1 {
        return Err(ApiError::invalid("tasks", format!("must be from 1 to {}", MAX_TASKS + 1)));
    }
    let mut earlier = HashSet::new();
    for PlanTask { name, spec } in &plan.tasks {
        let named = match issue_of(spec) {
            Some(number) => issue::is_name_of(number, name),
            None => is_name_of(&plan.signature, name),
        };
        if name.len() > MAX_NAME || !named {
            return Err(ApiError::invalid("tasks", format!("{name} is not a name of this plan")));
        }
        // An issue may also wait for one that became a Task before.
        let known = |on: &str| earlier.contains(on) || (issue_of(spec).is_some() && issue::is_name(on));
        if !spec.dependencies.iter().all(|on| known(on)) {
            return Err(ApiError::invalid(
                "tasks",
                format!("{name} must depend on earlier tasks of the plan only"),
            ));
        }
        if matches!(spec.role, Role::Judge | Role::Planner) || spec.kind != "code" || spec.cancel {
            return Err(ApiError::invalid(
                "tasks",
                format!("{name} must be of role Worker, Tester or Docser and kind code"),
            ));
        }
        if !earlier.insert(name.as_str()) {
            return Err(ApiError::invalid("tasks", format!("{name} is there twice")));
        }
    }
    Ok(plan)
}

/// Number of the issue that a Task is about.
fn issue_of(spec: &TaskSpec) -> Option<i64> {
    Some(spec.context.as_ref()?.issue.as_ref()?.number)
}

/// Creates the Tasks of the plan, unless another plan of the same Task has come first.
async fn take(
    store: &dyn PlanStore,
    parent: &Task,
    plan: &PlanHandOver,
    hash: &str,
) -> Result<HandedOver, ApiError> {
    let all = store.tasks().await?;
    let (children, others): (Vec<&Task>, Vec<&Task>) = all.iter().partition(|task| is_child(task, parent));
    let annotation = |task: &&Task| task.metadata.annotations.as_ref()?.get(labels::PLAN_HASH).cloned();
    if children.iter().any(|child| annotation(child).as_deref() != Some(hash)) {
        let tasks = children.iter().filter_map(|child| child.metadata.name.clone()).collect();
        return Ok(HandedOver { tasks, earlier: true, warnings: Vec::new() });
    }
    let existing: HashSet<&str> = all.iter().filter_map(|task| task.metadata.name.as_deref()).collect();
    let mut plan = plan.clone();
    let warnings = without_unknown(&mut plan.tasks, &existing);
    let active: Vec<Active> = others
        .iter()
        .filter(|task| task.spec.role != Role::Planner)
        .filter_map(|task| Active::of(task))
        .collect();
    let tasks: Vec<Task> = plan.tasks.iter().map(|task| object(task, parent, &plan, hash, &active)).collect();
    let known: HashSet<&str> = children.iter().filter_map(|child| child.metadata.name.as_deref()).collect();
    let missing =
        || tasks.iter().filter(|task| !known.contains(task.metadata.name.as_deref().unwrap_or_default()));
    // First all without effect: a plan that is refused in its middle must not stand as half a plan.
    for task in missing() {
        store.try_create(task).await?;
    }
    for task in missing() {
        if let Some(existing) = store.create(task).await?
            && !is_child(&existing, parent)
            && !is_same_issue(&existing, task)
        {
            let name = existing.metadata.name.unwrap_or_default();
            return Err(ApiError::conflict("name_taken", format!("another Task has the name {name}")));
        }
    }
    Ok(HandedOver {
        tasks: tasks.into_iter().filter_map(|task| task.metadata.name).collect(),
        earlier: false,
        warnings,
    })
}

/// Leaves out the dependencies of issues on issues that are no Tasks, and says so.
fn without_unknown(tasks: &mut [PlanTask], existing: &HashSet<&str>) -> Vec<String> {
    let planned: HashSet<String> = tasks.iter().map(|task| task.name.clone()).collect();
    let mut warnings = Vec::new();
    for PlanTask { name, spec } in tasks {
        spec.dependencies.retain(|on| {
            let known = planned.contains(on) || existing.contains(on.as_str());
            if !known {
                warnings.push(format!("{name} does not wait for {on}: there is no such Task"));
            }
            known
        });
    }
    warnings
}

/// The Task of the same issue, from an earlier import: an issue becomes one Task.
fn is_same_issue(existing: &Task, task: &Task) -> bool {
    let issue = |task: &Task| task.metadata.labels.as_ref()?.get(labels::ISSUE).cloned();
    let by_planner = existing.metadata.labels.as_ref().and_then(|labels| labels.get(labels::CREATED_BY));
    issue(task).is_some()
        && issue(task) == issue(existing)
        && by_planner.is_some_and(|by| by == labels::PLANNER)
}

fn is_child(task: &Task, parent: &Task) -> bool {
    let of = task.metadata.labels.as_ref().and_then(|labels| labels.get(labels::PARENT_UID));
    of.is_some() && of == parent.metadata.uid.as_ref()
}

/// The object of one planned Task; it also waits for the Tasks in progress on the same paths.
fn object(planned: &PlanTask, parent: &Task, plan: &PlanHandOver, hash: &str, active: &[Active]) -> Task {
    let mut named = NamedTask { name: planned.name.clone(), spec: planned.spec.clone() };
    wait_for(&mut named, active);
    named.spec.dependencies.truncate(MAX_DEPENDENCIES);
    let mut task = Task::new(&named.name, named.spec);
    let text = |value: Option<&String>| value.cloned().unwrap_or_default();
    let issue = issue_of(&task.spec);
    let own = [
        (labels::MANAGED_BY, labels::MANAGER.to_owned()),
        (labels::CREATED_BY, labels::PLANNER.to_owned()),
        (labels::ORIGIN, if issue.is_some() { labels::FROM_ISSUE } else { labels::PLAN }.to_owned()),
        (labels::PARENT, text(parent.metadata.name.as_ref())),
        (labels::PARENT_UID, text(parent.metadata.uid.as_ref())),
    ];
    let of_issue = issue.map(|number| (labels::ISSUE, number.to_string()));
    let all = own.into_iter().chain(of_issue);
    task.metadata.labels = Some(all.map(|(key, value)| (key.to_owned(), value)).collect());
    let signature = issue.is_none().then(|| (labels::PLAN_SIGNATURE, plan.signature.clone()));
    let notes = signature.into_iter().chain([(labels::PLAN_HASH, hash.to_owned())]);
    task.metadata.annotations = Some(notes.map(|(key, value)| (key.to_owned(), value)).collect());
    task
}

fn hash(body: &[u8]) -> String {
    Sha256::digest(body).iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
#[path = "plans_tests.rs"]
mod tests;
