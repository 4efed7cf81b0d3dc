//! The work of container `agent` in a plan: the executor reads the requirement and the checkout, and
//! writes a plan. Nothing is verified and no change of the checkout matters.

use std::ffi::OsString;
use std::io;
use std::path::Path;

use super::process::Supervisor;
use super::prompt::{self, Files};
use super::{Early, Settings, cancelled, early, execute, infra, last_words, quota_wait};
use crate::crd::Purpose;
use crate::crd::wire::{ContainerResult, Inputs, Outcome};
use crate::runner::planning::{PLAN_FILE, SKIP_FILE};

/// Variable that names the file for the plan.
pub const PLAN: &str = "OPENTIGER_PLAN";

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
        let summary = "there is nothing new to plan".to_owned();
        return Ok(ContainerResult { summary, ..ContainerResult::new(Outcome::Noop) });
    }
    let files =
        write(&settings.exchange, inputs).map_err(|error| infra("failed to write the prompt", &error))?;
    if let Some(finished) = execute(supervisor, inputs, settings, &files, None).await? {
        if let Some(result) = quota_wait(&finished, settings) {
            return Err(result.into());
        }
        let timebox = &inputs.spec.inputs.timebox.0;
        let summary = format!("the planner timed out after {timebox}: {}", last_words(&finished));
        return Err(early(Outcome::Failed, "execution_failed", summary));
    }
    if supervisor.is_stopped() {
        return Err(cancelled().into());
    }
    Ok(ContainerResult { summary: "the plan is written".into(), ..ContainerResult::new(Outcome::Success) })
}

fn write(exchange: &Path, inputs: &Inputs) -> io::Result<Files> {
    prompt::write(exchange, inputs, &render(inputs))
}

/// The prompt of a plan (spec agents 6.2).
fn render(inputs: &Inputs) -> String {
    let task = &inputs.spec.inputs;
    let failure = match task.previous_failure.is_empty() {
        true => String::new(),
        false => format!("\n## An earlier attempt failed\n\n{}\n", task.previous_failure),
    };
    format!(
        "# Plan the work\n\nThe current directory is a checkout of the repository. Do not change it.\n\n\
         ## Requirement\n\n{}\n{failure}\n## Answer\n\n{}\n",
        task.goal, ANSWER
    )
}

const ANSWER: &str = r#"Write JSON to the file that the environment variable OPENTIGER_PLAN names:
{"tasks": [{"title", "goal", "role": "worker|tester|docser", "context": {"files", "specs", "notes"},
"allowedPaths": [], "commands": [], "priority", "riskLevel": "low|medium|high", "dependsOn": [],
"timeboxMinutes"}], "warnings": []}

- Each task is one piece of work of 30 to 90 minutes whose goal can be checked.
- allowedPaths are globs relative to the repository; commands verify the task and need no shell.
- dependsOn are positions of earlier tasks in the list, counted from 0.
- Leave out what the repository already satisfies."#;
