//! Container `agent`: the executor works on the checkout, its work is verified, the result is said.
//!
//! What is said here is testimony; `publish` recomputes the change and applies the policy again. There
//! is no token in this container. Must not commit, push, or reach the cluster.

mod changes;
mod check;
pub mod cli;
mod contract;
pub(super) mod descendants;
mod guidance;
pub mod heartbeat;
mod login;
mod mask;
pub mod mock;
mod output;
mod planning;
pub(super) mod process;
mod program;
mod prompt;
mod repair;
mod reported;
mod resume;
mod review;
mod roles;
pub mod source;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use self::check::Check;
use self::heartbeat::Heartbeat;
use self::mask::{Mask, secret_names};
use self::process::{Ending, Finished, Program, Supervisor};
use self::prompt::Files;
use self::repair::Prompted;
use super::checkpoint;
use super::exchange::{self, AgentEnd};
use super::verify;
use crate::crd::pool::{ExecutorType, MockExecutor};
use crate::crd::wire::{ContainerResult, Inputs, Outcome};
use crate::crd::{GoDuration, Purpose};
use crate::plan::classify::{AGENT_IDLE, TOKENS_USED_UP};
use crate::plan::policy::Policy;
use crate::plan::quota;

/// Time between SIGTERM and SIGKILL, after the time limit and after a stop alike: within half of the
/// Pod's grace period of 30 s (design 4).
pub const KILL_AFTER: &str = "10s";
/// Time for one verification command (spec agents 1.9).
pub const COMMAND_LIMIT: &str = "5m";
/// A line repeated this often in a row is a model that is stuck (spec agents 2.3).
pub const LOOP_LIMIT: usize = 2_000;
/// Violations that a summary names.
const NAMED_VIOLATIONS: usize = 10;
/// Characters of an executor's last words in a summary.
const SAID_CHARS: usize = 600;

/// What the run needs besides its inputs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The checkout to work on.
    pub checkout: PathBuf,
    /// Shared with `publish`.
    pub exchange: PathBuf,
    /// Where the file of the agent program's login is mounted, when the pool names one.
    pub login: PathBuf,
    /// The input document, handed to the mock executor.
    pub inputs: PathBuf,
    /// This program.
    pub executable: PathBuf,
    /// The container's environment.
    pub environment: Vec<(OsString, OsString)>,
    /// The clock.
    pub now: fn() -> Timestamp,
    /// Time between SIGTERM and SIGKILL.
    pub kill_after: Duration,
    /// Time for one verification command.
    pub command_limit: Duration,
}

/// Does the work of container `agent`, from the rendezvous to the result. The result is written to the
/// exchange directory before this returns; while the returned end of the FIFO is held, `publish` waits.
pub async fn run(
    inputs: &Inputs,
    settings: &Settings,
    stop: CancellationToken,
) -> (ContainerResult, Option<AgentEnd>) {
    let heartbeat = Heartbeat::new(&settings.exchange);
    heartbeat.beat();
    let login = login::read(inputs, settings);
    let mut mask = Mask::of(&settings.environment);
    mask.add(
        login
            .as_ref()
            .ok()
            .and_then(Option::as_ref)
            .map(|login| login.secrets.as_slice())
            .unwrap_or_default(),
    );
    let mut supervisor = match Supervisor::new(stop, heartbeat, mask, settings.kill_after) {
        Ok(supervisor) => supervisor,
        Err(error) => {
            return (infra("failed to set up the supervision of processes", &error), None);
        }
    };
    supervisor.limit_tokens(inputs.spec.limits.tokens);
    let dir = settings.exchange.clone();
    let open = tokio::task::spawn_blocking(move || exchange::open_as_agent(&dir));
    let end = match supervisor.beat_while(open).await {
        None => return (cancelled(), None),
        Some(Ok(Ok(end))) => end,
        Some(Ok(Err(error))) => return (infra("failed to meet publish", &error), None),
        Some(Err(error)) => {
            return (infra("failed to meet publish", &io::Error::other(error)), None);
        }
    };
    let worked = match (login.and_then(|login| login::place(login, settings)), inputs.spec.purpose) {
        (Err(early), _) => Err(early),
        (Ok(()), Purpose::Execute | Purpose::Merge) => work(&mut supervisor, inputs, settings).await,
        (Ok(()), Purpose::Plan) => planning::work(&mut supervisor, inputs, settings).await,
        (Ok(()), Purpose::Judge) => review::work(&mut supervisor, inputs, settings).await,
    };
    let mut result = worked.unwrap_or_else(|early| *early);
    result.interrupted |= matches!(result.outcome, Outcome::QuotaWait | Outcome::Cancelled);
    resume::hand_over(inputs, settings, supervisor.mask());
    result.tokens = supervisor.spent().tokens;
    result.session.clone_from(&supervisor.spent().session);
    result.prompt_hash.clone_from(&supervisor.spent().prompt_hash);
    result.summary = supervisor.mask().hide(result.summary).into_owned();
    for command in result.verification.iter_mut().flat_map(|report| &mut report.commands) {
        command.command = supervisor.mask().hide(std::mem::take(&mut command.command)).into_owned();
    }
    if let Some(report) = &mut result.verification {
        report.note = supervisor.mask().hide(std::mem::take(&mut report.note)).into_owned();
    }
    if let Some(failure) = &mut result.failure {
        for text in failure.violations.iter_mut().chain([&mut failure.command]) {
            *text = supervisor.mask().hide(std::mem::take(text)).into_owned();
        }
    }
    if let Err(error) = exchange::write_result(&settings.exchange, &result) {
        eprintln!("[opentiger] failed to write the result for publish: {error}");
    }
    (result, Some(end))
}

/// The result of a step that ends the work early.
type Early = Box<ContainerResult>;

fn early(outcome: Outcome, code: &str, summary: impl Into<String>) -> Early {
    Box::new(ContainerResult::failure(outcome, code, summary))
}

fn infra(what: &str, error: &io::Error) -> ContainerResult {
    ContainerResult::failure(Outcome::Infra, "runner_failed", format!("{what}: {error}"))
}

fn cancelled() -> ContainerResult {
    ContainerResult {
        summary: "the agent was told to stop".into(),
        ..ContainerResult::new(Outcome::Cancelled)
    }
}

/// The steps in order. `Err` is the result of a step that ends the work early.
async fn work(
    supervisor: &mut Supervisor,
    inputs: &Inputs,
    settings: &Settings,
) -> Result<ContainerResult, Early> {
    let policy = readable_inputs(inputs)?;
    let resumed = checkpoint::session::is_resumed(&settings.exchange);
    // In a checkout that has been worked on, an agent has had a hand in what stands there.
    let start = if resumed { settings.exchange.join(checkpoint::BASE) } else { settings.checkout.clone() };
    let base = contract::read(inputs, &start);
    if !base.note.is_empty() {
        println!("[opentiger] {}", supervisor.mask().hide(&*base.note));
    }
    let own = check::own_steps(inputs, &settings.checkout);
    let automatic = base.commands(inputs, &settings.checkout, &[], &own).steps;
    let text = prompt::render(inputs, &automatic, &guidance::read(&start), resumed);
    let mut files = prompt::write(&settings.exchange, inputs, &text, supervisor.mask())
        .map_err(|error| infra("failed to write the prompt", &error))?;
    let plain = without_secrets(&settings.environment);
    let marker = settings.exchange.join("agent.start");
    let baseline = changes::baseline(supervisor, &settings.checkout, &marker, &plain).await;
    let baseline = baseline.map_err(|error| infra("failed to remember the checkout", &error))?;
    let begun = Instant::now();
    files.session = resume::take_over(inputs, settings);
    let _handing_over = resume::keep_handing_over(inputs, settings, supervisor.mask());
    let timed_out = execute(supervisor, inputs, settings, &files, None).await?;
    // A repair is told what it has to know.
    files.session = None;
    let is_late = timed_out.is_some();
    let check = Check { inputs, settings, policy: &policy, baseline: &baseline, base: &base, env: &plain };
    let prompted = Prompted { text: &text, files: &files, begun };
    let (ended, report) = repair::until_verified(supervisor, &check, &prompted, timed_out).await;
    let late = |early: Early| ContainerResult { interrupted: is_late, ..*early };
    let mut result = ended.map_or_else(late, |relevant| success(&relevant));
    result.verification = (!report.is_empty()).then_some(report);
    Ok(result)
}

fn success(relevant: &[String]) -> ContainerResult {
    let files = relevant.iter().filter(|path| !path.ends_with('/')).count();
    let outcome = if relevant.is_empty() { Outcome::Noop } else { Outcome::Success };
    ContainerResult { changed_files: i64::try_from(files).ok(), ..ContainerResult::new(outcome) }
}

/// Refuses what could only fail later, before a model is paid for (spec agents A16).
fn readable_inputs(inputs: &Inputs) -> Result<Policy, Early> {
    let task = &inputs.spec.inputs;
    if let Some((command, pattern)) = verify::first_denied(&task.commands) {
        let summary = format!("denied command in the task's commands: {command} (it matches '{pattern}')");
        return Err(early(Outcome::Failed, "execution_failed", summary));
    }
    Policy::new(&task.allowed_paths, &task.denied_paths).map_err(|error| {
        early(Outcome::NeedsRework, "policy_violation", format!("policy violation: {error}"))
    })
}

fn without_secrets(environment: &[(OsString, OsString)]) -> Vec<(OsString, OsString)> {
    let secret = secret_names(environment);
    environment.iter().filter(|(name, _)| !secret.contains(name)).cloned().collect()
}

/// Runs the executor, for its timebox or what is left of it. `Ok` goes on to verification; it holds what
/// was said by one that ran out of time.
async fn execute(
    supervisor: &mut Supervisor,
    inputs: &Inputs,
    settings: &Settings,
    files: &Files,
    time_left: Option<Duration>,
) -> Result<Option<Finished>, Early> {
    let mut program = program::of(inputs, settings, files)?;
    program.limit = time_left.unwrap_or(program.limit);
    println!("[opentiger] executor started, it has {} s", program.limit.as_secs());
    supervisor.hand_over(&files.prompt_hash);
    let finished = supervisor.run(&program).await.map_err(|error| not_started(&program, &error))?;
    println!("[opentiger] executor ended: {}", describe(finished.ending));
    if finished.ending == Ending::Stopped {
        return Err(cancelled().into());
    }
    if let Some(result) = mock(inputs).and_then(|mock| mock::result(inputs, mock, (settings.now)())) {
        return Err(result.into());
    }
    if let Some(result) = reported::failure(inputs, &finished, settings) {
        return Err(result.into());
    }
    match finished.ending {
        Ending::Exited(0) => Ok(None),
        Ending::TimedOut => Ok(Some(finished)),
        Ending::Idle => Err(idle(&program, &finished, settings).into()),
        Ending::Looped => {
            let summary = format!(
                "doom loop detected: the executor {}: {}",
                reported::repetition(&finished),
                last_words(&finished)
            );
            Err(early(Outcome::Failed, "model_doom_loop", summary))
        }
        Ending::OverBudget => {
            let limit = inputs.spec.limits.tokens.unwrap_or_default();
            let summary = format!(
                "the agent was ended: the {limit} tokens that budgets.perTask had left for this attempt are used up"
            );
            Err(early(Outcome::Failed, TOKENS_USED_UP, summary))
        }
        Ending::Exited(_) | Ending::Killed(_) | Ending::GaveUp | Ending::Stopped => {
            Err(failure(&finished, settings).into())
        }
    }
}

fn mock(inputs: &Inputs) -> Option<&MockExecutor> {
    let executor = &inputs.spec.template.executor;
    match executor.type_ {
        ExecutorType::Mock => executor.mock.as_ref(),
        ExecutorType::ClaudeCode | ExecutorType::Codex | ExecutorType::OpenCode | ExecutorType::Command => {
            None
        }
    }
}

fn not_started(program: &Program, error: &io::Error) -> ContainerResult {
    let name = program.argv.first().map(|name| name.to_string_lossy()).unwrap_or_default();
    let summary = match error.kind() {
        io::ErrorKind::NotFound => {
            format!("executor {name}: command not found in the pool's image")
        }
        _ => format!("failed to run executor {name}: {error}"),
    };
    ContainerResult::failure(Outcome::Failed, "execution_failed", summary)
}

fn describe(ending: Ending) -> String {
    match ending {
        Ending::Exited(code) => format!("exit code {code}"),
        Ending::Killed(signal) => format!("killed by {signal}"),
        Ending::TimedOut => "time is up".into(),
        Ending::Idle => "it fell silent".into(),
        Ending::Looped => "it repeated itself".into(),
        Ending::GaveUp => "it waited for what would not come".into(),
        Ending::OverBudget => "the tokens of the task are used up".into(),
        Ending::Stopped => "told to stop".into(),
    }
}

/// The executor said nothing for its idle limit: a provider's limit by its words, else a hang. What it
/// has changed is half a work, because nothing says that it was done.
fn idle(program: &Program, finished: &Finished, settings: &Settings) -> ContainerResult {
    if let Some(result) = quota_wait(finished, settings) {
        return result;
    }
    let window = GoDuration::from_secs(program.idle_limit.unwrap_or_default().as_secs());
    let summary = format!(
        "the executor was ended: it said nothing for {} (idleTimeout of the AgentPool): {}",
        window.0,
        last_words(finished)
    );
    ContainerResult::failure(Outcome::Failed, AGENT_IDLE, summary)
}

/// The executor failed by itself: a provider's limit by its words, else a failure.
fn failure(finished: &Finished, settings: &Settings) -> ContainerResult {
    if let Some(result) = quota_wait(finished, settings) {
        return result;
    }
    let summary = format!("executor ended with {}: {}", describe(finished.ending), last_words(finished));
    ContainerResult::failure(Outcome::Failed, "execution_failed", summary)
}

fn quota_wait(finished: &Finished, settings: &Settings) -> Option<ContainerResult> {
    // What the model says is not what the provider says.
    if finished.report.is_some() {
        return None;
    }
    let said = format!("{}\n{}", finished.stdout, finished.stderr);
    let limited = quota::is_quota(&said);
    let mut result = ContainerResult::failure(Outcome::QuotaWait, "quota_failure", last_words(finished));
    result.retry_at = quota::stated_reset(&said, (settings.now)());
    limited.then_some(result)
}

fn last_words(finished: &Finished) -> String {
    let line = finished.said().split_whitespace().collect::<Vec<_>>().join(" ");
    let excess = line.chars().count().saturating_sub(SAID_CHARS);
    if line.is_empty() { "it said nothing".into() } else { line.chars().skip(excess).collect() }
}

/// For the liveness probe: whether the agent has given a sign of life within `window`.
///
/// # Errors
/// When it has given none at all.
pub fn is_alive(exchange: &Path, window: Duration) -> io::Result<bool> {
    Heartbeat::new(exchange).is_alive(window)
}
