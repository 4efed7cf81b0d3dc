//! Standard output of an agent program on its way to the log: events in, readable lines out.
//!
//! Holds one line of at most [`MAX_EVENT_BYTES`]; a longer one is dropped and said to be.

use std::io::{self, BufRead};

use serde_json::Value;

use super::{Cli, Report};

/// Longest event that is read, in bytes: a tool's result may hold a whole file.
pub const MAX_EVENT_BYTES: usize = 1024 * 1024;

/// Longest line of standard error that is read, in bytes.
const MAX_COMPLAINT_BYTES: usize = 16 * 1024;

/// One program's output.
#[derive(Debug)]
pub struct Transcript {
    cli: &'static dyn Cli,
    line: Vec<u8>,
    length: usize,
    complaint: Vec<u8>,
    report: Report,
}

impl Transcript {
    /// An output at its start, of a program that may use `tokens`.
    pub fn new(cli: &'static dyn Cli, tokens: Option<i64>) -> Self {
        let report = Report::within(tokens);
        Self { cli, line: Vec::new(), length: 0, complaint: Vec::new(), report }
    }

    /// What was said so far.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// What was said at all.
    pub fn into_report(mut self) -> Report {
        if !self.complaint.is_empty() {
            self.complain(b"\n");
        }
        self.report
    }

    /// The next bytes of standard output. Returns what people see of the lines they complete.
    ///
    /// # Errors
    /// Never: reading from memory does not fail.
    pub fn take(&mut self, mut bytes: &[u8]) -> io::Result<String> {
        let mut shown = String::new();
        let mut part = Vec::new();
        while !bytes.is_empty() {
            part.clear();
            bytes.read_until(b'\n', &mut part)?;
            let complete = part.last() == Some(&b'\n');
            if complete {
                part.pop();
            }
            self.length += part.len();
            let room = MAX_EVENT_BYTES.saturating_sub(self.line.len());
            self.line.extend_from_slice(part.get(..room.min(part.len())).unwrap_or_default());
            if complete {
                self.finish_line(&mut shown);
            }
        }
        Ok(shown)
    }

    /// What stands after the last line end. Half an event is none.
    pub fn finish(&mut self) -> String {
        let mut shown = String::new();
        if !self.line.is_empty() {
            self.finish_line(&mut shown);
        }
        shown
    }

    /// The next bytes of standard error.
    pub fn complain(&mut self, bytes: &[u8]) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let room = MAX_COMPLAINT_BYTES.saturating_sub(self.complaint.len());
            self.complaint.extend_from_slice(part.get(..room.min(part.len())).unwrap_or_default());
            if part.ends_with(b"\n") {
                let line = std::mem::take(&mut self.complaint);
                self.cli.complaint(&String::from_utf8_lossy(&line), &mut self.report);
            }
        }
    }

    fn finish_line(&mut self, shown: &mut String) {
        let line = std::mem::take(&mut self.line);
        let length = std::mem::take(&mut self.length);
        if length > line.len() {
            shown.push_str(&format!("[an event of {length} bytes is not shown]\n"));
            return;
        }
        let text = String::from_utf8_lossy(&line);
        let text = text.trim();
        match serde_json::from_str::<Value>(text) {
            Ok(event) if event.is_object() => {
                if let Some(said) = self.cli.event(&event, &mut self.report).filter(|s| !s.trim().is_empty())
                {
                    shown.push_str(said.trim_end());
                    shown.push('\n');
                }
            }
            Ok(_) | Err(_) if text.is_empty() || text.starts_with("{\"") => {}
            // What is no event is for people.
            Ok(_) | Err(_) => {
                self.cli.complaint(text, &mut self.report);
                shown.push_str(text);
                shown.push('\n');
            }
        }
    }
}
