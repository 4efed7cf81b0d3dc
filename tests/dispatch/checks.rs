//! What must be true of every admission (by number of the invariant) and of every reason to wait.

use std::collections::{BTreeMap, BTreeSet};

use opentiger::crd::TaskPhase;
use opentiger::plan::dispatch::{Admission, DispatchPlan, Holder, HolderId, Queue, TaskFacts, Wait};

use crate::naive::Naive;

impl Naive {
    /// Invariants of one admission, given who held what before it.
    pub fn check(&self, before: &BTreeMap<HolderId, Holder>, a: &Admission) {
        let task = self.tasks.values().find(|t| t.uid == a.task_uid).expect("known");
        assert!(before.values().all(|h| h.task_uid != a.task_uid), "S2: {a:?} is held");
        assert!(before.values().all(|h| h.areas.iter().all(|x| !a.areas.contains(x))), "S8: {a:?}");
        let in_lane: BTreeSet<_> =
            before.values().filter(|h| h.lane == a.lane).map(|h| &h.task_uid).collect();
        assert!(self.lane(&a.lane).max.is_none_or(|max| in_lane.len() < max as usize), "S9: {a:?}");
        let pool = &self.pools[&a.pool];
        let in_pool: BTreeSet<_> =
            before.values().filter(|h| h.pool == a.pool).map(|h| &h.task_uid).collect();
        assert!(!pool.suspended && in_pool.len() < pool.replicas as usize, "S10: {a:?}");
        assert!(before.values().all(|h| h.agent != a.agent), "rule 4: slot of {a:?} is taken");
        let number: u32 = a.agent.rsplit('-').next().and_then(|n| n.parse().ok()).expect("a number");
        assert!((1..=pool.replicas).contains(&number), "S10: slot of {a:?}");
        assert!(self.unresolved(task).is_empty() && !self.reaches_itself(&task.name), "S11: {a:?}");
        assert_eq!(pool.role, task.role);
    }

    /// What is told about every waiting Task is there and true.
    pub fn check_waits(&self, queue: &Queue, plan: &DispatchPlan) {
        for task in self.tasks.values() {
            let waiting = queue.waiting(&task.uid);
            let own: Vec<&HolderId> =
                self.holders.iter().filter(|(_, h)| h.task_uid == task.uid).map(|(id, _)| id).collect();
            let in_progress = own.iter().any(|id| !matches!(id, HolderId::Pod(_)));
            if !Self::is_waiting(task) {
                assert_eq!(waiting, None, "{task:?}");
                continue;
            }
            let unresolved = self.unresolved(task);
            let later = self.not_before(task).filter(|at| *at > self.now);
            if unresolved.is_empty() && later.is_none() && in_progress {
                assert_eq!(waiting, None, "{task:?}");
                continue;
            }
            let wait = &waiting.unwrap_or_else(|| panic!("nothing is told about {task:?}")).wait;
            let known = |name: &String| self.tasks.get(name);
            let expected = if self.reaches_itself(&task.name) {
                "DependencyCycle"
            } else if unresolved.iter().any(|d| known(d).is_none()) {
                "UnknownDependency"
            } else if unresolved.iter().any(|d| known(d).is_some_and(|t| t.phase == TaskPhase::Cancelled)) {
                "CancelledDependency"
            } else if !unresolved.is_empty() {
                "WaitingForDependencies"
            } else if later.is_some() {
                "RetryAt"
            } else if !own.is_empty() {
                "OldPod"
            } else {
                self.check_room(task, wait);
                continue;
            };
            assert_eq!(wait.kind(), expected, "{task:?}");
        }
        let timers = self.tasks.values().filter(|t| Self::is_waiting(t) && self.unresolved(t).is_empty());
        let next = timers.filter_map(|t| self.not_before(t)).filter(|at| *at > self.now).min();
        assert_eq!(plan.wake_at, next);
    }

    pub fn check_room(&self, task: &TaskFacts, wait: &Wait) {
        let mut pools = self.pools.values().filter(|p| p.role == task.role);
        let open = pools.clone().any(|p| !p.suspended && p.replicas > 0);
        let expected = match (&self.system, open) {
            (None, _) => "NoSystem",
            (Some(system), _) if !system.armed => "Disarmed",
            (Some(_), false) if pools.any(|p| p.suspended) => "PoolSuspended",
            (Some(_), false) => "NoPool",
            // Which limit it is now may have changed; that it is one, and not a person, has not.
            (Some(_), true) => {
                assert!(
                    ["NoFreeSlot", "MaxConcurrent", "LaneFull", "AreaOccupied"].contains(&wait.kind()),
                    "{wait:?}"
                );
                return;
            }
        };
        // A Task behind an area waits for that first.
        assert!(wait.kind() == expected || wait.kind() == "AreaOccupied", "{wait:?} for {expected}");
    }
}
