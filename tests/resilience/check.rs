//! The invariants that hold at every moment, checked over a recorded history (S1 to S8, S10, and
//! that every Task that has not ended says what moves it next). Knows no cluster.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use opentiger::crd::{Run, RunPhase, Task, labels};

use super::record::{Entry, Seen};

/// For how long after a change of a bound a request may still follow the old one: it was on its way.
const LAG: Duration = Duration::from_millis(1500);

/// What breaks an invariant, one sentence each.
pub fn violations(history: &[Entry]) -> Vec<String> {
    let mut state = State::default();
    for entry in history {
        state.apply(entry);
    }
    state.broken
}

/// A bound with the times at which it changed.
#[derive(Default)]
struct Bound(Vec<(Instant, usize)>);

impl Bound {
    fn set(&mut self, at: Instant, value: usize) {
        if self.0.last().is_none_or(|(_, last)| *last != value) {
            self.0.push((at, value));
        }
    }

    /// The largest value in force at `at` or shortly before.
    fn at(&self, at: Instant) -> usize {
        let ended = |i: usize| self.0.get(i + 1).is_some_and(|(next, _)| *next + LAG < at);
        let values = self.0.iter().enumerate().filter(|(i, _)| !ended(*i));
        values.map(|(_, (_, value))| *value).max().unwrap_or(0)
    }
}

#[derive(Default)]
struct State {
    tasks: HashMap<String, Arc<Task>>,
    runs: HashMap<String, Arc<Run>>,
    /// Attempts of each Task uid.
    attempts: HashMap<String, Vec<i32>>,
    pods: HashMap<String, Arc<Pod>>,
    /// Pods that each Run uid ever had.
    pods_of: HashMap<String, HashSet<String>>,
    gone_runs: HashSet<String>,
    slots: HashMap<String, Bound>,
    concurrent: Bound,
    broken: Vec<String>,
}

fn over(run: &Run) -> bool {
    run.status.as_ref().is_some_and(|s| s.phase != RunPhase::Running)
}

fn live(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("Pending");
    phase != "Succeeded" && phase != "Failed"
}

fn owner(pod: &Pod) -> String {
    let owner = pod.owner_references().iter().find(|o| o.controller == Some(true));
    owner.map(|o| o.uid.clone()).unwrap_or_default()
}

impl State {
    fn expect(&mut self, holds: bool, entry: &Entry, what: String) {
        if !holds {
            self.broken.push(format!("at version {}: {what}", entry.version));
        }
    }

    fn apply(&mut self, entry: &Entry) {
        match &entry.seen {
            Seen::Task(task) => self.task(entry, task),
            Seen::Run(run) => self.run(entry, run),
            Seen::Pod(pod) => self.pod(entry, pod),
            Seen::Pool(pool) => {
                let open = !entry.deleted && !pool.spec.suspend;
                let slots = if open { usize::try_from(pool.spec.replicas).unwrap_or(0) } else { 0 };
                self.slots.entry(pool.name_any()).or_default().set(entry.at, slots);
            }
            Seen::System(system) => {
                let max = system.spec.dispatch.max_concurrent;
                self.concurrent.set(entry.at, max.map_or(usize::MAX, |m| usize::try_from(m).unwrap_or(0)));
            }
        }
    }

    fn task(&mut self, entry: &Entry, task: &Arc<Task>) {
        let uid = task.uid().unwrap_or_default();
        if entry.deleted {
            self.tasks.remove(&uid);
            return;
        }
        let name = task.name_any();
        let new = task.status.clone().unwrap_or_default();
        self.expect(
            new.phase.is_terminal() || new.next.is_some(),
            entry,
            format!("Task {name} does not say what moves it next"),
        );
        let numbers: Vec<i64> = new.transitions.iter().map(|t| t.sequence).collect();
        let contiguous = numbers.windows(2).all(|pair| pair[1] == pair[0] + 1);
        self.expect(contiguous, entry, format!("transitions of Task {name} have gaps: {numbers:?}"));
        if let Some(old) = self.tasks.insert(uid, task.clone()) {
            let old = old.status.clone().unwrap_or_default();
            self.expect(
                !old.phase.is_terminal() || old.phase == new.phase,
                entry,
                format!("Task {name} came back from {:?} to {:?}", old.phase, new.phase),
            );
            let (a, b) = (old.retries, new.retries);
            let rises = [(a.failure, b.failure), (a.quota, b.quota), (a.infra, b.infra)];
            self.expect(
                rises.iter().all(|(a, b)| a == b || a + 1 == *b),
                entry,
                format!("counters of Task {name} jump from {a:?} to {b:?}"),
            );
            self.expect(
                new.attempts == old.attempts || new.attempts == old.attempts + 1,
                entry,
                format!("attempts of Task {name} jump from {} to {}", old.attempts, new.attempts),
            );
        }
    }

    fn run(&mut self, entry: &Entry, run: &Arc<Run>) {
        let uid = run.uid().unwrap_or_default();
        if entry.deleted {
            self.runs.remove(&uid);
            self.gone_runs.insert(uid);
            return;
        }
        let name = run.name_any();
        let old = self.runs.insert(uid, run.clone());
        match old {
            Some(old) => {
                let kept = !over(&old)
                    || old.status.as_ref().map(|s| s.phase) == run.status.as_ref().map(|s| s.phase);
                self.expect(kept, entry, format!("Run {name} changed after its end"));
                self.expect(old.spec == run.spec, entry, format!("the spec of Run {name} changed"));
            }
            None => self.admitted(entry, run),
        }
    }

    /// A new Run: every bound is checked against everybody who holds something.
    fn admitted(&mut self, entry: &Entry, run: &Run) {
        let (name, task) = (run.name_any(), &run.spec.task_ref.uid);
        let attempts = self.attempts.entry(task.clone()).or_default();
        attempts.push(run.spec.attempt);
        let expected: Vec<i32> = (1..).take(attempts.len()).collect();
        let (attempts, counted) = (attempts.clone(), expected);
        self.expect(attempts == counted, entry, format!("attempts of the Task of {name}: {attempts:?}"));
        let holders = self.holders();
        let same_task = holders.values().filter(|held| held.spec.task_ref.uid == *task).count();
        let in_pool: Vec<&Run> =
            holders.values().filter(|held| held.spec.pool == run.spec.pool).copied().collect();
        let agents: HashSet<&str> = in_pool.iter().map(|held| held.spec.agent.as_str()).collect();
        let (used, distinct) = (in_pool.len(), agents.len());
        let areas: Vec<String> = holders
            .values()
            .filter(|held| held.spec.task_ref.uid != *task)
            .flat_map(|held| held.spec.target_areas.iter().cloned())
            .filter(|area| run.spec.target_areas.contains(area))
            .collect();
        let total = holders.len();
        let slots = self.slots.get(&run.spec.pool).map_or(0, |bound| bound.at(entry.at));
        let most = self.concurrent.at(entry.at);
        self.expect(same_task == 1, entry, format!("{same_task} attempts hold the Task of {name} at once"));
        self.expect(used <= slots, entry, format!("Run {name} makes {used} in a pool of {slots} slots"));
        self.expect(distinct == used, entry, format!("Run {name} shares its slot {}", run.spec.agent));
        self.expect(areas.is_empty(), entry, format!("Run {name} enters occupied areas {areas:?}"));
        self.expect(total <= most, entry, format!("Run {name} makes {total} of at most {most} Tasks"));
    }

    /// Every Run that is not over, or whose Pod may still run something, by uid.
    fn holders(&self) -> HashMap<&str, &Run> {
        let open = self.runs.iter().filter(|(_, run)| !over(run));
        let by_pod = self.pods.values().filter(|pod| live(pod)).map(|pod| owner(pod));
        let by_pod: HashSet<String> = by_pod.collect();
        let held = self.runs.iter().filter(|(uid, _)| by_pod.contains(*uid));
        open.chain(held).map(|(uid, run)| (uid.as_str(), run.as_ref())).collect()
    }

    fn pod(&mut self, entry: &Entry, pod: &Arc<Pod>) {
        let Some(task) = pod.labels().get(labels::TASK_UID).cloned() else { return };
        let (uid, name, owner) = (pod.uid().unwrap_or_default(), pod.name_any(), owner(pod));
        if entry.deleted {
            self.pods.remove(&uid);
            return;
        }
        let pods = self.pods_of.entry(owner.clone()).or_default();
        pods.insert(uid.clone());
        let count = pods.len();
        self.expect(count == 1, entry, format!("Run {name} has its {count}. Pod"));
        if self.pods.insert(uid, pod.clone()).is_none() {
            let known = self.runs.get(&owner).map(|run| over(run));
            let collected = self.gone_runs.contains(&owner);
            self.expect(
                known == Some(false) || collected,
                entry,
                format!("Pod {name} has no Run in progress"),
            );
        }
        let of_task = |p: &&Arc<Pod>| live(p) && p.labels().get(labels::TASK_UID) == Some(&task);
        let alive = self.pods.values().filter(of_task).count();
        self.expect(alive <= 1, entry, format!("{alive} live Pods of the Task of {name}"));
    }
}
