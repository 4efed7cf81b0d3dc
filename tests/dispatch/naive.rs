//! The naive dispatcher: plain lists, and a decision from scratch each time.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use opentiger::crd::task::ResolvedDependency;
use opentiger::crd::{Role, TaskPhase};
use opentiger::plan::dispatch::{Admission, Holder, HolderId, LaneFacts, PoolFacts, SystemFacts, TaskFacts};

/// The naive dispatcher, with everything it was told.
pub struct Naive {
    pub tasks: BTreeMap<String, TaskFacts>,
    /// By uid of the Task.
    pub found: BTreeMap<String, Vec<ResolvedDependency>>,
    pub hold_off: BTreeMap<String, Timestamp>,
    pub system: Option<SystemFacts>,
    /// Floors and caps in force; they outlast the System.
    pub lanes: Vec<LaneFacts>,
    pub pools: BTreeMap<String, PoolFacts>,
    pub holders: BTreeMap<HolderId, Holder>,
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
            pools: BTreeMap::new(),
            holders: BTreeMap::new(),
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
        let used: usize = ["feature", "docser", "research", "other", "conflict_recovery"]
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

    pub fn free(&self, pool: &PoolFacts) -> usize {
        if pool.suspended { 0 } else { (pool.replicas as usize).saturating_sub(self.used(&pool.name)) }
    }

    pub fn slot(&self, role: Role) -> Option<(String, String)> {
        let pools = self.pools.values().filter(|p| p.role == role && self.free(p) > 0);
        let pool = pools.min_by_key(|p| (Reverse(self.free(p)), p.name.clone()))?;
        let taken: BTreeSet<_> = self.holders.values().map(|h| h.agent.clone()).collect();
        let agent = (1..).map(|i| format!("{}-{i}", pool.name)).find(|a| !taken.contains(a))?;
        Some((pool.name.clone(), agent))
    }

    pub fn area_free(&self, areas: &[String]) -> bool {
        !self.holders.values().any(|h| h.areas.iter().any(|a| areas.contains(a)))
    }

    pub fn holds(&self, uid: &str) -> bool {
        self.holders.values().any(|h| h.task_uid == uid)
    }

    pub fn is_waiting(task: &TaskFacts) -> bool {
        task.phase == TaskPhase::Queued && !task.cancel
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

    pub fn reaches_itself(&self, start: &str) -> bool {
        let mut seen = BTreeSet::new();
        let mut open = vec![start.to_owned()];
        while let Some(name) = open.pop() {
            let Some(task) = self.tasks.get(&name).filter(|t| Self::is_waiting(t)) else {
                continue;
            };
            for next in self.unresolved(task) {
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
        let is_resolved =
            |t: &TaskFacts| t.phase == TaskPhase::Done || t.phase == TaskPhase::Cancelled && t.cancel;
        for task in self.tasks.values().filter(|t| Self::is_waiting(t)) {
            let found = self.found.get_mut(&task.uid).expect("known");
            for name in &task.dependencies {
                if let Some(other) = self.tasks.get(name).filter(|t| is_resolved(t))
                    && found.iter().all(|f| f.name != *name)
                {
                    found.push(ResolvedDependency { name: name.clone(), uid: other.uid.clone() });
                }
            }
        }
    }

    pub fn plan(&mut self) -> Vec<Admission> {
        self.resolve();
        let mut admissions = Vec::new();
        let Some(system) = self.system.clone().filter(|s| s.armed) else {
            return admissions;
        };
        let mut order: Vec<TaskFacts> =
            self.tasks.values().filter(|t| self.is_candidate(t)).cloned().collect();
        order.sort_by_key(|t| (Reverse(t.static_key), t.created_at, t.name.clone()));
        for guarantee in [true, false] {
            for task in &order {
                let tasks: BTreeSet<_> = self.holders.values().map(|h| &h.task_uid).collect();
                let room = system.max_concurrent.is_none_or(|max| tasks.len() < max as usize);
                let in_lane =
                    self.lane(&task.lane).max.is_none_or(|max| self.in_lane(&task.lane) < max as usize);
                if !room
                    || !in_lane
                    || guarantee && !self.below_floor(&task.lane)
                    || self.holds(&task.uid)
                    || !self.area_free(&task.areas)
                {
                    continue;
                }
                let Some((pool, agent)) = self.slot(task.role) else {
                    continue;
                };
                let holder = Holder {
                    task_uid: task.uid.clone(),
                    pool: pool.clone(),
                    agent: agent.clone(),
                    lane: task.lane.clone(),
                    areas: task.areas.clone(),
                };
                self.holders.insert(HolderId::Admission(task.uid.clone()), holder);
                admissions.push(Admission {
                    task_uid: task.uid.clone(),
                    task_name: task.name.clone(),
                    attempt: task.attempts + 1,
                    pool,
                    agent,
                    lane: task.lane.clone(),
                    areas: task.areas.clone(),
                    resolved: self.found[&task.uid].clone(),
                });
            }
        }
        admissions
    }
}
