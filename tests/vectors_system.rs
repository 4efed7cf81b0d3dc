//! Recorded answers of the original system for cycles and monitors.
//!
//! A row is `{input, output}`; where this product decides otherwise on purpose it also has `ours` and
//! `why`, and `ours` is what must come out.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use opentiger::crd::budget::{Budgets, TokenLedger};
use opentiger::crd::cycle::{CycleSettings, CycleTrigger};
use opentiger::crd::{GoDuration, Purpose, RunPhase, words};
use opentiger::plan::budget::{Gate, gate};
use opentiger::plan::cycle::{Ended, Tally, due};
use opentiger::plan::monitor::{self, Anomaly, Kind, Outcome, Severity, Windows};
use serde_json::{Value, json};

/// Runs every row; `expected` picks from the recorded output what this product has an answer to.
fn check(name: &str, expected: impl Fn(&Value) -> Value, answer: impl Fn(&Value) -> Value) {
    let path = format!("{}/tests/vectors/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let rows: Vec<Value> =
        serde_json::from_str(&std::fs::read_to_string(path).expect("vectors")).expect("JSON");
    assert!(!rows.is_empty());
    let mut wrong = Vec::new();
    for (number, row) in rows.iter().enumerate() {
        let recorded = expected(&row["output"]);
        let wanted = match row.get("ours") {
            Some(ours) => {
                assert!(row["why"].as_str().is_some_and(|w| !w.is_empty()), "row {number}: no reason");
                assert_ne!(ours, &recorded, "row {number}: nothing differs");
                ours.clone()
            }
            None => recorded,
        };
        let got = answer(&row["input"]);
        if got != wanted {
            wrong.push(format!("row {number}\n  expected {wanted}\n  got      {got}"));
        }
    }
    assert!(wrong.is_empty(), "{name}: {} of {} rows differ\n{}", wrong.len(), rows.len(), wrong.join("\n"));
}

fn now() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().expect("a timestamp")
}

fn ago(value: &Value) -> Option<Timestamp> {
    now().checked_sub(SignedDuration::from_millis(value.as_i64()?)).ok()
}

fn rows(input: &Value, key: &str) -> Vec<Value> {
    input[key].as_array().cloned().unwrap_or_default()
}

fn busy(input: &Value) -> usize {
    rows(input, "agents").iter().filter(|agent| agent["status"] == "busy").count()
}

/// The original says "no limit" with zero or a negative number.
fn limit(value: &Value) -> Option<i64> {
    value.as_i64().filter(|limit| *limit > 0)
}

#[test]
fn cycle_end() {
    let numbers = [
        "tasksCompleted",
        "tasksFailed",
        "tasksCancelled",
        "runsTotal",
        "totalTokens",
        "peakConcurrentWorkers",
    ];
    let expected = |output: &Value| {
        let stats: BTreeMap<&str, &Value> =
            numbers.iter().map(|key| (*key, &output["stats"][*key])).collect();
        json!({"end": output["end"], "stats": stats})
    };
    check("cycle_end", expected, |input| {
        let config = &input["config"];
        let int = |value: &Value| limit(value).and_then(|limit| i32::try_from(limit).ok());
        let settings = CycleSettings {
            max_duration: limit(&config["maxDurationMs"]).map(|ms| GoDuration(format!("{ms}ms"))),
            max_tasks: int(&config["maxTasksPerCycle"]),
            max_failure_rate: config["maxFailureRate"].as_f64().map(|rate| (rate * 100.0).round() as i32),
            min_tasks_for_failure_check: int(&config["minTasksForFailureCheck"]).expect("a number"),
        };
        let age = input["cycleAgeMs"].as_u64().expect("an age");
        let mut tally = Tally::default();
        for run in rows(input, "runs").iter().filter(|run| run["startedAgoMs"].as_u64() <= Some(age)) {
            tally.admitted(ago(&run["startedAgoMs"]).expect("a start"), busy(input));
            let phase = match run["status"].as_str() {
                Some("success") => RunPhase::Success,
                Some("failed") => RunPhase::Failed,
                Some("cancelled") => RunPhase::Cancelled,
                _ => continue,
            };
            let tokens = run["costTokens"].as_i64().unwrap_or(0);
            tally.ended(Ended { purpose: Purpose::Execute, phase, tokens, seconds: 0 });
        }
        let stats = tally.stats();
        let trigger = due(&settings, Some(Duration::from_millis(age)), &stats).map(CycleTrigger::word);
        json!({
            "end": {"shouldEnd": trigger.is_some(), "triggerType": trigger.map(words::snake)},
            "stats": {
                "tasksCompleted": stats.tasks_completed,
                "tasksFailed": stats.tasks_failed,
                "tasksCancelled": stats.tasks_cancelled,
                "runsTotal": stats.runs_total,
                "totalTokens": stats.total_tokens,
                "peakConcurrentWorkers": stats.peak_concurrent,
            },
        })
    });
}

#[test]
fn monitors() {
    // One condition for each kind, with the gravest severity: the original alerts for each Run.
    let expected = |output: &Value| {
        let mut kinds: BTreeMap<String, String> = BTreeMap::new();
        for alert in rows(output, "anomalies") {
            let text = |key: &str| alert[key].as_str().expect("a word").to_string();
            let severity = kinds.entry(text("type")).or_default();
            *severity = severity.clone().min(text("severity"));
            if severity.is_empty() {
                *severity = text("severity");
            }
        }
        json!({"anomalies": kinds, "isWithinLimits": output["cost"]["isWithinLimits"]})
    };
    check("monitors", expected, |input| {
        let mut windows = Windows::default();
        let (mut day, mut hour) = (0, 0);
        let mut stuck: Option<(Severity, i64)> = None;
        for run in rows(input, "runs") {
            let started = ago(&run["startedAgoMs"]).expect("a start");
            let tokens = run["costTokens"].as_i64().unwrap_or(0);
            let outcome = match run["status"].as_str() {
                Some("success") => Outcome::Success,
                Some("failed") => Outcome::Failed,
                _ => Outcome::Other,
            };
            windows.count(started, ago(&run["finishedAgoMs"]).unwrap_or(now()), outcome, tokens);
            if run["status"] == "running" {
                stuck = stuck.max(monitor::stuck(started, None, now()));
            }
            day += if run["startedAgoMs"].as_i64() <= Some(12 * 3_600_000) { tokens } else { 0 };
            hour += if run["startedAgoMs"].as_i64() <= Some(3_600_000) { tokens } else { 0 };
        }
        windows.slide(now());
        let (current, previous) = windows.sums();
        let busy_agents: Vec<Value> =
            rows(input, "agents").into_iter().filter(|agent| agent["status"] == "busy").collect();
        let timeout = busy_agents.iter().find_map(|agent| {
            monitor::agent_timeout(agent["id"].as_str()?, ago(&agent["heartbeatAgoMs"])?, now())
        });
        let since = windows.last_success().unwrap_or(Timestamp::MIN);
        let found: [(Kind, Option<Anomaly>); 5] = [
            (Kind::HighFailureRate, monitor::high_failure_rate(current)),
            (Kind::CostSpike, monitor::cost_spike(current, previous)),
            (
                Kind::StuckTask,
                stuck.and_then(|(severity, minutes)| monitor::stuck_task("r", severity, minutes, 0)),
            ),
            (Kind::NoProgress, monitor::no_progress(busy(input), since, now())),
            (Kind::AgentTimeout, timeout),
        ];
        let anomalies: BTreeMap<String, String> = found
            .into_iter()
            .filter_map(|(kind, anomaly)| {
                let severity = anomaly?.severity.word();
                Some((words::snake(kind.condition()), words::snake(severity)))
            })
            .collect();
        let limits = &input["limits"];
        let budgets = Budgets {
            per_task: None,
            per_hour: limit(&limits["hourlyTokenLimit"]),
            per_day: limit(&limits["dailyTokenLimit"]),
        };
        let used = TokenLedger { hour: Some(now()), hour_tokens: hour, day: Some(now()), day_tokens: day };
        let within = !matches!(gate(&budgets, &used), Gate::Closed { .. });
        json!({"anomalies": anomalies, "isWithinLimits": within})
    });
}
