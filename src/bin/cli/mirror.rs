//! `opentiger mirror ...`: compares the tables with the cluster, or makes them equal. Both may run beside
//! an operator.

use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use kube::Client;
use opentiger::controller::mirror::Kubernetes;
use opentiger::controller::mirror_repair::{Repair, Repaired};
use opentiger::controller::mirror_verify::verify;
use opentiger::postgres::{self, DatabaseConfig, Kind, migrate};

/// The tables that objects are mirrored into.
#[derive(Subcommand)]
pub enum Mirror {
    /// Print what differs between the cluster and the tables, one object a line. Exit code 1 when
    /// something does. A row that is only on its way is waited for.
    Verify(VerifyArgs),
    /// Make the tables equal to the cluster: write what is missing or differs, mark what is gone, try
    /// again what was set aside. Safe beside a running operator.
    Rebuild(Place),
}

/// Which tables, and which objects.
#[derive(Args)]
pub struct Place {
    /// Namespace to compare; by default that of the kubeconfig's context.
    #[arg(short, long, conflicts_with = "all_namespaces")]
    namespace: Option<String>,
    /// Compare every namespace. For a database that belongs to this cluster alone.
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Postgres that the operator mirrors into.
    #[arg(long, env = "DATABASE_URL", hide_env_values = true)]
    database_url: String,
}

/// How long a difference is looked at.
#[derive(Args)]
pub struct VerifyArgs {
    #[command(flatten)]
    place: Place,
    /// Seconds that the differences must not have changed.
    #[arg(long, default_value_t = 5)]
    settle: u64,
    /// Seconds after which the differences are printed even if they still change.
    #[arg(long, default_value_t = 60)]
    timeout: u64,
}

/// `opentiger mirror ...`
pub async fn mirror(client: Client, command: Mirror) -> anyhow::Result<()> {
    match command {
        Mirror::Verify(args) => print_differences(client, args).await,
        Mirror::Rebuild(place) => rebuild(client, &place).await,
    }
}

async fn open(place: &Place) -> anyhow::Result<postgres::Pool> {
    let pool = postgres::connect(&DatabaseConfig::new(&place.database_url, "opentiger-mirror"))
        .context("failed to use the database settings")?;
    migrate::check_version(&pool).await.context("failed to use the tables")?;
    Ok(pool)
}

fn namespace(client: &Client, place: &Place) -> String {
    if place.all_namespaces {
        return String::new();
    }
    place.namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned())
}

async fn print_differences(client: Client, args: VerifyArgs) -> anyhow::Result<()> {
    let pool = open(&args.place).await?;
    let namespace = namespace(&client, &args.place);
    let cluster = Kubernetes::new(client, vec![namespace.clone()]);
    let (settle, timeout) = (Duration::from_secs(args.settle), Duration::from_secs(args.timeout));
    let verified = verify(&pool, &cluster, &namespace, settle, timeout).await.context("failed to compare")?;
    let mut out = std::io::stdout().lock();
    for line in &verified.differences {
        writeln!(out, "{line}").context("failed to print")?;
    }
    match verified.differences.len() {
        0 => writeln!(out, "{} objects, no difference", verified.objects).context("failed to print"),
        n => bail!("{n} differences among {} objects", verified.objects),
    }
}

async fn rebuild(client: Client, place: &Place) -> anyhow::Result<()> {
    let pool = open(place).await?;
    let namespace = namespace(&client, place);
    let cluster = Kubernetes::new(client, vec![namespace.clone()]);
    let mut repair = Repair { retry_parked: true, ..Repair::new(&pool, &cluster) };
    for kind in Kind::ALL {
        let done = repair
            .run(kind, &namespace)
            .await
            .with_context(|| format!("failed to rebuild {}", kind.table()))?;
        let Repaired { objects, written, set_back, tombstoned, unparked, parked } = done;
        println!(
            "{}: {objects} objects, {written} written, of these {set_back} set back, {tombstoned} marked as deleted, \
             {parked} set aside, {unparked} no longer set aside",
            kind.table()
        );
    }
    Ok(())
}
