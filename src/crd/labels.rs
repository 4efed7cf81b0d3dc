//! Keys of the labels and annotations on objects we create. One file, so that selectors, builders
//! and the admission policy cannot drift apart.

/// Name of the application, as the chart labels it: [`MANAGER`].
pub const APP: &str = "app.kubernetes.io/name";
/// Part of the installation, as the chart labels it: `operator`, `api`.
pub const COMPONENT: &str = "app.kubernetes.io/component";
/// Name of the Task.
pub const TASK: &str = "opentiger.dev/task";
/// Uid of the Task.
pub const TASK_UID: &str = "opentiger.dev/task-uid";
/// Name of the Run; present on every Pod of ours.
pub const RUN: &str = "opentiger.dev/run";
/// Name of the AgentPool.
pub const POOL: &str = "opentiger.dev/pool";
/// Slot name, for example `worker-3`.
pub const AGENT: &str = "opentiger.dev/agent";
/// Role in lower case.
pub const ROLE: &str = "opentiger.dev/role";
/// Scheduling lane.
pub const LANE: &str = "opentiger.dev/lane";
/// Ordinal of the attempt.
pub const ATTEMPT: &str = "opentiger.dev/attempt";
/// Purpose of the Run in lower case.
pub const PURPOSE: &str = "opentiger.dev/purpose";
/// Name of the Task that a Task of ours carries on or follows up.
pub const PARENT: &str = "opentiger.dev/parent";
/// Uid of that Task.
pub const PARENT_UID: &str = "opentiger.dev/parent-uid";
/// Who made a Task that no person applied: `rework`, `judge`, `planner`, `api`. Only Tasks with this
/// label are pruned.
pub const CREATED_BY: &str = "opentiger.dev/created-by";
/// Why a Task of ours was made, e.g. `plan`, `issue`, `rework`, `autofix`, `autofix_conflict`, `recreate`, `docser`.
pub const ORIGIN: &str = "opentiger.dev/origin";
/// On a Task that was made of an issue: its number.
pub const ISSUE: &str = "opentiger.dev/issue";
/// Uid of the Operation that asked for a Task that plans.
pub const OPERATION: &str = "opentiger.dev/operation";
/// Number of rework splits between a Task and its first ancestor.
pub const REWORK_DEPTH: &str = "opentiger.dev/rework-depth";
/// Number of times that work has been begun anew from the base branch, on a Task made for that.
pub const RECREATED: &str = "opentiger.dev/recreated";
/// Annotation on an AutoFix Task: branch that its result is merged into. It starts from the branch of
/// the Task that it mends, which is another one.
pub const MERGE_INTO: &str = "opentiger.dev/merge-into";
/// Annotation on a Task that mends another's work or does it anew: branches that its own takes the place of,
/// one a line.
pub const REPLACES: &str = "opentiger.dev/replaces";
/// Leadership term under which the object was created; checked by the admission policy.
pub const TERM: &str = "opentiger.dev/term";
/// `app.kubernetes.io/managed-by`.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Value of [`CREATED_BY`] of Tasks that plan and that were planned.
pub const PLANNER: &str = "planner";
/// Value of [`CREATED_BY`] of Tasks that were posted to the HTTP API.
pub const API: &str = "api";
/// Value of [`ORIGIN`] of the same.
pub const PLAN: &str = "plan";
/// Value of [`ORIGIN`] of Tasks that were made of issues.
pub const FROM_ISSUE: &str = "issue";
/// Value of [`MANAGED_BY`].
pub const MANAGER: &str = "opentiger";

/// Annotation on a Pod: the runner's input document (JSON, at most 128 KiB).
pub const INPUTS: &str = "opentiger.dev/inputs";
/// Annotation on Pods: the target areas that the Run occupies, one a line (not label-safe).
pub const AREAS: &str = "opentiger.dev/areas";
/// Annotation on Tasks made by the API: hash of the request's Idempotency-Key.
pub const REQUEST_KEY: &str = "opentiger.dev/request-key";
/// Annotation on Tasks made by the API: hash of the request's body.
pub const REQUEST_HASH: &str = "opentiger.dev/request-hash";
/// Annotation on planned Tasks: signature of their plan.
pub const PLAN_SIGNATURE: &str = "opentiger.dev/plan-signature";
/// Annotation on planned Tasks: hash of the plan that they belong to.
pub const PLAN_HASH: &str = "opentiger.dev/plan-hash";
/// Annotation on CRDs: hash of the schema, compared by the operator at start.
pub const SCHEMA_HASH: &str = "opentiger.dev/schema-hash";

/// Whether `value` may be used as a label value (Kubernetes: at most 63 of `[A-Za-z0-9._-]`,
/// alphanumeric at both ends, or empty).
pub fn is_label_value(value: &str) -> bool {
    let ends = |c: Option<char>| c.is_none_or(|c| c.is_ascii_alphanumeric());
    value.len() <= 63
        && value.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
        && ends(value.chars().next())
        && ends(value.chars().last())
}
