//! The clock of a container: for requests to a forge, whose answers name waits and times and whose App
//! proofs carry one. Everything that decides takes the time as an argument.

use jiff::Timestamp;

/// The present time.
pub fn now() -> Timestamp {
    Timestamp::now()
}
