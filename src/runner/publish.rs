//! The container `publish`: waits for the agent, recomputes the change, checks it against the path
//! policy, commits and pushes.
//!
//! **Never runs git with a work tree**: a nested repository of the agent's would run its programs with
//! the token in reach. What the agent reports is testimony; what counts is what the walker finds. A
//! stop (SIGTERM) never pushes the result branch. Reviews and merges end in `runner::review`.

pub mod change;
pub mod commit;

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use self::change::{Change, ChangeError};
use super::checkout::{Paths, State};
use super::checkpoint::keeper::Keeper;
use super::exchange::{self, AgentEnded};
use super::forge::pull_request::{self, Ensured, ensure};
use super::forge::{Access, Forge, text};
use super::git::failure::{self, CODE_ENVIRONMENT, FailureKind};
use super::git::remote::Remote;
use super::git::{Git, GitError};
use super::review;
use super::walker::{Limits, WalkError};
use crate::crd::wire::{ContainerResult, Inputs, Outcome};
use crate::crd::{FailureDetail, Purpose};

/// Failure code: the change holds what may not be published.
pub const CODE_POLICY: &str = "policy_violation";
/// Failure code: there is no change.
pub const CODE_NO_CHANGE: &str = "no_actionable_changes";
/// Failure code: the agent ended without a result.
pub const CODE_UNKNOWN: &str = "model_or_unknown_failure";
/// Violations named in a summary.
const MAX_VIOLATIONS: usize = 10;

/// Publishes what the agent did. `policy` gets the changed paths and returns a sentence for each that
/// is not allowed; its failure counts as a violation. `stop` is the container's SIGTERM.
pub async fn run(
    inputs: &Inputs,
    paths: &Paths,
    policy: impl Fn(&[String]) -> Result<Vec<String>, String>,
    stop: &CancellationToken,
) -> ContainerResult {
    match inputs.spec.purpose {
        Purpose::Execute | Purpose::Plan => {}
        Purpose::Judge => return review::publish::run(inputs, paths, stop).await,
        Purpose::Merge => return review::merge::run(inputs, paths, stop).await,
    }
    // What cannot be read now ends the Run where it is needed.
    let found = State::load(paths).is_ok_and(|state| state.checkpoint);
    let mut keeper = Keeper::new(inputs, paths, found);
    let grace = keeper.grace();
    let agent = keeper.while_waiting(await_agent(paths, stop, grace), stop).await;
    let (result, interrupted) = match agent {
        Ok(agent) => {
            let interrupted = agent.as_ref().is_none_or(|agent| agent.interrupted);
            let result = of_agent(inputs, paths, &policy, stop, agent).await;
            (ContainerResult { interrupted: false, ..result }, interrupted)
        }
        Err(result) => (*result, true),
    };
    keeper.conclude(is_to_go_on(result.outcome, interrupted), stop).await;
    result
}

/// Whether the next attempt is to go on with the work: the agent was `interrupted`, or it was not and its
/// work could not be published for a reason that lies outside of it.
fn is_to_go_on(outcome: Outcome, interrupted: bool) -> bool {
    match outcome {
        Outcome::Success | Outcome::Noop => false,
        Outcome::Cancelled | Outcome::Infra => true,
        Outcome::NeedsRework | Outcome::QuotaWait | Outcome::Failed => interrupted,
    }
}

/// Publishes what a reported success stands for.
async fn of_agent(
    inputs: &Inputs,
    paths: &Paths,
    policy: &impl Fn(&[String]) -> Result<Vec<String>, String>,
    stop: &CancellationToken,
    agent: Option<ContainerResult>,
) -> ContainerResult {
    if let Some(result) = testimony(agent.as_ref()) {
        return result;
    }
    let Some(agent) = agent else { return lost() };
    let mut result = match publish(inputs, paths, policy, stop, &agent).await {
        Ok(result) => result,
        Err(_) if stop.is_cancelled() => cancelled(),
        Err(error) => failed(error),
    };
    result.tokens = agent.tokens;
    result.session = agent.session;
    result.verification = agent.verification;
    result.prompt_hash = agent.prompt_hash;
    result
}

/// Waits for the agent's end, after a stop for `grace`, and reads its result, if there is one. `Err` ends
/// this container.
pub(super) async fn await_agent(
    paths: &Paths,
    stop: &CancellationToken,
    grace: Duration,
) -> Result<Option<ContainerResult>, Box<ContainerResult>> {
    match exchange::wait_for_agent(&paths.exchange, stop, grace).await {
        Ok(AgentEnded::Ended) if !stop.is_cancelled() => Ok(exchange::read_result(&paths.exchange)),
        Ok(AgentEnded::Ended | AgentEnded::Stopped) => Err(Box::new(cancelled())),
        Err(error) => {
            let text = format!("failed to wait for the agent: {error}");
            Err(Box::new(ContainerResult::failure(Outcome::Failed, CODE_ENVIRONMENT, text)))
        }
    }
}

/// The result that follows from the agent's alone; `None` when it reports success.
pub(super) fn testimony(agent: Option<&ContainerResult>) -> Option<ContainerResult> {
    let Some(agent) = agent else { return Some(lost()) };
    match agent.outcome {
        Outcome::Success | Outcome::Noop => None,
        Outcome::NeedsRework | Outcome::QuotaWait | Outcome::Failed | Outcome::Cancelled => {
            Some(agent.clone())
        }
        // Faults of the cluster cost no attempt, so the container that runs foreign code has no say in them.
        Outcome::Infra => Some(ContainerResult { outcome: Outcome::Failed, ..agent.clone() }),
    }
}

fn lost() -> ContainerResult {
    let text =
        "the agent ended without a result: it crashed or was killed; see the state of the container agent";
    ContainerResult::failure(Outcome::Failed, CODE_UNKNOWN, text)
}

async fn publish(
    inputs: &Inputs,
    paths: &Paths,
    policy: &impl Fn(&[String]) -> Result<Vec<String>, String>,
    stop: &CancellationToken,
    agent: &ContainerResult,
) -> Result<ContainerResult, ChangeError> {
    let state = load_state(paths)?;
    let git = Git::new(&paths.git_dir(), &paths.private(), stop);
    if let Some(head) = &state.earlier_push {
        let files = count_files(&git, head).await?;
        let access = Access::open(inputs, paths, stop).await?;
        let result = published(inputs, head, files, "was pushed before by this Run");
        return proposed(inputs, &git, &access, result).await;
    }
    let changes = change::recompute(&git, paths, Limits::default(), stop).await?;
    if changes.is_empty() {
        return Ok(unchanged(agent));
    }
    let names: Vec<String> = changes.iter().map(|change| change.path.clone()).collect();
    if let Some(refusal) = refusal(&names, policy) {
        return Ok(refusal);
    }
    let access = Access::open(inputs, paths, stop).await?;
    let head = commit_and_push(inputs, &access.paths, &git, &state, &changes).await?;
    let files = i64::try_from(changes.len()).unwrap_or(i64::MAX);
    let result = published(inputs, &head, files, &agent.summary);
    proposed(inputs, &git, &access, result).await
}

/// In mode `GitHub`: the pull request of what was pushed.
async fn proposed(
    inputs: &Inputs,
    git: &Git,
    access: &Access,
    result: ContainerResult,
) -> Result<ContainerResult, ChangeError> {
    let Some(forge) = &access.forge else { return Ok(result) };
    let head = result.head.as_deref().unwrap_or_default();
    let files = review::change::files(git, &format!("{head}^1"), head).await?;
    let text = text::pull_request(inputs, &files, &result.summary);
    let repository = &inputs.spec.repository;
    let pull = match ensure(forge, &repository.branch, repository.proposed_to(), &text, false).await? {
        Ensured::Pull(pull) => pull,
        Ensured::NothingToMerge => {
            let summary = format!("{} already has all of it", repository.proposed_to());
            return Ok(ContainerResult { summary, ..ContainerResult::new(Outcome::Noop) });
        }
    };
    // What is pushed and proposed is not lost for the sake of a label.
    if let Err(error) = forge.label(pull.number, &text::labels(inputs)).await {
        println!("[opentiger] {error}");
    }
    let summary = format!("pull request {}. {}", pull.url, result.summary);
    Ok(ContainerResult { pr: Some(pull_request::reference(&pull)), summary, ..result })
}

async fn commit_and_push(
    inputs: &Inputs,
    paths: &Paths,
    git: &Git,
    state: &State,
    changes: &[Change],
) -> Result<String, GitError> {
    let commit = commit::commit(git, &paths.private().join("index"), inputs, &state.base, changes).await?;
    let remote = Remote::open(&inputs.spec.repository.url, &paths.credentials, &paths.private())?;
    let head = commit::push(git, &remote, inputs, &commit).await?;
    println!("[opentiger] pushed {head} as {}", inputs.spec.repository.branch);
    Ok(head)
}

fn load_state(paths: &Paths) -> Result<State, ChangeError> {
    State::load(paths).map_err(|source| ChangeError::File { what: "read what checkout found", source })
}

/// Files changed by a commit, against its first parent, which must be there.
pub(super) async fn count_files(git: &Git, commit: &str) -> Result<i64, GitError> {
    let parent = format!("{commit}^1");
    let arguments = ["-r", "-z", "--name-only", "--no-renames", "--end-of-options", &parent, commit];
    let output = git.command("diff-tree").args(arguments).run().await?;
    Ok(output.iter().filter(|byte| **byte == 0).count().try_into().unwrap_or(i64::MAX))
}

/// What the policy says against the change, if anything. Fails closed.
fn refusal(
    names: &[String],
    policy: &impl Fn(&[String]) -> Result<Vec<String>, String>,
) -> Option<ContainerResult> {
    let mut detail = None;
    let text = if names.len() > Limits::default().files {
        format!("{} changed files are more than {}", names.len(), Limits::default().files)
    } else {
        match policy(names) {
            Ok(violations) if violations.is_empty() => return None,
            Ok(violations) => {
                detail = Some(FailureDetail::of_violations(&violations));
                let mut listed =
                    violations.iter().take(MAX_VIOLATIONS).cloned().collect::<Vec<_>>().join("; ");
                if let Some(more) = violations.len().checked_sub(MAX_VIOLATIONS).filter(|more| *more > 0) {
                    listed.push_str(&format!("; and {more} more"));
                }
                listed
            }
            Err(error) => format!("the path policy cannot be evaluated: {error}"),
        }
    };
    let refused = ContainerResult::failure(Outcome::NeedsRework, CODE_POLICY, text);
    Some(ContainerResult { failure: detail, ..refused })
}

fn published(inputs: &Inputs, head: &str, files: i64, note: &str) -> ContainerResult {
    let branch = &inputs.spec.repository.branch;
    ContainerResult {
        branch: Some(branch.clone()),
        head: Some(head.to_string()),
        changed_files: Some(files),
        summary: format!("{branch} has {files} changed files. {note}").trim().to_string(),
        ..ContainerResult::new(Outcome::Success)
    }
}

fn unchanged(agent: &ContainerResult) -> ContainerResult {
    if agent.outcome == Outcome::Noop {
        return agent.clone();
    }
    let text = "the agent reported success, but no relevant file has changed";
    ContainerResult::failure(Outcome::NeedsRework, CODE_NO_CHANGE, text)
}

pub(super) fn cancelled() -> ContainerResult {
    let text = format!("stopped by a signal. {}", FailureKind::Stopped.next_step());
    ContainerResult { summary: text, ..ContainerResult::new(Outcome::Cancelled) }
}

fn failed(error: ChangeError) -> ContainerResult {
    match error {
        ChangeError::Git(error) => error.into_result(),
        ChangeError::Forge(error) => error.into_result(),
        ChangeError::Walk(WalkError::Stopped) => cancelled(),
        ChangeError::Walk(error @ (WalkError::Refused { .. } | WalkError::Open(_))) => {
            ContainerResult::failure(
                Outcome::NeedsRework,
                CODE_POLICY,
                format!("cannot be published: {error}"),
            )
        }
        ChangeError::Walk(WalkError::Store { ref source, .. }) => {
            failure::of_file(&error.to_string(), source)
        }
        ChangeError::File { ref source, what: _ } => failure::of_file(&error.to_string(), source),
    }
}
