//! Review and merge of what agents push: when a Judge or Merge Run is wanted, and what its verdict
//! makes of the Task.

use super::task::{Observed, TaskPlan};
use crate::crd::{Run, TaskStatus};

/// A Task that is Blocked AwaitingJudge and has no Run in progress.
pub fn awaiting(_o: &Observed, _status: TaskStatus) -> TaskPlan {
    TaskPlan::Wait { until: None }
}

/// Its Judge Run has ended.
pub fn reviewed(_o: &Observed, _run: &Run, status: TaskStatus) -> TaskPlan {
    TaskPlan::Write(Box::new(status))
}

/// Its Merge Run has ended.
pub fn merged(_o: &Observed, _run: &Run, status: TaskStatus) -> TaskPlan {
    TaskPlan::Write(Box::new(status))
}
