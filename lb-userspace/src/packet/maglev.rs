//! A weighted Maglev table: each target prefers slots in its own order, and takes turns by weight. A target that comes
//! or goes moves few slots besides its own (Eisenbud et al., NSDI'16, §3.4).

use std::collections::BTreeMap;

use lb_common::abi::{NO_TARGET, RING_SIZE, Ring};

/// A target in a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// What its order of slots comes from: of the target itself, so that it outlives indices and processes.
    pub seed: u64,
    /// Its index in the table of targets.
    pub index: u16,
    /// Its share, at least 1.
    pub weight: u32,
}

/// Fills a ring. Same members, same ring.
pub fn ring(members: &[Member]) -> Box<Ring> {
    let mut ring: Box<Ring> =
        vec![NO_TARGET; RING_SIZE].try_into().unwrap_or_else(|_| Box::new([NO_TARGET; RING_SIZE]));
    let Some(heaviest) = members.iter().map(|member| member.weight).max().filter(|weight| *weight > 0) else {
        return ring;
    };
    let mut orders: Vec<Order> = members.iter().map(|member| Order::new(member.seed)).collect();
    let mut credits = vec![0_u64; members.len()];
    let mut filled = 0;
    loop {
        for ((member, order), credit) in members.iter().zip(&mut orders).zip(&mut credits) {
            *credit += u64::from(member.weight);
            if *credit < u64::from(heaviest) {
                continue;
            }
            *credit -= u64::from(heaviest);
            // Ends: as long as a slot is free, the order comes past it.
            while let Some(slot) = ring.get_mut(order.next()) {
                if *slot == NO_TARGET {
                    *slot = member.index;
                    break;
                }
            }
            filled += 1;
            if filled == RING_SIZE {
                return ring;
            }
        }
    }
}

/// What a change does to flows that have no entry yet, and to those of targets that have none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moves {
    /// Slots that have another target than before.
    pub moved: usize,
    /// As many had to: what some targets' shares grew by.
    pub ideal: usize,
}

impl Moves {
    /// From one ring to the next.
    pub fn between(before: &Ring, after: &Ring) -> Self {
        let shares = |ring: &Ring| {
            let mut shares: BTreeMap<u16, usize> = BTreeMap::new();
            for slot in ring {
                *shares.entry(*slot).or_default() += 1;
            }
            shares
        };
        let earlier = shares(before);
        let grown =
            |(index, now): (u16, usize)| now.saturating_sub(earlier.get(&index).copied().unwrap_or(0));
        Self {
            moved: before.iter().zip(after).filter(|(before, after)| before != after).count(),
            ideal: shares(after).into_iter().map(grown).sum(),
        }
    }
}

/// A permutation of the slots: an offset and a step, as the number of slots is prime.
struct Order {
    at: usize,
    step: usize,
}

impl Order {
    fn new(seed: u64) -> Self {
        let size = RING_SIZE as u64;
        let index = |value: u64| usize::try_from(value).unwrap_or(0);
        Self { at: index(mix(seed) % size), step: index(mix(!seed) % (size - 1) + 1) }
    }

    fn next(&mut self) -> usize {
        let at = self.at;
        self.at = (at + self.step) % RING_SIZE;
        at
    }
}

/// splitmix64 (Steele, Lea, Flood 2014).
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn members(weights: &[u32]) -> Vec<Member> {
        (0..)
            .zip(weights)
            .map(|(n, &weight)| Member { seed: 1_000 + u64::from(n), index: n, weight })
            .collect()
    }

    fn share(ring: &Ring, index: u16) -> usize {
        ring.iter().filter(|slot| **slot == index).count()
    }

    #[test]
    fn every_slot_is_taken_and_equals_get_equal_shares() {
        let ring = ring(&members(&[1, 1, 1]));
        assert_eq!(share(&ring, NO_TARGET), 0);
        for index in 0..3 {
            assert!(share(&ring, index).abs_diff(RING_SIZE / 3) <= 1);
        }
    }

    #[test]
    fn shares_follow_weights() {
        let ring = ring(&members(&[3, 1]));
        assert!(share(&ring, 0).abs_diff(RING_SIZE * 3 / 4) <= 3, "{}", share(&ring, 0));
    }

    #[test]
    fn no_members_leave_the_ring_empty() {
        assert_eq!(share(&ring(&[]), NO_TARGET), RING_SIZE);
    }

    #[test]
    fn a_target_that_goes_moves_few_slots_of_the_others() {
        let all = members(&[1; 10]);
        let before = ring(&all);
        let after = ring(all.get(..9).unwrap());
        let moved = before.iter().zip(after.iter()).filter(|(b, a)| **b != 9 && b != a).count();
        assert!(moved < RING_SIZE / 20, "{moved} of {RING_SIZE} slots moved needlessly");
    }

    #[test]
    fn what_comes_goes_or_changes_its_weight_moves_few_slots_besides_those_that_must() {
        println!("slots moved, in slots that had to, and needlessly, in all slots:");
        for count in [10, 100, 1_000] {
            let all = members(&vec![1_000; count]);
            let mut heavier = all.clone();
            heavier[0].weight *= 2;
            let mut lighter = all.clone();
            lighter[0].weight /= 2;
            let [all, but_one, heavier, lighter] =
                [&all[..], &all[1..], &heavier[..], &lighter[..]].map(ring);
            let shares = |ring: &Ring| {
                let mut shares = vec![0_usize; count];
                ring.iter().for_each(|index| shares[usize::from(*index)] += 1);
                shares
            };
            let cases = [
                ("one is added", &but_one, &all),
                ("one is removed", &all, &but_one),
                ("one doubles its weight", &all, &heavier),
                ("one halves its weight", &all, &lighter),
            ];
            for (what, before, after) in cases {
                let moved = before.iter().zip(after.iter()).filter(|(before, after)| before != after).count();
                let grown = shares(after).into_iter().zip(shares(before));
                let ideal: usize = grown.map(|(after, before)| after.saturating_sub(before)).sum();
                let needless = (moved - ideal) as f64 / RING_SIZE as f64;
                println!(
                    "{count:>5} targets, {what}: {:.2}, {:.2} %",
                    moved as f64 / ideal as f64,
                    needless * 100.0
                );
                assert!(needless <= 0.01, "{count} targets, {what}: {moved} slots moved, {ideal} had to");
            }
        }
    }

    #[test]
    fn shares_of_a_hundredth_and_more_are_within_a_hundredth_of_what_they_should_be() {
        // A hundred targets from 1 to 100 parts, and one that has half of all.
        let mut weights: Vec<u32> = (1..=100).map(|part| part * 10_000).collect();
        weights.push(weights.iter().sum());
        let all: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
        let ring = ring(&members(&weights));
        for (index, weight) in (0..).zip(&weights) {
            let ideal = u64::from(*weight) as f64 / all as f64;
            let actual = share(&ring, index) as f64 / RING_SIZE as f64;
            let error = (actual / ideal - 1.0).abs();
            assert!(ideal < 0.01 || error <= 0.01, "target {index}: {actual} instead of {ideal}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn shares_and_moves_stay_close_to_what_they_must_be(
            weights in proptest::collection::vec(1_u32..=999_000, 2..60),
            salt in any::<u64>(),
            which in any::<prop::sample::Index>(),
            new_weight in 1_u32..=999_000,
        ) {
            let mut members = members(&weights);
            for member in &mut members {
                member.seed ^= salt;
            }
            let before = ring(&members);
            let total: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
            for member in &members {
                let ideal = f64::from(member.weight) / total as f64;
                let actual = share(&before, member.index) as f64 / RING_SIZE as f64;
                let error = (actual / ideal - 1.0).abs();
                prop_assert!(ideal < 0.01 || error <= 0.01, "{member:?}: {actual} instead of {ideal}");
            }

            // Who it is decides, and not its index, which changes.
            let mut renamed = members.clone();
            renamed.iter_mut().for_each(|member| member.index += 1_000);
            let again = ring(&renamed);
            prop_assert!(before.iter().zip(again.iter()).all(|(one, other)| one + 1_000 == *other));

            let which = which.index(members.len());
            let mut without = members.clone();
            without.remove(which);
            let mut changed = members.clone();
            changed[which].weight = new_weight;
            for after in [without, changed] {
                let after = ring(&after);
                let moves = Moves::between(&before, &after);
                prop_assert!(moves.moved >= moves.ideal);
                let needless = (moves.moved - moves.ideal) as f64 / RING_SIZE as f64;
                prop_assert!(needless <= 0.05, "{moves:?}: {needless}");
            }
        }
    }
}
