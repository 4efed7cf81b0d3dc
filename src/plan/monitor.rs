//! Anomalies: what is worth a look by a person (`spec/convergence.md` 5.3; cases C97 to C99).
//!
//! Each is a condition with a sentence. A sentence is written when the anomaly appears or gets worse
//! and stays as it is meanwhile; the condition is cleared no sooner than [`HOLD`] after it was set, so
//! that a value at its threshold does not write again and again.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::crd::system::condition;
use crate::crd::{Condition, set_condition};
use crate::plan::run::add;

/// The window that rates and costs are compared in.
pub const WINDOW: SignedDuration = SignedDuration::from_hours(1);
/// Least time that a condition stays once it is set (5.3: the same alert is not repeated within it).
pub const HOLD: Duration = Duration::from_secs(300);
/// Runs that must have ended before their failures are a rate.
const MIN_RUNS: u64 = 5;
/// Time without a success while agents work.
const NO_PROGRESS: SignedDuration = SignedDuration::from_mins(30);
/// Time a Run may take whatever its timebox.
const STUCK: SignedDuration = SignedDuration::from_mins(60);
/// Minutes beyond which a stuck Run is critical.
const STUCK_CRITICAL: i64 = 120;
/// Time without an answer from the node of an agent.
const AGENT_TIMEOUT: SignedDuration = SignedDuration::from_mins(10);
/// Time a Task may wait for nothing but a slot while there are free ones.
const IDLE: SignedDuration = SignedDuration::from_mins(2);

/// How grave an anomaly is; the reason of its condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Warning,
    Critical,
}

impl Severity {
    /// The CamelCase word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Warning => "Warning",
            Self::Critical => "Critical",
        }
    }
}

/// Something to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anomaly {
    pub severity: Severity,
    pub message: String,
}

impl Anomaly {
    fn new(severity: Severity, message: String) -> Option<Self> {
        Some(Self { severity, message })
    }
}

/// Kinds of anomaly; one condition each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    HighFailureRate,
    CostSpike,
    StuckTask,
    NoProgress,
    AgentTimeout,
    JudgeBacklog,
    IdleAgents,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 7] = [
        Self::HighFailureRate,
        Self::CostSpike,
        Self::StuckTask,
        Self::NoProgress,
        Self::AgentTimeout,
        Self::JudgeBacklog,
        Self::IdleAgents,
    ];

    /// Type of its condition.
    pub fn condition(self) -> &'static str {
        match self {
            Self::HighFailureRate => condition::HIGH_FAILURE_RATE,
            Self::CostSpike => condition::COST_SPIKE,
            Self::StuckTask => condition::STUCK_TASK,
            Self::NoProgress => condition::NO_PROGRESS,
            Self::AgentTimeout => condition::AGENT_TIMEOUT,
            Self::JudgeBacklog => condition::JUDGE_BACKLOG,
            Self::IdleAgents => condition::IDLE_AGENTS,
        }
    }

    /// Whether it means that something does not happen: not raised just after an operator has taken
    /// over, when nothing has had time to happen.
    pub fn is_about_absence(self) -> bool {
        match self {
            Self::NoProgress | Self::AgentTimeout | Self::JudgeBacklog | Self::IdleAgents => true,
            Self::HighFailureRate | Self::CostSpike | Self::StuckTask => false,
        }
    }
}

/// How a Run has ended, as far as rates are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Success,
    Failed,
    /// Cancelled: neither.
    Other,
}

/// Sums over the Runs that were started within a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    pub success: u64,
    pub failed: u64,
    pub tokens: i64,
}

impl Sums {
    fn shift(&mut self, run: &(Outcome, i64), by: i64) {
        match run.0 {
            Outcome::Success => self.success = self.success.saturating_add_signed(by),
            Outcome::Failed => self.failed = self.failed.saturating_add_signed(by),
            Outcome::Other => {}
        }
        self.tokens = self.tokens.saturating_add(run.1.saturating_mul(by));
    }
}

/// One sliding window; removing is as cheap as adding.
#[derive(Clone, Debug, Default)]
struct Slide {
    runs: BTreeMap<(Timestamp, u64), (Outcome, i64)>,
    sums: Sums,
}

impl Slide {
    fn push(&mut self, key: (Timestamp, u64), run: (Outcome, i64)) {
        self.sums.shift(&run, 1);
        self.runs.insert(key, run);
    }

    fn pop_before(&mut self, edge: Timestamp) -> Option<((Timestamp, u64), (Outcome, i64))> {
        let entry = self.runs.first_entry().filter(|entry| entry.key().0 < edge)?;
        let (key, run) = entry.remove_entry();
        self.sums.shift(&run, -1);
        Some((key, run))
    }
}

/// The Runs of the last hour and of the hour before it, by their start. The caller counts each once.
#[derive(Clone, Debug, Default)]
pub struct Windows {
    current: Slide,
    previous: Slide,
    sequence: u64,
    last_success: Option<Timestamp>,
}

impl Windows {
    /// A Run has ended.
    pub fn count(&mut self, started: Timestamp, finished: Timestamp, outcome: Outcome, tokens: i64) {
        self.sequence += 1;
        self.current.push((started, self.sequence), (outcome, tokens.max(0)));
        if outcome == Outcome::Success {
            self.last_success = Some(self.last_success.map_or(finished, |last| last.max(finished)));
        }
    }

    /// Moves the windows on to `now`. Each Run is moved twice in all.
    pub fn slide(&mut self, now: Timestamp) {
        let edge = |hours: i32| now.checked_sub(WINDOW * hours).unwrap_or(Timestamp::MIN);
        while let Some((key, run)) = self.current.pop_before(edge(1)) {
            self.previous.push(key, run);
        }
        while self.previous.pop_before(edge(2)).is_some() {}
    }

    /// The last hour and the one before it, as of the last [`Self::slide`].
    pub fn sums(&self) -> (Sums, Sums) {
        (self.current.sums, self.previous.sums)
    }

    /// When a Run last succeeded.
    pub fn last_success(&self) -> Option<Timestamp> {
        self.last_success
    }
}

/// At least five Runs of the last hour ended: from 20 % failed a warning, from 40 % critical (C97).
pub fn high_failure_rate(hour: Sums) -> Option<Anomaly> {
    let total = hour.success + hour.failed;
    if total < MIN_RUNS || hour.failed * 5 < total {
        return None;
    }
    let severity = if hour.failed * 5 >= total * 2 { Severity::Critical } else { Severity::Warning };
    let percent = hour.failed * 100 / total;
    Anomaly::new(
        severity,
        format!(
            "{} of {total} Runs of the last hour have failed ({percent} %): compare their failure codes",
            hour.failed
        ),
    )
}

/// The last hour cost at least twice (critical: three times) the tokens of the hour before (C99).
pub fn cost_spike(hour: Sums, before: Sums) -> Option<Anomaly> {
    if before.tokens <= 0 || hour.tokens / 2 < before.tokens {
        return None;
    }
    let severity = if hour.tokens / 3 >= before.tokens { Severity::Critical } else { Severity::Warning };
    Anomaly::new(
        severity,
        format!(
            "the Runs of the last hour have used {} tokens, those of the hour before {}: a budget in spec.budgets bounds the cost",
            hour.tokens, before.tokens
        ),
    )
}

/// How grave it is that a Run has taken since `started`: longer than an hour and than its timebox a
/// warning, longer than two hours and twice its timebox critical. Also the rounded minutes.
pub fn stuck(started: Timestamp, timebox: Option<Duration>, now: Timestamp) -> Option<(Severity, i64)> {
    let took = now.duration_since(started);
    let timebox = timebox.and_then(|t| SignedDuration::try_from(t).ok()).unwrap_or(SignedDuration::ZERO);
    if took <= STUCK.max(timebox) {
        return None;
    }
    let minutes = (took.as_millis() + 30_000).div_euclid(60_000);
    let minutes = i64::try_from(minutes).unwrap_or(i64::MAX);
    let critical = minutes > STUCK_CRITICAL && took > timebox.saturating_mul(2);
    Some((if critical { Severity::Critical } else { Severity::Warning }, minutes))
}

/// The anomaly of the gravest of the stuck Runs.
pub fn stuck_task(run: &str, severity: Severity, minutes: i64, others: usize) -> Option<Anomaly> {
    let more = if others > 0 { format!(" ({others} more take too long)") } else { String::new() };
    Anomaly::new(
        severity,
        format!(
            "Run {run} has been in progress for {minutes} minutes{more}: look at its Pod and node, or set spec.cancel of its Task"
        ),
    )
}

/// Agents work, and since the later of the last success and the beginning of their work half an hour
/// has gone by.
pub fn no_progress(busy: usize, since: Timestamp, now: Timestamp) -> Option<Anomaly> {
    if busy == 0 || now.duration_since(since) < NO_PROGRESS {
        return None;
    }
    Anomaly::new(
        Severity::Warning,
        format!("{busy} agents work and no Run has succeeded for {} minutes", NO_PROGRESS.as_mins()),
    )
}

/// A busy agent whose node has not answered for ten minutes.
pub fn agent_timeout(agent: &str, since: Timestamp, now: Timestamp) -> Option<Anomaly> {
    if now.duration_since(since) <= AGENT_TIMEOUT {
        return None;
    }
    Anomaly::new(
        Severity::Warning,
        format!(
            "the node of agent {agent} has not confirmed the end of its Pod since {since}: see condition PodStarted of its Run"
        ),
    )
}

/// Results wait for a review and `obstacle` keeps reviews from starting.
pub fn judge_backlog(awaiting: usize, obstacle: Option<&str>) -> Option<Anomaly> {
    let obstacle = obstacle.filter(|_| awaiting > 0)?;
    Anomaly::new(Severity::Warning, format!("{awaiting} Tasks wait for a review, and {obstacle}"))
}

/// A Task has been ready since `since`, nothing is known that it waits for, and `free` slots of its
/// role are free.
pub fn idle_agents(role: &str, free: usize, since: Timestamp, now: Timestamp) -> Option<Anomaly> {
    if free == 0 || now.duration_since(since) < IDLE {
        return None;
    }
    Anomaly::new(
        Severity::Warning,
        format!(
            "Tasks of role {role} are ready and {free} of its slots are free, but no Run is admitted: see the operator's log"
        ),
    )
}

/// Shows `found` as the condition of `kind`. Nothing changes while the same anomaly lasts.
pub fn show(
    conditions: &mut Vec<Condition>,
    kind: Kind,
    found: Option<&Anomaly>,
    generation: i64,
    now: Timestamp,
) {
    let type_ = kind.condition();
    let shown = conditions.iter().find(|c| c.type_ == type_ && c.status == "True");
    match (found, shown) {
        (Some(anomaly), Some(shown)) if shown.reason == anomaly.severity.word() => {}
        // A warning that was critical a moment ago is still the same matter.
        (Some(anomaly), Some(shown))
            if anomaly.severity == Severity::Warning && now < add(shown.last_transition_time, HOLD) => {}
        (Some(anomaly), Some(_) | None) => {
            set_condition(
                conditions,
                type_,
                true,
                anomaly.severity.word(),
                &anomaly.message,
                generation,
                now,
            );
        }
        (None, Some(shown)) if now >= add(shown.last_transition_time, HOLD) => {
            set_condition(conditions, type_, false, "Resolved", "not seen any more", generation, now);
        }
        (None, Some(_) | None) => {}
    }
}

#[cfg(test)]
mod tests;
