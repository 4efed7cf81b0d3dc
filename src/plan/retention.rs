//! What has ended and may be removed (issue point "retention"; design: "retention").
//!
//! Runs of Tasks that have ended, ended Tasks with the label of what made them, and Operations that
//! are over, by age and by number. Never a Task that one which has not ended names as dependency, successor or parent, also
//! not through successors, and none whose parent has not ended. The index follows every change; a
//! plan looks at a bounded number of the oldest objects.

use std::collections::{BTreeSet, HashMap, HashSet};

use jiff::Timestamp;

use crate::crd::GoDuration;
use crate::crd::retention::Retention;

/// Objects that one plan looks at, of each kind.
const LOOKED_AT: usize = 2_000;
/// Successors that are followed before a name counts as needed.
const MAX_CHAIN: usize = 16;

/// An object that has ended.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finished {
    pub at: Timestamp,
    pub uid: String,
    pub name: String,
}

/// A Task as retention sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskNode {
    pub uid: String,
    pub name: String,
    /// When it ended; `None` while it has not.
    pub ended: Option<Timestamp>,
    /// The product made it.
    pub ours: bool,
    pub dependencies: Vec<String>,
    pub superseded_by: String,
    pub parent: String,
}

impl TaskNode {
    /// The names that this Task keeps from being removed while it has not ended.
    fn names(&self) -> impl Iterator<Item = &String> {
        let live = self.ended.is_none();
        let others = [&self.superseded_by, &self.parent];
        self.dependencies.iter().chain(others).filter(move |name| live && !name.is_empty())
    }
}

/// What may be removed now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removals {
    pub runs: Vec<Finished>,
    pub tasks: Vec<Finished>,
    pub operations: Vec<Finished>,
    /// When something comes of age, if nothing else happens.
    pub look_at: Option<Timestamp>,
}

/// Everything that has ended, and what keeps it.
#[derive(Clone, Debug, Default)]
pub struct Index {
    /// Ended Runs of ended Tasks, oldest first.
    runs: BTreeSet<Finished>,
    /// Ended Runs by uid, with the uid of their Task.
    run_of: HashMap<String, (Finished, String)>,
    runs_by_task: HashMap<String, HashSet<String>>,
    /// Operations that are over, oldest first, and by uid.
    operations: BTreeSet<Finished>,
    operation_of: HashMap<String, Finished>,
    /// Ended Tasks of ours, oldest first.
    tasks: BTreeSet<Finished>,
    nodes: HashMap<String, TaskNode>,
    live: HashMap<String, usize>,
    named: HashMap<String, usize>,
    /// By the name of a successor: ended Tasks that were cancelled for it.
    predecessors: HashMap<String, BTreeSet<String>>,
}

impl Index {
    /// A Run has ended. A repetition changes nothing.
    pub fn run_ended(&mut self, run: Finished, task_uid: &str) {
        if self.nodes.get(task_uid).is_some_and(|task| task.ended.is_some()) {
            self.runs.insert(run.clone());
        }
        self.runs_by_task.entry(task_uid.to_string()).or_default().insert(run.uid.clone());
        self.run_of.entry(run.uid.clone()).or_insert_with(|| (run, task_uid.to_string()));
    }

    /// A Run is gone.
    pub fn run_gone(&mut self, uid: &str) {
        let Some((run, task)) = self.run_of.remove(uid) else { return };
        self.runs.remove(&run);
        if let Some(runs) = self.runs_by_task.get_mut(&task) {
            runs.remove(uid);
            if runs.is_empty() {
                self.runs_by_task.remove(&task);
            }
        }
    }

    /// An Operation is over. A repetition changes nothing.
    pub fn operation_over(&mut self, operation: Finished) {
        if !self.operation_of.contains_key(&operation.uid) {
            self.operations.insert(operation.clone());
            self.operation_of.insert(operation.uid.clone(), operation);
        }
    }

    /// An Operation is gone.
    pub fn operation_gone(&mut self, uid: &str) {
        if let Some(operation) = self.operation_of.remove(uid) {
            self.operations.remove(&operation);
        }
    }

    /// A Task as it is now.
    pub fn task(&mut self, node: TaskNode) {
        if self.nodes.get(&node.uid) == Some(&node) {
            return;
        }
        self.task_gone(&node.uid);
        node.names().for_each(|name| *self.named.entry(name.clone()).or_default() += 1);
        match node.ended {
            None => *self.live.entry(node.name.clone()).or_default() += 1,
            Some(at) => {
                if node.ours {
                    self.tasks.insert(Finished { at, uid: node.uid.clone(), name: node.name.clone() });
                }
                let runs = self.runs_by_task.get(&node.uid).into_iter().flatten();
                self.runs.extend(runs.filter_map(|uid| self.run_of.get(uid)).map(|(run, _)| run.clone()));
                if !node.superseded_by.is_empty() {
                    let before = self.predecessors.entry(node.superseded_by.clone()).or_default();
                    before.insert(node.name.clone());
                }
            }
        }
        self.nodes.insert(node.uid.clone(), node);
    }

    /// A Task is gone; its Runs follow on their own.
    pub fn task_gone(&mut self, uid: &str) {
        let Some(node) = self.nodes.remove(uid) else { return };
        node.names().for_each(|name| lower(&mut self.named, name));
        match node.ended {
            None => lower(&mut self.live, &node.name),
            Some(at) => {
                self.tasks.remove(&Finished { at, uid: node.uid.clone(), name: node.name.clone() });
                if let Some(before) = self.predecessors.get_mut(&node.superseded_by) {
                    before.remove(&node.name);
                    if before.is_empty() {
                        self.predecessors.remove(&node.superseded_by);
                    }
                }
            }
        }
    }

    /// Whether a Task that has not ended needs the one of this name.
    fn is_needed(&self, name: &str, depth: usize) -> bool {
        depth > MAX_CHAIN
            || self.named.contains_key(name)
            || self
                .predecessors
                .get(name)
                .is_some_and(|before| before.iter().any(|name| self.is_needed(name, depth + 1)))
    }

    /// What may be removed: at most `most` objects of each kind, the oldest first. Whether they are
    /// kept elsewhere is for the caller to find out.
    pub fn plan(&self, settings: &Retention, most: usize, now: Timestamp) -> Removals {
        let age = settings.finished_after.as_ref().and_then(GoDuration::parse);
        let limit = settings.max_finished.and_then(|max| usize::try_from(max).ok());
        let mut look_at = None;
        let mut pick = |set: &BTreeSet<Finished>, may: &dyn Fn(&Finished) -> bool| {
            let excess = limit.map_or(0, |limit| set.len().saturating_sub(limit));
            let mut picked = Vec::new();
            for (position, object) in set.iter().take(LOOKED_AT).enumerate() {
                let due = age.map(|age| crate::plan::run::add(object.at, age));
                if position >= excess && due.is_none_or(|due| now < due) {
                    look_at = [look_at, due].into_iter().flatten().min();
                    break;
                }
                if picked.len() >= most {
                    break;
                }
                if may(object) {
                    picked.push(object.clone());
                }
            }
            picked
        };
        let free = |task: &Finished| {
            let parent = self.nodes.get(&task.uid).map(|node| node.parent.as_str()).unwrap_or_default();
            !self.is_needed(&task.name, 0) && !self.live.contains_key(parent)
        };
        let tasks = pick(&self.tasks, &free);
        let runs = pick(&self.runs, &|_| true);
        let operations = pick(&self.operations, &|_| true);
        Removals { runs, tasks, operations, look_at }
    }
}

fn lower(counts: &mut HashMap<String, usize>, name: &str) {
    if let Some(count) = counts.get_mut(name) {
        *count -= 1;
        if *count == 0 {
            counts.remove(name);
        }
    }
}

#[cfg(test)]
mod tests;
