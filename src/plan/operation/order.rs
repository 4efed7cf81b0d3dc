//! Which Operation may begin: one at a time in a namespace, in the order of creation. Disarm and
//! StopAll never wait, and what they end is not undone by a request made before them.

use crate::crd::{Operation, OperationType};

/// Whether an Operation of this type begins at once, whatever is in progress.
pub fn is_urgent(type_: OperationType) -> bool {
    match type_ {
        OperationType::Disarm | OperationType::StopAll => true,
        OperationType::Arm
        | OperationType::Start
        | OperationType::Stop
        | OperationType::Cleanup
        | OperationType::Preflight
        | OperationType::Replan
        | OperationType::EndCycle
        | OperationType::CancelRun
        | OperationType::Requeue
        | OperationType::Complete => false,
    }
}

/// The Operation that must end before `operation` may begin.
pub fn waits_for<'a>(operation: &Operation, all: &[&'a Operation]) -> Option<&'a Operation> {
    if is_urgent(operation.spec.type_) {
        return None;
    }
    all.iter()
        .copied()
        .filter(|other| !other.phase().is_terminal() && is_before(other, operation))
        .min_by_key(|other| place(other))
}

/// A later Operation of one of these types that has not failed: what it says holds.
pub fn overtaken_by<'a>(
    operation: &Operation,
    all: &[&'a Operation],
    types: &[OperationType],
) -> Option<&'a Operation> {
    all.iter().copied().find(|other| {
        types.contains(&other.spec.type_)
            && other.phase() != crate::crd::OperationPhase::Failed
            && is_before(operation, other)
    })
}

/// Whether `a` was created before `b`.
pub fn is_before(a: &Operation, b: &Operation) -> bool {
    place(a) < place(b)
}

/// Place in the order of creation.
pub fn place(operation: &Operation) -> (i64, &str) {
    (operation.order(), operation.uid_str())
}
