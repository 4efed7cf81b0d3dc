//! The table against the original's, against the definitions, and against itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::draft::{DEFAULTS, Live, known, plan_changes};
use super::key::{Field, Home, Key, Kind, MASK};
use super::table::{find, keys};
use crate::crd::system::{Lane, RepositoryMode};
use crate::crd::{AgentPool, GoDuration, System, SystemSpec, schema};

fn pool(name: &str, role: &str, replicas: i32) -> AgentPool {
    let spec = json!({"role": role, "replicas": replicas, "image": "agent", "executor": {"type": "Command", "command": {"argv": ["work"]}}});
    AgentPool::new(name, serde_json::from_value(spec).unwrap())
}

fn live() -> Live {
    let mut spec = DEFAULTS.system.clone();
    spec.repository.url = "https://git.example.com/app.git".into();
    Live { system: System::new("default", spec), pools: vec![pool("worker", "Worker", 4)] }
}

fn wanted(pairs: &[(&'static str, &str)]) -> BTreeMap<&'static str, String> {
    pairs.iter().map(|(key, value)| (*key, (*value).to_owned())).collect()
}

fn all(live: &Live) -> BTreeMap<&'static str, String> {
    let set = BTreeSet::from(["XAI_API_KEY".to_owned()]);
    keys().map(|key| (key.name, live.read(key, &set))).collect()
}

#[test]
fn every_key_of_the_original_is_there_once() {
    let shown: Vec<_> = keys().filter(|key| !key.env).map(|key| key.name).collect();
    assert_eq!(shown.len(), 74);
    let names: BTreeSet<_> = keys().map(|key| key.name).collect();
    assert_eq!(names.len(), keys().count());
    for key in keys() {
        let said = matches!(&key.home, Home::Fixed { because, .. } if !because.is_empty());
        assert!(said || !key.about.is_empty(), "{} is not described", key.name);
    }
}

#[test]
fn the_defaults_of_the_original_are_the_recorded_ones() {
    let path = format!("{}/tests/vectors/config_keys.json", env!("CARGO_MANIFEST_DIR"));
    let rows: Vec<Value> = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert!(!rows.is_empty());
    for row in rows {
        let name = row["input"].as_str().unwrap();
        let key = find(name).unwrap_or_else(|| panic!("no key {name}"));
        assert_eq!(json!({"default": key.original}), row["output"], "{name}");
    }
}

/// A path that is none would make a refusal of the API server fall on the wrong key.
#[test]
fn every_path_is_a_field_of_the_definition_and_every_bound_is_within_its_bounds() {
    let definitions: Vec<Value> =
        schema::all().unwrap().iter().map(|crd| serde_json::to_value(crd).unwrap()).collect();
    let field = |kind: &str, path: &str| {
        let crd = definitions.iter().find(|crd| crd["spec"]["names"]["kind"] == kind).unwrap();
        let root = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        path.split('.').fold(root.clone(), |at, name| at["properties"][name].clone())
    };
    fn bounds<T>(kind: &Kind<T>) -> Option<(i64, i64)> {
        match kind {
            Kind::Whole { least, most, .. } | Kind::Limit { least, most, .. } => Some((*least, *most)),
            Kind::Flag { .. }
            | Kind::Millis { .. }
            | Kind::Ratio { .. }
            | Kind::Choice { .. }
            | Kind::Text { .. } => None,
        }
    }
    for key in keys() {
        let (kind, path, bounds) = match &key.home {
            Home::System(Field { path, kind }) => ("System", path, bounds(kind)),
            Home::Pool(_, Field { path, kind }) => ("AgentPool", path, bounds(kind)),
            Home::Executor(_) | Home::Latch(_) | Home::Secret | Home::Fixed { .. } => continue,
        };
        let field = field(kind, path);
        assert!(field["type"].is_string(), "{}: no field {path}", key.name);
        if let Some((least, most)) = bounds.filter(|_| field["type"] == "integer") {
            assert_eq!(field["minimum"].as_f64(), Some(least as f64), "{}", key.name);
            assert_eq!(field["maximum"].as_f64().unwrap_or(i64::MAX as f64), most as f64, "{}", key.name);
        }
    }
}

#[test]
fn saving_everything_that_was_read_changes_nothing() {
    let mut unusual = live();
    let spec = &mut unusual.system.spec;
    spec.recovery.failed_cooldown = GoDuration("1m30s".into());
    spec.recovery.dispatch_retry_delay = Some(GoDuration("0s".into()));
    spec.dispatch.lanes = vec![Lane { name: "own".into(), ..Lane::default() }];
    spec.planner.interval = GoDuration("not a duration".into());
    unusual.pools.extend([pool("a", "Tester", 2), pool("b", "Tester", 3), pool("judge", "Judge", 0)]);
    for live in [live(), unusual] {
        let draft = plan_changes(&live, &all(&live));
        assert_eq!(draft.refused, BTreeMap::new());
        assert_eq!(draft.unchanged.len(), keys().count());
        assert!(draft.system_keys.is_empty() && draft.pools.is_empty());
        assert!(draft.latches.is_empty() && draft.secrets.is_empty());
        assert_eq!(draft.system, live.system.spec);
    }
}

/// Values of a key that are within its range.
fn within<T>(field: &'static Field<T>) -> BoxedStrategy<String> {
    match &field.kind {
        Kind::Flag { .. } => any::<bool>().prop_map(|b| b.to_string()).boxed(),
        Kind::Whole { least, most, .. } => (*least..=*most).prop_map(|n| n.to_string()).boxed(),
        Kind::Limit { least, most, .. } => {
            prop_oneof![Just(-1), *least..=*most].prop_map(|n| n.to_string()).boxed()
        }
        Kind::Millis { least, most, absent, .. } => {
            prop_oneof![Just(absent.unwrap_or(*least)), *least..=*most].prop_map(|n| n.to_string()).boxed()
        }
        Kind::Ratio { .. } => (1..=100).prop_map(super::key::ratio).boxed(),
        Kind::Choice { words, .. } => proptest::sample::select(*words).prop_map(str::to_owned).boxed(),
        Kind::Text { check, .. } => prop_oneof![Just("off".to_owned()), "[a-z]{1,20}"]
            .prop_filter("it is taken", |text| check(text).is_ok())
            .boxed(),
    }
}

fn field(key: &'static Key) -> Option<&'static Field<SystemSpec>> {
    match &key.home {
        Home::System(field) => Some(field),
        _ => None,
    }
}

/// Keys of the System, with two values each.
fn fields() -> impl Strategy<Value = (&'static Key, String, String)> {
    let fields: Vec<_> = keys().filter(|key| field(key).is_some()).collect();
    proptest::sample::select(fields)
        .prop_flat_map(|key| (Just(key), within(field(key).unwrap()), within(field(key).unwrap())))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn what_is_set_is_read_and_what_is_read_can_be_set((key, first, second) in fields()) {
        let field = field(key).unwrap();
        let mut spec = live().system.spec;
        // Only with planning on does one of its keys show what the field says.
        spec.planner.enabled = true;
        spec.planner.requirement_path = Some("a.md".into());
        for value in [first, second] {
            field.assign(&mut spec, &DEFAULTS.system, &value).map_err(|e| TestCaseError::fail(format!("{} {value}: {e}", key.name)))?;
            prop_assert_eq!(&field.read(&spec), &value, "{}", key.name);
            let before = spec.clone();
            prop_assert_eq!(field.assign(&mut spec, &DEFAULTS.system, &value), Ok(false));
            prop_assert_eq!(&spec, &before);
        }
    }

    #[test]
    fn every_other_value_is_refused_and_changes_nothing((key, _, _) in fields(), noise in "[-+.0-9a-z ]{1,12}") {
        let field = field(key).unwrap();
        let mut spec = live().system.spec;
        let before = spec.clone();
        if field.assign(&mut spec, &DEFAULTS.system, &noise).is_err() {
            prop_assert_eq!(spec, before);
        } else if !matches!(field.kind, Kind::Text { .. }) {
            // Another way to write a value is read as the value itself.
            let read = field.read(&spec);
            prop_assert_eq!(field.assign(&mut spec, &DEFAULTS.system, &read), Ok(false));
        }
    }

    #[test]
    fn slots_are_set_within_the_bounds_of_a_pool(n in -5i64..1100) {
        let live = live();
        let draft = plan_changes(&live, &wanted(&[("WORKER_COUNT", &n.to_string())]));
        prop_assert_eq!(draft.refused.is_empty(), (0..=1000).contains(&n));
        prop_assert_eq!(draft.pools.len(), usize::from((0..=1000).contains(&n) && n != 4));
    }
}

#[test]
fn bounds_are_the_last_values_that_are_taken() {
    let refused = |key: &'static str, value: &str| {
        plan_changes(&live(), &wanted(&[(key, value)])).refused.contains_key(key)
    };
    for (key, good, bad) in [
        ("MAX_CONCURRENT_WORKERS", ["1", "100000"], ["0", "100001"]),
        ("DAILY_TOKEN_LIMIT", ["1", "9223372036854775807"], ["0", "9223372036854775808"]),
        ("REPLAN_INTERVAL_MS", ["1000", "2592000000"], ["999", "2592000001"]),
        ("SYSTEM_PROCESS_AUTO_RESTART_DELAY_MS", ["0", "60000"], ["-1", "60001"]),
        ("CYCLE_MAX_FAILURE_RATE", ["0.01", "1.0"], ["0", "0.305"]),
        ("CYCLE_MAX_DURATION_MS", ["-1", "1000"], ["0", "-2"]),
        ("JUDGE_ENABLED", ["true", "false"], ["yes", "TRUE"]),
        ("DISPATCHER_ENABLED", ["true", "false"], ["0", "off"]),
        ("REPO_URL", ["https://a.example/b", "git@a.example:b"], ["", "https://me:pw@a.example/b"]),
    ] {
        good.iter().for_each(|value| assert!(!refused(key, value), "{key} {value}"));
        bad.iter().for_each(|value| assert!(refused(key, value), "{key} {value}"));
    }
}

/// `spec.repository` in the definition of the System.
fn repository_schema() -> Value {
    let all = schema::all().unwrap();
    let system = all.iter().find(|crd| crd.spec.names.kind == "System").map(serde_json::to_value);
    system.unwrap().unwrap()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"].clone()
}

#[test]
fn a_mode_that_there_is_not_is_refused_a1() {
    let modes = &repository_schema()["properties"]["repository"]["properties"]["mode"]["enum"];
    assert_eq!(modes, &json!(["Git", "GitHub"]));
    for unknown in ["local", "local-git", "direct", "GitHub", "x"] {
        let draft = plan_changes(&live(), &wanted(&[("REPO_MODE", unknown)]));
        assert_eq!(draft.refused.get("REPO_MODE").map(String::as_str), Some("must be git or github"));
    }
}

#[test]
fn the_word_of_a_mode_is_that_mode_a2() {
    let mut live = live();
    for (word, mode) in [("github", RepositoryMode::GitHub), ("git", RepositoryMode::Git)] {
        let draft = plan_changes(&live, &wanted(&[("REPO_MODE", word)]));
        assert_eq!((draft.system.repository.mode, draft.system_keys.len()), (mode, 1), "{word}");
        live.system.spec = draft.system;
        assert_eq!(all(&live)["REPO_MODE"], word);
    }
}

#[test]
fn a_repository_without_a_url_is_refused_before_any_task_a3() {
    let schema = repository_schema();
    assert!(schema["required"].as_array().unwrap().contains(&json!("repository")));
    assert_eq!(schema["properties"]["repository"]["required"], json!(["url"]));
    let draft = plan_changes(&live(), &wanted(&[("REPO_URL", ""), ("REPO_MODE", "github")]));
    assert_eq!(draft.refused.keys().collect::<Vec<_>>(), [&"REPO_URL"]);
    assert_eq!(draft.system.repository.url, live().system.spec.repository.url);
}

#[test]
fn an_empty_value_is_the_default() {
    let mut live = live();
    live.system.spec.dispatch.max_concurrent = Some(7);
    live.system.spec.judge.merge_max_attempts = 9;
    live.system.spec.repository.base_branch = "develop".into();
    let draft = plan_changes(
        &live,
        &wanted(&[
            ("MAX_CONCURRENT_WORKERS", ""),
            ("JUDGE_MERGE_QUEUE_MAX_ATTEMPTS", " "),
            ("BASE_BRANCH", ""),
            ("WORKER_COUNT", ""),
        ]),
    );
    assert_eq!(draft.refused, BTreeMap::new());
    assert_eq!(draft.system.dispatch.max_concurrent, None);
    assert_eq!(draft.system.judge.merge_max_attempts, 3);
    assert_eq!(draft.system.repository.base_branch, "main");
    assert_eq!(draft.pools["worker"].0.replicas, 1);
}

#[test]
fn one_lane_is_changed_and_the_others_keep_their_rules() {
    let live = live();
    let spec = plan_changes(&live, &wanted(&[("DISPATCH_DOCSER_LANE_MAX_SLOTS", "3")])).system;
    let lane = |name: &str| spec.dispatch.lanes.iter().find(|lane| lane.name == name).unwrap().clone();
    assert_eq!(spec.dispatch.lanes.len(), 3);
    assert_eq!((lane("feature").min_slots, lane("feature").max_slots), (Some(1), None));
    assert_eq!((lane("conflict_recovery").min_slots, lane("conflict_recovery").max_slots), (None, Some(2)));
    assert_eq!(lane("docser").max_slots, Some(3));
}

/// Without the entry an empty list would stand for the default rules again.
#[test]
fn the_only_lane_without_its_cap_stays_in_the_list() {
    let mut live = live();
    live.system.spec.dispatch.lanes =
        vec![Lane { name: "docser".into(), max_slots: Some(1), ..Lane::default() }];
    let draft = plan_changes(&live, &wanted(&[("DISPATCH_DOCSER_LANE_MAX_SLOTS", "-1")]));
    assert_eq!(draft.system.dispatch.lanes, [Lane { name: "docser".into(), ..Lane::default() }]);
}

#[test]
fn planning_without_a_requirement_is_refused_for_the_key_that_asks_for_it() {
    let keys = |draft: &super::draft::Draft| draft.refused.keys().copied().collect::<Vec<_>>();
    let mut off = live();
    let both =
        wanted(&[("AUTO_REPLAN", "true"), ("REPLAN_REQUIREMENT_PATH", ""), ("REPLAN_INTERVAL_MS", "5000")]);
    let draft = plan_changes(&off, &both);
    assert_eq!(keys(&draft), ["AUTO_REPLAN"]);
    assert_eq!(draft.system_keys.iter().map(|key| key.name).collect::<Vec<_>>(), ["REPLAN_INTERVAL_MS"]);
    assert!(!draft.system.planner.enabled);

    let draft = plan_changes(&off, &wanted(&[("AUTO_REPLAN", "true"), ("REPLAN_REQUIREMENT_PATH", "a.md")]));
    assert_eq!(keys(&draft), [""; 0]);
    assert!(draft.system.planner.enabled);

    let on = Live { system: System::new("default", draft.system), pools: Vec::new() };
    assert_eq!(
        keys(&plan_changes(&on, &wanted(&[("REPLAN_REQUIREMENT_PATH", "")]))),
        ["REPLAN_REQUIREMENT_PATH"]
    );
    let draft = plan_changes(&on, &wanted(&[("AUTO_REPLAN", "false"), ("REPLAN_REQUIREMENT_PATH", "")]));
    assert_eq!(keys(&draft), [""; 0]);
    assert!(!draft.system.planner.enabled && draft.system.planner.requirement_path.is_none());

    off.system.spec.planner.requirement = Some("Divide".into());
    assert_eq!(keys(&plan_changes(&off, &wanted(&[("AUTO_REPLAN", "true")]))), [""; 0]);
    off.system.spec.planner.enabled = true;
    assert_eq!(
        keys(&plan_changes(&off, &wanted(&[("REPLAN_REQUIREMENT_PATH", "a.md")]))),
        ["REPLAN_REQUIREMENT_PATH"]
    );
}

#[test]
fn a_mask_or_nothing_leaves_a_secret_as_it_is() {
    for same in ["", "  ", MASK, "****", "••••••••"] {
        let draft = plan_changes(&live(), &wanted(&[("OPENAI_API_KEY", same)]));
        assert!(draft.secrets.is_empty() && draft.unchanged.contains("OPENAI_API_KEY"), "{same:?}");
    }
    let draft = plan_changes(&live(), &wanted(&[("OPENAI_API_KEY", " sk-1 ")]));
    assert_eq!(draft.secrets.iter().map(|(_, value)| value.as_str()).collect::<Vec<_>>(), ["sk-1"]);
    let two_lines = plan_changes(&live(), &wanted(&[("OPENAI_API_KEY", "sk-canary\nmore")]));
    assert!(two_lines.secrets.is_empty() && !two_lines.refused["OPENAI_API_KEY"].contains("canary"));
}

#[test]
fn the_pool_of_a_role_is_the_one_named_after_it_else_the_only_one() {
    let change = |pools: Vec<AgentPool>| {
        let live = Live { pools, ..live() };
        plan_changes(&live, &wanted(&[("WORKER_COUNT", "9")]))
    };
    let names = |draft: &super::draft::Draft| draft.pools.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&change(vec![pool("big", "Worker", 1), pool("worker", "Worker", 2)])), ["worker"]);
    assert_eq!(names(&change(vec![pool("big", "Worker", 1), pool("x", "Tester", 2)])), ["big"]);
    let several = change(vec![pool("big", "Worker", 1), pool("small", "Worker", 2)]);
    assert!(several.refused["WORKER_COUNT"].contains("big, small"), "{:?}", several.refused);
    assert!(change(vec![]).refused["WORKER_COUNT"].contains("no AgentPool"));
}

#[test]
fn what_nobody_knows_is_refused_by_name_and_not_at_length() {
    let long = "K".repeat(300);
    let (known, unknown) = known(BTreeMap::from([
        ("BASE_BRANCH".to_owned(), "main".to_owned()),
        ("NO_SUCH_KEY".to_owned(), "x".to_owned()),
        (long, "x".to_owned()),
    ]));
    assert_eq!(known.into_keys().collect::<Vec<_>>(), ["BASE_BRANCH"]);
    assert!(unknown.contains_key("NO_SUCH_KEY") && unknown.keys().all(|key| key.len() <= 100));
}
