//! Keys of dispatch, budgets, slots and components.

use super::super::key::{Component, Home, Key, Kind, narrow};
use super::{count, fixed, system};
use crate::crd::system::{Lane, component};
use crate::crd::{Role, SystemSpec};
use crate::plan::lanes::{CONFLICT_RECOVERY, DOCSER, FEATURE, LaneRules};

const DISPATCHER: &[Component] = &[Component::Dispatcher];
const MANY: i64 = 100_000;

pub(super) static KEYS: &[Key] = &[
    system(
        "MAX_CONCURRENT_WORKERS",
        "-1",
        DISPATCHER,
        "Runs in progress at once",
        "spec.dispatch.maxConcurrent",
        Kind::Limit {
            least: 1,
            most: MANY,
            get: |s| s.dispatch.max_concurrent.map(i64::from),
            set: |s, n| s.dispatch.max_concurrent = n.map(narrow),
        },
    ),
    system(
        "DISPATCH_CONFLICT_LANE_MAX_SLOTS",
        "2",
        DISPATCHER,
        "Cap of lane `conflict_recovery`",
        "spec.dispatch.lanes",
        Kind::Limit {
            least: 1,
            most: MANY,
            get: |s| cap(s, CONFLICT_RECOVERY),
            set: |s, n| change(s, CONFLICT_RECOVERY, |lane| lane.max_slots = n.map(narrow)),
        },
    ),
    system(
        "DISPATCH_FEATURE_LANE_MIN_SLOTS",
        "1",
        DISPATCHER,
        "Floor of lane `feature`",
        "spec.dispatch.lanes",
        Kind::Whole {
            least: 0,
            most: MANY,
            get: floor,
            set: |s, n| change(s, FEATURE, |lane| lane.min_slots = Some(narrow(n))),
        },
    ),
    system(
        "DISPATCH_DOCSER_LANE_MAX_SLOTS",
        "1",
        DISPATCHER,
        "Cap of lane `docser`",
        "spec.dispatch.lanes",
        Kind::Limit {
            least: 1,
            most: MANY,
            get: |s| cap(s, DOCSER),
            set: |s, n| change(s, DOCSER, |lane| lane.max_slots = n.map(narrow)),
        },
    ),
    system(
        "DAILY_TOKEN_LIMIT",
        "-1",
        DISPATCHER,
        "Tokens of one day (UTC)",
        "spec.budgets.perDay",
        Kind::Limit {
            least: 1,
            most: i64::MAX,
            get: |s| s.budgets.per_day,
            set: |s, n| s.budgets.per_day = n,
        },
    ),
    system(
        "HOURLY_TOKEN_LIMIT",
        "-1",
        DISPATCHER,
        "Tokens of one hour (UTC)",
        "spec.budgets.perHour",
        Kind::Limit {
            least: 1,
            most: i64::MAX,
            get: |s| s.budgets.per_hour,
            set: |s, n| s.budgets.per_hour = n,
        },
    ),
    system(
        "TASK_TOKEN_LIMIT",
        "-1",
        DISPATCHER,
        "Tokens of one Task in its life",
        "spec.budgets.perTask",
        Kind::Limit {
            least: 1,
            most: i64::MAX,
            get: |s| s.budgets.per_task,
            set: |s, n| s.budgets.per_task = n,
        },
    ),
    count("WORKER_COUNT", "4", &[Component::Worker], Role::Worker, "Slots of role Worker"),
    count("TESTER_COUNT", "4", &[Component::Tester], Role::Tester, "Slots of role Tester"),
    count("DOCSER_COUNT", "4", &[Component::Docser], Role::Docser, "Slots of role Docser"),
    count("JUDGE_COUNT", "4", &[Component::Judge], Role::Judge, "Slots of role Judge"),
    count("PLANNER_COUNT", "1", &[Component::Planner], Role::Planner, "Slots of role Planner"),
    latch("DISPATCHER_ENABLED", DISPATCHER, component::DISPATCHER),
    latch("CYCLE_MANAGER_ENABLED", &[Component::CycleManager], component::CYCLE_MANAGER),
    fixed("EXECUTION_ENVIRONMENT", "host", "sandbox", "every Run is a Pod of its own"),
    fixed("ENABLED_PLUGINS", "", "", "there are no plugins"),
];

const fn latch(name: &'static str, affects: &'static [Component], component: &'static str) -> Key {
    let about = "False: the component is stopped until it is started, by an Operation";
    Key { name, original: "true", about, env: false, affects, home: Home::Latch(component) }
}

/// Cap of a lane; absent: none.
fn cap(spec: &SystemSpec, name: &str) -> Option<i64> {
    let rules = rules(spec);
    rules.rule(rules.index(name)).and_then(|rule| rule.cap).map(i64::from)
}

/// Floor of lane `feature`.
fn floor(spec: &SystemSpec) -> i64 {
    let rules = rules(spec);
    rules.rule(rules.index(FEATURE)).map_or(0, |rule| rule.floor.into())
}

/// The rules in force.
fn rules(spec: &SystemSpec) -> LaneRules {
    LaneRules::new(&spec.dispatch.lanes.iter().map(Into::into).collect::<Vec<_>>())
}

/// Changes a lane of the spec. A list that was empty gets the lanes that an empty one stands for, so
/// that a change of one leaves the others as they are.
fn change(spec: &mut SystemSpec, name: &str, with: impl FnOnce(&mut Lane)) {
    let lanes = &mut spec.dispatch.lanes;
    if lanes.is_empty() {
        let rules = LaneRules::default();
        let known = [FEATURE, CONFLICT_RECOVERY, DOCSER].map(|name| rules.rule(rules.index(name)));
        lanes.extend(known.into_iter().flatten().map(|rule| Lane {
            name: rule.name.clone(),
            min_slots: Some(rule.floor).filter(|n| *n > 0).and_then(|n| i32::try_from(n).ok()),
            max_slots: rule.cap.and_then(|n| i32::try_from(n).ok()),
        }));
    }
    match lanes.iter_mut().find(|lane| lane.name == name) {
        Some(lane) => with(lane),
        None => {
            let mut lane = Lane { name: name.to_owned(), ..Lane::default() };
            with(&mut lane);
            lanes.push(lane);
        }
    }
}
