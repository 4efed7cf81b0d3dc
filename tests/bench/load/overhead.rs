//! What a Run adds to the agent program, on a real node: from its Pod's place on the node to the program's
//! first byte, from the program's end to the pushed branch, and the runner's memory. Beside it, the same
//! start of a Pod with one container: what no Run can be faster than.
//!
//! One Run after the other. Ends of programs and pushes are the kubelet's times of the lines that say so.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use futures::{AsyncBufReadExt as _, StreamExt as _, TryStreamExt as _};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ApiResource, DeleteParams, LogParams, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Client, ResourceExt as _};
use opentiger::crd::{GoDuration, Role, Task, TaskSpec, labels};
use serde_json::json;

use crate::measure::Percentiles;
use crate::watch::Watch;

/// How the runner's lines begin.
const OURS: &str = "[opentiger] ";
/// Longest wait for a line of a log.
const WITHIN: Duration = Duration::from_secs(120);
/// Between two attempts to open the log of a container that has not started.
const AGAIN: Duration = Duration::from_millis(100);
/// Between two looks at the runner's memory; its peak is the kernel's, so that none is missed in between.
const LOOK: Duration = Duration::from_millis(20);

#[derive(clap::Args)]
pub struct OverheadArgs {
    #[arg(long)]
    namespace: String,
    /// Goal of every Task, which its agent can carry out.
    #[arg(long)]
    goal: String,
    /// Image of the Pod that is measured beside.
    #[arg(long)]
    image: String,
    #[arg(long, default_value_t = 20)]
    count: usize,
    /// File that the result is appended to.
    #[arg(long)]
    out: std::path::PathBuf,
}

/// When each Pod was first seen with a node, by its name and by its Task.
type Placed = Arc<Mutex<BTreeMap<String, (String, Timestamp)>>>;

/// Runs the Tasks and the bare Pods, in turn.
///
/// # Errors
/// When a request fails, a Task does not end Done, or a line that must come does not.
pub async fn run(args: OverheadArgs) -> anyhow::Result<()> {
    let client = crate::client().await?;
    let placed = watch_pods(&client, &args.namespace);
    let tasks = Watch::start(client.clone(), &args.namespace, &ApiResource::erase::<Task>(&()), None).await?;
    let memory = Memory::watch();
    let (mut to_first_byte, mut to_branch, mut bare) = (Vec::new(), Vec::new(), Vec::new());
    for index in 0..args.count {
        bare.push(bare_pod(&client, &args, &placed, index).await?);
        let name = format!("overhead-{index}");
        let spec = TaskSpec {
            title: format!("The usage page, written for the {index}th time"),
            goal: args.goal.clone(),
            role: Role::Docser,
            allowed_paths: vec!["docs/**".into()],
            kind: "code".into(),
            timebox: GoDuration::from_secs(600),
            ..TaskSpec::default()
        };
        let api: Api<Task> = Api::namespaced(client.clone(), &args.namespace);
        api.create(&PostParams::default(), &Task::new(&name, spec))
            .await
            .context("failed to create a Task")?;
        let (pod, start) = seen(&placed, &name).await?;
        let begins = lines(&client, &args.namespace, &pod, "agent", |text| {
            text.strip_prefix(OURS).is_some_and(|text| text.starts_with("executor ended"))
        });
        let pushes = lines(&client, &args.namespace, &pod, "publish", |text| {
            text.strip_prefix(OURS).is_some_and(|text| text.starts_with("pushed "))
        });
        let (agent, publish) = tokio::try_join!(begins, pushes)?;
        let started = agent.iter().position(|(_, text)| text.starts_with("[opentiger] executor started"));
        let first = started
            .and_then(|at| agent.get(at + 1))
            .filter(|(_, text)| !text.starts_with(OURS))
            .with_context(|| format!("the program of {name} wrote nothing: {agent:?}"))?;
        let (end, pushed) = agent.last().zip(publish.last()).context("a log is empty")?;
        to_first_byte.push(between(start, first.0)?);
        to_branch.push(between(end.0, pushed.0)?);
        let ended = tasks.ended(&name).await?;
        anyhow::ensure!(ended.phase == "Done", "{name} is {}", ended.phase);
    }
    let result = json!({
        "loop": "overhead",
        "count": args.count,
        "pod_start_to_first_byte_ms": Percentiles::of(to_first_byte),
        "program_end_to_branch_ms": Percentiles::of(to_branch),
        "bare_pod_start_to_first_byte_ms": Percentiles::of(bare),
        "runner_rss_mib": crate::round(memory.peak_kib() / 1024.0, 1),
    });
    crate::append(&args.out, &result)?;
    println!("{result}");
    Ok(())
}

fn between(from: Timestamp, to: Timestamp) -> anyhow::Result<Duration> {
    Duration::try_from(to.duration_since(from)).context("times are out of order")
}

fn watch_pods(client: &Client, namespace: &str) -> Placed {
    let placed = Placed::default();
    let (api, board): (Api<Pod>, _) = (Api::namespaced(client.clone(), namespace), placed.clone());
    tokio::spawn(async move {
        let mut pods =
            std::pin::pin!(watcher(api, watcher::Config::default()).default_backoff().applied_objects());
        while let Some(pod) = pods.next().await {
            let Ok(pod) = pod else { continue };
            if pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some()) {
                let key = pod.labels().get(labels::TASK).cloned().unwrap_or_else(|| pod.name_any());
                let mut board = board.lock().unwrap_or_else(PoisonError::into_inner);
                board.entry(key).or_insert_with(|| (pod.name_any(), Timestamp::now()));
            }
        }
    });
    placed
}

/// The Pod of a Task, or the one of this name, and when it had a node.
async fn seen(placed: &Placed, key: &str) -> anyhow::Result<(String, Timestamp)> {
    let wait = async {
        loop {
            let found = placed.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned();
            if let Some(found) = found {
                return found;
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(WITHIN, wait).await.with_context(|| format!("{key} has no Pod on a node"))
}

/// The lines of a container's log with the kubelet's times, up to the first that `is` the last.
async fn lines(
    client: &Client,
    namespace: &str,
    pod: &str,
    container: &str,
    is: impl Fn(&str) -> bool,
) -> anyhow::Result<Vec<(Timestamp, String)>> {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let params = LogParams {
        container: Some(container.into()),
        follow: true,
        timestamps: true,
        ..LogParams::default()
    };
    let read = async {
        let log = loop {
            match api.log_stream(pod, &params).await {
                Ok(log) => break log,
                Err(kube::Error::Api(error)) if error.code == 400 => tokio::time::sleep(AGAIN).await,
                Err(error) => return Err(error).context("failed to read a log"),
            }
        };
        let mut found = Vec::new();
        let mut log = log.lines();
        while let Some(line) = log.try_next().await? {
            let (time, text) = line.split_once(' ').unwrap_or((&line, ""));
            let last = is(text);
            found.push((time.parse().with_context(|| format!("no time: {line}"))?, text.to_string()));
            if last {
                return Ok(found);
            }
        }
        anyhow::bail!("the log of {pod}/{container} ends early: {found:?}")
    };
    tokio::time::timeout(WITHIN, read).await.with_context(|| format!("{pod}/{container} does not end"))?
}

/// From a node to the first byte, of a Pod that does nothing else.
async fn bare_pod(
    client: &Client,
    args: &OverheadArgs,
    placed: &Placed,
    index: usize,
) -> anyhow::Result<Duration> {
    let api: Api<Pod> = Api::namespaced(client.clone(), &args.namespace);
    let name = format!("bare-{index}");
    let pod = serde_json::from_value(json!({
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": 0,
            "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
            "containers": [{
                "name": "main", "image": args.image, "imagePullPolicy": "IfNotPresent", "command": ["echo", "here"],
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
            }],
        },
    }))?;
    api.create(&PostParams::default(), &pod).await.context("failed to create a Pod")?;
    let (_, start) = seen(placed, &name).await?;
    let log = lines(client, &args.namespace, &name, "main", |text| text == "here").await?;
    api.delete(&name, &DeleteParams::default()).await.context("failed to delete a Pod")?;
    between(start, log.first().context("an empty log")?.0)
}

/// Looks for the runner's processes among all of the machine's and keeps the largest peak.
struct Memory {
    kib: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Memory {
    fn watch() -> Self {
        let (kib, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (found, stopped) = (kib.clone(), stop.clone());
        std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let begin = SystemTime::now();
                found.fetch_max(runner_peak().unwrap_or(0), Ordering::Relaxed);
                std::thread::sleep(LOOK.saturating_sub(begin.elapsed().unwrap_or_default()));
            }
        });
        Self { kib, stop }
    }

    fn peak_kib(&self) -> f64 {
        crate::as_f64(usize::try_from(self.kib.load(Ordering::Relaxed)).unwrap_or(usize::MAX))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// The largest peak of resident memory among the runner's processes now, KiB.
fn runner_peak() -> Option<u64> {
    let peak = |entry: std::fs::DirEntry| {
        let status = std::fs::read_to_string(entry.path().join("status")).ok()?;
        // The kernel cuts a name after 15 characters.
        status.starts_with("Name:\topentiger-runne\n").then_some(())?;
        let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
        line.split_whitespace().nth(1)?.parse().ok()
    };
    std::fs::read_dir("/proc").ok()?.filter_map(Result::ok).filter_map(peak).max()
}
