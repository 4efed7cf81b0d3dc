//! Recorded answers of the original system for the decisions in `plan`.
//!
//! A row is `{input, output}`. Where this product decides otherwise on purpose, the row also has
//! `ours` and `why`; `ours` is what must come out.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use opentiger::crd::pool::Role;
use opentiger::crd::run::FailureClass;
use opentiger::crd::task::RiskLevel;
use opentiger::plan::{area, classify, lanes, priority, quota};
use serde_json::{Value, json};

/// Runs every row of `tests/vectors/<name>.json` and reports all that differ.
fn check(name: &str, answer: impl Fn(&Value) -> Value) {
    let path = format!("{}/tests/vectors/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).expect("the vectors are there");
    let rows: Vec<Value> = serde_json::from_str(&text).expect("the vectors are JSON");
    assert!(!rows.is_empty(), "{name} has no rows");
    let mut wrong = Vec::new();
    for (number, row) in rows.iter().enumerate() {
        let expected = match row.get("ours") {
            Some(ours) => {
                assert!(
                    row["why"].as_str().is_some_and(|w| !w.is_empty()),
                    "{name} {number}: no reason"
                );
                assert_ne!(ours, &row["output"], "{name} {number}: nothing differs");
                ours
            }
            None => &row["output"],
        };
        let got = answer(&row["input"]);
        if !same(&got, expected) {
            wrong.push(format!(
                "row {number} {}\n  expected {expected}\n  got      {got}",
                row["input"]
            ));
        }
    }
    assert!(
        wrong.is_empty(),
        "{name}: {} of {} rows differ\n{}",
        wrong.len(),
        rows.len(),
        wrong.join("\n")
    );
}

/// Equality in which numbers may differ by rounding.
fn same(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => (a - b).abs() <= 1e-9 * a.abs().max(b.abs()).max(1.0),
        _ => a == b,
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn strings(value: &Value) -> Vec<String> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .map(|v| text(v).to_owned())
        .collect()
}

fn time(value: &Value) -> Timestamp {
    text(value).parse().expect("a timestamp")
}

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
        let class: FailureClass =
            serde_json::from_value(input["category"].clone()).expect("a failure class");
        // The original says "no global limit" with a negative number.
        let global = input["globalLimit"].as_i64().filter(|limit| *limit >= 0);
        json!(classify::limit(
            class,
            global.map(|limit| i32::try_from(limit).expect("in range"))
        ))
    });
}

#[test]
fn failure_signature() {
    check("failure_signature", |input| {
        json!(classify::signature(
            text(&input["meta"]["failureCode"]),
            text(&input["message"])
        ))
    });
}

#[test]
fn quota_detection() {
    let path = format!(
        "{}/tests/vectors/quota_detection.json",
        env!("CARGO_MANIFEST_DIR")
    );
    let rows: Vec<Value> =
        serde_json::from_str(&std::fs::read_to_string(path).expect("the vectors are there"))
            .expect("the vectors are JSON");
    for row in &rows {
        assert_eq!(
            json!(quota::is_quota(text(&row["input"]))),
            row["output"]["worker"],
            "{row}"
        );
    }
    assert!(!rows.is_empty());
}

#[test]
fn quota_retry_hint() {
    check("quota_retry_hint", |input| {
        quota::stated_delay(text(&input["message"]), time(&input["reference"]))
            .map_or(Value::Null, millis)
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
        let retries =
            u32::try_from(input["retryCount"].as_i64().expect("a count")).expect("in range");
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
    check("paths_overlap", |input| {
        json!(area::overlap(text(&input[0]), text(&input[1])))
    });
}

#[test]
fn priority_score() {
    check("priority_score", |input| {
        let created = Timestamp::UNIX_EPOCH;
        let now = Timestamp::from_millisecond(input["ageMs"].as_i64().expect("an age"))
            .expect("in range");
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
