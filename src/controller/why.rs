//! `opentiger why`: answers why a Task does not move, from the objects of its namespace.
//!
//! It feeds the same facts into the same queue as the dispatcher does and asks that; it writes nothing.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};

use super::facts;
use crate::crd::{AgentPool, PodFacts, Run, System, Task, labels, system};
use crate::plan::dispatch::{HolderId, Queue};
use crate::plan::why::{Question, answer};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("failed to list the {kind} of namespace {namespace}")]
    List {
        kind: &'static str,
        namespace: String,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("failed to find Task {name} in namespace {namespace}")]
    NoTask { name: String, namespace: String },
    #[error("failed to understand '{0}': give the name of a Task, as in why task/fix-divide")]
    NotATask(String),
}

/// The objects of one namespace.
#[derive(Default)]
pub struct Objects {
    pub system: Option<System>,
    pub pools: Vec<AgentPool>,
    pub tasks: Vec<Task>,
    pub runs: Vec<Run>,
    pub pods: Vec<PodFacts>,
}

/// Name of the Task that `target` names: `task/NAME` in any spelling that kubectl takes, or `NAME`.
///
/// # Errors
/// When it names an object of another kind.
pub fn task_name(target: &str) -> Result<&str, Error> {
    match target.split_once('/') {
        None => Ok(target),
        Some(("task" | "tasks" | "ott" | "task.opentiger.dev" | "tasks.opentiger.dev", name)) => Ok(name),
        Some(_) => Err(Error::NotATask(target.to_owned())),
    }
}

/// Reads the namespace and answers.
///
/// # Errors
/// When something cannot be read, or there is no such Task.
pub async fn why(
    client: &Client,
    namespace: &str,
    target: &str,
    now: impl Fn() -> Timestamp,
) -> Result<String, Error> {
    let name = task_name(target)?;
    let objects = observe(client, namespace).await?;
    explain(&objects, name, now())
        .ok_or_else(|| Error::NoTask { name: name.to_owned(), namespace: namespace.to_owned() })
}

async fn observe(client: &Client, namespace: &str) -> Result<Objects, Error> {
    let failed = |kind: &'static str| {
        let namespace = namespace.to_owned();
        move |source| Error::List { kind, namespace, source: Box::new(source) }
    };
    let all = ListParams::default();
    let ours = ListParams::default().labels(labels::RUN);
    let systems: Api<System> = Api::namespaced(client.clone(), namespace);
    let pools: Api<AgentPool> = Api::namespaced(client.clone(), namespace);
    let tasks: Api<Task> = Api::namespaced(client.clone(), namespace);
    let runs: Api<Run> = Api::namespaced(client.clone(), namespace);
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    // What may hold something comes last, so that nothing that was admitted meanwhile is missed.
    Ok(Objects {
        system: systems.get_opt(system::NAME).await.map_err(failed("Systems"))?,
        pools: pools.list(&all).await.map_err(failed("AgentPools"))?.items,
        tasks: tasks.list(&all).await.map_err(failed("Tasks"))?.items,
        runs: runs.list(&all).await.map_err(failed("Runs"))?.items,
        pods: pods.list(&ours).await.map_err(failed("Pods"))?.into_iter().map(PodFacts::from).collect(),
    })
}

/// The answer about the Task `name`; `None`: there is no such Task.
pub fn explain(objects: &Objects, name: &str, now: Timestamp) -> Option<String> {
    let task = objects.tasks.iter().find(|task| task.name_any() == name)?;
    let uid = task.uid().unwrap_or_default();
    let mut queue = filled(objects);
    // Nothing is admitted without a System: this only sorts, so that the gates show what is so now.
    queue.plan(now);
    queue.set_system(objects.system.as_ref().map(facts::system));
    let gates = queue.gates(&uid, now);
    let plan = queue.plan(now);
    let current = task.status.as_ref().map(|status| status.current_run.as_str()).unwrap_or_default();
    Some(answer(&Question {
        task,
        system: objects.system.as_ref(),
        run: objects.runs.iter().find(|run| run.name_any() == current),
        gates,
        admission: plan.admissions.iter().find(|admission| admission.task_uid == uid),
        wait: queue.waiting(&uid).map(|waiting| &waiting.wait),
        now,
    }))
}

/// A queue that knows everything but the System.
fn filled(objects: &Objects) -> Queue {
    let mut queue = Queue::new();
    for run in &objects.runs {
        let uid = run.uid().unwrap_or_default();
        if run.status.as_ref().is_some_and(|status| status.phase.is_terminal()) {
            if let Some(ended) = facts::ended_run(run) {
                queue.run_ended(&uid, ended);
            }
        } else {
            queue.occupy(HolderId::Run(uid), facts::run_holder(run));
        }
    }
    for pod in objects.pods.iter().filter(|pod| pod.is_live()) {
        queue.occupy(HolderId::Pod(pod.uid.clone()), facts::pod_holder(pod));
    }
    for pool in &objects.pools {
        queue.upsert_pool(facts::pool(pool));
    }
    for task in &objects.tasks {
        queue.upsert_task(facts::task(task));
    }
    queue
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::judge::JudgeStage;
    use crate::crd::run::SecretRef;
    use crate::crd::system::condition::BUDGET_EXCEEDED;
    use crate::crd::{
        AgentPoolSpec, BlockReason, JudgeStatus, Role, RunPhase, RunStatus, TaskPhase, set_condition,
    };
    use crate::plan::fixtures::{at, now, run_of, running, system, task};

    fn pool(name: &str, role: Role, replicas: i32) -> AgentPool {
        let mut pool = AgentPool::new(name, AgentPoolSpec { role, replicas, ..AgentPoolSpec::default() });
        pool.metadata.namespace = Some("ns".into());
        pool
    }

    fn world(tasks: Vec<Task>) -> Objects {
        Objects {
            system: Some(system()),
            pools: vec![pool("worker", Role::Worker, 2)],
            tasks,
            ..Objects::default()
        }
    }

    fn text(objects: &Objects, name: &str) -> String {
        explain(objects, name, now()).expect("a Task")
    }

    /// The lines that say what the Task waits for, and the last one.
    fn waits(objects: &Objects, name: &str) -> Vec<String> {
        let text = text(objects, name);
        let shown = text.lines().filter(|l| l.starts_with("WAITS") || l.starts_with("Next"));
        shown.map(str::to_owned).filter(|l| !l.contains(" phase ")).collect()
    }

    #[test]
    fn a_task_that_may_start_passes_every_gate_and_is_told_where() {
        assert_eq!(
            text(&world(vec![task("a")]), "a"),
            "WAITS  phase         Task a is Queued, no attempt yet\n\
             ok     hatch         the System is armed\n\
             ok     component     the dispatcher is not stopped\n\
             ok     kind          kind code is known\n\
             ok     cooldown      no retry time lies ahead\n\
             ok     dependencies  it depends on no Task\n\
             ok     earlier Run   none is left\n\
             ok     area          it has no area\n\
             ok     lane          feature: 0 in progress, no cap\n\
             ok     concurrency   maxConcurrent is not set\n\
             ok     budget        no token budget is used up\n\
             ok     credential    no provider limit is known\n\
             ok     slots         worker: 2 of 2 free\n\
             Next: the dispatcher starts attempt 1 on worker-1 now.\n"
        );
    }

    #[test]
    fn every_gate_that_is_shut_is_shown_and_the_first_one_comes_next() {
        let mut objects = world(vec![task("a")]);
        let system = objects.system.as_mut().unwrap();
        let status = system.status.as_mut().unwrap();
        status.stopped = vec!["dispatcher".into(), "worker-1".into(), "worker-2".into()];
        let message = "1,200 of 1,000 tokens of this hour are used; it resets at 13:00";
        set_condition(&mut status.conditions, BUDGET_EXCEEDED, true, "Hour", message, 1, now());
        let budget = format!("waits until the token budget allows more: {message}");
        let component =
            "the dispatcher is stopped: start it with an Operation of type Start and target dispatcher";
        assert_eq!(
            waits(&objects, "a"),
            [
                format!("WAITS  component     {component}"),
                format!("WAITS  budget        {budget}"),
                "WAITS  slots         every agent with role Worker is stopped: start one with an Operation of \
                 type Start, such as worker-1 (worker: 0 of 2 free, not taking Runs: worker-1 worker-2)"
                    .to_owned(),
                format!("Next: {component}."),
            ]
        );
    }

    #[test]
    fn a_cycle_an_area_and_its_holder_are_named() {
        let (mut holder, mut run) = running("holder");
        run.spec.target_areas = vec!["path:src".into()];
        holder.spec.touches = vec!["src/a".into()];
        let mut a = task("a");
        a.spec.touches = vec!["src/b".into()];
        let mut cycle = task("cycle");
        cycle.spec.dependencies = vec!["cycle".into()];
        let objects = Objects { runs: vec![run], ..world(vec![holder, a, cycle]) };
        assert_eq!(
            waits(&objects, "a"),
            [
                "WAITS  area          waits until no other Task works in target area path:src: Task holder does",
                "Next: waits until no other Task works in target area path:src.",
            ]
        );
        assert_eq!(
            waits(&objects, "cycle")[0],
            "WAITS  dependencies  waits for itself, because dependencies form a cycle: cycle -> cycle: remove one of them"
        );
    }

    #[test]
    fn a_held_credential_is_named_with_its_time() {
        let mut limited = run_of(&task("other"));
        limited.spec.template.credentials_secret_ref = Some(SecretRef { name: "model-key".into() });
        limited.status = Some(RunStatus {
            phase: RunPhase::Failed,
            failure_code: "quota_failure".into(),
            finished_at: Some(at(-10)),
            retry_at: Some(at(600)),
            ..RunStatus::default()
        });
        let mut objects = Objects { runs: vec![limited], ..world(vec![task("a")]) };
        assert_eq!(waits(&objects, "a").len(), 1, "the pool uses no credential");
        objects.pools[0].spec.credentials_secret_ref = Some(SecretRef { name: "model-key".into() });
        let held = "the provider's limit on Secret model-key is reached: at 2026-03-01T12:10:00Z one Run tries \
                    it again, the others follow when it gets through";
        assert_eq!(waits(&objects, "a"), [format!("WAITS  credential    {held}"), format!("Next: {held}.")]);
    }

    #[test]
    fn a_task_that_waits_for_its_review_is_asked_as_the_judge_would() {
        let mut a = task("a");
        let status = a.status.as_mut().unwrap();
        status.phase = TaskPhase::Blocked;
        status.block_reason = Some(BlockReason::AwaitingJudge);
        status.attempts = 1;
        status.judge =
            Some(JudgeStatus { stage: JudgeStage::Review, run: "a-x-r1".into(), ..JudgeStatus::default() });
        let mut objects = world(vec![a]);
        assert_eq!(
            waits(&objects, "a"),
            [
                "WAITS  slots         no AgentPool with role Judge has slots: create one or scale one up",
                "WAITS  judge         waits for a review: 0 reviews, 0 merges of Run a-x-r1",
                "Next: no AgentPool with role Judge has slots: create one or scale one up.",
            ]
        );
        objects.pools.push(pool("judge", Role::Judge, 1));
        assert!(text(&objects, "a").ends_with("Next: the dispatcher starts a review on judge-1 now.\n"));
    }

    #[test]
    fn a_target_is_a_task_in_any_spelling() {
        for target in ["a", "task/a", "tasks.opentiger.dev/a", "ott/a"] {
            assert_eq!(task_name(target).unwrap(), "a");
        }
        assert!(task_name("run/a").is_err());
    }
}
