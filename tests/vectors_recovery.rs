//! Recorded answers of the original system for recovery: what is done about a failed attempt.
//!
//! What is not compared, and why:
//! - reviews of pull requests as Tasks (rows RF1, RF2, RB1 to RB3, RB20 to RB23): a review is a Run here
//!   (H13, H20, H21);
//! - times: a decision is made once, when the Run ends, and waits for one clock (H3, H4, H8);
//! - `issue_linking`, which the original forces into the queue (H12);
//! - path rules of the mode `custom`: the rules are fixed, `recovery.pathRecovery` chooses among them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "support/vectors.rs"]
mod vectors;

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use opentiger::crd::system::Recovery;
use opentiger::crd::task::{Retries, RiskLevel, TaskContext};
use opentiger::crd::{
    BlockReason, FailureDetail, GoDuration, PathRecovery, Role, SystemSpec, Task, TaskPhase, TaskSpec,
    TaskStatus, labels,
};
use opentiger::plan::classify;
use opentiger::plan::recovery::{self, Decision, Failure, Remedy, Route, commands, notes, paths, split};
use opentiger::plan::task::{Observed, TaskPlan, plan_task};
use serde_json::{Value, json};
use vectors::{check, rows, strings, text};

fn violations(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn role(value: &Value) -> Role {
    match text(value) {
        "docser" => Role::Docser,
        "tester" => Role::Tester,
        _ => Role::Worker,
    }
}

#[test]
fn failed_command_extraction() {
    check("failed_command_extraction", |input| {
        let told = input["meta"]["failedCommand"].as_str().map(str::trim).filter(|c| !c.is_empty());
        json!(told.or_else(|| commands::failed_command(text(&input["message"]))))
    });
}

#[test]
fn verify_command_adjustment() {
    let part = |output: &Value| match output {
        Value::Null => Value::Null,
        output => json!([output["nextCommands"], output["eventReason"], output["recoveryRule"]]),
    };
    vectors::check_mapped("verify_command_adjustment", part, |input| {
        let told = input["errorMeta"]["failedCommand"].as_str().map(str::trim).filter(|c| !c.is_empty());
        let failed = told.or_else(|| commands::failed_command(text(&input["errorMessage"])));
        commands::adjust(text(&input["reason"]), &strings(&input["commands"]), failed)
            .map_or(Value::Null, |adjusted| json!([adjusted.commands, adjusted.reason, adjusted.rule]))
    });
}

#[test]
fn rework_notes() {
    let part = |output: &Value| {
        let meta = &output["meta"];
        // An empty list is an object without fields to the original.
        let meta = if meta.as_array().is_some_and(Vec::is_empty) { &json!({}) } else { meta };
        json!([meta, text(&output["stripped"]), output["parents"]])
    };
    vectors::check_mapped("rework_notes", part, |input| {
        let text = text(input);
        let mark = notes::verify_mark(text).map_or(Value::Null, |mark| {
            let fields = [
                ("failedCommand", mark.failed_command),
                ("failedCommandSource", mark.failed_command_source),
                ("stderrSummary", mark.stderr_summary),
            ];
            fields.into_iter().filter_map(|(key, value)| Some((key.to_owned(), json!(value?)))).collect()
        });
        json!([mark, notes::without_verify_marks(text), notes::parents(text)])
    });
}

#[test]
fn policy_command_driven_paths() {
    let rows = rows("policy_command_driven_paths");
    let fixed = rows.iter().filter(|row| row["input"]["mode"] != "custom");
    let mut seen = 0;
    for row in fixed {
        let input = &row["input"];
        let paths = paths::command_driven(&strings(&input["commands"]), role(&input["role"]));
        assert_eq!(json!(paths), row["output"], "{input}");
        seen += 1;
    }
    assert!(seen > 20, "{seen}");
}

#[test]
fn policy_outside_paths() {
    check("policy_outside_paths", |input| match input {
        Value::String(text) => json!(paths::outside_in(text)),
        list => json!(paths::outside_of(violations(list).iter().map(String::as_str))),
    });
}

#[test]
fn policy_outside_paths_from_run() {
    check("policy_outside_paths_from_run", |input| {
        json!(paths::outside(&violations(&input["meta"]["policyViolations"]), text(&input["message"])))
    });
}

#[test]
fn policy_auto_allow() {
    let mut seen = 0;
    for row in rows("policy_auto_allow") {
        let (input, task) = (&row["input"], &row["input"]["task"]);
        let mode = match text(&input["mode"]) {
            "conservative" => PathRecovery::Conservative,
            "balanced" => PathRecovery::Balanced,
            "aggressive" => PathRecovery::Aggressive,
            _ => continue,
        };
        let (commands, files) = (strings(&task["commands"]), violations(&task["context"]["files"]));
        let asked = paths::Asked {
            title: text(&task["title"]),
            goal: text(&task["goal"]),
            commands: &commands,
            role: role(&task["role"]),
            files: &files,
        };
        let paths = paths::safe(&asked, &strings(&input["outsidePaths"]), mode);
        assert_eq!(json!(paths), row["output"], "{input}");
        seen += 1;
    }
    assert!(seen > 20, "{seen}");
}

/// Whether the original treats the Task as the review of a pull request (spec: convergence 5.5).
fn is_review(task: &Value) -> bool {
    let (title, context) = (text(&task["title"]), &task["context"]);
    let repair = title.starts_with("[AutoFix] PR #")
        || title.starts_with("[AutoFix-Conflict] PR #")
        || context["pr"]["sourceTaskId"].is_string();
    let review = title.starts_with("[PR] Review #")
        || text(&task["goal"]).starts_with("Review and process open PR #")
        || context["pr"]["number"].is_number()
        || (title.starts_with("[PR]") && context["issue"]["number"].is_number())
        || text(&context["notes"]).contains("Imported from open GitHub PR backlog");
    review && !repair
}

fn task(row: &Value) -> Task {
    let context = &row["context"];
    let spec = TaskSpec {
        title: text(&row["title"]).into(),
        goal: text(&row["goal"]).into(),
        role: role(&row["role"]),
        lane: row["lane"].as_str().map(str::to_owned),
        kind: text(&row["kind"]).into(),
        priority: i32::try_from(row["priority"].as_i64().unwrap_or(0)).expect("in range"),
        risk_level: match text(&row["riskLevel"]) {
            "low" => RiskLevel::Low,
            "high" => RiskLevel::High,
            _ => RiskLevel::Medium,
        },
        allowed_paths: strings(&row["allowedPaths"]),
        commands: strings(&row["commands"]),
        dependencies: strings(&row["dependencies"]),
        timebox: GoDuration(format!("{}m", row["timeboxMinutes"].as_i64().unwrap_or(60))),
        context: Some(TaskContext {
            files: violations(&context["files"]),
            notes: text(&context["notes"]).into(),
            specs: text(&context["specs"]).into(),
            issue: None,
        }),
        ..TaskSpec::default()
    };
    let mut task = Task::new("a", spec);
    task.metadata.uid = Some(text(&row["id"]).into());
    if text(&row["title"]).to_lowercase().contains("[autofix-conflict]") {
        let own = [(labels::ORIGIN.to_owned(), recovery::CONFLICT_AUTOFIX.to_owned())];
        task.metadata.labels = Some(BTreeMap::from(own));
    }
    task
}

/// Failed and cancelled Runs, the newest first.
fn failures(input: &Value) -> Vec<&Value> {
    let ended = |run: &&Value| ["failed", "cancelled"].contains(&text(&run["status"]));
    let mut runs: Vec<&Value> = input["runs"].as_array().into_iter().flatten().filter(ended).collect();
    runs.sort_by_key(|run| run["startedAgoMs"].as_i64());
    runs
}

/// What we decide about the row's Task after its newest failure.
fn decide(input: &Value, verification: bool, children: &[&Task]) -> Decision {
    let row = &input["tasks"][0];
    let (task, failures, none) = (task(row), failures(input), Value::Null);
    let newest = failures.first().copied().unwrap_or(&none);
    let (code, summary) = (text(&newest["errorMeta"]["failureCode"]), text(&newest["errorMessage"]));
    let classification = classify::classify(code, summary);
    let signature = |run: &&Value| {
        classify::signature(text(&run["errorMeta"]["failureCode"]), text(&run["errorMessage"]))
    };
    let signatures: Vec<String> = failures.iter().map(signature).collect();
    let count = i32::try_from(row["retryCount"].as_i64().unwrap_or(0)).expect("in range");
    let detail = FailureDetail {
        command: text(&newest["errorMeta"]["failedCommand"]).into(),
        source: String::new(),
        violations: violations(&newest["errorMeta"]["policyViolations"]),
    };
    recovery::decide(&Failure {
        task: &task,
        children,
        settings: &Recovery::default(),
        retries: Retries { failure: count, rework: count, ..Retries::default() },
        class: classification.class,
        classification,
        verification,
        repeated: classify::is_repeated(signatures.iter().map(String::as_str)),
        summary,
        detail: Some(&detail),
        allowed_paths: &task.spec.allowed_paths,
        commands: &task.spec.commands,
        edited: false,
        hopeless: false,
        planning: false,
    })
}

/// Commands and paths after the decision.
fn adjusted(input: &Value, remedy: &Remedy) -> (Value, Value) {
    let row = &input["tasks"][0];
    match remedy {
        Remedy::Commands { commands, reason: _ } => (json!(commands), row["allowedPaths"].clone()),
        Remedy::Paths { allowed, reason: _ } => (row["commands"].clone(), json!(allowed)),
        _ => (row["commands"].clone(), row["allowedPaths"].clone()),
    }
}

#[test]
fn convergence_requeue_failed() {
    let mut seen = 0;
    for (number, row) in rows("convergence_requeue_failed").iter().enumerate() {
        let (input, task) = (&row["input"], &row["input"]["tasks"][0]);
        let expected = &row["output"]["tasks"][text(&task["id"])];
        if is_review(task) || expected["touched"] == false {
            continue;
        }
        let decision = decide(input, false, &[]);
        let (commands, allowed) = adjusted(input, &decision.remedy);
        let lane = decision.lane.map_or(task["lane"].clone(), |lane| json!(lane));
        let (status, event, reason) = match &decision.route {
            Route::Failed => ("queued", "task.requeued", decision.remedy.word()),
            Route::Escalated { reason } => ("blocked", "task.recovery_escalated", *reason),
            Route::Rework { reason } => panic!("row {number}: {reason}"),
        };
        let (commands, allowed) = if status == "queued" {
            (commands, allowed)
        } else {
            (task["commands"].clone(), task["allowedPaths"].clone())
        };
        let event = json!([event, reason]);
        let told = &row["output"]["events"][0];
        assert_eq!(event, json!([told["type"], told["payload"]["reason"]]), "row {number}");
        let ours = json!([status, lane, commands, allowed]);
        let theirs =
            json!([expected["status"], expected["lane"], expected["commands"], expected["allowedPaths"]]);
        assert_eq!(ours, theirs, "row {number} {decision:?}");
        seen += 1;
    }
    assert!(seen > 20, "{seen}");
}

#[test]
fn convergence_requeue_blocked() {
    let mut seen = 0;
    for (number, row) in rows("convergence_requeue_blocked").iter().enumerate() {
        let (input, own) = (&row["input"], &row["input"]["tasks"][0]);
        let expected = &row["output"]["tasks"][text(&own["id"])];
        if is_review(own) || expected["touched"] == false || own["blockReason"] != "needs_rework" {
            continue;
        }
        let children: Vec<Task> =
            input["tasks"].as_array().into_iter().flatten().skip(1).filter_map(|t| child(own, t)).collect();
        let children: Vec<&Task> = children.iter().collect();
        let decision = decide(input, true, &children);
        let (commands, allowed) = adjusted(input, &decision.remedy);
        let requeued = |reason: &str| ("queued", "task.requeued", reason.to_owned());
        let (status, event, reason) = match &decision.remedy {
            Remedy::Retry { reason } | Remedy::Paths { allowed: _, reason } => requeued(reason),
            Remedy::Commands { commands: _, reason } => requeued(reason),
            Remedy::Suppress => (
                "blocked",
                "task.recovery_escalated",
                "policy_violation_rework_suppressed_no_safe_path".into(),
            ),
            Remedy::Split => ("cancelled", "task.split", "needs_rework".into()),
            Remedy::Existing { child: _ } => {
                ("cancelled", "task.recovery_escalated", "rework_child_already_exists".into())
            }
            Remedy::Cancel { reason, why: _ } => ("cancelled", "task.recovery_escalated", (*reason).into()),
            Remedy::Person { why } => panic!("row {number}: {why}"),
        };
        let told = &row["output"]["events"][0];
        assert_eq!(json!([event, reason]), json!([told["type"], told["payload"]["reason"]]), "row {number}");
        let ours = json!([status, commands, allowed]);
        let theirs = json!([expected["status"], expected["commands"], expected["allowedPaths"]]);
        assert_eq!(ours, theirs, "row {number} {decision:?}");
        if decision.remedy == Remedy::Split {
            assert_eq!(rework(own), theirs_rework(&row["output"]["tasks"]), "row {number}");
        }
        seen += 1;
    }
    assert!(seen > 10, "{seen}");
}

/// A Task whose notes name `parent`, as our child of it.
fn child(parent: &Value, row: &Value) -> Option<Task> {
    let named = notes::parents(text(&row["context"]["notes"])).contains(&text(&parent["id"]));
    let mut child = task(row);
    child.metadata.name = Some(format!("c-{}", text(&row["id"])));
    child.metadata.labels = Some(BTreeMap::from([(labels::ORIGIN.to_owned(), split::ORIGIN.to_owned())]));
    let phase = match text(&row["status"]) {
        "done" => TaskPhase::Done,
        // One that failed does not count upstream; ours is tried again, so it does.
        "cancelled" | "failed" => TaskPhase::Cancelled,
        _ => TaskPhase::Queued,
    };
    child.status = Some(TaskStatus { phase, ..TaskStatus::default() });
    named.then_some(child)
}

/// What the rows say of a rework Task, of ours.
fn rework(parent: &Value) -> Value {
    let parent = task(parent);
    let made = split::child(
        &parent,
        &split::Inherited {
            allowed_paths: &parent.spec.allowed_paths,
            commands: &parent.spec.commands,
            lane: parent.spec.lane.as_deref(),
            // The original reads the failed command from the notes only.
            detail: None,
            summary: "",
        },
    );
    let context = made.spec.context.unwrap_or_default();
    json!({
        "title": made.spec.title,
        "goal": made.spec.goal,
        "lane": made.spec.lane,
        "priority": made.spec.priority,
        "timebox": made.spec.timebox.0,
        "commands": made.spec.commands,
        "allowedPaths": made.spec.allowed_paths,
        "dependencies": made.spec.dependencies,
        "notes": context.notes,
        "specs": context.specs,
    })
}

fn theirs_rework(tasks: &Value) -> Value {
    let made = &tasks["<new-1>"];
    json!({
        "title": made["title"],
        "goal": made["goal"],
        "lane": made["lane"],
        "priority": made["priority"],
        "timebox": format!("{}m", made["timeboxMinutes"]),
        "commands": made["commands"],
        "allowedPaths": made["allowedPaths"],
        "dependencies": made["dependencies"],
        "notes": text(&made["context"]["notes"]),
        "specs": text(&made["context"]["specs"]),
    })
}

/// Blocked Tasks that wait for something else than rework or a review.
#[test]
fn convergence_requeue_blocked_for_another_reason() {
    let now: Timestamp = "2026-03-01T12:00:00Z".parse().expect("a timestamp");
    let mut seen = 0;
    for (number, row) in rows("convergence_requeue_blocked").iter().enumerate() {
        let own = &row["input"]["tasks"][0];
        let reason = match text(&own["blockReason"]) {
            "quota_wait" => Some(BlockReason::QuotaWait),
            "issue_linking" => Some(BlockReason::IssueLinking),
            "needs_rework" | "awaiting_judge" | "needs_human" => continue,
            _ => None,
        };
        let touched = row["output"]["tasks"][text(&own["id"])]["touched"] != false;
        let mut task = task(own);
        let retry_at =
            if touched { now } else { now.checked_add(SignedDuration::from_secs(1)).expect("in range") };
        task.status = Some(TaskStatus {
            phase: TaskPhase::Blocked,
            block_reason: reason,
            retry_at: Some(retry_at),
            next: Some(opentiger::crd::Next::default()),
            ..TaskStatus::default()
        });
        let system = SystemSpec::default();
        let observed = Observed {
            task: &task,
            runs: &[],
            live_pod: false,
            confirmed: true,
            system: &system,
            children: &[],
            orders: opentiger::plan::task::Orders::default(),
            now,
        };
        match (plan_task(&observed), reason) {
            (TaskPlan::Write(status), Some(BlockReason::IssueLinking)) => {
                assert_eq!(status.phase, TaskPhase::Blocked, "row {number}: never forced into the queue");
            }
            (TaskPlan::Write(status), _) => {
                assert!(touched, "row {number}");
                let told = &row["output"]["events"][0];
                let last = status.transitions.last().expect("a transition");
                assert_eq!(
                    json!([last.event, last.reason]),
                    json!([told["type"], told["payload"]["reason"]]),
                    "row {number}"
                );
                assert_eq!(status.phase, TaskPhase::Queued, "row {number}");
            }
            (TaskPlan::Wait { until }, _) => assert!(!touched && until == Some(retry_at), "row {number}"),
            (plan, _) => panic!("row {number}: {plan:?}"),
        }
        seen += 1;
    }
    assert!(seen > 5, "{seen}");
}
