//! Statistics of the present cycle, kept as Runs come and end.

use jiff::Timestamp;

use crate::crd::cycle::CycleStats;
use crate::crd::{GoDuration, Purpose, RunPhase};

/// A Run that has ended.
#[derive(Clone, Copy, Debug)]
pub struct Ended {
    pub purpose: Purpose,
    pub phase: RunPhase,
    pub tokens: i64,
    /// Seconds from its start to its end.
    pub seconds: i64,
}

/// The statistics. The caller counts each Run once.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    stats: CycleStats,
    first_run: Option<Timestamp>,
}

impl Tally {
    /// A Run was admitted while `in_progress` others and itself were in progress.
    pub fn admitted(&mut self, at: Timestamp, in_progress: usize) {
        self.stats.runs_total += 1;
        self.first_run = Some(self.first_run.map_or(at, |first| first.min(at)));
        let now = i64::try_from(in_progress).unwrap_or(i64::MAX);
        self.stats.peak_concurrent = self.stats.peak_concurrent.max(now);
    }

    /// A Run has ended. Tokens count whatever it was for; only attempts count as work on a Task.
    pub fn ended(&mut self, run: Ended) {
        self.stats.total_tokens = self.stats.total_tokens.saturating_add(run.tokens.max(0));
        match run.purpose {
            Purpose::Execute | Purpose::Plan => {}
            Purpose::Judge | Purpose::Merge => return,
        }
        match run.phase {
            RunPhase::Success => self.stats.tasks_completed += 1,
            RunPhase::Failed => self.stats.tasks_failed += 1,
            RunPhase::Cancelled => self.stats.tasks_cancelled += 1,
            RunPhase::Running => return,
        }
        self.stats.worked_seconds = self.stats.worked_seconds.saturating_add(run.seconds.max(0));
    }

    /// Adds what an earlier process has counted and this one cannot find any more, because the Runs
    /// were deleted. Call once, after every existing Run was counted.
    pub fn restore(&mut self, known: &CycleStats, active_since: Option<Timestamp>) {
        let CycleStats {
            tasks_completed,
            tasks_failed,
            tasks_cancelled,
            runs_total,
            total_tokens,
            worked_seconds,
            average_task_duration: _,
            peak_concurrent,
        } = known;
        let stats = &mut self.stats;
        stats.tasks_completed = stats.tasks_completed.max(*tasks_completed);
        stats.tasks_failed = stats.tasks_failed.max(*tasks_failed);
        stats.tasks_cancelled = stats.tasks_cancelled.max(*tasks_cancelled);
        stats.runs_total = stats.runs_total.max(*runs_total);
        stats.total_tokens = stats.total_tokens.max(*total_tokens);
        stats.worked_seconds = stats.worked_seconds.max(*worked_seconds);
        stats.peak_concurrent = stats.peak_concurrent.max(*peak_concurrent);
        self.first_run = self.first_run.into_iter().chain(active_since).min();
    }

    /// Admission of the first Run.
    pub fn first_run(&self) -> Option<Timestamp> {
        self.first_run
    }

    /// The statistics with their mean.
    pub fn stats(&self) -> CycleStats {
        let mut stats = self.stats.clone();
        let attempts = stats.tasks_completed + stats.tasks_failed + stats.tasks_cancelled;
        stats.average_task_duration = u64::try_from(stats.worked_seconds)
            .ok()
            .zip(u64::try_from(attempts).ok().filter(|attempts| *attempts > 0))
            .map(|(seconds, attempts)| GoDuration::from_secs(seconds / attempts));
        stats
    }
}
