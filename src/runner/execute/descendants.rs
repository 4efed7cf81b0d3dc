//! Every process that came from ours, by the kernel's own list, and the end of them.
//!
//! The runner is the reaper of its orphans (process 1 of its container, or a subreaper), so a child
//! that started a session of its own and lost its parent is still found below us. What this cannot
//! catch: processes that fork faster than they are killed within [`SWEEP_LIMIT`]; those end with the
//! container. Must not be used while something else in this process waits for children.

use std::fs;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// Longest time that one sweep takes.
pub const SWEEP_LIMIT: Duration = Duration::from_secs(3);
const SWEEP_PAUSE: Duration = Duration::from_millis(10);

/// Collects every child that has ended, ours and orphans, without blocking.
pub fn reap() -> Vec<WaitStatus> {
    let mut ended = Vec::new();
    loop {
        match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => return ended,
            Ok(status) => ended.push(status),
            Err(Errno::EINTR) => {}
            Err(_) => return ended,
        }
    }
}

/// Living processes below this one.
pub fn living() -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let pid = |name: &str| name.parse::<i32>().ok();
    let all: Vec<(i32, i32)> = entries
        .filter_map(|entry| pid(entry.ok()?.file_name().to_str()?))
        .filter_map(|pid| Some((pid, living_parent(pid)?)))
        .collect();
    let mut found = vec![Pid::this().as_raw()];
    let mut next = 0;
    while let Some(parent) = found.get(next).copied() {
        found.extend(all.iter().filter(|(_, of)| *of == parent).map(|(pid, _)| *pid));
        next += 1;
    }
    found.into_iter().skip(1).map(Pid::from_raw).collect()
}

/// Parent of a process that is not a zombie. The name in the record may hold anything, `)` included.
fn living_parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    (!matches!(state, "Z" | "X")).then_some(parent)
}

/// Kills everything below this process and collects it. True when nothing is left.
pub async fn sweep() -> bool {
    let deadline = Instant::now() + SWEEP_LIMIT;
    loop {
        let left = living();
        for pid in &left {
            let _ = kill(*pid, Signal::SIGKILL);
        }
        reap();
        if left.is_empty() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        tokio::time::sleep(SWEEP_PAUSE).await;
    }
}
