//! Plans end to end, and what always holds of them.

use proptest::prelude::*;

use super::*;

fn requirement() -> Requirement {
    Requirement::parse("# Goal\n\nShip\n\n## Allowed Paths\n\n- `src/**`\n")
}

fn inputs(requirement: &Requirement) -> PlanInputs<'_> {
    PlanInputs { signature: "0123456789abcdef", requirement, repository_is_empty: false, base_branch: None }
}

fn made(output: &str) -> Plan {
    plan(output, &inputs(&requirement())).expect("a plan")
}

#[test]
fn an_answer_becomes_tasks_that_depend_on_each_other_by_name() {
    let plan = made(
        r#"Here it is:
        ```json
        {"tasks": [
          {"title": "Add login", "goal": "One can log in", "allowedPaths": ["src/auth/**"],
           "commands": ["cargo test", "a | b"], "riskLevel": "high", "timeboxMinutes": 45},
          {"title": "Cover login with tests", "goal": "Login is tested", "dependsOn": [0, 1, 7], "role": "tester"}
        ], "warnings": ["short of details"]}
        ```"#,
    );
    let [login, tests] = plan.tasks.as_slice() else { panic!("two tasks: {plan:?}") };
    assert_eq!(login.name, "01234567-1-add-login");
    assert_eq!(login.spec.priority, 20);
    assert_eq!(login.spec.risk_level, RiskLevel::High);
    assert_eq!(login.spec.timebox, GoDuration::from_secs(45 * 60));
    assert_eq!(login.spec.commands, ["cargo test"]);
    assert!(login.spec.allowed_paths.iter().any(|path| path == "Cargo.toml"));
    assert_eq!(tests.spec.role, Role::Tester);
    assert_eq!(tests.spec.dependencies, ["01234567-1-add-login"]);
    // It named no paths, so it gets those of the requirement.
    assert_eq!(tests.spec.allowed_paths.first().map(String::as_str), Some("src/**"));
    assert_eq!(plan.warnings.first().map(String::as_str), Some("short of details"));
    assert!(plan.warnings.iter().any(|warning| warning.contains("named no earlier task")));
}

#[test]
fn an_answer_without_a_usable_task_ends_with_its_reason() {
    let requirement = requirement();
    let code = |text: &str| plan(text, &inputs(&requirement)).map_err(|error| error.code()).err();
    assert_eq!(code("I could not decide."), Some("plan_unreadable"));
    assert_eq!(code(r#"{"tasks": "none"}"#), Some("plan_unreadable"));
    assert_eq!(code(r#"{"tasks": []}"#), Some("plan_empty"));
    assert_eq!(code(r#"{"tasks": [1, {"title": "  "}]}"#), Some("plan_empty"));
    assert_eq!(code(&" ".repeat(MAX_OUTPUT_BYTES + 1)), Some("plan_unreadable"));
}

#[test]
fn what_is_left_out_moves_the_indexes_of_the_rest() {
    let plan = made(
        r#"{"tasks": [{"title": "a"}, {"title": ""}, {"title": "b", "dependsOn": [0, 1]}, {"title": "c", "dependsOn": [2]}]}"#,
    );
    let names: Vec<&str> = plan.tasks.iter().map(|task| task.name.as_str()).collect();
    assert_eq!(names, ["01234567-1-a", "01234567-2-b", "01234567-3-c"]);
    assert_eq!(
        plan.tasks.get(1).map(|task| &task.spec.dependencies[..]),
        Some(&["01234567-1-a".to_owned()][..])
    );
    assert_eq!(
        plan.tasks.get(2).map(|task| &task.spec.dependencies[..]),
        Some(&["01234567-2-b".to_owned()][..])
    );
}

/// Names of what each Task of a plan depends on, by their place in it.
fn dependencies(plan: &Plan) -> Vec<Vec<usize>> {
    let place = |name: &String| plan.tasks.iter().position(|task| task.name == *name).expect("of the plan");
    plan.tasks.iter().map(|task| task.spec.dependencies.iter().map(place).collect()).collect()
}

#[test]
fn a_task_depends_on_earlier_ones_of_its_plan_only_a63() {
    let plan = made(
        r#"{"tasks": [{"title": "a"}, {"title": "b"}, {"title": "c", "dependsOn": [0, 5, 2]}, {"title": "d"}]}"#,
    );
    assert_eq!(dependencies(&plan), [vec![], vec![], vec![0], vec![]]);
    assert!(plan.warnings.iter().any(|warning| warning.contains("named no earlier task")), "{plan:?}");
}

#[test]
fn a_dependency_that_another_one_implies_is_left_out_a64() {
    let plan = made(
        r#"{"tasks": [{"title": "a"}, {"title": "b", "dependsOn": [0]}, {"title": "c", "dependsOn": [0, 1]}]}"#,
    );
    assert_eq!(dependencies(&plan), [vec![], vec![0], vec![1]]);
}

#[test]
fn an_empty_repository_gets_a_foundation_that_the_others_wait_for() {
    let requirement = requirement();
    let inputs = PlanInputs { repository_is_empty: true, ..inputs(&requirement) };
    let made = plan(r#"{"tasks": [{"title": "Add login", "goal": "g"}]}"#, &inputs).expect("a plan");
    let [first, second] = made.tasks.as_slice() else { panic!("two tasks: {made:?}") };
    assert_eq!((first.spec.priority, first.spec.timebox.clone()), (100, GoDuration::from_secs(5400)));
    assert_eq!(second.spec.dependencies, std::slice::from_ref(&first.name));
    assert!(is_untouched(["docs/requirement.md", "docs/.gitkeep"]) && !is_untouched(["README.md"]));
}

#[test]
fn a_planned_task_waits_for_tasks_in_progress_on_the_same_files_but_not_for_lock_files_q24() {
    let mut task = made(r#"{"tasks": [{"title": "a", "allowedPaths": ["src/a.rs"]}]}"#).tasks.remove(0);
    let active = |name: &str, path: &str| Active {
        name: name.to_owned(),
        area: None,
        paths: vec![path.to_owned(), "bun.lock".to_owned()],
    };
    let others = [active("same", "src/**"), active("other", "docs/x.md"), active(&task.name, "src/**")];
    assert_eq!(wait_for(&mut task, &others), 1);
    assert_eq!(task.spec.dependencies, ["same"]);
    assert_eq!(wait_for(&mut task, &others), 0, "a second time adds nothing");
}

#[test]
fn a_name_keeps_to_its_length_and_to_what_kubernetes_takes() {
    assert_eq!(task_name("abcdef0123", 0, "Füge Login hinzu!"), "abcdef01-1-f-ge-login-hinzu");
    assert_eq!(task_name("abcdef0123", 9, "ログイン"), "abcdef01-10");
    let round = |round| plan_task_name("hash", "https://git.example/a", "main", round);
    assert_eq!(round(1), round(1));
    assert_ne!(round(1), round(2));
    assert_eq!(round(1).len(), 13);
}

fn is_task_name(name: &str) -> bool {
    let inner = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
    inner && (1..=MAX_NAME).contains(&name.len()) && !name.starts_with('-') && !name.ends_with('-')
}

fn any_task() -> impl Strategy<Value = serde_json::Value> {
    let indexes = prop::collection::vec((-3_i32..15).prop_map(|n| f64::from(n) / 2.0), 0..6);
    (
        prop_oneof![9 => "\\PC{0,30}", 1 => "[a-z ]{190,230}"],
        "\\PC{0,20}",
        indexes,
        -5e9_f64..5e9,
        prop::collection::vec("[a-z./*]{0,12}", 0..4),
    )
        .prop_map(|(title, goal, depends_on, number, paths)| {
            serde_json::json!({
                "title": title, "goal": goal, "dependsOn": depends_on, "priority": number,
                "timeboxMinutes": number, "allowedPaths": paths, "touches": paths, "commands": paths,
            })
        })
}

proptest! {
    // Large plans are slow to make up.
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]
    #[test]
    fn every_plan_is_within_the_bounds_of_the_task_kind_and_without_cycles(
        tasks in prop::collection::vec(any_task(), 0..140),
        repository_is_empty: bool,
    ) {
        let requirement = requirement();
        let inputs = PlanInputs { repository_is_empty, ..inputs(&requirement) };
        let text = serde_json::json!({ "tasks": tasks }).to_string();
        let first = plan(&text, &inputs);
        prop_assert_eq!(&first, &plan(&text, &inputs), "the same answer, the same names");
        let Ok(made) = first else { return Ok(()) };
        let mut earlier: Vec<&str> = Vec::new();
        prop_assert!(made.tasks.len() <= MAX_TASKS + 1);
        for task in &made.tasks {
            let spec = &task.spec;
            prop_assert!(is_task_name(&task.name), "{}", task.name);
            prop_assert!(!earlier.contains(&task.name.as_str()), "{} twice", task.name);
            // Only earlier ones: so there is no cycle (invariant S11).
            prop_assert!(spec.dependencies.iter().all(|name| earlier.contains(&name.as_str())));
            prop_assert!(spec.dependencies.len() <= MAX_DEPENDENCIES);
            prop_assert!(!spec.title.trim().is_empty() && spec.title.chars().count() <= 200);
            prop_assert!(!spec.goal.trim().is_empty() && spec.goal.chars().count() <= 16_384);
            prop_assert!((-1000..=1000).contains(&spec.priority));
            let minutes = spec.timebox.parse().map(|timebox| timebox.as_secs() / 60);
            prop_assert!(minutes.is_some_and(|minutes| (1..=1440).contains(&minutes)), "{:?}", spec.timebox);
            prop_assert!(!spec.allowed_paths.is_empty() && spec.allowed_paths.len() <= 200);
            prop_assert!(spec.allowed_paths.iter().chain(&spec.touches).all(|path| paths::is_relative(path)));
            earlier.push(&task.name);
        }
    }

    #[test]
    fn an_edge_is_left_out_only_when_a_longer_way_implies_it(lists in prop::collection::vec(
        prop::collection::vec((0_u8..12).prop_map(f64::from), 0..6), 0..12,
    )) {
        let (clean, _) = dependencies::sanitise(&lists);
        let (reduced, removed) = dependencies::reduce(&clean);
        let reach = |graph: &[Vec<usize>]| {
            let mut all: Vec<std::collections::BTreeSet<usize>> = Vec::new();
            for list in graph {
                let further = list.iter().filter_map(|i| all.get(*i)).flatten().copied();
                let here = list.iter().copied().chain(further).collect();
                all.push(here);
            }
            all
        };
        prop_assert_eq!(reach(&clean), reach(&reduced));
        let count = |graph: &[Vec<usize>]| graph.iter().map(Vec::len).sum::<usize>();
        prop_assert_eq!(count(&clean) - count(&reduced), removed);
        prop_assert_eq!(dependencies::reduce(&reduced).1, 0, "once is enough");
    }
}
