//! A backlog as it might be: several lanes, areas, dependencies, priorities, retry times and reviews.

use std::collections::VecDeque;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::ObjectMeta;
use opentiger::controller::facts;
use opentiger::crd::judge::JudgeStage;
use opentiger::crd::task::{Effective, RiskLevel};
use opentiger::crd::{
    AgentPool, AgentPoolSpec, BlockReason, Hatch, HatchState, JudgeStatus, Purpose, Role, System, SystemSpec,
    SystemStatus, Task, TaskPhase, TaskSpec, TaskStatus,
};
use opentiger::plan::dispatch::{Admission, Holder, HolderId, Queue, TaskFacts};

/// Slots of the workers.
const SLOTS: i32 = 50;
/// Directories that Tasks work in.
const AREAS: usize = 400;

/// The objects of a namespace.
pub struct World {
    system: System,
    pools: Vec<AgentPool>,
    tasks: Vec<Task>,
}

/// A queue in operation.
pub struct Running<'a> {
    world: &'a World,
    queue: Queue,
    in_progress: VecDeque<(HolderId, &'a Task)>,
    now: Timestamp,
    admitted: usize,
}

fn epoch() -> Timestamp {
    Timestamp::UNIX_EPOCH.checked_add(SignedDuration::from_hours(490_000)).unwrap_or(Timestamp::UNIX_EPOCH)
}

fn after(seconds: usize) -> Timestamp {
    let seconds = i64::try_from(seconds).unwrap_or(0);
    epoch().checked_add(SignedDuration::from_secs(seconds)).unwrap_or_else(|_| epoch())
}

fn meta(name: &str, created: Timestamp) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some("bench".into()),
        uid: Some(format!("00000000-0000-4000-8000-{name}")),
        generation: Some(1),
        creation_timestamp: Some(Time(created)),
        ..ObjectMeta::default()
    }
}

/// The n-th Task: its properties are functions of its number, mixed so that they do not go together.
fn task(n: usize) -> Task {
    let mixed = n.wrapping_mul(2_654_435_761) % 1_000_003;
    let lane = match mixed % 20 {
        0 | 1 => Some("conflict_recovery"),
        2 => Some("docser"),
        3 => Some("plugin"),
        _ => None,
    };
    let areas = mixed % 5 < 3;
    let depends = n > 10 && mixed % 10 == 4;
    let spec = TaskSpec {
        title: format!("Task {n}"),
        goal: "something is so".into(),
        kind: "code".into(),
        lane: lane.map(str::to_owned),
        priority: i32::try_from(mixed % 100).unwrap_or(0),
        risk_level: match mixed % 3 {
            0 => RiskLevel::Low,
            1 => RiskLevel::Medium,
            _ => RiskLevel::High,
        },
        touches: if areas { vec![format!("src{}/lib.rs", mixed % AREAS)] } else { Vec::new() },
        allowed_paths: vec!["**".into()],
        dependencies: if depends { vec![format!("t{}", n - 1 - mixed % 7)] } else { Vec::new() },
        ..TaskSpec::default()
    };
    let mut task = Task { metadata: meta(&format!("t{n}"), after(mixed)), spec, status: None };
    let mut status = TaskStatus::default();
    match mixed % 50 {
        // Waits for its review.
        7 => {
            status.phase = TaskPhase::Blocked;
            status.block_reason = Some(BlockReason::AwaitingJudge);
            status.attempts = 1;
            status.judge = Some(JudgeStatus { stage: JudgeStage::Review, ..JudgeStatus::default() });
        }
        // Has failed before and waits for its time.
        8 => {
            status.attempts = 1;
            status.retry_at = Some(after(2_000_000 + mixed));
            status.effective = Some(Effective { lane: Some("feature".into()), ..Effective::default() });
        }
        _ => {}
    }
    task.status = Some(status);
    task
}

fn pool(name: &str, role: Role, replicas: i32) -> AgentPool {
    AgentPool {
        metadata: meta(name, epoch()),
        spec: AgentPoolSpec { role, replicas, ..AgentPoolSpec::default() },
        status: None,
    }
}

impl World {
    pub fn new(tasks: usize) -> Self {
        let mut system =
            System { metadata: meta("default", epoch()), spec: SystemSpec::default(), status: None };
        system.status = Some(SystemStatus {
            hatch: Hatch { state: HatchState::Armed, ..Hatch::default() },
            ..SystemStatus::default()
        });
        Self {
            system,
            pools: vec![pool("worker", Role::Worker, SLOTS), pool("judge", Role::Judge, 2)],
            tasks: (0..tasks).map(task).collect(),
        }
    }

    /// What a new leader does: everything into an empty queue, and the first plan.
    pub fn rebuild(&self) -> Running<'_> {
        let mut queue = Queue::new();
        queue.set_system(Some(facts::system(&self.system)));
        for pool in &self.pools {
            queue.upsert_pool(facts::pool(pool));
        }
        for task in &self.tasks {
            queue.upsert_task(facts::task(task));
        }
        let in_progress = VecDeque::new();
        let mut running = Running { world: self, queue, in_progress, now: after(1_500_000), admitted: 0 };
        running.pass();
        running
    }

    fn by_name(&self, name: &str) -> Option<&Task> {
        let number: usize = name.strip_prefix('t')?.parse().ok()?;
        self.tasks.get(number)
    }
}

impl<'a> Running<'a> {
    /// The oldest attempt ends well, and whoever is next takes its slot.
    pub fn decide(&mut self) {
        if let Some((run, task)) = self.in_progress.pop_front() {
            self.queue.upsert_task(TaskFacts {
                phase: TaskPhase::Done,
                purpose: Purpose::Execute,
                ..facts::task(task)
            });
            self.queue.release(&run);
        }
        self.pass();
    }

    /// Tasks that were admitted.
    pub fn admitted(&self) -> usize {
        self.admitted
    }

    fn pass(&mut self) {
        self.now = self.now.checked_add(SignedDuration::from_secs(1)).unwrap_or(self.now);
        for admission in self.queue.plan(self.now).admissions {
            if let Some(task) = self.world.by_name(&admission.task_name) {
                self.started(admission, task);
            }
        }
    }

    /// The Run is created and its Task names it.
    fn started(&mut self, admission: Admission, task: &'a Task) {
        let phase = match admission.purpose {
            Purpose::Execute | Purpose::Plan => TaskPhase::Running,
            Purpose::Judge | Purpose::Merge => TaskPhase::Blocked,
        };
        let run = HolderId::Run(format!("run-{}", admission.task_uid));
        let holder = Holder {
            task_uid: admission.task_uid,
            pool: admission.pool,
            agent: admission.agent,
            lane: admission.lane,
            areas: admission.areas,
            purpose: admission.purpose,
            credential: None,
        };
        self.queue.occupy(run.clone(), holder);
        self.queue.upsert_task(TaskFacts { phase, purpose: Purpose::Execute, ..facts::task(task) });
        self.in_progress.push_back((run, task));
        self.admitted += 1;
    }
}
