//! Marks in a Task's `context.notes`: from which Tasks it was split, and which verification failed
//! before (spec: convergence 5.7). The lines are the original's; its verification
//! mark is read in imported Tasks only, ours have `status.lastFailure` and `Run.status.failure`.

use serde::Deserialize;

/// Line that names an ancestor.
const PARENT: &str = "[auto-rework] parentTask=";
/// Line that holds a failed verification.
const VERIFY: &str = "[verify-rework-json]";

/// A verification that failed before the Task was split off.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct VerifyMark {
    pub failed_command: Option<String>,
    pub failed_command_source: Option<String>,
    pub stderr_summary: Option<String>,
}

/// The first readable verification mark; a malformed one is passed over.
pub fn verify_mark(notes: &str) -> Option<VerifyMark> {
    notes.lines().filter_map(|line| line.trim().strip_prefix(VERIFY)).find_map(|text| {
        let text = decode(text.trim())?;
        // A list is an object to the original: it counts, and says nothing.
        match serde_json::from_str(&text).ok()? {
            serde_json::Value::Array(_) => Some(VerifyMark::default()),
            object @ serde_json::Value::Object(_) => serde_json::from_value(object).ok(),
            _ => None,
        }
    })
}

/// Without the verification marks.
pub fn without_verify_marks(notes: &str) -> String {
    let kept: Vec<&str> = notes.lines().filter(|line| !line.trim().starts_with(VERIFY)).collect();
    kept.join("\n").trim().to_string()
}

/// Ancestors that the notes name, each once, the eldest first.
pub fn parents(notes: &str) -> Vec<&str> {
    let mut all = Vec::new();
    for line in notes.lines() {
        let parent = line.trim().strip_prefix(PARENT).map(str::trim).unwrap_or_default();
        if !parent.is_empty() && !all.contains(&parent) {
            all.push(parent);
        }
    }
    all
}

/// The line that names `uid` as an ancestor.
pub fn parent_line(uid: &str) -> String {
    format!("{PARENT}{uid}")
}

/// As `decodeURIComponent` does; `None` when it is malformed.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        if *first == b'%' {
            let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = tail.get(2..)?;
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_says_which_command_failed_and_how() {
        let notes = "text\n[verify-rework-json]%7B%22failedCommand%22%3A%22make%20%C3%A9%22%2C%22stderrSummary%22%3A%22b%22%7D";
        let mark = verify_mark(notes).expect("a mark");
        assert_eq!(mark.failed_command.as_deref(), Some("make é"));
        assert_eq!(mark.stderr_summary.as_deref(), Some("b"));
        assert_eq!(without_verify_marks(notes), "text");
    }

    #[test]
    fn a_malformed_mark_is_ignored_c87() {
        assert_eq!(
            verify_mark("[verify-rework-json]%zz\n[verify-rework-json]{bad\n[verify-rework-json]%22x%22"),
            None
        );
    }
}
