//! Which target is next, and which are left out for a while.
//!
//! Round robin over an integration's targets, each integration with its own turn. One that refused a connection is passed over until its time is up, unless
//! all are: a set of targets is never emptied here. Belongs to one worker.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::snapshot::link::LaneTarget;

/// Whose turn it is among an integration's targets; all workers take turns together.
#[derive(Debug, Default)]
pub struct Turn(AtomicUsize);

/// A worker's choices.
#[derive(Debug, Default)]
pub struct Choice {
    shunned: RefCell<BTreeMap<LaneTarget, Instant>>,
}

impl Choice {
    /// Targets of one request in the order in which they are to be tried: each once, then again from the start.
    pub fn order<'a>(&'a self, turn: &Turn, targets: &'a [LaneTarget], now: Instant) -> Order<'a> {
        // Wraps around.
        let start = turn.0.fetch_add(1, Ordering::Relaxed);
        Order { choice: self, targets, start, tried: 0, now }
    }

    /// A target refused a connection.
    pub fn shun(&self, target: LaneTarget, now: Instant) {
        let mut shunned = self.shunned.borrow_mut();
        if shunned.len() >= MAX_SHUNNED {
            shunned.retain(|_, until| *until > now);
        }
        if shunned.len() < MAX_SHUNNED {
            shunned.insert(target, now + SHUN);
        }
    }

    /// A target answered.
    pub fn trust(&self, target: LaneTarget) {
        if !self.shunned.borrow().is_empty() {
            self.shunned.borrow_mut().remove(&target);
        }
    }

    fn is_shunned(&self, target: LaneTarget, now: Instant) -> bool {
        let shunned = self.shunned.borrow();
        !shunned.is_empty() && shunned.get(&target).is_some_and(|until| *until > now)
    }
}

/// See [`Choice::order`].
#[derive(Debug)]
pub struct Order<'a> {
    choice: &'a Choice,
    targets: &'a [LaneTarget],
    start: usize,
    tried: usize,
    now: Instant,
}

impl Iterator for Order<'_> {
    type Item = LaneTarget;

    fn next(&mut self) -> Option<LaneTarget> {
        let count = self.targets.len();
        let at =
            |offset: usize| self.targets.get(self.start.wrapping_add(offset).checked_rem(count)?).copied();
        for offset in self.tried..self.tried + count {
            let target = at(offset)?;
            if !self.choice.is_shunned(target, self.now) {
                self.tried = offset + 1;
                return Some(target);
            }
        }
        let target = at(self.tried)?;
        self.tried += 1;
        Some(target)
    }
}

/// How long a target that refused is passed over: about as long as a health check takes to notice.
const SHUN: Duration = Duration::from_secs(5);
/// Targets passed over at a time; past it they are simply tried.
const MAX_SHUNNED: usize = 4_096;

#[cfg(test)]
mod tests {
    use super::*;

    const A: LaneTarget = LaneTarget([1; 16]);
    const B: LaneTarget = LaneTarget([2; 16]);
    const C: LaneTarget = LaneTarget([3; 16]);

    fn tried(choice: &Choice, turn: &Turn, now: Instant, count: usize) -> Vec<LaneTarget> {
        choice.order(turn, &[A, B, C], now).take(count).collect()
    }

    #[test]
    fn requests_take_turns_and_each_tries_all() {
        let (choice, turn, now) = (Choice::default(), Turn::default(), Instant::now());
        assert_eq!(tried(&choice, &turn, now, 4), [A, B, C, A]);
        assert_eq!(tried(&choice, &turn, now, 3), [B, C, A]);
        assert_eq!(tried(&choice, &turn, now, 1), [C]);
        assert_eq!(choice.order(&turn, &[], now).next(), None);
    }

    #[test]
    fn who_refused_is_passed_over_for_a_while_unless_all_did() {
        let (choice, turn, now) = (Choice::default(), Turn::default(), Instant::now());
        choice.shun(A, now);
        assert_eq!(tried(&choice, &turn, now, 3), [B, C, B]);
        assert_eq!(tried(&choice, &turn, now + SHUN, 1), [B], "its turn is the second request's");
        choice.shun(B, now);
        choice.shun(C, now);
        assert_eq!(tried(&choice, &turn, now, 3).len(), 3, "all are tried");
        choice.trust(A);
        assert_eq!(tried(&choice, &turn, now, 2), [A, A]);
    }
}
