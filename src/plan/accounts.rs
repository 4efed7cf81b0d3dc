//! What one namespace adds up to: every change of a Run or a Task is entered once, and budgets,
//! cycles, monitors, restarts and retention read their sums from here. Nothing is computed over all
//! objects; an entry costs the logarithm of their number.
//!
//! A Run counts when it is first seen to have ended, once for each uid (invariant S27): a replayed
//! watch, a repeated list or a later change of an ended Run changes no sum.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt;

use super::budget::{self, Ledger};
use super::cycle::{Ended, Tally};
use super::monitor::{Outcome, Windows};
use super::restart::Crash;
use super::retention::{Finished, Index, TaskNode};
use super::run::{add, reason};
use crate::crd::run::condition::POD_STARTED;
use crate::crd::system::SystemStatus;
use crate::crd::task::condition::PROGRESSING;
use crate::crd::{BlockReason, Operation, Purpose, Role, Run, RunPhase, Task, TaskPhase, labels};

/// Longest window of `autoRestart` (its schema's bound): older crashes are settled.
const CRASHES_KEPT: Duration = Duration::from_secs(24 * 3600 + 60);

/// A Run in progress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InProgress {
    pub name: String,
    pub agent: String,
    pub since: Timestamp,
    pub timebox: Option<Duration>,
    /// Since when its node does not confirm the end of its Pod.
    pub unanswered: Option<Timestamp>,
}

/// A Run as it entered the books.
#[derive(Clone, Copy, Debug)]
struct Entry {
    created: Timestamp,
    ended: Option<(Timestamp, Ended)>,
}

/// What an entry has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Noted {
    /// A Run was admitted or has ended.
    pub moved: bool,
    /// Its agent has crashed.
    pub crashed: bool,
}

/// The books of a namespace.
#[derive(Debug)]
pub struct Accounts {
    /// When this operator took over.
    since: Timestamp,
    runs: HashMap<String, Entry>,
    in_progress: HashMap<String, InProgress>,
    by_age: BTreeSet<(Timestamp, String)>,
    busy_since: Option<Timestamp>,
    ledger: Ledger,
    tally: Tally,
    cycle_start: Option<Timestamp>,
    restored: bool,
    windows: Windows,
    crashes: HashMap<String, BTreeSet<Crash>>,
    retention: Index,
    awaiting_judge: BTreeSet<String>,
    ready: BTreeMap<Role, BTreeSet<(Timestamp, String)>>,
    ready_of: HashMap<String, (Role, Timestamp)>,
    over_budget: HashMap<String, String>,
}

impl Accounts {
    /// Empty books, opened at `since`.
    pub fn new(since: Timestamp) -> Self {
        Self {
            since,
            runs: HashMap::new(),
            in_progress: HashMap::new(),
            by_age: BTreeSet::new(),
            busy_since: None,
            ledger: Ledger::default(),
            tally: Tally::default(),
            cycle_start: None,
            restored: false,
            windows: Windows::default(),
            crashes: HashMap::new(),
            retention: Index::default(),
            awaiting_judge: BTreeSet::new(),
            ready: BTreeMap::new(),
            ready_of: HashMap::new(),
            over_budget: HashMap::new(),
        }
    }

    /// A Run as it is now.
    pub fn run(&mut self, run: &Run, now: Timestamp) -> Noted {
        let uid = run.metadata.uid.clone().unwrap_or_default();
        let created = run.metadata.creation_timestamp.as_ref().map_or(now, |t| t.0);
        let known = self.runs.get(&uid).copied();
        let mut noted = Noted { moved: known.is_none(), crashed: false };
        if known.is_none() {
            self.runs.insert(uid.clone(), Entry { created, ended: None });
        }
        let ended = run.status.as_ref().is_some_and(|status| status.phase.is_terminal());
        if !ended && known.is_none_or(|entry| entry.ended.is_none()) {
            self.progress(run, &uid, created);
        }
        if known.is_none() && self.cycle_start.is_some_and(|start| created >= start) {
            self.tally.admitted(created, self.in_progress.len());
        }
        if ended && known.is_none_or(|entry| entry.ended.is_none()) {
            noted.moved = true;
            noted.crashed = self.end(run, &uid, created, now);
        }
        noted
    }

    fn progress(&mut self, run: &Run, uid: &str, created: Timestamp) {
        let unanswered = run
            .status
            .iter()
            .flat_map(|status| &status.conditions)
            .find(|c| c.type_ == POD_STARTED && c.status == "False" && c.reason == reason::TERMINATING);
        let entry = InProgress {
            name: run.name_any(),
            agent: run.spec.agent.clone(),
            since: created,
            timebox: run.spec.inputs.timebox.parse(),
            unanswered: unanswered.map(|c| c.last_transition_time),
        };
        if self.in_progress.is_empty() {
            self.busy_since = Some(created);
        }
        self.by_age.insert((created, uid.to_string()));
        self.in_progress.insert(uid.to_string(), entry);
    }

    fn settle(&mut self, uid: &str) {
        if let Some(entry) = self.in_progress.remove(uid) {
            self.by_age.remove(&(entry.since, uid.to_string()));
        }
        if self.in_progress.is_empty() {
            self.busy_since = None;
        }
    }

    /// Enters the end of a Run. Returns whether its agent has crashed.
    fn end(&mut self, run: &Run, uid: &str, created: Timestamp, now: Timestamp) -> bool {
        self.settle(uid);
        let Some(status) = run.status.as_ref() else { return false };
        let finished = status.finished_at.unwrap_or(now);
        let started = status.started_at.unwrap_or(created);
        let tokens = status.tokens.map_or(0, |tokens| tokens.total);
        let seconds = finished.duration_since(started).as_secs();
        let ended = Ended { purpose: run.spec.purpose, phase: status.phase, tokens, seconds };
        self.runs.insert(uid.to_string(), Entry { created, ended: Some((finished, ended)) });
        self.ledger.count(uid, finished, tokens);
        let attempt = matches!(run.spec.purpose, Purpose::Execute | Purpose::Plan);
        let outcome = match status.phase {
            RunPhase::Success if attempt => Outcome::Success,
            RunPhase::Failed if attempt => Outcome::Failed,
            RunPhase::Success | RunPhase::Failed | RunPhase::Cancelled | RunPhase::Running => Outcome::Other,
        };
        self.windows.count(started, finished, outcome, tokens);
        if self.cycle_start.is_some() {
            self.tally.ended(ended);
        }
        let entry = Finished { at: finished, uid: uid.to_string(), name: run.name_any() };
        self.retention.run_ended(entry, &run.spec.task_ref.uid);
        if status.agent_crash.is_none() {
            return false;
        }
        let crash = Crash { at: finished, run_uid: uid.to_string(), agent: run.spec.agent.clone() };
        let crashes = self.crashes.entry(run.spec.pool.clone()).or_default();
        while crashes.first().is_some_and(|oldest| add(oldest.at, CRASHES_KEPT) < now) {
            crashes.pop_first();
        }
        crashes.insert(crash);
        true
    }

    /// A Run is gone. What it has cost stays counted.
    pub fn run_gone(&mut self, uid: &str) {
        self.settle(uid);
        self.runs.remove(uid);
        self.retention.run_gone(uid);
    }

    /// A Task as it is now.
    pub fn task(&mut self, task: &Task) {
        let uid = task.metadata.uid.clone().unwrap_or_default();
        let status = task.status.as_ref();
        let phase = status.map_or(TaskPhase::Queued, |status| status.phase);
        let block = status.and_then(|status| status.block_reason);
        self.retention.task(node(task, phase));
        if phase == TaskPhase::Blocked && block == Some(BlockReason::AwaitingJudge) {
            self.awaiting_judge.insert(uid.clone());
        } else {
            self.awaiting_judge.remove(&uid);
        }
        if status.is_some_and(budget::is_blocked) {
            self.over_budget.insert(uid.clone(), task.name_any());
        } else {
            self.over_budget.remove(&uid);
        }
        let ready = phase == TaskPhase::Queued
            && !task.spec.cancel
            && status.is_none_or(|status| {
                let told = |c: &crate::crd::Condition| {
                    c.type_ == PROGRESSING && c.status == "False" && c.reason != "Queued"
                };
                status.retry_at.is_none() && !status.conditions.iter().any(told)
            });
        if !ready {
            self.not_ready(&uid);
        } else if !self.ready_of.contains_key(&uid) {
            let last = status.and_then(|status| status.transitions.last()).map(|t| t.at);
            let created = task.metadata.creation_timestamp.as_ref().map(|t| t.0);
            let since = last.or(created).unwrap_or(self.since).max(self.since);
            self.ready_of.insert(uid.clone(), (task.spec.role, since));
            self.ready.entry(task.spec.role).or_default().insert((since, uid));
        }
    }

    fn not_ready(&mut self, uid: &str) {
        if let Some((role, since)) = self.ready_of.remove(uid)
            && let Some(ready) = self.ready.get_mut(&role)
        {
            ready.remove(&(since, uid.to_string()));
        }
    }

    /// An Operation as it is now; only one that is over is of interest.
    pub fn operation(&mut self, operation: &Operation) {
        let finished =
            operation.status.as_ref().filter(|s| s.phase.is_terminal()).and_then(|s| s.finished_at);
        if let Some(at) = finished {
            let uid = operation.metadata.uid.clone().unwrap_or_default();
            self.retention.operation_over(Finished { at, uid, name: operation.name_any() });
        }
    }

    /// An Operation is gone.
    pub fn operation_gone(&mut self, uid: &str) {
        self.retention.operation_gone(uid);
    }

    /// A Task is gone.
    pub fn task_gone(&mut self, uid: &str) {
        self.retention.task_gone(uid);
        self.awaiting_judge.remove(uid);
        self.over_budget.remove(uid);
        self.not_ready(uid);
    }

    /// Takes up what an earlier process has recorded. Call once the first lists are complete; later
    /// calls do nothing.
    pub fn restore(&mut self, status: &SystemStatus) {
        if self.restored {
            return;
        }
        self.restored = true;
        if let Some(usage) = &status.usage {
            self.ledger.restore(usage);
        }
        if let Some(cycle) = &status.cycle
            && let Some(start) = cycle.started_at
        {
            self.begin_cycle(start);
            self.tally.restore(&cycle.stats, cycle.active_since);
        }
    }

    /// A cycle begins at `start`: its statistics are those of the Runs admitted and ended since.
    pub fn begin_cycle(&mut self, start: Timestamp) {
        if self.cycle_start == Some(start) {
            return;
        }
        // At start-up the Runs of the cycle are looked up; a cycle that begins now has none but those
        // of this very second.
        let is_new = self.cycle_start.is_some();
        self.cycle_start = Some(start);
        self.tally = Tally::default();
        if is_new {
            return;
        }
        let running = self.in_progress.len();
        for Entry { created, ended } in self.runs.values() {
            if *created >= start {
                self.tally.admitted(*created, running);
            }
            if let Some((finished, ended)) = ended
                && *finished >= start
            {
                self.tally.ended(*ended);
            }
        }
    }

    /// Moves windows on and forgets what nobody counts any more.
    pub fn tick(&mut self, now: Timestamp) {
        self.ledger.trim(now);
        self.windows.slide(now);
    }

    /// When this operator took over.
    pub fn since(&self) -> Timestamp {
        self.since
    }

    /// The token ledger.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Statistics of the present cycle.
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Runs of the last two hours.
    pub fn windows(&self) -> &Windows {
        &self.windows
    }

    /// What has ended and may be removed.
    pub fn retention(&self) -> &Index {
        &self.retention
    }

    /// Crashes of the agents of a pool.
    pub fn crashes(&self, pool: &str) -> BTreeSet<Crash> {
        self.crashes.get(pool).cloned().unwrap_or_default()
    }

    /// Runs in progress with their uid, the oldest first.
    pub fn in_progress(&self) -> impl Iterator<Item = (&str, &InProgress)> {
        self.by_age.iter().filter_map(|(_, uid)| Some((uid.as_str(), self.in_progress.get(uid)?)))
    }

    /// Since when there is a Run in progress without a break.
    pub fn busy_since(&self) -> Option<Timestamp> {
        self.busy_since
    }

    /// Tasks that wait for a review.
    pub fn awaiting_judge(&self) -> usize {
        self.awaiting_judge.len()
    }

    /// Since when the longest waiting of the Tasks of each role is ready.
    pub fn ready(&self) -> impl Iterator<Item = (Role, Timestamp)> {
        self.ready.iter().filter_map(|(role, ready)| Some((*role, ready.first()?.0)))
    }

    /// Names of the Tasks whose token budget is used up.
    pub fn over_budget(&self) -> Vec<String> {
        self.over_budget.values().cloned().collect()
    }
}

fn node(task: &Task, phase: TaskPhase) -> TaskNode {
    let label = |key: &str| task.labels().get(key).cloned();
    let status = task.status.as_ref();
    let last = status.and_then(|status| status.transitions.last()).map(|t| t.at);
    let created = task.metadata.creation_timestamp.as_ref().map(|t| t.0);
    // What a Task that has not ended still looks at: whom it depends on, and who mends its result.
    let follow_up = status.and_then(|status| status.judge.as_ref()).map(|judge| judge.follow_up.clone());
    let looks_at = task.spec.dependencies.iter().cloned().chain(follow_up.filter(|name| !name.is_empty()));
    TaskNode {
        uid: task.metadata.uid.clone().unwrap_or_default(),
        name: task.name_any(),
        ended: phase.is_terminal().then(|| last.or(created).unwrap_or(Timestamp::MIN)),
        ours: label(labels::CREATED_BY).is_some(),
        // An ended Task needs nobody.
        dependencies: if phase.is_terminal() { Vec::new() } else { looks_at.collect() },
        superseded_by: status.map(|status| status.superseded_by.clone()).unwrap_or_default(),
        parent: label(labels::PARENT).unwrap_or_default(),
    }
}
