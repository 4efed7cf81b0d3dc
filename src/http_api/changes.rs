//! `GET /events/stream`: which rows have changed, as server-sent events, so that nobody has to poll.
//!
//! Guarantees: a client that comes back with `Last-Event-ID` misses nothing within 15 minutes; one for
//! which that cannot be said is told `reset` and reads everything again. Versions of one object never
//! go back but after a `reset`, on whichever replica (invariant S26).

use std::time::Duration;

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::IntoResponse;
use axum::response::sse::Event;
use serde::Serialize;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use utoipa::ToSchema;
use uuid::Uuid;

use super::change_feed::{PAGE, Signal};
use super::error::{ApiError, ErrorBody};
use super::live::{MAX_LIFE, Outlet, Place, ServerSentEvent, outlet, sse};
use super::state::ApiState;
use crate::postgres::changes::{Batch, Extent, after, extent};
use crate::postgres::{self};

/// Wait before the database is asked again for what was missed.
const RETRY: Duration = Duration::from_secs(1);

/// Data of a `change` event.
#[derive(Debug, Serialize, ToSchema)]
pub struct Change<'a> {
    /// `task`, `run`, `pool` (its agents), `system` or `operation`.
    kind: &'a str,
    #[schema(value_type = String, format = "uuid")]
    id: Uuid,
    /// The object's resourceVersion: never lower than in an earlier event of it.
    version: String,
    deleted: bool,
}

/// Where a client is: after row `row` of batch `seq`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Position {
    epoch: String,
    seq: i64,
    /// Rows of `seq` that it has; all of them for [`WHOLE`].
    row: usize,
}

/// Every row of a batch.
const WHOLE: usize = usize::MAX;

impl Position {
    fn at(extent: &Extent) -> Self {
        Self { epoch: extent.epoch.clone(), seq: extent.head, row: WHOLE }
    }

    /// As a client sends it back: `<epoch>-<seq>` or `<epoch>-<seq>-<row>`.
    fn parse(id: &str) -> Option<Self> {
        let mut parts = id.split('-');
        let epoch = parts.next()?.to_owned();
        let seq = parts.next()?.parse().ok()?;
        let row = parts.next().map_or(Some(WHOLE), |row| row.parse().ok())?;
        (parts.next().is_none() && seq >= 0).then_some(Self { epoch, seq, row })
    }

    fn id(&self) -> String {
        let Self { epoch, seq, row } = self;
        if *row == WHOLE { format!("{epoch}-{seq}") } else { format!("{epoch}-{seq}-{row}") }
    }
}

/// Changes of rows as server-sent events. `ready` or, after a `Last-Event-ID` that is too old, `reset`
/// (read everything again) come first, then one `change` for each changed row.
#[utoipa::path(get, path = "/events/stream", tag = "events",
    params(("Last-Event-ID" = Option<String>, Header, description = "id of the last event that was received; what came after it is sent")),
    responses((status = 200, body = ServerSentEvent, content_type = "text/event-stream", description = "events `ready`, `change`, `position` (only an id), `reset`; comments as heartbeats"),
        (status = 401, body = ErrorBody), (status = 403, body = ErrorBody), (status = 503, body = ErrorBody)))]
pub async fn stream(
    State(state): State<ApiState>,
    headers: HeaderMap,
) -> Result<impl IntoResponse, ApiError> {
    let place = state.live.place(Place::Stream).await?;
    // First of all: nothing that is committed from here on can be missed.
    let receiver = state.live.changes.subscribe().await?;
    let now = here(&state).await?;
    let asked = headers.get("last-event-id").map(|id| id.to_str().ok().and_then(Position::parse));
    let known = asked.clone().flatten().filter(|p| p.epoch == now.epoch && now.covers(p.seq));
    let (outlet, body) = outlet();
    let closing = state.live.closing.clone();
    let client = Client { state, receiver, at: known.clone().unwrap_or_else(|| Position::at(&now)), outlet };
    tokio::spawn(async move {
        let _place = place;
        let first = match (asked, known) {
            (Some(_), Some(_)) => None,
            (Some(_), None) => Some("reset"),
            (None, _) => Some("ready"),
        };
        tokio::select! {
            () = client.serve(first) => {}
            () = closing.cancelled() => {}
            () = tokio::time::sleep(MAX_LIFE) => {}
        }
    });
    Ok(sse(body))
}

async fn here(state: &ApiState) -> Result<Extent, postgres::Error> {
    extent(&*state.pool.get().await.map_err(postgres::Error::Connect)?).await
}

/// One client of the stream.
struct Client {
    state: ApiState,
    receiver: Receiver<Signal>,
    at: Position,
    outlet: Outlet<Event>,
}

impl Client {
    /// What was missed, then what comes, until the client is gone or too slow.
    async fn serve(mut self, first: Option<&'static str>) {
        if let Some(word) = first
            && !self.say(word).await
        {
            return;
        }
        loop {
            match self.catch_up().await {
                Ok(true) => break,
                Ok(false) => return,
                Err(error) => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "changes cannot be read, will retry"
                    );
                    tokio::select! {
                        () = tokio::time::sleep(RETRY) => {}
                        () = self.outlet.gone() => return,
                    }
                    // Whatever answers now may not be what was asked before.
                    if let Ok(now) = here(&self.state).await {
                        self.at = Position::at(&now);
                        if !self.say("reset").await {
                            return;
                        }
                    }
                }
            }
        }
        loop {
            let signal = tokio::select! {
                signal = self.receiver.recv() => signal,
                () = self.outlet.gone() => return,
            };
            let goes_on = match signal {
                Ok(Signal::Batch(batch)) => self.send(&batch).await,
                Ok(Signal::Reached(seq)) if seq > self.at.seq => {
                    self.at = Position { seq, row: WHOLE, ..self.at.clone() };
                    self.say("position").await
                }
                Ok(Signal::Reached(_)) => true,
                Ok(Signal::Reset(extent)) => {
                    self.at = Position::at(&extent);
                    self.say("reset").await
                }
                Err(RecvError::Lagged(_)) => {
                    if let Ok(now) = here(&self.state).await {
                        self.at = Position::at(&now);
                    }
                    let _ = self.say("reset").await;
                    false
                }
                Err(RecvError::Closed) => false,
            };
            if !goes_on {
                return;
            }
        }
    }

    /// Sends what the database has after the client's position.
    async fn catch_up(&mut self) -> Result<bool, postgres::Error> {
        loop {
            let client = self.state.pool.get().await.map_err(postgres::Error::Connect)?;
            // A batch of which some rows are missing is read again.
            let from = if self.at.row == WHOLE { self.at.seq } else { self.at.seq - 1 };
            let page = after(&client, &self.state.namespace, from, PAGE).await?;
            let now = extent(&client).await?;
            drop(client);
            if !now.covers(from) || now.epoch != self.at.epoch {
                self.at = Position::at(&now);
                return Ok(self.say("reset").await);
            }
            let more = i64::try_from(page.len()).is_ok_and(|n| n == PAGE);
            for batch in &page {
                if !self.send(batch).await {
                    return Ok(false);
                }
            }
            if !more {
                return Ok(true);
            }
        }
    }

    /// Sends the rows of `batch` that the client does not have.
    async fn send(&mut self, batch: &Batch) -> bool {
        let skip = match batch.seq.cmp(&self.at.seq) {
            std::cmp::Ordering::Less => return true,
            std::cmp::Ordering::Equal => self.at.row,
            std::cmp::Ordering::Greater => 0,
        };
        if batch.rows.iter().any(|row| row.version < 0) {
            // Objects are set back: the cluster was restored.
            self.at = Position { seq: batch.seq, row: WHOLE, ..self.at.clone() };
            return self.say("reset").await;
        }
        for (index, row) in batch.rows.iter().enumerate().skip(skip) {
            self.at = Position { seq: batch.seq, row: index + 1, ..self.at.clone() };
            let change = Change {
                kind: &batch.kind,
                id: row.uid,
                version: row.version.to_string(),
                deleted: row.deleted,
            };
            let Ok(event) = Event::default().event("change").id(self.at.id()).json_data(change) else {
                return false;
            };
            if !self.outlet.send(event).await {
                return false;
            }
        }
        true
    }

    /// Sends an event that says where the client is.
    async fn say(&self, word: &str) -> bool {
        self.outlet.send(Event::default().event(word).id(self.at.id()).data("{}")).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_leads_back_to_its_position() {
        for (id, seq, row) in [("abc-7", 7, WHOLE), ("abc-7-3", 7, 3)] {
            let position = Position { epoch: "abc".into(), seq, row };
            assert_eq!(position.id(), id);
            assert_eq!(Position::parse(id), Some(position));
        }
        for bad in ["", "abc", "abc-", "abc-x", "abc--1", "abc-1-2-3", "abc-1-x", "abc-99999999999999999999"]
        {
            assert_eq!(Position::parse(bad), None, "{bad}");
        }
    }
}
