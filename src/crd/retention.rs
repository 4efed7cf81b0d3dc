//! How long what has ended is kept.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::GoDuration;

/// How long finished Runs, finished Operations, and finished Tasks that the product itself has made,
/// are kept in the cluster. Applied Tasks are never removed. With a database, nothing is removed that is not in it.
/// Left out as a whole: 168h and 1000.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Retention {
    /// Age after which they are removed. Absent: no age.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("self.matches('^([0-9]+([.][0-9]+)?(ms|s|m|h))+$') && duration(self) >= duration('1m') && duration(self) <= duration('87600h')").message("finishedAfter: must be a duration between 1m and 87600h, such as 168h"))]
    pub finished_after: Option<GoDuration>,
    /// How many of each kind are kept at most, the newest. Absent: any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_finished: Option<i32>,
}

impl Default for Retention {
    fn default() -> Self {
        Self { finished_after: Some(GoDuration::from_secs(168 * 3600)), max_finished: Some(1000) }
    }
}
