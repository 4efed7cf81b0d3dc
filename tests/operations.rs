//! Operations on a real control plane with simulated nodes: what is stopped stays stopped, what is
//! cleaned up is gone, and every request ends with a result. The invariants that hold at every moment
//! are checked on the way (`resilience/check.rs`).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(dead_code, reason = "the world is shared with tests/resilience.rs, which uses all of it")]

mod support;

#[path = "resilience/check.rs"]
mod check;
#[path = "resilience/record.rs"]
mod record;
#[path = "resilience/world.rs"]
mod world;

#[path = "operations/agents.rs"]
mod agents;
#[path = "operations/cleanup.rs"]
mod cleanup;
#[path = "operations/killed.rs"]
mod killed;
#[path = "operations/replan.rs"]
mod replan;
#[path = "operations/requests.rs"]
mod requests;
#[path = "operations/stop_all.rs"]
mod stop_all;
#[path = "operations/tasks.rs"]
mod tasks;
