//! Which instances an answer names, by health, routing policy and chance.

use crate::snapshot::zone::Routing;

/// The records to answer with, in an order of their own: of what healthy instances offer, or of what all offer if none
/// is healthy; up to eight, or one by WEIGHTED. Instances that offer the same are one record.
pub(super) fn choose<T: PartialEq>(
    offers: impl Iterator<Item = Offer<T>>,
    routing: Routing,
    random: &mut Random,
) -> Vec<T> {
    let offers: Vec<_> = offers.collect();
    let fails_open = !offers.iter().any(|offer| offer.healthy);
    let mut records: Vec<T> =
        offers.into_iter().filter(|offer| offer.healthy || fails_open).map(|offer| offer.record).collect();
    let most = match routing {
        Routing::Multivalue => ANSWERS_MAX,
        Routing::Weighted => 1,
    };
    let mut chosen = Vec::with_capacity(most.min(records.len()));
    while chosen.len() < most && !records.is_empty() {
        let record = records.swap_remove(random.below(records.len()));
        if !chosen.contains(&record) {
            chosen.push(record);
        }
    }
    chosen
}

/// What one instance offers.
pub(super) struct Offer<T> {
    pub(super) record: T,
    pub(super) healthy: bool,
}

/// Chance that a seed decides (SplitMix64).
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `bound`; 0 if that is 0.
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        let below = u64::try_from(bound).ok().and_then(|bound| mixed.checked_rem(bound));
        below.and_then(|number| usize::try_from(number).ok()).unwrap_or(0)
    }
}

/// As many as AWS names in an answer of MULTIVALUE.
const ANSWERS_MAX: usize = 8;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn chosen(offers: &[(u32, bool)], routing: Routing, seed: u64) -> Vec<u32> {
        let offers = offers.iter().map(|(record, healthy)| Offer { record: *record, healthy: *healthy });
        choose(offers, routing, &mut Random::new(seed))
    }

    #[test]
    fn every_instance_gets_its_turn_and_its_place() {
        let offers: Vec<(u32, bool)> = (0..20).map(|record| (record, true)).collect();
        for routing in [Routing::Multivalue, Routing::Weighted] {
            let first: BTreeSet<u32> = (0..400).map(|seed| chosen(&offers, routing, seed)[0]).collect();
            assert_eq!(first.len(), 20, "{routing:?}");
        }
    }

    #[test]
    fn instances_that_offer_the_same_are_one_record() {
        assert_eq!(chosen(&[(1, true), (1, true), (2, false)], Routing::Multivalue, 0), [1]);
    }

    proptest! {
        #[test]
        fn healthy_ones_or_else_all_and_never_too_many(
            offers in prop::collection::vec((0u32..40, any::<bool>()), 0..60),
            seed in any::<u64>(),
        ) {
            let healthy: BTreeSet<u32> = offers.iter().filter(|(_, healthy)| *healthy).map(|(r, _)| *r).collect();
            let all: BTreeSet<u32> = offers.iter().map(|(record, _)| *record).collect();
            let eligible = if healthy.is_empty() { &all } else { &healthy };
            for (routing, most) in [(Routing::Multivalue, 8), (Routing::Weighted, 1)] {
                let records = chosen(&offers, routing, seed);
                prop_assert_eq!(records.len(), eligible.len().min(most));
                prop_assert!(records.iter().all(|record| eligible.contains(record)));
                prop_assert_eq!(records.iter().collect::<BTreeSet<_>>().len(), records.len());
            }
        }
    }
}
