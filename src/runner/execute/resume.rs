//! The session of the agent program: taken over from an interrupted attempt, handed over to `publish`
//! for the next (`runner::checkpoint`). Nothing here may end a Run.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::task::JoinHandle;

use super::mask::Mask;
use super::{Settings, cli};
use crate::crd::ExecutorType;
use crate::crd::wire::{Inputs, path};
use crate::runner::checkpoint::session::{self, Sessions};
use crate::runner::checkpoint::{self, interval};

/// What is needed to find a session.
#[derive(Clone, Debug)]
struct Place {
    home: PathBuf,
    exchange: PathBuf,
    executor: ExecutorType,
    sessions: Sessions,
}

/// `None` when this Run keeps none.
fn place(inputs: &Inputs, settings: &Settings) -> Option<Place> {
    checkpoint::interval(inputs)?;
    let executor = inputs.spec.template.executor.type_;
    let sessions = cli::of(executor)?.sessions()?;
    Some(Place { home: home(settings), exchange: settings.exchange.clone(), executor, sessions })
}

/// The home of the agent program.
pub(super) fn home(settings: &Settings) -> PathBuf {
    let home = settings.environment.iter().find(|(name, _)| name == OsStr::new("HOME"));
    home.map_or_else(|| PathBuf::from(path::HOME), |(_, value)| value.into())
}

/// Puts the session of an interrupted attempt where the program finds it; its name, when there is one.
pub(super) fn take_over(inputs: &Inputs, settings: &Settings) -> Option<String> {
    let place = place(inputs, settings)?;
    match session::take_over(&place.home, &place.exchange, place.executor, place.sessions) {
        Ok(session) => session,
        Err(error) => {
            eprintln!("[opentiger] the session of the earlier attempt was not taken over: {error}");
            None
        }
    }
}

/// Leaves the session for `publish`, without secrets.
pub(super) fn hand_over(inputs: &Inputs, settings: &Settings, mask: &Mask) {
    if let Some(place) = place(inputs, settings) {
        leave(&place, mask);
    }
}

fn leave(place: &Place, mask: &Mask) {
    let hide = |text: String| mask.hide(text).into_owned();
    let left = session::hand_over(&place.home, &place.exchange, place.executor, place.sessions, hide);
    if let Err(error) = left {
        eprintln!("[opentiger] the session was not handed over: {error}");
    }
}

/// Leaves it again and again, until this is dropped.
#[derive(Debug)]
pub(super) struct HandingOver(Option<JoinHandle<()>>);

impl Drop for HandingOver {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

/// Starts it. Twice in the interval of `publish`, which takes what it finds.
pub(super) fn keep_handing_over(inputs: &Inputs, settings: &Settings, mask: &Mask) -> HandingOver {
    let often = interval(inputs).unwrap_or(Duration::MAX) / 2;
    HandingOver(place(inputs, settings).map(|place| {
        let mask = mask.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(often).await;
                leave(&place, &mask);
            }
        })
    }))
}
