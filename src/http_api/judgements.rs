//! `/judgements`: verdicts of reviews, from the audit log, and the change that a verdict is about.

use axum::Json;
use axum::extract::{Path, State};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use super::error::{ApiError, ErrorBody};
use super::query::Params;
use super::state::ApiState;
use crate::postgres::artifacts;
use crate::postgres::history::{self, EventRecord, JudgementFilter};

/// Verdicts in one answer, unless `limit` says otherwise, and at most.
const LIMITS: (i64, i64) = (50, 200);
/// The same of the characters of a diff.
const DIFF_LIMITS: (i64, i64) = (20_000, 120_000);
/// Words of a verdict. Nothing says the last one here; the original's clients ask for it.
const VERDICTS: [&str; 3] = ["approve", "request_changes", "needs_human"];

/// A verdict.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Judgement {
    #[schema(value_type = String, format = "uuid")]
    id: Uuid,
    /// `judge.review`, or `task.policy_recovery_*`.
    #[serde(rename = "type")]
    kind: String,
    #[schema(value_type = String, format = DateTime)]
    created_at: Timestamp,
    /// Who reviewed.
    agent_id: Option<String>,
    #[schema(value_type = String, format = "uuid")]
    task_id: Uuid,
    /// `verdict`, `runId` (what was reviewed), `judgeRunId`, `confidence`, `riskLevel`, `reasons`,
    /// `summary` {`ci`, `policy`, `llm`}, `actions` and so on.
    #[schema(value_type = Object)]
    payload: Value,
}

impl From<EventRecord> for Judgement {
    fn from(event: EventRecord) -> Self {
        let EventRecord { id, uid, kind, agent_id, payload, created_at } = event;
        let mut payload = payload.unwrap_or_default();
        // Of a recovery the original's clients read it under this name.
        if let Some(fields) = payload.as_object_mut()
            && let Some(summary) = fields.get("summary").filter(|summary| summary.is_string()).cloned()
        {
            fields.insert("recoverySummary".into(), summary);
        }
        Self { id, kind, created_at, agent_id, task_id: uid, payload }
    }
}

/// Verdicts.
#[derive(Debug, Serialize, ToSchema)]
pub struct Judgements {
    judgements: Vec<Judgement>,
}

/// The change that a verdict is about.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Diff {
    /// A unified diff; a cut one ends with a line that says so.
    diff: String,
    truncated: bool,
    /// `base_repo_diff`: an artifact of the Run.
    source: &'static str,
}

/// Verdicts, newest first.
#[utoipa::path(get, path = "/judgements", tag = "judgements",
    params(
        ("taskId" = Option<String>, Query, description = "verdicts about this Task"),
        ("runId" = Option<String>, Query, description = "verdicts about what this Run has pushed"),
        ("verdict" = Option<String>, Query, description = "approve, request_changes or needs_human"),
        ("includeRecovery" = Option<bool>, Query, description = "also what recovery did about refused paths"),
        ("limit" = Option<String>, Query, description = "verdicts at most, 1 to 200; 50 when absent or unreadable")),
    responses((status = 200, body = Judgements), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub async fn list(State(state): State<ApiState>, params: Params) -> Result<Json<Judgements>, ApiError> {
    let filter = JudgementFilter {
        task: params.uuid("taskId")?,
        run: params.uuid("runId")?.map(|run| run.to_string()),
        verdict: params.word("verdict", &VERDICTS)?,
        include_recovery: params.flag("includeRecovery")?,
    };
    let limit = params.lenient_limit(LIMITS);
    let events = history::judgements(&state.pool, &state.namespace, &filter, limit).await?;
    Ok(Json(Judgements { judgements: events.into_iter().map(Judgement::from).collect() }))
}

/// The change that a verdict is about, as far as it was kept.
#[utoipa::path(get, path = "/judgements/{id}/diff", tag = "judgements",
    params(("id" = String, Path, description = "id of the verdict"),
        ("limit" = Option<String>, Query, description = "characters at most, 1 to 120000; 20000 when absent or unreadable")),
    responses((status = 200, body = Diff), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody),
        (status = 404, body = ErrorBody, description = "there is no such verdict, or its change was not kept"),
        (status = 503, body = ErrorBody)))]
pub async fn diff(
    State(state): State<ApiState>,
    Path(id): Path<String>,
    params: Params,
) -> Result<Json<Diff>, ApiError> {
    let unknown = || ApiError::not_found("judgement");
    let id = Uuid::parse_str(&id).map_err(|_| unknown())?;
    let event = history::judgement(&state.pool, &state.namespace, id).await?.ok_or_else(unknown)?;
    let payload = event.payload.unwrap_or_default();
    let run = |name: &str| payload.get(name).and_then(Value::as_str).and_then(|run| run.parse().ok());
    let runs: Vec<Uuid> = ["runId", "judgeRunId"].into_iter().filter_map(run).collect();
    match artifacts::diff(&state.pool, &state.namespace, &runs).await? {
        Some(diff) => Ok(Json(cut(&diff, params.lenient_limit(DIFF_LIMITS)))),
        None => Err(ApiError::no_content(
            "the change was not kept with this judgement: compare the branch of payload.branchName with payload.baseBranch",
        )),
    }
}

/// The first `limit` characters. A cut diff ends with a line of its own, so it is longer than `limit`
/// (spec/corrections.md 21).
fn cut(diff: &str, limit: i64) -> Diff {
    let limit = usize::try_from(limit).unwrap_or_default();
    let (text, truncated) = match diff.char_indices().nth(limit) {
        Some((end, _)) => (format!("{}\n... (truncated)", diff.get(..end).unwrap_or_default()), true),
        None => (diff.to_owned(), false),
    };
    Diff { diff: text, truncated, source: "base_repo_diff" }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_cut_diff_says_so_and_is_cut_between_characters() {
        let whole = Diff { diff: "äöü".into(), truncated: false, source: "base_repo_diff" };
        assert_eq!(cut("äöü", 3), whole);
        assert_eq!(cut("äöü", 2).diff, "äö\n... (truncated)");
        assert!(cut("äöü", 2).truncated);
    }

    #[test]
    fn the_summary_of_a_recovery_is_there_under_both_names() {
        let event = |payload| EventRecord {
            id: Uuid::nil(),
            uid: Uuid::nil(),
            kind: "task.policy_recovery_applied".into(),
            agent_id: None,
            payload: Some(payload),
            created_at: Timestamp::UNIX_EPOCH,
        };
        let recovery = Judgement::from(event(json!({"summary": "two paths"})));
        assert_eq!(recovery.payload["recoverySummary"], json!("two paths"));
        let review = Judgement::from(event(json!({"summary": {"ci": null}})));
        assert_eq!(review.payload.get("recoverySummary"), None);
    }
}
