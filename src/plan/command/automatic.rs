//! Automatic commands: what verifies a change although no Task names it (spec agents 3.4).
//!
//! They come from the repository's contract alone; no model is asked for any. The contract and the
//! makefile are those of the revision that the work starts from, so that an agent cannot change what it
//! is checked by. Pure: texts in, steps out; must not read files or start anything.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;

use super::makefile::Makefile;
use super::{Refusal, Step, denied_step, steps};
use crate::crd::pool::Role;
use crate::plan::policy::{GlobError, PathPattern};

/// Largest contract, in bytes.
pub const MAX_CONTRACT_BYTES: usize = 64 * 1024;
/// Most entries of one list in a contract.
const MAX_ENTRIES: usize = 50;
/// Longest command and longest pattern, in characters, as for a Task.
const MAX_COMMAND_CHARS: usize = 1024;
const MAX_PATTERN_CHARS: usize = 512;
/// Words of `byRole`.
const ROLES: [&str; 3] = ["worker", "tester", "docser"];
/// Key of the original's that means nothing here, which is known.
const VISUAL_PROBES: &str = "visualProbes";

/// Why a contract is not understood. Each says what to change.
#[derive(Debug, thiserror::Error)]
pub enum ContractError {
    #[error("it is not the JSON of a contract: {0}")]
    Json(#[from] serde_json::Error),
    #[error("{0} has more than {MAX_ENTRIES} entries, make it shorter")]
    TooMany(&'static str),
    #[error("a command in {0} is longer than {MAX_COMMAND_CHARS} characters, put it into a script")]
    LongCommand(&'static str),
    #[error("a pattern in {0} is longer than {MAX_PATTERN_CHARS} characters, make it shorter")]
    LongPattern(&'static str),
    #[error("pattern '{pattern}' in {list}: {source}")]
    Pattern {
        list: &'static str,
        pattern: String,
        #[source]
        source: GlobError,
    },
}

/// What a repository wants to be verified by.
#[derive(Debug, Default)]
pub struct Contract {
    commands: Vec<String>,
    by_role: BTreeMap<String, Vec<String>>,
    rules: Vec<Rule>,
    /// What of it means nothing here.
    remarks: Vec<String>,
}

/// Commands for changes of certain files.
#[derive(Debug)]
struct Rule {
    any: Vec<PathPattern>,
    all: Vec<PathPattern>,
    commands: Vec<String>,
}

/// The file.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Written {
    commands: Vec<String>,
    by_role: BTreeMap<String, Vec<String>>,
    rules: Vec<WrittenRule>,
    #[serde(flatten)]
    other: BTreeMap<String, serde_json::Value>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct WrittenRule {
    when_changed_any: Vec<String>,
    when_changed_all: Vec<String>,
    commands: Vec<String>,
}

impl Contract {
    /// Reads a contract.
    ///
    /// # Errors
    /// When it is none, is too long, or holds a pattern that cannot be honoured.
    pub fn parse(text: &str) -> Result<Self, ContractError> {
        let Written { commands, by_role, rules, other } = serde_json::from_str(text)?;
        let mut remarks = Vec::new();
        remarks.extend(other.keys().map(|key| match key.as_str() {
            VISUAL_PROBES => format!("{VISUAL_PROBES} are not taken here"),
            _ => format!("the key {key} is not known, the keys are commands, byRole and rules"),
        }));
        remarks.extend(
            by_role
                .keys()
                .filter(|role| !ROLES.contains(&role.as_str()))
                .map(|role| format!("byRole.{role} is not known, the roles are {}", ROLES.join(", "))),
        );
        checked("commands", &commands)?;
        for commands in by_role.values() {
            checked("byRole", commands)?;
        }
        if rules.len() > MAX_ENTRIES {
            return Err(ContractError::TooMany("rules"));
        }
        let rules = rules.into_iter().map(Rule::of).collect::<Result<_, _>>()?;
        Ok(Self { commands, by_role, rules, remarks })
    }

    /// What of it means nothing here, for its author.
    pub fn remarks(&self) -> &[String] {
        &self.remarks
    }

    /// What it wants for a change of these files by this role: `commands`, then those of the role, then
    /// those of each rule that fits.
    pub fn commands(&self, role: Role, changed: &[String]) -> Vec<String> {
        let word = match role {
            Role::Worker => "worker",
            Role::Tester => "tester",
            Role::Docser => "docser",
            // They change nothing.
            Role::Judge | Role::Planner => "",
        };
        let of_role = self.by_role.get(word).into_iter().flatten();
        let of_rules = self.rules.iter().filter(|rule| rule.fits(changed)).flat_map(|rule| &rule.commands);
        self.commands.iter().chain(of_role).chain(of_rules).cloned().collect()
    }
}

impl Rule {
    fn of(written: WrittenRule) -> Result<Self, ContractError> {
        checked("commands of rules", &written.commands)?;
        Ok(Self {
            any: patterns("whenChangedAny", &written.when_changed_any)?,
            all: patterns("whenChangedAll", &written.when_changed_all)?,
            commands: written.commands,
        })
    }

    /// Whether a pattern of `any` fits a changed file, and each of `all` does. A list without patterns
    /// asks for nothing.
    fn fits(&self, changed: &[String]) -> bool {
        let touched = |pattern: &PathPattern| changed.iter().any(|path| pattern.matches(path));
        (self.any.is_empty() || self.any.iter().any(touched)) && self.all.iter().all(touched)
    }
}

fn checked(list: &'static str, commands: &[String]) -> Result<(), ContractError> {
    if commands.len() > MAX_ENTRIES {
        return Err(ContractError::TooMany(list));
    }
    let long = commands.iter().any(|command| command.chars().count() > MAX_COMMAND_CHARS);
    if long { Err(ContractError::LongCommand(list)) } else { Ok(()) }
}

fn patterns(list: &'static str, written: &[String]) -> Result<Vec<PathPattern>, ContractError> {
    if written.len() > MAX_ENTRIES {
        return Err(ContractError::TooMany(list));
    }
    if written.iter().any(|pattern| pattern.chars().count() > MAX_PATTERN_CHARS) {
        return Err(ContractError::LongPattern(list));
    }
    let one = |pattern: &String| {
        PathPattern::parse(pattern).map_err(|source| ContractError::Pattern {
            list,
            pattern: pattern.clone(),
            source,
        })
    };
    written.iter().map(one).collect()
}

/// Why a wanted command is not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// The Task or the contract names it already.
    Again,
    /// Only a shell could run it.
    Refused(Refusal),
    /// A pattern forbids it.
    Denied(&'static str),
    /// The makefile has no such target.
    NoTarget(String),
    /// There are as many as there may be.
    Limit(usize),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Again => f.write_str("it is among the commands already"),
            Self::Refused(refusal) => write!(f, "{refusal}"),
            Self::Denied(pattern) => write!(f, "denied command, it matches '{pattern}'"),
            Self::NoTarget(target) => write!(f, "the makefile has no target {target}"),
            Self::Limit(most) => {
                write!(f, "there are {most} automatic commands already (maxAutomaticCommands)")
            }
        }
    }
}

/// The automatic commands of a verification.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Automatic {
    /// To be run after the Task's own, in this order.
    pub steps: Vec<Step>,
    /// Not run: the command and why.
    pub left_out: Vec<(String, Why)>,
}

/// What of `wanted` is run besides `explicit`, at most `most` of them. They start in `repo`, whatever
/// directory the Task's own commands have gone to (A26); `makefile` is the one there.
pub fn plan(
    wanted: &[String],
    explicit: &[Step],
    makefile: Option<&Makefile>,
    repo: &str,
    most: usize,
) -> Automatic {
    let mut plan = Automatic::default();
    for step in steps(wanted, repo) {
        let known = explicit.iter().chain(&plan.steps).any(|other| is_same(other, &step));
        match if known { Some(Why::Again) } else { objection(&step, makefile, repo) } {
            Some(why) => plan.left_out.push((step.command, why)),
            None if plan.steps.len() >= most => plan.left_out.push((step.command, Why::Limit(most))),
            None => plan.steps.push(step),
        }
    }
    plan
}

/// Whether both run the same program in the same directory.
fn is_same(one: &Step, other: &Step) -> bool {
    let same = match (&one.invocation, &other.invocation) {
        (Ok(one), Ok(other)) => one == other,
        (Ok(_) | Err(_), _) => one.command == other.command,
    };
    same && one.cwd == other.cwd
}

fn objection(step: &Step, makefile: Option<&Makefile>, repo: &str) -> Option<Why> {
    let invocation = match &step.invocation {
        Ok(invocation) => invocation,
        Err(refusal) => return Some(Why::Refused(refusal.clone())),
    };
    if let Some(pattern) = denied_step(step) {
        return Some(Why::Denied(pattern));
    }
    let makefile = makefile.filter(|_| step.cwd == repo)?;
    makefile.lacks(invocation).map(|target| Why::NoTarget(target.into()))
}

#[cfg(test)]
#[path = "automatic_tests.rs"]
mod tests;
