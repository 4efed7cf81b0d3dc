//! Whether there is room for a group of Tasks: System, component, budget, pools, agents, credentials.
//!
//! A group is a role and a purpose. Its Tasks compete for the same slots, so what is said here holds for
//! all of them; lanes and areas do not belong here.

use std::collections::{BTreeSet, HashMap};

use jiff::Timestamp;

use super::credentials::Allowance;
use super::occupancy::{is_counted, slot_name, slot_number};
use super::parking::Bucket;
use super::queue::Queue;
use super::{PoolFacts, Wait};
use crate::crd::system::component;
use crate::crd::{Purpose, Role};

/// Tasks that compete for the same slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Group {
    pub role: Role,
    pub purpose: Purpose,
}

impl Group {
    /// Every group there can be.
    pub const ALL: [Self; 8] = [
        Self { role: Role::Worker, purpose: Purpose::Execute },
        Self { role: Role::Tester, purpose: Purpose::Execute },
        Self { role: Role::Docser, purpose: Purpose::Execute },
        Self { role: Role::Judge, purpose: Purpose::Execute },
        Self { role: Role::Planner, purpose: Purpose::Execute },
        Self { role: Role::Judge, purpose: Purpose::Judge },
        Self { role: Role::Judge, purpose: Purpose::Merge },
        Self { role: Role::Planner, purpose: Purpose::Plan },
    ];
}

/// The component that admits Runs of a purpose, by the name under which it can be stopped.
pub fn component_of(purpose: Purpose) -> &'static str {
    match purpose {
        Purpose::Judge | Purpose::Merge => component::JUDGE,
        Purpose::Plan => component::PLANNER,
        Purpose::Execute => component::DISPATCHER,
    }
}

/// Whether a Run of the purpose asks the provider that the pool's credential is for. A merge does not.
pub(super) fn asks_provider(purpose: Purpose) -> bool {
    match purpose {
        Purpose::Merge => false,
        Purpose::Execute | Purpose::Judge | Purpose::Plan => true,
    }
}

/// The agents among the stopped, as slots by pool.
pub(super) fn stopped_slots(stopped: &BTreeSet<String>) -> HashMap<String, BTreeSet<u32>> {
    let mut slots: HashMap<String, BTreeSet<u32>> = HashMap::new();
    for agent in stopped {
        if let Some((pool, _)) = agent.rsplit_once('-')
            && let Some(number) = slot_number(pool, agent)
        {
            slots.entry(pool.to_owned()).or_default().insert(number);
        }
    }
    slots
}

impl Queue {
    /// Slots of the pool whose agents are stopped, or held at `now`.
    pub(super) fn shut_slots(&self, pool: &PoolFacts, now: Timestamp) -> BTreeSet<u32> {
        let mut shut = self.stopped_slots.get(&pool.name).cloned().unwrap_or_default();
        let held = pool.held.iter().filter(|(_, until)| until.is_none_or(|until| until > now));
        shut.extend(held.map(|(number, _)| *number));
        shut.retain(|number| (1..=pool.replicas).contains(number));
        shut
    }

    /// Slots that a Run can be given now, the credential apart. Never more than the pool has left,
    /// those in use above its present size included (S10).
    pub(super) fn free_slots(&self, pool: &PoolFacts, now: Timestamp) -> usize {
        if pool.suspended {
            return 0;
        }
        let replicas = pool.replicas as usize;
        let shut = self.shut_slots(pool, now);
        let shut = shut.iter().filter(|n| !self.occupancy.is_taken(&pool.name, **n)).count();
        let numbers = replicas - self.occupancy.taken_up_to(&pool.name, pool.replicas) - shut;
        numbers.min(replicas.saturating_sub(self.occupancy.slots_used(&pool.name)))
    }

    /// The hold on the pool's credential: absent when a Run of the purpose may be started with it, else
    /// the credential with the time until which it is held, or none while one Run tries it.
    pub(super) fn hold(
        &self,
        pool: &PoolFacts,
        purpose: Purpose,
        now: Timestamp,
    ) -> Option<(Option<Timestamp>, String)> {
        let credential = pool.credential.as_ref().filter(|_| asks_provider(purpose))?;
        match self.credentials.allowance(credential, now) {
            Allowance::Open => None,
            Allowance::Held(until) => Some((Some(until), credential.clone())),
            Allowance::Probe => {
                (self.occupancy.with_credential(credential) > 0).then(|| (None, credential.clone()))
            }
        }
    }

    fn room(&self, pool: &PoolFacts, purpose: Purpose, now: Timestamp) -> usize {
        if self.hold(pool, purpose, now).is_some() { 0 } else { self.free_slots(pool, now) }
    }

    /// The lowest free slot of the pool with the most; the first by name among equals.
    pub(super) fn free_agent(&self, group: Group, now: Timestamp) -> Option<(&PoolFacts, String)> {
        let mut best: Option<(usize, &PoolFacts)> = None;
        for pool in self.pools.values().filter(|pool| pool.role == group.role) {
            let free = self.room(pool, group.purpose, now);
            if free > best.map_or(0, |(most, _)| most) {
                best = Some((free, pool));
            }
        }
        let (_, pool) = best?;
        let number = self.occupancy.free_slot(&pool.name, &self.shut_slots(pool, now));
        Some((pool, slot_name(&pool.name, number)))
    }

    /// Whether a Task of the group can be admitted now, lanes, areas and `maxConcurrent` apart.
    pub(super) fn has_room(&self, group: Group, now: Timestamp) -> bool {
        let mut pools = self.pools.values().filter(|pool| pool.role == group.role);
        self.system_wait(group.purpose).is_none() && pools.any(|pool| self.room(pool, group.purpose, now) > 0)
    }

    /// Whether `maxConcurrent` keeps Runs of the purpose back.
    pub(super) fn is_full(&self, purpose: Purpose) -> bool {
        let max = self.system.as_ref().and_then(|system| system.max_concurrent);
        is_counted(purpose) && max.is_some_and(|max| self.occupancy.counted() >= max as usize)
    }

    /// Why a list has no room: what a person has to change first, then what lasts longest.
    pub(super) fn room_wait(&self, bucket: Bucket, now: Timestamp) -> Wait {
        if let Some(wait) = self.group_wait(bucket.group, now) {
            wait
        } else if let Some(lane) = self.full_lane(bucket.lane) {
            Wait::Lane { lane: lane.to_owned() }
        } else if self.is_full(bucket.group.purpose) {
            Wait::MaxConcurrent
        } else {
            Wait::Slots { role: bucket.group.role }
        }
    }

    /// Why nothing of the group can start, whoever is first in it.
    pub(super) fn group_wait(&self, group: Group, now: Timestamp) -> Option<Wait> {
        self.system_wait(group.purpose)
            .or_else(|| self.pools_wait(group.role))
            .or_else(|| self.agents_wait(group.role, now))
            .or_else(|| self.credential_wait(group, now))
    }

    fn system_wait(&self, purpose: Purpose) -> Option<Wait> {
        self.hatch_wait().or_else(|| self.component_wait(purpose)).or_else(|| self.budget_wait())
    }

    pub(super) fn hatch_wait(&self) -> Option<Wait> {
        match &self.system {
            None => Some(Wait::NoSystem),
            Some(system) if !system.armed => Some(Wait::Disarmed),
            Some(_) => None,
        }
    }

    pub(super) fn component_wait(&self, purpose: Purpose) -> Option<Wait> {
        let component = component_of(purpose);
        let stopped = self.system.as_ref().is_some_and(|system| system.stopped.contains(component));
        stopped.then_some(Wait::ComponentStopped { component })
    }

    pub(super) fn budget_wait(&self) -> Option<Wait> {
        let message = self.system.as_ref()?.budget.clone()?;
        Some(Wait::Budget { message })
    }

    pub(super) fn pools_wait(&self, role: Role) -> Option<Wait> {
        let mut suspended = None;
        for pool in self.pools.values().filter(|pool| pool.role == role) {
            match (pool.suspended, pool.replicas) {
                (true, _) => suspended = suspended.or(Some(pool.name.clone())),
                (false, 1..) => return None,
                (false, 0) => {}
            }
        }
        Some(suspended.map_or(Wait::NoPool { role }, |pool| Wait::PoolSuspended { role, pool }))
    }

    /// Pools of the role that take Runs.
    fn open_pools(&self, role: Role) -> impl Iterator<Item = &PoolFacts> {
        self.pools.values().filter(move |pool| pool.role == role && !pool.suspended && pool.replicas > 0)
    }

    fn has_agents(&self, pool: &PoolFacts, now: Timestamp) -> bool {
        self.shut_slots(pool, now).len() < pool.replicas as usize
    }

    /// Every agent of the role is stopped or held: the one that comes back first.
    pub(super) fn agents_wait(&self, role: Role, now: Timestamp) -> Option<Wait> {
        if self.open_pools(role).any(|pool| self.has_agents(pool, now)) {
            return None;
        }
        let mut stopped = None;
        let mut held: Option<(bool, Option<Timestamp>, String)> = None;
        for pool in self.open_pools(role) {
            let by_operation = self.stopped_slots.get(&pool.name);
            for number in self.shut_slots(pool, now) {
                let agent = slot_name(&pool.name, number);
                if by_operation.is_some_and(|slots| slots.contains(&number)) {
                    stopped = stopped.or(Some(agent));
                } else {
                    let until = pool.held.get(&number).copied().flatten();
                    let candidate = (until.is_none(), until, agent);
                    held = Some(held.map_or(candidate.clone(), |known| known.min(candidate)));
                }
            }
        }
        match (held, stopped) {
            (Some((false, until, agent)), _) => Some(Wait::AgentsHeld { role, agent, until }),
            (_, Some(agent)) => Some(Wait::AgentsStopped { role, agent }),
            (Some((true, until, agent)), None) => Some(Wait::AgentsHeld { role, agent, until }),
            (None, None) => None,
        }
    }

    /// Every pool of the group that has agents uses a credential that is held: the one that is tried
    /// first.
    pub(super) fn credential_wait(&self, group: Group, now: Timestamp) -> Option<Wait> {
        let mut first: Option<(Option<Timestamp>, String)> = None;
        for pool in self.open_pools(group.role).filter(|pool| self.has_agents(pool, now)) {
            let hold = self.hold(pool, group.purpose, now)?;
            first = Some(first.map_or(hold.clone(), |known| known.min(hold)));
        }
        first.map(|(until, credential)| Wait::CredentialHeld { credential, until })
    }

    /// When time alone opens something next: a held agent or credential.
    pub(super) fn next_opening(&self, now: Timestamp) -> Option<Timestamp> {
        let agents = self.pools.values().flat_map(|pool| pool.held.values().copied().flatten());
        let credentials = self.pools.values().filter_map(|pool| {
            match self.credentials.allowance(pool.credential.as_ref()?, now) {
                Allowance::Held(until) => Some(until),
                Allowance::Open | Allowance::Probe => None,
            }
        });
        agents.chain(credentials).filter(|at| *at > now).min()
    }
}
