//! Durations as people write them in Kubernetes: Go-style strings such as `30s`, `5m`, `1h30m`.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A Go-style duration string. The schema's CEL rules bound each use; parsing never panics.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct GoDuration(#[schemars(length(min = 1, max = 32))] pub String);

impl GoDuration {
    /// A duration of whole seconds, written the shortest way (`90s`, `5m`, `2h`).
    pub fn from_secs(secs: u64) -> Self {
        if secs > 0 && secs.is_multiple_of(3600) {
            Self(format!("{}h", secs / 3600))
        } else if secs > 0 && secs.is_multiple_of(60) {
            Self(format!("{}m", secs / 60))
        } else {
            Self(format!("{secs}s"))
        }
    }

    /// The duration, or `None` when the text is not a sequence of number and unit (`h`, `m`, `s`, `ms`).
    pub fn parse(&self) -> Option<Duration> {
        let mut rest = self.0.as_str();
        if rest.is_empty() {
            return None;
        }
        let mut nanos = 0u128;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
            let (number, tail) = rest.split_at(digits);
            let unit = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(unit);
            let scale = match unit {
                "ms" => 1_000_000,
                "s" => 1_000_000_000,
                "m" => 60_000_000_000,
                "h" => 3_600_000_000_000,
                _ => return None,
            };
            nanos = nanos.checked_add(scaled(number, scale)?)?;
            rest = tail;
        }
        let rest = u32::try_from(nanos % 1_000_000_000).ok()?;
        Some(Duration::new(u64::try_from(nanos / 1_000_000_000).ok()?, rest))
    }

    /// The duration, or `default` when absent or unreadable.
    pub fn or(value: Option<&Self>, default: Duration) -> Duration {
        value.and_then(Self::parse).unwrap_or(default)
    }
}

/// A decimal number times `scale`, exact down to a whole nanosecond.
fn scaled(number: &str, scale: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let digits = |text: &str| if text.is_empty() { Some(0) } else { text.parse::<u128>().ok() };
    // More digits than a nanosecond of an hour has say nothing.
    let fraction = fraction.get(..fraction.len().min(18)).filter(|_| !fraction.contains('.'))?;
    let places = 10u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let part = digits(fraction)?.checked_mul(scale)? / places;
    digits(whole)?.checked_mul(scale)?.checked_add(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_go_reads() {
        let ms = |s: &str| GoDuration(s.into()).parse().map(|d| d.as_millis());
        assert_eq!(ms("30s"), Some(30_000));
        assert_eq!(ms("1h30m"), Some(5_400_000));
        assert_eq!(ms("1.5s"), Some(1_500));
        assert_eq!(ms("250ms"), Some(250));
        assert_eq!(ms("86399999ms"), Some(86_399_999), "no millisecond is lost");
        assert_eq!(ms("2.345s"), Some(2_345));
        assert_eq!((ms(".5s"), ms("1.s")), (Some(500), Some(1_000)));
        for bad in ["", ".s", "5", "-5m", "5d", "m", "1h-3m", "1..5s"] {
            assert_eq!(ms(bad), None, "{bad}");
        }
    }

    #[test]
    fn writes_the_shortest_form() {
        assert_eq!(GoDuration::from_secs(7200).0, "2h");
        assert_eq!(GoDuration::from_secs(300).0, "5m");
        assert_eq!(GoDuration::from_secs(90).0, "90s");
        assert_eq!(GoDuration::from_secs(0).0, "0s");
    }
}
