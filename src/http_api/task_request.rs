//! The body of `POST /tasks`, and what its fields mean in any body about a Task.

use serde::Deserialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::error::ApiError;
use super::fields::Fields;
use crate::crd::task::{DEFAULT_TIMEBOX_SECS, IssueRef, RiskLevel, TaskContext};
use crate::crd::{GoDuration, Role, TaskSpec};

/// The one kind of work that can be asked for.
const KIND: &str = "code";
/// Most minutes of a timebox.
const MAX_TIMEBOX_MINUTES: u64 = 24 * 60;

/// What to do, where, how to verify it.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[allow(dead_code, reason = "describes the body; it is read field by field")]
pub struct CreateTask {
    title: String,
    goal: String,
    /// Globs of repository paths that may change.
    allowed_paths: Vec<String>,
    /// Verification commands.
    commands: Vec<String>,
    context: Option<CreateContext>,
    /// -1000 to 1000, higher goes first.
    priority: Option<i32>,
    /// `low`, `medium` or `high`.
    risk_level: Option<String>,
    /// `worker`, `tester` or `docser`.
    role: Option<String>,
    /// Kind of work: `code`.
    kind: Option<String>,
    /// Ids of Tasks that must be resolved first.
    #[schema(value_type = Option<Vec<String>>)]
    dependencies: Option<Vec<Uuid>>,
    /// 1 to 1440.
    timebox_minutes: Option<u64>,
}

/// What helps the agent.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(dead_code, reason = "describes the body; it is read field by field")]
pub struct CreateContext {
    files: Option<Vec<String>>,
    specs: Option<String>,
    notes: Option<String>,
    issue: Option<ContextIssue>,
}

/// The issue that a Task is about.
#[derive(Debug, Deserialize, ToSchema)]
#[allow(dead_code, reason = "describes the body; it is read field by field")]
pub struct ContextIssue {
    number: i64,
    title: Option<String>,
    url: Option<String>,
}

/// A readable request.
#[derive(Debug)]
pub struct NewTask {
    /// Without dependencies, which are known by name in Kubernetes.
    pub spec: TaskSpec,
    pub dependencies: Vec<Uuid>,
    /// The body with sorted keys and no white space.
    pub canonical: String,
}

impl NewTask {
    /// Reads the body.
    ///
    /// # Errors
    /// 400 that names the field.
    pub fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let fields = Fields::parse(body)?;
        let spec = TaskSpec {
            title: fields.text("title")?,
            goal: fields.text("goal")?,
            allowed_paths: fields.required("allowedPaths")?,
            commands: fields.required("commands")?,
            context: context(&fields)?,
            priority: fields.optional("priority")?.unwrap_or_default(),
            risk_level: risk_level(&fields)?.unwrap_or_default(),
            role: role(&fields)?.unwrap_or_default(),
            kind: kind(&fields)?.unwrap_or_else(|| KIND.to_owned()),
            timebox: timebox(&fields)?.unwrap_or_else(|| GoDuration::from_secs(DEFAULT_TIMEBOX_SECS)),
            ..TaskSpec::default()
        };
        let dependencies = dependencies(&fields)?.unwrap_or_default();
        Ok(Self { spec, dependencies, canonical: fields.canonical() })
    }
}

/// `dependencies`: ids of Tasks.
pub(super) fn dependencies(fields: &Fields) -> Result<Option<Vec<Uuid>>, ApiError> {
    fields.optional("dependencies")
}

/// `timeboxMinutes`.
pub(super) fn timebox(fields: &Fields) -> Result<Option<GoDuration>, ApiError> {
    match fields.optional::<u64>("timeboxMinutes")? {
        None => Ok(None),
        Some(minutes @ 1..=MAX_TIMEBOX_MINUTES) => Ok(Some(GoDuration::from_secs(minutes * 60))),
        Some(_) => Err(fields.invalid("timeboxMinutes", "must be from 1 to 1440")),
    }
}

/// `riskLevel`.
pub(super) fn risk_level(fields: &Fields) -> Result<Option<RiskLevel>, ApiError> {
    fields.word("riskLevel", &["low", "medium", "high"])
}

/// `role`: of the agents that carry the Task out; reviewing and planning are not asked for this way.
pub(super) fn role(fields: &Fields) -> Result<Option<Role>, ApiError> {
    fields.word("role", &["worker", "tester", "docser"])
}

/// `kind`. The original's plug-ins know more kinds; here only this one is ever dispatched
/// (spec/api.md 1.2: "400 unsupported kind").
pub(super) fn kind(fields: &Fields) -> Result<Option<String>, ApiError> {
    match fields.optional::<String>("kind")? {
        Some(kind) if kind != KIND => {
            Err(fields.invalid("kind", format!("is not supported, must be {KIND}")))
        }
        kind => Ok(kind),
    }
}

/// `context`.
pub(super) fn context(fields: &Fields) -> Result<Option<TaskContext>, ApiError> {
    let Some(context) = fields.object("context", "context.")? else { return Ok(None) };
    if context.has("research") {
        return Err(context.invalid("research", "is not supported"));
    }
    Ok(Some(TaskContext {
        files: context.optional("files")?.unwrap_or_default(),
        specs: context.optional("specs")?.unwrap_or_default(),
        notes: context.optional("notes")?.unwrap_or_default(),
        issue: issue(&context)?,
    }))
}

/// `context.issue`.
fn issue(context: &Fields) -> Result<Option<IssueRef>, ApiError> {
    let Some(issue) = context.object("issue", "context.issue.")? else { return Ok(None) };
    Ok(Some(IssueRef {
        number: issue.required("number")?,
        title: issue.optional("title")?.unwrap_or_default(),
        url: issue.optional("url")?.unwrap_or_default(),
    }))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn parse(value: &Value) -> Result<NewTask, String> {
        NewTask::parse(value.to_string().as_bytes()).map_err(|e| format!("{e:?}"))
    }

    fn full() -> Value {
        json!({
            "title": "t", "goal": "g", "allowedPaths": ["src/**"], "commands": ["make test"], "priority": 5,
            "context": {"files": ["a"], "specs": "s", "notes": "n"}, "riskLevel": "high", "role": "docser",
            "kind": "code", "timeboxMinutes": 90, "dependencies": ["00000000-0000-0000-0000-000000000001"],
        })
    }

    #[test]
    fn a_full_body_becomes_a_spec() {
        let new = parse(&full()).expect("readable");
        assert_eq!(new.spec.risk_level, RiskLevel::High);
        assert_eq!(new.spec.role, Role::Docser);
        assert_eq!(new.spec.timebox.parse(), Some(std::time::Duration::from_secs(5400)));
        assert_eq!(new.dependencies, [Uuid::from_u128(1)]);
    }

    #[test]
    fn an_issue_is_part_of_the_context() {
        let mut body = full();
        body["context"]["issue"] = json!({"number": 12, "title": "It breaks", "url": "https://x/12"});
        let context = parse(&body).expect("readable").spec.context.expect("a context");
        let issue = IssueRef { number: 12, title: "It breaks".into(), url: "https://x/12".into() };
        assert_eq!((context.notes.as_str(), context.issue), ("n", Some(issue)));
    }

    #[test]
    fn a_kind_of_work_that_there_is_not_is_refused_a21() {
        let mut body = full();
        body["kind"] = json!("foo");
        let error = parse(&body).expect_err("refused");
        assert!(error.contains("kind: is not supported, must be code"), "{error}");
    }

    #[test]
    fn every_refusal_names_its_field() {
        let cases = [
            ("title", json!("")),
            ("title", json!(5)),
            ("goal", json!("  ")),
            ("goal", Value::Null),
            ("allowedPaths", json!("src")),
            ("allowedPaths", Value::Null),
            ("commands", json!([1])),
            ("priority", json!("high")),
            ("priority", json!(1.5)),
            ("priority", json!(99_999_999_999_i64)),
            ("riskLevel", json!("extreme")),
            ("riskLevel", json!("High")),
            ("role", json!("judge")),
            ("role", json!(7)),
            ("timeboxMinutes", json!(0)),
            ("timeboxMinutes", json!(-1)),
            ("timeboxMinutes", json!(1441)),
            ("dependencies", json!(["x"])),
            ("kind", json!({})),
            ("kind", json!("research")),
            ("context", json!([])),
            ("context.files", json!({"files": "x"})),
            ("context.issue", json!({"issue": 1})),
            ("context.issue.number", json!({"issue": {"title": "x"}})),
            ("context.issue.url", json!({"issue": {"number": 1, "url": 5}})),
            ("context.research", json!({"research": {"jobId": "x"}})),
        ];
        for (field, value) in cases {
            let mut body = full();
            let (key, _) = field.split_once('.').unwrap_or((field, ""));
            body[key] = value.clone();
            let error = parse(&body).expect_err(field);
            assert!(error.contains(&format!("\"{field}: ")), "{field} {value}: {error}");
        }
    }
}
