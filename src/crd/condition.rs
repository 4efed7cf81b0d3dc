//! `metav1.Condition` with the rules of the Kubernetes API conventions: list-map by type, positive
//! polarity, `lastTransitionTime` moves only when the status changes.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One observation about an object, in the standard shape.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// CamelCase name of the condition, unique in its list.
    #[serde(rename = "type")]
    #[schemars(length(max = 64))]
    pub type_: String,
    /// `True`, `False` or `Unknown`.
    #[schemars(length(max = 16))]
    pub status: String,
    /// CamelCase word for the cause of the last transition.
    #[schemars(length(max = 128))]
    pub reason: String,
    /// One sentence for a person.
    #[schemars(length(max = 2048))]
    pub message: String,
    /// When `status` last changed.
    #[schemars(with = "String")]
    pub last_transition_time: Timestamp,
    /// Generation of the spec this was computed from.
    #[serde(default)]
    pub observed_generation: i64,
}

/// Sets `type_` in `list`. Returns whether anything changed. `lastTransitionTime` is kept when the
/// status stays the same, so that an unchanged fact causes no write.
pub fn set_condition(
    list: &mut Vec<Condition>,
    type_: &str,
    status: bool,
    reason: &str,
    message: &str,
    generation: i64,
    now: Timestamp,
) -> bool {
    let status = if status { "True" } else { "False" };
    let message: String = message.chars().take(1024).collect();
    match list.iter_mut().find(|c| c.type_ == type_) {
        Some(c) => {
            let same = c.status == status && c.reason == reason && c.message == message;
            if same {
                return false;
            }
            if c.status != status {
                c.last_transition_time = now;
            }
            c.status = status.into();
            c.reason = reason.into();
            c.message = message;
            c.observed_generation = generation;
            true
        }
        None => {
            list.push(Condition {
                type_: type_.into(),
                status: status.into(),
                reason: reason.into(),
                message,
                last_transition_time: now,
                observed_generation: generation,
            });
            true
        }
    }
}

/// Whether `type_` is present with status `True`.
pub fn is_true(list: &[Condition], type_: &str) -> bool {
    list.iter().any(|c| c.type_ == type_ && c.status == "True")
}
