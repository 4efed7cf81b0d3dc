//! Thresholds of the anomalies, and conditions that do not flap.

use super::*;
use crate::plan::fixtures::{at, now};

fn sums(success: u64, failed: u64, tokens: i64) -> Sums {
    Sums { success, failed, tokens }
}

fn severity(anomaly: Option<Anomaly>) -> Option<Severity> {
    anomaly.map(|a| a.severity)
}

#[test]
fn four_runs_are_no_rate_then_one_of_five_warns_and_two_are_critical_c97() {
    assert_eq!(high_failure_rate(sums(0, 4, 0)), None);
    assert_eq!(severity(high_failure_rate(sums(4, 1, 0))), Some(Severity::Warning));
    assert_eq!(severity(high_failure_rate(sums(3, 2, 0))), Some(Severity::Critical));
    assert_eq!(high_failure_rate(sums(5, 1, 0)), None);
}

#[test]
fn a_cost_doubles_or_triples_over_the_hour_before_c99() {
    let spike = |before, hour| severity(cost_spike(sums(0, 0, hour), sums(0, 0, before)));
    assert_eq!(spike(0, 1_000_000), None);
    assert_eq!(spike(100, 199), None);
    assert_eq!(spike(100, 200), Some(Severity::Warning));
    assert_eq!(spike(100, 300), Some(Severity::Critical));
}

#[test]
fn a_run_is_stuck_after_an_hour_and_critical_after_two_but_not_within_its_timebox() {
    let after = |secs: i64, timebox: Option<u64>| {
        stuck(at(-secs), timebox.map(Duration::from_secs), now()).map(|(severity, _)| severity)
    };
    assert_eq!(after(3600, None), None);
    assert_eq!(after(3601, None), Some(Severity::Warning));
    assert_eq!(after(7200, None), Some(Severity::Warning));
    assert_eq!(after(121 * 60, None), Some(Severity::Critical));
    assert_eq!(after(121 * 60, Some(4 * 3600)), None);
    assert_eq!(after(4 * 3600 + 1, Some(4 * 3600)), Some(Severity::Warning));
    assert_eq!(after(8 * 3600 + 1, Some(4 * 3600)), Some(Severity::Critical));
}

#[test]
fn progress_is_missed_only_where_somebody_works_for_half_an_hour() {
    assert_eq!(no_progress(0, at(-9999), now()), None);
    assert_eq!(no_progress(2, at(-1799), now()), None);
    assert!(no_progress(2, at(-1800), now()).is_some());
}

#[test]
fn a_window_forgets_what_it_has_passed() {
    let mut windows = Windows::default();
    windows.count(at(-3601), at(-3600), Outcome::Failed, 7);
    windows.count(at(-3600), at(-1), Outcome::Success, 5);
    windows.count(at(-7201), at(-2), Outcome::Failed, 1000);
    windows.count(at(-10), at(-3), Outcome::Other, 2);
    windows.slide(now());
    assert_eq!(windows.sums(), (sums(1, 0, 7), sums(0, 1, 7)));
    assert_eq!(windows.last_success(), Some(at(-1)));
    windows.slide(at(3600));
    assert_eq!(windows.sums(), (sums(0, 0, 0), sums(1, 0, 7)));
    windows.slide(at(7200));
    assert_eq!(windows.sums(), (Sums::default(), Sums::default()));
}

fn shown(conditions: &[Condition]) -> Vec<(String, String, String)> {
    conditions.iter().map(|c| (c.status.clone(), c.reason.clone(), c.message.clone())).collect()
}

#[test]
fn a_condition_is_written_at_its_edges_only() {
    let anomaly = |severity, message: &str| Anomaly { severity, message: message.into() };
    let mut conditions = Vec::new();
    let kind = Kind::HighFailureRate;
    show(&mut conditions, kind, None, 1, now());
    assert!(conditions.is_empty(), "an anomaly that never was is not written");
    show(&mut conditions, kind, Some(&anomaly(Severity::Warning, "1 of 5")), 1, now());
    let first = shown(&conditions);
    assert_eq!(first, [("True".into(), "Warning".into(), "1 of 5".into())]);
    // New numbers, and a moment without it, are no news.
    show(&mut conditions, kind, Some(&anomaly(Severity::Warning, "2 of 9")), 1, at(30));
    show(&mut conditions, kind, None, 1, at(299));
    assert_eq!(shown(&conditions), first);
    show(&mut conditions, kind, Some(&anomaly(Severity::Critical, "4 of 9")), 1, at(200));
    assert_eq!(shown(&conditions)[0].1, "Critical");
    show(&mut conditions, kind, Some(&anomaly(Severity::Warning, "3 of 9")), 1, at(210));
    assert_eq!(shown(&conditions)[0].1, "Critical");
    show(&mut conditions, kind, None, 1, at(300));
    assert_eq!(shown(&conditions)[0].0, "False");
}
