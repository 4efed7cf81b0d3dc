//! How the work of an attempt is kept for the next: a part of an AgentPool's spec.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::GoDuration;

/// How the work of an attempt is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Checkpoint {
    /// Time between two saves while the agent works. What an interrupted attempt leaves is saved at its
    /// end, too, unless its node is lost.
    #[serde(default = "default_interval")]
    #[x_kube(validation = Rule::new("self.matches('^([0-9]+([.][0-9]+)?(ms|s|m|h))+$') && duration(self) >= duration('10s') && duration(self) <= duration('1h')").message("interval: must be a duration between 10s and 1h, such as 5m"))]
    pub interval: GoDuration,
}

fn default_interval() -> GoDuration {
    GoDuration("5m".into())
}
