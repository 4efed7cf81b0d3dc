//! Cleanup: removes the Tasks of a namespace with their Runs and Pods, and the finished Operations
//! (`spec/api.md` 2.9). Pools, System, hatch and what is stopped stay. Hard to do by accident: it names
//! the namespace, can be tried dry, and is refused while the hatch is armed.
//!
//! It removes what existed when it was asked for; what is created later stays.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt;

use super::stop_all::BATCH;
use super::{Doomed, DoomedKind, Observed, OperationPlan, order, status};
use crate::crd::operation::OperationResult;
use crate::crd::{Operation, OperationPhase, Run, System, Task};

pub(super) fn plan(o: &Observed) -> OperationPlan {
    let spec = &o.operation.spec;
    let namespace = o.operation.namespace().unwrap_or_default();
    if spec.confirm.as_deref() != Some(namespace.as_str()) {
        return status::failed(o, &format!("confirm does not name this namespace, {namespace}"));
    }
    let begun = o.operation.phase() == OperationPhase::Running;
    let (tasks, runs, operations) = (tasks(o), runs(o), operations(o));
    let number = |n: usize| Some(i32::try_from(n).unwrap_or(i32::MAX));
    let counts = OperationResult {
        tasks: number(tasks.len()),
        runs: number(runs.len()),
        operations: number(operations.len()),
        ..OperationResult::default()
    };
    let words = |r: &OperationResult| {
        let n = |v: Option<i32>| v.unwrap_or(0);
        format!("{} Tasks, {} Runs, {} finished Operations", n(r.tasks), n(r.runs), n(r.operations))
    };
    if spec.dry_run {
        return status::succeeded(o, &format!("would remove {}", words(&counts)), Some(counts));
    }
    if !begun && !spec.force && o.system.is_some_and(System::is_armed) {
        return status::failed(
            o,
            "the runtime hatch is armed: disarm it first (an Operation of type Disarm or StopAll), or set force: true",
        );
    }
    let steps = vec![
        status::step("tasks", tasks.is_empty(), "the Tasks are deleted"),
        status::step("runs", runs.is_empty(), "the garbage collector deletes their Runs and Pods"),
        status::step("operations", operations.is_empty(), "finished Operations are deleted"),
    ];
    if !begun {
        return status::in_progress_with(o, "removing", steps, Some(counts));
    }
    let doomed: Vec<Doomed> = tasks
        .iter()
        .filter(|t| t.metadata.deletion_timestamp.is_none())
        .map(|t| doomed(DoomedKind::Task, &t.metadata))
        .chain(operations.iter().map(|p| doomed(DoomedKind::Operation, &p.metadata)))
        .take(BATCH)
        .collect();
    if !doomed.is_empty() {
        return OperationPlan::Delete(doomed);
    }
    if !tasks.is_empty() || !runs.is_empty() {
        return status::in_progress(o, "waits until the Tasks and their Runs are gone", steps);
    }
    let counted = o.operation.status.as_ref().and_then(|s| s.result.clone()).unwrap_or_default();
    status::succeeded(o, &format!("removed {}", words(&counted)), Some(counted))
}

/// Times of creation have whole seconds: what was created in the same second goes too.
fn existed(o: &Observed, object: &ObjectMeta) -> bool {
    match (&object.creation_timestamp, &o.operation.metadata.creation_timestamp) {
        (Some(object), Some(asked)) => object.0 <= asked.0,
        (None, _) | (_, None) => true,
    }
}

fn tasks<'a>(o: &Observed<'a>) -> Vec<&'a Task> {
    o.tasks.iter().copied().filter(|t| existed(o, &t.metadata)).collect()
}

fn runs<'a>(o: &Observed<'a>) -> Vec<&'a Run> {
    let of: std::collections::HashSet<&str> = o
        .tasks
        .iter()
        .filter(|t| !existed(o, &t.metadata))
        .filter_map(|t| t.metadata.uid.as_deref())
        .collect();
    o.runs.iter().copied().filter(|r| !of.contains(r.spec.task_ref.uid.as_str())).collect()
}

fn operations<'a>(o: &Observed<'a>) -> Vec<&'a Operation> {
    let goes = |p: &&Operation| p.phase().is_terminal() && order::is_before(p, o.operation);
    o.operations.iter().copied().filter(goes).collect()
}

fn doomed(kind: DoomedKind, object: &ObjectMeta) -> Doomed {
    let (name, uid) = (object.name.clone(), object.uid.clone());
    Doomed { kind, name: name.unwrap_or_default(), uid: uid.unwrap_or_default() }
}
