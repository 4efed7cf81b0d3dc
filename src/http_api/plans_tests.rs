//! The hand-over of a plan against a Kubernetes in memory.

use std::sync::Mutex;

use futures::FutureExt;
use futures::future::BoxFuture;

use super::*;
use crate::crd::run::TaskRef;
use crate::crd::task::{IssueRef, TaskContext, TaskSpec, TaskStatus};
use crate::crd::{RunSpec, RunStatus, TaskPhase};

const SIGNATURE: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// Tasks and one Plan Run; a Task titled "refused" is refused.
#[derive(Default)]
struct Memory {
    run: Option<Run>,
    tasks: Mutex<Vec<Task>>,
}

impl Memory {
    /// Task `plan` with uid `uid-plan`, planning in Run `plan-r1`.
    fn planning() -> Self {
        let mut task = Task::new("plan", TaskSpec { role: Role::Planner, ..TaskSpec::default() });
        task.metadata.uid = Some("uid-plan".into());
        let status =
            TaskStatus { phase: TaskPhase::Running, current_run: "plan-r1".into(), ..TaskStatus::default() };
        task.status = Some(status);
        let task_ref = TaskRef { name: "plan".into(), uid: "uid-plan".into() };
        let spec = RunSpec { task_ref, purpose: Purpose::Plan, ..RunSpec::default() };
        Self { run: Some(Run::new("plan-r1", spec)), tasks: Mutex::new(vec![task]) }
    }

    fn names(&self) -> Vec<String> {
        let tasks = self.tasks.lock().unwrap();
        tasks
            .iter()
            .filter(|t| t.spec.role != Role::Planner)
            .filter_map(|t| t.metadata.name.clone())
            .collect()
    }

    fn find(&self, name: &str) -> Option<Task> {
        self.tasks.lock().unwrap().iter().find(|task| task.metadata.name.as_deref() == Some(name)).cloned()
    }
}

impl PlanStore for Memory {
    fn caller<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Option<Caller>, ApiError>> {
        let pod = token.strip_prefix("pod:").map(str::to_owned);
        async move { Ok(pod.map(|pod| Caller { namespace: "ns".into(), pod: Some(pod) })) }.boxed()
    }

    fn run<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Run>, ApiError>> {
        let run = self.run.clone().filter(|run| run.metadata.name.as_deref() == Some(name));
        async move { Ok(run) }.boxed()
    }

    fn task<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Task>, ApiError>> {
        async move { Ok(self.find(name)) }.boxed()
    }

    fn tasks(&self) -> BoxFuture<'_, Result<Vec<Task>, ApiError>> {
        async move { Ok(self.tasks.lock().unwrap().clone()) }.boxed()
    }

    fn try_create<'a>(&'a self, task: &'a Task) -> BoxFuture<'a, Result<(), ApiError>> {
        let refused = task.spec.title == "refused";
        async move { if refused { Err(ApiError::invalid("title", "is refused")) } else { Ok(()) } }.boxed()
    }

    fn create<'a>(&'a self, task: &'a Task) -> BoxFuture<'a, Result<Option<Task>, ApiError>> {
        async move {
            let existing = self.find(task.metadata.name.as_deref().unwrap_or_default());
            if existing.is_none() {
                self.tasks.lock().unwrap().push(task.clone());
            }
            Ok(existing)
        }
        .boxed()
    }
}

fn planned(number: usize, title: &str, on: &[&str]) -> PlanTask {
    let spec = TaskSpec {
        title: title.into(),
        goal: "g".into(),
        kind: "code".into(),
        allowed_paths: vec![format!("{title}/**")],
        dependencies: on.iter().map(|name| (*name).to_owned()).collect(),
        ..TaskSpec::default()
    };
    PlanTask { name: format!("01234567-{number}-{title}"), spec }
}

fn body(tasks: Vec<PlanTask>) -> Vec<u8> {
    serde_json::to_vec(&PlanHandOver { signature: SIGNATURE.into(), tasks }).unwrap()
}

fn two() -> Vec<u8> {
    body(vec![planned(1, "a", &[]), planned(2, "b", &["01234567-1-a"])])
}

async fn hand(store: &Memory, body: &[u8]) -> Result<HandedOver, String> {
    let done = async {
        authenticate(store, "pod:plan-r1", "ns", "plan-r1").await?;
        let parent = parent(store, "plan-r1").await?;
        take(store, &parent, &parse(body)?, &hash(body)).await
    };
    done.await.map_err(|error| format!("{error:?}"))
}

#[tokio::test]
async fn a_plan_becomes_tasks_with_their_lineage() {
    let store = Memory::planning();
    let done = hand(&store, &two()).await.unwrap();
    assert_eq!((done.tasks.len(), done.earlier), (2, false));
    let second = store.find("01234567-2-b").unwrap();
    assert_eq!(second.spec.dependencies, ["01234567-1-a"]);
    let labels = second.metadata.labels.unwrap();
    assert_eq!((labels[labels::CREATED_BY].as_str(), labels[labels::ORIGIN].as_str()), ("planner", "plan"));
    assert_eq!((labels[labels::PARENT].as_str(), labels[labels::PARENT_UID].as_str()), ("plan", "uid-plan"));
    assert_eq!(second.metadata.annotations.unwrap()[labels::PLAN_SIGNATURE], SIGNATURE);
}

#[tokio::test]
async fn the_same_plan_again_creates_only_what_is_missing() {
    let store = Memory::planning();
    hand(&store, &two()).await.unwrap();
    store.tasks.lock().unwrap().retain(|task| task.metadata.name.as_deref() != Some("01234567-2-b"));
    let again = hand(&store, &two()).await.unwrap();
    assert!(!again.earlier);
    assert_eq!(store.names(), ["01234567-1-a", "01234567-2-b"]);
}

#[tokio::test]
async fn another_plan_of_a_later_attempt_creates_nothing() {
    let store = Memory::planning();
    hand(&store, &two()).await.unwrap();
    let other = hand(&store, &body(vec![planned(1, "other", &[])])).await.unwrap();
    assert!(other.earlier);
    assert_eq!(other.tasks, ["01234567-1-a", "01234567-2-b"]);
    assert_eq!(store.names().len(), 2);
}

#[tokio::test]
async fn a_plan_that_is_refused_in_its_middle_leaves_nothing_behind() {
    let store = Memory::planning();
    let refused = hand(&store, &body(vec![planned(1, "a", &[]), planned(2, "refused", &[])])).await;
    assert!(refused.unwrap_err().contains("is refused"));
    assert!(store.names().is_empty());
}

#[tokio::test]
async fn a_name_that_somebody_else_has_is_a_conflict() {
    let store = Memory::planning();
    store.tasks.lock().unwrap().push(Task::new("01234567-1-a", TaskSpec::default()));
    assert!(hand(&store, &two()).await.unwrap_err().contains("name_taken"));
}

#[tokio::test]
async fn planned_tasks_wait_for_tasks_in_progress_on_the_same_paths() {
    let store = Memory::planning();
    let busy = TaskSpec { allowed_paths: vec!["a/x.rs".into()], ..TaskSpec::default() };
    store.tasks.lock().unwrap().push(Task::new("busy", busy));
    hand(&store, &two()).await.unwrap();
    assert_eq!(store.find("01234567-1-a").unwrap().spec.dependencies, ["busy"]);
    assert_eq!(store.find("01234567-2-b").unwrap().spec.dependencies, ["01234567-1-a"]);
}

#[tokio::test]
async fn only_the_pod_of_the_run_in_progress_may_hand_a_plan_over() {
    let store = Memory::planning();
    let refusal = async |token: &'static str, namespace: &'static str| {
        authenticate(&store, token, namespace, "plan-r1").await.map_err(|e| format!("{e:?}")).unwrap_err()
    };
    assert!(refusal("nobody", "ns").await.contains("unauthorized"));
    assert!(refusal("pod:plan-r2", "ns").await.contains("forbidden"));
    assert!(refusal("pod:plan-r1", "other").await.contains("forbidden"));

    let refused = async |change: fn(&mut Run, &mut Task)| {
        let mut store = Memory::planning();
        let (mut run, mut task) = (store.run.clone().unwrap(), store.find("plan").unwrap());
        change(&mut run, &mut task);
        store.run = Some(run);
        store.tasks = Mutex::new(vec![task]);
        hand(&store, &two()).await.unwrap_err().contains("not_planning")
    };
    assert!(refused(|run, _| run.spec.purpose = Purpose::Execute).await);
    let ended = |run: &mut Run, _: &mut Task| {
        run.status = Some(RunStatus { phase: RunPhase::Cancelled, ..RunStatus::default() });
    };
    assert!(refused(ended).await);
    // The Task has gone on to another Run, or is another one of the same name (H6).
    assert!(refused(|_, task| task.status.as_mut().unwrap().current_run = "plan-r2".into()).await);
    assert!(refused(|_, task| task.metadata.uid = Some("another".into())).await);
    assert!(refused(|_, task| task.status.as_mut().unwrap().phase = TaskPhase::Cancelled).await);
}

#[test]
fn a_body_that_is_no_plan_is_refused_with_its_reason() {
    let refusal = |body: &[u8]| format!("{:?}", parse(body).unwrap_err());
    assert!(refusal(b"{").contains("no plan"));
    assert!(refusal(&body(vec![])).contains("from 1 to"));
    assert!(refusal(&body(vec![planned(1, "b", &["01234567-2-b"])])).contains("earlier tasks"));
    assert!(refusal(&body(vec![planned(1, "a", &[]), planned(1, "a", &[])])).contains("twice"));
    let named = |name: &str| PlanTask { name: name.into(), ..planned(1, "a", &[]) };
    for name in
        ["other", "01234567-x", "01234567-1-", "01234567-1-A", &format!("01234567-1-{}", "x".repeat(40))]
    {
        assert!(refusal(&body(vec![named(name)])).contains("name of this plan"), "{name}");
    }
    let mut judge = planned(1, "a", &[]);
    judge.spec.role = Role::Planner;
    assert!(refusal(&body(vec![judge])).contains("role"));
}

fn of_issue(number: i64, on: &[&str]) -> PlanTask {
    let mut task = planned(1, "x", on);
    task.name = format!("issue-{number}-abcdef");
    let issue = IssueRef { number, ..IssueRef::default() };
    task.spec.context = Some(TaskContext { issue: Some(issue), ..TaskContext::default() });
    task
}

#[tokio::test]
async fn issues_become_tasks_that_wait_for_tasks_only() {
    let store = Memory::planning();
    let mut earlier = Task::new("issue-2-abcdef", TaskSpec::default());
    earlier.status = Some(TaskStatus { phase: TaskPhase::Done, ..TaskStatus::default() });
    store.tasks.lock().unwrap().push(earlier);
    let body =
        body(vec![of_issue(7, &[]), of_issue(8, &["issue-7-abcdef", "issue-2-abcdef", "issue-3-abcdef"])]);
    let done = hand(&store, &body).await.unwrap();
    assert_eq!((done.tasks.len(), done.warnings.len()), (2, 1));
    assert!(done.warnings[0].contains("does not wait for issue-3-abcdef"), "{:?}", done.warnings);
    let task = store.find("issue-8-abcdef").unwrap();
    assert_eq!(task.spec.dependencies, ["issue-7-abcdef", "issue-2-abcdef"]);
    let labels = task.metadata.labels.unwrap();
    assert_eq!((labels[labels::ISSUE].as_str(), labels[labels::ORIGIN].as_str()), ("8", "issue"));
    // The plan of the requirement stays the last one.
    assert!(!task.metadata.annotations.unwrap().contains_key(labels::PLAN_SIGNATURE));
}

#[tokio::test]
async fn an_issue_that_is_a_task_already_becomes_no_second_one_and_stops_no_other() {
    let store = Memory::planning();
    let mut earlier =
        Task::new("issue-7-abcdef", TaskSpec { title: "as it was".into(), ..TaskSpec::default() });
    let own =
        [(labels::CREATED_BY, labels::PLANNER), (labels::ISSUE, "7"), (labels::PARENT_UID, "uid-earlier")];
    earlier.metadata.labels = Some(own.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
    store.tasks.lock().unwrap().push(earlier.clone());
    let done = hand(&store, &body(vec![of_issue(7, &[]), of_issue(8, &[])])).await.unwrap();
    assert_eq!(done.tasks, ["issue-7-abcdef", "issue-8-abcdef"]);
    assert_eq!(store.find("issue-7-abcdef").unwrap().spec.title, "as it was");
    // A person's Task of that name is another matter.
    earlier.metadata.labels = None;
    let store = Memory::planning();
    store.tasks.lock().unwrap().push(earlier);
    let refused = hand(&store, &body(vec![of_issue(7, &[])])).await.unwrap_err();
    assert!(refused.contains("name_taken"), "{refused}");
}

#[tokio::test]
async fn a_task_of_an_issue_has_the_name_of_its_number() {
    let mut other = of_issue(7, &[]);
    other.name = "issue-70-abcdef".into();
    let store = Memory::planning();
    assert!(hand(&store, &body(vec![other])).await.unwrap_err().contains("is not a name of this plan"));
    let mut plain = of_issue(7, &[]);
    plain.spec.context = None;
    assert!(hand(&store, &body(vec![plain])).await.unwrap_err().contains("is not a name of this plan"));
    let waits = planned(1, "a", &["issue-7-abcdef"]);
    assert!(hand(&store, &body(vec![waits])).await.unwrap_err().contains("earlier tasks of the plan only"));
    assert!(store.names().is_empty());
}
