//! Which change wakes which controller. The only place that knows; it decides nothing.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc::UnboundedSender;

use super::books::Books;
use super::context::GonePods;
use super::dispatcher::Busy;
use super::facts::{self, Fact};
use super::mirror::{Kind, Mirror, Mirrored};
use super::pool::WRITE_EVERY;
use super::queue::WorkQueue;
use crate::cluster::{Cached, Change, Key, Store};
use crate::crd::pool::Role;
use crate::crd::{
    AgentPool, Operation, OperationPhase, OperationType, PodFacts, Run, System, Task, labels, system,
};
use crate::metrics::Metrics;
use crate::plan::dispatch::{Holder, HolderId};

/// The work queue of each controller.
#[derive(Clone, Default)]
pub struct Queues {
    pub tasks: WorkQueue,
    pub runs: WorkQueue,
    pub pools: WorkQueue,
    pub systems: WorkQueue,
    pub operations: WorkQueue,
    pub clean_up: WorkQueue,
}

/// Connects the stores with controllers, dispatcher and mirror.
pub struct Wiring {
    queues: Queues,
    receivers: Receivers,
    metrics: Metrics,
    without_next: Mutex<HashSet<String>>,
    /// Namespaces whose cycle-manager is stopped.
    recovery_stopped: Mutex<HashSet<String>>,
    /// What Runs, pools and Tasks read of each System, as of its last change.
    systems: Mutex<HashMap<Key, SystemView>>,
    /// Runs that are over or gone and still hold their places, by name.
    left: Mutex<HashMap<Key, Vec<HolderId>>>,
}

/// Who hears of changes, besides the controllers.
pub struct Receivers {
    pub facts: UnboundedSender<(String, Fact)>,
    pub mirror: Option<Mirror>,
    pub busy: Arc<Busy>,
    pub books: Arc<Books>,
}

/// What Runs, pools and Tasks read of a System.
#[derive(Clone, Debug, PartialEq)]
struct SystemView {
    generation: Option<i64>,
    armed: bool,
    term: i64,
    stopped: Vec<String>,
}

impl SystemView {
    fn of(system: &System) -> Self {
        Self {
            generation: system.metadata.generation,
            armed: system.is_armed(),
            term: system.term(),
            stopped: system.status.as_ref().map(|s| s.stopped.clone()).unwrap_or_default(),
        }
    }
}

impl Wiring {
    /// Wires to these receivers.
    pub fn new(queues: Queues, receivers: Receivers, metrics: Metrics) -> Self {
        Self {
            queues,
            receivers,
            metrics,
            without_next: Mutex::default(),
            recovery_stopped: Mutex::default(),
            systems: Mutex::default(),
            left: Mutex::default(),
        }
    }

    fn tell(&self, namespace: &str, fact: Fact) {
        // The receiver ends with the process only.
        let _ = self.receivers.facts.send((namespace.to_string(), fact));
    }

    fn mirror(&self, change: Change<Mirrored>) {
        let Some(mirror) = &self.receivers.mirror else { return };
        match change {
            Change::Applied(object) => mirror.applied(Mirrored::clone(&object)),
            Change::Deleted(object) => mirror.deleted(Mirrored::clone(&object)),
        }
    }

    /// A Task wakes its own controller, that of its parent, the Run it names, and the dispatcher.
    pub fn connect_tasks(self: &Arc<Self>, store: &mut Store<Task>, runs: Arc<Store<Run>>) {
        let wiring = self.clone();
        store.on_change(move |change| {
            let (Change::Applied(task) | Change::Deleted(task)) = change;
            wiring.wake_parent(task);
            match change {
                Change::Applied(task) => wiring.task_applied(task),
                Change::Deleted(task) => {
                    wiring.note_next(task, true);
                    wiring.wake_planner(task);
                    let ns = task.key().namespace;
                    wiring.tell(&ns, Fact::TaskGone(task.uid().to_string()));
                    wiring.receivers.books.with(&ns, |books| books.task_gone(task.uid()));
                    for run in runs.by_index(task.uid()) {
                        wiring.queues.runs.add(run.key());
                    }
                }
            }
            wiring.mirror(map(change, Mirrored::Task));
        });
    }

    /// Who waits for what becomes of a Task that carries it on. A parent that has ended absorbs it.
    fn wake_parent(&self, task: &Task) {
        let labels = task.metadata.labels.as_ref();
        if let Some(parent) = labels.and_then(|own| own.get(labels::PARENT)) {
            self.queues.tasks.add(Key::new(&Cached::key(task).namespace, parent));
        }
    }

    fn task_applied(&self, task: &Arc<Task>) {
        self.note_next(task, false);
        self.wake_planner(task);
        let key = task.key();
        self.tell(&key.namespace, Fact::Task(facts::task(task)));
        self.receivers.books.task(&key.namespace, task);
        if task.status.as_ref().is_some_and(|s| s.phase.is_terminal()) {
            self.wake_system(&key.namespace);
        }
        let status = task.status.as_ref();
        if let Some(run) = status.map(|s| s.current_run.as_str()).filter(|r| !r.is_empty()) {
            self.queues.runs.add(Key::new(&key.namespace, run));
        }
        if !status.is_some_and(|s| s.phase.is_terminal()) {
            self.queues.tasks.add(key);
        }
    }

    /// The end of a Task that plans is taken in by the system controller.
    fn wake_planner(&self, task: &Task) {
        if task.spec.role == Role::Planner {
            self.queues.systems.add(Key::new(&task.key().namespace, system::NAME));
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
            // Before the slot is given back: whoever is admitted next must know what this Run has cost.
            wiring.enter(&key.namespace, run, deleted);
            if over || deleted {
                gone.forget(run.uid());
                // Before the slot is free again: what it found out about its credential.
                wiring.run_over(run, deleted);
                wiring.leave(&key, holder);
            } else {
                wiring.occupy(&key.namespace, holder, facts::run_holder(run));
            }
            wiring.queues.tasks.add(Key::new(&key.namespace, &run.spec.task_ref.name));
            wiring.queues.runs.add(key);
            wiring.mirror(map(change, Mirrored::Run));
        });
    }

    /// What a Run that is over says about its credential.
    fn run_over(&self, run: &Run, deleted: bool) {
        let uid = Cached::uid(run).to_string();
        let namespace = run.key().namespace;
        if deleted {
            self.tell(&namespace, Fact::RunGone(uid));
        } else if let Some(ended) = facts::ended_run(run) {
            self.tell(&namespace, Fact::Ended(uid, ended));
        }
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

    /// Enters a Run into the books of its namespace.
    fn enter(&self, namespace: &str, run: &Run, deleted: bool) {
        if deleted {
            self.receivers.books.with(namespace, |books| books.run_gone(run.uid()));
            return;
        }
        let noted = self.receivers.books.run(namespace, run);
        if noted.crashed {
            self.queues.pools.add_after(Key::new(namespace, &run.spec.pool), WRITE_EVERY);
        }
        if noted.moved {
            self.wake_system(namespace);
        }
    }

    /// The System looks at its books soon.
    fn wake_system(&self, namespace: &str) {
        self.queues.systems.add_after(Key::new(namespace, system::NAME), WRITE_EVERY);
    }

    fn occupy(&self, namespace: &str, holder: HolderId, facts: Holder) {
        let pool = Key::new(namespace, &facts.pool);
        if self.receivers.busy.occupy(&holder, pool.clone(), facts.agent.clone()) {
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
        if let Some(pool) = self.receivers.busy.release(holder) {
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

    /// A System wakes its own controller, the dispatcher and the Operations; every Run and pool of its
    /// namespace, and the Tasks whose token budget is used up, only when it changes in what they read:
    /// its numbers change often. When the cycle-manager is started, every Task.
    pub fn connect_systems(
        self: &Arc<Self>,
        store: &mut Store<System>,
        runs: Arc<Store<Run>>,
        pools: Arc<Store<AgentPool>>,
        tasks: Arc<Store<Task>>,
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
                wiring.wake_when_started(object, &tasks);
            }
            wiring.queues.systems.add(key.clone());
            wiring.queues.operations.add(super::operation::key(&key.namespace));
            wiring.mirror(map(change, Mirrored::System));
            if !wiring.has_changed(&key, object, matches!(change, Change::Deleted(_))) {
                return;
            }
            for name in wiring.receivers.books.with(&key.namespace, |books| books.over_budget()) {
                wiring.queues.tasks.add(Key::new(&key.namespace, name));
            }
            wiring.wake_runs(&key.namespace, &runs);
            for pool in pools.by_index(&key.namespace) {
                wiring.queues.pools.add(pool.key());
            }
        });
    }

    /// Wakes every Task of the namespace once its cycle-manager is no longer stopped: what was due
    /// meanwhile happens now.
    fn wake_when_started(&self, system: &System, tasks: &Store<Task>) {
        let namespace = system.key().namespace;
        let mut stopped = self.recovery_stopped.lock().unwrap_or_else(PoisonError::into_inner);
        if system.is_stopped(system::component::CYCLE_MANAGER) {
            stopped.insert(namespace);
        } else if stopped.remove(&namespace) {
            for task in tasks.all().into_iter().filter(|t| is_in(t.as_ref(), &namespace)) {
                self.queues.tasks.add(task.key());
            }
        }
    }

    /// Wakes every Run of the namespace that is not over.
    fn wake_runs(&self, namespace: &str, runs: &Store<Run>) {
        for run in runs.all().into_iter().filter(|r| is_in(r.as_ref(), namespace)) {
            if !run.status.as_ref().is_some_and(|s| s.phase.is_terminal()) {
                self.queues.runs.add(run.key());
            }
        }
    }

    /// An Operation wakes the controller of its kind, and whoever carries it out.
    pub fn connect_operations(
        self: &Arc<Self>,
        store: &mut Store<Operation>,
        runs: Arc<Store<Run>>,
        pools: Arc<Store<AgentPool>>,
    ) {
        let wiring = self.clone();
        store.on_change(move |change| {
            let (Change::Applied(operation) | Change::Deleted(operation)) = change;
            let namespace = operation.key().namespace;
            wiring.mirror(map(change, Mirrored::Operation));
            wiring.queues.operations.add(super::operation::key(&namespace));
            wiring.receivers.books.with(&namespace, |books| match change {
                Change::Applied(operation) => books.operation(operation),
                Change::Deleted(operation) => books.operation_gone(operation.uid()),
            });
            if operation.phase() == OperationPhase::Pending {
                return;
            }
            if operation.phase().is_terminal() {
                wiring.wake_system(&namespace);
            }
            match operation.spec.type_ {
                OperationType::StopAll | OperationType::Stop => wiring.wake_runs(&namespace, &runs),
                OperationType::Start => {
                    for pool in pools.by_index(&namespace) {
                        wiring.queues.pools.add(pool.key());
                    }
                }
                OperationType::Requeue | OperationType::Complete => {
                    if let Some(task) = &operation.spec.task_ref {
                        wiring.queues.tasks.add(Key::new(&namespace, &task.name));
                    }
                }
                OperationType::Arm
                | OperationType::Disarm
                | OperationType::Cleanup
                | OperationType::Preflight
                | OperationType::EndCycle => {}
            }
        });
    }

    /// Whether a System has changed in what others read.
    fn has_changed(&self, key: &Key, system: &System, gone: bool) -> bool {
        let mut systems = self.systems.lock().unwrap_or_else(PoisonError::into_inner);
        if gone {
            systems.remove(key);
            return true;
        }
        let view = SystemView::of(system);
        systems.insert(key.clone(), view.clone()) != Some(view)
    }

    /// Tells the mirror which Tasks live after a complete list.
    pub fn tasks_listed(&self, namespace: &str, live: Vec<Arc<Task>>) {
        self.listed(Kind::Task, namespace, live);
    }

    /// Tells the mirror which Runs live after a complete list.
    pub fn runs_listed(&self, namespace: &str, live: Vec<Arc<Run>>) {
        self.listed(Kind::Run, namespace, live);
    }

    /// Tells the mirror which AgentPools live after a complete list.
    pub fn pools_listed(&self, namespace: &str, live: Vec<Arc<AgentPool>>) {
        self.listed(Kind::Pool, namespace, live);
    }

    /// Tells the mirror which Systems live after a complete list.
    pub fn systems_listed(&self, namespace: &str, live: Vec<Arc<System>>) {
        self.listed(Kind::System, namespace, live);
    }

    /// Tells the mirror which Operations live after a complete list.
    pub fn operations_listed(&self, namespace: &str, live: Vec<Arc<Operation>>) {
        self.listed(Kind::Operation, namespace, live);
    }

    fn listed<K: Cached>(&self, kind: Kind, namespace: &str, live: Vec<Arc<K>>) {
        let Some(mirror) = &self.receivers.mirror else { return };
        let objects = live
            .iter()
            .filter(|object| namespace.is_empty() || is_in(object.as_ref(), namespace))
            .map(|object| (object.uid().to_owned(), i64::try_from(object.version()).unwrap_or(-1)))
            .collect();
        mirror.listed(kind, namespace, objects);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_becomes_of_a_child_wakes_its_parent() {
        let (queues, (facts, _kept)) = (Queues::default(), tokio::sync::mpsc::unbounded_channel());
        let receivers = Receivers { facts, mirror: None, busy: Arc::default(), books: Arc::default() };
        let wiring = Arc::new(Wiring::new(queues.clone(), receivers, Metrics::default()));
        let mut child = Task::new("fix-rw1-x7k2", crate::crd::TaskSpec::default());
        child.metadata.namespace = Some("ns".into());
        wiring.wake_parent(&child);
        child.metadata.labels = Some([(labels::PARENT.to_string(), "fix".to_string())].into());
        wiring.wake_parent(&child);
        assert_eq!(queues.tasks.next().await, Key::new("ns", "fix"), "and one without a parent wakes nobody");
    }
}
