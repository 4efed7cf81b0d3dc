//! Whether planning may start now: the gate of automatic replanning, and what refuses a start by hand.
//!
//! Sources: `spec/convergence.md` 5.9 and 5.10, `spec/api.md` 2.4. Two differences from the original,
//! both on purpose: a Failed Task is backlog like any other (hazard H16), and a signature that cannot
//! be computed closes the gate instead of opening it.
//!
//! The head of a repository is not known here: the Plan Run sees it in its checkout, computes the
//! signature and ends with [`NO_DIFF`] by the same rule ([`is_same_plan`]).

use std::time::Duration;

use jiff::Timestamp;

/// How long after its end a planner still counts as active.
pub const RECENTLY_ACTIVE: Duration = Duration::from_secs(90);
/// Reason and failure code of a plan that would be the last one again.
pub use crate::crd::planner::NO_DIFF;

/// Tasks by phase.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub queued: usize,
    pub running: usize,
    pub blocked: usize,
    pub failed: usize,
}

impl Counts {
    /// All Tasks that have not ended.
    pub fn total(self) -> usize {
        self.queued + self.running + self.blocked + self.failed
    }
}

/// Open issues of the forge that are not Tasks yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IssueBacklog<'a> {
    /// The repository has no forge whose issues count.
    #[default]
    NoForge,
    /// As many.
    Open(usize),
    /// They could not be counted, for this reason.
    Unknown(&'a str),
}

/// What is known of the signature of the plan that would be made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Signature<'a> {
    /// The Plan Run's checkout will tell.
    #[default]
    AtCheckout,
    Known(&'a str),
    /// It cannot be computed, for this reason.
    Unavailable(&'a str),
}

/// What the gate looks at.
#[derive(Clone, Debug, Default)]
pub struct GateFacts<'a> {
    /// Planning without being asked is wanted, and the planner is not stopped.
    pub auto_replan: bool,
    /// A Task that plans and has not ended.
    pub planning: Option<&'a str>,
    /// When the last such Task ended.
    pub planner_seen_at: Option<Timestamp>,
    /// There is a requirement that can be planned.
    pub has_requirement: bool,
    /// Finished Runs that wait for their review.
    pub pending_reviews: usize,
    /// Tasks other than those that plan.
    pub counts: Counts,
    pub issues: IssueBacklog<'a>,
    /// When the last plan was made.
    pub planned_at: Option<Timestamp>,
    /// When planning was last started or skipped.
    pub tried_at: Option<Timestamp>,
    /// Least time between two plans, and between two tries.
    pub interval: Duration,
    /// A plan with the last signature is not made again.
    pub skip_same_signature: bool,
    pub signature: Signature<'a>,
    /// Signature of the last plan.
    pub last_signature: Option<&'a str>,
}

/// Whether planning may start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gate {
    /// It may. The signature, where it is known.
    Open { signature: Option<String> },
    /// It may not.
    Closed {
        /// Word for machines, e.g. `blocked_tasks_present`.
        reason: &'static str,
        /// For people.
        sentence: String,
        /// When it is worth asking again; `None` when something has to change first.
        until: Option<Timestamp>,
    },
}

impl Gate {
    fn closed(reason: &'static str, sentence: impl Into<String>) -> Self {
        Self::Closed { reason, sentence: sentence.into(), until: None }
    }

    fn closed_until(reason: &'static str, sentence: impl Into<String>, until: Timestamp) -> Self {
        Self::Closed { reason, sentence: sentence.into(), until: Some(until) }
    }
}

/// The gate: conditions in the order of `spec/convergence.md` 5.9, the first that fails counts.
pub fn replan_gate(facts: &GateFacts, now: Timestamp) -> Gate {
    planner(facts, now)
        .or_else(|| backlog(facts))
        .or_else(|| waiting(facts, now))
        .unwrap_or_else(|| signed(facts))
}

/// Conditions 1 to 4: the planner itself.
fn planner(facts: &GateFacts, now: Timestamp) -> Option<Gate> {
    if !facts.auto_replan {
        return Some(Gate::closed(
            "disabled_or_running",
            "automatic planning is switched off or the planner is stopped",
        ));
    }
    if let Some(task) = facts.planning {
        return Some(Gate::closed("planner_busy", format!("Task {task} is planning")));
    }
    // A sign of life of exactly this age still counts.
    if let Some(until) = ahead(facts.planner_seen_at, RECENTLY_ACTIVE, now, true) {
        return Some(Gate::closed_until(
            "planner_recently_active",
            "the planner ended less than 90 s ago",
            until,
        ));
    }
    (!facts.has_requirement)
        .then(|| Gate::closed("missing_requirement_path", "there is no requirement with a goal to plan from"))
}

/// Conditions 5 to 7 and the backlog of issues: work that is there already.
fn backlog(facts: &GateFacts) -> Option<Gate> {
    let Counts { queued, running, blocked, failed } = facts.counts;
    if facts.pending_reviews > 0 {
        let sentence = format!("{} finished Runs wait for their review", facts.pending_reviews);
        return Some(Gate::closed("pending_judge_runs", sentence));
    }
    if blocked > 0 {
        return Some(Gate::closed("blocked_tasks_present", format!("{blocked} Tasks are Blocked")));
    }
    // Failed Tasks are tried again, so they are in progress too (H16).
    if queued + running + failed > 0 {
        let sentence = format!("{queued} Tasks are Queued, {running} Running and {failed} Failed");
        return Some(Gate::closed("tasks_in_progress", sentence));
    }
    match facts.issues {
        IssueBacklog::NoForge | IssueBacklog::Open(0) => None,
        IssueBacklog::Open(count) => {
            Some(Gate::closed("issue_backlog_present", format!("{count} open issues are not done")))
        }
        IssueBacklog::Unknown(why) => {
            Some(Gate::closed("preflight_failed", format!("the open issues could not be counted: {why}")))
        }
    }
}

/// Conditions 8 and 9: the interval since the last plan and the last try.
fn waiting(facts: &GateFacts, now: Timestamp) -> Option<Gate> {
    if let Some(until) = ahead(facts.planned_at, facts.interval, now, false) {
        return Some(Gate::closed_until("recent_plan", "the last plan is younger than the interval", until));
    }
    let until = ahead(facts.tried_at, facts.interval, now, false)?;
    Some(Gate::closed_until("interval", "planning was tried less than the interval ago", until))
}

/// Condition 10: the same plan again.
fn signed(facts: &GateFacts) -> Gate {
    match facts.signature {
        Signature::AtCheckout => Gate::Open { signature: None },
        Signature::Unavailable(why) => {
            Gate::closed("signature_unavailable", format!("the state of the repository is not known: {why}"))
        }
        Signature::Known(signature)
            if is_same_plan(signature, facts.last_signature, facts.skip_same_signature) =>
        {
            Gate::closed(NO_DIFF, "requirement and repository are as they were for the last plan")
        }
        Signature::Known(signature) => Gate::Open { signature: Some(signature.to_owned()) },
    }
}

/// Whether a plan with `signature` would be the last one again and is not wanted.
pub fn is_same_plan(signature: &str, last: Option<&str>, skip_same_signature: bool) -> bool {
    skip_same_signature && last == Some(signature)
}

/// The moment `wait` after `since`, when it has not come yet; with `inclusive`, not passed yet.
fn ahead(since: Option<Timestamp>, wait: Duration, now: Timestamp, inclusive: bool) -> Option<Timestamp> {
    let until = since?.checked_add(wait).unwrap_or(Timestamp::MAX);
    (until > now || inclusive && until == now).then_some(until)
}

/// What a start of the planner by hand looks at (`spec/api.md` 2.4).
#[derive(Clone, Copy, Debug, Default)]
pub struct StartFacts<'a> {
    /// A Task that plans and has not ended.
    pub planning: Option<&'a str>,
    /// Tasks other than those that plan.
    pub counts: Counts,
    /// Open issues and pull requests of the forge, zero where there is none or it cannot be asked.
    pub issues: usize,
    pub pull_requests: usize,
    /// Tasks that wait for their review.
    pub pending_reviews: usize,
}

/// Why the planner is not started by hand, in the order of the API's conditions; `None` when it may.
pub fn start_refusal(facts: &StartFacts) -> Option<String> {
    let Counts { queued, running, blocked, failed } = facts.counts;
    if let Some(task) = facts.planning {
        return Some(format!("the planner is running already: Task {task}"));
    }
    if facts.counts.total() > 0 {
        return Some(format!(
            "there is a backlog: {queued} Tasks Queued, {running} Running, {failed} Failed, {blocked} Blocked"
        ));
    }
    if facts.issues > 0 {
        return Some(format!("there is a backlog of {} open issues", facts.issues));
    }
    (facts.pull_requests > 0 || facts.pending_reviews > 0).then(|| {
        format!(
            "{} pull requests are open and {} reviews pending",
            facts.pull_requests, facts.pending_reviews
        )
    })
}

#[cfg(test)]
#[path = "replan_tests.rs"]
mod tests;
