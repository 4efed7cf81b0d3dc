//! What runs inside a Run's Pod: `checkout`, `execute` and `publish`, one static binary.
//!
//! Never imports `cluster` or `postgres`: a Pod that runs a model or a repository's code must not be
//! able to reach either.

pub mod checkout;
pub mod exchange;
pub mod execute;
pub mod git;
pub mod publish;
pub mod report;
pub mod verify;
pub mod walker;
