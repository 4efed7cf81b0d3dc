//! Tasks, their Runs and a System in which the plans are carried out one by one.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

use crate::crd::judge::{JudgeStage, JudgeStatus};
use crate::crd::run::{ReviewResult, ReviewVerdict};
use crate::crd::*;
use crate::plan::fixtures;
use crate::plan::task::{Observed, TaskPlan, admitted, plan_task};

/// How a Run ends.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    /// Execute: pushes. Judge: approves. Merge: merges.
    Good,
    /// Execute: ends well and has changed nothing. Judge: asks for changes. Merge: conflicts.
    Bad,
    Cancelled,
    /// Fails with this code and class.
    Fails(&'static str, Option<FailureClass>),
    /// Its object is deleted.
    Deleted,
}

pub struct World {
    pub tasks: BTreeMap<String, Task>,
    pub runs: Vec<Run>,
    pub system: System,
    pub now: Timestamp,
    /// Runs admitted, by purpose.
    pub admitted: Vec<Purpose>,
    /// Findings of a refusal.
    pub findings: Vec<String>,
}

impl World {
    /// One queued Task `fix` that may change `src/**`, the judge on.
    pub fn new() -> Self {
        let mut system = fixtures::system();
        system.spec.repository.base_branch = "main".into();
        system.spec.judge.enabled = true;
        let mut task = fixtures::task("fix");
        task.spec.allowed_paths = vec!["src/**".into()];
        task.spec.commands = vec!["make test".into()];
        Self {
            tasks: BTreeMap::from([("fix".to_string(), task)]),
            runs: Vec::new(),
            system,
            now: fixtures::now(),
            admitted: Vec::new(),
            findings: vec!["src/a.rs:3: returns the wrong sign".into()],
        }
    }

    pub fn status(&self, task: &str) -> TaskStatus {
        self.tasks[task].status.clone().unwrap()
    }

    pub fn judge(&self, task: &str) -> JudgeStatus {
        self.status(task).judge.unwrap()
    }

    pub fn edit(&mut self, task: &str, edit: impl FnOnce(&mut Task)) {
        let task = self.tasks.get_mut(task).unwrap();
        edit(task);
        let generation = task.metadata.generation.unwrap_or(1);
        task.metadata.generation = Some(generation + 1);
    }

    pub fn later(&mut self, seconds: i64) {
        self.now = self.now.checked_add(SignedDuration::from_secs(seconds)).unwrap();
    }

    pub fn plan(&self, name: &str) -> TaskPlan {
        let task = &self.tasks[name];
        let uid = task.uid().unwrap();
        let runs: Vec<&Run> = self.runs.iter().filter(|r| r.spec.task_ref.uid == uid).collect();
        let child = |t: &&Task| t.labels().get(labels::PARENT_UID) == Some(&uid);
        let children: Vec<&Task> = self.tasks.values().filter(child).collect();
        plan_task(&Observed {
            task,
            runs: &runs,
            live_pod: false,
            confirmed: true,
            system: &self.system.spec,
            children: &children,
            orders: crate::plan::task::Orders::default(),
            now: self.now,
        })
    }

    /// Carries the plan out. Returns whether anything changed.
    pub fn step(&mut self, name: &str) -> bool {
        let (made, status) = match self.plan(name) {
            TaskPlan::Write(status) => (Vec::new(), *status),
            TaskPlan::CreateThenWrite { tasks, status } => (tasks, *status),
            TaskPlan::Confirm { run } => panic!("confirmed already: {run}"),
            TaskPlan::Wait { until: _ } => return false,
        };
        let mut changed = false;
        for mut task in made {
            assert!(task.name_any().len() <= 48);
            if self.tasks.contains_key(&task.name_any()) {
                continue;
            }
            changed = true;
            task.metadata.uid = Some(format!("uid-{}", task.name_any()));
            task.metadata.generation = Some(1);
            // As the schema's default has it.
            let next = Next { detail: "not yet considered".into(), ..Next::default() };
            task.status = Some(TaskStatus { next: Some(next), ..TaskStatus::default() });
            self.tasks.insert(task.name_any(), task);
        }
        let task = self.tasks.get_mut(name).unwrap();
        changed |= task.status.as_ref() != Some(&status);
        task.status = Some(status);
        changed
    }

    /// Carries plans out until nothing changes any more.
    pub fn settle(&mut self) {
        for _ in 0..50 {
            let names: Vec<String> = self.tasks.keys().cloned().collect();
            let changed = names.iter().filter(|name| self.step(name)).count();
            if changed == 0 {
                return;
            }
        }
        panic!("the plans never come to rest");
    }

    /// Purpose of the Run that the dispatcher would admit for the Task now.
    pub fn wanted(&self, name: &str) -> Option<Purpose> {
        let (task, status) = (&self.tasks[name], self.status(name));
        if status.retry_at.is_some_and(|at| at > self.now) || !status.current_run.is_empty() {
            return None;
        }
        match (status.phase, status.block_reason, status.judge.map(|judge| judge.stage)) {
            (TaskPhase::Queued, _, _) => {
                let open =
                    |d: &String| self.tasks.get(d).is_some_and(|t| self.status_of(t) != TaskPhase::Done);
                (!task.spec.dependencies.iter().any(open)).then_some(Purpose::Execute)
            }
            (_, Some(BlockReason::AwaitingJudge), Some(JudgeStage::Review)) => Some(Purpose::Judge),
            (_, Some(BlockReason::AwaitingJudge), Some(JudgeStage::Merge)) => Some(Purpose::Merge),
            _ => None,
        }
    }

    fn status_of(&self, task: &Task) -> TaskPhase {
        task.status.as_ref().map(|status| status.phase).unwrap_or_default()
    }

    /// Admits the Run that the Task wants.
    pub fn admit(&mut self, name: &str) -> Run {
        let wanted = self.wanted(name).expect("a Run is wanted");
        let task = self.tasks.get_mut(name).unwrap();
        let run = match wanted {
            Purpose::Execute | Purpose::Plan => fixtures::run_of(task),
            Purpose::Judge | Purpose::Merge => fixtures::review_run_of(task, &self.system, wanted),
        };
        assert!(!self.runs.iter().any(|r| r.name_any() == run.name_any()), "a name is used once");
        self.admitted.push(wanted);
        task.status = Some(match &run.spec.review {
            None => admitted(task, &run, &[], self.now),
            Some(target) => {
                let mut status = task.status.clone().unwrap();
                (status.current_run, status.last_run) = (run.name_any(), run.name_any());
                status.retry_at = None;
                let judge = status.judge.as_mut().unwrap();
                let ordinal = if wanted == Purpose::Merge { &mut judge.merges } else { &mut judge.reviews };
                *ordinal = target.version;
                status
            }
        });
        self.runs.push(run.clone());
        run
    }

    /// Admits the Run that the Task wants, ends it so, and carries out what follows.
    pub fn run(&mut self, name: &str, end: &End) -> Run {
        let run = self.admit(name);
        self.end(&run.name_any(), end);
        self.settle();
        run
    }

    pub fn end(&mut self, run: &str, end: &End) {
        let at = self.runs.iter().position(|r| r.name_any() == run).unwrap();
        if *end == End::Deleted {
            self.runs.remove(at);
            return;
        }
        let findings = self.findings.clone();
        let run = &mut self.runs[at];
        let mut status =
            RunStatus { finished_at: Some(self.now), summary: "said so".into(), ..RunStatus::default() };
        match end {
            End::Good | End::Bad => good_or_bad(run, &mut status, *end == End::Good, findings),
            End::Cancelled => status.phase = RunPhase::Cancelled,
            End::Fails(code, class) => {
                (status.phase, status.failure_code) = (RunPhase::Failed, (*code).into());
                status.failure_class = *class;
            }
            End::Deleted => {}
        }
        run.status = Some(status);
    }
}

fn good_or_bad(run: &Run, status: &mut RunStatus, good: bool, findings: Vec<String>) {
    status.phase = RunPhase::Success;
    match run.spec.purpose {
        Purpose::Execute | Purpose::Plan if !good => {}
        Purpose::Execute | Purpose::Plan => {
            status.branch = run.spec.repository.branch.clone();
            status.head_commit = format!("head-{}", run.name_any());
        }
        Purpose::Judge => {
            let verdict = if good { ReviewVerdict::Approve } else { ReviewVerdict::RequestChanges };
            let findings = if good { Vec::new() } else { findings };
            status.review = Some(ReviewResult {
                verdict,
                findings,
                code_files: 2,
                confidence: 90,
                ..ReviewResult::default()
            });
        }
        Purpose::Merge if good => status.head_commit = format!("merge-{}", run.name_any()),
        Purpose::Merge => {
            (status.phase, status.failure_code) = (RunPhase::Failed, "merge_conflict".into());
        }
    }
}

/// The last events of a Task, oldest first.
pub fn events(status: &TaskStatus, count: usize) -> Vec<String> {
    let all: Vec<String> = status.transitions.iter().map(|t| t.event.clone()).collect();
    all[all.len().saturating_sub(count)..].to_vec()
}
