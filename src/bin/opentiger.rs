//! The `opentiger` program: wiring only.

use clap::{Parser, Subcommand};

/// Runs coding agents on Kubernetes and keeps a backlog of tasks converging.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Print the CustomResourceDefinitions as YAML.
    Crds,
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().command {
        Command::Crds => {
            for crd in opentiger::crd::schema::all()? {
                println!("---\n{}", serde_saphyr::to_string(&crd)?.trim_end());
            }
            Ok(())
        }
    }
}
