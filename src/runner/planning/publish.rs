//! Container `publish` of a plan: from what the agent has written to Tasks.
//!
//! Reads what `checkout` found, never the workspace. Holds credentials of the repository only when issues
//! of it are to be marked. Creates nothing by itself: the Tasks are handed over to the API, whose token is
//! here alone.

use tokio_util::sync::CancellationToken;

use super::{PLAN_FILE, PlanFacts};
use super::{hand_over, issues};
use crate::crd::planner::{HandedOver, PlanHandOver, PlanTask};
use crate::crd::wire::{ContainerResult, Inputs, Outcome};
use crate::plan::planner::requirement::Requirement;
use crate::plan::planner::{MAX_OUTPUT_BYTES, Plan, PlanError, PlanInputs, plan};
use crate::plan::replan::NO_DIFF;
use crate::runner::api::Api;
use crate::runner::checkout::Paths;
use crate::runner::exchange;
use crate::runner::forge::Access;
use crate::runner::publish::{await_agent, cancelled, testimony};

/// Names and warnings of a plan in a summary.
const NAMED: usize = 5;

/// Waits for the agent and hands its plan over. `stop` is the container's SIGTERM.
pub async fn run(inputs: &Inputs, paths: &Paths, api: &Api, stop: &CancellationToken) -> ContainerResult {
    let agent = match await_agent(paths, stop, std::time::Duration::ZERO).await {
        Ok(agent) => agent,
        Err(result) => return *result,
    };
    let facts = match PlanFacts::load(paths) {
        Ok(facts) => facts,
        Err(error) => return error.into_result(),
    };
    if !facts.issues.is_empty() {
        return imported(inputs, paths, api, facts, stop).await;
    }
    if facts.skip {
        return nothing_new(&facts);
    }
    if let Some(result) = testimony(agent.as_ref()) {
        return result;
    }
    let mut result = match written(inputs, paths, &facts) {
        Ok(plan) => handed_over(inputs, api, &facts, plan, stop).await,
        Err(error) => ContainerResult::failure(Outcome::Failed, error.code(), error.to_string()),
    };
    result.tokens = agent.as_ref().and_then(|agent| agent.tokens);
    if let Some(agent) = agent {
        result.session = agent.session;
        result.prompt_hash = agent.prompt_hash;
    }
    result
}

fn nothing_new(facts: &PlanFacts) -> ContainerResult {
    ContainerResult {
        head: Some(facts.head.clone()),
        summary: format!(
            "{NO_DIFF}: requirement, repository and issues are as they were for the last plan. {}",
            some(&facts.passed_over)
        )
        .trim()
        .to_owned(),
        ..ContainerResult::new(Outcome::Noop)
    }
}

/// Hands the Tasks of the open issues over, and marks the issues.
async fn imported(
    inputs: &Inputs,
    paths: &Paths,
    api: &Api,
    facts: PlanFacts,
    stop: &CancellationToken,
) -> ContainerResult {
    let body = PlanHandOver { signature: facts.signature, tasks: facts.issues };
    let accepted = match hand_over::post(api, &inputs.run, &body, stop).await {
        Ok(accepted) => accepted,
        Err(_) if stop.is_cancelled() => return cancelled(),
        Err(error) => return hand_over::refused(&error),
    };
    let mut said = facts.passed_over;
    said.splice(0..0, accepted.warnings.clone());
    let unmarked = match Access::open(inputs, paths, stop).await {
        Ok(Access { forge: Some(ref forge), .. }) => {
            issues::link(inputs, forge, &body.tasks, &accepted).await
        }
        Ok(_) => Vec::new(),
        Err(error) => vec![format!("the issues are not marked: {error}")],
    };
    // What needs a person first: a summary is cut.
    said.splice(0..0, unmarked);
    ContainerResult {
        head: Some(facts.head),
        summary: summary(&accepted, &said),
        ..ContainerResult::new(Outcome::Success)
    }
}

/// The plan that the agent has left, in order.
fn written(inputs: &Inputs, paths: &Paths, facts: &PlanFacts) -> Result<Plan, PlanError> {
    let limit = MAX_OUTPUT_BYTES as u64;
    let text = exchange::read_text_within(&paths.exchange, PLAN_FILE, limit).ok_or(PlanError::Unreadable)?;
    let requirement = Requirement::parse(&facts.requirement);
    let plan_inputs = PlanInputs {
        signature: &facts.signature,
        requirement: &requirement,
        repository_is_empty: facts.repository_is_empty,
        base_branch: Some(inputs.spec.repository.base_branch.as_str()),
    };
    plan(&text, &plan_inputs)
}

async fn handed_over(
    inputs: &Inputs,
    api: &Api,
    facts: &PlanFacts,
    plan: Plan,
    stop: &CancellationToken,
) -> ContainerResult {
    for warning in &plan.warnings {
        println!("[opentiger] plan: {warning}");
    }
    let tasks = plan.tasks.into_iter().map(|task| PlanTask { name: task.name, spec: task.spec }).collect();
    let body = PlanHandOver { signature: facts.signature.clone(), tasks };
    match hand_over::post(api, &inputs.run, &body, stop).await {
        Ok(accepted) => ContainerResult {
            head: Some(facts.head.clone()),
            summary: summary(&accepted, &plan.warnings),
            ..ContainerResult::new(Outcome::Success)
        },
        Err(_) if stop.is_cancelled() => cancelled(),
        Err(error) => hand_over::refused(&error),
    }
}

fn summary(accepted: &HandedOver, warnings: &[String]) -> String {
    let earlier = if accepted.earlier { " by an earlier attempt, whose plan stands" } else { "" };
    let named = accepted.tasks.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    let more = accepted.tasks.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let said = some(warnings);
    format!("planned {} Tasks{earlier}: {named}{more}. {said}", accepted.tasks.len()).trim().to_owned()
}

fn some(warnings: &[String]) -> String {
    warnings.iter().take(NAMED).cloned().collect::<Vec<_>>().join("; ")
}
