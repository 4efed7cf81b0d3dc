//! What the executor has left in the checkout: its change, the path policy, the verification commands.
//!
//! Testimony: `publish` recomputes the change and applies the policy again. Must not start the executor.

use std::ffi::OsString;
use std::path::Path;

use super::changes::{self, Baseline, Changes};
use super::contract::Base;
use super::process::{Finished, Supervisor};
use super::{Early, NAMED_VIOLATIONS, Settings, cancelled, early, last_words, quota_wait};
use crate::crd::FailureDetail;
use crate::crd::pool::Role;
use crate::crd::run::VerificationReport;
use crate::crd::wire::{Inputs, Outcome};
use crate::plan::command::{Step, docser, empty, steps};
use crate::plan::policy::{Policy, Violation, is_documentation, relevant};
use crate::runner::verify::{self, Verdict, Verification};

/// What the work is held against.
#[derive(Clone, Copy)]
pub(super) struct Check<'a> {
    pub inputs: &'a Inputs,
    pub settings: &'a Settings,
    pub policy: &'a Policy,
    pub baseline: &'a Baseline,
    /// What the repository has run besides the Task's commands.
    pub base: &'a Base,
    /// Environment of the commands, without secrets.
    pub env: &'a [(OsString, OsString)],
}

/// What was found.
pub(super) enum Found {
    /// All is well with these changed paths.
    Verified(Vec<String>),
    /// A verification command failed.
    Failed(Box<Failed>),
}

/// A failed verification command.
pub(super) struct Failed {
    /// The result of the Run, if it is left at that.
    pub result: Early,
    /// Failure code.
    pub code: &'static str,
    /// The command; empty when it was none of them.
    pub command: String,
    /// What it said.
    pub output: String,
}

/// Looks at the change and runs the commands; `report` holds those of this round afterwards.
///
/// `timed_out` is what an executor that ran out of time has said. `Err` is the end of a Run that no
/// command can tell anything about.
pub(super) async fn run(
    supervisor: &mut Supervisor,
    check: &Check<'_>,
    timed_out: Option<&Finished>,
    report: &mut VerificationReport,
) -> Result<Found, Early> {
    report.commands.clear();
    let changes = changes(supervisor, check).await?;
    let relevant = relevant(changes.paths(), |path| check.settings.checkout.join(path).is_file());
    if relevant.is_empty() {
        empty_change(check.inputs, timed_out, check.settings)?;
    } else if changes.is_exact() {
        within_policy(check.policy, &relevant)?;
    }
    let own = own_steps(check.inputs, &check.settings.checkout);
    let automatic = check.base.commands(check.inputs, &check.settings.checkout, &relevant, &own);
    for (command, why) in &automatic.left_out {
        println!("[opentiger] automatic command left out: {}: {why}", supervisor.mask().hide(&**command));
    }
    let verification = Verification {
        own: &own,
        automatic: &automatic.steps,
        automatic_may_fail: check.inputs.spec.verification.automatic_may_fail,
        checkout: &check.settings.checkout,
        env: check.env,
        limit: check.settings.command_limit,
        documentation_only: !relevant.is_empty() && relevant.iter().all(|path| is_documentation(path)),
        no_change: relevant.is_empty(),
    };
    match verify::run(supervisor, &verification, report).await {
        Verdict::Passed { passed } => {
            let all = own.len() + automatic.steps.len();
            println!("[opentiger] verification passed, {passed} of {all} commands ran");
            Ok(Found::Verified(relevant))
        }
        Verdict::Failed { code, mut summary, source, command, output } => {
            if timed_out.is_some() {
                let timebox = &check.inputs.spec.inputs.timebox.0;
                summary.push_str(&format!(" (executor timed out after {timebox})"));
            }
            let mut result = early(Outcome::NeedsRework, code, summary);
            result.failure = (!command.is_empty()).then(|| FailureDetail::of_command(&command, source));
            Ok(Found::Failed(Box::new(Failed { result, code, command, output })))
        }
        Verdict::Stopped => Err(cancelled().into()),
    }
}

/// The Task's own commands, as far as its role runs them.
pub(super) fn own_steps(inputs: &Inputs, checkout: &Path) -> Vec<Step> {
    let (commands, repo) = (&inputs.spec.inputs.commands, checkout.to_string_lossy());
    match inputs.spec.role {
        Role::Docser => steps(&docser(commands), &repo),
        Role::Worker | Role::Tester | Role::Judge | Role::Planner => steps(commands, &repo),
    }
}

async fn changes(supervisor: &mut Supervisor, check: &Check<'_>) -> Result<Changes, Early> {
    let changes = changes::since(supervisor, &check.settings.checkout, check.baseline, check.env).await;
    if supervisor.is_stopped() {
        return Err(cancelled().into());
    }
    changes.map_err(|error| {
        let summary = format!("failed to read what the executor changed: {error}");
        early(Outcome::Failed, "execution_failed", summary)
    })
}

/// `Ok` when no change is acceptable (spec agents 1.8).
fn empty_change(inputs: &Inputs, timed_out: Option<&Finished>, settings: &Settings) -> Result<(), Early> {
    if let Some(finished) = timed_out {
        if let Some(result) = quota_wait(finished, settings) {
            return Err(result.into());
        }
        let summary = format!(
            "executor timed out after {} with nothing changed: {}",
            inputs.spec.inputs.timebox.0,
            last_words(finished)
        );
        return Err(early(Outcome::Failed, "execution_failed", summary));
    }
    if empty::is_acceptable(&inputs.spec.inputs, inputs.spec.role) {
        return Ok(());
    }
    Err(early(Outcome::NeedsRework, "no_actionable_changes", "no relevant changes were made"))
}

fn within_policy(policy: &Policy, relevant: &[String]) -> Result<(), Early> {
    let violations: Vec<Violation> = relevant.iter().filter_map(|path| policy.violation(path)).collect();
    if violations.is_empty() {
        return Ok(());
    }
    let named: Vec<String> = violations.iter().take(NAMED_VIOLATIONS).map(ToString::to_string).collect();
    let more = violations.len().saturating_sub(NAMED_VIOLATIONS);
    let more = if more > 0 { format!("; and {more} more") } else { String::new() };
    let summary = format!("policy violation: {}{more}", named.join("; "));
    let mut result = early(Outcome::NeedsRework, "policy_violation", summary);
    result.failure = Some(FailureDetail::of_violations(violations));
    Err(result)
}
