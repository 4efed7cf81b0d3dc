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
        let mut millis = 0f64;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
            let (number, tail) = rest.split_at(digits);
            let unit = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(unit);
            let scale = match unit {
                "ms" => 1.0,
                "s" => 1_000.0,
                "m" => 60_000.0,
                "h" => 3_600_000.0,
                _ => return None,
            };
            millis += number.parse::<f64>().ok()? * scale;
            rest = tail;
        }
        Duration::try_from_secs_f64(millis / 1_000.0).ok()
    }

    /// The duration, or `default` when absent or unreadable.
    pub fn or(value: Option<&Self>, default: Duration) -> Duration {
        value.and_then(Self::parse).unwrap_or(default)
    }
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
        for bad in ["", "5", "-5m", "5d", "m", "1h-3m", "1..5s"] {
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
