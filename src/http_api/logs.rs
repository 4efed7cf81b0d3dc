//! `/logs`: the log of an agent, of a component, all of them in the order of time, and forgetting them.
//! Kept logs come from the database, those of Runs in progress and the operator's from their nodes.

use axum::Json;
use axum::extract::{Path, State};
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::error::{ApiError, ErrorBody};
use super::live::Place;
use super::log_lines::{last_texts, lines};
use super::log_live::{OperatorLog, containers, of_component, tail};
use super::query::Params;
use super::state::ApiState;
use crate::cluster::pod_logs::Excerpt;
use crate::postgres::logs::{self, ContainerLog, LoggedRun};

/// Lines when none are asked for, and at most.
const LINES: (usize, usize) = (200, 2000);
/// Bytes of the end of a log that are looked at.
const TAIL_BYTES: usize = 256 * 1024;
/// Runs of an agent that are looked at, newest first.
const RUNS: i64 = 10;

/// The end of a log.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LogTail {
    /// Lines without their times.
    log: String,
    /// Bytes of the whole log; of a log that is still written, those that were looked at.
    size_bytes: u64,
    /// When the last line was written.
    #[schema(value_type = String, format = DateTime)]
    updated_at: Timestamp,
    /// `runs/<run>/<container>`, or `operator/<pod>`.
    path: String,
}

/// What was forgotten.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Cleared {
    /// True.
    cleared: bool,
    /// Kept logs that were deleted.
    removed: u64,
    /// Logs that cannot be deleted yet (of Runs in progress or just ended): their lines up to now are
    /// hidden.
    truncated: u64,
    /// Logs that could not be deleted; hidden all the same.
    failed: u64,
    /// Where kept logs are: `run_logs`, the table.
    log_dir: &'static str,
}

/// The end of the newest log of an agent: of its Run in progress, else of its last one.
#[utoipa::path(get, path = "/logs/agents/{id}", tag = "logs",
    params(("id" = String, Path, description = "an agent, e.g. worker-1 (judge: judge-1), or dispatcher, cycle-manager, planner"),
        ("lines" = Option<u32>, Query, description = "lines at most, 1 to 2000 (default 200)")),
    responses((status = 200, body = LogTail), (status = 400, body = ErrorBody), (status = 401, body = ErrorBody),
        (status = 403, body = ErrorBody), (status = 404, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub async fn agent(
    State(state): State<ApiState>,
    Path(id): Path<String>,
    params: Params,
) -> Result<Json<LogTail>, ApiError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    if id.is_empty() || !id.bytes().all(plain) {
        return Err(ApiError::invalid("id", "must be letters, digits, - and _"));
    }
    let count = params.lenient("lines", LINES);
    let _place = state.live.place(Place::Read).await?;
    let since = logs::bound(&state.pool, &state.namespace).await?;
    let agent = match id.as_str() {
        "judge" | "planner" => format!("{id}-1"),
        other => other.to_owned(),
    };
    for run in logs::of_agent(&state.pool, &state.namespace, &agent, RUNS).await? {
        if let Some(log) = of_run(&state, &run, count, since).await? {
            return Ok(Json(log));
        }
    }
    match id.as_str() {
        "dispatcher" | "cycle-manager" | "planner" => component(&state, &id, count, since).await.map(Json),
        _ => Err(ApiError::not_found("log")),
    }
}

/// The end of the log of the controllers of Tasks and the System.
#[utoipa::path(get, path = "/logs/cycle-manager", tag = "logs",
    params(("lines" = Option<u32>, Query, description = "lines at most, 1 to 2000 (default 200)")),
    responses((status = 200, body = LogTail), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 404, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub async fn cycle_manager(State(state): State<ApiState>, params: Params) -> Result<Json<LogTail>, ApiError> {
    let _place = state.live.place(Place::Read).await?;
    let since = logs::bound(&state.pool, &state.namespace).await?;
    component(&state, "cycle-manager", params.lenient("lines", LINES), since).await.map(Json)
}

/// Forgets the logs written so far.
#[utoipa::path(post, path = "/logs/clear", tag = "logs",
    responses((status = 200, body = Cleared), (status = 401, body = ErrorBody), (status = 403, body = ErrorBody),
        (status = 503, body = ErrorBody)))]
pub async fn clear(State(state): State<ApiState>) -> Result<Json<Cleared>, ApiError> {
    let live = logs::live(&state.pool, &state.namespace, 1000).await?;
    let of_live: usize = live.iter().map(|run| containers(&run.purpose).len()).sum();
    let logs::Cleared { removed, hidden, failed } = logs::clear(&state.pool, &state.namespace).await?;
    let number = |n: i64| u64::try_from(n).unwrap_or_default();
    tracing::info!(removed, hidden, failed, "logs cleared");
    Ok(Json(Cleared {
        cleared: true,
        removed,
        truncated: number(hidden) + u64::try_from(of_live).unwrap_or_default(),
        failed: number(failed),
        log_dir: "run_logs",
    }))
}

/// The log of a Run's container that does the work, or of another one if it has written nothing.
async fn of_run(
    state: &ApiState,
    run: &LoggedRun,
    count: usize,
    since: Option<Timestamp>,
) -> Result<Option<LogTail>, ApiError> {
    for container in containers(&run.purpose) {
        let (content, size) = if run.kept {
            let kept = logs::load(&state.pool, &state.namespace, run.uid, Some(container)).await?;
            match kept.into_iter().next() {
                Some(ContainerLog { content, total_bytes, .. }) => {
                    (content, u64::try_from(total_bytes).unwrap_or_default())
                }
                None => continue,
            }
        } else {
            let Some(kubernetes) = &state.kubernetes else { return Ok(None) };
            let max = i64::try_from(count).unwrap_or(i64::MAX);
            match tail(&kubernetes.api(), &run.name, container, max, TAIL_BYTES, since).await? {
                Some(Excerpt { content, total_bytes, .. }) => {
                    (content, u64::try_from(total_bytes).unwrap_or_default())
                }
                None => continue,
            }
        };
        let shown = lines(last_bytes(&content), Timestamp::UNIX_EPOCH)
            .filter(|l| since.is_none_or(|since| l.at >= since));
        let (log, newest) = last_texts(shown, count);
        if let Some(updated_at) = newest {
            let path = format!("runs/{}/{container}", run.name);
            return Ok(Some(LogTail { log, size_bytes: size, updated_at, path }));
        }
    }
    Ok(None)
}

async fn component(
    state: &ApiState,
    name: &str,
    count: usize,
    since: Option<Timestamp>,
) -> Result<LogTail, ApiError> {
    let OperatorLog { lines, bytes, pod } = of_component(state, name, count, since).await?;
    let updated_at = lines.last().map_or_else(state.now, |(at, _)| *at);
    let texts: Vec<&str> = lines.iter().map(|(_, text)| text.as_str()).collect();
    Ok(LogTail {
        log: texts.join("\n"),
        size_bytes: u64::try_from(bytes).unwrap_or_default(),
        updated_at,
        path: format!("operator/{pod}"),
    })
}

/// The last 256 KiB of `content`, from the beginning of a line.
fn last_bytes(content: &str) -> &str {
    let mut start = content.len().saturating_sub(TAIL_BYTES);
    while !content.is_char_boundary(start) {
        start += 1;
    }
    let end = content.get(start..).unwrap_or_default();
    if start == 0 {
        return end;
    }
    end.split_once('\n').map_or(end, |(_, rest)| rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_begins_with_a_whole_line() {
        assert_eq!(last_bytes("a\nb"), "a\nb");
        let long = format!("é{}\nlast\n", "x".repeat(TAIL_BYTES - 7));
        assert_eq!(last_bytes(&long), "last\n");
    }
}
