//! The body of `POST /tasks`: read field by field, so that a refusal names the field. Unknown fields
//! are ignored, as the original does; what Kubernetes validates is not validated twice.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use utoipa::ToSchema;
use uuid::Uuid;

use super::error::ApiError;
use crate::crd::task::{RiskLevel, TaskContext};
use crate::crd::{GoDuration, Role, TaskSpec, words::camel};

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
    /// Kind of work, by default `code`.
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
        let value: Value = serde_json::from_slice(body)
            .map_err(|e| ApiError::bad_request(format!("the body is not JSON: {e}")))?;
        let canonical = value.to_string();
        let Value::Object(fields) = value else {
            return Err(ApiError::bad_request("the body must be a JSON object"));
        };
        let fields = Fields { prefix: "", fields };
        let timebox = match fields.optional::<u64>("timeboxMinutes")? {
            None => GoDuration::from_secs(crate::crd::task::DEFAULT_TIMEBOX_SECS),
            Some(minutes @ 1..=MAX_TIMEBOX_MINUTES) => GoDuration::from_secs(minutes * 60),
            Some(_) => return Err(ApiError::invalid("timeboxMinutes", "must be from 1 to 1440")),
        };
        let spec = TaskSpec {
            title: fields.text("title")?,
            goal: fields.text("goal")?,
            allowed_paths: fields.required("allowedPaths")?,
            commands: fields.required("commands")?,
            context: context(&fields)?,
            priority: fields.optional("priority")?.unwrap_or_default(),
            risk_level: fields.word::<RiskLevel>("riskLevel", "low, medium, high")?.unwrap_or_default(),
            role: fields.role()?,
            kind: fields.optional("kind")?.unwrap_or_else(|| "code".to_owned()),
            timebox,
            ..TaskSpec::default()
        };
        let dependencies = fields.optional("dependencies")?.unwrap_or_default();
        Ok(Self { spec, dependencies, canonical })
    }
}

fn context(fields: &Fields) -> Result<Option<TaskContext>, ApiError> {
    let Some(object) = fields.optional::<Map<String, Value>>("context")? else { return Ok(None) };
    let context = Fields { prefix: "context.", fields: object };
    for unsupported in ["issue", "research"] {
        if context.fields.get(unsupported).is_some_and(|v| !v.is_null()) {
            return Err(ApiError::invalid(&format!("context.{unsupported}"), "is not supported"));
        }
    }
    Ok(Some(TaskContext {
        files: context.optional("files")?.unwrap_or_default(),
        specs: context.optional("specs")?.unwrap_or_default(),
        notes: context.optional("notes")?.unwrap_or_default(),
    }))
}

struct Fields {
    prefix: &'static str,
    fields: Map<String, Value>,
}

impl Fields {
    fn optional<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, ApiError> {
        match self.fields.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => T::deserialize(value)
                .map(Some)
                .map_err(|e| ApiError::invalid(&format!("{}{name}", self.prefix), e)),
        }
    }

    fn required<T: DeserializeOwned>(&self, name: &str) -> Result<T, ApiError> {
        self.optional(name)?.ok_or_else(|| ApiError::invalid(name, "is required"))
    }

    fn text(&self, name: &str) -> Result<String, ApiError> {
        let text: String = self.required(name)?;
        if text.trim().is_empty() {
            Err(ApiError::invalid(name, "must not be empty or blank"))
        } else {
            Ok(text)
        }
    }

    /// Role of the agents that carry the Task out; reviewing and planning are not asked for this way.
    fn role(&self) -> Result<Role, ApiError> {
        let words = "worker, tester, docser";
        match self.word::<Role>("role", words)?.unwrap_or_default() {
            role @ (Role::Worker | Role::Tester | Role::Docser) => Ok(role),
            Role::Judge | Role::Planner => Err(ApiError::invalid("role", format!("must be one of {words}"))),
        }
    }

    /// A lower_snake enum word.
    fn word<T: DeserializeOwned>(&self, name: &str, words: &str) -> Result<Option<T>, ApiError> {
        let bad = || ApiError::invalid(name, format!("must be one of {words}"));
        let Some(word) = self.optional::<String>(name)? else { return Ok(None) };
        if word != word.to_ascii_lowercase() {
            return Err(bad());
        }
        serde_json::from_value(Value::String(camel(&word))).map(Some).map_err(|_| bad())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

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
            ("context", json!([])),
            ("context.files", json!({"files": "x"})),
            ("context.issue", json!({"issue": {"number": 1}})),
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
