//! How fast the HTTP API reads while the mirror's statements write: latencies of one client at a time,
//! CPU time of the API for each list, its memory at its highest.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use futures::stream::{FuturesUnordered, StreamExt as _};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use opentiger::crd::{Task, TaskPhase, TaskSpec, TaskStatus};
use opentiger::postgres::{DatabaseConfig, Pool, Row, connect, write};
use reqwest::Client;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::measure::{Machine, Percentiles};

/// What the lists are filtered by, and how many pages of a thousand rows deep each is walked at most.
const FILTERS: [(&str, usize); 5] =
    [("queued", 1000), ("blocked", 1000), ("failed", 1000), ("cancelled", 100), ("done", 200)];
/// Lists and reads that are measured for their latency, of each sort.
const SAMPLES: usize = 1000;
/// Requests that are measured for their CPU time, and how many of them are under way at once.
const BURST: usize = 3000;
const BURST_IN_FLIGHT: usize = 4;
/// Rows that the writer changes, how many in a batch, and the time between two batches.
const WRITTEN_ROWS: i64 = 5_000;
const WRITTEN_AT_ONCE: usize = 25;
const WRITE_INTERVAL: Duration = Duration::from_millis(50);

#[derive(clap::Args)]
pub struct ApiArgs {
    /// Where the API serves.
    #[arg(long)]
    url: String,
    /// The database behind it.
    #[arg(long)]
    database: String,
    /// Task rows in it; noted with the result.
    #[arg(long)]
    rows: usize,
    /// Process id of the API.
    #[arg(long)]
    pid: u32,
    /// File that the result is appended to.
    #[arg(long)]
    out: PathBuf,
}

/// Measures and appends the result.
///
/// # Errors
/// When an answer is not what was asked for, or the writer fails.
pub async fn run(args: ApiArgs) -> anyhow::Result<()> {
    let pool = connect(&DatabaseConfig::new(&args.database, "bench"))?;
    let client = Client::new();
    let pages = deep_pages(&client, &args.url).await?;
    let ids = ids(&pool).await?;
    let stop = CancellationToken::new();
    let writing = tokio::spawn(keep_writing(pool.clone(), stop.clone()));

    let first: Vec<String> =
        FILTERS.iter().map(|(status, _)| format!("{}/tasks?status={status}&limit=100", args.url)).collect();
    let gets: Vec<String> = ids.iter().map(|(uid, ..)| format!("{}/tasks/{uid}", args.url)).collect();
    let first = latencies(&client, &first, "tasks").await?;
    let deep = latencies(&client, &pages, "tasks").await?;
    let get = latencies(&client, &gets, "task").await?;
    let burst = burst(&client, &pages, args.pid).await?;
    stop.cancel();
    let written = writing.await.context("the writer is gone")??;

    let result = json!({
        "loop": "api",
        "rows": args.rows,
        "list_first_ms": Percentiles::of(first),
        "list_deep_ms": Percentiles::of(deep),
        "get_ms": Percentiles::of(get),
        "lists": BURST,
        "list_cpu_ms": crate::round(burst.cpu_s * 1000.0 / crate::as_f64(BURST), 3),
        "lists_per_core_s": crate::round(crate::as_f64(BURST) / burst.cpu_s, 0),
        "lists_per_s": crate::round(crate::as_f64(BURST) / burst.seconds, 0),
        "list_bytes": burst.bytes / BURST,
        "others_share": crate::round(burst.others_share, 2),
        "rows_written": written,
        "rss_mib": peak_memory(args.pid)?,
    });
    crate::append(&args.out, &result)?;
    println!("{result}");
    Ok(())
}

/// Addresses of pages of 100 rows at every thousandth row of each filter.
async fn deep_pages(client: &Client, url: &str) -> anyhow::Result<Vec<String>> {
    let mut pages = Vec::new();
    for (status, most) in FILTERS {
        let filter = format!("{url}/tasks?status={status}");
        let mut cursor = String::new();
        for _ in 0..most {
            let page: Value = fetch(client, &format!("{filter}&limit=1000{cursor}")).await?.0;
            let Some(next) = page.get("nextCursor").and_then(Value::as_str) else { break };
            cursor = format!("&cursor={next}");
            pages.push(format!("{filter}&limit=100{cursor}"));
        }
    }
    ensure!(!pages.is_empty(), "there are too few rows");
    Ok(pages)
}

async fn fetch(client: &Client, url: &str) -> anyhow::Result<(Value, usize)> {
    let response = client.get(url).send().await?;
    let status = response.status();
    let body = response.bytes().await?;
    ensure!(status.is_success(), "{url}: {status} {}", String::from_utf8_lossy(&body));
    Ok((serde_json::from_slice(&body)?, body.len()))
}

/// Times of `SAMPLES` requests, one after the other, until the last byte; `member` is in every answer.
async fn latencies(client: &Client, urls: &[String], member: &str) -> anyhow::Result<Vec<Duration>> {
    let mut samples = Vec::with_capacity(SAMPLES);
    for url in spread(urls).take(SAMPLES) {
        let started = Instant::now();
        let response = client.get(url).send().await?.error_for_status()?;
        let body = response.bytes().await?;
        samples.push(started.elapsed());
        let body: Value = serde_json::from_slice(&body)?;
        let found = body.get(member);
        let rows = found.and_then(Value::as_array);
        ensure!(found.is_some() && rows.is_none_or(|a| !a.is_empty()), "{url}: nothing found");
    }
    Ok(samples)
}

/// All of them again and again, neighbours far apart.
fn spread(urls: &[String]) -> impl Iterator<Item = &String> {
    let step = 7919;
    (0..).filter_map(move |n: usize| urls.get((n * step) % urls.len().max(1)))
}

struct Burst {
    seconds: f64,
    cpu_s: f64,
    others_share: f64,
    bytes: usize,
}

/// `BURST` lists, several at once.
async fn burst(client: &Client, urls: &[String], pid: u32) -> anyhow::Result<Burst> {
    let processes = [("api".to_owned(), pid), ("load".to_owned(), std::process::id())];
    let before = Machine::read(&processes)?;
    let started = Instant::now();
    let mut todo = spread(urls).take(BURST);
    let request = |url: &str| {
        let request = client.get(url).send();
        async move { anyhow::Ok(request.await?.error_for_status()?.bytes().await?.len()) }
    };
    let mut under_way: FuturesUnordered<_> =
        todo.by_ref().take(BURST_IN_FLIGHT).map(|url| request(url)).collect();
    let mut bytes = 0;
    while let Some(length) = under_way.next().await {
        bytes += length?;
        if let Some(url) = todo.next() {
            under_way.push(request(url));
        }
    }
    let used = Machine::read(&processes)?.since(&before);
    Ok(Burst {
        seconds: started.elapsed().as_secs_f64(),
        cpu_s: used.cpu_s.get("api").copied().unwrap_or_default(),
        others_share: used.others_share,
        bytes,
    })
}

/// Uid, name and creation of Tasks that are not deleted, from all over the table.
async fn ids(pool: &Pool) -> anyhow::Result<Vec<(Uuid, String, jiff::Timestamp)>> {
    let client = pool.get().await?;
    let sql = "SELECT uid, name, created_at FROM tasks WHERE namespace = 'bench' AND deleted_at IS NULL ORDER BY uid LIMIT $1";
    let rows = client.query(sql, &[&WRITTEN_ROWS]).await?;
    rows.iter().map(|r| Ok((r.try_get(0)?, r.try_get(1)?, r.try_get(2)?))).collect()
}

/// Writes batches as the mirror does, at 500 rows a second. Returns how many rows it has changed.
async fn keep_writing(pool: Pool, stop: CancellationToken) -> anyhow::Result<u64> {
    let ids = ids(&pool).await?;
    let mut changed = 0;
    let mut turn = tokio::time::interval(WRITE_INTERVAL);
    for (version, batch) in (1_000_000_000..).zip(ids.chunks(WRITTEN_AT_ONCE).cycle()) {
        tokio::select! {
            () = stop.cancelled() => break,
            _ = turn.tick() => {}
        }
        let rows: Vec<Row> = batch
            .iter()
            .map(|(uid, name, created)| Row::task(&task(*uid, name, *created, version)))
            .collect::<Result<_, _>>()?;
        let written = write::write(&pool, &rows).await?;
        if written.parked > 0 {
            bail!("the database refuses rows");
        }
        changed += written.changed;
    }
    Ok(changed)
}

/// A Task between two states.
fn task(uid: Uuid, name: &str, created: jiff::Timestamp, version: i64) -> Task {
    let spec = TaskSpec {
        title: format!("Validate the input of {name}"),
        goal: "All commands pass; the change is limited to the paths that are allowed.".into(),
        kind: "code".into(),
        allowed_paths: vec!["src/**".into(), "tests/**".into()],
        commands: vec!["make check".into(), "make test".into()],
        ..TaskSpec::default()
    };
    let mut task = Task::new(name, spec);
    task.metadata.namespace = Some("bench".into());
    task.metadata.uid = Some(uid.to_string());
    task.metadata.resource_version = Some(version.to_string());
    task.metadata.creation_timestamp = Some(Time(created));
    let phase = if version % 2 == 0 { TaskPhase::Queued } else { TaskPhase::Running };
    task.status = Some(TaskStatus { phase, ..TaskStatus::default() });
    task
}

/// Most memory that a process has had, MiB.
fn peak_memory(pid: u32) -> anyhow::Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("the API is gone")?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).context("no VmHWM")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(crate::round(kib / 1024.0, 1))
}
