//! Which target group, and which of its targets, gets a request.
//!
//! Before it: a rule chose to forward. After it: a connection to the target. Each worker counts for itself from a start
//! of its own, so that workers do not all begin at the first target.

/// Takes turns over the targets that may get something new.
#[derive(Debug, Clone)]
pub struct RoundRobin<T> {
    targets: Vec<T>,
    next: usize,
}

impl<T: Clone + PartialEq> RoundRobin<T> {
    /// Begins anywhere: `start` is any number.
    pub fn new(targets: Vec<T>, start: usize) -> Self {
        Self { targets, next: start }
    }

    /// Goes on with other targets, from where it stood.
    pub fn replace(&mut self, targets: Vec<T>) {
        self.targets = targets;
    }

    /// The next target; not `avoid`, if there is another.
    pub fn choose(&mut self, avoid: Option<&T>) -> Option<&T> {
        let count = self.targets.len();
        for _ in 0..count {
            let at = self.next % count;
            self.next = at + 1;
            if count == 1 || self.targets.get(at) != avoid {
                return self.targets.get(at);
            }
        }
        None
    }

    /// How many targets take turns.
    pub fn len(&self) -> usize {
        self.targets.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }
}

/// Chooses by weight: the index of the entry that `random`, an even number over all of u64, falls to. `None` when all
/// weigh nothing.
pub fn choose_weighted(weights: impl Iterator<Item = u16> + Clone, random: u64) -> Option<usize> {
    let total: u64 = weights.clone().map(u64::from).sum();
    // Multiplying maps evenly onto 0..total without a division's remainder.
    let mut point = u64::try_from((u128::from(random) * u128::from(total)) >> 64).ok()?;
    for (index, weight) in weights.enumerate() {
        match point.checked_sub(u64::from(weight)) {
            Some(rest) => point = rest,
            None => return Some(index),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_take_turns_from_any_start() {
        for start in [0, 1, 7, usize::MAX] {
            let mut round = RoundRobin::new(vec!["a", "b", "c"], start);
            let mut counts = [0; 3];
            for _ in 0..300 {
                match *round.choose(None).unwrap() {
                    "a" => counts[0] += 1,
                    "b" => counts[1] += 1,
                    _ => counts[2] += 1,
                }
            }
            assert_eq!(counts, [100, 100, 100], "start {start}");
        }
    }

    #[test]
    fn another_target_is_preferred_to_the_avoided_one() {
        let mut round = RoundRobin::new(vec!["a", "b"], 0);
        assert_eq!(round.choose(Some(&"a")), Some(&"b"));
        assert_eq!(round.choose(Some(&"a")), Some(&"b"));
        let mut alone = RoundRobin::new(vec!["a"], 0);
        assert_eq!(alone.choose(Some(&"a")), Some(&"a"));
        assert_eq!(RoundRobin::<&str>::new(vec![], 3).choose(None), None);
    }

    #[test]
    fn fewer_targets_do_not_stop_the_turns() {
        let mut round = RoundRobin::new(vec!["a", "b", "c"], 2);
        round.replace(vec!["b"]);
        assert_eq!(round.choose(None), Some(&"b"));
        round.replace(vec![]);
        assert_eq!(round.choose(None), None);
        round.replace(vec!["x", "y"]);
        assert!(round.choose(None).is_some());
    }

    #[test]
    fn weights_share_in_proportion() {
        let weights = [1, 0, 3];
        let mut counts = [0; 3];
        for step in 0..400u64 {
            let random = step * (u64::MAX / 400);
            counts[choose_weighted(weights.into_iter(), random).unwrap()] += 1;
        }
        assert!((99..=101).contains(&counts[0]), "{counts:?}");
        assert_eq!(counts[1], 0);
        assert_eq!(choose_weighted([0, 0].into_iter(), 5), None);
        assert_eq!(choose_weighted([5].into_iter(), u64::MAX), Some(0));
    }
}
