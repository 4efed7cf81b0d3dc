//! How fast the mirror catches up after an outage of the database: a real mirror that was handed
//! thousands of changed objects meanwhile.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::ObjectMeta;
use opentiger::controller::mirror::{Bounds, Cluster, Kind, Mirror, Mirrored, Page};
use opentiger::crd::run::TaskRef;
use opentiger::crd::task::Transition;
use opentiger::crd::{Run, RunPhase, RunSpec, RunStatus, Task, TaskPhase, TaskSpec, TaskStatus};
use opentiger::postgres::{DatabaseConfig, connect};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::measure::Machine;

#[derive(clap::Args)]
pub struct DrainArgs {
    /// An empty database with the tables.
    #[arg(long)]
    database: String,
    /// Tasks that ended meanwhile, each with one Run.
    #[arg(long, default_value_t = 20_000)]
    tasks: usize,
    /// File that the result is appended to.
    #[arg(long)]
    out: PathBuf,
}

/// Measures and appends the result.
///
/// # Errors
/// When not every object has its row in the end.
pub async fn run(args: DrainArgs) -> anyhow::Result<()> {
    let config = DatabaseConfig { custom_plans: false, ..DatabaseConfig::new(&args.database, "bench") };
    let pool = connect(&config)?;
    let mirror = Mirror::new(pool.clone(), Arc::new(Nowhere), Bounds::default());
    let now: Timestamp = "2026-02-13T14:00:00Z".parse()?;
    for n in 0..args.tasks {
        mirror.applied(Mirrored::Task(task(n, now).into()));
        mirror.applied(Mirrored::Run(run_of(n, now).into()));
    }
    let objects = mirror.backlog();
    let processes = [("load".to_owned(), std::process::id())];
    let before = Machine::read(&processes)?;
    let started = Instant::now();
    let stop = CancellationToken::new();
    let running = tokio::spawn(mirror.clone().run(stop.clone()));
    while mirror.backlog() > 0 {
        ensure!(started.elapsed() < Duration::from_secs(300), "the mirror does not catch up");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let seconds = started.elapsed().as_secs_f64();
    let used = Machine::read(&processes)?.since(&before);
    stop.cancel();
    running.await.context("the mirror is gone")?;
    let counted =
        "SELECT (SELECT count(*) FROM tasks) + (SELECT count(*) FROM runs), (SELECT count(*) FROM events)";
    let counted = pool.get().await?.query_one(counted, &[]).await?;
    let (rows, events): (i64, i64) = (counted.try_get(0)?, counted.try_get(1)?);
    ensure!(usize::try_from(rows)? == objects, "{objects} objects, {rows} rows");
    let result = json!({
        "loop": "drain",
        "rows": rows,
        "events": events,
        "drain_seconds": crate::round(seconds, 2),
        "rows_per_s": crate::round(crate::as_f64(objects) / seconds, 0),
        "mirror_cpu_s": used.cpu_s.get("load"),
        "others_share": crate::round(used.others_share, 2),
    });
    crate::append(&args.out, &result)?;
    println!("{result}");
    Ok(())
}

fn uid(kind: u128, n: usize) -> Uuid {
    Uuid::from_u128(0x5f0c_3d1e_0000_4000_8000_0000_0000_0000 + (kind << 40) + n as u128)
}

fn meta(name: String, uid: Uuid, n: usize, created: Timestamp) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some("bench".into()),
        uid: Some(uid.to_string()),
        resource_version: Some((n + 1000).to_string()),
        generation: Some(1),
        creation_timestamp: Some(Time(created)),
        ..ObjectMeta::default()
    }
}

/// A Task that is done, with the two transitions that led there.
fn task(n: usize, now: Timestamp) -> Task {
    let spec = TaskSpec {
        title: format!("Validate the input of module {n}"),
        goal: "All commands pass; the change is limited to the paths that are allowed.".into(),
        kind: "code".into(),
        allowed_paths: vec!["src/**".into(), "tests/**".into()],
        commands: vec!["make check".into(), "make test".into()],
        ..TaskSpec::default()
    };
    let mut task = Task::new("", spec);
    task.metadata = meta(format!("drain-{n}"), uid(1, n), n, now);
    let transition = |sequence: i64, phase: TaskPhase| Transition {
        sequence,
        at: now + SignedDuration::from_secs(sequence),
        phase,
        block_reason: None,
        event: "task.transition".into(),
        reason: "Admitted".into(),
        run: format!("drain-{n}-x-r1"),
    };
    let transitions = vec![transition(1, TaskPhase::Running), transition(2, TaskPhase::Done)];
    task.status =
        Some(TaskStatus { phase: TaskPhase::Done, attempts: 1, transitions, ..TaskStatus::default() });
    task
}

/// Its Run.
fn run_of(n: usize, now: Timestamp) -> Run {
    let spec = RunSpec {
        task_ref: TaskRef { name: format!("drain-{n}"), uid: uid(1, n).to_string() },
        attempt: 1,
        pool: "worker".into(),
        agent: format!("worker-{}", 1 + n % 50),
        lane: "feature".into(),
        ..RunSpec::default()
    };
    let mut run = Run::new("", spec);
    run.metadata = meta(format!("drain-{n}-x-r1"), uid(2, n), n, now);
    run.status = Some(RunStatus {
        phase: RunPhase::Success,
        started_at: Some(now),
        finished_at: Some(now + SignedDuration::from_secs(60)),
        branch: format!("agent/drain-{n}-x-r1"),
        head_commit: "0123456789abcdef0123456789abcdef01234567".into(),
        ..RunStatus::default()
    });
    run
}

/// No cluster: nothing is in doubt here, so nobody is asked.
struct Nowhere;

impl Cluster for Nowhere {
    fn scopes(&self) -> Vec<String> {
        Vec::new()
    }

    fn page<'a>(
        &'a self,
        _: Kind,
        _: &'a str,
        _: Option<String>,
    ) -> BoxFuture<'a, Result<Page, kube::Error>> {
        async { Ok(Page::default()) }.boxed()
    }

    fn get<'a>(
        &'a self,
        _: Kind,
        _: &'a str,
        _: &'a str,
    ) -> BoxFuture<'a, Result<Option<Mirrored>, kube::Error>> {
        async { Ok(None) }.boxed()
    }
}
