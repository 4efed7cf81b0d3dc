//! Which issues become which Tasks.

use super::*;
use crate::crd::task::RiskLevel;

const URL: &str = "https://git.example/team/app.git";

fn issue(number: i64, body: &str) -> Issue {
    Issue {
        number,
        title: format!("Title {number}"),
        body: body.into(),
        labels: vec!["opentiger".into(), "role:worker".into()],
        url: format!("https://git.example/team/app/issues/{number}"),
    }
}

fn import() -> IssueImport {
    IssueImport { labels: vec!["opentiger".into()], limit: 20, default_role: None }
}

fn chosen(issues: &[Issue]) -> Chosen {
    choose(issues, &import(), URL, "main")
}

fn numbers(chosen: &Chosen) -> Vec<i64> {
    let of = |task: &NamedTask| task.spec.context.clone()?.issue.map(|issue| issue.number);
    chosen.tasks.iter().filter_map(of).collect()
}

#[test]
fn an_issue_becomes_a_task_that_says_where_it_comes_from() {
    let mut one = issue(7, "It breaks.\n\n## Allowed Paths\n- src/\n- README.md\n");
    one.labels.extend(["bug".into(), "p1".into()]);
    let chosen = chosen(&[one.clone()]);
    let [task] = &chosen.tasks[..] else { panic!("one Task: {chosen:?}") };
    let spec = &task.spec;
    assert_eq!(spec.goal, "Resolve issue #7: Title 7");
    assert_eq!((spec.role, spec.risk_level, spec.priority), (Role::Worker, RiskLevel::Medium, 90));
    assert_eq!(spec.allowed_paths, ["src", "src/**", "README.md"]);
    let context = spec.context.clone().unwrap();
    assert_eq!(
        (context.specs, context.notes),
        (one.body, "Labels: opentiger, role:worker, bug, p1".to_owned())
    );
    assert_eq!(context.issue, Some(IssueRef { number: 7, title: "Title 7".into(), url: one.url }));
}

#[test]
fn the_name_is_that_of_repository_and_number_whatever_the_title_is() {
    let name = task_name(URL, 7);
    assert_eq!(name, task_name("https://git.example/team/app/", 7));
    assert_ne!(name, task_name("https://git.example/team/other", 7));
    assert!(is_name_of(7, &name) && is_name(&name) && name.len() <= super::super::MAX_NAME, "{name}");
    for other in [
        "issue-7",
        "issue-7-abcde",
        "issue-7-abcdefg",
        "issue-7-ABCDEg",
        "issue-x-abcdef",
        "a-issue-7-abcdef",
    ] {
        assert!(!is_name(other), "{other}");
    }
    assert!(!is_name_of(70, &name) && !is_name_of(7, &task_name(URL, 70)));
}

#[test]
fn an_issue_without_a_role_becomes_no_task_but_with_a_default_one_a65() {
    let mut one = issue(7, "It breaks.");
    one.labels.clear();
    let why = refusal(&one, &[], &import()).expect("a refusal");
    assert!(why.starts_with("issue #7: names no role: add the label role:worker"), "{why}");
    assert!(chosen(&[one.clone()]).tasks.is_empty());
    let import = IssueImport { default_role: Some(Role::Tester), ..import() };
    assert_eq!(refusal(&one, &[], &import), None);
    assert_eq!(choose(&[one], &import, URL, "main").tasks[0].spec.role, Role::Tester);
}

#[test]
fn an_issue_that_an_open_pull_request_is_about_is_left_alone() {
    assert!(refusal(&issue(7, ""), &[3, 7], &import()).unwrap().contains("an open pull request"));
    assert_eq!(refusal(&issue(7, ""), &[3, 70], &import()), None);
}

#[test]
fn paths_that_cannot_be_used_are_never_taken_for_all() {
    let outside = issue(7, "## Allowed Paths\n- /etc\n- ../x\n");
    assert!(refusal(&outside, &[], &import()).unwrap().contains("allowed paths"));
    let partly = chosen(&[issue(8, "## Allowed Paths\n- /etc\n- src/\n")]);
    assert_eq!(partly.tasks[0].spec.allowed_paths, ["src", "src/**"]);
    assert_eq!(
        text::allowed_paths("Allowed Paths:\n- src/\n- a.rs\nand more", &[]),
        ["src", "src/**", "a.rs"]
    );
}

#[test]
fn an_issue_waits_for_those_it_depends_on_whatever_their_order_is() {
    let issues = [issue(3, "Depends on #5 and #9"), issue(4, ""), issue(5, "blocked by #4")];
    let chosen = chosen(&issues);
    assert_eq!(numbers(&chosen), [4, 5, 3]);
    let names = |numbers: &[i64]| numbers.iter().map(|number| task_name(URL, *number)).collect::<Vec<_>>();
    assert_eq!(chosen.tasks[1].spec.dependencies, names(&[4]));
    // Whether there is a Task of #9 is known where the Tasks are.
    assert_eq!(chosen.tasks[2].spec.dependencies, names(&[5, 9]));
}

#[test]
fn issues_that_wait_for_each_other_or_themselves_do_not_wait_for_ever() {
    let chosen = chosen(&[issue(3, "depends on #5"), issue(5, "depends on #3, #5"), issue(6, "requires #6")]);
    assert_eq!(numbers(&chosen), [6, 3, 5]);
    assert!(chosen.tasks[1].spec.dependencies.is_empty());
    assert_eq!(chosen.tasks[2].spec.dependencies, [task_name(URL, 3)]);
    assert!(chosen.tasks[0].spec.dependencies.is_empty());
    assert!(chosen.warnings[0].starts_with("issue #3: "), "{:?}", chosen.warnings);
}

#[test]
fn issues_become_tasks_in_portions_that_can_be_handed_over() {
    let import = IssueImport { limit: 2, ..import() };
    assert!(!is_enough(&[issue(1, "")], &import) && is_enough(&[issue(1, ""), issue(2, "")], &import));
    assert!(is_enough(&[issue(1, &"x".repeat(MAX_BYTES))], &import));
    let long = issue(1, &"ä".repeat(20_000));
    let spec = &chosen(&[long]).tasks[0].spec;
    assert_eq!(spec.context.as_ref().unwrap().specs.chars().count(), output::MAX_TEXT);
}
