//! The Run of an admission: Task, System and AgentPool as they are at this moment, frozen.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;
use kube::api::ObjectMeta;

use crate::crd::planner::PlanTarget;
use crate::crd::pool::{DEFAULT_IDLE_TIMEOUT, Role};
use crate::crd::run::{ReviewTarget, RunInputs, RunLimits, RunRepository, RunTemplate, TaskRef};
use crate::crd::system::RepositoryMode;
use crate::crd::{AgentPool, GoDuration, Purpose, Run, RunSpec, System, Task, labels, names, words};
use crate::plan::judge::{is_branch, review_base};

/// Longest time for one review; a Task with a shorter timebox is reviewed within that.
const REVIEW_TIMEBOX_SECS: u64 = 900;

/// The slot an admission gives, and the bounds it was given under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    pub agent: String,
    pub lane: String,
    pub target_areas: Vec<String>,
    /// Leadership term.
    pub term: i64,
    /// Tokens that the Task's budget has left; `None`: no budget.
    pub tokens: Option<i64>,
}

/// Builds the Run of the Task's next attempt. Name and content are functions of the arguments only,
/// so that two leaders who decide the same create the same.
pub fn build_run(task: &Task, system: &System, pool: &AgentPool, slot: &Slot) -> Run {
    let status = task.status.clone().unwrap_or_default();
    let attempt = status.attempts + 1;
    let name = names::run_name(&task.name_any(), &task.uid().unwrap_or_default(), attempt);
    let repository = &system.spec.repository;
    let base = task.spec.base_branch.clone().unwrap_or_else(|| repository.base_branch.clone());
    let branch = names::branch_name(&repository.branch_prefix, &name);
    let failure = status.last_failure.unwrap_or_default();
    let inputs = RunInputs {
        commands: task.effective().commands.unwrap_or_else(|| task.spec.commands.clone()),
        timebox: task.spec.timebox.clone(),
        previous_failure: failure.summary,
        earlier_failures: failure.earlier,
        ..inputs(task)
    };
    let common = spec(task, system, pool, slot, base, branch);
    let spec = RunSpec {
        attempt,
        purpose: task.purpose(),
        role: task.spec.role,
        plan: plan_target(task, system),
        inputs,
        limits: RunLimits { tokens: slot.tokens, ..common.limits },
        ..common
    };
    owned(task, name, spec, slot.term)
}

/// What a Plan Run is told besides its Task.
fn plan_target(task: &Task, system: &System) -> Option<PlanTarget> {
    if task.purpose() != Purpose::Plan {
        return None;
    }
    let settings = &system.spec.planner;
    let last = system.status.as_ref().and_then(|status| status.planner.as_ref());
    let last = last.map(|planner| planner.last_signature.clone()).filter(|signature| !signature.is_empty());
    let own = task.labels().get(labels::CREATED_BY).is_some_and(|by| by == labels::PLANNER);
    // Who asks for a plan gets one, also of what was planned before.
    let skips = settings.skip_same_signature && !task.labels().contains_key(labels::OPERATION);
    Some(PlanTarget {
        // A Task that a person wrote says itself what it is planned from.
        requirement_path: settings.requirement_path.clone().filter(|_| own),
        unless_signature: last.filter(|_| own && skips),
        issues: settings.issues.clone().filter(|_| own),
        issues_only: own && settings.requirement.is_none() && settings.requirement_path.is_none(),
    })
}

/// Builds the next Judge or Merge Run of the Task's `status.judge`: `purpose` says which, and any other
/// purpose counts as Judge. Name and content are functions of the arguments only, as in [`build_run`].
///
/// It has the attempt of the Execute Run that it looks at, and no verification commands: those have
/// run. It compares with and merges into the branch that the claim names, else [`review_base`].
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
            let version = judge.merges.saturating_add(1);
            (Purpose::Merge, version, names::merge_run_name(&judge.run, version))
        }
        Purpose::Judge | Purpose::Execute | Purpose::Plan => {
            let version = judge.reviews.saturating_add(1);
            (Purpose::Judge, version, names::judge_run_name(&judge.run, version))
        }
    };
    let base = Some(judge.base_branch).filter(|base| !base.is_empty());
    let base = base.unwrap_or_else(|| review_base(task, &system.spec));
    let inputs = RunInputs { timebox: review_timebox(&task.spec.timebox), ..inputs(task) };
    let spec = RunSpec {
        attempt: names::attempt_of(&judge.run).unwrap_or(status.attempts).max(1),
        purpose,
        role: Role::Judge,
        inputs,
        review: Some(ReviewTarget {
            run: judge.run,
            run_uid: judge.run_uid,
            branch: judge.branch.clone(),
            head_commit: judge.head_commit,
            policy_version: judge.policy_version,
            version,
            rules: system.spec.judge.rules(),
            replaces: match system.spec.repository.mode {
                RepositoryMode::Git => Vec::new(),
                RepositoryMode::GitHub => replaced(task, &judge.replaced),
            },
        }),
        ..spec(task, system, pool, slot, base, judge.branch)
    };
    // Its base is the branch that the claim names, whatever the rules say now.
    let spec = RunSpec { repository: RunRepository { merge_into: None, ..spec.repository }, ..spec };
    owned(task, name, spec, slot.term)
}

/// Most branches that one takes the place of.
const MAX_REPLACED: usize = 20;

/// Branches that the one under review takes the place of: `own` are those of the Task itself.
fn replaced(task: &Task, own: &[String]) -> Vec<String> {
    let told = task.annotations().get(labels::REPLACES).map(String::as_str).unwrap_or_default();
    let all = own.iter().map(String::as_str).chain(told.lines());
    all.filter(|branch| is_branch(branch)).take(MAX_REPLACED).map(str::to_owned).collect()
}

fn review_timebox(timebox: &GoDuration) -> GoDuration {
    let longest = Duration::from_secs(REVIEW_TIMEBOX_SECS);
    match timebox.parse() {
        Some(shorter) if shorter < longest => timebox.clone(),
        Some(_) | None => GoDuration::from_secs(REVIEW_TIMEBOX_SECS),
    }
}

/// What every Run is told about its Task; the rest depends on the purpose.
fn inputs(task: &Task) -> RunInputs {
    let effective = task.effective();
    RunInputs {
        title: task.spec.title.clone(),
        goal: task.spec.goal.clone(),
        kind: task.spec.kind.clone(),
        risk_level: task.spec.risk_level,
        allowed_paths: effective.allowed_paths.unwrap_or_else(|| task.spec.allowed_paths.clone()),
        denied_paths: task.spec.denied_paths.clone(),
        context: task.spec.context.clone().unwrap_or_default(),
        ..RunInputs::default()
    }
}

/// What every Run has from System, pool and slot.
fn spec(
    task: &Task,
    system: &System,
    pool: &AgentPool,
    slot: &Slot,
    base: String,
    branch: String,
) -> RunSpec {
    let repository = &system.spec.repository;
    RunSpec {
        task_ref: TaskRef { name: task.name_any(), uid: task.uid().unwrap_or_default() },
        pool: pool.name_any(),
        agent: slot.agent.clone(),
        lane: slot.lane.clone(),
        target_areas: slot.target_areas.clone(),
        repository: RunRepository {
            mode: repository.mode,
            api_url: repository.api_url.clone(),
            merge_into: match repository.mode {
                RepositoryMode::Git => None,
                RepositoryMode::GitHub => Some(review_base(task, &system.spec)).filter(|into| *into != base),
            },
            url: repository.url.clone(),
            base_branch: base,
            branch,
            credentials_secret_ref: repository.credentials_secret_ref.clone(),
            submodules: repository.submodules,
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
            login_secret_ref: pool.spec.login_secret_ref.clone(),
            proxy_url: pool.spec.proxy_url.clone(),
            no_proxy: pool.spec.no_proxy.clone(),
            ca_bundle_ref: pool.spec.ca_bundle_ref.clone(),
            checkpoint: pool.spec.checkpoint.clone(),
        },
        limits: RunLimits {
            startup_timeout: system.spec.recovery.startup_timeout.clone(),
            agent_liveness_window: system.spec.self_heal.agent_liveness_window.clone(),
            idle_timeout: Some(pool.spec.idle_timeout.clone().unwrap_or_else(idle_timeout)),
            tokens: None,
        },
        verification: system.spec.verification.clone(),
        ..RunSpec::default()
    }
}

fn idle_timeout() -> GoDuration {
    GoDuration::from_secs(DEFAULT_IDLE_TIMEOUT.as_secs())
}

/// The Run object, owned by its Task.
fn owned(task: &Task, name: String, spec: RunSpec, term: i64) -> Run {
    Run {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: task.namespace(),
            labels: Some(run_labels(&spec, term)),
            owner_references: Some(vec![OwnerReference {
                api_version: format!("{}/{}", crate::crd::GROUP, crate::crd::VERSION),
                kind: "Task".into(),
                name: spec.task_ref.name.clone(),
                uid: spec.task_ref.uid.clone(),
                controller: Some(true),
                block_owner_deletion: None,
            }]),
            ..ObjectMeta::default()
        },
        spec,
        status: None,
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::judge::JudgeStatus;
    use crate::plan::fixtures;

    fn slot() -> Slot {
        Slot {
            agent: "judge-1".into(),
            lane: "feature".into(),
            target_areas: vec!["a".into()],
            term: 3,
            tokens: None,
        }
    }

    fn reviewed(base: Option<&str>) -> Task {
        let mut task = fixtures::task("fix");
        task.spec.base_branch = base.map(Into::into);
        task.spec.commands = vec!["make test".into()];
        task.spec.timebox = GoDuration("2h".into());
        let status = task.status.as_mut().unwrap();
        status.attempts = 4;
        status.judge = Some(JudgeStatus {
            run: "fix-bcdf-r3".into(),
            run_uid: "uid-3".into(),
            branch: "agent/fix-bcdf-r3".into(),
            head_commit: "c0ffee".into(),
            policy_version: "p1".into(),
            reviews: 1,
            merges: 4,
            ..JudgeStatus::default()
        });
        task
    }

    fn build(task: &Task, purpose: Purpose) -> Run {
        let mut system = fixtures::system();
        system.spec.repository.base_branch = "main".into();
        system.spec.repository.submodules = crate::crd::system::Submodules::SameHost;
        build_review_run(task, &system, &AgentPool::new("judge", Default::default()), &slot(), purpose)
    }

    #[test]
    fn a_review_run_names_what_it_looks_at_and_belongs_to_the_task() {
        let run = build(&reviewed(None), Purpose::Judge);
        assert_eq!(run.name_any(), "fix-bcdf-r3-j2");
        assert_eq!(run.metadata.owner_references.as_ref().unwrap()[0].uid, "uid-fix");
        assert_eq!(run.labels()[labels::PURPOSE], "judge");
        assert_eq!((run.spec.attempt, run.spec.role), (3, Role::Judge), "the attempt of the reviewed Run");
        assert_eq!(run.spec.repository.branch, "agent/fix-bcdf-r3");
        assert_eq!(run.spec.repository.submodules, crate::crd::system::Submodules::SameHost);
        assert_eq!((run.spec.inputs.commands.len(), run.spec.inputs.timebox.0.as_str()), (0, "15m"));
        let target = run.spec.review.unwrap();
        assert_eq!(
            (target.run.as_str(), target.run_uid.as_str(), target.version),
            ("fix-bcdf-r3", "uid-3", 2)
        );
        assert_eq!((target.head_commit.as_str(), target.policy_version.as_str()), ("c0ffee", "p1"));
        let merge = build(&reviewed(None), Purpose::Merge);
        assert_eq!((merge.name_any().as_str(), merge.spec.purpose), ("fix-bcdf-r3-m5", Purpose::Merge));
        assert_eq!(merge.labels()[labels::PURPOSE], "merge");
    }

    #[rstest::rstest]
    #[case::of_the_pool(Some("40m"), "40m")]
    #[case::default(None, "15m")]
    fn how_long_the_agent_may_be_silent_is_frozen(#[case] pool: Option<&str>, #[case] frozen: &str) {
        let (system, mut given) = (System::default(), AgentPool::default());
        given.spec.idle_timeout = pool.map(|time| GoDuration(time.into()));
        let run = build_run(&fixtures::task("fix"), &system, &given, &slot());
        assert_eq!(run.spec.limits.idle_timeout, Some(GoDuration(frozen.into())));
    }

    #[test]
    fn the_automatic_commands_are_frozen_and_have_time_of_their_own() {
        let mut system = fixtures::system();
        system.spec.verification.max_automatic_commands = 7;
        let run = build_run(&fixtures::task("fix"), &system, &AgentPool::default(), &slot());
        assert_eq!(run.spec.verification, system.spec.verification);
        let with = crate::build::pod::deadline_seconds(&run.spec);
        system.spec.verification.automatic = crate::crd::verification::AutomaticCommands::Off;
        let run = build_run(&fixtures::task("fix"), &system, &AgentPool::default(), &slot());
        assert_eq!(with - crate::build::pod::deadline_seconds(&run.spec), 7 * 120);
    }

    #[test]
    fn a_repair_goes_to_the_system_s_base_and_not_to_the_branch_it_repairs() {
        for (own, expected) in
            [(None, "main"), (Some("agent/other-r1"), "main"), (Some("release/1"), "release/1")]
        {
            let run = build(&reviewed(own), Purpose::Merge);
            assert_eq!(run.spec.repository.base_branch, expected, "{own:?}");
        }
    }
}
