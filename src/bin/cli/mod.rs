//! The commands for people: each creates an Operation and waits for what comes of it. It decides
//! nothing; what may be done is up to the caller's own rights in the cluster.

mod mirror;
mod request;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use kube::{Api, Client, ResourceExt};
use opentiger::crd::{HatchState, OperationSpec, OperationType, System, system};

pub use self::mirror::{Mirror, mirror};
use self::request::{Requester, carry_out};

/// Where, by whom and for how long.
#[derive(Args)]
pub struct Common {
    /// Namespace; by default that of the kubeconfig's context.
    #[arg(short, long)]
    namespace: Option<String>,
    /// Why, kept with the Operation and in the history of the hatch.
    #[arg(long, default_value = "")]
    reason: String,
    /// Who asks.
    #[arg(long, env = "USER", default_value = "opentiger")]
    by: String,
    /// Seconds to wait for the end of the Operation; it goes on afterwards.
    #[arg(long, default_value_t = 120)]
    timeout: u64,
}

/// The runtime hatch: whether Runs may start.
#[derive(Subcommand)]
pub enum Hatch {
    /// Print its state, since when and by whom, and the last changes.
    Status(Common),
    /// Let Runs start.
    Arm(Common),
    /// Start nothing any more; what runs finishes.
    Disarm(Common),
}

/// What to stop or start.
#[derive(Args)]
pub struct Target {
    /// `dispatcher`, `cycle-manager`, `judge`, `planner`, or an agent such as `worker-3`.
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    name: Option<String>,
    /// stop: disarm, stop every component and end every Run. start: everything that is stopped.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    common: Common,
}

/// `opentiger hatch ...`
pub async fn hatch(client: Client, command: Hatch) -> anyhow::Result<()> {
    match command {
        Hatch::Status(common) => {
            let system = read_system(&client, &common).await?;
            print_hatch(&system);
            Ok(())
        }
        Hatch::Arm(common) => ask(&client, &common, of(OperationType::Arm)).await,
        Hatch::Disarm(common) => ask(&client, &common, of(OperationType::Disarm)).await,
    }
}

/// `opentiger stop ...`
pub async fn stop(client: Client, target: Target) -> anyhow::Result<()> {
    let spec = match target.name {
        Some(name) => about(OperationType::Stop, name),
        None => of(OperationType::StopAll),
    };
    ask(&client, &target.common, spec).await
}

/// `opentiger start ...`
pub async fn start(client: Client, target: Target) -> anyhow::Result<()> {
    if target.name.as_deref() == Some(system::component::PLANNER) {
        return start_planner(&client, &target.common).await;
    }
    let names = match target.name {
        Some(name) => vec![name],
        None => read_system(&client, &target.common).await?.status.unwrap_or_default().stopped,
    };
    if names.is_empty() {
        println!("nothing is stopped");
    }
    for name in names {
        ask(&client, &target.common, about(OperationType::Start, name)).await?;
    }
    Ok(())
}

/// The planner plans now. When it may not and was stopped, it is started all the same: it plans by
/// itself once what refuses it is over.
async fn start_planner(client: &Client, common: &Common) -> anyhow::Result<()> {
    let planner = system::component::PLANNER;
    let Err(refusal) = ask(client, common, of(OperationType::Replan)).await else { return Ok(()) };
    if !read_system(client, common).await?.is_stopped(planner) {
        return Err(refusal);
    }
    ask(client, common, about(OperationType::Start, planner.to_owned())).await?;
    println!("no plan is made now: {refusal}");
    Ok(())
}

fn of(type_: OperationType) -> OperationSpec {
    OperationSpec { type_, ..OperationSpec::default() }
}

fn about(type_: OperationType, target: String) -> OperationSpec {
    OperationSpec { target: Some(target), ..of(type_) }
}

async fn ask(client: &Client, common: &Common, spec: OperationSpec) -> anyhow::Result<()> {
    let requester =
        Requester { namespace: namespace(client, common), by: &common.by, reason: &common.reason };
    carry_out(client, &requester, spec, common.timeout).await
}

fn namespace(client: &Client, common: &Common) -> String {
    common.namespace.clone().unwrap_or_else(|| client.default_namespace().to_string())
}

async fn read_system(client: &Client, common: &Common) -> anyhow::Result<System> {
    let namespace = namespace(client, common);
    let api: Api<System> = Api::namespaced(client.clone(), &namespace);
    match api.get_opt(system::NAME).await.context("failed to read the System")? {
        Some(system) => Ok(system),
        None => bail!("there is no System named {} in namespace {namespace}", system::NAME),
    }
}

fn print_hatch(system: &System) {
    let status = system.status.clone().unwrap_or_default();
    let word = |state| match state {
        HatchState::Armed => "armed",
        HatchState::Disarmed => "disarmed",
    };
    let since = status.hatch.since.map(|at| format!(" since {at}")).unwrap_or_default();
    println!("{}: {}{since}", system.namespace().unwrap_or_default(), word(status.hatch.state));
    for change in status.hatch.history.iter().rev() {
        println!("  {}  {:8}  by {}  {}", change.at, word(change.state), change.by, change.reason);
    }
    if !status.stopped.is_empty() {
        println!("stopped: {}", status.stopped.join(", "));
    }
}
