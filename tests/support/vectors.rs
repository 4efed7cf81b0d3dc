//! Reads the recorded answers under `tests/vectors` and compares ours with them.
#![allow(dead_code)]

use jiff::Timestamp;
use serde_json::Value;

/// Runs every row of `tests/vectors/<name>.json` and reports all that differ.
pub fn check(name: &str, answer: impl Fn(&Value) -> Value) {
    check_part(name, |output| output, answer);
}

/// As [`check`], for the part of a row's output that this product has an answer to.
pub fn check_part(name: &str, part: impl Fn(&Value) -> &Value, answer: impl Fn(&Value) -> Value) {
    check_mapped(name, |output| part(output).clone(), answer);
}

/// The rows of `tests/vectors/<name>.json`.
pub fn rows(name: &str) -> Vec<Value> {
    let path = format!("{}/tests/vectors/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).expect("the vectors are there");
    let rows: Vec<Value> = serde_json::from_str(&text).expect("the vectors are JSON");
    assert!(!rows.is_empty(), "{name} has no rows");
    rows
}

/// As [`check`], for the shape that `map` gives a row's output.
pub fn check_mapped(name: &str, map: impl Fn(&Value) -> Value, answer: impl Fn(&Value) -> Value) {
    let rows = rows(name);
    let mut wrong = Vec::new();
    for (number, row) in rows.iter().enumerate() {
        let expected = match row.get("ours") {
            Some(ours) => {
                assert!(row["why"].as_str().is_some_and(|w| !w.is_empty()), "{name} {number}: no reason");
                assert_ne!(ours, &map(&row["output"]), "{name} {number}: nothing differs");
                ours.clone()
            }
            None => map(&row["output"]),
        };
        let got = answer(&row["input"]);
        if !same(&got, &expected) {
            wrong.push(format!("row {number} {}\n  expected {expected}\n  got      {got}", row["input"]));
        }
    }
    assert!(wrong.is_empty(), "{name}: {} of {} rows differ\n{}", wrong.len(), rows.len(), wrong.join("\n"));
}

/// Equality in which numbers may differ by rounding.
fn same(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => (a - b).abs() <= 1e-9 * a.abs().max(b.abs()).max(1.0),
        _ => a == b,
    }
}

/// For [`check_mapped`]: the output as it is.
pub fn whole(output: &Value) -> Value {
    output.clone()
}

pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

pub fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().map(|v| text(v).to_owned()).collect()
}

pub fn time(value: &Value) -> Timestamp {
    text(value).parse().expect("a timestamp")
}
