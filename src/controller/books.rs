//! The books of every namespace (`plan::accounts`), kept from what the stores accept. Decides nothing:
//! it locks, and asks the plans.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use kube::ResourceExt;

use super::context::clock;
use crate::crd::{AgentPool, Run, System, Task};
use crate::plan::accounts::{Accounts, Noted};
use crate::plan::budget::{self, Gate};
use crate::plan::restart;

/// See the module.
pub struct Books {
    since: Timestamp,
    namespaces: Mutex<HashMap<String, Accounts>>,
}

impl Default for Books {
    fn default() -> Self {
        Self { since: clock(), namespaces: Mutex::default() }
    }
}

impl Books {
    /// Reads or changes the books of a namespace. Must not block.
    pub fn with<T>(&self, namespace: &str, act: impl FnOnce(&mut Accounts) -> T) -> T {
        let mut namespaces = self.namespaces.lock().unwrap_or_else(PoisonError::into_inner);
        match namespaces.get_mut(namespace) {
            Some(accounts) => act(accounts),
            None => act(namespaces.entry(namespace.to_string()).or_insert_with(|| Accounts::new(self.since))),
        }
    }

    /// A Run was created or has changed.
    pub fn run(&self, namespace: &str, run: &Run) -> Noted {
        let now = clock();
        self.with(namespace, |accounts| accounts.run(run, now))
    }

    /// A Task was created or has changed.
    pub fn task(&self, namespace: &str, task: &Task) {
        self.with(namespace, |accounts| accounts.task(task));
    }

    /// The holds of a pool as of `now`, those not yet written included.
    pub fn holds(&self, pool: &AgentPool, system: Option<&System>, now: Timestamp) -> restart::Holds {
        let held = pool.status.as_ref().map(|status| status.held.as_slice()).unwrap_or_default();
        let namespace = pool.namespace().unwrap_or_default();
        let crashes = self.with(&namespace, |accounts| accounts.crashes(&pool.name_any()));
        let settings = system.map(|system| system.spec.auto_restart.clone()).unwrap_or_default();
        restart::plan(held, &crashes, &BTreeSet::new(), &settings, now)
    }

    /// Whether a Run may not be admitted into a slot that the dispatcher has chosen: a budget has been
    /// used up or the agent has crashed since the statuses were written that the dispatcher knows.
    /// Budgets are overshot by the Runs in flight at most (invariant S10).
    pub fn refuses(&self, system: &System, pool: &AgentPool, agent: &str, now: Timestamp) -> bool {
        let namespace = pool.namespace().unwrap_or_default();
        let used = self.with(&namespace, |accounts| accounts.ledger().usage(now));
        let closed = matches!(
            budget::gate(&system.spec.budgets, &used),
            Gate::Closed { reason: _, message: _, until: _ }
        );
        closed || restart::is_held(&self.holds(pool, Some(system), now).held, agent, now)
    }
}
