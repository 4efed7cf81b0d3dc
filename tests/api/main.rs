//! The HTTP API as a client of the original finds it: a running operator, its mirror in a real
//! Postgres, and a real API server with simulated nodes. One module per resource.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(dead_code, reason = "the world is shared with other test programs, which use all of it")]

#[path = "../support/mod.rs"]
mod support;

#[path = "../resilience/check.rs"]
mod check;
#[path = "../support/history.rs"]
mod history;
#[path = "../support/node.rs"]
mod node;
#[path = "../support/postgres.rs"]
mod postgres;
#[path = "../resilience/record.rs"]
mod record;
#[path = "../resilience/world.rs"]
mod world;

mod agents;
mod config;
mod conformance;
mod logs;
mod overload;
mod plans;
mod process;
mod runs;
mod security;
mod service;
mod stream;
mod system;
mod system_state;
mod tasks;
mod webhook;
