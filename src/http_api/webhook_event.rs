//! What a delivery of GitHub means: pure reading of its headers and body, no I/O.
//!
//! The body was signed by who knows the secret, but parts of it (titles, texts, names of branches) were
//! written by anybody: nothing is taken over but words, numbers and short texts.

use axum::http::HeaderMap;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::error::ApiError;

/// Longest text that is taken over, in characters.
const MAX_TEXT: usize = 255;
/// How old a merge may be to have an effect. Shorter than the time for which deliveries are remembered,
/// so that a replay never has one.
const MAX_AGE: SignedDuration = SignedDuration::from_hours(7 * 24);

/// A delivery, understood.
#[derive(Debug, PartialEq)]
pub struct Event {
    /// `webhook.<event>[.<action>]`.
    pub type_: String,
    /// Who did what where; the body itself is not kept.
    pub payload: Value,
    /// The answer without its `eventId`.
    pub answer: Map<String, Value>,
    /// What is to be done.
    pub merged: Option<Merged>,
}

/// A merged pull request that names a Task.
#[derive(Debug, PartialEq, Eq)]
pub struct Merged {
    pub task: Uuid,
    /// `owner/repository#number`.
    pub pull_request: String,
    /// Merged too long ago.
    pub stale: bool,
}

/// Number of the delivery, if the sender gave one.
///
/// # Errors
/// 400 that names the header.
pub fn delivery_id(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let Some(value) = headers.get("x-github-delivery") else { return Ok(None) };
    let plain = |id: &&str| (1..=100).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic());
    let id = value.to_str().ok().filter(plain);
    id.map(Some)
        .ok_or_else(|| ApiError::invalid("X-GitHub-Delivery", "must be 1 to 100 visible ASCII characters"))
}

/// Reads a delivery.
///
/// # Errors
/// 400 that names the header or the field.
pub fn read(headers: &HeaderMap, body: &[u8], now: Timestamp) -> Result<Event, ApiError> {
    let event = match headers.get("x-github-event") {
        None => "unknown",
        Some(value) => value
            .to_str()
            .ok()
            .filter(|e| is_word(e))
            .ok_or_else(|| ApiError::invalid("X-GitHub-Event", "must be a word such as pull_request"))?,
    };
    let body: Value = serde_json::from_slice(body).map_err(|_| {
        ApiError::bad_request(
            "the body must be JSON: choose the content type application/json for the webhook",
        )
    })?;
    if !body.is_object() {
        return Err(ApiError::bad_request("the body must be a JSON object"));
    }
    let action = body.get("action").and_then(Value::as_str).filter(|a| is_word(a));
    let payload = json!({
        "action": action,
        "sender": text(&body, "/sender/login"),
        "repository": text(&body, "/repository/full_name"),
        "deliveryId": delivery_id(headers)?,
    });
    let mut merged = None;
    let answer = match event {
        "ping" => json!({"message": "pong"}),
        "issues" => json!({
            "message": "noted: an issue becomes no Task by itself",
            "issueNumber": number(&body, "issue")?,
        }),
        "pull_request" => {
            let number = number(&body, "pull_request")?;
            let head = text(&body, "/pull_request/head/ref").unwrap_or_default();
            merged = merge(&body, action, number, now);
            json!({"message": "noted", "prNumber": number, "isOpenTigerPR": head.starts_with("agent/")})
        }
        "push" => json!({
            "message": "noted",
            "ref": text(&body, "/ref"),
            "commitCount": body.get("commits").and_then(Value::as_array).map_or(0, Vec::len),
        }),
        "check_run" | "check_suite" => json!({
            "message": "noted",
            "status": text(&body, &format!("/{event}/status")),
            "conclusion": text(&body, &format!("/{event}/conclusion")),
        }),
        _ => json!({"message": "noted: this event has no effect"}),
    };
    let type_ = action.map_or_else(|| format!("webhook.{event}"), |a| format!("webhook.{event}.{a}"));
    let answer = match answer {
        Value::Object(answer) => answer,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => Map::new(),
    };
    Ok(Event { type_, payload, answer, merged })
}

/// The Task of a pull request that was closed by a merge.
fn merge(body: &Value, action: Option<&str>, number: i64, now: Timestamp) -> Option<Merged> {
    let merged = body.pointer("/pull_request/merged") == Some(&Value::Bool(true));
    if action != Some("closed") || !merged {
        return None;
    }
    let task = task_of(body.pointer("/pull_request/body")?.as_str()?)?;
    let repository = text(body, "/repository/full_name").unwrap_or_default();
    let at = body.pointer("/pull_request/merged_at").and_then(Value::as_str);
    let at: Option<Timestamp> = at.and_then(|at| at.parse().ok());
    let stale = at.is_some_and(|at| now.duration_since(at) > MAX_AGE);
    Some(Merged { task, pull_request: format!("{repository}#{number}"), stale })
}

/// The uuid of the first `[task:<uuid>]`.
fn task_of(text: &str) -> Option<Uuid> {
    text.split("[task:").skip(1).find_map(|rest| {
        let (id, _) = rest.split_once(']')?;
        (id.len() == 36).then(|| Uuid::parse_str(id).ok())?
    })
}

/// A word of the forge: short, lower case.
fn is_word(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
}

/// The text at `pointer`, short and without control characters, which a database may refuse.
fn text(body: &Value, pointer: &str) -> Option<String> {
    let text = body.pointer(pointer)?.as_str()?;
    Some(text.chars().filter(|c| !c.is_control()).take(MAX_TEXT).collect())
}

/// `number` of the object `field`, which must be there.
fn number(body: &Value, field: &str) -> Result<i64, ApiError> {
    let number = body.get(field).and_then(|object| object.get("number")).and_then(Value::as_i64);
    number.ok_or_else(|| ApiError::invalid(&format!("{field}.number"), "must be a number"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderName;

    const TASK: &str = "0191d5a2-0000-7000-8000-00000000002a";

    fn event(event: &str, body: &Value) -> Result<Event, ApiError> {
        let headers = HeaderMap::from_iter([(
            HeaderName::from_static("x-github-event"),
            event.parse().expect("value"),
        )]);
        read(&headers, body.to_string().as_bytes(), "2026-02-13T14:00:00Z".parse().expect("time"))
    }

    fn pull_request(text: &str) -> Value {
        json!({
            "action": "closed", "sender": {"login": "mona"}, "repository": {"full_name": "o/r"},
            "pull_request": {"number": 7, "merged": true, "merged_at": "2026-02-13T13:00:00Z",
                "body": text, "head": {"ref": "agent/x"}},
        })
    }

    #[test]
    fn a_merged_pull_request_names_its_task() {
        let marked = pull_request(&format!("Fixes it\r\n\r\n[task:{TASK}] and more"));
        let read = event("pull_request", &marked).expect("read");
        assert_eq!(read.type_, "webhook.pull_request.closed");
        assert_eq!(read.answer["prNumber"], json!(7));
        assert_eq!(read.answer["isOpenTigerPR"], json!(true));
        let task = Uuid::parse_str(TASK).expect("uuid");
        assert_eq!(read.merged, Some(Merged { task, pull_request: "o/r#7".into(), stale: false }));
        assert_eq!(
            read.payload,
            json!({"action": "closed", "sender": "mona", "repository": "o/r", "deliveryId": null})
        );

        let changed = |pointer: &str, value: Value| {
            let mut body = marked.clone();
            *body.pointer_mut(pointer).expect("field") = value;
            event("pull_request", &body).expect("read").merged
        };
        assert_eq!(changed("/action", json!("opened")), None);
        assert_eq!(changed("/pull_request/merged", json!(false)), None);
        assert_eq!(changed("/pull_request/merged", json!("true")), None);
        assert_eq!(changed("/pull_request/body", json!(null)), None);
        assert_eq!(changed("/pull_request/body", json!("[task:not-a-uuid]")), None);
        assert_eq!(changed("/pull_request/body", json!(format!("[task:{TASK}"))), None);
        let old = changed("/pull_request/merged_at", json!("2026-02-01T00:00:00Z"));
        assert!(old.expect("named").stale);
    }

    #[test]
    fn every_event_has_its_answer_and_bad_input_names_the_field() {
        for (name, body, expected) in [
            ("ping", json!({}), json!({"message": "pong"})),
            (
                "push",
                json!({"ref": "refs/heads/main\u{0}", "commits": [1, 2]}),
                json!({"message": "noted", "ref": "refs/heads/main", "commitCount": 2}),
            ),
            (
                "check_run",
                json!({"check_run": {"status": "completed", "conclusion": null}}),
                json!({"message": "noted", "status": "completed", "conclusion": null}),
            ),
            ("star", json!({"action": 5}), json!({"message": "noted: this event has no effect"})),
        ] {
            assert_eq!(Value::Object(event(name, &body).expect("read").answer), expected, "{name}");
        }
        for (name, body) in [
            ("issues", json!({})),
            ("issues", json!({"issue": {"number": "7"}})),
            ("issues", json!({"issue": {"number": 1e300}})),
            ("pull_request", json!({"pull_request": 5})),
            ("ping", json!([])),
            ("UPPER", json!({})),
        ] {
            assert!(event(name, &body).is_err(), "{name} {body}");
        }
        for body in ["", "{", "payload=%7B%7D", &"[".repeat(100_000), "{\"a\":\"\\ud800\"}"] {
            assert!(read(&HeaderMap::new(), body.as_bytes(), Timestamp::UNIX_EPOCH).is_err());
        }
        let unknown = read(&HeaderMap::new(), b"{}", Timestamp::UNIX_EPOCH).expect("read");
        assert_eq!(unknown.type_, "webhook.unknown");
    }
}
