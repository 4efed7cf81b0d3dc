//! The Run of an admission: Task, System and AgentPool as they are at this moment, frozen.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;
use kube::api::ObjectMeta;

use crate::crd::pool::Role;
use crate::crd::run::{ReviewTarget, RunInputs, RunLimits, RunRepository, RunTemplate, TaskRef};
use crate::crd::{AgentPool, Purpose, Run, RunSpec, System, Task, labels, names, words};

/// The slot an admission gives, and the bounds it was given under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    pub agent: String,
    pub lane: String,
    pub target_areas: Vec<String>,
    /// Leadership term.
    pub term: i64,
}

/// Builds the Run of the Task's next attempt. Name and content are functions of the arguments only,
/// so that two leaders who decide the same create the same.
pub fn build_run(task: &Task, system: &System, pool: &AgentPool, slot: &Slot) -> Run {
    let status = task.status.clone().unwrap_or_default();
    let attempt = status.attempts + 1;
    let (task_name, task_uid) = (task.name_any(), task.uid().unwrap_or_default());
    let name = names::run_name(&task_name, &task_uid, attempt);
    let effective = task.effective();
    let repository = &system.spec.repository;
    let spec = RunSpec {
        task_ref: TaskRef { name: task_name.clone(), uid: task_uid.clone() },
        attempt,
        purpose: task.purpose(),
        pool: pool.name_any(),
        agent: slot.agent.clone(),
        role: task.spec.role,
        lane: slot.lane.clone(),
        target_areas: slot.target_areas.clone(),
        review: None,
        inputs: RunInputs {
            title: task.spec.title.clone(),
            goal: task.spec.goal.clone(),
            kind: task.spec.kind.clone(),
            risk_level: task.spec.risk_level,
            allowed_paths: effective.allowed_paths.unwrap_or_else(|| task.spec.allowed_paths.clone()),
            denied_paths: task.spec.denied_paths.clone(),
            commands: effective.commands.unwrap_or_else(|| task.spec.commands.clone()),
            context: task.spec.context.clone().unwrap_or_default(),
            timebox: task.spec.timebox.clone(),
            previous_failure: status.last_failure.map(|f| f.summary).unwrap_or_default(),
        },
        repository: RunRepository {
            url: repository.url.clone(),
            base_branch: task.spec.base_branch.clone().unwrap_or_else(|| repository.base_branch.clone()),
            branch: names::branch_name(&repository.branch_prefix, &name),
            credentials_secret_ref: repository.credentials_secret_ref.clone(),
        },
        template: RunTemplate {
            image: pool.spec.image.clone(),
            image_pull_policy: pool.spec.image_pull_policy,
            executor: pool.spec.executor.clone(),
            credentials_secret_ref: pool.spec.credentials_secret_ref.clone(),
            resources: pool.spec.resources.clone(),
            runtime_class_name: pool.spec.runtime_class_name.clone(),
            node_selector: pool.spec.node_selector.clone(),
            tolerations: pool.spec.tolerations.clone(),
            image_pull_secrets: pool.spec.image_pull_secrets.clone(),
        },
        limits: RunLimits {
            startup_timeout: system.spec.recovery.startup_timeout.clone(),
            agent_liveness_window: system.spec.self_heal.agent_liveness_window.clone(),
        },
    };
    Run {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: task.namespace(),
            labels: Some(run_labels(&spec, slot.term)),
            owner_references: Some(vec![OwnerReference {
                api_version: format!("{}/{}", crate::crd::GROUP, crate::crd::VERSION),
                kind: "Task".into(),
                name: task_name,
                uid: task_uid,
                controller: Some(true),
                block_owner_deletion: None,
            }]),
            ..ObjectMeta::default()
        },
        spec,
        status: None,
    }
}

/// Builds the next Judge or Merge Run of the Task's `status.judge`: `purpose` says which, and any other
/// counts as Judge. Name and content are functions of the arguments only, as in [`build_run`].
pub fn build_review_run(
    task: &Task,
    system: &System,
    pool: &AgentPool,
    slot: &Slot,
    purpose: Purpose,
) -> Run {
    let status = task.status.clone().unwrap_or_default();
    let judge = status.judge.unwrap_or_default();
    let (purpose, version, name) = match purpose {
        Purpose::Merge => {
            (Purpose::Merge, judge.merges + 1, names::merge_run_name(&judge.run, judge.merges + 1))
        }
        Purpose::Judge | Purpose::Execute | Purpose::Plan => {
            (Purpose::Judge, judge.reviews + 1, names::judge_run_name(&judge.run, judge.reviews + 1))
        }
    };
    let mut run = build_run(task, system, pool, slot);
    run.spec.attempt = status.attempts.max(1);
    run.spec.purpose = purpose;
    run.spec.role = Role::Judge;
    run.spec.repository.branch.clone_from(&judge.branch);
    run.spec.review = Some(ReviewTarget {
        run: judge.run,
        run_uid: judge.run_uid,
        branch: judge.branch,
        head_commit: judge.head_commit,
        policy_version: judge.policy_version,
        version,
    });
    run.metadata.name = Some(name);
    run.metadata.labels = Some(run_labels(&run.spec, slot.term));
    run
}

/// Labels of a Run, and of its Pod with the Run's name added.
pub fn run_labels(spec: &RunSpec, term: i64) -> BTreeMap<String, String> {
    [
        (labels::MANAGED_BY, labels::MANAGER.to_string()),
        (labels::TASK, spec.task_ref.name.clone()),
        (labels::TASK_UID, spec.task_ref.uid.clone()),
        (labels::POOL, spec.pool.clone()),
        (labels::AGENT, spec.agent.clone()),
        (labels::ROLE, words::snake(spec.role.word())),
        (labels::LANE, spec.lane.clone()),
        (labels::ATTEMPT, spec.attempt.to_string()),
        (labels::PURPOSE, words::snake(spec.purpose.word())),
        (labels::TERM, term.to_string()),
    ]
    .into_iter()
    // The schema admits only label-safe values; one that is not must not make the create fail for ever.
    .filter(|(_, value)| labels::is_label_value(value))
    .map(|(key, value)| (key.to_string(), value))
    .collect()
}
