//! What to do about one Run: start its Pod, wait, end it, or say how it ended.
//!
//! One Run has one Pod of the same name. A Run becomes terminal only when its Pod is terminal or
//! gone (design, rule 3.4), keeps its honest verdict (rule 3.7), and a fault of the cluster is class
//! `infra`, which costs no attempt (rule 3.8).

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::verdict::{self, Verdict};
use crate::crd::judge::JudgeStage;
use crate::crd::run::condition::POD_STARTED;
use crate::crd::{ContainerState, GoDuration, PodFacts, Purpose, Run, System, Task, TaskStatus, wire};

/// Reasons of the condition `PodStarted`.
pub mod reason {
    /// The API server refused the Pod (quota, Pod Security, an admission policy).
    pub const POD_REFUSED: &str = "PodRefused";
    /// No node takes the Pod.
    pub const UNSCHEDULABLE: &str = "Unschedulable";
    /// The Pod is on a node, its containers are not running yet.
    pub const STARTING: &str = "Starting";
    /// A container waits for something that the kubelet names, such as its image.
    pub const CONTAINER_WAITING: &str = "ContainerWaiting";
    /// The agent runs, or has.
    pub const STARTED: &str = "Started";
    /// The Pod is being deleted and its node does not confirm its end.
    pub const TERMINATING: &str = "PodTerminating";
}

/// A Pod that cannot start is shown after this time (design, section 2).
pub const SHOW_AFTER: Duration = Duration::from_secs(10);
/// A waiting reason that does not heal by itself ends the start-up after this time.
pub const HOPELESS_AFTER: Duration = Duration::from_secs(45);

/// What is known of the Pod of a Run.
#[derive(Clone, Copy, Debug)]
pub enum PodView<'a> {
    /// None was seen in the life of this process.
    Unseen,
    /// It exists.
    Present(&'a PodFacts),
    /// It was seen and is gone; its last known state.
    Gone(&'a PodFacts),
}

/// What a decision about a Run is made of.
#[derive(Clone, Copy, Debug)]
pub struct Observed<'a> {
    pub run: &'a Run,
    /// The Task with the uid that the Run names; `None` when it is gone or was recreated.
    pub task: Option<&'a Task>,
    pub system: Option<&'a System>,
    pub pod: PodView<'a>,
    /// The last refusal to create the Pod, in the API server's words.
    pub refusal: Option<&'a str>,
    pub now: Timestamp,
}

/// Why a Pod cannot start: condition reason and sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotStarted {
    pub reason: &'static str,
    pub message: String,
}

/// What to do about a Run.
#[derive(Clone, Debug, PartialEq)]
pub enum RunPlan {
    /// Nothing until an event, or until the time given.
    Wait { until: Option<Timestamp>, show: Option<NotStarted> },
    /// The Pod was shown as not started, and has started since: show that.
    ShowStarted,
    /// Create the Pod.
    CreatePod,
    /// Delete the Pod, then observe again.
    DeletePod { why: &'static str },
    /// Write the terminal status.
    Finish(Box<Verdict>),
    /// The Run has ended and its Pod is still there: keep its logs, then delete it.
    CleanUp,
    /// The Run has ended or is being collected: nothing.
    Nothing,
}

impl RunPlan {
    pub(super) const WAIT: Self = Self::Wait { until: None, show: None };
}

/// Decides about a Run.
pub fn plan_run(o: &Observed) -> RunPlan {
    let ended = o.run.status.as_ref().is_some_and(|s| s.phase.is_terminal());
    if ended {
        return match o.pod {
            PodView::Present(pod) if pod.deleted.is_none() => RunPlan::CleanUp,
            PodView::Present(_) | PodView::Gone(_) | PodView::Unseen => RunPlan::Nothing,
        };
    }
    let Some(task) = o.task else {
        // The garbage collector ends the Run with its Task; the Pod need not wait for it.
        return match o.pod {
            PodView::Present(pod) if pod.deleted.is_none() => RunPlan::DeletePod { why: "its Task is gone" },
            PodView::Present(_) | PodView::Gone(_) | PodView::Unseen => RunPlan::Nothing,
        };
    };
    match claim(o.run, task) {
        Claim::Current => {}
        Claim::NotYet => return RunPlan::WAIT,
        Claim::Superseded => {
            return match o.pod {
                PodView::Present(pod) if !pod.phase.is_terminal() && pod.deleted.is_none() => {
                    RunPlan::DeletePod { why: "its Task has gone on without it" }
                }
                PodView::Present(pod) if !pod.phase.is_terminal() => RunPlan::WAIT,
                PodView::Present(_) | PodView::Gone(_) | PodView::Unseen => {
                    RunPlan::Finish(Box::new(Verdict::cancelled(o.now, "the Task went on without this Run")))
                }
            };
        }
    }
    match o.pod {
        PodView::Unseen => without_pod(o, task),
        PodView::Present(pod) => with_pod(o, task, pod),
        PodView::Gone(pod) if pod.phase.is_terminal() => {
            RunPlan::Finish(Box::new(verdict::of_pod(o.run, pod, task.spec.cancel, o.now)))
        }
        PodView::Gone(_) if task.spec.cancel => {
            RunPlan::Finish(Box::new(Verdict::cancelled(o.now, "cancelled by spec.cancel")))
        }
        PodView::Gone(pod) => RunPlan::Finish(Box::new(verdict::of_lost_pod(o.run, pod, o.now))),
    }
}

/// Whether a Run is the one its Task is waiting for.
enum Claim {
    /// The Task says this Run is in progress.
    Current,
    /// The Task has not been marked yet; it will be.
    NotYet,
    /// The Task has ended or has gone on to another attempt.
    Superseded,
}

fn claim(run: &Run, task: &Task) -> Claim {
    let status = task.status.clone().unwrap_or_default();
    let name = run.metadata.name.as_deref().unwrap_or_default();
    if !status.phase.is_terminal() && status.current_run == name {
        Claim::Current
    } else if !status.phase.is_terminal() && is_next(run, &status) {
        Claim::NotYet
    } else {
        Claim::Superseded
    }
}

/// Whether the Task will mark this Run as the one in progress: it is of the next attempt, or the next
/// review or merge of the very result that the Task asks about.
fn is_next(run: &Run, status: &TaskStatus) -> bool {
    let (Some(review), Some(judge)) = (&run.spec.review, &status.judge) else {
        return run.spec.review.is_none() && run.spec.attempt > status.attempts;
    };
    let asked = (&judge.run_uid, &judge.head_commit, &judge.policy_version);
    let so_far = match run.spec.purpose {
        Purpose::Merge => judge.merges,
        Purpose::Judge | Purpose::Execute | Purpose::Plan => judge.reviews,
    };
    let same = (&review.run_uid, &review.head_commit, &review.policy_version) == asked;
    same && judge.stage != JudgeStage::Settled && review.version > so_far
}

fn without_pod(o: &Observed, task: &Task) -> RunPlan {
    if task.spec.cancel {
        return RunPlan::Finish(Box::new(Verdict::cancelled(
            o.now,
            "cancelled by spec.cancel before it started",
        )));
    }
    if !o.system.is_some_and(System::is_armed) {
        return RunPlan::Finish(Box::new(Verdict::cancelled(
            o.now,
            "the runtime hatch was disarmed before the Pod was created",
        )));
    }
    let deadline = add(created(o.run, o.now), startup_timeout(o.run));
    match o.refusal {
        Some(refusal) if o.now >= deadline => RunPlan::Finish(Box::new(Verdict::infra(
            o.now,
            "pod_refused",
            &format!("the Pod was refused: {refusal}"),
        ))),
        Some(_) | None => RunPlan::CreatePod,
    }
}

/// The condition to show for a Pod that the API server refuses, once that has lasted a while.
pub fn refused(run: &Run, refusal: &str, now: Timestamp) -> Option<NotStarted> {
    (now >= add(created(run, now), SHOW_AFTER)).then(|| NotStarted {
        reason: reason::POD_REFUSED,
        message: format!("the Pod is refused: {refusal}"),
    })
}

fn with_pod(o: &Observed, task: &Task, pod: &PodFacts) -> RunPlan {
    if pod.phase.is_terminal() {
        return RunPlan::Finish(Box::new(verdict::of_pod(o.run, pod, task.spec.cancel, o.now)));
    }
    if let Some(deleted) = pod.deleted {
        // `deletionTimestamp` already includes the grace time.
        let overdue = add(deleted, Duration::from_secs(30));
        if o.now < overdue {
            return RunPlan::Wait { until: Some(overdue), show: None };
        }
        let message = format!(
            "node {} does not confirm the end of the Pod: wait for it, delete the Node object if the machine is gone, \
             or taint it node.kubernetes.io/out-of-service",
            if pod.node.is_empty() { "(none)" } else { &pod.node }
        );
        return RunPlan::Wait {
            until: None,
            show: Some(NotStarted { reason: reason::TERMINATING, message }),
        };
    }
    if task.spec.cancel {
        return RunPlan::DeletePod { why: "cancelled by spec.cancel" };
    }
    match not_started(o.run, pod) {
        None if shown_as_not_started(o.run) => RunPlan::ShowStarted,
        None => RunPlan::WAIT,
        Some(waiting) => starting(o, pod, waiting),
    }
}

/// Whether the Run says that its Pod has not started.
pub fn shown_as_not_started(run: &Run) -> bool {
    let conditions = run.status.iter().flat_map(|status| &status.conditions);
    conditions.into_iter().any(|c| c.type_ == POD_STARTED && c.status == "False")
}

fn starting(o: &Observed, pod: &PodFacts, waiting: Waiting) -> RunPlan {
    let since = pod.created.unwrap_or_else(|| created(o.run, o.now));
    let limit =
        if waiting.hopeless { HOPELESS_AFTER.min(startup_timeout(o.run)) } else { startup_timeout(o.run) };
    let (show_at, end_at) = (add(since, SHOW_AFTER), add(since, limit));
    if o.now >= end_at {
        return RunPlan::DeletePod { why: "it did not start in time" };
    }
    if o.now >= show_at {
        return RunPlan::Wait { until: Some(end_at), show: Some(waiting.shown) };
    }
    RunPlan::Wait { until: Some(show_at.min(end_at)), show: None }
}

/// Why a Pod has not started, and whether that can heal.
struct Waiting {
    shown: NotStarted,
    hopeless: bool,
}

/// `None` once the container that does the work runs or has ended.
fn not_started(run: &Run, pod: &PodFacts) -> Option<Waiting> {
    match pod.container(wire::container::main(run.spec.purpose)) {
        Some(ContainerState::Running { started: _ } | ContainerState::Terminated(_)) => return None,
        Some(ContainerState::Waiting { reason: _, message: _ }) | None => {}
    }
    if let Some(why) = &pod.unschedulable
        && pod.node.is_empty()
    {
        let message = format!("no node takes the Pod: {why}");
        return Some(Waiting {
            shown: NotStarted { reason: reason::UNSCHEDULABLE, message },
            hopeless: false,
        });
    }
    let stuck = pod.containers.iter().find_map(|c| match &c.state {
        ContainerState::Waiting { reason, message }
            if !matches!(reason.as_str(), "" | "PodInitializing" | "ContainerCreating") =>
        {
            Some((c.name.as_str(), reason.as_str(), message.as_str()))
        }
        ContainerState::Waiting { reason: _, message: _ }
        | ContainerState::Running { started: _ }
        | ContainerState::Terminated(_) => None,
    });
    let (reason, message, hopeless) = match stuck {
        Some((name, why, message)) => {
            (reason::CONTAINER_WAITING, format!("container {name}: {why}: {message}"), is_hopeless(why))
        }
        None => (reason::STARTING, "the Pod's containers are being started".to_string(), false),
    };
    Some(Waiting { shown: NotStarted { reason, message }, hopeless })
}

/// Waiting reasons of the kubelet that a person has to remove.
fn is_hopeless(reason: &str) -> bool {
    matches!(
        reason,
        "ErrImagePull"
            | "ImagePullBackOff"
            | "InvalidImageName"
            | "ErrImageNeverPull"
            | "ImageInspectError"
            | "CreateContainerConfigError"
            | "CreateContainerError"
            | "RunContainerError"
    )
}

fn startup_timeout(run: &Run) -> Duration {
    GoDuration::or(Some(&run.spec.limits.startup_timeout), Duration::from_secs(900))
}

fn created(run: &Run, now: Timestamp) -> Timestamp {
    run.metadata.creation_timestamp.as_ref().map_or(now, |t| t.0)
}

/// `at + by`, saturating.
pub fn add(at: Timestamp, by: Duration) -> Timestamp {
    SignedDuration::try_from(by).ok().and_then(|d| at.checked_add(d).ok()).unwrap_or(Timestamp::MAX)
}
