//! Which change wakes which controller. The only place that knows; it decides nothing.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc::UnboundedSender;

use super::context::GonePods;
use super::dispatcher::Busy;
use super::facts::{self, Fact};
use super::mirror::{Kind, Mirror, Mirrored};
use super::pool::WRITE_EVERY;
use super::queue::WorkQueue;
use crate::cluster::{Cached, Change, Key, Store};
use crate::crd::{AgentPool, PodFacts, Run, System, Task, system};
use crate::metrics::Metrics;
use crate::plan::dispatch::{Holder, HolderId};

/// The work queue of each controller.
#[derive(Clone, Default)]
pub struct Queues {
    pub tasks: WorkQueue,
    pub runs: WorkQueue,
    pub pools: WorkQueue,
    pub systems: WorkQueue,
    pub clean_up: WorkQueue,
}

/// Connects the stores with controllers, dispatcher and mirror.
pub struct Wiring {
    queues: Queues,
    facts: UnboundedSender<(String, Fact)>,
    mirror: Option<Mirror>,
    busy: Arc<Busy>,
    metrics: Metrics,
    without_next: Mutex<HashSet<String>>,
    /// Runs that are over or gone and still hold their places, by name.
    left: Mutex<HashMap<Key, Vec<HolderId>>>,
}

impl Wiring {
    /// Wires to these receivers.
    pub fn new(
        queues: Queues,
        facts: UnboundedSender<(String, Fact)>,
        mirror: Option<Mirror>,
        busy: Arc<Busy>,
        metrics: Metrics,
    ) -> Self {
        Self { queues, facts, mirror, busy, metrics, without_next: Mutex::default(), left: Mutex::default() }
    }

    fn tell(&self, namespace: &str, fact: Fact) {
        // The receiver ends with the process only.
        let _ = self.facts.send((namespace.to_string(), fact));
    }

    fn mirror(&self, change: Change<Mirrored>) {
        let Some(mirror) = &self.mirror else { return };
        match change {
            Change::Applied(object) => mirror.applied(Mirrored::clone(&object)),
            Change::Deleted(object) => mirror.deleted(Mirrored::clone(&object)),
        }
    }

    /// A Task wakes its own controller, the Run it names, and the dispatcher.
    pub fn connect_tasks(self: &Arc<Self>, store: &mut Store<Task>, runs: Arc<Store<Run>>) {
        let wiring = self.clone();
        store.on_change(move |change| {
            match change {
                Change::Applied(task) => wiring.task_applied(task),
                Change::Deleted(task) => {
                    wiring.note_next(task, true);
                    let ns = task.key().namespace;
                    wiring.tell(&ns, Fact::TaskGone(task.uid().to_string()));
                    for run in runs.by_index(task.uid()) {
                        wiring.queues.runs.add(run.key());
                    }
                }
            }
            wiring.mirror(map(change, Mirrored::Task));
        });
    }

    fn task_applied(&self, task: &Arc<Task>) {
        self.note_next(task, false);
        let key = task.key();
        self.tell(&key.namespace, Fact::Task(facts::task(task)));
        let status = task.status.as_ref();
        if let Some(run) = status.map(|s| s.current_run.as_str()).filter(|r| !r.is_empty()) {
            self.queues.runs.add(Key::new(&key.namespace, run));
        }
        if !status.is_some_and(|s| s.phase.is_terminal()) {
            self.queues.tasks.add(key);
        }
    }

    /// Keeps the gauge of Tasks that do not say what moves them next.
    fn note_next(&self, task: &Task, gone: bool) {
        let silent = !gone && task.status.as_ref().is_none_or(|s| !s.phase.is_terminal() && s.next.is_none());
        let mut set = self.without_next.lock().unwrap_or_else(PoisonError::into_inner);
        if silent {
            set.insert(Cached::uid(task).to_string());
        } else {
            set.remove(Cached::uid(task));
        }
        self.metrics.tasks_without_next.set(i64::try_from(set.len()).unwrap_or(i64::MAX));
    }

    /// A Run wakes its own controller and its Task, and holds its slot while it is not over.
    pub fn connect_runs(self: &Arc<Self>, store: &mut Store<Run>, gone: Arc<GonePods>) {
        let wiring = self.clone();
        store.on_change(move |change| {
            let (Change::Applied(run) | Change::Deleted(run)) = change;
            let key = run.key();
            let over = run.status.as_ref().is_some_and(|s| s.phase.is_terminal());
            let deleted = matches!(change, Change::Deleted(_));
            let holder = HolderId::Run(run.uid().to_string());
            if over || deleted {
                gone.forget(run.uid());
                wiring.leave(&key, holder);
            } else {
                wiring.occupy(&key.namespace, holder, facts::run_holder(run));
            }
            wiring.queues.tasks.add(Key::new(&key.namespace, &run.spec.task_ref.name));
            wiring.queues.runs.add(key);
            wiring.mirror(map(change, Mirrored::Run));
        });
    }

    /// A Pod wakes its Run, and holds its slot while it may run something; its end wakes the Task.
    pub fn connect_pods(self: &Arc<Self>, store: &mut Store<PodFacts>, gone: Arc<GonePods>) {
        let wiring = self.clone();
        store.on_change(move |change| {
            gone.note(change);
            let (Change::Applied(pod) | Change::Deleted(pod)) = change;
            let deleted = matches!(change, Change::Deleted(_));
            let holder = HolderId::Pod(pod.uid.clone());
            if deleted || !pod.is_live() {
                wiring.release(&pod.namespace, &holder);
                wiring.queues.tasks.add(Key::new(&pod.namespace, &pod.task));
            } else {
                wiring.occupy(&pod.namespace, holder, facts::pod_holder(pod));
            }
            wiring.queues.runs.add(Key::new(&pod.namespace, &pod.run));
        });
    }

    fn occupy(&self, namespace: &str, holder: HolderId, facts: Holder) {
        let pool = Key::new(namespace, &facts.pool);
        if self.busy.occupy(&holder, pool.clone(), facts.agent.clone()) {
            self.queues.pools.add_after(pool, WRITE_EVERY);
        }
        self.tell(namespace, Fact::Occupy(holder, facts));
    }

    /// A Run that is over or gone keeps its place until its controller has looked at that, which is
    /// after whatever it is doing now: it may just be creating the Pod, when somebody deleted the Run or
    /// a former leader's last write ended it (invariants S8 to S10).
    fn leave(&self, key: &Key, holder: HolderId) {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        left.entry(key.clone()).or_default().push(holder);
    }

    /// Frees the places of Runs of this name that are over or gone.
    pub fn release_left(&self, run: &Key) {
        let left = self.left.lock().unwrap_or_else(PoisonError::into_inner).remove(run);
        for holder in left.into_iter().flatten() {
            self.release(&run.namespace, &holder);
        }
    }

    fn release(&self, namespace: &str, holder: &HolderId) {
        if let Some(pool) = self.busy.release(holder) {
            self.queues.pools.add_after(pool, WRITE_EVERY);
        }
        self.tell(namespace, Fact::Release(holder.clone()));
    }

    /// An AgentPool wakes its own controller and the dispatcher.
    pub fn connect_pools(self: &Arc<Self>, store: &mut Store<AgentPool>) {
        let wiring = self.clone();
        store.on_change(move |change| {
            match change {
                Change::Applied(pool) => {
                    let key = pool.key();
                    wiring.tell(&key.namespace, Fact::Pool(facts::pool(pool)));
                    let observed = pool.status.as_ref().map(|s| s.observed_generation);
                    if observed == pool.metadata.generation {
                        // Most likely our own write of the occupancy: the next one has time.
                        wiring.queues.pools.add_after(key, WRITE_EVERY);
                    } else {
                        wiring.queues.pools.add(key);
                    }
                }
                Change::Deleted(pool) => {
                    let key = pool.key();
                    wiring.tell(&key.namespace, Fact::PoolGone(key.name));
                }
            }
            wiring.mirror(map(change, Mirrored::Pool));
        });
    }

    /// A System wakes its own controller, the dispatcher, and every Run and pool of its namespace: it
    /// changes rarely.
    pub fn connect_systems(
        self: &Arc<Self>,
        store: &mut Store<System>,
        runs: Arc<Store<Run>>,
        pools: Arc<Store<AgentPool>>,
    ) {
        let wiring = self.clone();
        store.on_change(move |change| {
            let (Change::Applied(object) | Change::Deleted(object)) = change;
            let key = object.key();
            if key.name == system::NAME {
                let facts = match change {
                    Change::Applied(system) => Some(facts::system(system)),
                    Change::Deleted(_) => None,
                };
                wiring.tell(&key.namespace, Fact::System(facts));
            }
            for run in runs.all().into_iter().filter(|r| is_in(r.as_ref(), &key.namespace)) {
                if !run.status.as_ref().is_some_and(|s| s.phase.is_terminal()) {
                    wiring.queues.runs.add(run.key());
                }
            }
            for pool in pools.by_index(&key.namespace) {
                wiring.queues.pools.add(pool.key());
            }
            wiring.queues.systems.add(key);
            wiring.mirror(map(change, Mirrored::System));
        });
    }

    /// Tells the mirror which Tasks live after a complete list.
    pub fn tasks_listed(&self, namespace: &str, live: Vec<Arc<Task>>) {
        self.listed(Kind::Task, namespace, live, Mirrored::Task);
    }

    /// Tells the mirror which Runs live after a complete list.
    pub fn runs_listed(&self, namespace: &str, live: Vec<Arc<Run>>) {
        self.listed(Kind::Run, namespace, live, Mirrored::Run);
    }

    /// Tells the mirror which AgentPools live after a complete list.
    pub fn pools_listed(&self, namespace: &str, live: Vec<Arc<AgentPool>>) {
        self.listed(Kind::Pool, namespace, live, Mirrored::Pool);
    }

    /// Tells the mirror which Systems live after a complete list.
    pub fn systems_listed(&self, namespace: &str, live: Vec<Arc<System>>) {
        self.listed(Kind::System, namespace, live, Mirrored::System);
    }

    fn listed<K: Cached>(
        &self,
        kind: Kind,
        namespace: &str,
        live: Vec<Arc<K>>,
        wrap: fn(Arc<K>) -> Mirrored,
    ) {
        let Some(mirror) = &self.mirror else { return };
        let mut by_namespace: HashMap<String, Vec<Mirrored>> = HashMap::new();
        if !namespace.is_empty() {
            by_namespace.insert(namespace.to_string(), Vec::new());
        }
        for object in live {
            let own = object.key().namespace;
            if namespace.is_empty() || own == namespace {
                by_namespace.entry(own).or_default().push(wrap(object));
            }
        }
        for (namespace, objects) in by_namespace {
            mirror.listed(kind, &namespace, objects);
        }
    }
}

fn is_in<K: Cached>(object: &K, namespace: &str) -> bool {
    object.key().namespace == namespace
}

fn map<K>(change: &Change<K>, wrap: fn(Arc<K>) -> Mirrored) -> Change<Mirrored> {
    match change {
        Change::Applied(object) => Change::Applied(Arc::new(wrap(object.clone()))),
        Change::Deleted(object) => Change::Deleted(Arc::new(wrap(object.clone()))),
    }
}
