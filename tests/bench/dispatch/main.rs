//! Time of the dispatch decision: one decision on a warm queue, and a full rebuild, at three sizes.
//!
//! A decision is everything between the end of an attempt and the next admission: the ended Task and its
//! Run are taken in, a plan is made, the new Run and its Task are taken in. A rebuild is what a new leader
//! does: all objects to facts, facts into an empty queue, the first plan. Needs no cluster.
//!
//! Times are those on the CPU: this is one thread that only computes, and what else the machine does is
//! not its cost. Elapsed times of the rebuild are printed beside them.

#[path = "../document.rs"]
mod document;
mod world;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context as _;
use clap::Parser;
use serde_json::{Map, Value, json};

use world::World;

/// Queued Tasks.
const SIZES: [usize; 3] = [1_000, 10_000, 50_000];
/// Decisions of which the median counts.
const DECISIONS: usize = 300;
/// Rebuilds of which the median counts.
const REBUILDS: usize = 7;
/// The exponent of n log n between the sizes: ln(n log n) over ln n, from the first to the last.
const N_LOG_N: f64 = 1.12;

#[derive(Parser)]
struct Cli {
    /// The summary that the figures are written into.
    #[arg(long, default_value = "target/bench/summary.json")]
    out: PathBuf,
    /// Set by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Milliseconds, ascending.
struct Times(Vec<f64>);

impl Times {
    fn new(mut times: Vec<f64>) -> Self {
        times.sort_by(f64::total_cmp);
        Self(times)
    }

    fn quantile(&self, q: f64) -> f64 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let index = ((self.0.len().saturating_sub(1)) as f64 * q).round() as usize;
        self.0.get(index).copied().unwrap_or(0.0)
    }
}

fn millis(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1_000.0
}

/// Milliseconds that this thread has been on a CPU.
#[expect(clippy::cast_precision_loss)]
fn on_cpu() -> anyhow::Result<f64> {
    let text =
        std::fs::read_to_string("/proc/thread-self/schedstat").context("no statistics of the thread")?;
    let nanos: u64 = text.split(' ').next().unwrap_or_default().parse().context("no time in them")?;
    Ok(nanos as f64 / 1e6)
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let (mut decisions, mut rebuilds) = (Vec::new(), Vec::new());
    println!("{:>8}{:>14}{:>14}{:>14}{:>14}", "Tasks", "decision ms", "p99 ms", "rebuild ms", "elapsed ms");
    for size in SIZES {
        let world = World::new(size);
        let mut elapsed = Vec::new();
        let mut rebuilt = Vec::new();
        for _ in 0..REBUILDS {
            let (start, before) = (Instant::now(), on_cpu()?);
            let queue = world.rebuild();
            rebuilt.push(on_cpu()? - before);
            elapsed.push(millis(start));
            drop(queue);
        }
        let (rebuild, elapsed) = (Times::new(rebuilt), Times::new(elapsed));
        let mut running = world.rebuild();
        let mut decided = Vec::new();
        for _ in 0..DECISIONS {
            // Too short for the statistics of the thread; the median is not of those interrupted.
            let start = Instant::now();
            running.decide();
            decided.push(millis(start));
        }
        let decision = Times::new(decided);
        anyhow::ensure!(running.admitted() >= DECISIONS, "the queue ran dry at {size} Tasks");
        println!(
            "{size:>8}{:>14.4}{:>14.4}{:>14.2}{:>14.2}",
            decision.quantile(0.5),
            decision.quantile(0.99),
            rebuild.quantile(0.5),
            elapsed.quantile(0.5)
        );
        decisions.push(decision.quantile(0.5));
        rebuilds.push(rebuild.quantile(0.5));
    }
    let growth = exponent(&decisions).max(exponent(&rebuilds));
    println!(
        "growth: decision n^{:.2}, rebuild n^{:.2} (n log n is n^{N_LOG_N})",
        exponent(&decisions),
        exponent(&rebuilds)
    );
    let summary = json!({
        "dispatch_decision_ms": by_size(&decisions),
        "dispatch_rebuild_ms": by_size(&rebuilds),
        "dispatch_growth_exponent": rounded(growth, 3),
    });
    document::merge(&cli.out, &summary)?;
    let last = |times: &[f64]| times.last().copied().context("no size");
    for (what, value, target) in [
        ("decision at 50,000 Tasks, ms", last(&decisions)?, 2.0),
        ("rebuild at 50,000 Tasks, ms", last(&rebuilds)?, 250.0),
        ("growth exponent", growth, N_LOG_N),
    ] {
        let verdict = if value <= target { "" } else { "  falls short" };
        println!("{what:<34}{:>10}{:>12}{verdict}", rounded(value, 3), format!("<= {target}"));
    }
    Ok(())
}

fn rounded(value: f64, digits: i32) -> f64 {
    let scale = 10f64.powi(digits);
    (value * scale).round() / scale
}

fn by_size(times: &[f64]) -> Value {
    let members = SIZES.iter().zip(times).map(|(size, time)| (size.to_string(), json!(rounded(*time, 4))));
    Value::Object(members.collect::<Map<String, Value>>())
}

/// Least-squares slope of ln time over ln size.
#[expect(clippy::cast_precision_loss)]
fn exponent(times: &[f64]) -> f64 {
    let points: Vec<(f64, f64)> =
        SIZES.iter().zip(times).map(|(size, time)| ((*size as f64).ln(), time.max(1e-6).ln())).collect();
    let count = points.len() as f64;
    let mean = |f: fn(&(f64, f64)) -> f64| points.iter().map(f).sum::<f64>() / count;
    let (x, y) = (mean(|p| p.0), mean(|p| p.1));
    let covariance: f64 = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum();
    let variance: f64 = points.iter().map(|p| (p.0 - x).powi(2)).sum();
    covariance / variance
}
