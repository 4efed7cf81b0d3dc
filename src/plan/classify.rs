//! Classes of failures: what kind of fault it was, whether a retry can help, and how often.
//!
//! Owns the tables of convergence 4.1 to 4.4 (with corrections row 1). A fault of the cluster is
//! class `infra` by its cause, never by text, so nothing here answers `infra` (design rule 8).
//! The substring tests `env`, `dns` and `expected` are kept as the original has them (hazard H10).

use std::sync::LazyLock;

use regex::Regex;

use crate::crd::FailureClass;

/// Newest failures that must look alike before a Task counts as repeating itself (design 4).
pub const REPEATED_SIGNATURE_THRESHOLD: usize = 4;
/// Longest signature, in UTF-16 units, before its `code:` prefix.
const SIGNATURE_LENGTH: usize = 400;

/// The provider refused the key: only a person can help.
pub const AUTHENTICATION_FAILED: &str = "authentication_failed";
/// The agent was ended because it had said nothing for the pool's `idleTimeout`.
pub const AGENT_IDLE: &str = "agent_idle";
/// The agent was ended because the tokens that its Task had left are used up.
pub const TOKENS_USED_UP: &str = "token_budget_used_up";

/// What kind of failure it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Classification {
    pub class: FailureClass,
    /// False: the same attempt again cannot succeed.
    pub retryable: bool,
    /// The word that decides special handling, e.g. `verification_command_missing_script`.
    pub reason: &'static str,
}

const fn yes(class: FailureClass, reason: &'static str) -> Classification {
    Classification { class, retryable: true, reason }
}

const fn no(class: FailureClass, reason: &'static str) -> Classification {
    Classification { class, retryable: false, reason }
}

const PERMISSION: Classification = no(FailureClass::Permission, "external_directory_permission_prompt");
const AUTHENTICATION: Classification = no(FailureClass::Permission, AUTHENTICATION_FAILED);
const NOOP: Classification = no(FailureClass::Noop, "no_actionable_changes");
const POLICY: Classification = yes(FailureClass::Policy, "policy_violation");
const MISSING_SCRIPT: Classification = no(FailureClass::Setup, "verification_command_missing_script");
const NO_TEST_FILES: Classification = no(FailureClass::Setup, "verification_command_no_test_files");
const MISSING_MAKE_TARGET: Classification =
    no(FailureClass::Setup, "verification_command_missing_make_target");
const UNSUPPORTED_FORMAT: Classification = no(FailureClass::Setup, "verification_command_unsupported_format");
const SEQUENCE: Classification = no(FailureClass::Setup, "verification_command_sequence_issue");
const BOOTSTRAP: Classification = yes(FailureClass::Setup, "setup_or_bootstrap_issue");
const ENVIRONMENT: Classification = yes(FailureClass::Env, "environment_issue");
const DIVERGED: Classification = no(FailureClass::Setup, "branch_diverged_requires_recreate");
const TEST: Classification = yes(FailureClass::Test, "test_failure");
const FLAKY: Classification = yes(FailureClass::Flaky, "transient_or_flaky_failure");
const MODEL_LOOP: Classification = yes(FailureClass::ModelLoop, "model_doom_loop");
const MODEL: Classification = yes(FailureClass::Model, "model_or_unknown_failure");

/// Classifies a failure by its code and, where the code says nothing, by its message. The code is
/// trimmed and read without regard to case; both may be empty.
pub fn classify(code: &str, message: &str) -> Classification {
    by_code(code.trim()).unwrap_or_else(|| by_message(message))
}

/// Classification of a failure code without white space around it, or `None` when the code leaves it
/// to the message (spec: convergence 4.1).
pub fn by_code(code: &str) -> Option<Classification> {
    Some(match code.to_lowercase().as_str() {
        "external_directory_permission_prompt" => PERMISSION,
        AUTHENTICATION_FAILED => AUTHENTICATION,
        "no_actionable_changes" => NOOP,
        "policy_violation" => POLICY,
        "verification_command_missing_script" => MISSING_SCRIPT,
        "verification_command_no_test_files" => NO_TEST_FILES,
        "verification_command_missing_make_target" => MISSING_MAKE_TARGET,
        "verification_command_unsupported_format" => UNSUPPORTED_FORMAT,
        "verification_command_sequence_issue" => SEQUENCE,
        "setup_or_bootstrap_issue" => BOOTSTRAP,
        // States of a repository that a person mends (`runner::git::failure`).
        "repository_authentication_refused"
        | "repository_not_found"
        | "repository_empty"
        | "base_branch_missing"
        | "repository_misconfigured"
        | "submodule_refused"
        | "repository_host_not_trusted"
        | "branch_protected"
        | "push_refused"
        | "forge_authentication_refused"
        | "forge_permission_missing"
        | "forge_repository_not_found"
        | "forge_misconfigured"
        | "forge_refused" => BOOTSTRAP,
        "environment_issue" | "disk_full" | "quota_failure" | TOKENS_USED_UP => ENVIRONMENT,
        "branch_diverged_requires_recreate" => DIVERGED,
        "verification_command_failed" | "test_failure" => TEST,
        "transient_or_flaky_failure"
        | AGENT_IDLE
        | "repository_host_unknown"
        | "repository_unreachable"
        | "repository_timed_out"
        | "forge_rate_limited"
        | "forge_unreachable" => FLAKY,
        "model_doom_loop" => MODEL_LOOP,
        "model_or_unknown_failure" => MODEL,
        _ => return None,
    })
}

/// Rules for texts in lower case, first match wins (spec: convergence 4.3, corrections row 1).
static RULES: LazyLock<Vec<(Regex, Classification)>> = LazyLock::new(|| {
    [
        (
            r"external_directory permission prompt|permission required:\s*external_directory",
            PERMISSION,
        ),
        (r"no changes were made|no relevant changes were made|no commits between", NOOP),
        (r"policy violation|denied command|outside allowed paths|change to denied path", POLICY),
        (r"no test files found|no tests found|no files found matching", NO_TEST_FILES),
        (
            r"err_pnpm_no_script|missing script|could not read package\.json|enoent.*package\.json|no rule to make target",
            MISSING_SCRIPT,
        ),
        (
            r"unsupported command format|shell operators are not allowed|verification failed at .*shell operators|verification failed at .*?\$\(.+?\).*?\[explicit\]:\s*stderr unavailable",
            UNSUPPORTED_FORMAT,
        ),
        (
            r"verification failed at\s+test\s+-[fs]\s+(?:.*?[/\s])?(?:artifacts?|build|debug|dist|out|release|target)/.*?\s+\[explicit\]:\s*stderr unavailable",
            SEQUENCE,
        ),
        (
            r"package\.json|pnpm-workspace\.yaml|cannot find module|enoent|command not found|repository not found|authentication failed|permission denied|no history in common",
            BOOTSTRAP,
        ),
        (r"database_url|redis_url|connection refused|dns|env", ENVIRONMENT),
        (r"branch_diverged_requires_recreate|non-fast-forward|failed to push some refs", DIVERGED),
        (r"vitest|playwright|assert|expected|test failed|verification commands failed", TEST),
        (
            r"rate limit|429|503|502|timeout|timed out|econnreset|eai_again|temporarily unavailable",
            FLAKY,
        ),
        (
            r"doom loop detected|excessive planning chatter detected|unsupported pseudo tool call detected: todo",
            MODEL_LOOP,
        ),
    ]
    .into_iter()
    .map(|(text, class)| (pattern(text), class))
    .collect()
});

fn by_message(message: &str) -> Classification {
    let message = message.to_lowercase();
    RULES
        .iter()
        .find(|(rule, _)| rule.is_match(&message))
        .map_or(MODEL, |(_, classification)| *classification)
}

/// Failures of the class that a Task may have before it is escalated: another attempt is allowed
/// while fewer were counted. `global` (`recovery.maxRetries`) lowers it. `None`: not limited here,
/// because `infra` has a cap and a back-off of its own (spec: convergence 4.2, design 4).
pub fn limit(class: FailureClass, global: Option<i32>) -> Option<i32> {
    let own = match class {
        FailureClass::Env => 5,
        FailureClass::Setup | FailureClass::Policy | FailureClass::Test | FailureClass::Model => 3,
        FailureClass::Flaky => 6,
        FailureClass::ModelLoop => 1,
        FailureClass::Permission | FailureClass::Noop => 0,
        FailureClass::Infra => return None,
    };
    Some(global.map_or(own, |global| own.min(global.max(0))))
}

static COLOUR: LazyLock<Regex> = LazyLock::new(|| pattern(r"\x1b\[[0-9;]*m"));
static UUID: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"));
static PATH: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?:/[a-z0-9_.\-]+){2,}"));
static DIGITS: LazyLock<Regex> = LazyLock::new(|| pattern("[0-9]+"));

/// What two failures have in common when they are the same fault: the message in lower case without
/// colours, identifiers, paths and numbers, at most 400 UTF-16 units, behind `code:<code> `. Empty
/// when there is neither message nor code (spec: convergence 4.4).
pub fn signature(code: &str, message: &str) -> String {
    let text = message.to_lowercase();
    let text = COLOUR.replace_all(&text, "");
    let text = UUID.replace_all(&text, "<uuid>");
    let text = PATH.replace_all(&text, "<path>");
    let text = DIGITS.replace_all(&text, "<n>");
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let text = utf16_prefix(&text, SIGNATURE_LENGTH);
    let code = code.trim().to_lowercase();
    match (code.is_empty(), text.is_empty()) {
        (true, _) => text.to_owned(),
        (false, true) => format!("code:{code}"),
        (false, false) => format!("code:{code} {text}"),
    }
}

/// Whether the newest failures, newest first, all carry the same non-empty signature.
pub fn is_repeated<'a>(newest_first: impl IntoIterator<Item = &'a str>) -> bool {
    let mut newest = newest_first.into_iter().take(REPEATED_SIGNATURE_THRESHOLD);
    let Some(latest) = newest.next().filter(|signature| !signature.is_empty()) else {
        return false;
    };
    let mut alike = 1;
    for signature in newest {
        if signature != latest {
            return false;
        }
        alike += 1;
    }
    alike == REPEATED_SIGNATURE_THRESHOLD
}

fn utf16_prefix(text: &str, units: usize) -> &str {
    let mut used = 0;
    for (at, c) in text.char_indices() {
        used += c.len_utf16();
        if used > units {
            return text.get(..at).unwrap_or(text);
        }
    }
    text
}

/// Compiles a pattern of this crate; `.` matches neither a line feed nor a carriage return. A pattern
/// that does not compile is a defect that every test of its table finds.
#[expect(clippy::expect_used, reason = "constant pattern, compiled by the tests")]
pub(crate) fn pattern(text: &str) -> Regex {
    regex::RegexBuilder::new(text).crlf(true).build().expect("a constant pattern compiles")
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case("quota_failure", "", ENVIRONMENT)]
    #[case("branch_protected", "non-fast-forward", BOOTSTRAP)]
    #[case("disk_full", "vitest", ENVIRONMENT)]
    #[case("repository_host_unknown", "enoent", FLAKY)]
    #[case("agent_idle", "policy violation", FLAKY)]
    #[case("execution_failed", "Permission required: external_directory", PERMISSION)]
    #[case("nobody_knows", "change outside allowed paths", POLICY)]
    #[case("  Policy_Violation ", "429", POLICY)]
    #[case("", "No test files found", NO_TEST_FILES)]
    #[case("", "ENOENT: no such file, open '/x/package.json'", MISSING_SCRIPT)]
    #[case("", "branch_diverged_requires_recreate:both", DIVERGED)]
    #[case("", "Verification failed at test -f build/kernel.elf [explicit]: stderr unavailable", SEQUENCE)]
    #[case("", "Verification failed at test -f a.elf [explicit]: stderr unavailable", MODEL)]
    #[case("", "Verification failed at a | b: shell operators", UNSUPPORTED_FORMAT)]
    #[case("", "Verification failed at echo $(date) [explicit]: stderr unavailable", UNSUPPORTED_FORMAT)]
    #[case("", "Cancelled due to timeout", FLAKY)]
    #[case("", "System stop-all requested", MODEL)]
    #[case("", "Quota exceeded for model", MODEL)]
    #[case("", "unexpected token", TEST)]
    #[case("", "permission denied (publickey)", BOOTSTRAP)]
    #[case("", "ENOTEMPTY", MODEL)]
    #[case("", "policy violation: ERR_PNPM_NO_SCRIPT", POLICY)]
    #[case("", "vitest timed out", TEST)]
    #[case("", "", MODEL)]
    fn a_failure_has_the_class_of_its_code_else_of_its_message(
        #[case] code: &str,
        #[case] message: &str,
        #[case] expected: Classification,
    ) {
        assert_eq!(classify(code, message), expected);
    }

    #[test]
    fn a_quota_failure_is_folded_into_the_environment_c51() {
        assert_eq!(classify("quota_failure", ""), ENVIRONMENT);
    }

    #[test]
    fn a_permission_prompt_is_known_by_its_words_and_not_retried_c52() {
        assert_eq!(classify("execution_failed", "Permission required: external_directory"), PERMISSION);
    }

    #[test]
    fn a_refused_path_is_policy_under_an_unknown_code_c53() {
        assert_eq!(classify("nobody_knows", "change outside allowed paths"), POLICY);
    }

    #[test]
    fn no_test_files_is_a_fault_of_the_command_c54() {
        assert_eq!(classify("", "No test files found"), NO_TEST_FILES);
    }

    #[test]
    fn a_missing_package_file_is_a_missing_script_before_it_is_set_up_c55() {
        assert_eq!(classify("", "ENOENT: no such file, open '/x/package.json'"), MISSING_SCRIPT);
    }

    #[test]
    fn a_diverged_branch_is_not_retried_c56() {
        assert_eq!(classify("", "branch_diverged_requires_recreate: both moved"), DIVERGED);
    }

    #[test]
    fn a_silent_check_of_something_built_is_a_matter_of_sequence_c57() {
        let message = "Verification failed at test -f build/kernel.elf [explicit]: stderr unavailable";
        assert_eq!(classify("", message), SEQUENCE);
    }

    #[test]
    fn nothing_known_is_the_model_and_retried_c58() {
        assert_eq!(classify("", ""), MODEL);
    }

    #[test]
    fn infrastructure_faults_are_limited_elsewhere_and_a_global_limit_only_lowers_c59() {
        assert_eq!(limit(FailureClass::Infra, Some(1)), None);
        assert_eq!(limit(FailureClass::Model, None), Some(3));
        assert_eq!(limit(FailureClass::Model, Some(1)), Some(1));
        assert_eq!(limit(FailureClass::Flaky, None), Some(6));
        assert_eq!(limit(FailureClass::Flaky, Some(1)), Some(1));
        assert_eq!(limit(FailureClass::Flaky, Some(10)), Some(6));
        assert_eq!(limit(FailureClass::Flaky, Some(0)), Some(0));
        assert_eq!(limit(FailureClass::Permission, Some(10)), Some(0));
    }

    #[test]
    fn signatures_ignore_what_differs_between_two_runs_c61() {
        let uuid = "1d79d06b-4783-4cc6-8826-14bad5d2625a";
        let text = format!("\u{1b}[31mError\u{1b}[0m at /home/u/repo/src/a.ts:12:5 run {uuid} took 35ms");
        assert_eq!(
            signature("TEST_FAILURE", &text),
            "code:test_failure error at <path>:<n>:<n> run <uuid> took <n>ms"
        );
        assert_eq!(signature("", ""), "");
        assert_eq!(signature("x", " "), "code:x");
        assert_eq!(signature("", &"é".repeat(500)).chars().count(), 400);
    }

    #[test]
    fn four_alike_are_a_repetition_and_three_are_not_c60() {
        assert!(is_repeated(["a", "a", "a", "a", "b"]));
        assert!(!is_repeated(["a", "a", "a"]));
        assert!(!is_repeated(["a", "a", "b", "a"]));
        assert!(!is_repeated(["", "", "", ""]));
    }
}
