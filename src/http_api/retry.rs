//! `retry` on a Task: what happens next and when, computed from the mirrored status (spec/api.md
//! section 6). The times are those the controllers decided; nothing is decided here.

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use utoipa::ToSchema;

use crate::crd::FailureClass;
use crate::plan::classify;
use crate::postgres::queries::{RecoverySettings, TaskRecord};

/// When and why a failed or blocked Task goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Retry {
    /// False when a person has to act first.
    pub auto_retry: bool,
    /// `awaiting_judge`, `quota_wait`, `needs_rework`, `cooldown_pending` or `retry_due`.
    pub reason: &'static str,
    #[schema(value_type = String, format = DateTime)]
    pub retry_at: Timestamp,
    /// Whole seconds until then, at least 0.
    pub retry_in_seconds: i64,
    /// From the last change of the Task until then.
    pub cooldown_ms: i64,
    /// What attempts have cost so far in the category that `retryLimit` bounds.
    pub retry_count: i32,
    /// -1: no limit.
    pub retry_limit: i32,
    /// Class of the last failure; only of a failed Task.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure_category: Option<String>,
}

/// Settings in force when there is no System.
const DEFAULTS: RecoverySettings =
    RecoverySettings { failed_cooldown_ms: 30_000, blocked_cooldown_ms: 120_000, max_retries: None };

/// The retry view of `task`; `None` unless it is failed or blocked.
pub fn view(task: &TaskRecord, settings: Option<RecoverySettings>, now: Timestamp) -> Option<Retry> {
    let settings = settings.unwrap_or(DEFAULTS);
    let global = settings.max_retries.unwrap_or(-1);
    let cooldown = match task.status.as_str() {
        "blocked" => settings.blocked_cooldown_ms,
        "failed" => settings.failed_cooldown_ms,
        _ => return None,
    };
    let retry_at = task
        .retry_at
        .or_else(|| task.updated_at.checked_add(SignedDuration::from_millis(cooldown)).ok())
        .unwrap_or(task.updated_at);
    let pending = if retry_at > now { "cooldown_pending" } else { "retry_due" };
    let (reason, retry_count, retry_limit, failure_category) = if task.status == "blocked" {
        match task.block_reason.as_deref() {
            Some("awaiting_judge") => ("awaiting_judge", task.retries.judge, global, None),
            Some("quota_wait") => ("quota_wait", task.retries.quota, global, None),
            Some("needs_rework") => ("needs_rework", task.retries.rework, global, None),
            Some(_) | None => (pending, task.retry_count, global, None),
        }
    } else {
        failed(task, global, pending)
    };
    let millis = |d: SignedDuration| i64::try_from(d.as_millis()).unwrap_or(i64::MAX).max(0);
    Some(Retry {
        auto_retry: task.next_kind.as_deref() != Some("operator"),
        reason,
        retry_at,
        retry_in_seconds: millis(retry_at.duration_since(now)).saturating_add(999) / 1000,
        cooldown_ms: millis(retry_at.duration_since(task.updated_at)),
        retry_count,
        retry_limit,
        failure_category,
    })
}

fn failed(task: &TaskRecord, global: i32, pending: &'static str) -> (&'static str, i32, i32, Option<String>) {
    let class = task.failure_class.as_deref().and_then(class).unwrap_or(FailureClass::Model);
    let category = Some(class.word().to_owned());
    let Some(limit) = classify::limit(class, (global >= 0).then_some(global)) else {
        // Costs no attempt: bounded by its own cap, which only the controller knows.
        return (pending, task.retries.infra, -1, category);
    };
    let count = task.retries.failure;
    if global >= 0 && count >= global {
        return ("needs_rework", count, global, None);
    }
    let retryable = task.failure_code.as_deref().and_then(classify::by_code).is_none_or(|c| c.retryable);
    let reason = if retryable && count < limit { pending } else { "needs_rework" };
    (reason, count, limit, category)
}

fn class(word: &str) -> Option<FailureClass> {
    serde_json::from_value(word.into()).ok()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use uuid::Uuid;

    use super::*;
    use crate::crd::task::Retries;

    fn record(status: &str, now: Timestamp) -> TaskRecord {
        TaskRecord {
            uid: Uuid::nil(),
            name: "fix".into(),
            title: String::new(),
            goal: String::new(),
            context: None,
            allowed_paths: vec![],
            denied_paths: vec![],
            commands: vec![],
            priority: 0,
            risk_level: "low".into(),
            role: "worker".into(),
            lane: "feature".into(),
            kind: "code".into(),
            status: status.into(),
            block_reason: None,
            target_area: None,
            touches: vec![],
            dependencies: vec![],
            timebox_minutes: 60,
            attempts: 1,
            retry_count: 0,
            retries: Retries::default(),
            retry_at: None,
            next_kind: None,
            failure_class: None,
            failure_code: None,
            parent_uid: None,
            created_by: None,
            created_at: now,
            updated_at: now,
            deleted_at: None,
        }
    }

    /// Null-ness, keys, reason, count and limit are those of the original; its times are not, because
    /// ours has one clock. Classification is not tested here, the class is taken from the answer.
    fn check(vectors: &str, global: Option<i32>) {
        let rows: Vec<Value> = serde_json::from_str(vectors).expect("vectors");
        assert!(rows.len() >= 40);
        let settings = RecoverySettings { max_retries: global, ..DEFAULTS };
        for row in rows {
            let (input, expected) = (&row["input"], &row["output"]);
            let now: Timestamp = input["now"].as_str().and_then(|t| t.parse().ok()).expect("now");
            let mut task = record(input["status"].as_str().expect("status"), now);
            let count = i32::try_from(input["retryCount"].as_i64().expect("count")).expect("small");
            task.retry_count = count;
            task.retries = Retries { failure: count, quota: count, judge: count, infra: 0, rework: count };
            task.updated_at = now - SignedDuration::from_millis(input["updatedAgoMs"].as_i64().expect("ago"));
            // The original's word of old for the same wait.
            task.block_reason =
                input["blockReason"].as_str().map(|r| r.replace("needs_human", "awaiting_judge"));
            task.failure_class = expected["failureCategory"].as_str().map(Into::into);
            task.failure_code = input["latestFailureMeta"]["failureCode"].as_str().map(Into::into);
            let ours = serde_json::to_value(view(&task, Some(settings), now)).expect("json");
            let keys = |v: &Value| v.as_object().map(|o| o.keys().cloned().collect::<Vec<_>>());
            assert_eq!(keys(&ours), keys(expected), "{row}");
            for key in ["reason", "retryCount", "retryLimit", "failureCategory", "autoRetry"] {
                assert_eq!(ours.get(key), expected.get(key), "{key} of {row}");
            }
        }
    }

    #[test]
    fn the_view_says_what_the_original_says() {
        check(include_str!("../../tests/vectors/task_retry_info.json"), None);
        check(include_str!("../../tests/vectors/task_retry_info_global_0.json"), Some(0));
        check(include_str!("../../tests/vectors/task_retry_info_global_2.json"), Some(2));
    }

    #[test]
    fn the_times_are_those_of_the_status() {
        let now: Timestamp = "2026-03-01T12:00:00Z".parse().expect("time");
        let mut task = record("blocked", now - SignedDuration::from_secs(10));
        task.block_reason = Some("quota_wait".into());
        task.retry_at = Some(now + SignedDuration::from_millis(90_001));
        let retry = view(&task, None, now).expect("blocked");
        assert_eq!((retry.retry_in_seconds, retry.cooldown_ms), (91, 100_001));
        task.retry_at = Some(now - SignedDuration::from_secs(1));
        assert_eq!(view(&task, None, now).expect("blocked").retry_in_seconds, 0);
        task.next_kind = Some("operator".into());
        assert!(!view(&task, None, now).expect("blocked").auto_retry);
    }

    #[test]
    fn an_infrastructure_fault_is_never_rework() {
        let now: Timestamp = "2026-03-01T12:00:00Z".parse().expect("time");
        let mut task = record("failed", now);
        task.failure_class = Some("infra".into());
        task.retries.failure = 50;
        let retry =
            view(&task, Some(RecoverySettings { max_retries: Some(2), ..DEFAULTS }), now).expect("failed");
        assert_eq!((retry.reason, retry.retry_limit), ("cooldown_pending", -1));
    }
}
