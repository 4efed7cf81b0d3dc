//! Every gate that one Task has to pass, with what the queue knows about it. For people who ask why;
//! the decision itself is in [`super::pass`], and both ask the same functions.

use jiff::Timestamp;

use super::Wait;
use super::dependencies::Name;
use super::pass::is_known_kind;
use super::queue::{Entry, Queue};
use super::room::component_of;
use crate::crd::Purpose;
use crate::plan::lanes;

/// One gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gate {
    /// What is asked, in a word or two.
    pub what: &'static str,
    /// Set when the Task does not pass.
    pub wait: Option<Wait>,
    /// One sentence.
    pub detail: String,
}

/// The gates of a Task in the order in which people ask for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gates {
    pub purpose: Purpose,
    pub gates: Vec<Gate>,
}

impl Queue {
    /// The gates of a Task that wants a Run; `None`: it wants none, or is not known. To be asked after a
    /// [`Queue::plan`] has taken in what was reported.
    pub fn gates(&self, task_uid: &str, now: Timestamp) -> Option<Gates> {
        let entry = self.entry(task_uid).filter(|entry| entry.facts.is_candidate())?;
        let facts = &entry.facts;
        let bucket = self.bucket(facts);
        let group = bucket.group;
        let component = component_of(facts.purpose);
        let kind = (!is_known_kind(facts)).then(|| Wait::UnsupportedKind { kind: facts.kind.clone() });
        let cooldown = entry.not_before().filter(|at| *at > now).map(Wait::RetryAt);
        let lane = self.full_lane(bucket.lane).map(|lane| Wait::Lane { lane: lane.to_owned() });
        let full = self.is_full(facts.purpose).then_some(Wait::MaxConcurrent);
        let gates = vec![
            gate("hatch", self.hatch_wait(), "the System is armed".into()),
            gate("component", self.component_wait(facts.purpose), format!("the {component} is not stopped")),
            gate("kind", kind, format!("kind {} is known", facts.kind)),
            gate("cooldown", cooldown, "no retry time lies ahead".into()),
            self.dependency_gate(entry),
            self.previous_gate(entry),
            self.area_gate(entry),
            gate("lane", lane, self.lane_detail(&facts.lane)),
            gate("concurrency", full, self.concurrency_detail(facts.purpose)),
            gate("budget", self.budget_wait(), "no token budget is used up".into()),
            gate("credential", self.credential_wait(group, now), "no provider limit is known".into()),
            self.slots_gate(entry, now),
        ];
        Some(Gates { purpose: facts.purpose, gates })
    }

    fn dependency_gate(&self, entry: &Entry) -> Gate {
        let (_, unresolved) = self.unresolved(&entry.facts, &entry.resolved);
        let name: &Name = &entry.name;
        let wait = (!unresolved.is_empty()).then(|| self.dependency_wait(name, &unresolved));
        let detail = match entry.facts.dependencies.len() {
            0 => "it depends on no Task".to_owned(),
            n => format!("all resolved ({n})"),
        };
        gate("dependencies", wait, detail)
    }

    fn previous_gate(&self, entry: &Entry) -> Gate {
        let uid = &entry.facts.uid;
        if self.occupancy.only_pods(uid) {
            return gate("earlier Run", Some(Wait::OldPod), String::new());
        }
        let detail = if self.occupancy.holds(uid) {
            "a Run of it was just created: the Task is about to name it"
        } else {
            "none is left"
        };
        gate("earlier Run", None, detail.into())
    }

    fn area_gate(&self, entry: &Entry) -> Gate {
        let areas = self.areas(&entry.facts);
        let occupied = self.occupied_area(&entry.facts).filter(|(_, holder)| *holder != entry.facts.uid);
        if let Some((area, holder_task)) = occupied {
            let name = self.entry(&holder_task).map_or(holder_task.as_str(), |holder| &holder.name);
            let wait = Wait::Area { area, holder_task: holder_task.clone() };
            let detail = format!("{}: Task {name} does", wait.detail());
            return Gate { what: "area", wait: Some(wait), detail };
        }
        let detail =
            if areas.is_empty() { "it has no area".into() } else { format!("{} is free", areas.join(", ")) };
        gate("area", None, detail)
    }

    fn lane_detail(&self, lane: &str) -> String {
        let lane = lanes::effective(lane);
        let used = self.occupancy.lane(lane);
        match self.lanes.rule(self.lanes.index(lane)).and_then(|rule| rule.cap) {
            Some(cap) => format!("{lane}: {used} of {cap} in progress"),
            None => format!("{lane}: {used} in progress, no cap"),
        }
    }

    fn concurrency_detail(&self, purpose: Purpose) -> String {
        let max = self.system.as_ref().and_then(|system| system.max_concurrent);
        match (purpose, max) {
            (Purpose::Judge | Purpose::Merge | Purpose::Plan, _) => {
                "maxConcurrent does not bound it".to_owned()
            }
            (Purpose::Execute, None) => "maxConcurrent is not set".to_owned(),
            (Purpose::Execute, Some(max)) => {
                format!("{} of maxConcurrent {max} in progress", self.occupancy.counted())
            }
        }
    }

    /// What each pool of the role has; stopped and held agents by name.
    fn slots_gate(&self, entry: &Entry, now: Timestamp) -> Gate {
        let role = entry.facts.role;
        let pools: Vec<String> = self
            .pools
            .values()
            .filter(|pool| pool.role == role)
            .map(|pool| {
                let shut: Vec<String> = self
                    .shut_slots(pool, now)
                    .into_iter()
                    .map(|number| super::occupancy::slot_name(&pool.name, number))
                    .collect();
                let mut text =
                    format!("{}: {} of {} free", pool.name, self.free_slots(pool, now), pool.replicas);
                if pool.suspended {
                    text.push_str(", suspended");
                }
                if !shut.is_empty() {
                    text.push_str(&format!(", not taking Runs: {}", shut.join(" ")));
                }
                text
            })
            .collect();
        let pools = pools.join("; ");
        let free =
            self.pools.values().filter(|pool| pool.role == role).any(|pool| self.free_slots(pool, now) > 0);
        let wait = self
            .pools_wait(role)
            .or_else(|| self.agents_wait(role, now))
            .or_else(|| (!free).then_some(Wait::Slots { role }));
        let detail = match &wait {
            Some(wait) if pools.is_empty() => wait.detail(),
            Some(wait) => format!("{} ({pools})", wait.detail()),
            None => pools,
        };
        Gate { what: "slots", wait, detail }
    }
}

/// A gate whose own words say why it is shut.
fn gate(what: &'static str, wait: Option<Wait>, open: String) -> Gate {
    let detail = wait.as_ref().map_or(open, Wait::detail);
    Gate { what, wait, detail }
}
