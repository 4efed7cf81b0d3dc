//! What must be true of every admission (by number of the invariant) and of every reason to wait.

use std::collections::{BTreeMap, BTreeSet};

use opentiger::crd::TaskPhase;
use opentiger::plan::dispatch::{
    Admission, DispatchPlan, Holder, HolderId, PoolFacts, Queue, TaskFacts, Wait,
};

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
        assert!(!self.is_shut(pool, number), "the agent of {a:?} takes no Runs");
        let alike = |h: &&Holder| pool.credential.is_some() && h.credential == pool.credential;
        let probing = Self::credential(pool, a.purpose).is_some_and(|c| self.is_limited(c));
        assert!(!probing || !before.values().any(|h| alike(&h)), "more than one probe: {a:?}");
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
            let last = |name: &String| self.chain(name).0.last().and_then(|last| self.tasks.get(last));
            let expected = if self.reaches_itself(&task.name) {
                "DependencyCycle"
            } else if unresolved.iter().any(|d| last(d).is_none()) {
                "UnknownDependency"
            } else if unresolved.iter().any(|d| last(d).is_some_and(|t| t.phase == TaskPhase::Cancelled)) {
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
        let retries = timers.filter_map(|t| self.not_before(t));
        let agents = self.pools.values().flat_map(|p| p.held.values().copied().flatten());
        let used: BTreeSet<&String> = self.pools.values().filter_map(|p| p.credential.as_ref()).collect();
        let holds = used.into_iter().filter_map(|credential| {
            let own = self.ended.iter().filter(|(_, e)| e.credential == *credential);
            own.max_by_key(|(uid, e)| (e.finished_at, e.held_until, (*uid).clone()))?.1.held_until
        });
        let next = retries.chain(agents).chain(holds).filter(|at| *at > self.now).min();
        assert_eq!(plan.wake_at, next);
    }

    pub fn check_room(&self, task: &TaskFacts, wait: &Wait) {
        let pools: Vec<_> = self.pools.values().filter(|p| p.role == task.role).collect();
        let open: Vec<_> = pools.iter().filter(|p| !p.suspended && p.replicas > 0).collect();
        let staffed: Vec<_> =
            open.iter().filter(|p| (1..=p.replicas).any(|slot| !self.is_shut(p, slot))).collect();
        let free = |p: &PoolFacts| Self::credential(p, task.purpose).is_none_or(|c| !self.is_held(c));
        let expected: &[&str] = match &self.system {
            None => &["NoSystem"],
            Some(system) if !system.armed => &["Disarmed"],
            Some(_) if self.is_stopped(task.purpose) => &["ComponentStopped"],
            Some(system) if system.budget.is_some() => &["BudgetExceeded"],
            Some(_) if open.is_empty() && pools.iter().any(|p| p.suspended) => &["PoolSuspended"],
            Some(_) if open.is_empty() => &["NoPool"],
            Some(_) if staffed.is_empty() => &["AgentsHeld", "AgentsStopped"],
            Some(_) if !staffed.iter().any(|p| free(p)) => &["CredentialHeld"],
            // Which limit it is now may have changed; that it is one, and not a person, has not.
            Some(_) => &["NoFreeSlot", "MaxConcurrent", "LaneFull", "AreaOccupied"],
        };
        // A Task behind an area waits for that first.
        assert!(
            expected.contains(&wait.kind()) || wait.kind() == "AreaOccupied",
            "{wait:?} for {expected:?}"
        );
    }
}
