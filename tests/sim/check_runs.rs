//! The invariants of Runs: identity, single occupancy of Task, slot and area, caps of lanes and pools.

use std::collections::BTreeSet;
use std::sync::Arc;

use opentiger::crd::{Purpose, Run, System, labels, names};
use serde_json::Value;

use super::check::{Checker, RunHistory};
use super::operator::{Belief, decode};
use super::server::{Actor, label, text};

/// Slots without a bound.
const UNLIMITED: i64 = i64::MAX;

/// Who sits where: a Run that is not over, or a Pod that lives.
struct Seat {
    task: String,
    pool: String,
    agent: String,
    lane: String,
    areas: Vec<String>,
    /// Counts towards `maxConcurrent`: an attempt at a Task.
    attempt: bool,
}

impl Checker {
    /// Takes in a change of a Run.
    pub fn run(
        &mut self,
        old: Option<&Arc<Value>>,
        new: Option<&Arc<Value>>,
        by: Actor,
        belief: Option<&Belief>,
    ) {
        let Some(object) = new else {
            let uid = old.map(|o| text(o, "/metadata/uid").to_string()).unwrap_or_default();
            if let Some(history) = self.runs.get_mut(&uid) {
                history.deleted = true;
            }
            return;
        };
        let run: Run = decode(object);
        let uid = run.metadata.uid.clone().unwrap_or_default();
        match self.runs.get(&uid).map(|h| h.last.clone()) {
            None => self.created(&run, label(object, labels::TERM), by, belief),
            Some(before) => {
                if matches!(by, Actor::Operator(id) if self.leader != Some(id)) {
                    self.ended_by_former.insert(uid.clone());
                }
                self.changed(&before, &run);
            }
        }
        self.one_verdict(&run, &uid);
        let begun = self.runs.get(&uid).is_some_and(|r| r.begun);
        self.runs.insert(uid, RunHistory { last: run, deleted: false, begun });
    }

    /// S28: a key has at most one verdict.
    fn one_verdict(&mut self, run: &Run, uid: &str) {
        let (Some(key), true) = (&run.spec.review, run.spec.purpose == Purpose::Judge) else { return };
        if run.status.as_ref().is_none_or(|s| s.review.is_none()) {
            return;
        }
        let key = format!("{} {} {}", key.run_uid, key.head_commit, key.policy_version);
        if self.verdicts.entry(key.clone()).or_insert_with(|| uid.to_string()) != uid {
            self.fail("S28", format!("a second verdict on {key}"));
        }
    }

    /// S28: one merge at a time.
    fn one_merge(&mut self, run: &Run, name: &str) {
        let over =
            |r: &RunHistory| r.deleted || r.last.status.as_ref().is_some_and(|s| s.phase.is_terminal());
        let merging = self.runs.values().any(|r| r.last.spec.purpose == Purpose::Merge && !over(r));
        if run.spec.purpose == Purpose::Merge && merging {
            self.fail("S28", format!("Run {name} merges while another one does"));
        }
    }

    /// S4 and S5: what of a Run never changes.
    fn changed(&mut self, before: &Run, after: &Run) {
        let name = after.metadata.name.clone().unwrap_or_default();
        if before.spec != after.spec {
            self.fail("S4", format!("the spec of Run {name} changes"));
        }
        let (a, b) = (before.status.clone().unwrap_or_default(), after.status.clone().unwrap_or_default());
        if a.phase.is_terminal() {
            let result = |s: &opentiger::crd::RunStatus| {
                (
                    s.phase,
                    s.failure_code.clone(),
                    s.failure_class,
                    s.finished_at,
                    s.branch.clone(),
                    s.head_commit.clone(),
                    s.review.clone(),
                    s.tokens,
                    s.retry_at,
                )
            };
            if result(&a) != result(&b) {
                self.fail(
                    "S5",
                    format!("Run {name} was {:?} and is {:?} with another result", a.phase, b.phase),
                );
            }
        } else if b.phase.is_terminal() {
            let uid = after.metadata.uid.as_deref().unwrap_or_default();
            let former = self.ended_by_former.contains(uid);
            if !former && self.pods.values().any(|p| p.run_uid == uid && p.is_live()) {
                self.fail("S5", format!("Run {name} ends as {:?} while its Pod lives", b.phase));
            }
        }
    }

    fn created(&mut self, run: &Run, term: &str, by: Actor, belief: Option<&Belief>) {
        let name = run.metadata.name.clone().unwrap_or_default();
        let uid = run.spec.task_ref.uid.clone();
        self.term_and_hatch("Run", &name, term.to_string(), by);
        self.identity(run, &name);
        let ended =
            |r: &RunHistory| r.deleted || r.last.status.as_ref().is_some_and(|s| s.phase.is_terminal());
        let other = self.runs.values().find(|r| r.last.spec.task_ref.uid == uid && !ended(r));
        if let Some(other) = other.and_then(|r| r.last.metadata.name.clone()) {
            self.fail("S2", format!("Run {name} is created while Run {other} of the same Task is not over"));
        }
        if self.pods.values().any(|p| p.task_uid == uid && p.is_live()) {
            self.fail("S1", format!("Run {name} is admitted while a Pod of its Task lives"));
        }
        self.one_merge(run, &name);
        self.dependencies("Run", &name, run);
        self.bounds(run, &name, belief);
    }

    /// S3 and S4: its Task, its ordinal, its name.
    fn identity(&mut self, run: &Run, name: &str) {
        let owners = run.metadata.owner_references.clone().unwrap_or_default();
        let uid = &run.spec.task_ref.uid;
        if owners.len() != 1 || owners.iter().any(|o| o.uid != *uid || o.controller != Some(true)) {
            self.fail("S3", format!("Run {name} is not owned by its Task alone"));
        }
        // A Run that somebody deleted before it had a Pod was no attempt, also when its Task names it since.
        let lost = self.runs.values().any(|r| {
            let spec = &r.last.spec;
            let attempt = matches!(spec.purpose, Purpose::Execute | Purpose::Plan)
                && spec.task_ref.uid == *uid
                && spec.attempt == run.spec.attempt;
            r.deleted && !r.begun && attempt
        });
        let Some(task) = self.tasks.get_mut(uid) else {
            self.fail("S3", format!("Run {name} has no Task"));
            return;
        };
        if lost {
            task.attempts = task.attempts.min(run.spec.attempt - 1);
        }
        let (expected, wanted) = match run.spec.purpose {
            Purpose::Execute | Purpose::Plan => {
                let next = task.attempts + 1;
                task.attempts = run.spec.attempt.max(task.attempts);
                (next, names::run_name(&task.name, uid, run.spec.attempt))
            }
            Purpose::Judge | Purpose::Merge => {
                let review = run.spec.review.clone().unwrap_or_default();
                let wanted = match run.spec.purpose {
                    Purpose::Merge => names::merge_run_name(&review.run, review.version),
                    Purpose::Judge | Purpose::Execute | Purpose::Plan => {
                        names::judge_run_name(&review.run, review.version)
                    }
                };
                (run.spec.attempt, wanted)
            }
        };
        if run.spec.attempt != expected {
            self.fail("S4", format!("Run {name} is attempt {}, expected {expected}", run.spec.attempt));
        }
        if name != wanted {
            self.fail("S4", format!("Run {name} should be named {wanted}"));
        }
    }

    /// S8, S9, S10: against the values frozen on Runs and Pods. A cap that was just lowered binds once
    /// its watch has told the operator.
    fn bounds(&mut self, run: &Run, name: &str, belief: Option<&Belief>) {
        let spec = &run.spec;
        let seats: Vec<Seat> = self.seats().into_iter().filter(|s| s.task != spec.task_ref.uid).collect();
        for seat in &seats {
            if let Some(area) = spec.target_areas.iter().find(|a| seat.areas.contains(a)) {
                self.fail("S8", format!("Run {name} enters area {area} that is occupied"));
            }
            if seat.pool == spec.pool && seat.agent == spec.agent {
                self.fail("S10", format!("Run {name} takes slot {} that is taken", spec.agent));
            }
        }
        let believed = belief.and_then(|b| b.system.as_deref());
        self.not_stopped(run, name, believed);
        let cap = cap(self.system.as_ref(), &spec.lane).max(cap(believed, &spec.lane));
        let tasks = |seats: &mut dyn Iterator<Item = &Seat>| {
            seats.map(|s| s.task.clone()).collect::<BTreeSet<_>>().len() as i64 + 1
        };
        let in_lane = tasks(&mut seats.iter().filter(|s| s.lane == spec.lane));
        if in_lane > cap {
            self.fail("S9", format!("Run {name} is number {in_lane} in lane {}, cap {cap}", spec.lane));
        }
        let most = most(self.system.as_ref()).max(believed.map_or(0, |s| most(Some(s))));
        let all = tasks(&mut seats.iter().filter(|s| s.attempt));
        if spec.purpose == Purpose::Execute && all > most {
            self.fail("S9", format!("Run {name} is number {all}, maxConcurrent {most}"));
        }
        let present = self.pools.get(&spec.pool).filter(|p| !p.spec.suspend).map_or(0, |p| p.spec.replicas);
        let known = belief.and_then(|b| b.pools.get(&spec.pool).copied()).unwrap_or(0);
        let slots = i64::from(present.max(known));
        let in_pool = tasks(&mut seats.iter().filter(|s| s.pool == spec.pool));
        if in_pool > slots {
            self.fail("S10", format!("Run {name} is number {in_pool} in pool {}, slots {slots}", spec.pool));
        }
    }

    fn seats(&self) -> Vec<Seat> {
        let over =
            |r: &RunHistory| r.deleted || r.last.status.as_ref().is_some_and(|s| s.phase.is_terminal());
        let runs = self.runs.values().filter(|r| !over(r)).map(|r| Seat {
            task: r.last.spec.task_ref.uid.clone(),
            pool: r.last.spec.pool.clone(),
            agent: r.last.spec.agent.clone(),
            lane: r.last.spec.lane.clone(),
            areas: r.last.spec.target_areas.clone(),
            attempt: r.last.spec.purpose == Purpose::Execute,
        });
        let pods = self.pods.values().filter(|p| p.is_live()).map(|p| Seat {
            task: p.task_uid.clone(),
            pool: p.pool.clone(),
            agent: p.agent.clone(),
            lane: p.lane.clone(),
            areas: p.areas.clone(),
            attempt: p.purpose == Purpose::Execute,
        });
        runs.chain(pods).collect()
    }
}

/// Cap of a lane; what a System without lanes means is stated here again, on purpose.
fn cap(system: Option<&System>, lane: &str) -> i64 {
    let Some(system) = system else { return 0 };
    let lanes = &system.spec.dispatch.lanes;
    if lanes.is_empty() {
        return match lane {
            "conflict_recovery" => 2,
            "docser" => 1,
            _ => UNLIMITED,
        };
    }
    lanes.iter().find(|l| l.name == lane).and_then(|l| l.max_slots).map_or(UNLIMITED, i64::from)
}

fn most(system: Option<&System>) -> i64 {
    system.map_or(0, |s| s.spec.dispatch.max_concurrent.map_or(UNLIMITED, i64::from))
}
