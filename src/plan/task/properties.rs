//! What holds for every Task, whatever happens to it: it says what moves it, counts each Run once,
//! absorbs once it has ended, and no chain of failures goes on for ever.

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use proptest::prelude::*;

use super::table::{State, is_declared};
use super::*;
use crate::crd::*;
use crate::plan::fixtures::{at, now, run_of, task};

/// Failure codes and summaries that cost an attempt.
const FAILURES: [(&str, &str); 16] = [
    ("execution_failed", "boom"),
    ("execution_failed", "timed out"),
    ("execution_failed", "missing script: test"),
    ("environment_issue", "out of memory"),
    ("model_doom_loop", "doom loop"),
    ("external_directory_permission_prompt", "asked"),
    ("branch_diverged_requires_recreate", "diverged"),
    ("setup_or_bootstrap_issue", "no node_modules"),
    ("verification_command_failed", "verification failed at make test [explicit]: 2 failed"),
    ("verification_command_missing_make_target", "verification failed at make test [explicit]: no rule"),
    (
        "verification_command_sequence_issue",
        "verification failed at test -f build/x [explicit]: stderr unavailable",
    ),
    ("policy_violation", "Change outside allowed paths: Makefile"),
    ("policy_violation", "Change outside allowed paths: secret.txt"),
    ("policy_violation", "Change outside allowed paths: lib/a.rs"),
    ("policy_violation", "Change to denied path: .env"),
    ("no_actionable_changes", "no relevant changes were made"),
];

fn verdict(kind: usize, finished: Timestamp) -> RunStatus {
    let failed = |code: &str, class, summary: &str| RunStatus {
        phase: RunPhase::Failed,
        failure_code: code.into(),
        failure_class: Some(class),
        summary: summary.into(),
        ..RunStatus::default()
    };
    let status = match kind {
        0 => RunStatus { phase: RunPhase::Success, ..RunStatus::default() },
        1 => RunStatus { phase: RunPhase::Cancelled, ..RunStatus::default() },
        2 => failed("pod_lost", FailureClass::Infra, "the Pod was deleted while it ran"),
        3 => failed("quota_failure", FailureClass::Env, "usage limit, retry in 60s"),
        4 => failed("inputs_too_large", FailureClass::Model, "too large"),
        n => {
            let (code, summary) = FAILURES[n % FAILURES.len()];
            failed(code, crate::plan::classify::classify(code, summary).class, summary)
        }
    };
    RunStatus { finished_at: Some(finished), ..status }
}

/// What happens to a Task.
#[derive(Clone, Debug)]
enum Event {
    Admit,
    End(usize),
    Vanish,
    Edit,
    Cancel,
    Wait(i64),
    Repair(usize),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => Just(Event::Admit),
        4 => (0..21_usize).prop_map(Event::End),
        1 => Just(Event::Vanish),
        1 => Just(Event::Edit),
        1 => Just(Event::Cancel),
        3 => (1..4000_i64).prop_map(Event::Wait),
        1 => (0..4_usize).prop_map(Event::Repair),
    ]
}

struct World {
    task: Task,
    runs: Vec<Run>,
    children: Vec<Task>,
    system: SystemSpec,
    now: Timestamp,
}

impl World {
    fn new(task: Task) -> Self {
        Self { task, runs: vec![], children: vec![], system: SystemSpec::default(), now: now() }
    }

    fn status(&self) -> TaskStatus {
        self.task.status.clone().unwrap_or_default()
    }

    fn plan(&self) -> TaskPlan {
        let runs: Vec<&Run> = self.runs.iter().collect();
        let children: Vec<&Task> = self.children.iter().collect();
        plan_task(&Observed {
            task: &self.task,
            runs: &runs,
            live_pod: false,
            confirmed: true,
            system: &self.system,
            children: &children,
            orders: crate::plan::task::Orders::default(),
            now: self.now,
        })
    }

    /// Admits the next attempt, when the dispatcher would.
    fn admit(&mut self) -> bool {
        let status = self.status();
        let due = status.retry_at.is_none_or(|at| at <= self.now);
        if status.phase != TaskPhase::Queued || !due || self.task.spec.cancel {
            return false;
        }
        let run = run_of(&self.task);
        self.task.status = Some(admitted(&self.task, &run, &[], self.now));
        self.runs.push(run);
        true
    }

    fn end(&mut self, kind: usize) {
        let (name, now) = (self.status().current_run, self.now);
        let live = self.runs.iter_mut().find(|run| run.name_any() == name && run.status.is_none());
        if let Some(run) = live {
            run.status = Some(verdict(kind, now));
            // As the cache keeps one that has ended.
            run.spec.inputs = run::RunInputs::default();
        }
    }

    fn happen(&mut self, event: &Event) {
        match event {
            Event::Admit => {
                self.admit();
            }
            Event::End(kind) => self.end(*kind),
            Event::Vanish => {
                let name = self.status().current_run;
                self.runs.retain(|run| run.name_any() != name);
            }
            Event::Edit if !self.status().phase.is_terminal() => {
                self.task.metadata.generation = self.task.metadata.generation.map(|g| g + 1);
            }
            Event::Cancel if !self.status().phase.is_terminal() => self.task.spec.cancel = true,
            Event::Edit | Event::Cancel => {}
            Event::Wait(secs) => self.now = self.now.checked_add(SignedDuration::from_secs(*secs)).unwrap(),
            Event::Repair(phase) => {
                let mut repair = task("repair");
                repair.metadata.labels = Some([(labels::ORIGIN.to_string(), "autofix".to_string())].into());
                let phases = [TaskPhase::Queued, TaskPhase::Running, TaskPhase::Done, TaskPhase::Cancelled];
                repair.status.as_mut().unwrap().phase = phases[*phase];
                self.children = vec![repair];
            }
        }
    }

    /// Writes until nothing is left to write, checking each write.
    fn settle(&mut self) -> Result<(), TestCaseError> {
        for _ in 0..10 {
            let before = self.status();
            let (status, made) = match self.plan() {
                TaskPlan::Write(status) => (*status, vec![]),
                TaskPlan::CreateThenWrite { tasks, status } => (*status, tasks),
                TaskPlan::Wait { until } => {
                    prop_assert!(until.is_none_or(|at| at > self.now), "a wait that is over");
                    return Ok(());
                }
                TaskPlan::Confirm { run } => panic!("{run}"),
            };
            prop_assert!(!before.phase.is_terminal(), "what has ended is not written: {status:?}");
            prop_assert_ne!(&status, &before, "no write without a change");
            check_write(&before, &status)?;
            self.children.extend(made);
            self.task.status = Some(status);
        }
        Err(TestCaseError::fail(format!("it never rests: {:?}", self.status())))
    }
}

fn total(retries: crate::crd::task::Retries) -> i32 {
    retries.failure + retries.quota + retries.judge + retries.infra + retries.rework
}

/// One write: declared edges in order, at most one count, a next move or an end.
fn check_write(before: &TaskStatus, after: &TaskStatus) -> Result<(), TestCaseError> {
    let rise = total(after.retries) - total(before.retries);
    prop_assert!((0..=1).contains(&rise), "a write counts {rise}");
    // A count is for a Run that was in progress, which is over with the same write.
    prop_assert!(rise == 0 || before.phase == TaskPhase::Running && after.current_run.is_empty());
    let known = before.transitions.last().map_or(0, |t| t.sequence);
    let mut from = State::of(before);
    for new in after.transitions.iter().filter(|t| t.sequence > known) {
        let into = State::new(new.phase, new.block_reason);
        prop_assert!(is_declared(from, into, &new.event), "{from:?} to {into:?} by {}", new.event);
        from = into;
    }
    prop_assert_eq!(from, State::of(after), "every change of phase is a transition");
    if after.phase.is_terminal() {
        prop_assert!(after.next.is_none() && after.retry_at.is_none() && after.current_run.is_empty());
    } else {
        let next = after.next.as_ref();
        prop_assert!(next.is_some_and(|n| !n.detail.is_empty()), "no next: {after:?}");
        prop_assert_eq!(next.map(|n| n.kind == NextKind::Time), next.map(|n| n.at.is_some()));
    }
    Ok(())
}

/// Any status, also ones that only a hand could write.
fn any_status() -> impl Strategy<Value = TaskStatus> {
    let states = State::ALL.into_iter().filter(|s| *s != State::AwaitingJudge).collect::<Vec<_>>();
    let next = prop_oneof![
        Just(None),
        Just(Some(Next { kind: NextKind::Watch, at: None, detail: "w".into() })),
        Just(Some(Next { kind: NextKind::Operator, at: None, detail: "o".into() })),
    ];
    let wait = prop_oneof![Just(None), (-100..4000_i64).prop_map(|s| Some(at(s)))];
    (prop::sample::select(states), next, wait, 0..7, 0..7).prop_map(
        |(state, next, retry_at, failure, rework)| {
            let (phase, block_reason) = state.parts();
            let over = phase.is_terminal();
            TaskStatus {
                phase,
                block_reason,
                next: next.filter(|_| !over),
                retry_at: retry_at.filter(|_| !over),
                retries: crate::crd::task::Retries { failure, rework, ..Default::default() },
                ..TaskStatus::default()
            }
        },
    )
}

fn work(commands: &[&str]) -> Task {
    let mut task = task("work");
    task.spec.goal = "build it".into();
    task.spec.allowed_paths = vec!["src/**".into()];
    task.spec.commands = commands.iter().map(ToString::to_string).collect();
    task
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_task_says_what_moves_it_counts_once_and_absorbs_its_end(
        status in any_status(),
        events in prop::collection::vec(event(), 1..60),
    ) {
        let mut task = work(&["make clean", "test -f build/x", "make test"]);
        task.status = Some(status);
        let mut world = World::new(task);
        world.settle()?;
        for event in &events {
            let before = world.status();
            world.happen(event);
            world.settle()?;
            let status = world.status();
            if before.phase.is_terminal() {
                prop_assert_eq!(&status, &before, "an end is an end");
            } else if !status.phase.is_terminal() {
                prop_assert!(status.next.is_some(), "{:?}", status);
            }
        }
    }

    #[test]
    fn with_time_alone_every_chain_of_failures_ends_or_is_a_persons(
        kinds in prop::collection::vec(5..21_usize, 1..8),
        depth in 0..3_i32,
    ) {
        let mut world = World::new(work(&["make clean", "test -f build/x", "make test"]));
        world.system.recovery.auto_rework_max_depth = depth;
        let (mut attempts, mut generations) = (0_usize, 0);
        loop {
            world.settle()?;
            let status = world.status();
            if status.phase.is_terminal() {
                let Some(child) = world.children.pop() else { break };
                prop_assert_eq!(&status.superseded_by, &child.name_any());
                generations += 1;
                let now = world.now;
                let (system, mut child) = (world.system.clone(), child);
                child.metadata.uid = Some(format!("uid-{generations}"));
                child.metadata.generation = Some(1);
                child.status = Some(TaskStatus::default());
                world = World { now, system, ..World::new(child) };
                continue;
            }
            let next = status.next.clone().expect("a next move");
            match (next.kind, status.phase) {
                (NextKind::Operator, _) => break,
                (_, TaskPhase::Queued) => {
                    prop_assert!(world.admit(), "{:?}", status);
                    world.end(kinds[attempts % kinds.len()]);
                    attempts += 1;
                }
                (NextKind::Time, _) => world.now = next.at.expect("a time"),
                (NextKind::Watch, _) => prop_assert!(false, "nothing will come: {:?}", status),
            }
            // Six cooldown retries and five in place, three adjusted commands and eight paths, per Task.
            prop_assert!(attempts <= 3 * 25, "{attempts} attempts");
        }
        prop_assert!(generations <= depth, "{generations} generations");
        let complete = world.status().conditions.iter().any(|c| c.type_ == crate::crd::task::condition::COMPLETE && !c.message.is_empty());
        prop_assert!(complete || world.status().next.is_some_and(|n| n.kind == NextKind::Operator));
    }
}
