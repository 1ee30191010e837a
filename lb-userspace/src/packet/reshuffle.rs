//! What a change of targets moves in the rings, beside what it had to: flows that have no entry yet go elsewhere with
//! their slot, and of targets that answer past us so would those whose entry was lost.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use lb_common::abi::{NO_RING, RING_SIZE, Ring};

use super::ledger::{Ledger, RingContent};
use super::maglev::{self, Moves};
use super::plan::ListenerName;

/// One ring that took another's place, and whose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reshuffle {
    /// The listeners.
    pub listeners: BTreeSet<ListenerName>,
    /// What moved.
    pub moves: Moves,
}

/// The rings that took the place of others between two states of the maps. Listeners that got their first ring, or lost
/// their last, are not among them: every slot had to move.
pub fn between(before: &Ledger, after: &Ledger) -> Vec<Reshuffle> {
    let ring_of = |ledger: &Ledger, name: &ListenerName| {
        let state = ledger.states.get(ledger.listeners.get(name)?)?;
        (state.ring != NO_RING).then_some(state.ring)
    };
    // Listeners share rings, and a ring takes a while to fill.
    let mut exchanged: BTreeMap<(u32, u32), BTreeSet<ListenerName>> = BTreeMap::new();
    for name in after.listeners.keys() {
        if let (Some(old), Some(new)) = (ring_of(before, name), ring_of(after, name))
            && before.rings.get(&old) != after.rings.get(&new)
        {
            exchanged.entry((old, new)).or_default().insert(*name);
        }
    }
    let moves = |((old, new), listeners): ((u32, u32), BTreeSet<ListenerName>)| {
        let moves = Moves::between(&slots(before.rings.get(&old)?), &slots(after.rings.get(&new)?));
        (moves.moved > 0).then_some(Reshuffle { listeners, moves })
    };
    exchanged.into_iter().filter_map(moves).collect()
}

fn slots(content: &RingContent) -> Cow<'_, Ring> {
    match content {
        RingContent::Members(members) => Cow::Owned(*maglev::ring(members)),
        RingContent::Adopted(slots) => Cow::Borrowed(slots),
    }
}

impl Reshuffle {
    /// For the log: what moved and what had to, in hundredths of all slots.
    pub fn tell(&self) {
        let percent = |slots: usize| format!("{:.2}", slots as f64 * 100.0 / RING_SIZE as f64);
        let names: Vec<String> = self.listeners.iter().map(ToString::to_string).collect();
        tracing::info!(
            listeners = names.join(", "),
            moved_percent = percent(self.moves.moved),
            ideal_percent = percent(self.moves.ideal),
            "targets changed, and slots of the ring with them"
        );
    }
}

#[cfg(test)]
mod tests {
    use lb_common::abi::{Ipv6Be, Listener};

    use super::*;
    use crate::packet::maglev::Member;
    use crate::packet::plan::Protocol;

    fn name(port: u16) -> ListenerName {
        ListenerName { address: [10, 0, 1, 4].into(), port, protocol: Protocol::Tcp }
    }

    /// Two listeners on one ring of so many targets, and one without.
    fn ledger(ring: u32, targets: u16) -> Ledger {
        let mut ledger = Ledger::default();
        for (index, (port, ring)) in (0..).zip([(80, ring), (443, ring), (81, NO_RING)]) {
            ledger.listeners.insert(name(port), index);
            let state = Listener {
                ring,
                flags: 0,
                previous_ring: NO_RING,
                previous_until: 0,
                syn_limit: 1,
                server_id_length: 8,
                address: Ipv6Be::default(),
            };
            ledger.states.insert(index, state);
        }
        let member = |index: u16| Member { seed: 7 + u64::from(index), index, weight: 10 };
        ledger.rings.insert(ring, RingContent::Members((0..targets).map(member).collect()));
        ledger
    }

    #[test]
    fn a_target_more_moves_its_share_and_little_else_for_all_who_share_the_ring() {
        let [reshuffle] = &between(&ledger(0, 9), &ledger(1, 10))[..] else { panic!("one ring") };
        assert_eq!(reshuffle.listeners, [name(80), name(443)].into());
        let Moves { moved, ideal } = reshuffle.moves;
        assert!(ideal.abs_diff(RING_SIZE / 10) <= 1, "{ideal}");
        assert!(moved >= ideal && moved - ideal < RING_SIZE / 50, "{moved} moved, {ideal} had to");
    }

    #[test]
    fn what_an_earlier_process_filled_counts_as_its_slots() {
        let mut before = ledger(0, 9);
        let Some(RingContent::Members(members)) = before.rings.remove(&0) else { panic!("members") };
        before.rings.insert(0, RingContent::Adopted(maglev::ring(&members)));
        assert_eq!(between(&before, &ledger(1, 9)), [], "the same slots");
        assert_eq!(between(&before, &ledger(1, 10)).len(), 1);
    }

    #[test]
    fn nothing_moves_where_nothing_was_or_nothing_changed() {
        assert_eq!(between(&ledger(0, 9), &ledger(0, 9)), []);
        assert_eq!(between(&Ledger::default(), &ledger(0, 9)), []);
        assert_eq!(between(&ledger(0, 9), &Ledger::default()), []);
    }
}
