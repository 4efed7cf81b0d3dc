//! A requirement: the markdown text that planning starts from, its parts and its hash, and the
//! signature by which a plan is known again (spec: agents 6.1, convergence 5.9).
//!
//! Pure text in, values out. Must not know where the text came from.

use std::sync::LazyLock;

use regex::Regex;
use sha2::{Digest, Sha256};

/// Head of a repository without commits, in a signature.
pub const UNBORN_HEAD: &str = "__UNBORN_HEAD__";

/// How bad a risk would be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Impact {
    Low,
    Medium,
    High,
}

/// One row of the risk table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Risk {
    pub risk: String,
    pub impact: Impact,
    pub mitigation: String,
}

/// A requirement's parts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Requirement {
    /// The section Goal, else the first line of text; empty for an empty text.
    pub goal: String,
    pub background: String,
    pub constraints: Vec<String>,
    /// At least one, unless there is no goal either.
    pub acceptance_criteria: Vec<String>,
    pub in_scope: Vec<String>,
    pub out_of_scope: Vec<String>,
    /// `**` when the text names none.
    pub allowed_paths: Vec<String>,
    pub risks: Vec<Risk>,
    pub notes: String,
    /// Names of the sections that say nothing.
    pub missing: Vec<&'static str>,
}

impl Requirement {
    /// Reads a text. Every text can be read; whether it can be planned says [`Self::is_usable`].
    pub fn parse(text: &str) -> Self {
        let text = text.replace("\r\n", "\n");
        let lines: Vec<&str> = text.lines().collect();
        let body = |name: &str| section(&lines, name);
        let joined = |name: &str| joined(body(name));
        let scope = body("scope");
        let stated = joined("goal");
        let goal = if stated.is_empty() { first_text(&lines) } else { stated };
        let criteria = items(body("acceptance criteria"));
        let paths = paths(body("allowed paths"));
        let mut requirement = Self {
            goal,
            background: joined("background"),
            constraints: items(body("constraints")),
            acceptance_criteria: criteria,
            in_scope: items(section(scope, "in scope")),
            out_of_scope: items(section(scope, "out of scope")),
            allowed_paths: paths,
            risks: risks(body("risk assessment")),
            notes: joined("notes"),
            missing: Vec::new(),
        };
        requirement.missing = requirement.silent();
        if requirement.acceptance_criteria.is_empty() {
            requirement.acceptance_criteria = requirement.derived(body("acceptance criteria"));
        }
        if requirement.allowed_paths.is_empty() {
            requirement.allowed_paths = vec!["**".to_owned()];
        }
        requirement
    }

    /// Whether there is a goal and something to accept it by.
    pub fn is_usable(&self) -> bool {
        !self.goal.trim().is_empty() && !self.acceptance_criteria.is_empty()
    }

    fn silent(&self) -> Vec<&'static str> {
        let sections = [
            ("background", self.background.is_empty()),
            ("constraints", self.constraints.is_empty()),
            ("acceptanceCriteria", self.acceptance_criteria.is_empty()),
            ("scope", self.in_scope.is_empty() && self.out_of_scope.is_empty()),
            ("allowedPaths", self.allowed_paths.is_empty()),
            ("riskAssessment", self.risks.is_empty()),
            ("notes", self.notes.is_empty()),
        ];
        sections.into_iter().filter(|(_, silent)| *silent).map(|(name, _)| name).collect()
    }

    /// What stands in for criteria that are no list: their plain lines, else one made of the goal.
    fn derived(&self, section: &[&str]) -> Vec<String> {
        let plain = section.iter().map(|line| line.trim());
        let plain: Vec<String> =
            plain.filter(|line| !line.is_empty() && heading(line).is_none()).map(str::to_owned).collect();
        if !plain.is_empty() {
            return plain;
        }
        let goal = self.goal.trim();
        if goal.is_empty() {
            return Vec::new();
        }
        vec![format!("Deliver a verifiable first increment toward: {goal}")]
    }
}

/// SHA-256 of a requirement's text, in hex.
pub fn hash(text: &str) -> String {
    hex(text.as_bytes())
}

/// By what a plan is known again: the same requirement for the same state of the same branch.
/// The hash is over the JSON object with these keys in this order.
pub fn signature(requirement_hash: &str, head: &str, url: &str, base_branch: &str) -> String {
    let head = if head.is_empty() { UNBORN_HEAD } else { head };
    // A list of pairs, because a map would not keep the order.
    let parts = [
        ("requirementHash", requirement_hash),
        ("repoHeadSha", head),
        ("repoUrl", url),
        ("baseBranch", base_branch),
    ];
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let members: Vec<String> =
        parts.iter().map(|(key, value)| format!("{}:{}", quoted(key), quoted(value))).collect();
    hex(format!("{{{}}}", members.join(",")).as_bytes())
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Level and text of a heading line.
fn heading(line: &str) -> Option<(usize, &str)> {
    let level = line.chars().take_while(|c| *c == '#').count();
    let text = line.get(level..)?;
    let is_heading = (1..=6).contains(&level) && text.starts_with(char::is_whitespace);
    is_heading.then(|| (level, text.trim()))
}

/// Lines of the first section called `name` (case ignored), up to the next heading of its level or
/// above; a section of the first level also ends at one of the second.
fn section<'a, 'b>(lines: &'b [&'a str], name: &str) -> &'b [&'a str] {
    let called = |line: &&str| heading(line).is_some_and(|(_, text)| text.to_lowercase() == name);
    let Some(start) = lines.iter().position(called) else {
        return &[];
    };
    let level = lines.get(start).and_then(|line| heading(line)).map_or(2, |(level, _)| level.max(2));
    let rest = lines.get(start + 1..).unwrap_or_default();
    let end = rest.iter().position(|line| heading(line).is_some_and(|(other, _)| other <= level));
    rest.get(..end.unwrap_or(rest.len())).unwrap_or_default()
}

fn joined(lines: &[&str]) -> String {
    lines.join("\n").trim().to_owned()
}

/// Text of a list line, without its bullet and check box.
fn item(line: &str) -> Option<&str> {
    static ITEM: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(r"^\s*[-*]\s+(?:\[[ xX]?\]\s*)?(.*?)\s*$").ok());
    let found = ITEM.as_ref()?.captures(line)?.get(1)?.as_str();
    (!found.is_empty()).then_some(found)
}

fn items(lines: &[&str]) -> Vec<String> {
    lines.iter().filter_map(|line| item(line)).map(str::to_owned).collect()
}

/// The first line that says something, without bullet and check box.
fn first_text(lines: &[&str]) -> String {
    let says =
        lines.iter().map(|line| line.trim()).filter(|line| !line.is_empty() && heading(line).is_none());
    says.map(|line| item(line).unwrap_or(line)).next().unwrap_or_default().to_owned()
}

/// Paths of a list: of a line with code in it the first piece of code, else the line, without the
/// backslashes that markdown wants before `*` and `_`.
fn paths(lines: &[&str]) -> Vec<String> {
    let path = |item: String| {
        let code = item.split('`').nth(1).filter(|code| !code.trim().is_empty());
        code.map_or_else(|| item.replace("\\*", "*").replace("\\_", "_"), str::to_owned).trim().to_owned()
    };
    items(lines).into_iter().map(path).filter(|path| !path.is_empty()).collect()
}

/// Rows of a table `| risk | impact | mitigation |` whose impact is one of ours.
fn risks(lines: &[&str]) -> Vec<Risk> {
    let row = |line: &&str| {
        let inner = line.trim().strip_prefix('|')?;
        let inner = inner.strip_suffix('|').unwrap_or(inner);
        let mut cells = inner.split('|').map(str::trim);
        let (risk, impact) = (cells.next()?, cells.next()?);
        let impact = match impact.to_lowercase().as_str() {
            "high" | "高" => Impact::High,
            "medium" | "中" => Impact::Medium,
            "low" | "低" => Impact::Low,
            _ => return None,
        };
        let mitigation = cells.next().unwrap_or_default().to_owned();
        (!risk.is_empty()).then(|| Risk { risk: risk.to_owned(), impact, mitigation })
    };
    lines.iter().filter_map(row).collect()
}
