//! `GET /logs/all`: the newest lines of every log in the order of time. Logs are read one after
//! another, newest first, and reading ends when no older log can have a line that is newer than those
//! at hand: memory is bounded by the answer, not by the logs.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures::{StreamExt, stream};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;
use utoipa::ToSchema;

use super::error::{ApiError, ErrorBody};
use super::live::{Outlet, Place, outlet};
use super::log_lines::{LogEntry, Newest, component, lines};
use super::log_live::{containers, of_operator, operators, tail};
use super::query::Params;
use super::state::ApiState;
use crate::cluster::pod_logs::Excerpt;
use crate::postgres::logs::{self, LogFilter, LogKey};

/// Entries when no number is asked for, and at most.
const ENTRIES: (usize, usize) = (2000, 20_000);
/// Bytes of JSON of all entries.
const MAX_BYTES: usize = 8 * 1024 * 1024;
/// Bytes of the end of each log that is still written.
const LIVE_BYTES: usize = 512 * 1024;
/// Runs in progress whose logs are read, the newest.
const LIVE_RUNS: i64 = 100;
/// Logs that are read from nodes at once.
const AT_ONCE: usize = 4;
/// Bytes of kept logs that are in memory at once.
const BATCH_BYTES: i64 = 2 * 1024 * 1024;
/// Kept logs looked up at once.
const PAGE: i64 = 200;
/// How much a node's clock may be ahead of the database's.
const SKEW: SignedDuration = SignedDuration::from_mins(5);
/// Time for reading; what has not been read then is left out.
const DEADLINE: Duration = Duration::from_secs(15);
/// Of it, time for nodes.
const NODES_DEADLINE: Duration = Duration::from_secs(8);
/// Bytes of one piece of the answer.
const PIECE: usize = 64 * 1024;

/// The newest lines of all logs, oldest first.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct AllLogs {
    entries: Vec<LogEntry>,
    /// Lines that match, as far as they were counted.
    total: u64,
    returned: u64,
    /// Whether there are more than were returned.
    truncated: bool,
    /// Logs there are, whatever `source` says.
    source_count: u64,
    #[schema(value_type = String, format = DateTime)]
    generated_at: Timestamp,
}

/// What is asked for.
struct Wanted {
    since: Option<Timestamp>,
    /// In lower case.
    source: Option<String>,
    limit: usize,
}

impl Wanted {
    fn wants(&self, source: &str) -> bool {
        self.source.as_ref().is_none_or(|part| source.to_lowercase().contains(part))
    }
}

/// What has been found so far.
struct Found {
    newest: Newest,
    sources: u64,
    /// Lines that match and were not read.
    unread: u64,
    /// Not all could be read in time.
    late: bool,
}

/// The newest lines of all logs: kept ones, those of Runs in progress, the operator's.
#[utoipa::path(get, path = "/logs/all", tag = "logs",
    params(
        ("limit" = Option<u32>, Query, description = "lines at most, 1 to 20000 (default 2000); the newest are given"),
        ("sinceMinutes" = Option<u32>, Query, description = "no older lines"),
        ("source" = Option<String>, Query, description = "a part of the source, in any case, e.g. worker-1")),
    responses((status = 200, body = AllLogs), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub async fn all(State(state): State<ApiState>, params: Params) -> Result<Response, ApiError> {
    let place = state.live.place(Place::Merge).await?;
    let now = (state.now)();
    let cleared = logs::bound(&state.pool, &state.namespace).await?;
    let minutes = params.text("sinceMinutes").and_then(|m| m.parse::<u32>().ok()).filter(|m| *m > 0);
    let asked = minutes.and_then(|m| now.checked_sub(SignedDuration::from_mins(m.into())).ok());
    let wanted = Wanted {
        since: cleared.max(asked),
        // Postgres refuses NUL in a parameter; no source has one.
        source: params.text("source").map(|s| s.to_lowercase().replace('\0', "")),
        limit: params.lenient("limit", ENTRIES),
    };
    let started = Instant::now();
    let mut found =
        Found { newest: Newest::new(wanted.limit, MAX_BYTES), sources: 0, unread: 0, late: false };
    let nodes = async {
        running(&state, &wanted, &mut found).await?;
        operator(&state, &wanted, &mut found).await
    };
    let read = tokio::time::timeout(NODES_DEADLINE, nodes).await;
    match read {
        Ok(read) => read?,
        Err(_) => found.late = true,
    }
    kept(&state, &wanted, &mut found, started).await?;
    Ok(respond(found, now, place))
}

/// Reads the logs of Runs in progress. One that cannot be read is left out.
async fn running(state: &ApiState, wanted: &Wanted, found: &mut Found) -> Result<(), ApiError> {
    let Some(kubernetes) = &state.kubernetes else { return Ok(()) };
    let api: Api<Pod> = kubernetes.api();
    let mut sources = Vec::new();
    for run in logs::live(&state.pool, &state.namespace, LIVE_RUNS).await? {
        sources.extend(containers(&run.purpose).iter().map(|container| Source {
            name: format!("{}/runs/{}/{container}", run.agent, run.name),
            pod: run.name.clone(),
            container,
        }));
    }
    found.sources += u64::try_from(sources.len()).unwrap_or_default();
    sources.retain(|source| wanted.wants(&source.name));
    let reading = stream::iter(sources).map(|source| read(api.clone(), source, wanted.limit, wanted.since));
    let mut reading = std::pin::pin!(reading.buffer_unordered(AT_ONCE));
    while let Some((source, tail)) = reading.next().await {
        match tail {
            Ok(Some(Excerpt { content, .. })) => add(found, wanted, &source.into(), &content),
            Ok(None) => {}
            Err(_) => found.late = true,
        }
    }
    Ok(())
}

/// A container of a Run in progress.
struct Source {
    name: String,
    pod: String,
    container: &'static str,
}

async fn read(
    api: Api<Pod>,
    source: Source,
    limit: usize,
    since: Option<Timestamp>,
) -> (String, Result<Option<Excerpt>, ApiError>) {
    let Source { name, pod, container } = source;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    (name, tail(&api, &pod, container, limit, LIVE_BYTES, since).await)
}

/// Reads the operator's logs, if they are within reach: each line is of the component that wrote it.
async fn operator(state: &ApiState, wanted: &Wanted, found: &mut Found) -> Result<(), ApiError> {
    let Ok(operators) = operators(state).await else { return Ok(()) };
    let max = i64::try_from(ENTRIES.1).unwrap_or(i64::MAX);
    for pod in &operators.pods {
        found.sources += 1;
        let tail = of_operator(&operators, pod, max, LIVE_BYTES * 2, wanted.since).await;
        let Ok(Some(Excerpt { content, .. })) = tail else { continue };
        for line in lines(&content, wanted.since.unwrap_or_default()) {
            let source = format!("{}/{pod}", component(line.text));
            if wanted.wants(&source) && wanted.since.is_none_or(|since| line.at >= since) {
                found.newest.push(&source.into(), line);
            }
        }
    }
    Ok(())
}

/// Reads kept logs, newest first, until no other can have a newer line than those at hand.
async fn kept(
    state: &ApiState,
    wanted: &Wanted,
    found: &mut Found,
    started: Instant,
) -> Result<(), ApiError> {
    let (pool, namespace) = (&state.pool, &*state.namespace);
    found.sources += u64::try_from(logs::count(pool, namespace).await?).unwrap_or_default();
    let filter = LogFilter {
        since: wanted.since.and_then(|since| since.checked_sub(SKEW).ok()),
        source: wanted.source.clone(),
    };
    let mut last: Option<LogKey> = None;
    loop {
        let page = logs::newest(pool, namespace, &filter, last.as_ref(), PAGE).await?;
        let complete = i64::try_from(page.len()).is_ok_and(|n| n < PAGE);
        for batch in batches(&page) {
            let newest = batch.first().map(|key| key.archived_at.saturating_add(SKEW));
            let done = found.newest.is_full()
                && newest.is_some_and(|at| at.is_ok_and(|at| found.newest.oldest().is_some_and(|o| at < o)));
            if done || started.elapsed() > DEADLINE {
                found.late |= !done;
                let unread = logs::lines_after(pool, namespace, &filter, last.as_ref()).await?;
                found.unread = u64::try_from(unread).unwrap_or_default();
                return Ok(());
            }
            let contents = logs::contents(pool, batch).await?;
            for (run, container, content) in contents {
                let key = batch.iter().find(|k| k.run == run && k.container == container);
                if let Some(key) = key {
                    add(found, wanted, &key.source.as_str().into(), &content);
                }
            }
            last = batch.last().cloned();
        }
        if complete {
            return Ok(());
        }
    }
}

/// Splits keys, in their order, so that the contents of each part fit into memory together.
fn batches(keys: &[LogKey]) -> Vec<&[LogKey]> {
    let mut bytes = keys.first().map_or(0, |key| key.bytes);
    let same = |_: &LogKey, next: &LogKey| {
        bytes += next.bytes;
        let fits = bytes <= BATCH_BYTES;
        if !fits {
            bytes = next.bytes;
        }
        fits
    };
    keys.chunk_by(same).collect()
}

fn add(found: &mut Found, wanted: &Wanted, source: &Arc<str>, content: &str) {
    for line in lines(content, wanted.since.unwrap_or(Timestamp::UNIX_EPOCH)) {
        if wanted.since.is_none_or(|since| line.at >= since) {
            found.newest.push(source, line);
        }
    }
}

/// The answer, made while it is sent; `place` is given back when the client has it or gives up.
fn respond(found: Found, now: Timestamp, place: OwnedSemaphorePermit) -> Response {
    let Found { newest, sources, unread, late } = found;
    let total = newest.seen() + unread;
    let entries = newest.into_json();
    let returned = u64::try_from(entries.len()).unwrap_or_default();
    let truncated = total > returned || late;
    let end = format!(
        "],\"total\":{total},\"returned\":{returned},\"truncated\":{truncated},\"sourceCount\":{sources},\"generatedAt\":\"{now:.3}\"}}"
    );
    let (outlet, body) = outlet();
    tokio::spawn(async move {
        let _place = place;
        write(&outlet, entries, &end).await;
    });
    ([(header::CONTENT_TYPE, "application/json")], Body::from_stream(body)).into_response()
}

async fn write(outlet: &Outlet<Bytes>, entries: Vec<String>, end: &str) {
    let mut piece = String::from("{\"entries\":[");
    for (index, entry) in entries.into_iter().enumerate() {
        if index > 0 {
            piece.push(',');
        }
        piece.push_str(&entry);
        if piece.len() >= PIECE && !outlet.send(std::mem::take(&mut piece).into()).await {
            return;
        }
    }
    piece.push_str(end);
    let _ = outlet.send(piece.into()).await;
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn what_is_read_at_once_fits_into_memory() {
        let key = |bytes| LogKey {
            run: Uuid::nil(),
            container: "agent".into(),
            source: String::new(),
            archived_at: Timestamp::UNIX_EPOCH,
            bytes,
        };
        let half = BATCH_BYTES / 2;
        let keys: Vec<LogKey> = [1, half, half, half, half + 1, 9, BATCH_BYTES].map(key).into();
        let sizes: Vec<Vec<i64>> =
            batches(&keys).iter().map(|b| b.iter().map(|k| k.bytes).collect()).collect();
        assert!(sizes.iter().all(|b| b.len() == 1 || b.iter().sum::<i64>() <= BATCH_BYTES), "{sizes:?}");
        assert_eq!(sizes.concat(), keys.iter().map(|k| k.bytes).collect::<Vec<_>>());
        assert!(sizes.len() <= 4, "{sizes:?}");
    }
}
