//! Automatic commands as real processes: those of the repository's contract.

use opentiger::crd::run::CommandOutcome::{Failed, Passed, PassedOver};
use opentiger::crd::run::{CommandOutcome, VerificationReport};
use opentiger::crd::verification::AutomaticCommands;

use crate::pod::{Ended, Pod};

/// A repository with this contract, and an executor that runs this script.
fn contracted(contract: &str, script: &str) -> Pod {
    let pod = Pod::shell(script);
    pod.write(".opentiger/verify.contract.json", contract);
    pod.git(&["add", "-A"]);
    pod.git(&["commit", "-q", "-m", "contract"]);
    pod
}

fn report(ended: &Ended) -> VerificationReport {
    ended.result().verification.clone().expect("a report")
}

/// Each command with its outcome, and whether it is automatic.
fn ran(ended: &Ended) -> Vec<(String, CommandOutcome, bool)> {
    report(ended).commands.into_iter().map(|c| (c.command, c.outcome, c.automatic)).collect()
}

fn row(command: &str, outcome: CommandOutcome, automatic: bool) -> (String, CommandOutcome, bool) {
    (command.into(), outcome, automatic)
}

#[test]
fn a_task_without_commands_is_verified_by_the_contract() {
    let contract = r#"{
        "commands": ["test -f new.rs"],
        "byRole": {"worker": ["grep -q one src/a.txt"], "tester": ["false"]},
        "rules": [
            {"whenChangedAny": ["*.rs"], "commands": ["grep -q good new.rs"]},
            {"whenChangedAny": ["*.py"], "commands": ["false"]}
        ]
    }"#;
    let good = contracted(contract, "echo good > new.rs").run();
    assert_eq!(good.brief(), "Success - 0", "{}", good.stdout);
    let all = ["test -f new.rs", "grep -q one src/a.txt", "grep -q good new.rs"];
    assert_eq!(ran(&good), all.map(|command| row(command, Passed, true)));
    assert!(good.stdout.contains("verification 1/3 (automatic): test -f new.rs"), "{}", good.stdout);

    let bad = contracted(contract, "echo bad > new.rs").run();
    assert_eq!(bad.brief(), "NeedsRework verification_command_failed 20");
    let summary = &bad.result().summary;
    assert!(summary.starts_with("verification failed at grep -q good new.rs [auto]: "), "{summary}");
    let detail = bad.result().failure.clone().expect("detail");
    assert_eq!((detail.command.as_str(), detail.source.as_str()), ("grep -q good new.rs", "auto"));
    assert_eq!(ran(&bad).last(), Some(&row("grep -q good new.rs", Failed, true)));
}

#[test]
fn an_agent_cannot_change_what_it_is_checked_by() {
    let script = "echo '{}' > .opentiger/verify.contract.json; printf 'other:\\n' > Makefile; touch new.rs";
    let pod = contracted(r#"{"commands": ["make --version", "false"]}"#, script);
    let ended = pod.run();
    assert_eq!(ended.brief(), "NeedsRework verification_command_failed 20", "{}", ended.stdout);
    let gone = contracted(r#"{"commands": ["false"]}"#, "rm -r .opentiger; touch new.rs").run();
    assert_eq!(gone.brief(), "NeedsRework verification_command_failed 20", "{}", gone.stdout);
    let made = "mkdir .opentiger; echo '{\"commands\": [\"false\"]}' > .opentiger/verify.contract.json";
    assert_eq!(Pod::shell(made).run().brief(), "Success - 0", "a new contract counts from the next Run on");
}

#[test]
fn an_automatic_command_runs_in_the_root_after_the_task_s_own_a26() {
    let contract = r#"{"commands": ["test -d src", "cd src && test -f a.txt"]}"#;
    let ended = contracted(contract, "touch new.rs").commands(&["cd src", "test -f a.txt"]).run();
    assert_eq!(ended.brief(), "Success - 0", "{}", ended.stdout);
    // The last one is the Task's own in the same directory: it runs once.
    assert_eq!(ran(&ended), [row("test -f a.txt", Passed, false), row("test -d src", Passed, true)]);
    assert!(ended.stdout.contains("left out: test -f a.txt: it is among the commands"), "{}", ended.stdout);
}

#[test]
fn the_last_automatic_command_may_fail_after_one_of_the_task_s_own_a34() {
    let contract = r#"{"commands": ["true", "false"]}"#;
    let lenient = contracted(contract, "touch new.rs").commands(&["test -f new.rs"]).run();
    assert_eq!(lenient.brief(), "Success - 0", "{}", lenient.stdout);
    let expected =
        [row("test -f new.rs", Passed, false), row("true", Passed, true), row("false", PassedOver, true)];
    assert_eq!(ran(&lenient), expected);
    let mut strict = contracted(contract, "touch new.rs").commands(&["test -f new.rs"]);
    strict.inputs.spec.verification.automatic_may_fail = false;
    assert_eq!(strict.run().brief(), "NeedsRework verification_command_failed 20");
    let alone = contracted(contract, "touch new.rs").run();
    assert_eq!(
        alone.brief(),
        "NeedsRework verification_command_failed 20",
        "another automatic one is not enough"
    );
}

#[test]
fn commands_that_cannot_run_verify_documents_only_a31_a32_a33() {
    let contract = r#"{"commands": ["sh no-script.sh", "sh no-script.sh again"]}"#;
    let change = |script: &str| {
        let pod = contracted(contract, script);
        pod.write("no-script.sh", "echo 'Missing script: x'; exit 1");
        pod.git(&["add", "-A"]);
        pod.git(&["commit", "-q", "-m", "script"]);
        pod.run()
    };
    let code = change("touch new.rs");
    assert_eq!(code.brief(), "NeedsRework verification_command_missing_script 20", "{}", code.stdout);
    let expected = [row("sh no-script.sh", PassedOver, true), row("sh no-script.sh again", Failed, true)];
    assert_eq!(ran(&code), expected);
    let documents = change("touch new.md");
    assert_eq!(documents.brief(), "Success - 0", "{}", documents.stdout);
    assert_eq!(ran(&documents).iter().filter(|(_, outcome, _)| *outcome == PassedOver).count(), 2);
}

#[test]
fn a_contract_that_is_not_understood_fails_nothing_and_is_told() {
    let ended = contracted(r#"{"commands": "false"}"#, "touch new.rs").commands(&["true"]).run();
    assert_eq!(ended.brief(), "Success - 0", "{}", ended.stdout);
    let note = report(&ended).note;
    assert!(
        note.starts_with(".opentiger/verify.contract.json adds no commands: it is not the JSON"),
        "{note}"
    );
    assert!(ended.stdout.contains(&note), "{}", ended.stdout);
    // The same when nothing else was verified, and when the Run fails before.
    let alone = contracted("{", "touch new.rs").run();
    assert_eq!(alone.brief(), "Success - 0");
    assert!(report(&alone).note.contains("adds no commands"), "{}", report(&alone).note);
}

#[test]
fn without_automatic_commands_there_are_none() {
    let mut off = contracted(r#"{"commands": ["false"]}"#, "touch new.rs");
    off.inputs.spec.verification.automatic = AutomaticCommands::Off;
    assert_eq!(off.run().brief(), "Success - 0");
    let mut one = contracted(r#"{"commands": ["true", "false"]}"#, "touch new.rs");
    one.inputs.spec.verification.max_automatic_commands = 1;
    let ended = one.run();
    assert_eq!((ended.brief().as_str(), ran(&ended)), ("Success - 0", vec![row("true", Passed, true)]));
    assert!(
        ended.stdout.contains("left out: false: there are 1 automatic commands already"),
        "{}",
        ended.stdout
    );
}
