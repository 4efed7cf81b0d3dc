//! Run controller: builds the Pod of a Run, follows it, and turns its end into a verdict (`plan::run`).
//! What is left of an ended Run is the matter of `clean_up`.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use super::context::Context;
use super::queue::Action;
use crate::build::pod::{BuildError, build_pod};
use crate::cluster::write::Created;
use crate::cluster::{Error, ErrorClass, Key};
use crate::crd::run::condition;
use crate::crd::{Logs, PodFacts, Run, RunPhase, RunStatus, System, Task, labels, set_condition};
use crate::plan::operation::cancel_of;
use crate::plan::run::{
    NotStarted, Observed, PodView, RunPlan, plan_run, reason, refused, shown_as_not_started,
};
use crate::plan::verdict::Verdict;

/// Between two tries to create a Pod that was refused.
const REFUSED_RETRY: Duration = Duration::from_secs(3);

/// Brings one Run a step further.
///
/// # Errors
/// When a request failed; the queue retries.
pub async fn reconcile(ctx: Arc<Context>, key: Key) -> Result<Action, Error> {
    ctx.wiring.release_left(&key);
    let Some(run) = ctx.runs.get(&key) else { return Ok(Action::Await) };
    let uid = run.uid().unwrap_or_default();
    let task = observe_task(&ctx, &run).await?;
    let system = ctx.system(&key.namespace);
    let (present, gone) = observe_pod(&ctx, &key, &uid);
    let refusal = ctx.refusals.lock().unwrap_or_else(PoisonError::into_inner).get(&uid).cloned();
    let operations = ctx.operations.by_index(&key.namespace);
    let cancel = cancel_of(&run, system.as_deref(), operations.iter().map(AsRef::as_ref));
    let now = ctx.now();
    let observed = Observed {
        run: &run,
        task: task.as_deref(),
        system: system.as_deref(),
        pod: match (&present, &gone) {
            (Some(pod), _) => PodView::Present(pod),
            (None, Some(pod)) => PodView::Gone(pod),
            (None, None) => PodView::Unseen,
        },
        refusal: refusal.as_deref(),
        cancel: cancel.as_ref(),
        now,
    };
    match plan_run(&observed) {
        RunPlan::Nothing => Ok(Action::Await),
        RunPlan::Wait { until: at, show } => {
            apply_not_started(&ctx, &run, show, now).await?;
            Ok(at.map_or(Action::Await, |at| Action::After(until(at, now))))
        }
        RunPlan::ShowStarted => {
            let mut status = run.status.clone().unwrap_or_default();
            show_started(&mut status, &run, now);
            apply_status(&ctx, &run, &status).await?;
            Ok(Action::Await)
        }
        RunPlan::CreatePod => apply_pod(&ctx, &run, system.as_deref(), now).await,
        RunPlan::DeletePod { why } => apply_delete(&ctx, present.as_deref(), why).await,
        RunPlan::Finish(verdict) => apply_verdict(&ctx, &run, &verdict).await,
        RunPlan::CleanUp => {
            ctx.clean_up.add(key);
            Ok(Action::Await)
        }
    }
}

/// The time from `now` until `at`.
pub fn until(at: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO) + Duration::from_millis(1)
}

/// The Task with the very uid that the Run names. A Run that is not over and whose Task is not in the
/// cache is rare: its absence is confirmed by the API server, because caches of different kinds do
/// not advance together.
async fn observe_task(ctx: &Context, run: &Run) -> Result<Option<Arc<Task>>, Error> {
    let key = Key::new(run.namespace().unwrap_or_default(), &run.spec.task_ref.name);
    let is_named = |t: &Arc<Task>| t.metadata.uid.as_deref() == Some(run.spec.task_ref.uid.as_str());
    let cached = ctx.tasks.get(&key).filter(is_named);
    if cached.is_some() || run.status.as_ref().is_some_and(|s| s.phase.is_terminal()) {
        return Ok(cached);
    }
    if let Some(found) = ctx.writer.read::<Task>(&key.namespace, &key.name).await? {
        ctx.tasks.wrote(found);
    }
    Ok(ctx.tasks.get(&key).filter(is_named))
}

/// The Pod of this very Run: present, or gone after having been seen.
fn observe_pod(ctx: &Context, key: &Key, uid: &str) -> (Option<Arc<PodFacts>>, Option<Arc<PodFacts>>) {
    (ctx.pods.get(key).filter(|p| p.run_uid == uid), ctx.gone_pods.get(uid))
}

async fn apply_pod(
    ctx: &Context,
    run: &Run,
    system: Option<&System>,
    now: Timestamp,
) -> Result<Action, Error> {
    // Absence means nothing before the first lists are complete, and a term not yet ours is refused.
    let Some(term) = system.and_then(|s| ctx.term(s)).filter(|_| ctx.synced()) else {
        return Ok(Action::After(Duration::from_millis(200)));
    };
    let pod = match build_pod(run, &ctx.runner, term) {
        Ok(pod) => pod,
        Err(error) => {
            let why = error.to_string();
            let verdict = match error {
                BuildError::SharedSecret { .. } => Verdict::refused_setup(now, &why),
                BuildError::InputsTooLarge { .. } | BuildError::NoApi | BuildError::Encode(_) => {
                    Verdict::refused_inputs(now, &why)
                }
            };
            return apply_verdict(ctx, run, &verdict).await;
        }
    };
    // A Run that was deleted meanwhile gets no Pod; from here on its Task waits for the answer.
    let uid = run.uid().unwrap_or_default();
    let key = Key::new(run.namespace().unwrap_or_default(), run.name_any());
    if ctx.runs.get(&key).is_none_or(|present| present.uid().unwrap_or_default() != uid) {
        return Ok(Action::Await);
    }
    // What a former leader did about its Run our lists may not show yet: it may be over, its Pod gone.
    let own_term = run.labels().get(labels::TERM).is_some_and(|own| *own == term.to_string());
    if !own_term && !is_open(ctx, &key, &uid).await? {
        return Ok(Action::Await);
    }
    ctx.starting.begin(&run.spec.task_ref.uid);
    let created = ctx.writer.create_surely(&pod).await;
    let action = apply_created(ctx, run, created, now).await;
    ctx.starting.end(&run.spec.task_ref.uid);
    action
}

/// Whether the API server itself says that this very Run is in progress. What it says goes into the
/// cache, which wakes the Run again where it is over.
async fn is_open(ctx: &Context, key: &Key, uid: &str) -> Result<bool, Error> {
    let Some(present) = ctx.writer.read::<Run>(&key.namespace, &key.name).await? else { return Ok(false) };
    let over = present.status.as_ref().is_some_and(|status| status.phase.is_terminal());
    let open = present.uid().is_some_and(|present| present == uid) && !over;
    ctx.runs.wrote(present);
    Ok(open)
}

async fn apply_created(
    ctx: &Context,
    run: &Run,
    created: Result<Created<Pod>, Error>,
    now: Timestamp,
) -> Result<Action, Error> {
    match created {
        Ok(Created::New(pod)) => {
            note_refusal(ctx, run, None);
            ctx.pods.wrote(pod.into());
            Ok(Action::Await)
        }
        Ok(Created::Exists(existing)) => adopt(ctx, run, *existing),
        Err(error) if error.class() == ErrorClass::Refused => {
            let message = error.server_message().to_string();
            tracing::warn!(run = %run.name_any(), message, "pod refused");
            apply_not_started(ctx, run, refused(run, &message, now), now).await?;
            note_refusal(ctx, run, Some(message));
            Ok(Action::After(REFUSED_RETRY))
        }
        Err(error) => Err(error),
    }
}

/// A Pod of this name exists: ours by the owner's uid, else a stranger that must go first.
fn adopt(ctx: &Context, run: &Run, existing: Pod) -> Result<Action, Error> {
    let pod = PodFacts::from(existing);
    if pod.run_uid == run.uid().unwrap_or_default() {
        ctx.pods.wrote(pod);
        return Ok(Action::Await);
    }
    note_refusal(ctx, run, Some(format!("a Pod named {} exists and belongs to something else", pod.name)));
    Ok(Action::After(REFUSED_RETRY))
}

fn note_refusal(ctx: &Context, run: &Run, message: Option<String>) {
    let uid = run.uid().unwrap_or_default();
    let mut refusals = ctx.refusals.lock().unwrap_or_else(PoisonError::into_inner);
    match message {
        Some(message) => refusals.insert(uid, message),
        None => refusals.remove(&uid),
    };
}

/// Shows why the Pod cannot start, once per kind of reason.
async fn apply_not_started(
    ctx: &Context,
    run: &Run,
    show: Option<NotStarted>,
    now: Timestamp,
) -> Result<(), Error> {
    let Some(NotStarted { reason, message }) = show else { return Ok(()) };
    let mut status = run.status.clone().unwrap_or_default();
    let shown = status
        .conditions
        .iter()
        .any(|c| c.type_ == condition::POD_STARTED && c.status == "False" && c.reason == reason);
    if shown {
        return Ok(());
    }
    let generation = run.metadata.generation.unwrap_or(0);
    set_condition(&mut status.conditions, condition::POD_STARTED, false, reason, &message, generation, now);
    apply_status(ctx, run, &status).await
}

fn show_started(status: &mut RunStatus, run: &Run, now: Timestamp) {
    let (generation, message) =
        (run.metadata.generation.unwrap_or(0), "the containers of the Pod have started");
    let reason = reason::STARTED;
    set_condition(&mut status.conditions, condition::POD_STARTED, true, reason, message, generation, now);
}

async fn apply_status(ctx: &Context, run: &Run, status: &RunStatus) -> Result<(), Error> {
    if let Some(written) = ctx.writer.patch_status(run, run.status.as_ref(), status).await? {
        ctx.runs.wrote(written);
    }
    Ok(())
}

async fn apply_delete(ctx: &Context, pod: Option<&PodFacts>, why: &str) -> Result<Action, Error> {
    let Some(pod) = pod else { return Ok(Action::Await) };
    tracing::info!(pod = %pod.name, why, "deleting pod");
    ctx.writer.delete::<Pod>(&pod.namespace, &pod.name, &pod.uid, None).await?;
    // The watch shows the deletion; should it be late, look again.
    Ok(Action::After(Duration::from_secs(5)))
}

async fn apply_verdict(ctx: &Context, run: &Run, verdict: &Verdict) -> Result<Action, Error> {
    let generation = run.metadata.generation.unwrap_or(0);
    let mut status = verdict.status(run, generation);
    let succeeded = status.phase == RunPhase::Success;
    let word = status.phase.word();
    let message = status.summary.clone();
    set_condition(
        &mut status.conditions,
        condition::SUCCEEDED,
        succeeded,
        word,
        &message,
        generation,
        verdict.finished,
    );
    if shown_as_not_started(run) && verdict.started.is_some() {
        show_started(&mut status, run, verdict.finished);
    }
    if ctx.logs.is_none() {
        status.logs = Some(Logs::NotKept);
    }
    if let Some(written) = ctx.writer.patch_status(run, run.status.as_ref(), &status).await? {
        tracing::info!(run = %run.name_any(), phase = word, code = status.failure_code, "run ended");
        ctx.runs.wrote(written);
    }
    note_refusal(ctx, run, None);
    ctx.gone_pods.forget(&run.uid().unwrap_or_default());
    Ok(Action::Await)
}
