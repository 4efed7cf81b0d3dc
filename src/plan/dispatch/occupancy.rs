//! Who occupies what: slots, lanes, areas and Tasks, as the union of all holders.
//!
//! Owns the counting (design rule 4, invariants S8 to S10). A Task counts once however many holders
//! it has; what a holder occupies is what was frozen when it was admitted.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::crd::Purpose;

/// Identity of a holder.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HolderId {
    /// A Run that is not terminal, by uid.
    Run(String),
    /// A Pod that is neither Succeeded nor Failed, by uid.
    Pod(String),
    /// An admission whose Run has not been seen yet, by uid of the Task.
    Admission(String),
}

/// What a holder occupies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holder {
    pub task_uid: String,
    pub pool: String,
    /// Slot, `<pool>-<n>`.
    pub agent: String,
    pub lane: String,
    pub areas: Vec<String>,
    /// What the Run is for.
    pub purpose: Purpose,
    /// Secret that a Run uses; Pods need not tell.
    pub credential: Option<String>,
}

/// Whether `maxConcurrent` counts and bounds Runs of a purpose: attempts at Tasks, as the original
/// counted workers, testers and docsers only (spec: convergence 3.1).
pub(super) fn is_counted(purpose: Purpose) -> bool {
    match purpose {
        Purpose::Execute => true,
        Purpose::Judge | Purpose::Merge | Purpose::Plan => false,
    }
}

/// Counters that forget what reaches zero.
#[derive(Debug)]
struct Counts<K>(BTreeMap<K, u32>);

impl<K> Default for Counts<K> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord> Counts<K> {
    fn add(&mut self, key: K) {
        *self.0.entry(key).or_default() += 1;
    }

    /// True when nothing is left.
    fn subtract(&mut self, key: &K) -> bool {
        if let Some(count) = self.0.get_mut(key) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.0.remove(key);
            }
        }
        self.0.is_empty()
    }
}

/// Slots of one pool.
#[derive(Debug, Default)]
struct Slots {
    /// Pairs of Task and agent.
    pairs: Counts<(String, String)>,
    /// Numbers of the agents in use.
    numbers: Counts<u32>,
}

#[derive(Debug, Default)]
pub(super) struct Occupancy {
    holders: HashMap<HolderId, Holder>,
    by_task: HashMap<String, BTreeSet<HolderId>>,
    pools: HashMap<String, Slots>,
    lanes: HashMap<String, Counts<String>>,
    areas: HashMap<String, Counts<String>>,
    /// Tasks that count towards `maxConcurrent`.
    counted: Counts<String>,
    /// Tasks by the credential that they use.
    credentials: HashMap<String, Counts<String>>,
}

impl Occupancy {
    /// Adds, replaces (`Some`) or removes (`None`) a holder. Returns the areas that became free;
    /// replacing frees nothing that the new holder occupies as well.
    pub fn put(&mut self, id: &HolderId, holder: Option<Holder>) -> Vec<String> {
        if holder.as_ref() == self.holders.get(id) {
            return Vec::new();
        }
        let old = self.holders.remove(id);
        if let Some(new) = holder {
            self.add(id, &new);
            self.holders.insert(id.clone(), new);
        }
        old.map(|old| self.subtract(id, &old)).unwrap_or_default()
    }

    fn add(&mut self, id: &HolderId, holder: &Holder) {
        self.by_task.entry(holder.task_uid.clone()).or_default().insert(id.clone());
        self.lanes.entry(holder.lane.clone()).or_default().add(holder.task_uid.clone());
        for area in unique(&holder.areas) {
            self.areas.entry(area.to_owned()).or_default().add(holder.task_uid.clone());
        }
        if is_counted(holder.purpose) {
            self.counted.add(holder.task_uid.clone());
        }
        if let Some(credential) = &holder.credential {
            self.credentials.entry(credential.clone()).or_default().add(holder.task_uid.clone());
        }
        let slots = self.pools.entry(holder.pool.clone()).or_default();
        slots.pairs.add((holder.task_uid.clone(), holder.agent.clone()));
        if let Some(number) = slot_number(&holder.pool, &holder.agent) {
            slots.numbers.add(number);
        }
    }

    fn subtract(&mut self, id: &HolderId, holder: &Holder) -> Vec<String> {
        // A holder that was replaced by one of the same Task keeps its entry.
        let replaced = self.holders.get(id).is_some_and(|new| new.task_uid == holder.task_uid);
        if !replaced && let Some(ids) = self.by_task.get_mut(&holder.task_uid) {
            ids.remove(id);
            if ids.is_empty() {
                self.by_task.remove(&holder.task_uid);
            }
        }
        let mut freed = Vec::new();
        for area in unique(&holder.areas) {
            if self.areas.get_mut(area).is_some_and(|tasks| tasks.subtract(&holder.task_uid)) {
                self.areas.remove(area);
                freed.push(area.to_owned());
            }
        }
        if self.lanes.get_mut(&holder.lane).is_some_and(|tasks| tasks.subtract(&holder.task_uid)) {
            self.lanes.remove(&holder.lane);
        }
        if is_counted(holder.purpose) {
            self.counted.subtract(&holder.task_uid);
        }
        if let Some(credential) = &holder.credential
            && self.credentials.get_mut(credential).is_some_and(|tasks| tasks.subtract(&holder.task_uid))
        {
            self.credentials.remove(credential);
        }
        if let Some(slots) = self.pools.get_mut(&holder.pool) {
            if let Some(number) = slot_number(&holder.pool, &holder.agent) {
                slots.numbers.subtract(&number);
            }
            if slots.pairs.subtract(&(holder.task_uid.clone(), holder.agent.clone())) {
                self.pools.remove(&holder.pool);
            }
        }
        freed
    }

    pub fn get(&self, id: &HolderId) -> Option<&Holder> {
        self.holders.get(id)
    }

    /// Tasks that count towards `maxConcurrent`.
    pub fn counted(&self) -> usize {
        self.counted.0.len()
    }

    /// Tasks in progress that use the credential.
    pub fn with_credential(&self, credential: &str) -> usize {
        self.credentials.get(credential).map_or(0, |tasks| tasks.0.len())
    }

    pub fn holds(&self, task_uid: &str) -> bool {
        self.by_task.contains_key(task_uid)
    }

    /// Whether all that is left of the Task are Pods.
    pub fn only_pods(&self, task_uid: &str) -> bool {
        self.by_task.get(task_uid).is_some_and(|ids| {
            ids.iter().all(|id| match id {
                HolderId::Pod(_) => true,
                HolderId::Run(_) | HolderId::Admission(_) => false,
            })
        })
    }

    /// Tasks in the lane.
    pub fn lane(&self, lane: &str) -> usize {
        self.lanes.get(lane).map_or(0, |tasks| tasks.0.len())
    }

    /// A Task that occupies the area.
    pub fn area_holder(&self, area: &str) -> Option<&str> {
        self.areas.get(area).and_then(|tasks| tasks.0.keys().next()).map(String::as_str)
    }

    /// Slots of the pool in use, those above its present size included (S10).
    pub fn slots_used(&self, pool: &str) -> usize {
        self.pools.get(pool).map_or(0, |slots| slots.pairs.0.len())
    }

    /// Whether the slot of this number is in use.
    pub fn is_taken(&self, pool: &str, number: u32) -> bool {
        self.pools.get(pool).is_some_and(|slots| slots.numbers.0.contains_key(&number))
    }

    /// Slots in use with a number of at most `replicas`.
    pub fn taken_up_to(&self, pool: &str, replicas: u32) -> usize {
        self.pools.get(pool).map_or(0, |slots| {
            let above = replicas.checked_add(1).map_or(0, |first| slots.numbers.0.range(first..).count());
            slots.numbers.0.len() - above
        })
    }

    /// Lowest free slot number that is not `shut`.
    pub fn free_slot(&self, pool: &str, shut: &BTreeSet<u32>) -> u32 {
        let none = BTreeMap::new();
        let numbers = self.pools.get(pool).map_or(&none, |slots| &slots.numbers.0);
        let mut taken = numbers.keys().peekable();
        let mut free = 1;
        loop {
            while taken.next_if(|number| **number < free).is_some() {}
            if taken.peek() != Some(&&free) && !shut.contains(&free) {
                return free;
            }
            free += 1;
        }
    }
}

fn unique(areas: &[String]) -> BTreeSet<&str> {
    areas.iter().map(String::as_str).collect()
}

/// `3` of agent `worker-3` in pool `worker`; `None` for a name that this module would not give.
pub(super) fn slot_number(pool: &str, agent: &str) -> Option<u32> {
    let digits = agent.strip_prefix(pool)?.strip_prefix('-')?;
    let number: u32 = digits.parse().ok()?;
    (number > 0 && slot_name(pool, number) == agent).then_some(number)
}

/// Name of a slot.
pub(super) fn slot_name(pool: &str, number: u32) -> String {
    format!("{pool}-{number}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(task: &str, agent: &str, areas: &[&str]) -> Holder {
        Holder {
            task_uid: task.into(),
            pool: "worker".into(),
            agent: agent.into(),
            lane: "feature".into(),
            areas: areas.iter().map(|a| (*a).to_owned()).collect(),
            ..Holder::default()
        }
    }

    fn run(uid: &str) -> HolderId {
        HolderId::Run(uid.into())
    }

    fn pod(uid: &str) -> HolderId {
        HolderId::Pod(uid.into())
    }

    #[test]
    fn a_run_and_its_pod_take_one_slot_until_both_are_gone() {
        let mut o = Occupancy::default();
        o.put(&run("r"), Some(holder("t", "worker-1", &["a"])));
        o.put(&pod("p"), Some(holder("t", "worker-1", &["a"])));
        assert_eq!((o.counted(), o.slots_used("worker"), o.lane("feature")), (1, 1, 1));
        assert_eq!(o.put(&run("r"), None), [""; 0]);
        assert!(o.only_pods("t"));
        assert_eq!(o.slots_used("worker"), 1);
        assert_eq!(o.put(&pod("p"), None), ["a"]);
        assert_eq!((o.counted(), o.slots_used("worker"), o.lane("feature")), (0, 0, 0));
        assert!(!o.holds("t"));
    }

    #[test]
    fn a_replaced_holder_frees_only_what_the_new_one_does_not_have() {
        let mut o = Occupancy::default();
        o.put(&run("r"), Some(holder("t", "worker-1", &["a", "b", "b"])));
        assert_eq!(o.put(&run("r"), Some(holder("t", "worker-2", &["b"]))), ["a"]);
        assert!(o.holds("t"));
        assert_eq!(o.slots_used("worker"), 1);
        assert_eq!(o.put(&run("r"), Some(holder("u", "worker-2", &["b"]))), [""; 0]);
        assert!(!o.holds("t"));
        assert_eq!(o.area_holder("b"), Some("u"));
    }

    #[test]
    fn the_lowest_free_slot_is_given_and_foreign_names_have_no_number() {
        let mut o = Occupancy::default();
        for (uid, agent) in [("1", "worker-1"), ("2", "worker-2"), ("4", "worker-4"), ("x", "worker-03")] {
            o.put(&run(uid), Some(holder(uid, agent, &[])));
        }
        let none = BTreeSet::new();
        assert_eq!(o.free_slot("worker", &none), 3);
        assert_eq!(o.free_slot("worker", &[3, 5].into()), 6);
        assert_eq!((o.slots_used("worker"), o.taken_up_to("worker", 3)), (4, 2));
        assert_eq!(o.free_slot("other", &none), 1);
    }
}
