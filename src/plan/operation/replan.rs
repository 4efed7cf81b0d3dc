//! Replan: the planner makes a plan now, because a person asks for it (`spec/api.md` 2.4). Refused for
//! the reasons of the planner's start by hand ([`start::on_request`]); the interval, an unchanged
//! requirement and a stopped planner do not refuse. Nothing that was refused leaves a trace (trap 3).
//!
//! The name of the Task is noted before it is created: the planner itself makes a Task of the same name
//! for the same round, so whoever is first, there is one plan, and a repetition finds it.

use kube::ResourceExt;

use super::latch::{NO_SYSTEM, started};
use super::{Observed, OperationPlan, order, status};
use crate::crd::operation::{Backlog, OperationResult};
use crate::crd::system::component;
use crate::crd::{OperationType, System, Task, labels};
use crate::plan::planner::start::{self, Refusal};

pub(super) fn plan(o: &Observed) -> OperationPlan {
    let Some(system) = o.system else { return status::failed(o, NO_SYSTEM) };
    let result = o.operation.status.as_ref().and_then(|status| status.result.as_ref());
    let noted = result.and_then(|result| result.task.as_deref());
    if let Some(task) = noted.and_then(|name| named(o, name)) {
        return ended(o, system, task);
    }
    if let Some(other) = order::overtaken_by(o.operation, o.operations, &[OperationType::StopAll]) {
        return status::failed(o, &format!("overtaken by the later Operation {}", other.name_str()));
    }
    match noted {
        None => begin(o, system),
        Some(name) => create(o, system, name),
    }
}

fn begin(o: &Observed, system: &System) -> OperationPlan {
    match start::on_request(system, o.tasks, o.now) {
        Ok(task) => {
            let name = task.name_any();
            let step = status::step("task", false, &format!("Task {name} plans"));
            let result = OperationResult { task: Some(name), ..OperationResult::default() };
            status::in_progress_with(o, "the Task that plans is being created", vec![step], Some(result))
        }
        Err(Refusal { sentence, planning, counts, pending_reviews }) => {
            let number = |n: usize| i32::try_from(n).unwrap_or(i32::MAX);
            let backlog = Backlog {
                queued_tasks: number(counts.queued),
                running_tasks: number(counts.running),
                failed_tasks: number(counts.failed),
                blocked_tasks: number(counts.blocked),
                pending_judge_tasks: number(pending_reviews),
            };
            let result =
                OperationResult { task: planning, backlog: Some(backlog), ..OperationResult::default() };
            status::refused(o, &sentence, result)
        }
    }
}

fn create(o: &Observed, system: &System, name: &str) -> OperationPlan {
    if system.is_stopped(component::PLANNER) {
        return started(system, component::PLANNER);
    }
    let mut task = start::next_task(system, o.tasks, o.now);
    if task.name_any() != name {
        let why = format!(
            "Task {name} is not there any more, or the requirement has been changed meanwhile: ask again"
        );
        return status::failed(o, &why);
    }
    task.labels_mut().insert(labels::OPERATION.to_owned(), o.operation.uid_str().to_owned());
    OperationPlan::Create(Box::new(task))
}

fn ended(o: &Observed, system: &System, task: &Task) -> OperationPlan {
    let name = task.name_any();
    if !start::is_own(task) {
        return status::failed(
            o,
            &format!("there is a Task {name} that was not made by the planner, delete it"),
        );
    }
    let hint = if system.is_armed() { "" } else { "; nothing runs before the hatch is armed" };
    status::succeeded(o, &format!("Task {name} plans{hint}"), None)
}

fn named<'a>(o: &Observed<'a>, name: &str) -> Option<&'a Task> {
    o.tasks.iter().copied().find(|task| task.metadata.name.as_deref() == Some(name))
}

#[cfg(test)]
#[path = "replan_tests.rs"]
mod tests;
