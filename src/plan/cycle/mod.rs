//! Cycles: when one ends and the next begins (`spec/convergence.md` 5.1, 5.2; cases C94 to C98).
//!
//! The state is `System.status.cycle`; a restart of the operator goes on with it (C96), and an
//! Operation acts on what is stored there (hazard H19). What the original called clean-up is not
//! done: nothing that runs is cancelled or requeued (hazard H6), the end of a cycle closes its
//! statistics and opens the next. The time of a cycle runs from its first Run, so that an idle
//! system does not turn pages. Both the trigger and `Aborted` are recorded (hazard H18).

mod stats;

use std::time::Duration;

use jiff::Timestamp;

pub use self::stats::{Ended, Tally};
use crate::crd::GoDuration;
use crate::crd::cycle::{
    CyclePhase, CycleRecord, CycleSettings, CycleStats, CycleStatus, CycleTrigger, MAX_HISTORY,
};
use crate::plan::run::add;

/// A cycle younger than this is not ended by an anomaly (5.3, C98).
const ANOMALY_MIN_AGE: Duration = Duration::from_secs(120);
/// Least time between two ends by an anomaly (5.3, C98).
const ANOMALY_SPACING: Duration = Duration::from_secs(300);

/// Which end a cycle of this age and with these statistics has come to. Order: time, number of
/// tasks, failure rate. `age` is `None` before the first Run.
pub fn due(settings: &CycleSettings, age: Option<Duration>, stats: &CycleStats) -> Option<CycleTrigger> {
    let limit = settings.max_duration.as_ref().and_then(GoDuration::parse);
    if limit.zip(age).is_some_and(|(limit, age)| age >= limit) {
        return Some(CycleTrigger::Time);
    }
    if settings.max_tasks.is_some_and(|max| stats.tasks_completed >= i64::from(max)) {
        return Some(CycleTrigger::TaskCount);
    }
    let finished = stats.tasks_completed.saturating_add(stats.tasks_failed);
    let counts = finished > 0 && finished >= i64::from(settings.min_tasks_for_failure_check);
    let rate =
        |percent: i32| i128::from(stats.tasks_failed) * 100 >= i128::from(percent) * i128::from(finished);
    (counts && settings.max_failure_rate.is_some_and(rate)).then_some(CycleTrigger::FailureRate)
}

/// What the cycle is to become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advance {
    pub cycle: CycleStatus,
    /// One sentence about the cycle that has ended in this step.
    pub ended: Option<(CycleTrigger, String)>,
    /// When the cycle comes to its end by time, if nothing else happens.
    pub look_at: Option<Timestamp>,
}

/// What is known beside the cycle itself.
#[derive(Clone, Copy, Debug)]
pub struct Observed<'a> {
    pub settings: &'a CycleSettings,
    /// Statistics of the present cycle.
    pub stats: &'a CycleStats,
    /// Admission of the first Run of the present cycle, if any.
    pub first_run: Option<Timestamp>,
    /// Name and uid of a Run that is stuck beyond all bounds.
    pub stuck: Option<(&'a str, &'a str)>,
    /// Component `cycle-manager` is stopped: no cycle begins or ends.
    pub stopped: bool,
    pub now: Timestamp,
}

/// Brings the cycle up to date: begins the first one, keeps statistics, ends it when it is due.
pub fn advance(present: Option<&CycleStatus>, o: &Observed) -> Option<Advance> {
    let Some(present) = present else {
        let first = (!o.stopped).then(|| begin(1, Vec::new(), o.now))?;
        return Some(Advance { cycle: first, ended: None, look_at: None });
    };
    if present.phase != CyclePhase::Running {
        let history = present.history.clone();
        let cycle = if o.stopped { present.clone() } else { begin(present.number + 1, history, o.now) };
        return Some(Advance { cycle, ended: None, look_at: None });
    }
    let mut cycle = present.clone();
    cycle.stats = o.stats.clone();
    cycle.active_since = cycle.active_since.or(o.first_run);
    if o.stopped {
        return Some(Advance { cycle, ended: None, look_at: None });
    }
    let age = cycle.active_since.map(|since| elapsed(since, o.now));
    let limit = o.settings.max_duration.as_ref().and_then(GoDuration::parse);
    let look_at = limit.zip(cycle.active_since).map(|(limit, since)| add(since, limit));
    let (trigger, reason, stuck) = match (due(o.settings, age, &cycle.stats), critical(&cycle, o)) {
        (Some(trigger), _) => (trigger, why(trigger, o.settings, &cycle.stats), ""),
        (None, Some((name, uid))) => {
            (CycleTrigger::CriticalAnomaly, format!("Run {name} is stuck beyond all bounds"), uid)
        }
        (None, None) => return Some(Advance { cycle, ended: None, look_at }),
    };
    Some(turn(&cycle, trigger, &reason, stuck, o.now))
}

/// Ends the present cycle because somebody asks for it; the next one begins unless component
/// `cycle-manager` is stopped. A cycle that has ended already stays as it is.
pub fn end(present: &CycleStatus, by: &str, reason: &str, stopped: bool, now: Timestamp) -> Advance {
    if present.phase != CyclePhase::Running {
        return Advance { cycle: present.clone(), ended: None, look_at: None };
    }
    let reason = if reason.is_empty() { format!("by {by}") } else { format!("by {by}: {reason}") };
    if !stopped {
        return turn(present, CycleTrigger::Manual, &reason, "", now);
    }
    let mut cycle = present.clone();
    cycle.phase = CyclePhase::Completed;
    cycle.ended_at = Some(now);
    cycle.trigger_type = Some(CycleTrigger::Manual);
    cycle.end_reason = cut(&reason);
    push(&mut cycle.history, record(present, CycleTrigger::Manual, &reason, "", now));
    let said =
        format!("cycle {} ended {reason}; the next begins once cycle-manager is started", cycle.number);
    Advance { cycle, ended: Some((CycleTrigger::Manual, said)), look_at: None }
}

fn turn(old: &CycleStatus, trigger: CycleTrigger, reason: &str, stuck: &str, now: Timestamp) -> Advance {
    let mut history = old.history.clone();
    push(&mut history, record(old, trigger, reason, stuck, now));
    let cycle = begin(old.number + 1, history, now);
    let said = format!(
        "cycle {} ended ({}): {reason}; cycle {} has begun",
        old.number,
        trigger.word(),
        cycle.number
    );
    Advance { cycle, ended: Some((trigger, said)), look_at: None }
}

fn begin(number: i64, history: Vec<CycleRecord>, now: Timestamp) -> CycleStatus {
    // Objects are created at whole seconds: a Run of this second belongs to the new cycle.
    let started = Timestamp::from_second(now.as_second()).unwrap_or(now);
    CycleStatus { number, started_at: Some(started), history, ..CycleStatus::default() }
}

fn record(
    old: &CycleStatus,
    trigger: CycleTrigger,
    reason: &str,
    stuck: &str,
    now: Timestamp,
) -> CycleRecord {
    let aborted = trigger == CycleTrigger::CriticalAnomaly;
    CycleRecord {
        number: old.number,
        phase: if aborted { CyclePhase::Aborted } else { CyclePhase::Completed },
        started_at: old.started_at,
        ended_at: Some(now),
        trigger_type: Some(trigger),
        end_reason: cut(reason),
        stuck_run_uid: stuck.to_string(),
        stats: old.stats.clone(),
    }
}

fn push(history: &mut Vec<CycleRecord>, record: CycleRecord) {
    history.push(record);
    let excess = history.len().saturating_sub(MAX_HISTORY);
    history.drain(..excess);
}

fn why(trigger: CycleTrigger, settings: &CycleSettings, stats: &CycleStats) -> String {
    match trigger {
        CycleTrigger::Time => {
            let limit = settings.max_duration.clone().unwrap_or_default();
            format!("it has lasted cycles.maxDuration ({})", limit.0)
        }
        CycleTrigger::TaskCount => format!("{} attempts have succeeded", stats.tasks_completed),
        CycleTrigger::FailureRate => format!(
            "{} of {} attempts have failed",
            stats.tasks_failed,
            stats.tasks_completed.saturating_add(stats.tasks_failed)
        ),
        CycleTrigger::CriticalAnomaly => "an anomaly".into(),
        CycleTrigger::Manual => "somebody has ended it".into(),
    }
}

/// The stuck Run that ends this cycle: the cycle is old enough, no anomaly has ended another one just
/// now, and this Run has not ended one before.
fn critical<'a>(cycle: &CycleStatus, o: &Observed<'a>) -> Option<(&'a str, &'a str)> {
    let (name, uid) = o.stuck?;
    let young = cycle.started_at.is_some_and(|at| elapsed(at, o.now) < ANOMALY_MIN_AGE);
    let recent = cycle.history.iter().any(|r| {
        r.trigger_type == Some(CycleTrigger::CriticalAnomaly)
            && (r.stuck_run_uid == uid || r.ended_at.is_some_and(|at| elapsed(at, o.now) < ANOMALY_SPACING))
    });
    (!young && !recent).then_some((name, uid))
}

fn elapsed(since: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(since)).unwrap_or(Duration::ZERO)
}

fn cut(text: &str) -> String {
    text.chars().take(512).collect()
}

#[cfg(test)]
mod tests;
