//! The naive dispatcher: plain lists, and a decision from scratch each time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use opentiger::crd::task::ResolvedDependency;
use opentiger::crd::{Purpose, Role, TaskPhase};
use opentiger::plan::dispatch::{
    Admission, EndedRun, Holder, HolderId, LaneFacts, PoolFacts, SystemFacts, TaskFacts,
};

/// The naive dispatcher, with everything it was told.
pub struct Naive {
    pub tasks: BTreeMap<String, TaskFacts>,
    /// By uid of the Task.
    pub found: BTreeMap<String, Vec<ResolvedDependency>>,
    pub hold_off: BTreeMap<String, Timestamp>,
    pub system: Option<SystemFacts>,
    /// Floors and caps in force; they outlast the System.
    pub lanes: Vec<LaneFacts>,
    pub merge_areas: Vec<String>,
    pub pools: BTreeMap<String, PoolFacts>,
    pub holders: BTreeMap<HolderId, Holder>,
    /// Runs that have ended, by uid.
    pub ended: BTreeMap<String, EndedRun>,
    pub now: Timestamp,
    pub serial: u32,
}

pub fn seconds(n: i64) -> Timestamp {
    Timestamp::from_second(1_000 + n).expect("in range")
}

impl Naive {
    pub fn new() -> Self {
        Self {
            tasks: BTreeMap::new(),
            found: BTreeMap::new(),
            hold_off: BTreeMap::new(),
            system: None,
            lanes: Vec::new(),
            merge_areas: Vec::new(),
            pools: BTreeMap::new(),
            holders: BTreeMap::new(),
            ended: BTreeMap::new(),
            now: seconds(0),
            serial: 0,
        }
    }

    pub fn in_lane(&self, lane: &str) -> usize {
        let tasks: BTreeSet<_> =
            self.holders.values().filter(|h| h.lane == lane).map(|h| &h.task_uid).collect();
        tasks.len()
    }

    pub fn lane(&self, name: &str) -> LaneFacts {
        let default = |min, max| LaneFacts { name: name.into(), min, max };
        match (self.lanes.is_empty(), name) {
            (true, "feature") => default(Some(1), None),
            (true, "conflict_recovery") => default(None, Some(2)),
            (true, "docser") => default(None, Some(1)),
            (true, _) => default(None, None),
            (false, _) => {
                self.lanes.iter().find(|l| l.name == name).cloned().unwrap_or_else(|| default(None, None))
            }
        }
    }

    pub fn is_configured(&self, name: &str) -> bool {
        self.lanes.iter().any(|lane| lane.name == name)
            || self.lanes.is_empty() && ["feature", "conflict_recovery", "docser"].contains(&name)
    }

    /// Lane towards whose floor a lane counts.
    pub fn floor_lane<'a>(&self, name: &'a str) -> &'a str {
        let counts_as_feature =
            name == "research" && !self.is_configured("research") && self.is_configured("feature");
        if counts_as_feature { "feature" } else { name }
    }

    pub fn below_floor(&self, lane: &str) -> bool {
        let floor_lane = self.floor_lane(lane);
        let floor = self.lane(floor_lane).min.unwrap_or(0) as usize;
        let used: usize = ["feature", "docser", "research", "other", "conflict_recovery", "judge"]
            .iter()
            .filter(|l| self.floor_lane(l) == floor_lane)
            .map(|l| self.in_lane(l))
            .sum();
        used < floor
    }

    pub fn used(&self, pool: &str) -> usize {
        let pairs: BTreeSet<_> =
            self.holders.values().filter(|h| h.pool == pool).map(|h| (&h.task_uid, &h.agent)).collect();
        pairs.len()
    }

    /// Whether the agent of a slot takes no Runs.
    pub fn is_shut(&self, pool: &PoolFacts, slot: u32) -> bool {
        let name = format!("{}-{slot}", pool.name);
        self.system.as_ref().is_some_and(|s| s.stopped.contains(&name))
            || pool.held.get(&slot).is_some_and(|until| until.is_none_or(|until| until > self.now))
    }

    pub fn free(&self, pool: &PoolFacts) -> usize {
        let taken: BTreeSet<_> = self.holders.values().map(|h| h.agent.clone()).collect();
        let free = (1..=pool.replicas)
            .filter(|slot| !self.is_shut(pool, *slot) && !taken.contains(&format!("{}-{slot}", pool.name)))
            .count();
        let left = (pool.replicas as usize).saturating_sub(self.used(&pool.name));
        if pool.suspended { 0 } else { free.min(left) }
    }

    /// Whether the Run with this credential that ended last met the limit.
    pub fn is_limited(&self, credential: &str) -> bool {
        let own = self.ended.iter().filter(|(_, e)| e.credential == credential);
        let newest = own.max_by_key(|(uid, e)| (e.finished_at, e.held_until, (*uid).clone()));
        newest.is_some_and(|(_, e)| e.held_until.is_some())
    }

    /// Whether a Run with this credential may not start now.
    pub fn is_held(&self, credential: &str) -> bool {
        let own = self.ended.iter().filter(|(_, e)| e.credential == credential);
        let newest = own.max_by_key(|(uid, e)| (e.finished_at, e.held_until, (*uid).clone()));
        let in_flight = self.holders.values().any(|h| h.credential.as_deref() == Some(credential));
        match newest.and_then(|(_, e)| e.held_until) {
            None => false,
            Some(until) => until > self.now || in_flight,
        }
    }

    pub fn credential(pool: &PoolFacts, purpose: Purpose) -> Option<&String> {
        pool.credential.as_ref().filter(|_| purpose != Purpose::Merge)
    }

    pub fn room(&self, pool: &PoolFacts, purpose: Purpose) -> usize {
        let held = Self::credential(pool, purpose).is_some_and(|c| self.is_held(c));
        if held { 0 } else { self.free(pool) }
    }

    pub fn slot(&self, role: Role, purpose: Purpose) -> Option<(PoolFacts, String)> {
        let pools = self.pools.values().filter(|p| p.role == role && self.room(p, purpose) > 0);
        let pool = pools.min_by_key(|p| (Reverse(self.room(p, purpose)), p.name.clone()))?;
        let taken: BTreeSet<_> = self.holders.values().map(|h| h.agent.clone()).collect();
        let mut slots = (1..).filter(|slot| !self.is_shut(pool, *slot)).map(|i| format!("{}-{i}", pool.name));
        Some((pool.clone(), slots.find(|a| !taken.contains(a))?))
    }

    pub fn areas(&self, task: &TaskFacts) -> Vec<String> {
        match task.purpose {
            Purpose::Merge => self.merge_areas.clone(),
            Purpose::Execute | Purpose::Judge | Purpose::Plan => task.areas.clone(),
        }
    }

    /// The component that admits Runs of the purpose is stopped.
    pub fn is_stopped(&self, purpose: Purpose) -> bool {
        let component = match purpose {
            Purpose::Execute => "dispatcher",
            Purpose::Judge | Purpose::Merge => "judge",
            Purpose::Plan => "planner",
        };
        self.system.as_ref().is_some_and(|s| s.stopped.contains(component))
    }

    pub fn area_free(&self, areas: &[String]) -> bool {
        !self.holders.values().any(|h| h.areas.iter().any(|a| areas.contains(a)))
    }

    pub fn holds(&self, uid: &str) -> bool {
        self.holders.values().any(|h| h.task_uid == uid)
    }

    pub fn is_waiting(task: &TaskFacts) -> bool {
        task.is_candidate()
    }

    pub fn unresolved<'a>(&'a self, task: &'a TaskFacts) -> Vec<&'a String> {
        let found = &self.found[&task.uid];
        task.dependencies.iter().filter(|d| found.iter().all(|f| f.name != **d)).collect()
    }

    pub fn not_before(&self, task: &TaskFacts) -> Option<Timestamp> {
        task.not_before.max(self.hold_off.get(&task.uid).copied())
    }

    pub fn is_candidate(&self, task: &TaskFacts) -> bool {
        Self::is_waiting(task)
            && self.unresolved(task).is_empty()
            && self.not_before(task).is_none_or(|at| at <= self.now)
            && !self.holds(&task.uid)
    }

    /// The dependency and those in which its work went on, and the Task that resolves it.
    pub fn chain(&self, name: &str) -> (Vec<String>, Option<&TaskFacts>) {
        let mut chain = vec![name.to_owned()];
        loop {
            let task = self.tasks.get(&chain[chain.len() - 1]);
            match task {
                Some(t) if t.phase == TaskPhase::Cancelled && t.superseded_by.is_some() => {
                    let next = t.superseded_by.clone().expect("some");
                    if chain.contains(&next) {
                        return (chain, None);
                    }
                    chain.push(next);
                }
                Some(t) if t.phase == TaskPhase::Done || t.phase == TaskPhase::Cancelled && t.cancel => {
                    return (chain, task);
                }
                Some(_) | None => return (chain, None),
            }
        }
    }

    pub fn reaches_itself(&self, start: &str) -> bool {
        let mut seen = BTreeSet::new();
        let mut open = vec![start.to_owned()];
        while let Some(name) = open.pop() {
            let Some(task) = self.tasks.get(&name).filter(|t| Self::is_waiting(t)) else {
                continue;
            };
            for next in self.unresolved(task).into_iter().flat_map(|d| self.chain(d).0) {
                if next == start {
                    return true;
                }
                if seen.insert(next.clone()) {
                    open.push(next.clone());
                }
            }
        }
        false
    }

    pub fn resolve(&mut self) {
        for task in self.tasks.values().filter(|t| Self::is_waiting(t)) {
            for name in &task.dependencies {
                let Some(other) = self.chain(name).1.map(|other| other.uid.clone()) else {
                    continue;
                };
                let found = self.found.get_mut(&task.uid).expect("known");
                if found.iter().all(|f| f.name != *name) {
                    found.push(ResolvedDependency { name: name.clone(), uid: other });
                }
            }
        }
    }

    pub fn plan(&mut self) -> Vec<Admission> {
        self.resolve();
        let mut admissions = Vec::new();
        let Some(system) = self.system.clone().filter(|s| s.armed && s.budget.is_none()) else {
            return admissions;
        };
        let mut order: Vec<TaskFacts> =
            self.tasks.values().filter(|t| self.is_candidate(t)).cloned().collect();
        order.sort_by_key(|t| {
            (t.purpose != Purpose::Merge, Reverse(t.static_key), t.created_at, t.name.clone())
        });
        // One at a time, each from what holds by then.
        while let Some((task, pool, agent)) = self.next(&system, &order) {
            let areas = self.areas(&task);
            let holder = Holder {
                task_uid: task.uid.clone(),
                pool: pool.name.clone(),
                agent: agent.clone(),
                lane: task.lane.clone(),
                areas: areas.clone(),
                purpose: task.purpose,
                credential: Self::credential(&pool, task.purpose).cloned(),
            };
            self.holders.insert(HolderId::Admission(task.uid.clone()), holder);
            admissions.push(Admission {
                task_uid: task.uid.clone(),
                task_name: task.name.clone(),
                purpose: task.purpose,
                attempt: 1,
                pool: pool.name,
                agent,
                lane: task.lane.clone(),
                areas,
                resolved: self.found[&task.uid].clone(),
            });
        }
        admissions
    }

    /// The Task that is admitted next, and its slot.
    fn next(&self, system: &SystemFacts, order: &[TaskFacts]) -> Option<(TaskFacts, PoolFacts, String)> {
        let counted = self.holders.values().filter(|h| h.purpose == Purpose::Execute);
        let tasks: BTreeSet<_> = counted.map(|h| &h.task_uid).collect();
        let full = system.max_concurrent.is_some_and(|max| tasks.len() >= max as usize);
        let may = |task: &&TaskFacts| {
            !(full && task.purpose == Purpose::Execute)
                && self.lane(&task.lane).max.is_none_or(|max| self.in_lane(&task.lane) < max as usize)
                && !self.holds(&task.uid)
                && self.area_free(&self.areas(task))
                && !self.is_stopped(task.purpose)
                && self.slot(task.role, task.purpose).is_some()
        };
        let mut heads: BTreeMap<_, &TaskFacts> = BTreeMap::new();
        for task in order.iter().filter(may) {
            let ruled = self.is_configured(&task.lane) || self.floor_lane(&task.lane) != task.lane;
            let lane = if ruled { task.lane.as_str() } else { "" };
            heads.entry((task.role, task.purpose, lane)).or_insert(task);
        }
        let rank = |t: &TaskFacts| (Reverse(t.static_key), t.created_at, t.name.clone());
        let preferred = heads
            .values()
            .min_by_key(|t| (!self.below_floor(&t.lane), t.purpose != Purpose::Merge, rank(t)))?;
        let is_elder = |t: &&&TaskFacts| {
            rank(t) < rank(preferred)
                && t.created_at.as_second() + 120 * 3600 <= preferred.created_at.as_second()
        };
        let task = heads.values().filter(is_elder).min_by_key(|t| rank(t)).unwrap_or(preferred);
        let (pool, agent) = self.slot(task.role, task.purpose)?;
        Some(((*task).clone(), pool, agent))
    }
}
