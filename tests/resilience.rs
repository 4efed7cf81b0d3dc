//! Faults under load: what is shown on the way and what is true afterwards. Each test has a namespace
//! and operators of its own; in each, everything that happens is recorded and checked against the
//! invariants that hold at every moment (`resilience/check.rs`), `opentiger_tasks_without_next` too.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod support;

#[path = "resilience/check.rs"]
mod check;
#[path = "support/postgres.rs"]
mod postgres;
#[path = "resilience/record.rs"]
mod record;
#[path = "resilience/tables.rs"]
mod tables;
#[path = "resilience/world.rs"]
mod world;

#[path = "resilience/bounds.rs"]
mod bounds;
#[path = "resilience/database.rs"]
mod database;
#[path = "resilience/hatch.rs"]
mod hatch;
#[path = "resilience/idle.rs"]
mod idle;
#[path = "resilience/leader.rs"]
mod leader;
#[path = "resilience/pods.rs"]
mod pods;
