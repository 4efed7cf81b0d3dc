//! `opentiger-runner`: what runs inside a Run's Pod. Wiring only: reads flags and inputs, starts one
//! step, reports how it ended.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use jiff::Timestamp;
use opentiger::crd::wire::{ContainerResult, Inputs, Outcome, path};
use opentiger::crd::{GoDuration, Purpose};
use opentiger::plan::policy;
use opentiger::runner::api::Api;
use opentiger::runner::{self, exchange, execute, report};

/// Runs the containers of a Run's Pod.
#[derive(Parser)]
#[command(name = "opentiger-runner", version)]
struct Cli {
    #[command(subcommand)]
    step: Step,
}

#[derive(Subcommand)]
enum Step {
    /// Container `checkout`: clone the repository and prepare the Pod's volumes.
    Checkout(Common),
    /// Container `agent`: run the executor and verify its work.
    Execute(Execute),
    /// Container `publish`: recompute the change, check it, push it.
    Publish(Publish),
    /// Liveness probe of container `agent`.
    Alive(Alive),
    /// The mock executor, started by `execute`.
    #[command(hide = true)]
    Mock(Mock),
}

#[derive(Args)]
struct Common {
    /// The Run's inputs.
    #[arg(long, default_value = path::INPUTS)]
    inputs: PathBuf,
    /// Where the result is written for the kubelet.
    #[arg(long, default_value = report::TERMINATION_LOG)]
    termination_log: PathBuf,
}

#[derive(Args)]
struct Publish {
    #[command(flatten)]
    common: Common,
    /// Where the API is that takes a plan, and keeps what else there is to keep.
    #[arg(long)]
    api_url: Option<String>,
    /// File with the Run's token for the API.
    #[arg(long, default_value = path::API_TOKEN)]
    api_token: PathBuf,
}

#[derive(Args)]
struct Execute {
    #[command(flatten)]
    common: Common,
    /// The checkout to work on.
    #[arg(long, default_value = path::CHECKOUT)]
    checkout: PathBuf,
    /// Directory shared with `publish`.
    #[arg(long, default_value = path::EXCHANGE)]
    exchange: PathBuf,
    /// Directory with the file of the agent program's login.
    #[arg(long, default_value = path::LOGIN)]
    login: PathBuf,
    /// Time between SIGTERM and SIGKILL for what the executor or a command started.
    #[arg(long, default_value = execute::KILL_AFTER, value_parser = duration)]
    kill_after: Duration,
    /// Time for one verification command.
    #[arg(long, default_value = execute::COMMAND_LIMIT, value_parser = duration)]
    command_limit: Duration,
}

#[derive(Args)]
struct Mock {
    #[command(flatten)]
    common: Common,
    /// The change under review.
    #[arg(long, env = "OPENTIGER_REVIEW")]
    review: Option<PathBuf>,
    /// Where the verdict goes.
    #[arg(long, env = "OPENTIGER_VERDICT")]
    verdict: Option<PathBuf>,
    /// Where the plan goes.
    #[arg(long, env = "OPENTIGER_PLAN")]
    plan: Option<PathBuf>,
}

#[derive(Args)]
struct Alive {
    /// Longest time since the last sign of life.
    #[arg(long, value_parser = duration)]
    window: Duration,
    /// Directory shared with `publish`.
    #[arg(long, default_value = path::EXCHANGE)]
    exchange: PathBuf,
}

fn duration(text: &str) -> Result<Duration, String> {
    GoDuration(text.into()).parse().ok_or_else(|| "must be a duration such as 30s or 5m".into())
}

fn main() -> ExitCode {
    let step = match Cli::try_parse() {
        Ok(cli) => cli.step,
        Err(error) => {
            let code = if error.use_stderr() { report::BAD_CONFIG } else { 0 };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    match step {
        Step::Checkout(common) => report(&common, |inputs| block_on(checkout(inputs))),
        Step::Execute(flags) => {
            // Held until the result is reported: its end is what `publish` waits for.
            let mut end = None;
            report(&flags.common, |inputs| {
                let (result, held) = block_on(execute(inputs, &flags))?;
                end = held;
                Ok(result)
            })
        }
        Step::Publish(flags) => report(&flags.common, |inputs| block_on(publish(inputs, &flags))),
        Step::Alive(flags) => alive(&flags),
        Step::Mock(flags) => mock(&flags).unwrap_or_else(|error| {
            eprintln!("[opentiger] {error:#}");
            ExitCode::FAILURE
        }),
    }
}

/// Runs one step and reports its result; a step that cannot start is a result too.
fn report(common: &Common, step: impl FnOnce(&Inputs) -> anyhow::Result<ContainerResult>) -> ExitCode {
    let (result, code) = match read_inputs(common) {
        Err(error) => (not_started(&error), report::BAD_CONFIG),
        Ok(inputs) => {
            let result = step(&inputs).unwrap_or_else(|error| not_started(&error));
            let code = report::exit_code(result.outcome);
            (result, code)
        }
    };
    println!("[opentiger] {:?}: {}", result.outcome, result.summary);
    if let Err(error) = report::write(&common.termination_log, &result) {
        eprintln!("[opentiger] failed to write the termination message: {error}");
    }
    ExitCode::from(code)
}

fn not_started(error: &anyhow::Error) -> ContainerResult {
    ContainerResult::failure(Outcome::Infra, "runner_failed", format!("{error:#}"))
}

fn read_inputs(common: &Common) -> anyhow::Result<Inputs> {
    let name = common.inputs.display();
    let text = std::fs::read_to_string(&common.inputs).with_context(|| format!("failed to read {name}"))?;
    runner::parse_inputs(&text).with_context(|| format!("failed to read {name}"))
}

/// One thread is enough: the runner waits for others.
fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("failed to start")?;
    let result = runtime.block_on(future);
    // A thread that still waits for the other container must not keep this one.
    runtime.shutdown_background();
    result
}

async fn checkout(inputs: &Inputs) -> anyhow::Result<ContainerResult> {
    let stop = exchange::stop_on_signals().context("failed to handle signals")?;
    Ok(runner::checkout::run(inputs, &runner::checkout::Paths::default(), &stop).await)
}

async fn publish(inputs: &Inputs, flags: &Publish) -> anyhow::Result<ContainerResult> {
    let stop = exchange::stop_on_signals().context("failed to handle signals")?;
    let api = Api { url: flags.api_url.clone(), token: flags.api_token.clone() };
    let paths = runner::checkout::Paths::default();
    if inputs.spec.purpose == Purpose::Plan {
        let result = runner::planning::publish::run(inputs, &paths, &api, &stop).await;
        runner::keep::prompt(inputs, &paths, &api, &result, &stop).await;
        return Ok(result);
    }
    let spec = &inputs.spec.inputs;
    let policy = |changed: &[String]| match policy::check(changed, &spec.allowed_paths, &spec.denied_paths) {
        Ok(violations) => Ok(violations.iter().map(ToString::to_string).collect()),
        Err(error) => Err(error.to_string()),
    };
    let result = runner::publish::run(inputs, &paths, policy, &stop).await;
    runner::keep::prompt(inputs, &paths, &api, &result, &stop).await;
    runner::review::keep::change(inputs, &paths, &api, &result, &stop).await;
    Ok(result)
}

async fn execute(
    inputs: &Inputs,
    flags: &Execute,
) -> anyhow::Result<(ContainerResult, Option<exchange::AgentEnd>)> {
    let stop = exchange::stop_on_signals().context("failed to handle signals")?;
    let settings = execute::Settings {
        checkout: flags.checkout.clone(),
        exchange: flags.exchange.clone(),
        login: flags.login.clone(),
        inputs: flags.common.inputs.clone(),
        executable: "/proc/self/exe".into(),
        environment: std::env::vars_os().collect(),
        now: Timestamp::now,
        kill_after: flags.kill_after,
        command_limit: flags.command_limit,
    };
    Ok(execute::run(inputs, &settings, stop).await)
}

fn alive(flags: &Alive) -> ExitCode {
    match execute::is_alive(&flags.exchange, flags.window) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            eprintln!("no sign of life from the agent for {:?}", flags.window);
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("no sign of life from the agent: {error}");
            ExitCode::FAILURE
        }
    }
}

fn mock(flags: &Mock) -> anyhow::Result<ExitCode> {
    let inputs = read_inputs(&flags.common)?;
    let review = match (&flags.review, &flags.verdict) {
        (Some(bundle), Some(verdict)) => Some(execute::mock::Review { bundle, verdict }),
        (Some(_) | None, _) => None,
    };
    let mock = inputs.spec.template.executor.mock.as_ref().context("the run has no mock executor")?;
    let plan = flags.plan.as_deref();
    execute::mock::play(&inputs, mock, review, plan)
        .map(ExitCode::from)
        .context("failed to play the mock executor")
}
