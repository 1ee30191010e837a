//! Which target gets a connection: a group by weight, then a target of it in turn, or always the same for a client.

use std::{
    hash::{Hash, Hasher},
    net::IpAddr,
};

use fnv::FnvHasher;

/// Chooses a group: the place of the one that `random`, even over all of u64, falls to.
///
/// Each group is its weight and whether a target of it may get something; one without leaves its share to the others.
/// A single group takes everything, whatever its weight. `None` when nobody may get anything.
pub fn choose_group(groups: impl Iterator<Item = (u16, bool)> + Clone, random: u64) -> Option<usize> {
    let alone = groups.clone().count() == 1;
    let shares = groups.map(|(weight, is_open)| match (is_open, alone) {
        (false, _) => 0,
        (true, true) => 1,
        (true, false) => u64::from(weight),
    });
    let total: u64 = shares.clone().sum();
    // Multiplying maps evenly onto 0..total without a division's remainder.
    let mut point = u64::try_from((u128::from(random) * u128::from(total)) >> 64).ok()?;
    for (place, share) in shares.enumerate() {
        match point.checked_sub(share) {
            Some(rest) => point = rest,
            None => return Some(place),
        }
    }
    None
}

/// Takes turns over targets. Each worker begins anywhere, so that not all begin at the first.
#[derive(Debug, Clone)]
pub struct Turns<T> {
    targets: Vec<T>,
    next: usize,
}

impl<T: Clone + PartialEq + Hash> Turns<T> {
    /// Begins at `start`, any number, without targets.
    pub fn new(start: usize) -> Self {
        Self { targets: Vec::new(), next: start }
    }

    /// Goes on with other targets, from where it stood.
    pub fn replace(&mut self, targets: Vec<T>) {
        self.targets = targets;
    }

    /// Whether there is anybody but those in `tried`.
    pub fn is_open(&self, tried: &[T]) -> bool {
        self.targets.iter().any(|target| !tried.contains(target))
    }

    /// Whether it takes turns.
    pub fn has(&self, target: &T) -> bool {
        self.targets.contains(target)
    }

    /// The next one that is not in `tried`.
    pub fn next(&mut self, tried: &[T]) -> Option<T> {
        let count = self.targets.len();
        for _ in 0..count {
            let at = self.next % count;
            self.next = at + 1;
            let target = self.targets.get(at)?;
            if !tried.contains(target) {
                return Some(target.clone());
            }
        }
        None
    }

    /// The one that a client sticks to: the highest of all by a hash of both (rendezvous), so that one that comes or
    /// goes moves only its own clients.
    pub fn affine(&self, client: IpAddr, tried: &[T]) -> Option<T> {
        let open = self.targets.iter().filter(|target| !tried.contains(target));
        open.max_by_key(|target| affinity(client, target)).cloned()
    }
}

/// A number that belongs to a client: with it, [`choose_group`] gives the same group each time.
pub fn point_of(client: IpAddr) -> u64 {
    affinity(client, &())
}

fn affinity(client: IpAddr, target: &impl Hash) -> u64 {
    let mut hasher = FnvHasher::default();
    client.hash(&mut hasher);
    target.hash(&mut hasher);
    // FNV's upper bits follow its last bytes alone; splitmix64's finish spreads them.
    let mut hash = hasher.finish();
    hash = (hash ^ hash >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ hash >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ hash >> 31
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn clients() -> impl Iterator<Item = IpAddr> {
        (0..1_000).map(|number| IpAddr::from(Ipv4Addr::from(0x0a00_0000 + number)))
    }

    #[test]
    fn groups_share_in_proportion_and_closed_ones_leave_their_share() {
        let count = |groups: &[(u16, bool)]| {
            let mut counts = vec![0; groups.len()];
            for step in 0..400u64 {
                counts[choose_group(groups.iter().copied(), step * (u64::MAX / 400)).unwrap()] += 1;
            }
            counts
        };
        let even = count(&[(1, true), (0, true), (3, true)]);
        assert!((99..=101).contains(&even[0]) && even[1] == 0, "{even:?}");
        assert_eq!(count(&[(1, true), (3, false)]), [400, 0]);
        assert_eq!(count(&[(0, true)]), [400], "a single group takes everything");
        assert_eq!(choose_group([(5, false)].into_iter(), 7), None);
        assert_eq!(choose_group([(0, true), (0, true)].into_iter(), 7), None);
    }

    #[test]
    fn targets_take_turns_and_those_tried_are_passed_over() {
        let mut turns = Turns::new(usize::MAX);
        turns.replace(vec!["a", "b", "c"]);
        let mut taken: Vec<_> = (0..3).map(|_| turns.next(&[]).unwrap()).collect();
        taken.sort_unstable();
        assert_eq!(taken, ["a", "b", "c"]);
        assert_eq!((turns.next(&["a", "c"]), turns.next(&["a", "c"])), (Some("b"), Some("b")));
        assert!(turns.is_open(&["a"]) && !turns.is_open(&["a", "b", "c"]));
        assert_eq!(turns.next(&["a", "b", "c"]), None);
        turns.replace(vec![]);
        assert_eq!(turns.next(&[]), None);
    }

    #[test]
    fn a_client_sticks_to_its_target_while_others_come_and_go() {
        let mut turns = Turns::new(0);
        turns.replace(vec!["a", "b", "c"]);
        let before: Vec<_> = clients().map(|client| turns.affine(client, &[]).unwrap()).collect();
        for target in ["a", "b", "c"] {
            let share = before.iter().filter(|own| **own == target).count();
            assert!((250..420).contains(&share), "{target}: {share}");
        }
        turns.replace(vec!["a", "c"]);
        for (client, before) in clients().zip(before) {
            let now = turns.affine(client, &[]).unwrap();
            assert!(before == "b" || now == before, "{client} moved from {before} to {now}");
            assert_eq!(turns.affine(client, &[now]), Some(if now == "a" { "c" } else { "a" }));
        }
    }
}
