//! The log of a Run while it is written, as server-sent events. A client that comes back goes on after
//! the last line it has; one that takes nothing is given up. Memory: a few lines per client.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::Duration;

use axum::http::HeaderMap;
use axum::response::sse::Event;
use axum::response::{IntoResponse, Response};
use futures::{AsyncBufRead, AsyncBufReadExt};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::LogParams;
use serde::Serialize;
use tokio::sync::mpsc::{Sender, channel};
use tokio::task::JoinSet;
use utoipa::ToSchema;
use uuid::Uuid;

use super::error::ApiError;
use super::live::{MAX_LIFE, Outlet, Place, outlet, sse};
use super::log_lines::{MAX_LINE_BYTES, split};
use super::log_live::containers;
use super::query::Params;
use super::state::ApiState;
use crate::cluster::pod_logs::{Opened, open};
use crate::crd::wire::container;
use crate::postgres::logs;
use crate::postgres::queries::{self, RunRecord};

/// Lines of each container to begin with, when no number is asked for, and at most.
const LINES: (usize, usize) = (2000, 20_000);
/// First wait before a log that has ended, or has not begun, is asked for again; doubles up to the last.
const MIN_WAIT: Duration = Duration::from_millis(500);
const MAX_WAIT: Duration = Duration::from_secs(5);

/// Data of a `log` event.
#[derive(Debug, Serialize, ToSchema)]
pub struct FollowedLine<'a> {
    /// `checkout`, `agent` or `publish`.
    container: &'a str,
    /// When it was written; null for a line without a time.
    #[schema(value_type = Option<String>, format = DateTime)]
    timestamp: Option<Timestamp>,
    /// At most 16 KiB; a cut is marked.
    line: &'a str,
}

/// Data of the `end` event.
#[derive(Debug, Serialize, ToSchema)]
pub struct FollowedEnd<'a> {
    /// Status of the Run.
    status: &'a str,
}

/// The last line of a container that a client has: the `count`-th of the time `at`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Position {
    at: Timestamp,
    count: u64,
}

impl Position {
    /// The position after one more line.
    fn advance(at: Option<Self>, line: Timestamp) -> Self {
        match at {
            Some(last) if line < last.at => last,
            Some(last) if line == last.at => Self { at: line, count: last.count + 1 },
            Some(_) | None => Self { at: line, count: 1 },
        }
    }
}

/// Positions by container, which are the id of an event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Positions(BTreeMap<&'static str, Position>);

impl Positions {
    fn id(&self) -> String {
        let each = self.0.iter().map(|(name, p)| format!("{name}@{}.{}", p.at.as_nanosecond(), p.count));
        each.collect::<Vec<_>>().join(",")
    }

    /// What cannot be read is as if it were not there: the log is sent from its beginning again.
    fn parse(id: &str) -> Self {
        let one = |part: &str| {
            let (name, position) = part.split_once('@')?;
            let name = container::ALL.into_iter().find(|known| *known == name)?;
            let (at, count) = position.split_once('.')?;
            let at = Timestamp::from_nanosecond(at.parse().ok()?).ok()?;
            Some((name, Position { at, count: count.parse().ok()? }))
        };
        Self(id.split(',').filter_map(one).collect())
    }
}

/// Leaves out the lines that a client has: those up to its position, read from any earlier one.
struct Skip {
    until: Option<Position>,
    same: u64,
}

impl Skip {
    fn new(until: Option<Position>) -> Self {
        Self { until, same: 0 }
    }

    /// Whether a line of this time is one of them.
    fn has(&mut self, at: Timestamp) -> bool {
        let Some(until) = self.until else { return false };
        if at == until.at {
            self.same += 1;
        }
        let has = at < until.at || (at == until.at && self.same <= until.count);
        if !has {
            // From here on all is new, whatever a clock may do.
            self.until = None;
        }
        has
    }
}

/// One line on its way.
struct Sent {
    container: &'static str,
    at: Option<Timestamp>,
    /// Its time, or that of the line before.
    order: Timestamp,
    text: String,
}

/// Answers with the log of `run` until it is over.
///
/// # Errors
/// 503 when too many are followed.
pub async fn follow(
    state: ApiState,
    run: &RunRecord,
    only: Option<String>,
    params: &Params,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    let place = state.live.place(Place::Follow).await?;
    let bound = logs::bound(&state.pool, &state.namespace).await?;
    let known = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    let mut positions = known.map(Positions::parse).unwrap_or_default();
    let lines = params.lenient("lines", LINES);
    let (outlet, body) = outlet();
    let (sender, mut receiver) = channel::<Sent>(16);
    let mut readers = JoinSet::new();
    let wanted = |name: &str| only.as_deref().is_none_or(|only| only == name);
    for name in containers(&run.purpose).iter().copied().filter(|name| wanted(name)) {
        let position = positions.0.get(name).copied();
        let reader = Reader {
            state: state.clone(),
            run: run.uid,
            pod: run.name.clone(),
            container: name,
            position,
            lines,
            bound,
            sender: sender.clone(),
        };
        readers.spawn(reader.read());
    }
    drop(sender);
    let (closing, uid) = (state.live.closing.clone(), run.uid);
    tokio::spawn(async move {
        let (_place, _readers) = (place, readers);
        let send = async {
            while let Some(sent) = receiver.recv().await {
                if !deliver(&outlet, &mut positions, &sent).await {
                    return;
                }
            }
            let status = status(&state, uid).await.unwrap_or_default();
            if let Ok(event) =
                Event::default().event("end").id(positions.id()).json_data(FollowedEnd { status: &status })
            {
                let _ = outlet.send(event).await;
            }
        };
        tokio::select! {
            () = send => {}
            () = outlet.gone() => {}
            () = closing.cancelled() => {}
            () = tokio::time::sleep(MAX_LIFE) => {}
        }
    });
    Ok(sse(body).into_response())
}

async fn deliver(outlet: &Outlet<Event>, positions: &mut Positions, sent: &Sent) -> bool {
    let Sent { container, at, order, text } = sent;
    let position = Position::advance(positions.0.get(container).copied(), *order);
    positions.0.insert(container, position);
    let line = FollowedLine { container, timestamp: *at, line: text };
    match Event::default().event("log").id(positions.id()).json_data(line) {
        Ok(event) => outlet.send(event).await,
        Err(_) => false,
    }
}

/// Status of a Run, if its row can be read.
async fn status(state: &ApiState, run: Uuid) -> Option<String> {
    let row = queries::get_run(&state.pool, &state.namespace, run, true).await;
    match row.ok()?? {
        RunRecord { deleted_at: Some(_), status, .. } if status == "running" => Some("cancelled".into()),
        RunRecord { status, .. } => Some(status),
    }
}

/// Reads one container's log to its end.
struct Reader {
    state: ApiState,
    run: Uuid,
    pod: String,
    container: &'static str,
    position: Option<Position>,
    lines: usize,
    bound: Option<Timestamp>,
    sender: Sender<Sent>,
}

impl Reader {
    async fn read(mut self) {
        let api: Option<Api<Pod>> = self.state.kubernetes.as_ref().map(|k| k.api());
        let mut wait = MIN_WAIT;
        loop {
            // Asked before the reading that must then be the last.
            let over = status(&self.state, self.run).await.is_some_and(|s| s != "running");
            let before = self.position;
            let done = match &api {
                Some(api) => self.read_node(api, over).await,
                None => false,
            };
            if self.sender.is_closed() {
                return;
            }
            if over {
                if !done {
                    self.read_archive().await;
                }
                return;
            }
            // The container has ended or not begun, or the connection has broken off.
            wait = if self.position == before { (wait * 2).min(MAX_WAIT) } else { MIN_WAIT };
            tokio::time::sleep(wait).await;
        }
    }

    /// Sends what the node has after the position; until the container ends, unless the Run is `over`.
    /// Whether the log could be read to its end.
    async fn read_node(&mut self, api: &Api<Pod>, over: bool) -> bool {
        let since = self.position.map(|p| p.at).max(self.bound);
        let lines = i64::try_from(self.lines).unwrap_or(i64::MAX);
        let parameters = LogParams {
            container: Some(self.container.to_owned()),
            follow: !over,
            since_time: since,
            tail_lines: self.position.is_none().then_some(lines),
            timestamps: true,
            ..LogParams::default()
        };
        let stream = match open(api, &self.pod, &parameters).await {
            Ok(Opened::Stream(stream)) => stream,
            Ok(Opened::NotStarted | Opened::Gone) => return false,
            Err(error) => {
                tracing::debug!(error = %error, container = self.container, "log cannot be followed, will retry");
                return false;
            }
        };
        let mut stream: Pin<Box<dyn AsyncBufRead + Send>> = Box::pin(stream);
        let mut skip = Skip::new(self.position);
        let mut last = Timestamp::UNIX_EPOCH;
        loop {
            match next_line(&mut stream).await {
                // A line that is not at its end may be the half of one: it comes again.
                Ok(Some(line)) if line.whole || over => {
                    if !self.take(&line.text(), &mut skip, &mut last).await {
                        return true;
                    }
                }
                Ok(Some(_) | None) => return true,
                Err(_) => return false,
            }
        }
    }

    /// Sends what was kept after the position.
    async fn read_archive(&mut self) {
        let kept = logs::load(&self.state.pool, &self.state.namespace, self.run, Some(self.container)).await;
        let Some(log) = kept.ok().and_then(|logs| logs.into_iter().next()) else { return };
        let first = match self.position {
            Some(_) => 0,
            None => log.content.lines().count().saturating_sub(self.lines),
        };
        let mut skip = Skip::new(self.position);
        let mut last = Timestamp::UNIX_EPOCH;
        for line in log.content.lines().skip(first) {
            if !self.take(line, &mut skip, &mut last).await {
                return;
            }
        }
    }

    /// Sends a line unless the client has it or may not see it. False when there is no client.
    async fn take(&mut self, line: &str, skip: &mut Skip, last: &mut Timestamp) -> bool {
        let (at, text) = split(line);
        *last = at.unwrap_or(*last);
        if skip.has(*last) || self.bound.is_some_and(|bound| *last < bound) {
            return true;
        }
        self.position = Some(Position::advance(self.position, *last));
        let text = super::log_lines::shortened(text).into_owned();
        self.sender.send(Sent { container: self.container, at, order: *last, text }).await.is_ok()
    }
}

/// A line of which the beginning was kept.
struct Read {
    bytes: Vec<u8>,
    cut: usize,
    /// It ends with a line feed.
    whole: bool,
}

impl Read {
    fn text(&self) -> String {
        let text = String::from_utf8_lossy(&self.bytes).into_owned();
        if self.cut == 0 { text } else { format!("{text} [... {} bytes cut ...]", self.cut) }
    }
}

/// The next line, however long it is; `None` at the end.
async fn next_line(stream: &mut Pin<Box<dyn AsyncBufRead + Send>>) -> std::io::Result<Option<Read>> {
    let mut read = Read { bytes: Vec::new(), cut: 0, whole: false };
    loop {
        let chunk = stream.fill_buf().await?;
        if chunk.is_empty() {
            return Ok((!read.bytes.is_empty()).then_some(read));
        }
        let end = chunk.iter().position(|b| *b == b'\n');
        let piece = chunk.get(..end.unwrap_or(chunk.len())).unwrap_or_default();
        let (kept, cut) = piece.split_at(piece.len().min(MAX_LINE_BYTES.saturating_sub(read.bytes.len())));
        read.bytes.extend_from_slice(kept);
        read.cut += cut.len();
        let consumed = end.map_or(chunk.len(), |end| end + 1);
        stream.consume_unpin(consumed);
        if end.is_some() {
            read.whole = true;
            return Ok(Some(read));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    #[test]
    fn an_id_leads_back_to_its_positions() {
        let positions = Positions::parse("agent@1771000000123456789.2,checkout@5.1");
        assert_eq!(positions.id(), "agent@1771000000123456789.2,checkout@5.1");
        for bad in
            ["", "agent", "agent@", "agent@x.1", "agent@5", "other@5.1", "agent@99999999999999999999999999.1"]
        {
            assert_eq!(Positions::parse(bad), Positions::default(), "{bad}");
        }
    }

    #[tokio::test]
    async fn a_line_without_end_is_cut_and_the_next_is_whole() {
        let text = [vec![b'x'; MAX_LINE_BYTES + 7], b"\nnext\r\n\xff\nhalf".to_vec()].concat();
        let mut stream: Pin<Box<dyn AsyncBufRead + Send>> =
            Box::pin(futures::io::BufReader::with_capacity(100, futures::io::Cursor::new(text)));
        let mut lines = Vec::new();
        while let Some(line) = next_line(&mut stream).await.expect("bytes") {
            lines.push((line.text(), line.whole));
        }
        assert!(lines[0].0.ends_with("x [... 7 bytes cut ...]") && lines[0].0.len() < MAX_LINE_BYTES + 40);
        assert_eq!(lines[1..], [("next\r".into(), true), ("\u{fffd}".into(), true), ("half".into(), false)]);
    }

    proptest! {
        /// A client that breaks off after any line, and goes on from any earlier beginning of the log,
        /// gets each line once.
        #[test]
        fn every_line_once(gaps in proptest::collection::vec(0i64..3, 1..40), broken in 0usize..40) {
            let mut second = 0;
            let times: Vec<Timestamp> = gaps.iter().map(|gap| { second += gap; at(second) }).collect();
            let broken = broken.min(times.len());
            let position = times[..broken].iter().fold(None, |p, t| Some(Position::advance(p, *t)));
            let mut skip = Skip::new(position);
            // sinceTime gives the lines of the whole second again.
            let from = position.map_or(0, |p| times.iter().position(|t| *t >= p.at).unwrap_or(0));
            let sent: Vec<usize> = (from..times.len()).filter(|n| !skip.has(times[*n])).collect();
            prop_assert_eq!(sent, (broken..times.len()).collect::<Vec<_>>());
        }
    }
}
