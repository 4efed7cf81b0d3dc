//! The admission queue of one namespace: takes in facts and keeps every Task parked where it waits.
//!
//! Owns the bookkeeping of events; deciding is in [`super::pass`]. An event costs what it touches:
//! the Task itself, Tasks that wait for it by name, or the first Tasks behind an area that became
//! free. An event that changes nothing costs nothing.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use jiff::Timestamp;

use super::credentials::{Credentials, EndedRun};
use super::dependencies::{Graph, Name};
use super::occupancy::Occupancy;
use super::parking::{Bucket, Id, Parking, Rank};
use super::resolve::Outcome;
use super::room::{Group, stopped_slots};
use super::wait::Wait;
use super::{Holder, HolderId, PoolFacts, SystemFacts, TaskFacts, Waiting};
use crate::crd::Purpose;
use crate::crd::task::ResolvedDependency;
use crate::plan::lanes::{self, LaneRules};

/// Where a Task is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Not to be dispatched: not queued, or being cancelled.
    Idle,
    /// To be looked at in the next pass.
    Dirty,
    /// Of a kind that nobody knows.
    Unsupported,
    /// In the graph.
    Dependencies,
    /// Among the timers.
    Timer(Timestamp),
    /// A Run or a Pod of it exists, or it was just admitted.
    Held,
    Ready(Bucket),
    Behind(String, Bucket),
}

#[derive(Debug)]
pub(super) struct Entry {
    pub facts: TaskFacts,
    pub name: Name,
    pub rank: Rank,
    pub place: Place,
    /// The area from behind which it became ready ([`super::parking`]).
    pub covers: Option<String>,
    /// Dependencies resolved once, recorded in the status or not.
    pub resolved: Vec<ResolvedDependency>,
    /// No admission before this time, because one could not be carried out.
    pub hold_off: Option<Timestamp>,
    pub told: Option<Waiting>,
}

impl Entry {
    /// Earliest time of the Task's next Run.
    pub fn not_before(&self) -> Option<Timestamp> {
        self.facts.not_before.max(self.hold_off)
    }
}

/// The admission queue of one namespace.
#[derive(Debug, Default)]
pub struct Queue {
    /// In order of arrival, in which passes go through them: neighbours are near in memory.
    pub(super) tasks: BTreeMap<Id, Entry>,
    by_uid: HashMap<String, Id>,
    by_name: HashMap<Name, Id>,
    next_id: Id,
    pub(super) graph: Graph,
    pub(super) occupancy: Occupancy,
    pub(super) parking: Parking,
    pub(super) timers: BTreeSet<(Timestamp, Id)>,
    /// Tasks to look at in the next pass.
    pub(super) dirty: BTreeSet<Id>,
    /// Ready Tasks whose reason to wait is to be told at the end of the next pass.
    pub(super) fresh: BTreeSet<Id>,
    /// Tasks with dependencies found resolved since the last pass.
    pub(super) news: BTreeSet<Id>,
    pub(super) pools: BTreeMap<String, PoolFacts>,
    pub(super) system: Option<SystemFacts>,
    pub(super) lanes: LaneRules,
    /// Target areas of a merge.
    pub(super) merge_areas: Vec<String>,
    /// Slots whose agents are stopped, by pool.
    pub(super) stopped_slots: HashMap<String, BTreeSet<u32>>,
    pub(super) credentials: Credentials,
    /// The System changed since the last pass.
    pub(super) system_changed: bool,
    /// Why each group is shut, as last told.
    pub(super) shut: BTreeMap<Group, Wait>,
    pub(super) examined: u64,
}

impl Queue {
    /// An empty queue: no Tasks, no pools, no System.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in a Task as it is now. It replaces an older one of the same name and is ignored when a
    /// newer one is known.
    pub fn upsert_task(&mut self, facts: TaskFacts) {
        let known = self.by_uid.get(&facts.uid).copied();
        if known.and_then(|id| self.tasks.get(&id)).is_some_and(|entry| entry.facts == facts) {
            return;
        }
        let namesake = self.by_name.get(facts.name.as_str()).copied();
        let present = namesake.and_then(|id| self.tasks.get(&id)).map(|entry| &entry.facts);
        if present.is_some_and(|p| p.uid != facts.uid && p.created_at > facts.created_at) {
            return;
        }
        let before = present.map(Outcome::of);
        if let Some(other) = namesake.filter(|other| Some(*other) != known) {
            self.drop_entry(other);
        }
        let after = Outcome::of(&facts);
        let name: Name = facts.name.as_str().into();
        let id = match known {
            Some(id) => {
                self.update(id, facts);
                id
            }
            None => self.insert(facts),
        };
        self.make_dirty(id);
        if before != Some(after) {
            self.touch_dependents(&name);
        }
    }

    fn insert(&mut self, facts: TaskFacts) -> Id {
        let id = self.next_id;
        self.next_id += 1;
        let name: Name = facts.name.as_str().into();
        self.by_uid.insert(facts.uid.clone(), id);
        self.by_name.insert(Arc::clone(&name), id);
        let entry = Entry {
            rank: rank(&facts, &name, id),
            place: Place::Idle,
            covers: None,
            resolved: facts.resolved.clone(),
            hold_off: None,
            told: None,
            name,
            facts,
        };
        self.tasks.insert(id, entry);
        id
    }

    fn update(&mut self, id: Id, facts: TaskFacts) {
        self.unpark(id);
        let Some(entry) = self.tasks.get_mut(&id) else {
            return;
        };
        // What was found resolved stays so, though the status may not record it yet.
        let found = std::mem::take(&mut entry.resolved);
        entry.resolved.clone_from(&facts.resolved);
        for dependency in found {
            let wanted = facts.dependencies.contains(&dependency.name);
            if wanted && entry.resolved.iter().all(|known| known.name != dependency.name) {
                entry.resolved.push(dependency);
            }
        }
        entry.rank = rank(&facts, &entry.name, id);
        entry.facts = facts;
    }

    /// Forgets a Task that no longer exists. What it holds stays held until it is released.
    pub fn remove_task(&mut self, uid: &str) {
        if let Some(id) = self.by_uid.get(uid).copied()
            && let Some(name) = self.drop_entry(id)
        {
            self.touch_dependents(&name);
        }
    }

    fn drop_entry(&mut self, id: Id) -> Option<Name> {
        self.unpark(id);
        let entry = self.tasks.remove(&id)?;
        self.dirty.remove(&id);
        self.fresh.remove(&id);
        self.news.remove(&id);
        self.by_uid.remove(&entry.facts.uid);
        if self.by_name.get(&entry.name) == Some(&id) {
            self.by_name.remove(&entry.name);
        }
        self.set_edges(&entry.name, Vec::new());
        Some(entry.name)
    }

    /// Takes in the System as it is now; `None`: there is none.
    pub fn set_system(&mut self, system: Option<SystemFacts>) {
        if self.system == system {
            return;
        }
        // What the System says about its budget changes often and is not told again.
        let told = |facts: &SystemFacts| SystemFacts {
            budget: facts.budget.as_ref().map(|_| String::new()),
            ..facts.clone()
        };
        self.system_changed |= self.system.as_ref().map(told) != system.as_ref().map(told);
        let stopped = system.as_ref().map(|system| stopped_slots(&system.stopped));
        self.stopped_slots = stopped.unwrap_or_default();
        let rules = system.as_ref().map(|system| LaneRules::new(&system.lanes));
        let rules = rules.unwrap_or_else(|| self.lanes.clone());
        let merge_areas: Vec<String> =
            system.iter().map(|system| system.merge_area.clone()).filter(|area| !area.is_empty()).collect();
        if rules != self.lanes || merge_areas != self.merge_areas {
            self.lanes = rules;
            self.merge_areas = merge_areas;
            for id in self.parking.clear() {
                if let Some(entry) = self.tasks.get_mut(&id) {
                    entry.place = Place::Dirty;
                    entry.covers = None;
                    self.dirty.insert(id);
                }
            }
        }
        self.system = system;
    }

    /// Takes in a pool as it is now.
    pub fn upsert_pool(&mut self, pool: PoolFacts) {
        self.pools.insert(pool.name.clone(), pool);
    }

    /// Forgets a pool that no longer exists. Its agents stay occupied until they are released.
    pub fn remove_pool(&mut self, name: &str) {
        self.pools.remove(name);
    }

    /// Takes in a non-terminal Run or a live Pod, or one that changed. A Run ends the admission of
    /// its Task: from now on the Run stands for it.
    pub fn occupy(&mut self, id: HolderId, holder: Holder) {
        let holder = Holder { lane: lanes::effective(&holder.lane).to_owned(), ..holder };
        let before = self.occupancy.get(&id).map(|old| old.task_uid.clone());
        let task = holder.task_uid.clone();
        self.put(&id, Some(holder));
        match id {
            HolderId::Run(_) => self.put(&HolderId::Admission(task.clone()), None),
            HolderId::Pod(_) | HolderId::Admission(_) => {}
        }
        self.touch_holder(&task);
        if let Some(before) = before.filter(|before| *before != task) {
            self.touch_holder(&before);
        }
    }

    /// Takes in that a Run with a credential has ended, and how.
    pub fn run_ended(&mut self, run_uid: &str, ended: EndedRun) {
        self.credentials.insert(run_uid, ended);
    }

    /// Forgets a Run that no longer exists.
    pub fn forget_run(&mut self, run_uid: &str) {
        self.credentials.remove(run_uid);
    }

    /// Takes in that a Run is terminal or gone, or that a Pod is.
    pub fn release(&mut self, id: &HolderId) {
        if let Some(task) = self.occupancy.get(id).map(|holder| holder.task_uid.clone()) {
            self.put(id, None);
            self.touch_holder(&task);
        }
    }

    /// Gives back an admission that could not be carried out; not before `retry_at` is the Task
    /// admitted again. Without an admission it does nothing.
    pub fn abandon(&mut self, task_uid: &str, retry_at: Option<Timestamp>) {
        let id = HolderId::Admission(task_uid.to_owned());
        if self.occupancy.get(&id).is_none() {
            return;
        }
        self.put(&id, None);
        let Some(id) = self.by_uid.get(task_uid).copied() else {
            return;
        };
        if let Some(entry) = self.tasks.get_mut(&id) {
            entry.hold_off = retry_at;
            self.make_dirty(id);
        }
    }

    /// Why the Task waits, as told by the last plan. `None`: it does not, or its Run is in progress.
    pub fn waiting(&self, task_uid: &str) -> Option<&Waiting> {
        self.tasks.get(self.by_uid.get(task_uid)?)?.told.as_ref()
    }

    /// Slots of the pool that are taken, also beyond its present size.
    pub fn slots_used(&self, pool: &str) -> usize {
        self.occupancy.slots_used(pool)
    }

    /// How often a Task was looked at so far: the measure of the work done.
    pub fn examinations(&self) -> u64 {
        self.examined
    }

    pub(super) fn put(&mut self, id: &HolderId, holder: Option<Holder>) {
        for area in self.occupancy.put(id, holder) {
            for bucket in self.parking.buckets_behind(&area) {
                self.promote(&area, bucket);
            }
        }
    }

    /// Makes the first Task behind a free area ready.
    fn promote(&mut self, area: &str, bucket: Bucket) {
        if self.occupancy.area_holder(area).is_some() {
            return;
        }
        let Some(id) = self.parking.promote(area, bucket) else {
            return;
        };
        if let Some(entry) = self.tasks.get_mut(&id) {
            entry.place = Place::Ready(bucket);
            entry.covers = Some(area.to_owned());
            self.fresh.insert(id);
        }
    }

    /// Looks again at a Task whose own holders changed.
    fn touch_holder(&mut self, task_uid: &str) {
        let Some(id) = self.by_uid.get(task_uid).copied() else {
            return;
        };
        let Some(entry) = self.tasks.get(&id) else {
            return;
        };
        match entry.place {
            Place::Held | Place::Ready(_) | Place::Behind(..) => self.make_dirty(id),
            // It has not come to that yet, or is looked at anyway.
            Place::Idle | Place::Dirty | Place::Unsupported | Place::Dependencies | Place::Timer(_) => {}
        }
    }

    /// Looks again at the Tasks that wait for a name.
    fn touch_dependents(&mut self, name: &Name) {
        let waiting: Vec<Name> = self.graph.dependents(name).cloned().collect();
        self.touch_waiting(waiting);
    }

    fn touch_waiting(&mut self, names: impl IntoIterator<Item = Name>) {
        for name in names {
            if let Some(id) = self.by_name.get(&name).copied()
                && self.tasks.get(&id).is_some_and(|entry| entry.place == Place::Dependencies)
            {
                self.make_dirty(id);
            }
        }
    }

    /// Sets what a Task waits for in the graph, and looks again at those whose cycles changed by it.
    pub(super) fn set_edges(&mut self, name: &str, edges: Vec<Name>) {
        if edges.is_empty() && !self.graph.waits(name) {
            return;
        }
        let changed = self.graph.set(name, edges);
        self.touch_waiting(changed);
    }

    pub(super) fn make_dirty(&mut self, id: Id) {
        self.unpark(id);
        if let Some(entry) = self.tasks.get_mut(&id) {
            entry.place = Place::Dirty;
            self.dirty.insert(id);
        }
    }

    /// Takes a Task out of where it is parked. The graph keeps its edges until they are set anew.
    pub(super) fn unpark(&mut self, id: Id) {
        let Some(entry) = self.tasks.get_mut(&id) else {
            return;
        };
        match std::mem::replace(&mut entry.place, Place::Idle) {
            Place::Timer(at) => {
                self.timers.remove(&(at, id));
            }
            Place::Ready(bucket) => {
                self.parking.remove_ready(bucket, &entry.rank);
                if let Some(area) = entry.covers.take() {
                    self.promote(&area, bucket);
                }
            }
            Place::Behind(area, bucket) => {
                self.parking.remove_behind(&area, bucket, &entry.rank);
            }
            Place::Idle | Place::Dirty | Place::Unsupported | Place::Dependencies | Place::Held => {}
        }
    }

    pub(super) fn facts_by_name(&self, name: &str) -> Option<&TaskFacts> {
        self.tasks.get(self.by_name.get(name)?).map(|entry| &entry.facts)
    }

    pub(super) fn entry(&self, task_uid: &str) -> Option<&Entry> {
        self.tasks.get(self.by_uid.get(task_uid)?)
    }

    /// Areas that the Task's next Run occupies.
    pub(super) fn areas<'a>(&'a self, facts: &'a TaskFacts) -> &'a [String] {
        match facts.purpose {
            Purpose::Merge => &self.merge_areas,
            Purpose::Execute | Purpose::Judge | Purpose::Plan => &facts.areas,
        }
    }
}

fn rank(facts: &TaskFacts, name: &Name, id: Id) -> Rank {
    Rank { key: Reverse(facts.static_key), created_at: facts.created_at, name: Arc::clone(name), id }
}
