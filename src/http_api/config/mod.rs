//! `/config`: the original's configuration keys over the fields of System and AgentPool (spec: api
//! 1.5, 4; corrections 7, 8, 25).
//!
//! [`table`] says which key stands for which field, [`key`] converts between the two, [`draft`] decides
//! what a request changes; these three are pure. [`get`] and [`patch`] are the routes, [`secrets`] the
//! one Secret. Objects are read live, so that the control path works without the database. There is no
//! other copy of any value, hence nothing to restart: the operator follows the objects.

pub mod draft;
pub mod get;
pub mod key;
pub mod patch;
mod secrets;
pub mod table;

#[cfg(test)]
mod tests;
