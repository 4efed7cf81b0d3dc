//! How a container tells the world how it ended: termination message and exit code (spec agents 7.3).
//!
//! Must not decide what happened.

use std::fs;
use std::io;
use std::path::Path;

use crate::crd::wire::{ContainerResult, Outcome};

/// Where the kubelet reads a container's termination message.
pub const TERMINATION_LOG: &str = "/dev/termination-log";
/// Exit code for flags or inputs that cannot be read.
pub const BAD_CONFIG: u8 = 64;

/// Exit code of an outcome.
pub fn exit_code(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Success | Outcome::Noop => 0,
        Outcome::QuotaWait => 10,
        Outcome::NeedsRework => 20,
        Outcome::Failed => 30,
        Outcome::Infra => 75,
        Outcome::Cancelled => 143,
    }
}

/// Writes the termination message. The file is the kubelet's mount: it is written in place.
///
/// # Errors
/// When it cannot be written.
pub fn write(path: &Path, result: &ContainerResult) -> io::Result<()> {
    fs::write(path, result.to_message())
}
