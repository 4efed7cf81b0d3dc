//! What can be stopped and started by name: components, and agents such as `worker-3`; and the names
//! of processes as the original's clients know them (`spec/api.md` 2.1).

use crate::crd::names::agent_name;
use crate::crd::system::component;

/// Slots that a pool can have.
const MOST_SLOTS: u32 = 1000;

/// What a Start or Stop is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A part of the engine.
    Component(&'static str),
    /// One slot of a pool.
    Agent { pool: String, index: u32 },
}

impl Target {
    /// Reads a name. Leading zeros of a slot's number do not count: `worker-01` is `worker-1`.
    ///
    /// # Errors
    /// A sentence for a person.
    pub fn parse(name: &str) -> Result<Self, String> {
        if let Some(known) = component::ALL.iter().find(|known| **known == name) {
            return Ok(Self::Component(known));
        }
        let agent = name.rsplit_once('-').and_then(|(pool, number)| Some((pool, slot(number)?)));
        match agent {
            Some((pool, index)) if !pool.is_empty() => Ok(Self::Agent { pool: pool.into(), index }),
            Some(_) | None => Err(format!(
                "{name} is neither a component ({}) nor an agent such as worker-3",
                component::ALL.join(", ")
            )),
        }
    }

    /// Its one name.
    pub fn name(&self) -> String {
        match self {
            Self::Component(name) => (*name).to_string(),
            Self::Agent { pool, index } => agent_name(pool, *index),
        }
    }
}

/// A slot's number, from 1.
fn slot(digits: &str) -> Option<u32> {
    let all_digits = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    let number = all_digits.then(|| digits.parse::<u32>().ok()).flatten()?;
    (1..=MOST_SLOTS).contains(&number).then_some(number)
}

/// A process as the original's clients know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    pub name: String,
    pub label: String,
    pub description: &'static str,
    pub group: &'static str,
    pub kind: &'static str,
    pub supports_stop: bool,
    /// `None`: the original does not say.
    pub auto_restart: Option<bool>,
}

/// Names of the processes that are always listed, in order.
pub const LISTED: [&str; 6] = ["planner", "dispatcher", "cycle-manager", "db-up", "db-down", "db-push"];

/// The process of this name, if there can be one. `judge-1` is the process `judge`.
pub fn process(name: &str) -> Option<Process> {
    let is = |label: &str, description, group, kind, supports_stop, auto_restart| {
        let name = name.to_string();
        Some(Process { name, label: label.into(), description, group, kind, supports_stop, auto_restart })
    };
    match name {
        "planner" => is("Planner", "Generate tasks from requirements", "Planner", "planner", true, None),
        "dispatcher" => is("Dispatcher", "Task assignment process", "Core", "service", true, Some(true)),
        "cycle-manager" => {
            is("Cycle Manager", "Long-running management process", "Core", "service", true, Some(true))
        }
        "judge" => is("Judge", "Resident review process", "Core", "service", true, Some(true)),
        "db-up" => is("Database Start", "Start Postgres/Redis", "Database", "database", false, None),
        "db-down" => is("Database Stop", "Stop Postgres/Redis", "Database", "database", false, None),
        "db-push" => is("Database Push", "Apply schema", "Database", "command", false, None),
        _ => numbered(name),
    }
}

fn numbered(name: &str) -> Option<Process> {
    let (prefix, digits) = name.rsplit_once('-')?;
    // No upper bound here: the original has none.
    let digits = Some(digits).filter(|d| !d.is_empty() && d.bytes().all(|b| b.is_ascii_digit()))?;
    let index: u64 = digits.parse().ok().filter(|n| *n >= 1)?;
    let of = |label: &str, description, group, kind| {
        Some(Process {
            name: format!("{prefix}-{index}"),
            label: format!("{label} #{index}"),
            description,
            group,
            kind,
            supports_stop: true,
            auto_restart: Some(true),
        })
    };
    match prefix {
        "judge" if index == 1 => process("judge"),
        "judge" => of("Judge", "Resident review process", "Core", "service"),
        "worker" => of("Worker", "Implementation worker", "Workers", "worker"),
        "tester" => of("Tester", "Test worker", "Workers", "worker"),
        "docser" => of("Docser", "Documentation update worker", "Workers", "worker"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written_in_one_way() {
        for (given, name) in [
            ("dispatcher", Some("dispatcher")),
            ("cycle-manager", Some("cycle-manager")),
            ("judge", Some("judge")),
            ("planner", Some("planner")),
            ("worker-3", Some("worker-3")),
            ("worker-01", Some("worker-1")),
            ("judge-1", Some("judge-1")),
            ("my-pool-2", Some("my-pool-2")),
            ("worker", None),
            ("worker-0", None),
            ("worker-", None),
            ("-1", None),
            ("worker-+1", None),
            ("worker-1001", None),
            ("worker-99999999999", None),
            ("db-up", None),
            ("", None),
        ] {
            assert_eq!(Target::parse(given).ok().map(|t| t.name()).as_deref(), name, "{given}");
        }
    }

    #[test]
    fn process_names_are_those_of_the_original() {
        let rows = |name: &str| -> Vec<serde_json::Value> {
            let path = format!("{}/tests/vectors/{name}.json", env!("CARGO_MANIFEST_DIR"));
            serde_json::from_str(&std::fs::read_to_string(path).expect("vectors")).expect("vectors")
        };
        for row in rows("process_names") {
            let got = process(row["input"].as_str().unwrap()).map(|p| {
                serde_json::json!({"name": p.name, "label": p.label, "description": p.description,
                    "group": p.group, "kind": p.kind, "supportsStop": p.supports_stop, "autoRestart": p.auto_restart})
            });
            assert_eq!(got.unwrap_or_default(), row["output"], "{}", row["input"]);
        }
        for row in rows("process_list") {
            assert_eq!(serde_json::json!(LISTED), row["output"]);
        }
    }
}
