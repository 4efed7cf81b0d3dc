//! An API server in memory: objects with uids and resourceVersions, optimistic concurrency, the
//! admission policy, graceful deletion of Pods, and a log of events for watches.
//!
//! It knows what a real one does to our kinds and nothing of the rules that the simulation checks.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use opentiger::cluster::write::merge_patch;
use opentiger::crd::labels;
use serde_json::{Value, json};

/// Namespace of every object.
pub const NAMESPACE: &str = "sim";

/// Kinds that the server keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    System,
    Pool,
    Task,
    Run,
    Pod,
    Operation,
    NetworkPolicy,
}

/// The kinds that an operator watches.
pub const WATCHED: [Kind; 6] = [Kind::System, Kind::Pool, Kind::Task, Kind::Run, Kind::Pod, Kind::Operation];

impl Kind {
    /// From the plural in a path.
    pub fn of(plural: &str) -> Option<Self> {
        Some(match plural {
            "systems" => Self::System,
            "agentpools" => Self::Pool,
            "tasks" => Self::Task,
            "runs" => Self::Run,
            "pods" => Self::Pod,
            "operations" => Self::Operation,
            "networkpolicies" => Self::NetworkPolicy,
            _ => return None,
        })
    }

    /// `kind` and `apiVersion`.
    pub fn words(self) -> (&'static str, &'static str) {
        match self {
            Self::System => ("System", "opentiger.dev/v1alpha1"),
            Self::Pool => ("AgentPool", "opentiger.dev/v1alpha1"),
            Self::Task => ("Task", "opentiger.dev/v1alpha1"),
            Self::Run => ("Run", "opentiger.dev/v1alpha1"),
            Self::Pod => ("Pod", "v1"),
            Self::Operation => ("Operation", "opentiger.dev/v1alpha1"),
            Self::NetworkPolicy => ("NetworkPolicy", "networking.k8s.io/v1"),
        }
    }
}

/// Who makes a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Actor {
    User,
    /// Kubelet, scheduler and the controllers of Kubernetes itself.
    Cluster,
    /// The operator of this number.
    Operator(usize),
}

/// A change that was committed.
#[derive(Clone, Debug)]
pub struct Commit {
    pub kind: Kind,
    pub by: Actor,
    pub old: Option<Arc<Value>>,
    pub new: Option<Arc<Value>>,
}

/// One entry of a watch.
#[derive(Clone, Debug)]
pub struct Event {
    pub deleted: bool,
    pub object: Arc<Value>,
}

/// A request that was refused, as the body of a `Status`.
#[derive(Clone, Debug)]
pub struct Refusal {
    pub code: u16,
    pub reason: &'static str,
    pub message: String,
}

impl Refusal {
    /// A refusal.
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into() }
    }

    /// The body.
    pub fn body(&self) -> Value {
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
               "message": self.message, "reason": self.reason, "code": self.code})
    }
}

/// A rule of the world that a mutant breaks. Each makes a rule of the product void.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    Nothing,
    /// resourceVersions in patches are not compared: status writes are not fenced (S15).
    Fence,
    /// No admission policy: neither hatch nor term bind a late create (S12, S14).
    Admission,
    /// The name of a Run is not its claim: every create gets another one (S4).
    Names,
    /// A Pod that is being deleted is taken for gone (rule 3.4 of the design, S1).
    Terminating,
    /// Absence is confirmed by an old copy (S1, S10).
    Reads,
}

/// The server.
pub struct Server {
    version: u64,
    uids: u64,
    pub now: Timestamp,
    pub objects: BTreeMap<(Kind, String), Arc<Value>>,
    pub log: BTreeMap<Kind, Vec<Event>>,
    pub commits: Vec<Commit>,
    pub broken: Broken,
    salt: u64,
}

impl Server {
    /// An empty server; uids depend on `salt`.
    pub fn new(now: Timestamp, salt: u64, broken: Broken) -> Self {
        let log = WATCHED.iter().map(|k| (*k, Vec::new())).collect();
        Self { version: 100, uids: 0, now, objects: BTreeMap::new(), log, commits: Vec::new(), broken, salt }
    }

    /// The object of this name.
    pub fn get(&self, kind: Kind, name: &str) -> Option<Arc<Value>> {
        self.objects.get(&(kind, name.to_string())).cloned()
    }

    /// What a client reads: the object, or what an old copy says.
    pub fn read(&self, kind: Kind, name: &str) -> Option<Arc<Value>> {
        let log = self.log.get(&kind).filter(|_| self.broken == Broken::Reads);
        let Some(log) = log else { return self.get(kind, name) };
        let old = &log[..log.len().saturating_sub(5)];
        let last = old.iter().rev().find(|e| text(&e.object, "/metadata/name") == name)?;
        (!last.deleted).then(|| last.object.clone())
    }

    /// Every object of a kind, by name.
    pub fn all(&self, kind: Kind) -> Vec<Arc<Value>> {
        self.objects.iter().filter(|((k, _), _)| *k == kind).map(|(_, o)| o.clone()).collect()
    }

    /// The last resourceVersion given.
    pub fn version(&self) -> u64 {
        self.version
    }

    fn commit(&mut self, kind: Kind, name: &str, new: Option<Value>, by: Actor) -> Arc<Value> {
        self.version += 1;
        let key = (kind, name.to_string());
        let old = self.objects.get(&key).cloned();
        let stamped = |mut value: Value, version: u64| {
            value["metadata"]["resourceVersion"] = json!(version.to_string());
            Arc::new(value)
        };
        let deleted = new.is_none();
        let object = match new {
            Some(new) => stamped(new, self.version),
            None => stamped(old.as_deref().cloned().unwrap_or_default(), self.version),
        };
        if deleted {
            self.objects.remove(&key);
        } else {
            self.objects.insert(key, object.clone());
        }
        if let Some(log) = self.log.get_mut(&kind) {
            log.push(Event { deleted, object: object.clone() });
        }
        self.commits.push(Commit { kind, by, old, new: (!deleted).then(|| object.clone()) });
        object
    }

    /// Creates an object: uid, version, generation, first status.
    pub fn create(&mut self, kind: Kind, mut object: Value, by: Actor) -> Result<Arc<Value>, Refusal> {
        let mut name = text(&object, "/metadata/name").to_string();
        if self.broken == Broken::Names && kind == Kind::Run {
            name = format!("{name}-{}", self.uids);
            object["metadata"]["name"] = json!(name);
        }
        if self.get(kind, &name).is_some() {
            return Err(Refusal::new(409, "AlreadyExists", format!("{name} already exists")));
        }
        if matches!(kind, Kind::Run | Kind::Pod) && self.broken != Broken::Admission {
            self.admit(&object)?;
        }
        self.uids += 1;
        let (word, api) = kind.words();
        object["kind"] = json!(word);
        object["apiVersion"] = json!(api);
        object["metadata"]["namespace"] = json!(NAMESPACE);
        object["metadata"]["uid"] =
            json!(format!("{:08x}-0000-4000-8000-{:012x}", self.salt & 0xffff_ffff, self.uids));
        object["metadata"]["creationTimestamp"] = json!(seconds(self.now));
        object["metadata"]["generation"] = json!(1);
        match kind {
            Kind::Task => {
                object["status"] =
                    json!({"phase": "Queued", "next": {"kind": "Watch", "detail": "not yet considered"}});
            }
            Kind::Run => object["status"] = json!({"phase": "Running"}),
            Kind::Pod => {
                // Nobody here reads the containers of a Pod.
                object["spec"] = json!({"terminationGracePeriodSeconds":
                    object.pointer("/spec/terminationGracePeriodSeconds").cloned().unwrap_or(json!(30))});
                object["status"] = json!({"phase": "Pending"});
            }
            Kind::System | Kind::Pool | Kind::Operation | Kind::NetworkPolicy => {
                object.as_object_mut().map(|o| o.remove("status"));
            }
        }
        Ok(self.commit(kind, &name, Some(object), by))
    }

    /// The admission policy of the chart.
    fn admit(&self, object: &Value) -> Result<(), Refusal> {
        let forbidden = |message: String| Err(Refusal::new(403, "Forbidden", message));
        let Some(system) = self.get(Kind::System, "default") else {
            return forbidden("no params found for policy binding".into());
        };
        let hatch = text(&system, "/spec/runtimeHatch");
        if hatch.is_empty() || hatch == "Disarmed" || text(&system, "/status/hatch/state") != "Armed" {
            return forbidden("hatch is disarmed: nothing may start in this namespace".into());
        }
        let term = system.pointer("/status/term").map(ToString::to_string).unwrap_or_default();
        let label = label(object, labels::TERM);
        if term.is_empty() || label != term {
            return forbidden(format!("label opentiger.dev/term is {label} but the term in force is {term}"));
        }
        Ok(())
    }

    /// A merge patch of `/status`.
    pub fn patch_status(
        &mut self,
        kind: Kind,
        name: &str,
        patch: &Value,
        by: Actor,
    ) -> Result<Arc<Value>, Refusal> {
        let Some(old) = self.get(kind, name) else { return Err(not_found(name)) };
        let expected = text(patch, "/metadata/resourceVersion");
        if !expected.is_empty()
            && expected != text(&old, "/metadata/resourceVersion")
            && self.broken != Broken::Fence
        {
            return Err(Refusal::new(409, "Conflict", format!("{name} has been modified")));
        }
        let mut new = Value::clone(&old);
        if let Some(status) = patch.get("status") {
            merge(&mut new["status"], status);
        }
        if new == *old {
            return Ok(old);
        }
        Ok(self.commit(kind, name, Some(new), by))
    }

    /// Changes an object as its owner does, without a fence. A changed spec raises the generation.
    pub fn change(&mut self, kind: Kind, name: &str, by: Actor, change: impl FnOnce(&mut Value)) {
        let Some(old) = self.get(kind, name) else { return };
        let mut new = Value::clone(&old);
        change(&mut new);
        if merge_patch(&old, &new).is_none() {
            return;
        }
        if new.get("spec") != old.get("spec") && kind != Kind::Pod {
            let generation = old.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0);
            new["metadata"]["generation"] = json!(generation + 1);
        }
        self.commit(kind, name, Some(new), by);
    }

    /// Deletes an object. A Pod on a node that has not ended only gets its deletion time.
    pub fn delete(
        &mut self,
        kind: Kind,
        name: &str,
        uid: &str,
        grace: Option<i64>,
        by: Actor,
    ) -> Result<(), Refusal> {
        let Some(old) = self.get(kind, name) else { return Err(not_found(name)) };
        if !uid.is_empty() && uid != text(&old, "/metadata/uid") {
            return Err(Refusal::new(409, "Conflict", "the UID in the precondition does not match"));
        }
        let ended = matches!(text(&old, "/status/phase"), "Succeeded" | "Failed");
        let own = old.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_i64).unwrap_or(30);
        let grace = grace.unwrap_or(own);
        if kind != Kind::Pod || ended || text(&old, "/spec/nodeName").is_empty() || grace == 0 {
            self.commit(kind, name, None, by);
            return Ok(());
        }
        if text(&old, "/metadata/deletionTimestamp").is_empty() {
            let at = self.now.checked_add(jiff::SignedDuration::from_secs(grace)).unwrap_or(self.now);
            let mut new = Value::clone(&old);
            new["metadata"]["deletionTimestamp"] = json!(seconds(at));
            new["metadata"]["deletionGracePeriodSeconds"] = json!(grace);
            self.commit(kind, name, Some(new), by);
        }
        Ok(())
    }

    /// Removes a Pod for good, as its kubelet does once it has ended.
    pub fn remove(&mut self, kind: Kind, name: &str) {
        if self.get(kind, name).is_some() {
            self.commit(kind, name, None, Actor::Cluster);
        }
    }
}

fn not_found(name: &str) -> Refusal {
    Refusal::new(404, "NotFound", format!("{name} not found"))
}

/// The text at `pointer`, or none.
pub fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// The value of a label.
pub fn label<'a>(object: &'a Value, key: &str) -> &'a str {
    object["metadata"]["labels"].get(key).and_then(Value::as_str).unwrap_or_default()
}

/// The uid of the controlling owner.
pub fn owner(object: &Value) -> &str {
    let owners = object["metadata"]["ownerReferences"].as_array();
    let owner = owners.into_iter().flatten().find(|o| o["controller"] == json!(true));
    owner.and_then(|o| o["uid"].as_str()).unwrap_or_default()
}

/// Times in metadata have whole seconds.
pub fn seconds(at: Timestamp) -> String {
    Timestamp::from_second(at.as_second()).unwrap_or(at).to_string()
}

/// RFC 7386.
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let Some(target) = target.as_object_mut() else { return };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}
