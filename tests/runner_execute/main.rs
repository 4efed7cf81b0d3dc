//! Container `agent` as a real process with real children: `opentiger-runner execute`.
//!
//! The other side of the FIFO is played here; nothing else is simulated.

mod faults;
mod outcomes;
mod pod;
mod verification;
