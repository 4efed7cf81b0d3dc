//! People: they make Tasks and change their minds.

use opentiger::crd::pool::MockExecutor;
use opentiger::crd::run::SecretRef;
use opentiger::crd::{
    AgentPool, AgentPoolSpec, Executor, ExecutorType, Role, System, SystemSpec, Task, TaskSpec,
};
use serde_json::{Value, json};

use super::cluster::name_of;
use super::requests;
use super::rng::Rng;
use super::server::{Actor, Kind, Server, text};

/// Names that Tasks get, again and again.
const NAMES: [&str; 8] = ["t0", "t1", "t2", "t3", "t4", "t5", "t6", "t7"];
const POOLS: [(&str, Role); 4] =
    [("worker", Role::Worker), ("docser", Role::Docser), ("tester", Role::Tester), ("judge", Role::Judge)];

/// The people of one world.
#[derive(Default)]
pub struct User {
    /// Tasks made so far.
    pub made: usize,
    /// Operations made so far.
    pub asked: usize,
    /// Whether these people use Operations.
    pub asks: bool,
}

impl User {
    /// System, pools and the first Tasks.
    pub fn begin(&mut self, server: &mut Server, rng: &mut Rng) {
        let mut system = System::new("default", SystemSpec::default());
        system.spec.repository.url = "https://git.example.com/team/app.git".into();
        system.spec.repository.base_branch = "main".into();
        system.spec.repository.branch_prefix = "agent/".into();
        system.spec.recovery.dispatch_retry_delay = None;
        let mut system = json!(system);
        system["spec"]["runtimeHatch"] = json!(rng.weighted(&[(9, "Armed"), (1, "Disarmed")]));
        let judged = rng.chance(400);
        if judged {
            system["spec"]["judge"] = json!({
                "enabled": true, "autoMerge": rng.chance(850), "autoFixMaxAttempts": rng.between(0, 3),
                "recreateMaxAttempts": rng.between(0, 1), "maxFailures": rng.between(1, 5),
                "mergeMaxAttempts": rng.between(1, 3)});
        }
        self.asks = rng.chance(500);
        let _ = server.create(Kind::System, system, Actor::User);
        let credential = rng.weighted(&[(5, None), (3, Some("key")), (2, Some(""))]);
        for (name, role) in POOLS {
            if role == Role::Judge && !judged {
                continue;
            }
            let mut pool = AgentPool::new(name, AgentPoolSpec { role, ..AgentPoolSpec::default() });
            pool.spec.replicas =
                if role == Role::Worker { rng.between(1, 3) as i32 } else { rng.between(0, 2) as i32 };
            pool.spec.image = "agent".into();
            // All pools share one, or each has its own.
            pool.spec.credentials_secret_ref = credential.map(|key| SecretRef {
                name: if key.is_empty() { format!("key-{name}") } else { key.into() },
            });
            pool.spec.executor = Executor {
                type_: ExecutorType::Mock,
                mock: Some(MockExecutor::default()),
                ..Executor::default()
            };
            let _ = server.create(Kind::Pool, json!(pool), Actor::User);
        }
        for _ in 0..rng.between(2, 5) {
            self.make(server, rng);
        }
    }

    fn make(&mut self, server: &mut Server, rng: &mut Rng) -> String {
        let name = rng.pick(&NAMES);
        self.made += 1;
        let mut spec = TaskSpec {
            title: name.into(),
            goal: if rng.chance(150) { "impossible".into() } else { "possible".into() },
            kind: "code".into(),
            ..TaskSpec::default()
        };
        spec.timebox = opentiger::crd::GoDuration::from_secs(600);
        spec.role = rng.weighted(&[(6, Role::Worker), (2, Role::Docser), (1, Role::Tester)]);
        spec.priority = rng.between(0, 3) as i32;
        spec.target_area = rng.weighted(&[(4, None), (2, Some("a")), (1, Some("b"))]).map(Into::into);
        spec.lane =
            rng.weighted(&[(8, None), (1, Some("conflict_recovery")), (1, Some("other"))]).map(Into::into);
        if rng.chance(250) {
            let other = rng.pick(&NAMES);
            if other != name {
                spec.dependencies.push(other.into());
            }
        }
        let _ = server.create(Kind::Task, json!(Task::new(name, spec)), Actor::User);
        format!("makes Task {name}")
    }

    /// Does something.
    pub fn act(&mut self, server: &mut Server, rng: &mut Rng) -> String {
        let tasks = server.all(Kind::Task);
        let some = |list: &[std::sync::Arc<Value>], rng: &mut Rng| {
            (!list.is_empty()).then(|| name_of(&list[rng.below(list.len())]))
        };
        match rng.weighted(&[
            (6, 0),
            (2, 1),
            (2, 2),
            (3, 3),
            (2, 4),
            (1, 5),
            (2, 6),
            (3, 7),
            (2, 8),
            (3, 9),
            (2, 10),
            (if self.asks { 25 } else { 0 }, 11),
        ]) {
            11 => {
                let task = some(&tasks, rng).unwrap_or_default();
                let spec = requests::draw(rng, &task);
                let said = format!("asks for {spec}");
                self.ask(server, spec);
                said
            }
            0 if self.made < 12 => self.make(server, rng),
            1 => {
                let Some(name) = some(&tasks, rng) else { return String::new() };
                let _ = server.delete(Kind::Task, &name, "", None, Actor::User);
                format!("deletes Task {name}")
            }
            2 => {
                let Some(name) = some(&tasks, rng) else { return String::new() };
                let Some(mut old) = server.get(Kind::Task, &name).map(|t| Value::clone(&t)) else {
                    return String::new();
                };
                let _ = server.delete(Kind::Task, &name, "", None, Actor::User);
                old["metadata"] = json!({"name": name});
                let _ = server.create(Kind::Task, old, Actor::User);
                format!("recreates Task {name}")
            }
            3 => {
                let Some(name) = some(&tasks, rng) else { return String::new() };
                edit(server, &name, |spec| {
                    spec["goal"] = json!("possible");
                    let priority = spec["priority"].as_i64().unwrap_or(0);
                    spec["priority"] = json!(priority + 1);
                });
                format!("edits Task {name}")
            }
            4 => {
                let Some(name) = some(&tasks, rng) else { return String::new() };
                edit(server, &name, |spec| spec["cancel"] = json!(true));
                format!("cancels Task {name}")
            }
            5 => {
                let Some(name) = some(&server.all(Kind::Run), rng) else { return String::new() };
                let _ = server.delete(Kind::Run, &name, "", None, Actor::User);
                format!("deletes Run {name}")
            }
            6 => {
                let Some(name) = some(&server.all(Kind::Pod), rng) else { return String::new() };
                let _ = server.delete(Kind::Pod, &name, "", None, Actor::User);
                format!("deletes Pod {name}")
            }
            7 => {
                let (pool, replicas) = (rng.pick(&POOLS).0, rng.between(0, 3));
                server.change(Kind::Pool, pool, Actor::User, |p| p["spec"]["replicas"] = json!(replicas));
                format!("scales {pool} to {replicas}")
            }
            8 => {
                let (pool, suspend) = (rng.pick(&POOLS).0, rng.chance(400));
                server.change(Kind::Pool, pool, Actor::User, |p| p["spec"]["suspend"] = json!(suspend));
                format!("suspends {pool}: {suspend}")
            }
            9 => {
                let hatch = rng.weighted(&[(5, "Armed"), (2, "Disarmed"), (1, "Manual")]);
                server.change(Kind::System, "default", Actor::User, |s| {
                    s["spec"]["runtimeHatch"] = json!(hatch)
                });
                format!("sets the hatch to {hatch}")
            }
            _ => {
                let lane = json!([{"name": "feature", "maxSlots": rng.between(1, 3)}]);
                let most = rng.between(1, 4);
                let (lanes, limit) = (rng.chance(500), rng.chance(500));
                server.change(Kind::System, "default", Actor::User, |s| {
                    s["spec"]["dispatch"] = json!({});
                    if lanes {
                        s["spec"]["dispatch"]["lanes"] = lane;
                    }
                    if limit {
                        s["spec"]["dispatch"]["maxConcurrent"] = json!(most);
                    }
                });
                format!("sets bounds: lanes {lanes}, maxConcurrent {limit} {most}")
            }
        }
    }

    fn ask(&mut self, server: &mut Server, spec: Value) {
        self.asked += 1;
        let name = format!("op-{:03}", self.asked);
        let _ =
            server.create(Kind::Operation, json!({"metadata": {"name": name}, "spec": spec}), Actor::User);
    }

    /// After the last fault: everything is allowed again.
    pub fn open_up(&mut self, server: &mut Server) {
        server.change(Kind::System, "default", Actor::User, |s| {
            s["spec"]["runtimeHatch"] = json!("Armed");
            s["spec"]["dispatch"] = json!({});
        });
        for (pool, _) in POOLS {
            server.change(Kind::Pool, pool, Actor::User, |p| {
                p["spec"]["suspend"] = json!(false);
                let replicas = p["spec"]["replicas"].as_i64().unwrap_or(0);
                p["spec"]["replicas"] = json!(replicas.max(1));
            });
        }
        if self.asked > 0 {
            for spec in requests::undo() {
                self.ask(server, spec);
            }
        }
    }

    /// A person does what a Task asks for: its goal becomes possible, its dependencies go.
    pub fn help(&mut self, server: &mut Server, name: &str) {
        edit(server, name, |spec| {
            spec["goal"] = json!("possible, as a person has seen to");
            spec["dependencies"] = json!([]);
        });
    }
}

/// Edits the spec of a Task; one that has ended cannot be edited.
fn edit(server: &mut Server, name: &str, change: impl FnOnce(&mut Value)) {
    let ended = server
        .get(Kind::Task, name)
        .is_none_or(|t| matches!(text(&t, "/status/phase"), "Done" | "Cancelled"));
    if !ended {
        server.change(Kind::Task, name, Actor::User, |task| change(&mut task["spec"]));
    }
}
