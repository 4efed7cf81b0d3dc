//! Watches of the load generator: when was an object first seen, when was it in a final phase, when
//! was it gone. Nothing but metadata and phase is decoded.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::StreamExt;
use kube::api::{Api, ApiResource, NotUsed, Object};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Client, ResourceExt};
use serde::Deserialize;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

/// Longest wait for any one object.
const WITHIN: Duration = Duration::from_secs(180);

/// The part of a status that is read.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Phase {
    #[serde(default)]
    phase: String,
}

type Slim = Object<NotUsed, Phase>;

/// What is known of one object.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub first: Option<Instant>,
    pub ended: Option<Instant>,
    pub gone: bool,
    /// The last phase.
    pub phase: String,
}

#[derive(Default)]
struct Board {
    objects: HashMap<String, Seen>,
    waiting: HashMap<String, Arc<Notify>>,
    present: usize,
}

/// A watch of one kind in one namespace.
pub struct Watch {
    board: Arc<Mutex<Board>>,
    changed: Arc<Notify>,
    task: JoinHandle<()>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watch {
    /// Starts it and waits for the first complete list. Objects are known by their name, or by the
    /// value of `label`.
    ///
    /// # Errors
    /// When there is no list in time.
    pub async fn start(
        client: Client,
        namespace: &str,
        resource: &ApiResource,
        label: Option<&'static str>,
    ) -> anyhow::Result<Self> {
        let api: Api<Slim> = Api::namespaced_with(client, namespace, resource);
        let (board, changed, listed) =
            (Arc::new(Mutex::new(Board::default())), Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (b, c, l) = (board.clone(), changed.clone(), listed.clone());
        let task = tokio::spawn(async move {
            let mut stream = std::pin::pin!(watcher(api, watcher::Config::default()).default_backoff());
            while let Some(event) = stream.next().await {
                match event {
                    Ok(watcher::Event::Apply(o) | watcher::Event::InitApply(o)) => note(&b, &o, label, false),
                    Ok(watcher::Event::Delete(o)) => note(&b, &o, label, true),
                    Ok(watcher::Event::InitDone) => l.notify_one(),
                    Ok(watcher::Event::Init) => {}
                    Err(error) => eprintln!("bench: watch failed, goes on: {error}"),
                }
                c.notify_waiters();
            }
        });
        tokio::time::timeout(WITHIN, listed.notified()).await.context("no list in time")?;
        Ok(Self { board, changed, task })
    }

    /// Waits until the object of this name is in a final phase.
    ///
    /// # Errors
    /// When it is not in time.
    pub async fn ended(&self, name: &str) -> anyhow::Result<Seen> {
        let wake = Arc::new(Notify::new());
        {
            let mut board = lock(&self.board);
            if let Some(seen) = board.objects.get(name).filter(|s| s.ended.is_some()) {
                return Ok(seen.clone());
            }
            board.waiting.insert(name.to_string(), wake.clone());
        }
        tokio::time::timeout(WITHIN, wake.notified()).await.with_context(|| {
            format!("{name} did not end in time, its phase is '{}'", self.seen(name).phase)
        })?;
        Ok(self.seen(name))
    }

    /// What is known of it.
    pub fn seen(&self, name: &str) -> Seen {
        lock(&self.board).objects.get(name).cloned().unwrap_or_default()
    }

    /// Waits until no object is left.
    ///
    /// # Errors
    /// When some are, for too long.
    pub async fn empty(&self) -> anyhow::Result<()> {
        let wait = async {
            loop {
                let change = self.changed.notified();
                if lock(&self.board).present == 0 {
                    return;
                }
                change.await;
            }
        };
        tokio::time::timeout(3 * WITHIN, wait).await.context("objects are left over")
    }
}

fn lock(board: &Mutex<Board>) -> MutexGuard<'_, Board> {
    board.lock().unwrap_or_else(PoisonError::into_inner)
}

fn note(board: &Mutex<Board>, object: &Slim, label: Option<&str>, gone: bool) {
    let now = Instant::now();
    let name = label.map_or_else(
        || object.name_any(),
        |label| object.labels().get(label).cloned().unwrap_or_else(|| object.name_any()),
    );
    let phase = object.status.as_ref().map(|s| s.phase.clone()).unwrap_or_default();
    let over = matches!(phase.as_str(), "Done" | "Failed" | "Cancelled" | "Succeeded");
    let mut board = lock(board);
    let seen = board.objects.entry(name.clone()).or_default();
    let new = seen.first.is_none();
    let ends = over && seen.ended.is_none();
    let goes = gone && !seen.gone;
    seen.first.get_or_insert(now);
    seen.phase = phase;
    seen.gone |= gone;
    if ends {
        seen.ended = Some(now);
    }
    board.present = board.present + usize::from(new) - usize::from(goes);
    if ends && let Some(wake) = board.waiting.remove(&name) {
        wake.notify_one();
    }
}
