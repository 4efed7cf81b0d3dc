//! Provider limits by credential: what the ended Runs say about each Secret.
//!
//! Owns the hold (design 4: quota). It is derived from Runs alone, so that a restart changes nothing:
//! the Run that ended last decides. If it met the provider's limit, nothing more is started with its
//! credential until the stated reset, or for [`HOLD_BASE`] when none is stated; from then on one Run at
//! a time tries, until one ends otherwise. Runs that were cancelled, met a fault of the cluster, or only
//! merged have asked the provider nothing and do not count: the controller does not report them.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use jiff::Timestamp;

/// How long a credential is held when the provider states no reset: the base of
/// [`crate::plan::quota::BackoffPolicy`].
pub const HOLD_BASE: Duration = Duration::from_secs(30);

/// A Run that has ended and has asked a provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndedRun {
    /// Name of the Secret.
    pub credential: String,
    pub finished_at: Timestamp,
    /// Set when it met the provider's limit: the end of the hold.
    pub held_until: Option<Timestamp>,
}

/// Order of evidence. Of two Runs that ended in the same second, one that met the limit counts as the
/// later one.
type Evidence = (Timestamp, Option<Timestamp>, String);

/// What a credential allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Allowance {
    Open,
    /// Nothing until then.
    Held(Timestamp),
    /// One Run at a time.
    Probe,
}

#[derive(Debug, Default)]
pub(super) struct Credentials {
    runs: HashMap<String, EndedRun>,
    evidence: HashMap<String, BTreeSet<Evidence>>,
}

impl Credentials {
    pub fn insert(&mut self, run_uid: &str, ended: EndedRun) {
        if self.runs.get(run_uid) == Some(&ended) {
            return;
        }
        self.remove(run_uid);
        let evidence = (ended.finished_at, ended.held_until, run_uid.to_owned());
        self.evidence.entry(ended.credential.clone()).or_default().insert(evidence);
        self.runs.insert(run_uid.to_owned(), ended);
    }

    pub fn remove(&mut self, run_uid: &str) {
        let Some(ended) = self.runs.remove(run_uid) else {
            return;
        };
        if let Some(all) = self.evidence.get_mut(&ended.credential) {
            all.remove(&(ended.finished_at, ended.held_until, run_uid.to_owned()));
            if all.is_empty() {
                self.evidence.remove(&ended.credential);
            }
        }
    }

    pub fn allowance(&self, credential: &str, now: Timestamp) -> Allowance {
        let newest = self.evidence.get(credential).and_then(BTreeSet::last);
        match newest.and_then(|(_, held_until, _)| *held_until) {
            None => Allowance::Open,
            Some(until) if until > now => Allowance::Held(until),
            Some(_) => Allowance::Probe,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000 + seconds).expect("in range")
    }

    fn ended(finished: i64, held_until: Option<i64>) -> EndedRun {
        EndedRun { credential: "key".into(), finished_at: at(finished), held_until: held_until.map(at) }
    }

    #[test]
    fn the_run_that_ended_last_decides_in_whatever_order_it_is_heard_of() {
        let mut c = Credentials::default();
        c.insert("b", ended(10, Some(40)));
        c.insert("a", ended(5, None));
        assert_eq!(c.allowance("key", at(20)), Allowance::Held(at(40)));
        assert_eq!(c.allowance("key", at(40)), Allowance::Probe);
        assert_eq!(c.allowance("other", at(20)), Allowance::Open);
        c.insert("c", ended(11, None));
        assert_eq!(c.allowance("key", at(20)), Allowance::Open);
        c.remove("c");
        assert_eq!(c.allowance("key", at(20)), Allowance::Held(at(40)));
    }

    #[test]
    fn of_two_runs_that_ended_in_the_same_second_the_one_that_met_the_limit_counts() {
        let mut c = Credentials::default();
        c.insert("a", ended(10, Some(40)));
        c.insert("z", ended(10, None));
        assert_eq!(c.allowance("key", at(20)), Allowance::Held(at(40)));
    }

    #[test]
    fn the_hold_without_a_stated_reset_is_the_base_of_the_backoff() {
        assert_eq!(HOLD_BASE, crate::plan::quota::BackoffPolicy::default().base);
    }
}
