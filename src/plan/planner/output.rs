//! What an agent answered to "plan this": the JSON in its text, and each task as it was meant.
//!
//! Owns where the JSON may stand in the text, the defaults of what was left out and the bounds of
//! the `Task` kind (spec: agents 6.2). It does not know how tasks depend on each other beyond the
//! numbers that were given: that is [`super::dependencies`].

use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Map, Value};

use super::{MAX_TASKS, PlannedTask};
use crate::crd::pool::Role;
use crate::crd::task::{RiskLevel, TaskContext};

/// Largest title, in characters.
pub(super) const MAX_TITLE: usize = 200;
/// Largest goal, specification and notes, in characters.
pub(super) const MAX_TEXT: usize = 16_384;
/// Most commands of a Task.
const MAX_COMMANDS: usize = 50;
/// Largest command, in characters.
const MAX_COMMAND: usize = 1_024;
/// Most paths in one list.
pub(super) const MAX_PATHS: usize = 200;
/// Largest path, in characters.
pub(super) const MAX_PATH: usize = 512;
/// Largest target area, in characters.
const MAX_AREA: usize = 256;
/// Least and greatest priority.
const PRIORITY: (f64, f64) = (-1_000.0, 1_000.0);
/// Least and greatest timebox, in minutes.
const TIMEBOX: (f64, f64) = (1.0, 1_440.0);
/// Timebox when none is given, in minutes.
const DEFAULT_TIMEBOX: f64 = 60.0;

/// The tasks of an answer with the dependencies as they were given, and what was changed on the way.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Read {
    /// Tasks in their order; `depends_on` is still empty.
    pub tasks: Vec<PlannedTask>,
    /// For each task the indexes it named, which may be anything.
    pub depends_on: Vec<Vec<f64>>,
    /// The agent's own warnings, then ours.
    pub warnings: Vec<String>,
}

/// The first JSON object in `text` whose `tasks` is an array: in fenced blocks, then among objects
/// that stand in the text, then the whole text. Colour codes and control characters do not count.
pub fn extract(text: &str) -> Option<Map<String, Value>> {
    let text = plain(text);
    let whole = text.trim();
    fenced(&text)
        .chain(objects(&text))
        .chain(std::iter::once(whole))
        .find_map(|candidate| plan_object(candidate.trim()))
}

/// What is wrong with an answer in which [`extract`] finds no plan, for the one who gave it.
pub fn complaint(text: &str) -> String {
    let text = plain(text);
    let Some(json) = text.find('{').and_then(|start| text.get(start..)) else {
        return "the answer holds no JSON object".to_owned();
    };
    match serde_json::Deserializer::from_str(json).into_iter::<Value>().next() {
        Some(Err(error)) => format!("the JSON cannot be read: {error} (counted from its first brace)"),
        Some(Ok(value)) if value.get("tasks").is_none() => "the JSON object has no \"tasks\"".to_owned(),
        Some(Ok(_)) | None => "\"tasks\" is not an array".to_owned(),
    }
}

fn plan_object(text: &str) -> Option<Map<String, Value>> {
    match serde_json::from_str(text).ok()? {
        Value::Object(object) if object.get("tasks").is_some_and(Value::is_array) => Some(object),
        Value::Object(_)
        | Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::String(_)
        | Value::Array(_) => None,
    }
}

/// Without colour codes and control characters other than blanks.
fn plain(text: &str) -> String {
    static COLOUR: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"\x1b\[[0-9;?]*[ -/]*[@-~]").ok());
    let text = match COLOUR.as_ref() {
        Some(colour) => colour.replace_all(text, ""),
        None => text.into(),
    };
    text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\r' | '\t')).collect()
}

fn fenced(text: &str) -> impl Iterator<Item = &str> {
    static FENCE: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r"(?s)```[A-Za-z0-9_-]*\s*(.*?)```").ok());
    FENCE.iter().flat_map(move |fence| {
        fence.captures_iter(text).filter_map(|found| found.get(1)).map(|block| block.as_str())
    })
}

/// The outermost `{...}` of a text, strings respected.
fn objects(text: &str) -> impl Iterator<Item = &str> {
    let mut found = Vec::new();
    let (mut depth, mut start, mut quoted, mut escaped) = (0_usize, 0, false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' if depth > 0 => quoted = !quoted,
            '{' if !quoted => {
                if depth == 0 {
                    start = at;
                }
                depth += 1;
            }
            '}' if !quoted && depth > 0 => {
                depth -= 1;
                if depth == 0 {
                    found.extend(text.get(start..=at));
                }
            }
            _ => {}
        }
    }
    found.into_iter()
}

/// Tasks of a plan with defaults and within the bounds of the `Task` kind. What has neither title
/// nor goal, and what is no object, is left out; indexes then mean the tasks that remain.
pub fn read(plan: &Map<String, Value>) -> Read {
    let listed = list(plan.get("tasks"));
    let mut read = Read { warnings: strings(plan.get("warnings")), ..Read::default() };
    let mut places: Vec<Option<f64>> = Vec::with_capacity(listed.len());
    let mut next = 0.0;
    let mut given = Vec::new();
    for (index, value) in listed.iter().enumerate() {
        let task = value.as_object().and_then(|object| {
            let mut notes = Notes { index, warnings: &mut read.warnings };
            task(object, listed.len(), &mut notes).map(|task| (task, numbers(object.get("dependsOn"))))
        });
        match task {
            Some((task, depends_on)) if read.tasks.len() < MAX_TASKS => {
                places.push(Some(next));
                next += 1.0;
                read.tasks.push(task);
                given.push(depends_on);
            }
            Some(_) => {
                places.push(None);
                read.warnings.push(format!("task {index}: left out, a plan has at most {MAX_TASKS} tasks"));
            }
            None => {
                places.push(None);
                read.warnings.push(format!("task {index}: left out, it has neither a title nor a goal"));
            }
        }
    }
    read.depends_on =
        given.iter().map(|indexes| indexes.iter().map(|at| moved(*at, &places)).collect()).collect();
    read
}

/// Where the task at `index` of the answer stands now: nowhere if it was left out. What was out of
/// range stays so.
fn moved(index: f64, places: &[Option<f64>]) -> f64 {
    match super::dependencies::whole(index).and_then(|place| places.get(place)) {
        Some(place) => place.unwrap_or(-1.0),
        None => index,
    }
}

/// Collects what was changed in one task.
struct Notes<'a> {
    index: usize,
    warnings: &'a mut Vec<String>,
}

impl Notes<'_> {
    fn add(&mut self, text: &str) {
        self.warnings.push(format!("task {}: {text}", self.index));
    }
}

fn task(object: &Map<String, Value>, count: usize, notes: &mut Notes) -> Option<PlannedTask> {
    let title = text(object.get("title"));
    let goal = text(object.get("goal"));
    let title = if title.trim().is_empty() { goal.lines().next().unwrap_or_default() } else { title };
    let goal = if goal.trim().is_empty() { title } else { goal };
    if goal.trim().is_empty() {
        return None;
    }
    // Without a number, earlier tasks go first.
    let position = i32::try_from(count.saturating_sub(notes.index)).unwrap_or(i32::MAX);
    let priority = number(object.get("priority")).unwrap_or_else(|| f64::from(position) * 10.0);
    let timebox = number(object.get("timeboxMinutes")).unwrap_or(DEFAULT_TIMEBOX);
    let context = object.get("context").and_then(Value::as_object);
    let part = |key: &str| context.and_then(|context| context.get(key));
    let area = text(object.get("targetArea")).trim();
    Some(PlannedTask {
        title: cut(title.trim(), MAX_TITLE, "title", notes),
        goal: cut(goal.trim(), MAX_TEXT, "goal", notes),
        role: role(object.get("role"), notes),
        allowed_paths: paths(object.get("allowedPaths"), "allowedPaths", notes),
        commands: commands(object.get("commands"), notes),
        priority: bounded(priority, PRIORITY, "priority", notes),
        risk: risk(object.get("riskLevel"), notes),
        timebox_minutes: bounded(timebox, TIMEBOX, "timeboxMinutes", notes).unsigned_abs(),
        depends_on: Vec::new(),
        touches: paths(object.get("touches"), "touches", notes),
        target_area: (!area.is_empty()).then(|| cut(area, MAX_AREA, "targetArea", notes)),
        context: TaskContext {
            files: paths(part("files"), "context.files", notes),
            specs: cut(text(part("specs")), MAX_TEXT, "context.specs", notes),
            notes: cut(text(part("notes")), MAX_TEXT, "context.notes", notes),
            issue: None,
        },
    })
}

/// The role that was given. `None` when there is none or it is not one a plan may give.
fn role(value: Option<&Value>, notes: &mut Notes) -> Option<Role> {
    match text(value).trim().to_lowercase().as_str() {
        "" => None,
        "worker" => Some(Role::Worker),
        "tester" => Some(Role::Tester),
        "docser" => Some(Role::Docser),
        other => {
            notes.add(&format!(
                "role '{}' is unknown, it is derived",
                other.chars().take(40).collect::<String>()
            ));
            None
        }
    }
}

/// The risk that was given; an unknown word weighs as medium, none as low.
fn risk(value: Option<&Value>, notes: &mut Notes) -> RiskLevel {
    match text(value).trim().to_lowercase().as_str() {
        "" | "low" => RiskLevel::Low,
        "medium" => RiskLevel::Medium,
        "high" => RiskLevel::High,
        _ => {
            notes.add("riskLevel is unknown, Medium is used");
            RiskLevel::Medium
        }
    }
}

/// Paths that the `Task` kind takes: relative, without `..`, not too long, not too many.
fn paths(value: Option<&Value>, field: &str, notes: &mut Notes) -> Vec<String> {
    let mut paths = strings(value);
    let given = paths.len();
    paths.retain(|path| super::paths::is_relative(path) && path.chars().count() <= MAX_PATH);
    paths.truncate(MAX_PATHS);
    if paths.len() < given {
        notes.add(&format!(
            "{field}: {} entries left out (absolute, '..', too long or too many)",
            given - paths.len()
        ));
    }
    paths
}

fn commands(value: Option<&Value>, notes: &mut Notes) -> Vec<String> {
    let mut commands = strings(value);
    let given = commands.len();
    commands.retain(|command| command.chars().count() <= MAX_COMMAND);
    commands.truncate(MAX_COMMANDS);
    if commands.len() < given {
        notes.add(&format!("commands: {} left out (too long or too many)", given - commands.len()));
    }
    commands
}

/// The nearest whole number within `bounds`.
fn bounded(value: f64, bounds: (f64, f64), field: &str, notes: &mut Notes) -> i32 {
    let rounded = value.round().clamp(bounds.0, bounds.1);
    if (rounded - value).abs() > f64::EPSILON {
        notes.add(&format!("{field} {value} is not allowed, {rounded} is used"));
    }
    // All bounds are far within i32.
    #[allow(clippy::cast_possible_truncation)]
    let whole = rounded as i32;
    whole
}

fn cut(text: &str, most: usize, field: &str, notes: &mut Notes) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => {
            notes.add(&format!("{field} is cut to {most} characters"));
            text.get(..end).unwrap_or(text).to_owned()
        }
        None => text.to_owned(),
    }
}

fn text(value: Option<&Value>) -> &str {
    value.and_then(Value::as_str).unwrap_or_default()
}

fn number(value: Option<&Value>) -> Option<f64> {
    value.and_then(Value::as_f64).filter(|number| number.is_finite())
}

fn list(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn strings(value: Option<&Value>) -> Vec<String> {
    list(value).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn numbers(value: Option<&Value>) -> Vec<f64> {
    list(value).iter().filter_map(Value::as_f64).collect()
}
