//! The kinds people apply and read: types, schema, validation, labels and names.
//!
//! Floor 0: imports nothing of this crate. No I/O, no clock, no randomness.
//! Field names, words and bounds are the product's public interface.

pub mod condition;
pub mod duration;
pub mod judge;
pub mod labels;
pub mod names;
pub mod planner;
pub mod pod;
pub mod pool;
pub mod run;
pub mod schema;
pub mod system;
pub mod task;
pub mod wire;
pub mod words;

pub use condition::{Condition, set_condition};
pub use duration::GoDuration;
pub use judge::{JudgeSettings, JudgeStatus};
pub use pod::{ContainerFacts, ContainerState, PodFacts, PodPhase, Terminated};
pub use pool::{AgentPool, AgentPoolSpec, AgentPoolStatus, Executor, ExecutorType, Role};
pub use run::{FailureClass, Logs, Purpose, Run, RunPhase, RunSpec, RunStatus, TokenUsage};
pub use system::{Hatch, HatchState, RuntimeHatch, System, SystemSpec, SystemStatus};
pub use task::{BlockReason, Next, NextKind, Task, TaskPhase, TaskSpec, TaskStatus};

/// API group of every kind.
pub const GROUP: &str = "opentiger.dev";
/// Version of every kind.
pub const VERSION: &str = "v1alpha1";
