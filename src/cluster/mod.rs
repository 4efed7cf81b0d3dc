//! The only Kubernetes client code that writes, and the caches that feed the controllers.
//!
//! Owns: stores with read-your-own-writes, watches, create-once, fenced status writes, deletes with
//! a uid precondition, leader election. Must not decide anything about Tasks or Runs.

pub mod cached;
pub mod definitions;
pub mod error;
pub mod events;
pub mod leader;
pub mod lean;
pub mod pod_logs;
pub mod store;
pub mod watch;
pub mod write;

pub use error::{Error, ErrorClass};
pub use events::Events;
pub use store::{Cached, Change, Key, Store};
pub use write::Writer;
