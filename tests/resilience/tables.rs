//! The tables of Postgres beside the objects of the cluster, row by row (S19, S20, S22).

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use kube::ResourceExt;
use opentiger::crd::words::snake;
use serde_json::{Value, json};

use super::postgres::Database;
use super::world::World;

/// Waits until the tables say what the cluster says; fails with the rows that differ.
pub async fn tables_equal_the_cluster(world: &World, database: &Database, within: Duration) {
    let deadline = Instant::now() + within;
    loop {
        let differ = differences(world, database).await;
        if differ.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "{} rows differ:\n{}", differ.len(), differ.join("\n"));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

type Rows = BTreeMap<String, Value>;

/// Rows of the cluster by uid, deleted ones marked.
fn expected(world: &World) -> (Rows, Rows, BTreeMap<(String, i64), Value>) {
    let (mut tasks, mut runs, mut events) = (Rows::new(), Rows::new(), BTreeMap::new());
    for task in world.record.tasks().into_values() {
        let (uid, status) = (task.uid().unwrap_or_default(), task.status.clone().unwrap_or_default());
        let retries = status.retries;
        let row = json!({
            "name": task.name_any(),
            "resource_version": version(task.as_ref()),
            "status": snake(status.phase.word()),
            "attempts": status.attempts,
            "retry_count": retries.failure + retries.quota + retries.judge + retries.rework,
            "retries": retries,
            "title": task.spec.title,
            "priority": task.spec.priority,
        });
        tasks.insert(uid.clone(), row);
        for transition in status.transitions {
            let row = json!({
                "type": transition.event,
                "status": snake(transition.phase.word()),
                "run": transition.run,
            });
            events.insert((uid.clone(), transition.sequence), row);
        }
    }
    for run in world.record.runs().into_values() {
        let status = run.status.clone().unwrap_or_default();
        let row = json!({
            "name": run.name_any(),
            "resource_version": version(run.as_ref()),
            "task_uid": run.spec.task_ref.uid,
            "attempt": run.spec.attempt,
            "pool": run.spec.pool,
            "agent": run.spec.agent,
            "status": snake(status.phase.word()),
            "branch": (!status.branch.is_empty()).then_some(status.branch),
        });
        runs.insert(run.uid().unwrap_or_default(), row);
    }
    (tasks, runs, events)
}

fn version<K: kube::Resource>(object: &K) -> Option<i64> {
    object.meta().resource_version.as_ref()?.parse().ok()
}

async fn differences(world: &World, database: &Database) -> Vec<String> {
    let (tasks, runs, events) = expected(world);
    let deleted: BTreeSet<String> = world.record.deleted().into_iter().collect();
    let stored_tasks = database
        .json(
            "SELECT uid, deleted_at IS NOT NULL AS deleted, jsonb_build_object('name', name, 'resource_version',
             resource_version, 'status', status, 'attempts', attempts, 'retry_count', retry_count, 'retries', retries,
             'title', title, 'priority', priority) AS row FROM tasks",
        )
        .await;
    let stored_runs = database
        .json(
            "SELECT uid, deleted_at IS NOT NULL AS deleted, jsonb_build_object('name', name, 'resource_version',
             resource_version, 'task_uid', task_uid, 'attempt', attempt, 'pool', pool, 'agent', agent, 'status', status,
             'branch', branch) AS row FROM runs",
        )
        .await;
    let mut differ = compare("tasks", &tasks, &stored_tasks, &deleted);
    differ.extend(compare("runs", &runs, &stored_runs, &deleted));
    let stored = database
        .json(
            "SELECT uid, sequence, gap_to, jsonb_build_object('type', type, 'status', payload->'status', 'run',
             payload->'run') AS row FROM events WHERE entity_type = 'task'",
        )
        .await;
    let mut stored_events = BTreeMap::new();
    for event in stored.as_array().into_iter().flatten() {
        let key =
            (event["uid"].as_str().unwrap_or_default().to_string(), event["sequence"].as_i64().unwrap_or(0));
        if !event["gap_to"].is_null() {
            differ.push(format!("events {key:?} is a gap"));
        }
        if !deleted.contains(&key.0) {
            stored_events.insert(key, event["row"].clone());
        }
    }
    for (key, row) in &events {
        if stored_events.remove(key).as_ref() != Some(row) {
            differ.push(format!("events {key:?} lacks {row}"));
        }
    }
    differ.extend(stored_events.keys().map(|key| format!("events {key:?} is of no transition")));
    differ
}

fn compare(table: &str, expected: &Rows, stored: &Value, deleted: &BTreeSet<String>) -> Vec<String> {
    let mut differ = Vec::new();
    let mut seen = BTreeSet::new();
    for row in stored.as_array().into_iter().flatten() {
        let uid = row["uid"].as_str().unwrap_or_default();
        seen.insert(uid.to_string());
        let gone = row["deleted"] == true;
        match expected.get(uid) {
            Some(_) if gone => differ.push(format!("{table} {uid} is marked deleted and lives")),
            Some(object) if *object != row["row"] => {
                differ.push(format!("{table} {uid} is {} and should be {object}", row["row"]));
            }
            Some(_) => {}
            None if !gone => {
                differ.push(format!("{table} {uid} is gone and not marked deleted: {}", row["row"]))
            }
            None if !deleted.contains(uid) => differ.push(format!("{table} {uid} never was")),
            None => {}
        }
    }
    let missing = expected.keys().filter(|uid| !seen.contains(*uid));
    differ.extend(missing.map(|uid| format!("{table} lacks {uid}")));
    differ
}
