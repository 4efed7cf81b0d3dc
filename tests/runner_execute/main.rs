//! Container `agent` as a real process with real children: `opentiger-runner execute`.
//!
//! The other side of the FIFO is played here; nothing else is simulated.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod agents;
mod automatic;
mod faults;
mod floods;
mod idle;
mod logins;
mod outcomes;
mod plans;
mod pod;
mod repairs;
mod reviews;
mod verification;
