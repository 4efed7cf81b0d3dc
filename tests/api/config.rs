//! `/config`: the original's keys over the objects of a namespace whose operator works.

use std::collections::BTreeMap;

use futures::future::join_all;
use k8s_openapi::api::core::v1::{Event, Secret};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, ListParams, PostParams};
use opentiger::crd::{AgentPool, Operation, Run, System};
use opentiger::postgres::DatabaseConfig;
use serde_json::{Value, json};

use crate::postgres::eventually;
use crate::service::{Answer, Service};

const SECRET: &str = "provider-keys";

impl Service {
    async fn with_secret(prefix: &str) -> Self {
        let service =
            Self::configured(prefix, json!({}), |api| api.config_secret = Some(SECRET.into())).await;
        let secret = json!({"metadata": {"name": SECRET}, "data": {}});
        let secret: Secret = serde_json::from_value(secret).expect("a Secret");
        service.objects::<Secret>().create(&PostParams::default(), &secret).await.expect("accepted");
        service
    }

    fn objects<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.world.client.clone(), &self.world.name)
    }

    async fn system(&self) -> System {
        self.objects::<System>().get("default").await.expect("a System")
    }

    async fn worker(&self) -> AgentPool {
        self.objects::<AgentPool>().get("worker").await.expect("an AgentPool")
    }

    async fn config(&self) -> BTreeMap<String, String> {
        let answer = self.get("/config").await;
        serde_json::from_value(answer.ok()["config"].clone()).expect("strings by key")
    }

    async fn save(&self, updates: Value) -> Answer {
        self.patch("/config", json!({ "updates": updates })).await
    }
}

fn refused(answer: &Answer) -> BTreeMap<String, String> {
    let list = answer.ok()["refused"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    list.iter().map(|entry| (text(&entry["key"]), text(&entry["problem"]))).collect()
}

/// Who has written an object, and how many edits its spec has had.
fn traces(system: &System, pool: &AgentPool) -> Value {
    let managers = |fields: &[_]| {
        let fields: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry] = fields;
        fields.iter().filter_map(|f| f.manager.clone()).filter(|m| m == "opentiger-api").collect::<Vec<_>>()
    };
    json!([
        system.metadata.generation,
        pool.metadata.generation,
        managers(system.managed_fields()),
        managers(pool.managed_fields())
    ])
}

#[tokio::test]
async fn saving_all_that_was_read_writes_nothing_and_refuses_nothing() {
    let service = Service::with_secret("config-save").await;
    service.world.pool("worker", 3, "{outcome: Succeed}").await;
    service.save(json!({"OPENAI_API_KEY": "sk-1"})).await.ok();
    let read = service.config().await;
    assert_eq!(read.len(), 74);
    assert_eq!((read["WORKER_COUNT"].as_str(), read["TESTER_COUNT"].as_str()), ("3", "0"));
    assert_eq!((read["OPENAI_API_KEY"].as_str(), read["XAI_API_KEY"].as_str()), ("********", ""));
    let before = traces(&service.system().await, &service.worker().await);
    let secret = service.objects::<Secret>().get(SECRET).await.expect("a Secret");

    let saved = service.save(json!(read)).await;
    assert_eq!(saved.ok()["applied"], json!([]), "{}", saved.body);
    assert_eq!(saved.ok()["refused"], json!([]));
    assert_eq!(saved.ok()["unchanged"].as_array().map(Vec::len), Some(74));
    assert_eq!(saved.ok()["affectedComponents"], json!([]));
    assert_eq!((&saved.ok()["requiresRestart"], &saved.ok()["warnings"]), (&json!(false), &json!([])));
    assert_eq!(saved.ok()["config"], json!(read));

    assert_eq!(traces(&service.system().await, &service.worker().await), before);
    assert_eq!(before[2], json!([]), "the System was never written");
    let after = service.objects::<Secret>().get(SECRET).await.expect("a Secret");
    assert_eq!(after.resource_version(), secret.resource_version());
    let operations = service.objects::<Operation>().list(&ListParams::default()).await.expect("a list");
    assert_eq!(operations.items.len(), 0);
    let all = service.get("/config?all=true").await;
    assert!(all.ok()["config"].as_object().is_some_and(|keys| keys.len() > 90));
}

#[tokio::test]
async fn what_is_refused_keeps_nothing_else_from_being_applied() {
    let service = Service::start("config-bad").await;
    service.world.pool("worker", 1, "{outcome: Succeed}").await;
    let saved = service
        .save(json!({
            "MAX_CONCURRENT_WORKERS": "many",
            "DAILY_TOKEN_LIMIT": "5000",
            "BASE_BRANCH": "-x/../y",
            "REPO_URL": "ftp://git.example.com/app.git",
            "LLM_EXECUTOR": "claude_code",
            "TESTER_COUNT": "2",
            "WORKER_COUNT": "2",
            "OPENAI_API_KEY": "sk-1",
            "NO_SUCH_KEY": "1",
            "AUTO_REPLAN": "true",
            "JUDGE_MERGE_QUEUE_RETRY_DELAY_MS": "1500",
        }))
        .await;
    assert_eq!(
        saved.ok()["applied"],
        json!(["DAILY_TOKEN_LIMIT", "JUDGE_MERGE_QUEUE_RETRY_DELAY_MS", "WORKER_COUNT"]),
        "{}",
        saved.body
    );
    assert_eq!(saved.ok()["affectedComponents"], json!(["dispatcher", "judge", "worker"]));
    let refused = refused(&saved);
    let says = |key: &str, words: &str| assert!(refused[key].contains(words), "{key}: {}", refused[key]);
    assert_eq!(refused.len(), 8);
    says("MAX_CONCURRENT_WORKERS", "whole number from 1");
    // These two are the API server's own words.
    says("BASE_BRANCH", "must be a git branch name");
    says("REPO_URL", "must be an http, https or ssh URL");
    says("LLM_EXECUTOR", "spec.executor");
    says("TESTER_COUNT", "no AgentPool of role Tester");
    says("OPENAI_API_KEY", "--config-secret");
    says("AUTO_REPLAN", "REPLAN_REQUIREMENT_PATH");
    says("NO_SUCH_KEY", "no such key");

    let spec = service.system().await.spec;
    assert_eq!(spec.budgets.per_day, Some(5000));
    assert_eq!(spec.judge.merge_retry_delay.0, "1500ms");
    assert_eq!((spec.dispatch.max_concurrent, spec.repository.base_branch.as_str()), (None, "main"));
    assert!(!spec.planner.enabled);
    assert_eq!(service.worker().await.spec.replicas, 2);
    assert_eq!(saved.ok()["config"]["DAILY_TOKEN_LIMIT"], json!("5000"));

    // Absent again.
    service.save(json!({"DAILY_TOKEN_LIMIT": "-1"})).await.ok();
    assert_eq!(service.system().await.spec.budgets.per_day, None);
    let both = service.save(json!({"AUTO_REPLAN": "true", "REPLAN_REQUIREMENT_PATH": "docs/r.md"})).await;
    assert_eq!(both.ok()["applied"], json!(["AUTO_REPLAN", "REPLAN_REQUIREMENT_PATH"]), "{}", both.body);
    assert_eq!(service.config().await["AUTO_REPLAN"], "true");
}

#[tokio::test]
async fn a_body_that_cannot_be_read_changes_nothing() {
    // The configuration does not need the database.
    let away = DatabaseConfig::new("postgres://nobody@127.0.0.1:1/none", "test-api");
    let service = Service::configured("config-body", json!({}), |api| api.database = away).await;
    for body in [json!([]), json!("x"), json!(null)] {
        service.patch("/config", body).await.refused(400, "bad_request");
    }
    for body in [json!({}), json!({"updates": []}), json!({"updates": null})] {
        service.patch("/config", body).await.refused(400, "invalid_field");
    }
    for value in [json!(5), json!(true), json!(null), json!(["a"])] {
        let answer = service.save(json!({"DAILY_TOKEN_LIMIT": "7", "WORKER_COUNT": value})).await;
        answer.refused(400, "invalid_field");
        assert!(answer.body["error"].as_str().is_some_and(|e| e.starts_with("updates.WORKER_COUNT")));
    }
    assert_eq!(service.system().await.spec.budgets.per_day, None);
    assert_eq!(service.save(json!({})).await.ok()["applied"], json!([]));
    service.get("/config?all=perhaps").await.refused(400, "invalid_field");

    service.objects::<System>().delete("default", &DeleteParams::default()).await.expect("deleted");
    service.get("/config").await.refused(404, "not_found");
    service.save(json!({"DAILY_TOKEN_LIMIT": "7"})).await.refused(404, "not_found");
}

/// Trap 13: the original shows every secret to everybody who may read.
#[tokio::test]
async fn no_answer_shows_a_secret_trap_13() {
    const CANARY: &str = "canary-4f9a1c";
    let service = Service::with_secret("config-secret").await;
    let mut answers = vec![
        service.save(json!({"ANTHROPIC_API_KEY": CANARY, "GITHUB_TOKEN": format!("gh-{CANARY}")})).await,
        service.get("/config").await,
        service.save(json!(service.config().await)).await,
        service.save(json!({"ANTHROPIC_API_KEY": "", "XAI_API_KEY": format!("{CANARY}\nmore")})).await,
        // Somebody takes the wrong field.
        service.save(json!({"REPO_URL": format!("https://me:{CANARY}@git.example.com/app.git")})).await,
        service.save(json!({"BASE_BRANCH": format!("-{CANARY}"), "DAILY_TOKEN_LIMIT": CANARY})).await,
        service.save(json!({"DISPATCHER_ENABLED": CANARY, "LLM_EXECUTOR": CANARY})).await,
    ];
    assert_eq!(answers[0].ok()["applied"], json!(["ANTHROPIC_API_KEY", "GITHUB_TOKEN"]));
    assert!(answers[0].ok()["warnings"][0].as_str().is_some_and(|w| w.contains(SECRET)));
    assert_eq!(answers[1].ok()["config"]["ANTHROPIC_API_KEY"], json!("********"));
    assert_eq!(answers[1].ok()["config"]["XAI_API_KEY"], json!(""));
    assert_eq!(answers[2].ok()["applied"], json!([]));
    assert_eq!(answers[3].ok()["unchanged"], json!(["ANTHROPIC_API_KEY"]));
    assert_eq!(refused(&answers[3]).into_keys().collect::<Vec<_>>(), ["XAI_API_KEY"]);
    let stored = service.objects::<Secret>().get(SECRET).await.expect("a Secret").data.expect("data");
    assert_eq!(stored["ANTHROPIC_API_KEY"].0, CANARY.as_bytes());

    // An agent that is given the Secret must not be given the token.
    let names = json!({"credentialsSecretRef": {"name": SECRET}});
    service.world.pool_with("worker", 1, "{outcome: Succeed}", names).await;
    let again = service.save(json!({"GITHUB_TOKEN": CANARY, "OPENAI_API_KEY": CANARY})).await;
    assert_eq!((&again.ok()["applied"], &again.ok()["warnings"]), (&json!(["OPENAI_API_KEY"]), &json!([])));
    assert!(refused(&again)["GITHUB_TOKEN"].contains("AgentPool worker"));
    answers.push(again);

    service.objects::<Secret>().delete(SECRET, &DeleteParams::default()).await.expect("deleted");
    let gone = service.save(json!({"XAI_API_KEY": CANARY})).await;
    assert!(refused(&gone)["XAI_API_KEY"].contains("kubectl create secret"), "{}", gone.body);
    assert_eq!(service.config().await["ANTHROPIC_API_KEY"], "");
    answers.push(gone);

    for answer in &answers {
        assert!(!answer.body.to_string().contains(CANARY), "{}", answer.body);
    }
    let everything = ListParams::default();
    let events = service.objects::<Event>().list(&everything).await.expect("a list");
    let objects = json!([events, service.system().await, service.worker().await]).to_string();
    assert!(!objects.contains(CANARY));
    assert!(!service.world.report().contains(CANARY), "the operator's log");
}

/// Trap 12: in the original fewer slots and a component that is switched off change nothing.
#[tokio::test]
async fn fewer_slots_and_a_component_switched_off_take_effect_trap_12() {
    let service = Service::start("config-fewer").await;
    service.world.pool("worker", 2, "{outcome: Succeed}").await;
    eventually("the second agent is there", async || {
        service.get("/agents/worker-2").await.body["agent"]["status"] == json!("idle")
    })
    .await;
    let saved = service.save(json!({"WORKER_COUNT": "1", "DISPATCHER_ENABLED": "false"})).await;
    assert_eq!(saved.ok()["applied"], json!(["DISPATCHER_ENABLED", "WORKER_COUNT"]), "{}", saved.body);
    assert_eq!(saved.ok()["affectedComponents"], json!(["dispatcher", "worker"]));
    assert_eq!(saved.ok()["config"]["DISPATCHER_ENABLED"], json!("false"));
    assert!(service.system().await.is_stopped("dispatcher"));
    eventually("the second agent is none any more", async || {
        let answer = service.get("/agents/worker-2").await;
        answer.status == 404 || answer.body["agent"]["status"] == json!("offline")
    })
    .await;

    service.world.task("one", "{}").await;
    eventually("the Task is told who keeps it waiting", async || {
        let status = service.world.record.status("one");
        status.conditions.iter().any(|c| c.reason.contains("Dispatcher") || c.message.contains("dispatcher"))
    })
    .await;
    assert!(service.world.record.runs().is_empty());
    let saved = service.save(json!({"DISPATCHER_ENABLED": "true"})).await;
    assert_eq!(saved.ok()["applied"], json!(["DISPATCHER_ENABLED"]), "{}", saved.body);
    service.world.all_done(1).await;
}

#[tokio::test]
async fn the_next_run_has_the_new_values_and_a_running_one_keeps_its_own() {
    let service = Service::start("config-live").await;
    service.world.pool("worker", 1, "{outcome: Hang}").await;
    let run = |task: &'static str| {
        let service = &service;
        async move {
            let of = |run: &Run| run.spec.task_ref.name == task;
            let seen = |record: &crate::record::Record| record.runs().into_values().find(|run| of(run));
            service.world.until(&format!("a Run of {task}"), crate::world::PATIENCE, seen).await
        }
    };
    service.world.task("one", "{}").await;
    let before = run("one").await;
    assert_eq!(before.spec.repository.base_branch, "main");
    let saved = service
        .save(json!({"BASE_BRANCH": "release", "SYSTEM_AGENT_LIVENESS_WINDOW_MS": "45000", "WORKER_COUNT": "2", "TASK_TOKEN_LIMIT": "5000"}))
        .await;
    assert_eq!(saved.ok()["refused"], json!([]), "{}", saved.body);

    service.world.task("two", "{}").await;
    let next = run("two").await;
    assert_eq!(next.spec.repository.base_branch, "release");
    assert_eq!(next.spec.limits.agent_liveness_window.0, "45s");
    assert_eq!((before.spec.limits.tokens, next.spec.limits.tokens), (None, Some(5000)));
    let now = service.objects::<Run>().get(&before.name_any()).await.expect("the first Run");
    assert_eq!(now.spec, before.spec);
    assert!(now.status.is_none_or(|status| status.finished_at.is_none()), "it goes on");
}

#[tokio::test]
async fn several_who_save_at_once_all_have_their_way() {
    let service = Service::start("config-race").await;
    let keys = [
        ("MAX_CONCURRENT_WORKERS", "11"),
        ("DAILY_TOKEN_LIMIT", "12"),
        ("HOURLY_TOKEN_LIMIT", "13"),
        ("TASK_TOKEN_LIMIT", "14"),
        ("DISPATCH_DOCSER_LANE_MAX_SLOTS", "15"),
        ("DISPATCH_CONFLICT_LANE_MAX_SLOTS", "16"),
        ("JUDGE_MERGE_QUEUE_MAX_ATTEMPTS", "17"),
        ("REPLAN_INTERVAL_MS", "18000"),
    ];
    let answers = join_all(keys.iter().map(|(key, value)| service.save(json!({*key: value})))).await;
    for ((key, _), answer) in keys.iter().zip(&answers) {
        assert_eq!(answer.ok()["applied"], json!([key]), "{}", answer.body);
    }
    let config = service.config().await;
    keys.iter().for_each(|(key, value)| assert_eq!(config[*key], *value, "{key}"));

    // Three keys of one list, which is written as a whole.
    let lanes = ["CONFLICT_LANE_MAX", "DOCSER_LANE_MAX", "FEATURE_LANE_MIN"];
    for round in 20..40 {
        let value = round.to_string();
        let saves = lanes.map(|lane| service.save(json!({format!("DISPATCH_{lane}_SLOTS"): value})));
        join_all(saves).await;
        let config = service.config().await;
        lanes.iter().for_each(|lane| assert_eq!(config[&format!("DISPATCH_{lane}_SLOTS")], value, "{lane}"));
    }
}
