//! openTiger on Kubernetes: a backlog of software tasks that keeps converging without a human.
//!
//! Floors, imports go down only (enforced by `tests/architecture.rs`):
//! - 0 `crd`: types of the kinds; no I/O, no clock.
//! - 1 `plan`: pure decisions; `build`: pure objects; `config`, `telemetry`, `metrics`.
//! - 2 `cluster`: the only Kubernetes writer; `postgres`: the only database client.
//! - 3 `controller`, `http_api`, `runner`.

pub mod build;
pub mod cluster;
pub mod config;
pub mod controller;
pub mod crd;
pub mod http_api;
pub mod metrics;
pub mod plan;
pub mod postgres;
pub mod runner;
pub mod telemetry;
