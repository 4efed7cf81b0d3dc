//! Agents that crash: how long each one takes no Runs (`spec/api.md` 2.6).
//!
//! An agent is a slot; its "restart" is the next Run in it. The state is `AgentPool.status.held`,
//! which a new leader reads; a crash is an ended Run that says so (`Run.status.agentCrash`). Each
//! Run uid counts once: of one agent there is one Run at a time, so the time of the last crash that
//! was counted parts the old from the new. An agent that exhausted its restarts stays held whatever
//! else looks after agents: only a Start frees it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use crate::crd::pool::{AgentHold, AgentHoldReason};
use crate::crd::restart::AutoRestart;
use crate::plan::run::add;

/// Longest wait after a crash (`spec/api.md` 2.6).
pub const MAX_DELAY: Duration = Duration::from_secs(60);
/// Crashes after which the wait no longer doubles.
const DOUBLINGS: u32 = 6;

/// A Run in which the agent container crashed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Crash {
    pub at: Timestamp,
    pub run_uid: String,
    pub agent: String,
}

/// Agents that are held, and when the next of them changes by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holds {
    pub held: Vec<AgentHold>,
    pub look_at: Option<Timestamp>,
}

/// Wait after the `n`-th crash of a window: `min(60 s, delay * 2^(min(n, 6) - 1))`.
pub fn delay(base: Duration, n: i32) -> Duration {
    let doublings = u32::try_from(n).unwrap_or(0).clamp(1, DOUBLINGS) - 1;
    base.saturating_mul(2u32.saturating_pow(doublings)).min(MAX_DELAY)
}

/// The holds of a pool: those it has, with `crashes` added that are new and `released` agents freed.
/// `crashes` may repeat what has been counted; those older than the time an entry is kept are settled.
pub fn plan(
    held: &[AgentHold],
    crashes: &BTreeSet<Crash>,
    released: &BTreeSet<String>,
    settings: &AutoRestart,
    now: Timestamp,
) -> Holds {
    let mut entries: BTreeMap<String, AgentHold> =
        held.iter().map(|hold| (hold.name.clone(), hold.clone())).collect();
    for crash in crashes.iter().filter(|crash| now < add(crash.at, kept(settings))) {
        let entry = entries
            .entry(crash.agent.clone())
            .or_insert_with(|| AgentHold { name: crash.agent.clone(), ..AgentHold::default() });
        count(entry, crash, settings);
    }
    for (_, hold) in entries.iter_mut().filter(|(name, _)| released.contains(*name)) {
        free(hold, now);
    }
    let end = |hold: &AgentHold| -> Option<Timestamp> {
        let until = hold.until?;
        Some(until.max(hold.last_crash.map_or(until, |at| add(at, kept(settings)))))
    };
    entries.retain(|_, hold| end(hold).is_none_or(|end| now < end));
    let times = entries.values().flat_map(|hold| [hold.until, end(hold)]).flatten();
    let look_at = times.filter(|at| *at > now).min();
    Holds { held: entries.into_values().collect(), look_at }
}

/// How long an agent that works again stays in the list: as long as a crash may be counted anew.
fn kept(settings: &AutoRestart) -> Duration {
    settings.window().max(MAX_DELAY)
}

fn count(entry: &mut AgentHold, crash: &Crash, settings: &AutoRestart) {
    let seen = entry.last_crash.is_some_and(|last| (crash.at, &crash.run_uid) <= (last, &entry.last_run_uid));
    if seen {
        return;
    }
    entry.last_crash = Some(crash.at);
    entry.last_run_uid.clone_from(&crash.run_uid);
    let fresh = entry.window_start.is_none_or(|start| crash.at > add(start, settings.window()));
    if fresh {
        entry.window_start = Some(crash.at);
        entry.restarts = 1;
    } else {
        entry.restarts = entry.restarts.saturating_add(1);
    }
    let exhausted = entry.reason == AgentHoldReason::Exhausted && entry.until.is_none();
    let spent = settings.max_attempts.is_some_and(|max| entry.restarts > max);
    if exhausted || spent || !settings.enabled {
        entry.reason = AgentHoldReason::Exhausted;
        entry.until = None;
    } else {
        entry.reason = AgentHoldReason::Restarting;
        entry.until = Some(ceil(add(crash.at, delay(settings.delay(), entry.restarts))));
    }
}

/// Frees an agent and forgets its crashes; the entry stays as long as they could be counted anew.
fn free(hold: &mut AgentHold, now: Timestamp) {
    hold.reason = AgentHoldReason::Restarting;
    hold.until = Some(now);
    hold.restarts = 0;
    hold.window_start = None;
    hold.last_crash = Some(hold.last_crash.map_or(now, |last| last.max(now)));
}

/// Whether `agent` may take a Run.
pub fn is_held(held: &[AgentHold], agent: &str, now: Timestamp) -> bool {
    held.iter().any(|hold| hold.name == agent && hold.until.is_none_or(|until| now < until))
}

/// The sentence of condition `RestartExhausted`, when an agent needs somebody.
pub fn exhausted(held: &[AgentHold], settings: &AutoRestart) -> Option<String> {
    let names: Vec<&str> = held.iter().filter(|h| h.until.is_none()).map(|h| h.name.as_str()).collect();
    if names.is_empty() {
        return None;
    }
    let some: Vec<&str> = names.iter().take(20).copied().collect();
    let more = if names.len() > some.len() {
        format!(" and {} more", names.len() - some.len())
    } else {
        String::new()
    };
    let why = match (settings.enabled, settings.max_attempts) {
        (false, _) => "and autoRestart.enabled is false".to_string(),
        (true, Some(max)) => format!("more often than autoRestart.maxAttempts ({max}) allows"),
        (true, None) => "too often".to_string(),
    };
    Some(format!(
        "{}{more} crashed {why} and take no Runs: look at their last Runs, then create an Operation of type Start with each as target",
        some.join(", ")
    ))
}

/// Times in objects have whole seconds; rounding up never frees early.
fn ceil(at: Timestamp) -> Timestamp {
    at.round(jiff::TimestampRound::new().smallest(jiff::Unit::Second).mode(jiff::RoundMode::Ceil))
        .unwrap_or(at)
}

#[cfg(test)]
mod tests;
