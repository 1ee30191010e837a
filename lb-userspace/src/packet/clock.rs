//! The kernel's clock and flood limits. It goes on from where an earlier process left it, so the time that nobody kept
//! house makes no flow look idle.

use std::time::{Duration, Instant};

use lb_common::abi::{EMBRYONIC_TICKS, Pulse};

/// How many flows may begin.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// New flows that the node may begin in a second and that are not established in it; `None` is as many as leave half
    /// of the flow table to established ones.
    pub new_flows_per_s: Option<u32>,
    /// The same for one source address; `None` is no limit.
    pub new_flows_per_source: Option<u32>,
}

/// The kernel's clock.
pub struct Clock {
    tick: u32,
    counted: Instant,
    new_flows_per_s: u32,
    cpus: u32,
    source_limit: u32,
    cookie_scale: u32,
}

impl Clock {
    /// Goes on from `tick`.
    pub fn start(
        tick: u32,
        flow_entries: u32,
        limits: Limits,
        cpus: u32,
        cookie_scale: u32,
        now: Instant,
    ) -> Self {
        // Entries are two a flow, and embryonic ones last for EMBRYONIC_TICKS.
        let half = flow_entries / 4 / EMBRYONIC_TICKS;
        let cpus = cpus.max(1);
        Self {
            tick: tick.max(FIRST_TICK),
            counted: now,
            new_flows_per_s: limits.new_flows_per_s.unwrap_or(half).max(1),
            cpus,
            // Every CPU counts for itself, and a source's flows come to all.
            source_limit: limits.new_flows_per_source.map_or(0, |limit| limit.div_ceil(cpus).max(1)),
            cookie_scale,
        }
    }

    /// Now.
    pub fn tick(&self) -> u32 {
        self.tick
    }

    /// New flows that the node may begin in a second.
    pub fn new_flows_per_s(&self) -> u32 {
        self.new_flows_per_s
    }

    /// CPUs that share limits.
    pub fn cpus(&self) -> u32 {
        self.cpus
    }

    /// Whether a second has passed.
    pub fn advance(&mut self, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.counted).as_secs();
        if passed == 0 {
            return false;
        }
        self.counted += Duration::from_secs(passed);
        // Packets of the time that was missed were stamped with the old tick.
        self.tick = self.tick.wrapping_add(u32::try_from(passed).unwrap_or(u32::MAX).min(LONGEST_STEP));
        true
    }

    /// What the kernel is told.
    pub fn pulse(&self) -> Pulse {
        Pulse {
            tick: self.tick,
            syn_limit: (self.new_flows_per_s / self.cpus).max(1),
            source_limit: self.source_limit,
            cookie_scale: self.cookie_scale,
        }
    }
}

/// Zero is what an empty map has.
const FIRST_TICK: u32 = 1;

/// Seconds the clock may move at once: less than an embryonic flow lives.
const LONGEST_STEP: u32 = 5;

#[cfg(test)]
mod tests {
    use super::*;

    fn clock(limits: Limits, now: Instant) -> Clock {
        Clock::start(7, 262_144, limits, 4, 0, now)
    }

    #[test]
    fn seconds_are_counted_and_a_long_pause_is_a_short_step() {
        let now = Instant::now();
        let mut clock = clock(Limits::default(), now);
        assert!(!clock.advance(now + Duration::from_millis(999)));
        assert!(clock.advance(now + Duration::from_millis(1_001)));
        assert_eq!(clock.tick(), 8);
        assert!(!clock.advance(now + Duration::from_millis(1_999)), "no second is counted twice");
        assert!(clock.advance(now + Duration::from_secs(3_600)));
        assert_eq!(clock.tick(), 8 + LONGEST_STEP);
    }

    #[test]
    fn cpus_share_what_may_begin() {
        let now = Instant::now();
        let pulse = clock(Limits::default(), now).pulse();
        assert_eq!((pulse.syn_limit, pulse.source_limit), (6_553 / 4, 0));
        let limits = Limits { new_flows_per_s: Some(100), new_flows_per_source: Some(5) };
        let pulse = clock(limits, now).pulse();
        assert_eq!((pulse.syn_limit, pulse.source_limit), (25, 2));
    }
}
