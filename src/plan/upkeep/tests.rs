//! What the System says of its namespace, and that it says nothing while nothing happens.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::*;
use crate::crd::cycle::CycleTrigger;
use crate::crd::restart::AgentCrash;
use crate::crd::{BlockReason, Run, RunPhase, RunStatus, Task, TaskPhase, TaskStatus, TokenUsage};
use crate::plan::fixtures::{at, running, system, task};

const POOL: PoolView = PoolView { role: Role::Worker, slots: 4, free: 4 };

/// One System with its books, driven as the controller does.
struct World {
    system: System,
    books: Accounts,
    pools: Vec<PoolView>,
    writes: usize,
}

impl World {
    fn new() -> Self {
        Self { system: system(), books: Accounts::new(at(0)), pools: vec![POOL], writes: 0 }
    }

    /// A look at `secs`; what it says is written when it differs.
    fn look(&mut self, secs: i64) -> Upkeep {
        let status = self.system.status.clone().unwrap();
        let upkeep = plan(&self.system, status, &mut self.books, &self.pools, at(secs));
        if Some(&upkeep.status) != self.system.status.as_ref() {
            self.writes += 1;
            self.system.status = Some(upkeep.status.clone());
        }
        upkeep
    }

    fn status(&self) -> &SystemStatus {
        self.system.status.as_ref().unwrap()
    }

    fn condition(&self, type_: &str) -> Option<(&str, &str, &str)> {
        let c = self.status().conditions.iter().find(|c| c.type_ == type_)?;
        Some((c.status.as_str(), c.reason.as_str(), c.message.as_str()))
    }

    fn run(&mut self, name: &str, started: i64) -> Run {
        let (_, mut run) = running(name);
        run.metadata.creation_timestamp = Some(Time(at(started)));
        self.books.run(&run, at(started));
        run
    }

    fn end(&mut self, mut run: Run, phase: RunPhase, finished: i64, tokens: i64) -> Run {
        run.status = Some(RunStatus {
            phase,
            started_at: run.metadata.creation_timestamp.as_ref().map(|t| t.0),
            finished_at: Some(at(finished)),
            tokens: Some(TokenUsage { input: 0, output: tokens, total: tokens, ..Default::default() }),
            ..RunStatus::default()
        });
        self.books.run(&run, at(finished));
        run
    }
}

fn awaiting(name: &str) -> Task {
    let mut task = task(name);
    task.status = Some(TaskStatus {
        phase: TaskPhase::Blocked,
        block_reason: Some(BlockReason::AwaitingJudge),
        ..TaskStatus::default()
    });
    task
}

#[test]
fn an_idle_system_writes_nothing_however_long_it_waits_s17() {
    let mut world = World::new();
    world.system.spec.budgets.per_hour = Some(1000);
    let run = world.run("a", 1);
    world.end(run, RunPhase::Success, 20, 10);
    world.look(30);
    world.look(3600 * 5);
    let before = world.writes;
    for secs in (3600 * 6..3600 * 24 * 3).step_by(30) {
        world.look(secs);
    }
    assert_eq!(world.writes, before);
}

#[test]
fn a_used_up_budget_is_said_once_and_taken_back_when_it_resets() {
    let mut world = World::new();
    world.system.spec.budgets.per_hour = Some(100);
    let (first, second) = (world.run("a", 1), world.run("b", 1));
    world.end(first, RunPhase::Success, 20, 120);
    let upkeep = world.look(21);
    let (status, reason, message) = world.condition(condition::BUDGET_EXCEEDED).unwrap();
    assert_eq!((status, reason), ("True", "PerHour"));
    assert!(message.contains("100 tokens") && message.contains("120 used") && message.contains("resets at"));
    let message = message.to_string();
    assert!(upkeep.news.iter().any(|(type_, said)| *type_ == condition::BUDGET_EXCEEDED && *said == message));
    assert!(upkeep.look_at.unwrap() <= at(3600));
    world.end(second, RunPhase::Success, 30, 5);
    world.look(31);
    assert_eq!(world.condition(condition::BUDGET_EXCEEDED).unwrap().2, message, "numbers are no news");
    assert_eq!(world.status().usage.as_ref().unwrap().hour_tokens, 125);
    world.look(3600);
    assert_eq!(world.condition(condition::BUDGET_EXCEEDED).unwrap().0, "False");
}

#[test]
fn a_raised_budget_opens_the_gate_and_a_lowered_one_says_its_new_limit() {
    let mut world = World::new();
    world.system.spec.budgets.per_day = Some(100);
    let run = world.run("a", 1);
    world.end(run, RunPhase::Success, 20, 120);
    world.look(21);
    world.system.spec.budgets.per_day = Some(50);
    world.system.metadata.generation = Some(2);
    world.look(22);
    assert!(world.condition(condition::BUDGET_EXCEEDED).unwrap().2.contains("of 50 tokens"));
    world.system.spec.budgets.per_day = None;
    world.system.metadata.generation = Some(3);
    world.look(23);
    assert_eq!(world.condition(condition::BUDGET_EXCEEDED).unwrap().1, "Unlimited");
}

#[test]
fn replayed_results_change_neither_ledger_nor_statistics_s27() {
    let mut world = World::new();
    world.look(0);
    let run = world.run("a", 1);
    let run = world.end(run, RunPhase::Success, 20, 10);
    world.look(30);
    let status = world.status().clone();
    for _ in 0..3 {
        world.books.run(&run, at(40));
    }
    world.look(41);
    assert_eq!(world.status(), &status);
    assert_eq!(status.usage.unwrap().day_tokens, 10);
    // A new leader lists all Runs, or finds some of them deleted: the record stays what it was.
    for runs in [vec![run], vec![]] {
        world.books = Accounts::new(at(100));
        for run in &runs {
            world.books.run(run, at(100));
        }
        world.look(101);
        let now = world.status();
        assert_eq!((now.usage.as_ref().unwrap().day_tokens, &now.cycle), (10, &status.cycle));
    }
}

#[test]
fn the_cycle_number_survives_a_new_leader_and_its_end_is_said_c96() {
    let mut world = World::new();
    world.system.spec.cycles.max_tasks = Some(2);
    world.look(0);
    assert_eq!(world.status().cycle.as_ref().unwrap().number, 1);
    let run = world.run("a", 1);
    world.end(run, RunPhase::Success, 20, 1);
    world.look(21);
    world.books = Accounts::new(at(60));
    let (_, first) = running("a");
    let mut first = first;
    first.metadata.creation_timestamp = Some(Time(at(1)));
    world.end(first, RunPhase::Success, 20, 1);
    world.look(61);
    assert_eq!(world.status().cycle.as_ref().unwrap().stats.tasks_completed, 1);
    let run = world.run("b", 70);
    world.end(run, RunPhase::Success, 80, 1);
    world.look(81);
    let cycle = world.status().cycle.clone().unwrap();
    assert_eq!((cycle.number, cycle.stats.tasks_completed), (2, 0));
    assert_eq!(cycle.history[0].trigger_type, Some(CycleTrigger::TaskCount));
    assert_eq!(world.condition(condition::CYCLE_ENDED).unwrap().0, "True");
    world.look(82);
    assert_eq!(world.status().cycle.as_ref().unwrap().number, 2, "what ended it is not counted again");
    world.run("c", 90);
    world.look(91);
    assert_eq!(world.condition(condition::CYCLE_ENDED).unwrap().0, "False");
}

#[test]
fn a_stopped_cycle_manager_keeps_the_budget_but_ends_no_cycle_and_watches_nothing() {
    let mut world = World::new();
    world.look(0);
    world.system.spec.cycles.max_tasks = Some(1);
    world.system.spec.budgets.per_day = Some(1);
    world.system.status.as_mut().unwrap().stopped = vec![component::CYCLE_MANAGER.into()];
    let run = world.run("a", 1);
    world.end(run, RunPhase::Success, 20, 1);
    let upkeep = world.look(21);
    assert_eq!(world.status().cycle.as_ref().unwrap().number, 1);
    assert_eq!(world.condition(condition::BUDGET_EXCEEDED).unwrap().0, "True");
    assert_eq!(upkeep.look_at, Some(at(12 * 3600)));
    world.system.status.as_mut().unwrap().stopped.clear();
    world.look(22);
    assert_eq!(world.status().cycle.as_ref().unwrap().number, 2);
}

#[test]
fn results_that_wait_for_a_judge_that_does_not_work_are_said_with_what_to_do() {
    let obstacle = |change: &dyn Fn(&mut World)| {
        let mut world = World::new();
        world.system.spec.judge.enabled = true;
        world.pools.push(PoolView { role: Role::Judge, slots: 1, free: 1 });
        world.books.task(&awaiting("a"));
        change(&mut world);
        world.look(119);
        assert_eq!(world.condition(condition::JUDGE_BACKLOG), None, "not within the startup grace");
        world.look(120);
        world.condition(condition::JUDGE_BACKLOG).map(|c| c.2.to_string()).unwrap_or_default()
    };
    assert_eq!(obstacle(&|_| {}), "");
    assert!(obstacle(&|w| w.system.spec.judge.enabled = false).contains("judge.enabled is false"));
    assert!(obstacle(&|w| w.pools.truncate(1)).contains("no AgentPool of role Judge"));
    assert!(
        obstacle(&|w| w.system.status.as_mut().unwrap().stopped = vec!["judge".into()])
            .contains("target judge")
    );
    let disarm = |w: &mut World| w.system.status.as_mut().unwrap().hatch = Default::default();
    assert!(obstacle(&disarm).contains("disarmed"));
    let ignore = |w: &mut World| {
        disarm(w);
        w.system.spec.self_heal.judge_backlog = JudgeBacklogPolicy::Ignore;
    };
    assert_eq!(obstacle(&ignore), "");
}

#[test]
fn ready_tasks_beside_free_slots_are_noticed_unless_something_says_why() {
    let mut world = World::new();
    world.books.task(&task("a"));
    world.look(125);
    let (_, _, message) = world.condition(condition::IDLE_AGENTS).unwrap();
    assert!(message.contains("role Worker") && message.contains("4 of its slots"), "{message}");
    let mut told = World::new();
    let mut waiting = task("a");
    let status = waiting.status.as_mut().unwrap();
    let type_ = crate::crd::task::condition::PROGRESSING;
    set_condition(&mut status.conditions, type_, false, "AreaOccupied", "", 1, at(0));
    told.books.task(&waiting);
    told.look(500);
    assert_eq!(told.condition(condition::IDLE_AGENTS), None);
    let mut full = World::new();
    full.pools[0].free = 0;
    full.books.task(&task("a"));
    full.look(500);
    assert_eq!(full.condition(condition::IDLE_AGENTS), None);
}

#[test]
fn anomalies_of_runs_are_said_and_taken_back() {
    let mut world = World::new();
    world.look(0);
    for n in 0..5 {
        let run = world.run(&format!("f{n}"), 10);
        world.end(run, RunPhase::Failed, 20, 0);
    }
    let stuck = world.run("long", 10);
    world.look(30);
    assert_eq!(world.condition(condition::HIGH_FAILURE_RATE).unwrap().1, "Critical");
    world.look(1811);
    assert_eq!(world.condition(condition::NO_PROGRESS).unwrap().0, "True");
    world.look(3615);
    let (_, _, message) = world.condition(condition::STUCK_TASK).unwrap();
    assert!(message.contains(&stuck.name_any()), "{message}");
    assert_eq!(world.condition(condition::HIGH_FAILURE_RATE).unwrap().0, "False");
    world.end(stuck, RunPhase::Success, 3700, 0);
    world.look(3700);
    assert_eq!(world.condition(condition::STUCK_TASK).unwrap().0, "True", "held against flapping");
    world.look(4000);
    assert_eq!(world.condition(condition::STUCK_TASK).unwrap().0, "False");
    assert_eq!(world.condition(condition::NO_PROGRESS).unwrap().0, "False");
    world.system.spec.self_heal.enabled = false;
    assert_eq!(
        world.look(4001).look_at,
        Some(at(10 + 4 * 3600)),
        "nobody looks, the cycle ends all the same"
    );
}

#[test]
fn a_crash_is_entered_once() {
    let mut world = World::new();
    let run = world.run("a", 1);
    let mut run = world.end(run, RunPhase::Failed, 20, 0);
    assert_eq!(world.books.crashes("worker").len(), 0);
    run.metadata.uid = Some("another".into());
    run.status.as_mut().unwrap().agent_crash = Some(AgentCrash::OutOfMemory);
    assert!(world.books.run(&run, at(21)).crashed);
    assert!(!world.books.run(&run, at(22)).crashed);
    assert_eq!(world.books.crashes("worker").len(), 1);
}

#[test]
fn numbers_alone_are_no_reason_to_hurry() {
    let old = SystemStatus::default();
    let mut new = old.clone();
    new.usage = Some(Default::default());
    assert!(!is_more_than_numbers(&old, &new));
    new.term = 2;
    assert!(is_more_than_numbers(&old, &new));
    assert_eq!(left(None, WRITE_EVERY, at(0)), None);
    assert_eq!(left(Some(at(0)), COUNTERS_EVERY, at(4)), Some(Duration::from_secs(6)));
    assert_eq!(left(Some(at(0)), COUNTERS_EVERY, at(10)), None);
}
