//! The transition table of a Task: the only edges along which phase and block reason move.
//!
//! [`edge`] is the table in code; `status::enter` and `status::follow` write nothing that it does not
//! declare. The rows below are compared with it by a test over the whole product of states and
//! triggers. `waiting` stands for Failed, AwaitingJudge, QuotaWait, NeedsRework, IssueLinking and
//! Blocked (no reason); Done and Cancelled absorb everything (invariant S5).
//!
//! | trigger | from | to | counter | events |
//! |---|---|---|---|---|
//! | Admitted | Queued, waiting | Running | | task.started |
//! | Succeeded | Running | Done | | task.done |
//! | ReviewWanted | Running, AwaitingJudge | AwaitingJudge | | task.blocked |
//! | RunCancelled | Running | Queued | | task.requeued |
//! | InfraFault | Running | Queued | infra | task.requeued |
//! | ProviderLimit | Running | QuotaWait | quota | task.blocked |
//! | ExecutionFailed | Running | Failed | failure | task.failed |
//! | VerificationFailed | Running | NeedsRework | rework | task.blocked |
//! | Escalated | Running | NeedsRework | rework | task.recovery_escalated |
//! | Refused | Running, waiting | NeedsRework | | task.recovery_escalated |
//! | BudgetUsed | Queued, waiting | NeedsRework | | task.blocked |
//! | BudgetRaised | NeedsRework | Queued | | task.requeued |
//! | Split | NeedsRework | Cancelled | | task.split |
//! | Exhausted | NeedsRework | Cancelled | | task.recovery_escalated |
//! | CooldownOver | Failed, QuotaWait, NeedsRework, Blocked | Queued | | task.requeued |
//! | SpecEdited | Failed, QuotaWait, NeedsRework, Blocked | Queued | | task.requeued |
//! | SpecCancelled | Queued, Running, waiting | Cancelled | | task.cancelled |
//! | ChildDone | NeedsRework, AwaitingJudge | Cancelled | | task.superseded |
//! | ChildGone | NeedsRework | Queued | | task.requeued |
//! | ReviewPassed | Running, AwaitingJudge, NeedsRework | Done | | judge.review, judge.merge_queue_merged, judge.task_recovered, task.done |
//! | ReviewKept | Running, AwaitingJudge, NeedsRework | AwaitingJudge | | judge.task_requeued, judge.review, judge.merge_queue_enqueued, judge.merge_queue_retried, judge.merge_queue_failed, docser.task_created, task.recovery_escalated, judge.merge_queue_claim_recovered, judge.task_recovered, task.requeued, task.blocked |
//! | ReviewRework | Running, AwaitingJudge, NeedsRework | NeedsRework | | judge.autofix_task_created, judge.conflict_autofix_task_created, judge.mainline_recreate_task_created, judge.review, judge.merge_queue_failed, docser.task_created, task.blocked, task.recovery_escalated |
//! | ReviewRequeued | Running, AwaitingJudge, NeedsRework | Queued | | judge.task_requeued, judge.review, judge.merge_queue_failed, task.requeued |
//! | ReviewReplaced | Running, AwaitingJudge, NeedsRework | Cancelled | | judge.mainline_recreate_task_created, judge.conflict_autofix_task_created, judge.autofix_task_created, judge.review, judge.merge_queue_failed, task.cancelled, task.recovery_escalated |
//! | IssueWanted | Queued | IssueLinking | | task.blocked |
//! | IssueLinked | IssueLinking | Queued | | task.requeued |
//! | OperationRequeued | Queued, waiting | Queued | | task.requeued |
//! | OperationCompleted | Queued, waiting | Done | | task.done |
//!
//! Sources: `spec/convergence.md` 2.1 (T1 to T32), 5.5, 5.6; the words of the events are the
//! original's, those of T7, T17, T20 to T23 (which it did not record) and `task.superseded` are ours.

use crate::crd::{BlockReason, TaskPhase, TaskStatus};

/// Where a Task stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Queued,
    Running,
    Failed,
    AwaitingJudge,
    QuotaWait,
    NeedsRework,
    IssueLinking,
    /// Blocked without a reason: only a hand or an older version writes it.
    Blocked,
    Done,
    Cancelled,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 10] = [
        Self::Queued,
        Self::Running,
        Self::Failed,
        Self::AwaitingJudge,
        Self::QuotaWait,
        Self::NeedsRework,
        Self::IssueLinking,
        Self::Blocked,
        Self::Done,
        Self::Cancelled,
    ];

    /// Of this phase and block reason; only a Blocked Task has one.
    pub fn new(phase: TaskPhase, reason: Option<BlockReason>) -> Self {
        match (phase, reason) {
            (TaskPhase::Queued, _) => Self::Queued,
            (TaskPhase::Running, _) => Self::Running,
            (TaskPhase::Failed, _) => Self::Failed,
            (TaskPhase::Done, _) => Self::Done,
            (TaskPhase::Cancelled, _) => Self::Cancelled,
            (TaskPhase::Blocked, Some(BlockReason::AwaitingJudge)) => Self::AwaitingJudge,
            (TaskPhase::Blocked, Some(BlockReason::QuotaWait)) => Self::QuotaWait,
            (TaskPhase::Blocked, Some(BlockReason::NeedsRework)) => Self::NeedsRework,
            (TaskPhase::Blocked, Some(BlockReason::IssueLinking)) => Self::IssueLinking,
            (TaskPhase::Blocked, None) => Self::Blocked,
        }
    }

    /// Of this status.
    pub fn of(status: &TaskStatus) -> Self {
        Self::new(status.phase, status.block_reason)
    }

    /// Phase and block reason.
    pub fn parts(self) -> (TaskPhase, Option<BlockReason>) {
        match self {
            Self::Queued => (TaskPhase::Queued, None),
            Self::Running => (TaskPhase::Running, None),
            Self::Failed => (TaskPhase::Failed, None),
            Self::AwaitingJudge => (TaskPhase::Blocked, Some(BlockReason::AwaitingJudge)),
            Self::QuotaWait => (TaskPhase::Blocked, Some(BlockReason::QuotaWait)),
            Self::NeedsRework => (TaskPhase::Blocked, Some(BlockReason::NeedsRework)),
            Self::IssueLinking => (TaskPhase::Blocked, Some(BlockReason::IssueLinking)),
            Self::Blocked => (TaskPhase::Blocked, None),
            Self::Done => (TaskPhase::Done, None),
            Self::Cancelled => (TaskPhase::Cancelled, None),
        }
    }

    /// Neither ended nor Queued nor Running.
    fn is_waiting(self) -> bool {
        match self {
            Self::Failed
            | Self::AwaitingJudge
            | Self::QuotaWait
            | Self::NeedsRework
            | Self::IssueLinking
            | Self::Blocked => true,
            Self::Queued | Self::Running | Self::Done | Self::Cancelled => false,
        }
    }
}

/// What moves a Task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trigger {
    /// A Run of it exists.
    Admitted,
    /// Its Run succeeded, and nobody reviews.
    Succeeded,
    /// Its Run succeeded, and its result is reviewed.
    ReviewWanted,
    /// Its Run was cancelled, at no cost.
    RunCancelled,
    /// A fault of the cluster ended its Run.
    InfraFault,
    /// The provider's limit was met.
    ProviderLimit,
    /// Its Run failed and is tried again after a cooldown.
    ExecutionFailed,
    /// Verification or policy refused the change.
    VerificationFailed,
    /// A limit is reached or no retry can help.
    Escalated,
    /// A Task that was to carry it on could not be made.
    Refused,
    /// It has used its token budget.
    BudgetUsed,
    /// Its token budget has room again.
    BudgetRaised,
    /// A rework Task carries it on.
    Split,
    /// Nothing more is tried.
    Exhausted,
    /// The time of its retry has come.
    CooldownOver,
    SpecEdited,
    /// `spec.cancel`.
    SpecCancelled,
    /// The Task that repairs its result has done so, or was itself carried on.
    ChildDone,
    /// The Task that was to repair its result has ended without that.
    ChildGone,
    /// A review or a merge ended well.
    ReviewPassed,
    /// It goes on waiting for its review or merge.
    ReviewKept,
    /// The review asks for another change.
    ReviewRework,
    /// It is carried out again after a review or a merge.
    ReviewRequeued,
    /// Another Task takes the place of its result.
    ReviewReplaced,
    /// It waits for its issue.
    IssueWanted,
    /// Its issue is known.
    IssueLinked,
    /// An Operation `Requeue`.
    OperationRequeued,
    /// An Operation `Complete`.
    OperationCompleted,
}

impl Trigger {
    /// Every trigger, in the order of the table.
    pub const ALL: [Self; 28] = [
        Self::Admitted,
        Self::Succeeded,
        Self::ReviewWanted,
        Self::RunCancelled,
        Self::InfraFault,
        Self::ProviderLimit,
        Self::ExecutionFailed,
        Self::VerificationFailed,
        Self::Escalated,
        Self::Refused,
        Self::BudgetUsed,
        Self::BudgetRaised,
        Self::Split,
        Self::Exhausted,
        Self::CooldownOver,
        Self::SpecEdited,
        Self::SpecCancelled,
        Self::ChildDone,
        Self::ChildGone,
        Self::ReviewPassed,
        Self::ReviewKept,
        Self::ReviewRework,
        Self::ReviewRequeued,
        Self::ReviewReplaced,
        Self::IssueWanted,
        Self::IssueLinked,
        Self::OperationRequeued,
        Self::OperationCompleted,
    ];
}

/// A counter of `status.retries`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counter {
    Failure,
    Quota,
    Infra,
    Rework,
}

/// Where a trigger leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edge {
    pub to: State,
    /// Rises by one.
    pub counter: Option<Counter>,
    /// Words for it in the audit log; the first is the usual one.
    pub events: &'static [&'static str],
}

const fn to(state: State, events: &'static [&'static str]) -> Edge {
    Edge { to: state, counter: None, events }
}

const fn counted(state: State, counter: Counter, events: &'static [&'static str]) -> Edge {
    Edge { to: state, counter: Some(counter), events }
}

/// The table. `None`: the trigger means nothing in this state.
pub fn edge(trigger: Trigger, from: State) -> Option<Edge> {
    use State::{
        AwaitingJudge, Blocked, Cancelled, Done, Failed, IssueLinking, NeedsRework, Queued, QuotaWait,
        Running,
    };
    let queued_or_waiting = from == Queued || from.is_waiting();
    let in_review = matches!(from, Running | AwaitingJudge | NeedsRework);
    let cooling = matches!(from, Failed | QuotaWait | NeedsRework | Blocked);
    let (fits, edge) = match trigger {
        Trigger::Admitted => (queued_or_waiting, to(Running, &["task.started"])),
        Trigger::Succeeded => (from == Running, to(Done, &["task.done"])),
        Trigger::ReviewWanted => {
            (matches!(from, Running | AwaitingJudge), to(AwaitingJudge, &["task.blocked"]))
        }
        Trigger::RunCancelled => (from == Running, to(Queued, &["task.requeued"])),
        Trigger::InfraFault => (from == Running, counted(Queued, Counter::Infra, &["task.requeued"])),
        Trigger::ProviderLimit => (from == Running, counted(QuotaWait, Counter::Quota, &["task.blocked"])),
        Trigger::ExecutionFailed => (from == Running, counted(Failed, Counter::Failure, &["task.failed"])),
        Trigger::VerificationFailed => {
            (from == Running, counted(NeedsRework, Counter::Rework, &["task.blocked"]))
        }
        Trigger::Escalated => {
            (from == Running, counted(NeedsRework, Counter::Rework, &["task.recovery_escalated"]))
        }
        Trigger::Refused => {
            (from == Running || from.is_waiting(), to(NeedsRework, &["task.recovery_escalated"]))
        }
        Trigger::BudgetUsed => (queued_or_waiting, to(NeedsRework, &["task.blocked"])),
        Trigger::BudgetRaised => (from == NeedsRework, to(Queued, &["task.requeued"])),
        Trigger::Split => (from == NeedsRework, to(Cancelled, &["task.split"])),
        Trigger::Exhausted => (from == NeedsRework, to(Cancelled, &["task.recovery_escalated"])),
        Trigger::CooldownOver | Trigger::SpecEdited => (cooling, to(Queued, &["task.requeued"])),
        Trigger::SpecCancelled => (queued_or_waiting || from == Running, to(Cancelled, &["task.cancelled"])),
        Trigger::ChildDone => {
            (matches!(from, NeedsRework | AwaitingJudge), to(Cancelled, &["task.superseded"]))
        }
        Trigger::ChildGone => (from == NeedsRework, to(Queued, &["task.requeued"])),
        Trigger::ReviewPassed => (in_review, to(Done, REVIEW_PASSED)),
        Trigger::ReviewKept => (in_review, to(AwaitingJudge, REVIEW_KEPT)),
        Trigger::ReviewRework => (in_review, to(NeedsRework, REVIEW_REWORK)),
        Trigger::ReviewRequeued => (in_review, to(Queued, REVIEW_REQUEUED)),
        Trigger::ReviewReplaced => (in_review, to(Cancelled, REVIEW_REPLACED)),
        Trigger::IssueWanted => (from == Queued, to(IssueLinking, &["task.blocked"])),
        Trigger::IssueLinked => (from == IssueLinking, to(Queued, &["task.requeued"])),
        Trigger::OperationRequeued => (queued_or_waiting, to(Queued, &["task.requeued"])),
        Trigger::OperationCompleted => (queued_or_waiting, to(Done, &["task.done"])),
    };
    fits.then_some(edge)
}

const REVIEW_PASSED: &[&str] =
    &["judge.review", "judge.merge_queue_merged", "judge.task_recovered", "task.done"];
const REVIEW_KEPT: &[&str] = &[
    "judge.task_requeued",
    "judge.review",
    "judge.merge_queue_enqueued",
    "judge.merge_queue_retried",
    "judge.merge_queue_failed",
    "docser.task_created",
    "task.recovery_escalated",
    "judge.merge_queue_claim_recovered",
    "judge.task_recovered",
    "task.requeued",
    "task.blocked",
];
const REVIEW_REWORK: &[&str] = &[
    "judge.autofix_task_created",
    "judge.conflict_autofix_task_created",
    "judge.mainline_recreate_task_created",
    "judge.review",
    "judge.merge_queue_failed",
    "docser.task_created",
    "task.blocked",
    "task.recovery_escalated",
];
const REVIEW_REQUEUED: &[&str] =
    &["judge.task_requeued", "judge.review", "judge.merge_queue_failed", "task.requeued"];
const REVIEW_REPLACED: &[&str] = &[
    "judge.mainline_recreate_task_created",
    "judge.conflict_autofix_task_created",
    "judge.autofix_task_created",
    "judge.review",
    "judge.merge_queue_failed",
    "task.cancelled",
    "task.recovery_escalated",
];

/// Whether some trigger leads from one state to the other under this event.
pub fn is_declared(from: State, into: State, event: &str) -> bool {
    let leads = |edge: Edge| edge.to == into && edge.events.contains(&event);
    Trigger::ALL.into_iter().filter_map(|trigger| edge(trigger, from)).any(leads)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = include_str!("table.rs");

    /// The row of a trigger, read from the code.
    fn row(trigger: Trigger) -> String {
        let froms: Vec<State> =
            State::ALL.into_iter().filter(|from| edge(trigger, *from).is_some()).collect();
        let first =
            froms.first().and_then(|from| edge(trigger, *from)).unwrap_or_else(|| panic!("{trigger:?}"));
        assert!(froms.iter().all(|from| edge(trigger, *from) == Some(first)), "{trigger:?} has two ends");
        let waiting = State::ALL.into_iter().filter(|s| s.is_waiting()).all(|s| froms.contains(&s));
        let mut names: Vec<String> =
            froms.iter().filter(|s| !(waiting && s.is_waiting())).map(|s| format!("{s:?}")).collect();
        names.extend(waiting.then(|| "waiting".to_string()));
        let counter =
            first.counter.map(|c| format!(" {}", format!("{c:?}").to_lowercase())).unwrap_or_default();
        let (froms, into, events) = (names.join(", "), first.to, first.events.join(", "));
        format!("//! | {trigger:?} | {froms} | {into:?} |{counter} | {events} |")
    }

    fn sorted(row: &str) -> Vec<String> {
        row.split(" | ")
            .map(|cell| {
                let mut names: Vec<&str> = cell.split(", ").collect();
                names.sort_unstable();
                names.join(", ")
            })
            .collect()
    }

    #[test]
    fn the_documented_table_is_the_one_in_code() {
        let documented: Vec<&str> = TABLE.lines().filter(|line| line.starts_with("//! | ")).skip(1).collect();
        assert_eq!(documented.len(), Trigger::ALL.len());
        for (trigger, line) in Trigger::ALL.into_iter().zip(documented) {
            assert_eq!(sorted(line), sorted(&row(trigger)), "{trigger:?}\n{}", row(trigger));
        }
    }

    #[test]
    fn what_has_ended_absorbs_every_trigger() {
        for trigger in Trigger::ALL {
            assert_eq!(edge(trigger, State::Done), None, "{trigger:?}");
            assert_eq!(edge(trigger, State::Cancelled), None, "{trigger:?}");
        }
    }

    #[test]
    fn every_state_that_has_not_ended_can_be_left_and_its_parts_name_it() {
        for state in State::ALL {
            let (phase, reason) = state.parts();
            assert_eq!(State::new(phase, reason), state);
            let ended = matches!(state, State::Done | State::Cancelled);
            assert_eq!(phase.is_terminal(), ended);
            assert_eq!(Trigger::ALL.into_iter().any(|t| edge(t, state).is_some()), !ended, "{state:?}");
        }
    }

    #[test]
    fn no_edge_is_declared_under_a_foreign_word() {
        assert!(is_declared(State::Running, State::Done, "task.done"));
        assert!(!is_declared(State::Running, State::Done, "task.requeued"));
        assert!(!is_declared(State::Failed, State::Failed, "task.failed"));
        assert!(!is_declared(State::Done, State::Queued, "task.requeued"));
    }
}
