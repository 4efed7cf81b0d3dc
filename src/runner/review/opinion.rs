//! What a reviewing agent says: JSON, read leniently, kept within bounds. Pure, but it is testimony.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Most issues that are kept.
const MAX_ISSUES: usize = 100;
/// Longest text of one of them, in characters.
const MAX_TEXT: usize = 1_000;

/// How grave an issue is, the gravest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Speaks against the change.
    Error,
    Warning,
    Info,
}

impl Severity {
    /// An unknown word counts as an error: what cannot be read must not be milder than it was meant.
    fn of(word: &str) -> Self {
        match word.trim().to_lowercase().as_str() {
            "warning" | "warn" | "medium" | "minor" => Self::Warning,
            "info" | "information" | "low" | "note" | "nit" | "suggestion" => Self::Info,
            _ => Self::Error,
        }
    }

    /// The lower-case word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
        }
    }
}

/// One thing that the agent found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issue {
    pub severity: Severity,
    pub message: String,
    /// Relative to the root of the repository; absent: the change as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
}

/// The opinion (spec agents 5.3).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Opinion {
    /// Whether the agent approves.
    pub pass: bool,
    /// From 0 to 1.
    pub confidence: f64,
    pub issues: Vec<Issue>,
    pub summary: String,
}

impl Opinion {
    /// Confidence in percent.
    pub fn percent(&self) -> i32 {
        // Within 0..=100, so the cast is exact.
        (self.confidence.clamp(0.0, 1.0) * 100.0).round() as i32
    }
}

/// Reads an opinion. Confidence may be a fraction or percent. `None` without a JSON object whose
/// `pass` is true or false.
pub fn parse(text: &str) -> Option<Opinion> {
    let value: Value = serde_json::from_str(text.trim()).ok()?;
    let said = value.get("confidence").and_then(Value::as_f64).filter(|c| c.is_finite()).unwrap_or(0.0);
    let confidence = if said > 1.0 { said / 100.0 } else { said };
    let issues = value.get("issues").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    Some(Opinion {
        pass: value.get("pass")?.as_bool()?,
        confidence: confidence.clamp(0.0, 1.0),
        issues: issues.iter().take(MAX_ISSUES).map(issue).collect(),
        summary: text_of(&value, "summary"),
    })
}

fn issue(value: &Value) -> Issue {
    let file = text_of(value, "file");
    let line = value.get("line");
    Issue {
        severity: Severity::of(value.get("severity").and_then(Value::as_str).unwrap_or_default()),
        message: text_of(value, "message"),
        file: (!file.is_empty()).then_some(file),
        line: line.and_then(|line| line.as_u64().or_else(|| line.as_str()?.trim().parse().ok())),
    }
}

fn text_of(value: &Value, name: &str) -> String {
    value.get(name).and_then(Value::as_str).unwrap_or_default().trim().chars().take(MAX_TEXT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_opinion_is_read_leniently_and_means_the_same_after_a_second_reading() {
        let text = r#" {"pass": false, "confidence": 85, "issues": [
            {"severity": "Warning", "message": "m", "file": "src/a.rs", "line": "12"},
            {"severity": "major", "message": "n", "file": "", "category": "x"}], "summary": "s"} "#;
        let opinion = parse(text).expect("an opinion");
        assert_eq!((opinion.pass, opinion.percent(), opinion.summary.as_str()), (false, 85, "s"));
        let issue = |severity, message: &str, file: Option<&str>, line| Issue {
            severity,
            message: message.into(),
            file: file.map(Into::into),
            line,
        };
        assert_eq!(
            opinion.issues,
            [
                issue(Severity::Warning, "m", Some("src/a.rs"), Some(12)),
                issue(Severity::Error, "n", None, None)
            ]
        );
        let again = parse(&serde_json::to_string(&opinion).expect("json")).expect("again");
        assert_eq!(again, opinion);
        let sure = parse(r#"{"pass": true, "confidence": 1}"#).expect("sure");
        assert_eq!((sure.percent(), sure.issues.len()), (100, 0));
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
        let text =
            format!(r#"{{"pass": false, "confidence": 1e308, "issues": [{}]}}"#, vec![issue; 500].join(","));
        let opinion = parse(&text).expect("an opinion");
        assert_eq!((opinion.issues.len(), opinion.issues[0].message.len()), (MAX_ISSUES, MAX_TEXT));
        assert_eq!(opinion.percent(), 100);
    }
}
