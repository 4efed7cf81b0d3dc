//! How a change is verified beside the Task's own commands.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Where the contract is when nobody says otherwise (spec agents 3.4).
pub const CONTRACT_PATH: &str = ".opentiger/verify.contract.json";

/// Where commands come from that no Task names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AutomaticCommands {
    /// From the repository's contract, for Tasks with and without commands of their own.
    #[default]
    Contract,
    /// There are none.
    Off,
}

/// Commands that verify a change although its Task does not name them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct VerificationSettings {
    /// Where they come from.
    #[serde(default)]
    pub automatic: AutomaticCommands,
    /// The contract, relative to the root of the repository. It is read from the revision that the work
    /// starts from, before the agent starts.
    #[serde(default = "default_contract_path")]
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = Rule::new("!self.startsWith('/') && !self.endsWith('/') && !self.matches('(^|/)[.][.](/|$)')").message("contractPath: must be a file relative to the repository, without '..', such as .opentiger/verify.contract.json"))]
    pub contract_path: String,
    /// Most automatic commands of one verification.
    #[serde(default = "default_max_automatic_commands")]
    #[schemars(range(min = 1, max = 20))]
    pub max_automatic_commands: i32,
    /// True: once a command of the Task has passed, the failure of the last automatic command is
    /// reported and passed over. False: it fails the Run.
    #[serde(default = "default_automatic_may_fail")]
    pub automatic_may_fail: bool,
}

impl Default for VerificationSettings {
    fn default() -> Self {
        Self {
            automatic: AutomaticCommands::default(),
            contract_path: default_contract_path(),
            max_automatic_commands: default_max_automatic_commands(),
            automatic_may_fail: default_automatic_may_fail(),
        }
    }
}

impl VerificationSettings {
    /// Most automatic commands that there can be.
    pub fn most(&self) -> usize {
        match self.automatic {
            AutomaticCommands::Contract => usize::try_from(self.max_automatic_commands).unwrap_or_default(),
            AutomaticCommands::Off => 0,
        }
    }
}

fn default_contract_path() -> String {
    CONTRACT_PATH.into()
}

fn default_max_automatic_commands() -> i32 {
    4
}

fn default_automatic_may_fail() -> bool {
    true
}
