//! The HTTP API as a client of the original finds it: a running operator, its mirror in a real
//! Postgres, and a real API server with simulated nodes. One module per resource.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(dead_code, reason = "the world is shared with other test programs, which use all of it")]

#[path = "../support/mod.rs"]
mod support;

#[path = "../resilience/check.rs"]
mod check;
#[path = "../support/postgres.rs"]
mod postgres;
#[path = "../resilience/record.rs"]
mod record;
#[path = "../resilience/world.rs"]
mod world;

mod service;
mod system;
mod system_state;
