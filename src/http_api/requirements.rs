//! `/system/requirements`: what the planner plans from. It is kept in `spec.planner` of the System, not
//! in the repository, which this API has no access to; a requirement that is a file of the repository
//! is named, not shown.

use axum::Json;
use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use kube::api::{Patch, PatchParams};
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::error::{ApiError, ErrorBody};
use super::kubernetes::{Kubernetes, answer};
use super::operations::{text, tolerant};
use super::query::Params;
use super::state::ApiState;
use crate::crd::planner::PlannerSettings;
use crate::crd::{System, system};
use crate::plan::planner::requirement::Requirement as Parsed;

/// The path under which clients of the original know the requirement.
const CANONICAL: &str = "docs/requirement.md";
/// Longest text and longest path, in characters, as the System takes them.
const MAX_TEXT: usize = 16384;
const MAX_PATH: usize = 512;
/// Tries to write, before somebody else's changes are said to be in the way.
const TRIES: usize = 5;

/// The requirement.
#[derive(Debug, Serialize, ToSchema)]
pub struct Requirement {
    /// `docs/requirement.md`: the name of the text, not a file.
    path: &'static str,
    content: String,
}

/// What became of a new requirement.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Stored {
    /// The path that was given, else the canonical one.
    requirement_path: String,
    canonical_path: &'static str,
    /// Always false: nothing is written to the repository.
    committed: bool,
    /// Where it is kept.
    commit_reason: &'static str,
}

/// What to plan from: a text, or a file of the repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    Text(String),
    Path(String),
}

impl Source {
    /// The text of field `content`.
    ///
    /// # Errors
    /// 400 when it is blank, too long, or has no goal.
    pub fn text(content: &str) -> Result<Self, ApiError> {
        let refuse = |problem: &str| Err(ApiError::invalid("content", problem));
        if content.trim().is_empty() {
            return refuse("must not be blank");
        }
        if content.chars().count() > MAX_TEXT {
            return refuse(
                "must be at most 16384 characters: keep a longer one in the repository and set requirementPath",
            );
        }
        if !Parsed::parse(content).is_usable() {
            return refuse("names no goal: write it in a section Goal, or as the first line of text");
        }
        Ok(Self::Text(content.to_owned()))
    }

    /// The path in `field`.
    ///
    /// # Errors
    /// 400 when it would lead out of the repository.
    pub fn path(field: &str, path: &str) -> Result<Self, ApiError> {
        let refuse = |problem: &str| Err(ApiError::invalid(field, problem));
        if path.is_empty() || path.len() > MAX_PATH || path.chars().any(char::is_control) {
            return refuse("must be a path of 1 to 512 characters");
        }
        if path.starts_with(['/', '\\']) || path.split(['/', '\\']).any(|part| part == "..") {
            return refuse("must be relative to the repository and must not contain '..'");
        }
        Ok(Self::Path(path.to_owned()))
    }

    /// Puts it into the settings, as [`store`] does.
    pub fn set(&self, settings: &mut PlannerSettings) {
        (settings.requirement, settings.requirement_path) = match self {
            Self::Text(text) => (Some(text.clone()), None),
            Self::Path(path) => (None, Some(path.clone())),
        };
        settings.enabled = true;
    }
}

/// Sets the requirement of the System. Where planning was switched off it is switched on for plans that
/// are asked for, and none is made unasked.
///
/// # Errors
/// 409 without a System or when somebody else is changing it, 400 with the API server's words, 503.
pub async fn store(kubernetes: &Kubernetes, source: &Source) -> Result<(), ApiError> {
    let mut first: Option<PlannerSettings> = None;
    // The status changes often; what is in the way is only a change of the settings meanwhile.
    for _ in 0..TRIES {
        let Some(present) = kubernetes.get::<System>(system::NAME).await? else { return Err(no_system()) };
        if first.as_ref().is_some_and(|first| *first != present.spec.planner) {
            break;
        }
        let patch = Patch::Merge(patch(source, &present));
        match kubernetes.api::<System>().patch(system::NAME, &PatchParams::default(), &patch).await {
            Ok(_) => return Ok(()),
            Err(kube::Error::Api(status)) if status.code == 409 => first = Some(present.spec.planner),
            Err(error) => return answer(async { Err(error) }).await,
        }
    }
    Err(ApiError::conflict("conflict", "the System is being changed by somebody else, try again"))
}

fn patch(source: &Source, present: &System) -> Value {
    let (text, path) = match source {
        Source::Text(text) => (Some(text), None),
        Source::Path(path) => (None, Some(path)),
    };
    let mut planner = Map::from_iter([
        ("requirement".to_owned(), json!(text)),
        ("requirementPath".to_owned(), json!(path)),
    ]);
    if !present.spec.planner.enabled {
        planner.insert("enabled".to_owned(), Value::Bool(true));
        planner.insert("autoReplan".to_owned(), Value::Bool(false));
    }
    json!({"metadata": {"resourceVersion": present.metadata.resource_version}, "spec": {"planner": planner}})
}

fn no_system() -> ApiError {
    ApiError::conflict("no_system", "there is no System named default in this namespace: create it first")
}

/// The requirement as a text.
#[utoipa::path(get, path = "/system/requirements", tag = "system",
    params(("path" = Option<String>, Query, description = "`docs/requirement.md`, or the System's requirementPath")),
    responses((status = 200, body = Requirement), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 404, body = ErrorBody, description = "there is none"),
        (status = 409, body = ErrorBody, description = "it is a file of the repository"), (status = 503, body = ErrorBody)))]
pub async fn get(State(state): State<ApiState>, params: Params) -> Result<Json<Requirement>, ApiError> {
    let asked = params.text("path");
    if let Some(path) = asked {
        Source::path("path", path)?;
    }
    let system = state.kubernetes()?.get::<System>(system::NAME).await?;
    let PlannerSettings { requirement, requirement_path, .. } =
        system.map(|system| system.spec.planner).unwrap_or_default();
    if let Some(path) = requirement_path.filter(|path| asked.is_none_or(|asked| asked == path)) {
        let problem = format!("the requirement is {path} in the repository, which this API cannot read");
        return Err(ApiError::conflict("requirement_in_repository", problem));
    }
    match requirement.filter(|_| asked.is_none_or(|asked| asked == CANONICAL)) {
        Some(content) => Ok(Json(Requirement { path: CANONICAL, content })),
        None => Err(ApiError::not_found("requirement")),
    }
}

/// Sets the requirement. It is planned when the planner is started, or by itself where
/// `planner.autoReplan` is on.
#[utoipa::path(post, path = "/system/requirements", tag = "system",
    request_body(content = Object, description = "`content`: markdown; `path`: a name for it, no file is written"),
    responses((status = 200, body = Stored), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 409, body = ErrorBody), (status = 413, body = ErrorBody),
        (status = 503, body = ErrorBody)))]
pub async fn set(
    State(state): State<ApiState>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Stored>, ApiError> {
    let body = tolerant(&body?);
    let source = Source::text(text(&body, "content").unwrap_or_default())?;
    let path = text(&body, "path").filter(|path| !path.is_empty());
    if let Some(path) = path {
        Source::path("path", path)?;
    }
    store(state.kubernetes()?, &source).await?;
    Ok(Json(Stored {
        requirement_path: path.unwrap_or(CANONICAL).to_owned(),
        canonical_path: CANONICAL,
        committed: false,
        commit_reason: "kept in spec.planner.requirement of the System, nothing is written to the repository",
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_stays_in_the_repository_and_a_text_has_a_goal() {
        for path in ["docs/requirement.md", "a..b", "..a/b"] {
            assert!(Source::path("path", path).is_ok(), "{path}");
        }
        let long = "a".repeat(MAX_PATH + 1);
        for path in ["", "/etc/passwd", "..", "../x", "a/../b", "a/..", "\\x", "a\\..\\b", "a\nb", &long] {
            assert!(Source::path("path", path).is_err(), "{path:?}");
        }
        assert!(Source::text("# Goal\n\nShip it\n").is_ok());
        for content in ["", " \n\t", "# Goal\n\n", &"x".repeat(MAX_TEXT + 1)] {
            assert!(Source::text(content).is_err(), "{:?}", content.get(..10));
        }
    }
}
