//! An object on its way into the mirror: what the intake and the writer have to know of any kind.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::crd::{AgentPool, Operation, Run, System, Task};
use crate::postgres::{Kind, Row, RowError};

/// An object as a watch delivered it.
#[derive(Clone, Debug)]
pub enum Mirrored {
    Task(Arc<Task>),
    Run(Arc<Run>),
    Pool(Arc<AgentPool>),
    System(Arc<System>),
    Operation(Arc<Operation>),
}

impl Mirrored {
    /// Kind of the object.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Task(_) => Kind::Task,
            Self::Run(_) => Kind::Run,
            Self::Pool(_) => Kind::Pool,
            Self::System(_) => Kind::System,
            Self::Operation(_) => Kind::Operation,
        }
    }

    /// Its metadata.
    pub fn meta(&self) -> &ObjectMeta {
        match self {
            Self::Task(o) => &o.metadata,
            Self::Run(o) => &o.metadata,
            Self::Pool(o) => &o.metadata,
            Self::System(o) => &o.metadata,
            Self::Operation(o) => &o.metadata,
        }
    }

    /// Its uid; empty when it has none.
    pub fn uid(&self) -> String {
        self.meta().uid.clone().unwrap_or_default()
    }

    /// Its name.
    pub fn name(&self) -> String {
        self.meta().name.clone().unwrap_or_default()
    }

    /// Whether nothing is missing that its row is made of. The cache keeps ended Tasks without what
    /// nobody reads there (`cluster/cached.rs`); every Task that has ended has a transition.
    pub fn is_whole(&self) -> bool {
        match self {
            Self::Task(o) => {
                !o.status.as_ref().is_some_and(|s| s.phase.is_terminal() && s.transitions.is_empty())
            }
            Self::Run(_) | Self::Pool(_) | Self::System(_) | Self::Operation(_) => true,
        }
    }

    /// Its namespace.
    pub fn namespace(&self) -> &str {
        self.meta().namespace.as_deref().unwrap_or_default()
    }

    /// The resourceVersion as a number; -1 when it cannot be read.
    pub fn version(&self) -> i64 {
        self.meta().resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(-1)
    }

    /// Its table row.
    ///
    /// # Errors
    /// When the metadata cannot be read.
    pub fn row(&self) -> Result<Row, RowError> {
        match self {
            Self::Task(o) => Row::task(o),
            Self::Run(o) => Row::run(o),
            Self::Pool(o) => Row::pool(o),
            Self::System(o) => Row::system(o),
            Self::Operation(o) => Row::operation(o),
        }
    }
}
