//! Container `publish` of a review: the verdict.
//!
//! Reads the change from the trusted clone that `checkout` made, never from the workspace. Holds
//! credentials in repository mode `GitHub` only, for a comment on the pull request. Pushes nothing.

use tokio_util::sync::CancellationToken;

use super::checkout::Scope;
use super::pull::Proposal;
use super::{ReviewError, change, evaluated, opinion, target};
use crate::crd::run::{ReviewResult, ReviewVerdict};
use crate::crd::wire::path::VERDICT_FILE;
use crate::crd::wire::{ContainerResult, Inputs, Outcome};
use crate::plan::judge::ci::Ci;
use crate::plan::judge::verdict::{AgentReview, Decision, verdict};
use crate::plan::verdict::code;
use crate::runner::checkout::Paths;
use crate::runner::exchange;
use crate::runner::forge::{Access, Forge, text};
use crate::runner::git::Git;
use crate::runner::publish::{await_agent, cancelled, testimony};

/// Waits for the agent and gives the verdict. `stop` is the container's SIGTERM.
pub async fn run(inputs: &Inputs, paths: &Paths, stop: &CancellationToken) -> ContainerResult {
    let agent = match await_agent(paths, stop, std::time::Duration::ZERO).await {
        Ok(agent) => agent,
        Err(result) => return *result,
    };
    let mut result = match judge(inputs, paths, stop, agent.as_ref()).await {
        Ok(result) => result,
        Err(_) if stop.is_cancelled() => cancelled(),
        Err(error) => error.into_result(),
    };
    result.tokens = agent.as_ref().and_then(|agent| agent.tokens);
    if let Some(agent) = agent {
        result.session = agent.session;
        result.prompt_hash = agent.prompt_hash;
    }
    result
}

async fn judge(
    inputs: &Inputs,
    paths: &Paths,
    stop: &CancellationToken,
    agent: Option<&ContainerResult>,
) -> Result<ContainerResult, ReviewError> {
    let (scope, target) = (Scope::load(paths)?, target(inputs)?);
    let git = Git::new(&paths.git_dir(), &paths.private(), stop);
    let files = change::files(&git, &scope.start, &scope.head).await?;
    let change = evaluated(inputs, target, &files);
    let ci = scope.proposal.as_ref().map_or(Ci::Success, Proposal::ci);
    let decided = !change.findings.is_empty() || ci != Ci::Success;
    let opinion = match (files.is_empty(), !decided) {
        (true, _) => Some(AgentReview::of_empty_change()),
        (false, false) => None,
        (false, true) => match read_opinion(paths, agent) {
            Ok(opinion) => Some(opinion),
            Err(result) => return Ok(*result),
        },
    };
    let changed: Vec<String> = files.iter().map(|file| file.path.clone()).collect();
    // Repository mode `Git` has no continuous integration to ask; the commands have passed before.
    let review = match verdict(&ci, &change, opinion.as_ref(), &changed, &target.rules) {
        Decision::Verdict(review) => review,
        Decision::Wait(why) => return Ok(no_verdict(&why)),
        Decision::Unusable => return Ok(no_verdict("the reviewing agent refuses and does not say why")),
    };
    let said = opinion.as_ref().map(|opinion| opinion.summary.as_str()).unwrap_or_default();
    if let Some(proposal) = &scope.proposal {
        comment(inputs, paths, stop, (proposal, &scope.head), &text::review(&review, said)).await;
    }
    Ok(ContainerResult {
        pr: scope.proposal.map(|proposal| proposal.pr),
        branch: Some(inputs.spec.repository.branch.clone()),
        head: Some(scope.head),
        changed_files: i64::try_from(files.len()).ok(),
        summary: summary(&review, opinion.as_ref()),
        review: Some(review),
        ..ContainerResult::new(Outcome::Success)
    })
}

/// Says the verdict on the pull request, once. A verdict is not lost for the sake of a comment.
async fn comment(
    inputs: &Inputs,
    paths: &Paths,
    stop: &CancellationToken,
    (proposal, head): (&Proposal, &str),
    body: &str,
) {
    let run = inputs.spec.review.as_ref().map(|target| target.run_uid.as_str()).unwrap_or_default();
    let said = async {
        let access = Access::open(inputs, paths, stop).await?;
        match &access.forge {
            Some(forge) => forge.comment(proposal.pr.number, &text::review_mark(run, head), body).await,
            None => Ok(()),
        }
    };
    if let Err(error) = said.await {
        println!("[opentiger] {error}");
    }
}

/// The opinion of an agent that has ended well; else what its end means.
fn read_opinion(paths: &Paths, agent: Option<&ContainerResult>) -> Result<AgentReview, Box<ContainerResult>> {
    if let Some(result) = testimony(agent) {
        return Err(Box::new(result));
    }
    exchange::read_text(&paths.exchange, VERDICT_FILE)
        .as_deref()
        .and_then(opinion::parse)
        .ok_or_else(|| Box::new(no_verdict("the reviewing agent ended without a verdict that can be read")))
}

fn no_verdict(why: &str) -> ContainerResult {
    ContainerResult::failure(Outcome::Failed, code::REVIEW_NO_VERDICT, why)
}

fn summary(review: &ReviewResult, opinion: Option<&AgentReview>) -> String {
    let verdict = match review.verdict {
        ReviewVerdict::Approve => "approved",
        ReviewVerdict::RequestChanges => "changes are asked for",
    };
    match opinion.map(|opinion| opinion.summary.as_str()).filter(|said| !said.is_empty()) {
        Some(said) => format!("{verdict}: {said}"),
        None => verdict.into(),
    }
}
