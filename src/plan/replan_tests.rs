//! The gate, case by case (`spec/convergence.md` 7, C101 to C106).

use super::*;

fn now() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().expect("a timestamp")
}

fn ago(seconds: u64) -> Option<Timestamp> {
    Some(now().checked_sub(Duration::from_secs(seconds)).expect("in range"))
}

/// Everything lets planning start.
fn open() -> GateFacts<'static> {
    GateFacts {
        auto_replan: true,
        has_requirement: true,
        interval: Duration::from_secs(300),
        skip_same_signature: true,
        ..GateFacts::default()
    }
}

fn reason(facts: &GateFacts) -> Option<&'static str> {
    match replan_gate(facts, now()) {
        Gate::Open { .. } => None,
        Gate::Closed { reason, sentence, .. } => {
            assert!(!sentence.is_empty(), "{reason} says nothing");
            Some(reason)
        }
    }
}

fn until(facts: &GateFacts) -> Option<Timestamp> {
    match replan_gate(facts, now()) {
        Gate::Open { .. } => None,
        Gate::Closed { until, .. } => until,
    }
}

#[test]
fn the_first_condition_that_fails_counts() {
    // Everything is wrong; one by one is put right.
    let mut facts = GateFacts {
        planning: Some("plan-1"),
        planner_seen_at: ago(10),
        pending_reviews: 1,
        counts: Counts { queued: 1, running: 1, blocked: 1, failed: 1 },
        issues: IssueBacklog::Open(2),
        planned_at: ago(10),
        tried_at: ago(5),
        interval: Duration::from_secs(300),
        skip_same_signature: true,
        signature: Signature::Known("a"),
        last_signature: Some("a"),
        ..GateFacts::default()
    };
    let mut seen = Vec::new();
    while let Some(reason) = reason(&facts) {
        match reason {
            "disabled_or_running" => facts.auto_replan = true,
            "planner_busy" => facts.planning = None,
            "planner_recently_active" => facts.planner_seen_at = None,
            "missing_requirement_path" => facts.has_requirement = true,
            "pending_judge_runs" => facts.pending_reviews = 0,
            "blocked_tasks_present" => facts.counts.blocked = 0,
            "tasks_in_progress" => facts.counts = Counts::default(),
            "issue_backlog_present" => facts.issues = IssueBacklog::NoForge,
            "recent_plan" => facts.planned_at = None,
            "interval" => facts.tried_at = None,
            "no_diff" => facts.last_signature = Some("b"),
            other => panic!("unknown reason {other}"),
        }
        seen.push(reason);
    }
    assert_eq!(
        seen,
        [
            "disabled_or_running",
            "planner_busy",
            "planner_recently_active",
            "missing_requirement_path",
            "pending_judge_runs",
            "blocked_tasks_present",
            "tasks_in_progress",
            "issue_backlog_present",
            "recent_plan",
            "interval",
            "no_diff"
        ]
    );
}

#[test]
fn any_task_in_progress_keeps_the_gate_shut_before_issues_are_counted_c101() {
    let counts = Counts { queued: 1, ..Counts::default() };
    let facts = GateFacts { counts, issues: IssueBacklog::Unknown("http_500"), ..open() };
    assert_eq!(reason(&facts), Some("tasks_in_progress"));
}

#[test]
fn a_backlog_of_failed_tasks_alone_keeps_the_gate_shut_h16() {
    let counts = Counts { failed: 1, ..Counts::default() };
    assert_eq!(reason(&GateFacts { counts, ..open() }), Some("tasks_in_progress"));
}

#[test]
fn issues_that_cannot_be_counted_keep_the_gate_shut_c102() {
    let facts = GateFacts { issues: IssueBacklog::Unknown("http_500"), ..open() };
    assert_eq!(reason(&facts), Some("preflight_failed"));
}

#[test]
fn open_issues_keep_the_gate_shut_c103() {
    assert_eq!(reason(&GateFacts { issues: IssueBacklog::Open(2), ..open() }), Some("issue_backlog_present"));
    assert_eq!(reason(&GateFacts { issues: IssueBacklog::Open(0), ..open() }), None);
}

#[test]
fn a_planner_counts_as_active_for_90_seconds_c104() {
    let seen = |seconds| GateFacts { planner_seen_at: ago(seconds), ..open() };
    assert_eq!(reason(&seen(60)), Some("planner_recently_active"));
    assert_eq!(until(&seen(60)), now().checked_add(Duration::from_secs(30)).ok());
    assert_eq!(reason(&seen(90)), Some("planner_recently_active"));
    assert_eq!(reason(&seen(91)), None);
}

#[test]
fn an_unchanged_requirement_and_head_is_skipped_and_the_interval_restarts_c105() {
    let same = GateFacts { signature: Signature::Known("a"), last_signature: Some("a"), ..open() };
    assert_eq!(reason(&same), Some("no_diff"));
    assert_eq!(reason(&GateFacts { skip_same_signature: false, ..same.clone() }), None);
    // The skip counts as a try.
    let tried = GateFacts { tried_at: ago(0), ..same };
    assert_eq!(reason(&tried), Some("interval"));
    assert_eq!(until(&tried), now().checked_add(Duration::from_secs(300)).ok());
}

#[test]
fn planning_has_no_shell_command_that_could_be_refused_c106() {
    // The original starts a configured command line here; ours opens with data alone.
    let facts = GateFacts { signature: Signature::Known("a && b"), ..open() };
    assert_eq!(replan_gate(&facts, now()), Gate::Open { signature: Some("a && b".to_owned()) });
}

#[test]
fn a_signature_that_cannot_be_computed_stops_planning() {
    let facts = GateFacts { signature: Signature::Unavailable("no answer"), ..open() };
    assert_eq!(reason(&facts), Some("signature_unavailable"));
}

#[test]
fn a_plan_exactly_as_old_as_the_interval_is_no_longer_recent() {
    assert_eq!(reason(&GateFacts { planned_at: ago(299), ..open() }), Some("recent_plan"));
    assert_eq!(reason(&GateFacts { planned_at: ago(300), ..open() }), None);
}

#[test]
fn a_start_by_hand_is_refused_in_the_order_of_the_api() {
    let mut facts = StartFacts {
        planning: Some("plan-1"),
        counts: Counts { blocked: 3, ..Counts::default() },
        issues: 2,
        pull_requests: 1,
        pending_reviews: 4,
    };
    let refusal = |facts: &StartFacts| start_refusal(facts).unwrap_or_default();
    assert!(refusal(&facts).contains("plan-1"));
    facts.planning = None;
    assert!(refusal(&facts).contains("3 Blocked"));
    facts.counts = Counts::default();
    assert!(refusal(&facts).contains("2 open issues"));
    facts.issues = 0;
    assert!(refusal(&facts).contains("1 pull requests are open and 4 reviews"));
    facts.pull_requests = 0;
    assert!(refusal(&facts).contains("4 reviews"));
    facts.pending_reviews = 0;
    assert_eq!(start_refusal(&facts), None);
}
