//! What holds for any text that is given as a command: nothing panics, and what is not understood is
//! refused, never run.

use proptest::prelude::*;

use super::*;
use crate::crd::run::CommandSource;

const FRAGMENTS: [&str; 30] = [
    "&&",
    "||",
    "|",
    ";",
    "&",
    "<",
    ">",
    "`",
    "$(",
    "'",
    "\"",
    "\\",
    "cd ",
    "cd ..",
    "cd /",
    "/repo",
    "/etc",
    "A=1 ",
    "make test",
    " ",
    "\n",
    "\t",
    "sudo",
    "=",
    "ä",
    "\0",
    "source .env",
    "()",
    "*",
    "../",
];

fn texts() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        4 => prop::sample::select(&FRAGMENTS[..]).prop_map(String::from),
        1 => any::<String>(),
        1 => "[a-z ]{1,6}",
    ];
    prop::collection::vec(part, 0..14).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_step_runs_one_program_inside_the_repository_or_is_refused(
        commands in prop::collection::vec(texts(), 0..4)
    ) {
        for step in steps(&commands, "/repo") {
            prop_assert!(step.cwd == "/repo" || step.cwd.starts_with("/repo/"), "{step:?}");
            prop_assert!(!step.cwd.split('/').any(|name| name == ".."), "{step:?}");
            let Ok(invocation) = &step.invocation else { continue };
            prop_assert!(!invocation.program.is_empty() && !invocation.is_builtin(), "{step:?}");
            let operator = OPERATORS.iter().find(|operator| step.command.contains(**operator));
            prop_assert_eq!(operator, None, "{:?}", step);
        }
    }

    #[test]
    fn what_a_contract_adds_can_run_inside_the_repository_and_is_new(
        wanted in prop::collection::vec(texts(), 0..6), own in prop::collection::vec(texts(), 0..3)
    ) {
        let own = steps(&own, "/repo");
        let plan = automatic::plan(&wanted, &own, None, "/repo", 1);
        prop_assert!(plan.steps.len() <= 1);
        for (index, step) in plan.steps.iter().enumerate() {
            prop_assert!(step.invocation.is_ok() && denied_step(step).is_none(), "{step:?}");
            prop_assert!(step.cwd == "/repo" || step.cwd.starts_with("/repo/"), "{step:?}");
            let others = own.iter().chain(plan.steps.iter().take(index));
            prop_assert!(!others.clone().any(|other| other == step), "{step:?}");
        }
        prop_assert_eq!(plan.steps.len() + plan.left_out.len(), steps(&wanted, "/repo").len());
    }

    #[test]
    fn no_text_is_a_contract_or_a_makefile_that_breaks_anything(text in texts(), command in texts()) {
        let _ = automatic::Contract::parse(&text).map_err(|error| error.to_string());
        let contract = format!(r#"{{"commands": [{command:?}], "rules": [{{"whenChangedAny": [{text:?}]}}]}}"#);
        let _ = automatic::Contract::parse(&contract).map(|read| read.commands(Default::default(), std::slice::from_ref(&command)));
        if let Ok(parsed) = parse(&command) {
            let _ = makefile::Makefile::parse(&text).lacks(&parsed);
        }
    }

    #[test]
    fn a_chain_falls_into_parts_that_hold_something(command in texts()) {
        let parts = expand(&command);
        prop_assert_eq!(parts.is_empty(), command.trim().is_empty());
        for part in parts {
            prop_assert!(!part.is_empty() && part.trim() == part, "{part:?}");
        }
    }

    #[test]
    fn any_pattern_may_forbid_and_its_own_text_always_does(command in texts(), pattern in texts()) {
        let said = format!("{command} {pattern}");
        prop_assert_eq!(denied(&said, &[&pattern]).is_some(), !pattern.trim().is_empty(), "{:?}", said);
        let checks = docser(&[command.clone(), "npm run check".into()]);
        prop_assert!(checks.iter().all(|check| *check == command || check == "npm run check"));
        prop_assert!(checks.contains(&"npm run check".to_string()));
    }

    #[test]
    fn the_failure_of_any_command_has_a_code(command in texts(), output in texts(), more in any::<bool>()) {
        let code = outcome::failure_code(&["true", &command], 1, &output);
        prop_assert!(!code.is_empty());
        let position = outcome::Position {
            more_follow: more,
            earlier_passed: false,
            own_suffices: false,
            documentation_only: false,
            no_change: false,
        };
        // An ordinary failure of the last command is never passed over.
        for source in [CommandSource::Explicit, CommandSource::Automatic] {
            if outcome::may_skip(source, &command, &output, position) {
                prop_assert!(more || code != "verification_command_failed", "{command:?} {output:?}");
            }
        }
    }
}
