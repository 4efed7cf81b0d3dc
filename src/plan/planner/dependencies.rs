//! Dependencies of a plan: what the agent named, made a graph without cycles and without edges
//! that other edges imply, and the Tasks in progress that a planned one has to wait for.
//!
//! Sources: spec agents 6.3 rows 2, 3 and 13, corrections 15, trap Q24 (lock files overlap with
//! nothing, so they do not serialise a backlog).

use std::collections::BTreeSet;

use super::PlannedTask;
use crate::crd::{Task, TaskPhase};
use crate::plan::area;

/// A whole number from 0 that a list may be read at. `None` for anything else.
pub(super) fn whole(number: f64) -> Option<usize> {
    let index = number.trunc();
    // Compared after the conversion, so that nothing is lost on the way.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let place = index as usize;
    let exact = u32::try_from(place).is_ok_and(|place| (f64::from(place) - number).abs() < f64::EPSILON);
    (number >= 0.0 && exact).then_some(place)
}

/// Keeps of each list, in its order and once each, the indexes of earlier tasks: so the graph has
/// no cycle. Also says how many lists had something else in them.
pub fn sanitise(lists: &[Vec<f64>]) -> (Vec<Vec<usize>>, usize) {
    let mut corrected = 0;
    let mut kept = Vec::with_capacity(lists.len());
    for (task, list) in lists.iter().enumerate() {
        let mut indexes: Vec<usize> = Vec::new();
        for index in list.iter().filter_map(|number| whole(*number)) {
            if index < task && !indexes.contains(&index) {
                indexes.push(index);
            }
        }
        corrected += usize::from(indexes.len() < list.len());
        kept.push(indexes);
    }
    (kept, corrected)
}

/// Removes the edges that a longer way implies. With any removed, all lists come back in ascending
/// order. Also says how many were removed.
///
/// Expects what [`sanitise`] returns: every index is smaller than its list's own.
pub fn reduce(lists: &[Vec<usize>]) -> (Vec<Vec<usize>>, usize) {
    let mut reachable: Vec<BTreeSet<usize>> = Vec::with_capacity(lists.len());
    let mut kept: Vec<Vec<usize>> = Vec::with_capacity(lists.len());
    let mut removed = 0;
    for list in lists {
        let behind = |index: &usize| reachable.get(*index).into_iter().flatten().copied();
        let implied: BTreeSet<usize> = list.iter().flat_map(behind).collect();
        let direct: Vec<usize> = list.iter().copied().filter(|index| !implied.contains(index)).collect();
        removed += list.len() - direct.len();
        reachable.push(implied.into_iter().chain(list.iter().copied()).collect());
        kept.push(direct);
    }
    if removed > 0 {
        for list in &mut kept {
            list.sort_unstable();
        }
    }
    (kept, removed)
}

/// What of a Task decides whether a planned one has to wait for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Active {
    /// Name of the Task.
    pub name: String,
    /// Its area, if it has one.
    pub area: Option<String>,
    /// Paths it touches and may change, and files it was told of.
    pub paths: Vec<String>,
}

impl Active {
    /// The facts of a Task in progress. `None` for one that is not: Done, Cancelled, or Failed, which
    /// says nothing about when its paths come free (spec agents 6.3 row 13).
    pub fn of(task: &Task) -> Option<Self> {
        match task.status.clone().unwrap_or_default().phase {
            TaskPhase::Queued | TaskPhase::Running | TaskPhase::Blocked => {}
            TaskPhase::Failed | TaskPhase::Done | TaskPhase::Cancelled => return None,
        }
        let spec = &task.spec;
        let files = spec.context.as_ref().map_or(&[][..], |context| &context.files);
        Some(Self {
            name: task.metadata.name.clone().unwrap_or_default(),
            area: area::resolve(spec.target_area.as_deref(), &spec.touches, &spec.allowed_paths),
            paths: hot_paths(&spec.touches, &spec.allowed_paths, files),
        })
    }
}

/// The paths that two Tasks are compared by: touches, allowed paths and the named files.
pub fn hot_paths(touches: &[String], allowed: &[String], files: &[String]) -> Vec<String> {
    touches.iter().chain(allowed).chain(files).cloned().collect()
}

/// Names of the Tasks in progress that `task` must wait for: those of the same area or with a path
/// in common. Ascending.
pub fn hot<'a>(task: &PlannedTask, active: &'a [Active]) -> Vec<&'a str> {
    let area = area::resolve(task.target_area.as_deref(), &task.touches, &task.allowed_paths);
    let paths = hot_paths(&task.touches, &task.allowed_paths, &task.context.files);
    let meets = |other: &Active| {
        let same_area = area.is_some() && area == other.area;
        same_area || paths.iter().any(|a| other.paths.iter().any(|b| area::overlap(a, b)))
    };
    let names: BTreeSet<&str> =
        active.iter().filter(|other| meets(other)).map(|other| other.name.as_str()).collect();
    names.into_iter().collect()
}
