//! Priority of a Task: the score that people see and the key that orders the dispatcher's queue.
//!
//! Owns the weights (spec: convergence 3.5). Ageing has no ceiling (design 4: starvation), so the
//! order of two Tasks is the same at every moment and one key computed at creation stands for it.

use std::time::Duration;

use jiff::Timestamp;

use crate::crd::task::RiskLevel;

/// One point of score in milliseconds of age: ageing gives two points an hour.
const MILLIS_PER_POINT: i64 = 1_800_000;
/// Points for a Task that is over quickly.
const SHORT_BONUS: i64 = 5;
/// Longest timebox that counts as quick.
const SHORT_TIMEBOX: Duration = Duration::from_secs(30 * 60);

/// Order of dispatch that does not depend on the time of the question: a greater key goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StaticKey(i64);

/// The key of a Task. For any two Tasks and any `now`, the order of their keys is the order of their
/// scores ([`score`]), to the millisecond of their creation.
pub fn static_key(priority: i32, risk: RiskLevel, timebox: Duration, created_at: Timestamp) -> StaticKey {
    let points = base_points(priority, risk, timebox);
    StaticKey(points * MILLIS_PER_POINT - created_at.as_millisecond())
}

/// The key of a merge: by priority, then by the time of approval. Here too waiting counts without a
/// ceiling, or a stream of better ones would starve it: five hours make up for a step of priority.
pub fn merge_key(priority: i32, approved_at: Timestamp) -> StaticKey {
    StaticKey(i64::from(priority) * 10 * MILLIS_PER_POINT - approved_at.as_millisecond())
}

/// Score at `now`, for display: `priority * 10 * weight of risk + 2 * hours of age`, and 5 more for a
/// timebox of at most 30 minutes. A creation time in the future gives negative age.
pub fn score(
    priority: i32,
    risk: RiskLevel,
    timebox: Duration,
    created_at: Timestamp,
    now: Timestamp,
) -> f64 {
    let age = now.as_millisecond() - created_at.as_millisecond();
    let scaled = base_points(priority, risk, timebox) * MILLIS_PER_POINT + age;
    // Both are far below 2^53, where f64 is exact.
    #[expect(clippy::cast_precision_loss)]
    let score = scaled as f64 / MILLIS_PER_POINT as f64;
    score
}

/// Points that do not change with age. Low risk weighs 1.5, medium 1, high 0.5.
fn base_points(priority: i32, risk: RiskLevel, timebox: Duration) -> i64 {
    let weight = match risk {
        RiskLevel::Low => 15,
        RiskLevel::Medium => 10,
        RiskLevel::High => 5,
    };
    let bonus = if timebox <= SHORT_TIMEBOX { SHORT_BONUS } else { 0 };
    i64::from(priority) * weight + bonus
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOUR: i64 = 3_600_000;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(millis).expect("in range")
    }

    #[test]
    fn low_risk_outweighs_a_higher_priority_of_high_risk() {
        let minutes = |m: u64| Duration::from_secs(60 * m);
        assert_eq!(score(1, RiskLevel::Low, minutes(60), at(0), at(0)), 15.0);
        assert_eq!(score(2, RiskLevel::High, minutes(60), at(0), at(0)), 10.0);
        assert_eq!(score(2, RiskLevel::High, minutes(30), at(0), at(0)), 15.0);
        assert_eq!(score(2, RiskLevel::High, minutes(31), at(0), at(0)), 10.0);
        assert_eq!(score(0, RiskLevel::Low, minutes(60), at(0), at(100 * HOUR)), 200.0);
        assert_eq!(score(0, RiskLevel::Low, minutes(60), at(HOUR), at(0)), -2.0);
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn the_key_orders_as_the_score_does_at_any_moment(
            a in (-1000i32..=1000, 0usize..3, 1u64..1440, 0i64..1_000 * HOUR),
            b in (-1000i32..=1000, 0usize..3, 1u64..1440, 0i64..1_000 * HOUR),
            now in 0i64..2_000 * HOUR,
        ) {
            let risk = [RiskLevel::Low, RiskLevel::Medium, RiskLevel::High];
            let of = |t: (i32, usize, u64, i64)| {
                let timebox = Duration::from_secs(60 * t.2);
                (static_key(t.0, risk[t.1], timebox, at(t.3)),
                 score(t.0, risk[t.1], timebox, at(t.3), at(now)))
            };
            let ((key_a, score_a), (key_b, score_b)) = (of(a), of(b));
            prop_assert_eq!(Some(key_a.cmp(&key_b)), score_a.partial_cmp(&score_b));
        }
    }
}
