//! What continuous integration says of a commit (spec agents 5.3, CI).
//!
//! Owns the meaning of a forge's words for one check, and of all checks together. It fetches nothing.
//! In repository mode `Git` there is no such integration: the Run's own verification has passed, so
//! the answer is [`Ci::Success`].

/// What all checks of a commit say together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ci {
    /// Nothing failed and nothing is open; also when there are no checks.
    Success,
    /// Names of the checks that failed.
    Failure(Vec<String>),
    /// Names of the checks that are not over. That is a wait, not a verdict (trap Q18).
    Pending(Vec<String>),
    /// They could not be read, and why. Not a verdict either.
    Unreadable(String),
}

/// What one check says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckState {
    Success,
    Failure,
    Pending,
    /// Says nothing.
    Skipped,
}

impl CheckState {
    /// The original's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Pending => "pending",
            Self::Skipped => "skipped",
        }
    }
}

/// State of a check run by its `status` and `conclusion`. An unknown conclusion is pending, as is
/// `action_required`, which a person ends; `stale` and `startup_failure` never become anything else and
/// count as failures (the original waits for them for ever).
pub fn check_run(status: &str, conclusion: Option<&str>) -> CheckState {
    if status != "completed" {
        return CheckState::Pending;
    }
    match conclusion.unwrap_or_default() {
        "success" => CheckState::Success,
        "failure" | "timed_out" | "cancelled" | "error" | "stale" | "startup_failure" => CheckState::Failure,
        "skipped" | "neutral" => CheckState::Skipped,
        _ => CheckState::Pending,
    }
}

/// State of a combined status by its `state`.
pub fn commit_status(state: &str) -> CheckState {
    match state {
        "success" => CheckState::Success,
        "failure" | "error" => CheckState::Failure,
        _ => CheckState::Pending,
    }
}

/// All checks, with their names, together: any failure is a failure, else any open one is pending.
pub fn together<'a>(checks: impl IntoIterator<Item = (&'a str, CheckState)>) -> Ci {
    let (mut failed, mut open) = (Vec::new(), Vec::new());
    for (name, state) in checks {
        match state {
            CheckState::Failure => failed.push(name.to_string()),
            CheckState::Pending => open.push(name.to_string()),
            CheckState::Success | CheckState::Skipped => {}
        }
    }
    if !failed.is_empty() {
        Ci::Failure(failed)
    } else if !open.is_empty() {
        Ci::Pending(open)
    } else {
        Ci::Success
    }
}
