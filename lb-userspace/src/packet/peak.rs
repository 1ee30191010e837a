//! The highest average rate of the last minute, over ten seconds each, as AWS has it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// One rate's.
#[derive(Debug)]
pub struct Peak {
    began: Instant,
    sum: u64,
    /// Averages of windows that are over, the oldest first.
    averages: VecDeque<u64>,
}

impl Peak {
    /// Begins a window.
    pub fn start(now: Instant) -> Self {
        Self { began: now, sum: 0, averages: VecDeque::with_capacity(WINDOWS) }
    }

    /// Counts what there was since the last time; the peak in a second, 0 until ten have passed.
    pub fn add(&mut self, grown: u64, now: Instant) -> u64 {
        self.sum += grown;
        let lasted = now.saturating_duration_since(self.began);
        if lasted >= WINDOW {
            if self.averages.len() == WINDOWS {
                self.averages.pop_front();
            }
            let lasted_ms = u64::try_from(lasted.as_millis()).unwrap_or(u64::MAX);
            self.averages.push_back(self.sum.saturating_mul(1_000) / lasted_ms);
            self.sum = 0;
            self.began = now;
        }
        self.averages.iter().copied().max().unwrap_or(0)
    }
}

const WINDOW: Duration = Duration::from_secs(10);
/// A minute of them: AWS's metrics are of a minute.
const WINDOWS: usize = 6;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_is_an_average_of_ten_seconds_and_lasts_a_minute() {
        let start = Instant::now();
        let mut peak = Peak::start(start);
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(peak.add(1_000, at(1)), 0);
        assert_eq!(peak.add(0, at(10)), 100);
        for window in 2..=6 {
            assert_eq!(peak.add(10, at(window * 10)), 100);
        }
        assert_eq!(peak.add(10, at(70)), 1, "a minute later it is over");
    }
}
