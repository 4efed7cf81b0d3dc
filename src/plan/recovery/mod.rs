//! What is done about a failed attempt (spec: convergence 5.5 and 5.6), decided once, when it ends.
//!
//! The rows are the original's, in its order; the first that fits wins. What differs, by the design:
//! - One Run counts once (invariant S6): `retries.failure` for a cooldown retry (RF), `retries.rework`
//!   for everything that needs rework (RB), and each row reads only its own counter (H22).
//! - RB10 is not five idle ticks but attempts that are told which paths they must not change.
//! - Rows RF1, RF2, RB2, RB3 and RB20 to RB23 are about reviews, which are Runs here and not Tasks
//!   (H13, H20, H21); RB1 holds a Task in `plan::task` while its follow-up works (H11).
//! - Rows that heed no limit (RF3, RF4, RB6, RB8) are bounded by nature: each drops a command, moves a
//!   check before a clean-up, or adds a path to a list with an end; none can be made twice.
//!
//! So every chain of failures ends: at a success, at a split (at most `autoReworkMaxDepth` of them), at
//! a cancellation that says why, or at a person.

pub mod commands;
pub mod notes;
pub mod paths;
pub mod split;

use kube::ResourceExt;

use self::commands::{Adjustment, adjust, failed_command, from_blocked};
use self::paths::{Asked, command_driven, outside, safe, widened};
use crate::crd::run::CommandSource;
use crate::crd::system::Recovery;
use crate::crd::task::Retries;
use crate::crd::{FailureClass, FailureDetail, Task, labels};
use crate::plan::classify::{self, Classification};

/// In-place retries of a Task that needs rework (RB7).
pub const IN_PLACE_LIMIT: i32 = 5;
/// Value of [`labels::ORIGIN`] of a Task that solves a merge conflict.
pub const CONFLICT_AUTOFIX: &str = "autofix_conflict";
/// Lane of Tasks that repair conflicts.
pub const CONFLICT_LANE: &str = "conflict_recovery";
const POLICY_VIOLATION: &str = "policy_violation";

/// A failed attempt and what decides about it.
#[derive(Clone, Debug)]
pub struct Failure<'a> {
    pub task: &'a Task,
    /// Tasks whose parent it is.
    pub children: &'a [&'a Task],
    pub settings: &'a Recovery,
    /// Counters before this failure.
    pub retries: Retries,
    pub class: FailureClass,
    pub classification: Classification,
    /// Verification or policy refused the change; else the execution itself failed.
    pub verification: bool,
    /// The newest failures look alike.
    pub repeated: bool,
    /// What the Run said.
    pub summary: &'a str,
    pub detail: Option<&'a FailureDetail>,
    /// As the Run had them, unless the spec was edited.
    pub allowed_paths: &'a [String],
    pub commands: &'a [String],
    /// The spec was edited since the Run was admitted: what it had is no longer what counts.
    pub edited: bool,
    /// No attempt can succeed before the spec is edited.
    pub hopeless: bool,
    /// The Task plans other Tasks: the next planning replaces it, rework does not.
    pub planning: bool,
}

/// What is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Tried again as it is, with the failure told.
    Retry { reason: &'static str },
    /// Tried again with these commands.
    Commands { commands: Vec<String>, reason: String },
    /// Tried again with these allowed paths.
    Paths { allowed: Vec<String>, reason: &'static str },
    /// Tried again, told which paths it must not change.
    Suppress,
    /// Carried on by a rework Task.
    Split,
    /// Carried on by a rework Task that exists already.
    Existing { child: String },
    /// Given up.
    Cancel { reason: &'static str, why: String },
    /// Only a person can move it.
    Person { why: String },
}

/// How a Task comes to its remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// Failed, and after the cooldown Queued (RF).
    Failed,
    /// Blocked NeedsRework straight from verification.
    Rework { reason: &'static str },
    /// Blocked NeedsRework because a limit is reached, or no retry can help (RF5).
    Escalated { reason: &'static str },
}

/// The decision about a failed attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    pub route: Route,
    pub remedy: Remedy,
    /// The lane to go on in.
    pub lane: Option<&'static str>,
}

impl Remedy {
    /// The word of the event that follows.
    pub fn word(&self) -> &str {
        match self {
            Self::Retry { reason } | Self::Paths { allowed: _, reason } | Self::Cancel { reason, why: _ } => {
                reason
            }
            Self::Commands { commands: _, reason } => reason,
            Self::Suppress => "needs_rework_in_place_retry",
            Self::Split => "needs_rework",
            Self::Existing { child: _ } => "rework_child_already_exists",
            Self::Person { why: _ } => "operator",
        }
    }
}

/// Decides about a failed attempt.
pub fn decide(f: &Failure) -> Decision {
    let reason = f.classification.reason;
    let diverged = reason == "branch_diverged_requires_recreate";
    let lane = diverged.then_some(CONFLICT_LANE);
    let route = if f.verification { Route::Rework { reason } } else { Route::Escalated { reason } };
    if f.hopeless {
        let why = format!("a failure of class {} is not retried", f.class.word());
        return Decision { route, remedy: Remedy::Person { why }, lane };
    }
    if f.edited {
        // What the edit asks for deserves an attempt; a Task can be edited only so often.
        let route = if f.verification { route } else { Route::Failed };
        return Decision { route, remedy: Remedy::Retry { reason: "spec_edited" }, lane: None };
    }
    if f.verification {
        return Decision { route, remedy: rework(f), lane };
    }
    match retry_failed(f) {
        Some(remedy) => Decision { route: Route::Failed, remedy, lane: None },
        None => {
            let reason = if f.repeated { "repeated_same_failure_signature" } else { reason };
            Decision { route: Route::Escalated { reason }, remedy: rework(f), lane }
        }
    }
}

/// The Task's commands without what is at fault. An automatic command is none of them: the Task's own stay.
fn adjusted(f: &Failure) -> Option<Adjustment> {
    let auto = CommandSource::Automatic.word();
    let automatic = match f.detail {
        Some(detail) => detail.source == auto,
        None => f.summary.contains(&format!(" [{auto}]: ")),
    };
    if automatic { None } else { adjust(f.classification.reason, f.commands, command(f)) }
}

/// Rows RF3, RF4, RF6; `None` is RF5.
fn retry_failed(f: &Failure) -> Option<Remedy> {
    if let Some(adjusted) = adjusted(f) {
        return Some(Remedy::Commands { commands: adjusted.commands, reason: adjusted.reason.into() });
    }
    if f.classification.reason == POLICY_VIOLATION
        && let Some(allowed) = wider(f, &outside_paths(f))
    {
        return Some(Remedy::Paths { allowed, reason: "policy_allowed_paths_adjusted" });
    }
    let limit = classify::limit(f.class, f.settings.max_retries).unwrap_or(i32::MAX);
    let allowed = f.classification.retryable && f.retries.failure < limit && affordable(f);
    (allowed && !f.repeated).then_some(Remedy::Retry { reason: "cooldown_retry" })
}

/// Rows RB4 to RB13.
fn rework(f: &Failure) -> Remedy {
    let reason = f.classification.reason;
    let spent = f.retries.rework.saturating_add(1);
    if f.task.labels().get(labels::ORIGIN).is_some_and(|origin| origin == CONFLICT_AUTOFIX) {
        let why = "a conflict that an agent could not solve goes back to its review".to_string();
        return Remedy::Cancel { reason: "conflict_autofix_needs_rework_suppressed", why };
    }
    let setup = classify::limit(FailureClass::Setup, None).unwrap_or(0);
    if reason == "setup_or_bootstrap_issue" && spent <= setup && affordable(f) {
        return Remedy::Retry { reason: "setup_or_bootstrap_retry_from_blocked" };
    }
    if let Some(adjusted) = adjusted(f) {
        return Remedy::Commands { commands: adjusted.commands, reason: from_blocked(adjusted.reason) };
    }
    if f.classification.retryable && reason != POLICY_VIOLATION && spent <= IN_PLACE_LIMIT && affordable(f) {
        return Remedy::Retry { reason: "needs_rework_in_place_retry" };
    }
    let outside = outside_paths(f);
    if !outside.is_empty() {
        return refused_paths(f, &outside, spent);
    }
    carried_on(f)
}

/// Rows RB8 to RB10.
fn refused_paths(f: &Failure, outside: &[String], spent: i32) -> Remedy {
    if let Some(allowed) = wider(f, outside) {
        return Remedy::Paths { allowed, reason: "policy_allowed_paths_adjusted_from_blocked" };
    }
    let limit = f.settings.policy_suppression_max_retries;
    if spent < limit {
        return Remedy::Suppress;
    }
    let paths = outside.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
    let why = format!(
        "{limit} attempts changed paths outside spec.allowedPaths that cannot safely be allowed, last {paths}"
    );
    Remedy::Cancel { reason: "policy_violation_rework_suppressed_exhausted", why }
}

/// Rows RB11 to RB13.
fn carried_on(f: &Failure) -> Remedy {
    if f.planning {
        let why = "planning failed for good; the next planning makes a new Task".to_string();
        return Remedy::Cancel { reason: "planning_failed", why };
    }
    if let Some(child) = existing_child(f) {
        return Remedy::Existing { child };
    }
    let max = f.settings.auto_rework_max_depth;
    if max <= 0 {
        let why = "it needs rework, and recovery.autoReworkMaxDepth is 0".to_string();
        return Remedy::Person { why };
    }
    if split::depth(f.task) >= max {
        let why = format!("{max} rework Tasks in a row did not solve it");
        return Remedy::Cancel { reason: "rework_chain_max_depth_reached", why };
    }
    Remedy::Split
}

/// Another rework Task of this one that is not over. The one that a split would make is no other: it
/// is found again by its name after a crash.
fn existing_child(f: &Failure) -> Option<String> {
    let own = split::name(f.task);
    let is_rework = |child: &&&Task| {
        child.labels().get(labels::ORIGIN).is_some_and(|o| o == split::ORIGIN) && is_active(child)
    };
    f.children.iter().filter(is_rework).map(|child| child.name_any()).find(|name| *name != own)
}

/// Whether a Task is not over.
pub fn is_active(task: &Task) -> bool {
    !task.status.as_ref().is_some_and(|status| status.phase.is_terminal())
}

/// Whether the limit for all failures of a Task leaves another attempt.
fn affordable(f: &Failure) -> bool {
    f.settings.max_retries.is_none_or(|max| f.retries.failure.saturating_add(f.retries.rework) < max)
}

fn command<'a>(f: &Failure<'a>) -> Option<&'a str> {
    let told = f.detail.map(|detail| detail.command.trim()).filter(|command| !command.is_empty());
    told.or_else(|| failed_command(f.summary))
}

fn outside_paths(f: &Failure) -> Vec<String> {
    outside(f.detail.map_or(&[], |detail| detail.violations.as_slice()), f.summary)
}

/// The allowed paths with what may be added, when that is anything.
fn wider(f: &Failure, outside: &[String]) -> Option<Vec<String>> {
    let spec = &f.task.spec;
    let files = spec.context.as_ref().map_or(&[][..], |context| context.files.as_slice());
    let asked = Asked { title: &spec.title, goal: &spec.goal, commands: f.commands, role: spec.role, files };
    let mut added = safe(&asked, outside, f.settings.path_recovery);
    added.extend(command_driven(f.commands, spec.role));
    widened(f.allowed_paths, added)
}

#[cfg(test)]
mod tests;
