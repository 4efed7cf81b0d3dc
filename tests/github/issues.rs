//! Issues that become Tasks: read in `checkout`, handed over and marked in `publish`.

use std::fs;
use std::sync::{Arc, Mutex};

use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use opentiger::crd::Purpose;
use opentiger::crd::planner::{HandedOver, IssueImport, PlanHandOver, PlanTarget};
use opentiger::crd::pool::Role;
use opentiger::crd::task::IssueRef;
use opentiger::crd::wire::{ContainerResult, Outcome};
use opentiger::plan::planner::issue::task_name;
use opentiger::runner::api::Api;
use opentiger::runner::exchange;
use opentiger::runner::planning::{PlanFacts, SKIP_FILE, publish};

use crate::fake::{FakeIssue, Fault};
use crate::git_support::Pod;
use crate::{TOKEN, World, brief, holding_the_token, infra};

type Sent = Arc<Mutex<Vec<PlanHandOver>>>;

/// A Plan Run's Pod in mode GitHub, and a stand-in for the API that takes every plan.
struct Importer {
    world: World,
    pod: Pod,
    api: Api,
    sent: Sent,
}

async fn take(State(sent): State<Sent>, Json(plan): Json<PlanHandOver>) -> Json<HandedOver> {
    let tasks = plan.tasks.iter().map(|task| task.name.clone()).collect();
    sent.lock().unwrap().push(plan);
    Json(HandedOver { tasks, earlier: false, warnings: Vec::new() })
}

impl Importer {
    async fn new(issues: Vec<FakeIssue>) -> Self {
        let world = World::start().await;
        world.github.world().issues = issues;
        let mut pod = world.pod();
        pod.inputs.spec.purpose = Purpose::Plan;
        pod.inputs.spec.inputs.goal = "# Goal\n\nShip it\n".into();
        let import =
            IssueImport { labels: vec!["opentiger".into(), "go on".into()], limit: 20, default_role: None };
        pod.inputs.spec.plan = Some(PlanTarget { issues: Some(import), ..PlanTarget::default() });
        let sent = Sent::default();
        let router = Router::new().route("/runs/{id}/tasks", post(take)).with_state(sent.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let token = pod.dir.path().join("token");
        fs::write(&token, "the-token\n").unwrap();
        Self { world, pod, api: Api { url: Some(url), token }, sent }
    }

    fn import(&mut self) -> &mut IssueImport {
        self.pod.inputs.spec.plan.as_mut().unwrap().issues.as_mut().unwrap()
    }

    async fn published(&self) -> ContainerResult {
        let exchange = self.pod.paths.exchange.clone();
        exchange::write_result(&exchange, &ContainerResult::new(Outcome::Noop)).unwrap();
        let agent = tokio::task::spawn_blocking(move || exchange::open_as_agent(&exchange).map(drop));
        let result = publish::run(&self.pod.inputs, &self.pod.paths, &self.api, &self.pod.stop).await;
        agent.await.unwrap().unwrap();
        result
    }

    fn facts(&self) -> PlanFacts {
        PlanFacts::load(&self.pod.paths).unwrap()
    }

    fn numbers(&self) -> Vec<i64> {
        let of = |context: Option<opentiger::crd::task::TaskContext>| context.unwrap().issue.unwrap().number;
        self.facts().issues.into_iter().map(|task| of(task.spec.context)).collect()
    }
}

fn issue(number: i64, body: &str) -> FakeIssue {
    let labels = ["OpenTiger", "go on", "role:worker"].map(String::from).to_vec();
    FakeIssue {
        number,
        title: format!("Title {number}"),
        body: Some(body.into()),
        labels,
        comments: Vec::new(),
    }
}

#[tokio::test]
async fn issues_become_tasks_before_a_plan_is_made_and_are_marked_and_linked_back_once_c103() {
    let importer =
        Importer::new(vec![issue(3, "Depends on #5"), issue(5, "## Allowed Paths\n- src/\n")]).await;
    importer.pod.checked_out().await;
    assert!(importer.pod.paths.exchange.join(SKIP_FILE).exists(), "the agent has nothing to do");
    let result = importer.published().await;
    assert_eq!(result.outcome, Outcome::Success, "{}", result.summary);
    assert!(result.summary.starts_with("planned 2 Tasks: issue-5-"), "{}", result.summary);
    let url = &importer.pod.inputs.spec.repository.url;
    {
        let sent = importer.sent.lock().unwrap();
        let [plan] = &sent[..] else { panic!("one hand-over") };
        assert_eq!(plan.tasks[1].spec.dependencies, [task_name(url, 5)]);
        assert_eq!(
            (plan.tasks[0].name.as_str(), plan.tasks[0].spec.role),
            (&*task_name(url, 5), Role::Worker)
        );
    }
    {
        let fake = importer.world.github.world();
        for issue in &fake.issues {
            assert!(issue.labels.iter().any(|label| label == "opentiger-imported"), "{issue:?}");
            let [(_, comment)] = &issue.comments[..] else { panic!("one comment: {issue:?}") };
            assert!(comment.contains(&format!("`team/{}`", task_name(url, issue.number))), "{comment}");
        }
    }
    assert_eq!(holding_the_token(&importer.pod.paths.exchange), Vec::<std::path::PathBuf>::new());
    // The next round sees none of them, and plans the requirement.
    importer.pod.checked_out().await;
    let facts = importer.facts();
    assert_eq!((facts.issues.len(), facts.skip, facts.requirement.contains("Ship it")), (0, false, true));
}

#[tokio::test]
async fn only_open_issues_with_all_labels_a_role_and_no_pull_request_become_tasks_a65() {
    let mut other = issue(1, "");
    other.labels.remove(1);
    let mut without_role = issue(2, "whose is it?");
    without_role.labels.truncate(2);
    let importer = Importer::new(vec![other, without_role, issue(3, ""), issue(4, "")]).await;
    {
        let mut fake = importer.world.github.world();
        let number = fake.add("feature", "main", "open");
        fake.pulls[0].body = "Fixes #3".into();
        fake.pulls[0].labels = ["opentiger", "go on", "worker"].map(String::from).to_vec();
        assert_ne!(number, 4);
    }
    importer.pod.checked_out().await;
    assert_eq!(importer.numbers(), [4]);
    let told = importer.facts().passed_over.join("\n");
    assert!(
        told.contains("issue #2: names no role") && told.contains("issue #3: an open pull request"),
        "{told}"
    );
}

#[tokio::test]
async fn many_issues_are_read_page_by_page_and_taken_in_portions() {
    // More than a page that are Tasks already, then new ones.
    let done = (1..=130).map(|number| {
        let mut issue = issue(number, "");
        issue.labels.push("opentiger-imported".into());
        issue
    });
    let mut importer = Importer::new(done.chain((131..=140).map(|number| issue(number, ""))).collect()).await;
    importer.import().limit = 3;
    importer.pod.checked_out().await;
    assert_eq!(importer.numbers(), [131, 132, 133]);
    assert_eq!(importer.world.github.world().count("GET /repos/team/app/issues"), 2);
}

#[tokio::test]
async fn without_a_requirement_and_without_issues_there_is_nothing_to_do_and_no_model_is_asked() {
    let mut importer = Importer::new(Vec::new()).await;
    importer.pod.inputs.spec.plan.as_mut().unwrap().issues_only = true;
    importer.pod.inputs.spec.inputs.goal = "Make Tasks of the open issues.".into();
    importer.pod.checked_out().await;
    assert!(importer.facts().skip && importer.facts().requirement.is_empty());
    let result = importer.published().await;
    assert_eq!(result.outcome, Outcome::Noop);
    assert!(importer.sent.lock().unwrap().is_empty());
}

#[tokio::test]
async fn an_issue_that_cannot_be_marked_has_its_task_and_is_told_a66() {
    let importer = Importer::new(vec![issue(3, "")]).await;
    importer.pod.checked_out().await;
    let refused =
        Fault::new("POST", "/issues/3/comments", 403).saying("Resource not accessible by integration");
    importer.world.github.world().faults.push(refused);
    let result = importer.published().await;
    assert_eq!((result.outcome, importer.sent.lock().unwrap().len()), (Outcome::Success, 1));
    assert!(result.summary.contains("issue #3 is not marked: "), "{}", result.summary);
    assert!(!result.summary.contains(TOKEN));
}

#[tokio::test]
async fn a_forge_that_does_not_answer_is_no_empty_backlog_c102() {
    let importer = Importer::new(vec![issue(3, "")]).await;
    for _ in 0..3 {
        importer.world.github.world().faults.push(Fault::new("GET", "/app/issues", 502));
    }
    let result = importer.pod.checkout().await;
    assert_eq!(brief(&result), infra("forge_unreachable"), "{}", result.summary);
}

#[tokio::test]
async fn the_pull_request_of_such_a_task_closes_its_issue_and_no_other() {
    let world = World::start().await;
    let mut pod = world.pod();
    let issue = IssueRef { number: 12, ..IssueRef::default() };
    pod.inputs.spec.inputs.context.issue = Some(issue);
    pod.checked_out().await;
    pod.write("src/a.rs", "changed\n");
    pod.published().await;
    let body = world.github.world().pulls[0].body.clone();
    assert!(body.contains("x is there. Closes issue #1\n\nCloses #12\n"), "{body}");
}
