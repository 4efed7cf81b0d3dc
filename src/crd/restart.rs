//! Agents that crash: the settings of their restart, and how a Run says so.

use std::time::Duration;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::GoDuration;

/// What happens to an agent whose container crashed, ran out of memory or hung: it takes no Runs for
/// a while, longer with each crash. What becomes of the Task is another matter (`recovery`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AutoRestart {
    /// False: an agent that has crashed takes no Runs until an Operation of type Start frees it.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// Wait after the first crash; doubles with each further one up to 60s.
    #[serde(default = "default_delay")]
    #[x_kube(validation = Rule::new("self.matches('^([0-9]+([.][0-9]+)?(ms|s|m|h))+$') && duration(self) <= duration('60s')").message("delay: must be a duration of at most 60s, such as 2s"))]
    pub delay: GoDuration,
    /// Crashes are counted from the first one for this long, then anew.
    #[serde(default = "default_window")]
    #[x_kube(validation = Rule::new("self.matches('^([0-9]+([.][0-9]+)?(ms|s|m|h))+$') && duration(self) >= duration('1s') && duration(self) <= duration('24h')").message("window: must be a duration between 1s and 24h, such as 5m"))]
    pub window: GoDuration,
    /// Restarts within a window; at the next crash the agent takes no Runs until an Operation of type
    /// Start frees it. Absent: unlimited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_attempts: Option<i32>,
}

impl Default for AutoRestart {
    fn default() -> Self {
        Self { enabled: true, delay: default_delay(), window: default_window(), max_attempts: None }
    }
}

fn yes() -> bool {
    true
}

fn default_delay() -> GoDuration {
    GoDuration::from_secs(2)
}

fn default_window() -> GoDuration {
    GoDuration::from_secs(300)
}

impl AutoRestart {
    /// `delay` as a duration.
    pub fn delay(&self) -> Duration {
        GoDuration::or(Some(&self.delay), Duration::from_secs(2))
    }

    /// `window` as a duration.
    pub fn window(&self) -> Duration {
        GoDuration::or(Some(&self.window), Duration::from_secs(300))
    }
}

/// How the agent container itself came to its end, when it did not end by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AgentCrash {
    /// By a signal: a crash, or the liveness probe after no sign of life.
    Killed,
    /// It needed more memory than its limit.
    OutOfMemory,
}
