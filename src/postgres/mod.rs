//! The only database client: pool, migrations, mirror writes and the queries of the HTTP API.
//!
//! Never read by a controller's decision: Kubernetes is the only truth (design, section 3 rule 1).

pub mod deliveries;
pub mod error;
pub mod logs;
pub mod migrate;
pub mod pool;
pub mod queries;

pub mod rows;
pub mod write;

pub use deadpool_postgres::Pool;
pub use error::{Error, Fault};
pub use migrate::{migrate, schema_version};
pub use pool::{DatabaseConfig, connect};
pub use rows::{Kind, Row, RowError};
