//! What an AgentPool says about the network: where its Pods may connect to and whom they trust.
//!
//! Must not know how a NetworkPolicy or a Pod is built from it.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Addresses and TCP ports that the pool's Pods may reach besides DNS, the git host and the proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Egress {
    /// Ranges that may be reached; empty: none.
    #[serde(default)]
    #[schemars(length(max = 50))]
    pub allow: Vec<EgressRule>,
}

/// One range of addresses with the TCP ports that may be reached there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.except) || !isCIDR(self.cidr) || self.except.all(e, !isCIDR(e) || (cidr(self.cidr).containsCIDR(e) && cidr(self.cidr).prefixLength() < cidr(e).prefixLength()))").message("except: must be smaller ranges within cidr"))]
pub struct EgressRule {
    /// Range of addresses.
    #[schemars(length(max = 64))]
    #[x_kube(validation = Rule::new("isCIDR(self)").message("cidr: must be a range such as 0.0.0.0/0 or 10.0.0.0/8"))]
    pub cidr: String,
    /// Ranges within it that may not be reached.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50), inner(length(max = 64)))]
    #[x_kube(validation = Rule::new("self.all(c, isCIDR(c))").message("except: must be ranges such as 10.0.0.0/8"))]
    pub except: Vec<String>,
    /// Empty: every port.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 50), inner(range(min = 1, max = 65535)))]
    pub ports: Vec<i32>,
}

/// Where certificates are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CaBundleKind {
    #[default]
    ConfigMap,
    Secret,
}

impl CaBundleKind {
    /// The CamelCase word.
    pub fn word(self) -> &'static str {
        match self {
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
        }
    }
}

/// Key of a ConfigMap or Secret in the same namespace that holds certificates as PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct CaBundleRef {
    /// Where it is kept.
    #[serde(default)]
    pub kind: CaBundleKind,
    /// Name of the ConfigMap or Secret.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Key in it.
    #[serde(default = "default_key")]
    #[schemars(length(max = 253))]
    #[x_kube(validation = Rule::new("self.matches('^[A-Za-z0-9._-]+$')").message("key: must be a key of a ConfigMap or Secret such as ca.crt"))]
    pub key: String,
}

fn default_key() -> String {
    "ca.crt".into()
}
