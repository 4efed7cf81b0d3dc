//! Objects as table rows: a row is a pure function of one object, so that the tables can be compared
//! with the cluster row by row (invariant S20). No clock, no I/O.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use thiserror::Error;
use uuid::Uuid;

use super::derived;
use crate::crd::{
    AgentPool, Condition, GoDuration, Operation, Purpose, Role, Run, RunPhase, System, Task, TaskPhase,
    labels,
    task::{DEFAULT_TIMEBOX_SECS, Retries},
    words::snake,
};

/// Kinds that are mirrored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Task,
    Run,
    Pool,
    System,
    Operation,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Task, Self::Run, Self::Pool, Self::System, Self::Operation];

    /// Table of the kind.
    pub fn table(self) -> &'static str {
        match self {
            Self::Task => "tasks",
            Self::Run => "runs",
            Self::Pool => "pools",
            Self::System => "systems",
            Self::Operation => "operations",
        }
    }
}

/// The columns this program fills. A row of a smaller shape is written again although its object has
/// not changed; raise it with every migration that adds a column.
pub const SHAPE: i16 = 2;

/// Why an object has no row.
#[derive(Debug, Error)]
pub enum RowError {
    #[error("failed to read {field} of {kind} {name}: {text:?}")]
    Field { kind: &'static str, name: String, field: &'static str, text: String },
}

/// One object's row and what belongs to it.
#[derive(Clone, Debug)]
pub struct Row {
    pub kind: Kind,
    pub uid: Uuid,
    pub namespace: String,
    pub name: String,
    pub resource_version: i64,
    /// The object is gone: its last state is written and `deleted_at` is set.
    pub deleted: bool,
    /// The cluster was restored: the stored state of this version, or its deletion, is of another past
    /// and gives way to this one. Ignored when another version is stored by then.
    pub replaces: Option<i64>,
    pub(super) columns: Value,
    /// Transitions in the order of their numbers (Tasks only).
    pub(super) events: Vec<Value>,
    /// Number of the first kept transition, 1 when there is none.
    pub(super) first_sequence: i64,
    /// Events that are of no transition (Runs only); their numbers are negative.
    pub(super) derived: Vec<Value>,
    /// What a successful Run left behind.
    pub(super) artifacts: Vec<Value>,
    /// Task whose `judge.review` events this row may complete.
    pub(super) reviewed: Option<Uuid>,
}

impl Row {
    /// The row of a Task with its transitions as events.
    ///
    /// # Errors
    /// When the metadata lacks a uid or a numeric resourceVersion.
    pub fn task(task: &Task) -> Result<Self, RowError> {
        let spec = &task.spec;
        let status = task.status.clone().unwrap_or_default();
        let created = created(&task.metadata);
        let updated = status
            .transitions
            .iter()
            .map(|t| t.at)
            .chain(condition_times(&status.conditions))
            .fold(created, Timestamp::max);
        let effective = status.effective.clone().unwrap_or_default();
        let lane =
            effective.lane.or_else(|| spec.lane.clone()).unwrap_or_else(|| default_lane(spec.role).into());
        let timebox =
            GoDuration::or(Some(&spec.timebox), std::time::Duration::from_secs(DEFAULT_TIMEBOX_SECS));
        let failure = status.last_failure.as_ref();
        let block_reason = match status.phase {
            TaskPhase::Blocked => status.block_reason.map(|r| snake(r.word())),
            TaskPhase::Queued
            | TaskPhase::Running
            | TaskPhase::Failed
            | TaskPhase::Done
            | TaskPhase::Cancelled => None,
        };
        let mut row = Self::new(
            Kind::Task,
            &task.metadata,
            updated,
            json!({
                "title": spec.title,
                "goal": spec.goal,
                "context": spec.context,
                "allowed_paths": spec.allowed_paths,
                "denied_paths": spec.denied_paths,
                "commands": spec.commands,
                "priority": spec.priority,
                "risk_level": word(spec.risk_level),
                "role": snake(spec.role.word()),
                "lane": lane,
                "kind": spec.kind,
                "status": snake(status.phase.word()),
                "block_reason": block_reason,
                "target_area": effective.target_area.or_else(|| spec.target_area.clone()),
                "touches": spec.touches,
                "dependency_names": spec.dependencies,
                "resolved_dependencies": status.resolved_dependencies.iter()
                    .map(|d| (d.name.clone(), Value::from(d.uid.clone()))).collect::<serde_json::Map<_, _>>(),
                "timebox_minutes": timebox.as_secs().div_ceil(60),
                "attempts": status.attempts,
                "retry_count": retry_count(status.retries),
                "retries": status.retries,
                "retry_at": status.retry_at,
                "next_kind": status.next.as_ref().map(|n| word(n.kind)),
                "failure_class": failure.map(|f| f.class.clone()),
                "failure_code": failure.map(|f| f.code.clone()),
                "request_key": annotation(&task.metadata, labels::REQUEST_KEY),
                "request_hash": annotation(&task.metadata, labels::REQUEST_HASH),
                "parent_uid": label(&task.metadata, labels::PARENT_UID).and_then(|u| Uuid::parse_str(&u).ok()),
                "parent_name": label(&task.metadata, labels::PARENT),
                "created_by": label(&task.metadata, labels::CREATED_BY),
                "origin": label(&task.metadata, labels::ORIGIN),
                "plan_signature": annotation(&task.metadata, labels::PLAN_SIGNATURE),
            }),
        )?;
        row.first_sequence = status.transitions.first().map_or(1, |t| t.sequence);
        row.events = derived::transitions(row.uid, &row.namespace, &status.transitions)
            .into_iter()
            .map(scrubbed)
            .collect();
        row.reviewed = status.transitions.iter().any(|t| t.event == derived::REVIEW).then_some(row.uid);
        Ok(row)
    }

    /// The row of a Run with the artifacts of its success.
    ///
    /// # Errors
    /// When the metadata or `spec.taskRef.uid` cannot be read.
    pub fn run(run: &Run) -> Result<Self, RowError> {
        let spec = &run.spec;
        let status = run.status.clone().unwrap_or_default();
        let created = created(&run.metadata);
        let started = status.started_at.unwrap_or(created);
        let updated = condition_times(&status.conditions)
            .chain(status.started_at)
            .chain(status.finished_at)
            .fold(created, Timestamp::max);
        let task_uid = uid(Kind::Run, &run.metadata, "spec.taskRef.uid", Some(&spec.task_ref.uid))?;
        let (message, meta) = match status.phase {
            RunPhase::Running | RunPhase::Success => (None, None),
            RunPhase::Failed | RunPhase::Cancelled => (
                (!status.summary.is_empty()).then(|| status.summary.clone()),
                Some(json!({
                    "failureCode": status.failure_code,
                    "failureClass": status.failure_class,
                    "retryAt": status.retry_at,
                })),
            ),
        };
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let mut row = Self::new(
            Kind::Run,
            &run.metadata,
            updated,
            json!({
                "task_uid": task_uid,
                "task_name": spec.task_ref.name,
                "attempt": spec.attempt,
                "purpose": snake(spec.purpose.word()),
                "pool": spec.pool,
                "agent": spec.agent,
                "role": snake(spec.role.word()),
                "lane": spec.lane,
                "status": snake(status.phase.word()),
                "started_at": started,
                "finished_at": status.finished_at,
                "cost_tokens": status.tokens.map(|t| t.total),
                "error_message": message,
                "error_meta": meta,
                "branch": some(&status.branch),
                "head_commit": some(&status.head_commit),
                "changed_files": status.changed_files,
                "logs": status.logs.map(word),
                "review": derived::review(run),
            }),
        )?;
        row.reviewed = derived::review(run).map(|_| task_uid);
        row.derived =
            derived::plan_created(run, task_uid, &row.namespace, updated).into_iter().map(scrubbed).collect();
        if status.phase == RunPhase::Success && !status.branch.is_empty() {
            let at = status.finished_at.unwrap_or(updated);
            row.artifacts = vec![
                row.artifact("branch", &status.branch, Value::Null, at),
                row.artifact(
                    "commit",
                    &status.branch,
                    json!({
                        "headSha": status.head_commit,
                        "changedFiles": status.changed_files,
                    }),
                    at,
                ),
            ];
            // The pull request belongs to the Run that published it, not to those that look at it.
            if let Some(pr) = status.pr.as_ref().filter(|_| spec.purpose == Purpose::Execute) {
                let title = format!("[openTiger] {}", spec.inputs.title);
                let metadata = json!({"title": title, "state": "open", "url": pr.url});
                row.artifacts.push(row.artifact("pr", &pr.number.to_string(), metadata, at));
            }
        }
        Ok(row)
    }

    /// The row of an AgentPool, from which its agents derive.
    ///
    /// # Errors
    /// When the metadata lacks a uid or a numeric resourceVersion.
    pub fn pool(pool: &AgentPool) -> Result<Self, RowError> {
        let conditions = pool.status.as_ref().map(|s| s.conditions.as_slice()).unwrap_or_default();
        let updated = condition_times(conditions).fold(created(&pool.metadata), Timestamp::max);
        Self::new(
            Kind::Pool,
            &pool.metadata,
            updated,
            json!({
                "role": snake(pool.spec.role.word()),
                "replicas": pool.spec.replicas,
                "peak_replicas": pool.spec.replicas,
                "suspended": pool.spec.suspend,
                "metadata": {"provider": word(pool.spec.executor.type_)},
            }),
        )
    }

    /// The row of a System: the settings that explain what Tasks wait for.
    ///
    /// # Errors
    /// When the metadata lacks a uid or a numeric resourceVersion.
    pub fn system(system: &System) -> Result<Self, RowError> {
        let conditions = system.status.as_ref().map(|s| s.conditions.as_slice()).unwrap_or_default();
        let hatch = system.status.as_ref().and_then(|s| s.hatch.since);
        let updated =
            condition_times(conditions).chain(hatch).fold(created(&system.metadata), Timestamp::max);
        let recovery = &system.spec.recovery;
        let millis = |d: std::time::Duration| i64::try_from(d.as_millis()).unwrap_or(i64::MAX);
        Self::new(
            Kind::System,
            &system.metadata,
            updated,
            json!({
                "failed_cooldown_ms": millis(recovery.failed_cooldown()),
                "blocked_cooldown_ms": millis(recovery.blocked_cooldown()),
                "max_retries": recovery.max_retries,
            }),
        )
    }

    /// The row of an Operation.
    ///
    /// # Errors
    /// When the metadata lacks a uid or a numeric resourceVersion.
    pub fn operation(operation: &Operation) -> Result<Self, RowError> {
        let spec = &operation.spec;
        let status = operation.status.clone().unwrap_or_default();
        let updated = condition_times(&status.conditions)
            .chain(status.started_at)
            .chain(status.finished_at)
            .fold(created(&operation.metadata), Timestamp::max);
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Self::new(
            Kind::Operation,
            &operation.metadata,
            updated,
            json!({
                "type": snake(spec.type_.word()),
                "phase": snake(status.phase.word()),
                "target": spec.target,
                "task_name": spec.task_ref.as_ref().map(|t| &t.name),
                "requested_by": some(&spec.requested_by),
                "reason": some(&spec.reason),
                "message": some(&status.message),
                "result": status.result,
                "dry_run": spec.dry_run,
                "force": spec.force,
                "started_at": status.started_at,
                "finished_at": status.finished_at,
            }),
        )
    }

    /// Joins what every row has with the kind's own columns.
    fn new(kind: Kind, meta: &ObjectMeta, updated: Timestamp, mut columns: Value) -> Result<Self, RowError> {
        let uid = uid(kind, meta, "metadata.uid", meta.uid.as_deref())?;
        let version = meta.resource_version.as_deref().unwrap_or_default();
        let resource_version = version.parse::<i64>().map_err(|_| RowError::Field {
            kind: kind.table(),
            name: meta.name.clone().unwrap_or_default(),
            field: "metadata.resourceVersion",
            text: version.to_owned(),
        })?;
        let namespace = meta.namespace.clone().unwrap_or_default();
        let name = meta.name.clone().unwrap_or_default();
        if let Some(object) = columns.as_object_mut() {
            object.insert("uid".into(), json!(uid));
            object.insert("namespace".into(), json!(namespace));
            object.insert("name".into(), json!(name));
            object.insert("resource_version".into(), json!(resource_version));
            object.insert("shape".into(), json!(SHAPE));
            object.insert("generation".into(), json!(meta.generation.unwrap_or_default()));
            object.insert("created_at".into(), json!(created(meta)));
            object.insert("updated_at".into(), json!(updated));
        }
        Ok(Self {
            kind,
            uid,
            namespace,
            name,
            resource_version,
            deleted: false,
            replaces: None,
            columns: scrubbed(columns),
            events: Vec::new(),
            first_sequence: 1,
            derived: Vec::new(),
            artifacts: Vec::new(),
            reviewed: None,
        })
    }

    fn artifact(&self, kind: &str, reference: &str, metadata: Value, at: Timestamp) -> Value {
        scrubbed(json!({
            "id": derived_id(self.uid, kind),
            "run_uid": self.uid,
            "namespace": self.namespace,
            "type": kind,
            "ref": reference,
            "metadata": metadata,
            "created_at": at,
        }))
    }
}

/// An id for something that has no object of its own, the same on every replay.
fn derived_id(owner: Uuid, part: &str) -> Uuid {
    let digest = Sha256::new().chain_update(owner.as_bytes()).chain_update(part.as_bytes()).finalize();
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().zip(digest.iter()) {
        *to = *from;
    }
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

/// What attempts have cost in all; infrastructure faults cost nothing (design, section 3 rule 8).
fn retry_count(retries: Retries) -> i32 {
    let Retries { failure, quota, judge, infra: _, rework } = retries;
    failure.saturating_add(quota).saturating_add(judge).saturating_add(rework)
}

/// Lane of a Task that names none and has not been considered yet (spec/api.md 1.2).
fn default_lane(role: Role) -> &'static str {
    match role {
        Role::Docser => "docser",
        Role::Worker | Role::Tester | Role::Judge | Role::Planner => "feature",
    }
}

fn created(meta: &ObjectMeta) -> Timestamp {
    meta.creation_timestamp.as_ref().map(|t| t.0).unwrap_or_default()
}

fn condition_times(conditions: &[Condition]) -> impl Iterator<Item = Timestamp> {
    conditions.iter().map(|c| c.last_transition_time)
}

fn label(meta: &ObjectMeta, key: &str) -> Option<String> {
    meta.labels.as_ref().and_then(|l| l.get(key)).cloned()
}

fn annotation(meta: &ObjectMeta, key: &str) -> Option<String> {
    meta.annotations.as_ref().and_then(|a| a.get(key)).cloned()
}

fn uid(kind: Kind, meta: &ObjectMeta, field: &'static str, text: Option<&str>) -> Result<Uuid, RowError> {
    let text = text.unwrap_or_default();
    Uuid::parse_str(text).map_err(|_| RowError::Field {
        kind: kind.table(),
        name: meta.name.clone().unwrap_or_default(),
        field,
        text: text.to_owned(),
    })
}

/// The lower_snake word of an enum value.
pub(super) fn word<T: Serialize>(value: T) -> String {
    serde_json::to_value(value).ok().and_then(|v| v.as_str().map(snake)).unwrap_or_default()
}

/// The value without NUL characters, which Postgres refuses in text and in jsonb: each becomes the
/// six characters `\u0000`. (A lone surrogate cannot be in a Rust string.)
fn scrubbed(mut value: Value) -> Value {
    scrub(&mut value);
    value
}

fn scrub(value: &mut Value) {
    match value {
        Value::String(text) => {
            if text.contains('\0') {
                *text = text.replace('\0', "\\u0000");
            }
        }
        Value::Array(items) => items.iter_mut().for_each(scrub),
        Value::Object(object) => {
            if object.keys().any(|k| k.contains('\0')) {
                *object = std::mem::take(object)
                    .into_iter()
                    .map(|(k, v)| (k.replace('\0', "\\u0000"), v))
                    .collect();
            }
            object.values_mut().for_each(scrub);
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nul_characters_are_escaped_wherever_they_are() {
        let value = scrubbed(json!({"a\0": ["x\0y", {"b": "\0"}]}));
        assert_eq!(value, json!({"a\\u0000": ["x\\u0000y", {"b": "\\u0000"}]}));
    }

    #[test]
    fn an_id_of_a_part_is_the_same_on_every_replay() {
        let owner = Uuid::from_u128(7);
        assert_eq!(derived_id(owner, "branch"), derived_id(owner, "branch"));
        assert_ne!(derived_id(owner, "branch"), derived_id(owner, "commit"));
    }

    #[test]
    fn an_object_without_a_readable_version_has_no_row() {
        let mut task = Task::new("t", crate::crd::TaskSpec::default());
        task.metadata.uid = Some(Uuid::from_u128(1).to_string());
        task.metadata.resource_version = Some("abc".into());
        let error = Row::task(&task).expect_err("no number").to_string();
        assert!(error.contains("metadata.resourceVersion") && error.contains("abc"), "{error}");
    }
}
