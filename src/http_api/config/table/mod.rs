//! The one table of configuration keys: every key of the original's `GET /config`, and those of its
//! environment that a field of ours stands for (spec: api 4).
//!
//! Read by the API, by the test that writes `docs/configuration.md`, and by nobody else.

mod agents;
mod control;
mod recovery;
mod repository;
mod review;

use super::key::{Component, Field, Home, Key, Kind};
use crate::crd::{AgentPoolSpec, Role, SystemSpec};

/// A group of keys, in the order of the table.
pub struct Group {
    pub title: &'static str,
    pub keys: &'static [Key],
}

/// Every group.
pub static GROUPS: &[Group] = &[
    Group { title: "Dispatch, budgets and slots", keys: control::KEYS },
    Group { title: "Repository", keys: repository::KEYS },
    Group { title: "Review, merge and planning", keys: review::KEYS },
    Group { title: "Recovery, restarts and cycles", keys: recovery::KEYS },
    Group { title: "Executors and models", keys: agents::KEYS },
    Group { title: "Secrets", keys: repository::SECRETS },
];

/// Every key.
pub fn keys() -> impl Iterator<Item = &'static Key> {
    GROUPS.iter().flat_map(|group| group.keys)
}

/// The key of that name.
pub fn find(name: &str) -> Option<&'static Key> {
    keys().find(|key| key.name == name)
}

/// All that know the repository.
const REPOSITORY: &[Component] = &[
    Component::Dispatcher,
    Component::Judge,
    Component::Planner,
    Component::Worker,
    Component::Tester,
    Component::Docser,
];
const NOBODY: &[Component] = &[];

/// A field of the System.
const fn system(
    name: &'static str,
    original: &'static str,
    affects: &'static [Component],
    about: &'static str,
    path: &'static str,
    kind: Kind<SystemSpec>,
) -> Key {
    Key { name, original, about, env: false, affects, home: Home::System(Field { path, kind }) }
}

/// A field of the System that was a variable of the original's programs.
const fn variable(
    name: &'static str,
    original: &'static str,
    affects: &'static [Component],
    about: &'static str,
    path: &'static str,
    kind: Kind<SystemSpec>,
) -> Key {
    Key { name, original, about, env: true, affects, home: Home::System(Field { path, kind }) }
}

/// Slots of a role.
const fn count(
    name: &'static str,
    original: &'static str,
    affects: &'static [Component],
    role: Role,
    about: &'static str,
) -> Key {
    let kind = Kind::<AgentPoolSpec>::Whole {
        least: 0,
        most: 1000,
        get: |pool| pool.replicas.into(),
        set: |pool, n| pool.replicas = super::key::narrow(n),
    };
    let field = Field { path: "spec.replicas", kind };
    Key { name, original, about, env: false, affects, home: Home::Pool(role, field) }
}

/// Nothing to set: what is shown, and why.
const fn fixed(
    name: &'static str,
    original: &'static str,
    value: &'static str,
    because: &'static str,
) -> Key {
    Key { name, original, about: "", env: false, affects: NOBODY, home: Home::Fixed { value, because } }
}
