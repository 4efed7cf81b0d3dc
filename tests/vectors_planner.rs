//! Recorded answers of the original system for planning and its gate.
//!
//! A row is `{input, output}`, and where this product decides otherwise on purpose also `ours` and
//! `why`, as in `vectors_plan.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "support/vectors.rs"]
mod vectors;

use std::time::Duration;

use jiff::Timestamp;
use opentiger::crd::planner::IssueImport;
use opentiger::crd::pool::Role;
use opentiger::crd::task::{RiskLevel, TaskContext};
use opentiger::plan::area;
use opentiger::plan::planner::issue::{Issue, refusal, text as issue_text};
use opentiger::plan::planner::requirement::{self, Impact, Requirement};
use opentiger::plan::planner::{
    Active, PlannedTask, dependencies, ensure_foundation, is_untouched, output, paths, role,
};
use opentiger::plan::replan::{Counts, Gate, GateFacts, replan_gate};
use serde_json::{Map, Value, json};
use vectors::{check_mapped, strings, text, whole};

fn role_of(value: &Value) -> Option<Role> {
    match value.as_str() {
        Some("worker") => Some(Role::Worker),
        Some("tester") => Some(Role::Tester),
        Some("docser") => Some(Role::Docser),
        _ => None,
    }
}

fn word(role: Role) -> String {
    role.word().to_lowercase()
}

/// A task as the rows write it; indexes that a plan cannot have any more are left out.
fn planned(value: &Value) -> PlannedTask {
    let indexes = value["dependsOnIndexes"].as_array().into_iter().flatten();
    PlannedTask {
        title: text(&value["title"]).to_owned(),
        goal: text(&value["goal"]).to_owned(),
        role: role_of(&value["role"]),
        allowed_paths: strings(&value["allowedPaths"]),
        commands: strings(&value["commands"]),
        priority: i32::try_from(value["priority"].as_i64().unwrap_or(0)).expect("in range"),
        risk: RiskLevel::Low,
        timebox_minutes: u32::try_from(value["timeboxMinutes"].as_u64().unwrap_or(60)).expect("in range"),
        depends_on: indexes
            .filter_map(Value::as_u64)
            .map(|i| usize::try_from(i).expect("in range"))
            .collect(),
        touches: strings(&value["touches"]),
        target_area: value["targetArea"].as_str().map(str::to_owned),
        context: TaskContext {
            files: strings(&value["context"]["files"]),
            specs: text(&value["context"]["specs"]).to_owned(),
            notes: text(&value["context"]["notes"]).to_owned(),
            issue: None,
        },
    }
}

fn tasks(value: &Value) -> Vec<PlannedTask> {
    value.as_array().into_iter().flatten().map(planned).collect()
}

/// The number in the original's sentence that starts so, else 0.
fn counted(warnings: &Value, start: &str) -> usize {
    let warnings = strings(warnings);
    let line = warnings.iter().find_map(|line| line.strip_prefix(start));
    line.and_then(|rest| rest.split(' ').next()).map_or(0, |count| count.parse().expect("a number"))
}

#[test]
fn planner_json_extraction() {
    check_mapped("planner_json_extraction", whole, |input| match output::extract(text(input)) {
        Some(value) => json!({ "value": value }),
        None => json!({ "error": true }),
    });
}

#[test]
fn planner_llm_task_defaults() {
    check_mapped("planner_llm_task_defaults", whole, |input| {
        let object = Map::from_iter([("tasks".to_owned(), input.clone())]);
        let read = output::read(&object);
        let tasks = read.tasks.iter().zip(&read.depends_on).zip(input.as_array().expect("a list"));
        let answer = tasks.map(|((task, indexes), given)| {
            let whole = indexes.iter().filter(|index| index.fract() == 0.0);
            json!({
                "title": task.title,
                "goal": task.goal,
                // The kind refuses a word it does not know; it and a missing one are derived later here.
                "role": task.role.map_or_else(|| given["role"].as_str().unwrap_or("worker").to_owned(), word),
                "kind": "code",
                "allowedPaths": task.allowed_paths,
                "commands": task.commands,
                "priority": task.priority,
                // The kind refuses a word it does not know; it weighs as medium.
                "riskLevel": match (task.risk, given["riskLevel"].as_str()) {
                    (RiskLevel::Medium, Some(unknown)) => unknown,
                    (RiskLevel::Medium, None) => "medium",
                    (RiskLevel::Low, _) => "low",
                    (RiskLevel::High, _) => "high",
                },
                "dependencies": [],
                "dependsOnIndexes": whole.map(|index| format!("{index}").parse().expect("a number")).collect::<Vec<i64>>(),
                "timeboxMinutes": task.timebox_minutes,
                "touches": task.touches,
            })
        });
        answer.collect()
    });
}

#[test]
fn planner_dependency_sanitise() {
    check_mapped(
        "planner_dependency_sanitise",
        |output| {
            let corrected = counted(&output["warnings"], "Corrected ");
            json!([output["dependsOnIndexes"], corrected])
        },
        |input| {
            let lists: Vec<Vec<f64>> = serde_json::from_value(input.clone()).expect("lists of numbers");
            json!(dependencies::sanitise(&lists))
        },
    );
}

#[test]
fn planner_dependency_reduce() {
    check_mapped(
        "planner_dependency_reduce",
        |output| {
            let removed = counted(&json!([output["removedWarning"]]), "Removed ");
            json!([output["dependsOnIndexes"], removed])
        },
        |input| {
            let lists: Vec<Vec<usize>> = serde_json::from_value(input.clone()).expect("lists of indexes");
            json!(dependencies::reduce(&lists))
        },
    );
}

#[test]
fn planner_normalise_tasks() {
    check_mapped("planner_normalise_tasks", whole, |input| {
        let complete = |mut task: PlannedTask| {
            paths::complete(&mut task);
            json!({ "allowedPaths": task.allowed_paths, "commands": task.commands })
        };
        tasks(input).into_iter().map(complete).collect()
    });
}

#[test]
fn planner_role_policy() {
    check_mapped("planner_role_policy", whole, |input| {
        tasks(input).iter().map(|task| word(role::resolve(task))).collect()
    });
}

#[test]
fn planner_initialisation_task() {
    check_mapped(
        "planner_initialisation_task",
        |output| {
            let added = strings(&output["warnings"]).iter().any(|line| line.starts_with("Injected"));
            json!([output["tasks"], added])
        },
        |input| {
            let mut tasks = tasks(&input["result"]["tasks"]);
            let empty = input["repoUninitialized"] == json!(true);
            let added = empty && ensure_foundation(&mut tasks, &strings(&input["allowedPaths"]));
            let tasks: Vec<Value> = tasks
                .iter()
                .map(|task| {
                    json!({
                        "title": task.title,
                        "dependsOnIndexes": task.depends_on,
                        "allowedPaths": task.allowed_paths,
                        "priority": task.priority,
                        "timeboxMinutes": task.timebox_minutes,
                    })
                })
                .collect();
            json!([tasks, added])
        },
    );
}

#[test]
fn planner_repo_state() {
    check_mapped(
        "planner_repo_state",
        |output| output["uninitialized"].clone(),
        |input| json!(is_untouched(strings(input).iter().map(String::as_str))),
    );
}

#[test]
fn planner_hot_file() {
    check_mapped("planner_hot_file", whole, |input| {
        let active: Vec<Active> = input["activeBacklog"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|task| ["queued", "running", "blocked"].contains(&text(&task["status"])))
            .map(|task| {
                let (touches, allowed) = (strings(&task["touches"]), strings(&task["allowedPaths"]));
                Active {
                    name: text(&task["id"]).to_owned(),
                    area: area::resolve(task["targetArea"].as_str(), &touches, &allowed),
                    paths: dependencies::hot_paths(&touches, &allowed, &strings(&task["context"]["files"])),
                }
            })
            .collect();
        let mut overlaps = 0;
        let tasks: Vec<Value> = tasks(&input["plannedTasks"])
            .iter()
            .map(|task| {
                let hot = dependencies::hot(task, &active);
                overlaps += usize::from(!hot.is_empty());
                // The original writes a derived area down only with an overlap; ours is derived when needed.
                let area = match hot.is_empty() {
                    true => task.target_area.clone(),
                    false => area::resolve(task.target_area.as_deref(), &task.touches, &task.allowed_paths),
                };
                json!({ "targetArea": area, "dependencies": hot })
            })
            .collect();
        json!({ "overlapCount": overlaps, "tasks": tasks })
    });
}

#[test]
fn planner_signature() {
    check_mapped("planner_signature", whole, |input| {
        let hash = requirement::hash(text(&input["requirement"]));
        let head = text(&input["headSha"]);
        json!({
            "signature": requirement::signature(&hash, head, text(&input["repoUrl"]), text(&input["baseBranch"])),
            "requirementHash": hash,
            "repoHeadSha": head,
        })
    });
}

#[test]
fn requirement_parsing() {
    check_mapped(
        "requirement_parsing",
        |output| json!([output["requirement"], output["missing"], output["errors"] == json!([])]),
        |input| {
            let read = Requirement::parse(text(input));
            let impact = |impact| match impact {
                Impact::High => "high",
                Impact::Medium => "medium",
                Impact::Low => "low",
            };
            let risks: Vec<Value> = read
                .risks
                .iter()
                .map(|r| json!({"risk": r.risk, "impact": impact(r.impact), "mitigation": r.mitigation}))
                .collect();
            let parts = json!({
                "goal": read.goal,
                "background": read.background,
                "constraints": read.constraints,
                "acceptanceCriteria": read.acceptance_criteria,
                "scope": {"inScope": read.in_scope, "outOfScope": read.out_of_scope},
                "allowedPaths": read.allowed_paths,
                "riskAssessment": risks,
                "notes": read.notes,
            });
            json!([parts, read.missing, read.is_usable()])
        },
    );
}

#[test]
fn issue_metadata() {
    check_mapped("issue_metadata", whole, |input| {
        let (labels, body) = (strings(&input["labels"]), text(&input["body"]));
        let risk = match issue_text::risk(&labels) {
            RiskLevel::Low => "low",
            RiskLevel::Medium => "medium",
            RiskLevel::High => "high",
        };
        json!({
            "role": issue_text::role(&labels, body).map(word),
            "risk": risk,
            "priority": issue_text::priority(&labels),
            "allowedPaths": issue_text::allowed_paths(body, &[]),
            "dependencies": issue_text::dependencies(body),
            "refs": issue_text::references(body),
        })
    });
}

#[test]
fn issue_allowed_paths_fallback() {
    check_mapped("issue_allowed_paths_fallback", whole, |input| {
        json!(issue_text::allowed_paths(text(&input["body"]), &strings(&input["fallback"])))
    });
}

#[test]
fn pr_linked_issues() {
    check_mapped("pr_linked_issues", whole, |input| {
        json!(issue_text::linked(text(&input["title"]), text(&input["body"])))
    });
}

#[test]
fn allowed_path_token() {
    check_mapped("allowed_path_token", whole, |input| json!(issue_text::patterns(text(input))));
}

/// One derivation serves both ways in: risk and priority are those of `issue_metadata`, and Japanese keys
/// name a role here too. What is compared is whether there is a Task, and its role.
#[test]
fn planner_issue_simple() {
    check_mapped(
        "planner_issue_simple",
        |output| output["tasks"][0]["role"].clone(),
        |input| {
            let labels = strings(&input["labels"]);
            let body = text(&input["body"]);
            let issue = Issue {
                number: input["number"].as_i64().expect("a number"),
                title: text(&input["title"]).to_owned(),
                body: body.to_owned(),
                labels: labels.clone(),
                url: String::new(),
            };
            match refusal(&issue, &[], &IssueImport { limit: 1, ..IssueImport::default() }) {
                Some(_) => Value::Null,
                None => json!(issue_text::role(&labels, body).map(word)),
            }
        },
    );
}

fn now() -> Timestamp {
    "2026-03-01T12:00:00Z".parse().expect("a timestamp")
}

fn ago(value: &Value) -> Option<Timestamp> {
    Some(now().checked_sub(Duration::from_millis(value.as_u64()?)).expect("in range"))
}

#[test]
fn replan_gate_reasons() {
    check_mapped(
        "replan_gate",
        |output| output["reason"].clone(),
        |input| {
            let all: Vec<&Value> = input["tasks"].as_array().into_iter().flatten().collect();
            let count = |status: &str| all.iter().filter(|task| task["status"] == status).count();
            let waits = |run: &&Value| {
                let task = all.iter().find(|task| task["id"] == run["taskId"]);
                let awaits = task.is_some_and(|task| task["blockReason"] == "awaiting_judge");
                let judgeable = strings(&run["artifacts"]).iter().any(|a| a == "pr" || a == "worktree");
                run["status"] == "success" && run["judgedAgoMs"].is_null() && awaits && judgeable
            };
            let agents = || input["agents"].as_array().into_iter().flatten();
            let config = &input["config"];
            let facts = GateFacts {
                auto_replan: config["autoReplan"] == json!(true),
                planning: agents().any(|agent| agent["status"] == "busy").then_some("plan"),
                planner_seen_at: agents().filter_map(|agent| ago(&agent["heartbeatAgoMs"])).max(),
                has_requirement: config["requirementPathSet"] == json!(true),
                pending_reviews: input["runs"].as_array().into_iter().flatten().filter(waits).count(),
                counts: Counts {
                    queued: count("queued"),
                    running: count("running"),
                    blocked: count("blocked"),
                    failed: count("failed"),
                },
                planned_at: input["events"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter_map(|e| ago(&e["ago"]))
                    .max(),
                interval: Duration::from_millis(config["intervalMs"].as_u64().expect("an interval")),
                ..GateFacts::default()
            };
            match replan_gate(&facts, now()) {
                Gate::Open { .. } => Value::Null,
                Gate::Closed { reason, .. } => json!(reason),
            }
        },
    );
}
