//! `/system/processes` on a running service: what is shown, started and stopped, what is refused, and
//! the traps of the original (`spec/api.md` 9, by number).

use axum::body::Body;
use axum::http::Request;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::Api;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use opentiger::crd::pool::Role;
use opentiger::crd::{AgentPool, Operation, System, Task, TaskPhase};
use opentiger::http_api::{ApiConfig, router, state};
use opentiger::postgres::DatabaseConfig;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::postgres::eventually;
use crate::service::{Answer, Service};
use crate::world::merge;

pub const REQUIREMENT: &str = "# Goal\n\nShip it\n";

pub async fn manual(prefix: &str) -> Service {
    Service::start_with(prefix, json!({"runtimeHatch": "Manual"})).await
}

/// A planner that plans when it is asked to.
async fn planner(prefix: &str) -> Service {
    let planner = json!({"enabled": true, "autoReplan": false, "requirement": REQUIREMENT});
    Service::start_with(prefix, json!({"runtimeHatch": "Manual", "planner": planner})).await
}

pub fn api<K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>>(
    service: &Service,
) -> Api<K> {
    Api::namespaced(service.world.client.clone(), &service.world.name)
}

pub async fn system(service: &Service) -> System {
    api::<System>(service).get("default").await.expect("the System")
}

pub async fn operations(service: &Service) -> Vec<Operation> {
    api::<Operation>(service).list(&Default::default()).await.expect("a list").items
}

/// Status of a process.
pub async fn status(service: &Service, name: &str) -> String {
    let answer = service.get(&format!("/system/processes/{name}")).await;
    answer.ok()["process"]["status"].as_str().expect("a status").to_owned()
}

pub async fn start(service: &Service, name: &str) -> Answer {
    service.post(&format!("/system/processes/{name}/start"), json!({})).await
}

async fn stop(service: &Service, name: &str) -> Answer {
    service.post(&format!("/system/processes/{name}/stop"), json!({})).await
}

/// Sends these bytes as they are.
pub async fn raw(service: &Service, path: &str, body: &str) -> Answer {
    service.send(Request::post(path).body(Body::from(body.to_owned())).expect("request")).await
}

pub async fn running(service: &Service, count: usize) {
    eventually("Tasks are in progress", async || {
        let tasks = service.world.record.tasks();
        let phase = |task: &Task| task.status.as_ref().map(|s| s.phase).unwrap_or_default();
        let pods = service.world.record.pods();
        let started = pods
            .values()
            .filter(|pod| pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running"));
        tasks.values().filter(|task| phase(task) == TaskPhase::Running).count() == count
            && started.count() == count
    })
    .await;
}

pub fn plans(service: &Service) -> Vec<String> {
    let tasks = service.world.record.tasks().into_values();
    let mut names: Vec<_> =
        tasks.filter(|task| task.spec.role == Role::Planner).map(|task| task.name_any()).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_processes_is_that_of_the_original_and_names_resolve() {
    let service = manual("names").await;
    service.world.pool("worker", 2, "{outcome: Succeed}").await;
    let listed = service.get("/system/processes").await;
    let names: Vec<&str> =
        listed.ok()["processes"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
    let fixed = ["planner", "dispatcher", "cycle-manager", "db-up", "db-down", "db-push", "judge"];
    assert_eq!(names, [&fixed[..], &["worker-1", "worker-2"]].concat());
    let one = service.get("/system/processes/dispatcher").await.ok()["process"].clone();
    let expected = json!({"name": "dispatcher", "label": "Dispatcher", "description": "Task assignment process",
        "group": "Core", "kind": "service", "supportsStop": true, "status": "idle",
        "message": "the runtime hatch is disarmed: nothing starts"});
    assert_eq!(one, expected);
    for (given, name) in
        [("worker-01", "worker-1"), ("judge-1", "judge"), ("judge-007", "judge-7"), ("worker-9", "worker-9")]
    {
        let answer = service.get(&format!("/system/processes/{given}")).await;
        assert_eq!(answer.ok()["process"]["name"], json!(name));
    }
    let long = "a".repeat(300);
    for unknown in ["planner-1", "worker-0", "worker", "nobody-1", "db-pull", "a%20b", "%00", "..%2Fx", &long]
    {
        service.get(&format!("/system/processes/{unknown}")).await.refused(404, "not_found");
        start(&service, unknown).await.refused(404, "not_found");
        stop(&service, unknown).await.refused(404, "not_found");
    }
    for name in ["db-up", "db-down", "db-push"] {
        stop(&service, name).await.refused(400, "bad_request");
    }
    for name in ["db-up", "db-down"] {
        start(&service, name).await.refused(409, "database_external");
    }
    assert_eq!(start(&service, "db-push").await.ok()["process"]["status"], json!("completed"));
    assert!(operations(&service).await.is_empty(), "nothing of this asks for anything");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_arms_the_hatch_and_a_second_one_says_that_it_runs() {
    let service = manual("start").await;
    service.world.pool("worker", 1, "{outcome: Succeed}").await;
    let first = start(&service, "dispatcher").await;
    assert_eq!((first.status, &first.ok()["process"]["status"]), (200, &json!("running")));
    assert_eq!(first.body.get("alreadyRunning"), None);
    let hatch = service.get("/system/hatch").await.ok()["hatch"].clone();
    assert_eq!(
        (&hatch["armed"], &hatch["reason"]),
        (&json!(true), &json!("system.process.start: dispatcher"))
    );
    assert_eq!(hatch["by"], json!("anonymous"));
    let before = operations(&service).await.len();
    let again = start(&service, "dispatcher").await;
    assert_eq!(again.ok()["alreadyRunning"], json!(true));
    assert_eq!(operations(&service).await.len(), before, "an answer that changes nothing leaves nothing");
    assert_eq!(start(&service, "worker-1").await.ok()["alreadyRunning"], json!(true));
    // What cannot run is refused with what is missing.
    start(&service, "worker-2").await.refused(409, "no_slot");
    start(&service, "tester-1").await.refused(409, "no_slot");
    start(&service, "judge").await.refused(409, "judge_disabled");
    // Bodies that are none count as empty; a blank content is refused.
    for body in ["", "{", "5", "null", "{\"content\": 5}"] {
        assert_eq!(raw(&service, "/system/processes/dispatcher/start", body).await.status, 200, "{body}");
    }
    let blank = json!({"content": " \n"});
    service.post("/system/processes/planner/start", blank).await.refused(400, "invalid_field");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_locked_hatch_refuses_a_start_before_anything_is_changed() {
    let service = Service::start_with("locked", json!({"runtimeHatch": "Disarmed"})).await;
    start(&service, "dispatcher").await.refused(409, "hatch_locked");
    service.post("/system/hatch/arm", json!({})).await.refused(409, "operation_failed");
    let hatch = service.get("/system/hatch").await.ok()["hatch"].clone();
    assert_eq!((&hatch["armed"], &hatch["locked"]), (&json!(false), &json!(true)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_planner_start_neither_arms_nor_stores_anything_trap_3() {
    let service = planner("refused").await;
    service.world.backlog(2).await;
    let content = json!({"content": "# Goal\n\nAnother one\n"});
    let refused = service.post("/system/processes/planner/start", content).await;
    refused.refused(409, "backlog");
    assert_eq!(refused.body["counts"]["queuedTaskCount"], json!(2));
    assert!(refused.body["error"].as_str().unwrap().contains("2 Tasks Queued"), "{}", refused.body);
    let after = system(&service).await;
    assert!(!after.is_armed());
    assert_eq!(after.spec.planner.requirement.as_deref(), Some(REQUIREMENT));
    assert!(operations(&service).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_planner_start_plans_and_a_finished_planner_does_not_look_alive_traps_1_and_2() {
    let service = planner("plan").await;
    let first = start(&service, "planner").await;
    assert_eq!(first.ok()["process"]["status"], json!("running"), "{}", first.body);
    let names = plans(&service);
    assert_eq!(names.len(), 1);
    assert!(system(&service).await.is_armed());
    // The guards of 2.4 in their order: a plan in progress comes first.
    service.world.backlog(1).await;
    let again = start(&service, "planner").await;
    again.refused(409, "planner_running");
    assert_eq!(again.body["process"]["status"], json!("running"));
    service.world.delete::<Task>("t-1").await;
    // It ends badly, and that is seen.
    service.world.patch::<Task>(&names[0], json!({"spec": {"cancel": true}})).await;
    eventually("the end is noted", async || status(&service, "planner").await == "failed").await;
    let process = service.get("/system/processes/planner").await.ok()["process"].clone();
    eventually("and why", async || {
        let process = service.get("/system/processes/planner").await.ok()["process"].clone();
        process["message"].as_str().is_some_and(|m| m.contains("ended Cancelled"))
    })
    .await;
    assert!(process["startedAt"].is_string(), "{process}");
    // The next start plans at once.
    let next = start(&service, "planner").await;
    assert_eq!(
        (next.ok()["process"]["status"].as_str(), next.body.get("alreadyRunning")),
        (Some("running"), None)
    );
    assert_eq!(plans(&service).len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_planner_without_a_requirement_is_refused_and_plans_from_the_content_it_is_given() {
    let service = manual("content").await;
    start(&service, "planner").await.refused(409, "no_requirement");
    service.get("/system/requirements").await.refused(404, "not_found");
    let research = json!({"researchJobId": "x"});
    service.post("/system/processes/planner/start", research).await.refused(400, "invalid_field");
    let escape = json!({"requirementPath": "../x"});
    service.post("/system/processes/planner/start", escape).await.refused(400, "invalid_field");
    assert!(!system(&service).await.is_armed());
    stop(&service, "planner").await.ok();
    let started = service.post("/system/processes/planner/start", json!({"content": REQUIREMENT})).await;
    assert_eq!(started.ok()["process"]["status"], json!("running"), "{}", started.body);
    let settings = system(&service).await;
    let planner = settings.spec.planner.clone();
    assert_eq!((planner.enabled, planner.auto_replan), (true, false), "nothing is planned unasked");
    assert_eq!(planner.requirement.as_deref(), Some(REQUIREMENT));
    assert!(!settings.is_stopped("planner"));
    assert_eq!(plans(&service).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_planner_that_plans_by_itself_makes_one_plan_of_a_requirement_it_is_given() {
    // Without a goal there is nothing to plan, until the request brings one.
    let planner = json!({"enabled": true, "requirement": "# Goal"});
    let service = Service::start_with("auto", json!({"planner": planner})).await;
    start(&service, "planner").await.refused(409, "no_requirement");
    eventually("it is armed", async || status(&service, "dispatcher").await == "running").await;
    let started = service.post("/system/processes/planner/start", json!({"content": REQUIREMENT})).await;
    assert_eq!(started.ok()["process"]["status"], json!("running"), "{}", started.body);
    assert_eq!(plans(&service).len(), 1);
    assert!(system(&service).await.spec.planner.auto_replan, "it goes on planning by itself");
    start(&service, "planner").await.refused(409, "planner_running");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_queues_the_task_at_no_cost_is_durable_and_a_start_follows_at_once_traps_5_7_and_16() {
    let service = Service::start("stop").await;
    service.world.pool("worker", 1, "{outcome: Succeed, delay: 10m}").await;
    service.world.backlog(1).await;
    running(&service, 1).await;
    let process = service.get("/system/processes/worker-1").await.ok()["process"].clone();
    assert_eq!(process["status"], json!("running"));
    assert!(process["message"].as_str().unwrap().contains("of Task t-1"), "{process}");
    let stopped = stop(&service, "worker-1").await;
    assert_eq!((stopped.status, &stopped.ok()["process"]["status"]), (200, &json!("stopped")));
    let task = api::<Task>(&service).get("t-1").await.unwrap();
    let now = task.status.unwrap();
    assert_eq!((now.phase, now.retry_at, now.retries), (TaskPhase::Queued, None, Default::default()));
    // Another replica of the API, without any memory, says the same.
    let other = another_api(&service);
    let request = Request::get("/system/processes/worker-1").body(Body::empty()).unwrap();
    let response = other.oneshot(request).await.unwrap();
    let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
    let seen: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(seen["process"]["status"], json!("stopped"));
    assert!(system(&service).await.is_armed(), "a stop does not disarm");
    let started = start(&service, "worker-1").await;
    assert_eq!(started.ok()["process"]["status"], json!("running"), "{}", started.body);
    running(&service, 1).await;
}

fn another_api(service: &Service) -> axum::Router {
    let config = ApiConfig {
        insecure_no_auth: true,
        client: Some(service.world.client.clone()),
        ..ApiConfig::new(
            service.world.name.clone(),
            DatabaseConfig::new(&service.database.url, "test-api-2"),
            jiff::Timestamp::now,
        )
    };
    router(state(&config).expect("state"))
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_all_ends_everything_and_nothing_comes_back_by_itself_traps_8_and_9() {
    let service = Service::start("stop-all").await;
    service.world.pool("worker", 2, "{outcome: Succeed, delay: 10m}").await;
    service.world.backlog(2).await;
    running(&service, 2).await;
    stop(&service, "cycle-manager").await.ok();
    let answer = service.post("/system/processes/stop-all", json!({})).await;
    let body = answer.ok();
    assert_eq!((&body["cancelledRuns"], &body["requeuedTasks"]), (&json!(2), &json!(2)), "{body}");
    assert_eq!(body["stopped"], json!(["dispatcher", "worker-1", "worker-2"]));
    assert_eq!(body["skipped"], json!(["planner", "cycle-manager", "db-up", "db-down", "db-push", "judge"]));
    assert_eq!(body["orphanCleanup"], json!({"matched": 0, "signaled": 0, "killed": 0, "pids": []}));
    assert_eq!(body["releasedMergeQueueClaims"], json!(0));
    assert!(body["message"].as_str().unwrap().contains("2 Runs cancelled"), "{body}");
    // No cooldown stands in the way, and no sign of life arms the hatch again.
    for name in ["t-1", "t-2"] {
        let now = api::<Task>(&service).get(name).await.unwrap().status.unwrap();
        assert_eq!((now.phase, now.retry_at), (TaskPhase::Queued, None), "{name}");
    }
    for name in ["planner", "dispatcher", "cycle-manager", "judge"] {
        assert_eq!(status(&service, name).await, "stopped", "{name}");
    }
    assert_eq!(status(&service, "worker-1").await, "idle");
    let hatch = service.get("/system/hatch").await.ok().clone();
    assert_eq!(
        (&hatch["hatch"]["armed"], &hatch["hatch"]["reason"]),
        (&json!(false), &json!("system.process.stop-all"))
    );
    let again = service.post("/system/processes/stop-all", json!({})).await;
    assert_eq!((&again.ok()["cancelledRuns"], &again.ok()["stopped"]), (&json!(0), &json!([])));
    start(&service, "dispatcher").await.ok();
    running(&service, 2).await;
    assert_eq!(status(&service, "judge").await, "stopped", "one start starts one thing");
}

#[tokio::test(flavor = "multi_thread")]
async fn lowering_the_replicas_ends_the_slots_trap_12() {
    let service = Service::start("lower").await;
    service.world.pool("worker", 2, "{outcome: Succeed}").await;
    eventually("it is armed", async || status(&service, "worker-2").await == "running").await;
    service.world.patch::<AgentPool>("worker", json!({"spec": {"replicas": 1}})).await;
    assert_eq!(status(&service, "worker-2").await, "idle");
    start(&service, "worker-2").await.refused(409, "no_slot");
    let listed = service.get("/system/processes").await;
    let names: Vec<&Value> =
        listed.ok()["processes"].as_array().unwrap().iter().map(|p| &p["name"]).collect();
    assert!(names.contains(&&json!("worker-1")) && !names.contains(&&json!("worker-2")), "{names:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_crashed_is_failed_until_it_is_started_traps_17_and_19() {
    let restart = json!({"autoRestart": {"enabled": false}});
    let service = Service::start_with("crash", restart).await;
    service.world.pool("worker", 1, "{outcome: Succeed, delay: 10m}").await;
    service.world.backlog(1).await;
    running(&service, 1).await;
    // In the place of the kubelet.
    let ended = |name: &str, state: Value| {
        json!({"name": name, "image": "x", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": state}})
    };
    let now = jiff::Timestamp::now().round(jiff::Unit::Second).expect("a time");
    let times = json!({"startedAt": now, "finishedAt": now});
    let mut states =
        [json!({"exitCode": 137, "reason": "OOMKilled"}), json!({"exitCode": 1, "reason": "Error"})];
    states.iter_mut().for_each(|state| merge(state, times.clone()));
    let [agent, publish] = states;
    let containers = json!([ended("agent", agent), ended("publish", publish)]);
    let pod = service.world.record.pods().into_keys().next().expect("a Pod");
    service
        .world
        .patch_status::<Pod>(&pod, json!({"phase": "Failed", "containerStatuses": containers}))
        .await;
    eventually("the agent is held", async || status(&service, "worker-1").await == "failed").await;
    let process = service.get("/system/processes/worker-1").await.ok()["process"].clone();
    assert!(process["message"].as_str().unwrap().contains("until it is started"), "{process}");
    service.world.delete::<Task>("t-1").await;
    assert_eq!(start(&service, "worker-1").await.status, 200);
    eventually("it takes Runs again", async || status(&service, "worker-1").await == "running").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_control_path_does_not_hang_on_a_dead_database_and_a_lost_operator_is_said() {
    let service = Service::configured("away", json!({"runtimeHatch": "Manual"}), |config| {
        config.database = DatabaseConfig::new("postgres://nobody@127.0.0.1:9/none", "test-api");
    })
    .await;
    start(&service, "dispatcher").await.ok();
    assert_eq!(status(&service, "dispatcher").await, "running");
    service.post("/system/preflight", json!({})).await.ok();
    service.get("/system/runtime/throughput").await.refused(503, "database_unavailable");
    let pid = Pid::from_raw(i32::try_from(service.operator.operator.pid()).expect("a pid"));
    kill(pid, Signal::SIGKILL).expect("killed");
    let lost = service.post("/system/hatch/disarm", json!({})).await;
    lost.refused(503, "operator_unavailable");
    assert!(lost.headers.contains_key("retry-after"));
}
