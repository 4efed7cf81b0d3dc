//! Container `publish` of a review: the verdict.
//!
//! Reads the change from the trusted clone that `checkout` made, never from the workspace, and holds no
//! credentials. Pushes nothing.

use tokio_util::sync::CancellationToken;

use super::checkout::Scope;
use super::opinion::{self, Opinion};
use super::verdict::{Evidence, Rules, too_large, verdict};
use super::{ReviewError, change, violations};
use crate::crd::run::{ReviewResult, ReviewVerdict};
use crate::crd::wire::path::VERDICT_FILE;
use crate::crd::wire::{ContainerResult, Inputs, Outcome};
use crate::plan::verdict::code;
use crate::runner::checkout::Paths;
use crate::runner::exchange;
use crate::runner::git::Git;
use crate::runner::publish::{await_agent, cancelled, testimony};

/// Waits for the agent and gives the verdict. `stop` is the container's SIGTERM.
pub async fn run(inputs: &Inputs, paths: &Paths, stop: &CancellationToken) -> ContainerResult {
    let agent = match await_agent(paths, stop).await {
        Ok(agent) => agent,
        Err(result) => return *result,
    };
    let mut result = match judge(inputs, paths, stop, agent.as_ref()).await {
        Ok(result) => result,
        Err(_) if stop.is_cancelled() => cancelled(),
        Err(error) => error.into_result(),
    };
    result.tokens = agent.and_then(|agent| agent.tokens);
    result
}

async fn judge(
    inputs: &Inputs,
    paths: &Paths,
    stop: &CancellationToken,
    agent: Option<&ContainerResult>,
) -> Result<ContainerResult, ReviewError> {
    let scope = Scope::load(paths)?;
    let git = Git::new(&paths.git_dir(), &paths.private(), stop);
    let files = change::files(&git, &scope.start, &scope.head).await?;
    let (violations, rules) = (violations(inputs, &files), Rules::default());
    let decided = files.is_empty() || !violations.is_empty() || !too_large(&files, &rules).is_empty();
    let opinion = match decided {
        true => None,
        false => match read_opinion(paths, agent) {
            Ok(opinion) => Some(opinion),
            Err(result) => return Ok(*result),
        },
    };
    let review = verdict(&Evidence {
        files: &files,
        violations: &violations,
        opinion: opinion.as_ref(),
        risk: inputs.spec.inputs.risk_level,
        rules: &rules,
    });
    Ok(ContainerResult {
        branch: Some(inputs.spec.repository.branch.clone()),
        head: Some(scope.head),
        changed_files: i64::try_from(files.len()).ok(),
        summary: summary(&review, opinion.as_ref()),
        review: Some(review),
        ..ContainerResult::new(Outcome::Success)
    })
}

/// The opinion of an agent that has ended well; else what its end means.
fn read_opinion(paths: &Paths, agent: Option<&ContainerResult>) -> Result<Opinion, Box<ContainerResult>> {
    if let Some(result) = testimony(agent) {
        return Err(Box::new(result));
    }
    exchange::read_text(&paths.exchange, VERDICT_FILE).as_deref().and_then(opinion::parse).ok_or_else(|| {
        let text = "the reviewing agent ended without a verdict that can be read";
        Box::new(ContainerResult::failure(Outcome::Failed, code::REVIEW_NO_VERDICT, text))
    })
}

fn summary(review: &ReviewResult, opinion: Option<&Opinion>) -> String {
    let verdict = match review.verdict {
        ReviewVerdict::Approve => "approved",
        ReviewVerdict::RequestChanges => "changes are asked for",
    };
    match opinion.map(|opinion| opinion.summary.as_str()).filter(|said| !said.is_empty()) {
        Some(said) => format!("{verdict}: {said}"),
        None => verdict.into(),
    }
}
