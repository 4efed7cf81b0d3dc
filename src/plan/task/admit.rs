//! A Task gets its Run: found after a crash, or just created by the dispatcher.

use jiff::Timestamp;

use super::Observed;
use super::ended::INFRA_CAP;
use super::status::{enter, mark, observe_spec, watch};
use crate::crd::condition::is_true;
use crate::crd::judge::JudgeStage;
use crate::crd::task::{ResolvedDependency, condition};
use crate::crd::{BlockReason, JudgeStatus, Purpose, Run, Task, TaskPhase, TaskStatus};

/// A Run that was created for the next attempt, review or merge before the Task could be marked.
pub(in crate::plan) fn unclaimed<'a>(o: &Observed<'a>, status: &TaskStatus) -> Option<&'a Run> {
    if let Some(judge) = awaiting_judge(status) {
        return unclaimed_review(o, judge);
    }
    let newest = o.runs.iter().copied().filter(|r| !is_review(r)).max_by_key(|r| r.spec.attempt)?;
    let claimable = status.phase != TaskPhase::Running && newest.spec.attempt > status.attempts;
    claimable.then_some(newest)
}

/// The review of a Task that waits for a Judge or Merge Run.
fn awaiting_judge(status: &TaskStatus) -> Option<&JudgeStatus> {
    let waits = status.phase == TaskPhase::Blocked
        && status.block_reason == Some(BlockReason::AwaitingJudge)
        && status.current_run.is_empty();
    status.judge.as_ref().filter(|_| waits)
}

fn unclaimed_review<'a>(o: &Observed<'a>, judge: &JudgeStatus) -> Option<&'a Run> {
    let (purpose, next) = match judge.stage {
        JudgeStage::Review => (Purpose::Judge, judge.reviews + 1),
        JudgeStage::Merge => (Purpose::Merge, judge.merges + 1),
        JudgeStage::Settled => return None,
    };
    o.runs.iter().copied().find(|run| {
        run.spec.purpose == purpose
            && run.spec.review.as_ref().is_some_and(|target| {
                target.run_uid == judge.run_uid
                    && target.head_commit == judge.head_commit
                    && target.version == next
            })
    })
}

/// The status of a Task whose Run `run` has just been created. It is Running; with a Judge or Merge Run
/// it stays as it is and only says so.
///
/// `resolved` are the dependencies on which the admission relied; they stay resolved.
pub fn admitted(task: &Task, run: &Run, resolved: &[ResolvedDependency], now: Timestamp) -> TaskStatus {
    let mut status = task.status.clone().unwrap_or_default();
    let name = run.metadata.name.clone().unwrap_or_default();
    status.current_run.clone_from(&name);
    status.last_run.clone_from(&name);
    status.agent.clone_from(&run.spec.agent);
    status.retry_at = None;
    match run.spec.purpose {
        Purpose::Execute | Purpose::Plan => attempt_started(task, run, resolved, status, now),
        Purpose::Judge => review_started(task, run, status, ("Reviewing", "a review is in progress"), now),
        Purpose::Merge => review_started(task, run, status, ("Merging", "a merge is in progress"), now),
    }
}

fn attempt_started(
    task: &Task,
    run: &Run,
    resolved: &[ResolvedDependency],
    mut status: TaskStatus,
    now: Timestamp,
) -> TaskStatus {
    let name = status.current_run.clone();
    status.attempts = run.spec.attempt;
    observe_spec(&mut status, task);
    let effective = status.effective.get_or_insert_default();
    effective.lane = Some(run.spec.lane.clone());
    effective.target_area = run.spec.target_areas.first().cloned();
    for dependency in resolved {
        if !status.resolved_dependencies.contains(dependency) {
            status.resolved_dependencies.push(dependency.clone());
        }
    }
    let next = watch(format!("Run {name} is in progress"));
    enter(&mut status, TaskPhase::Running, None, Some(next), ("task.started", ""), &name, now);
    mark(&mut status, condition::PROGRESSING, true, "Running", "an attempt is in progress", task, now);
    if is_true(&status.conditions, condition::STALLED) && status.retries.infra < INFRA_CAP {
        mark(&mut status, condition::STALLED, false, "Running", "an attempt is in progress", task, now);
    }
    status
}

/// Phase, reason and attempts stay: a review looks at an attempt and is none. It counts by its own
/// ordinal, so that the same Run never counts twice (S6).
fn review_started(
    task: &Task,
    run: &Run,
    mut status: TaskStatus,
    (reason, message): (&str, &str),
    now: Timestamp,
) -> TaskStatus {
    let version = run.spec.review.as_ref().map_or(0, |target| target.version);
    if let Some(judge) = status.judge.as_mut() {
        match run.spec.purpose {
            Purpose::Merge => judge.merges = judge.merges.max(version),
            Purpose::Judge | Purpose::Execute | Purpose::Plan => judge.reviews = judge.reviews.max(version),
        }
    }
    status.next = Some(watch(format!("Run {} is in progress", status.current_run)));
    mark(&mut status, condition::PROGRESSING, true, reason, message, task, now);
    if is_true(&status.conditions, condition::STALLED) {
        mark(&mut status, condition::STALLED, false, reason, message, task, now);
    }
    status
}

/// Whether a Run looks at the result of another one.
pub(in crate::plan) fn is_review(run: &Run) -> bool {
    match run.spec.purpose {
        Purpose::Judge | Purpose::Merge => true,
        Purpose::Execute | Purpose::Plan => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::{Condition, NextKind, RunPhase, RunStatus};
    use crate::plan::fixtures::{at, now, review_of, run_of, running, system, task};
    use crate::plan::task::{TaskPlan, plan_task};

    /// A Task that waits at this stage of its review.
    fn awaiting(stage: JudgeStage) -> Task {
        let mut task = task("a");
        task.spec.role = crate::crd::Role::Worker;
        let status = task.status.as_mut().unwrap();
        status.phase = TaskPhase::Blocked;
        status.block_reason = Some(BlockReason::AwaitingJudge);
        status.attempts = 2;
        status.retry_at = Some(at(-5));
        status.conditions.push(Condition {
            type_: condition::STALLED.into(),
            status: "True".into(),
            reason: "NoPool".into(),
            message: String::new(),
            last_transition_time: now(),
            observed_generation: 1,
        });
        status.judge = Some(JudgeStatus {
            stage,
            run: "a-hash-r2".into(),
            run_uid: "uid-r2".into(),
            head_commit: "c0ffee".into(),
            reviews: 3,
            merges: 1,
            ..JudgeStatus::default()
        });
        task
    }

    fn counts(status: &TaskStatus) -> (i32, i32, i32) {
        let judge = status.judge.as_ref().unwrap();
        (status.attempts, judge.reviews, judge.merges)
    }

    #[test]
    fn a_review_leaves_phase_and_attempts_alone_and_counts_once() {
        for (stage, purpose, expected, name) in [
            (JudgeStage::Review, Purpose::Judge, (2, 4, 1), "a-hash-r2-j4"),
            (JudgeStage::Merge, Purpose::Merge, (2, 3, 2), "a-hash-r2-m2"),
        ] {
            let mut task = awaiting(stage);
            let run = review_of(&task, purpose);
            let status = admitted(&task, &run, &[], now());
            assert_eq!(
                (status.phase, status.block_reason),
                (TaskPhase::Blocked, Some(BlockReason::AwaitingJudge))
            );
            assert_eq!((status.current_run.as_str(), status.agent.as_str()), (name, "judge-1"));
            assert_eq!((counts(&status), status.retry_at), (expected, None));
            assert_eq!(status.next.as_ref().map(|next| next.kind), Some(NextKind::Watch));
            assert_eq!(status.effective, None);
            assert!(is_true(&status.conditions, condition::PROGRESSING));
            assert!(!is_true(&status.conditions, condition::STALLED));
            task.status = Some(status);
            assert_eq!(counts(&admitted(&task, &run, &[], now())), expected);
        }
    }

    #[test]
    fn a_review_created_before_its_task_was_marked_is_adopted_and_another_one_is_not() {
        let task = awaiting(JudgeStage::Review);
        let ours = review_of(&task, Purpose::Judge);
        let adopted = |run: &Run| {
            let system = system();
            let plan = plan_task(&Observed {
                task: &task,
                runs: &[run],
                live_pod: false,
                confirmed: true,
                system: &system.spec,
                children: &[],
                orders: crate::plan::task::Orders::default(),
                now: now(),
            });
            matches!(plan, TaskPlan::Write(status) if status.current_run == "a-hash-r2-j4")
        };
        assert!(adopted(&ours));
        let mut of_another_commit = ours.clone();
        of_another_commit.spec.review.as_mut().unwrap().head_commit = "older".into();
        assert!(!adopted(&of_another_commit));
        assert!(!adopted(&review_of(&task, Purpose::Merge)));
        let mut of_before = ours;
        of_before.spec.review.as_mut().unwrap().version = 3;
        assert!(!adopted(&of_before));
    }

    #[test]
    fn what_recovery_changed_is_void_once_the_spec_was_edited() {
        let (mut task, mut run) = running("a");
        let status = task.status.as_mut().unwrap();
        status.effective.as_mut().unwrap().allowed_paths = Some(vec!["wider/**".into()]);
        assert_eq!(run_of(&task).spec.inputs.allowed_paths, ["wider/**"]);
        // Edited while the attempt runs: its end must not make the old values those of the new spec.
        task.metadata.generation = Some(2);
        assert_eq!(run_of(&task).spec.inputs.allowed_paths, task.spec.allowed_paths);
        run.status = Some(RunStatus { phase: RunPhase::Cancelled, ..RunStatus::default() });
        let system = system();
        let TaskPlan::Write(status) = plan_task(&Observed {
            task: &task,
            runs: &[&run],
            live_pod: false,
            confirmed: true,
            system: &system.spec,
            children: &[],
            orders: crate::plan::task::Orders::default(),
            now: now(),
        }) else {
            panic!("it is written");
        };
        assert_eq!((status.observed_generation, status.effective), (2, None));
    }
}
