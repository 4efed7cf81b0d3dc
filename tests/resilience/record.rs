//! Everything that happened to the objects of one namespace, in the order of etcd: a watch per kind,
//! merged by resourceVersion. Writes nothing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher::Event;
use kube::{Client, ResourceExt};
use opentiger::crd::{AgentPool, Run, System, Task, TaskPhase, TaskStatus};

use super::support::follow::follow;

/// An object as it was at one moment.
#[derive(Clone)]
pub enum Seen {
    Task(Arc<Task>),
    Run(Arc<Run>),
    Pod(Arc<Pod>),
    Pool(Arc<AgentPool>),
    System(Arc<System>),
}

/// One change.
#[derive(Clone)]
pub struct Entry {
    pub version: u64,
    /// When it was seen here.
    pub at: Instant,
    pub deleted: bool,
    pub seen: Seen,
}

/// A growing history and what is present; cheap to clone.
#[derive(Clone, Default)]
pub struct Record {
    entries: Arc<Mutex<Vec<Entry>>>,
    present: Arc<Mutex<Present>>,
}

type Named<K> = HashMap<String, Arc<K>>;

/// What exists now, by name.
#[derive(Default)]
struct Present {
    tasks: Named<Task>,
    runs: Named<Run>,
    pods: Named<Pod>,
}

impl Present {
    fn apply(&mut self, entry: &Entry) {
        match &entry.seen {
            Seen::Task(task) => set(&mut self.tasks, task, entry.deleted),
            Seen::Run(run) => set(&mut self.runs, run, entry.deleted),
            Seen::Pod(pod) => set(&mut self.pods, pod, entry.deleted),
            Seen::Pool(_) | Seen::System(_) => {}
        }
    }
}

fn set<K: kube::Resource>(present: &mut Named<K>, object: &Arc<K>, deleted: bool) {
    if deleted {
        present.remove(&object.name_any());
    } else {
        present.insert(object.name_any(), object.clone());
    }
}

impl Record {
    /// Follows a namespace; returns once every kind has been listed, so that nothing after is missed.
    pub async fn follow(client: &Client, namespace: &str) -> Self {
        let record = Self::default();
        record.watch::<Task>(client, namespace, Seen::Task).await;
        record.watch::<Run>(client, namespace, Seen::Run).await;
        record.watch::<Pod>(client, namespace, Seen::Pod).await;
        record.watch::<AgentPool>(client, namespace, Seen::Pool).await;
        record.watch::<System>(client, namespace, Seen::System).await;
        record
    }

    async fn watch<K>(&self, client: &Client, namespace: &str, wrap: fn(Arc<K>) -> Seen)
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned
            + Send
            + Sync
            + 'static,
    {
        let record = self.clone();
        let see = move |event: Event<K>| {
            let (object, deleted) = match event {
                Event::Apply(object) | Event::InitApply(object) => (object, false),
                Event::Delete(object) => (object, true),
                Event::Init | Event::InitDone => return,
            };
            let version = object.resource_version().and_then(|v| v.parse().ok()).expect("a number");
            let entry = Entry { version, at: Instant::now(), deleted, seen: wrap(Arc::new(object)) };
            record.present.lock().unwrap().apply(&entry);
            record.entries.lock().unwrap().push(entry);
        };
        follow(client, namespace, see).await;
    }

    /// All changes so far, in the order in which they happened.
    pub fn history(&self) -> Vec<Entry> {
        let mut entries = self.entries.lock().unwrap().clone();
        entries.sort_by_key(|entry| entry.version);
        entries
    }

    /// The present Tasks by name.
    pub fn tasks(&self) -> Named<Task> {
        self.present.lock().unwrap().tasks.clone()
    }

    /// The status of a Task, the default one when it does not exist.
    pub fn status(&self, task: &str) -> TaskStatus {
        let present = self.present.lock().unwrap();
        present.tasks.get(task).and_then(|t| t.status.clone()).unwrap_or_default()
    }

    /// Every status that a Task has had.
    pub fn statuses(&self, task: &str) -> Vec<TaskStatus> {
        let history = self.history().into_iter().filter_map(|entry| match entry.seen {
            Seen::Task(seen) if seen.name_any() == task => seen.status.clone(),
            _ => None,
        });
        history.collect()
    }

    /// How many Tasks are Done.
    pub fn done(&self) -> usize {
        let present = self.present.lock().unwrap();
        present.tasks.values().filter(|task| is_done(task)).count()
    }

    /// The present Runs by name.
    pub fn runs(&self) -> Named<Run> {
        self.present.lock().unwrap().runs.clone()
    }

    /// The present Pods by name.
    pub fn pods(&self) -> Named<Pod> {
        self.present.lock().unwrap().pods.clone()
    }

    /// Uids of the Tasks and Runs that were deleted.
    pub fn deleted(&self) -> Vec<String> {
        let entries = self.entries.lock().unwrap();
        let gone = entries.iter().filter(|entry| entry.deleted).filter_map(|entry| match &entry.seen {
            Seen::Task(task) => task.uid(),
            Seen::Run(run) => run.uid(),
            Seen::Pod(_) | Seen::Pool(_) | Seen::System(_) => None,
        });
        gone.collect()
    }
}

/// Whether a Task is Done.
pub fn is_done(task: &Task) -> bool {
    task.status.as_ref().is_some_and(|s| s.phase == TaskPhase::Done)
}
