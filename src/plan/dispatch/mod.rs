//! The dispatcher's decision: which queued Tasks of one namespace get a slot now, and why the others
//! wait. Owns the admission queue; it writes nothing and does not know Kubernetes.
//!
//! # The rule
//!
//! The controller reports facts (Tasks, pools, the System, holders) and calls [`Queue::plan`]. What
//! comes out is what this would choose, were it run from scratch every time:
//!
//! 1. Candidates are the Tasks in phase Queued that are not being cancelled, of a known kind, with
//!    all dependencies resolved, whose retry time has come, and of which no Run and no Pod exists; and
//!    those that wait for a review or a merge, likewise. What they want is their [`Purpose`].
//! 2. They are put in order: priority key, then age, then name. The key does not change with time
//!    ([`super::priority`]), so the order is kept, not computed. Merges go before reviews.
//! 3. Nothing is admitted without an armed System, over a token budget, or by a component that is
//!    stopped: `judge` for reviews and merges, `planner` for plans, `dispatcher` for all else. In order,
//!    each candidate is admitted if there is a free slot in a pool of its role ([`room`]),
//!    `maxConcurrent` is not reached, its lane is below its cap ([`super::lanes`]) and none of its
//!    areas is occupied. Lanes below their floor are served first, unless what waits elsewhere comes
//!    before it in order and is five days older. `maxConcurrent` counts and bounds
//!    attempts at Tasks only.
//! 4. A slot is free if nobody holds it, nobody has stopped its agent, its agent is not held, and the
//!    pool's credential is not held ([`credentials`]).
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
//! | slot, lane, `maxConcurrent`, System | in order, one list per role, lane and purpose | it is first and there is room |
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
//! - Every ended Run with a credential is reported ([`Queue::run_ended`]) until it is gone.
//! - A reason to wait is told once. Whoever writes it later asks [`Queue::waiting`] whether it holds.
//!   Which of several limits of its list (slots, lane, `maxConcurrent`) holds a Task back is told when
//!   the Task is parked there and not each time another one is reached.

mod credentials;
pub mod dependencies;
mod explain;
mod occupancy;
mod parking;
mod pass;
mod queue;
mod resolve;
mod room;
mod wait;

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

pub use self::credentials::{EndedRun, HOLD_BASE};
pub use self::explain::{Gate, Gates};
pub use self::occupancy::{Holder, HolderId};
pub use self::queue::Queue;
pub use self::room::component_of;
pub use self::wait::Wait;
pub use super::lanes::LaneFacts;
use super::priority::StaticKey;
use crate::crd::task::ResolvedDependency;
use crate::crd::{Purpose, Role, TaskPhase};

/// What the dispatcher knows of a Task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskFacts {
    pub uid: String,
    pub name: String,
    pub phase: TaskPhase,
    /// `spec.cancel`.
    pub cancel: bool,
    /// What the next Run is for. Judge and Merge only while the Task is Blocked and wants that.
    pub purpose: Purpose,
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
    /// Name of the Task that carries this one's work on.
    pub superseded_by: Option<String>,
    /// Ordinal of the last Run.
    pub attempts: i32,
    pub created_at: Timestamp,
}

impl TaskFacts {
    /// Whether the Task wants a Run now or once what it waits for has come.
    pub fn is_candidate(&self) -> bool {
        let waits = match self.purpose {
            Purpose::Execute | Purpose::Plan => TaskPhase::Queued,
            Purpose::Judge | Purpose::Merge => TaskPhase::Blocked,
        };
        self.phase == waits && !self.cancel
    }
}

/// What the dispatcher knows of an AgentPool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolFacts {
    pub name: String,
    pub role: Role,
    /// Slots; not used while suspended.
    pub replicas: u32,
    pub suspended: bool,
    /// Secret that its agents use.
    pub credential: Option<String>,
    /// Slots whose agents take no Runs until the time; absent: until somebody starts them.
    pub held: BTreeMap<u32, Option<Timestamp>>,
}

/// What the dispatcher knows of the System.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SystemFacts {
    pub armed: bool,
    /// Tasks in progress at once; absent: unlimited.
    pub max_concurrent: Option<u32>,
    /// Empty: the defaults of [`super::lanes::LaneRules::new`].
    pub lanes: Vec<LaneFacts>,
    /// Components and agents that an Operation has stopped.
    pub stopped: BTreeSet<String>,
    /// While a token budget is used up: what the System says about it.
    pub budget: Option<String>,
    /// Target area of every merge; empty: none.
    pub merge_area: String,
}

/// A Task that gets a slot now. It occupies slot, lane and areas from here on, until a Run of it is
/// reported or the admission is abandoned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    pub task_uid: String,
    pub task_name: String,
    /// What the Run is for.
    pub purpose: Purpose,
    /// Ordinal of the attempt that the Run makes, reviews or merges.
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
