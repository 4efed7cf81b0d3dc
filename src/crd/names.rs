//! Deterministic names. The name is the claim: creating the same attempt twice is a 409, so a name
//! must be a pure function of the Task's uid and the attempt (design, section 2).

use sha2::{Digest, Sha256};

/// Characters of a hash in a name: no vowels, so no words.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// Four characters from the Task's uid, so that a recreated Task never meets its predecessor.
pub fn uid_hash(uid: &str) -> String {
    Sha256::digest(uid.as_bytes())
        .iter()
        .take(4)
        .filter_map(|b| ALPHABET.get(usize::from(*b) % ALPHABET.len()))
        .map(|b| char::from(*b))
        .collect()
}

/// Name of the Run and its Pod: `<task>-<h>-r<attempt>`.
pub fn run_name(task: &str, task_uid: &str, attempt: i32) -> String {
    format!("{task}-{}-r{attempt}", uid_hash(task_uid))
}

/// Ordinal of the attempt in a name of [`run_name`].
pub fn attempt_of(run: &str) -> Option<i32> {
    run.rsplit_once("-r").and_then(|(_, attempt)| attempt.parse().ok())
}

/// Name of the `version`th review of an Execute Run: `<run>-j<version>`.
pub fn judge_run_name(run: &str, version: i32) -> String {
    format!("{run}-j{version}")
}

/// Name of the `version`th merge attempt of an Execute Run: `<run>-m<version>`.
pub fn merge_run_name(run: &str, version: i32) -> String {
    format!("{run}-m{version}")
}

/// Name of slot `index` (from 1) of a pool.
pub fn agent_name(pool: &str, index: u32) -> String {
    format!("{pool}-{index}")
}

/// Branch of a Run.
pub fn branch_name(prefix: &str, run: &str) -> String {
    format!("{prefix}{run}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recreated_task_never_meets_its_predecessor() {
        let a = run_name("fix", "5f0c3d1e-0000-4000-8000-000000000001", 1);
        let b = run_name("fix", "5f0c3d1e-0000-4000-8000-000000000002", 1);
        assert_ne!(a, b);
        assert_eq!(a, run_name("fix", "5f0c3d1e-0000-4000-8000-000000000001", 1));
        assert!(a.starts_with("fix-") && a.ends_with("-r1"));
    }
}
