//! What Kubernetes does by itself: the scheduler, kubelets on nodes that may be lost, the garbage
//! collector. Pods end as a script says that is drawn when they start.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use opentiger::crd::labels;
use opentiger::crd::run::{ReviewResult, ReviewVerdict};
use opentiger::crd::wire::{ContainerResult, Outcome, container};
use serde_json::{Value, json};

use super::rng::Rng;
use super::server::{Actor, Kind, Server, label, owner, seconds, text};

/// How a Pod ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Script {
    Success,
    Noop,
    /// `publish` reports this outcome and code.
    Fail(Outcome, &'static str, &'static str),
    /// A provider limit that resets after so many seconds; 0: it does not say.
    Quota(u64),
    /// The agent is killed: exit code and reason.
    Killed(i64, &'static str),
    /// The kubelet evicts the Pod for what it did itself.
    Evicted,
    /// The cluster ends it (condition `DisruptionTarget`).
    Disrupted,
    /// The Pod fails for this reason, without a word of its containers.
    PodFailed(&'static str),
    /// The checkout fails by a fault outside.
    CheckoutInfra,
    /// The image cannot be pulled.
    ImagePull,
    /// No node takes it.
    Unschedulable,
    /// Everything ends well and nobody reports anything.
    Mute,
    /// A reviewer approves, or asks for changes.
    Review(bool),
    /// A merge ends well.
    Merged,
}

/// Scripts by weight, for the time of faults.
const SCRIPTS: &[(u64, Script)] = &[
    (30, Script::Success),
    (3, Script::Noop),
    (6, Script::Fail(Outcome::Failed, "model_or_unknown_failure", "the agent gave up")),
    (2, Script::Fail(Outcome::Failed, "transient_or_flaky_failure", "timed out")),
    (2, Script::Fail(Outcome::Failed, "environment_issue", "connection refused")),
    (2, Script::Fail(Outcome::Failed, "setup_or_bootstrap_issue", "cannot find module x")),
    (1, Script::Fail(Outcome::Failed, "model_doom_loop", "doom loop detected")),
    (1, Script::Fail(Outcome::Failed, "external_directory_permission_prompt", "permission required")),
    (6, Script::Fail(Outcome::NeedsRework, "verification_command_failed", "test failed at make test")),
    (2, Script::Fail(Outcome::NeedsRework, "verification_command_missing_script", "missing script: test")),
    (1, Script::Fail(Outcome::NeedsRework, "verification_command_missing_make_target", "no rule to make x")),
    (1, Script::Fail(Outcome::NeedsRework, "verification_command_no_test_files", "no test files found")),
    (1, Script::Fail(Outcome::NeedsRework, "verification_command_unsupported_format", "shell operators")),
    (
        1,
        Script::Fail(Outcome::NeedsRework, "verification_command_sequence_issue", "dist/index.js is missing"),
    ),
    (1, Script::Fail(Outcome::Failed, "branch_diverged_requires_recreate", "the branch has diverged")),
    (2, Script::Fail(Outcome::NeedsRework, "policy_violation", "change to denied path x")),
    (1, Script::Fail(Outcome::NeedsRework, "no_actionable_changes", "no changes were made")),
    (2, Script::Fail(Outcome::Infra, "infrastructure_fault", "the remote does not answer")),
    (4, Script::Quota(20)),
    (1, Script::Quota(0)),
    (2, Script::Killed(137, "Error")),
    (1, Script::Killed(139, "Error")),
    (2, Script::Killed(137, "OOMKilled")),
    (2, Script::Evicted),
    (3, Script::Disrupted),
    (1, Script::PodFailed("DeadlineExceeded")),
    (1, Script::PodFailed("NodeShutdown")),
    (2, Script::CheckoutInfra),
    (3, Script::ImagePull),
    (2, Script::Unschedulable),
    (1, Script::Mute),
];

/// Scripts of Judge Runs and of Merge Runs.
const REVIEWS: &[(u64, Script)] = &[
    (10, Script::Review(true)),
    (5, Script::Review(false)),
    (2, Script::Fail(Outcome::Failed, "model_or_unknown_failure", "the reviewer gave up")),
    (1, Script::Fail(Outcome::Failed, "review_no_verdict", "no verdict was left")),
    (1, Script::Fail(Outcome::Failed, "review_head_moved", "the branch has moved")),
    (2, Script::Quota(30)),
    (1, Script::Killed(137, "Error")),
    (1, Script::Disrupted),
    (1, Script::ImagePull),
    (1, Script::Mute),
];
const MERGES: &[(u64, Script)] = &[
    (8, Script::Merged),
    (3, Script::Fail(Outcome::Failed, "merge_conflict", "conflict in src/a")),
    (3, Script::Fail(Outcome::Failed, "merge_base_moved", "the base has moved")),
    (1, Script::Fail(Outcome::Failed, "merge_refused", "the remote refuses")),
    (1, Script::Fail(Outcome::Infra, "infrastructure_fault", "the remote does not answer")),
    (1, Script::Disrupted),
];

/// What a provider says that is beyond its limits.
const STORM: &[(u64, Script)] =
    &[(5, Script::Quota(20)), (3, Script::Quota(600)), (1, Script::Quota(0)), (3, Script::Success)];

/// A node and whether its kubelet answers.
#[derive(Clone, Debug)]
struct Node {
    name: String,
    lost: bool,
}

/// Kubelets, scheduler and garbage collector.
pub struct Cluster {
    nodes: Vec<Node>,
    scripts: BTreeMap<String, Script>,
    /// After the last fault: Pods do what their Task says.
    pub calm: bool,
    /// The provider is beyond its limits most of the time.
    pub storm: bool,
    next_node: usize,
}

impl Cluster {
    /// Three nodes.
    pub fn new() -> Self {
        let nodes = (1..=3).map(|i| Node { name: format!("node-{i}"), lost: false }).collect();
        Self { nodes, scripts: BTreeMap::new(), calm: false, storm: false, next_node: 4 }
    }

    /// The script of a Pod, drawn when it is first asked for.
    fn script(&mut self, pod: &Value, server: &Server, rng: &mut Rng) -> Script {
        let uid = text(pod, "/metadata/uid").to_string();
        if let Some(script) = self.scripts.get(&uid) {
            return *script;
        }
        let goal = server
            .get(Kind::Run, label(pod, labels::RUN))
            .map(|run| text(&run, "/spec/inputs/goal").to_string())
            .unwrap_or_default();
        let script = match (label(pod, labels::PURPOSE), self.calm) {
            ("judge", true) => Script::Review(true),
            ("merge", true) => Script::Merged,
            ("judge", false) => rng.weighted(REVIEWS),
            ("merge", false) => rng.weighted(MERGES),
            (_, false) if self.storm => rng.weighted(STORM),
            (_, false) => rng.weighted(SCRIPTS),
            (_, true) => calm(&goal),
        };
        self.scripts.insert(uid, script);
        script
    }

    /// Lets the scheduler or a kubelet do the next thing about one Pod. Returns what, or nothing when
    /// there is nothing to do.
    pub fn step(&mut self, server: &mut Server, name: &str, rng: &mut Rng) -> Option<&'static str> {
        let pod = server.get(Kind::Pod, name)?;
        let node = text(&pod, "/spec/nodeName").to_string();
        if self.nodes.iter().any(|n| n.name == node && n.lost) {
            return None;
        }
        let ended = matches!(text(&pod, "/status/phase"), "Succeeded" | "Failed");
        let going = !text(&pod, "/metadata/deletionTimestamp").is_empty();
        if going && ended {
            server.remove(Kind::Pod, name);
            return Some("removed");
        }
        if ended {
            return None;
        }
        let script = self.script(&pod, server, rng);
        if going {
            // It may have ended by itself just before.
            let script = if rng.chance(200) { script } else { stopped(server.now, &pod) };
            self.end(server, name, script, rng);
            return Some("stopped");
        }
        if node.is_empty() {
            return self.schedule(server, name, script, rng);
        }
        match text(&pod, "/status/phase") {
            "Pending" => start(server, name, script),
            _ => {
                self.end(server, name, script, rng);
                Some("ended")
            }
        }
    }

    fn schedule(
        &self,
        server: &mut Server,
        name: &str,
        script: Script,
        rng: &mut Rng,
    ) -> Option<&'static str> {
        let up: Vec<&Node> = self.nodes.iter().filter(|n| !n.lost).collect();
        if script == Script::Unschedulable || up.is_empty() {
            let before = server.version();
            server.change(Kind::Pod, name, Actor::Cluster, |pod| {
                pod["status"]["conditions"] = json!([{"type": "PodScheduled", "status": "False",
                    "reason": "Unschedulable", "message": "0/3 nodes are available"}]);
            });
            return (server.version() > before).then_some("unschedulable");
        }
        let node = up[rng.below(up.len())].name.clone();
        server.change(Kind::Pod, name, Actor::Cluster, |pod| {
            pod["spec"]["nodeName"] = json!(node);
            pod["status"]["conditions"] = json!([{"type": "PodScheduled", "status": "True"}]);
        });
        Some("scheduled")
    }

    /// Writes how a Pod has ended.
    fn end(&self, server: &mut Server, name: &str, script: Script, rng: &mut Rng) {
        let (now, head) = (server.now, format!("{:040x}", rng.below(usize::MAX)));
        server.change(Kind::Pod, name, Actor::Cluster, |pod| {
            let status = ended(now, pod, script, &head);
            for (key, value) in status.as_object().into_iter().flatten() {
                pod["status"][key] = value.clone();
            }
        });
    }

    /// A node stops answering.
    pub fn lose_node(&mut self, rng: &mut Rng) {
        let at = rng.below(self.nodes.len());
        self.nodes[at].lost = true;
    }

    /// Lost nodes come back; what ran on them goes on.
    pub fn restore_nodes(&mut self) {
        for node in &mut self.nodes {
            node.lost = false;
        }
    }

    /// Pods of lost nodes are told to go; nobody there hears it.
    pub fn taint_lost(&self, server: &mut Server) {
        for name in self.on_lost_nodes(server) {
            server.change(Kind::Pod, &name, Actor::Cluster, |pod| {
                pod["status"]["conditions"] = json!([{"type": "DisruptionTarget", "status": "True",
                    "reason": "DeletionByTaintManager", "message": "the node is unreachable"}]);
            });
            let _ = server.delete(Kind::Pod, &name, "", None, Actor::Cluster);
        }
    }

    /// A lost node is declared gone: its Pods are given up and removed, another node joins.
    pub fn replace_lost(&mut self, server: &mut Server) {
        for name in self.on_lost_nodes(server) {
            server.change(Kind::Pod, &name, Actor::Cluster, |pod| {
                if !matches!(text(pod, "/status/phase"), "Succeeded" | "Failed") {
                    pod["status"]["phase"] = json!("Failed");
                }
            });
            server.remove(Kind::Pod, &name);
        }
        for node in self.nodes.iter_mut().filter(|n| n.lost) {
            *node = Node { name: format!("node-{}", self.next_node), lost: false };
            self.next_node += 1;
        }
    }

    fn on_lost_nodes(&self, server: &Server) -> Vec<String> {
        let lost = |pod: &Value| {
            let node = text(pod, "/spec/nodeName");
            self.nodes.iter().any(|n| n.lost && n.name == node)
        };
        server.all(Kind::Pod).iter().filter(|p| lost(p)).map(|p| name_of(p)).collect()
    }

    /// The garbage collector looks once: objects whose controller is gone are deleted.
    pub fn collect(&self, server: &mut Server) {
        let uid = |o: &Value| text(o, "/metadata/uid").to_string();
        for (kind, above) in
            [(Kind::Run, Kind::Task), (Kind::Pod, Kind::Run), (Kind::NetworkPolicy, Kind::Pool)]
        {
            let owners: BTreeSet<String> = server.all(above).iter().map(|o| uid(o)).collect();
            for object in server.all(kind) {
                let owner = owner(&object);
                if !owner.is_empty()
                    && !owners.contains(owner)
                    && text(&object, "/metadata/deletionTimestamp").is_empty()
                {
                    let _ = server.delete(kind, &name_of(&object), "", None, Actor::Cluster);
                }
            }
        }
    }
}

/// How an attempt ends once nothing goes wrong any more.
fn calm(goal: &str) -> Script {
    if goal.contains("impossible") {
        Script::Fail(Outcome::Failed, "model_or_unknown_failure", "the goal cannot be reached")
    } else {
        Script::Success
    }
}

/// Name of an object.
pub fn name_of(object: &Value) -> String {
    text(object, "/metadata/name").to_string()
}

fn start(server: &mut Server, name: &str, script: Script) -> Option<&'static str> {
    let now = seconds(server.now);
    let before = server.version();
    server.change(Kind::Pod, name, Actor::Cluster, |pod| {
        if script == Script::ImagePull {
            let waiting = json!({"waiting": {"reason": "ErrImagePull", "message": "not found"}});
            pod["status"]["containerStatuses"] = json!([{"name": container::AGENT, "state": waiting}]);
            return;
        }
        pod["status"]["phase"] = json!("Running");
        pod["status"]["initContainerStatuses"] =
            json!([{"name": container::CHECKOUT, "state": terminated(0, "Completed", "", &now)}]);
        let running = json!({"running": {"startedAt": now}});
        pod["status"]["containerStatuses"] = json!([
            {"name": container::AGENT, "state": running}, {"name": container::PUBLISH, "state": running}]);
    });
    (server.version() > before).then_some("started")
}

/// What a Pod says that was asked to end.
fn stopped(now: Timestamp, pod: &Value) -> Script {
    // Half of the runners manage to say so in time.
    if text(pod, "/status/phase") == "Running" && now.as_second() % 2 == 0 {
        Script::Fail(Outcome::Cancelled, "", "ended from outside")
    } else {
        Script::Killed(143, "Error")
    }
}

fn terminated(code: i64, reason: &str, message: &str, at: &str) -> Value {
    json!({"terminated": {"exitCode": code, "reason": reason, "message": message, "startedAt": at, "finishedAt": at}})
}

/// The status of a Pod that ends as `script` says.
fn ended(now: Timestamp, pod: &Value, script: Script, head: &str) -> Value {
    let at = seconds(now);
    let run = label(pod, labels::RUN);
    let report = |result: &ContainerResult, agent: Value, phase: &str| {
        json!({"phase": phase,
        "initContainerStatuses": [{"name": container::CHECKOUT, "state": terminated(0, "Completed", "", &at)}],
        "containerStatuses": [
            {"name": container::AGENT, "state": agent},
            {"name": container::PUBLISH, "state": terminated(0, "Completed", &result.to_message(), &at)}]})
    };
    let fine = terminated(0, "Completed", "", &at);
    let failed = |reason: &str| json!({"phase": "Failed", "reason": reason, "message": "by the kubelet"});
    match script {
        Script::Success => {
            let mut result = ContainerResult::new(Outcome::Success);
            result.branch = Some(format!("agent/{run}"));
            result.head = Some(head.to_string());
            result.tokens =
                Some(opentiger::crd::TokenUsage { input: 100, output: 20, total: 120, ..Default::default() });
            report(&result, fine, "Succeeded")
        }
        Script::Review(approve) => {
            let mut result = ContainerResult::new(Outcome::Success);
            let verdict = if approve { ReviewVerdict::Approve } else { ReviewVerdict::RequestChanges };
            result.review =
                Some(ReviewResult { verdict, confidence: 90, code_files: 1, ..ReviewResult::default() });
            report(&result, fine, "Succeeded")
        }
        Script::Merged => {
            let mut result = ContainerResult::new(Outcome::Success);
            result.head = Some(head.to_string());
            report(&result, fine, "Succeeded")
        }
        Script::Noop => report(&ContainerResult::new(Outcome::Noop), fine, "Succeeded"),
        Script::Fail(outcome, code, summary) => {
            let mut result = ContainerResult::failure(outcome, code, summary);
            result.failure_code = result.failure_code.filter(|c| !c.is_empty());
            report(&result, terminated(1, "Error", "", &at), "Failed")
        }
        Script::Quota(after) => {
            let mut result = ContainerResult::failure(Outcome::QuotaWait, "quota_failure", "rate limit");
            let reset = now.checked_add(SignedDuration::from_secs(i64::try_from(after).unwrap_or(0)));
            result.retry_at = reset.ok().filter(|_| after > 0);
            report(&result, terminated(1, "Error", "", &at), "Failed")
        }
        Script::Killed(code, reason) => {
            let result = ContainerResult::failure(Outcome::Failed, "model_or_unknown_failure", "no result");
            let mut status = report(&result, terminated(code, reason, "", &at), "Failed");
            if code == 143 {
                status["containerStatuses"][1]["state"] = terminated(143, "Error", "", &at);
            }
            status
        }
        Script::Evicted => failed("Evicted"),
        Script::Disrupted => {
            let mut status = failed("Preempting");
            status["conditions"] = json!([{"type": "DisruptionTarget", "status": "True",
                "reason": "PreemptionByScheduler", "message": "preempted"}]);
            status
        }
        Script::PodFailed(reason) => failed(reason),
        Script::CheckoutInfra => {
            let result = ContainerResult::failure(Outcome::Infra, "infrastructure_fault", "no route");
            json!({"phase": "Failed", "containerStatuses": [], "initContainerStatuses": [
                {"name": container::CHECKOUT, "state": terminated(1, "Error", &result.to_message(), &at)}]})
        }
        Script::ImagePull | Script::Unschedulable => json!({"phase": "Failed"}),
        Script::Mute => json!({"phase": "Succeeded", "containerStatuses": [
            {"name": container::AGENT, "state": fine}, {"name": container::PUBLISH, "state": fine}]}),
    }
}
