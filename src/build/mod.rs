//! Pure construction of the objects we create. No decisions, no I/O.

pub mod network_policy;
pub mod pod;
pub mod proxy;
pub mod run;
pub mod trust;
