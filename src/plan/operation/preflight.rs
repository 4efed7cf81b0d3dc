//! Preflight: what there is to do in a namespace and what to start for it (`spec/api.md` 3.1 and 3.4, as
//! far as the cluster knows: no requirement text, no issues, no pull requests). Changes nothing.

use kube::ResourceExt;

use super::{Observed, OperationPlan, status};
use crate::crd::operation::{OperationResult, PreflightPool, PreflightResult, Recommendations};
use crate::crd::pool::Role;
use crate::crd::{AgentPool, BlockReason, System, TaskPhase};

/// Pools that are listed.
const MOST_POOLS: usize = 200;

pub(super) fn plan(o: &Observed) -> OperationPlan {
    let result = counts(o);
    let message = format!(
        "{} queued, {} running, {} failed, {} blocked ({} of them wait for review)",
        result.queued_tasks,
        result.running_tasks,
        result.failed_tasks,
        result.blocked_tasks,
        result.pending_judge_tasks
    );
    status::succeeded(
        o,
        &message,
        Some(OperationResult { preflight: Some(result), ..OperationResult::default() }),
    )
}

fn counts(o: &Observed) -> PreflightResult {
    let count = |wanted: TaskPhase| {
        let is = |t: &&&crate::crd::Task| t.status.as_ref().map_or(TaskPhase::Queued, |s| s.phase) == wanted;
        number(o.tasks.iter().filter(is).count())
    };
    let waits_for_review = |t: &&&crate::crd::Task| {
        let status = t.status.as_ref();
        status.is_some_and(|s| {
            s.phase == TaskPhase::Blocked && s.block_reason == Some(BlockReason::AwaitingJudge)
        })
    };
    let mut result = PreflightResult {
        queued_tasks: count(TaskPhase::Queued),
        running_tasks: count(TaskPhase::Running),
        failed_tasks: count(TaskPhase::Failed),
        blocked_tasks: count(TaskPhase::Blocked),
        pending_judge_tasks: number(o.tasks.iter().filter(waits_for_review).count()),
        hatch: o.system.and_then(|s| s.status.as_ref()).map(|s| s.hatch.state).unwrap_or_default(),
        stopped: o.system.map(super::latch::stopped).unwrap_or_default(),
        pools: o.pools.iter().map(|p| pool(p, o.system)).collect(),
        recommendations: Recommendations::default(),
    };
    result.pools.sort_by(|a, b| a.name.cmp(&b.name));
    result.recommendations = recommend(&result, o.system.is_some_and(|s| s.spec.judge.enabled));
    result.pools.truncate(MOST_POOLS);
    result
}

/// The formulas of `spec/api.md` 3.4 without requirement (R) and issues (I): X = L.
fn recommend(result: &PreflightResult, judge_enabled: bool) -> Recommendations {
    let work = result.queued_tasks + result.running_tasks + result.failed_tasks + result.blocked_tasks > 0;
    let review = result.pending_judge_tasks > 0;
    let slots = |role: Role| result.pools.iter().filter(|p| p.role == role).map(|p| p.slots).sum::<i32>();
    let when = |condition: bool, number: i32| if condition { number } else { 0 };
    let start_judge = judge_enabled && (review || work);
    let mut reasons = vec![
        if work {
            "there are Tasks that are not Done".to_string()
        } else {
            "no Task waits or runs".to_string()
        },
        if review {
            format!("{} Tasks wait for review", result.pending_judge_tasks)
        } else {
            "no Task waits for review".to_string()
        },
    ];
    if result.hatch == crate::crd::HatchState::Disarmed {
        reasons.push("the runtime hatch is disarmed: nothing runs before it is armed".to_string());
    }
    Recommendations {
        start_dispatcher: work,
        start_judge,
        start_cycle_manager: work || review || result.blocked_tasks > 0,
        judge_count: when(start_judge, slots(Role::Judge)),
        worker_count: when(work, slots(Role::Worker)),
        tester_count: when(work, slots(Role::Tester)),
        docser_count: when(work, slots(Role::Docser)),
        reasons,
    }
}

fn pool(pool: &AgentPool, system: Option<&System>) -> PreflightPool {
    let name = pool.name_any();
    let held: Vec<&str> = pool.status.iter().flat_map(|s| &s.held).map(|h| h.name.as_str()).collect();
    let takes_runs = |index: &i32| {
        let agent = format!("{name}-{index}");
        !held.contains(&agent.as_str()) && !system.is_some_and(|s| s.is_stopped(&agent))
    };
    let slots = if pool.spec.suspend { 0 } else { (1..=pool.spec.replicas).filter(takes_runs).count() };
    PreflightPool {
        role: pool.spec.role,
        slots: number(slots),
        busy: pool.status.as_ref().map_or(0, |s| s.busy),
        name,
    }
}

fn number(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}
