//! The rows of convergence 5.5 and 5.6, one by one.

use super::*;
use crate::crd::task::TaskContext;
use crate::crd::{TaskPhase, TaskStatus};
use crate::plan::fixtures::task;

/// A failure with this code and summary; the Run had these commands and could change `src/**`.
fn with<T>(
    code: &str,
    summary: &str,
    commands: &[&str],
    change: impl FnOnce(&mut Failure),
    then: impl FnOnce(&Failure) -> T,
) -> T {
    let mut task = task("a");
    task.spec.context = Some(TaskContext::default());
    let (settings, allowed) = (Recovery::default(), vec!["src/**".to_string()]);
    let commands: Vec<String> = commands.iter().map(ToString::to_string).collect();
    let classification = classify::classify(code, summary);
    let mut failure = Failure {
        task: &task,
        children: &[],
        settings: &settings,
        retries: Retries::default(),
        class: classification.class,
        classification,
        verification: false,
        repeated: false,
        summary,
        detail: None,
        allowed_paths: &allowed,
        commands: &commands,
        edited: false,
        hopeless: false,
        planning: false,
    };
    change(&mut failure);
    then(&failure)
}

fn decided(code: &str, summary: &str, commands: &[&str], change: impl FnOnce(&mut Failure)) -> Decision {
    with(code, summary, commands, change, decide)
}

fn retry(reason: &'static str) -> Remedy {
    Remedy::Retry { reason }
}

#[test]
fn a_flaky_failure_is_tried_six_times_and_then_needs_rework_c64() {
    let at = |n| decided("", "timed out", &[], |f| f.retries.failure = n);
    assert_eq!(at(5), Decision { route: Route::Failed, remedy: retry("cooldown_retry"), lane: None });
    let escalated = Route::Escalated { reason: "transient_or_flaky_failure" };
    assert_eq!(at(6).route, escalated);
}

#[test]
fn a_model_loop_is_tried_once_c65() {
    let at = |n| decided("model_doom_loop", "", &[], |f| f.retries.failure = n);
    assert_eq!(at(0).route, Route::Failed);
    assert_eq!(at(1).route, Route::Escalated { reason: "model_doom_loop" });
}

#[test]
fn a_permission_prompt_is_escalated_at_once_c66() {
    let made = decided("external_directory_permission_prompt", "", &[], |_| {});
    assert_eq!(made.route, Route::Escalated { reason: "external_directory_permission_prompt" });
    assert_eq!(made.remedy, Remedy::Split, "the same attempt again cannot succeed");
}

#[test]
fn a_repetition_is_escalated_with_retries_left_c67() {
    let made = decided("", "timed out", &[], |f| f.repeated = true);
    assert_eq!(made.route, Route::Escalated { reason: "repeated_same_failure_signature" });
    assert_eq!(made.remedy, retry("needs_rework_in_place_retry"));
}

#[test]
fn a_diverged_branch_goes_to_the_conflict_lane_c68() {
    let made = decided("branch_diverged_requires_recreate", "", &[], |_| {});
    assert_eq!(made.lane, Some("conflict_recovery"));
    assert_eq!(made.route, Route::Escalated { reason: "branch_diverged_requires_recreate" });
}

#[test]
fn a_missing_make_target_drops_the_command_whatever_the_limits_c69() {
    let detail = FailureDetail::of_command("make test", CommandSource::Explicit);
    let exhausted = |f: &mut Failure| f.retries = Retries { failure: 99, rework: 99, ..Retries::default() };
    let code = "verification_command_missing_make_target";
    let made = with(code, "", &["make test", "pnpm run check"], exhausted, |f| {
        let f = Failure { detail: Some(&detail), ..f.clone() };
        (decide(&f).remedy, decide(&Failure { verification: true, ..f }).remedy)
    });
    let remedy =
        |reason: &str| Remedy::Commands { commands: vec!["pnpm run check".into()], reason: reason.into() };
    assert_eq!(made.0, remedy("verification_command_missing_make_target_adjusted"));
    assert_eq!(made.1, remedy("verification_command_missing_make_target_adjusted_from_blocked"));
}

#[test]
fn an_automatic_command_that_is_at_fault_leaves_the_task_s_own_as_they_are() {
    let detail = FailureDetail::of_command("make docs", CommandSource::Automatic);
    let code = "verification_command_missing_make_target";
    let told = "verification failed at make docs [auto]: no rule to make target docs";
    let made = with(
        code,
        told,
        &["make test"],
        |_| {},
        |f| {
            let known = Failure { detail: Some(&detail), verification: true, ..f.clone() };
            // What failed may be too long to be told.
            [decide(&known).remedy, decide(&Failure { detail: None, ..known }).remedy]
        },
    );
    assert!(made.iter().all(|remedy| !matches!(remedy, Remedy::Commands { .. })), "{made:?}");
}

#[test]
fn an_unknown_command_clears_all_and_goes_on_c70() {
    let made = decided("verification_command_no_test_files", "boom", &["a", "b"], |_| {});
    let reason = "verification_command_no_test_files_adjusted".to_string();
    assert_eq!(made.remedy, Remedy::Commands { commands: vec![], reason });
}

#[test]
fn a_sequence_is_put_in_order_or_the_usual_rows_apply_c71() {
    let summary = "Verification failed at test -f build/kernel.elf [explicit]: stderr unavailable";
    let code = "verification_command_sequence_issue";
    let made = decided(code, summary, &["make", "make clean", "test -f build/kernel.elf"], |_| {});
    let commands = ["make", "test -f build/kernel.elf", "make clean"].map(String::from).to_vec();
    let reason = "verification_command_sequence_adjusted".to_string();
    assert_eq!(made.remedy, Remedy::Commands { commands, reason });
    // C72: not adjustable, not retryable.
    let made = decided(code, summary, &["make", "make test", "test -f build/kernel.elf"], |_| {});
    assert_eq!(made.route, Route::Escalated { reason: "verification_command_sequence_issue" });
}

#[test]
fn a_makefile_is_added_by_the_aggressive_mode_c73() {
    let summary = "Change outside allowed paths: Makefile";
    let aggressive = decided("policy_violation", summary, &["pnpm test"], |_| {});
    let allowed = vec!["src/**".to_string(), "Makefile".to_string()];
    assert_eq!(aggressive.route, Route::Failed);
    assert_eq!(aggressive.remedy, Remedy::Paths { allowed, reason: "policy_allowed_paths_adjusted" });
    let settings = Recovery { path_recovery: crate::crd::PathRecovery::Balanced, ..Recovery::default() };
    let balanced = with(
        "policy_violation",
        summary,
        &["pnpm test"],
        |_| {},
        |f| decide(&Failure { settings: &settings, ..f.clone() }),
    );
    assert_eq!(balanced.remedy, retry("cooldown_retry"), "the usual rows apply");
}

#[test]
fn an_autofix_task_is_ordinary_work_c76() {
    let mut autofix = task("fix");
    autofix.spec.title = "[AutoFix] PR #13".into();
    autofix.metadata.labels = Some([(labels::ORIGIN.to_string(), "autofix".to_string())].into());
    let made = with("", "boom", &[], |_| {}, |f| decide(&Failure { task: &autofix, ..f.clone() }));
    assert_eq!(made.remedy, retry("cooldown_retry"));
}

#[test]
fn set_up_is_retried_three_times_under_its_own_word_c79() {
    let at = |n| {
        decided("setup_or_bootstrap_issue", "", &[], |f| {
            f.verification = true;
            f.retries.rework = n;
        })
    };
    assert_eq!(at(2).remedy, retry("setup_or_bootstrap_retry_from_blocked"));
    assert_eq!(at(3).remedy, retry("needs_rework_in_place_retry"));
}

#[test]
fn a_failed_test_is_retried_in_place_five_times_and_then_split_c80() {
    let at = |n| {
        decided("verification_command_failed", "", &[], |f| {
            f.verification = true;
            f.retries.rework = n;
        })
    };
    assert_eq!(at(4).remedy, retry("needs_rework_in_place_retry"));
    assert_eq!(at(4).route, Route::Rework { reason: "test_failure" });
    assert_eq!(at(5).remedy, Remedy::Split);
}

#[test]
fn a_path_that_cannot_be_allowed_ends_at_its_limit_c81() {
    let at = |n| {
        decided("policy_violation", "Change outside allowed paths: src2/a.ts", &[], |f| {
            f.verification = true;
            f.retries.rework = n;
        })
    };
    assert_eq!(at(3).remedy, Remedy::Suppress);
    match at(4).remedy {
        Remedy::Cancel { reason, why } => {
            assert_eq!(reason, "policy_violation_rework_suppressed_exhausted");
            assert!(why.contains("src2/a.ts"), "{why}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_denied_path_is_split_without_a_retry_in_place_c82() {
    let made = decided("policy_violation", "Change to denied path: .env", &[], |f| f.verification = true);
    assert_eq!(made.remedy, Remedy::Split);
}

#[test]
fn another_rework_task_that_works_takes_over_c83() {
    let mut child = task("other");
    child.metadata.labels = Some([(labels::ORIGIN.to_string(), "rework".to_string())].into());
    let made = |child: &Task| {
        with(
            "no_actionable_changes",
            "",
            &[],
            |f| f.verification = true,
            |f| decide(&Failure { children: &[child], ..f.clone() }).remedy,
        )
    };
    assert_eq!(made(&child), Remedy::Existing { child: "other".into() });
    child.status = Some(TaskStatus { phase: TaskPhase::Done, ..TaskStatus::default() });
    assert_eq!(made(&child), Remedy::Split, "one that has ended does not");
    let mut own = child.clone();
    own.metadata.name = Some(split::name(&task("a")));
    own.status = None;
    assert_eq!(made(&own), Remedy::Split, "its own child is found again by its name");
}

#[test]
fn two_ancestors_are_the_end_of_the_chain_c84() {
    let made = |notes: &str, max: i32| {
        let mut task = task("a");
        task.spec.context = Some(TaskContext { notes: notes.into(), ..TaskContext::default() });
        let settings = Recovery { auto_rework_max_depth: max, ..Recovery::default() };
        with(
            "no_actionable_changes",
            "",
            &[],
            |f| f.verification = true,
            |f| decide(&Failure { task: &task, settings: &settings, ..f.clone() }).remedy,
        )
    };
    let (one, two) = ("[auto-rework] parentTask=x", "[auto-rework] parentTask=x\n[auto-rework] parentTask=y");
    assert_eq!(made(one, 2), Remedy::Split);
    assert!(matches!(made(two, 2), Remedy::Cancel { reason: "rework_chain_max_depth_reached", why: _ }));
    assert_eq!(made(two, 3), Remedy::Split, "the setting counts");
    assert!(matches!(made("", 0), Remedy::Person { why: _ }), "without splits a person decides");
}

#[test]
fn a_conflict_that_needs_rework_goes_back_to_its_review_c88() {
    let mut conflict = task("a");
    conflict.metadata.labels = Some([(labels::ORIGIN.to_string(), CONFLICT_AUTOFIX.to_string())].into());
    let made = with(
        "verification_command_failed",
        "",
        &[],
        |f| f.verification = true,
        |f| decide(&Failure { task: &conflict, ..f.clone() }).remedy,
    );
    assert!(matches!(made, Remedy::Cancel { reason: "conflict_autofix_needs_rework_suppressed", why: _ }));
}

#[test]
fn the_limit_of_all_failures_leaves_no_further_attempt() {
    let settings = Recovery { max_retries: Some(2), ..Recovery::default() };
    let made = |failure, rework, verification| {
        let spend = |f: &mut Failure| {
            f.retries = Retries { failure, rework, ..Retries::default() };
            f.verification = verification;
        };
        with("", "boom", &[], spend, |f| decide(&Failure { settings: &settings, ..f.clone() }).remedy)
    };
    assert_eq!(made(1, 0, false), retry("cooldown_retry"));
    assert_eq!(made(1, 1, false), Remedy::Split);
    assert_eq!(made(0, 2, true), Remedy::Split);
}

#[test]
fn an_edit_gets_an_attempt_before_anything_is_given_up() {
    let made = decided("no_actionable_changes", "", &[], |f| {
        f.verification = true;
        f.edited = true;
    });
    assert_eq!(made.remedy, retry("spec_edited"));
}

#[test]
fn planning_is_not_split() {
    let made = decided("model_or_unknown_failure", "", &[], |f| {
        f.planning = true;
        f.retries = Retries { failure: 3, rework: 5, ..Retries::default() };
    });
    assert!(matches!(made.remedy, Remedy::Cancel { reason: "planning_failed", why: _ }));
}
