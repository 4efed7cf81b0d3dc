//! Lines of logs: their times, which of many are the newest, which component of the operator wrote
//! them. Pure, and bounded in memory whatever a log holds.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::postgres::logs::ContainerLog;

/// Most bytes of one line; of a longer one the beginning is shown.
pub const MAX_LINE_BYTES: usize = 16 * 1024;

/// A line as `/logs/all` shows it.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LogEntry {
    /// When the container wrote it, to the millisecond.
    pub timestamp: String,
    /// False for a line without a time of its own, which has that of the line before.
    pub explicit_timestamp: bool,
    /// `<agent>/runs/<run>/<container>`, or `<component>/<pod>` for the operator's.
    pub source: String,
    /// Number of the line in what is at hand of its source, from 1.
    pub line_no: u64,
    /// Without the time, at most 16 KiB.
    pub line: String,
}

/// A line and its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    pub at: Timestamp,
    /// Whether the time is its own.
    pub explicit: bool,
    pub number: u64,
    /// Without the time.
    pub text: &'a str,
}

/// The lines of `content`, each of which begins with a time, as kubelets write them. Blank lines are
/// counted and left out. A line without a time has that of the line before, the first ones `otherwise`.
pub fn lines(content: &str, otherwise: Timestamp) -> impl Iterator<Item = Line<'_>> {
    let mut last = otherwise;
    let numbered = content.split('\n').zip(1..);
    numbered.filter_map(move |(line, number)| {
        let (at, text) = split(line);
        last = at.unwrap_or(last);
        (!text.trim().is_empty()).then_some(Line { at: last, explicit: at.is_some(), number, text })
    })
}

/// The time and the rest of a line.
pub fn split(line: &str) -> (Option<Timestamp>, &str) {
    let line = line.strip_suffix('\r').unwrap_or(line);
    let (first, rest) = line.split_once(' ').unwrap_or((line, ""));
    let looks = first.len() >= 20 && first.as_bytes().get(10) == Some(&b'T');
    match if looks { first.parse().ok() } else { None } {
        Some(at) => (Some(at), rest),
        None => (None, line),
    }
}

/// `log` without the lines before `bound`, if there is one.
pub fn since(mut log: ContainerLog, bound: Option<Timestamp>) -> ContainerLog {
    if let Some(bound) = bound {
        let mut last = Timestamp::UNIX_EPOCH;
        let shown = log.content.split_inclusive('\n').filter(|line| {
            last = split(line).0.unwrap_or(last);
            last >= bound
        });
        log.content = shown.collect();
    }
    log
}

/// A line of at most [`MAX_LINE_BYTES`]; a cut is marked.
pub fn shortened(line: &str) -> std::borrow::Cow<'_, str> {
    if line.len() <= MAX_LINE_BYTES {
        return line.into();
    }
    let mut end = MAX_LINE_BYTES;
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    format!("{} [... {} bytes cut ...]", line.get(..end).unwrap_or_default(), line.len() - end).into()
}

/// The newest entries of any number of logs, at most so many and so many bytes of JSON.
pub struct Newest {
    limit: usize,
    max_bytes: usize,
    heap: BinaryHeap<Reverse<Kept>>,
    bytes: usize,
    seen: u64,
}

/// Ordered by time, source and line.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Kept {
    at: Timestamp,
    source: Arc<str>,
    number: u64,
    json: String,
}

impl Newest {
    /// Keeps at most `limit` entries that are at most `max_bytes` as JSON.
    pub fn new(limit: usize, max_bytes: usize) -> Self {
        Self { limit, max_bytes, heap: BinaryHeap::new(), bytes: 0, seen: 0 }
    }

    /// One more line of `source`. What is older than all that is kept is counted only.
    pub fn push(&mut self, source: &Arc<str>, line: Line<'_>) {
        self.seen += 1;
        if self.is_full() && self.oldest().is_some_and(|oldest| line.at < oldest) {
            return;
        }
        let entry = LogEntry {
            timestamp: format!("{:.3}", line.at),
            explicit_timestamp: line.explicit,
            source: source.to_string(),
            line_no: line.number,
            line: shortened(line.text).into_owned(),
        };
        // Strings and numbers only: it cannot fail.
        let Ok(json) = serde_json::to_string(&entry) else { return };
        self.bytes += json.len();
        self.heap.push(Reverse(Kept { at: line.at, source: source.clone(), number: line.number, json }));
        while self.heap.len() > self.limit || self.bytes > self.max_bytes {
            let Some(Reverse(dropped)) = self.heap.pop() else { break };
            self.bytes -= dropped.json.len();
            // Full by bytes: older lines have no room either.
            self.limit = self.limit.min(self.heap.len().max(1));
        }
    }

    /// Whether an older line than all that are kept has no room.
    pub fn is_full(&self) -> bool {
        self.heap.len() >= self.limit
    }

    /// Time of the oldest entry that is kept.
    pub fn oldest(&self) -> Option<Timestamp> {
        self.heap.peek().map(|Reverse(kept)| kept.at)
    }

    /// Lines that were pushed.
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// The entries as JSON objects, oldest first.
    pub fn into_json(self) -> Vec<String> {
        // Reverse turns the order round twice.
        let mut entries = self.heap.into_vec();
        entries.sort_unstable_by(|a, b| b.cmp(a));
        entries.into_iter().map(|Reverse(kept)| kept.json).collect()
    }
}

/// The last `count` texts of `lines`, joined.
pub fn last_texts<'a>(lines: impl Iterator<Item = Line<'a>>, count: usize) -> (String, Option<Timestamp>) {
    let mut last: std::collections::VecDeque<Line<'_>> = std::collections::VecDeque::new();
    for line in lines {
        if last.len() >= count {
            last.pop_front();
        }
        last.push_back(line);
    }
    let texts: Vec<&str> = last.iter().map(|l| l.text).collect();
    (texts.join("\n"), last.back().map(|l| l.at))
}

/// What a log line of the operator says of itself.
#[derive(Deserialize)]
struct OperatorLine<'a> {
    #[serde(borrow)]
    target: std::borrow::Cow<'a, str>,
    #[serde(borrow, default)]
    controller: Option<std::borrow::Cow<'a, str>>,
}

/// The component that wrote a line of the operator: `dispatcher`, `cycle-manager` (the controllers of
/// Tasks and the System), `planner`, else `operator`.
pub fn component(line: &str) -> &'static str {
    let Ok(OperatorLine { target, controller }) = serde_json::from_str(line) else { return "operator" };
    let module = target.strip_prefix("opentiger::controller::").unwrap_or_default();
    match (module, controller.as_deref()) {
        ("dispatcher", _) => "dispatcher",
        ("planner", _) => "planner",
        ("task" | "system" | "upkeep", _) | ("queue", Some("task" | "system")) => "cycle-manager",
        _ => "operator",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    #[test]
    fn a_line_without_a_time_has_that_of_the_line_before() {
        let content = "[... 5 bytes cut ...]\n2026-02-13T14:00:01.5Z one\r\n\n   \n  more\n2026-02-13T23:00:02+09:00 two\n2026-02-13T14:00:03Z\n2026-02-13T14:00:03Z \n2026-99-99T14:00:03Z odd";
        let lines: Vec<_> = lines(content, at("2026-01-01T00:00:00Z")).collect();
        let got: Vec<_> = lines.iter().map(|l| (l.at.to_string(), l.explicit, l.number, l.text)).collect();
        assert_eq!(
            got,
            [
                ("2026-01-01T00:00:00Z".to_owned(), false, 1, "[... 5 bytes cut ...]"),
                ("2026-02-13T14:00:01.5Z".to_owned(), true, 2, "one"),
                ("2026-02-13T14:00:01.5Z".to_owned(), false, 5, "  more"),
                ("2026-02-13T14:00:02Z".to_owned(), true, 6, "two"),
                ("2026-02-13T14:00:03Z".to_owned(), false, 9, "2026-99-99T14:00:03Z odd"),
            ]
        );
    }

    #[test]
    fn lines_before_the_bound_are_left_out_with_what_belongs_to_them() {
        let log = |content: &str| ContainerLog {
            container: "agent".into(),
            content: content.into(),
            total_bytes: 9,
            cut_bytes: 0,
        };
        let all = log("first\n2026-02-13T14:00:01Z one\n more\n2026-02-13T14:00:02Z two\n more\n");
        assert_eq!(since(all.clone(), None), all);
        let shown = since(all, Some(at("2026-02-13T14:00:02Z")));
        assert_eq!(shown.content, "2026-02-13T14:00:02Z two\n more\n");
    }

    #[test]
    fn components_are_known_by_the_module_that_writes() {
        for (line, expected) in [
            (r#"{"target":"opentiger::controller::dispatcher","message":"x"}"#, "dispatcher"),
            (r#"{"target":"opentiger::controller::task","message":"\"quoted\" target"}"#, "cycle-manager"),
            (r#"{"target":"opentiger::controller::upkeep"}"#, "cycle-manager"),
            (r#"{"target":"opentiger::controller::queue","controller":"system"}"#, "cycle-manager"),
            (r#"{"target":"opentiger::controller::queue","controller":"run"}"#, "operator"),
            (r#"{"target":"opentiger::controller::planner"}"#, "planner"),
            (r#"{"message":"target\":\"opentiger::controller::task"}"#, "operator"),
            ("thread 'main' panicked", "operator"),
            ("", "operator"),
        ] {
            assert_eq!(component(line), expected, "{line}");
        }
    }

    #[test]
    fn whatever_a_line_holds_the_json_is_whole() {
        let source: Arc<str> = "worker-1/runs/a/agent".into();
        let odd =
            String::from_utf8_lossy(b"nul \0 esc \x1b[31m bad \xff quote \" back \\ sep \xe2\x80\xa8\n")
                .into_owned();
        let mut newest = Newest::new(5, 1 << 20);
        newest.push(&source, Line { at: at("2026-02-13T14:00:00Z"), explicit: true, number: 1, text: &odd });
        let long = "\u{1}é".repeat(MAX_LINE_BYTES);
        newest.push(
            &source,
            Line { at: at("2026-02-13T14:00:00.0009Z"), explicit: true, number: 2, text: &long },
        );
        let entries = newest.into_json();
        let first: Value = serde_json::from_str(&entries[0]).expect("JSON");
        assert_eq!((&first["line"], &first["timestamp"]), (&odd.into(), &"2026-02-13T14:00:00.000Z".into()));
        let second: Value = serde_json::from_str(&entries[1]).expect("JSON");
        let line = second["line"].as_str().expect("text");
        assert!(line.len() < MAX_LINE_BYTES + 64 && line.ends_with("bytes cut ...]"), "{}", line.len());
    }

    proptest! {
        /// In whatever order logs are read, the newest lines are kept, and the bounds hold.
        #[test]
        fn the_newest_are_kept(seconds in proptest::collection::vec(0i64..50, 0..60), limit in 1usize..20, max_bytes in 300usize..3000) {
            let source: Arc<str> = "s".into();
            let line = |n: usize, second: i64| Line { at: Timestamp::from_second(second).expect("time"), explicit: true, number: n as u64, text: "text" };
            let mut newest = Newest::new(limit, max_bytes);
            for (n, second) in seconds.iter().enumerate() {
                newest.push(&source, line(n, *second));
            }
            prop_assert_eq!(newest.seen(), seconds.len() as u64);
            let entries = newest.into_json();
            prop_assert!(entries.len() <= limit && entries.iter().map(String::len).sum::<usize>() <= max_bytes);
            let mut all: Vec<(i64, usize)> = seconds.iter().enumerate().map(|(n, s)| (*s, n)).collect();
            all.sort_unstable();
            let got: Vec<usize> = entries.iter().map(|e| serde_json::from_str::<Value>(e).expect("JSON")["lineNo"].as_u64().expect("number") as usize).collect();
            let times: Vec<i64> = got.iter().map(|n| seconds[*n]).collect();
            let expected: Vec<i64> = all[all.len() - got.len()..].iter().map(|(s, _)| *s).collect();
            prop_assert_eq!(times, expected, "newest, oldest first");
            if max_bytes >= 2900 {
                prop_assert_eq!(got.len(), limit.min(seconds.len()));
            }
        }
    }
}
