//! From what a planning agent answered to Tasks: read, put in order, bound, named.
//!
//! The pipeline is that of spec agents 6.3, rows 2 to 8 and 12 here; row 13 ([`dependencies::hot`])
//! happens where the Tasks in progress are known. Rows 1, 9, 10 and 11 need a model or a history and
//! are not here. A plan with nothing usable is an error with a code, never an empty success (trap Q23).
//!
//! Names are made of the plan's signature and the position, so that the same plan handed over twice
//! creates nothing twice. Issues of a forge become Tasks without a model: [`issue`].

pub mod dependencies;
mod foundation;
pub mod issue;
pub mod output;
pub mod paths;
pub mod requirement;
pub mod role;
pub mod snapshot;
pub mod start;
#[cfg(test)]
mod tests;

use crate::crd::GoDuration;
use crate::crd::pool::Role;
use crate::crd::task::{RiskLevel, TaskContext, TaskSpec};
use requirement::Requirement;

pub use dependencies::Active;
pub use foundation::{ensure as ensure_foundation, is_untouched};

/// Largest answer that is read, in bytes.
pub const MAX_OUTPUT_BYTES: usize = 512 * 1024;
/// Most tasks of a plan; a Task has at most as many dependencies.
pub const MAX_TASKS: usize = 100;
/// Most dependencies of a Task.
pub const MAX_DEPENDENCIES: usize = 100;
/// Longest name of a Task, in characters.
pub const MAX_NAME: usize = 48;
/// Characters of a signature in a name.
const NAME_HASH: usize = 8;
/// Longest warning that is kept, in characters.
const MAX_WARNING: usize = 200;
/// Most warnings that are kept.
const MAX_WARNINGS: usize = 50;

/// One task of a plan.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PlannedTask {
    pub title: String,
    pub goal: String,
    /// `None` until [`role::resolve`] has said what it is.
    pub role: Option<Role>,
    pub allowed_paths: Vec<String>,
    pub commands: Vec<String>,
    pub priority: i32,
    pub risk: RiskLevel,
    pub timebox_minutes: u32,
    /// Indexes of earlier tasks of the plan.
    pub depends_on: Vec<usize>,
    pub touches: Vec<String>,
    pub target_area: Option<String>,
    pub context: TaskContext,
}

/// What a plan is made for.
#[derive(Clone, Debug)]
pub struct PlanInputs<'a> {
    /// Signature of the plan ([`requirement::signature`]).
    pub signature: &'a str,
    pub requirement: &'a Requirement,
    /// Whether the repository holds nothing yet: then a first task lays the foundation.
    pub repository_is_empty: bool,
    /// Branch that the Tasks start from, when it is not that of the System.
    pub base_branch: Option<&'a str>,
}

/// A Task that is to be created.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedTask {
    pub name: String,
    pub spec: TaskSpec,
}

/// A plan in order.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// At least one, each after those it depends on.
    pub tasks: Vec<NamedTask>,
    /// What was changed or left out, for people.
    pub warnings: Vec<String>,
}

/// Why an answer is no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// No JSON object with a list of tasks.
    #[error("failed to read the plan: the answer holds no JSON object with a list \"tasks\"")]
    Unreadable,
    /// More than [`MAX_OUTPUT_BYTES`].
    #[error("failed to read the plan: the answer has {0} bytes, more than {MAX_OUTPUT_BYTES}")]
    TooLarge(usize),
    /// A list without a usable task.
    #[error("failed to use the plan: it has no task with a title or a goal")]
    Empty,
}

impl PlanError {
    /// Failure code of a Run that ends with it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unreadable | Self::TooLarge(_) => "plan_unreadable",
            Self::Empty => "plan_empty",
        }
    }
}

/// The tasks of an agent's answer as they were given, at least one.
///
/// # Errors
/// When there is no task in it that could be created.
pub fn usable(output: &str) -> Result<output::Read, PlanError> {
    if output.len() > MAX_OUTPUT_BYTES {
        return Err(PlanError::TooLarge(output.len()));
    }
    let object = output::extract(output).ok_or(PlanError::Unreadable)?;
    let read = output::read(&object);
    if read.tasks.is_empty() { Err(PlanError::Empty) } else { Ok(read) }
}

/// Makes Tasks of an agent's answer.
///
/// # Errors
/// When there is no task in it that could be created.
pub fn plan(output: &str, inputs: &PlanInputs) -> Result<Plan, PlanError> {
    let read = usable(output)?;
    let mut warnings = read.warnings;
    let tasks = ordered(read.tasks, &read.depends_on, inputs, &mut warnings);
    let names: Vec<String> = tasks
        .iter()
        .enumerate()
        .map(|(index, task)| task_name(inputs.signature, index, &task.title))
        .collect();
    let named = tasks.iter().zip(&names);
    let tasks = named.map(|(task, name)| NamedTask { name: name.clone(), spec: spec(task, &names, inputs) });
    Ok(Plan { tasks: tasks.collect(), warnings: bounded(warnings) })
}

/// Tasks whose dependencies, paths, commands and roles are as they will be.
fn ordered(
    mut tasks: Vec<PlannedTask>,
    given: &[Vec<f64>],
    inputs: &PlanInputs,
    warnings: &mut Vec<String>,
) -> Vec<PlannedTask> {
    let (lists, corrected) = dependencies::sanitise(given);
    if corrected > 0 {
        warnings.push(format!("dependencies of {corrected} tasks named no earlier task and were left out"));
    }
    for (task, list) in tasks.iter_mut().zip(lists) {
        task.depends_on = list;
    }
    let allowed = &inputs.requirement.allowed_paths;
    if inputs.repository_is_empty && foundation::ensure(&mut tasks, allowed) {
        warnings.push("the repository is empty: a first task lays its foundation".to_owned());
    }
    let lists: Vec<Vec<usize>> = tasks.iter().map(|task| task.depends_on.clone()).collect();
    let (lists, removed) = dependencies::reduce(&lists);
    if removed > 0 {
        warnings.push(format!("{removed} dependencies that others imply were left out"));
    }
    for (index, (task, list)) in tasks.iter_mut().zip(lists).enumerate() {
        task.depends_on = list;
        if task.allowed_paths.is_empty() {
            warnings
                .push(format!("task {index}: it named no allowedPaths, those of the requirement are used"));
            task.allowed_paths = allowed.iter().filter(|path| paths::is_relative(path)).cloned().collect();
        }
        task.role = Some(role::resolve(task));
        paths::complete(task);
        task.allowed_paths.truncate(output::MAX_PATHS);
    }
    tasks
}

/// The spec of a planned task; `names` are those of the whole plan.
fn spec(task: &PlannedTask, names: &[String], inputs: &PlanInputs) -> TaskSpec {
    let context = (task.context != TaskContext::default()).then(|| task.context.clone());
    TaskSpec {
        title: task.title.clone(),
        goal: task.goal.clone(),
        role: task.role.unwrap_or_default(),
        kind: "code".to_owned(),
        priority: task.priority,
        risk_level: task.risk,
        allowed_paths: task.allowed_paths.clone(),
        commands: task.commands.clone(),
        dependencies: task.depends_on.iter().filter_map(|index| names.get(*index)).cloned().collect(),
        // Absent, the area is derived from the paths, and follows them when recovery changes them.
        target_area: task.target_area.clone(),
        touches: task.touches.clone(),
        timebox: GoDuration::from_secs(u64::from(task.timebox_minutes) * 60),
        base_branch: inputs.base_branch.map(str::to_owned),
        context,
        ..TaskSpec::default()
    }
}

/// Adds the Tasks in progress that `task` has to wait for (spec agents 6.3 row 13). Returns how many
/// were added; more than [`MAX_DEPENDENCIES`] in all never are.
pub fn wait_for(task: &mut NamedTask, active: &[Active]) -> usize {
    let spec = &task.spec;
    let facts = PlannedTask {
        allowed_paths: spec.allowed_paths.clone(),
        touches: spec.touches.clone(),
        target_area: spec.target_area.clone(),
        context: spec.context.clone().unwrap_or_default(),
        ..PlannedTask::default()
    };
    let before = task.spec.dependencies.len();
    for name in dependencies::hot(&facts, active) {
        let known = name == task.name || task.spec.dependencies.iter().any(|known| known == name);
        if !known && task.spec.dependencies.len() < MAX_DEPENDENCIES {
            task.spec.dependencies.push(name.to_owned());
        }
    }
    task.spec.dependencies.len() - before
}

/// Name of the task at `index` (from 0) of the plan with this signature: `<hash>-<number>-<slug>`.
pub fn task_name(signature: &str, index: usize, title: &str) -> String {
    let mut name = format!("{}-{}", short(signature), index + 1);
    let slug = slug(title);
    if !slug.is_empty() {
        name.push('-');
        name.push_str(&slug);
    }
    name.truncate(MAX_NAME);
    name.trim_end_matches('-').to_owned()
}

/// Whether `name` is one that [`task_name`] makes for this signature, and a name of Kubernetes.
pub fn is_name_of(signature: &str, name: &str) -> bool {
    let number = name.strip_prefix(&short(signature)).and_then(|rest| rest.strip_prefix('-'));
    let numbered = number.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
    let plain = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    numbered && plain && !name.ends_with('-')
}

/// Name of the Task that plans for the `round`th time: `plan-<hash>`. The hash is over what the
/// controller knows; the head of the repository is not among it.
pub fn plan_task_name(requirement_hash: &str, url: &str, base_branch: &str, round: i64) -> String {
    let known = requirement::signature(requirement_hash, &round.to_string(), url, base_branch);
    format!("plan-{}", short(&known))
}

fn short(signature: &str) -> String {
    short_of(signature, NAME_HASH)
}

fn short_of(hash: &str, length: usize) -> String {
    hash.chars().filter(char::is_ascii_alphanumeric).take(length).collect()
}

/// The part of a name that people recognise: ASCII letters and digits of a title, with dashes.
fn slug(title: &str) -> String {
    let mut slug = String::new();
    for c in title.chars() {
        if c.is_ascii_alphanumeric() {
            slug.push(c.to_ascii_lowercase());
        } else if !slug.is_empty() && !slug.ends_with('-') {
            slug.push('-');
        }
    }
    slug.trim_end_matches('-').to_owned()
}

fn bounded(warnings: Vec<String>) -> Vec<String> {
    warnings.into_iter().take(MAX_WARNINGS).map(|text| text.chars().take(MAX_WARNING).collect()).collect()
}
