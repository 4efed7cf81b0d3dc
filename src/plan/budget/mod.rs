//! Token budgets: the ledger of what was used, and the gate that closes when a budget is used up
//! (design: "token limits", hazard H15; the original only reported them).
//!
//! The ledger counts each Run uid once, by the hour in which the Run ended (invariant S27). It holds
//! no clock and knows nothing of objects but uid, time and tokens.

mod task;

use std::collections::{BTreeMap, HashSet};

use jiff::Timestamp;

pub use self::task::{is_blocked, is_spent, left, within};
use crate::crd::budget::{Budgets, TokenLedger};

/// Hours that are kept: the present day and the last hour of the one before.
const KEPT_HOURS: i64 = 26;
/// Share of a budget from which its near end is said, in percent (`spec/convergence.md` 5.3, C100).
const WARN_PERCENT: i64 = 80;

/// Tokens by the hour in which their Run ended.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    hours: BTreeMap<i64, i64>,
    counted: HashSet<String>,
    counted_in: BTreeMap<i64, Vec<String>>,
}

impl Ledger {
    /// Counts a Run that has ended. Returns false when it has been counted before.
    pub fn count(&mut self, run_uid: &str, finished: Timestamp, tokens: i64) -> bool {
        if !self.counted.insert(run_uid.to_string()) {
            return false;
        }
        let hour = hour_of(finished);
        self.counted_in.entry(hour).or_default().push(run_uid.to_string());
        let sum = self.hours.entry(hour).or_default();
        *sum = sum.saturating_add(tokens.max(0));
        true
    }

    /// Adds what an earlier process has counted and this one cannot find any more, because the Runs
    /// were deleted. Call once, after every existing Run was counted: what both have counted is not
    /// counted twice, because only the difference is added.
    pub fn restore(&mut self, known: &TokenLedger) {
        let hour = known.hour.map(hour_of);
        if let Some(hour) = hour {
            let sum = self.hours.entry(hour).or_default();
            *sum = (*sum).max(known.hour_tokens);
        }
        if let Some(day) = known.day.map(hour_of) {
            let missing = known.day_tokens.saturating_sub(self.sum_of_day(day));
            if missing > 0 {
                // An hour of that day which is not the one that the record names.
                let other = if hour == Some(day) { day + 1 } else { day };
                let sum = self.hours.entry(other).or_default();
                *sum = sum.saturating_add(missing);
            }
        }
    }

    /// Forgets what no present budget counts.
    pub fn trim(&mut self, now: Timestamp) {
        let oldest = hour_of(now) - KEPT_HOURS;
        self.hours = self.hours.split_off(&oldest);
        let kept = self.counted_in.split_off(&oldest);
        for uid in std::mem::replace(&mut self.counted_in, kept).into_values().flatten() {
            self.counted.remove(&uid);
        }
    }

    /// What was used in the hour and the day of `now`.
    pub fn usage(&self, now: Timestamp) -> TokenLedger {
        self.usage_of(hour_of(now))
    }

    /// What was used in the last hour in which a Run has ended, and in its day: what is recorded, so
    /// that the mere passing of time changes nothing (invariant S17).
    pub fn last_usage(&self, now: Timestamp) -> Option<TokenLedger> {
        let (hour, _) = self.hours.range(..=hour_of(now)).rfind(|(_, tokens)| **tokens > 0)?;
        Some(self.usage_of(*hour))
    }

    fn usage_of(&self, hour: i64) -> TokenLedger {
        let day = hour - hour.rem_euclid(24);
        TokenLedger {
            hour: Timestamp::from_second(hour * 3600).ok(),
            hour_tokens: self.hours.get(&hour).copied().unwrap_or(0),
            day: Timestamp::from_second(day * 3600).ok(),
            day_tokens: self.sum_of_day(day),
        }
    }

    fn sum_of_day(&self, day: i64) -> i64 {
        self.hours.range(day..day + 24).fold(0i64, |sum, (_, tokens)| sum.saturating_add(*tokens))
    }
}

fn hour_of(at: Timestamp) -> i64 {
    at.as_second().div_euclid(3600)
}

/// Whether the budgets let something start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gate {
    /// There is no budget per hour or day.
    Unlimited,
    /// There is room.
    Open,
    /// There is room, but little: why, in a sentence.
    Near(String),
    /// A budget is used up until the time given: why, in a sentence.
    Closed { reason: &'static str, message: String, until: Timestamp },
}

/// Compares what was used with the budgets (C100: at 100 % closed, from 80 % near). Where both are
/// used up the day is named, because it ends last.
pub fn gate(budgets: &Budgets, used: &TokenLedger) -> Gate {
    let bounds = [
        ("perDay", "PerDay", "day", budgets.per_day, used.day_tokens, used.day, 24),
        ("perHour", "PerHour", "hour", budgets.per_hour, used.hour_tokens, used.hour, 1),
    ];
    let mut gate = Gate::Unlimited;
    for (field, reason, word, limit, tokens, start, hours) in bounds {
        let (Some(limit), Some(start)) = (limit, start) else { continue };
        let until = Timestamp::from_second(start.as_second() + hours * 3600).unwrap_or(Timestamp::MAX);
        if tokens >= limit {
            let message = format!(
                "budgets.{field} of {limit} tokens is used up ({tokens} used): nothing starts until it resets at {until}; raise the budget to go on now"
            );
            return Gate::Closed { reason, message, until };
        }
        let near = i128::from(tokens) * 100 >= i128::from(limit) * i128::from(WARN_PERCENT);
        gate = match gate {
            Gate::Near(message) => Gate::Near(message),
            Gate::Unlimited | Gate::Open if near => Gate::Near(format!(
                "more than {WARN_PERCENT} % of budgets.{field} ({limit} tokens) is used in this {word}; it resets at {until}"
            )),
            Gate::Unlimited | Gate::Open => Gate::Open,
            closed @ Gate::Closed { reason: _, message: _, until: _ } => closed,
        };
    }
    gate
}

#[cfg(test)]
mod tests;
