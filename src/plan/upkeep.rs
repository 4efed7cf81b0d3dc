//! What the System says about its namespace: budget gate, cycle, anomalies. The one place where the
//! books (`plan::accounts`) become `System.status`.
//!
//! With no change of any object the same status comes out, whatever the time (invariant S17), but for
//! what time itself brings about: a budget that resets, a cycle that ends, an anomaly that appears.

use std::time::Duration;

use jiff::Timestamp;

use super::accounts::Accounts;
use super::budget::{self, Gate};
use super::cycle::{self, Advance};
use super::monitor::{self, Anomaly, Kind, Severity};
use super::run::add;
use crate::crd::condition::is_true;
use crate::crd::system::{JudgeBacklogPolicy, component, condition};
use crate::crd::{Condition, Role, System, SystemStatus, set_condition};

/// Least time between two writes of the status (design, rule 3.12).
pub const WRITE_EVERY: Duration = Duration::from_secs(1);
/// Least time between two writes that bring nothing but newer numbers, while there is more to come.
pub const COUNTERS_EVERY: Duration = Duration::from_secs(10);

/// A pool as far as anomalies are concerned.
#[derive(Clone, Copy, Debug)]
pub struct PoolView {
    pub role: Role,
    /// Slots that may be given: none while the pool is suspended.
    pub slots: usize,
    /// Those of them that hold no Run and are not held themselves.
    pub free: usize,
}

/// What is to be written, and when to look again.
#[derive(Clone, Debug)]
pub struct Upkeep {
    pub status: SystemStatus,
    pub look_at: Option<Timestamp>,
    /// Runs are in progress: their numbers will follow.
    pub busy: bool,
    /// Sentences for the log and for Events: a cycle has ended, an anomaly has appeared.
    pub news: Vec<(&'static str, String)>,
}

/// Brings `status`, which is the System's with hatch and term up to date, to what the books say.
pub fn plan(
    system: &System,
    mut status: SystemStatus,
    books: &mut Accounts,
    pools: &[PoolView],
    now: Timestamp,
) -> Upkeep {
    let generation = system.metadata.generation.unwrap_or(0);
    books.restore(&status);
    if let Some(start) = status.cycle.as_ref().and_then(|cycle| cycle.started_at) {
        books.begin_cycle(start);
    }
    books.tick(now);
    let before: Vec<Condition> = status.conditions.clone();
    if let Some(usage) = books.ledger().last_usage(now) {
        status.usage = Some(usage);
    }
    let gate = budget::gate(&system.spec.budgets, &books.ledger().usage(now));
    show_gate(&mut status.conditions, &gate, generation, now);
    let turn_at = turn(system, &mut status, books, generation, now);
    let watched = system.spec.self_heal.enabled && !system.is_stopped(component::CYCLE_MANAGER);
    if watched {
        watch(system, &mut status.conditions, books, pools, &gate, generation, now);
    } else {
        unwatch(&mut status.conditions, generation, now);
    }
    let reset_at = match gate {
        Gate::Closed { reason: _, message: _, until } => Some(until),
        // The hour ends a warning too.
        Gate::Near(_) => books.ledger().usage(now).hour.map(|hour| add(hour, Duration::from_secs(3600))),
        Gate::Unlimited | Gate::Open => None,
    };
    let next_look = watched.then(|| add(now, system.spec.self_heal.interval()));
    let look_at = [turn_at, reset_at, next_look].into_iter().flatten().filter(|at| *at > now).min();
    let news = news(&before, &status.conditions);
    let busy = books.busy_since().is_some();
    Upkeep { status, look_at, busy, news }
}

/// Whether `new` says more than newer numbers.
pub fn is_more_than_numbers(old: &SystemStatus, new: &SystemStatus) -> bool {
    let bare = |status: &SystemStatus| {
        let mut status = status.clone();
        status.usage = None;
        if let Some(cycle) = &mut status.cycle {
            cycle.stats = Default::default();
        }
        status
    };
    bare(old) != bare(new)
}

fn show_gate(conditions: &mut Vec<Condition>, gate: &Gate, generation: i64, now: Timestamp) {
    let type_ = condition::BUDGET_EXCEEDED;
    let (closed, reason, message) = match gate {
        Gate::Closed { reason, message, until: _ } => (true, *reason, message.as_str()),
        Gate::Near(message) => (false, "NearLimit", message.as_str()),
        Gate::Open => (false, "WithinBudget", "there is room in the budgets"),
        Gate::Unlimited => (false, "Unlimited", "there is no budget per hour or day"),
    };
    let shown = conditions.iter().find(|c| c.type_ == type_);
    let quiet = matches!(gate, Gate::Open | Gate::Unlimited);
    let same = shown.is_some_and(|c| c.reason == reason && c.observed_generation == generation);
    // The sentence names numbers: it is not written anew while the matter is the same.
    if same || (quiet && shown.is_none_or(|c| c.reason == reason)) {
        return;
    }
    set_condition(conditions, type_, closed, reason, message, generation, now);
    if let Some(shown) = conditions.iter_mut().find(|c| c.type_ == type_) {
        shown.observed_generation = generation;
    }
}

/// Brings the cycle up to date. Returns when it ends by time.
fn turn(
    system: &System,
    status: &mut SystemStatus,
    books: &Accounts,
    generation: i64,
    now: Timestamp,
) -> Option<Timestamp> {
    let stats = books.tally().stats();
    let stuck = gravest(books, now).filter(|(severity, ..)| *severity == Severity::Critical);
    let observed = cycle::Observed {
        settings: &system.spec.cycles,
        stats: &stats,
        first_run: books.tally().first_run(),
        stuck: stuck.as_ref().map(|(_, _, name, uid)| (name.as_str(), uid.as_str())),
        stopped: system.is_stopped(component::CYCLE_MANAGER),
        now,
    };
    let advance = cycle::advance(status.cycle.as_ref(), &observed)?;
    let look_at = advance.look_at;
    show_cycle(status, advance, generation, now);
    look_at
}

/// Writes a step of the cycle and what condition `CycleEnded` says of it.
pub fn show_cycle(status: &mut SystemStatus, advance: Advance, generation: i64, now: Timestamp) {
    let type_ = condition::CYCLE_ENDED;
    let Advance { cycle, ended, look_at: _ } = advance;
    if let Some((trigger, message)) = ended {
        set_condition(&mut status.conditions, type_, true, trigger.word(), &message, generation, now);
    } else if cycle.active_since.is_some() && is_true(&status.conditions, type_) {
        let message = format!("cycle {} is in progress", cycle.number);
        set_condition(&mut status.conditions, type_, false, "CycleRunning", &message, generation, now);
    }
    status.cycle = Some(cycle);
}

/// The gravest of the Runs that take too long: severity, minutes, name and uid; the oldest of these.
fn gravest(books: &Accounts, now: Timestamp) -> Option<(Severity, i64, String, String)> {
    let mut worst: Option<(Severity, i64, String, String)> = None;
    for (uid, run) in
        books.in_progress().take_while(|(_, run)| monitor::stuck(run.since, None, now).is_some())
    {
        if let Some((severity, minutes)) = monitor::stuck(run.since, run.timebox, now)
            && worst.as_ref().is_none_or(|(known, ..)| severity > *known)
        {
            worst = Some((severity, minutes, run.name.clone(), uid.to_string()));
        }
    }
    worst
}

fn watch(
    system: &System,
    conditions: &mut Vec<Condition>,
    books: &Accounts,
    pools: &[PoolView],
    gate: &Gate,
    generation: i64,
    now: Timestamp,
) {
    let grace = now < add(books.since(), system.spec.self_heal.startup_grace());
    for kind in Kind::ALL {
        let found = find(kind, system, books, pools, gate, now);
        if grace && kind.is_about_absence() && !is_true(conditions, kind.condition()) {
            continue;
        }
        monitor::show(conditions, kind, found.as_ref(), generation, now);
    }
}

fn find(
    kind: Kind,
    system: &System,
    books: &Accounts,
    pools: &[PoolView],
    gate: &Gate,
    now: Timestamp,
) -> Option<Anomaly> {
    let (hour, before) = books.windows().sums();
    match kind {
        Kind::HighFailureRate => monitor::high_failure_rate(hour),
        Kind::CostSpike => monitor::cost_spike(hour, before),
        Kind::StuckTask => {
            let (severity, minutes, name, _) = gravest(books, now)?;
            let all =
                books.in_progress().filter(|(_, run)| monitor::stuck(run.since, run.timebox, now).is_some());
            monitor::stuck_task(&name, severity, minutes, all.count().saturating_sub(1))
        }
        Kind::NoProgress => {
            let since = books.busy_since()?.max(books.windows().last_success().unwrap_or(Timestamp::MIN));
            monitor::no_progress(books.in_progress().count(), since, now)
        }
        Kind::AgentTimeout => books
            .in_progress()
            .filter_map(|(_, run)| Some((run.unanswered?, run.agent.as_str())))
            .min()
            .and_then(|(since, agent)| monitor::agent_timeout(agent, since, now)),
        Kind::JudgeBacklog => match system.spec.self_heal.judge_backlog {
            JudgeBacklogPolicy::Ignore => None,
            JudgeBacklogPolicy::StartWhenArmed => {
                monitor::judge_backlog(books.awaiting_judge(), judge_obstacle(system, pools))
            }
        },
        Kind::IdleAgents => {
            let shut = matches!(gate, Gate::Closed { reason: _, message: _, until: _ });
            if !system.is_armed() || shut || system.is_stopped(component::DISPATCHER) {
                return None;
            }
            books.ready().find_map(|(role, since)| {
                let free = pools.iter().filter(|pool| pool.role == role).map(|pool| pool.free).sum();
                monitor::idle_agents(role.word(), free, since, now)
            })
        }
    }
}

/// What keeps reviews from starting, and what to do about it.
fn judge_obstacle(system: &System, pools: &[PoolView]) -> Option<&'static str> {
    let slots: usize = pools.iter().filter(|pool| pool.role == Role::Judge).map(|pool| pool.slots).sum();
    if !system.spec.judge.enabled {
        Some("judge.enabled is false: set it to true")
    } else if system.is_stopped(component::JUDGE) {
        Some("component judge is stopped: create an Operation of type Start with target judge")
    } else if !system.is_armed() {
        Some("the runtime hatch is disarmed: arm it")
    } else if slots == 0 {
        Some(
            "no AgentPool of role Judge has a slot: create one, scale it up or set its spec.suspend to false",
        )
    } else {
        None
    }
}

fn unwatch(conditions: &mut Vec<Condition>, generation: i64, now: Timestamp) {
    for kind in Kind::ALL {
        if is_true(conditions, kind.condition()) {
            set_condition(
                conditions,
                kind.condition(),
                false,
                "NotWatched",
                "nobody looks for it",
                generation,
                now,
            );
        }
    }
}

/// Conditions that have become True, or True for another reason.
fn news(before: &[Condition], after: &[Condition]) -> Vec<(&'static str, String)> {
    let types = Kind::ALL.iter().map(|kind| kind.condition());
    let types = types.chain([condition::BUDGET_EXCEEDED, condition::CYCLE_ENDED]);
    types
        .filter_map(|type_| {
            let find =
                |list: &[Condition]| list.iter().find(|c| c.type_ == type_ && c.status == "True").cloned();
            let now = find(after)?;
            let is_new = find(before).is_none_or(|old| old.message != now.message);
            is_new.then_some((type_, now.message))
        })
        .collect()
}

/// The time left of `spacing` since `written`.
pub fn left(written: Option<Timestamp>, spacing: Duration, now: Timestamp) -> Option<Duration> {
    let due = add(written?, spacing);
    Duration::try_from(due.duration_since(now)).ok().filter(|left| *left > Duration::ZERO)
}

#[cfg(test)]
mod tests;
