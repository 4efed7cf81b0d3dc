//! Load generator of `make bench`: drives one loop at a time against a control plane with simulated
//! nodes and appends what it measured to a file, one JSON object a line; makes the summary of them.
//!
//! Owns no set-up: `tests/bench/bench` starts and stops everything.

mod api;
mod bare;
#[path = "../document.rs"]
mod document;
mod drain;
mod floor;
mod measure;
mod overhead;
mod pace;
mod summary;
mod tasks;
mod watch;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, Subcommand, ValueEnum};
use serde_json::{Value, json};

use measure::{Machine, Percentiles};
use pace::Pace;

/// User agent in the audit log.
const AGENT: &str = "opentiger-bench";

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs one loop and measures it.
    Run(RunArgs),
    /// Creates Tasks and leaves them.
    Fill(FillArgs),
    /// Measures what an operator costs to which nothing happens.
    Idle(IdleArgs),
    /// Deletes the Tasks of a namespace and waits until nothing of them is left.
    Purge {
        #[arg(long)]
        namespace: String,
    },
    /// Measures the HTTP API while its database is written to.
    Api(api::ApiArgs),
    /// Measures how fast the mirror catches up.
    Drain(drain::DrainArgs),
    /// Measures what a Run adds to the agent program on a real node.
    Overhead(overhead::OverheadArgs),
    /// Makes the summary; prints the table.
    Summary(summary::SummaryArgs),
}

/// What is driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    /// Task created, carried out by the operator, Done.
    Tasks,
    /// The same writes by a plain client, without any controller.
    Floor,
    /// Pod created, completed, deleted.
    Bare,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Tasks => "tasks",
            Self::Floor => "floor",
            Self::Bare => "bare",
        }
    }
}

#[derive(clap::Args)]
struct RunArgs {
    kind: Kind,
    /// Objects in all.
    #[arg(long, default_value_t = 1000)]
    count: usize,
    /// Objects in flight; the loop is closed.
    #[arg(long, default_value_t = 50)]
    in_flight: usize,
    /// Starts this many a second instead, whatever is in flight; the loop is open.
    #[arg(long)]
    rate: Option<f64>,
    #[arg(long)]
    namespace: String,
    /// Begin of the names, different for every loop.
    #[arg(long)]
    prefix: String,
    /// Noted with the result.
    #[arg(long)]
    mirror: bool,
    /// Processes whose CPU time counts, NAME=PID; children of PID count with it.
    #[arg(long = "process", value_parser = measure::parse_process)]
    processes: Vec<(String, u32)>,
    /// Audit log of the API server.
    #[arg(long)]
    audit: PathBuf,
    /// File that the result is appended to.
    #[arg(long)]
    out: PathBuf,
}

#[derive(clap::Args)]
struct FillArgs {
    #[arg(long)]
    count: usize,
    #[arg(long)]
    namespace: String,
    #[arg(long)]
    prefix: String,
    /// They are to be cancelled: settled without having run.
    #[arg(long)]
    cancelled: bool,
}

#[derive(clap::Args)]
struct IdleArgs {
    /// Tasks that are settled, noted with the result.
    #[arg(long)]
    tasks: usize,
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// PID of the operator.
    #[arg(long)]
    operator: u32,
    /// Audit log of the API server.
    #[arg(long)]
    audit: PathBuf,
    /// File that the result is appended to.
    #[arg(long)]
    out: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    match cli.command {
        Command::Run(args) => runtime.block_on(run(args)),
        Command::Fill(args) => runtime.block_on(fill(args)),
        Command::Idle(args) => idle(&args),
        Command::Purge { namespace } => {
            runtime.block_on(async { tasks::purge(client().await?, &namespace).await })
        }
        Command::Api(args) => runtime.block_on(api::run(args)),
        Command::Drain(args) => runtime.block_on(drain::run(args)),
        Command::Overhead(args) => runtime.block_on(overhead::run(args)),
        Command::Summary(args) => summary::write(&args),
    }
}

async fn client() -> anyhow::Result<kube::Client> {
    let mut config = kube::Config::infer().await.context("failed to find a cluster")?;
    config.headers.push((http::header::USER_AGENT, http::HeaderValue::from_static(AGENT)));
    Ok(kube::Client::try_from(config)?)
}

/// What a loop found, besides what is measured around it.
struct Outcome {
    /// From the first start until the last object was done and its Pod gone.
    elapsed: Duration,
    create_to_done: Percentiles,
    queued_to_pod: Option<Percentiles>,
    /// Objects that did not end well.
    failed: usize,
}

async fn run(args: RunArgs) -> anyhow::Result<()> {
    let client = client().await?;
    let pace = match args.rate {
        Some(rate) => Pace::Open { rate },
        None => Pace::Closed { in_flight: args.in_flight },
    };
    let mut processes = args.processes.clone();
    processes.push(("load".into(), std::process::id()));
    let audit_from = measure::audit_position(&args.audit)?;
    let before = Machine::read(&processes)?;
    let outcome = match args.kind {
        Kind::Tasks => tasks::run(client, &args.namespace, &args.prefix, args.count, pace).await?,
        Kind::Floor => floor::run(client, &args.namespace, &args.prefix, args.count, pace).await?,
        Kind::Bare => bare::run(client, &args.namespace, &args.prefix, args.count, pace).await?,
    };
    let used = Machine::read(&processes)?.since(&before);
    let writes = measure::audit_since(&args.audit, audit_from)?;
    let seconds = outcome.elapsed.as_secs_f64();
    let result = json!({
        "loop": args.kind.word(),
        "open": args.rate.is_some(),
        "rate_asked": args.rate,
        "mirror": args.mirror,
        "count": args.count,
        "in_flight": args.in_flight,
        "failed": outcome.failed,
        "seconds": round(seconds, 2),
        "per_s": round(as_f64(args.count) / seconds, 1),
        "create_to_done_ms": outcome.create_to_done,
        "queued_to_pod_ms": outcome.queued_to_pod,
        "cpu_s": used.cpu_s,
        "others_share": round(used.others_share, 2),
        "writes": writes,
    });
    append(&args.out, &result)?;
    println!("{result}");
    Ok(())
}

async fn fill(args: FillArgs) -> anyhow::Result<()> {
    tasks::fill(client().await?, &args.namespace, &args.prefix, args.count, args.cancelled).await
}

fn idle(args: &IdleArgs) -> anyhow::Result<()> {
    let processes = [("operator".to_string(), args.operator)];
    let audit_from = measure::audit_position(&args.audit)?;
    let before = Machine::read(&processes)?;
    std::thread::sleep(Duration::from_secs(args.seconds));
    let used = Machine::read(&processes)?.since(&before);
    let writes = measure::audit_since(&args.audit, audit_from)?;
    let seconds = as_f64(usize::try_from(args.seconds)?);
    let result = json!({
        "loop": "idle",
        "tasks": args.tasks,
        "seconds": args.seconds,
        "operator_cores": round(used.cpu_s.values().sum::<f64>() / seconds, 4),
        "writes": writes.operator + writes.operator_status,
        "detail": writes.detail,
    });
    append(&args.out, &result)?;
    println!("{result}");
    Ok(())
}

fn append(path: &std::path::Path, line: &Value) -> anyhow::Result<()> {
    use std::io::Write as _;
    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path)?;
    writeln!(file, "{line}").context("failed to write the result")
}

/// `value` with `digits` after the point.
fn round(value: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (value * scale).round() / scale
}

#[allow(clippy::cast_precision_loss)]
fn as_f64(count: usize) -> f64 {
    count as f64
}
