//! How long agents are held, once for each crash.

use proptest::prelude::*;

use super::*;
use crate::crd::GoDuration;
use crate::plan::fixtures::{at, now};

fn crash(secs: i64, run: &str) -> Crash {
    Crash { at: at(secs), run_uid: run.into(), agent: "worker-1".into() }
}

fn crashes(list: &[(i64, &str)]) -> BTreeSet<Crash> {
    list.iter().map(|(secs, run)| crash(*secs, run)).collect()
}

fn settings(max: Option<i32>) -> AutoRestart {
    AutoRestart { max_attempts: max, ..AutoRestart::default() }
}

fn none() -> BTreeSet<String> {
    BTreeSet::new()
}

/// Plans at each moment in turn, as the controller does: each time with what was written before.
fn replay(list: &[(i64, &str)], moments: &[i64], settings: &AutoRestart) -> Vec<AgentHold> {
    let mut held = Vec::new();
    for secs in moments {
        let seen: Vec<(i64, &str)> = list.iter().copied().filter(|(at, _)| at <= secs).collect();
        held = plan(&held, &crashes(&seen), &none(), settings, at(*secs)).held;
    }
    held
}

#[test]
fn the_wait_doubles_with_each_crash_up_to_a_minute() {
    let waits: Vec<u64> = (1..=8).map(|n| delay(Duration::from_secs(2), n).as_secs()).collect();
    assert_eq!(waits, [2, 4, 8, 16, 32, 60, 60, 60]);
}

#[test]
fn an_agent_that_works_well_has_no_entry() {
    assert_eq!(plan(&[], &BTreeSet::new(), &none(), &settings(Some(3)), now()), Holds::default());
}

#[test]
fn a_crash_holds_the_agent_and_a_second_one_longer() {
    let settings = settings(None);
    let first = plan(&[], &crashes(&[(0, "a")]), &none(), &settings, at(1));
    assert_eq!((first.held[0].restarts, first.held[0].until), (1, Some(at(2))));
    assert_eq!(first.look_at, Some(at(2)));
    assert!(is_held(&first.held, "worker-1", at(1)) && !is_held(&first.held, "worker-1", at(2)));
    assert!(!is_held(&first.held, "worker-2", at(1)));
    let second = plan(&first.held, &crashes(&[(0, "a"), (20, "b")]), &none(), &settings, at(20));
    assert_eq!((second.held[0].restarts, second.held[0].until), (2, Some(at(24))));
    assert_eq!(second.held[0].window_start, Some(at(0)));
}

#[test]
fn a_window_is_counted_from_its_first_crash() {
    let held = replay(&[(0, "a"), (200, "b"), (301, "c")], &[0, 200, 301], &settings(None));
    assert_eq!((held[0].restarts, held[0].window_start), (1, Some(at(301))));
    let held = replay(&[(0, "a"), (200, "b"), (300, "c")], &[0, 200, 300], &settings(None));
    assert_eq!(held[0].restarts, 3);
}

#[test]
fn an_entry_goes_once_its_crashes_are_settled_and_does_not_come_back() {
    let list = [(0, "a"), (200, "b")];
    assert_eq!(replay(&list, &[0, 200, 499], &settings(None)).len(), 1);
    assert_eq!(replay(&list, &[0, 200, 500, 501, 900], &settings(None)), []);
}

#[test]
fn more_crashes_than_allowed_hold_the_agent_until_it_is_started() {
    let settings = settings(Some(2));
    let list = [(0, "a"), (10, "b"), (20, "c")];
    let held = replay(&list, &[0, 10], &settings);
    assert_eq!(held[0].reason, AgentHoldReason::Restarting);
    assert_eq!(exhausted(&held, &settings), None);
    let held = replay(&list, &[0, 10, 20, 100_000], &settings);
    assert_eq!((held[0].reason, held[0].until, held[0].restarts), (AgentHoldReason::Exhausted, None, 3));
    assert!(is_held(&held, "worker-1", at(1_000_000)));
    let message = exhausted(&held, &settings).unwrap();
    assert!(message.contains("worker-1") && message.contains("type Start"), "{message}");
    // Started: free at once, and its crashes are never counted again, also not by a new leader.
    let released = BTreeSet::from(["worker-1".to_string()]);
    let early = replay(&list, &[0, 10, 20], &settings);
    let freed = plan(&early, &crashes(&list), &released, &settings, at(30));
    assert!(!is_held(&freed.held, "worker-1", at(30)));
    let later = plan(&freed.held, &crashes(&list), &none(), &settings, at(31));
    assert_eq!(later.held, freed.held);
    assert_eq!(plan(&later.held, &crashes(&list), &none(), &settings, at(331)).held, []);
    let again = plan(&later.held, &crashes(&[(20, "c"), (40, "d")]), &none(), &settings, at(40));
    assert_eq!((again.held[0].restarts, again.held[0].until), (1, Some(at(42))));
}

#[test]
fn without_auto_restart_the_first_crash_holds_the_agent() {
    let off = AutoRestart { enabled: false, ..AutoRestart::default() };
    let held = plan(&[], &crashes(&[(0, "a")]), &none(), &off, at(1)).held;
    assert_eq!((held[0].reason, held[0].until), (AgentHoldReason::Exhausted, None));
}

#[test]
fn a_new_leader_finds_crashes_that_were_not_written_and_leaves_settled_ones_alone() {
    let list = crashes(&[(-900, "old"), (0, "new")]);
    let held = plan(&[], &list, &none(), &settings(Some(1)), at(1)).held;
    assert_eq!((held.len(), held[0].restarts, held[0].last_run_uid.as_str()), (1, 1, "new"));
}

proptest! {
    /// Planning more often, or again with crashes that were counted, changes nothing: at any moment
    /// the count is that of one pass over the crashes.
    #[test]
    fn a_crash_counts_once_however_often_it_is_seen(
        gaps in proptest::collection::vec(1i64..400, 1..20),
        extra in proptest::collection::vec(0i64..4000, 0..20),
        max in proptest::option::of(1i32..6),
    ) {
        let settings = AutoRestart {
            window: GoDuration("5m".into()), max_attempts: max, ..AutoRestart::default()
        };
        let mut list = Vec::new();
        let mut clock = 0;
        let names: Vec<String> = (0..gaps.len()).map(|n| format!("run-{n:03}")).collect();
        for (gap, name) in gaps.iter().zip(&names) {
            clock += gap;
            list.push((clock, name.as_str()));
        }
        // The rule, in one pass.
        let (mut start, mut count, mut stuck) = (i64::MIN / 2, 0, false);
        for (at, _) in &list {
            if at - start > 300 { start = *at; count = 1 } else { count += 1 }
            stuck |= max.is_some_and(|max| count > max);
        }
        let own: Vec<i64> = list.iter().map(|(at, _)| *at).collect();
        let mut often: Vec<i64> = own.iter().copied().chain(extra.into_iter().filter(|at| *at <= clock)).collect();
        often.sort_unstable();
        for moments in [own, often] {
            let held = replay(&list, &moments, &settings);
            prop_assert_eq!(held.len(), 1);
            prop_assert_eq!(held[0].until.is_none(), stuck);
            prop_assert_eq!(held[0].restarts, count);
        }
    }
}
