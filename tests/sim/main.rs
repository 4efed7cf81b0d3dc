//! A deterministic simulation: the real controllers and the real dispatcher, each operator on a
//! runtime of its own, against an API server, nodes and people in memory. One seed is one history;
//! it replays exactly. Invariants S1 to S18 are checked at every revision, and after the last fault
//! everything has to settle.
//!
//! `make sim SEEDS=n FROM=k` runs a range; `SIM_TRACE=1` prints what happens.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod check;
mod check_runs;
mod cluster;
mod operator;
mod requests;
mod rng;
mod server;
mod settle;
mod user;
mod wire;
mod world;

use std::time::Instant;

use server::Broken;
use world::World;

/// Seeds of a plain test run: about 70 s of one core, unoptimised.
const SEEDS: u64 = 250;

/// What became of one seed.
struct Outcome {
    violations: Vec<String>,
    digest: u64,
    steps: u64,
}

fn simulate(seed: u64, broken: Broken, trace: bool) -> Outcome {
    let mut world = World::new(seed, broken, trace);
    let steps = world.rng.between(50, 220);
    for _ in 0..steps {
        world.step();
        if !world.check.violations.is_empty() {
            break;
        }
    }
    if world.check.violations.is_empty() {
        world.settle();
    }
    for violation in &world.check.violations {
        world.say(&format!("VIOLATION {violation}"));
    }
    Outcome { violations: world.check.violations, digest: world.digest, steps: world.steps }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

#[test]
fn every_invariant_holds_and_everything_settles_after_the_last_fault() {
    let (seeds, from) = (number("SEEDS", SEEDS), number("FROM", 0));
    let (trace, enough) = (std::env::var("SIM_TRACE").is_ok(), number("STOP_AFTER", u64::MAX));
    let begin = Instant::now();
    let (mut failed, mut steps) = (Vec::new(), 0);
    for seed in from..from + seeds {
        let outcome = simulate(seed, Broken::Nothing, trace);
        steps += outcome.steps;
        if !outcome.violations.is_empty() {
            println!("seed {seed}: {}", outcome.violations.join("; "));
            failed.push(seed);
        }
        if failed.len() as u64 >= enough {
            break;
        }
    }
    println!(
        "seeds={seeds} from={from} violations={} steps={steps} seconds={:.1}",
        failed.len(),
        begin.elapsed().as_secs_f64()
    );
    assert!(failed.is_empty(), "replay with: make sim SEEDS=1 FROM={} SIM_TRACE=1", failed[0]);
}

#[test]
fn a_seed_replays_exactly() {
    for seed in 0..12 {
        let (a, b) = (simulate(seed, Broken::Nothing, false), simulate(seed, Broken::Nothing, false));
        assert_eq!((a.digest, a.steps), (b.digest, b.steps), "seed {seed}");
    }
}

/// Seeds within which a mutant has to be caught.
const MUTANT_SEEDS: u64 = 600;

#[test]
fn a_world_without_one_of_the_rules_is_caught() {
    catch(&[Broken::Fence, Broken::Admission, Broken::Names]);
}

#[test]
fn a_world_that_forgets_what_is_ending_or_reads_old_copies_is_caught() {
    catch(&[Broken::Terminating, Broken::Reads]);
}

fn catch(mutants: &[Broken]) {
    for broken in mutants {
        let caught = (0..MUTANT_SEEDS).find_map(|seed| {
            let outcome = simulate(seed, *broken, false);
            outcome.violations.first().map(|v| format!("seed {seed}: {v}"))
        });
        println!("{broken:?}: {caught:?}");
        assert!(caught.is_some(), "{broken:?} is not caught");
    }
}
