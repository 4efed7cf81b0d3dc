//! Provider limits: recognising one in a failure text, and when to try again.
//!
//! Owns the detector (spec: convergence 4.5, corrections row 3) and the back-off without a stated reset
//! (convergence 4.6); how a reset is stated is in [`reset`]. A stated time is anchored at the moment of the
//! failure, never at the moment of the question (hazard H8).

mod refusal;
mod reset;

use std::sync::LazyLock;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use regex::Regex;

pub use self::refusal::{Refusal, refusal};
pub use self::reset::{FURTHEST, stated_delay, stated_reset};
use super::classify::pattern;

/// Texts that mean a provider limit by themselves.
static DIRECT: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?i)quota exceeded|resource(?:_| | has been )exhausted|quota limit reached|generate_requests_per_model_per_day|generate_content_paid_tier_input_token_count|retryinfo|too many requests|(?-u:\b)429(?-u:\b)|(?-u:\b)hit your (?:usage )?limit(?-u:\b)|(?-u:\b)usage limit(?-u:\b)|(?-u:\b)resets?\s+(?:at\s+)?[0-9]{1,2}(?::[0-9]{2})?\s*[ap]m(?-u:\b)|daily limit|monthly limit",
    )
});

/// Words that mean a provider limit beside a cool-down or a scope.
static SIGNAL: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?i)(?-u:\b)(?:quota|rate[\s_-]?limit(?:ed)?|throttl(?:e|ed|ing)|429|insufficient[\s_-]?quota|resource[\s_-]?exhausted|too many requests)(?-u:\b)",
    )
});

/// Words of waiting.
static COOLDOWN: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?i)(?-u:\b)(?:wait|waiting|retry|retrying|try again|reset|resets|resetting|per[\s_-]?(?:second|minute|hour|day)|[0-9]{1,2}(?::[0-9]{2})?\s*[ap]m|utc|jst|tokyo|pst|est|cst|gmt)(?-u:\b)",
    )
});

/// Words for what is limited.
static SCOPE: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"(?i)(?-u:\b)(?:tokens?|credits?|api|rpm|tpm)(?-u:\b)"));

/// Whether a failure text says that the provider's limit was reached.
pub fn is_quota(message: &str) -> bool {
    DIRECT.is_match(message)
        || (SIGNAL.is_match(message) && (COOLDOWN.is_match(message) || SCOPE.is_match(message)))
}

fn millis(ms: f64) -> Option<SignedDuration> {
    SignedDuration::try_from_secs_f64(ms / 1_000.0)
        .ok()
        .map(|d| d.round(jiff::SignedDurationRound::new().smallest(jiff::Unit::Millisecond)))
        .and_then(Result::ok)
}

/// How waits grow while no reset is stated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BackoffPolicy {
    /// First wait; at least one second.
    pub base: Duration,
    /// Longest wait; at least `base`.
    pub max: Duration,
    /// Growth per wait; 2 unless above 1.
    pub factor: f64,
    /// Share of the wait that spreads Tasks apart, 0 to 1; 0.2 when negative.
    pub jitter: f64,
}

impl Default for BackoffPolicy {
    fn default() -> Self {
        Self { base: Duration::from_secs(30), max: Duration::from_secs(30 * 60), factor: 2.0, jitter: 0.2 }
    }
}

/// A wait for a provider limit, with what it was made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// How long to wait from the failure on.
    pub cooldown: SignedDuration,
    /// The delay the provider stated.
    pub stated: Option<SignedDuration>,
    pub exponential: SignedDuration,
    pub jitter: SignedDuration,
}

/// Wait after the `retries`-th quota failure (from 0) of a Task that failed at `failed_at`. A stated
/// reset is taken as it is, also above the maximum; the exponential with its deterministic jitter
/// applies only without one (design 4).
pub fn backoff(
    task_uid: &str,
    retries: u32,
    policy: BackoffPolicy,
    message: &str,
    failed_at: Timestamp,
) -> Backoff {
    let base = (policy.base.as_secs_f64() * 1_000.0).floor().max(1_000.0);
    let max = (policy.max.as_secs_f64() * 1_000.0).floor().max(base);
    let factor = if policy.factor > 1.0 { policy.factor } else { 2.0 };
    let exponential = (base * factor.powf(f64::from(retries))).ceil().min(max);
    let ratio = if policy.jitter >= 0.0 { policy.jitter.min(1.0) } else { 0.2 };
    let spread = (exponential * ratio).floor() + 1.0;
    let stated = stated_delay(message, failed_at);
    let jitter = if stated.is_some() {
        0.0
    } else {
        f64::from(rolling_hash(&format!("{task_uid}:{retries}"))) % spread
    };
    let whole = |ms: f64| millis(ms).unwrap_or(SignedDuration::MAX);
    Backoff {
        cooldown: stated.unwrap_or_else(|| whole((exponential + jitter).min(max))),
        stated,
        exponential: whole(exponential),
        jitter: whole(jitter),
    }
}

/// `h = h * 31 + unit` over the UTF-16 units, in 32 bits.
fn rolling_hash(text: &str) -> u32 {
    text.encode_utf16().fold(0u32, |h, unit| h.wrapping_mul(31).wrapping_add(u32::from(unit)))
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a timestamp")
    }

    #[rstest]
    #[case("expected rate limit header to equal 10", false)]
    #[case("memory limit exceeded", false)]
    #[case("code 4290", false)]
    #[case("quota retryDelay", false)]
    #[case("HTTP 429", true)]
    #[case("You've hit your limit · resets 3am (Asia/Tokyo)", true)]
    #[case("throttled, retry later", true)]
    #[case("rate-limit: 20 rpm", true)]
    #[case("", false)]
    fn a_limit_needs_a_clear_word_a13(#[case] message: &str, #[case] expected: bool) {
        assert_eq!(is_quota(message), expected, "{message}");
    }

    #[rstest]
    #[case(r#""retryDelay":"1500ms""#, Some(1_500))]
    #[case("retryDelay: 7200ms", Some(7_200))]
    #[case(r#""retryDelay": "2m""#, Some(120_000))]
    #[case("please retry in 7200s", Some(7_200_000))]
    #[case("try again at 1:50 PM", Some(505_000))]
    #[case("try again at 1:10 PM", Some(84_505_000))]
    #[case("try again at 13 pm", None)]
    #[case("try again at 0:10 am", None)]
    #[case("try again at 5:75 pm", None)]
    #[case("retry in 0s", None)]
    #[case("retry in 99999999999999999999999999999999999999999s", None)]
    fn a_stated_delay_keeps_its_unit(#[case] message: &str, #[case] expected: Option<i128>) {
        let delay = stated_delay(message, at("2026-02-20T13:41:35Z"));
        assert_eq!(delay.map(|d| d.as_millis()), expected, "{message}");
    }

    #[test]
    fn a_stated_reset_does_not_move_with_the_question() {
        let failed = at("2026-02-20T13:00:00Z");
        assert_eq!(stated_reset("try again at 2 PM", failed), Some(at("2026-02-20T14:00:00Z")));
        assert_eq!(stated_reset("nothing", failed), None);
    }

    #[test]
    fn waits_double_spread_and_stop_at_the_maximum() {
        let policy = BackoffPolicy { base: Duration::from_secs(120), ..BackoffPolicy::default() };
        let wait = |n| backoff("task-1", n, policy, "", at("2026-02-20T12:00:00Z")).cooldown;
        let waits: Vec<i128> = (0..6).map(|n| wait(n).as_millis()).collect();
        assert_eq!(waits, [123_917, 276_822, 557_276, 961_503, 1_800_000, 1_800_000]);
        let stated = backoff("task-1", 0, policy, "please retry in 7200s", at("2026-02-20T12:00:00Z"));
        assert_eq!(stated.cooldown.as_millis(), 7_200_000);
    }
}
