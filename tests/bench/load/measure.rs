//! CPU time of processes and of the machine, the API server's audit log, percentiles.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

/// Clock ticks of /proc in a second; fixed on Linux.
const TICKS: f64 = 100.0;

/// Median and 99th percentile, milliseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Percentiles {
    pub p50: f64,
    pub p99: f64,
}

impl Percentiles {
    /// Of these durations; 0 of none.
    pub fn of(mut samples: Vec<Duration>) -> Self {
        samples.sort_unstable();
        let at = |percent: usize| {
            let index = (samples.len() * percent).div_ceil(100).saturating_sub(1);
            samples.get(index).map_or(0.0, |d| crate::round(d.as_secs_f64() * 1000.0, 1))
        };
        Self { p50: at(50), p99: at(99) }
    }
}

/// NAME=PID.
///
/// # Errors
/// When it is something else.
pub fn parse_process(text: &str) -> Result<(String, u32), String> {
    let (name, pid) = text.split_once('=').ok_or("expected NAME=PID")?;
    Ok((name.into(), pid.parse().map_err(|e| format!("{pid}: {e}"))?))
}

/// CPU times at one moment.
pub struct Machine {
    at: Instant,
    busy: f64,
    cpus: f64,
    by_name: BTreeMap<String, f64>,
}

/// What was used between two moments.
pub struct Used {
    /// CPU seconds by process.
    pub cpu_s: BTreeMap<String, f64>,
    /// Share of the machine's CPU time that went to anything else.
    pub others_share: f64,
}

impl Machine {
    /// Reads /proc.
    ///
    /// # Errors
    /// When a process is not there.
    pub fn read(processes: &[(String, u32)]) -> anyhow::Result<Self> {
        let children = children()?;
        let mut by_name = BTreeMap::new();
        for (name, pid) in processes {
            let mut ticks = process_ticks(*pid).with_context(|| format!("process {name} ({pid}) is gone"))?;
            for child in children.get(pid).into_iter().flatten() {
                ticks += process_ticks(*child).unwrap_or(0.0);
            }
            *by_name.entry(name.clone()).or_insert(0.0) += ticks / TICKS;
        }
        let stat = fs::read_to_string("/proc/stat")?;
        let line = stat.lines().next().unwrap_or_default();
        let fields: Vec<f64> = line.split_whitespace().skip(1).filter_map(|f| f.parse().ok()).collect();
        let &[user, nice, system, _idle, _wait, interrupt, soft, steal, ..] = fields.as_slice() else {
            bail!("cannot read /proc/stat: {line}");
        };
        let cpus = stat.lines().filter(|l| l.starts_with("cpu")).count() - 1;
        Ok(Self {
            at: Instant::now(),
            busy: (user + nice + system + interrupt + soft + steal) / TICKS,
            cpus: crate::as_f64(cpus),
            by_name,
        })
    }

    /// The difference.
    pub fn since(&self, before: &Self) -> Used {
        let cpu_s: BTreeMap<String, f64> = self
            .by_name
            .iter()
            .map(|(name, now)| {
                (name.clone(), crate::round(now - before.by_name.get(name).unwrap_or(&0.0), 2))
            })
            .collect();
        let ours: f64 = cpu_s.values().sum();
        let all = self.at.duration_since(before.at).as_secs_f64() * self.cpus;
        Used { cpu_s, others_share: ((self.busy - before.busy - ours) / all).clamp(0.0, 1.0) }
    }
}

/// Fields of /proc/PID/stat after the name, which may contain spaces.
fn stat_fields(pid: u32) -> anyhow::Result<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = stat.rsplit_once(')').context("cannot read stat")?;
    Ok(rest.split_whitespace().map(str::to_string).collect())
}

/// User and system time of a process and of its ended children.
fn process_ticks(pid: u32) -> anyhow::Result<f64> {
    let fields = stat_fields(pid)?;
    Ok(fields.iter().skip(11).take(4).filter_map(|f| f.parse::<f64>().ok()).sum())
}

fn children() -> anyhow::Result<BTreeMap<u32, Vec<u32>>> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|n| n.parse().ok()) else { continue };
        // A process may end at any time.
        let Ok(fields) = stat_fields(pid) else { continue };
        if let Some(parent) = fields.get(1).and_then(|p| p.parse().ok()) {
            children.entry(parent).or_default().push(pid);
        }
    }
    Ok(children)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AuditEvent {
    #[serde(default)]
    user_agent: String,
    #[serde(default)]
    verb: String,
    object_ref: Option<ObjectRef>,
    response_status: Option<ResponseStatus>,
}

#[derive(Deserialize)]
struct ObjectRef {
    #[serde(default)]
    resource: String,
    #[serde(default)]
    subresource: String,
}

#[derive(Deserialize)]
struct ResponseStatus {
    #[serde(default)]
    code: u16,
}

/// Write requests of a loop.
#[derive(Debug, Default, Serialize)]
pub struct Writes {
    /// By the operator, without heartbeats and without `operator_status`.
    pub operator: u64,
    /// By the operator on the status of AgentPools and Systems: at most once a second each, so they come
    /// with time, not with Tasks.
    pub operator_status: u64,
    /// By everybody, the load generator included, without heartbeats and without `operator_status`.
    pub all: u64,
    /// Of Leases: they come with time, not with Tasks.
    pub heartbeats: u64,
    /// Answered with 403, 409 or 422, whoever sent them.
    pub rejected: u64,
    /// Of Event objects.
    pub events: u64,
    /// By user agent, verb, resource and status code.
    pub detail: BTreeMap<String, u64>,
}

/// The files of the log, oldest first: those that were rotated away carry their time in the name.
fn audit_files(log: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let log = fs::canonicalize(log).with_context(|| format!("no audit log at {}", log.display()))?;
    let (Some(folder), Some(stem)) = (log.parent(), log.file_stem().and_then(|s| s.to_str())) else {
        bail!("no audit log at {}", log.display());
    };
    let mut files: Vec<PathBuf> = fs::read_dir(folder)?
        .filter_map(|e| e.ok().map(|e| e.path()))
        .filter(|p| {
            *p != log
                && p.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.starts_with(&format!("{stem}-")))
        })
        .collect();
    files.sort();
    files.push(log);
    Ok(files)
}

/// Bytes written to the audit log so far.
///
/// # Errors
/// When there is none.
pub fn audit_position(log: &Path) -> anyhow::Result<u64> {
    audit_files(log)?.iter().map(|f| Ok(fs::metadata(f)?.len())).sum()
}

/// The writes logged after `position`.
///
/// # Errors
/// When the log cannot be read.
pub fn audit_since(log: &Path, position: u64) -> anyhow::Result<Writes> {
    let mut writes = Writes::default();
    let mut skip = position;
    for path in audit_files(log)? {
        let length = fs::metadata(&path)?.len();
        if skip >= length {
            skip -= length;
            continue;
        }
        let mut file = fs::File::open(&path)?;
        file.seek(SeekFrom::Start(skip))?;
        skip = 0;
        for line in BufReader::new(file).lines() {
            // The last line may be half written.
            if let Ok(event) = serde_json::from_str::<AuditEvent>(&line?) {
                writes.count(&event);
            }
        }
    }
    Ok(writes)
}

impl Writes {
    fn count(&mut self, event: &AuditEvent) {
        let agent = event.user_agent.split(['/', ' ']).next().unwrap_or_default();
        let (resource, subresource) =
            event.object_ref.as_ref().map_or(("", ""), |o| (o.resource.as_str(), o.subresource.as_str()));
        let code = event.response_status.as_ref().map_or(0, |s| s.code);
        let heartbeat = resource == "leases";
        self.heartbeats += u64::from(heartbeat);
        let by_operator = !heartbeat && agent == "opentiger-operator";
        let with_time = matches!(resource, "agentpools" | "systems") && subresource == "status";
        self.all += u64::from(!(heartbeat || by_operator && with_time));
        self.operator += u64::from(by_operator && !with_time);
        self.operator_status += u64::from(by_operator && with_time);
        self.rejected += u64::from(matches!(code, 403 | 409 | 422));
        self.events += u64::from(resource == "events");
        let slash = if subresource.is_empty() { "" } else { "/" };
        let key = format!("{agent} {} {resource}{slash}{subresource} {code}", event.verb);
        *self.detail.entry(key).or_default() += 1;
    }
}
