//! Random events in a small world, so that they meet often.

use std::collections::{BTreeMap, BTreeSet};

use opentiger::crd::{Purpose, Role, TaskPhase};
use opentiger::plan::dispatch::{LaneFacts, SystemFacts};
use proptest::prelude::*;

pub const NAMES: usize = 9;
pub const PURPOSES: [Purpose; 4] = [Purpose::Execute, Purpose::Judge, Purpose::Merge, Purpose::Plan];
pub const CREDENTIALS: [&str; 2] = ["k1", "k2"];
/// Components and agents that can be stopped.
const STOPPABLE: [&str; 8] = ["dispatcher", "judge", "planner", "cycle-manager", "w-1", "w-2", "v-1", "j-1"];
pub const LANES: [&str; 4] = ["feature", "docser", "research", "other"];
pub const AREAS: [&str; 3] = ["x", "y", "z"];
pub const POOLS: [(&str, Role); 6] = [
    ("w", Role::Worker),
    ("v", Role::Worker),
    ("t", Role::Tester),
    ("d", Role::Docser),
    ("j", Role::Judge),
    ("p", Role::Planner),
];

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
        credential: Option<usize>,
        /// Slots, and for how many seconds.
        held: BTreeMap<u32, Option<i64>>,
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
    /// A Run ended so many seconds ago; with the limit reached, it holds for so many from now.
    Ended {
        run: usize,
        credential: usize,
        ago: i64,
        limited: Option<i64>,
    },
    ForgetRun {
        run: usize,
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
    pub purpose: usize,
    pub superseded_by: Option<usize>,
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
    let purpose = prop_oneof![6 => Just(0usize), 2 => Just(1), 2 => Just(2), 1 => Just(3)];
    let role = prop_oneof![4 => Just(0usize), 1 => Just(1), 1 => Just(2)];
    let task = (
        0..NAMES,
        (prop::bool::weighted(0.1), purpose, prop::option::weighted(0.3, 0..NAMES)),
        role,
        lane,
        set(3, 2),
        -2i32..3,
        -5i64..4,
        set(NAMES, 2),
    )
        .prop_map(
            |(
                name,
                (recreate, purpose, superseded_by),
                role,
                lane,
                areas,
                priority,
                not_before,
                dependencies,
            )| {
                let few = dependencies.into_iter().filter(|d| d % 3 == name % 3 || priority < -1).collect();
                Event::Task(TaskPick {
                    name,
                    recreate,
                    purpose,
                    superseded_by,
                    role,
                    lane,
                    areas,
                    priority,
                    not_before,
                    dependencies: few,
                })
            },
        );
    let lanes = prop_oneof![
        2 => Just(Vec::new()),
        1 => proptest::collection::vec((0..LANES.len(), prop::option::of(0u32..3), prop::option::of(0u32..3)), 1..4)
    ];
    let system = (
        prop::bool::weighted(0.8),
        prop::option::of(1u32..6),
        lanes,
        set(30, 3),
        prop::bool::weighted(0.1),
        prop::bool::ANY,
    )
        .prop_map(|(armed, max, lanes, stopped, over, moved)| {
            let mut facts: BTreeMap<usize, LaneFacts> = BTreeMap::new();
            for (lane, min, max) in lanes {
                facts.insert(lane, LaneFacts { name: LANES[lane].into(), min, max });
            }
            SystemFacts {
                armed,
                max_concurrent: max,
                lanes: facts.into_values().collect(),
                stopped: stopped
                    .into_iter()
                    .filter_map(|n| STOPPABLE.get(n))
                    .map(|n| (*n).to_owned())
                    .collect(),
                budget: over.then(|| "used up".to_owned()),
                merge_area: if moved { "x".into() } else { "merge".into() },
            }
        });
    let held = proptest::collection::btree_map(1u32..4, prop::option::of(-1i64..4), 0..3);
    prop_oneof![
        10 => task,
        6 => (0..NAMES, phase, prop::bool::weighted(0.3))
            .prop_map(|(name, phase, cancel)| Event::Phase { name, phase, cancel }),
        1 => (0..NAMES).prop_map(|name| Event::Remove { name }),
        2 => prop::option::weighted(0.9, system).prop_map(Event::System),
        4 => (0..POOLS.len(), 0u32..4, prop::bool::weighted(0.1), prop::option::of(0..CREDENTIALS.len()), held)
            .prop_map(|(pool, replicas, suspended, credential, held)| Event::Pool { pool, replicas, suspended, credential, held }),
        3 => (0usize..6, 0..CREDENTIALS.len(), 0i64..3, prop::option::of(-1i64..4))
            .prop_map(|(run, credential, ago, limited)| Event::Ended { run, credential, ago, limited }),
        1 => (0usize..6).prop_map(|run| Event::ForgetRun { run }),
        1 => (0..POOLS.len()).prop_map(|pool| Event::RemovePool { pool }),
        5 => (0usize..8, prop::bool::weighted(0.1))
            .prop_map(|(nth, agent_taken_over)| Event::Run { nth, agent_taken_over }),
        3 => (0usize..8).prop_map(|nth| Event::Pod { nth }),
        5 => (0usize..8).prop_map(|nth| Event::Release { nth }),
        2 => (0usize..8, -1i64..4).prop_map(|(nth, delay)| Event::Abandon { nth, delay }),
        2 => (0..NAMES).prop_map(|name| Event::Record { name }),
        2 => (1i64..4).prop_map(|seconds| Event::Wait { seconds }),
        1 => (1i64..4).prop_map(|n| Event::Wait { seconds: n * 60 * 3600 }),
    ]
}
