//! The dispatcher's decision: which queued Tasks of one namespace get a slot now, and why the others
//! wait. Owns the admission queue; it writes nothing and does not know Kubernetes.
//!
//! # The rule
//!
//! The controller reports facts (Tasks, pools, the System, holders) and calls [`Queue::plan`]. What
//! comes out is what this would choose, were it run from scratch every time:
//!
//! 1. Candidates are the Tasks in phase Queued that are not being cancelled, of a known kind, with
//!    all dependencies resolved, whose retry time has come, and of which no Run and no Pod exists.
//! 2. They are put in order: priority key, then age, then name. The key does not change with time
//!    ([`super::priority`]), so the order is kept, not computed.
//! 3. Nothing is admitted without an armed System. In order, each candidate is admitted if there is a
//!    free slot in a pool of its role, `maxConcurrent` is not reached, its lane is below its cap
//!    ([`super::lanes`]) and none of its areas is occupied. Lanes below their floor are served first.
//!
//! What is occupied is the union of all holders: non-terminal Runs, live Pods (Terminating ones
//! included), and admissions whose Run has not been seen yet. All count by the values they were
//! admitted with (design rule 4).
//!
//! # How it stays cheap
//!
//! Every waiting Task is parked under the one thing it waits for and looked at again only when that
//! changes:
//!
//! | waits for | parked | looked at again when |
//! |---|---|---|
//! | a dependency | edges of a graph ([`dependencies`]) | the named Task appears, ends or goes |
//! | a time | sorted by time | the time has come |
//! | its own old Pod or Run | at the Task | the Pod or Run is gone |
//! | an area | behind the area, in order ([`parking`]) | the area is free, and it is the first |
//! | slot, lane, `maxConcurrent`, System | in order, one list per role and lane | it is first and there is room |
//!
//! A pass takes the first of each list that has room and stops when no list has any. It looks at
//! what was parked anew, at what it admits, and at nothing else ([`pass`]); the number of queued Tasks
//! does not matter. [`Queue::examinations`] counts.
//!
//! # What the controller owes
//!
//! - Every admission ends in [`Queue::occupy`] of its Run or in [`Queue::abandon`]; until then it
//!   occupies, also when its Task is deleted.
//! - Runs and Pods are reported before their Tasks when it starts, so that nothing is admitted twice.
//! - A reason to wait is told once. Whoever writes it later asks [`Queue::waiting`] whether it holds.
//!   Which of several limits of its list (slots, lane, `maxConcurrent`) holds a Task back is told when
//!   the Task is parked there and not each time another one is reached.

pub mod dependencies;
mod occupancy;
mod parking;
mod pass;
mod queue;
mod wait;

use jiff::Timestamp;

pub use self::occupancy::{Holder, HolderId};
pub use self::queue::Queue;
pub use self::wait::Wait;
pub use super::lanes::LaneFacts;
use super::priority::StaticKey;
use crate::crd::task::ResolvedDependency;
use crate::crd::{Role, TaskPhase};

/// What the dispatcher knows of a Task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskFacts {
    pub uid: String,
    pub name: String,
    pub phase: TaskPhase,
    /// `spec.cancel`.
    pub cancel: bool,
    pub role: Role,
    /// Effective lane; empty counts as `feature`.
    pub lane: String,
    pub kind: String,
    /// Effective target areas; empty: conflicts with nobody.
    pub areas: Vec<String>,
    pub static_key: StaticKey,
    /// Earliest time of the next attempt.
    pub not_before: Option<Timestamp>,
    /// Names of Tasks in the namespace.
    pub dependencies: Vec<String>,
    /// Dependencies that the status records as resolved; they stay so.
    pub resolved: Vec<ResolvedDependency>,
    /// Ordinal of the last Run.
    pub attempts: i32,
    pub created_at: Timestamp,
}

/// What the dispatcher knows of an AgentPool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolFacts {
    pub name: String,
    pub role: Role,
    /// Slots; not used while suspended.
    pub replicas: u32,
    pub suspended: bool,
}

/// What the dispatcher knows of the System.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SystemFacts {
    pub armed: bool,
    /// Tasks in progress at once; absent: unlimited.
    pub max_concurrent: Option<u32>,
    /// Empty: the defaults of [`super::lanes::LaneRules::new`].
    pub lanes: Vec<LaneFacts>,
}

/// A Task that gets a slot now. It occupies slot, lane and areas from here on, until a Run of it is
/// reported or the admission is abandoned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    pub task_uid: String,
    pub task_name: String,
    /// Ordinal of the Run to create.
    pub attempt: i32,
    pub pool: String,
    /// Slot, `<pool>-<n>`.
    pub agent: String,
    pub lane: String,
    pub areas: Vec<String>,
    /// All its dependencies with the uids that resolved them.
    pub resolved: Vec<ResolvedDependency>,
}

/// Why a Task waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    pub task_uid: String,
    /// When this reason was first seen.
    pub since: Timestamp,
    pub wait: Wait,
}

/// What to do now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DispatchPlan {
    pub admissions: Vec<Admission>,
    /// Tasks whose reason to wait is another one than reported before.
    pub waits: Vec<Waiting>,
    /// Dependencies found resolved since the last plan, of Tasks that still wait: to be recorded.
    pub resolved: Vec<(String, Vec<ResolvedDependency>)>,
    /// When to plan again though nothing happens.
    pub wake_at: Option<Timestamp>,
}
