//! The work of container `agent` in a plan: the executor reads the requirement and the checkout, and
//! writes a plan. Nothing is verified and no change of the checkout matters.
//!
//! An agent program answers in its last message, and is asked once more when that holds no usable plan;
//! any other executor writes the plan's file itself. Must not make Tasks of the plan: `publish` does.

use std::ffi::OsString;
use std::io;
use std::time::{Duration, Instant};

use super::process::Supervisor;
use super::prompt;
use super::{Early, Settings, cancelled, cli, early, execute, infra, last_words, quota_wait};
use crate::crd::Purpose;
use crate::crd::wire::{ContainerResult, Inputs, Outcome};
use crate::plan::planner::{MAX_OUTPUT_BYTES, PlanError, output, snapshot, usable};
use crate::runner::exchange;
use crate::runner::planning::{PLAN_FILE, SKIP_FILE, SNAPSHOT_FILE};

/// Variable that names the file for the plan.
pub const PLAN: &str = "OPENTIGER_PLAN";
/// Least time that must be left to ask once more.
const LEAST_FOR_REPAIR: Duration = Duration::from_secs(20);
/// Characters of an unusable answer that its author is shown.
const SHOWN_CHARS: usize = 2_000;

/// What the executor of a plan finds in its environment besides that of every Run.
pub(super) fn environment(inputs: &Inputs, settings: &Settings) -> Vec<(OsString, OsString)> {
    match inputs.spec.purpose {
        Purpose::Plan => vec![(PLAN.into(), settings.exchange.join(PLAN_FILE).into())],
        Purpose::Execute | Purpose::Judge | Purpose::Merge => Vec::new(),
    }
}

/// The steps in order. `Err` is the result of a step that ends the work early.
pub(super) async fn work(
    supervisor: &mut Supervisor,
    inputs: &Inputs,
    settings: &Settings,
) -> Result<ContainerResult, Early> {
    if settings.exchange.join(SKIP_FILE).exists() {
        let summary = "there is nothing for an agent to plan".to_owned();
        return Ok(ContainerResult { summary, ..ContainerResult::new(Outcome::Noop) });
    }
    let started = Instant::now();
    ask(supervisor, inputs, settings, &render(inputs, &looks(settings)), None).await?;
    if cli::of(inputs.spec.template.executor.type_).is_some() {
        answered(supervisor, inputs, settings, started).await?;
    }
    Ok(ContainerResult { summary: "the plan is written".into(), ..ContainerResult::new(Outcome::Success) })
}

/// Runs the executor once with this prompt, for the timebox or what is left of it.
async fn ask(
    supervisor: &mut Supervisor,
    inputs: &Inputs,
    settings: &Settings,
    text: &str,
    left: Option<Duration>,
) -> Result<(), Early> {
    let files = prompt::write(&settings.exchange, inputs, text, supervisor.mask())
        .map_err(|error| infra("failed to write the prompt", &error))?;
    if let Some(finished) = execute(supervisor, inputs, settings, &files, left).await? {
        if let Some(result) = quota_wait(&finished, settings) {
            return Err(result.into());
        }
        let timebox = &inputs.spec.inputs.timebox.0;
        let summary = format!("the planner timed out after {timebox}: {}", last_words(&finished));
        return Err(early(Outcome::Failed, "execution_failed", summary));
    }
    if supervisor.is_stopped() { Err(cancelled().into()) } else { Ok(()) }
}

/// Takes the plan out of the program's answer, and asks once more if there is none and time is left.
async fn answered(
    supervisor: &mut Supervisor,
    inputs: &Inputs,
    settings: &Settings,
    started: Instant,
) -> Result<(), Early> {
    let Err(error) = take(supervisor, settings).map_err(unwritten)? else { return Ok(()) };
    let timebox: Duration = inputs.spec.inputs.timebox.parse().unwrap_or_default();
    let left = timebox.saturating_sub(started.elapsed());
    if left < LEAST_FOR_REPAIR {
        let summary = format!("{error}; no time was left to ask again");
        return Err(early(Outcome::Failed, error.code(), summary));
    }
    println!("[opentiger] {error}, the planner is asked once more");
    let text = render_again(inputs, &looks(settings), &error, &supervisor.spent().answer);
    ask(supervisor, inputs, settings, &text, Some(left)).await?;
    take(supervisor, settings).map_err(unwritten)?.map_err(|error| {
        early(Outcome::Failed, error.code(), format!("{error}; the planner was asked twice"))
    })
}

/// Leaves the plan for `publish`: that of the last message, else that of the file, without secrets.
fn take(supervisor: &Supervisor, settings: &Settings) -> io::Result<Result<(), PlanError>> {
    let said = supervisor.spent().answer.clone();
    let written = || exchange::read_text_within(&settings.exchange, PLAN_FILE, MAX_OUTPUT_BYTES as u64);
    let plan = match usable(&said) {
        Ok(_) => said,
        Err(error) => match written().filter(|text| usable(text).is_ok()) {
            Some(text) => text,
            None => return Ok(Err(error)),
        },
    };
    let plan = supervisor.mask().hide(plan);
    exchange::write_text(&settings.exchange, PLAN_FILE, &plan)?;
    Ok(Ok(()))
}

fn unwritten(error: io::Error) -> Early {
    infra("failed to write the plan for publish", &error).into()
}

/// The prompt of the second try: what was asked, what was answered and what is wrong with it.
fn render_again(inputs: &Inputs, looks: &str, error: &PlanError, answer: &str) -> String {
    let wrong = match error {
        PlanError::Unreadable => output::complaint(answer),
        PlanError::TooLarge(_) | PlanError::Empty => error.to_string(),
    };
    let shown: String = answer.chars().take(SHOWN_CHARS).collect();
    format!(
        "{}\n## Your answer could not be used\n\n{wrong}\n\nIt began:\n\n{shown}\n\n\
         Answer again, with the whole plan as one JSON object and nothing else.\n",
        render(inputs, looks)
    )
}

/// What `checkout` has written of the repository.
fn looks(settings: &Settings) -> String {
    let limit = u64::try_from(snapshot::MAX_BYTES).unwrap_or(u64::MAX);
    exchange::read_text_within(&settings.exchange, SNAPSHOT_FILE, limit).unwrap_or_default()
}

/// The prompt of a plan (spec agents 6.2); `looks` is what the repository looks like.
fn render(inputs: &Inputs, looks: &str) -> String {
    let task = &inputs.spec.inputs;
    let failure = match task.previous_failure.is_empty() {
        true => String::new(),
        false => format!("\n## An earlier attempt failed\n\n{}\n", task.previous_failure),
    };
    let looks = if looks.is_empty() { String::new() } else { format!("\n## The repository\n\n{looks}") };
    let place = match cli::of(inputs.spec.template.executor.type_) {
        Some(_) => "Your last message is the plan: this JSON object and nothing else, no other text:",
        None => "Write JSON to the file that the environment variable OPENTIGER_PLAN names:",
    };
    format!(
        "# Plan the work\n\nThe current directory is a checkout of the repository. Do not change it.\n\n\
         ## Requirement\n\n{}\n{looks}{failure}\n## Answer\n\n{place}\n{ANSWER}\n",
        task.goal
    )
}

const ANSWER: &str = r#"{"tasks": [{"title", "goal", "role": "worker|tester|docser", "context": {"files", "specs", "notes"},
"allowedPaths": [], "commands": [], "priority", "riskLevel": "low|medium|high", "dependsOn": [],
"timeboxMinutes"}], "warnings": []}

- Each task is one piece of work of 30 to 90 minutes whose goal can be checked.
- allowedPaths are globs relative to the repository; commands verify the task and need no shell.
- dependsOn are positions of earlier tasks in the list, counted from 0.
- Leave out what the repository already satisfies."#;
