//! How a Run ended, read from its Pod: first the result that `publish` reported, then what the
//! kubelet says of Pod and containers.

use jiff::Timestamp;

use super::classify;
use super::run::reason;
use crate::crd::restart::AgentCrash;
use crate::crd::run::condition::POD_STARTED;
use crate::crd::run::{AgentSession, PullRequest, ReviewResult, VerificationReport};
use crate::crd::usage::MAX_SESSION_ID_CHARS;
use crate::crd::wire::{ContainerResult, MAX_VERIFICATION_BYTES, Outcome, container};
use crate::crd::{
    ContainerFacts, ContainerState, FailureClass, FailureDetail, PodFacts, PodPhase, Purpose, Run, RunPhase,
    RunStatus, Terminated, TokenUsage,
};
use crate::plan::quota::FURTHEST;

/// Failure codes that `plan::classify` does not know: of faults that no runner reports, and of reviews
/// and merges.
pub mod code {
    /// The Pod vanished while it ran.
    pub const POD_LOST: &str = "pod_lost";
    /// The Pod never started.
    pub const POD_NOT_STARTED: &str = "pod_not_started";
    /// The node or the cluster ended the Pod.
    pub const POD_DISRUPTED: &str = "pod_disrupted";
    /// The Task does not fit into a Pod.
    pub const INPUTS_TOO_LARGE: &str = "inputs_too_large";
    /// Clone or push failed for reasons outside the Task.
    pub const INFRA: &str = "infrastructure_fault";
    /// The branch under review has another head than the one that was asked about.
    pub const REVIEW_HEAD_MOVED: &str = "review_head_moved";
    /// The reviewing agent ended well, but left no verdict that can be read.
    pub const REVIEW_NO_VERDICT: &str = "review_no_verdict";
    /// Base and branch have changed the same places.
    pub const MERGE_CONFLICT: &str = "merge_conflict";
    /// The base branch moved again and again while it was merged into.
    pub const MERGE_BASE_MOVED: &str = "merge_base_moved";
    /// The server does not let us push to the base branch.
    pub const MERGE_REFUSED: &str = "merge_refused";
    /// Checks of continuous integration are not over.
    pub const CHECKS_PENDING: &str = "checks_pending";
    /// Somebody has merged the pull request already.
    pub const PULL_REQUEST_MERGED: &str = "pull_request_merged";
    /// Somebody has closed the pull request unmerged.
    pub const PULL_REQUEST_CLOSED: &str = "pull_request_closed";
}

/// Class of a failure. What a merge meets says nothing about the Task's own work and has no class, so
/// that no limit of a class can count it; who decides about it reads the code.
fn class_of(code: &str, summary: &str) -> Option<FailureClass> {
    match code {
        code::REVIEW_HEAD_MOVED
        | code::MERGE_CONFLICT
        | code::MERGE_BASE_MOVED
        | code::MERGE_REFUSED
        | code::CHECKS_PENDING
        | code::PULL_REQUEST_MERGED
        | code::PULL_REQUEST_CLOSED => None,
        code::REVIEW_NO_VERDICT => Some(FailureClass::Model),
        _ => Some(classify::classify(code, summary).class),
    }
}

/// The kubelet's reason for a container that was ended before it had run.
const CONTAINER_NEVER_RAN: &str = "ContainerStatusUnknown";

/// The terminal part of a Run's status.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    pub phase: RunPhase,
    pub code: String,
    pub class: Option<FailureClass>,
    /// What the failure shows.
    pub detail: Option<FailureDetail>,
    pub started: Option<Timestamp>,
    pub finished: Timestamp,
    pub branch: String,
    pub head: String,
    pub changed_files: Option<i64>,
    pub pr: Option<PullRequest>,
    pub review: Option<ReviewResult>,
    pub tokens: Option<TokenUsage>,
    pub session: Option<AgentSession>,
    pub verification: Option<VerificationReport>,
    /// Of the prompt; empty or 64 hex digits.
    pub prompt_hash: String,
    pub retry_at: Option<Timestamp>,
    pub summary: String,
    /// Uid of the Operation that cancelled it.
    pub cancelled_by: String,
    /// The agent container did not end by itself, and that was its own doing.
    pub agent_crash: Option<AgentCrash>,
}

impl Verdict {
    fn new(phase: RunPhase, finished: Timestamp, summary: &str) -> Self {
        Self {
            phase,
            code: String::new(),
            class: None,
            detail: None,
            started: None,
            finished,
            branch: String::new(),
            head: String::new(),
            changed_files: None,
            pr: None,
            review: None,
            tokens: None,
            session: None,
            verification: None,
            prompt_hash: String::new(),
            retry_at: None,
            summary: cut(summary),
            cancelled_by: String::new(),
            agent_crash: None,
        }
    }

    /// Counted by the Operation with this uid.
    pub fn counted_by(self, operation: &str) -> Self {
        Self { cancelled_by: operation.into(), ..self }
    }

    /// `end` in place of this verdict, with what it says of time and tokens.
    pub fn ended_as(self, end: Self) -> Self {
        Self {
            started: self.started,
            tokens: self.tokens,
            session: self.session.clone(),
            verification: self.verification.clone(),
            prompt_hash: self.prompt_hash.clone(),
            ..end
        }
    }

    /// Cancelled at no cost.
    pub fn cancelled(now: Timestamp, summary: &str) -> Self {
        Self::new(RunPhase::Cancelled, now, summary)
    }

    /// Failed by a fault of the cluster.
    pub fn infra(now: Timestamp, code: &str, summary: &str) -> Self {
        Self {
            code: code.into(),
            class: Some(FailureClass::Infra),
            ..Self::new(RunPhase::Failed, now, summary)
        }
    }

    /// The Task's inputs do not fit into a Pod.
    pub fn refused_inputs(now: Timestamp, why: &str) -> Self {
        Self::failed(now, code::INPUTS_TOO_LARGE, why)
    }

    /// The Run cannot start before a person corrects what it was made from.
    pub fn refused_setup(now: Timestamp, why: &str) -> Self {
        Self::failed(now, "setup_or_bootstrap_issue", why)
    }

    fn failed(now: Timestamp, code: &str, summary: &str) -> Self {
        let class = class_of(code, summary);
        Self { code: code.into(), class, ..Self::new(RunPhase::Failed, now, summary) }
    }

    /// The status with this verdict in it.
    pub fn status(&self, run: &Run, generation: i64) -> RunStatus {
        let mut status = run.status.clone().unwrap_or_default();
        status.phase = self.phase;
        status.failure_code.clone_from(&self.code);
        status.failure_class = self.class;
        status.failure.clone_from(&self.detail);
        status.started_at = self.started;
        status.finished_at = Some(self.finished);
        status.branch.clone_from(&self.branch);
        status.head_commit.clone_from(&self.head);
        status.changed_files = self.changed_files;
        status.pr.clone_from(&self.pr);
        status.review.clone_from(&self.review);
        status.tokens = self.tokens;
        status.session.clone_from(&self.session);
        status.verification.clone_from(&self.verification);
        status.prompt_hash.clone_from(&self.prompt_hash);
        status.retry_at = self.retry_at;
        status.summary.clone_from(&self.summary);
        status.cancelled_by.clone_from(&self.cancelled_by);
        status.agent_crash = self.agent_crash;
        status.observed_generation = generation;
        status
    }
}

/// The verdict on a Pod whose containers have all ended.
pub fn of_pod(run: &Run, pod: &PodFacts, cancelled: bool, now: Timestamp) -> Verdict {
    let agent = terminated(pod, container::AGENT);
    let publish = terminated(pod, container::PUBLISH);
    let checkout = terminated(pod, container::CHECKOUT);
    let main = terminated(pod, container::main(run.spec.purpose));
    let mut verdict = match publish.and_then(|t| ContainerResult::from_message(&t.message)) {
        Some(result) => of_result(run, pod, &result, agent, cancelled, now),
        None => without_result(run, pod, checkout, agent, publish, cancelled, now),
    };
    // `publish` that was stopped hands nothing on; what was used was used.
    let said = agent.and_then(|t| ContainerResult::from_message(&t.message));
    if let Some(said) = said {
        verdict.verification = verdict.verification.or_else(|| reported(&said));
        if verdict.prompt_hash.is_empty() {
            verdict.prompt_hash = prompt_hash(&said);
        }
        if verdict.tokens.is_none() {
            verdict.tokens = said.tokens;
            verdict.session = session(&said);
        }
    }
    if verdict.phase == RunPhase::Failed && verdict.class != Some(FailureClass::Infra) {
        verdict.agent_crash = agent.and_then(crash);
    }
    verdict.started = main.and_then(|t| t.started).or_else(|| checkout.and_then(|t| t.started));
    verdict.finished = publish.or(agent).or(checkout).and_then(|t| t.finished).unwrap_or(now);
    verdict
}

fn of_result(
    run: &Run,
    pod: &PodFacts,
    result: &ContainerResult,
    agent: Option<&Terminated>,
    cancelled: bool,
    now: Timestamp,
) -> Verdict {
    let code = result.failure_code.as_deref().unwrap_or("execution_failed");
    let mut verdict = match result.outcome {
        Outcome::Success | Outcome::Noop if run.spec.purpose == Purpose::Judge && result.review.is_none() => {
            Verdict::failed(now, code::REVIEW_NO_VERDICT, "the review ended without a verdict")
        }
        Outcome::Success | Outcome::Noop => Verdict::new(RunPhase::Success, now, &result.summary),
        Outcome::Cancelled if cancelled => Verdict::cancelled(now, "cancelled by spec.cancel"),
        Outcome::Cancelled if pod.deleted.is_some() || pod.disruption.is_some() => not_started(run, pod, now)
            .unwrap_or_else(|| Verdict::infra(now, code::POD_DISRUPTED, "the Pod was ended from outside")),
        // Nobody ended the Pod: what runs in it signalled the runner, and that is not free.
        Outcome::Cancelled => {
            Verdict::failed(now, "model_or_unknown_failure", "the agent was ended from inside its Pod")
        }
        Outcome::Infra => {
            Verdict::infra(now, result.failure_code.as_deref().unwrap_or(code::INFRA), &result.summary)
        }
        Outcome::QuotaWait => Verdict::failed(now, "quota_failure", &result.summary),
        Outcome::NeedsRework => Verdict::failed(now, code, &result.summary),
        // The agent left no word; its container's end may say more than `publish` can see.
        Outcome::Failed => match agent.and_then(killed) {
            Some((code, summary)) => Verdict::failed(now, code, &summary),
            None => Verdict::failed(now, code, &result.summary),
        },
    };
    if verdict.phase == RunPhase::Failed && verdict.code == code {
        verdict.detail.clone_from(&result.failure);
    }
    verdict.retry_at = result.retry_at.filter(|at| at.duration_since(now) <= FURTHEST);
    verdict.tokens = result.tokens;
    verdict.session = session(result);
    verdict.verification = reported(result);
    verdict.prompt_hash = prompt_hash(result);
    verdict.changed_files = result.changed_files;
    if verdict.phase == RunPhase::Success {
        verdict.branch = result.branch.clone().unwrap_or_default();
        verdict.head = result.head.clone().unwrap_or_default();
        verdict.pr.clone_from(&result.pr);
        verdict.review = result.review.clone().filter(|_| run.spec.purpose == Purpose::Judge);
        if verdict.branch.is_empty() && result.outcome == Outcome::Success {
            verdict.branch.clone_from(&run.spec.repository.branch);
        }
    }
    verdict
}

/// The conversation that a container names, unless no program could have called it that: a status that
/// breaks the schema could not be written.
fn session(result: &ContainerResult) -> Option<AgentSession> {
    result.session.clone().filter(|session| session.id.chars().count() <= MAX_SESSION_ID_CHARS)
}

/// What a container says of the verification, within the bounds of a Run's status.
fn reported(result: &ContainerResult) -> Option<VerificationReport> {
    result.verification.clone().map(|report| report.bounded(MAX_VERIFICATION_BYTES))
}

/// The verdict on a Pod that was ended because it did not start. Once it is deleted its containers no
/// longer say why; the Run still does.
fn not_started(run: &Run, pod: &PodFacts, now: Timestamp) -> Option<Verdict> {
    if terminated(pod, container::main(run.spec.purpose)).is_some_and(|t| t.started.is_some()) {
        return None;
    }
    let conditions = run.status.iter().flat_map(|status| &status.conditions);
    let shown = conditions
        .into_iter()
        .find(|c| c.type_ == POD_STARTED && c.status == "False" && c.reason != reason::TERMINATING)?;
    let summary = format!("the Pod did not start: {}", shown.message);
    Some(Verdict::infra(now, code::POD_NOT_STARTED, &summary))
}

fn without_result(
    run: &Run,
    pod: &PodFacts,
    checkout: Option<&Terminated>,
    agent: Option<&Terminated>,
    publish: Option<&Terminated>,
    cancelled: bool,
    now: Timestamp,
) -> Verdict {
    if cancelled {
        return Verdict::cancelled(now, "cancelled by spec.cancel");
    }
    if let Some(why) = &pod.disruption {
        return Verdict::infra(now, code::POD_DISRUPTED, &format!("the cluster ended the Pod: {why}"));
    }
    match pod.reason.as_str() {
        // Its own doing: an emptyDir over its limit, or memory (design, rule 3.8).
        "Evicted" => {
            return Verdict::failed(
                now,
                "environment_issue",
                &format!("the Pod was evicted: {}", pod.message),
            );
        }
        "DeadlineExceeded" => {
            return Verdict::failed(
                now,
                "transient_or_flaky_failure",
                "the Pod ran longer than its deadline and timed out",
            );
        }
        "NodeLost"
        | "NodeShutdown"
        | "Shutdown"
        | "Terminated"
        | "NodeAffinity"
        | "UnexpectedAdmissionError"
        | "OutOfcpu"
        | "OutOfmemory"
        | "OutOfpods"
        | "OutOfephemeral-storage"
        | "Preempting" => {
            return Verdict::infra(
                now,
                code::POD_DISRUPTED,
                &format!("the node refused or ended the Pod: {} {}", pod.reason, pod.message),
            );
        }
        _ => {}
    }
    // A kubelet says how every container ended. Where one is still said to run, the cluster has given
    // up a Pod whose node no longer answers (out-of-service taint: without a DisruptionTarget).
    let running = |c: &ContainerFacts| matches!(c.state, ContainerState::Running { started: _ });
    if pod.phase == PodPhase::Failed && pod.containers.iter().any(running) {
        let summary = format!("the Pod was given up with its node {}", pod.node);
        return Verdict::infra(now, code::POD_LOST, &summary);
    }
    if let Some(t) = checkout
        && t.exit_code != 0
        && t.reason != CONTAINER_NEVER_RAN
    {
        return of_checkout(t, now);
    }
    if let Some(verdict) = not_started(run, pod, now) {
        return verdict;
    }
    if let Some((code, summary)) = agent.and_then(killed) {
        return Verdict::failed(now, code, &summary);
    }
    let main = container::main(run.spec.purpose);
    if let Some(t) = terminated(pod, main).filter(|t| cannot_start(t)) {
        let summary = format!("the {main} container cannot start: {}", t.message);
        return Verdict::infra(now, code::POD_NOT_STARTED, &summary);
    }
    if pod.phase == PodPhase::Failed || publish.is_some() {
        let exits = |name: &str, t: Option<&Terminated>| {
            t.map(|t| format!("{name} exit {} {}", t.exit_code, t.reason))
                .unwrap_or_else(|| format!("{name} not started"))
        };
        let summary = format!(
            "the Pod ended without a result: {}, {} {}",
            exits("agent", agent),
            exits("publish", publish),
            pod.message
        );
        // Nothing but our own program runs in a merge.
        if run.spec.purpose == Purpose::Merge {
            return Verdict::failed(now, "environment_issue", summary.trim());
        }
        return Verdict::failed(now, "model_or_unknown_failure", summary.trim());
    }
    Verdict::infra(now, code::POD_LOST, "the Pod ended without a result")
}

fn of_checkout(t: &Terminated, now: Timestamp) -> Verdict {
    let Some(result) = ContainerResult::from_message(&t.message) else {
        if cannot_start(t) {
            return Verdict::infra(
                now,
                code::POD_NOT_STARTED,
                &format!("the checkout container cannot start: {}", t.message),
            );
        }
        return Verdict::infra(
            now,
            code::INFRA,
            &format!("checkout ended with exit code {} {}", t.exit_code, t.reason),
        );
    };
    let verdict = match result.outcome {
        Outcome::Infra | Outcome::Cancelled => {
            Verdict::infra(now, result.failure_code.as_deref().unwrap_or(code::INFRA), &result.summary)
        }
        Outcome::Failed | Outcome::NeedsRework | Outcome::QuotaWait | Outcome::Success | Outcome::Noop => {
            Verdict::failed(
                now,
                result.failure_code.as_deref().unwrap_or("setup_or_bootstrap_issue"),
                &result.summary,
            )
        }
    };
    Verdict { retry_at: result.retry_at, ..verdict }
}

/// The verdict on a Pod of `run` that vanished before it ended.
pub fn of_lost_pod(run: &Run, pod: &PodFacts, now: Timestamp) -> Verdict {
    let waiting = pod.containers.iter().find_map(|c| match &c.state {
        ContainerState::Waiting { reason, message }
            if !matches!(reason.as_str(), "" | "PodInitializing" | "ContainerCreating") =>
        {
            Some(format!("container {}: {reason}: {message}", c.name))
        }
        ContainerState::Waiting { reason: _, message: _ }
        | ContainerState::Running { started: _ }
        | ContainerState::Terminated(_) => None,
    });
    let started = matches!(
        pod.container(container::main(run.spec.purpose)),
        Some(ContainerState::Running { started: _ } | ContainerState::Terminated(_))
    );
    match (started, waiting, &pod.unschedulable, &pod.disruption) {
        (_, _, _, Some(why)) => {
            Verdict::infra(now, code::POD_DISRUPTED, &format!("the cluster ended the Pod: {why}"))
        }
        (false, Some(why), _, _) => {
            Verdict::infra(now, code::POD_NOT_STARTED, &format!("the Pod did not start: {why}"))
        }
        (false, None, Some(why), _) if pod.node.is_empty() => {
            Verdict::infra(now, code::POD_NOT_STARTED, &format!("no node took the Pod: {why}"))
        }
        (false, None, _, None) => {
            Verdict::infra(now, code::POD_NOT_STARTED, "the Pod was deleted before it started")
        }
        (true, _, _, None) => Verdict::infra(now, code::POD_LOST, "the Pod was deleted while it ran"),
    }
}

/// Code and summary for an agent container that the kernel or the kubelet killed.
fn killed(t: &Terminated) -> Option<(&'static str, String)> {
    Some(match crash(t)? {
        AgentCrash::OutOfMemory => (
            "environment_issue",
            "the agent ran out of memory: raise resources.limits.memory of the AgentPool".to_string(),
        ),
        AgentCrash::Killed => (
            "model_or_unknown_failure",
            format!(
                "the agent was killed (exit code {}): by a crash, or by the liveness probe after no sign of life",
                t.exit_code
            ),
        ),
    })
}

/// The hash of the prompt, if it is one: what a container says must not make the status unwritable.
fn prompt_hash(said: &ContainerResult) -> String {
    let is_hash = said.prompt_hash.len() == 64 && said.prompt_hash.bytes().all(|b| b.is_ascii_hexdigit());
    if is_hash { said.prompt_hash.clone() } else { String::new() }
}

/// How a container was killed, if it was.
fn crash(t: &Terminated) -> Option<AgentCrash> {
    if t.reason == "OOMKilled" {
        return Some(AgentCrash::OutOfMemory);
    }
    matches!(t.exit_code, 134 | 137 | 139).then_some(AgentCrash::Killed)
}

/// Whether the container's program could not be started at all.
fn cannot_start(t: &Terminated) -> bool {
    matches!(t.reason.as_str(), "StartError" | "ContainerCannotRun")
}

fn terminated<'a>(pod: &'a PodFacts, name: &str) -> Option<&'a Terminated> {
    match pod.container(name) {
        Some(ContainerState::Terminated(t)) => Some(t),
        Some(ContainerState::Waiting { reason: _, message: _ } | ContainerState::Running { started: _ })
        | None => None,
    }
}

/// Within the schema's bound of 2048 characters.
fn cut(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() || *c == '\n').take(2000).collect()
}
