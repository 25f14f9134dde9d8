//! Timing and memory of one case in a process of its own.

use std::time::{Duration, Instant};

use serde::Serialize;

/// Repetitions of one case.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    /// Runs that are not counted.
    pub warm: usize,
    /// Counted runs.
    pub runs: usize,
    /// Counted runs stop after this time.
    pub limit: Duration,
}

/// What the counted runs took, in milliseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Timing {
    /// The median.
    pub ms: f64,
    /// The minimum.
    pub ms_min: f64,
    /// Counted runs.
    pub n: usize,
}

/// Times `run`.
pub fn time(budget: Budget, mut run: impl FnMut()) -> Timing {
    time_part(budget, &mut run, |run| run(), |_| {})
}

/// Times `run` on a subject, with `after` following it untimed.
pub fn time_part<T>(
    budget: Budget,
    mut subject: T,
    mut run: impl FnMut(&mut T),
    mut after: impl FnMut(&mut T),
) -> Timing {
    for _ in 0..budget.warm {
        run(&mut subject);
        after(&mut subject);
    }
    let start = Instant::now();
    let mut taken = Vec::new();
    while taken.is_empty() || (taken.len() < budget.runs && start.elapsed() < budget.limit) {
        let begin = Instant::now();
        run(&mut subject);
        taken.push(begin.elapsed().as_secs_f64() * 1e3);
        after(&mut subject);
    }
    taken.sort_by(f64::total_cmp);
    Timing {
        ms: taken[taken.len() / 2],
        ms_min: taken[0],
        n: taken.len(),
    }
}

/// A figure of `/proc/self/status` in MiB, where there is such a file.
fn status_mb(key: &str) -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with(key))?;
    let kib: f64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib / 1024.0)
}

/// Memory in use now, MiB.
pub fn resident_mb() -> Option<f64> {
    status_mb("VmRSS:")
}

/// The most memory that was in use so far, MiB.
pub fn peak_mb() -> Option<f64> {
    status_mb("VmHWM:")
}
