//! What becomes of the words of a Pod's containers.

use super::fixtures::*;
use super::verdict::of_pod;
use crate::crd::run::{AgentSession, CommandOutcome, CommandSource, VerificationReport};
use crate::crd::wire::{ContainerResult, Outcome};
use crate::crd::*;

#[test]
fn the_result_of_publish_is_the_verdict() {
    let (_, run) = running("a");
    let mut success = ContainerResult::new(Outcome::Success);
    success.branch = Some("agent/a".into());
    success.head = Some("abc".into());
    let verdict = of_pod(&run, &pod_with(&run, &success), false, at(30));
    assert_eq!(
        (verdict.phase, verdict.branch.as_str(), verdict.head.as_str()),
        (RunPhase::Success, "agent/a", "abc")
    );
    assert_eq!((verdict.started, verdict.finished), (Some(at(1)), at(20)));

    let table = [
        (Outcome::NeedsRework, "verification_command_failed", FailureClass::Test),
        (Outcome::NeedsRework, "policy_violation", FailureClass::Policy),
        (Outcome::Failed, "model_doom_loop", FailureClass::ModelLoop),
        (Outcome::QuotaWait, "quota_failure", FailureClass::Env),
        (Outcome::Infra, "infrastructure_fault", FailureClass::Infra),
        (Outcome::Cancelled, "", FailureClass::Model),
    ];
    for (outcome, code, class) in table {
        let result = ContainerResult::failure(outcome, code, "why");
        let verdict = of_pod(&run, &pod_with(&run, &result), false, at(30));
        assert_eq!((verdict.phase, verdict.class), (RunPhase::Failed, Some(class)), "{outcome:?}");
    }
}

/// What the API server would refuse to keep must not stop the Run from ending.
#[test]
fn what_a_container_says_of_itself_is_kept_within_the_bounds_of_the_status() {
    let (_, run) = running("a");
    let mut said = ContainerResult::new(Outcome::Success);
    said.session = Some(AgentSession { id: "s".repeat(64), turns: 3 });
    said.prompt_hash = "0a".repeat(32);
    let mut report = VerificationReport { repairs: 1, ..VerificationReport::default() };
    report.add("make test", CommandSource::Explicit, CommandOutcome::Passed, 2);
    said.verification = Some(report.clone());
    let good = of_pod(&run, &pod_with(&run, &said), false, at(30));
    assert_eq!((&good.session, &good.prompt_hash), (&said.session, &said.prompt_hash));
    assert_eq!(good.verification, Some(report));

    said.session = Some(AgentSession { id: "s".repeat(65), turns: 3 });
    said.prompt_hash = "0".repeat(63) + "g";
    said.verification = Some(VerificationReport { repairs: -1, ..VerificationReport::default() });
    let odd = of_pod(&run, &pod_with(&run, &said), false, at(30));
    assert_eq!((odd.session, odd.prompt_hash.as_str()), (None, ""));
    assert_eq!(odd.verification.map(|report| report.repairs), Some(0));

    // A reset in a thousand years would keep the Task, and all of its credential, waiting for ever.
    let mut limited = ContainerResult::failure(Outcome::QuotaWait, "quota_failure", "wait");
    limited.retry_at = Some(at(3_600));
    assert_eq!(of_pod(&run, &pod_with(&run, &limited), false, at(30)).retry_at, Some(at(3_600)));
    limited.retry_at = "3026-01-01T00:00:00Z".parse().ok();
    assert_eq!(of_pod(&run, &pod_with(&run, &limited), false, at(30)).retry_at, None);
}
