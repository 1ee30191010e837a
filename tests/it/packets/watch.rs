//! What tests see of a node, and how they let time pass for it.

use std::time::{Duration, Instant};

use lb_common::abi::DropReason;

use super::sockets::until;
use super::world::Node;

impl Node {
    /// Seconds pass for the node's clock, few enough at a time that it counts them all.
    pub(super) fn pass(&self, seconds: u64) {
        let begun = self.ahead.get();
        self.ahead.set(begun + seconds);
        self.with(move |balancer| {
            let now = Instant::now();
            for ahead in (begun..begun + seconds).step_by(STEP).skip(1).chain([begun + seconds]) {
                balancer.housekeep(now + Duration::from_secs(ahead)).unwrap();
            }
        });
        self.after_a_census();
    }

    /// Has it walk over all flows once more, which takes eight steps, after the walk that is under way.
    pub(super) fn after_a_census(&self) {
        self.with(|balancer| (0..16).try_for_each(|_| balancer.housekeep(Instant::now()))).unwrap();
    }

    /// Waits until there are so many flows.
    #[track_caller]
    pub(super) fn until_flows(&self, count: u64) {
        until(&format!("{count} flows"), || {
            self.after_a_census();
            let listeners = self.counters().listeners;
            listeners.iter().map(|listener| listener.active_flows).sum::<u64>() == count
        });
    }

    /// Packets that were dropped for a reason.
    pub(super) fn drops(&self, reason: DropReason) -> u64 {
        let drops = self.counters().drops;
        drops.iter().filter(|drop| drop.reason == reason).map(|drop| drop.packets).sum()
    }
}

/// Fewer seconds than the clock moves at once.
const STEP: usize = 4;
