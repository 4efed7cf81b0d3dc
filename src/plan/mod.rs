//! Pure decisions: functions of objects and `now` that return a plan. No clock, environment,
//! randomness or I/O; waiting is a plan with a deadline, never an error.

pub mod accounts;
pub mod area;
pub mod budget;
pub mod classify;
pub mod command;
pub mod cycle;
pub mod dispatch;
#[cfg(test)]
pub mod fixtures;
pub mod hatch;
pub mod judge;
pub mod lanes;
pub mod monitor;
pub mod operation;
pub mod planner;
pub mod policy;
pub mod priority;
pub mod quota;
pub mod recovery;
pub mod replan;
pub mod restart;
pub mod retention;
pub mod run;
#[cfg(test)]
mod run_tests;
pub mod task;
pub mod upkeep;
pub mod verdict;
#[cfg(test)]
mod verdict_tests;
pub mod why;
