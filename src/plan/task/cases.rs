//! Numbered cases of the convergence page that a whole Task shows.

use jiff::Timestamp;
use kube::ResourceExt;

use super::table::State;
use super::*;
use crate::crd::run::CommandSource;
use crate::crd::*;
use crate::plan::fixtures::{at, now, run_of, task};

/// A Task, its Runs and children, and the settings.
struct World {
    task: Task,
    runs: Vec<Run>,
    children: Vec<Task>,
    system: SystemSpec,
}

impl World {
    fn new(name: &str) -> Self {
        Self { task: task(name), runs: Vec::new(), children: Vec::new(), system: SystemSpec::default() }
    }

    fn plan(&self, now: Timestamp) -> TaskPlan {
        let (runs, children): (Vec<&Run>, Vec<&Task>) =
            (self.runs.iter().collect(), self.children.iter().collect());
        plan_task(&Observed {
            task: &self.task,
            runs: &runs,
            live_pod: false,
            confirmed: true,
            system: &self.system,
            children: &children,
            orders: crate::plan::task::Orders::default(),
            now,
        })
    }

    /// Decides and writes; the answer is whether anything was written.
    fn step(&mut self, now: Timestamp) -> bool {
        match self.plan(now) {
            TaskPlan::Write(status) => self.task.status = Some(*status),
            TaskPlan::CreateThenWrite { tasks, status } => {
                self.children.extend(tasks);
                self.task.status = Some(*status);
            }
            TaskPlan::Wait { until: _ } => return false,
            TaskPlan::Confirm { run } => panic!("{run}"),
        }
        true
    }

    /// Admits the next attempt, which ends 20 s after `now()`.
    fn attempt(&mut self, verdict: RunStatus) -> &TaskStatus {
        let mut run = run_of(&self.task);
        self.task.status = Some(admitted(&self.task, &run, &[], now()));
        run.status = Some(RunStatus { finished_at: Some(at(20)), ..verdict });
        // As the cache keeps one that has ended.
        run.spec.inputs = run::RunInputs::default();
        self.runs.push(run);
        assert!(self.step(at(21)));
        self.status()
    }

    fn fail(&mut self, code: &str, summary: &str) -> &TaskStatus {
        self.attempt(failed(code, summary))
    }

    fn status(&self) -> &TaskStatus {
        self.task.status.as_ref().unwrap()
    }

    fn last(&self) -> (&str, &str) {
        let last = self.status().transitions.last().unwrap();
        (&last.event, &last.reason)
    }
}

fn failed(code: &str, summary: &str) -> RunStatus {
    let class = crate::plan::classify::classify(code, summary).class;
    RunStatus {
        phase: RunPhase::Failed,
        failure_code: code.into(),
        failure_class: Some(class),
        summary: summary.into(),
        ..RunStatus::default()
    }
}

#[test]
fn a_failure_is_left_alone_for_its_cooldown_c63() {
    let mut world = World::new("a");
    world.fail("execution_failed", "boom");
    assert_eq!(world.plan(at(20 + 29)), TaskPlan::Wait { until: Some(at(50)) });
    assert!(world.step(at(20 + 31)));
    assert_eq!(world.last(), ("task.requeued", "cooldown_retry"));
}

#[test]
fn a_diverged_branch_is_carried_on_in_the_conflict_lane_c68() {
    let mut world = World::new("a");
    world.fail("branch_diverged_requires_recreate", "branch_diverged_requires_recreate: both");
    assert_eq!(world.status().effective.as_ref().unwrap().lane.as_deref(), Some("conflict_recovery"));
    let transitions: Vec<(&str, &str)> =
        world.status().transitions[1..].iter().map(|t| (t.event.as_str(), t.reason.as_str())).collect();
    assert_eq!(
        transitions,
        [("task.recovery_escalated", "branch_diverged_requires_recreate"), ("task.split", "needs_rework")]
    );
    assert_eq!(world.children[0].spec.lane.as_deref(), Some("conflict_recovery"));
}

#[test]
fn adjusted_commands_are_seen_at_once_and_used_by_the_next_run_c69() {
    let mut world = World::new("a");
    world.task.spec.commands = vec!["make test".into(), "pnpm run check".into()];
    let detail = Some(FailureDetail::of_command("make test", CommandSource::Explicit));
    let verdict = failed("verification_command_missing_make_target", "no rule to make target");
    let status = world.attempt(RunStatus { failure: detail, ..verdict });
    assert_eq!((status.phase, status.retry_at), (TaskPhase::Blocked, Some(at(140))));
    assert_eq!(status.effective.as_ref().unwrap().commands, Some(vec!["pnpm run check".to_string()]));
    assert!(world.step(at(140)));
    let word = "verification_command_missing_make_target_adjusted_from_blocked";
    assert_eq!(world.last(), ("task.requeued", word));
    assert_eq!(run_of(&world.task).spec.inputs.commands, ["pnpm run check"]);
    assert_eq!(world.task.spec.commands.len(), 2, "the spec is the user's");
}

#[test]
fn added_paths_are_seen_at_once_and_used_by_the_next_run_c73() {
    let mut world = World::new("a");
    world.task.spec.allowed_paths = vec!["src/**".into()];
    let detail = FailureDetail::of_violations(["Change outside allowed paths: Makefile"]);
    let verdict = failed("policy_violation", "policy violation");
    world.attempt(RunStatus { failure: Some(detail), ..verdict });
    let paths = ["src/**".to_string(), "Makefile".to_string()];
    let effective = world.status().effective.clone().unwrap();
    assert_eq!(effective.allowed_paths.as_deref(), Some(&paths[..]));
    assert!(world.step(at(140)));
    assert_eq!(world.last(), ("task.requeued", "policy_allowed_paths_adjusted_from_blocked"));
    assert_eq!(run_of(&world.task).spec.inputs.allowed_paths, paths);
}

#[test]
fn a_limit_without_a_reset_waits_for_the_backoff_c77() {
    let mut world = World::new("a");
    world.task.metadata.uid = Some("task-1".into());
    let status = world.fail("quota_failure", "usage limit");
    // 123.917 s after the failure, in whole seconds.
    assert_eq!((status.block_reason, status.retry_at), (Some(BlockReason::QuotaWait), Some(at(20 + 124))));
    assert_eq!(world.plan(at(143)), TaskPlan::Wait { until: Some(at(144)) });
    assert!(world.step(at(144)));
    assert_eq!(world.last(), ("task.requeued", "quota_wait_retry"));
}

#[test]
fn a_stated_time_of_day_counts_from_the_failure_c78() {
    let mut world = World::new("a");
    // The failure is at 12:00:20.
    let status = world.fail("quota_failure", "usage limit. Try again at 1:00 PM");
    assert_eq!(status.retry_at, Some(at(3600)));
    assert_eq!(world.plan(at(1800)), TaskPlan::Wait { until: Some(at(3600)) }, "not half-way (H8)");
}

#[test]
fn a_split_cancels_the_parent_for_its_child_c85() {
    let mut world = World::new("a");
    let status = world.fail("no_actionable_changes", "no relevant changes were made").clone();
    assert_eq!((status.phase, status.next.as_ref()), (TaskPhase::Cancelled, None));
    assert_eq!(world.last(), ("task.split", "needs_rework"));
    let child = world.children.remove(0);
    assert_eq!(status.superseded_by, child.name_any());
    let complete =
        status.conditions.iter().find(|c| c.type_ == crate::crd::task::condition::COMPLETE).unwrap();
    assert!(complete.message.contains(&child.name_any()), "{}", complete.message);
    assert_eq!(status.retries.rework, 1);
}

#[test]
fn a_repetition_after_a_crash_makes_the_same_child_c83() {
    let mut world = World::new("a");
    let before = world.task.clone();
    world.fail("no_actionable_changes", "no relevant changes were made");
    let (made, written) = (world.children[0].clone(), world.status().clone());
    // The child was created, the status never written.
    world.task = before;
    let run = world.runs[0].clone();
    world.task.status = Some(admitted(&world.task, &run, &[], now()));
    match world.plan(at(21)) {
        TaskPlan::CreateThenWrite { tasks, status } => {
            assert_eq!((tasks, *status), (vec![made], written));
        }
        plan => panic!("{plan:?}"),
    }
}

#[test]
fn a_child_whose_name_is_taken_leaves_the_task_to_a_person() {
    let mut world = World::new("a");
    let mut run = run_of(&world.task);
    world.task.status = Some(admitted(&world.task, &run, &[], now()));
    run.status = Some(failed("no_actionable_changes", "nothing"));
    world.runs.push(run);
    let TaskPlan::CreateThenWrite { tasks, status } = world.plan(at(21)) else { panic!("no split") };
    let runs: Vec<&Run> = world.runs.iter().collect();
    let observed = Observed {
        task: &world.task,
        runs: &runs,
        live_pod: false,
        confirmed: true,
        system: &world.system,
        children: &[],
        orders: crate::plan::task::Orders::default(),
        now: at(21),
    };
    let refused = child_refused(&observed, &status, &tasks[0].name_any());
    assert_eq!(State::of(&refused), State::NeedsRework);
    assert_eq!((refused.next.as_ref().unwrap().kind, refused.retries.rework), (NextKind::Operator, 1));
    assert!(refused.current_run.is_empty() && refused.superseded_by.is_empty());
    world.task.status = Some(refused);
    assert!(!world.step(at(9999)), "it does not try again by itself");
    world.task.metadata.generation = Some(2);
    assert!(world.step(at(9999)));
    assert_eq!(world.last(), ("task.requeued", "spec_edited"));
}

#[test]
fn a_blocked_task_without_a_reason_is_tried_again_but_one_that_waits_for_its_issue_is_not_c92() {
    let mut world = World::new("a");
    let blocked =
        |reason| TaskStatus { phase: TaskPhase::Blocked, block_reason: reason, ..TaskStatus::default() };
    world.task.metadata.generation = None;
    world.task.status = Some(blocked(None));
    assert!(world.step(at(0)));
    assert_eq!(world.status().retry_at, Some(at(120)));
    assert!(world.step(at(120)));
    assert_eq!(world.last(), ("task.requeued", "blocked_cooldown_retry"));
    world.task.status = Some(blocked(Some(BlockReason::IssueLinking)));
    assert!(world.step(at(0)), "it says what it waits for");
    assert!(!world.step(at(99_999)), "and goes on waiting (H12)");
    assert_eq!(world.status().next.as_ref().unwrap().kind, NextKind::Watch);
}

#[test]
fn an_edit_ends_what_recovery_had_put_in_place_of_the_spec() {
    let mut world = World::new("a");
    world.task.spec.commands = vec!["make test".into()];
    let detail = Some(FailureDetail::of_command("make test", CommandSource::Explicit));
    let verdict = failed("verification_command_missing_make_target", "no rule to make target");
    world.attempt(RunStatus { failure: detail, ..verdict });
    let adjusted = world.task.clone();
    let commands = |world: &World| world.status().effective.as_ref().and_then(|e| e.commands.clone());
    assert_eq!(commands(&world), Some(vec![]));
    // While it cools down.
    world.task.metadata.generation = Some(2);
    assert!(world.step(at(30)));
    assert_eq!((commands(&world), world.status().retry_at), (None, Some(at(140))));
    assert!(!world.step(at(31)), "once");
    // While it is Queued.
    world.task = adjusted.clone();
    assert!(world.step(at(140)));
    world.task.metadata.generation = Some(2);
    assert_eq!(run_of(&world.task).spec.inputs.commands, ["make test"], "also before it was looked at");
    assert!(world.step(at(141)));
    assert_eq!((commands(&world), world.status().phase), (None, TaskPhase::Queued));
    // While it runs: the failure is that of the old spec, and the new one gets its attempt.
    world.task = adjusted;
    assert!(world.step(at(140)));
    let mut run = run_of(&world.task);
    world.task.status = Some(admitted(&world.task, &run, &[], at(141)));
    run.status = Some(failed("no_actionable_changes", "nothing"));
    world.runs.push(run);
    world.task.metadata.generation = Some(2);
    assert!(world.step(at(200)));
    assert_eq!((commands(&world), State::of(world.status())), (None, State::NeedsRework));
    assert!(world.status().retry_at.is_some());
}

#[test]
fn the_next_attempt_is_told_what_failed_and_how_often() {
    let mut world = World::new("a");
    world.fail("execution_failed", "boom at src/a.rs");
    world.step(at(50));
    assert_eq!(run_of(&world.task).spec.inputs.previous_failure, "boom at src/a.rs");
    world.fail("verification_command_failed", "verification failed at make test [explicit]: 2 failed");
    world.step(at(200));
    assert_eq!(
        run_of(&world.task).spec.inputs.previous_failure,
        "verification failed at make test [explicit]: 2 failed (attempt 2; before it failed: 1 model)"
    );
    world.fail("execution_failed", &"é".repeat(5000));
    let failure = world.status().last_failure.as_ref().unwrap();
    let told = &failure.summary;
    assert!(told.chars().count() <= 2048 && told.ends_with("1 model, 2 test)"), "{told}");
    let earlier = [
        "attempt 2 (test): verification failed at make test [explicit]: 2 failed",
        "attempt 1 (model): boom at src/a.rs",
    ];
    assert_eq!(failure.earlier, earlier, "newest first");
    assert_eq!(run_of(&world.task).spec.inputs.earlier_failures, earlier);
    // The same words need no repetition, and two are enough.
    world.step(at(900));
    world.fail("execution_failed", "another");
    world.step(at(9000));
    world.fail("execution_failed", "boom at src/a.rs");
    let earlier = &world.status().last_failure.as_ref().unwrap().earlier;
    assert_eq!(earlier.len(), 2, "{earlier:?}");
    assert!(earlier[0] == "attempt 4 (model): another" && earlier[1].starts_with("attempt 3 (model): éé"));
    assert_eq!(earlier[1].chars().count(), 512);
}

#[test]
fn a_run_that_hung_is_tried_again_as_a_flaky_one_c93() {
    let mut world = World::new("a");
    let status =
        world.fail("transient_or_flaky_failure", "the Pod ran longer than its deadline and timed out");
    assert_eq!(
        (status.phase, status.last_failure.as_ref().unwrap().class.as_str()),
        (TaskPhase::Failed, "flaky")
    );
}
