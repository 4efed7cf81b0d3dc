//! Events of an object: its transitions, and what the original records besides them. Pure: the same
//! object gives the same events, whatever was seen before (invariant S22).

use jiff::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;

use super::rows::word;
use crate::crd::planner::NO_DIFF;
use crate::crd::run::{ReviewSource, ReviewVerdict};
use crate::crd::system::RepositoryMode;
use crate::crd::task::Transition;
use crate::crd::words::snake;
use crate::crd::{Purpose, Run, RunPhase};

/// A verdict (spec/api.md 1.4). It is a transition of the Task, completed with what the Judge Run says.
pub const REVIEW: &str = "judge.review";
/// A plan was handed over (spec/api.md 1.4).
pub const PLAN_CREATED: &str = "planner.plan_created";
/// The transition that follows a verdict whose change is to be merged.
const ENQUEUED: &str = "judge.merge_queue_enqueued";

/// One event per transition, in their order.
pub(super) fn transitions(task: Uuid, namespace: &str, all: &[Transition]) -> Vec<Value> {
    let next = all.iter().skip(1).map(Some).chain([None]);
    all.iter().zip(next).map(|(t, next)| transition(task, namespace, t, next)).collect()
}

fn transition(task: Uuid, namespace: &str, t: &Transition, next: Option<&Transition>) -> Value {
    let mut payload = json!({
        "status": snake(t.phase.word()),
        "blockReason": t.block_reason.map(|r| snake(r.word())),
        "reason": t.reason,
        "run": t.run,
    });
    // Both are written at once: where the second is not there, nothing is merged.
    if t.event == REVIEW
        && let Some(payload) = payload.as_object_mut()
    {
        payload.insert("autoMerge".into(), json!(next.is_some_and(|n| n.event == ENQUEUED)));
    }
    json!({
        "uid": task,
        "sequence": t.sequence,
        "namespace": namespace,
        "type": t.event,
        "entity_type": "task",
        "payload": payload,
        "created_at": t.at,
    })
}

/// What a Judge Run adds to the payload of the `judge.review` event that names it; `None` for a Run
/// without a verdict. `runId` is the Run that was reviewed, `judgeRunId` the one that reviewed. An
/// evaluator that was not asked is null in `summary`: the first that refuses decides.
pub(super) fn review(run: &Run) -> Option<Value> {
    let (target, result) = (run.spec.review.as_ref()?, run.status.as_ref()?.review.as_ref()?);
    if run.spec.purpose != Purpose::Judge {
        return None;
    }
    let approved = match result.verdict {
        ReviewVerdict::Approve => true,
        ReviewVerdict::RequestChanges => false,
    };
    let confidence = f64::from(result.confidence) / 100.0;
    let said =
        |pass: bool| json!({"pass": pass, "reasons": if pass { &[][..] } else { &result.findings[..] }});
    let agent = json!({"pass": approved, "confidence": confidence, "reasons": result.findings});
    let pr = run.status.as_ref().and_then(|status| status.pr.as_ref());
    let (ci, policy, llm) = match result.source {
        ReviewSource::Ci => (said(approved), Value::Null, Value::Null),
        ReviewSource::Policy => (said(true), said(approved), Value::Null),
        ReviewSource::Agent => (said(true), said(true), agent),
    };
    let verdict = if approved { "approve" } else { "request_changes" };
    Some(json!({
        "mode": mode(run.spec.repository.mode),
        "prNumber": pr.map(|pr| pr.number),
        "prUrl": pr.map(|pr| &pr.url),
        "runId": target.run_uid,
        "taskId": run.spec.task_ref.uid,
        "judgeRunId": run.metadata.uid,
        "verdict": verdict,
        "riskLevel": word(result.risk),
        "confidence": confidence,
        "reasons": result.findings,
        "suggestions": [],
        "summary": {"ci": ci, "policy": policy, "llm": llm},
        "actions": {"commented": false, "approved": approved, "merged": false},
        "dryRun": false,
        "baseBranch": run.spec.repository.base_branch,
        "branchName": target.branch,
        "headCommit": target.head_commit,
        "policyVersion": target.policy_version,
    }))
}

/// The original's word for a repository mode.
fn mode(mode: RepositoryMode) -> &'static str {
    match mode {
        RepositoryMode::Git => "git",
        RepositoryMode::GitHub => "github",
    }
}

/// The event of a Plan Run that has handed a plan over. Its number is the attempt's, negative: it is of
/// no transition.
pub(super) fn plan_created(run: &Run, task: Uuid, namespace: &str, at: Timestamp) -> Option<Value> {
    let status = run.status.as_ref()?;
    let planned = run.spec.purpose == Purpose::Plan
        && status.phase == RunPhase::Success
        && !status.summary.starts_with(NO_DIFF);
    planned.then(|| {
        json!({
            "uid": task,
            "sequence": -i64::from(run.spec.attempt),
            "namespace": namespace,
            "type": PLAN_CREATED,
            "entity_type": "plan",
            "agent_id": run.spec.agent,
            "payload": {
                "taskId": task,
                "runId": run.metadata.uid,
                "requirement": {
                    "path": run.spec.plan.as_ref().and_then(|p| p.requirement_path.as_ref()),
                },
                "summary": {"text": status.summary},
                "policyRecoveryHintApplications": [],
            },
            "created_at": status.finished_at.unwrap_or(at),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::run::{ReviewResult, ReviewTarget, TaskRef};
    use crate::crd::{BlockReason, RunSpec, RunStatus, TaskPhase};

    fn reviewed(source: ReviewSource, verdict: ReviewVerdict) -> Run {
        let mut run = Run::new(
            "fix-j1",
            RunSpec {
                purpose: Purpose::Judge,
                task_ref: TaskRef { name: "fix".into(), uid: "task".into() },
                review: Some(ReviewTarget { run_uid: "work".into(), ..ReviewTarget::default() }),
                ..RunSpec::default()
            },
        );
        run.metadata.uid = Some("judge".into());
        let findings = vec!["a.rs:3: wrong".to_owned()];
        let result = ReviewResult { verdict, source, confidence: 80, findings, ..ReviewResult::default() };
        run.status =
            Some(RunStatus { phase: RunPhase::Success, review: Some(result), ..RunStatus::default() });
        run
    }

    #[test]
    fn a_verdict_says_who_was_asked_and_who_refused() {
        let of = |source| review(&reviewed(source, ReviewVerdict::RequestChanges)).expect("a verdict");
        let by_ci = of(ReviewSource::Ci);
        assert_eq!(by_ci["summary"]["ci"], json!({"pass": false, "reasons": ["a.rs:3: wrong"]}));
        assert_eq!((&by_ci["summary"]["policy"], &by_ci["summary"]["llm"]), (&Value::Null, &Value::Null));
        let by_agent = of(ReviewSource::Agent);
        assert_eq!(by_agent["summary"]["policy"], json!({"pass": true, "reasons": []}));
        assert_eq!(by_agent["summary"]["llm"]["confidence"], json!(0.8));
        assert_eq!((&by_agent["runId"], &by_agent["judgeRunId"]), (&json!("work"), &json!("judge")));
        assert_eq!(by_agent["verdict"], "request_changes");
        let mut worker = reviewed(ReviewSource::Agent, ReviewVerdict::Approve);
        worker.spec.purpose = Purpose::Execute;
        assert_eq!(review(&worker), None);
    }

    #[test]
    fn a_verdict_is_to_be_merged_when_the_next_transition_says_so() {
        let step = |sequence, event: &str| Transition {
            sequence,
            at: Timestamp::UNIX_EPOCH,
            phase: TaskPhase::Blocked,
            block_reason: Some(BlockReason::AwaitingJudge),
            event: event.into(),
            reason: "approve".into(),
            run: "fix-j1".into(),
        };
        let events = |all: &[Transition]| transitions(Uuid::nil(), "ns", all);
        let merged = events(&[step(1, REVIEW), step(2, ENQUEUED)]);
        assert_eq!(merged[0]["payload"]["autoMerge"], true);
        assert_eq!(merged[1]["payload"].get("autoMerge"), None);
        assert_eq!(events(&[step(1, REVIEW), step(2, "task.done")])[0]["payload"]["autoMerge"], false);
    }

    #[test]
    fn only_a_plan_run_that_made_a_plan_is_one() {
        let mut run =
            Run::new("plan-r1", RunSpec { purpose: Purpose::Plan, attempt: 2, ..RunSpec::default() });
        run.status = Some(RunStatus { phase: RunPhase::Success, ..RunStatus::default() });
        let event = |run: &Run| plan_created(run, Uuid::nil(), "ns", Timestamp::UNIX_EPOCH);
        assert_eq!(event(&run).expect("a plan")["sequence"], -2);
        run.status.get_or_insert_default().summary = format!("{NO_DIFF}: as before");
        assert_eq!(event(&run), None);
        run.status = Some(RunStatus { phase: RunPhase::Failed, ..RunStatus::default() });
        assert_eq!(event(&run), None);
    }
}
