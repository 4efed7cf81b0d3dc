//! When a cycle ends, and what becomes of its record.

use super::*;
use crate::crd::{Purpose, RunPhase};
use crate::plan::fixtures::{at, now};

fn stats(completed: i64, failed: i64) -> CycleStats {
    CycleStats { tasks_completed: completed, tasks_failed: failed, ..CycleStats::default() }
}

fn hours(n: u64) -> Option<Duration> {
    Some(Duration::from_secs(n * 3600))
}

fn cycle() -> CycleStatus {
    CycleStatus {
        number: 3,
        started_at: Some(at(-3600)),
        active_since: Some(at(-3600)),
        ..CycleStatus::default()
    }
}

fn observed<'a>(settings: &'a CycleSettings, stats: &'a CycleStats, secs: i64) -> Observed<'a> {
    Observed { settings, stats, first_run: None, stuck: None, stopped: false, now: at(secs) }
}

#[test]
fn nine_failures_are_no_rate_and_three_of_ten_are_c94() {
    let settings = CycleSettings::default();
    assert_eq!(due(&settings, hours(1), &stats(0, 9)), None);
    assert_eq!(due(&settings, hours(1), &stats(7, 3)), Some(CycleTrigger::FailureRate));
    assert_eq!(due(&settings, hours(1), &stats(8, 2)), None);
}

#[test]
fn a_hundred_successes_end_a_cycle_and_time_comes_first_c95() {
    let settings = CycleSettings::default();
    assert_eq!(due(&settings, hours(1), &stats(99, 0)), None);
    assert_eq!(due(&settings, hours(1), &stats(100, 0)), Some(CycleTrigger::TaskCount));
    assert_eq!(due(&settings, hours(4), &stats(100, 100)), Some(CycleTrigger::Time));
    assert_eq!(due(&settings, None, &stats(0, 0)), None, "a cycle without a Run has no age");
}

#[test]
fn a_limit_that_is_left_out_ends_no_cycle() {
    let settings = CycleSettings {
        max_duration: None,
        max_tasks: None,
        max_failure_rate: None,
        min_tasks_for_failure_check: 10,
    };
    assert_eq!(due(&settings, hours(9999), &stats(1_000_000, 1_000_000)), None);
}

#[test]
fn a_restart_of_the_operator_goes_on_with_the_same_cycle_c96() {
    let (settings, present) = (CycleSettings::default(), cycle());
    let stats = CycleStats { runs_total: 4, ..stats(3, 1) };
    let step = advance(Some(&present), &observed(&settings, &stats, 60)).unwrap();
    assert_eq!((step.cycle.number, step.cycle.started_at, step.ended), (3, present.started_at, None));
    assert_eq!(step.look_at, Some(at(-3600 + 4 * 3600)));
    let first = advance(None, &observed(&settings, &stats, 0)).unwrap().cycle;
    assert_eq!((first.number, first.phase), (1, CyclePhase::Running));
    let stopped = Observed { stopped: true, ..observed(&settings, &stats, 0) };
    assert_eq!(advance(None, &stopped), None);
}

#[test]
fn the_end_of_a_cycle_opens_the_next_and_records_what_ended_it() {
    let (settings, present) = (CycleSettings::default(), cycle());
    let done = stats(100, 4);
    let step = advance(Some(&present), &observed(&settings, &done, 60)).unwrap();
    let (trigger, sentence) = step.ended.unwrap();
    assert_eq!(trigger, CycleTrigger::TaskCount);
    assert!(sentence.contains("cycle 3") && sentence.contains("cycle 4"), "{sentence}");
    let CycleStatus { number, phase, started_at, active_since, stats, history, .. } = step.cycle;
    assert_eq!((number, phase, started_at, active_since), (4, CyclePhase::Running, Some(at(60)), None));
    assert_eq!(stats, CycleStats::default());
    let [record] = history.as_slice() else { panic!("one record") };
    assert_eq!((record.number, record.phase, record.trigger_type), (3, CyclePhase::Completed, Some(trigger)));
    assert_eq!((record.ended_at, &record.stats), (Some(at(60)), &done));
}

#[test]
fn an_idle_system_turns_no_pages() {
    let settings = CycleSettings::default();
    let idle = CycleStatus { active_since: None, ..cycle() };
    let none = CycleStats::default();
    let step = advance(Some(&idle), &observed(&settings, &none, 1_000_000)).unwrap();
    assert_eq!((step.cycle, step.ended, step.look_at), (idle, None, None));
}

#[test]
fn a_stuck_run_ends_a_cycle_that_is_old_enough_once_c98() {
    let (settings, none) = (CycleSettings::default(), CycleStats::default());
    let young = CycleStatus { started_at: Some(at(-60)), active_since: Some(at(-60)), ..cycle() };
    let stuck = |secs: i64, uid: &'static str| Observed {
        stuck: Some(("r", uid)),
        ..observed(&settings, &none, secs)
    };
    assert_eq!(advance(Some(&young), &stuck(0, "u1")).unwrap().ended, None, "deferred");
    let step = advance(Some(&young), &stuck(120, "u1")).unwrap();
    assert_eq!(step.ended.as_ref().unwrap().0, CycleTrigger::CriticalAnomaly);
    let record = step.cycle.history.last().unwrap();
    assert_eq!(
        (record.phase, record.trigger_type),
        (CyclePhase::Aborted, Some(CycleTrigger::CriticalAnomaly))
    );
    // Another stuck Run within five minutes does not; this one never again, because nothing cancels it.
    let next = step.cycle;
    assert_eq!(advance(Some(&next), &stuck(120 + 299, "u2")).unwrap().ended, None);
    assert!(advance(Some(&next), &stuck(120 + 300, "u2")).unwrap().ended.is_some());
    assert_eq!(advance(Some(&next), &stuck(120 + 3000, "u1")).unwrap().ended, None);
}

#[test]
fn somebody_ends_the_stored_cycle() {
    let step = end(&cycle(), "ann", "before the upgrade", false, now());
    assert_eq!((step.cycle.number, step.cycle.phase), (4, CyclePhase::Running));
    let record = step.cycle.history.last().unwrap();
    assert_eq!(
        (record.trigger_type, record.end_reason.as_str()),
        (Some(CycleTrigger::Manual), "by ann: before the upgrade")
    );
    // While cycle-manager is stopped nothing begins, and a repetition changes nothing.
    let step = end(&cycle(), "ann", "", true, now());
    assert_eq!((step.cycle.number, step.cycle.phase), (3, CyclePhase::Completed));
    assert_eq!(end(&step.cycle, "ann", "", true, at(5)).cycle, step.cycle);
    let settings = CycleSettings::default();
    let none = CycleStats::default();
    let stopped = Observed { stopped: true, ..observed(&settings, &none, 5) };
    assert_eq!(advance(Some(&step.cycle), &stopped).unwrap().cycle, step.cycle);
    let begun = advance(Some(&step.cycle), &observed(&settings, &none, 6)).unwrap().cycle;
    assert_eq!((begun.number, begun.phase, begun.history.len()), (4, CyclePhase::Running, 1));
}

#[test]
fn history_is_bounded() {
    let mut present = cycle();
    for n in 0..30 {
        present = end(&present, "ann", "", false, at(n)).cycle;
    }
    assert_eq!(present.history.len(), MAX_HISTORY);
    assert_eq!(present.history.last().unwrap().number, present.number - 1);
}

#[test]
fn only_attempts_count_as_work_but_every_token_counts() {
    let mut tally = Tally::default();
    let ended = |purpose, phase, tokens, seconds| Ended { purpose, phase, tokens, seconds };
    tally.admitted(at(5), 1);
    tally.admitted(at(3), 2);
    tally.ended(ended(Purpose::Execute, RunPhase::Success, 10, 60));
    tally.ended(ended(Purpose::Execute, RunPhase::Failed, 20, 30));
    tally.ended(ended(Purpose::Judge, RunPhase::Success, 5, 1000));
    tally.ended(ended(Purpose::Execute, RunPhase::Cancelled, 0, 0));
    let stats = tally.stats();
    assert_eq!((stats.tasks_completed, stats.tasks_failed, stats.tasks_cancelled), (1, 1, 1));
    assert_eq!((stats.runs_total, stats.total_tokens, stats.peak_concurrent), (2, 35, 2));
    assert_eq!(stats.average_task_duration, Some(GoDuration("30s".into())));
    assert_eq!(tally.first_run(), Some(at(3)));
}
