//! The words of a reviewing agent: JSON, read leniently, kept within bounds, written again. It is
//! testimony; what follows from it is decided in `plan::judge::verdict`.

use serde_json::{Value, json};

use crate::plan::judge::verdict::{AgentReview, Issue, Severity};

/// Most issues that are kept.
const MAX_ISSUES: usize = 100;
/// Longest text of one of them, in characters.
const MAX_TEXT: usize = 1_000;
/// Longest file that is read, in bytes.
const MAX_BYTES: usize = crate::runner::exchange::MAX_RESULT_FILE_BYTES as usize;

/// Reads what the agent has written. Confidence may be a fraction or percent. `None` without a JSON
/// object whose `pass` is true or false.
pub fn parse(text: &str) -> Option<AgentReview> {
    let value: Value = serde_json::from_str(text.trim()).ok()?;
    let said = value.get("confidence").and_then(Value::as_f64).filter(|c| c.is_finite()).unwrap_or(0.0);
    let confidence = if said > 1.0 { said / 100.0 } else { said };
    let issues = value.get("issues").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    Some(AgentReview {
        pass: value.get("pass")?.as_bool()?,
        confidence: confidence.clamp(0.0, 1.0),
        issues: issues.iter().take(MAX_ISSUES).map(issue).collect(),
        summary: text_of(&value, "summary"),
    })
}

/// Writes an opinion so that [`parse`] reads the same again; the last issues are left out where it
/// would be too long to be read.
pub fn text(review: &AgentReview) -> String {
    let mut issues: Vec<Value> = review.issues.iter().map(described).collect();
    loop {
        let value = json!({
            "pass": review.pass, "confidence": review.confidence, "issues": issues, "summary": review.summary,
        });
        let text = value.to_string();
        if text.len() <= MAX_BYTES || issues.pop().is_none() {
            return text;
        }
    }
}

fn issue(value: &Value) -> Issue {
    let file = text_of(value, "file");
    let file = file.strip_prefix("./").unwrap_or(&file).to_string();
    let line = value.get("line");
    Issue {
        severity: severity(value.get("severity").and_then(Value::as_str).unwrap_or_default()),
        message: text_of(value, "message").split_whitespace().collect::<Vec<_>>().join(" "),
        file: (!file.is_empty()).then_some(file),
        line: line.and_then(|line| line.as_u64().or_else(|| line.as_str()?.trim().parse().ok())),
    }
}

/// Models have more words for an error than they were told.
fn severity(word: &str) -> Severity {
    match word.trim().to_lowercase().as_str() {
        "blocker" | "fatal" | "high" | "major" => Severity::Error,
        _ => Severity::of(word),
    }
}

fn described(issue: &Issue) -> Value {
    let severity = match issue.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Info => "info",
    };
    json!({"severity": severity, "message": issue.message, "file": issue.file, "line": issue.line})
}

fn text_of(value: &Value, name: &str) -> String {
    value.get(name).and_then(Value::as_str).unwrap_or_default().trim().chars().take(MAX_TEXT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_opinion_is_read_leniently_and_means_the_same_after_a_second_reading() {
        let written = r#" {"pass": false, "confidence": 85, "issues": [
            {"severity": "Warning", "message": "m\n  n", "file": "./src/a.rs", "line": "12"},
            {"severity": "major", "message": "n", "file": "", "category": "x"}], "summary": "s"} "#;
        let opinion = parse(written).expect("an opinion");
        assert_eq!((opinion.pass, opinion.confidence, opinion.summary.as_str()), (false, 0.85, "s"));
        let issue = |severity, message: &str, file: Option<&str>, line| Issue {
            severity,
            message: message.into(),
            file: file.map(Into::into),
            line,
        };
        assert_eq!(
            opinion.issues,
            [
                issue(Severity::Warning, "m n", Some("src/a.rs"), Some(12)),
                issue(Severity::Error, "n", None, None)
            ]
        );
        assert_eq!(parse(&text(&opinion)).expect("again"), opinion);
        let sure = parse(r#"{"pass": true, "confidence": 1}"#).expect("sure");
        assert_eq!((sure.confidence, sure.issues.len()), (1.0, 0));
    }

    #[test]
    fn what_does_not_say_yes_or_no_is_no_opinion() {
        for text in ["", "approved", "[]", "{}", r#"{"pass": "yes"}"#, r#"{"pass": true"#, "null"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_flood_is_bounded() {
        let issue = format!(r#"{{"severity": "error", "message": "{}"}}"#, "x".repeat(5_000));
        let flood =
            format!(r#"{{"pass": false, "confidence": 1e308, "issues": [{}]}}"#, vec![issue; 500].join(","));
        let opinion = parse(&flood).expect("an opinion");
        assert_eq!((opinion.issues.len(), opinion.issues[0].message.len()), (MAX_ISSUES, MAX_TEXT));
        assert_eq!(opinion.confidence, 1.0);
        let again = text(&opinion);
        assert!(again.len() <= MAX_BYTES, "{}", again.len());
        assert!(parse(&again).expect("readable").issues.len() > 50);
    }
}
