//! What runs inside a Run's Pod: `checkout`, `execute` and `publish`, one static binary.
//!
//! Never imports `cluster` or `postgres`: a Pod that runs a model or a repository's code must not be
//! able to reach either.

pub mod api;
pub mod checkout;
pub mod checkpoint;
pub mod clock;
pub mod exchange;
pub mod execute;
pub mod forge;
pub mod git;
pub mod keep;
pub mod planning;
pub mod publish;
pub mod report;
pub mod review;
pub mod script;
pub mod trust;
pub mod verify;
pub mod walker;

use crate::crd::wire::{Inputs, SCHEMA_VERSION};

/// Why the input document cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InputsError {
    /// Not the document we know.
    #[error("failed to understand the run's inputs")]
    Invalid(#[source] serde_json::Error),
    /// Written by another version of the operator.
    #[error("failed to use the run's inputs: schema version {0}, this runner knows {SCHEMA_VERSION}")]
    Version(u32),
}

/// Reads the input document of a Run's Pod, with the Task's script for the mock executor applied.
///
/// # Errors
/// When it is not one, or of another version.
pub fn parse_inputs(text: &str) -> Result<Inputs, InputsError> {
    let inputs: Inputs = serde_json::from_str(text).map_err(InputsError::Invalid)?;
    if inputs.schema_version == SCHEMA_VERSION {
        Ok(script::applied(inputs))
    } else {
        Err(InputsError::Version(inputs.schema_version))
    }
}
