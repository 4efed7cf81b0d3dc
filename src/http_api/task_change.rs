//! `PATCH /tasks/{id}`: an edit of the Task's spec, and the state changes that a person can order.
//!
//! The original writes whatever it is given (trap 15 of spec/api.md 9). Here a state is changed by the
//! Task's own controller, which is asked for it, and what it cannot do is a 409 that names both states.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{Path, State};
use kube::api::{Patch, PatchParams};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use uuid::Uuid;

use super::auth::Identity;
use super::error::{ApiError, ErrorBody};
use super::fields::Fields;
use super::kubernetes::{Kubernetes, answer};
use super::state::ApiState;
use super::task_act::{self, Act};
use super::task_create::dependency_names;
use super::task_request::{CreateContext, context, dependencies, kind, risk_level, role, timebox};
use super::tasks::{OneTask, STATUSES};
use super::written;
use crate::crd::task::{RiskLevel, TaskContext};
use crate::crd::words::snake;
use crate::crd::{BlockReason, GoDuration, Role, System, Task, TaskPhase, TaskSpec};
use crate::plan::lanes;

/// Attempts at an edit that others get ahead of.
const ATTEMPTS: usize = 5;
/// Words of `blockReason`.
const BLOCK_REASONS: [&str; 4] = ["awaiting_judge", "quota_wait", "needs_rework", "issue_linking"];

/// What is to change; what is absent stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[allow(dead_code, reason = "describes the body; it is read field by field")]
pub struct ChangeTask {
    title: Option<String>,
    goal: Option<String>,
    /// Globs of repository paths that may change.
    allowed_paths: Option<Vec<String>>,
    /// Verification commands.
    commands: Option<Vec<String>>,
    /// Takes the place of the whole context.
    context: Option<CreateContext>,
    /// -1000 to 1000, higher goes first.
    priority: Option<i32>,
    /// `low`, `medium` or `high`.
    risk_level: Option<String>,
    /// `worker`, `tester` or `docser`.
    role: Option<String>,
    /// A lane that has a rule: `feature`, `conflict_recovery`, `docser`, or one of the System's.
    lane: Option<String>,
    /// Kind of work: `code`.
    kind: Option<String>,
    /// Ids of Tasks that must be resolved first.
    #[schema(value_type = Option<Vec<String>>)]
    dependencies: Option<Vec<Uuid>>,
    /// 1 to 1440.
    timebox_minutes: Option<u64>,
    /// `cancelled`; `queued` of a failed or blocked Task; `done` of one that is not running.
    status: Option<String>,
    /// Follows from what happens: only the present reason is taken.
    block_reason: Option<String>,
}

/// A readable request.
#[derive(Debug, Default)]
struct Change {
    title: Option<String>,
    goal: Option<String>,
    allowed_paths: Option<Vec<String>>,
    commands: Option<Vec<String>>,
    context: Option<TaskContext>,
    priority: Option<i32>,
    risk_level: Option<RiskLevel>,
    role: Option<Role>,
    lane: Option<String>,
    kind: Option<String>,
    dependencies: Option<Vec<Uuid>>,
    timebox: Option<GoDuration>,
    status: Option<TaskPhase>,
    block_reason: Option<BlockReason>,
}

impl Change {
    fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let fields = Fields::parse(body)?;
        Ok(Self {
            title: fields.optional_text("title")?,
            goal: fields.optional_text("goal")?,
            allowed_paths: fields.optional("allowedPaths")?,
            commands: fields.optional("commands")?,
            context: context(&fields)?,
            priority: fields.optional("priority")?,
            risk_level: risk_level(&fields)?,
            role: role(&fields)?,
            lane: fields.optional_text("lane")?,
            kind: kind(&fields)?,
            dependencies: dependencies(&fields)?,
            timebox: timebox(&fields)?,
            status: fields.word("status", &STATUSES)?,
            block_reason: fields.word("blockReason", &BLOCK_REASONS)?,
        })
    }

    /// The spec as it is to be.
    fn apply(&self, spec: &TaskSpec, dependencies: Option<&Vec<String>>, cancel: bool) -> TaskSpec {
        fn set<T: Clone>(to: &mut T, from: Option<&T>) {
            if let Some(value) = from {
                to.clone_from(value);
            }
        }
        let mut spec = spec.clone();
        set(&mut spec.title, self.title.as_ref());
        set(&mut spec.goal, self.goal.as_ref());
        set(&mut spec.allowed_paths, self.allowed_paths.as_ref());
        set(&mut spec.commands, self.commands.as_ref());
        set(&mut spec.priority, self.priority.as_ref());
        set(&mut spec.risk_level, self.risk_level.as_ref());
        set(&mut spec.role, self.role.as_ref());
        set(&mut spec.kind, self.kind.as_ref());
        set(&mut spec.timebox, self.timebox.as_ref());
        set(&mut spec.dependencies, dependencies);
        spec.context = self.context.clone().or(spec.context);
        spec.lane = self.lane.clone().or(spec.lane);
        spec.cancel |= cancel;
        spec
    }
}

/// What a wish for a state leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transition {
    /// It is in that state.
    Nothing,
    /// `spec.cancel`.
    Cancel,
    /// An Operation.
    Act(Act),
}

/// How a Task that is `from` becomes `to`; `None`: not by a person's order.
fn transition(from: TaskPhase, to: TaskPhase) -> Option<Transition> {
    if from == to {
        return Some(Transition::Nothing);
    }
    match (from, to) {
        (TaskPhase::Done | TaskPhase::Cancelled, _) => None,
        (_, TaskPhase::Cancelled) => Some(Transition::Cancel),
        (TaskPhase::Failed | TaskPhase::Blocked, TaskPhase::Queued) => Some(Transition::Act(Act::Requeue)),
        (TaskPhase::Queued | TaskPhase::Failed | TaskPhase::Blocked, TaskPhase::Done) => {
            Some(Transition::Act(Act::Complete))
        }
        (TaskPhase::Queued | TaskPhase::Running, TaskPhase::Queued)
        | (TaskPhase::Running, TaskPhase::Done)
        | (_, TaskPhase::Running | TaskPhase::Blocked | TaskPhase::Failed) => None,
    }
}

/// Edits a Task and changes its state. An edit counts from the next Run.
#[utoipa::path(patch, path = "/tasks/{id}", tag = "tasks", request_body = ChangeTask,
    params(("id" = String, Path, description = "uid of the Task")),
    responses((status = 200, body = OneTask), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 404, body = ErrorBody),
        (status = 409, body = ErrorBody, description = "the Task has ended, or cannot become what is asked for from what it is"),
        (status = 413, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub async fn change(
    State(state): State<ApiState>,
    Path(id): Path<String>,
    identity: Identity,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<OneTask>, ApiError> {
    let change = Change::parse(&body?)?;
    let kubernetes = state.kubernetes()?;
    let mut task = task_act::find(&state, &id).await?;
    check_lane(kubernetes, change.lane.as_deref()).await?;
    let dependencies = match &change.dependencies {
        Some(uids) => Some(dependency_names(&state, uids).await?),
        None => None,
    };
    let mut wanted = Transition::Nothing;
    for attempt in 1.. {
        wanted = check(&task, &change)?;
        let spec = change.apply(&task.spec, dependencies.as_ref(), wanted == Transition::Cancel);
        match edit(kubernetes, &task, &spec).await {
            Ok(edited) => {
                task = edited;
                break;
            }
            Err(error) if error.is_conflict() && attempt < ATTEMPTS => {
                task = task_act::find(&state, &id).await?;
            }
            Err(error) => return Err(error),
        }
    }
    let status = change.status;
    let task = match wanted {
        Transition::Nothing | Transition::Cancel => {
            let reached = |row: &str| status.is_none_or(|status| snake(status.word()) == row);
            written::task_that(&state, &task, |row| reached(&row.status)).await?
        }
        Transition::Act(act) => {
            let by = identity.name();
            task_act::carry_out(&state, &task, act, &by, None).await?
        }
    };
    Ok(Json(OneTask { task }))
}

/// What the wish for a state leads to, if everything that is asked for can be.
fn check(task: &Task, change: &Change) -> Result<Transition, ApiError> {
    let status = task.status.clone().unwrap_or_default();
    let wanted = change.status.unwrap_or(status.phase);
    if let Some(reason) = change.block_reason
        && (status.phase != TaskPhase::Blocked || status.block_reason != Some(reason))
    {
        let now = status.block_reason.filter(|_| status.phase == TaskPhase::Blocked);
        let now = now.map_or_else(|| "none".to_owned(), |reason| snake(reason.word()));
        return Err(ApiError::conflict(
            "block_reason_is_computed",
            format!(
                "blockReason: a block reason follows from what happens to the Task and cannot be changed from {now} to {}",
                snake(reason.word())
            ),
        ));
    }
    transition(status.phase, wanted).ok_or_else(|| task_act::illegal(status.phase, wanted))
}

/// A lane that no rule names has neither floor nor cap: most likely it is misspelt.
async fn check_lane(kubernetes: &Kubernetes, lane: Option<&str>) -> Result<(), ApiError> {
    let Some(lane) = lane else { return Ok(()) };
    let mut known = [lanes::FEATURE, lanes::CONFLICT_RECOVERY, lanes::DOCSER].map(ToOwned::to_owned).to_vec();
    if known.iter().any(|name| name == lane) {
        return Ok(());
    }
    let system: Option<System> = kubernetes.get("default").await?;
    known.extend(system.into_iter().flat_map(|s| s.spec.dispatch.lanes).map(|lane| lane.name));
    if known.iter().any(|name| name == lane) {
        return Ok(());
    }
    Err(ApiError::invalid("lane", format!("is not supported, must be one of {}", known.join(", "))))
}

/// Writes the spec, if it changes, over exactly this version of the Task.
async fn edit(kubernetes: &Kubernetes, task: &Task, spec: &TaskSpec) -> Result<Task, ApiError> {
    let value = |spec: &TaskSpec| serde_json::to_value(spec).unwrap_or_default();
    let Some(changed) = merge_patch(&value(&task.spec), &value(spec)) else { return Ok(task.clone()) };
    let phase = task.status.as_ref().map(|status| status.phase).unwrap_or_default();
    if phase.is_terminal() {
        return Err(ApiError::conflict(
            "task_ended",
            format!("the Task is {} and cannot be edited, post a new one", snake(phase.word())),
        ));
    }
    let patch = json!({
        "metadata": {"uid": task.metadata.uid, "resourceVersion": task.metadata.resource_version},
        "spec": changed,
    });
    let name = task.metadata.name.as_deref().unwrap_or_default();
    answer(kubernetes.api::<Task>().patch(name, &PatchParams::default(), &Patch::Merge(&patch))).await
}

/// The JSON merge patch (RFC 7396) that makes `to` of `from`; `None` when they are equal.
fn merge_patch(from: &Value, to: &Value) -> Option<Value> {
    if from == to {
        return None;
    }
    let (Value::Object(old), Value::Object(new)) = (from, to) else { return Some(to.clone()) };
    let mut patch = Map::new();
    for name in old.keys().filter(|name| !new.contains_key(*name)) {
        patch.insert(name.clone(), Value::Null);
    }
    for (name, value) in new {
        let change = match old.get(name) {
            Some(before) => merge_patch(before, value),
            None => Some(value.clone()),
        };
        patch.extend(change.map(|change| (name.clone(), change)));
    }
    Some(Value::Object(patch))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PHASES: [TaskPhase; 6] = [
        TaskPhase::Queued,
        TaskPhase::Running,
        TaskPhase::Blocked,
        TaskPhase::Failed,
        TaskPhase::Done,
        TaskPhase::Cancelled,
    ];

    #[test]
    fn a_person_can_order_these_changes_of_state_and_no_others() {
        let letter = |from, to| match transition(from, to) {
            Some(Transition::Nothing) => '=',
            Some(Transition::Cancel) => 'c',
            Some(Transition::Act(Act::Requeue)) => 'q',
            Some(Transition::Act(Act::Complete)) => 'd',
            None => '-',
        };
        let table: Vec<String> =
            PHASES.iter().map(|from| PHASES.iter().map(|to| letter(*from, *to)).collect()).collect();
        // to:            queued running blocked failed done cancelled
        assert_eq!(table, ["=---dc", "-=---c", "q-=-dc", "q--=dc", "----=-", "-----="]);
    }

    #[test]
    fn a_merge_patch_says_what_is_new_changed_and_gone() {
        let from = json!({"a": 1, "b": {"x": 1, "y": [1]}, "c": "same"});
        let to = json!({"b": {"y": [2]}, "c": "same", "d": true});
        let patch = merge_patch(&from, &to).expect("different");
        assert_eq!(patch, json!({"a": null, "b": {"x": null, "y": [2]}, "d": true}));
        assert_eq!(merge_patch(&to, &to), None);
    }

    #[test]
    fn every_refused_field_is_named() {
        for (field, value) in [
            ("title", json!(" ")),
            ("goal", json!(5)),
            ("allowedPaths", json!("src")),
            ("commands", json!([1])),
            ("priority", json!(1.5)),
            ("riskLevel", json!("extreme")),
            ("role", json!("judge")),
            ("lane", json!("")),
            ("kind", json!("research")),
            ("dependencies", json!(["x"])),
            ("timeboxMinutes", json!(0)),
            ("status", json!("Queued")),
            ("blockReason", json!("needs_human")),
        ] {
            let error = format!("{:?}", Change::parse(json!({ field: value }).to_string().as_bytes()));
            assert!(error.starts_with("Err") && error.contains(&format!("\"{field}: ")), "{field}: {error}");
        }
    }
}
