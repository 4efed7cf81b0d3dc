//! The kinds people apply and read: types, schema, validation, labels and names.
//!
//! Floor 0: imports nothing of this crate. No I/O, no clock, no randomness.
//! Field names, words and bounds are the product's public interface.

pub mod budget;
pub mod checkpoint;
pub mod condition;
pub mod cycle;
pub mod duration;
pub mod executor;
pub mod judge;
pub mod labels;
pub mod names;
pub mod network;
pub mod operation;
pub mod planner;
pub mod pod;
pub mod pool;
pub mod recovery;
pub mod reported;
pub mod restart;
pub mod retention;
pub mod run;
pub mod schema;
pub mod system;
pub mod task;
pub mod usage;
pub mod verification;
pub mod wire;
pub mod words;

pub use condition::{Condition, set_condition};
pub use duration::GoDuration;
pub use judge::{JudgeSettings, JudgeStatus};
pub use operation::{Operation, OperationPhase, OperationSpec, OperationStatus, OperationType};
pub use pod::{ContainerFacts, ContainerState, PodFacts, PodPhase, Terminated};
pub use pool::{AgentHold, AgentPool, AgentPoolSpec, AgentPoolStatus, Executor, ExecutorType, Role};
pub use recovery::{FailureDetail, PathRecovery};
pub use run::{FailureClass, Logs, Purpose, Run, RunPhase, RunSpec, RunStatus, TokenUsage};
pub use system::{Hatch, HatchChange, HatchState, RuntimeHatch, System, SystemSpec, SystemStatus};
pub use task::{BlockReason, Next, NextKind, Task, TaskPhase, TaskSpec, TaskStatus};

/// API group of every kind.
pub const GROUP: &str = "opentiger.dev";
/// Version of every kind.
pub const VERSION: &str = "v1alpha1";
