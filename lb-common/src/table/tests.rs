//! The table against a map, and against several who insert at once.

extern crate std;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::abi::{Ipv4Be, Ipv6Be, PortBe, target_mode};
use crate::wire::checksum::{delta16, delta32, fold};

const fn shape(slots: u32) -> TableShape {
    TableShape { seed: 0x5eed, mask: slots - 1, pad: 0 }
}

fn words<A: Packed>(slots: u32) -> Vec<AtomicU64> {
    (0..slots as usize * A::WORDS).map(|_| AtomicU64::new(0)).collect()
}

fn key(number: u32) -> FlowKey<Ipv4Be> {
    FlowKey {
        source: Ipv4Be(0x0a00_0000 | number >> 4),
        destination: Ipv4Be(0x0200_000a),
        source_port: PortBe(number as u16 & 0xf),
        destination_port: PortBe::new(80),
        protocol: 6,
    }
}

/// An entry whose deltas are those of its key, as every entry has them that stays in its family.
fn flow(key: &FlowKey<Ipv4Be>, mark: u32) -> Flow<Ipv4Be> {
    let (source, destination) = (Ipv4Be(0x0300_000a), Ipv4Be(mark));
    let (source_port, destination_port) = (PortBe(mark as u16), PortBe::new(8080));
    let ip_delta = fold(delta32(key.source.0, source.0) + delta32(key.destination.0, destination.0));
    let ports =
        delta16(key.source_port.0, source_port.0) + delta16(key.destination_port.0, destination_port.0);
    Flow {
        source,
        destination,
        source_port,
        destination_port,
        ip_delta,
        l4_delta: fold(u32::from(ip_delta) + ports),
        mac_head: mark,
        mac_tail: 0x0102,
        direction: 1,
        state: 3,
        own_mac_head: 0x0304_0506,
        own_mac_tail: 0x0708,
        mode: target_mode::PRESERVE,
        listener: 1023,
        target: 4095,
        generation: 0xffff,
        ifindex: mark ^ 0xffff_ffff,
        egress: 7,
        seen: mark,
        began: mark + 1,
        beyond: 0,
    }
}

fn got<A: Packed>(table: &Shelf<'_>, key: &FlowKey<A>) -> Option<Flow<A>> {
    Some(super::flow(table, key, find(table, key)?))
}

proptest! {
    #[test]
    fn a_table_is_a_map(steps in prop::collection::vec((0_u8..3, 0_u32..48, any::<u32>()), 1..400)) {
        // So few slots that homes share them, and that the table fills.
        let words = words::<Ipv4Be>(32);
        let table = Shelf::new(&words, &[], shape(32));
        let mut model = BTreeMap::new();
        for (step, number, mark) in steps {
            let (key, mark) = (key(number), mark >> 1);
            match step {
                0 => {
                    let entry = flow(&key, mark);
                    let expected = if model.contains_key(&key) {
                        Err(InsertError::Exists)
                    } else if model.len() == 32 {
                        Err(InsertError::Full)
                    } else {
                        model.insert(key, entry);
                        Ok(())
                    };
                    prop_assert_eq!(insert(&table, &key, &entry), expected);
                }
                1 => {
                    remove(&table, &key);
                    model.remove(&key);
                }
                _ => {
                    if let (Some(found), Some(entry)) = (find(&table, &key), model.get_mut(&key)) {
                        touch::<Ipv4Be, _>(&table, found.slot, mark, mark as u8 & 7);
                        (entry.seen, entry.state) = (mark, mark as u8 & 7);
                    }
                }
            }
            prop_assert_eq!(got(&table, &key), model.get(&key).copied());
        }
        let mut entries = table.walk::<Ipv4Be>(0, 32).0;
        entries.sort_unstable_by_key(|(key, _)| *key);
        prop_assert_eq!(entries, model.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn what_changes_its_family_is_kept_whole(beyond: u64, ip_delta: u16, l4_delta: u16) {
        let (words, crossings) = (words::<Ipv4Be>(8), [const { AtomicU64::new(0) }; 16]);
        let table = Shelf::new(&words, &crossings, shape(8));
        let key = key(1);
        let entry = Flow { mode: target_mode::CROSS, beyond, ip_delta, l4_delta, ..flow(&key, 2) };
        prop_assert_eq!(insert(&table, &key, &entry), Ok(()));
        prop_assert_eq!(got(&table, &key), Some(entry));
    }

    #[test]
    fn ipv6_is_kept_whole(source: [u32; 4], destination: [u32; 4], ports: u16, ip_delta: u16, l4_delta: u16) {
        let words = words::<Ipv6Be>(8);
        let table = Shelf::new(&words, &[], shape(8));
        let key = FlowKey {
            source: Ipv6Be(source),
            destination: Ipv6Be(destination),
            source_port: PortBe(ports),
            destination_port: PortBe(!ports),
            protocol: 17,
        };
        let Flow { direction, state, mode, .. } = flow(&self::key(1), 1);
        let entry = Flow {
            source: Ipv6Be(destination),
            destination: Ipv6Be(source),
            source_port: PortBe(1),
            destination_port: PortBe(2),
            ip_delta,
            l4_delta,
            mac_head: 3,
            mac_tail: 4,
            direction,
            state,
            own_mac_head: 5,
            own_mac_tail: 6,
            mode,
            listener: 7,
            target: 8,
            generation: 9,
            ifindex: 10,
            egress: 11,
            seen: 12,
            began: 13,
            beyond: 0,
        };
        prop_assert_eq!(insert(&table, &key, &entry), Ok(()));
        prop_assert_eq!(got(&table, &key), Some(entry));
        prop_assert_eq!(table.walk::<Ipv6Be>(0, 8).0, [(key, entry)]);
    }
}

#[test]
fn a_half_full_table_has_room_near_every_home() {
    let slots = 1 << 16;
    let words = words::<Ipv4Be>(slots);
    let table = Shelf::new(&words, &[], shape(slots));
    let (mut refused, mut displaced) = (0, 0_u64);
    for number in 0..slots / 2 {
        let key = key(number);
        refused += u32::from(insert(&table, &key, &flow(&key, number)).is_err());
    }
    for index in 0..slots {
        let tag = Tag(table.tag_of::<Ipv4Be>(index));
        displaced += if tag.is_free() { 0 } else { u64::from(tag.distance()) };
    }
    assert_eq!(refused, 0, "flows without a slot");
    // Linear probing at half load (Knuth, TAOCP 3, 6.4): half a slot behind the home on average.
    assert!(displaced < u64::from(slots / 2) * 7 / 10, "{displaced} slots behind their homes");
}

#[test]
fn a_key_that_two_insert_at_once_is_there_once() {
    const SLOTS: u32 = 256;
    const KEYS: u32 = 100;
    let words = words::<Ipv4Be>(SLOTS);
    let table = Shelf::new(&words, &[], shape(SLOTS));
    let inserted: Vec<AtomicU64> = (0..KEYS).map(|_| AtomicU64::new(0)).collect();
    for _ in 0..200 {
        thread::scope(|scope| {
            for worker in 0..4 {
                let inserted = &inserted;
                scope.spawn(move || {
                    for number in 0..KEYS {
                        let key = key(number);
                        match insert(&table, &key, &flow(&key, worker)) {
                            Ok(()) => inserted[number as usize].fetch_add(1, Ordering::Relaxed),
                            Err(InsertError::Exists) => 0,
                            Err(InsertError::Full) => panic!("the table is not full"),
                        };
                        if let Some(entry) = got(&table, &key) {
                            assert!(entry.seen < 4, "{entry:?}");
                        }
                    }
                });
            }
        });
        let entries = table.walk::<Ipv4Be>(0, SLOTS).0;
        for (number, inserted) in (0_u32..).zip(&inserted) {
            let key = key(number);
            // Whoever met another at the same home left the key to the next packet.
            let times = entries.iter().filter(|(other, _)| *other == key).count();
            assert_eq!(times as u64, inserted.swap(0, Ordering::Relaxed), "{key:?}");
            assert!(times <= 1 && (times == 1) == find(&table, &key).is_some(), "{key:?} {times} times");
            remove(&table, &key);
        }
        assert!(table.walk::<Ipv4Be>(0, SLOTS).0.is_empty());
    }
}
