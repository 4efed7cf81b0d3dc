//! `/plans`: what was planned, from the audit log, with what has become of it.

use std::collections::HashMap;

use axum::Json;
use axum::extract::State;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use uuid::Uuid;

use super::error::{ApiError, ErrorBody};
use super::query::Params;
use super::state::ApiState;
use crate::postgres::history::{self, EventRecord};
use crate::postgres::queries::{self, TaskRecord};

/// Plans in one answer, unless `limit` says otherwise, and at most.
const LIMITS: (i64, i64) = (20, 100);

/// A Task of a plan.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlannedTask {
    #[schema(value_type = String, format = "uuid")]
    id: Uuid,
    title: String,
    status: String,
    risk_level: String,
    role: String,
    priority: i32,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    dependencies: Vec<String>,
}

impl From<TaskRecord> for PlannedTask {
    fn from(task: TaskRecord) -> Self {
        Self {
            id: task.uid,
            title: task.title,
            status: task.status,
            risk_level: task.risk_level,
            role: task.role,
            priority: task.priority,
            created_at: task.created_at,
            dependencies: task.dependencies,
        }
    }
}

/// A plan.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    #[schema(value_type = String, format = "uuid")]
    id: Uuid,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    agent_id: Option<String>,
    /// `path`: where the requirement is in the repository.
    #[schema(value_type = Object)]
    requirement: Value,
    /// `text`: what the planner said.
    #[schema(value_type = Object)]
    summary: Value,
    #[schema(value_type = Vec<Object>)]
    policy_recovery_hint_applications: Value,
    /// In the planner's order, deleted ones included.
    #[schema(value_type = Vec<String>)]
    task_ids: Vec<Uuid>,
    /// In the planner's order, without those that were deleted.
    tasks: Vec<PlannedTask>,
}

impl Plan {
    fn new(event: EventRecord, mut tasks: Vec<TaskRecord>) -> Self {
        let mut payload = event.payload.unwrap_or_default();
        let mut part = |name: &str| payload.get_mut(name).map(Value::take).filter(|part| !part.is_null());
        tasks.sort_by_key(|task| ordinal(&task.name));
        Self {
            id: event.id,
            created_at: event.created_at,
            agent_id: event.agent_id,
            requirement: part("requirement").unwrap_or_else(|| json!({})),
            summary: part("summary").unwrap_or_else(|| json!({})),
            policy_recovery_hint_applications: part("policyRecoveryHintApplications")
                .unwrap_or_else(|| json!([])),
            task_ids: tasks.iter().map(|task| task.uid).collect(),
            tasks: tasks.into_iter().filter(|t| t.deleted_at.is_none()).map(PlannedTask::from).collect(),
        }
    }
}

/// Place in the plan: the number in a planned Task's name `<hash>-<number>-<slug>`.
fn ordinal(name: &str) -> u32 {
    name.split('-').nth(1).and_then(|number| number.parse().ok()).unwrap_or(u32::MAX)
}

/// Plans.
#[derive(Debug, Serialize, ToSchema)]
pub struct Plans {
    plans: Vec<Plan>,
}

/// Plans, newest first.
#[utoipa::path(get, path = "/plans", tag = "plans",
    params(("limit" = Option<String>, Query, description = "plans at most, 1 to 100; 20 when absent or unreadable")),
    responses((status = 200, body = Plans), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub async fn list(State(state): State<ApiState>, params: Params) -> Result<Json<Plans>, ApiError> {
    let events = history::plans(&state.pool, &state.namespace, params.lenient_limit(LIMITS)).await?;
    let parents: Vec<Uuid> = events.iter().map(|event| event.uid).collect();
    let mut tasks: HashMap<Uuid, Vec<TaskRecord>> = HashMap::new();
    for task in queries::planned_tasks(&state.pool, &state.namespace, &parents).await? {
        tasks.entry(task.parent_uid.unwrap_or_default()).or_default().push(task);
    }
    let plan = |event: EventRecord| {
        let tasks = tasks.remove(&event.uid).unwrap_or_default();
        Plan::new(event, tasks)
    };
    Ok(Json(Plans { plans: events.into_iter().map(plan).collect() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_that_of_the_numbers_in_the_names() {
        assert_eq!(ordinal("bcdfghjk-2-fix-1"), 2);
        assert!(ordinal("bcdfghjk-10-a") > ordinal("bcdfghjk-9-z"));
        assert_eq!(ordinal("unnumbered"), u32::MAX);
    }
}
