//! Dispatcher: the one place where a limit that spans objects is decided (conventions, rule 10).
//!
//! One serial loop per namespace feeds `plan::dispatch::Queue` with what the stores accept, and
//! carries out its plan: create the Run (the name is the claim) of whatever purpose, then mark the Task
//! with it. It also says on each long-waiting Task why it waits.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::context::Context;
use super::facts::{self, Fact};
use super::queue::WorkQueue;
use super::run::until;
use crate::build::run::{Slot, build_review_run, build_run};
use crate::cluster::write::Created;
use crate::cluster::{Cached, Error, Key};
use crate::crd::task::{ResolvedDependency, condition};
use crate::crd::{Purpose, Run, Task, TaskStatus, set_condition};
use crate::plan::budget;
use crate::plan::dispatch::{Admission, HolderId, Queue, Wait, Waiting, component_of};
use crate::plan::task::admitted;

/// A reason for waiting is written after this time (design, rule 3.12).
const SAY_AFTER: Duration = Duration::from_secs(5);
/// Admissions that are carried out at once.
const CONCURRENCY: usize = 64;
/// Writes about waiting Tasks that are in progress at once; they never hold up an admission.
const NOTES: usize = 8;
/// Wait before an admission that could not be carried out is decided again.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// How long a shutdown waits for admissions that are being carried out.
const FINISH_WITHIN: Duration = Duration::from_secs(10);

/// Which agents of a pool hold a Run or a live Pod. Kept from the same facts as the queue.
#[derive(Default)]
pub struct Busy {
    holders: Mutex<HashMap<HolderId, (Key, String)>>,
    agents: Mutex<HashMap<Key, HashMap<String, usize>>>,
}

impl Busy {
    /// Notes that `holder` sits in slot `agent` of `pool`. Returns whether the pool's count changed.
    pub fn occupy(&self, holder: &HolderId, pool: Key, agent: String) -> bool {
        let before = self
            .holders
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(holder.clone(), (pool.clone(), agent.clone()));
        if before.is_some() {
            return false;
        }
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        let count = agents.entry(pool).or_default().entry(agent).or_default();
        *count += 1;
        *count == 1
    }

    /// Notes that `holder` is gone. Returns the pool whose count changed.
    pub fn release(&self, holder: &HolderId) -> Option<Key> {
        let (pool, agent) = self.holders.lock().unwrap_or_else(PoisonError::into_inner).remove(holder)?;
        let mut agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        let slots = agents.get_mut(&pool)?;
        let count = slots.get_mut(&agent)?;
        *count -= 1;
        if *count > 0 {
            return None;
        }
        slots.remove(&agent);
        Some(pool)
    }

    /// The agents of a pool that are busy.
    pub fn agents(&self, pool: &Key) -> HashSet<String> {
        let agents = self.agents.lock().unwrap_or_else(PoisonError::into_inner);
        agents.get(pool).map(|slots| slots.keys().cloned().collect()).unwrap_or_default()
    }
}

/// The dispatcher of one namespace.
pub struct Dispatcher {
    ctx: Arc<Context>,
    namespace: String,
    queue: Queue,
    /// Tasks by uid, for carrying out a plan.
    names: HashMap<String, String>,
    waits: Waits,
    /// Dependencies found resolved, to be recorded.
    resolved: VecDeque<(String, Vec<ResolvedDependency>)>,
    notes: JoinSet<Note>,
    /// Wakes the task controller.
    tasks: WorkQueue,
    inflight: JoinSet<(String, Result<(), Error>)>,
}

/// Why Tasks wait, until it has been said.
#[derive(Default)]
struct Waits {
    due: BTreeSet<(Timestamp, String)>,
    current: HashMap<String, (Timestamp, Wait)>,
}

impl Waits {
    fn set(&mut self, waiting: Waiting) {
        let due = crate::plan::run::add(waiting.since, SAY_AFTER);
        self.clear(&waiting.task_uid);
        self.due.insert((due, waiting.task_uid.clone()));
        self.current.insert(waiting.task_uid, (due, waiting.wait));
    }

    fn clear(&mut self, uid: &str) {
        if let Some((due, _)) = self.current.remove(uid) {
            self.due.remove(&(due, uid.to_string()));
        }
    }

    /// The next reason that has lasted long enough to be said.
    fn take_due(&mut self, now: Timestamp) -> Option<(String, Wait)> {
        while let Some((at, uid)) = self.due.pop_first() {
            if at > now {
                self.due.insert((at, uid));
                return None;
            }
            if let Some((_, wait)) = self.current.remove(&uid) {
                return Some((uid, wait));
            }
        }
        None
    }
}

impl Dispatcher {
    /// A dispatcher for `namespace`.
    pub fn new(ctx: Arc<Context>, namespace: String, tasks: WorkQueue) -> Self {
        Self {
            ctx,
            namespace,
            queue: Queue::default(),
            names: HashMap::new(),
            waits: Waits::default(),
            resolved: VecDeque::new(),
            notes: JoinSet::new(),
            tasks,
            inflight: JoinSet::new(),
        }
    }

    /// Takes in facts and carries out plans until `shutdown`; then lets what is in flight finish.
    pub async fn run(mut self, mut inbox: UnboundedReceiver<Fact>, shutdown: CancellationToken) {
        loop {
            // Ended admissions first: the facts they caused are in the inbox before they end, so that
            // a reservation is dropped only when the Run that replaces it is about to be known.
            while let Some(done) = self.inflight.try_join_next() {
                self.settle(done);
            }
            while let Ok(fact) = inbox.try_recv() {
                self.take(fact);
            }
            let wake_at = self.pass();
            let now = self.ctx.now();
            let sleep = wake_at.map_or(Duration::from_secs(600), |at| until(at, now));
            tokio::select! {
                // In this order, so that the same events always lead to the same decisions.
                biased;
                () = shutdown.cancelled() => break,
                Some(done) = self.inflight.join_next() => self.settle(done),
                fact = inbox.recv() => match fact {
                    Some(fact) => self.take(fact),
                    None => break,
                },
                Some(done) = self.notes.join_next() => self.noted(done),
                () = tokio::time::sleep(sleep) => {}
            }
        }
        let finish = async { while self.inflight.join_next().await.is_some() {} };
        if tokio::time::timeout(FINISH_WITHIN, finish).await.is_err() {
            tracing::warn!("admissions are left unfinished");
        }
    }

    fn take(&mut self, fact: Fact) {
        match fact {
            Fact::Task(task) => {
                self.names.insert(task.uid.clone(), task.name.clone());
                if !task.is_candidate() {
                    self.waits.clear(&task.uid);
                }
                self.queue.upsert_task(task);
            }
            Fact::TaskGone(uid) => {
                self.names.remove(&uid);
                self.waits.clear(&uid);
                self.queue.remove_task(&uid);
            }
            Fact::System(system) => self.queue.set_system(system),
            Fact::Pool(pool) => self.queue.upsert_pool(pool),
            Fact::PoolGone(name) => self.queue.remove_pool(&name),
            Fact::Occupy(holder, facts) => self.queue.occupy(holder, facts),
            Fact::Release(holder) => self.queue.release(&holder),
            Fact::Ended(run, ended) => self.queue.run_ended(&run, ended),
            Fact::RunGone(run) => self.queue.forget_run(&run),
        }
    }

    /// One pass: plan, carry out, say why Tasks wait. Returns when to look again.
    fn pass(&mut self) -> Option<Timestamp> {
        let now = self.ctx.now();
        if !self.ctx.synced() {
            return Some(crate::plan::run::add(now, Duration::from_millis(50)));
        }
        let mut wake_at = None;
        if self.may_dispatch() && self.inflight.len() < CONCURRENCY {
            let plan = self.queue.plan(now);
            wake_at = plan.wake_at;
            for waiting in plan.waits {
                if matches!(waiting.wait, Wait::RetryAt(_)) {
                    // The task controller has said until when, and why.
                    self.waits.clear(&waiting.task_uid);
                } else {
                    self.waits.set(waiting);
                }
            }
            self.resolved.extend(plan.resolved);
            for admission in plan.admissions {
                self.admit(admission);
            }
        } else if self.inflight.is_empty() {
            wake_at = Some(crate::plan::run::add(now, Duration::from_millis(100)));
        }
        let idle = self.note(now);
        let due = self.waits.due.first().map(|(at, _)| *at).filter(|_| idle);
        [wake_at, due].into_iter().flatten().min()
    }

    /// Starts what is to be written about waiting Tasks, a few at a time: however many wait, the one
    /// that may start does not wait for them. Returns whether another write could be started.
    fn note(&mut self, now: Timestamp) -> bool {
        while let Some(done) = self.notes.try_join_next() {
            self.noted(done);
        }
        while self.notes.len() < NOTES {
            let (said, status) = if let Some((uid, resolved)) = self.resolved.pop_front() {
                (None, self.with_resolved(&uid, &resolved))
            } else if let Some((uid, wait)) = self.waits.take_due(now) {
                (Some(wait.kind()), self.with_reason(&uid, &wait, now))
            } else {
                return true;
            };
            if let Some((task, status)) = status {
                self.notes.spawn(write_note(self.ctx.clone(), task, status, said));
            }
        }
        false
    }

    /// A reason that could not be written is said again later, if it still holds, and so is one that has
    /// become another while it was being written: the queue tells each reason only once.
    fn noted(&mut self, done: Result<Note, tokio::task::JoinError>) {
        let Ok(Note { uid, said, failed }) = done else { return };
        let Some(waiting) = self.queue.waiting(&uid).cloned() else { return };
        if failed || said.is_some_and(|said| said != waiting.wait.kind()) {
            self.waits.set(Waiting { since: self.ctx.now(), ..waiting });
        }
    }

    /// Whether this leader's term is in force, or there is nothing it could guard: without a System
    /// the queue admits nothing and only says so.
    fn may_dispatch(&self) -> bool {
        self.ctx.system(&self.namespace).is_none_or(|system| self.ctx.term(&system).is_some())
    }

    fn admit(&mut self, admission: Admission) {
        self.waits.clear(&admission.task_uid);
        let Some(name) = self.names.get(&admission.task_uid).cloned() else {
            self.queue.abandon(&admission.task_uid, None);
            return;
        };
        if !self.ctx.admitting.begin(&admission.task_uid) {
            // An earlier admission of it is still being carried out; its Run has just been deleted.
            let retry_at = crate::plan::run::add(self.ctx.now(), RETRY_AFTER);
            self.queue.abandon(&admission.task_uid, Some(retry_at));
            return;
        }
        let (ctx, key) = (self.ctx.clone(), Key::new(&self.namespace, name));
        let tasks = self.tasks.clone();
        self.inflight.spawn(async move {
            let uid = admission.task_uid.clone();
            let result = apply_admission(&ctx, &key, admission).await;
            ctx.admitting.end(&uid);
            // The task controller has left it alone meanwhile: now it looks at what has become of it.
            tasks.add(key);
            (uid, result)
        });
    }

    fn settle(&mut self, done: Result<(String, Result<(), Error>), tokio::task::JoinError>) {
        match done {
            // Its Run stands for it by now; one that has ended already does not.
            Ok((uid, Ok(()))) => self.queue.abandon(&uid, None),
            Ok((uid, Err(error))) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                self.ctx.metrics.error("dispatcher", error.class().word());
                tracing::warn!(error = %error, cause, "admission not carried out, will retry");
                self.queue.abandon(&uid, Some(crate::plan::run::add(self.ctx.now(), RETRY_AFTER)));
            }
            Err(error) => tracing::error!(error = %error, "admission ended unexpectedly"),
        }
    }

    fn task(&self, uid: &str) -> Option<Arc<Task>> {
        let key = Key::new(&self.namespace, self.names.get(uid)?);
        self.ctx.tasks.get(&key).filter(|task| Cached::uid(task.as_ref()) == uid)
    }

    /// The status that says why a Task waits, when the kind of reason has changed.
    fn with_reason(&self, uid: &str, wait: &Wait, now: Timestamp) -> Option<(Arc<Task>, TaskStatus)> {
        let task = self.task(uid)?;
        let mut status = task.status.clone().unwrap_or_default();
        let said = facts::is_said(&status, wait);
        if said || !facts::task(&task).is_candidate() || self.ctx.admitting.contains(uid) {
            return None;
        }
        let generation = task.metadata.generation.unwrap_or(0);
        let detail = wait.detail();
        status.next = Some(facts::next(wait));
        set_condition(
            &mut status.conditions,
            condition::PROGRESSING,
            false,
            wait.kind(),
            &detail,
            generation,
            now,
        );
        facts::mark_stalled(&mut status, wait, &detail, generation, now);
        if wait.is_of_task() {
            self.ctx.events.warn(task.as_ref(), wait.kind(), &detail);
        }
        Some((task, status))
    }

    /// The status that records dependencies of a still waiting Task as resolved, so that pruning
    /// cannot undo them.
    fn with_resolved(&self, uid: &str, resolved: &[ResolvedDependency]) -> Option<(Arc<Task>, TaskStatus)> {
        let task = self.task(uid)?;
        let mut status = task.status.clone().unwrap_or_default();
        if !facts::task(&task).is_candidate() {
            return None;
        }
        for dependency in resolved {
            if !status.resolved_dependencies.contains(dependency) {
                status.resolved_dependencies.push(dependency.clone());
            }
        }
        Some((task, status))
    }
}

/// What became of a write about a waiting Task.
struct Note {
    uid: String,
    /// The kind of the reason, unless only dependencies were recorded.
    said: Option<&'static str>,
    failed: bool,
}

/// Writes a reason or a record.
async fn write_note(
    ctx: Arc<Context>,
    task: Arc<Task>,
    status: TaskStatus,
    said: Option<&'static str>,
) -> Note {
    let uid = Cached::uid(task.as_ref()).to_string();
    match ctx.writer.patch_status(task.as_ref(), task.status.as_ref(), &status).await {
        Ok(Some(written)) => ctx.tasks.wrote(written),
        Ok(None) => {}
        Err(error) => {
            tracing::debug!(error = %error, "reason for waiting not written, will retry");
            return Note { uid, said, failed: true };
        }
    }
    Note { uid, said, failed: false }
}

/// Creates the Run and marks the Task Running. The second write may fail: then the Task is read anew,
/// and the task controller finds the Run and marks it.
async fn apply_admission(ctx: &Context, key: &Key, admission: Admission) -> Result<(), Error> {
    let task = ctx.tasks.get(key).filter(|t| is_admissible(ctx, t, &admission));
    let Some(task) = task else { return Err(gone(key)) };
    let (Some(system), Some(pool)) =
        (ctx.system(&key.namespace), ctx.pools.get(&Key::new(&key.namespace, &admission.pool)))
    else {
        return Err(gone(key));
    };
    let Some(term) = ctx.term(&system) else { return Err(gone(key)) };
    // Stopped, crashed or beyond a budget since the plan was made.
    let stopped =
        [component_of(admission.purpose), &admission.agent].iter().any(|name| system.is_stopped(name));
    let runs = ctx.runs.by_index(&admission.task_uid);
    let status = task.status.clone().unwrap_or_default();
    let budgets = &system.spec.budgets;
    let spent = budget::is_spent(budgets, &status, runs.iter().map(AsRef::as_ref));
    if stopped || spent || ctx.books.refuses(&system, &pool, &admission.agent, ctx.now()) {
        return Err(gone(key));
    }
    let slot = Slot {
        agent: admission.agent,
        lane: admission.lane,
        target_areas: admission.areas,
        term,
        tokens: budget::left(budgets, runs.iter().map(AsRef::as_ref)),
    };
    let run = match admission.purpose {
        Purpose::Execute | Purpose::Plan => build_run(&task, &system, &pool, &slot),
        Purpose::Judge | Purpose::Merge => build_review_run(&task, &system, &pool, &slot, admission.purpose),
    };
    let run = match ctx.writer.create_surely(&run).await? {
        Created::New(run) => run,
        Created::Exists(existing) if is_ours(&existing, &task) => *existing,
        Created::Exists(_) => return Err(gone(key)),
    };
    ctx.metrics.admissions.inc();
    ctx.runs.wrote(run.clone());
    let status = admitted(&task, &run, &admission.resolved, ctx.now());
    match ctx.writer.patch_status(task.as_ref(), task.status.as_ref(), &status).await {
        Ok(Some(written)) => ctx.tasks.wrote(written),
        Ok(None) => {}
        Err(error) => {
            // Our copy of the Task is old: with the present one the task controller goes on.
            tracing::debug!(error = %error, "task not marked");
            if let Some(present) = ctx.writer.read::<Task>(&key.namespace, &key.name).await? {
                ctx.tasks.wrote(present);
            }
        }
    }
    Ok(())
}

/// Whether this is still the Task that was admitted, waiting for the same and without a Run in progress.
fn is_admissible(ctx: &Context, task: &Task, admission: &Admission) -> bool {
    let uid = admission.task_uid.as_str();
    let present = facts::task(task);
    let wanted = present.is_candidate() && present.purpose == admission.purpose;
    let in_progress = |run: &Arc<Run>| run.status.as_ref().is_none_or(|s| !s.phase.is_terminal());
    Cached::uid(task) == uid && wanted && !ctx.runs.by_index(uid).iter().any(in_progress)
}

fn is_ours(run: &Run, task: &Task) -> bool {
    let uid = Cached::uid(task);
    run.owner_references().iter().any(|o| o.uid == uid && o.controller == Some(true))
}

/// What the plan was made of is no longer there: plan again.
fn gone(key: &Key) -> Error {
    Error::Stale { name: key.to_string() }
}
