//! Events told to the naive dispatcher and to the queue alike.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use opentiger::crd::task::RiskLevel;
use opentiger::crd::{Purpose, Role, TaskPhase};
use opentiger::plan::dispatch::{EndedRun, Holder, HolderId, PoolFacts, Queue, TaskFacts};
use opentiger::plan::priority;

use crate::events::{AREAS, CREDENTIALS, Event, LANES, POOLS, PURPOSES, TaskPick};
use crate::naive::Naive;

fn seconds_after(now: Timestamp, seconds: i64) -> Timestamp {
    now.checked_add(SignedDuration::from_secs(seconds)).expect("in range")
}

impl Naive {
    /// Takes an event in and tells the queue the same.
    pub fn apply(&mut self, event: Event, queue: &mut Queue) {
        match event {
            Event::Task(pick) => self.put_task(pick, queue),
            Event::Phase { name, phase, cancel } => {
                if let Some(task) = self.tasks.get_mut(&format!("t{name}")) {
                    (task.phase, task.cancel) = (phase, cancel);
                    self.tell_task(&format!("t{name}"), queue);
                }
            }
            Event::Record { name } => {
                if let Some(task) = self.tasks.get_mut(&format!("t{name}")) {
                    task.resolved.clone_from(&self.found[&task.uid]);
                    self.tell_task(&format!("t{name}"), queue);
                }
            }
            Event::Remove { name } => {
                if let Some(task) = self.tasks.remove(&format!("t{name}")) {
                    self.found.remove(&task.uid);
                    self.hold_off.remove(&task.uid);
                    queue.remove_task(&task.uid);
                }
            }
            Event::System(system) => {
                self.merge_areas =
                    system.iter().map(|s| s.merge_area.clone()).filter(|a| !a.is_empty()).collect();
                if let Some(system) = &system {
                    self.lanes.clone_from(&system.lanes);
                }
                self.system.clone_from(&system);
                queue.set_system(system);
            }
            Event::Pool { pool, replicas, suspended, credential, held } => {
                let (name, role) = POOLS[pool];
                let later = |seconds: i64| seconds_after(self.now, seconds);
                let facts = PoolFacts {
                    name: name.into(),
                    role,
                    replicas,
                    suspended,
                    credential: credential.map(|n| CREDENTIALS[n].to_owned()),
                    held: held.into_iter().map(|(slot, until)| (slot, until.map(later))).collect(),
                };
                self.pools.insert(name.into(), facts.clone());
                queue.upsert_pool(facts);
            }
            Event::RemovePool { pool } => {
                self.pools.remove(POOLS[pool].0);
                queue.remove_pool(POOLS[pool].0);
            }
            Event::Run { nth, agent_taken_over } => self.put_run(nth, agent_taken_over, queue),
            Event::Pod { nth } => {
                let holder = self.holders.values().nth(nth).cloned();
                if let Some(holder) = holder {
                    self.serial += 1;
                    self.hold(HolderId::Pod(format!("p{}", self.serial)), holder, queue);
                }
            }
            Event::Release { nth } => {
                let mut real = self.holders.keys().filter(|id| !matches!(id, HolderId::Admission(_)));
                if let Some(id) = real.nth(nth % 3).cloned() {
                    self.holders.remove(&id);
                    queue.release(&id);
                }
            }
            Event::Abandon { nth, delay } => {
                let admitted: Vec<String> = self
                    .holders
                    .keys()
                    .filter_map(|id| match id {
                        HolderId::Admission(uid) => Some(uid.clone()),
                        HolderId::Run(_) | HolderId::Pod(_) => None,
                    })
                    .collect();
                if let Some(uid) = admitted.get(nth % admitted.len().max(1)) {
                    let until = (delay >= 0).then(|| {
                        self.now.checked_add(Duration::from_secs(delay.unsigned_abs())).expect("in range")
                    });
                    self.holders.remove(&HolderId::Admission(uid.clone()));
                    if self.tasks.values().any(|t| t.uid == *uid) {
                        match until {
                            Some(until) => self.hold_off.insert(uid.clone(), until),
                            None => self.hold_off.remove(uid),
                        };
                    }
                    queue.abandon(uid, until);
                }
            }
            Event::Ended { run, credential, ago, limited } => {
                let uid = format!("e{run}");
                let ended = EndedRun {
                    credential: CREDENTIALS[credential].to_owned(),
                    finished_at: seconds_after(self.now, -ago),
                    held_until: limited.map(|seconds| seconds_after(self.now, seconds)),
                };
                self.ended.insert(uid.clone(), ended.clone());
                queue.run_ended(&uid, ended);
            }
            Event::ForgetRun { run } => {
                self.ended.remove(&format!("e{run}"));
                queue.forget_run(&format!("e{run}"));
            }
            Event::Wait { seconds } => {
                self.now =
                    self.now.checked_add(Duration::from_secs(seconds.unsigned_abs())).expect("in range");
            }
        }
    }

    pub fn put_run(&mut self, nth: usize, agent_taken_over: bool, queue: &mut Queue) {
        let admitted = self.holders.iter().filter(|(id, _)| matches!(id, HolderId::Admission(_)));
        let Some(mut holder) = admitted.skip(nth % 3).map(|(_, h)| h.clone()).next() else {
            return;
        };
        if agent_taken_over {
            // A Run of the same name that another leader made, in another slot.
            holder.agent = format!("{}-9", holder.pool);
        }
        self.serial += 1;
        self.hold(HolderId::Run(format!("r{}", self.serial)), holder, queue);
    }

    pub fn hold(&mut self, id: HolderId, holder: Holder, queue: &mut Queue) {
        if matches!(id, HolderId::Run(_)) {
            self.holders.remove(&HolderId::Admission(holder.task_uid.clone()));
        }
        self.holders.insert(id.clone(), holder.clone());
        queue.occupy(id, holder);
    }

    pub fn put_task(&mut self, pick: TaskPick, queue: &mut Queue) {
        let name = format!("t{}", pick.name);
        let dependencies: Vec<String> = pick.dependencies.iter().map(|d| format!("t{d}")).collect();
        let old = self.tasks.get(&name).filter(|_| !pick.recreate).cloned();
        self.serial += 1;
        let (uid, created_at) = match &old {
            Some(old) => (old.uid.clone(), old.created_at),
            None => (format!("u{}", self.serial), self.now),
        };
        if pick.recreate
            && let Some(old) = self.tasks.remove(&name)
        {
            self.found.remove(&old.uid);
            self.hold_off.remove(&old.uid);
            // Half of the time the deletion is not seen before the new one.
            if self.serial.is_multiple_of(2) {
                queue.remove_task(&old.uid);
            }
        }
        let minutes = Duration::from_secs(3600);
        let purpose = PURPOSES[pick.purpose];
        let review = matches!(purpose, Purpose::Judge | Purpose::Merge);
        let first = if review { TaskPhase::Blocked } else { TaskPhase::Queued };
        let task = TaskFacts {
            purpose,
            superseded_by: pick.superseded_by.map(|n| format!("t{n}")),
            static_key: priority::static_key(pick.priority, RiskLevel::Low, minutes, created_at),
            name: name.clone(),
            phase: old.as_ref().map_or(first, |o| match o.phase {
                // What waits for one purpose may come to wait for another.
                TaskPhase::Queued | TaskPhase::Blocked => first,
                other => other,
            }),
            cancel: old.as_ref().is_some_and(|o| o.cancel),
            role: match purpose {
                Purpose::Execute => [Role::Worker, Role::Tester, Role::Docser][pick.role],
                Purpose::Judge | Purpose::Merge => Role::Judge,
                Purpose::Plan => Role::Planner,
            },
            lane: if review { "judge".into() } else { LANES[pick.lane].into() },
            kind: if purpose == Purpose::Plan { "plan".into() } else { "code".into() },
            areas: pick.areas.iter().map(|a| AREAS[*a].to_owned()).collect(),
            not_before: (pick.not_before >= 0).then(|| {
                self.now.checked_add(Duration::from_secs(pick.not_before.unsigned_abs())).expect("in range")
            }),
            resolved: old.map(|o| o.resolved).unwrap_or_default(),
            attempts: 0,
            dependencies: if review { Vec::new() } else { dependencies },
            uid,
            created_at,
        };
        self.tasks.insert(name.clone(), task);
        self.tell_task(&name, queue);
    }

    pub fn tell_task(&mut self, name: &str, queue: &mut Queue) {
        let task = self.tasks[name].clone();
        let found = self.found.entry(task.uid.clone()).or_default();
        let mut resolved = task.resolved.clone();
        for f in found.iter().filter(|f| task.dependencies.contains(&f.name)) {
            if resolved.iter().all(|r| r.name != f.name) {
                resolved.push(f.clone());
            }
        }
        *found = resolved;
        queue.upsert_task(task);
    }
}
