//! How much one client may ask in a minute. Counted by identity (a key's name, a Kubernetes user), by
//! address where there is none; failed authentications are counted by address besides.
//!
//! Fixed windows, as the original's. Each replica counts for itself. Memory is bounded: what finds no
//! place shares one window.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::{HeaderMap, HeaderValue};

/// One window.
const WINDOW: Duration = Duration::from_secs(60);
/// Clients counted one by one, of each sort.
const MAX_CLIENTS: usize = 10_000;
/// Time between two searches for windows that are over, when there is no place left.
const SWEEP: Duration = Duration::from_secs(1);
/// One failed authentication for so many requests.
const FAILURES: u32 = 10;

/// What is left of one client's window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    pub limit: u32,
    pub remaining: u32,
    /// Seconds until the next window, at least 1.
    pub reset: u64,
    /// Whether this request is within the limit.
    pub allowed: bool,
}

impl Budget {
    /// `X-RateLimit-Limit`, `-Remaining` and `-Reset`.
    pub fn write(&self, headers: &mut HeaderMap) {
        headers.insert("x-ratelimit-limit", HeaderValue::from(self.limit));
        headers.insert("x-ratelimit-remaining", HeaderValue::from(self.remaining));
        headers.insert("x-ratelimit-reset", HeaderValue::from(self.reset));
    }
}

/// All windows.
pub struct Limits {
    /// Those who said who they are.
    pub identities: Windows,
    /// Addresses.
    pub addresses: Windows,
    /// Failed authentications of addresses.
    pub failures: Windows,
}

impl Limits {
    /// `per_minute` requests for each, and a tenth of it failed authentications. `None` for 0: no limit.
    pub fn new(per_minute: u32) -> Option<Self> {
        (per_minute > 0).then(|| Self {
            identities: Windows::new(per_minute),
            addresses: Windows::new(per_minute),
            failures: Windows::new((per_minute / FAILURES).max(1)),
        })
    }
}

/// The windows of one sort of client.
pub struct Windows {
    limit: u32,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    windows: HashMap<String, Window>,
    swept: Option<Instant>,
}

struct Window {
    began: Instant,
    used: u32,
}

impl Windows {
    fn new(limit: u32) -> Self {
        Self { limit, open: Mutex::default() }
    }

    /// Counts one request of `client` at `now`.
    pub fn take(&self, client: &str, now: Instant) -> Budget {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let client = open.place(client, now);
        let window = open.windows.entry(client.to_owned()).or_insert(Window { began: now, used: 0 });
        if now.saturating_duration_since(window.began) >= WINDOW {
            *window = Window { began: now, used: 0 };
        }
        window.used = window.used.saturating_add(1);
        self.budget(window, now)
    }

    /// What `client` has left, without counting: `allowed` when one more would be.
    pub fn look(&self, client: &str, now: Instant) -> Budget {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let client = open.place(client, now);
        let full = Window { began: now, used: 0 };
        let window = open.windows.get(client);
        let window = window.filter(|w| now.saturating_duration_since(w.began) < WINDOW).unwrap_or(&full);
        Budget { allowed: window.used < self.limit, ..self.budget(window, now) }
    }

    fn budget(&self, window: &Window, now: Instant) -> Budget {
        let left = WINDOW.saturating_sub(now.saturating_duration_since(window.began));
        Budget {
            limit: self.limit,
            remaining: self.limit.saturating_sub(window.used),
            reset: left.as_secs() + u64::from(left.subsec_nanos() > 0),
            allowed: window.used <= self.limit,
        }
    }
}

impl Open {
    /// Under what name `client` is counted: its own, or the empty one when there is no place left.
    fn place<'a>(&mut self, client: &'a str, now: Instant) -> &'a str {
        if self.windows.len() < MAX_CLIENTS || self.windows.contains_key(client) {
            return client;
        }
        if self.swept.is_none_or(|swept| now.saturating_duration_since(swept) >= SWEEP) {
            self.swept = Some(now);
            self.windows.retain(|_, w| now.saturating_duration_since(w.began) < WINDOW);
        }
        if self.windows.len() < MAX_CLIENTS { client } else { "" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_has_its_limit_and_the_next_one_a_new_one() {
        let windows = Windows::new(3);
        let start = Instant::now();
        let take = |client, seconds| windows.take(client, start + Duration::from_secs(seconds));
        assert_eq!(take("a", 0), Budget { limit: 3, remaining: 2, reset: 60, allowed: true });
        assert_eq!(take("a", 10), Budget { limit: 3, remaining: 1, reset: 50, allowed: true });
        assert_eq!(take("a", 20).remaining, 0);
        assert!(take("b", 20).allowed, "each has its own");
        assert_eq!(take("a", 59), Budget { limit: 3, remaining: 0, reset: 1, allowed: false });
        assert!(!windows.look("a", start + Duration::from_secs(59)).allowed);
        assert!(windows.look("a", start + Duration::from_secs(60)).allowed);
        assert!(windows.look("b", start + Duration::from_secs(30)).allowed, "looking does not count");
        assert_eq!(take("a", 60), Budget { limit: 3, remaining: 2, reset: 60, allowed: true });
    }

    #[test]
    fn memory_is_bounded_and_known_clients_keep_their_place() {
        let windows = Windows::new(2);
        let start = Instant::now();
        assert!(windows.take("known", start).allowed);
        for n in 0..3 * MAX_CLIENTS {
            windows.take(&n.to_string(), start);
        }
        let kept = windows.open.lock().expect("lock").windows.len();
        assert!(kept <= MAX_CLIENTS + 1, "{kept}");
        assert!(windows.take("known", start).allowed);
        assert!(!windows.take("another", start).allowed, "what finds no place shares one window");
        assert!(windows.take("another", start + WINDOW).allowed);
    }

    #[test]
    fn nought_is_no_limit() {
        assert!(Limits::new(0).is_none());
        assert_eq!(Limits::new(5).expect("limits").failures.limit, 1);
    }
}
