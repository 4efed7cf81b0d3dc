//! One pass of the dispatcher over what changed: settle, admit, tell.
//!
//! Owns the decision described in [`super`]. It looks at a Task only when the Task was parked anew
//! since the last pass, when it is first in a list that has room, or when its reason to wait changed.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};

use super::dependencies::Name;
use super::parking::{Bucket, Id, Rank};
use super::queue::{Place, Queue};
use super::resolve::{Unresolved, wait_for};
use super::room::{Group, asks_provider};
use super::{Admission, DispatchPlan, Holder, HolderId, TaskFacts, Wait, Waiting};
use crate::crd::Purpose;
use crate::crd::task::{KIND_PLAN, ResolvedDependency};
use crate::plan::lanes;

/// The kind of Tasks that agents carry out.
const KIND_CODE: &str = "code";
/// Time by which a Task has to be older to go before a preferred one that comes later in order.
/// Without it, a floor that takes every slot would starve all other lanes.
const PATIENCE: SignedDuration = SignedDuration::from_hours(120);
/// Tasks of a cycle that a reason names.
const NAMED_CYCLE: usize = 10;

/// The first Task of a list.
type Head = (Bucket, Id);

/// Whether there are agents for the kind of a Task.
pub(super) fn is_known_kind(facts: &TaskFacts) -> bool {
    match facts.purpose {
        Purpose::Execute => facts.kind == KIND_CODE,
        Purpose::Plan => facts.kind == KIND_PLAN,
        // Its attempt has been made.
        Purpose::Judge | Purpose::Merge => true,
    }
}

impl Queue {
    /// Decides what to do at `now`, given all facts taken in so far.
    pub fn plan(&mut self, now: Timestamp) -> DispatchPlan {
        let mut plan = DispatchPlan::default();
        let mut told = BTreeSet::new();
        self.wake(now);
        while let Some(id) = self.dirty.pop_first() {
            self.settle(id, now, &mut told);
        }
        self.admit(now, &mut plan, &mut told);
        self.tell_ready(now, &mut told);
        let waits = told.iter().filter_map(|id| self.tasks.get(id)?.told.clone());
        plan.waits = waits.collect();
        plan.resolved = self.take_news();
        plan.wake_at = self.timers.first().map(|(at, _)| *at).into_iter().chain(self.next_opening(now)).min();
        plan
    }

    /// Looks again at the Tasks whose time has come.
    fn wake(&mut self, now: Timestamp) {
        while let Some((_, id)) = self.timers.first().copied().filter(|(at, _)| *at <= now) {
            self.make_dirty(id);
        }
    }

    /// Parks a Task under the first thing it waits for.
    fn settle(&mut self, id: Id, now: Timestamp, told: &mut BTreeSet<Id>) {
        self.examined += 1;
        let Some(entry) = self.tasks.get(&id) else {
            return;
        };
        let name = Name::clone(&entry.name);
        let idle = !entry.facts.is_candidate();
        let known_kind = is_known_kind(&entry.facts);
        let unresolved = if idle || !known_kind { Vec::new() } else { self.note_resolved(id) };
        let Some(entry) = self.tasks.get(&id) else {
            return;
        };
        let (place, wait) = if idle {
            (Place::Idle, None)
        } else if !known_kind {
            (Place::Unsupported, Some(Wait::UnsupportedKind { kind: entry.facts.kind.clone() }))
        } else if !unresolved.is_empty() {
            self.set_edges(&name, edges(&unresolved));
            self.park(id, Place::Dependencies);
            let wait = self.dependency_wait(&name, &unresolved);
            return self.tell(id, Some(wait), now, told);
        } else if let Some(at) = entry.not_before().filter(|at| *at > now) {
            (Place::Timer(at), Some(Wait::RetryAt(at)))
        } else if self.occupancy.holds(&entry.facts.uid) {
            let old_pod = self.occupancy.only_pods(&entry.facts.uid);
            (Place::Held, old_pod.then_some(Wait::OldPod))
        } else {
            let bucket = self.bucket(&entry.facts);
            // Its reason, if it is not admitted, is told at the end of the pass.
            self.set_edges(&name, Vec::new());
            self.fresh.insert(id);
            return self.park(id, Place::Ready(bucket));
        };
        self.set_edges(&name, Vec::new());
        self.park(id, place);
        self.tell(id, wait, now, told);
    }

    pub(super) fn bucket(&self, facts: &TaskFacts) -> Bucket {
        let group = Group { role: facts.role, purpose: facts.purpose };
        Bucket { group, lane: self.lanes.index(&facts.lane) }
    }

    fn park(&mut self, id: Id, place: Place) {
        let Some(entry) = self.tasks.get_mut(&id) else {
            return;
        };
        match &place {
            Place::Timer(at) => {
                self.timers.insert((*at, id));
            }
            Place::Ready(bucket) => self.parking.add_ready(*bucket, entry.rank.clone()),
            Place::Behind(area, bucket) => {
                self.parking.add_behind(area, *bucket, entry.rank.clone());
            }
            Place::Idle | Place::Dirty | Place::Unsupported | Place::Dependencies | Place::Held => {}
        }
        entry.place = place;
    }

    /// Notes which dependencies are resolved by now and returns the others.
    fn note_resolved(&mut self, id: Id) -> Vec<Unresolved> {
        let Some(entry) = self.tasks.get(&id) else {
            return Vec::new();
        };
        let (found, unresolved) = self.unresolved(&entry.facts, &entry.resolved);
        if !found.is_empty()
            && let Some(entry) = self.tasks.get_mut(&id)
        {
            entry.resolved.extend(found);
            self.news.insert(id);
        }
        unresolved
    }

    /// The dependencies of a Task beside those known to be resolved: resolved by now, and not.
    pub(super) fn unresolved(
        &self,
        facts: &TaskFacts,
        known: &[ResolvedDependency],
    ) -> (Vec<ResolvedDependency>, Vec<Unresolved>) {
        let mut unresolved = Vec::new();
        let mut found: Vec<ResolvedDependency> = Vec::new();
        for name in &facts.dependencies {
            if known.iter().chain(&found).any(|known| known.name == *name) {
                continue;
            }
            match self.resolution(name) {
                Ok(uid) => found.push(ResolvedDependency { name: name.clone(), uid }),
                Err(reason) => unresolved.push(reason),
            }
        }
        (found, unresolved)
    }

    pub(super) fn dependency_wait(&self, name: &str, unresolved: &[Unresolved]) -> Wait {
        match self.graph.cycle(name) {
            Some(cycle) => Wait::DependencyCycle { names: shortened_cycle(cycle) },
            None => wait_for(unresolved),
        }
    }

    /// Admits from the heads of the lists until none has room.
    fn admit(&mut self, now: Timestamp, plan: &mut DispatchPlan, told: &mut BTreeSet<Id>) {
        while let Some((preferred, elder)) = self.choose(now) {
            // The elder's turn depends on the preferred one's: that must be able to start.
            let (bucket, id) = match elder {
                Some(elder) if !self.park_behind(preferred, now, told) => elder,
                Some(_) => continue,
                None => preferred,
            };
            if self.park_behind((bucket, id), now, told) {
                continue;
            }
            let Some(entry) = self.tasks.get(&id) else {
                return;
            };
            let Some((pool, agent)) = self.free_agent(bucket.group, now) else {
                return;
            };
            let purpose = entry.facts.purpose;
            let holder = Holder {
                task_uid: entry.facts.uid.clone(),
                pool: pool.name.clone(),
                agent,
                lane: lanes::effective(&entry.facts.lane).to_owned(),
                areas: self.areas(&entry.facts).to_vec(),
                purpose,
                credential: pool.credential.clone().filter(|_| asks_provider(purpose)),
            };
            let Some(entry) = self.tasks.get_mut(&id) else {
                return;
            };
            // What it covers stays behind the area, which is occupied from here on.
            entry.covers = None;
            entry.told = None;
            plan.admissions.push(Admission {
                task_uid: entry.facts.uid.clone(),
                task_name: entry.facts.name.clone(),
                purpose,
                attempt: match purpose {
                    Purpose::Execute | Purpose::Plan => entry.facts.attempts + 1,
                    Purpose::Judge | Purpose::Merge => entry.facts.attempts.max(1),
                },
                pool: holder.pool.clone(),
                agent: holder.agent.clone(),
                lane: holder.lane.clone(),
                areas: holder.areas.clone(),
                resolved: entry.resolved.clone(),
            });
            self.unpark(id);
            self.park(id, Place::Held);
            self.put(&HolderId::Admission(holder.task_uid.clone()), Some(holder));
        }
    }

    /// An area of the Task that somebody occupies, with the uid of the Task that does.
    pub(super) fn occupied_area(&self, facts: &TaskFacts) -> Option<(String, String)> {
        let mut areas = self.areas(facts).iter();
        areas.find_map(|area| Some((area.clone(), self.occupancy.area_holder(area)?.to_owned())))
    }

    /// Parks the Task behind an area that somebody occupies. Returns whether there is one.
    fn park_behind(&mut self, (bucket, id): Head, now: Timestamp, told: &mut BTreeSet<Id>) -> bool {
        self.examined += 1;
        let occupied = self.tasks.get(&id).and_then(|entry| self.occupied_area(&entry.facts));
        let Some((area, holder_task)) = occupied else {
            return false;
        };
        self.unpark(id);
        self.park(id, Place::Behind(area.clone(), bucket));
        self.tell(id, Some(Wait::Area { area, holder_task }), now, told);
        true
    }

    /// First Task of the lists that have room. Lists of lanes below their floor go before all others,
    /// merges before reviews: what is approved goes stale. If one that is not preferred so comes before
    /// it in order and is older by [`PATIENCE`], that is the elder, whose turn it is.
    fn choose(&self, now: Timestamp) -> Option<(Head, Option<Head>)> {
        let hungry = self.hungry_lanes();
        let mut rooms: BTreeMap<Group, bool> = BTreeMap::new();
        let open = self.parking.heads().filter(|(bucket, _)| {
            let room = *rooms
                .entry(bucket.group)
                .or_insert_with(|| !self.is_full(bucket.group.purpose) && self.has_room(bucket.group, now));
            room && self.full_lane(bucket.lane).is_none()
        });
        let open: Vec<(Bucket, &Rank)> = open.collect();
        let (bucket, first) = open.iter().copied().min_by_key(|(bucket, rank)| {
            let served_first = hungry.get(bucket.lane).copied().unwrap_or(false);
            (!served_first, bucket.group.purpose != Purpose::Merge, *rank)
        })?;
        let is_elder = |rank: &Rank| {
            let bound = rank.created_at.checked_add(PATIENCE);
            *rank < *first && bound.is_ok_and(|bound| bound <= first.created_at)
        };
        let elder = open.into_iter().filter(|(_, rank)| is_elder(rank)).min_by_key(|(_, rank)| *rank);
        Some(((bucket, first.id), elder.map(|(bucket, rank)| (bucket, rank.id))))
    }

    /// Whether each lane rule counts towards a floor that is not reached.
    fn hungry_lanes(&self) -> Vec<bool> {
        let mut used = vec![0usize; self.lanes.iter().count()];
        for (_, rule) in self.lanes.iter() {
            if let Some(sum) = used.get_mut(rule.floor_of) {
                *sum += self.occupancy.lane(&rule.name);
            }
        }
        let below = |index| {
            let floor = self.lanes.rule(index).map_or(0, |rule| rule.floor as usize);
            used.get(index).is_some_and(|used| *used < floor)
        };
        self.lanes.iter().map(|(_, rule)| below(rule.floor_of)).collect()
    }

    /// Name of the lane when it is at its cap.
    pub(super) fn full_lane(&self, lane: lanes::LaneIndex) -> Option<&str> {
        let rule = self.lanes.rule(lane)?;
        let full = rule.cap.is_some_and(|cap| self.occupancy.lane(&rule.name) >= cap as usize);
        full.then_some(rule.name.as_str())
    }

    /// Tells ready Tasks why they are not admitted: those that became ready, and all of a group when
    /// it was opened or shut by more than the other Tasks. That another limit of the same list is
    /// reached now is not told again.
    fn tell_ready(&mut self, now: Timestamp, told: &mut BTreeSet<Id>) {
        for group in Group::ALL {
            let wait = self.group_wait(group, now);
            let same = match (self.shut.get(&group), &wait) {
                (Some(before), Some(wait)) => before.says_the_same(wait),
                (None, None) => true,
                (Some(_), None) | (None, Some(_)) => false,
            };
            if self.system_changed || !same {
                self.fresh.extend(self.parking.ready_of(group));
                match wait {
                    Some(wait) => self.shut.insert(group, wait),
                    None => self.shut.remove(&group),
                };
            }
        }
        self.system_changed = false;
        let mut waits: BTreeMap<Bucket, Wait> = BTreeMap::new();
        for id in std::mem::take(&mut self.fresh) {
            let Some(entry) = self.tasks.get(&id) else {
                continue;
            };
            if let Place::Ready(bucket) = entry.place {
                self.examined += 1;
                let wait = waits.entry(bucket).or_insert_with(|| self.room_wait(bucket, now)).clone();
                self.tell(id, Some(wait), now, told);
            }
        }
    }

    /// Keeps a reason to wait and puts the Task on the list of the told if the reason is another one.
    fn tell(&mut self, id: Id, wait: Option<Wait>, now: Timestamp, told: &mut BTreeSet<Id>) {
        let Some(entry) = self.tasks.get_mut(&id) else {
            return;
        };
        match (wait, &mut entry.told) {
            (None, known) => *known = None,
            (Some(wait), Some(known)) if known.wait.says_the_same(&wait) => {
                // A moment is kept as told: many small delays must not add up to one never told.
                if known.wait.at().is_none() {
                    known.wait = wait;
                }
            }
            (Some(wait), known) => {
                let task_uid = entry.facts.uid.clone();
                *known = Some(Waiting { task_uid, since: now, wait });
                told.insert(id);
            }
        }
    }

    /// Dependencies to be recorded. An admission carries its own.
    fn take_news(&mut self) -> Vec<(String, Vec<ResolvedDependency>)> {
        let news = std::mem::take(&mut self.news);
        let waiting = news.into_iter().filter_map(|id| self.tasks.get(&id)).filter(|entry| {
            let admitted = HolderId::Admission(entry.facts.uid.clone());
            entry.place != Place::Idle && self.occupancy.get(&admitted).is_none()
        });
        waiting
            .map(|entry| {
                let unrecorded = entry.resolved.iter().filter(|d| !entry.facts.resolved.contains(d));
                (entry.facts.uid.clone(), unrecorded.cloned().collect())
            })
            .collect()
    }
}

/// Names whose change may resolve what is unresolved.
fn edges(unresolved: &[Unresolved]) -> Vec<Name> {
    let mut edges: Vec<Name> = Vec::new();
    for name in unresolved.iter().flat_map(|dependency| &dependency.chain) {
        if !edges.contains(name) {
            edges.push(Name::clone(name));
        }
    }
    edges
}

fn shortened_cycle(cycle: &[Name]) -> Vec<String> {
    let mut names: Vec<String> = cycle.iter().map(|name| name.to_string()).collect();
    if names.len() > NAMED_CYCLE
        && let Some(last) = names.pop()
    {
        names.truncate(NAMED_CYCLE - 2);
        names.extend(["...".to_owned(), last]);
    }
    names
}
