//! Reasons to wait, in words for people. Owns what is said about each and who can change it; no
//! positions and no counts, so that a text stays true while the reason lasts.

use jiff::{SignedDuration, Timestamp};

use crate::crd::{NextKind, Role};

/// Moments that need not be told apart.
const CLOSE: SignedDuration = SignedDuration::from_mins(10);

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
    /// An Operation has stopped the component that admits such Runs.
    ComponentStopped { component: &'static str },
    /// A token budget is used up; what the System says about it.
    Budget { message: String },
    /// Every agent of the role is stopped; one of them.
    AgentsStopped { role: Role, agent: String },
    /// Every agent of the role has crashed lately; the one that comes back first, and when. Absent:
    /// when somebody starts it.
    AgentsHeld { role: Role, agent: String, until: Option<Timestamp> },
    /// The provider's limit on the credential of every pool of the role is reached; until when. Absent:
    /// one Run is trying it.
    CredentialHeld { credential: String, until: Option<Timestamp> },
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
            Self::ComponentStopped { .. } => "ComponentStopped",
            Self::Budget { .. } => "BudgetExceeded",
            Self::AgentsStopped { .. } => "AgentsStopped",
            Self::AgentsHeld { .. } => "AgentsHeld",
            Self::CredentialHeld { .. } => "CredentialHeld",
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
            Self::RetryAt(_)
            | Self::AgentsHeld { until: Some(_), .. }
            | Self::CredentialHeld { until: Some(_), .. } => NextKind::Time,
            Self::CredentialHeld { until: None, .. }
            | Self::Budget { .. }
            | Self::Slots { .. }
            | Self::MaxConcurrent
            | Self::Lane { .. }
            | Self::Area { .. }
            | Self::Dependencies { .. }
            | Self::OldPod => NextKind::Watch,
            Self::Disarmed
            | Self::NoSystem
            | Self::NoPool { .. }
            | Self::PoolSuspended { .. }
            | Self::ComponentStopped { .. }
            | Self::AgentsStopped { .. }
            | Self::AgentsHeld { until: None, .. }
            | Self::UnknownDependency { .. }
            | Self::CancelledDependency { .. }
            | Self::DependencyCycle { .. }
            | Self::UnsupportedKind { .. } => NextKind::Operator,
        }
    }

    /// Whether what has to be mended is the Task itself. What keeps all Tasks waiting is said once, by the
    /// System or the pool, and by the condition of each Task: not by an Event for each.
    pub fn is_of_task(&self) -> bool {
        match self {
            Self::UnknownDependency { .. }
            | Self::CancelledDependency { .. }
            | Self::DependencyCycle { .. }
            | Self::UnsupportedKind { .. } => true,
            Self::Disarmed
            | Self::NoSystem
            | Self::NoPool { .. }
            | Self::PoolSuspended { .. }
            | Self::ComponentStopped { .. }
            | Self::Budget { .. }
            | Self::AgentsStopped { .. }
            | Self::AgentsHeld { .. }
            | Self::CredentialHeld { .. }
            | Self::Slots { .. }
            | Self::MaxConcurrent
            | Self::Lane { .. }
            | Self::Area { .. }
            | Self::Dependencies { .. }
            | Self::RetryAt(_)
            | Self::OldPod => false,
        }
    }

    /// The moment that ends the wait, for [`NextKind::Time`].
    pub fn at(&self) -> Option<Timestamp> {
        match self {
            Self::RetryAt(at) => Some(*at),
            Self::AgentsHeld { until, .. } | Self::CredentialHeld { until, .. } => *until,
            Self::Disarmed
            | Self::NoSystem
            | Self::NoPool { .. }
            | Self::PoolSuspended { .. }
            | Self::ComponentStopped { .. }
            | Self::Budget { .. }
            | Self::AgentsStopped { .. }
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
            Self::ComponentStopped { component } => format!(
                "the {component} is stopped: start it with an Operation of type Start and target {component}"
            ),
            Self::Budget { message } => format!("waits until the token budget allows more: {message}"),
            Self::AgentsStopped { role, agent } => format!(
                "every agent with role {} is stopped: start one with an Operation of type Start, such as {agent}",
                role.word()
            ),
            Self::AgentsHeld { role, agent, until: Some(until) } => format!(
                "every agent with role {} has crashed lately: {agent} takes Runs again at {until:.0}",
                role.word()
            ),
            Self::AgentsHeld { role, agent, until: None } => format!(
                "every agent with role {} has crashed too often: mend the cause, then start one with an \
                 Operation of type Start, such as {agent}",
                role.word()
            ),
            Self::CredentialHeld { credential, until: Some(until) } => format!(
                "the provider's limit on Secret {credential} is reached: at {until:.0} one Run tries it \
                 again, the others follow when it gets through"
            ),
            Self::CredentialHeld { credential, until: None } => format!(
                "the provider's limit on Secret {credential} was reached: one Run is trying it again, the \
                 others follow when it gets through"
            ),
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
            (Self::Dependencies { .. }, Self::Dependencies { .. })
            | (Self::Budget { .. }, Self::Budget { .. }) => true,
            (Self::AgentsHeld { role: a, .. }, Self::AgentsHeld { role: b, .. }) => {
                a == b && other.is_told_by(self.at())
            }
            (Self::CredentialHeld { credential: a, .. }, Self::CredentialHeld { credential: b, .. }) => {
                a == b && other.is_told_by(self.at())
            }
            (a, b) => a == b,
        }
    }

    /// Whether a person who was told this moment need not be told the one of `self`: they are close,
    /// or it is over. What holds many Tasks for a little longer must not write to all of them.
    pub fn is_told_by(&self, told: Option<Timestamp>) -> bool {
        match (told, self.at()) {
            (_, None) => true,
            (None, Some(_)) => false,
            (Some(told), Some(at)) => told.duration_since(at).abs() <= CLOSE,
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
