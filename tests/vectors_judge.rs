//! Recorded answers of the original system for review and merge.
//!
//! A row is `{input, output}`. Where this product decides otherwise on purpose, the row also has
//! `ours` and `why`; `ours` is what must come out. Rows that ask what has no counterpart here (a Task
//! that does not exist, the count of attempts by a title's prefix) are left out of the files.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[path = "support/vectors.rs"]
mod vectors;

use opentiger::crd::judge::{JudgeSettings, JudgeStage, JudgeStatus, ReviewRules};
use opentiger::crd::pool::Role;
use opentiger::crd::run::{ReviewResult, ReviewTarget, ReviewVerdict};
use opentiger::crd::task::RiskLevel;
use opentiger::crd::{
    BlockReason, Purpose, Run, RunPhase, RunSpec, RunStatus, SystemSpec, Task, TaskPhase, TaskSpec,
    TaskStatus, labels,
};
use opentiger::plan::judge::change::{ChangeReview, ChangedFile, evaluate, risk};
use opentiger::plan::judge::ci::{Ci, check_run, commit_status};
use opentiger::plan::judge::verdict::{AgentReview, Decision, Issue, Severity, verdict};
use opentiger::plan::judge::{is_conflict_reason, key};
use opentiger::plan::task::{Observed, TaskPlan, plan_task};
use opentiger::plan::{area, lanes};
use serde_json::{Value, json};
use vectors::{check_mapped, strings, text, whole};

fn risk_of(word: &Value) -> RiskLevel {
    match word.as_str() {
        Some("high") => RiskLevel::High,
        Some("medium") => RiskLevel::Medium,
        _ => RiskLevel::Low,
    }
}

fn word(risk: RiskLevel) -> &'static str {
    match risk {
        RiskLevel::Low => "low",
        RiskLevel::Medium => "medium",
        RiskLevel::High => "high",
    }
}

fn verdicts(name: &str) {
    let part = |output: &Value| {
        let keys = ["verdict", "autoMerge", "riskLevel", "confidence"].map(|key| output[key].clone());
        let percent = keys[3].as_f64().unwrap() * 100.0;
        json!([keys[0], keys[1], keys[2], percent.round()])
    };
    check_mapped(name, part, |input| {
        let yes = |key: &str| input[key].as_bool().expect("a flag");
        let settings = JudgeSettings {
            auto_merge: yes("autoMergeEnabled"),
            allow_model_fail_auto_merge: yes("allowLlmFailAutomerge"),
            ..JudgeSettings::default()
        };
        let ci = if yes("ci") { Ci::Success } else { Ci::Failure(vec!["ci r".into()]) };
        let findings = if yes("policy") { Vec::new() } else { vec!["po r".into()] };
        let change = ChangeReview { findings, risk: risk_of(&input["taskRisk"]), code_files: 0 };
        let agent = AgentReview {
            pass: yes("llm"),
            confidence: input["llmConfidence"].as_f64().expect("a number"),
            summary: "llm r".into(),
            ..AgentReview::default()
        };
        match verdict(&ci, &change, Some(&agent), &[], &settings.rules()) {
            Decision::Verdict(result) => {
                let approved = result.verdict == ReviewVerdict::Approve;
                let word_of = if approved { "approve" } else { "request_changes" };
                let merges = approved && settings.auto_merge;
                json!([word_of, merges, word(result.risk), f64::from(result.confidence)])
            }
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn judge_verdict_llm_bypass_off() {
    verdicts("judge_verdict_llm_bypass_off");
}

#[test]
fn judge_verdict_llm_bypass_on() {
    verdicts("judge_verdict_llm_bypass_on");
}

#[test]
fn judge_ci_mapping() {
    check_mapped("judge_ci_mapping", whole, |input| {
        json!(if input["kind"] == "status" {
            commit_status(text(&input["state"])).word()
        } else {
            check_run(text(&input["status"]), input["conclusion"].as_str()).word()
        })
    });
}

#[test]
fn judge_risk() {
    check_mapped("judge_risk", whole, |input| {
        let number = |key: &str| input[key].as_i64().expect("a number");
        let rules = ReviewRules {
            max_lines: number("maxLinesChanged"),
            max_files: number("maxFilesChanged"),
            model_may_fail: false,
        };
        let lines = number("additions") + number("deletions");
        json!(word(risk(lines, number("changedFiles"), &strings(&input["files"]), &rules)))
    });
}

#[test]
fn merge_conflict_reason() {
    check_mapped("merge_conflict_reason", whole, |input| json!(is_conflict_reason(text(input))));
}

fn system() -> SystemSpec {
    let mut system = SystemSpec::default();
    system.repository.base_branch = "main".into();
    system.judge.enabled = true;
    system
}

/// A Task whose review or merge has just ended so; what follows from it.
fn after(
    spec: TaskSpec,
    origin: Option<&str>,
    stage: JudgeStage,
    result: ReviewResult,
    end: RunStatus,
) -> TaskPlan {
    let system = system();
    let mut task = Task::new("source", spec);
    task.metadata.uid = Some("uid-source".into());
    if let Some(origin) = origin {
        let marks = [(labels::ORIGIN, origin), (labels::PARENT_UID, "other")];
        task.metadata.labels = Some(marks.map(|(key, value)| (key.into(), value.into())).into());
    }
    let status = TaskStatus {
        phase: TaskPhase::Blocked,
        block_reason: Some(BlockReason::AwaitingJudge),
        current_run: "source-r1-x".into(),
        ..TaskStatus::default()
    };
    let judge = JudgeStatus {
        stage,
        run: "source-r1".into(),
        run_uid: "uid-run".into(),
        branch: "agent/source-r1".into(),
        head_commit: "c0ffee".into(),
        base_branch: "main".into(),
        policy_version: key::policy_version(&task, &status, &system),
        result: (stage == JudgeStage::Merge).then_some(result),
        ..JudgeStatus::default()
    };
    let review = ReviewTarget {
        run_uid: judge.run_uid.clone(),
        head_commit: judge.head_commit.clone(),
        policy_version: judge.policy_version.clone(),
        version: 1,
        ..ReviewTarget::default()
    };
    let purpose = if stage == JudgeStage::Merge { Purpose::Merge } else { Purpose::Judge };
    let mut run = Run::new("source-r1-x", RunSpec { purpose, review: Some(review), ..RunSpec::default() });
    run.status = Some(end);
    task.status = Some(TaskStatus { judge: Some(judge), ..status });
    plan_task(&Observed {
        task: &task,
        runs: &[&run],
        live_pod: false,
        confirmed: true,
        system: &system,
        children: &[],
        orders: opentiger::plan::task::Orders::default(),
        now: "2026-03-01T12:00:00Z".parse().expect("a time"),
    })
}

fn minutes(task: &Task) -> Value {
    json!(task.spec.timebox.parse().expect("a duration").as_secs() / 60)
}

#[test]
fn docser_followup() {
    let part = |output: &Value| {
        let keys = ["title", "priority", "riskLevel", "lane", "timeboxMinutes", "targetArea", "touches"];
        match output["tasks"].get(0) {
            Some(task) => json!([keys.map(|key| task[key].clone()), task["allowedPaths"], task["commands"]]),
            None => Value::Null,
        }
    };
    check_mapped("docser_followup", part, |input| {
        let files: Vec<ChangedFile> = strings(&input["diffFiles"])
            .into_iter()
            .map(|path| ChangedFile { path, added: 1, deleted: 0 })
            .collect();
        let change = evaluate(&files, &["**".into()], &[], RiskLevel::Low, &ReviewRules::default());
        let title = text(&input["title"]);
        // Upstream knows a mending Task by its title, we by its label.
        let origin = if title.starts_with("[AutoFix-Conflict]") {
            Some("autofix_conflict")
        } else {
            title.starts_with("[AutoFix]").then_some("autofix")
        };
        let spec = TaskSpec {
            title: title.into(),
            role: if input["role"] == "docser" { Role::Docser } else { Role::Worker },
            priority: i32::try_from(input["priority"].as_i64().expect("a number")).expect("in range"),
            ..TaskSpec::default()
        };
        let result = ReviewResult { code_files: change.code_files, ..ReviewResult::default() };
        let end = RunStatus { phase: RunPhase::Success, head_commit: "m".into(), ..RunStatus::default() };
        match after(spec, origin, JudgeStage::Merge, result, end) {
            TaskPlan::Write(_) => Value::Null,
            TaskPlan::CreateThenWrite { tasks, status: _ } => {
                let (task, spec) = (&tasks[0], &tasks[0].spec);
                assert_eq!(
                    (spec.role, spec.dependencies.as_slice()),
                    (Role::Docser, ["source".to_string()].as_slice())
                );
                let lane = spec.lane.clone().unwrap_or_else(|| lanes::default_lane(spec.role).into());
                let one = json!([
                    spec.title,
                    spec.priority,
                    word(spec.risk_level),
                    lane,
                    minutes(task),
                    spec.target_area,
                    spec.touches
                ]);
                json!([one, spec.allowed_paths, spec.commands])
            }
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn judge_autofix_creation() {
    let keys = ["priority", "riskLevel", "lane", "timeboxMinutes", "allowedPaths", "commands", "touches"];
    let part = |output: &Value| {
        let task = &output["tasks"][0];
        // A conflict is of a branch here, of a pull request there.
        let area = task["targetArea"]
            .as_str()
            .map(|area| if area.starts_with("conflict:") { "conflict" } else { area });
        json!([keys.map(|key| task[key].clone()), area])
    };
    check_mapped("judge_autofix_creation", part, |input| {
        let source = &input["sourceTask"];
        let findings = strings(&input["issueFiles"])
            .into_iter()
            .map(|file| file.trim().to_string())
            .filter(|file| !file.is_empty())
            .map(|file| Issue {
                severity: Severity::Error,
                message: "m".into(),
                file: Some(file),
                line: None,
            })
            .map(|issue| issue.finding())
            .collect();
        let spec = TaskSpec {
            allowed_paths: strings(&source["allowedPaths"]),
            commands: strings(&source["commands"]),
            ..TaskSpec::default()
        };
        let refused =
            ReviewResult { verdict: ReviewVerdict::RequestChanges, findings, ..ReviewResult::default() };
        let plan = if input["kind"] == "conflict" {
            let end = RunStatus {
                phase: RunPhase::Failed,
                failure_code: "merge_conflict".into(),
                ..RunStatus::default()
            };
            after(spec, None, JudgeStage::Merge, ReviewResult::default(), end)
        } else {
            let end = RunStatus { phase: RunPhase::Success, review: Some(refused), ..RunStatus::default() };
            after(spec, None, JudgeStage::Review, ReviewResult::default(), end)
        };
        let TaskPlan::CreateThenWrite { tasks, status: _ } = plan else { panic!("{plan:?}") };
        let (task, spec) = (&tasks[0], &tasks[0].spec);
        let area = area::resolve(spec.target_area.as_deref(), &spec.touches, &spec.allowed_paths);
        let area = area.map(|area| if area.starts_with("conflict:") { "conflict".to_string() } else { area });
        let fields = json!([
            spec.priority,
            word(spec.risk_level),
            spec.lane,
            minutes(task),
            spec.allowed_paths,
            spec.commands,
            spec.touches
        ]);
        json!([fields, area])
    });
}
