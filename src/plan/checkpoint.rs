//! Where the work of an interrupted attempt is kept on the repository's server, and for how long.
//!
//! A ref that no branch list shows, one for a Task: by the uid, so that two clusters can share a
//! repository, and with the day, so that whoever works in the repository later can tell what nobody
//! comes back for. Pure.

use jiff::civil::Date;
use sha2::{Digest, Sha256};

/// All checkpoints of a repository.
pub const ROOT: &str = "refs/opentiger/checkpoints/";
/// Days after which a checkpoint is removed by the next Run that keeps one in the same repository. That
/// of a Task that succeeds is removed at once; one that is cancelled has no Run that could.
const KEPT_DAYS: i32 = 14;
/// Hex digits of the uid's hash in a name.
const HASH_DIGITS: usize = 12;

/// The refs of one Task, all but the day.
pub fn of_task(name: &str, uid: &str) -> String {
    let hash: String = Sha256::digest(uid).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{ROOT}{name}-{}/", hash.get(..HASH_DIGITS).unwrap_or(&hash))
}

/// The ref of what is kept on this day.
pub fn on(of_task: &str, today: Date) -> String {
    format!("{of_task}{today}")
}

/// Whether nobody will come back for it. One whose name we do not understand is not ours to remove.
pub fn is_stale(reference: &str, today: Date) -> bool {
    let day = reference.strip_prefix(ROOT).and_then(|name| name.rsplit_once('/')).map(|(_, day)| day);
    let day: Option<Date> = day.and_then(|day| day.parse().ok());
    day.is_some_and(|day| (today - day).get_days() > KEPT_DAYS)
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;

    #[test]
    fn a_task_has_its_own_refs_and_a_namesake_others() {
        let mine = of_task("fix-divide", "6a1c");
        assert!(mine.starts_with("refs/opentiger/checkpoints/fix-divide-") && mine.ends_with('/'), "{mine}");
        assert_ne!(mine, of_task("fix-divide", "6a1d"));
        assert_eq!(on(&mine, date(2026, 2, 3)), format!("{mine}2026-02-03"));
    }

    #[test]
    fn what_is_two_weeks_old_is_stale_and_what_is_not_ours_never() {
        let today = date(2026, 3, 1);
        let kept = |day| on(&of_task("a", "u"), day);
        assert!(!is_stale(&kept(date(2026, 2, 15)), today));
        assert!(is_stale(&kept(date(2026, 2, 14)), today));
        assert!(is_stale(&kept(date(2025, 12, 31)), today));
        assert!(!is_stale(&kept(date(2026, 3, 2)), today), "another clock");
        for other in ["refs/heads/main", "refs/opentiger/checkpoints/a/old", "refs/heads/x/2020-01-01"] {
            assert!(!is_stale(other, today), "{other}");
        }
    }
}
