//! Controllers: observe, plan, build, apply, status; and the mirror into Postgres.

pub mod logs;
pub mod mirror;
pub mod mirror_intake;
