//! The original's own answers, and where ours differ on purpose.

use std::collections::BTreeMap;

use super::outcome::{Position, failure_code, is_recursive, may_skip};
use super::*;
use crate::crd::pool::Role;
use crate::crd::run::{CommandSource, RunInputs};
use rstest::rstest;
use serde_json::Value;

fn rows(name: &str) -> Vec<Value> {
    let path = format!("{}/tests/vectors/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).expect("vectors");
    let rows: Vec<Value> = serde_json::from_str(&text).expect("json");
    assert!(rows.len() > 10, "{name} has {} rows", rows.len());
    rows
}

fn text(value: &Value) -> &str {
    value.as_str().expect("text")
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().map(|list| list.iter().map(|v| text(v).to_string()).collect()).unwrap_or_default()
}

/// What the original's split does to a part and ours does not: it drops backslashes.
fn without_backslashes(part: &str) -> String {
    let mut out = String::new();
    let mut single = false;
    let mut double = false;
    let mut chars = part.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' if !single => {
                out.extend(chars.next());
                continue;
            }
            '\'' if !double => single = !single,
            '"' if !single => double = !double,
            _ => {}
        }
        out.push(c);
    }
    out.trim().to_string()
}

/// Ours as the original would write it: backslashes go when there was something to split.
fn as_original(command: &str, parts: Vec<String>) -> Vec<String> {
    if !command.contains("&&") {
        return parts;
    }
    parts.iter().map(|part| without_backslashes(part)).filter(|part| !part.is_empty()).collect()
}

#[test]
fn every_split_agrees_with_the_original_but_for_backslashes() {
    for row in rows("command_expand") {
        let command = text(&row["input"]);
        assert_eq!(as_original(command, expand(command)), strings(&row["output"]), "{row}");
    }
}

#[test]
fn every_parse_agrees_with_the_original_but_for_empty_arguments() {
    for row in rows("command_parse") {
        let command = text(&row["input"]);
        let output = &row["output"];
        if command.contains("\"\"") || command.contains("''") {
            continue; // Empty arguments stay in ours, see `empty_arguments_stay`.
        }
        match parse(command) {
            Err(refusal) => assert!(output.is_null(), "{row}: {refusal}"),
            Ok(parsed) => {
                assert_eq!(parsed.program, text(&output["executable"]), "{row}");
                assert_eq!(parsed.args, strings(&output["args"]), "{row}");
                let env: BTreeMap<&str, &str> =
                    parsed.env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
                let theirs = output["env"].as_object().expect("object");
                assert_eq!(env, theirs.iter().map(|(k, v)| (k.as_str(), text(v))).collect(), "{row}");
                assert_eq!(Value::Bool(parsed.is_builtin()), output["refusedBuiltin"], "{row}");
            }
        }
    }
}

#[test]
fn empty_arguments_stay() {
    let parsed = parse("a \"\" b ''").expect("valid");
    assert_eq!(
        (parsed.program.as_str(), parsed.args.as_slice()),
        ("a", &["".into(), "b".into(), "".into()][..])
    );
    assert_eq!(parse("\"\" a"), Err(Refusal::NoProgram));
}

#[test]
fn every_directory_agrees_with_the_original() {
    for row in rows("command_cwd") {
        for source in ["explicit", "auto"] {
            let of = |list: &Value| -> Vec<Value> {
                let list = list.as_array().expect("list");
                list.iter().filter(|entry| entry["source"] == source).cloned().collect()
            };
            let inputs: Vec<String> =
                of(&row["input"]).iter().map(|entry| text(&entry["command"]).into()).collect();
            let mut ours = Vec::new();
            // A lone backslash vanishes in the original; in ours it is a step, and refused.
            for step in steps(&inputs, "/repo") {
                if !without_backslashes(&step.command).is_empty() {
                    ours.push((step.command, step.cwd));
                }
            }
            let theirs: Vec<(String, String)> = of(&row["output"])
                .iter()
                .map(|e| (text(&e["command"]).into(), text(&e["cwd"]).into()))
                .collect();
            assert_eq!(ours.len(), theirs.len(), "{row}");
            for ((command, cwd), (their_command, their_cwd)) in ours.iter().zip(&theirs) {
                let same = command == their_command || without_backslashes(command) == *their_command;
                assert!(
                    same && cwd == their_cwd,
                    "{command} in {cwd}, original {their_command} in {their_cwd}"
                );
            }
        }
    }
}

#[test]
fn every_denied_command_agrees_with_the_original() {
    for row in rows("command_denied") {
        let patterns = strings(&row["input"]["deniedCommands"]);
        let patterns: Vec<&str> = patterns.iter().map(String::as_str).collect();
        assert_eq!(denied(text(&row["input"]["command"]), &patterns), row["output"].as_str(), "{row}");
    }
}

#[test]
fn docser_commands_agree_with_the_original() {
    for row in rows("docser_commands") {
        assert_eq!(docser(&strings(&row["input"])), strings(&row["output"]), "{row}");
    }
}

#[test]
fn every_failure_code_agrees_with_the_original() {
    for row in rows("verify_failure_code") {
        let commands = strings(&row["input"]["commands"]);
        let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
        let output = text(&row["input"]["output"]);
        let index = usize::try_from(row["input"]["index"].as_u64().expect("index")).expect("small");
        let ours = failure_code(&commands, index, output);
        if output == "spawn foo ENOENT" && row["output"] == "verification_command_failed" {
            assert_eq!(ours, "setup_or_bootstrap_issue", "{row}"); // Q26
        } else {
            assert_eq!(ours, text(&row["output"]), "{row}");
        }
    }
}

#[rstest]
#[case("typescript: command not found", "setup_or_bootstrap_issue")] // correction 5: whole words
#[case("command \"x\" not found; script missing", "verification_command_missing_script")]
#[case("spawn no-such-tool ENOENT", "setup_or_bootstrap_issue")] // Q26
#[case("this is not supported by node", "setup_or_bootstrap_issue")]
#[case("not supported: nodes", "verification_command_failed")]
#[case("Error: Cannot find module './a'", "verification_command_failed")]
#[case("ERR_REQUIRE_ESM /x/.pnpm/y", "setup_or_bootstrap_issue")]
#[case("assertion failed", "verification_command_failed")]
fn failure_codes_of_our_own(#[case] output: &str, #[case] code: &str) {
    assert_eq!(failure_code(&["x"], 0, output), code);
}

#[test]
fn the_refusals_texts_are_recognised() {
    for command in ["a | b", "source .env", "$(id)", "'a", "A=b"] {
        let step = steps(&[command.into()], "/repo").remove(0);
        let refusal = step.invocation.expect_err(command).to_string();
        assert_eq!(
            failure_code(&[command], 0, &refusal),
            "verification_command_unsupported_format",
            "{refusal}"
        );
    }
}

#[test]
fn every_skip_agrees_with_the_original() {
    let mut seen = (0, 0);
    for row in rows("verify_skip_rules") {
        let input = &row["input"];
        let (source, theirs) = match text(&input["source"]) {
            "explicit" => (CommandSource::Explicit, &row["output"]["skipExplicit"]),
            "auto" => (CommandSource::Automatic, &row["output"]["skipAuto"]),
            _ => continue,
        };
        let position = Position {
            more_follow: input["hasRemainingCommands"] == true,
            earlier_passed: input["hasPriorEffectiveCommand"] == true,
            own_suffices: input["hasPriorExplicitCommandPass"] == true,
            documentation_only: input["isDocOnlyChange"] == true,
            no_change: input["isNoOpChange"] == true,
        };
        let ours = may_skip(source, text(&input["command"]), text(&input["output"]), position);
        assert_eq!(&Value::Bool(ours), theirs, "{row}");
        match source {
            CommandSource::Explicit => seen.0 += 1,
            CommandSource::Automatic => seen.1 += 1,
        }
    }
    assert!(seen.0 >= 5 && seen.1 >= 5, "{seen:?} rows");
}

const LAST: Position = Position {
    more_follow: false,
    earlier_passed: true,
    own_suffices: true,
    documentation_only: false,
    no_change: false,
};

#[rstest]
#[case::after_an_own("test failed", LAST, true)]
#[case::with_the_switch_off("test failed", Position { own_suffices: false, ..LAST }, false)]
#[case::more_follow("test failed", Position { more_follow: true, ..LAST }, false)]
#[case::environment("sh: x: not found", Position { own_suffices: false, ..LAST }, true)]
#[case::environment_alone("sh: x: not found", Position { earlier_passed: false, own_suffices: false, ..LAST }, false)]
#[case::no_target("No rule to make target x", Position { more_follow: true, earlier_passed: false, ..LAST }, true)]
#[case::no_target_last("No rule to make target x", Position { own_suffices: false, ..LAST }, true)]
#[case::no_target_alone("No rule to make target x", Position { earlier_passed: false, own_suffices: false, ..LAST }, false)]
fn the_failure_of_an_automatic_command_is_passed_over_after_the_task_s_own_a34(
    #[case] output: &str,
    #[case] position: Position,
    #[case] expected: bool,
) {
    assert_eq!(may_skip(CommandSource::Automatic, "make x", output, position), expected);
}

#[test]
fn recursive_commands_agree_with_the_original() {
    for row in rows("command_package_scoped_retry") {
        assert_eq!(is_recursive(text(&row["input"])), !row["output"]["retry"].is_null(), "{row}");
    }
}

/// Words that only hold a change word inside (trap Q7): the original lets them count.
const INNER: [&str; 8] =
    ["address", "prefix", "additional", "recreate", "unchanged", "latest", "checkout", "padding"];

#[test]
fn every_empty_change_agrees_with_the_original_but_for_words_inside_words() {
    let mut compared = 0;
    for row in rows("no_change_allowed") {
        let input = &row["input"];
        let said = format!("{} {}", text(&input["title"]), text(&input["goal"])).to_lowercase();
        if INNER.iter().any(|word| said.contains(word)) {
            continue;
        }
        compared += 1;
        let (inputs, role) = task(input);
        assert_eq!(empty::is_acceptable(&inputs, role), row["output"] == true, "{row}");
    }
    assert!(compared >= 20, "{compared} rows");
}

fn task(input: &Value) -> (RunInputs, Role) {
    let mut inputs = RunInputs {
        title: text(&input["title"]).into(),
        goal: text(&input["goal"]).into(),
        commands: strings(&input["commands"]),
        ..RunInputs::default()
    };
    inputs.context.files = strings(&input["context"]["files"]);
    inputs.context.notes = input["context"]["notes"].as_str().unwrap_or_default().into();
    let role = match text(&input["role"]) {
        "worker" => Role::Worker,
        "tester" => Role::Tester,
        "docser" => Role::Docser,
        other => panic!("role {other}"),
    };
    (inputs, role)
}

#[rstest]
#[case("verification", "of the address book", true)]
#[case("check the latest prefix", "x", true)]
#[case("verify that tests pass", "x", true)]
#[case("verify", "and add tests", false)]
#[case("verify", "adding nothing", false)]
#[case("check", "updates the docs", false)]
#[case("set-up check", "x", false)]
#[case("padding of the login page", "x", false)] // no word of inspection
fn words_are_whole_words(#[case] title: &str, #[case] goal: &str, #[case] expected: bool) {
    let inputs = RunInputs { title: title.into(), goal: goal.into(), ..RunInputs::default() };
    assert_eq!(empty::is_acceptable(&inputs, Role::Worker), expected);
}

#[test]
fn steps_follow_cd_and_refuse_to_leave() {
    let commands = ["cd packages/db && FOO=1 pnpm x".into(), "ls".into(), "cd .. && cd ../.. && ls".into()];
    let seen: Vec<(String, String, bool)> =
        steps(&commands, "/r").into_iter().map(|s| (s.command, s.cwd, s.invocation.is_ok())).collect();
    let row = |command: &str, cwd: &str, runs| (command.to_string(), cwd.to_string(), runs);
    assert_eq!(
        seen,
        [
            row("FOO=1 pnpm x", "/r/packages/db", true),
            row("ls", "/r/packages/db", true),
            row("cd ../..", "/r/packages", false),
            row("ls", "/r/packages", true),
        ]
    );
}

#[test]
fn a_split_keeps_the_meaning_of_each_part() {
    let parts = expand(r#"grep "a\.b" f && echo \$x && a\ && b"#);
    assert_eq!(parts, [r#"grep "a\.b" f"#, r"echo \$x", r"a\", "b"]);
    assert_eq!(parse(&parts[0]).expect("valid").args, [r"a\.b", "f"]);
    assert_eq!(parse(&parts[2]), Err(Refusal::Unbalanced));
}
