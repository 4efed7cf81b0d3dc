//! Objects as a watch delivers them: builders for the mirror's and the API's tests.
#![allow(dead_code, reason = "each test program uses a part")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::ObjectMeta;
use opentiger::controller::mirror::{Cluster, Kind, Mirrored, Page};
use opentiger::crd::run::TaskRef;
use opentiger::crd::task::Transition;
use opentiger::crd::{
    AgentPool, Role, Run, RunPhase, RunSpec, RunStatus, Task, TaskPhase, TaskSpec, TaskStatus, TokenUsage,
};
use uuid::Uuid;

pub const NAMESPACE: &str = "tiger";

/// 2026-02-13T14:00:00Z and `seconds`.
pub fn at(seconds: i64) -> Timestamp {
    "2026-02-13T14:00:00Z".parse::<Timestamp>().expect("time") + SignedDuration::from_secs(seconds)
}

pub fn uid(n: u128) -> Uuid {
    Uuid::from_u128(0x5f0c_3d1e_0000_4000_8000_0000_0000_0000 + n)
}

pub fn meta(name: &str, uid: Uuid, version: i64, created: i64) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.into()),
        namespace: Some(NAMESPACE.into()),
        uid: Some(uid.to_string()),
        resource_version: Some(version.to_string()),
        generation: Some(1),
        creation_timestamp: Some(Time(at(created))),
        ..ObjectMeta::default()
    }
}

/// A Task as it is at `version`, with one transition per number in `sequences`.
pub fn task(name: &str, n: u128, version: i64) -> Task {
    let mut task = Task::new(
        name,
        TaskSpec {
            title: format!("Title of {name}"),
            goal: "tests pass".into(),
            kind: "code".into(),
            allowed_paths: vec!["src/**".into()],
            commands: vec!["make test".into()],
            timebox: opentiger::crd::GoDuration::from_secs(3600),
            ..TaskSpec::default()
        },
    );
    task.metadata = meta(name, uid(n), version, i64::try_from(n).expect("small"));
    task.status = Some(TaskStatus::default());
    task
}

pub fn status(task: &mut Task) -> &mut TaskStatus {
    task.status.get_or_insert_default()
}

/// Adds transitions to `phase` with the numbers `sequences`.
pub fn with_transitions(mut task: Task, sequences: std::ops::RangeInclusive<i64>, phase: TaskPhase) -> Task {
    let status = status(&mut task);
    status.phase = phase;
    status.transitions.extend(sequences.map(|sequence| Transition {
        sequence,
        at: at(1000 + sequence),
        phase,
        block_reason: None,
        event: "task.requeued".into(),
        reason: "cooldown_retry".into(),
        run: String::new(),
    }));
    task
}

/// A Run of Task `task_n` in slot `agent` of pool `worker`.
pub fn run(name: &str, n: u128, version: i64, task_n: u128, agent: &str, phase: RunPhase) -> Run {
    let mut run = Run::new(
        name,
        RunSpec {
            task_ref: TaskRef { name: "fix".into(), uid: uid(task_n).to_string() },
            attempt: 1,
            pool: "worker".into(),
            agent: agent.into(),
            lane: "feature".into(),
            ..RunSpec::default()
        },
    );
    run.metadata = meta(name, uid(n), version, i64::try_from(n).expect("small"));
    let mut status = RunStatus { phase, ..RunStatus::default() };
    if phase == RunPhase::Success {
        status.branch = format!("agent/{name}");
        status.head_commit = "0123456789abcdef".into();
        status.changed_files = Some(2);
        status.tokens = Some(TokenUsage { input: 10, output: 5, total: 15, ..Default::default() });
    }
    if phase.is_terminal() {
        status.started_at = Some(at(2000));
        status.finished_at = Some(at(2100));
    }
    if phase == RunPhase::Failed {
        status.failure_code = "verification_command_failed".into();
        status.summary = "2 tests failed".into();
    }
    run.status = Some(status);
    run
}

/// Pool `worker` with `replicas` slots.
pub fn pool(n: u128, version: i64, replicas: i32, suspend: bool) -> AgentPool {
    let mut pool = AgentPool::new(
        "worker",
        opentiger::crd::AgentPoolSpec {
            role: Role::Worker,
            replicas,
            suspend,
            image: "example".into(),
            ..opentiger::crd::AgentPoolSpec::default()
        },
    );
    pool.metadata = meta("worker", uid(n), version, 0);
    pool
}

pub fn mirrored(task: &Task) -> Mirrored {
    Mirrored::Task(Arc::new(task.clone()))
}

pub fn mirrored_run(run: &Run) -> Mirrored {
    Mirrored::Run(Arc::new(run.clone()))
}

pub fn mirrored_pool(pool: &AgentPool) -> Mirrored {
    Mirrored::Pool(Arc::new(pool.clone()))
}

/// Kind, namespace and name.
type Key = (Kind, String, String);

/// A cluster in memory: what lists and reads of single objects answer.
#[derive(Clone, Default)]
pub struct Objects {
    objects: Arc<Mutex<BTreeMap<Key, Mirrored>>>,
}

impl Objects {
    /// Creates or changes an object.
    pub fn put(&self, object: Mirrored) {
        let key = (object.kind(), object.namespace().to_owned(), object.name());
        self.objects.lock().expect("lock").insert(key, object);
    }

    /// Takes an object away.
    pub fn remove(&self, object: &Mirrored) {
        let key = (object.kind(), object.namespace().to_owned(), object.name());
        self.objects.lock().expect("lock").remove(&key);
    }

    /// Uids and versions, as a watch's first list hands them to the mirror.
    pub fn list(&self, kind: Kind) -> Vec<(String, i64)> {
        self.of(kind, "").iter().map(|o| (o.uid(), o.version())).collect()
    }

    /// The objects of a kind.
    pub fn of(&self, kind: Kind, namespace: &str) -> Vec<Mirrored> {
        let objects = self.objects.lock().expect("lock");
        let of = |k: &Key| k.0 == kind && (namespace.is_empty() || k.1 == namespace);
        objects.iter().filter(|(k, _)| of(k)).map(|(_, o)| o.clone()).collect()
    }
}

impl Cluster for Objects {
    fn scopes(&self) -> Vec<String> {
        vec![String::new()]
    }

    fn page<'a>(
        &'a self,
        kind: Kind,
        namespace: &'a str,
        after: Option<String>,
    ) -> BoxFuture<'a, Result<Page, kube::Error>> {
        // Pages of two, so that there is more than one.
        let from: usize = after.map_or(0, |n| n.parse().expect("number"));
        let all = self.of(kind, namespace);
        let next = (from + 2 < all.len()).then(|| (from + 2).to_string());
        let objects = all.into_iter().skip(from).take(2).collect();
        async move { Ok(Page { objects, next }) }.boxed()
    }

    fn get<'a>(
        &'a self,
        kind: Kind,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<Option<Mirrored>, kube::Error>> {
        let key = (kind, namespace.to_owned(), name.to_owned());
        let found = self.objects.lock().expect("lock").get(&key).cloned();
        async move { Ok(found) }.boxed()
    }
}
