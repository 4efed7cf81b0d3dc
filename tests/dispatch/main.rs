//! The admission queue: against a naive one, by example, and by the work it does.
//!
//! After any sequence of events the queue and the naive dispatcher admit the same Tasks into the same
//! slots in the same order, the invariants hold, and what is told about waiting Tasks is true.
//! `PROPTEST_CASES` raises the number of sequences.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod cases;
mod checks;
mod effort;
mod events;
mod examples;
mod gates;
mod naive;
mod starvation;
mod world;

use std::collections::BTreeMap;

use opentiger::plan::dispatch::{DispatchPlan, HolderId, Queue, SystemFacts};
use proptest::prelude::*;

use events::{Event, event};
use naive::Naive;

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_queue_admits_what_a_decision_from_scratch_admits(
        batches in proptest::collection::vec(proptest::collection::vec(event(), 1..5), 1..30)
    ) {
        let mut naive = Naive::new();
        let mut queue = Queue::new();
        let start = [
            Event::System(Some(SystemFacts { armed: true, ..SystemFacts::default() })),
            Event::Pool { pool: 0, replicas: 2, suspended: false, credential: Some(0), held: BTreeMap::new() },
            Event::Pool { pool: 4, replicas: 2, suspended: false, credential: Some(1), held: BTreeMap::new() },
        ];
        for event in start {
            naive.apply(event, &mut queue);
        }
        for batch in batches {
            for event in batch {
                naive.apply(event, &mut queue);
            }
            let mut before = naive.holders.clone();
            let expected = naive.plan();
            let plan = queue.plan(naive.now);
            prop_assert_eq!(&plan.admissions, &expected);
            for admission in &expected {
                naive.check(&before, admission);
                let id = HolderId::Admission(admission.task_uid.clone());
                before.insert(id.clone(), naive.holders[&id].clone());
            }
            naive.check_waits(&queue, &plan);
            let again = queue.plan(naive.now);
            prop_assert_eq!(again, DispatchPlan { wake_at: plan.wake_at, ..DispatchPlan::default() });
        }
    }
}
