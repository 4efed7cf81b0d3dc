//! What every controller shares: stores, writer, metrics, and the settings of this operator.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use deadpool_postgres::Pool as Database;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::books::Books;
use super::clean_up::Gate;
use super::mirror::Mirror;
use super::queue::WorkQueue;
use super::upkeep::Written;
use super::wiring::Wiring;
use crate::build::pod::RunnerImage;
use crate::cluster::{Change, Events, Key, Store, Writer};
use crate::crd::{AgentPool, Operation, PodFacts, Run, System, Task, system};
use crate::metrics::Metrics;

/// What time it is for the controllers: the wall clock, or that of a simulation.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl Clock {
    /// A clock that reads this function.
    pub fn new(read: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self(Arc::new(read))
    }

    /// The wall clock.
    #[allow(clippy::disallowed_methods)]
    pub fn wall() -> Self {
        Self::new(Timestamp::now)
    }

    /// The present time.
    pub fn now(&self) -> Timestamp {
        (self.0)()
    }
}

/// Shared by all controllers.
pub struct Context {
    pub clock: Clock,
    pub writer: Writer,
    pub wiring: Arc<Wiring>,
    pub tasks: Arc<Store<Task>>,
    pub runs: Arc<Store<Run>>,
    pub pods: Arc<Store<PodFacts>>,
    pub pools: Arc<Store<AgentPool>>,
    pub systems: Arc<Store<System>>,
    pub operations: Arc<Store<Operation>>,
    pub metrics: Metrics,
    pub events: Events,
    pub runner: RunnerImage,
    /// Where logs are kept; absent: they are not.
    pub logs: Option<Database>,
    /// Whether the archive of logs answers.
    pub archive: Gate,
    /// Wakes the clean-up controller.
    pub clean_up: WorkQueue,
    /// Pods that were seen and are gone, by Run uid, until the Run has ended.
    pub gone_pods: Arc<GonePods>,
    /// Tasks that the dispatcher is just admitting: it marks them Running itself.
    pub admitting: Admitting,
    /// Tasks whose Pod is just being created: it counts as one that lives.
    pub starting: Admitting,
    /// The last refusal to create a Pod, by Run uid.
    pub refusals: Mutex<HashMap<String, String>>,
    /// NetworkPolicies applied in this process.
    pub policies: Applied,
    /// The terms under which this leader works, by uid of the System.
    pub terms: Mutex<HashMap<String, i64>>,
    /// What each namespace adds up to.
    pub books: Arc<Books>,
    /// When the status of each System was last written.
    pub systems_written: Written,
    /// When finished objects of each System were last removed.
    pub removals: Written,
    /// The mirror, when there is a database: what it does not have is not removed.
    pub mirror: Option<Mirror>,
    /// Ends the process: leadership is lost or another leader was seen.
    pub stop: CancellationToken,
}

impl Context {
    /// The present time. Pure code gets it as an argument.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Whether every first list is complete.
    pub fn synced(&self) -> bool {
        self.tasks.synced()
            && self.runs.synced()
            && self.pods.synced()
            && self.pools.synced()
            && self.systems.synced()
            && self.operations.synced()
    }

    /// The System of a namespace.
    pub fn system(&self, namespace: &str) -> Option<Arc<System>> {
        self.systems.get(&Key::new(namespace, system::NAME))
    }

    /// The term under which this leader may create in the namespace of `system`; `None` until it has
    /// been raised and is visible.
    pub fn term(&self, system: &System) -> Option<i64> {
        let uid = system.metadata.uid.as_deref()?;
        let terms = self.terms.lock().unwrap_or_else(PoisonError::into_inner);
        terms.get(uid).copied().filter(|term| *term == system.term())
    }
}

/// Last states of Pods that are gone while their Run is not over. Bounded by the number of Runs in
/// progress: an entry is dropped when its Run has ended.
#[derive(Default)]
pub struct GonePods {
    inner: Mutex<HashMap<String, Arc<PodFacts>>>,
}

impl GonePods {
    /// Notes a deletion seen by the Pod store.
    pub fn note(&self, change: &Change<PodFacts>) {
        if let Change::Deleted(pod) = change
            && !pod.run_uid.is_empty()
        {
            self.lock().insert(pod.run_uid.clone(), pod.clone());
        }
    }

    /// The last state of the Pod of this Run.
    pub fn get(&self, run_uid: &str) -> Option<Arc<PodFacts>> {
        self.lock().get(run_uid).cloned()
    }

    /// Forgets the Pod of a Run that has ended.
    pub fn forget(&self, run_uid: &str) {
        self.lock().remove(run_uid);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<PodFacts>>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Uids of Tasks for which something is under way: between the creation of their Run and the mark that
/// they are Running (the task controller leaves them alone meanwhile, so that the two do not write the
/// same thing twice), or while their Pod is being created.
#[derive(Default)]
pub struct Admitting {
    inner: Mutex<HashSet<String>>,
}

impl Admitting {
    /// It begins for this Task. False: it is under way already.
    pub fn begin(&self, uid: &str) -> bool {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).insert(uid.to_string())
    }

    /// It has ended for this Task, well or not.
    pub fn end(&self, uid: &str) {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }

    /// Whether it is under way for this Task.
    pub fn contains(&self, uid: &str) -> bool {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).contains(uid)
    }
}

/// What was applied last, by uid of the owner, so that an equal object is not applied again.
#[derive(Default)]
pub struct Applied {
    inner: Mutex<HashMap<String, String>>,
}

impl Applied {
    /// Whether `content` is what was applied last.
    pub fn is(&self, uid: &str, content: &str) -> bool {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).get(uid).is_some_and(|c| c == content)
    }

    /// Notes what was applied.
    pub fn note(&self, uid: &str, content: &str) {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner).insert(uid.into(), content.into());
    }
}
