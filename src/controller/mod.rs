//! Controllers: observe, plan, build, apply, write status. One file per controller; decisions live
//! in `plan`, objects in `build`, writes in `cluster`.

pub mod books;
pub mod clean_up;
pub mod context;
pub mod dispatcher;
pub mod facts;
pub mod logs;
pub mod mirror;
pub mod mirror_cluster;
pub mod mirror_intake;
mod mirror_metrics;
pub mod mirror_repair;
pub mod mirror_retention;
pub mod mirror_verify;
pub mod mirrored;
pub mod operation;
pub mod operator;
pub mod planner;
pub mod pool;
pub mod probes;
pub mod queue;
pub mod run;
pub mod system;
pub mod task;
pub mod upkeep;
pub mod why;
pub mod wiring;

pub use context::Context;
pub use operator::{Error, run as run_operator};
