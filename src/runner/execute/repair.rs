//! The agent is started again, in the same checkout, to mend what a verification command found.
//!
//! Whether it is, is decided in `plan::command::repair`. Time and tokens of all rounds count together.

use std::time::{Duration, Instant};

use super::check::{self, Check, Found};
use super::process::{Finished, Supervisor};
use super::prompt::{self, Files, Finding};
use super::{Early, execute, infra};
use crate::crd::run::VerificationReport;
use crate::crd::wire::{Inputs, Outcome};
use crate::crd::{ExecutorType, Purpose};
use crate::plan::command::repair::{MAX_REPAIRS, Standing, may_repair};

/// What the executor was told, and since when it works.
pub(super) struct Prompted<'a> {
    /// Text of the first prompt.
    pub text: &'a str,
    pub files: &'a Files,
    /// When the timebox began.
    pub begun: Instant,
}

/// Verifies the work, and has it repaired as often as that is allowed. The changed paths when it passes
/// in the end, and what there is to report in any case.
pub(super) async fn until_verified(
    supervisor: &mut Supervisor,
    check: &Check<'_>,
    prompted: &Prompted<'_>,
    timed_out: Option<Finished>,
) -> (Result<Vec<String>, Early>, VerificationReport) {
    let mut report = VerificationReport { note: check.base.note.clone(), ..VerificationReport::default() };
    let ended = rounds(supervisor, check, prompted, timed_out, &mut report).await;
    (ended, report)
}

async fn rounds(
    supervisor: &mut Supervisor,
    check: &Check<'_>,
    prompted: &Prompted<'_>,
    mut timed_out: Option<Finished>,
    report: &mut VerificationReport,
) -> Result<Vec<String>, Early> {
    let timebox = check.inputs.spec.inputs.timebox.parse().unwrap_or(Duration::ZERO);
    let mut repairs = 0;
    let mut went_wrong = None;
    loop {
        let failed = match check::run(supervisor, check, timed_out.as_ref(), report).await? {
            Found::Verified(relevant) => return Ok(relevant),
            Found::Failed(failed) => failed,
        };
        let standing = Standing {
            reads_prompt: reads_prompt(check.inputs),
            repairs,
            repair_failed: went_wrong.is_some(),
            time_left: timebox.saturating_sub(prompted.begun.elapsed()),
            tokens_left: supervisor.tokens_left(),
        };
        if let Err(reason) = may_repair(&standing, failed.code, &failed.command) {
            println!("[opentiger] the agent is not asked to mend it: {reason}");
            return Err(after_repairs(failed.result, repairs, went_wrong));
        }
        repairs += 1;
        report.repairs = i64::from(repairs);
        println!(
            "[opentiger] repair {repairs} of {MAX_REPAIRS}: {}",
            supervisor.mask().hide(&*failed.command)
        );
        let finding = Finding { command: &failed.command, code: failed.code, output: &failed.output };
        let text = prompt::render_repair(prompted.text, finding);
        prompt::rewrite(prompted.files, &supervisor.mask().hide(text))
            .map_err(|error| infra("failed to write the prompt", &error))?;
        let left = Some(standing.time_left);
        match execute(supervisor, check.inputs, check.settings, prompted.files, left).await {
            Ok(ended) => timed_out = ended,
            // What it has changed before it failed may do (R6).
            Err(ended) if ended.outcome == Outcome::Failed => went_wrong = Some(ended.summary.clone()),
            Err(ended) => return Err(ended),
        }
    }
}

/// Whether the executor is told what to do by the prompt; a script and the mock do what they do.
fn reads_prompt(inputs: &Inputs) -> bool {
    let agent = match inputs.spec.template.executor.type_ {
        ExecutorType::ClaudeCode | ExecutorType::Codex | ExecutorType::OpenCode => true,
        ExecutorType::Command | ExecutorType::Mock => false,
    };
    agent && inputs.spec.purpose == Purpose::Execute
}

/// The failure with what was tried against it.
fn after_repairs(mut result: Early, repairs: u32, went_wrong: Option<String>) -> Early {
    if repairs > 0 {
        result.summary.push_str(&format!(" (still, after {repairs} of {MAX_REPAIRS} repairs by the agent)"));
    }
    if let Some(said) = went_wrong {
        result.summary.push_str(&format!("; the last repair failed: {said}"));
    }
    result
}
