//! Liveness: after the last fault everything settles within a bounded number of rounds, and stays.

use std::time::Duration;

use opentiger::crd::{NextKind, RunPhase, TaskPhase};

use super::cluster::name_of;
use super::server::Kind;
use super::world::World;

/// Rounds within which everything has to settle.
const ROUNDS: usize = 2_000;
/// What happened may have a stated effect by the clock alone for so long: anomalies clear after their
/// hold or with the hour they compare, holds of slots end with their window, a cycle ends after four hours.
const EFFECTS_END: Duration = Duration::from_secs(5 * 3600);
/// Steps in which that time passes.
const EFFECT_ROUNDS: u32 = 15;
/// How long a settled world is watched then, in rounds of a minute.
const IDLE_ROUNDS: usize = 20;

impl World {
    /// No more faults: whoever is lost comes back, everything is allowed, and fair rounds follow.
    pub fn settle(&mut self) {
        self.faults = super::world::Faults::default();
        self.cluster.calm = true;
        self.cluster.replace_lost(&mut self.server);
        self.keep_newest();
        self.user.open_up(&mut self.server);
        self.note(None);
        self.say("after the last fault");
        // Each time a person has helped, Tasks may go on that waited for those.
        for _ in 0..=self.check.tasks.len() {
            if !self.rounds_until_settled() {
                return;
            }
            let waiting = self.waiting_for_a_person();
            if waiting.is_empty() {
                break;
            }
            for name in waiting {
                self.say(&format!("a person helps {name}"));
                self.user.help(&mut self.server, &name);
            }
            self.note(None);
        }
        self.all_is_over();
        self.stays_so();
    }

    fn rounds_until_settled(&mut self) -> bool {
        let mut pause = 1_000;
        for _ in 0..ROUNDS {
            if !self.check.violations.is_empty() {
                return false;
            }
            let before = self.server.version();
            self.round();
            let quiet = before == self.server.version();
            pause = if quiet { (pause * 2).min(120_000) } else { 1_000 };
            if quiet && pause > 8_000 && self.is_led() && self.unsettled().is_empty() {
                return true;
            }
            self.advance(pause);
        }
        for why in self.unsettled() {
            self.check.fail("L1", format!("not settled: {why}"));
        }
        if self.check.violations.is_empty() {
            self.check.fail("L1", "no rest, something is written again and again");
        }
        false
    }

    /// Everything that can happen happens, in order, without a fault.
    pub fn round(&mut self) {
        self.steps += 1;
        for _ in 0..200 {
            let mut moved = false;
            while !self.wire.is_empty() {
                self.request(0, false);
                moved = true;
            }
            for n in 0..self.operators.len() {
                let Some(operator) = self.operators.get_mut(n) else { break };
                let id = operator.id;
                for kind in operator.backlog(&self.server) {
                    if let Some(operator) = self.operators.get_mut(n) {
                        operator.deliver(kind, &self.server);
                    }
                    moved = true;
                    self.poll(id);
                }
            }
            if !moved {
                break;
            }
        }
        for pod in self.server.all(Kind::Pod) {
            let name = name_of(&pod);
            if let Some(did) = self.cluster.step(&mut self.server, &name, &mut self.rng) {
                self.say(&format!("pod {name} {did}"));
            }
        }
        self.cluster.collect(&mut self.server);
        self.note(None);
        if self.operators.is_empty() {
            self.keep_newest();
        }
    }

    /// Tasks that a person has to look at.
    fn waiting_for_a_person(&self) -> Vec<String> {
        let waits = |s: &opentiger::crd::TaskStatus| {
            !s.phase.is_terminal() && s.next.as_ref().is_some_and(|n| n.kind == NextKind::Operator)
        };
        let tasks = self.check.tasks.values().filter(|t| !t.deleted);
        tasks.filter(|t| t.last.status.as_ref().is_some_and(waits)).map(|t| t.name.clone()).collect()
    }

    /// Tasks that neither have ended, nor wait for a person or for one that does.
    fn unsettled(&self) -> Vec<String> {
        let mut stuck = self.waiting_for_a_person();
        let open: Vec<_> = self
            .check
            .tasks
            .values()
            .filter(|t| !t.deleted && !t.last.status.as_ref().is_some_and(|s| s.phase.is_terminal()))
            .collect();
        loop {
            let more: Vec<String> = open
                .iter()
                .filter(|t| !stuck.contains(&t.name))
                .filter(|t| t.last.spec.dependencies.iter().any(|d| stuck.contains(d)))
                .filter(|t| t.last.status.as_ref().is_some_and(|s| s.phase == TaskPhase::Queued))
                .map(|t| t.name.clone())
                .collect();
            if more.is_empty() {
                break;
            }
            stuck.extend(more);
        }
        let mut left = self.check.open_operations();
        let tasks = open.iter().filter(|t| !stuck.contains(&t.name)).map(|t| {
            let status = t.last.status.clone().unwrap_or_default();
            format!(
                "Task {} is {:?}, run {:?}, next {:?}",
                t.name, status.phase, status.current_run, status.next
            )
        });
        left.extend(tasks);
        left
    }

    /// Every Task has ended, every Run with it, and no Pod is left.
    fn all_is_over(&mut self) {
        let open: Vec<String> = self
            .check
            .tasks
            .values()
            .filter(|t| !t.deleted && !t.last.status.as_ref().is_some_and(|s| s.phase.is_terminal()))
            .map(|t| format!("Task {} is left: {:?}", t.name, t.last.status.as_ref().map(|s| &s.next)))
            .collect();
        let runs: Vec<String> = self
            .check
            .runs
            .values()
            .filter(|r| !r.deleted && r.last.status.as_ref().is_none_or(|s| s.phase == RunPhase::Running))
            .map(|r| format!("Run {:?} is left", r.last.metadata.name))
            .collect();
        let pods: Vec<String> = self.check.pods.values().map(|p| format!("Pod {} is left", p.name)).collect();
        for what in open.into_iter().chain(runs).chain(pods) {
            self.check.fail("L1", what);
        }
    }

    /// S17: where nothing happens nothing is written.
    fn stays_so(&mut self) {
        for _ in 0..EFFECT_ROUNDS {
            self.advance((EFFECTS_END / EFFECT_ROUNDS).as_millis() as u64);
            self.round();
        }
        let before = self.check.writes;
        for _ in 0..IDLE_ROUNDS {
            self.round();
            self.advance(60_000);
        }
        if self.check.writes != before {
            let count = self.check.writes - before;
            self.check
                .fail("S17", format!("{count} writes though nothing happens: {}", self.check.last_write));
        }
    }
}
