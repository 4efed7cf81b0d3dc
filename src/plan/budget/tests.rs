//! The ledger counts once, the gate closes at the budget, a Task stays within its own.

use proptest::prelude::*;

use super::*;
use crate::crd::task::condition;
use crate::crd::{
    BlockReason, FailureClass, JudgeStatus, NextKind, Run, RunPhase, RunStatus, SystemSpec, Task, TaskPhase,
    TokenUsage, condition::is_true,
};
use crate::plan::fixtures::{at, now, running, task};
use crate::plan::task::{Observed, TaskPlan, plan_task};

fn moment(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn budgets(hour: Option<i64>, day: Option<i64>) -> Budgets {
    Budgets { per_task: None, per_hour: hour, per_day: day }
}

fn used(hour: i64, day: i64) -> TokenLedger {
    TokenLedger { hour: Some(now()), hour_tokens: hour, day: Some(now()), day_tokens: day }
}

#[test]
fn tokens_belong_to_the_hour_and_day_in_which_their_run_ended() {
    let mut ledger = Ledger::default();
    assert!(ledger.count("a", moment("2026-03-01T11:59:59Z"), 5));
    assert!(ledger.count("b", moment("2026-03-01T12:00:00Z"), 7));
    assert!(ledger.count("c", moment("2026-02-28T23:59:59Z"), 100));
    let usage = ledger.usage(moment("2026-03-01T12:30:00Z"));
    assert_eq!((usage.hour_tokens, usage.day_tokens), (7, 12));
    assert_eq!(usage.hour, Some(moment("2026-03-01T12:00:00Z")));
    assert_eq!(usage.day, Some(moment("2026-03-01T00:00:00Z")));
    let later = ledger.usage(moment("2026-03-02T00:00:00Z"));
    assert_eq!((later.hour_tokens, later.day_tokens), (0, 0));
    // What is recorded does not change with the time alone (S17).
    assert_eq!(ledger.last_usage(moment("2026-03-01T12:30:00Z")), Some(usage.clone()));
    assert_eq!(ledger.last_usage(moment("2026-03-01T18:30:00Z")), Some(usage));
}

#[test]
fn a_new_leader_neither_forgets_deleted_runs_nor_counts_others_twice() {
    let day = |hour: u32| moment(&format!("2026-03-01T{hour:02}:10:00Z"));
    let mut first = Ledger::default();
    first.count("a", day(3), 100);
    first.count("b", day(12), 10);
    first.count("c", day(12), 1);
    let known = first.last_usage(day(13)).unwrap();
    // All Runs are still there.
    let mut second = first.clone();
    second.restore(&known);
    assert_eq!(second.last_usage(day(13)), Some(known.clone()));
    // Two were deleted, one has ended since.
    let mut third = Ledger::default();
    third.count("c", day(12), 1);
    third.restore(&known);
    assert_eq!(third.last_usage(day(13)), Some(known));
    third.count("d", day(12), 1000);
    let usage = third.usage(day(12));
    assert_eq!((usage.hour_tokens, usage.day_tokens), (1011, 1111));
}

#[test]
fn a_budget_that_is_used_up_closes_the_gate_and_85_percent_only_warn_c100() {
    let none = budgets(None, None);
    assert_eq!(gate(&none, &used(i64::MAX, i64::MAX)), Gate::Unlimited);
    let day = budgets(None, Some(1000));
    assert_eq!(gate(&day, &used(0, 799)), Gate::Open);
    let Gate::Near(message) = gate(&day, &used(0, 850)) else { panic!("85 % is a warning") };
    assert!(message.contains("perDay") && message.contains("1000"), "{message}");
    let Gate::Closed { reason, message, until } = gate(&day, &used(0, 1000)) else {
        panic!("100 % is closed")
    };
    assert_eq!((reason, until), ("PerDay", at(24 * 3600)));
    assert!(message.contains("1000 tokens") && message.contains("resets at"), "{message}");
    let both = budgets(Some(10), Some(1000));
    assert!(matches!(gate(&both, &used(10, 1)), Gate::Closed { reason: "PerHour", .. }));
    assert!(matches!(gate(&both, &used(10, 2000)), Gate::Closed { reason: "PerDay", .. }));
    assert!(matches!(gate(&both, &used(9, 2)), Gate::Near(_)));
}

proptest! {
    /// S27: however often and in whatever order results are replayed, the ledger is the sum over the
    /// Runs, and a new leader that reads the record arrives at the same.
    #[test]
    fn a_replay_changes_no_sum_s27(
        runs in proptest::collection::vec((0u8..40, 0i64..36, 0i64..1000), 1..60),
        order in proptest::collection::vec(0usize..60, 0..120),
    ) {
        let start = moment("2026-03-01T00:00:00Z").as_second();
        // A Run uid has one result.
        let mut results = std::collections::BTreeMap::new();
        for (uid, hour, tokens) in &runs {
            results.entry(*uid).or_insert((*hour, *tokens));
        }
        let end = |uid: &u8| {
            let (hour, tokens) = results[uid];
            (Timestamp::from_second(start + hour * 3600 + 60).unwrap(), tokens)
        };
        let mut ledger = Ledger::default();
        for (uid, ..) in &runs {
            let (at, tokens) = end(uid);
            ledger.count(&uid.to_string(), at, tokens);
        }
        for n in order {
            let (uid, ..) = runs[n % runs.len()];
            let (at, tokens) = end(&uid);
            prop_assert!(!ledger.count(&uid.to_string(), at, tokens));
        }
        let sum = |from: i64, to: i64| -> i64 {
            results.values().filter(|(hour, _)| (from..to).contains(hour)).map(|(_, tokens)| tokens).sum()
        };
        for hour in 0..36 {
            let usage = ledger.usage(Timestamp::from_second(start + hour * 3600).unwrap());
            prop_assert_eq!(usage.hour_tokens, sum(hour, hour + 1));
            let day = hour - hour % 24;
            prop_assert_eq!(usage.day_tokens, sum(day, day + 24));
        }
        let now = Timestamp::from_second(start + 36 * 3600).unwrap();
        if let Some(known) = ledger.last_usage(now) {
            let mut next = ledger.clone();
            next.restore(&known);
            prop_assert_eq!(next.last_usage(now), Some(known));
        }
    }
}

fn ended(run: &mut Run, tokens: i64) {
    run.status = Some(RunStatus {
        phase: RunPhase::Failed,
        failure_code: "execution_failed".into(),
        failure_class: Some(FailureClass::Model),
        finished_at: Some(at(20)),
        tokens: Some(TokenUsage { input: tokens, output: 0, total: tokens, ..Default::default() }),
        ..RunStatus::default()
    });
}

fn decide(task: &Task, runs: &[&Run], per_task: Option<i64>, secs: i64) -> TaskPlan {
    let system = SystemSpec { budgets: Budgets { per_task, ..Budgets::default() }, ..SystemSpec::default() };
    plan_task(&Observed {
        task,
        runs,
        live_pod: false,
        confirmed: true,
        system: &system,
        children: &[],
        orders: crate::plan::task::Orders::default(),
        now: at(secs),
    })
}

#[test]
fn a_task_that_has_used_its_budget_waits_for_a_person_and_goes_on_once_there_is_room() {
    let (mut task, mut run) = running("a");
    ended(&mut run, 500);
    let TaskPlan::Write(status) = decide(&task, &[&run], Some(500), 21) else { panic!("it ended") };
    assert_eq!((status.phase, status.block_reason), (TaskPhase::Blocked, Some(BlockReason::NeedsRework)));
    let next = status.next.as_ref().unwrap();
    assert_eq!(next.kind, NextKind::Operator);
    assert!(next.detail.contains("500 tokens") && next.detail.contains("budgets.perTask"), "{}", next.detail);
    assert!(is_true(&status.conditions, condition::STALLED));
    assert_eq!(status.retries.failure, 1, "the failure counts as ever");
    task.status = Some(*status);
    assert_eq!(decide(&task, &[&run], Some(500), 900), TaskPlan::Wait { until: None });
    let TaskPlan::Write(status) = decide(&task, &[&run], Some(501), 901) else { panic!("there is room") };
    assert_eq!(status.phase, TaskPhase::Queued);
    assert!(!is_true(&status.conditions, condition::STALLED));
    task.spec.cancel = true;
    let TaskPlan::Write(status) = decide(&task, &[&run], Some(500), 902) else { panic!("it is cancelled") };
    assert_eq!(status.phase, TaskPhase::Cancelled);
}

#[test]
fn a_task_that_waits_already_is_held_when_the_budget_is_lowered() {
    let (mut task, mut run) = running("a");
    ended(&mut run, 500);
    let TaskPlan::Write(status) = decide(&task, &[&run], None, 21) else { panic!("it ended") };
    assert_eq!(status.phase, TaskPhase::Failed);
    task.status = Some(*status);
    let TaskPlan::Write(status) = decide(&task, &[&run], Some(10), 22) else { panic!("it is held") };
    assert_eq!(status.block_reason, Some(BlockReason::NeedsRework));
    let spent = |task: &Task, per_task| {
        let budgets = Budgets { per_task, ..Budgets::default() };
        is_spent(&budgets, task.status.as_ref().unwrap(), [&run])
    };
    assert!(spent(&task, Some(500)) && !spent(&task, Some(501)) && !spent(&task, None));
    task.status.as_mut().unwrap().block_reason = Some(BlockReason::AwaitingJudge);
    task.status.as_mut().unwrap().phase = TaskPhase::Blocked;
    assert!(!spent(&task, Some(500)), "what it has achieved is reviewed");
}

#[test]
fn an_attempt_is_given_what_the_attempts_before_it_have_left() {
    let (_, mut run) = running("a");
    let with = |per_task| Budgets { per_task, ..Budgets::default() };
    assert_eq!(left(&with(Some(500)), [&run]), Some(500), "what is in progress has reported nothing");
    ended(&mut run, 480);
    assert_eq!(left(&with(Some(500)), [&run]), Some(20));
    assert_eq!(left(&with(Some(480)), [&run]), Some(1), "a limit of a Run is never below one");
    assert_eq!(left(&with(None), [&run]), None);
}

#[test]
fn a_task_that_waits_for_the_one_that_mends_its_result_is_not_held() {
    let (mut source, mut run) = running("a");
    ended(&mut run, 500);
    let status = source.status.as_mut().unwrap();
    (status.phase, status.block_reason) = (TaskPhase::Blocked, Some(BlockReason::NeedsRework));
    (status.attempts, status.current_run) = (1, String::new());
    let budget = Budgets { per_task: Some(500), ..Budgets::default() };
    let waits = |task: &Task| is_spent(&budget, task.status.as_ref().unwrap(), [&run]);
    assert!(waits(&source), "another attempt would follow");
    let judge = JudgeStatus { follow_up: "a-fix1-x7k2".into(), ..JudgeStatus::default() };
    source.status.as_mut().unwrap().judge = Some(judge);
    assert!(!waits(&source));
}

#[test]
fn a_task_that_has_not_run_or_has_succeeded_is_not_held() {
    let mut fresh = task("a");
    // As the schema's defaults have it.
    fresh.status.as_mut().unwrap().next = Some(crate::crd::Next::default());
    assert_eq!(decide(&fresh, &[], Some(1), 0), TaskPlan::Wait { until: None });
    let (task, mut run) = running("b");
    ended(&mut run, 500);
    let status = run.status.as_mut().unwrap();
    (status.phase, status.failure_class) = (RunPhase::Success, None);
    let TaskPlan::Write(status) = decide(&task, &[&run], Some(1), 21) else { panic!("it ended") };
    assert_eq!(status.phase, TaskPhase::Done);
}

#[test]
fn a_task_that_waits_for_a_provider_is_held_but_not_one_that_waits_for_a_review() {
    let (mut task, mut run) = running("a");
    ended(&mut run, 500);
    let status = run.status.as_mut().unwrap();
    status.failure_code = "quota_failure".into();
    let TaskPlan::Write(status) = decide(&task, &[&run], None, 21) else { panic!("it ended") };
    assert_eq!(status.block_reason, Some(BlockReason::QuotaWait));
    task.status = Some(*status);
    let TaskPlan::Write(status) = decide(&task, &[&run], Some(10), 22) else { panic!("it is held") };
    assert_eq!(status.block_reason, Some(BlockReason::NeedsRework));
    let reviewed = task.status.as_mut().unwrap();
    (reviewed.block_reason, reviewed.retry_at) = (Some(BlockReason::AwaitingJudge), None);
    reviewed.judge = Some(crate::crd::JudgeStatus::default());
    let TaskPlan::Write(status) = decide(&task, &[&run], Some(10), 22) else { panic!("it is asked for") };
    assert_ne!(status.transitions.last().unwrap().reason, "task_budget");
}
