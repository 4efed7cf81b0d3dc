//! The only database client: pool, migrations, mirror writes and the queries of the HTTP API.
//!
//! Never read by a controller's decision: Kubernetes is the only truth (design, section 3 rule 1).

pub mod artifacts;
pub mod changes;
pub mod compare;
pub mod deliveries;
pub mod derived;
pub mod error;
pub mod history;
pub mod logs;
pub mod migrate;
mod page;
pub mod pool;
pub mod queries;
pub mod retention;
pub mod roles;
pub mod rows;
mod statements;
pub mod throughput;
mod tls;
pub mod write;

pub use deadpool_postgres::Pool;
pub use error::{Error, Fault};
pub use migrate::{migrate, schema_version};
pub use pool::{DatabaseConfig, connect};
pub use rows::{Kind, Row, RowError};
