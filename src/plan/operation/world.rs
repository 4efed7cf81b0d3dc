//! A namespace in memory for the tests: objects, and the real decisions of every controller that has a
//! part in an Operation. Each call is one step of one controller.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::{DoomedKind, Observed, OperationPlan, cancel_of, plan_operation, requested_of};
use crate::crd::names::agent_name;
use crate::crd::operation::{OperationRun, OperationTask};
use crate::crd::system::component;
use crate::crd::*;
use crate::plan::fixtures::*;
use crate::plan::hatch;
use crate::plan::run::{PodView, RunPlan, plan_run};
use crate::plan::task::{Orders, TaskPlan, admitted, plan_task};

pub struct World {
    pub system: System,
    pub tasks: Vec<Task>,
    pub runs: Vec<Run>,
    pub pods: Vec<PodFacts>,
    /// Last states of Pods that are gone.
    pub gone: Vec<PodFacts>,
    pub pools: Vec<AgentPool>,
    pub operations: Vec<Operation>,
    pub clock: i64,
    version: i64,
}

impl World {
    /// An armed System, a pool `worker` with three slots, and these Tasks, queued.
    pub fn new(tasks: &[&str]) -> Self {
        let mut pool = AgentPool::new("worker", AgentPoolSpec { replicas: 3, ..AgentPoolSpec::default() });
        pool.metadata.namespace = Some("ns".into());
        let mut system = system();
        let status = system.status.get_or_insert_default();
        status.hatch.since = Some(at(-3600));
        status.hatch.followed = Some(RuntimeHatch::Manual);
        Self {
            system,
            tasks: tasks.iter().map(|name| task(name)).collect(),
            runs: vec![],
            pods: vec![],
            gone: vec![],
            pools: vec![pool],
            operations: vec![],
            clock: 0,
            version: 100,
        }
    }

    fn next_version(&mut self) -> String {
        self.version += 1;
        self.version.to_string()
    }

    /// Asks for something; returns its place in `operations`.
    pub fn ask(&mut self, type_: OperationType, about: &str) -> usize {
        let mut spec = OperationSpec { type_, ..OperationSpec::default() };
        match type_ {
            OperationType::Start | OperationType::Stop => spec.target = Some(about.into()),
            OperationType::Requeue | OperationType::Complete => {
                spec.task_ref = Some(OperationTask { name: about.into() });
            }
            OperationType::CancelRun => spec.run_ref = Some(OperationRun { name: about.into() }),
            OperationType::Cleanup => spec.confirm = Some(about.into()),
            OperationType::Arm
            | OperationType::Disarm
            | OperationType::StopAll
            | OperationType::Preflight
            | OperationType::Replan
            | OperationType::EndCycle => {}
        }
        self.ask_spec(spec)
    }

    pub fn ask_spec(&mut self, spec: OperationSpec) -> usize {
        let version = self.next_version();
        let mut operation = Operation::new(&format!("op-{version}"), spec);
        operation.metadata.uid = Some(format!("uid-op-{version}"));
        operation.metadata.namespace = Some("ns".into());
        operation.metadata.creation_timestamp = Some(Time(at(self.clock)));
        operation.metadata.resource_version = Some(version);
        self.operations.push(operation);
        self.operations.len() - 1
    }

    pub fn phase(&self, operation: usize) -> OperationPhase {
        self.operations[operation].phase()
    }

    pub fn message(&self, operation: usize) -> String {
        self.operations[operation].status.clone().unwrap_or_default().message
    }

    pub fn plan(&self, operation: usize) -> OperationPlan {
        fn refs<K>(list: &[K]) -> Vec<&K> {
            list.iter().collect()
        }
        plan_operation(&Observed {
            operation: &self.operations[operation],
            operations: &refs(&self.operations),
            system: Some(&self.system),
            tasks: &refs(&self.tasks),
            runs: &refs(&self.runs),
            pods: &refs(&self.pods),
            pools: &refs(&self.pools),
            now: at(self.clock),
        })
    }

    /// One step of the operation controller; of a list of deletions only the first `deletions` are
    /// carried out before it is killed.
    pub fn step_operation(&mut self, operation: usize, deletions: usize) {
        match self.plan(operation) {
            OperationPlan::Nothing | OperationPlan::Wait { until: _ } => {}
            OperationPlan::Write(status) => {
                let version = self.next_version();
                let operation = &mut self.operations[operation];
                operation.status = Some(*status);
                operation.metadata.resource_version = Some(version);
            }
            OperationPlan::Latch { hatch, stopped } => {
                let status = self.system.status.get_or_insert_default();
                (status.hatch, status.stopped) = (*hatch, stopped);
            }
            OperationPlan::EndCycle { by } => {
                let status = self.system.status.get_or_insert_default();
                let present = status.cycle.clone().unwrap_or_default();
                status.cycle = Some(crate::plan::cycle::end(&present, &by, "", false, at(self.clock)).cycle);
            }
            OperationPlan::Create(mut task) => {
                task.metadata.uid = Some(format!("uid-{}", task.name_any()));
                if !self.tasks.iter().any(|t| t.name_any() == task.name_any()) {
                    self.tasks.push(*task);
                }
            }
            OperationPlan::Delete(doomed) => {
                for object in doomed.into_iter().take(deletions) {
                    let is = |uid: Option<&str>| uid == Some(object.uid.as_str());
                    match object.kind {
                        DoomedKind::Pod => {
                            for pod in self.pods.iter_mut().filter(|p| is(Some(&p.uid))) {
                                pod.deleted = Some(at(self.clock + 30));
                            }
                        }
                        DoomedKind::Task => self.tasks.retain(|t| !is(t.metadata.uid.as_deref())),
                        DoomedKind::Operation => {
                            self.operations.retain(|o| !is(o.metadata.uid.as_deref()));
                        }
                    }
                }
            }
        }
    }

    /// The dispatcher gives each free slot to a queued Task.
    pub fn step_dispatcher(&mut self) {
        let system = &self.system;
        for index in 1..=3 {
            let agent = agent_name("worker", index);
            let busy = self.runs.iter().any(|r| r.spec.agent == agent && !over(r))
                || self.pods.iter().any(|p| p.agent == agent && p.is_live());
            if busy
                || !system.is_armed()
                || system.is_stopped(component::DISPATCHER)
                || system.is_stopped(&agent)
            {
                continue;
            }
            let is_free = |t: &&mut Task| {
                let uid = t.metadata.uid.clone();
                t.status.as_ref().is_some_and(|s| s.phase == TaskPhase::Queued)
                    && !self.runs.iter().any(|r| !over(r) && Some(&r.spec.task_ref.uid) == uid.as_ref())
            };
            let Some(task) = self.tasks.iter_mut().find(is_free) else { return };
            let mut run = run_of(task);
            run.spec.agent = agent;
            run.metadata.creation_timestamp = Some(Time(at(self.clock)));
            task.status = Some(admitted(task, &run, &[], at(self.clock)));
            self.runs.push(run);
        }
    }

    /// One step of the run controller for every Run.
    pub fn step_runs(&mut self) {
        for index in 0..self.runs.len() {
            let run = self.runs[index].clone();
            let task = self.tasks.iter().find(|t| t.metadata.uid.as_deref() == Some(&run.spec.task_ref.uid));
            let uid = run.uid().unwrap_or_default();
            let present = self.pods.iter().find(|p| p.run_uid == uid);
            let gone = self.gone.iter().find(|p| p.run_uid == uid);
            let unfinished = self.operations.iter().filter(|o| !o.phase().is_terminal());
            let cancel = cancel_of(&run, Some(&self.system), unfinished);
            let plan = plan_run(&crate::plan::run::Observed {
                run: &run,
                task,
                system: Some(&self.system),
                pod: match (present, gone) {
                    (Some(pod), _) => PodView::Present(pod),
                    (None, Some(pod)) => PodView::Gone(pod),
                    (None, None) => PodView::Unseen,
                },
                refusal: None,
                cancel: cancel.as_ref(),
                now: at(self.clock),
            });
            match plan {
                RunPlan::CreatePod if self.system.is_armed() => {
                    let mut pod = pod_of(&run);
                    pod.agent.clone_from(&run.spec.agent);
                    self.pods.push(pod);
                }
                RunPlan::DeletePod { why: _ } => self.delete_pod_of(&uid),
                RunPlan::Finish(verdict) => self.runs[index].status = Some(verdict.status(&run, 1)),
                RunPlan::CleanUp => self.pods.retain(|p| p.run_uid != uid),
                RunPlan::CreatePod | RunPlan::Wait { .. } | RunPlan::ShowStarted | RunPlan::Nothing => {}
            }
        }
    }

    fn delete_pod_of(&mut self, run_uid: &str) {
        let deleted = Some(at(self.clock + 30));
        for pod in self.pods.iter_mut().filter(|p| p.run_uid == run_uid) {
            pod.deleted = pod.deleted.or(deleted);
        }
    }

    /// The kubelet ends deleted Pods; the garbage collector removes what has lost its owner.
    pub fn step_nodes(&mut self) {
        let (gone, left) = std::mem::take(&mut self.pods).into_iter().partition(|p| p.deleted.is_some());
        self.pods = left;
        self.gone.extend::<Vec<PodFacts>>(gone);
        let tasks = &self.tasks;
        self.runs.retain(|r| tasks.iter().any(|t| t.metadata.uid.as_deref() == Some(&r.spec.task_ref.uid)));
        let runs = &self.runs;
        for pod in &mut self.pods {
            if !runs.iter().any(|r| r.metadata.uid.as_deref() == Some(&pod.run_uid)) && pod.run_uid != "stray"
            {
                pod.deleted = Some(at(self.clock));
            }
        }
    }

    /// One step of the task controller for every Task.
    pub fn step_tasks(&mut self) {
        let unfinished: Vec<&Operation> =
            self.operations.iter().filter(|o| !o.phase().is_terminal()).collect();
        for task in &mut self.tasks {
            let uid = task.metadata.uid.clone().unwrap_or_default();
            let runs: Vec<&Run> = self.runs.iter().filter(|r| r.spec.task_ref.uid == uid).collect();
            let orders = Orders {
                requested: requested_of(task, unfinished.iter().copied()),
                recovery_stopped: self.system.is_stopped(component::CYCLE_MANAGER),
            };
            let plan = plan_task(&crate::plan::task::Observed {
                task,
                runs: &runs,
                live_pod: self.pods.iter().any(|p| p.task_uid == uid && p.is_live()),
                confirmed: true,
                system: &self.system.spec,
                children: &[],
                orders,
                now: at(self.clock),
            });
            match plan {
                TaskPlan::Write(status) => task.status = Some(*status),
                TaskPlan::CreateThenWrite { .. } | TaskPlan::Confirm { .. } => panic!("{plan:?}"),
                TaskPlan::Wait { until: _ } => {}
            }
        }
    }

    /// One step of the system controller.
    pub fn step_system(&mut self) {
        let hatch = hatch::following(&self.system, at(self.clock));
        self.system.status.get_or_insert_default().hatch = hatch;
    }

    /// Every controller in turn, until every Operation is over and a while longer.
    pub fn settle(&mut self) {
        let mut idle = 0;
        for _ in 0..60 {
            idle = if self.operations.iter().all(|o| o.phase().is_terminal()) { idle + 1 } else { 0 };
            if idle > 12 {
                return;
            }
            self.clock += 1;
            self.step_system();
            let mut index = 0;
            while index < self.operations.len() {
                self.step_operation(index, usize::MAX);
                index += 1;
            }
            self.step_runs();
            self.step_nodes();
            self.step_tasks();
        }
    }

    pub fn status(&self, task: &str) -> TaskStatus {
        let found = self.tasks.iter().find(|t| t.name_any() == task).expect("a Task");
        found.status.clone().unwrap_or_default()
    }

    pub fn live_pods(&self) -> usize {
        self.pods.iter().filter(|p| p.is_live()).count()
    }
}

pub fn over(run: &Run) -> bool {
    run.status.as_ref().is_some_and(|s| s.phase.is_terminal())
}
