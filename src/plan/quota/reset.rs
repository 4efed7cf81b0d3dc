//! When a provider's limit resets, as failure texts state it (spec: convergence 4.6): a delay, a time of
//! day in the provider's zone, a Unix time, or a date. Every form is anchored at the failure (H8); the
//! latest one counts.

use std::sync::LazyLock;

use jiff::{SignedDuration, Timestamp, civil::Date, tz::TimeZone};
use regex::{Captures, Regex};

use super::millis;
use crate::plan::classify::pattern;

/// Furthest reset that can be stated; beyond it is not a reset but another number, and nobody would see
/// the Task again that waits for it.
pub const FURTHEST: SignedDuration = SignedDuration::from_hours(31 * 24);

static RETRY_IN: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?i)retry in ([0-9]+(?:\.[0-9]+)?)s"));
static DELAY_QUOTED: LazyLock<Regex> =
    LazyLock::new(|| pattern(r#"(?i)"retrydelay"\s*:\s*"([0-9]+(?:\.[0-9]+)?)\s*(ms|s|m)?""#));
static DELAY_PLAIN: LazyLock<Regex> =
    LazyLock::new(|| pattern(r#"(?i)retrydelay[":=\s]+([0-9]+(?:\.[0-9]+)?)(ms)?"#));
static RETRY_AFTER: LazyLock<Regex> = LazyLock::new(|| pattern(r#"(?i)retry-after[":=\s]+([0-9]{1,7})\b"#));
/// `try again in 3 days 4 hours 12 minutes`.
static IN_UNITS: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?i)\b(?:try again|resets?|available)\s+in\s+((?:[0-9]+(?:\.[0-9]+)?\s*(?:days?|hours?|hrs?|minutes?|mins?|seconds?|secs?|ms|d|h|m|s)\b[\s,]*(?:and\s+)?)+)",
    )
});
static UNIT: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?i)([0-9]+(?:\.[0-9]+)?)\s*(ms|d|h|m|s)"));
static CLOCK: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?i)(?-u:\b)(?:try again|retry|resets?|available)\s+(?:at\s+)?([0-9]{1,2})(?::([0-9]{2}))?\s*([ap])m(?-u:\b)(?:\s*\(?\s*([a-z]+(?:/[a-z_]+)*))?",
    )
});
/// `limit reached|1760000000`, `"resets_at": 1760000000`.
static UNIX: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r#"(?i)(?:limit reached\s*\||\bresets?[_-]?(?:at|time)?"?\s*[:=]\s*"?|ratelimit-reset[a-z-]*"?\s*[:=]\s*"?)\s*([0-9]{10}(?:[0-9]{3})?)\b"#,
    )
});
static DATE: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?i)(?:try again|retry|reset|available|until)[^\n]{0,40}?([0-9]{4}-[0-9]{2}-[0-9]{2})[t ]([0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]+)?)?)\s*(z|utc|[+-][0-9]{2}:[0-9]{2})?",
    )
});

/// `try again at Nov 24th, 2026 6:00 AM`, as Codex writes what is not today. Read in UTC, the zone in
/// which the runner starts it.
static LONG_DATE: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"(?i)(?:try again|resets?|available)\s+(?:at|on)\s+(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?\s+([0-9]{1,2})(?:st|nd|rd|th)?,?\s+([0-9]{4}),?\s+(?:at\s+)?([0-9]{1,2}):([0-9]{2})\s*([ap])m",
    )
});

/// The latest reset that a failure text states, or `None`. A time of day means the next such moment
/// after `failed_at`, in the zone that stands beside it, else in UTC.
pub fn stated_reset(message: &str, failed_at: Timestamp) -> Option<Timestamp> {
    stated_delay(message, failed_at).and_then(|delay| failed_at.checked_add(delay).ok())
}

/// Time from `failed_at` to the stated reset. `retryDelay` reads its unit: `ms`, `s`, `m`; none means
/// seconds (hazard H9).
pub fn stated_delay(message: &str, failed_at: Timestamp) -> Option<SignedDuration> {
    let clock = CLOCK.captures_iter(message).filter_map(|c| {
        let pm = group(&c, 3).eq_ignore_ascii_case("p");
        until_clock(group(&c, 1), group(&c, 2), pm, &zone(group(&c, 4)), failed_at)
    });
    let ahead = |at: Timestamp| {
        let delay = at.duration_since(failed_at);
        (delay.is_positive() && delay <= FURTHEST).then_some(delay)
    };
    let unix = UNIX.captures_iter(message).filter_map(|c| unix_time(group(&c, 1))).filter_map(ahead);
    let date = DATE
        .captures_iter(message)
        .filter_map(|c| date_time(group(&c, 1), group(&c, 2), group(&c, 3)))
        .filter_map(ahead);
    let long = LONG_DATE.captures_iter(message).filter_map(|c| long_date(&c)).filter_map(ahead);
    clock.chain(unix).chain(date).chain(long).chain(relative(message)).max()
}

/// The longest delay that is stated as one.
fn relative(message: &str) -> Option<SignedDuration> {
    let seconds =
        |number: &str, scale: f64| number.parse::<f64>().ok().map(|n| (n * scale * 1_000.0).round());
    let retry_in = RETRY_IN.captures_iter(message).filter_map(|c| seconds(group(&c, 1), 1.0));
    let after = RETRY_AFTER.captures_iter(message).filter_map(|c| seconds(group(&c, 1), 1.0));
    let quoted = DELAY_QUOTED.captures_iter(message).filter_map(|c| {
        let scale = match group(&c, 2).to_ascii_lowercase().as_str() {
            "ms" => 0.001,
            "m" => 60.0,
            _ => 1.0,
        };
        seconds(group(&c, 1), scale)
    });
    let plain = DELAY_PLAIN
        .captures_iter(message)
        .filter_map(|c| seconds(group(&c, 1), if c.get(2).is_some() { 0.001 } else { 1.0 }));
    let units = IN_UNITS.captures_iter(message).map(|c| in_units(group(&c, 1)));
    let all = retry_in.chain(after).chain(quoted).chain(plain).chain(units);
    let furthest = FURTHEST.as_secs_f64() * 1_000.0;
    let longest = all.filter(|ms| *ms > 0.0 && *ms <= furthest).fold(0.0, f64::max);
    millis(longest).filter(|delay| !delay.is_zero())
}

/// Milliseconds of `3 days 4 hours`.
fn in_units(text: &str) -> f64 {
    let one = |c: Captures| {
        let scale = match group(&c, 2).to_ascii_lowercase().as_str() {
            "ms" => 1.0,
            "d" => 86_400_000.0,
            "h" => 3_600_000.0,
            "m" => 60_000.0,
            _ => 1_000.0,
        };
        group(&c, 1).parse::<f64>().map_or(0.0, |n| n * scale)
    };
    UNIT.captures_iter(text).map(one).sum::<f64>().round()
}

/// Text of a group, empty when it took no part.
fn group<'a>(captures: &Captures<'a>, index: usize) -> &'a str {
    captures.get(index).map_or("", |found| found.as_str())
}

/// The zone of this name; UTC when it names none that is known. Written out, because neither the
/// operator nor an agent's image need have a zone database.
fn zone(name: &str) -> TimeZone {
    let rule = match name.to_ascii_lowercase().as_str() {
        "pst" => "PST8",
        "pdt" => "PDT7",
        "mst" => "MST7",
        "mdt" => "MDT6",
        "cst" => "CST6",
        "cdt" => "CDT5",
        "est" => "EST5",
        "edt" => "EDT4",
        "cet" => "CET-1",
        "cest" => "CEST-2",
        "jst" | "tokyo" | "asia/tokyo" => "JST-9",
        "asia/seoul" => "KST-9",
        "asia/shanghai" | "asia/hong_kong" | "asia/singapore" | "asia/taipei" => "<+08>-8",
        "ist" | "asia/kolkata" | "asia/calcutta" => "IST-5:30",
        "europe/london" | "europe/dublin" | "europe/lisbon" => "GMT0BST,M3.5.0/1,M10.5.0",
        "europe/helsinki" | "europe/kiev" | "europe/kyiv" | "europe/athens" => "EET-2EEST,M3.5.0/3,M10.5.0/4",
        "australia/sydney" | "australia/melbourne" => "AEST-10AEDT,M10.1.0,M4.1.0/3",
        "america/sao_paulo" => "<-03>3",
        "america/los_angeles" | "america/vancouver" | "us/pacific" => "PST8PDT,M3.2.0,M11.1.0",
        "america/denver" | "us/mountain" => "MST7MDT,M3.2.0,M11.1.0",
        "america/chicago" | "us/central" => "CST6CDT,M3.2.0,M11.1.0",
        "america/new_york" | "america/toronto" | "us/eastern" => "EST5EDT,M3.2.0,M11.1.0",
        // The rest of Europe in common time; places further east or west are named above.
        other if other.starts_with("europe/") => "CET-1CEST,M3.5.0,M10.5.0/3",
        _ => return TimeZone::UTC,
    };
    TimeZone::posix(rule).unwrap_or(TimeZone::UTC)
}

/// Time until it is `hour:minute` am or pm in `zone` (no minute: the full hour); a full day when it is
/// that time now.
fn until_clock(
    hour: &str,
    minute: &str,
    pm: bool,
    zone: &TimeZone,
    from: Timestamp,
) -> Option<SignedDuration> {
    let hour: i8 = hour.parse().ok()?;
    let minute: i8 = if minute.is_empty() { 0 } else { minute.parse().ok()? };
    if !(1..=12).contains(&hour) || minute > 59 {
        return None;
    }
    let hour = hour % 12 + if pm { 12 } else { 0 };
    let until = |day: Date| {
        let target = day.at(hour, minute, 0, 0).to_zoned(zone.clone()).ok()?;
        Some(target.timestamp().duration_since(from))
    };
    let today = from.to_zoned(zone.clone()).date();
    until(today).filter(|delay| delay.is_positive()).or_else(|| until(today.tomorrow().ok()?))
}

/// A date whose month is a word.
fn long_date(c: &Captures) -> Option<Timestamp> {
    const MONTHS: [&str; 12] =
        ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
    let name = group(c, 1).to_ascii_lowercase();
    let month = MONTHS.iter().position(|month| *month == name)? + 1;
    let hour: u8 = group(c, 4).parse().ok()?;
    let pm = group(c, 6).eq_ignore_ascii_case("p");
    let hour = (1..=12).contains(&hour).then_some(hour % 12 + if pm { 12 } else { 0 })?;
    let day: u8 = group(c, 2).parse().ok()?;
    format!("{}-{month:02}-{day:02}T{hour:02}:{}:00Z", group(c, 3), group(c, 5)).parse().ok()
}

/// Ten digits are seconds, thirteen are milliseconds.
fn unix_time(digits: &str) -> Option<Timestamp> {
    let number: i64 = digits.parse().ok()?;
    if digits.len() > 10 { Timestamp::from_millisecond(number) } else { Timestamp::from_second(number) }.ok()
}

/// A date and time with its offset, else in UTC.
fn date_time(date: &str, time: &str, offset: &str) -> Option<Timestamp> {
    let offset = if offset.starts_with(['+', '-']) { offset } else { "Z" };
    let time = if time.len() == 5 { format!("{time}:00") } else { time.to_string() };
    format!("{date}T{time}{offset}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a timestamp")
    }

    #[rstest]
    #[case("usage limit, resets 3am (Asia/Tokyo)", "2026-02-20T18:00:00Z")]
    #[case("resets at 3 am UTC", "2026-02-21T03:00:00Z")]
    #[case("resets 5pm (America/New_York)", "2026-02-20T22:00:00Z")]
    #[case("resets 3pm (Europe/Berlin)", "2026-02-20T14:00:00Z")]
    #[case("resets 6am PST", "2026-02-20T14:00:00Z")]
    #[case("try again at 2 PM in the afternoon", "2026-02-20T14:00:00Z")]
    #[case("Claude AI usage limit reached|1771596000", "2026-02-20T14:00:00Z")]
    #[case(r#"{"resets_at": 1771596000}"#, "2026-02-20T14:00:00Z")]
    #[case("x-ratelimit-reset-tokens: 1771596000500", "2026-02-20T14:00:00.5Z")]
    #[case("limit resets at 2026-02-20T14:00:00Z", "2026-02-20T14:00:00Z")]
    #[case("try again after 2026-02-20 15:00:00+01:00", "2026-02-20T14:00:00Z")]
    #[case("quota exceeded until 2026-02-20T14:00", "2026-02-20T14:00:00Z")]
    #[case("or try again at Feb 20th, 2026 2:00 PM.", "2026-02-20T14:00:00Z")]
    #[case("Retry-After: 3600", "2026-02-20T14:00:00Z")]
    #[case("Please try again in 11.5s.", "2026-02-20T13:00:11.5Z")]
    #[case("Try again in 1 day 4 hours 12 minutes.", "2026-02-21T17:12:00Z")]
    fn every_form_is_anchored_at_the_failure(#[case] message: &str, #[case] expected: &str) {
        assert_eq!(stated_reset(message, at("2026-02-20T13:00:00Z")), Some(at(expected)), "{message}");
    }

    #[test]
    fn a_time_in_summer_knows_of_summer_time() {
        let failed = at("2026-07-01T12:00:00Z");
        assert_eq!(stated_reset("resets 5pm (America/New_York)", failed), Some(at("2026-07-01T21:00:00Z")));
        assert_eq!(stated_reset("resets 5pm (Asia/Tokyo)", failed), Some(at("2026-07-02T08:00:00Z")));
    }

    #[rstest]
    #[case("limit reached|1771500000")]
    #[case("limit reached|9999999999")]
    #[case("reset on 2026-13-40T14:00:00Z")]
    #[case("until 2025-01-01T00:00:00Z")]
    #[case("order 1771596000 failed")]
    fn what_is_past_or_far_or_no_reset_states_none(#[case] message: &str) {
        assert_eq!(stated_reset(message, at("2026-02-20T13:00:00Z")), None, "{message}");
    }
}
