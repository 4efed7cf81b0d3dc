//! From `kubectl apply` to a pushed branch on a real node: real images, real containers, a real git
//! server and Postgres, the chart as helm installs it. Nothing on this path is simulated, except the
//! model: agents are shell scripts, the mock executor, and the real programs against a stand-in for their
//! provider.
//!
//! Every test has a namespace of its own in one release, so that they run side by side.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "support/e2e/agents.rs"]
mod agents;
#[path = "support/e2e/chart.rs"]
mod chart;
#[path = "support/e2e/delivery.rs"]
mod delivery;
#[path = "support/e2e/faults.rs"]
mod faults;
#[path = "support/e2e/node.rs"]
mod node;
#[path = "support/e2e/secrets.rs"]
mod secrets;
#[path = "support/e2e/space.rs"]
mod space;

use node::{Node, SECOND};

/// Namespaces of the tests, one each.
const SPACES: [&str; 9] = [
    "e2e-agents",
    "e2e-delivery",
    "e2e-secrets",
    "e2e-hostile",
    "e2e-endings",
    "e2e-memory",
    "e2e-hang",
    "e2e-image",
    "e2e-interrupted",
];

/// The cluster with the release that the tests share.
fn node() -> &'static Node {
    node::node(&SPACES)
}
