//! Reasons to wait, in words for people. Owns what is said about each and who can change it; no
//! positions and no counts, so that a text stays true while the reason lasts.

use jiff::Timestamp;

use crate::crd::{NextKind, Role};

/// Why a queued Task is not admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wait {
    /// The hatch is closed.
    Disarmed,
    /// The namespace has no System.
    NoSystem,
    /// No pool of the role has any slots.
    NoPool { role: Role },
    /// Every pool of the role is suspended; one of them.
    PoolSuspended { role: Role, pool: String },
    /// All slots of the role are taken.
    Slots { role: Role },
    /// `maxConcurrent` Tasks are in progress.
    MaxConcurrent,
    /// The lane is at its cap.
    Lane { lane: String },
    /// Another Task works in the area.
    Area { area: String, holder_task: String },
    /// Dependencies that are not Done yet, at most a few of them.
    Dependencies { names: Vec<String> },
    /// A dependency that does not exist.
    UnknownDependency { name: String },
    /// A dependency that ended without being Done, by nobody's explicit wish.
    CancelledDependency { name: String },
    /// The Task waits for itself, by way of these; the first is repeated at the end.
    DependencyCycle { names: Vec<String> },
    /// Too early.
    RetryAt(Timestamp),
    /// A Pod of an earlier attempt still exists.
    OldPod,
    /// Nobody here knows the kind.
    UnsupportedKind { kind: String },
}

impl Wait {
    /// CamelCase reason of the condition.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Disarmed => "Disarmed",
            Self::NoSystem => "NoSystem",
            Self::NoPool { .. } => "NoPool",
            Self::PoolSuspended { .. } => "PoolSuspended",
            Self::Slots { .. } => "NoFreeSlot",
            Self::MaxConcurrent => "MaxConcurrent",
            Self::Lane { .. } => "LaneFull",
            Self::Area { .. } => "AreaOccupied",
            Self::Dependencies { .. } => "WaitingForDependencies",
            Self::UnknownDependency { .. } => "UnknownDependency",
            Self::CancelledDependency { .. } => "CancelledDependency",
            Self::DependencyCycle { .. } => "DependencyCycle",
            Self::RetryAt(_) => "RetryAt",
            Self::OldPod => "OldPod",
            Self::UnsupportedKind { .. } => "UnsupportedKind",
        }
    }

    /// What ends the wait.
    pub fn next_kind(&self) -> NextKind {
        match self {
            Self::RetryAt(_) => NextKind::Time,
            Self::Slots { .. }
            | Self::MaxConcurrent
            | Self::Lane { .. }
            | Self::Area { .. }
            | Self::Dependencies { .. }
            | Self::OldPod => NextKind::Watch,
            Self::Disarmed
            | Self::NoSystem
            | Self::NoPool { .. }
            | Self::PoolSuspended { .. }
            | Self::UnknownDependency { .. }
            | Self::CancelledDependency { .. }
            | Self::DependencyCycle { .. }
            | Self::UnsupportedKind { .. } => NextKind::Operator,
        }
    }

    /// The moment that ends the wait, for [`NextKind::Time`].
    pub fn at(&self) -> Option<Timestamp> {
        match self {
            Self::RetryAt(at) => Some(*at),
            Self::Disarmed
            | Self::NoSystem
            | Self::NoPool { .. }
            | Self::PoolSuspended { .. }
            | Self::Slots { .. }
            | Self::MaxConcurrent
            | Self::Lane { .. }
            | Self::Area { .. }
            | Self::Dependencies { .. }
            | Self::UnknownDependency { .. }
            | Self::CancelledDependency { .. }
            | Self::DependencyCycle { .. }
            | Self::OldPod
            | Self::UnsupportedKind { .. } => None,
        }
    }

    /// One sentence for a person; where a person has to act, it says what to do.
    pub fn detail(&self) -> String {
        match self {
            Self::Disarmed => "the hatch is closed: arm the System to start Tasks".into(),
            Self::NoSystem => "this namespace has no System: create the System named default".into(),
            Self::NoPool { role } => {
                format!("no AgentPool with role {} has slots: create one or scale one up", role.word())
            }
            Self::PoolSuspended { role, pool } => {
                format!("every AgentPool with role {} is suspended: resume one, such as {pool}", role.word())
            }
            Self::Slots { role } => {
                format!("waits for a free slot of an AgentPool with role {}", role.word())
            }
            Self::MaxConcurrent => "waits until fewer Tasks than maxConcurrent are running".into(),
            Self::Lane { lane } => format!("waits until lane {lane} is below its maxSlots"),
            Self::Area { area, .. } => {
                format!("waits until no other Task works in target area {area}")
            }
            Self::Dependencies { names } => format!("waits for its dependencies: {}", list(names)),
            Self::UnknownDependency { name } => {
                format!("depends on Task {name}, which does not exist: create it or remove the dependency")
            }
            Self::CancelledDependency { name } => format!(
                "depends on Task {name}, which was given up: remove the dependency or create the Task anew"
            ),
            Self::DependencyCycle { names } => format!(
                "waits for itself, because dependencies form a cycle: {}: remove one of them",
                names.join(" -> ")
            ),
            Self::RetryAt(at) => format!("the next attempt starts at {at:.0}"),
            Self::OldPod => "waits until the Pod of an earlier attempt is gone".into(),
            Self::UnsupportedKind { kind } => {
                format!("no agent here knows Tasks of kind {kind}: use kind code")
            }
        }
    }

    /// Whether a person who was told `self` need not be told `other`: the same reason, of which only
    /// passing details differ.
    pub fn says_the_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Area { area: a, .. }, Self::Area { area: b, .. }) => a == b,
            (Self::Dependencies { .. }, Self::Dependencies { .. }) => true,
            (a, b) => a == b,
        }
    }
}

/// Names in a row; the list is bounded by who made it.
fn list(names: &[String]) -> String {
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_differ_by_what_a_person_would_do_about_them() {
        let area = |area: &str, holder: &str| Wait::Area { area: area.into(), holder_task: holder.into() };
        assert!(area("a", "x").says_the_same(&area("a", "y")));
        assert!(!area("a", "x").says_the_same(&area("b", "x")));
        let unknown = |name: &str| Wait::UnknownDependency { name: name.into() };
        assert!(!unknown("a").says_the_same(&unknown("b")));
        assert!(!Wait::OldPod.says_the_same(&Wait::MaxConcurrent));
    }

    #[test]
    fn a_cycle_is_named_and_needs_a_person() {
        let wait = Wait::DependencyCycle { names: vec!["a".into(), "b".into(), "a".into()] };
        assert!(wait.detail().contains("a -> b -> a"));
        assert_eq!(wait.next_kind(), NextKind::Operator);
    }

    #[test]
    fn a_time_is_told_in_whole_seconds() {
        let at: Timestamp = "2026-02-13T14:05:10.123456Z".parse().expect("a timestamp");
        let wait = Wait::RetryAt(at);
        assert_eq!(wait.detail(), "the next attempt starts at 2026-02-13T14:05:10Z");
        assert_eq!((wait.next_kind(), wait.at()), (NextKind::Time, Some(at)));
    }
}
