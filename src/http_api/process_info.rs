//! What `/system/processes` shows of components and agents, in the words of the original
//! (`spec/api.md` 1.6 and 2): derived from objects alone, so that every replica of the API and every
//! restart says the same (traps 4 and 16). Asks nobody, writes nothing.
//!
//! | process | `running` | else |
//! |---|---|---|
//! | `dispatcher`, `judge` | neither stopped nor the hatch disarmed | `stopped`, `idle` |
//! | `cycle-manager` | not stopped | `stopped` |
//! | `planner` | a Task plans | `stopped`; `completed` or `failed` as the last one ended; `idle` |
//! | an agent | it has a Run, or its slot takes Runs and the hatch is armed | `stopped`; `failed`: it crashed and takes none; `idle` |
//! | `db-*` | never | `idle` |

use jiff::Timestamp;
use kube::ResourceExt;
use serde::Serialize;
use utoipa::ToSchema;

use crate::crd::names::agent_name;
use crate::crd::pool::{AgentHoldReason, Role};
use crate::crd::system::component;
use crate::crd::{AgentPool, Run, System, Task, TaskPhase};
use crate::plan::operation::Target;
use crate::plan::operation::target::{LISTED, Process, process};

/// A process of the original: a component or an agent here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProcessInfo {
    /// E.g. `dispatcher` or `worker-3`.
    pub name: String,
    pub label: String,
    pub description: String,
    /// `Planner`, `Core`, `Workers` or `Database`.
    pub group: &'static str,
    /// `planner`, `service`, `worker`, `database` or `command`.
    pub kind: &'static str,
    pub supports_stop: bool,
    /// `idle`, `running`, `completed`, `failed` or `stopped`.
    pub status: &'static str,
    /// Begin of the Run or the plan in progress, or of the last plan.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub started_at: Option<Timestamp>,
    /// End of the last plan, or time of the last crash.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub finished_at: Option<Timestamp>,
    /// Why it is so, in a sentence.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// What a process is here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    Component(&'static str),
    Agent {
        pool: String,
        index: u32,
    },
    /// `db-up`, `db-down`, `db-push`.
    Database,
}

/// A process by its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    pub process: Process,
    pub kind: Kind,
}

/// The objects that the processes are derived from.
#[derive(Clone, Debug, Default)]
pub struct Objects {
    pub system: Option<System>,
    pub pools: Vec<AgentPool>,
    /// Runs; those that are over do not matter.
    pub runs: Vec<Run>,
    /// Tasks with which the planner plans.
    pub plans: Vec<Task>,
}

/// The process of this name: one of the original's, or an agent of a pool that has another name.
/// Leading zeros do not count, `judge-1` is `judge`, and `planner` has no number.
pub fn known(name: &str, pools: &[AgentPool]) -> Option<Known> {
    let known = match process(name) {
        Some(process) => process,
        None => match Target::parse(name).ok()? {
            Target::Agent { pool, index } if pool != component::PLANNER => of_pool(&pool, index, pools)?,
            Target::Agent { .. } | Target::Component(_) => return None,
        },
    };
    let kind = match Target::parse(&known.name) {
        Ok(Target::Component(name)) => Kind::Component(name),
        Ok(Target::Agent { pool, index }) => Kind::Agent { pool, index },
        Err(_) if known.kind == "database" || known.kind == "command" => Kind::Database,
        // A number that no pool has a slot for.
        Err(_) => Kind::Agent { pool: pool_of(&known.name).to_owned(), index: u32::MAX },
    };
    Some(Known { process: known, kind })
}

fn pool_of(agent: &str) -> &str {
    agent.rsplit_once('-').map_or(agent, |(pool, _)| pool)
}

/// An agent of a pool that is not named like a role of the original.
fn of_pool(pool: &str, index: u32, pools: &[AgentPool]) -> Option<Process> {
    let found = pools.iter().find(|p| p.metadata.name.as_deref() == Some(pool))?;
    let (group, kind) = match found.spec.role {
        Role::Planner => return None,
        Role::Judge => ("Core", "service"),
        Role::Worker | Role::Tester | Role::Docser => ("Workers", "worker"),
    };
    Some(Process {
        name: agent_name(pool, index),
        label: format!("{pool} #{index}"),
        description: "Agent of an AgentPool",
        group,
        kind,
        supports_stop: true,
        auto_restart: Some(true),
    })
}

/// Every process: the six that are always listed, the judge, then the slots of all pools by name.
pub fn all(objects: &Objects, now: Timestamp) -> Vec<ProcessInfo> {
    let mut names: Vec<String> = LISTED.iter().map(ToString::to_string).collect();
    names.push(component::JUDGE.to_owned());
    let mut pools: Vec<&AgentPool> = objects.pools.iter().collect();
    pools.sort_by_key(|pool| (order(pool.spec.role), pool.name_any()));
    for pool in pools {
        let slots = 1..=u32::try_from(pool.spec.replicas).unwrap_or(0);
        names.extend(slots.map(|index| agent_name(&pool.name_any(), index)));
    }
    let mut listed: Vec<ProcessInfo> = Vec::with_capacity(names.len());
    for known in names.iter().filter_map(|name| known(name, &objects.pools)) {
        // judge-1 is judge.
        if known.process.name != component::JUDGE || listed.iter().all(|p| p.name != component::JUDGE) {
            listed.push(info(&known, objects, now));
        }
    }
    listed
}

fn order(role: Role) -> u8 {
    match role {
        Role::Judge => 0,
        Role::Worker => 1,
        Role::Tester => 2,
        Role::Docser => 3,
        Role::Planner => 4,
    }
}

/// One process as it is.
pub fn info(known: &Known, objects: &Objects, now: Timestamp) -> ProcessInfo {
    let state = match (&known.kind, &objects.system) {
        (Kind::Database, _) => State::new("idle", database(&known.process.name)),
        (Kind::Component(_) | Kind::Agent { .. }, None) => {
            State::new("idle", "there is no System named default in this namespace")
        }
        (Kind::Component(component::PLANNER), Some(system)) => planner(system, &objects.plans),
        (Kind::Component(name), Some(system)) => service(name, system),
        (Kind::Agent { pool, index }, Some(system)) => agent(pool, *index, system, objects, now),
    };
    let Process { name, label, description, group, kind, supports_stop, auto_restart: _ } =
        known.process.clone();
    ProcessInfo {
        name,
        label,
        description: description.to_owned(),
        group,
        kind,
        supports_stop,
        status: state.status,
        started_at: state.started_at,
        finished_at: state.finished_at,
        message: state.message,
    }
}

struct State {
    status: &'static str,
    message: String,
    started_at: Option<Timestamp>,
    finished_at: Option<Timestamp>,
}

impl State {
    fn new(status: &'static str, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), started_at: None, finished_at: None }
    }
}

const STOPPED: &str = "stopped until it is started";
const DISARMED: &str = "the runtime hatch is disarmed: nothing starts";

fn database(name: &str) -> &'static str {
    match name {
        "db-push" => {
            "the tables are brought up to date by `opentiger migrate`, which each API Pod runs first"
        }
        _ => "Postgres is not run by this API",
    }
}

fn service(name: &str, system: &System) -> State {
    if system.is_stopped(name) {
        return State::new("stopped", STOPPED);
    }
    if name == component::JUDGE && !system.spec.judge.enabled {
        return State::new("idle", "judge.enabled of the System is false");
    }
    if name != component::CYCLE_MANAGER && !system.is_armed() {
        return State::new("idle", DISARMED);
    }
    State::new("running", "")
}

/// A plan in progress counts first; then that it is stopped; then how the last plan ended (trap 2).
fn planner(system: &System, plans: &[Task]) -> State {
    let phase = |task: &Task| task.status.as_ref().map(|s| s.phase).unwrap_or_default();
    let created = |task: &Task| task.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let live = plans.iter().find(|task| !phase(task).is_terminal());
    let stopped = system.is_stopped(component::PLANNER);
    if let Some(task) = live {
        let hint = if stopped { "; no other plan is begun, the planner is stopped" } else { "" };
        let message = format!("Task {} is {}{hint}", task.name_any(), phase(task).word());
        return State { started_at: created(task), ..State::new("running", message) };
    }
    let status = system.status.as_ref().and_then(|s| s.planner.as_ref());
    let last = plans.iter().max_by_key(|task| created(task));
    let ended = match last.map(phase) {
        Some(TaskPhase::Done) => "completed",
        Some(_) => "failed",
        None => "idle",
    };
    let message = if stopped { STOPPED } else { status.map_or("", |s| s.last_result.as_str()) };
    State {
        started_at: last.and_then(created),
        finished_at: status.and_then(|s| s.last_ended_at).filter(|_| last.is_some()),
        ..State::new(if stopped { "stopped" } else { ended }, message)
    }
}

fn agent(pool: &str, index: u32, system: &System, objects: &Objects, now: Timestamp) -> State {
    let name = agent_name(pool, index);
    if system.is_stopped(&name) {
        return State::new("stopped", STOPPED);
    }
    let runs = |run: &&Run| {
        run.spec.agent == name && !run.status.as_ref().is_some_and(|status| status.phase.is_terminal())
    };
    if let Some(run) = objects.runs.iter().find(runs) {
        let message = format!("Run {} of Task {}", run.name_any(), run.spec.task_ref.name);
        let started_at = run.metadata.creation_timestamp.as_ref().map(|time| time.0);
        return State { started_at, ..State::new("running", message) };
    }
    if let Err(why) = slot(pool, index, &objects.pools) {
        return State::new("idle", why);
    }
    let pool = objects.pools.iter().find(|p| p.metadata.name.as_deref() == Some(pool));
    let holds = pool.and_then(|p| p.status.as_ref()).map(|s| s.held.as_slice()).unwrap_or_default();
    let held = holds.iter().find(|hold| hold.name == name && hold.until.is_none_or(|until| until > now));
    if let Some(hold) = held {
        let message = match (hold.reason, hold.until) {
            (AgentHoldReason::Restarting, Some(until)) => {
                format!("crashed, takes Runs again at {until}")
            }
            (AgentHoldReason::Restarting, None) | (AgentHoldReason::Exhausted, _) => {
                format!("crashed {} times and takes no Runs until it is started", hold.restarts)
            }
        };
        return State { finished_at: hold.last_crash, ..State::new("failed", message) };
    }
    if system.is_armed() { State::new("running", "waits for a Task") } else { State::new("idle", DISARMED) }
}

/// Whether there is such a slot that Runs may be admitted into.
///
/// # Errors
/// A sentence that says what is missing.
pub fn slot(pool: &str, index: u32, pools: &[AgentPool]) -> Result<(), String> {
    let Some(found) = pools.iter().find(|p| p.metadata.name.as_deref() == Some(pool)) else {
        return Err(format!("there is no AgentPool named {pool}"));
    };
    let slots = found.spec.replicas;
    if i64::from(index) > i64::from(slots) {
        return Err(format!("AgentPool {pool} has {slots} slots: raise its spec.replicas"));
    }
    if found.spec.suspend {
        return Err(format!("AgentPool {pool} is suspended: set its spec.suspend to false"));
    }
    Ok(())
}

#[cfg(test)]
#[path = "process_info_tests.rs"]
mod tests;
