//! What a contract asks for, and what is taken of it.

use super::*;
use rstest::rstest;

const CONTRACT: &str = r#"{
    "commands": ["make lint"],
    "byRole": {"worker": ["make test"], "docser": ["make links"]},
    "rules": [
        {"whenChangedAny": ["proto/**", "*.proto"], "commands": ["make proto"]},
        {"whenChangedAll": ["web/**", "api/**"], "commands": ["make contract"]},
        {"whenChangedAny": ["**/*.sql"], "whenChangedAll": ["db/**"], "commands": ["make migrate"]}
    ]
}"#;

fn list(texts: &[&str]) -> Vec<String> {
    texts.iter().map(ToString::to_string).collect()
}

#[rstest]
#[case::of_all_and_of_the_role(Role::Worker, &["src/a.rs"], "make lint; make test")]
#[case::another_role(Role::Docser, &["docs/a.md"], "make lint; make links")]
#[case::a_role_without(Role::Tester, &["t.rs"], "make lint")]
#[case::any(Role::Tester, &["a.md", "proto/.hidden/x"], "make lint; make proto")]
#[case::one_of_all(Role::Tester, &["web/a"], "make lint")]
#[case::all(Role::Tester, &["web/a", "api/b"], "make lint; make contract")]
#[case::any_and_all(Role::Tester, &["db/1.sql"], "make lint; make migrate")]
#[case::any_without_all(Role::Tester, &["x/1.sql"], "make lint")]
#[case::nothing_changed(Role::Tester, &[], "make lint")]
fn a_contract_asks_for_what_role_and_change_call_for(
    #[case] role: Role,
    #[case] changed: &[&str],
    #[case] expected: &str,
) {
    let contract = Contract::parse(CONTRACT).expect("a contract");
    assert_eq!(contract.commands(role, &list(changed)).join("; "), expected);
    assert_eq!(contract.remarks(), [""; 0]);
}

#[test]
fn a_rule_without_conditions_fits_every_change_and_an_empty_contract_asks_for_nothing() {
    let contract = Contract::parse(r#"{"rules": [{"commands": ["make all"]}]}"#).expect("a contract");
    assert_eq!(contract.commands(Role::Worker, &[]), ["make all"]);
    assert!(Contract::parse("{}").expect("a contract").commands(Role::Worker, &[]).is_empty());
}

#[rstest]
#[case::no_json("make test", "it is not the JSON of a contract: expected value at line 1")]
#[case::a_list("[]", "it is not the JSON of a contract: ")]
#[case::a_text(r#"{"commands": "make test"}"#, "invalid type: string \"make test\", expected a sequence")]
#[case::a_number(r#"{"commands": [7]}"#, "expected a string")]
#[case::a_pattern(
    r#"{"rules": [{"whenChangedAny": ["!src/**"]}]}"#,
    "pattern '!src/**' in whenChangedAny: a leading '!'"
)]
fn what_is_no_contract_says_what_to_change(#[case] text: &str, #[case] expected: &str) {
    let error = Contract::parse(text).expect_err("refused").to_string();
    assert!(error.contains(expected), "{error}");
}

#[test]
fn a_contract_is_bounded() {
    let many = format!(r#"["true"{}]"#, r#","true""#.repeat(MAX_ENTRIES));
    let long = format!(r#"["{}"]"#, "x".repeat(MAX_COMMAND_CHARS + 1));
    for (text, expected) in [
        (format!(r#"{{"commands": {many}}}"#), "commands has more than 50 entries"),
        (format!(r#"{{"byRole": {{"worker": {many}}}}}"#), "byRole has more than 50 entries"),
        (format!(r#"{{"rules": [{{"commands": {many}}}]}}"#), "commands of rules has more than 50"),
        (format!(r#"{{"rules": [{{"whenChangedAll": {many}}}]}}"#), "whenChangedAll has more than 50"),
        (format!(r#"{{"rules": [{{"whenChangedAll": {long}}}]}}"#), "longer than 512 characters"),
        (format!(r#"{{"rules": [{}]}}"#, ["{}"; MAX_ENTRIES + 1].join(",")), "rules has more than 50"),
        (format!(r#"{{"commands": {long}}}"#), "longer than 1024 characters"),
    ] {
        let error = Contract::parse(&text).expect_err("refused").to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn what_means_nothing_here_is_said() {
    let text = r#"{"commands": ["x"], "visualProbes": [], "byrole": {}, "byRole": {"judge": ["y"]}}"#;
    let contract = Contract::parse(text).expect("a contract");
    let remarks = contract.remarks().join("\n");
    for expected in ["visualProbes are not taken", "key byrole is not known", "byRole.judge is not known"] {
        assert!(remarks.contains(expected), "{remarks}");
    }
    assert_eq!(contract.commands(Role::Judge, &[]), ["x"]);
}

#[test]
fn only_what_can_run_and_is_not_there_yet_is_taken_up_to_the_limit() {
    let explicit = steps(&list(&["make  lint", "cd sub && make unit"]), "/repo");
    let wanted = list(&[
        "make lint",
        "make unit",
        "cd sub && make unit && make docs",
        "cat a | sort",
        "s\"ud\"o make",
        "make docs",
        "make docs",
        "make nothing",
        "cd .. && true",
        "false",
    ]);
    let makefile = Makefile::parse("lint unit docs:\n");
    let plan = plan(&wanted, &explicit, Some(&makefile), "/repo", 4);
    let taken: Vec<(&str, &str)> =
        plan.steps.iter().map(|step| (step.command.as_str(), step.cwd.as_str())).collect();
    // A26: the first one runs in the root, although the Task's own have gone to `sub`; then `cd` holds.
    assert_eq!(
        taken,
        [
            ("make unit", "/repo"),
            ("make docs", "/repo/sub"),
            ("make nothing", "/repo/sub"),
            ("true", "/repo"),
        ]
    );
    let left: Vec<String> = plan.left_out.iter().map(|(command, why)| format!("{command}: {why}")).collect();
    let expected = [
        "make lint: it is among the commands already",
        "make unit: it is among the commands already",
        "cat a | sort: unsupported command format: shell operators such as '|' are not allowed",
        "s\"ud\"o make: denied command, it matches 'sudo'",
        "make docs: it is among the commands already",
        "make docs: it is among the commands already",
        "false: there are 4 automatic commands already (maxAutomaticCommands)",
    ];
    assert_eq!(left, expected);
}

#[test]
fn a_target_that_the_makefile_lacks_is_left_out() {
    let makefile = Makefile::parse("test:\n");
    let wanted = list(&["make docs", "make test"]);
    let taken = plan(&wanted, &[], Some(&makefile), "/repo", 4);
    assert_eq!(taken.steps.len(), 1);
    assert_eq!(taken.left_out, [("make docs".to_string(), Why::NoTarget("docs".into()))]);
    assert_eq!(plan(&wanted, &[], None, "/repo", 4).steps.len(), 2, "without a makefile nothing is known");
}
