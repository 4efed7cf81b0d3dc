//! What a Task is as somebody's dependency (design 4: dependencies).
//!
//! Resolved by Done, by an explicit human cancel, or as its successor is when the work went on in
//! another Task; never by Failed (hazard H1). Owns following the chain of successors.

use super::dependencies::Name;
use super::queue::Queue;
use super::{TaskFacts, Wait};
use crate::crd::TaskPhase;

/// Dependencies that a reason names.
const NAMED_DEPENDENCIES: usize = 5;

/// What a Task is as somebody's dependency, without regard to its successors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Pending,
    /// Done, or cancelled by an explicit wish.
    Resolved,
    /// Its work goes on in the Task of this name.
    Superseded(String),
    /// Cancelled otherwise.
    GivenUp,
}

impl Outcome {
    pub fn of(facts: &TaskFacts) -> Self {
        match facts.phase {
            TaskPhase::Done => Self::Resolved,
            TaskPhase::Cancelled => match &facts.superseded_by {
                Some(successor) => Self::Superseded(successor.clone()),
                None if facts.cancel => Self::Resolved,
                None => Self::GivenUp,
            },
            TaskPhase::Queued | TaskPhase::Running | TaskPhase::Blocked | TaskPhase::Failed => Self::Pending,
        }
    }
}

/// A dependency that is not resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unresolved {
    /// The dependency, and the Tasks in which its work went on, in order. A change of any of them
    /// may change the answer.
    pub chain: Vec<Name>,
    pub end: End,
}

/// How a chain of successors ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Pending,
    /// There is no Task of the last name.
    Unknown,
    /// Cancelled by nobody's explicit wish, or a ring of successors.
    GivenUp,
}

impl Unresolved {
    /// The Task that everything hangs on.
    fn last(&self) -> String {
        self.chain.last().map(|name| name.to_string()).unwrap_or_default()
    }

    fn shown(&self) -> String {
        match self.chain.as_slice() {
            [first, .., last] => format!("{first} (carried on by {last})"),
            [only] => only.to_string(),
            [] => String::new(),
        }
    }
}

impl Queue {
    /// The uid of the Task that resolves the dependency `name`, or why it is not resolved.
    pub(super) fn resolution(&self, name: &str) -> Result<String, Unresolved> {
        let mut chain: Vec<Name> = vec![name.into()];
        let mut at = name.to_owned();
        let end = loop {
            match self.outcome(&at) {
                None => break End::Unknown,
                Some((Outcome::Resolved, uid)) => return Ok(uid),
                Some((Outcome::Pending, _)) => break End::Pending,
                Some((Outcome::GivenUp, _)) => break End::GivenUp,
                Some((Outcome::Superseded(successor), _)) => {
                    if chain.iter().any(|known| **known == *successor) {
                        break End::GivenUp;
                    }
                    chain.push(successor.as_str().into());
                    at = successor;
                }
            }
        };
        Err(Unresolved { chain, end })
    }

    /// What the Task with this name is, with its uid; `None`: there is no such Task.
    fn outcome(&self, name: &str) -> Option<(Outcome, String)> {
        let facts = self.facts_by_name(name)?;
        Some((Outcome::of(facts), facts.uid.clone()))
    }
}

/// Why a Task with these unresolved dependencies waits, a cycle apart: what a person has to mend first.
pub(super) fn wait_for(unresolved: &[Unresolved]) -> Wait {
    let with = |end: End| unresolved.iter().find(|u| u.end == end).map(Unresolved::last);
    if let Some(name) = with(End::Unknown) {
        Wait::UnknownDependency { name }
    } else if let Some(name) = with(End::GivenUp) {
        Wait::CancelledDependency { name }
    } else {
        let names = unresolved.iter().take(NAMED_DEPENDENCIES).map(Unresolved::shown);
        let more = (unresolved.len() > NAMED_DEPENDENCIES).then(|| "...".to_owned());
        Wait::Dependencies { names: names.chain(more).collect() }
    }
}
