//! Why a Task does not move: the chain of decisions in words, one line each.
//!
//! Owns the text of `opentiger why`. It decides nothing: the gates come from the dispatcher's own queue
//! ([`crate::plan::dispatch::Queue::gates`]), the rest is what the objects say.

use std::fmt::Write as _;

use jiff::Timestamp;

use super::dispatch::{Admission, Gate, Gates, Wait};
use crate::crd::judge::JudgeStage;
use crate::crd::run::condition::POD_STARTED;
use crate::crd::system::component;
use crate::crd::{
    BlockReason, JudgeStatus, Next, NextKind, Purpose, Run, RunPhase, System, Task, TaskPhase, TaskStatus,
};

/// What an answer is made of.
pub struct Question<'a> {
    pub task: &'a Task,
    pub system: Option<&'a System>,
    /// The Run that the Task names as in progress.
    pub run: Option<&'a Run>,
    /// The dispatcher's gates; absent when the Task wants no Run.
    pub gates: Option<Gates>,
    /// The admission that the dispatcher would decide on now.
    pub admission: Option<&'a Admission>,
    /// Why the dispatcher would not admit it now.
    pub wait: Option<&'a Wait>,
    pub now: Timestamp,
}

/// One step of the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub waits: bool,
    pub what: &'static str,
    pub detail: String,
}

fn line(waits: bool, what: &'static str, detail: impl Into<String>) -> Line {
    Line { waits, what, detail: detail.into() }
}

/// The whole answer: a line `ok|WAITS  what  detail` for each step, and one with what comes next.
pub fn answer(q: &Question) -> String {
    let mut text = String::new();
    for Line { waits, what, detail } in chain(q) {
        let word = if waits { "WAITS" } else { "ok" };
        let detail = detail.replace('\n', " ");
        // Writing into a String does not fail.
        let _ = writeln!(text, "{word:<7}{what:<14}{detail}");
    }
    let _ = writeln!(text, "Next: {}", next(q));
    text
}

/// The steps in the order in which a person would ask.
pub fn chain(q: &Question) -> Vec<Line> {
    let nothing = TaskStatus::default();
    let status = q.task.status.as_ref().unwrap_or(&nothing);
    let mut lines = vec![phase_line(q.task, status)];
    lines.extend(status.next.as_ref().map(|next| next_line(next, q.now)));
    match &q.gates {
        Some(gates) => lines.extend(gates.gates.iter().map(gate_line)),
        None if status.phase.is_terminal() => {}
        None if !status.current_run.is_empty() => lines.push(run_line(&status.current_run, q.run)),
        None => lines.extend(recovery_lines(q, status)),
    }
    lines.extend(status.judge.as_ref().map(|judge| judge_line(judge, status)));
    lines
}

fn phase_line(task: &Task, status: &TaskStatus) -> Line {
    let name = task.metadata.name.as_deref().unwrap_or_default();
    let reason = status.block_reason.map(|reason| format!(" {}", reason.word())).unwrap_or_default();
    let attempts = match status.attempts {
        0 => "no attempt yet".to_owned(),
        n => format!("attempt {n}"),
    };
    let waits = match status.phase {
        TaskPhase::Queued | TaskPhase::Blocked | TaskPhase::Failed => true,
        TaskPhase::Running | TaskPhase::Done | TaskPhase::Cancelled => false,
    };
    line(waits, "phase", format!("Task {name} is {}{reason}, {attempts}", status.phase.word()))
}

fn next_line(next: &Next, now: Timestamp) -> Line {
    let by = match (next.kind, next.at) {
        (NextKind::Time, Some(at)) if at <= now => format!("since {at:.0}"),
        (NextKind::Time, Some(at)) => format!("at {at:.0}"),
        (NextKind::Time, None) => "at a time".into(),
        (NextKind::Watch, _) => "when something changes".into(),
        (NextKind::Operator, _) => "when a person acts".into(),
    };
    line(next.kind == NextKind::Operator, "next", format!("{by}: {}", next.detail))
}

fn gate_line(gate: &Gate) -> Line {
    line(gate.wait.is_some(), gate.what, gate.detail.clone())
}

fn run_line(name: &str, run: Option<&Run>) -> Line {
    let Some(run) = run else {
        return line(true, "run", format!("Run {name} is named but not there: it is read anew"));
    };
    let status = run.status.clone().unwrap_or_default();
    let stuck = status.conditions.iter().find(|c| c.type_ == POD_STARTED && c.status == "False");
    match (status.phase, stuck) {
        (RunPhase::Running, Some(stuck)) => {
            line(true, "run", format!("Run {name} cannot start: {}: {}", stuck.reason, stuck.message))
        }
        (RunPhase::Running, None) => {
            let agent = &run.spec.agent;
            line(false, "run", format!("Run {name} ({}) is in progress on {agent}", run.spec.purpose.word()))
        }
        (RunPhase::Success | RunPhase::Failed | RunPhase::Cancelled, _) => line(
            false,
            "run",
            format!("Run {name} has ended ({}): its result is taken in", status.phase.word()),
        ),
    }
}

/// The steps of a Task that waits for recovery and not for the dispatcher.
fn recovery_lines(q: &Question, status: &TaskStatus) -> Vec<Line> {
    let armed = q.system.is_some_and(System::is_armed);
    let hatch = match (q.system, armed) {
        (None, _) => Wait::NoSystem.detail(),
        (Some(_), true) => "the System is armed".into(),
        (Some(_), false) => Wait::Disarmed.detail(),
    };
    let stopped = q.system.is_some_and(|system| system.is_stopped(component::CYCLE_MANAGER));
    let component = if stopped {
        Wait::ComponentStopped { component: component::CYCLE_MANAGER }.detail()
    } else {
        format!("the {} is not stopped", component::CYCLE_MANAGER)
    };
    let mut lines = vec![line(!armed, "hatch", hatch), line(stopped, "component", component)];
    lines.push(match status.retry_at {
        Some(at) if at > q.now => line(true, "cooldown", Wait::RetryAt(at).detail()),
        Some(at) => line(false, "cooldown", format!("over since {at:.0}")),
        None => line(false, "cooldown", "no retry time is set"),
    });
    if let Some(failure) = &status.last_failure {
        let what = format!("{} ({}): {}", failure.class, failure.code, failure.summary);
        lines.push(line(false, "last failure", what.lines().next().unwrap_or_default()));
    }
    lines
}

fn judge_line(judge: &JudgeStatus, status: &TaskStatus) -> Line {
    let (stage, waits) = match judge.stage {
        JudgeStage::Review => ("waits for a review", true),
        JudgeStage::Merge => ("approved, waits for its merge", true),
        JudgeStage::Settled => ("settled", false),
    };
    let waits = waits && status.block_reason == Some(BlockReason::AwaitingJudge);
    let mut detail =
        format!("{stage}: {} reviews, {} merges of Run {}", judge.reviews, judge.merges, judge.run);
    if let Some(at) = judge.approved_at {
        let _ = write!(detail, ", approved at {at:.0}");
    }
    if !judge.last_error.is_empty() {
        let _ = write!(detail, ", last error: {}", judge.last_error);
    }
    line(waits, "judge", detail)
}

/// What comes next, in one sentence.
fn next(q: &Question) -> String {
    let nothing = TaskStatus::default();
    let status = q.task.status.as_ref().unwrap_or(&nothing);
    if status.phase.is_terminal() {
        return format!("nothing, the Task has ended ({}).", status.phase.word());
    }
    if q.task.spec.cancel {
        return "the Task is cancelled as soon as nothing of it runs.".into();
    }
    if let Some(admission) = q.admission {
        let what = match admission.purpose {
            Purpose::Execute => format!("attempt {}", admission.attempt),
            Purpose::Judge => "a review".into(),
            Purpose::Merge => "a merge".into(),
            Purpose::Plan => format!("planning, attempt {},", admission.attempt),
        };
        return format!("the dispatcher starts {what} on {} now.", admission.agent);
    }
    if let Some(wait) = q.wait {
        return format!("{}.", wait.detail());
    }
    match &status.next {
        Some(next) => format!("{}.", next.detail.trim_end_matches('.')),
        None => "the task controller looks at it.".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::task::LastFailure;
    use crate::plan::fixtures::{at, now, running, system, task};

    fn question<'a>(task: &'a Task, system: &'a System) -> Question<'a> {
        Question {
            task,
            system: Some(system),
            run: None,
            gates: None,
            admission: None,
            wait: None,
            now: now(),
        }
    }

    #[test]
    fn a_running_task_is_told_by_its_run() {
        let (task, run) = running("a");
        let system = system();
        let q = Question { run: Some(&run), ..question(&task, &system) };
        let name = run.metadata.name.clone().unwrap();
        let expected = format!(
            "ok     phase         Task a is Running, attempt 1\n\
             ok     next          when something changes: Run {name} is in progress\n\
             ok     run           Run {name} (Execute) is in progress on worker-1\n\
             Next: Run {name} is in progress.\n"
        );
        assert_eq!(answer(&q), expected);
    }

    #[test]
    fn a_task_that_recovers_is_told_by_its_cooldown_and_by_who_would_recover_it() {
        let mut task = task("a");
        let status = task.status.as_mut().unwrap();
        status.phase = TaskPhase::Failed;
        status.attempts = 2;
        status.retry_at = Some(at(30));
        status.next =
            Some(Next { kind: NextKind::Time, at: Some(at(30)), detail: "retry after a failure".into() });
        status.last_failure = Some(LastFailure {
            class: "test".into(),
            code: "verification_command_failed".into(),
            summary: "3 tests failed\nsecond line".into(),
            ..LastFailure::default()
        });
        let mut system = system();
        system.status.as_mut().unwrap().stopped = vec!["cycle-manager".into()];
        assert_eq!(
            answer(&question(&task, &system)),
            "WAITS  phase         Task a is Failed, attempt 2\n\
             ok     next          at 2026-03-01T12:00:30Z: retry after a failure\n\
             ok     hatch         the System is armed\n\
             WAITS  component     the cycle-manager is stopped: start it with an Operation of type Start and target cycle-manager\n\
             WAITS  cooldown      the next attempt starts at 2026-03-01T12:00:30Z\n\
             ok     last failure  test (verification_command_failed): 3 tests failed\n\
             Next: retry after a failure.\n"
        );
    }

    #[test]
    fn an_ended_task_has_no_next() {
        let mut task = task("a");
        task.status.as_mut().unwrap().phase = TaskPhase::Done;
        task.status.as_mut().unwrap().next = None;
        let system = system();
        assert_eq!(
            answer(&question(&task, &system)),
            "ok     phase         Task a is Done, no attempt yet\n\
             Next: nothing, the Task has ended (Done).\n"
        );
    }
}
