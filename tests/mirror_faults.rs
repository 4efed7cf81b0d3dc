//! The mirror's guarantees under faults (invariants S18 to S26): one test for each sentence of what is
//! promised. Postgres is real; the cluster is in memory except where a whole operator is killed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(dead_code, reason = "the world is shared with other test programs, which use all of it")]

mod support;

#[path = "resilience/check.rs"]
mod check;
#[path = "support/history.rs"]
mod history;
#[path = "support/postgres.rs"]
mod postgres;
#[path = "resilience/record.rs"]
mod record;
#[path = "resilience/tables.rs"]
mod tables;
#[path = "resilience/world.rs"]
mod world;

#[path = "mirror_faults/away.rs"]
mod away;
#[path = "mirror_faults/commits.rs"]
mod commits;
#[path = "mirror_faults/drain.rs"]
mod drain;
#[path = "mirror_faults/killed.rs"]
mod killed;
#[path = "mirror_faults/leaders.rs"]
mod leaders;
#[path = "mirror_faults/life.rs"]
mod life;
#[path = "mirror_faults/mirror.rs"]
mod mirror;
#[path = "mirror_faults/refused.rs"]
mod refused;
#[path = "mirror_faults/restored.rs"]
mod restored;
#[path = "mirror_faults/verify.rs"]
mod verify;
#[path = "mirror_faults/wire.rs"]
mod wire;
