//! Recorded answers of the original system for the decisions in `plan`.
//!
//! A row is `{input, output}`. Where this product decides otherwise on purpose, the row also has
//! `ours` and `why`; `ours` is what must come out.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "support/vectors.rs"]
mod vectors;

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use opentiger::crd::pool::Role;
use opentiger::crd::run::FailureClass;
use opentiger::crd::task::RiskLevel;
use opentiger::crd::{Purpose, TaskPhase};
use opentiger::plan::dispatch::{Holder, HolderId, LaneFacts, PoolFacts, Queue, SystemFacts, TaskFacts};
use opentiger::plan::{area, classify, lanes, priority, quota};
use serde_json::{Value, json};
use vectors::{check, check_part, strings, text, time};

fn millis(duration: SignedDuration) -> Value {
    json!(i64::try_from(duration.as_millis()).expect("in range"))
}

fn risk(value: &Value) -> RiskLevel {
    // Absent is the schema's default; the original weighs an unknown word as medium.
    match value.as_str() {
        None | Some("low") => RiskLevel::Low,
        Some("high") => RiskLevel::High,
        Some(_) => RiskLevel::Medium,
    }
}

fn classification(c: classify::Classification) -> Value {
    json!({"category": c.class.word(), "retryable": c.retryable, "reason": c.reason})
}

#[test]
fn failure_classification() {
    check("failure_classification", |input| {
        let code = text(&input["meta"]["failureCode"]);
        classification(classify::classify(code, text(&input["message"])))
    });
}

#[test]
fn failure_code_only() {
    check("failure_code_only", |input| {
        classify::by_code(text(&input["code"])).map_or(Value::Null, classification)
    });
}

#[test]
fn failure_retry_limit() {
    check("failure_retry_limit", |input| {
        let class: FailureClass = serde_json::from_value(input["category"].clone()).expect("a failure class");
        // The original says "no global limit" with a negative number.
        let global = input["globalLimit"].as_i64().filter(|limit| *limit >= 0);
        json!(classify::limit(class, global.map(|limit| i32::try_from(limit).expect("in range"))))
    });
}

#[test]
fn failure_signature() {
    check("failure_signature", |input| {
        json!(classify::signature(text(&input["meta"]["failureCode"]), text(&input["message"])))
    });
}

#[test]
fn quota_detection() {
    let path = format!("{}/tests/vectors/quota_detection.json", env!("CARGO_MANIFEST_DIR"));
    let rows: Vec<Value> =
        serde_json::from_str(&std::fs::read_to_string(path).expect("the vectors are there"))
            .expect("the vectors are JSON");
    for row in &rows {
        assert_eq!(json!(quota::is_quota(text(&row["input"]))), row["output"]["worker"], "{row}");
    }
    assert!(!rows.is_empty());
}

#[test]
fn quota_retry_hint() {
    check("quota_retry_hint", |input| {
        quota::stated_delay(text(&input["message"]), time(&input["reference"])).map_or(Value::Null, millis)
    });
}

#[test]
fn quota_backoff() {
    check("quota_backoff", |input| {
        let number = |key: &str| input[key].as_f64().expect("a number");
        let duration = |key: &str| Duration::from_secs_f64(number(key).max(0.0) / 1_000.0);
        let policy = quota::BackoffPolicy {
            base: duration("baseDelayMs"),
            max: duration("maxDelayMs"),
            factor: number("factor"),
            jitter: number("jitterRatio"),
        };
        let retries = u32::try_from(input["retryCount"].as_i64().expect("a count")).expect("in range");
        let wait = quota::backoff(
            text(&input["taskId"]),
            retries,
            policy,
            text(&input["errorMessage"]),
            time(&input["reference"]),
        );
        json!({
            "cooldownMs": millis(wait.cooldown),
            "retryHintMs": wait.stated.map_or(Value::Null, millis),
            "exponentialMs": millis(wait.exponential),
            "jitterMs": millis(wait.jitter),
        })
    });
}

#[test]
fn target_area() {
    check("target_area", |input| {
        json!(area::resolve(
            input["targetArea"].as_str(),
            &strings(&input["touches"]),
            &strings(&input["allowedPaths"]),
        ))
    });
}

#[test]
fn paths_overlap() {
    check("paths_overlap", |input| json!(area::overlap(text(&input[0]), text(&input[1]))));
}

#[test]
fn priority_score() {
    check("priority_score", |input| {
        let created = Timestamp::UNIX_EPOCH;
        let now = Timestamp::from_millisecond(input["ageMs"].as_i64().expect("an age")).expect("in range");
        json!(priority::score(
            i32::try_from(input["priority"].as_i64().unwrap_or(0)).expect("in range"),
            risk(&input["riskLevel"]),
            Duration::from_secs(60 * input["timeboxMinutes"].as_u64().unwrap_or(60)),
            created,
            now,
        ))
    });
}

#[test]
fn task_lane_default() {
    check("task_lane_default", |input| {
        let role = match text(&input["role"]) {
            "docser" => Role::Docser,
            "tester" => Role::Tester,
            _ => Role::Worker,
        };
        json!(lanes::default_lane(role))
    });
}

/// A moment for rows that only say how long ago something was.
fn now() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().expect("a timestamp")
}

fn ago(value: &Value) -> Timestamp {
    let age = Duration::from_millis(value.as_u64().unwrap_or(0));
    now().checked_sub(age).expect("in range")
}

fn queued(name: &str) -> TaskFacts {
    TaskFacts {
        uid: name.to_owned(),
        name: name.to_owned(),
        phase: TaskPhase::Queued,
        cancel: false,
        purpose: Purpose::Execute,
        role: Role::Worker,
        lane: String::new(),
        kind: "code".to_owned(),
        areas: vec![],
        static_key: priority::static_key(0, RiskLevel::Low, Duration::from_secs(3600), now()),
        not_before: None,
        dependencies: vec![],
        resolved: vec![],
        superseded_by: None,
        attempts: 0,
        created_at: now(),
    }
}

/// A queue with slots for everybody in which `running` Tasks are in progress.
fn queue_with(running: &[(String, String, Vec<String>)], slots: &Value, lanes: Vec<LaneFacts>) -> Queue {
    let mut queue = Queue::new();
    for (name, role) in [("worker", Role::Worker), ("tester", Role::Tester), ("docser", Role::Docser)] {
        queue.upsert_pool(PoolFacts { name: name.to_owned(), role, replicas: 1000, ..PoolFacts::default() });
    }
    for (task, lane, areas) in running {
        let holder = Holder {
            task_uid: task.clone(),
            pool: "worker".to_owned(),
            agent: format!("worker-{task}"),
            lane: lane.clone(),
            areas: areas.clone(),
            ..Holder::default()
        };
        queue.occupy(HolderId::Run(task.clone()), holder);
    }
    // Free slots of the original count everything that runs; -1 is unlimited.
    let free = slots.as_i64().and_then(|slots| usize::try_from(slots).ok());
    let max_concurrent = free.map(|free| u32::try_from(free + running.len()).expect("in range"));
    queue.set_system(Some(SystemFacts { armed: true, max_concurrent, lanes, ..SystemFacts::default() }));
    queue
}

fn selected(queue: &mut Queue) -> Value {
    let admissions = queue.plan(now()).admissions;
    json!(admissions.into_iter().map(|a| a.task_uid).collect::<Vec<_>>())
}

#[test]
fn lane_selection() {
    check_part(
        "lane_selection",
        |output| &output["selected"],
        |input| {
            let mut running = Vec::new();
            for (lane, count) in input["activeRunningByLane"].as_object().into_iter().flatten() {
                for n in 0..count.as_u64().expect("a count") {
                    running.push((format!("{lane}{n}"), lane.clone(), vec![]));
                }
            }
            let limit =
                |key: &str| input["laneLimits"][key].as_u64().map(|n| u32::try_from(n).expect("in range"));
            let lane = |name: &str, min, max| LaneFacts { name: name.to_owned(), min, max };
            let lanes = vec![
                lane("feature", limit("featureMinSlots"), None),
                lane("conflict_recovery", None, limit("conflictMaxSlots")),
                lane("docser", None, limit("docserMaxSlots")),
            ];
            let mut queue = queue_with(&running, &input["availableSlots"], lanes);
            for (n, task) in input["tasks"].as_array().into_iter().flatten().enumerate() {
                // The rows are in order of dispatch.
                let order = i32::try_from(1000 - n).expect("in range");
                queue.upsert_task(TaskFacts {
                    lane: text(&task["lane"]).to_owned(),
                    areas: task["targetArea"].as_str().map(str::to_owned).into_iter().collect(),
                    static_key: priority::static_key(order, RiskLevel::Low, Duration::from_secs(3600), now()),
                    ..queued(text(&task["id"]))
                });
            }
            selected(&mut queue)
        },
    );
}

/// When the newest failure lets the Task go again, by the original's rule of five minutes and its
/// exemptions. Here the task controller decides this; the row's other answers depend on it.
fn retry_at(input: &Value, task: &Value) -> Option<Timestamp> {
    const EXEMPT: [&str; 10] = [
        "enotempty",
        "directory not empty",
        "quota exceeded",
        "resource has been exhausted",
        "resource_exhausted",
        "quota limit reached",
        "generate_requests_per_model_per_day",
        "generate_content_paid_tier_input_token_count",
        "retryinfo",
        "system stop-all requested",
    ];
    let ended = |run: &&Value| {
        run["taskId"] == task["id"]
            && ["failed", "cancelled"].contains(&text(&run["status"]))
            && !run["finishedAgoMs"].is_null()
    };
    let newest =
        input["runs"].as_array()?.iter().filter(ended).min_by_key(|run| run["finishedAgoMs"].as_i64())?;
    let message = text(&newest["errorMessage"]).to_lowercase();
    let failed = newest["status"] == "failed";
    let exempt =
        EXEMPT.iter().enumerate().any(|(n, word)| message.contains(word) && (failed || n < 2 || n == 9))
            || !failed && message.contains("agent process restarted before task completion");
    let at = ago(&newest["finishedAgoMs"]).checked_add(Duration::from_secs(300)).expect("in range");
    (!exempt).then_some(at)
}

#[test]
fn dispatch_end_to_end() {
    check_part(
        "dispatch_end_to_end",
        |output| &output["selected"],
        |input| {
            let tasks: Vec<&Value> = input["tasks"].as_array().into_iter().flatten().collect();
            let areas = |task: &Value| -> Vec<String> {
                let touches = strings(&task["touches"]);
                let allowed = strings(&task["allowedPaths"]);
                area::resolve(task["targetArea"].as_str(), &touches, &allowed).into_iter().collect()
            };
            let running: Vec<_> = tasks
                .iter()
                .filter(|task| task["status"] == "running")
                .map(|task| (text(&task["id"]).to_owned(), text(&task["lane"]).to_owned(), areas(task)))
                .collect();
            let mut queue = queue_with(&running, &input["availableSlots"], vec![]);
            for (n, task) in tasks.iter().enumerate() {
                // Ties go by insertion in the rows, by age and name here.
                let inserted = Duration::from_nanos(u64::try_from(n).expect("in range"));
                let created_at = ago(&task["createdAgoMs"]);
                let timebox = Duration::from_secs(60 * task["timeboxMinutes"].as_u64().unwrap_or(60));
                let priority = i32::try_from(task["priority"].as_i64().unwrap_or(0)).expect("in range");
                let review = text(&task["title"]).starts_with("[PR] Review #")
                    || text(&task["goal"]).starts_with("Review and process open PR #");
                queue.upsert_task(TaskFacts {
                    phase: match text(&task["status"]) {
                        // A review of a pull request is not dispatched but waits for the judge.
                        "queued" if review => TaskPhase::Blocked,
                        "queued" => TaskPhase::Queued,
                        "running" => TaskPhase::Running,
                        "blocked" => TaskPhase::Blocked,
                        "failed" => TaskPhase::Failed,
                        "done" => TaskPhase::Done,
                        "cancelled" => TaskPhase::Cancelled,
                        other => panic!("unknown status {other}"),
                    },
                    cancel: task["status"] == "cancelled",
                    role: match text(&task["role"]) {
                        "tester" => Role::Tester,
                        "docser" => Role::Docser,
                        _ => Role::Worker,
                    },
                    lane: text(&task["lane"]).to_owned(),
                    kind: task["kind"].as_str().unwrap_or("code").to_owned(),
                    areas: areas(task),
                    static_key: priority::static_key(priority, risk(&task["riskLevel"]), timebox, created_at),
                    not_before: retry_at(input, task),
                    dependencies: strings(&task["dependencies"]),
                    created_at: created_at.checked_add(inserted).expect("in range"),
                    ..queued(text(&task["id"]))
                });
            }
            selected(&mut queue)
        },
    );
}
