//! Preflight: what there is to do in a namespace and what to start for it (`spec/api.md` 3.1 and 3.4, as
//! far as the cluster knows: no issues, no pull requests). Changes nothing (trap 11).

use kube::ResourceExt;

use super::{Observed, OperationPlan, status};
use crate::crd::operation::{OperationResult, PreflightPool, PreflightResult, Recommendations};
use crate::crd::pool::Role;
use crate::crd::{AgentPool, BlockReason, HatchState, System, Task, TaskPhase};
use crate::plan::planner::start::has_requirement;

/// Pools that are listed.
const MOST_POOLS: usize = 200;

pub(super) fn plan(o: &Observed) -> OperationPlan {
    let planner = o.system.map(|system| &system.spec.planner);
    let requirement = planner.is_some_and(|planner| planner.enabled && has_requirement(planner));
    let result = preflight(o.system, o.tasks, o.pools, requirement);
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

/// Counts what there is in a namespace and recommends what to start; `requirement`: there is one to
/// plan from.
pub fn preflight(
    system: Option<&System>,
    tasks: &[&Task],
    pools: &[&AgentPool],
    requirement: bool,
) -> PreflightResult {
    let count = |wanted: TaskPhase| {
        let is = |t: &&&Task| t.status.as_ref().map_or(TaskPhase::Queued, |s| s.phase) == wanted;
        number(tasks.iter().filter(is).count())
    };
    let waits_for_review = |t: &&&Task| {
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
        pending_judge_tasks: number(tasks.iter().filter(waits_for_review).count()),
        hatch: system.and_then(|s| s.status.as_ref()).map(|s| s.hatch.state).unwrap_or_default(),
        stopped: system.map(super::latch::stopped).unwrap_or_default(),
        pools: pools.iter().map(|p| pool(p, system)).collect(),
        recommendations: Recommendations::default(),
    };
    result.pools.sort_by(|a, b| a.name.cmp(&b.name));
    result.recommendations = recommend(&result, system.is_some_and(|s| s.spec.judge.enabled), requirement);
    result.pools.truncate(MOST_POOLS);
    result
}

/// The formulas of `spec/api.md` 3.4 without issues (I): X = startPlanner or L.
fn recommend(result: &PreflightResult, judge_enabled: bool, requirement: bool) -> Recommendations {
    let work = result.queued_tasks + result.running_tasks + result.failed_tasks + result.blocked_tasks > 0;
    let review = result.pending_judge_tasks > 0;
    let start_planner = requirement && !review && !work;
    let execution = start_planner || work;
    let start_judge = judge_enabled && (review || execution);
    let slots = |role: Role| result.pools.iter().filter(|p| p.role == role).map(|p| p.slots).sum::<i32>();
    let when = |condition: bool, number: i32| if condition { number } else { 0 };
    let planners = slots(Role::Planner);
    Recommendations {
        start_planner,
        start_dispatcher: execution,
        start_judge,
        start_cycle_manager: execution || review || result.blocked_tasks > 0,
        planner_count: when(start_planner, planners.min(1)),
        judge_count: when(start_judge, slots(Role::Judge)),
        worker_count: when(execution, slots(Role::Worker)),
        tester_count: when(execution, slots(Role::Tester)),
        docser_count: when(execution, slots(Role::Docser)),
        reasons: reasons(result, work, requirement, planners),
    }
}

/// Work, reviews, agents that plan, whether to plan; and the hatch when that stands in the way.
fn reasons(result: &PreflightResult, work: bool, requirement: bool, planners: i32) -> Vec<String> {
    let reviews = result.pending_judge_tasks;
    let mut reasons = vec![
        if work { "there are Tasks that are not Done" } else { "no Task waits or runs" }.to_owned(),
        match reviews {
            0 => "no Task waits for review".to_owned(),
            reviews => format!("{reviews} Tasks wait for review"),
        },
        match planners {
            0 => "no AgentPool of role Planner has a slot: nothing plans".to_owned(),
            _ => "one plan is made at a time".to_owned(),
        },
        match (requirement, work || reviews > 0) {
            (false, _) => "the planner has no requirement to plan from",
            (true, true) => "the planner waits until the backlog is empty",
            (true, false) => "the planner may start: there is a requirement and no backlog",
        }
        .to_owned(),
    ];
    if result.hatch == HatchState::Disarmed {
        reasons.push("the runtime hatch is disarmed: nothing runs before it is armed".to_owned());
    }
    reasons
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
