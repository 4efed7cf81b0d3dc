//! What holds for any words of a provider: nothing panics, and a stated reset lies ahead and within reach.

use jiff::Timestamp;
use proptest::prelude::*;

use super::*;

const FRAGMENTS: [&str; 38] = [
    "429",
    "retry after ",
    "retry-after: ",
    "please retry in ",
    "try again in ",
    "try again at ",
    "in ",
    "90s",
    "5h",
    "ms",
    "m",
    "s",
    " days ",
    "3",
    "0",
    "12:99",
    "3:15 am",
    "11pm",
    "(UTC)",
    "(Europe/Berlin)",
    "(No/Where)",
    "resets ",
    "resets at ",
    "1764000000",
    "99999999999",
    "2026-11-24T06:00:00Z",
    "2026-02-31 25:61",
    "-",
    ".",
    "e9",
    "retryDelay",
    "\": \"",
    "usage limit reached|",
    "rate limit",
    "Nov 31st, 2026 6:00 AM",
    "quota",
    "tokens per minute",
    "\n",
];

fn texts() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        5 => prop::sample::select(&FRAGMENTS[..]).prop_map(String::from),
        1 => any::<String>(),
        1 => "[0-9]{1,22}",
    ];
    prop::collection::vec(part, 0..12).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_stated_reset_lies_ahead_and_within_reach(text in texts(), second in 0_i64..4_000_000_000) {
        let failed_at = Timestamp::from_second(second).expect("a time");
        let _ = (is_quota(&text), refusal(&text));
        if let Some(delay) = stated_delay(&text, failed_at) {
            prop_assert!(delay.is_positive() && delay <= FURTHEST, "{text:?}: {delay:?}");
            prop_assert_eq!(stated_reset(&text, failed_at), failed_at.checked_add(delay).ok());
        }
        let waits = backoff("task", 3, BackoffPolicy::default(), &text, failed_at);
        prop_assert!(waits.cooldown.is_positive() && waits.cooldown <= FURTHEST, "{text:?}: {waits:?}");
    }
}
