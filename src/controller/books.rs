//! The books of every namespace (`plan::accounts`), kept from what the stores accept. Decides nothing:
//! it locks, and asks the plans.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use kube::ResourceExt;

use super::context::Clock;
use crate::crd::{AgentPool, Run, System, Task};
use crate::plan::accounts::{Accounts, Noted};
use crate::plan::budget::{self, Gate};
use crate::plan::restart;

/// See the module.
pub struct Books {
    clock: Clock,
    since: Timestamp,
    namespaces: Mutex<HashMap<String, Accounts>>,
}

impl Default for Books {
    fn default() -> Self {
        Self::new(Clock::wall())
    }
}

impl Books {
    /// Empty books that begin now.
    pub fn new(clock: Clock) -> Self {
        let since = clock.now();
        Self { clock, since, namespaces: Mutex::default() }
    }

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
        let now = self.clock.now();
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::restart::AgentCrash;
    use crate::crd::{AgentPoolSpec, RunPhase, RunSpec, RunStatus, SystemSpec, TokenUsage};
    use crate::plan::run::add;

    fn ended(agent: &str, tokens: i64, crash: Option<AgentCrash>) -> Run {
        let mut run =
            Run::new(agent, RunSpec { pool: "worker".into(), agent: agent.into(), ..RunSpec::default() });
        run.metadata.uid = Some(format!("uid-{agent}"));
        run.status = Some(RunStatus {
            phase: RunPhase::Failed,
            finished_at: Some(Clock::wall().now()),
            tokens: Some(TokenUsage { input: 0, output: tokens, total: tokens, ..Default::default() }),
            agent_crash: crash,
            ..RunStatus::default()
        });
        run
    }

    #[test]
    fn the_end_of_a_run_counts_before_any_status_was_written() {
        let books = Books::default();
        let mut pool = AgentPool::new("worker", AgentPoolSpec::default());
        pool.metadata.namespace = Some("ns".into());
        let mut system = System::new("default", SystemSpec::default());
        let refuses = |system: &System, agent: &str, now| books.refuses(system, &pool, agent, now);
        let now = Clock::wall().now();
        assert!(!refuses(&system, "worker-1", now));
        assert!(books.run("ns", &ended("worker-1", 0, Some(AgentCrash::Killed))).crashed);
        assert!(refuses(&system, "worker-1", now));
        assert!(!refuses(&system, "worker-2", now));
        assert!(!refuses(&system, "worker-1", add(now, std::time::Duration::from_secs(10))));
        assert!(!books.run("ns", &ended("worker-2", 10, None)).crashed);
        system.spec.budgets.per_day = Some(11);
        assert!(!refuses(&system, "worker-2", now));
        system.spec.budgets.per_day = Some(10);
        assert!(refuses(&system, "worker-2", now));
    }
}
