//! Pure decisions: functions of objects and `now` that return a plan. No clock, environment,
//! randomness or I/O; waiting is a plan with a deadline, never an error.

pub mod area;
pub mod classify;
pub mod command;
pub mod dispatch;
#[cfg(test)]
pub mod fixtures;
pub mod judge;
pub mod lanes;
pub mod planner;
pub mod policy;
pub mod priority;
pub mod quota;
pub mod replan;
pub mod run;
#[cfg(test)]
mod run_tests;
pub mod task;
pub mod verdict;
