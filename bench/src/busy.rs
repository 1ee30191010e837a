//! What the whole machine spends: packets that the kernel moves are nobody's process, and show nowhere else.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

/// A moment, to count from.
pub(crate) struct Since {
    at: Instant,
    unused: Duration,
}

impl Since {
    pub(crate) fn now() -> Result<Self> {
        let stat = fs::read_to_string("/proc/stat").context("reading /proc/stat")?;
        Ok(Self { at: Instant::now(), unused: unused(&stat).context("reading /proc/stat")? })
    }

    /// Processor time that was spent by whomever since then, in microseconds.
    pub(crate) fn spent_us(&self) -> Result<f64> {
        let now = Self::now()?;
        let cores = std::thread::available_parallelism()?.get();
        let had = (now.at - self.at).as_secs_f64() * f64::from(u32::try_from(cores)?);
        Ok((had - (now.unused - self.unused).as_secs_f64()).max(0.0) * 1e6)
    }
}

/// Idle, waiting for disks, or stolen by the host. A sleeping kernel counts the first two to the nanosecond, where it
/// only samples what is spent.
fn unused(stat: &str) -> Option<Duration> {
    let fields: Vec<u64> = stat
        .lines()
        .next()?
        .strip_prefix("cpu ")?
        .split_whitespace()
        .map_while(|field| field.parse().ok())
        .collect();
    // user, nice, system, idle, iowait, irq, softirq, steal (proc(5)).
    let hundredths = fields.get(3)? + fields.get(4)? + fields.get(7)?;
    Some(Duration::from_millis(hundredths * 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_waiting_and_stolen_time_is_unused() {
        assert_eq!(unused("cpu  1 2 4 8 16 32 64 128 0 0\ncpu0 0"), Some(Duration::from_millis(1_520)));
        assert_eq!(unused("cpus 1"), None);
    }
}
