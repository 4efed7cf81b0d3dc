//! Token budgets: the settings in the System and what has been used.

use jiff::Timestamp;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Tokens that may be used. Absent: unlimited. When the budget of an hour or a day is used up, Runs in
/// progress are not ended: they may exceed it by what they still use.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Budgets {
    /// Tokens of all Runs of one Task; then it is not tried again. An attempt in progress is ended once
    /// its agent reports that they are used up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub per_task: Option<i64>,
    /// Tokens of all Runs that end within one hour of the clock (UTC); then nothing starts until the
    /// next hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub per_hour: Option<i64>,
    /// Tokens of all Runs that end within one day (UTC); then nothing starts until the next day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub per_day: Option<i64>,
}

/// Tokens used in the hour and in the day in which a Run has ended last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TokenLedger {
    /// Beginning of the hour (UTC).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub hour: Option<Timestamp>,
    /// Tokens of the Runs that have ended in that hour.
    pub hour_tokens: i64,
    /// Beginning of the day (UTC).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub day: Option<Timestamp>,
    /// Tokens of the Runs that have ended in that day.
    pub day_tokens: i64,
}
