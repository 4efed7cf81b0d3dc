//! What a request changes: pure, from the objects as they are and the values that are wanted.
//!
//! Every key is judged by itself: what is equal is left alone, what cannot be is refused, and the
//! others go on (corrections 25). Writes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use kube::ResourceExt;
use serde_json::json;

use super::key::{Home, Key, MASK, executor, flag};
use super::table;
use crate::crd::planner::PlannerSettings;
use crate::crd::{AgentPool, AgentPoolSpec, Role, System, SystemSpec};

/// Longest secret, in characters.
const MAX_SECRET: usize = 8192;
/// The key that switches planning, and the one that says what from.
const AUTO_REPLAN: &str = "AUTO_REPLAN";
const REQUIREMENT_PATH: &str = "REPLAN_REQUIREMENT_PATH";
/// Longest unknown key that is repeated in an answer, in characters.
const MAX_UNKNOWN: usize = 100;

/// The objects behind the configuration.
#[derive(Clone, Debug)]
pub struct Live {
    pub system: System,
    pub pools: Vec<AgentPool>,
}

/// Who stands for a role.
enum Pool<'a> {
    None,
    One(&'a AgentPool),
    Several(Vec<&'a AgentPool>),
}

/// Specs in which every field that may be left out is.
pub struct Defaults {
    pub system: SystemSpec,
    pub pool: AgentPoolSpec,
}

/// What an empty value stands for.
pub static DEFAULTS: LazyLock<Defaults> = LazyLock::new(|| Defaults {
    system: serde_json::from_value(json!({"repository": {"url": ""}})).unwrap_or_default(),
    pool: serde_json::from_value(json!({"role": "Worker", "image": "", "executor": {"type": "Command"}}))
        .unwrap_or_default(),
});

impl Live {
    /// The AgentPool of a role: the one that is named after it, else the only one.
    fn pool(&self, role: Role) -> Pool<'_> {
        let all: Vec<_> = self.pools.iter().filter(|pool| pool.spec.role == role).collect();
        let name = role.word().to_ascii_lowercase();
        match (all.iter().find(|pool| pool.name_any() == name), all.as_slice()) {
            (Some(pool), _) => Pool::One(pool),
            (None, []) => Pool::None,
            (None, [pool]) => Pool::One(pool),
            (None, _) => Pool::Several(all),
        }
    }

    /// The value of a key; `set` are the secrets that have one.
    pub fn read(&self, key: &Key, set: &BTreeSet<String>) -> String {
        match &key.home {
            Home::System(field) => field.read(&self.system.spec),
            Home::Pool(role, field) => match self.pool(*role) {
                Pool::None => "0".into(),
                Pool::One(pool) => field.read(&pool.spec),
                Pool::Several(all) => all.iter().map(|p| i64::from(p.spec.replicas)).sum::<i64>().to_string(),
            },
            Home::Executor(role) => match self.pool(*role) {
                Pool::None => key.original.into(),
                Pool::One(pool) => executor(&pool.spec),
                Pool::Several(all) => {
                    let words: BTreeSet<_> = all.iter().map(|pool| executor(&pool.spec)).collect();
                    words.into_iter().collect::<Vec<_>>().join(",")
                }
            },
            Home::Latch(component) => (!self.system.is_stopped(component)).to_string(),
            Home::Secret if set.contains(key.name) => MASK.into(),
            Home::Secret => String::new(),
            Home::Fixed { value, because: _ } => (*value).into(),
        }
    }
}

/// What is to be done, and what is not.
#[derive(Default)]
pub struct Draft {
    /// The System's spec as it is to be.
    pub system: SystemSpec,
    /// Keys that change it.
    pub system_keys: Vec<&'static Key>,
    /// Specs of AgentPools as they are to be, by name, with the keys that change them.
    pub pools: BTreeMap<String, (AgentPoolSpec, Vec<&'static Key>)>,
    /// Components to be started (true) or stopped.
    pub latches: Vec<(&'static Key, &'static str, bool)>,
    /// Secrets to be set.
    pub secrets: Vec<(&'static Key, String)>,
    /// Keys with the value that they had.
    pub unchanged: BTreeSet<&'static str>,
    /// Keys that cannot be as wanted, and why.
    pub refused: BTreeMap<&'static str, String>,
}

/// Known keys with their wanted values, and sentences about the unknown ones.
pub fn known(
    updates: BTreeMap<String, String>,
) -> (BTreeMap<&'static str, String>, BTreeMap<String, String>) {
    let (mut wanted, mut unknown) = (BTreeMap::new(), BTreeMap::new());
    for (name, value) in updates {
        match table::find(&name) {
            Some(key) => drop(wanted.insert(key.name, value)),
            None => {
                let short: String = name.chars().take(MAX_UNKNOWN).collect();
                unknown.insert(short, "there is no such key, see GET /config".to_owned());
            }
        }
    }
    (wanted, unknown)
}

/// Judges every wanted value.
pub fn plan_changes(live: &Live, wanted: &BTreeMap<&'static str, String>) -> Draft {
    let mut draft = Draft { system: live.system.spec.clone(), ..Draft::default() };
    for key in wanted.keys().filter_map(|name| table::find(name)) {
        let value = wanted.get(key.name).map(String::as_str).unwrap_or_default();
        match draft.take(live, key, value) {
            Ok(true) => {}
            Ok(false) => drop(draft.unchanged.insert(key.name)),
            Err(problem) => drop(draft.refused.insert(key.name, problem)),
        }
    }
    match draft.planning_problem(&live.system.spec.planner) {
        None => draft,
        Some((culprit, problem)) => {
            let mut rest = wanted.clone();
            rest.remove(culprit);
            let mut draft = plan_changes(live, &rest);
            draft.refused.insert(culprit, problem.to_owned());
            draft
        }
    }
}

impl Draft {
    /// Takes one value in; answers whether it changes anything.
    fn take(&mut self, live: &Live, key: &'static Key, value: &str) -> Result<bool, String> {
        match &key.home {
            Home::System(field) => {
                let changed = field.assign(&mut self.system, &DEFAULTS.system, value)?;
                self.system_keys.extend(changed.then_some(key));
                Ok(changed)
            }
            Home::Pool(role, field) => {
                let pool = match live.pool(*role) {
                    Pool::One(pool) => pool,
                    none_or_several => return only_the_same(live, key, value, none_or_several, *role),
                };
                let name = pool.name_any();
                let mut spec = self.pools.get(&name).map_or_else(|| pool.spec.clone(), |p| p.0.clone());
                let changed = field.assign(&mut spec, &DEFAULTS.pool, value)?;
                if changed {
                    let mut keys = self.pools.remove(&name).map(|p| p.1).unwrap_or_default();
                    keys.push(key);
                    self.pools.insert(name, (spec, keys));
                }
                Ok(changed)
            }
            Home::Executor(role) => match is_shown(live, key, value) {
                true => Ok(false),
                false => Err(format!(
                    "cannot be set here: it is spec.executor of the AgentPools of role {}, change it there",
                    role.word()
                )),
            },
            Home::Latch(component) => {
                let value = value.trim();
                let on = if value.is_empty() { Some(true) } else { flag(value) };
                let on = on.ok_or("must be true or false")?;
                let changed = on == live.system.is_stopped(component);
                self.latches.extend(changed.then_some((key, *component, on)));
                Ok(changed)
            }
            Home::Secret => {
                // A client sends back what it was shown.
                if value.chars().all(|c| c == '*' || c == '•' || c.is_whitespace()) {
                    return Ok(false);
                }
                let value = value.trim();
                if value.chars().count() > MAX_SECRET || value.chars().any(char::is_control) {
                    return Err(format!("must be one line of at most {MAX_SECRET} characters"));
                }
                self.secrets.push((key, value.to_owned()));
                Ok(true)
            }
            Home::Fixed { value: _, because } => match is_shown(live, key, value) {
                true => Ok(false),
                false => Err(format!("cannot be set here: {because}")),
            },
        }
    }

    /// Planning needs something to plan from, and from one place only (spec: api 1.5). Which key is
    /// refused: the one that switches planning on, else the one that takes the requirement away.
    fn planning_problem(&self, before: &PlannerSettings) -> Option<(&'static str, &'static str)> {
        let planner = &self.system.planner;
        let changes = |name: &str| self.system_keys.iter().any(|key| key.name == name);
        if planner == before || !planner.enabled {
            return None;
        }
        match (&planner.requirement, &planner.requirement_path) {
            (None, None) if changes(AUTO_REPLAN) => Some((
                AUTO_REPLAN,
                "cannot be true while REPLAN_REQUIREMENT_PATH is blank: set what to plan from as well",
            )),
            (None, None) if changes(REQUIREMENT_PATH) => Some((
                REQUIREMENT_PATH,
                "cannot be blank while AUTO_REPLAN is true: set that to false as well",
            )),
            (Some(_), Some(_)) if changes(REQUIREMENT_PATH) => Some((
                REQUIREMENT_PATH,
                "cannot be set while the requirement itself is in spec.planner.requirement: remove it there",
            )),
            (Some(_), Some(_)) if changes(AUTO_REPLAN) => Some((
                AUTO_REPLAN,
                "cannot be true while both spec.planner.requirement and spec.planner.requirementPath are set",
            )),
            (None | Some(_), None | Some(_)) => None,
        }
    }
}

/// Whether `value` is what is shown, or blank.
fn is_shown(live: &Live, key: &Key, value: &str) -> bool {
    let value = value.trim();
    value.is_empty() || value == live.read(key, &BTreeSet::new())
}

/// Without one AgentPool to change, only what is shown may come back.
fn only_the_same(live: &Live, key: &Key, value: &str, pool: Pool<'_>, role: Role) -> Result<bool, String> {
    let word = role.word();
    match pool {
        _ if is_shown(live, key, value) => Ok(false),
        Pool::Several(all) => {
            let names: Vec<_> = all.iter().map(|pool| pool.name_any()).collect();
            Err(format!(
                "there are several AgentPools of role {word} ({}) and none is named {}: scale the one you mean",
                names.join(", "),
                word.to_ascii_lowercase()
            ))
        }
        Pool::None | Pool::One(_) => {
            Err(format!("there is no AgentPool of role {word}: create one, with its image and executor"))
        }
    }
}
