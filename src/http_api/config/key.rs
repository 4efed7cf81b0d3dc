//! What a key of the configuration is: its name, type and range, and the one field that it stands for.
//!
//! Owns the conversion between the strings of the original and our fields: booleans, `-1` for what is
//! absent, milliseconds for durations, a ratio for percent. Pure: reads and changes specs in memory.

use std::time::Duration;

use crate::crd::words::snake;
use crate::crd::{AgentPoolSpec, GoDuration, Role, SystemSpec};

/// What is shown of a secret that is set.
pub const MASK: &str = "********";

/// A key of the original's configuration.
pub struct Key {
    pub name: &'static str,
    /// The original's default.
    pub original: &'static str,
    /// What it does, for people; one sentence or a few words.
    pub about: &'static str,
    /// True: a variable of the original's programs that its `GET /config` did not show.
    pub env: bool,
    /// Who follows a change (spec: api 4.5).
    pub affects: &'static [Component],
    pub home: Home,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

/// Where the value of a key lives.
pub enum Home {
    /// A field of the System.
    System(Field<SystemSpec>),
    /// A field of the AgentPool that stands for a role.
    Pool(Role, Field<AgentPoolSpec>),
    /// Shows the executor of that AgentPool; it is changed there, with all that belongs to it.
    Executor(Role),
    /// Whether a component works; an Operation stops or starts it.
    Latch(&'static str),
    /// A key of the Secret that the API was told of; only written, never shown.
    Secret,
    /// Nothing to set.
    Fixed { value: &'static str, because: &'static str },
}

/// A field of a spec.
pub struct Field<T: 'static> {
    /// As the API server names it, e.g. `spec.budgets.perDay`.
    pub path: &'static str,
    pub kind: Kind<T>,
}

/// Type, range and place of a value.
pub enum Kind<T: 'static> {
    /// `true` or `false`.
    Flag { get: fn(&T) -> bool, set: fn(&mut T, bool) },
    /// A whole number.
    Whole { least: i64, most: i64, get: fn(&T) -> i64, set: fn(&mut T, i64) },
    /// A whole number, or `-1`: absent, unlimited.
    Limit { least: i64, most: i64, get: fn(&T) -> Option<i64>, set: fn(&mut T, Option<i64>) },
    /// Whole milliseconds; `absent` is the number that stands for no value, if there may be none.
    Millis {
        least: i64,
        most: i64,
        absent: Option<i64>,
        get: fn(&T) -> Option<&GoDuration>,
        set: fn(&mut T, Option<GoDuration>),
    },
    /// `0.01` to `1`, kept in percent; `-1`: absent.
    Ratio { get: fn(&T) -> Option<i32>, set: fn(&mut T, Option<i32>) },
    /// One of a few words.
    Choice { words: &'static [&'static str], get: fn(&T) -> &'static str, set: fn(&mut T, &str) },
    /// A text; empty only when `optional`.
    Text {
        optional: bool,
        most: usize,
        check: fn(&str) -> Result<(), &'static str>,
        get: fn(&T) -> &str,
        set: fn(&mut T, String),
    },
}

/// Who follows a change, in the order in which they do: the control plane before the agents.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Component {
    CycleManager,
    Dispatcher,
    Judge,
    Planner,
    Api,
    Worker,
    Tester,
    Docser,
}

impl Component {
    /// Its name in the API.
    pub fn word(self) -> &'static str {
        match self {
            Self::CycleManager => "cycle-manager",
            Self::Dispatcher => "dispatcher",
            Self::Judge => "judge",
            Self::Planner => "planner",
            Self::Api => "api",
            Self::Worker => "worker",
            Self::Tester => "tester",
            Self::Docser => "docser",
        }
    }
}

impl<T> Field<T> {
    /// The value as the original writes it.
    pub fn read(&self, spec: &T) -> String {
        match &self.kind {
            Kind::Flag { get, .. } => get(spec).to_string(),
            Kind::Whole { get, .. } => get(spec).to_string(),
            Kind::Limit { get, .. } => get(spec).unwrap_or(-1).to_string(),
            Kind::Millis { absent, get, .. } => {
                get(spec).and_then(millis).or(*absent).unwrap_or_default().to_string()
            }
            Kind::Ratio { get, .. } => get(spec).map_or_else(|| "-1".into(), ratio),
            Kind::Choice { get, .. } => get(spec).to_owned(),
            Kind::Text { get, .. } => get(spec).to_owned(),
        }
    }

    /// Sets the value. What is equal already is left as it is written; an empty text stands for the
    /// value in `default`, as in the original. Answers whether the spec was changed.
    ///
    /// # Errors
    /// What the value must be.
    pub fn assign(&self, spec: &mut T, default: &T, value: &str) -> Result<bool, String> {
        let (value, present) = (value.trim(), self.read(spec));
        if value == present {
            return Ok(false);
        }
        let fallback = self.read(default);
        let value = if value.is_empty() { fallback.as_str() } else { value };
        let bad = || self.wanted();
        match &self.kind {
            Kind::Flag { set, .. } => set(spec, flag(value).ok_or_else(bad)?),
            Kind::Whole { least, most, set, .. } => {
                set(spec, whole(value).filter(|n| (*least..=*most).contains(n)).ok_or_else(bad)?);
            }
            Kind::Limit { least, most, set, .. } => {
                let n = whole(value).filter(|n| *n == -1 || (*least..=*most).contains(n));
                set(spec, Some(n.ok_or_else(bad)?).filter(|n| *n != -1));
            }
            Kind::Millis { least, most, absent, set, .. } => {
                let n = whole(value).filter(|n| Some(*n) == *absent || (*least..=*most).contains(n));
                set(spec, Some(n.ok_or_else(bad)?).filter(|n| Some(*n) != *absent).map(duration));
            }
            Kind::Ratio { set, .. } => match value {
                "-1" => set(spec, None),
                ratio => set(spec, Some(percent(ratio).ok_or_else(bad)?)),
            },
            Kind::Choice { words, set, .. } => {
                set(spec, words.iter().find(|word| **word == value).ok_or_else(bad)?);
            }
            Kind::Text { optional, most, check, set, .. } => {
                let bounded = (*optional || !value.is_empty()) && value.chars().count() <= *most;
                if !bounded || value.chars().any(char::is_control) {
                    return Err(bad());
                }
                check(value)?;
                set(spec, value.to_owned());
            }
        }
        Ok(self.read(spec) != present)
    }

    /// What a value must be, e.g. `must be a whole number from 0 to 1000`.
    fn wanted(&self) -> String {
        format!("must be {}", self.range())
    }

    /// Type and range in words.
    pub fn range(&self) -> String {
        match &self.kind {
            Kind::Flag { .. } => "true or false".into(),
            Kind::Whole { least, most, .. } => format!("a whole number from {least} to {most}"),
            Kind::Limit { least, most: i64::MAX, .. } => {
                format!("-1 (unlimited) or a whole number of at least {least}")
            }
            Kind::Limit { least, most, .. } => {
                format!("-1 (unlimited) or a whole number from {least} to {most}")
            }
            Kind::Millis { least, most, absent: Some(none), .. } if none < least => {
                format!("{none} (none) or milliseconds from {least} to {most}")
            }
            Kind::Millis { least, most, .. } => format!("milliseconds from {least} to {most}"),
            Kind::Ratio { .. } => "-1 (none) or a ratio from 0.01 to 1 in steps of 0.01".into(),
            Kind::Choice { words, .. } => words.join(" or "),
            Kind::Text { optional: true, most, .. } => format!("a line of at most {most} characters"),
            Kind::Text { optional: false, most, .. } => format!("a line of 1 to {most} characters"),
        }
    }
}

/// Any text will do.
pub fn any(_: &str) -> Result<(), &'static str> {
    Ok(())
}

/// Word of an executor.
pub fn executor(pool: &AgentPoolSpec) -> String {
    snake(match pool.executor.type_ {
        crate::crd::ExecutorType::ClaudeCode => "ClaudeCode",
        crate::crd::ExecutorType::Codex => "Codex",
        // The original writes it as one word.
        crate::crd::ExecutorType::OpenCode => "Opencode",
        crate::crd::ExecutorType::Command => "Command",
        crate::crd::ExecutorType::Mock => "Mock",
    })
}

/// `true` or `false`, exactly: what else there was, the original took for either.
pub fn flag(text: &str) -> Option<bool> {
    match text {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

/// Decimal digits with at most a minus before them.
fn whole(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if plain { text.parse().ok() } else { None }
}

/// Whole milliseconds.
fn millis(duration: &GoDuration) -> Option<i64> {
    duration.parse().and_then(|d: Duration| i64::try_from(d.as_millis()).ok())
}

/// Milliseconds as people write them: `90s`, `5m`, `1500ms`.
fn duration(millis: i64) -> GoDuration {
    let millis = u64::try_from(millis).unwrap_or_default();
    if millis.is_multiple_of(1000) {
        GoDuration::from_secs(millis / 1000)
    } else {
        GoDuration(format!("{millis}ms"))
    }
}

/// Percent as a ratio: 30 is `0.3`.
pub(super) fn ratio(percent: i32) -> String {
    let text = format!("{}.{:02}", percent / 100, percent % 100);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A ratio in whole percent, 1 to 100; digits of a fraction beyond the second must be zeros.
fn percent(text: &str) -> Option<i32> {
    let (units, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    if units.is_empty() || units.len() > 3 || !digits(units) || !digits(fraction) {
        return None;
    }
    let (kept, rest) = fraction.split_at(fraction.len().min(2));
    let hundredths: i32 = format!("{kept:0<2}").parse().ok()?;
    let percent = units.parse::<i32>().ok()?.checked_mul(100)?.checked_add(hundredths)?;
    (rest.bytes().all(|b| b == b'0') && (1..=100).contains(&percent)).then_some(percent)
}

/// A number of a field that is smaller than the range that was checked.
pub fn narrow(n: i64) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}
