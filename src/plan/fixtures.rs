//! Builders for the tests of this crate: objects that read like sentences.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use crate::build::run::{Slot, build_review_run, build_run};
use crate::crd::wire::{ContainerResult, container};
use crate::crd::*;

/// A fixed present.
pub fn now() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

/// `now` plus seconds.
pub fn at(secs: i64) -> Timestamp {
    now().checked_add(SignedDuration::from_secs(secs)).unwrap()
}

/// A Queued Task.
pub fn task(name: &str) -> Task {
    let mut task = Task::new(
        name,
        TaskSpec { title: "t".into(), goal: "g".into(), kind: "code".into(), ..TaskSpec::default() },
    );
    task.metadata.namespace = Some("ns".into());
    task.metadata.uid = Some(format!("uid-{name}"));
    task.metadata.generation = Some(1);
    task.metadata.resource_version = Some("10".into());
    task.metadata.creation_timestamp = Some(Time(at(-60)));
    task.status = Some(TaskStatus::default());
    task
}

/// An armed System at term 1.
pub fn system() -> System {
    let mut system = System::new("default", SystemSpec::default());
    system.metadata.namespace = Some("ns".into());
    system.spec.repository.branch_prefix = "agent/".into();
    system.status = Some(SystemStatus {
        hatch: Hatch { state: HatchState::Armed, ..Hatch::default() },
        term: 1,
        ..SystemStatus::default()
    });
    system
}

/// The Run of the next attempt of `task`, created now.
pub fn run_of(task: &Task) -> Run {
    let mut pool = AgentPool::new("worker", AgentPoolSpec::default());
    pool.metadata.namespace = Some("ns".into());
    let slot = Slot {
        agent: "worker-1".into(),
        lane: "feature".into(),
        target_areas: vec![],
        term: 1,
        tokens: None,
    };
    let mut run = build_run(task, &system(), &pool, &slot);
    run.metadata.uid = Some(format!("uid-{}", run.name_any()));
    run.metadata.creation_timestamp = Some(Time(now()));
    run.metadata.generation = Some(1);
    run
}

/// The next review or merge of `task`.
pub fn review_of(task: &Task, purpose: Purpose) -> Run {
    review_run_of(task, &system(), purpose)
}

/// The Judge or Merge Run that the Task's `status.judge` asks for, created now.
pub fn review_run_of(task: &Task, system: &System, purpose: Purpose) -> Run {
    let mut pool = AgentPool::new("judge", AgentPoolSpec::default());
    pool.metadata.namespace = Some("ns".into());
    let slot =
        Slot { agent: "judge-1".into(), lane: "feature".into(), target_areas: vec![], term: 1, tokens: None };
    let mut run = build_review_run(task, system, &pool, &slot, purpose);
    run.metadata.uid = Some(format!("uid-{}", run.name_any()));
    run.metadata.generation = Some(1);
    run
}

/// A running Task and its Run.
pub fn running(name: &str) -> (Task, Run) {
    let mut task = task(name);
    let run = run_of(&task);
    task.status = Some(crate::plan::task::admitted(&task, &run, &[], now()));
    (task, run)
}

/// The Pod of `run`, running.
pub fn pod_of(run: &Run) -> PodFacts {
    PodFacts {
        namespace: "ns".into(),
        name: run.name_any(),
        uid: format!("pod-{}", run.name_any()),
        run: run.name_any(),
        run_uid: run.uid().unwrap(),
        task_uid: run.spec.task_ref.uid.clone(),
        phase: PodPhase::Running,
        created: Some(now()),
        node: "node-1".into(),
        containers: vec![
            ended(container::CHECKOUT, 0, "Completed", ""),
            ContainerFacts {
                name: container::AGENT.into(),
                state: ContainerState::Running { started: Some(at(1)) },
            },
        ],
        ..PodFacts::default()
    }
}

/// A container that has ended.
pub fn ended(name: &str, exit_code: i32, reason: &str, message: &str) -> ContainerFacts {
    ContainerFacts {
        name: name.into(),
        state: ContainerState::Terminated(Box::new(Terminated {
            exit_code,
            reason: reason.into(),
            message: message.into(),
            started: Some(at(1)),
            finished: Some(at(20)),
        })),
    }
}

/// The Pod of `run`, ended with this result of `publish`.
pub fn pod_with(run: &Run, result: &ContainerResult) -> PodFacts {
    let mut pod = pod_of(run);
    pod.phase = PodPhase::Succeeded;
    pod.containers = vec![
        ended(container::CHECKOUT, 0, "Completed", ""),
        ended(container::AGENT, 0, "Completed", ""),
        ended(container::PUBLISH, 0, "Completed", &result.to_message()),
    ];
    pod
}
