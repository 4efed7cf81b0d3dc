//! Issues of the forge as Tasks: read in `checkout`, handed over and marked in `publish`.
//!
//! Decides nothing: which issue becomes which Task is [`crate::plan::planner::issue`]. An issue is marked
//! after its Task is there, so that what happens in between makes it a Task again, of the same name.

use crate::crd::planner::{HandedOver, IssueImport, PlanTask};
use crate::crd::wire::Inputs;
use crate::plan::planner::issue::{Chosen, IMPORTED, Issue, choose, is_enough, refusal, text};
use crate::runner::forge::github::GitHub;
use crate::runner::forge::{Forge, ForgeError};

/// Issues that are passed over and told of.
const MAX_TOLD: usize = 20;

/// The Tasks that the open issues become.
///
/// # Errors
/// When the forge does not answer.
pub(super) async fn find(
    inputs: &Inputs,
    forge: &GitHub,
    import: &IssueImport,
) -> Result<Chosen, ForgeError> {
    let pulls = forge.open_pulls().await?;
    let taken: Vec<i64> = pulls.iter().flat_map(|pull| text::linked(&pull.title, &pull.body)).collect();
    let (mut issues, mut passed_over) = (Vec::new(), Vec::new());
    let mut take = |issue: Issue| {
        match refusal(&issue, &taken, import) {
            Some(why) if passed_over.len() < MAX_TOLD => passed_over.push(why),
            Some(_) => {}
            None => issues.push(issue),
        }
        !is_enough(&issues, import)
    };
    forge.issues(&import.labels, IMPORTED, &mut take).await?;
    let repository = &inputs.spec.repository;
    let mut chosen = choose(&issues, import, &repository.url, &repository.base_branch);
    chosen.warnings.extend(passed_over);
    for warning in &chosen.warnings {
        println!("[opentiger] {warning}");
    }
    println!("[opentiger] {} open issues become Tasks", chosen.tasks.len());
    Ok(chosen)
}

/// Links the issues with their Tasks: a comment names the Task, a label marks the issue. Returns what could
/// not be done: the Tasks stand without.
pub(super) async fn link(
    inputs: &Inputs,
    forge: &GitHub,
    tasks: &[PlanTask],
    accepted: &HandedOver,
) -> Vec<String> {
    let mut failed = Vec::new();
    for task in tasks.iter().filter(|task| accepted.tasks.contains(&task.name)) {
        let issue = task.spec.context.as_ref().and_then(|context| context.issue.as_ref());
        let Some(number) = issue.map(|issue| issue.number) else { continue };
        let mark = format!("<!-- opentiger:task:{} -->", task.name);
        let body = format!(
            "This issue is Task `{}/{}` now. Its pull request will name this issue.",
            inputs.namespace, task.name
        );
        let linked = async {
            forge.comment(number, &mark, &body).await?;
            forge.label(number, &[IMPORTED.to_owned()]).await
        };
        if let Err(error) = linked.await {
            println!("[opentiger] issue #{number}: {error}");
            failed.push(format!("issue #{number} is not marked: {error}"));
        }
    }
    failed
}
