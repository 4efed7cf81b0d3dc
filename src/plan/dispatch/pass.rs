//! One pass of the dispatcher over what changed: settle, admit, tell.
//!
//! Owns the decision described in [`super`]. It looks at a Task only when the Task was parked anew
//! since the last pass, when it is first in a list that has room, or when its reason to wait changed.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::dependencies::Name;
use super::occupancy::slot_name;
use super::parking::{Bucket, Id};
use super::queue::{Outcome, Place, Queue};
use super::{Admission, DispatchPlan, Holder, HolderId, Wait, Waiting};
use crate::crd::task::ResolvedDependency;
use crate::crd::{Role, TaskPhase};
use crate::plan::lanes;

/// Kinds of Tasks that can be dispatched.
const KINDS: [&str; 1] = ["code"];
/// Dependencies that a reason names.
const NAMED_DEPENDENCIES: usize = 5;
/// Tasks of a cycle that a reason names.
const NAMED_CYCLE: usize = 10;

/// Whether the pools of a role can take Tasks at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RoleState {
    /// No pool has slots.
    NoPool,
    /// Every pool is suspended.
    Suspended(String),
    Open,
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
        plan.wake_at = self.timers.first().map(|(at, _)| *at);
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
        let idle = entry.facts.phase != TaskPhase::Queued || entry.facts.cancel;
        let known_kind = KINDS.contains(&entry.facts.kind.as_str());
        let unresolved = if idle || !known_kind { Vec::new() } else { self.unresolved(id) };
        let Some(entry) = self.tasks.get(&id) else {
            return;
        };
        let (place, wait) = if idle {
            (Place::Idle, None)
        } else if !known_kind {
            (Place::Unsupported, Some(Wait::UnsupportedKind { kind: entry.facts.kind.clone() }))
        } else if !unresolved.is_empty() {
            self.set_edges(&name, unresolved.clone());
            self.park(id, Place::Dependencies);
            let wait = self.dependency_wait(&name, &unresolved);
            return self.tell(id, Some(wait), now, told);
        } else if let Some(at) = entry.facts.not_before.max(entry.hold_off).filter(|at| *at > now) {
            (Place::Timer(at), Some(Wait::RetryAt(at)))
        } else if self.occupancy.holds(&entry.facts.uid) {
            let old_pod = self.occupancy.only_pods(&entry.facts.uid);
            (Place::Held, old_pod.then_some(Wait::OldPod))
        } else {
            let bucket = Bucket { role: entry.facts.role, lane: self.lanes.index(&entry.facts.lane) };
            // Its reason, if it is not admitted, is told at the end of the pass.
            self.set_edges(&name, Vec::new());
            self.fresh.insert(id);
            return self.park(id, Place::Ready(bucket));
        };
        self.set_edges(&name, Vec::new());
        self.park(id, place);
        self.tell(id, wait, now, told);
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
    fn unresolved(&mut self, id: Id) -> Vec<Name> {
        let Some(entry) = self.tasks.get(&id) else {
            return Vec::new();
        };
        let mut unresolved: Vec<Name> = Vec::new();
        let mut found: Vec<ResolvedDependency> = Vec::new();
        for name in &entry.facts.dependencies {
            if entry.resolved.iter().chain(&found).any(|known| known.name == *name) {
                continue;
            }
            match self.outcome(name) {
                Some((Outcome::Resolved, uid)) => {
                    found.push(ResolvedDependency { name: name.clone(), uid: uid.to_owned() });
                }
                Some((Outcome::Pending | Outcome::GivenUp, _)) | None => {
                    let name: Name = name.as_str().into();
                    if !unresolved.contains(&name) {
                        unresolved.push(name);
                    }
                }
            }
        }
        if !found.is_empty()
            && let Some(entry) = self.tasks.get_mut(&id)
        {
            entry.resolved.extend(found);
            self.news.insert(id);
        }
        unresolved
    }

    fn dependency_wait(&self, name: &str, unresolved: &[Name]) -> Wait {
        if let Some(cycle) = self.graph.cycle(name) {
            return Wait::DependencyCycle { names: shortened_cycle(cycle) };
        }
        let with = |wanted: Option<Outcome>| {
            let is = |name: &&Name| self.outcome(name).map(|(outcome, _)| outcome) == wanted;
            unresolved.iter().find(is).map(|name| name.to_string())
        };
        if let Some(name) = with(None) {
            Wait::UnknownDependency { name }
        } else if let Some(name) = with(Some(Outcome::GivenUp)) {
            Wait::CancelledDependency { name }
        } else {
            let names = unresolved.iter().take(NAMED_DEPENDENCIES).map(|name| name.to_string());
            let more = (unresolved.len() > NAMED_DEPENDENCIES).then(|| "...".to_owned());
            Wait::Dependencies { names: names.chain(more).collect() }
        }
    }

    /// Admits from the heads of the lists until none has room.
    fn admit(&mut self, now: Timestamp, plan: &mut DispatchPlan, told: &mut BTreeSet<Id>) {
        while let Some((bucket, id)) = self.choose() {
            self.examined += 1;
            let Some(entry) = self.tasks.get_mut(&id) else {
                return;
            };
            let occupied = entry
                .facts
                .areas
                .iter()
                .find_map(|area| Some((area.clone(), self.occupancy.area_holder(area)?.to_owned())));
            if let Some((area, holder_task)) = occupied {
                self.unpark(id);
                self.park(id, Place::Behind(area.clone(), bucket));
                self.tell(id, Some(Wait::Area { area, holder_task }), now, told);
                continue;
            }
            let Some((pool, agent)) = self.free_agent(bucket.role) else {
                return;
            };
            let Some(entry) = self.tasks.get_mut(&id) else {
                return;
            };
            // What it covers stays behind the area, which is occupied from here on.
            entry.covers = None;
            entry.told = None;
            let holder = Holder {
                task_uid: entry.facts.uid.clone(),
                pool,
                agent,
                lane: lanes::effective(&entry.facts.lane).to_owned(),
                areas: entry.facts.areas.clone(),
            };
            plan.admissions.push(Admission {
                task_uid: entry.facts.uid.clone(),
                task_name: entry.facts.name.clone(),
                attempt: entry.facts.attempts + 1,
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

    /// First Task of the lists that have room; lists of lanes below their floor go before all others.
    fn choose(&self) -> Option<(Bucket, Id)> {
        let system = self.system.as_ref().filter(|system| system.armed)?;
        if system.max_concurrent.is_some_and(|max| self.occupancy.tasks() >= max as usize) {
            return None;
        }
        let free: BTreeSet<Role> =
            self.pools.values().filter(|pool| self.free_slots(&pool.name) > 0).map(|p| p.role).collect();
        let hungry = self.hungry_lanes();
        let open = self
            .parking
            .heads()
            .filter(|(bucket, _)| free.contains(&bucket.role) && self.full_lane(bucket.lane).is_none());
        let first = open.min_by_key(|(bucket, rank)| {
            let served_first = hungry.get(bucket.lane).copied().unwrap_or(false);
            (!served_first, *rank)
        });
        first.map(|(bucket, rank)| (bucket, rank.id))
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
    fn full_lane(&self, lane: lanes::LaneIndex) -> Option<&str> {
        let rule = self.lanes.rule(lane)?;
        let full = rule.cap.is_some_and(|cap| self.occupancy.lane(&rule.name) >= cap as usize);
        full.then_some(rule.name.as_str())
    }

    fn free_slots(&self, pool: &str) -> usize {
        let Some(pool) = self.pools.get(pool).filter(|pool| !pool.suspended) else {
            return 0;
        };
        (pool.replicas as usize).saturating_sub(self.occupancy.slots_used(&pool.name))
    }

    /// Lowest free slot of the pool with the most; the first by name among equals.
    fn free_agent(&self, role: Role) -> Option<(String, String)> {
        let mut best: Option<(usize, &str)> = None;
        for pool in self.pools.values().filter(|pool| pool.role == role) {
            let free = self.free_slots(&pool.name);
            if free > best.map_or(0, |(most, _)| most) {
                best = Some((free, &pool.name));
            }
        }
        let (_, pool) = best?;
        Some((pool.to_owned(), slot_name(pool, self.occupancy.free_slot(pool))))
    }

    /// Tells ready Tasks why they are not admitted: those that became ready, and all of a role when
    /// a person changed what the role may do. That another limit of the same list is reached now is
    /// not told again.
    fn tell_ready(&mut self, now: Timestamp, told: &mut BTreeSet<Id>) {
        for role in Role::ALL {
            let state = self.role_state(role);
            if self.system_changed || self.role_states.get(&role) != Some(&state) {
                self.fresh.extend(self.parking.ready_of(role));
                self.role_states.insert(role, state);
            }
        }
        self.system_changed = false;
        for id in std::mem::take(&mut self.fresh) {
            let Some(entry) = self.tasks.get(&id) else {
                continue;
            };
            if let Place::Ready(bucket) = entry.place {
                self.examined += 1;
                let wait = self.room_wait(bucket);
                self.tell(id, Some(wait), now, told);
            }
        }
    }

    /// Why a list has no room: what a person has to change first, then what lasts longest.
    fn room_wait(&self, bucket: Bucket) -> Wait {
        let role = bucket.role;
        let Some(system) = &self.system else {
            return Wait::NoSystem;
        };
        if !system.armed {
            return Wait::Disarmed;
        }
        match self.role_state(role) {
            RoleState::NoPool => return Wait::NoPool { role },
            RoleState::Suspended(pool) => return Wait::PoolSuspended { role, pool },
            RoleState::Open => {}
        }
        if let Some(lane) = self.full_lane(bucket.lane) {
            return Wait::Lane { lane: lane.to_owned() };
        }
        match system.max_concurrent {
            Some(max) if self.occupancy.tasks() >= max as usize => Wait::MaxConcurrent,
            Some(_) | None => Wait::Slots { role },
        }
    }

    fn role_state(&self, role: Role) -> RoleState {
        let mut suspended = None;
        for pool in self.pools.values().filter(|pool| pool.role == role) {
            match (pool.suspended, pool.replicas) {
                (true, _) => suspended = suspended.or(Some(pool.name.clone())),
                (false, 1..) => return RoleState::Open,
                (false, 0) => {}
            }
        }
        suspended.map_or(RoleState::NoPool, RoleState::Suspended)
    }

    /// Keeps a reason to wait and puts the Task on the list of the told if the reason is another one.
    fn tell(&mut self, id: Id, wait: Option<Wait>, now: Timestamp, told: &mut BTreeSet<Id>) {
        let Some(entry) = self.tasks.get_mut(&id) else {
            return;
        };
        match (wait, &mut entry.told) {
            (None, known) => *known = None,
            (Some(wait), Some(known)) if known.wait.says_the_same(&wait) => known.wait = wait,
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
