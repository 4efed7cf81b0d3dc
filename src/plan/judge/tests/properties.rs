//! Any sequence of outcomes: it settles within a bound, each key has one verdict, and the caps hold.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::world::{End, World};
use crate::crd::*;

fn end() -> impl Strategy<Value = End> {
    prop_oneof![
        4 => Just(End::Good),
        4 => Just(End::Bad),
        1 => Just(End::Cancelled),
        1 => Just(End::Deleted),
        1 => Just(End::Fails("execution_failed", Some(FailureClass::Model))),
        1 => Just(End::Fails("model_doom_loop", Some(FailureClass::ModelLoop))),
        1 => Just(End::Fails("pod_lost", Some(FailureClass::Infra))),
        1 => Just(End::Fails("quota_failure", Some(FailureClass::Env))),
        2 => Just(End::Fails("merge_base_moved", None)),
        1 => Just(End::Fails("merge_refused", None)),
    ]
}

/// Outcomes that cost nothing may come as often as they like: they are given out, not repeated.
fn is_free(end: &End) -> bool {
    match end {
        End::Cancelled | End::Deleted => true,
        End::Fails(code, _) => matches!(*code, "pod_lost" | "quota_failure"),
        End::Good | End::Bad => false,
    }
}

/// A Task that a person is asked about, or that has ended, or that waits for one of those.
fn at_rest(world: &World, name: &str) -> bool {
    let status = world.status(name);
    let operator = status.next.as_ref().is_some_and(|next| next.kind == NextKind::Operator);
    let follows =
        status.judge.as_ref().map(|judge| judge.follow_up.clone()).filter(|child| !child.is_empty());
    status.phase.is_terminal() || operator || follows.is_some_and(|child| at_rest(world, &child))
}

fn check(world: &World, seen: &mut BTreeMap<(String, String, String), String>) -> Result<(), TestCaseError> {
    let judge = &world.system.spec.judge;
    for (name, task) in &world.tasks {
        let status = world.status(name);
        prop_assert!(status.phase.is_terminal() || status.next.is_some(), "{name} does not say what is next");
        let state = status.judge.clone().unwrap_or_default();
        prop_assert!(state.auto_fixes <= judge.auto_fix_max_attempts);
        prop_assert!(state.conflict_fixes <= judge.auto_fix_max_attempts);
        prop_assert!(status.retries.judge <= judge.max_failures, "{name} {}", status.retries.judge);
        let made = |origin: &str| {
            let of = |t: &&Task| {
                let labels = t.metadata.labels.clone().unwrap_or_default();
                labels.get(labels::PARENT_UID) == task.metadata.uid.as_ref()
                    && labels.get(labels::ORIGIN).is_some_and(|o| o == origin)
            };
            i32::try_from(world.tasks.values().filter(of).count()).unwrap()
        };
        prop_assert_eq!(made("autofix"), state.auto_fixes);
        prop_assert_eq!(made("autofix_conflict"), state.conflict_fixes);
        prop_assert!(made("recreate") <= 1 && made("docser") <= 1);
    }
    for run in world.runs.iter().filter(|run| run.spec.purpose == Purpose::Judge) {
        let (target, review) =
            (run.spec.review.clone().unwrap(), run.status.as_ref().and_then(|s| s.review.clone()));
        if review.is_some() {
            let key = (target.run_uid, target.head_commit, target.policy_version);
            let name = run.metadata.name.clone().unwrap();
            let first = seen.entry(key).or_insert_with(|| name.clone());
            prop_assert_eq!(&*first, &name, "a key with two verdicts (S28)");
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn any_sequence_of_outcomes_settles_within_bounded_runs(
        ends in proptest::collection::vec(end(), 1..250),
        edits in proptest::collection::vec((0usize..200, 1i64..4), 0..4),
    ) {
        let mut world = World::new();
        let mut seen = BTreeMap::new();
        let mut script = ends.iter().cycle();
        // The end of the script repeats without what costs nothing, so that it ends at all.
        let costs: Vec<&End> = ends.iter().filter(|end| !is_free(end)).collect();
        let mut repeated = costs.iter().cycle();
        let mut counted = 0;
        for turn in 0..2_000 {
            for (_, lines) in edits.iter().filter(|(at, _)| *at == turn) {
                world.system.spec.judge.max_lines = *lines;
                world.settle();
            }
            let Some(name) = world.tasks.keys().find(|name| world.wanted(name).is_some()).cloned() else {
                if world.tasks.keys().all(|name| at_rest(&world, name)) {
                    break;
                }
                world.later(3_600 * 24);
                world.settle();
                continue;
            };
            let end = if turn < ends.len() { script.next() } else { repeated.next().copied() };
            let end = end.cloned().unwrap_or(End::Good);
            counted += usize::from(!is_free(&end));
            let asked = world.admit(&name);
            world.end(asked.metadata.name.as_deref().unwrap(), &end);
            world.settle();
            check(&world, &mut seen)?;
        }
        for name in world.tasks.keys() {
            prop_assert!(at_rest(&world, name), "{} has not settled: {:?}", name, world.status(name));
        }
        // Two generations of at most seven Tasks, each with its retries and merges, and their documentation.
        prop_assert!(counted <= 700, "{} Runs", counted);
    }
}
