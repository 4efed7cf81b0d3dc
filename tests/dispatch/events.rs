//! Random events in a small world, so that they meet often.

use std::collections::{BTreeMap, BTreeSet};

use opentiger::crd::{Role, TaskPhase};
use opentiger::plan::dispatch::{LaneFacts, SystemFacts};
use proptest::prelude::*;

pub const NAMES: usize = 9;
pub const LANES: [&str; 4] = ["feature", "docser", "research", "other"];
pub const AREAS: [&str; 3] = ["x", "y", "z"];
pub const POOLS: [(&str, Role); 4] =
    [("w", Role::Worker), ("v", Role::Worker), ("t", Role::Tester), ("d", Role::Docser)];

#[derive(Clone, Debug)]
pub enum Event {
    Task(TaskPick),
    Phase {
        name: usize,
        phase: TaskPhase,
        cancel: bool,
    },
    Remove {
        name: usize,
    },
    System(Option<SystemFacts>),
    Pool {
        pool: usize,
        replicas: u32,
        suspended: bool,
    },
    RemovePool {
        pool: usize,
    },
    /// Run of the n-th admission appears.
    Run {
        nth: usize,
        agent_taken_over: bool,
    },
    /// Pod of the n-th holder appears.
    Pod {
        nth: usize,
    },
    Release {
        nth: usize,
    },
    Abandon {
        nth: usize,
        delay: i64,
    },
    Record {
        name: usize,
    },
    Wait {
        seconds: i64,
    },
}

#[derive(Clone, Debug)]
pub struct TaskPick {
    pub name: usize,
    pub recreate: bool,
    pub role: usize,
    pub lane: usize,
    pub areas: BTreeSet<usize>,
    pub priority: i32,
    pub not_before: i64,
    pub dependencies: BTreeSet<usize>,
}

pub fn event() -> impl Strategy<Value = Event> {
    let phase = prop_oneof![
        3 => Just(TaskPhase::Queued), 2 => Just(TaskPhase::Done), 1 => Just(TaskPhase::Failed),
        1 => Just(TaskPhase::Cancelled), 1 => Just(TaskPhase::Running), 1 => Just(TaskPhase::Blocked)
    ];
    let set = |n: usize, most: usize| proptest::collection::btree_set(0..n, 0..=most);
    let lane = prop_oneof![4 => Just(0usize), 2 => Just(1), 1 => Just(2), 1 => Just(3)];
    let role = prop_oneof![4 => Just(0usize), 1 => Just(1), 1 => Just(2)];
    let task =
        (0..NAMES, prop::bool::weighted(0.1), role, lane, set(3, 2), -2i32..3, -5i64..4, set(NAMES, 2))
            .prop_map(|(name, recreate, role, lane, areas, priority, not_before, dependencies)| {
                let few = dependencies.into_iter().filter(|d| d % 3 == name % 3 || priority < -1).collect();
                Event::Task(TaskPick {
                    name,
                    recreate,
                    role,
                    lane,
                    areas,
                    priority,
                    not_before,
                    dependencies: few,
                })
            });
    let lanes = prop_oneof![
        2 => Just(Vec::new()),
        1 => proptest::collection::vec((0..LANES.len(), prop::option::of(0u32..3), prop::option::of(0u32..3)), 1..4)
    ];
    let system =
        (prop::bool::weighted(0.8), prop::option::of(1u32..6), lanes).prop_map(|(armed, max, lanes)| {
            let mut facts: BTreeMap<usize, LaneFacts> = BTreeMap::new();
            for (lane, min, max) in lanes {
                facts.insert(lane, LaneFacts { name: LANES[lane].into(), min, max });
            }
            SystemFacts { armed, max_concurrent: max, lanes: facts.into_values().collect() }
        });
    prop_oneof![
        10 => task,
        6 => (0..NAMES, phase, prop::bool::weighted(0.3))
            .prop_map(|(name, phase, cancel)| Event::Phase { name, phase, cancel }),
        1 => (0..NAMES).prop_map(|name| Event::Remove { name }),
        2 => prop::option::weighted(0.9, system).prop_map(Event::System),
        3 => (0..POOLS.len(), 0u32..4, prop::bool::weighted(0.1))
            .prop_map(|(pool, replicas, suspended)| Event::Pool { pool, replicas, suspended }),
        1 => (0..POOLS.len()).prop_map(|pool| Event::RemovePool { pool }),
        5 => (0usize..8, prop::bool::weighted(0.1))
            .prop_map(|(nth, agent_taken_over)| Event::Run { nth, agent_taken_over }),
        3 => (0usize..8).prop_map(|nth| Event::Pod { nth }),
        5 => (0usize..8).prop_map(|nth| Event::Release { nth }),
        2 => (0usize..8, -1i64..4).prop_map(|(nth, delay)| Event::Abandon { nth, delay }),
        2 => (0..NAMES).prop_map(|name| Event::Record { name }),
        2 => (1i64..4).prop_map(|seconds| Event::Wait { seconds }),
    ]
}
