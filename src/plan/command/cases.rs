//! Numbered cases of the original (spec agents 8) about commands and empty changes.

use super::outcome::failure_code;
use super::*;
use crate::crd::pool::Role;
use crate::crd::run::RunInputs;

/// Each step as its command, directory and program, or why it is not run.
fn seen(command: &str) -> Vec<(String, String, Result<String, Refusal>)> {
    let steps = steps(&[command.into()], "/r");
    steps.into_iter().map(|step| (step.command, step.cwd, step.invocation.map(|i| i.program))).collect()
}

fn asked(title: &str, commands: &[&str], files: &[&str]) -> RunInputs {
    let list = |items: &[&str]| items.iter().map(ToString::to_string).collect();
    let mut inputs = RunInputs { title: title.into(), commands: list(commands), ..RunInputs::default() };
    inputs.context.files = list(files);
    inputs
}

#[test]
fn a_tester_whose_commands_only_verify_may_change_nothing_a22() {
    let only_verifies = asked("Login", &["pnpm run test"], &[]);
    assert!(empty::is_acceptable(&only_verifies, Role::Tester));
    assert!(!empty::is_acceptable(&only_verifies, Role::Worker), "a worker's words decide");
    assert!(!empty::is_acceptable(&asked("Login", &["pnpm run test", "make x"], &[]), Role::Tester));
    assert!(!empty::is_acceptable(&asked("Login", &[], &[]), Role::Tester), "nothing verifies nothing");
}

#[test]
fn a_task_that_names_files_never_ends_without_a_change_a23() {
    for role in [Role::Worker, Role::Tester, Role::Docser] {
        let asked = |files| asked("Verify that tests pass", &["pnpm run test"], files);
        assert!(empty::is_acceptable(&asked(&[]), role), "{role:?}");
        assert!(!empty::is_acceptable(&asked(&["src/a.ts"]), role), "{role:?}");
    }
}

#[test]
fn a_change_of_directory_is_no_command_of_its_own_a24() {
    let expected = ("pnpm exec x".into(), "/r/packages/db".into(), Ok("pnpm".into()));
    assert_eq!(seen("cd packages/db && pnpm exec x"), [expected]);
}

#[test]
fn a_change_of_directory_that_leaves_the_repository_is_refused_a25() {
    let refused = ("cd ..".into(), "/r".into(), Err(Refusal::Builtin("cd".into())));
    let stays = ("pnpm test".into(), "/r".into(), Ok("pnpm".into()));
    assert_eq!(seen("cd .. && pnpm test"), [refused, stays]);
}

#[test]
fn text_that_only_a_shell_understands_is_refused_even_in_quotes_a27() {
    let refusal = parse("grep -q 'a|b' f").expect_err("refused");
    assert_eq!(refusal, Refusal::Operator("|"));
    assert!(refusal.to_string().starts_with("unsupported command format: "), "{refusal}");
}

#[test]
fn a_backslash_that_escapes_nothing_stays_in_double_quotes_a28() {
    assert_eq!(parse(r#"grep "\[x\]" f"#).expect("a command").args, [r"\[x\]", "f"]);
}

#[test]
fn variables_before_a_program_are_its_environment_a29() {
    let parsed = parse("FOO=1 cargo test").expect("a command");
    assert_eq!((parsed.program.as_str(), parsed.args.as_slice()), ("cargo", &["test".to_string()][..]));
    assert_eq!(parsed.env, [("FOO".to_string(), "1".to_string())]);
}

#[test]
fn a_package_that_is_missing_is_set_up_and_a_file_that_is_missing_a_failure_a37() {
    let code = |output: &str| failure_code(&["pnpm test"], 0, output);
    let package = "Error: Cannot find package 'vitest' imported from /r/node_modules/.vite/config.mjs";
    assert_eq!(code(package), "setup_or_bootstrap_issue");
    let config = "failed to load config from /r/a.ts\nCannot find module 'vitest/config', node_modules";
    assert_eq!(code(config), "setup_or_bootstrap_issue");
    let file = "failed to load config from /r/a.ts\nCannot find module './helper', node_modules";
    assert_eq!(code(file), "verification_command_failed");
}
