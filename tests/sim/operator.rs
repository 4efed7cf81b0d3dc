//! One operator process: the product's own stores, wiring, queues, controllers and dispatcher, on a
//! runtime of its own whose clock the simulation moves. Its death is the end of that runtime.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU8, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use opentiger::cluster::lean::{FromParts, Lean};
use opentiger::cluster::{Cached, Key, Store};
use opentiger::config::{DatabaseOptions, OperatorConfig};
use opentiger::controller::context::{Clock, Context};
use opentiger::controller::dispatcher::Busy;
use opentiger::controller::facts::Fact;
use opentiger::controller::wiring::Queues;
use opentiger::controller::{operator, system};
use opentiger::crd::{AgentPool, Operation, PodFacts, Run, System, Task};
use opentiger::metrics::Metrics;
use serde::Deserialize;
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::server::{Broken, Event, Kind, NAMESPACE, Server, WATCHED, text};
use super::wire::{Arrivals, Call, Wire};

/// The wall clock of the simulated world, in milliseconds.
pub type WorldClock = Arc<AtomicI64>;

/// The time it shows.
pub fn time_of(clock: &WorldClock) -> Timestamp {
    Timestamp::from_millisecond(clock.load(Ordering::Relaxed)).unwrap_or_default()
}

/// A watch of one kind.
enum Feed {
    /// Not begun.
    Idle,
    /// A complete list was read; the watch goes on behind it.
    Listing {
        objects: Vec<Arc<Value>>,
        next: usize,
    },
    Watching {
        next: usize,
    },
}

/// How far an operator has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    TakingOver,
    Listing,
    Running,
}

/// What an operator believed when it asked for a Run: bounds may be judged by it, because no watch is
/// ever up to date.
#[derive(Clone, Debug, Default)]
pub struct Belief {
    pub system: Option<Arc<System>>,
    pub pools: BTreeMap<String, i32>,
}

/// One operator process.
pub struct Operator {
    pub id: usize,
    pub stage: Stage,
    ctx: Arc<Context>,
    queues: Queues,
    busy: Arc<Busy>,
    inbox: Option<UnboundedReceiver<(String, Fact)>>,
    feeds: BTreeMap<Kind, Feed>,
    stop: CancellationToken,
    stopping: CancellationToken,
    tasks: TaskTracker,
    taken_over: Arc<AtomicU8>,
    arrivals: Arrivals,
    /// The last field: everything that runs on it ends with it.
    runtime: Runtime,
}

impl Operator {
    /// Starts a process that has just been elected.
    pub fn start(id: usize, clock: &WorldClock) -> Self {
        let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let arrivals = Arrivals::default();
        let stop = CancellationToken::new();
        let (queues, busy) = (Queues::default(), Arc::new(Busy::default()));
        let (facts, inbox) = unbounded_channel();
        let guard = runtime.enter();
        let client = Client::new(Wire { from: id, arrivals: arrivals.clone() }, NAMESPACE);
        let read = clock.clone();
        let (ctx, _) = operator::assemble(
            &client,
            &config(),
            &[NAMESPACE.to_string()],
            None,
            &Metrics::default(),
            &stop,
            &queues,
            &busy,
            facts,
            None,
            Clock::new(move || time_of(&read)),
        );
        let taken_over = Arc::new(AtomicU8::new(0));
        let (c, done) = (ctx.clone(), taken_over.clone());
        runtime.spawn(async move {
            let ok = system::take_over(&c, &client, Some(NAMESPACE)).await.is_ok();
            done.store(if ok { 1 } else { 2 }, Ordering::Relaxed);
        });
        drop(guard);
        let feeds = WATCHED.iter().map(|kind| (*kind, Feed::Idle)).collect();
        let stopping = stop.child_token();
        let tasks = TaskTracker::new();
        let stage = Stage::TakingOver;
        Self {
            id,
            stage,
            ctx,
            queues,
            busy,
            inbox: Some(inbox),
            feeds,
            stop,
            stopping,
            tasks,
            taken_over,
            arrivals,
            runtime,
        }
    }

    /// Lets everything run that can, and returns the requests it has sent.
    pub fn poll(&mut self) -> Vec<Call> {
        self.runtime.block_on(async {
            // A round runs whatever was ready before it; an answer takes a few to reach its caller.
            for _ in 0..3 {
                tokio::task::yield_now().await;
            }
        });
        if self.stage == Stage::TakingOver && self.taken_over.load(Ordering::Relaxed) == 1 {
            self.stage = Stage::Listing;
        }
        if self.stage == Stage::Listing && self.ctx.synced() {
            self.stage = Stage::Running;
            if let Some(inbox) = self.inbox.take() {
                let guard = self.runtime.enter();
                operator::start_controllers(
                    &self.tasks,
                    &self.ctx,
                    &self.queues,
                    &self.busy,
                    inbox,
                    &self.stopping,
                );
                drop(guard);
            }
            return self.poll();
        }
        std::mem::take(&mut *self.arrivals.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether the process has given up: it has seen another leader, or could not take over.
    pub fn has_ended(&self) -> bool {
        self.stop.is_cancelled() || self.taken_over.load(Ordering::Relaxed) == 2
    }

    /// Moves its timers.
    pub fn advance(&mut self, by: Duration) {
        self.runtime.block_on(tokio::time::advance(by));
    }

    /// What it believes of the bounds of admission.
    pub fn belief(&self) -> Belief {
        let pools = self.ctx.pools.all();
        Belief {
            system: self.ctx.system(NAMESPACE),
            pools: pools
                .iter()
                .map(|p| {
                    let slots = if p.spec.suspend { 0 } else { p.spec.replicas };
                    (p.metadata.name.clone().unwrap_or_default(), slots)
                })
                .collect(),
        }
    }

    /// Kinds for which something waits to be delivered.
    pub fn backlog(&self, server: &Server) -> Vec<Kind> {
        if self.stage == Stage::TakingOver {
            return Vec::new();
        }
        let waits = |feed: &Feed, kind: Kind| match feed {
            Feed::Idle | Feed::Listing { .. } => true,
            Feed::Watching { next } => *next < server.log[&kind].len(),
        };
        self.feeds.iter().filter(|(kind, feed)| waits(feed, **kind)).map(|(kind, _)| *kind).collect()
    }

    /// Delivers the next event of `kind`, or the next part of its list.
    pub fn deliver(&mut self, kind: Kind, server: &Server) {
        let log = &server.log[&kind];
        let feed = self.feeds.insert(kind, Feed::Idle).unwrap_or(Feed::Idle);
        let next = match feed {
            Feed::Idle => {
                self.list_started(kind);
                Feed::Listing { objects: server.all(kind), next: log.len() }
            }
            Feed::Listing { objects, next } => {
                for object in objects {
                    self.take(kind, &Event { deleted: false, object });
                }
                self.list_done(kind, server);
                Feed::Watching { next }
            }
            Feed::Watching { next } => match log.get(next) {
                Some(event) => {
                    let going = !text(&event.object, "/metadata/deletionTimestamp").is_empty();
                    let broken = server.broken == Broken::Terminating && kind == Kind::Pod && going;
                    self.take(
                        kind,
                        &Event { deleted: event.deleted || broken, object: event.object.clone() },
                    );
                    Feed::Watching { next: next + 1 }
                }
                None => Feed::Watching { next },
            },
        };
        self.feeds.insert(kind, next);
    }

    /// The watch of `kind` breaks; it begins again with a list.
    pub fn break_watch(&mut self, kind: Kind) {
        if self.stage == Stage::Running {
            self.feeds.insert(kind, Feed::Idle);
        }
    }

    fn take(&self, kind: Kind, event: &Event) {
        match kind {
            Kind::System => give(&self.ctx.systems, event, |o: System| o),
            Kind::Pool => give(&self.ctx.pools, event, |o: AgentPool| o),
            Kind::Task => give(&self.ctx.tasks, event, |o: Task| o),
            Kind::Run => give(&self.ctx.runs, event, |o: Run| o),
            Kind::Pod => give(&self.ctx.pods, event, |o: Pod| PodFacts::from(o)),
            Kind::Operation => give(&self.ctx.operations, event, |o: Operation| o),
            Kind::NetworkPolicy => {}
        }
    }

    fn list_started(&self, kind: Kind) {
        match kind {
            Kind::System => self.ctx.systems.list_started(NAMESPACE),
            Kind::Pool => self.ctx.pools.list_started(NAMESPACE),
            Kind::Task => self.ctx.tasks.list_started(NAMESPACE),
            Kind::Run => self.ctx.runs.list_started(NAMESPACE),
            Kind::Pod => self.ctx.pods.list_started(NAMESPACE),
            Kind::Operation => self.ctx.operations.list_started(NAMESPACE),
            Kind::NetworkPolicy => {}
        }
    }

    fn list_done(&self, kind: Kind, server: &Server) {
        match kind {
            Kind::System => end_list(&self.ctx.systems, kind, server, |o: System| o),
            Kind::Pool => end_list(&self.ctx.pools, kind, server, |o: AgentPool| o),
            Kind::Task => end_list(&self.ctx.tasks, kind, server, |o: Task| o),
            Kind::Run => end_list(&self.ctx.runs, kind, server, |o: Run| o),
            Kind::Pod => end_list(&self.ctx.pods, kind, server, |o: Pod| PodFacts::from(o)),
            Kind::Operation => end_list(&self.ctx.operations, kind, server, |o: Operation| o),
            Kind::NetworkPolicy => {}
        }
    }
}

/// Decodes an object as the operator's watches do.
pub fn decode<K: FromParts>(object: &Value) -> K {
    Lean::<K>::deserialize(object).unwrap_or_else(|e| panic!("{e}: {object}")).0
}

fn give<K: FromParts, C: Cached>(store: &Store<C>, event: &Event, convert: fn(K) -> C) {
    let object = convert(decode::<K>(&event.object));
    if event.deleted {
        store.delete(object);
    } else {
        store.apply(object);
    }
}

/// Ends a list as `cluster::watch` does: what was written meanwhile and not named is read.
fn end_list<K: FromParts, C: Cached>(store: &Store<C>, kind: Kind, server: &Server, convert: fn(K) -> C) {
    let done = store.list_done(NAMESPACE);
    assert!(!done.went_back, "the server never goes back");
    for Key { namespace: _, name } in done.doubtful {
        match server.get(kind, &name) {
            Some(object) => store.apply(convert(decode::<K>(&object))),
            None => {
                if let Some(object) = store.get(&Key::new(NAMESPACE, name)) {
                    store.delete(C::clone(&object));
                }
            }
        }
    }
}

fn config() -> OperatorConfig {
    OperatorConfig {
        namespaces: vec![NAMESPACE.into()],
        lease_namespace: NAMESPACE.into(),
        identity: "sim".into(),
        lease_seconds: 15,
        lease_grace_seconds: 10,
        runner_image: "runner".into(),
        runner_image_pull_policy: "IfNotPresent".into(),
        api_url: None,
        metrics_listen: ([127, 0, 0, 1], 0).into(),
        keep_logs: false,
        database_url: None,
        database: DatabaseOptions::default(),
        database_retention_days: None,
    }
}
